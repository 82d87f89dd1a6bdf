"""How a column's numbers and dates are written: learned from all of its cells, and then the same
for each of them.

`1.050` is a thousand and fifty in a file with decimal commas and one and a bit in any other,
`05/12/2019` is in May or in December: no cell tells alone. What tells is `6,1` in the same column,
or in another one of the file, and a day above 12. Where nothing tells, or cells contradict each
other, such cells are not read.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from cardiotune.settings import Column

LARGEST = 1.7e38
"""From here on a number is Stata's missing value, or nonsense."""
STATA_MISSING = ((1.70e38, 1.72e38), (8.98e307, 9.04e307))
"""2^127 in a float and 2^1023 in a double, and their 26 successors .a to .z."""
FIRST_YEAR = 1800
"""Earlier years are those of two digits, or stand for "none"."""

SPACE = "[ \u00a0\u2009\u202f'\u2019]"
"""What may stand between groups of three digits whatever the decimal mark is."""
SPACED = rf"^[+-]?[0-9]{{1,3}}(?:{SPACE}[0-9]{{3}})+(?:[.,][0-9]+)?$"
UNCLEAR_POINT, UNCLEAR_COMMA = (rf"^[+-]?[1-9][0-9]{{0,2}}{mark}[0-9]{{3}}$" for mark in (r"\.", ","))
EXPONENT = "(?:[eE][+-]?[0-9]+)?"
WITH_POINT, WITH_COMMA = (
    rf"^[+-]?(?:[0-9]*{decimal}[0-9]+{EXPONENT}|[0-9]{{1,3}}(?:{other}[0-9]{{3}})+{decimal}[0-9]+|"
    rf"[0-9]{{1,3}}(?:{other}[0-9]{{3}}){{2,}})$"
    for decimal, other in ((r"\.", ","), (",", r"\."))
)
"""Numbers of which the decimal mark is certain, but for the unclear ones, which fit too."""
PLAIN = rf"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+){EXPONENT}$"
LIKE_A_CODE = "^[+-]?[0-9]+E[0-9]+$"
"""`0E8`, `1E5`: a ward or an article as well as a number."""

LIKE_NUMBER = rf"^[-+\u2212]?[0-9]*[.,]?[0-9][0-9.,\u00a0\u2009\u202f'\u2019 ]*{EXPONENT}$"
"""Whatever may be a number, read or not."""
TWO_NUMBERS = r"^[0-9]{2,3} ?/ ?[0-9]{2,3}$"
WITH_UNIT = r"^[0-9]+(?:[.,][0-9]+)? ?(%|[a-zA-Z\u00b5\u03bc/]+|[a-zA-Z/]*m[23])$"
MOST_UNITS = 2
"""Ways to write one unit; of more, the letters are part of a code."""

TIME = r"(?:,?[ T:]+[0-9]{1,2}:[0-9]{2}.*)?$"
YEAR_FIRST = r"^([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})(?:[T ].*)?$"
DIGITS = r"^([12][0-9]{3})([0-9]{2})([0-9]{2})" + TIME
YEAR_LAST = r"^([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4})" + TIME
DOTTED = r"^[0-9]{1,2}\.[0-9]{1,2}\."
DAY_AND_WORD = r"^([0-9]{1,2})[- .]*([A-Za-z]{3,9})[- .,]*([0-9]{4})" + TIME
WORD_AND_DAY = r"^([A-Za-z]{3,9})[ .]+([0-9]{1,2}),? +([0-9]{4})" + TIME
SAME_DAY = r"^(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])$"


def _with_short_year(number: str) -> str:
    """Dates with two digits for the year; `number`: what may stand for the day, or the month."""
    return rf"^{number}(?:[-/. ]{number}[-/. ]|[-/. ]?[A-Za-z]{{3}}[-/. ]?)[0-9]{{2}}" + TIME


TWO_DIGITS = _with_short_year("[0-9]{1,2}")
LIKE_DATE, SURELY_DATE = (
    "|".join((YEAR_FIRST, YEAR_LAST, DAY_AND_WORD, WORD_AND_DAY, SAME_DAY, short))
    for short in (TWO_DIGITS, _with_short_year("(?:0?[1-9]|[12][0-9]|3[01])"))
)
"""Whatever may be a date, read or not; and what can hardly be anything else, as the hospital number
47-82-05 can."""
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
MONTH_OF = {word: str(n) for n, month in enumerate(MONTHS, 1) for word in (month, month[:3])} | {"sept": "9"}

Signs = frozenset[str]
"""What the cells of a column show of how they are written; of pieces of a column, the union is that
of the whole."""


@dataclass(frozen=True)
class Writing:
    """How one column is written. None: not known, so cells that depend on it are not read."""

    decimal: str | None = None
    """`.` or `,`; the other one parts thousands."""
    day_first: bool | None = None
    assumed: bool = False
    """Nothing told: a decimal point because that is the rule, the day first because it stands
    before a dot."""


PLAINLY = Writing(".", True)
"""How the program itself writes, and UK Biobank."""


def signs(text: pl.Series, column: Column) -> Signs:
    """What a column's cells, stripped, show."""
    if column.kind.reading is None:
        return frozenset()
    return READINGS[column.kind.reading].signs(text.drop_nulls().unique())


class Writings:
    """How the columns of one table are written."""

    def __init__(self, found: Mapping[str, Signs], columns: Mapping[str, Column]) -> None:
        """`found`: the signs of all of the cells of each column; `columns`: the dictionary, which
        may say more."""
        self.found = found
        self.columns = columns
        in_file = frozenset[str]().union(*found.values())
        self._writings = {
            name: READINGS[kind].learned(own, in_file, columns[name])
            for name, own in found.items()
            if (kind := columns[name].kind.reading)
        }

    def __getitem__(self, name: str) -> Writing:
        return self._writings.get(name, PLAINLY)

    def settled(self) -> dict[str, Column]:
        """The dictionary with what was learned, so that a table to be scored later is read
        likewise."""
        columns = dict(self.columns)
        for name, writing in self._writings.items():
            learned = {"day_first": writing.day_first, "decimal": writing.decimal}
            if not writing.assumed:
                known = {setting: value for setting, value in learned.items() if value is not None}
                columns[name] = columns[name].model_copy(update=known)
        return columns

    def told(self, name: str) -> str:
        """How a column was read, in words; empty where it could not have been read in another
        way."""
        own, writing = self.found.get(name, frozenset()), self[name]
        if self.columns[name].is_day:
            if writing.day_first is None or not own & {"day first", "month first", "unclear order", "unclear dots"}:
                return ""
            order = "day/month/year" if writing.day_first else "month/day/year"
            return f"dates read as {order}" + ("" if _orders(own) else ", though no day above 12 is there to tell")
        said = []
        if writing.decimal is not None and own & {"comma", "unclear comma", "unclear point"}:
            said.append(f"numbers read with a decimal {'comma' if writing.decimal == ',' else 'point'}")
        if "stata" in own:
            said.append("Stata's code for missing (1.7e38 or 8.99e307) taken as missing")
        return "; ".join(said)

    def hints(self, names: Iterable[str]) -> list[str]:
        """Why cells of these columns could not be read, and what to do, as far as their signs tell.
        No value is repeated."""
        said: dict[str, list[str]] = {}
        for name in names:
            for reason in self._reasons(name):
                said.setdefault(reason, []).append(name)
        return [f"{', '.join(columns)}: {reason}" for reason, columns in said.items()]

    def _reasons(self, name: str) -> list[str]:
        own, writing = self.found.get(name, frozenset()), self[name]
        reasons = [reason for sign, reason in REASONS.items() if sign in own]
        if own & {"unclear point", "unclear comma"} and writing.decimal is None:
            reasons.append(UNCLEAR_MARK)
        if own >= {"day first", "month first"}:
            reasons.append("some dates are day/month/year and others month/day/year")
        elif own & {"unclear order", "unclear dots"} and writing.day_first is None:
            reasons.append(UNCLEAR_ORDER)
        elif ("day first" in own and writing.day_first is False) or ("month first" in own and writing.day_first):
            reasons.append("day and month in another order than day_first says")
        return reasons


def _decimal(own: Signs, in_file: Signs, column: Column) -> Writing:
    marks = _marks(own) | ({column.decimal} if column.decimal else set())
    if not _marks(own) and (len(_marks(in_file)) == 1 or not marks):
        # The other columns break a tie, and contradict the dictionary where the table is written in
        # another way than that of the training; where they contradict each other, the dictionary
        # alone is heard.
        marks |= _marks(in_file)
    if marks:
        return Writing(marks.pop()) if len(marks) == 1 else Writing()
    # Whole numbers beside `1.050` and no other decimals: those are thousands, more often than not.
    doubtful = column.kind.whole or own & {"whole", "unclear comma"}
    return Writing() if doubtful else Writing(".", assumed=True)


def _order(own: Signs, in_file: Signs, column: Column) -> Writing:
    if column.day_first is not None:
        return Writing(day_first=column.day_first)  # what contradicts it is then no date, and so refused
    orders = _orders(own) or _orders(in_file)
    if orders:
        return Writing(day_first=orders.pop()) if len(orders) == 1 else Writing()
    # With dots nobody puts the month first.
    return Writing() if "unclear order" in own else Writing(day_first=True, assumed=True)


def _marks(found: Signs) -> set[str]:
    return {mark for mark, sign in ((".", "point"), (",", "comma")) if sign in found}


def _orders(found: Signs) -> set[bool]:
    return {first for first, sign in ((True, "day first"), (False, "month first")) if sign in found}


REASONS = {
    "two-digit year": "years of two digits: write four",
    "huge": "numbers of 1.7e38 and above, or infinite: leave those cells empty",
    "like a code": "1E5 may be a number or a code: write the number in full",
}


UNCLEAR_MARK = "1.050 or 1,050 may be a thousand or one and a bit: set decimal to '.' or ','"
UNCLEAR_ORDER = "no day above 12 tells whether the day or the month comes first: set day_first to true or false"


# --------------------------------------------------------------------------------------------------
# numbers


def _number_signs(text: pl.Series) -> Signs:
    text = _without_spaces(text)
    unclear = {"unclear point": UNCLEAR_POINT, "unclear comma": UNCLEAR_COMMA}
    hits = {sign: text.str.contains(form) for sign, form in unclear.items()}
    clear = text.filter(~hits["unclear point"] & ~hits["unclear comma"])
    forms = {"point": WITH_POINT, "comma": WITH_COMMA, "whole": "^[+-]?[0-9]+$", "like a code": LIKE_A_CODE}
    found = {sign for sign, form in forms.items() if clear.str.contains(form).any()}
    found |= {sign for sign, hit in hits.items() if hit.any()}
    values = clear.cast(pl.Float64, strict=False)
    stata = is_stata_missing(values)
    found |= {"stata"} if stata.any() else set()
    found |= {"huge"} if (~stata & (values.abs() >= LARGEST)).any() else set()
    return frozenset(found)


def numbers(text: pl.Series, writing: Writing) -> pl.Series:
    """Float64, null where a cell is no number or may be two; infinities are none, and Stata's
    missing values are themselves."""
    values = text.cast(pl.Float64, strict=False)
    odd = values.is_null() | text.str.contains(LIKE_A_CODE)
    if writing.decimal != ".":
        odd |= text.str.contains(UNCLEAR_POINT)
    odd = (odd & text.is_not_null()).fill_null(False)
    if odd.any():
        values = values.scatter(odd.arg_true(), _odd_numbers(text.filter(odd), writing.decimal))
    good = values.is_finite() & ((values.abs() < LARGEST) | is_stata_missing(values))
    return pl.select(pl.when(good).then(values)).to_series().alias(text.name)


def with_unit(text: pl.Series) -> pl.Series:
    """True for numbers with a unit behind them; nowhere where there are too many units to be
    such."""
    units = text.str.extract(WITH_UNIT)
    return units.is_not_null() & (units.drop_nulls().n_unique() <= MOST_UNITS)


def is_stata_missing(values: pl.Series) -> pl.Series:
    """True for numbers that mean "missing" in Stata, and nothing anywhere else."""
    (low, high), (lowest, highest) = STATA_MISSING
    return values.is_between(low, high) | values.is_between(lowest, highest)


def _odd_numbers(text: pl.Series, decimal: str | None) -> pl.Series:
    cell = pl.col("cell")
    with_comma = cell.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    with_point = cell.str.replace_all(",", "", literal=True)
    unclear = cell.str.contains(UNCLEAR_POINT) | cell.str.contains(UNCLEAR_COMMA)
    as_said = {".": with_point, ",": with_comma}.get(decimal or "", pl.lit(None, pl.String))
    plain = (
        pl.when(unclear)
        .then(as_said)
        .when(cell.str.contains(WITH_COMMA))
        .then(with_comma)
        .when(cell.str.contains(WITH_POINT))
        .then(with_point)
        .otherwise(cell)
    )
    text = _without_spaces(text).to_frame("cell").select(plain).to_series()
    text = text.set(text.str.contains(LIKE_A_CODE) | ~text.str.contains(PLAIN), None)
    return text.cast(pl.Float64, strict=False)


def _without_spaces(text: pl.Series) -> pl.Series:
    """Without what parts thousands for certain, and with a plain minus."""
    text = text.str.replace("^\u2212", "-")
    return text.zip_with(~text.str.contains(SPACED).fill_null(False), text.str.replace_all(SPACE, ""))


# --------------------------------------------------------------------------------------------------
# dates


def _date_signs(text: pl.Series) -> Signs:
    parts = text.str.extract_groups(YEAR_LAST).struct.unnest().cast(pl.Int64)
    one, two = parts.to_series(0), parts.to_series(1)
    day, month = one.is_between(13, 31) & (two <= 12), two.is_between(13, 31) & (one <= 12)
    unclear = (one <= 12) & (two <= 12) & (one != two)
    dotted = text.str.contains(DOTTED)
    told = {
        "day first": day,
        "month first": month,
        "unclear order": unclear & ~dotted,
        "unclear dots": unclear & dotted,
        "two-digit year": text.str.contains(TWO_DIGITS),
    }
    return frozenset(sign for sign, hit in told.items() if hit.any())


def dates(text: pl.Series, writing: Writing) -> pl.Series:
    """Date, null where a cell is no date or may be two. Of a day with a time, its day as written,
    whatever the zone."""
    frame = text.to_frame("cell")

    def day(form: str, year: int, month: int, of: int) -> pl.Expr:
        groups = pl.col("cell").str.extract_groups(form).struct
        number = groups.field(str(month))
        if form in (DAY_AND_WORD, WORD_AND_DAY):
            number = number.str.to_lowercase().replace_strict(MONTH_OF, default=None, return_dtype=pl.String)
        return pl.concat_str(
            groups.field(str(year)), number.str.zfill(2), groups.field(str(of)).str.zfill(2), separator="-"
        )

    forms = [day(YEAR_FIRST, 1, 2, 3), day(DIGITS, 1, 2, 3), day(DAY_AND_WORD, 3, 2, 1), day(WORD_AND_DAY, 3, 1, 2)]
    if writing.day_first is not None:
        forms.append(day(YEAR_LAST, 3, 2, 1) if writing.day_first else day(YEAR_LAST, 3, 1, 2))
    iso = pl.coalesce(forms).str.to_date("%Y-%m-%d", strict=False)
    found = frame.select(pl.when(iso.dt.year() >= FIRST_YEAR).then(iso)).to_series()
    return found.alias(text.name)


# --------------------------------------------------------------------------------------------------
# one reading a kind of cells


@dataclass(frozen=True)
class Reading:
    """How cells of one kind are read."""

    signs: Callable[[pl.Series], Signs]
    """What different cells, stripped, show of how they are written."""
    learned: Callable[[Signs, Signs, Column], Writing]
    """The writing of a column by the signs of its cells, those of all cells of the file, and the
    dictionary."""
    values: Callable[[pl.Series, Writing], pl.Series]
    """Text -> typed values, null where a cell is none or may be two."""


READINGS = {"number": Reading(_number_signs, _decimal, numbers), "day": Reading(_date_signs, _order, dates)}
"""By the key that a column's type names (`cardiotune.settings.column_types`)."""

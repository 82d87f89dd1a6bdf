"""What a column of the data dictionary means: reading its cells, naming it, writing a value in
words.

One rule a column: the same rule reads the training table, a table to be scored and a row sent to
the server.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast

import polars as pl

from cardiotune.data import writing as written
from cardiotune.data.writing import Signs, Writing, Writings
from cardiotune.settings import Column, DataConfig, Derive, spelling

MISSING = ("", "na", "nan", "n/a", "null", "?", ".")
"""Cells that mean "missing" in every column, in any case, spaces around them ignored."""
DEFAULT_CODES = {"0": "no", "1": "yes"}
"""Words for a binary column without codes."""
TRUTH = {"true": "1", "false": "0", "yes": "1", "no": "0"}
"""Other ways to write the codes 1 and 0 of a binary column."""


# --------------------------------------------------------------------------------------------------
# reading cells


def table_signs(cells: pl.DataFrame, columns: Mapping[str, Column]) -> dict[str, Signs]:
    """What the cells of a table show of how its numbers and dates are written, by column."""
    known = {name: columns[name] for name in cells.columns if name in columns}
    return {
        name: written.signs(recorded(cells[name], column), column)
        for name, column in known.items()
        if column.kind.reading
    }


def writings(cells: pl.DataFrame, columns: Mapping[str, Column]) -> Writings:
    """How a table's columns are written, as all of its cells tell."""
    return Writings(table_signs(cells, columns), columns)


def parse(cells: pl.Series, column: Column, writing: Writing | None = None) -> tuple[pl.Series, int]:
    """Cells as text -> typed values, and how many cells could not be read (they become null).

    Numbers -> Float64; days -> Date; codes (without a trailing `.0`) and text -> String. `writing`:
    how numbers and dates are written; by default what these cells tell.
    """
    text, values = texts_and_values(cells, column, writing)
    return values, values.null_count() - text.null_count()


def unreadable(cells: pl.Series, column: Column, writing: Writing | None = None) -> pl.Series:
    """True where a cell holds something that is not of the column's type."""
    text, values = texts_and_values(cells, column, writing)
    return text.is_not_null() & values.is_null()


def texts_and_values(cells: pl.Series, column: Column, writing: Writing | None = None) -> tuple[pl.Series, pl.Series]:
    """Cells as text -> what was recorded, null where nothing was; and typed values, null where it
    could not be read either."""
    text = recorded(cells, column)
    if column.is_coded:
        return text, coded(text, column)
    if column.kind.reading is None:
        return text, text
    if writing is None:
        name = cells.name
        writing = Writings({name: written.signs(text, column)}, {name: column})[name]
    cast = written.READINGS[column.kind.reading].values
    values = cast(text, writing)
    if not column.is_number:
        return text, values
    # The table may write a missing code in its own way: 999,9 or -99.00.
    codes = cast(pl.Series(column.missing, dtype=pl.String), writing).drop_nulls()
    marked = (values.is_in(codes.implode()) | written.is_stata_missing(values)).fill_null(False)
    return text.set(marked, None), values.set(marked, None)


def recorded(cells: pl.Series, column: Column) -> pl.Series:
    """Cells as text without what stands around it; null where they mean "missing". Ready text stays
    as it is."""
    text = cells.cast(pl.String).str.strip_chars()
    if column.role == "text":
        return cells.cast(pl.String).set(text == "", None)
    if column.is_coded:
        text = text.str.replace(r"^([+-]?\d+)(?:\.0+|,00?)$", "$1")
    elif column.is_number or column.is_day:  # SAS and Stata write a missing number as . or, with its reason, .a to .z
        text = text.set(text.str.contains(r"^\.[A-Za-z_]$").fill_null(False), None)
    # A code that the dictionary names has a meaning, so it is not a missing one.
    marks = set(MISSING) - {spelling(code) for code in column.codes or {}}
    missing = marks | {spelling(code) for code in column.missing}
    plain = text.str.replace_all(r"\s+", " ").str.to_lowercase()
    spelled = _replaced(text, spelling) if column.is_coded else plain
    text = pl.select(pl.when(~spelled.is_in(list(missing))).then(text)).to_series().alias(cells.name)
    if column.is_text or column.is_coded:
        text = text.str.replace_all(r"\s+", " ")
    return text


def coded(text: pl.Series, column: Column) -> pl.Series:
    """Codes as the dictionary spells them; one that it does not know stays as it is."""
    return _replaced(text, code_reader(column))


def code_reader(column: Column) -> Callable[[str], str]:
    """The rule by which a cell, a code of `positive` or one that a client sends is a code of the
    dictionary.

    An exact code first; then the one that is spelled alike (`config.spelling`), if there is one
    such alone; then, of a binary column, the one that means yes or no. Anything else is returned as
    it came or, where a feature names no codes and so takes any, in its plain spelling: `Never` and
    `never` are one category.
    """
    known = known_codes(column)
    keys = Counter(map(spelling, known))
    alike = {spelling(code): code for code in known if keys[spelling(code)] == 1}
    meant = {truth: code for code in reversed(known) if (truth := _truth(spelling(code)))}
    both = column.kind.yes_or_no and len(meant) == 2
    free = column.role == "feature" and not known

    def read(cell: str) -> str:
        if cell in known:
            return cell
        key = spelling(cell)
        if key in alike:
            return alike[key]
        if both and (truth := _truth(key)):
            return meant[truth]
        return key if free else cell

    return read


def known_codes(column: Column) -> list[str]:
    """The codes that the dictionary names; of a binary column without, those of `positive` and, for
    what they do not mean, 0 and 1."""
    if column.codes:
        return list(column.codes)
    named = list(column.positive or [])
    if column.kind.yes_or_no:
        meant = {_truth(spelling(code)) for code in named}
        named += [code for code in DEFAULT_CODES if code not in meant]
    return named


def _truth(key: str) -> str | None:
    return TRUTH.get(key, key if key in DEFAULT_CODES else None)


def _replaced(text: pl.Series, change: Callable[[str], str]) -> pl.Series:
    """Each text changed; every different one once."""
    others = {cell: new for cell in text.drop_nulls().unique() if (new := change(cell)) != cell}
    return text.replace(list(others), list(others.values())) if others else text


def events(values: pl.Series, column: Column) -> tuple[pl.Series, int]:
    """Typed values of the target -> 1 (event), 0 (none) or null; and how many rows hold a code that
    nobody has named.

    Unnamed are codes that `codes` does not list; of a binary column of yes and no, all others; and
    where only `positive` names codes, all others if they are of more than one kind.
    """
    read = code_reader(column)
    codes = _replaced(values.cast(pl.String).str.replace(r"\.0$", ""), read)
    positive = [read(code) for code in column.positive or ["1"]]
    others = codes.drop_nulls().filter(~codes.drop_nulls().is_in(positive))
    yes_or_no = column.kind.yes_or_no and all(_truth(spelling(code)) for code in column.positive or [])
    if column.codes or not column.positive or yes_or_no:
        strange = int((~others.is_in(known_codes(column) or list(DEFAULT_CODES))).sum())
    else:
        strange = len(others) if others.n_unique() > 1 else 0
    return codes.is_in(positive).cast(pl.Int8), strange


def out_of_range(values: pl.Series, column: Column) -> pl.Series:
    """True where a value is present but outside the column's range or codes."""
    outside = pl.repeat(False, len(values), eager=True)
    if column.range and values.dtype.is_numeric():
        low, high = column.range
        outside = ~values.is_between(low, high)
    if column.is_coded and codes_of(column):
        outside = ~values.is_in(list(codes_of(column)))
    elif column.kind.whole:
        outside |= values != values.round()
    return outside.fill_null(False)


def codes_of(column: Column) -> dict[str, str]:
    """Code -> words; yes/no for a binary column that names none; empty when anything is allowed."""
    return column.codes or (DEFAULT_CODES if column.kind.yes_or_no else {})


# --------------------------------------------------------------------------------------------------
# derived columns


def _bmi(height_cm: pl.Expr, weight_kg: pl.Expr, _: Derive) -> pl.Expr:
    """Body-mass index in kg/m2, one decimal."""
    return pl.when(height_cm > 0).then((weight_kg / (height_cm / 100) ** 2).round(1))


def _age_years_from_days(days: pl.Expr, _: Derive) -> pl.Expr:
    """Completed years; a year is 365.25 days."""
    return (days / 365.25).floor()


def _pulse_pressure(systolic: pl.Expr, diastolic: pl.Expr, _: Derive) -> pl.Expr:
    """Systolic minus diastolic, mmHg."""
    return systolic - diastolic


def _bp_category(systolic: pl.Expr, diastolic: pl.Expr, derive: Derive) -> pl.Expr:
    """Blood-pressure category after ACC/AHA 2017 (Whelton et al., Hypertension 2018;71:e13, table
    6), mmHg.

    The higher category wins: 150/85 is stage 2. With `stage_1_first`, stage 1 is tested first, so
    150/85 is stage 1; this reproduces the counts of the published "processed" Kaggle table.
    """
    stage_2 = (systolic >= 140) | (diastolic >= 90)
    stage_1 = (systolic >= 130) | (diastolic >= 80)
    if derive.bp_rule == "acc_aha_2017":
        tests = [(stage_2, "hypertension stage 2"), (stage_1, "hypertension stage 1")]
    else:
        stage_1 = systolic.is_between(130, 140, closed="left") | diastolic.is_between(80, 90, closed="left")
        tests = [(stage_1, "hypertension stage 1"), (stage_2, "hypertension stage 2")]
    word: Any = pl.when(systolic.is_null() | diastolic.is_null()).then(None)
    for test, name in [*tests, (systolic >= 120, "elevated")]:
        word = word.when(test).then(pl.lit(name))
    return cast(pl.Expr, word.otherwise(pl.lit("normal")))


DERIVED: dict[str, Callable[..., pl.Expr]] = {
    "bmi": _bmi,
    "age_years_from_days": _age_years_from_days,
    "pulse_pressure": _pulse_pressure,
    "bp_category": _bp_category,
}
"""The derived columns by name. A fixed set: nothing from a config file is ever evaluated as
code."""


def derive(frame: pl.DataFrame, data: DataConfig) -> pl.DataFrame:
    """Add the derived columns of the dictionary, in dictionary order."""
    for name, column in data.columns.items():
        if column.derive:
            inputs = [pl.col(source) for source in column.derive.inputs]
            frame = frame.with_columns(DERIVED[column.derive.function](*inputs, column.derive).alias(name))
    return frame


# --------------------------------------------------------------------------------------------------
# words


def label(name: str, column: Column) -> str:
    """The column's name in words."""
    return column.phrase or re.sub(r"[_\s]+", " ", name).strip()


def words(value: object, column: Column) -> str:
    """A value in words: code label, or number in a stable format with its unit, or text."""
    if isinstance(value, float):
        if column.decimals is not None or column.kind.whole:
            fixed = f"{value:z.{column.decimals or 0}f}"
        else:
            fixed = f"{Decimal(f'{value:z.6g}'):f}"  # without an exponent
        return f"{fixed} {column.unit}" if column.unit else fixed
    if isinstance(value, date):
        return value.isoformat()
    text = codes_of(column).get(str(value), str(value))
    return f"{text} {column.unit}" if column.unit else text


PLACES = ("low", "normal", "high")
"""Where a number stands to its reference range, in words."""


def interpreted(value: object, column: Column) -> str:
    """`words`, and before them where a number stands to the column's reference range: `high at 6.1
    mmol/L`.

    The number itself is judged, and not what is written of it, so that it means the same in every
    unit and with every number of decimals.
    """
    told = words(value, column)
    if not (column.reference and isinstance(value, float)):
        return told
    low, high = column.reference
    return f"{PLACES[(value >= low) + (value > high)]} at {told}"


def expected(column: Column) -> str:
    """What may stand in a column, in words: `a whole number, 60 to 260 mmHg`, or its codes."""
    if codes := codes_of(column):
        return "one of " + ", ".join(
            code if code == meaning else f"{code} ({meaning})" for code, meaning in codes.items()
        )
    kind = column.kind.expected
    if column.range:
        kind += f", {column.range[0]:g} to {column.range[1]:g}"
    return f"{kind} {column.unit}" if column.unit else kind


# --------------------------------------------------------------------------------------------------
# synthetic rows, for showing prompts without showing a patient


def dtype_of(column: Column) -> type[pl.DataType]:
    """How a typed feature is kept."""
    return pl.Float64 if column.is_number else pl.Date if column.is_day else pl.String


def missing_rows(data: DataConfig, rows: int) -> pl.DataFrame:
    """Rows of which every feature is missing."""
    return pl.DataFrame({n: pl.Series([None] * rows, dtype=dtype_of(data.columns[n])) for n in data.features})


def synthetic_rows(data: DataConfig, rows: int, seed: int) -> pl.DataFrame:
    """Rows drawn from the dictionary alone (ranges and codes): nothing of the table goes into them.
    Features and text.

    Every seventh cell or so is missing, so that the text for a missing value is seen too.
    """
    draw = random.Random(seed)
    cells = {
        name: [
            None if draw.random() < 0.15 and column.role != "text" else _synthetic(column, draw) for _ in range(rows)
        ]
        for name, column in data.columns.items()
        if not column.derive and (column.is_input or _is_input(name, data))
    }
    frame = pl.DataFrame(
        {
            name: parse(pl.Series(name, c, pl.String), data.columns[name], written.PLAINLY)[0]
            for name, c in cells.items()
        }
    )
    return derive(frame, data).select(data.inputs)


def _is_input(name: str, data: DataConfig) -> bool:
    return any(column.derive and name in column.derive.inputs for column in data.columns.values())


def _synthetic(column: Column, draw: random.Random) -> str:
    if column.is_coded:
        return draw.choice(list(codes_of(column)) or ["A", "B"])
    if column.is_text:
        return f"example text {draw.randrange(100)}" if column.role == "text" else "example text"
    if column.is_day:
        return (date(2020, 1, 1) + timedelta(days=draw.randrange(365))).isoformat()
    low, high = column.range or (0, 100)
    return f"{draw.uniform(low, high):.{0 if column.kind.whole else column.decimals or 1}f}"

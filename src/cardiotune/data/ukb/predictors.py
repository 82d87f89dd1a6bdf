"""Predictors at the baseline visit, as text cells that the data dictionary reads.

A column of the dictionary is either one field (`field: 21001`), or has a name of `NAMED`, which is
made from several. Codes keep their numbers; the dictionary has the words. What a participant did
not answer is empty, never a number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import polars as pl

from cardiotune.data.ukb.fields import UkbField, centres, fields
from cardiotune.errors import ConfigError, DataError
from cardiotune.settings import DataConfig, suggest

Make = Callable[[], pl.Expr]
UMOL_PER_MG_DL = 88.4
"""Creatinine: µmol/L in 1 mg/dL."""
TOO_LOW, TOO_HIGH = ("2", "4"), ("3", "5")
"""Codes of the reportability fields, each a field's number + 6."""
QUALIFICATIONS = ("1", "5", "6", "2", "3", "4", "-7")
"""Field 6138 from the longest education to none, in years of schooling after Okbay et al. 2016,
Nature 533:539 (order unverified)."""


@dataclass(frozen=True)
class Predictor:
    """A named column: the fields that it must have, those that it also uses, and its cells."""

    fields: tuple[int, ...]
    make: Make
    optional: tuple[int, ...] = ()


# --------------------------------------------------------------------------------------------------
# one field


def number(field: int) -> pl.Expr:
    """A field as Float64: codes for "no answer" are null, codes that stand for a number are it,
    arrays are averaged.

    A cell that is empty because it lies beyond the assay's range is that end of the range.
    """
    known = fields()[field]
    cell = pl.col(str(field))
    if known.is_list:
        return cell.list.eval(_value(pl.element(), known)).list.mean()
    value = _value(cell, known)
    if known.limits is None:
        return value
    low, high = known.limits
    why = pl.col(str(field + 6))
    beyond = pl.when(why.is_in(TOO_LOW)).then(low).when(why.is_in(TOO_HIGH)).then(high)
    return pl.coalesce(value, beyond)


def _value(cell: pl.Expr, known: UkbField) -> pl.Expr:
    codes = {code: None for code in known.missing} | known.values
    value = cell.cast(pl.Float64, strict=False)
    if not codes:
        return value
    return (
        pl.when(cell.is_in(list(codes)))
        .then(cell.replace_strict(codes, default=None, return_dtype=pl.Float64))
        .otherwise(value)
    )


def code(field: int) -> pl.Expr:
    """A coded field as text; codes for "no answer" are null."""
    cell = pl.col(str(field)).str.replace(r"\.0+$", "")
    return pl.when(~cell.is_in(fields()[field].missing)).then(cell)


def answered(field: int, answer: str, unknown: Iterable[str] | None = None) -> pl.Expr:
    """ "1" where a question of several answers has `answer`, "0" where it was answered without it,
    null where it was not.

    `unknown`: the answers that leave this one open; by default all codes for "no answer" of the
    field.
    """
    given = pl.col(str(field))
    open_ = list(fields()[field].missing if unknown is None else unknown)
    silent = given.is_null() | given.list.eval(pl.element().is_in(open_)).list.any()
    return pl.when(given.list.contains(answer)).then(pl.lit("1")).when(~silent).then(pl.lit("0"))


# --------------------------------------------------------------------------------------------------
# several fields


def _pressure(automatic: int, manual: int) -> pl.Expr:
    """Mean of the automatic readings' mean and the manual readings' mean, of what there is."""
    return pl.mean_horizontal(number(automatic), number(manual))


def _by_sex(answer: str) -> pl.Expr:
    """Medication: women were asked 6153, men 6177; a participant answered one of them."""
    return pl.coalesce(answered(6153, answer), answered(6177, answer))


def egfr(creatinine_umol_l: pl.Expr, age_years: pl.Expr, male: pl.Expr) -> pl.Expr:
    """Estimated glomerular filtration rate, mL/min/1.73 m², by CKD-EPI 2021 from creatinine,
    without race.

    142 · min(S/k, 1)^a · max(S/k, 1)^-1.200 · 0.9938^age · 1.012 for women, S in mg/dL; k 0.7, a
    -0.241 for women, 0.9 and -0.302 for men. Inker et al. 2021, N Engl J Med 385:1737, table S10
    (number of the table unverified).
    """
    ratio = creatinine_umol_l / UMOL_PER_MG_DL / pl.when(male).then(0.9).otherwise(0.7)
    power = pl.when(male).then(-0.302).otherwise(-0.241)
    low, high = pl.min_horizontal(ratio, 1.0).pow(power), pl.max_horizontal(ratio, 1.0).pow(-1.2)
    rate = 142 * low * high * pl.lit(0.9938).pow(age_years) * pl.when(male).then(1.0).otherwise(1.012)
    return pl.when(ratio.is_not_null() & age_years.is_not_null() & male.is_not_null()).then(rate)


def _pack_years() -> pl.Expr:
    """Field 20161, and 0 for who never smoked."""
    return pl.when(code(20116) == "0").then(0.0).otherwise(number(20161))


def _qualification() -> pl.Expr:
    """The longest education told."""
    given = pl.col("6138")
    highest = pl.coalesce(pl.when(given.list.contains(answer)).then(pl.lit(answer)) for answer in QUALIFICATIONS)
    return highest.replace("-7", "0")


def _illnesses() -> pl.Expr:
    """All illnesses told to the nurse, in words where the dictionary has some; "none" where none
    was told."""
    known = fields()[20002].coding
    word = pl.element().replace_strict(known, default="illness code " + pl.element(), return_dtype=pl.String)
    return pl.col("20002").list.eval(word).list.unique(maintain_order=True).list.join("; ").fill_null("none")


def of_centre(kind: str) -> pl.Expr:
    """`name`, `nation` or `region` of the baseline centre; null for codes that are no baseline
    centre."""
    return code(54).replace_strict({c.code: getattr(c, kind) for c in centres().values()}, default=None)


def _top_level(field: int) -> pl.Expr:
    """The first digit of a hierarchical code."""
    return code(field).str.slice(0, 1)


GROUP_1 = ("-11", "-13")
"""Family history, data-coding 1010: "do not know" and "prefer not to answer" of the group that has
heart disease."""
NAMED: dict[str, Predictor] = {
    "centre": Predictor((54,), lambda: of_centre("name")),
    "nation": Predictor((54,), lambda: of_centre("nation")),
    "region": Predictor((54,), lambda: of_centre("region")),
    "ethnicity": Predictor((21000,), lambda: _top_level(21000)),
    "education": Predictor((6138,), _qualification),
    "sbp": Predictor((4080,), lambda: _pressure(4080, 93), (93,)),
    "dbp": Predictor((4079,), lambda: _pressure(4079, 94), (94,)),
    "egfr": Predictor((30700, 21003, 31), lambda: egfr(number(30700), number(21003), code(31) == "1")),
    "pack_years": Predictor((20161, 20116), _pack_years),
    "lipid_medication": Predictor((6153, 6177), lambda: _by_sex("1")),
    "bp_medication": Predictor((6153, 6177), lambda: _by_sex("2")),
    "insulin": Predictor((6153, 6177), lambda: _by_sex("3")),
    "father_heart_disease": Predictor((20107,), lambda: answered(20107, "1", GROUP_1)),
    "mother_heart_disease": Predictor((20110,), lambda: answered(20110, "1", GROUP_1)),
    "sibling_heart_disease": Predictor((20111,), lambda: answered(20111, "1", GROUP_1)),
    "illnesses": Predictor((20002,), _illnesses),
}
"""Columns that are made from several fields, or from a coding that is no plain one, by name."""


# --------------------------------------------------------------------------------------------------
# the dictionary's columns


def needed_fields(data: DataConfig, names: Iterable[str]) -> dict[int, list[str]]:
    """Field -> the columns of `names` that need it; ConfigError for columns that nobody knows how
    to make."""
    needed: dict[int, list[str]] = {}
    unknown = []
    for name in names:
        column = data.columns[name]
        if column.field is None and name not in NAMED:
            unknown.append(f"data.columns.{name}: give it `field:`; without one, {suggest(name, NAMED)}")
        elif column.field is not None and column.field not in fields():
            unknown.append(f"data.columns.{name}.field: {column.field} is not in fields.yaml of this program")
        else:
            for field in (column.field,) if column.field else NAMED[name].fields:
                needed.setdefault(field, []).append(name)
    if unknown:
        raise ConfigError("; ".join(unknown))
    return needed


def extra_fields(data: DataConfig, names: Iterable[str]) -> list[int]:
    """Fields that columns use where the export has them."""
    extra = [field for name in names if not data.columns[name].field for field in NAMED[name].optional]
    plain = [field for name in names if (field := data.columns[name].field)]
    return extra + [field + 6 for field in plain if fields()[field].limits]


def make_columns(raw: pl.DataFrame, data: DataConfig, names: Iterable[str]) -> pl.DataFrame:
    """The dictionary's columns from baseline fields (a column a field, as `Export.baseline` gives
    them).

    DataError for a negative number that no coding explains: it is a code, and nobody has said what
    it means.
    """
    names = list(names)
    used = {*needed_fields(data, names), *extra_fields(data, names)}
    absent = [field for field in used if str(field) not in raw.columns]
    kinds = {field: pl.List(pl.String) if fields()[field].is_list else pl.String for field in absent}
    raw = raw.with_columns(pl.lit(None, kind).alias(str(field)) for field, kind in kinds.items())
    _check_codes(raw, used)
    return raw.select(_cell(name, data).alias(name) for name in names)


def _cell(name: str, data: DataConfig) -> pl.Expr:
    column = data.columns[name]
    if column.field is None:
        return NAMED[name].make()
    known = fields()[column.field]
    if known.type == "multi":
        return pl.col(str(column.field)).list.join("; ")
    if column.is_coded or known.type in ("category", "text", "date"):
        return code(column.field)
    return number(column.field)


def _check_codes(raw: pl.DataFrame, used: Iterable[int]) -> None:
    strange, unreadable = {}, {}
    for field in sorted(used):
        known = fields()[field]
        if known.type in ("date", "text"):
            continue
        cells = raw[str(field)].explode().drop_nulls() if known.is_list else raw[str(field)].drop_nulls()
        named = f"{field} ({known.title})"
        if count := cells.cast(pl.Float64, strict=False).null_count():
            unreadable[named] = count
        negative = cells.filter(cells.str.starts_with("-")).str.replace(r"\.0+$", "")
        explained = [*known.missing, *known.values, *(c for c in known.coding if c.startswith("-"))]
        if not known.signed and (count := int((~negative.is_in(explained)).sum())):
            strange[named] = count
    if unreadable:
        raise DataError(
            f"cells that are neither numbers nor codes: {_counts(unreadable)}; export codes as they are (RAW), not in words"
        )
    if strange:
        raise DataError(
            f"negative numbers that the field's coding does not explain: {_counts(strange)}; they are codes, not "
            "measurements: look them up in the Showcase and add them to fields.yaml, or give the column role ignore"
        )


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count} cells" for name, count in found.items())

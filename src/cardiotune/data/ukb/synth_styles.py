"""How each kind of export names columns, writes dates, gaps and lists.

- `csv`: `21003-0.0`, dates day/month/year (uk-biobank.gitbook.io, structure of a main dataset), empty cells.
- `tab`: `f.21003.0.0`, tabs, ISO dates, NA.
- `rap`, `titles`: the platform's table exporter, `p21003_i0` or "Title | Instance 0 | Array 1", ISO dates, several answers
  in one cell joined by `|`.
- `rap_prefixed`: `dx extract_dataset`, `participant.p21003_i0`, several answers in one cell as a JSON list.
"""

from pathlib import Path
from typing import Literal

import polars as pl

from cardiotune.data.ukb.synth_sheet import place

Style = Literal["csv", "tab", "rap", "rap_prefixed", "titles"]
MARK = "990000-0.0"
FIRST_MADE_UP = 990_000
SUFFIX = {"tab": ".tab"}

LISTS = {6138, 6150, 6153, 6177, 20107, 20110, 20111, 41270, 41271, 41272}
"""Several answers in one cell on the platform, in one array each elsewhere."""
ARRAYS = {93, 94, 4079, 4080, 20002, 20003, 20004, 20008, 20010, 40002, 41280, 41281, 41282}
NO_INSTANCE = {31, 34, 52, 189, 190, 191, 21022, 26223, 26227, 41270, 41271, 41272, 41280, 41281, 41282}


def styled(table: pl.DataFrame, style: Style) -> pl.DataFrame:
    """The table under the names of `style`, with several answers in one cell where it has them so."""
    if style in ("csv", "tab"):
        return table.rename({name: named(name, style) for name in table.columns})
    columns: list[pl.Expr] = []
    for name in table.columns:
        field, instance, array = place(name)
        if field not in LISTS:
            columns.append(pl.col(name).alias(named(name, style)))
        elif array == 0:
            arrays = [other for other in table.columns if place(other)[:2] == (field, instance)]
            columns.append(_joined(arrays, table.schema[name], style).alias(named(name, style)))
    return table.select(columns)


def write_table(table: pl.DataFrame, stem: Path, style: Style, header: bool) -> None:
    """Begin a text table, with its header, or go on with it."""
    with stem.with_suffix(SUFFIX.get(style, ".csv")).open("wb" if header else "ab") as stream:
        table.write_csv(
            stream,
            include_header=header,
            separator="\t" if style == "tab" else ",",
            null_value="NA" if style == "tab" else "",
            date_format="%d/%m/%Y" if style == "csv" else "%Y-%m-%d",
        )


def named(name: str, style: Style) -> str:
    """A classic name in another style."""
    if style == "csv":
        return name
    if style == "tab":
        return "f.eid" if name == "eid" else "f.{}.{}.{}".format(*place(name))
    if style == "titles":
        return _title(name)
    prefix = "participant." if style == "rap_prefixed" else ""
    if name == "eid":
        return f"{prefix}eid"
    field, instance, array = place(name)
    suffix = (f"_i{instance}" if _has_instance(field) else "") + (f"_a{array}" if field in ARRAYS else "")
    return f"{prefix}p{field}{suffix}"


def _has_instance(field: int) -> bool:
    """Visits and death certificates are numbered; derived dates (42000 and above) and made-up fields are not."""
    return field not in NO_INSTANCE and field < 41_000


def _title(name: str) -> str:
    if name == "eid":
        return "Participant ID"
    field, instance, array = place(name)
    suffix = (f" | Instance {instance}" if _has_instance(field) else "") + (
        f" | Array {array}" if field in ARRAYS else ""
    )
    return title_of(field) + suffix


def title_of(field: int) -> str:
    """Showcase title, from fields.yaml or, for a field that only the synthetic export has, from here."""
    if field >= FIRST_MADE_UP:
        return (
            f"Synthetic filler {field - FIRST_MADE_UP}" if field > FIRST_MADE_UP else "Synthetic participant, not real"
        )
    if field in FIRST_OCCURRENCES:
        return f"Date {FIRST_OCCURRENCES[field]}".replace(" (", " first reported (")
    if field - 1 in FIRST_OCCURRENCES:
        return f"Source of report of {FIRST_OCCURRENCES[field - 1]}"
    return _TITLES[field]


def _joined(arrays: list[str], kind: pl.DataType, style: Style) -> pl.Expr:
    """Arrays of one question as one cell; empty where none is filled."""
    quote = '"' if style == "rap_prefixed" and kind == pl.String else ""
    cells = pl.concat_list(
        [pl.concat_str([pl.lit(quote), pl.col(name).cast(pl.String), pl.lit(quote)]) for name in arrays]
    )
    filled = cells.list.drop_nulls()
    text = (
        filled.list.join("|")
        if style != "rap_prefixed"
        else pl.concat_str([pl.lit("["), filled.list.join(","), pl.lit("]")])
    )
    return pl.when(filled.list.len() > 0).then(text)


FIRST_OCCURRENCES = {
    131296: "I20 (angina pectoris)",
    131298: "I21 (acute myocardial infarction)",
    131300: "I22 (subsequent myocardial infarction)",
    131302: "I23 (certain current complications following acute myocardial infarction)",
    131304: "I24 (other acute ischaemic heart diseases)",
    131306: "I25 (chronic ischaemic heart disease)",
}
"""Fields of first occurrences; the next number is the source."""
_TITLES = {
    31: "Sex",
    34: "Year of birth",
    48: "Waist circumference",
    49: "Hip circumference",
    50: "Standing height",
    52: "Month of birth",
    53: "Date of attending assessment centre",
    54: "UK Biobank assessment centre",
    93: "Systolic blood pressure, manual reading",
    94: "Diastolic blood pressure, manual reading",
    189: "Townsend deprivation index at recruitment",
    190: "Reason lost to follow-up",
    191: "Date lost to follow-up",
    864: "Number of days/week walked 10+ minutes",
    884: "Number of days/week of moderate physical activity 10+ minutes",
    904: "Number of days/week of vigorous physical activity 10+ minutes",
    1239: "Current tobacco smoking",
    1289: "Cooked vegetable intake",
    1309: "Fresh fruit intake",
    1329: "Oily fish intake",
    1558: "Alcohol intake frequency.",
    2443: "Diabetes diagnosed by doctor",
    2887: "Number of cigarettes previously smoked daily",
    2976: "Age diabetes diagnosed",
    3456: "Number of cigarettes currently smoked daily (current cigarette smokers)",
    3894: "Age heart attack diagnosed",
    4079: "Diastolic blood pressure, automated reading",
    4080: "Systolic blood pressure, automated reading",
    6138: "Qualifications",
    6150: "Vascular/heart problems diagnosed by doctor",
    6153: "Medication for cholesterol, blood pressure, diabetes, or take exogenous hormones",
    6177: "Medication for cholesterol, blood pressure or diabetes",
    20002: "Non-cancer illness code, self-reported",
    20003: "Treatment/medication code",
    20004: "Operation code",
    20008: "Interpolated Year when non-cancer illness first diagnosed",
    20010: "Interpolated Year when operation took place",
    20107: "Illnesses of father",
    20110: "Illnesses of mother",
    20111: "Illnesses of siblings",
    20116: "Smoking status",
    20117: "Alcohol drinker status",
    20161: "Pack years of smoking",
    21000: "Ethnic background",
    21001: "Body mass index (BMI)",
    21002: "Weight",
    21003: "Age when attended assessment centre",
    21022: "Age at recruitment",
    26223: "Standard PRS for cardiovascular disease (CVD)",
    26227: "Standard PRS for coronary artery disease (CAD)",
    30640: "Apolipoprotein B",
    30646: "Apolipoprotein B reportability",
    30690: "Cholesterol",
    30700: "Creatinine",
    30710: "C-reactive protein",
    30716: "C-reactive protein reportability",
    30720: "Cystatin C",
    30740: "Glucose",
    30750: "Glycated haemoglobin (HbA1c)",
    30760: "HDL cholesterol",
    30780: "LDL direct",
    30790: "Lipoprotein A",
    30796: "Lipoprotein A reportability",
    30870: "Triglycerides",
    40000: "Date of death",
    40001: "Underlying (primary) cause of death: ICD10",
    40002: "Contributory (secondary) causes of death: ICD10",
    41270: "Diagnoses - ICD10",
    41271: "Diagnoses - ICD9",
    41272: "Operative procedures - OPCS4",
    41280: "Date of first in-patient diagnosis - ICD10",
    41281: "Date of first in-patient diagnosis - ICD9",
    41282: "Date of first operative procedure - OPCS4",
    42000: "Date of myocardial infarction",
    42001: "Source of myocardial infarction report",
    42002: "Date of STEMI",
    42003: "Source of STEMI report",
    42004: "Date of NSTEMI",
    42005: "Source of NSTEMI report",
}

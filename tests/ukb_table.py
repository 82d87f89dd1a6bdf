"""Small UK Biobank exports, hand-made: participants as `{"31-0.0": 1}`, written in any of the five
naming styles."""

from pathlib import Path
from typing import Any

import polars as pl

from cardiotune.data.ukb.fields import fields

STYLES = ("csv", "tab", "rap", "rap_prefixed", "titles")
LISTS = (6138, 6150, 6153, 6177, 20107, 20110, 20111, 41270, 41271, 41272)
"""Several answers in one cell on the platform."""
RECORDS = (190, 191, 40000, 40001, 40002, 41270, 41280, 41271, 41281, 41272, 41282)
HEALTHY: dict[str, Any] = {
    "31-0.0": 1, "53-0.0": "2008-06-01", "54-0.0": 11001, "21003-0.0": 55, "189-0.0": -2.1, "21000-0.0": 1001,
    "6138-0.0": 1, "4080-0.0": 140, "4080-0.1": 136, "4079-0.0": 82, "4079-0.1": 80, "93-0.0": None, "93-0.1": None,
    "94-0.0": None, "94-0.1": None, "21001-0.0": 27.5, "48-0.0": 90, "30690-0.0": 5.5, "30760-0.0": 1.4,
    "30780-0.0": 3.4, "30870-0.0": 1.5, "30640-0.0": 1.0, "30790-0.0": 20.5, "30750-0.0": 35.1, "30740-0.0": 5.0,
    "30710-0.0": 1.3, "30720-0.0": 0.9, "30700-0.0": 80.0, "30646-0.0": 1, "30716-0.0": 1, "30796-0.0": 1,
    "20116-0.0": 0, "20161-0.0": None, "1558-0.0": 3, "864-0.0": 5, "904-0.0": 2, "1309-0.0": 2, "1329-0.0": 2,
    "2443-0.0": 0, "20002-0.0": 1111, "20002-0.1": None, "20008-0.0": 1990.5, "20008-0.1": None, "20004-0.0": None,
    "6150-0.0": -7, "6150-0.1": None, "6153-0.0": None, "6177-0.0": -7, "6177-0.1": None, "6177-0.2": None,
    "20107-0.0": -17, "20107-0.1": -27, "20110-0.0": -17, "20110-0.1": -27, "20111-0.0": -17, "20111-0.1": -27,
    "26227-0.0": 0.5, "190-0.0": None, "191-0.0": None, "40000-0.0": None, "40001-0.0": None, "40002-0.0": None,
    "40000-1.0": None, "40001-1.0": None, "41270-0.0": "I10", "41280-0.0": "2005-01-02", "41270-0.1": None,
    "41280-0.1": None, "41271-0.0": None, "41281-0.0": None, "41272-0.0": None, "41282-0.0": None,
    "4080-1.0": None, "4080-1.1": None, "6150-1.0": None,
}  # fmt: skip
"""A man of 55 without any of it; every column of the small export."""


def people(*changes: dict[str, Any], first: int = 1000001) -> list[dict[str, Any]]:
    """Healthy participants with changes, eids from `first`."""
    return [{"eid": str(first + i), **HEALTHY, **change} for i, change in enumerate(changes)]


def place(name: str) -> tuple[int, int, int]:
    field, _, rest = name.partition("-")
    instance, _, array = rest.partition(".")
    return int(field), int(instance), int(array)


def styled(name: str, style: str) -> str:
    if name == "eid":
        return {"tab": "f.eid", "rap_prefixed": "participant.eid", "titles": "Participant ID"}.get(style, "eid")
    field, instance, array = place(name)
    known = fields()[field]
    if style == "csv":
        return name
    if style == "tab":
        return f"f.{field}.{instance}.{array}"
    numbered, listed = known.instances > 1, known.arrays > 1 and field not in LISTS
    if style == "titles":
        return known.title + f" | Instance {instance}" * numbered + f" | Array {array}" * listed
    return "participant." * (style == "rap_prefixed") + f"p{field}" + f"_i{instance}" * numbered + f"_a{array}" * listed


def write_export(
    folder: Path, rows: list[dict[str, Any]], style: str = "csv", files: int = 2, parquet: bool = False
) -> Path:
    """One table, or answers and records apart."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in rows[0] if name != "eid"]
    records = [name for name in names if place(name)[0] in RECORDS] if files == 2 else []
    tables = {"people": [n for n in names if n not in records], "records": records}
    for table, columns in tables.items():
        if columns:
            frame = _cells(rows, columns, style)
            file = folder / (table + (".parquet" if parquet else ".tab" if style == "tab" else ".csv"))
            if parquet:
                frame.write_parquet(file)
            else:
                tab = style == "tab"
                frame.write_csv(file, separator="\t" if tab else ",", null_value="NA" if tab else "")
    return folder


def _cells(rows: list[dict[str, Any]], columns: list[str], style: str) -> pl.DataFrame:
    cells: dict[str, list[str | None]] = {styled("eid", style): [row["eid"] for row in rows]}
    for name in columns:
        field, instance, array = place(name)
        if style in ("csv", "tab") or field not in LISTS:
            cells[styled(name, style)] = [_text(row[name], field, style) for row in rows]
        elif array == 0:
            arrays = [n for n in columns if place(n)[:2] == (field, instance)]
            cells[styled(name, style)] = [_joined([row[n] for n in arrays], style) for row in rows]
    return pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))


def _text(value: Any, field: int, style: str) -> str | None:
    if value is None:
        return None
    if style == "csv" and fields()[field].type == "date" and str(value)[4] == "-":
        year, month, day = str(value).split("-")
        return f"{day}/{month}/{year}"
    return str(value)


def _joined(values: list[Any], style: str) -> str | None:
    given = [str(value) for value in values if value is not None]
    if not given:
        return None
    if style != "rap_prefixed":
        return "|".join(given)
    return "[" + ",".join(f'"{v}"' if not v.lstrip("-").isdigit() else v for v in given) + "]"

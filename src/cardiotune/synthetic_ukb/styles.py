"""How each kind of export names columns, writes dates, gaps and lists.

- `csv`: `21003-0.0`, dates day/month/year (uk-biobank.gitbook.io, structure of a main dataset),
  empty cells.
- `tab`: `f.21003.0.0`, tabs, ISO dates, NA.
- `rap`, `titles`: the platform's table exporter, `p21003_i0` or "Title | Instance 0 | Array 1", ISO
  dates, several answers in one cell joined by `|`.
- `rap_prefixed`: `dx extract_dataset`, `participant.p21003_i0`, several answers in one cell as a
  JSON list.
"""

from pathlib import Path
from typing import Literal

import polars as pl

from cardiotune.data.ukb.fields import fields
from cardiotune.synthetic_ukb.sheet import place

Style = Literal["csv", "tab", "rap", "rap_prefixed", "titles"]
MARK = "990000-0.0"
FIRST_MADE_UP = 990_000
SUFFIX = {"tab": ".tab"}

LISTS = {6138, 6150, 6153, 6177, 20107, 20110, 20111, 41270, 41271, 41272}
"""Several answers in one cell on the platform, in one array each elsewhere."""


def styled(table: pl.DataFrame, style: Style) -> pl.DataFrame:
    """The table under the names of `style`, with several answers in one cell where it has them
    so."""
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
    suffix = (f"_i{instance}" if _has_instance(field) else "") + (f"_a{array}" if _has_array(field) else "")
    return f"{prefix}p{field}{suffix}"


def _has_instance(field: int) -> bool:
    return field in fields() and fields()[field].instances > 1


def _has_array(field: int) -> bool:
    return field in fields() and fields()[field].is_list and field not in LISTS


def _title(name: str) -> str:
    if name == "eid":
        return "Participant ID"
    field, instance, array = place(name)
    suffix = f" | Instance {instance}" if _has_instance(field) else ""
    return title_of(field) + suffix + (f" | Array {array}" if _has_array(field) else "")


def title_of(field: int) -> str:
    """Showcase title; of the source of a first occurrence, which is not read, by that of its
    date."""
    if field in fields():
        return fields()[field].title
    if field - 1 in fields():
        code, _, words = fields()[field - 1].title.removeprefix("Date ").partition(" first reported ")
        return f"Source of report of {code} {words}"
    return "Synthetic participant, not real" if field == FIRST_MADE_UP else f"Synthetic filler {field - FIRST_MADE_UP}"


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

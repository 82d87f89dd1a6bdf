"""Column names of an export -> field, instance, array. Five ways to write them; a file has one of
them.

`21003-0.0` (ukbconv csv), `f.21003.0.0` (ukbconv r), `p21003_i0` and `p4080_i0_a1` (Research
Analysis Platform), `participant.p21003_i0` (dx extract_dataset), and titles: `Age when attended
assessment centre | Instance 0 | Array 1`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cardiotune.data.ukb.fields import fields, titles
from cardiotune.errors import DataError

Style = Literal["csv", "tab", "rap", "rap_prefixed", "titles"]
BASELINE = 0


class Place(NamedTuple):
    """Where a value stands. `instance` is None when the name does not say one."""

    field: int
    instance: int | None
    array: int


_NUMBERED = {
    "csv": re.compile(r"(?P<field>\d+)-(?P<instance>\d+)\.(?P<array>\d+)"),
    "tab": re.compile(r"f\.(?P<field>\d+)\.(?P<instance>\d+)\.(?P<array>\d+)"),
    "rap": re.compile(r"p(?P<field>\d+)(?:_i(?P<instance>\d+))?(?:_a(?P<array>\d+))?"),
    "rap_prefixed": re.compile(r"participant\.p(?P<field>\d+)(?:_i(?P<instance>\d+))?(?:_a(?P<array>\d+))?"),
}
_TITLED = re.compile(r"(?P<title>.+?)(?: \| Instance (?P<instance>\d+))?(?: \| Array (?P<array>\d+))?")
ID_NAMES: dict[str, Style | None] = {
    "eid": None,
    "f.eid": "tab",
    "participant.eid": "rap_prefixed",
    "Participant ID": "titles",
}
"""Names of the participant's id; `eid` serves two styles."""
STYLES: tuple[Style, ...] = ("csv", "tab", "rap", "rap_prefixed", "titles")


def parse_name(name: str, style: Style) -> Place | None:
    """The place that a column name of this style means; None for other names, and for titles of
    unknown fields."""
    match = _TITLED.fullmatch(name) if style == "titles" else _NUMBERED[style].fullmatch(name)
    if not match:
        return None
    found = match.groupdict()
    field = titles().get(found["title"].casefold()) if style == "titles" else int(found["field"])
    instance = found["instance"]
    return None if field is None else Place(field, int(instance) if instance else None, int(found["array"] or 0))


def detect_style(names: Sequence[str], file: Path) -> Style | None:
    """How a file names its columns; None when no column is a field's. DataError when two styles are
    mixed."""
    counts = {style: sum(parse_name(name, style) is not None for name in names) for style in STYLES}
    ids = {style for name in names if (style := ID_NAMES.get(name))}
    found = [style for style in STYLES if counts[style] or style in ids]
    if len(found) > 1:
        examples = [next(n for n in names if parse_name(n, s) or ID_NAMES.get(n) == s) for s in found]
        raise DataError(f"{file}: columns are named in {len(found)} ways ({', '.join(examples)}); export them in one")
    return found[0] if found else None


def id_column(names: Sequence[str], file: Path) -> str:
    """The column with the participant's id; DataError when there is none, or more than one."""
    found = [name for name in names if name in ID_NAMES]
    if len(found) != 1:
        raise DataError(
            f"{file}: expected one column with the participant's id, found {len(found)}: {', '.join(ID_NAMES)}"
        )
    return found[0]


def locate_columns(names: Sequence[str], style: Style, file: Path) -> dict[Place, str]:
    """Every field's columns, with the instance filled in where a field has one only.

    DataError when a name does not say the visit of a field that has several, or two names mean one
    place: which of them is the baseline cannot be guessed.
    """
    places: dict[Place, str] = {}
    unclear: list[str] = []
    for name in names:
        place = parse_name(name, style)
        if place is None:
            continue
        known = fields().get(place.field)
        if place.instance is None:
            if known and known.instances > 1:
                unclear.append(name)
            place = place._replace(instance=BASELINE)
        if place in places:
            raise DataError(f"{file}: columns {places[place]} and {name} are the same field, visit and array; drop one")
        places[place] = name
    if unclear:
        raise DataError(
            f"{file}: columns that do not say the visit (instance): {', '.join(unclear)}; export instance 0"
        )
    return places

"""The dictionary of UK Biobank fields: ids, titles, units, codings, and the assessment centres. See
`fields.yaml`."""

import csv
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from cardiotune.config import read_yaml
from cardiotune.errors import DataError
from cardiotune.settings import Settings

Nation = Literal["England", "Scotland", "Wales"]


class Centre(Settings):
    """A baseline assessment centre of field 54, data-coding 10. The region is where the town
    lies."""

    code: str
    name: str
    nation: Nation
    region: str


class UkbField(Settings):
    """One field. What the keys mean stands at the top of `fields.yaml`."""

    field: int
    title: str
    type: Literal["integer", "continuous", "date", "category", "multi", "text", "curve"]
    unit: str | None = None
    arrays: int = 1
    instances: int = 1
    coding: dict[str, str] = Field(default_factory=dict)
    missing: tuple[str, ...] = ()
    values: dict[str, float] = Field(default_factory=dict)
    signed: bool = False
    limits: tuple[float, float] | None = None
    section: str | None = None

    @property
    def is_list(self) -> bool:
        """Whether a participant may have several values at one visit."""
        return self.arrays > 1 or self.type == "multi"


class _Dictionary(Settings):
    centres: list[Centre]
    fields: list[UkbField]


@cache
def _dictionary() -> _Dictionary:
    return _Dictionary.model_validate(read_yaml(Path(__file__).with_name("fields.yaml")))


@cache
def fields() -> dict[int, UkbField]:
    """Every field by its id."""
    return {field.field: field for field in _dictionary().fields}


@cache
def centres() -> dict[str, Centre]:
    """Every baseline assessment centre by its code."""
    return {centre.code: centre for centre in _dictionary().centres}


@cache
def titles() -> dict[str, int]:
    """Field id by title, in lower case."""
    return {field.title.casefold(): field.field for field in fields().values()}


def check_showcase(file: Path) -> int:
    """Compare ids with titles in a user's `Data_Dictionary_Showcase.tsv`; how many fields were
    found in it.

    DataError naming every id whose title there is another: our dictionary, or the file, is then of
    another thing.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"FieldID", "Field"} <= set(rows.fieldnames or ()):
            raise DataError(f"{file}: expected tab-separated columns FieldID and Field, as the Showcase offers it")
        theirs = {int(row["FieldID"]): row["Field"].strip('" ') for row in rows if (row["FieldID"] or "").isdigit()}
    shared = fields().keys() & theirs.keys()
    others = [f"{i} ({theirs[i]}; here {fields()[i].title})" for i in sorted(shared) if _differ(i, theirs[i])]
    if others:
        raise DataError(
            f"{file}: fields with another title than in this program: {', '.join(others)}; use a matching one"
        )
    return len(shared)


def _differ(field: int, title: str) -> bool:
    return fields()[field].title.casefold().rstrip(".") != title.casefold().rstrip(".")

"""The types and roles that a column may have: one record each, and nothing elsewhere that lists
them.

Who treats a column asks its record, or what its values are: `column.kind.whole`,
`column.is_number`. So a new type is its record here and, where its cells are written in a way of
their own, an entry in `cardiotune.data.writing.READINGS`; a new kind of values, or a new way to
hand a column to the classical models (`cardiotune.models.columns.ENCODINGS`), comes on top.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

ValueKind = Literal["number", "code", "day", "text"]
"""What typed cells are: a number (Float64), a code of the dictionary (String), a day (Date), free
text (String)."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """What a type means to whoever reads, checks, writes, encodes or shows its columns.

    By `values` go the settings that a column may have (`codes`; `range` and `decimal`;
    `day_first`), Table 1, explanations, probes, subgroups, the audit, the rows that a client sends
    and the page.
    """

    name: str
    values: ValueKind
    expected: str
    """What may stand in a cell, in words, where no codes are listed."""
    encoding: str
    """How classical models read it: a key of `cardiotune.models.columns.ENCODINGS`."""
    reading: str | None = None
    """How its cells are read: a key of `cardiotune.data.writing.READINGS`. None: as they stand."""
    whole: bool = False
    """Numbers without decimals."""
    yes_or_no: bool = False
    """Two codes, by default 0 and 1, which may be written as yes and no, or true and false."""
    ordered: bool = False
    """Codes from the least to the most, in the dictionary's order."""
    unit: str | None = None
    """Unit of its values, where the column names none."""


COLUMN_TYPES = {
    kind.name: kind
    for kind in (
        ColumnType("numeric", "number", "a number", "number", reading="number"),
        ColumnType("integer", "number", "a whole number", "number", reading="number", whole=True),
        ColumnType("binary", "code", "text", "rank", yes_or_no=True),
        ColumnType("categorical", "code", "text", "category"),
        ColumnType("ordinal", "code", "text", "rank", ordered=True),
        ColumnType("date", "day", "a date such as 2020-01-31", "day", reading="day"),
        ColumnType("text", "text", "text", "terms"),
    )
}


@dataclass(frozen=True, slots=True)
class ColumnRole:
    """What a column is there for."""

    name: str
    type: str = "numeric"
    """Type of a column of this role that names none."""
    is_input: bool = False
    """Whether a risk may be read from it, so that a table to be scored must have it."""
    single: bool = True
    """Whether at most one column may have it; of the target, exactly one."""
    note: str = ""
    """What its name alone does not say, for a drafted dictionary."""


COLUMN_ROLES = {
    role.name: role
    for role in (
        ColumnRole("feature", is_input=True, single=False),
        ColumnRole("text", "text", is_input=True, note="ready made"),
        ColumnRole("target", "binary"),
        ColumnRole("id", "text"),
        ColumnRole("group", "text", note="patient with several rows"),
        ColumnRole("site", "text"),
        ColumnRole("time", "date"),
        ColumnRole("split", "text"),
        ColumnRole("ignore", single=False),
    )
}

if TYPE_CHECKING:
    TypeName = str
    RoleName = str
else:
    TypeName = Literal[tuple(COLUMN_TYPES)]
    RoleName = Literal[tuple(COLUMN_ROLES)]


def types_of(*values: ValueKind) -> tuple[str, ...]:
    """Names of the types whose values are such, in this order."""
    return tuple(kind.name for held in values for kind in COLUMN_TYPES.values() if kind.values == held)

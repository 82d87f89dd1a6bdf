"""What is counted while a table becomes a cohort: records, and JSON only where they are written.

Exact in `exact_counts.json`; as they may be told (`cardiotune.data.small_counts.shareable`), where
`<10` or `hidden` stands for some counts, in `cohort.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Count = int | str
"""A number or, where it must not be told, what is written for it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One exclusion; the first step is the rows read."""

    step: str
    """The reason."""
    excluded: Count
    left: Count


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows that equal an earlier one in every feature and the outcome."""

    rows: Count
    beyond_chance: bool


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """The list of who withdrew consent; no file where there is none."""

    file: str | None
    listed: Count


@dataclass(frozen=True, slots=True)
class Kinship:
    """The file of relatives."""

    file: str
    pairs: Count


@dataclass(frozen=True, slots=True)
class FollowUp:
    """How long the participants of an export were followed."""

    horizon_days: int
    records_until: Mapping[str, str]
    """Nation -> ISO date."""
    lost_known: bool


@dataclass(frozen=True, slots=True)
class UkbNotes:
    """What was made of a UK Biobank export."""

    files_ignored: Sequence[str]
    files: Sequence[str]
    fields_checked_with_showcase: int | None
    kinship: Kinship | None
    withdrawals: Withdrawals
    endpoint: Mapping[str, Any] | None
    """The definition of the outcome as its file has it, its `name` and `sources_absent`."""
    follow_up: FollowUp | None

    def as_json(self) -> dict[str, Any]:
        """Without what an export to be scored does not have."""
        return _present(asdict(self), but=("kinship",))


@dataclass(frozen=True, slots=True)
class Notes:
    """Counts that are not exclusions; None where that was not counted."""

    columns_ignored: Sequence[str] = ()
    """Columns of the table that the dictionary does not use."""
    ukb: UkbNotes | None = None
    missing: Mapping[str, Count] | None = None
    """Rows without a value, by feature."""
    values_out_of_range: Mapping[str, Count] | None = None
    """Rows whose value became a missing one, by column."""
    equal_rows: Repeats | None = None

    def as_json(self) -> dict[str, Any]:
        """What was counted."""
        return _present(asdict(self) | {"ukb": self.ukb and self.ukb.as_json()})


@dataclass(frozen=True, slots=True)
class CohortCounts:
    """All counts of a run's cohort."""

    flow: Sequence[Step]
    notes: Notes
    parts: Mapping[str, Mapping[str, int | None]]
    """Part -> `n` and `n_events`, as `cardiotune.data.split.counts`."""
    overlap: Mapping[str, Mapping[str, Count]]
    """As `cardiotune.data.split.overlap`."""

    def as_json(self) -> dict[str, Any]:
        """As the files hold it."""
        return {
            "flow": [asdict(step) for step in self.flow],
            "notes": self.notes.as_json(),
            "parts": self.parts,
            "overlap": self.overlap,
        }


def _present(entries: dict[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if entry is not None or name in but}

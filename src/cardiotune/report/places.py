"""Where the rows of the test part are from: its tables, or the sites of a column of that role."""

from collections.abc import Mapping
from dataclasses import dataclass

from cardiotune.data.schema import label
from cardiotune.evaluation.groups import MISSING
from cardiotune.evaluation.judgement import Mean, TableJudged
from cardiotune.report.record import Record


@dataclass(frozen=True, slots=True)
class Places:
    """The models at each place, and over them."""

    one: str
    """What such a place is called, in the singular."""
    found: Mapping[str, TableJudged]
    means: Mapping[str, Mapping[str, Mean]]
    """Model -> metric -> random-effects mean; empty where fewer than two places are judged."""

    @property
    def many(self) -> str:
        """What they are called."""
        return f"{self.one}s"


def tables(record: Record) -> Places | None:
    """The tables of the test part; None where the run has one."""
    return Places("table", record.part.tables, record.part.over_tables) if record.part.tables else None


def sites(record: Record) -> Places | None:
    """The sites of the test part, where there is a mean over them; None without."""
    data = record.config.data
    site = data.name_of("site")
    if site is None or not record.part.over_sites:
        return None
    title = label(site, data.columns[site])
    groups = [group for group in record.part.subgroups or [] if group.column == title and group.group != MISSING]
    found = {
        group.group: TableJudged(group.n, group.n_events, {} if group.suppressed else group.models) for group in groups
    }
    return Places("site", found, record.part.over_sites)

"""What a run tells of its cohort: `cohort.json` and `table1.json`, which may be shown, and
`exact_counts.json`, which may not."""

from typing import Any

from cardiotune.data.counts import CohortCounts
from cardiotune.data.prepare import Prepared
from cardiotune.data.small_counts import shareable
from cardiotune.data.split import counts, overlap
from cardiotune.evaluation.table1 import table1
from cardiotune.files import write_json
from cardiotune.runs import RunFolder
from cardiotune.settings import DataConfig


def describe_cohort(folder: RunFolder, prepared: Prepared, data: DataConfig, further: dict[str, Any]) -> CohortCounts:
    """Counts of exclusions, parts and overlap, and Table 1, into the run folder; `further` entries
    go into `cohort.json`. Returns the counts that may be shown."""
    described = table1(prepared, data).as_json()
    write_json(folder.table1, described)
    exact = CohortCounts(
        prepared.cohort.flow,
        prepared.cohort.notes,
        counts(prepared.parts, prepared.cohort.events),
        overlap(prepared.cohort, prepared.parts, prepared.texts, data),
    )
    write_json(folder.exact_counts, exact.as_json())
    shared = shareable(exact, described)
    write_json(folder.cohort, {**shared.as_json(), **further})
    return shared

"""What would make good numbers worthless: leaks between parts, leaks from the outcome, data that is
not what it seems.

`audit_raw` looks at the table as it is stored, `audit_table` at the cohort with its parts,
`audit_prepared` at both and at keys of patients, `audit_results` at what a run left behind. A new
check is a function beside those of its subject, with `@CHECKS.add` above it.

The kinds of leak follow Kapoor & Narayanan, Patterns 2023;4:100804.
"""

from dataclasses import replace

import polars as pl

from cardiotune.audit import made_up, near_copies, outcome, overlap, quick_models, results, values
from cardiotune.audit.findings import Finding, gravest_first
from cardiotune.audit.keys import audit_keys
from cardiotune.audit.results import Results
from cardiotune.audit.table import Table
from cardiotune.data import schema
from cardiotune.data.cohort import needed_columns, read_unused
from cardiotune.data.copies import column_keys
from cardiotune.data.prepare import Prepared
from cardiotune.data.table import locate, read_cells
from cardiotune.settings import Config, DataConfig

SUBJECTS = (overlap, near_copies, made_up, outcome, values, quick_models)
"""In the order in which findings of one severity stand."""


def audit_prepared(config: Config, prepared: Prepared) -> list[Finding]:
    """Audit of a table and its parts before any language model is trained, the gravest finding
    first."""
    judged = [data.columns for data in config.judged_data]
    inside = audit_table(Table(prepared, config.data, config.seed, config.evaluation.known_ceiling, judged))
    # An export's raw cells are codes of many fields: only what was made of them can be judged.
    if config.data.format == "ukb":
        return gravest_first(inside)
    outside = []
    for source in prepared.sources:
        unused = read_unused(source.data, config.evaluation.keep_row_ids)
        keys = audit_keys(source.frame, prepared.parts[source.rows], source.data, unused)
        outside += [replace(found, text=source.said(found.text)) for found in (*audit_raw(source.data), *keys)]
    return gravest_first([*outside, *inside])


def audit_table(table: Table) -> list[Finding]:
    """Audit of a cohort with its parts."""
    return [finding for subject in SUBJECTS for finding in subject.CHECKS.run(table)]


def audit_results(found: Results) -> list[Finding]:
    """Audit of what a run left."""
    return results.CHECKS.run(found)


def audit_raw(data: DataConfig) -> list[Finding]:
    """Audit of the table as it is stored, before exclusions hide what is wrong with it; the files
    that `read_cohort` takes.

    A table that was oversampled may lose its exact copies on the way to a cohort, and its half
    years become missing there; that it was is worth knowing. Nothing here is a leak yet: whether
    such rows reach the parts, `audit_table` tells.
    """
    names = needed_columns(data)
    # Files of a test and a validation part are judged with the training rows: copies may lie
    # between them.
    cells = pl.concat(
        [read_cells(locate(p), names, data.separator, data.encoding, data.column_names) for p in data.files.values()]
    )
    target = str(data.name_of("target"))
    column = data.columns[target]
    outcomes, _ = schema.events(schema.parse(cells[target], column)[0], column)
    cells = cells.filter(outcomes.is_not_null())
    events = outcomes.drop_nulls().to_numpy().astype(int)
    sources = {name for column in data.columns.values() if column.derive for name in column.derive.inputs}
    inputs = [name for name in names if data.columns[name].is_input or name in sources]
    numbers = [name for name in inputs if data.columns[name].is_number or data.columns[name].is_coded]
    read = values.as_numbers(cells, numbers, data)
    zeros = [n for n in numbers if data.columns[n].is_number and values.excludes_zero(data.columns[n])]
    found = [
        *made_up.oversampled(column_keys(cells, inputs, data), events),
        *made_up.finer_decimals(read, events),
        *values.zeros(read.select(zeros), events),
        *values.repeated_far_values(read, data),
    ]
    return [replace(each, severity="warning") if each.severity == "leak" else each for each in found]

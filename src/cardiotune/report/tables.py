"""The report's tables: numbers of a run, written and ready for the templates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cardiotune.comparators import LANGUAGE, beside
from cardiotune.data import roles
from cardiotune.evaluation.catalogue import DIFFERENCES, RAW, SUBGROUPS, THRESHOLDS, named
from cardiotune.evaluation.judgement import UNDEFINED, Auroc, AurocDifference, Estimate, RiskGroup, ThresholdJudged
from cardiotune.evaluation.random_effects import METRICS as OVER_TABLES
from cardiotune.evaluation.sample_size import CRITERIA, NOT_OF_LLMS, Needed, SampleSize
from cardiotune.report import curves, learning_curve
from cardiotune.report.places import Places
from cardiotune.report.record import Record
from cardiotune.report.wording import in_order, metric_words, model_words, number, percent, reads, span

AT_THRESHOLD = ("flagged", *(metric for metric in THRESHOLDS if metric != "flagged"))


@dataclass(frozen=True, slots=True)
class WrittenCell:
    """One written number."""

    value: str
    ci: str | None = None
    note: int | None = None
    """Number of the note that says why it is undefined."""
    reason: str | None = None
    """What that note says."""
    reads: str | None = None
    """What a difference comes to, in words."""


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """One line of a table."""

    name: str
    cells: list[WrittenCell]
    main: bool = False
    """Whether it is of the model that the report is about."""
    value: str = ""
    """What stands below the name."""


@dataclass(frozen=True, slots=True)
class WrittenTable:
    """Columns are named by words, or by words and what stands below them."""

    header: list[str | tuple[str, str]]
    rows: list[WrittenRow]
    title: str = ""
    """What the table is of, where there are several."""


class Notes:
    """Reasons for what is undefined: each is written once, and cells point to its number, from
    1."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, reason: str | None) -> int | None:
        """The reason's number."""
        if not reason:
            return None
        if reason not in self.texts:
            self.texts.append(reason)
        return self.texts.index(reason) + 1

    def cell(self, metric: str, entry: Estimate, sign: str = "") -> WrittenCell:
        """A metric's estimate, and a note where it is undefined."""
        digits = named(metric).digits
        value, ci = number(entry.value, sign, digits), span(entry.ci, sign, digits)
        return WrittenCell(value, ci, self.number(entry.reason), entry.reason)


def main_first(record: Record, models: Mapping[str, Any]) -> list[str]:
    """Those of the run's models, the main one first."""
    return sorted((model for model in record.models if model in models), key=lambda model: model != record.main)


# --------------------------------------------------------------------------------------------------
# models side by side


def comparison(record: Record, models: Sequence[str], wanted: Sequence[str], notes: Notes) -> WrittenTable:
    """A row a model and a column a metric that the run has."""
    judged = record.part.models
    columns = [metric for metric in wanted if any(metric in entries for entries in judged.values())]
    rows = [
        WrittenRow(
            model_words(model),
            [notes.cell(metric, judged[model].get(metric, UNDEFINED)) for metric in columns],
            main=model == record.main,
        )
        for model in models
    ]
    return WrittenTable([metric_words(metric) for metric in columns], rows)


def with_delong(table: WrittenTable, record: Record, notes: Notes) -> WrittenTable:
    """The table of all of the run's models and, where there is one, a column of the AUROC with the
    interval by DeLong's method."""
    areas = [record.part.models[model]["auroc"] for model in record.models]
    cis = [area.delong_ci if isinstance(area, Auroc) else None for area in areas]
    if not any(cis):
        return table
    rows = [
        replace(row, cells=[*row.cells, notes.cell("auroc", Estimate(area.value, ci, area.reason))])
        for row, area, ci in zip(table.rows, areas, cis, strict=True)
    ]
    return WrittenTable([*table.header, (named("auroc").words, "interval by DeLong")], rows)


def differences(record: Record, notes: Notes) -> WrittenTable:
    """The tuned model minus each other one."""
    found = record.part.differences or {}
    delong = any(isinstance(entries["auroc"], AurocDifference) for entries in found.values())
    rows = []
    for other in (model for model in record.models if model in found):
        entries = found[other]
        cells = [
            replace(notes.cell(metric, entries[metric], "+"), reads=reads(metric, entries[metric].ci))
            for metric in DIFFERENCES
        ]
        if delong:
            auroc = entries["auroc"]
            tested = auroc if isinstance(auroc, AurocDifference) else AurocDifference(None)
            cells.append(WrittenCell(_p(tested.delong_p), span(tested.delong_ci, "+")))
        alike = ", from the tuned one that does so too" if beside(other, record.models) != "tuned" else ""
        rows.append(WrittenRow(model_words(other) + alike, cells))
    header: list[str | tuple[str, str]] = [metric_words(metric) for metric in DIFFERENCES]
    return WrittenTable([*header, ("DeLong p", "for the AUROC")] if delong else header, rows)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def raw(record: Record, notes: Notes) -> WrittenTable:
    """Probabilities before and after correction and calibration, where that changed them."""
    before, judged = record.part.raw, record.part.models
    rows = [
        WrittenRow(f"{model_words(model)}, {when}", [notes.cell(metric, found[model][metric]) for metric in RAW])
        for model in record.models
        if model in before
        for when, found in (("as the model gives them", before), ("as judged above", judged))
    ]
    return WrittenTable([metric_words(metric) for metric in RAW], rows)


def at_thresholds(model: str, found: list[ThresholdJudged], notes: Notes) -> WrittenTable:
    """What one model does at each threshold."""
    return WrittenTable(
        [named(metric).words for metric in AT_THRESHOLD],
        [
            WrittenRow(
                entry.name,
                [notes.cell(metric, entry.metrics.get(metric, UNDEFINED)) for metric in AT_THRESHOLD],
                value=f"at {entry.value:.3f}",
            )
            for entry in found
        ],
        title=model_words(model),
    )


def steady(record: Record) -> WrittenTable:
    """How far a patient's risk depends on the draw of folds; without rows where there was one
    draw."""
    found = record.part.cross_validation
    rows = []
    for model in main_first(record, found.stability if found else {}):
        one = found.stability[model] if found else None
        if one:
            changed = "few or nearly all" if one.changed is None else percent(one.changed)
            cells = [changed, number(one.mean_change), number(one.p95_change)]
            rows.append(
                WrittenRow(model_words(model), [WrittenCell(cell) for cell in cells], main=model == record.main)
            )
    header: list[str | tuple[str, str]] = [
        ("Change sides", "of the threshold, in any repeat"),
        ("Mean change", "of a patient's risk from repeat to repeat"),
        ("95 % of patients", "change by no more than"),
    ]
    return WrittenTable(header, rows)


# --------------------------------------------------------------------------------------------------
# groups of patients


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The main model in one group, whose counts are "few" where they may not be told."""

    name: str
    n: int | str
    events: int | str
    cells: list[WrittenCell]


@dataclass(frozen=True, slots=True)
class Groups:
    """The main model in each group; of small groups only that they are small."""

    title: str
    header: list[str]
    rows: list[GroupRow]
    columns: str
    """Which column was taken for what, in a sentence."""


def subgroups(record: Record, notes: Notes) -> Groups:
    """The main model in each group."""
    rows = []
    for group in record.part.subgroups or []:
        found = group.models.get(record.main, {})
        rows.append(
            GroupRow(
                f"{group.column}: {group.group}",
                "few" if group.n is None else group.n,
                "few" if group.n_events is None else group.n_events,
                [notes.cell(metric, found.get(metric, UNDEFINED)) for metric in SUBGROUPS],
            )
        )
    meant = {meaning: roles.Meant(**entry) for meaning, entry in record.cohort.get("meanings", {}).items()}
    told = f"What was taken for what: {roles.meanings_in_words(meant)}." if "meanings" in record.cohort else ""
    return Groups(model_words(record.main), [named(metric).words for metric in SUBGROUPS], rows, told)


# --------------------------------------------------------------------------------------------------
# several tables or sites


def by_place(record: Record, places: Places | None, notes: Notes) -> WrittenTable:
    """The main model at each table or site and, below, over them; without rows where there are
    none."""
    if places is None:
        return WrittenTable([], [])
    rows = []
    for name, one in places.found.items():
        found = one.models.get(record.main, {})
        cells = [WrittenCell("few" if count is None else str(count)) for count in (one.n, one.n_events)]
        rows.append(
            WrittenRow(name, [*cells, *(notes.cell(metric, found.get(metric, UNDEFINED)) for metric in OVER_TABLES)])
        )
    if means := places.means.get(record.main):
        none = [WrittenCell("")] * 2
        mean = [notes.cell(name, Estimate(means[name].value, means[name].ci)) for name in OVER_TABLES]
        rows.append(WrittenRow(f"mean over {places.many}", [*none, *mean], main=True))
        further = [WrittenCell(span(means[name].prediction) or "–") for name in OVER_TABLES]
        rows.append(WrittenRow(f"a further {places.one}", [*none, *further], value="95 % prediction interval"))
        shares = [means[name].i2 for name in OVER_TABLES]
        between = [WrittenCell("–" if share is None else percent(share)) for share in shares]
        rows.append(WrittenRow("I²", [*none, *between], value=f"variance between {places.many}, of all"))
    return WrittenTable(
        ["Rows", "Events", *(named(metric).words for metric in OVER_TABLES)], rows, model_words(record.main)
    )


# --------------------------------------------------------------------------------------------------
# sample size


@dataclass(frozen=True, slots=True)
class Sized:
    """How many rows it takes, in sentences and by criterion."""

    text: str
    table: WrittenTable


def sample_size(record: Record) -> Sized | None:
    """None where nothing is planned with."""
    found = record.part.sample_size or SampleSize()
    told = [(words, one) for words, one in _sized(found) if one]
    if not told:
        return None
    rows = [
        WrittenRow(
            CRITERIA[criterion],
            [
                WrittenCell(f"{needed:,}"),
                WrittenCell(f"{one.here:,}"),
                WrittenCell("yes" if one.here >= needed else "no"),
            ],
            value=words,
        )
        for words, one in told
        for criterion, needed in one.rows.items()
    ]
    text = [
        *map(_planned, told),
        "AUROC and prevalence are those that this run found: read it as an order of magnitude",
    ]
    text += [NOT_OF_LLMS] if set(LANGUAGE) & set(record.models) else []
    table = WrittenTable(["Rows it takes", "Rows here", "Enough"], rows)
    return Sized(" ".join(f"{sentence}." for sentence in text), table)


def _sized(found: SampleSize) -> list[tuple[str, Needed | None]]:
    return [("to develop", found.develop), ("to validate", found.validate)]


def _planned(told: tuple[str, Needed]) -> str:
    words, one = told
    what = model_words(one.model)
    if one.parameters is not None:
        what = f"a logistic regression of these columns, of {one.parameters} parameters,"
    return (
        f"{words.capitalize()} {what} at an AUROC of {one.auroc:.2f}"
        f"{f' ({model_words(one.model)})' if one.parameters is not None else ''} and a prevalence of {percent(one.prevalence)} "
        f"it takes {one.most:,} rows ({math.ceil(one.most * one.prevalence):,} events); the "
        f"{'test' if one.parameters is None else 'training'} part is worth {one.here:,}"
        f"{'' if one.enough else ', too few'}"
    )


# --------------------------------------------------------------------------------------------------
# censoring


@dataclass(frozen=True, slots=True)
class Censored:
    """How many the weights stand for, C-index and observed risk by groups."""

    text: str
    c_index: WrittenTable
    observed: list[WrittenTable]
    unobserved: str
    """Why there is no observed risk; empty where there is."""


def censoring(record: Record, notes: Notes) -> Censored | None:
    """None when every row counts the same."""
    found = record.part.censoring
    if found is None:
        return None
    weights, judged = found.weights, found.models or {}
    models = main_first(record, judged)
    at_risk = "" if weights.n is None else f" of {weights.n}"
    text = (
        f"{weights.n_known}{at_risk} people of the test part at risk were followed until the outcome was known. They stand "
        f"for the censored by weights of up to {weights.largest_weight:.2f}, and are worth {weights.effective_n:.0f} "
        "equally weighted rows."
    )
    c_index = WrittenTable(
        [(named("c_index").words, "not weighted; the censored count until they leave")],
        [
            WrittenRow(model_words(model), [notes.cell("c_index", judged[model].c_index)], main=model == record.main)
            for model in models
        ],
    )
    observed = [(model, groups) for model in models if (groups := judged[model].observed)]
    reasons = [judged[model].reason for model in models if judged[model].observed is None]
    return Censored(text, c_index, [_observed(*each) for each in observed], (reasons[0] if reasons else None) or "")


def _observed(model: str, groups: list[RiskGroup]) -> WrittenTable:
    rows = [
        WrittenRow(
            f"group {place}",
            [
                WrittenCell("not told" if group.n is None else str(group.n)),
                WrittenCell(str(group.n_events)),
                WrittenCell(number(group.risk)),
                WrittenCell(number(group.observed), span(group.ci)),
            ],
        )
        for place, group in enumerate(groups, 1)
    ]
    return WrittenTable(["People", "Events", "Mean risk", "Observed risk"], rows, title=model_words(model))


# --------------------------------------------------------------------------------------------------
# the learning curve


@dataclass(frozen=True, slots=True)
class Learned:
    """Tables of the learning curve, one a metric, with its words and which way is better."""

    tables: list[tuple[tuple[str, str], WrittenTable]] = field(default_factory=list)
    seeds: int = 0
    worth: list[str] = field(default_factory=list)
    """What a start from other weights was worth, in sentences."""


def learned(points: list[dict[str, Any]]) -> Learned | None:
    """None without a learning curve; points as `learning_curve.json` has them."""
    if not points:
        return None
    models = in_order({point["model"] for point in points})
    tables = []
    for metric in learning_curve.PLOTTED:
        lines = curves.by_training_rows(points, metric)
        sizes = sorted({rows for line in lines.values() for rows in line})
        rows = [
            WrittenRow(model_words(model), [_of_seeds(lines[model].get(size, [])) for size in sizes])
            for model in models
        ]
        tables.append((metric_words(metric), WrittenTable([f"{size:,.0f} rows" for size in sizes], rows)))
    worth = [one.words for one in learning_curve.worth(points)]
    return Learned(tables, len({point["seed"] for point in points}), worth)


def _of_seeds(values: list[float]) -> WrittenCell:
    """The median as a cell, with the lowest and the highest of several in the place of the
    interval."""
    spread = (min(values), max(values)) if len(values) > 1 else None
    return WrittenCell(number(float(np.median(values)) if values else None), span(spread))

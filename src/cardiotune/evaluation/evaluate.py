"""predictions.jsonl -> metrics.json. Every model is judged by the same code, on the same rows and
resamples."""

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.comparators import IN_WORDS, beside, main_model
from cardiotune.data.small_counts import is_small, told_events
from cardiotune.data.split import FEW_GROUPS
from cardiotune.errors import DataError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.catalogue import ANY, DIFFERENCES, NAMES, RAW, THRESHOLDS, all_metrics, named, values
from cardiotune.evaluation.censoring import describe_weights, judge_times
from cardiotune.evaluation.disclosure import Told
from cardiotune.evaluation.estimates import EXCEPTIONS, difference, estimate
from cardiotune.evaluation.groups import MISSING, judge_groups
from cardiotune.evaluation.intervals import (
    affordable,
    around,
    bootstrap_counts,
    delong_interval,
    delong_test,
    percentile_interval,
    worth,
)
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.judgement import (
    Auroc,
    AurocDifference,
    Censoring,
    CrossValidated,
    DecisionCurve,
    Estimate,
    Estimates,
    Group,
    Judgement,
    Mean,
    Method,
    NetBenefit,
    Part,
    TableJudged,
    ThresholdJudged,
    Times,
)
from cardiotune.evaluation.metrics import Array
from cardiotune.evaluation.random_effects import METRICS as OVER_TABLES
from cardiotune.evaluation.random_effects import across
from cardiotune.evaluation.repeats import Repeat, Spread, stability, wider
from cardiotune.evaluation.sample_size import (
    Developed,
    Flagging,
    Needed,
    SampleSize,
    cox_snell,
    to_develop,
    to_validate,
)
from cardiotune.evaluation.survival import EVENT, Followed
from cardiotune.evaluation.verdict import MARGIN, verdict
from cardiotune.models.predictions import Prediction
from cardiotune.models.thresholds import NamedThreshold, fold_key

log = logging.getLogger(__name__)

WEIGHTED = "ipcw"
"""How `metrics.json` says that all metrics are weighted by the inverse probability of censoring."""
RAW_REPLICATES = 200
"""Bootstrap replicates behind the intervals of probabilities that are not the final ones."""
TIME_REPLICATES = 200
"""The most bootstrap replicates behind the interval of a C-index."""
GROUP_REPLICATES = 200
"""The most bootstrap replicates behind the intervals of subgroups, of which there are many."""
CURVE_THRESHOLDS = np.arange(1, 100) / 100
WORKERS = 2
"""Threads; a constant, so that the last digits do not depend on the machine."""


@dataclass(frozen=True)
class FromTable:
    """What the table tells of the predicted rows, by row id; all of it may be left out."""

    subgroups: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """Title -> row_id -> group, None for a row whose group is not known."""
    clusters: Mapping[str, Hashable] | None = None
    """row_id -> what its rows belong to (a patient), None for a row by itself."""
    told: Sequence[Told] = ()
    """Counts that Table 1 tells (`told_beside`)."""
    followed: Mapping[str, Followed] | None = None
    """row_id -> follow-up of these rows and of the censored, whose outcome is unknown."""
    horizon_days: float = 0
    """How far times are judged."""
    held_out: Sequence[str] = ()
    """Tables of which nothing was learned from."""
    site: str | None = None
    """Title of the subgroups that are sites."""
    developed: Developed | None = None
    """What classical models learned from."""
    margin: float = MARGIN
    """A difference in AUROC that matters."""


_Further = dict[str, dict[int, list[Prediction]]]
"""Model -> repeat of a cross-validation behind the first -> its rows."""
Thresholds = Mapping[str, Sequence[NamedThreshold]]
"""Model -> the thresholds to describe."""


def evaluate_predictions(
    rows: list[Prediction],
    replicates: int,
    seed: int,
    stratified: bool = False,
    thresholds: Thresholds | None = None,
    table: FromTable | None = None,
) -> dict[str, Any]:
    """The content of `metrics.json`, whose keys are described in `metrics.schema.json`.

    `rows` of `predictions.jsonl`; `replicates` bootstrap replicates drawn from `seed`, `stratified`
    by the outcome. `thresholds` are by default the rows' own as "decision". The clusters of a
    `table` are by default the rows' own `cluster`; with some, they are resampled whole, and
    intervals that take rows as independent (DeLong, Wilson) are left out or replaced by the
    bootstrap's. Very large parts get fewer replicates (`affordable`), and say so. Subgroups are
    withheld until no small count follows from them and from what Table 1 tells.

    Rows of a cross-validation have a `repeat` and a `fold`: what is estimated is the mean over a
    model's repeats, its interval as `cardiotune.evaluation.repeats` says; subgroups and
    probabilities before calibration are those of the first repeat, with the bootstrap's interval.

    Rows with a `weight`, the inverse probability of censoring, count by it in every metric and
    interval, and the result says so. The weights are taken as known, those of the whole cohort;
    that its censoring was estimated makes intervals rather too wide (Robins et al., J Am Stat Assoc
    1994;89:846).

    Raises DataError for rows that do not fit together, unknown rows and thresholds beyond 0 and 1.
    """
    bootstrap, table = _Bootstrap(replicates, seed, stratified), table or FromTable()
    parts: dict[str, dict[str, list[Prediction]]] = defaultdict(lambda: defaultdict(list))
    unknown: dict[str, dict[str, list[Prediction]]] = defaultdict(lambda: defaultdict(list))
    further: dict[str, _Further] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.repeat in (None, 1):
            (unknown if row.y_true is None else parts)[row.part][row.model].append(row)
        elif row.y_true is not None:
            further[row.part][row.model].setdefault(row.repeat, []).append(row)
    if not parts:
        raise DataError("no row with a known outcome to evaluate")
    if table.clusters is None and any(row.cluster is not None for row in rows):
        table = replace(table, clusters={row.row_id: row.cluster for row in rows})
    judged = {}
    for name, models in parts.items():
        part = _read_part(name, models, thresholds or {}, table)
        if next(iter(models.values()))[0].repeat is not None:
            part = replace(part, repeats=_read_repeats(part, models, further[name], thresholds or {}))
        times = None if part.weight is None else _judge_times(part, unknown[name], table, bootstrap)
        judged[name] = _judge_part(part, bootstrap, table, times)
    kind = "cluster " if table.clusters is not None else "" if stratified else "ordinary "
    method = f"{'stratified ' if stratified else ''}{kind}bootstrap, percentile"
    if any(part.cross_validation for part in judged.values()):
        method += ", widened by the spread over folds and between repeats"
    judgement = Judgement(
        interval=Method(0.95, method, replicates, seed, EXCEPTIONS),
        parts=judged,
        weights=WEIGHTED if any(row.weighted for row in rows) else None,
    )
    return judgement.as_json()


@dataclass(frozen=True)
class _Bootstrap:
    """How the rows of a part are resampled."""

    replicates: int
    seed: int
    stratified: bool

    def counts(self, part: "_Rows", most: int | None = None) -> Iterator[Array]:
        """Row counts, (some replicates, rows) at a time; `most` takes only the first replicates."""
        replicates = self.of(part) if most is None else min(most, self.of(part))
        return bootstrap_counts(part.y_true, replicates, self.seed, self.stratified, part.clusters)

    def of(self, part: "_Rows") -> int:
        """How many replicates the part gets."""
        return affordable(self.replicates, len(part.y_true))


@dataclass(frozen=True)
class _Rows:
    """A part's rows as arrays (rows,); every model has the same."""

    name: str
    ids: list[str]
    y_true: Array
    risks: dict[str, Array]
    raw: dict[str, Array]
    """Probabilities before class imbalance was corrected and they were calibrated, where that
    changed them."""
    decision: dict[str, float]
    """Each model's own threshold."""
    named: dict[str, list[tuple[str, float]]]
    """Each model's thresholds to describe."""
    columns: dict[str, list[str | None]]
    """Title -> label of each row's group."""
    tables: list[str] | None
    """Name of each row's table; None where there is one."""
    clusters: NDArray[np.int_] | None
    """Number of each row's cluster; None when no two rows belong together."""
    weight: Array | None
    """How much each row counts; None when all count the same."""
    unread: dict[str, NDArray[np.bool_]]
    """Of a model that answers in words: which answers could not be parsed."""
    repeats: dict[str, list[Repeat]] = field(default_factory=dict)
    """Of a cross-validation: each model's repeats, the first of which `risks` holds; else empty."""

    @property
    def paired(self) -> int:
        """In how many repeats the tuned model took part."""
        return len(self.repeats.get("tuned", ()))

    def judged(self, model: str) -> Judged:
        """The rows as the model is judged on them, at its own threshold."""
        unread = self.unread.get(model)
        return Judged(self.y_true, self.risks[model], self.decision[model], self.weight, self.clusters, unread)

    @property
    def cautions(self) -> list[str]:
        """What makes all intervals of the part doubtful, in words."""
        if self.clusters is None:
            return []
        if self.clusters.max() == 0:
            return ["All rows are of one patient (or group), so there are no intervals: nothing is shown about others."]
        if worth(self.weight, self.clusters) < FEW_GROUPS:
            return [
                f"The rows are worth fewer than {FEW_GROUPS} patients (or groups) of equal size: few have most of them, so "
                "do not rely on the intervals."
            ]
        return []

    def among(self, rows: NDArray[np.int_]) -> "_Rows":
        """Only the rows in these places, without their groups."""

        def some(by_model: dict[str, Any]) -> dict[str, Any]:
            return {model: values[rows] for model, values in by_model.items()}

        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            y_true=self.y_true[rows],
            risks=some(self.risks),
            raw=some(self.raw),
            columns={},
            tables=None,
            repeats={},
            clusters=None if self.clusters is None else _numbers(self.clusters[rows].tolist()),
            weight=None if self.weight is None else self.weight[rows],
            unread=some(self.unread),
        )

    def counted(self, counts: Array) -> Array:
        """Row counts of a bootstrap (replicates, rows), weighted."""
        return counts if self.weight is None else counts * self.weight


def _read_part(name: str, models: dict[str, list[Prediction]], thresholds: Thresholds, table: FromTable) -> _Rows:
    subgroups, clusters = table.subgroups, table.clusters
    y_true, risks, decision = _check_rows(name, models)
    raw = {model: np.array([row.y_prob_raw for row in rows], float) for model, rows in models.items()}
    ids = [row.row_id for row in next(iter(models.values()))]
    tables = [row.table for row in next(iter(models.values())) if row.table is not None]
    if any(
        row_id not in known
        for known in (*subgroups.values(), *([] if clusters is None else [clusters]))
        for row_id in ids
    ):
        raise DataError(
            f"part {name}: some predicted rows are not in the table that tells their subgroups and clusters"
        )
    named = {
        model: [(fixed.name, fixed.value) for fixed in thresholds.get(model, ())] or [("decision", value)]
        for model, value in decision.items()
    }
    unread = {}
    for model in [model for model in IN_WORDS if model in risks]:
        unread[model] = ~np.isin(risks[model], (0, 1))
        risks[model] = raw[model] = np.where(unread[model], 0, risks[model])  # it flags nobody
    for model, entries in named.items():
        if not all(0 <= value <= 1 for _, value in entries):
            raise DataError(f"model {model}: a threshold is not from 0 to 1, as a probability is")
    return _Rows(
        name,
        ids,
        y_true,
        risks,
        {model: risk for model, risk in raw.items() if not np.array_equal(risk, risks[model])},
        decision,
        named,
        {title: [labels[row_id] for row_id in ids] for title, labels in subgroups.items()},
        tables if len(tables) == len(ids) else None,
        None if clusters is None else _numbers([clusters[row_id] for row_id in ids]),
        _weights(name, models),
        unread,
    )


def _read_repeats(
    part: _Rows, models: dict[str, list[Prediction]], further: _Further, thresholds: Thresholds
) -> dict[str, list[Repeat]]:
    """Model -> its repeats; DataError where a repeat has other rows than the first."""
    found = {}
    for model, first in models.items():
        # The first alone of a model whose answers are words.
        others = [] if model in IN_WORDS else [rows for _, rows in sorted(further[model].items())]
        for rows in others:
            if [(row.row_id, row.y_true) for row in rows] != [(row.row_id, row.y_true) for row in first]:
                raise DataError(
                    f"predictions: model {model} has other rows in repeat {rows[0].repeat} than in the first; make them anew "
                    "with `cardiotune predict`"
                )
        named = [] if model in IN_WORDS else thresholds.get(model, ())
        found[model] = [_repeat(part.risks[model], first, named)]
        found[model] += [_repeat(np.array([row.y_prob for row in rows], float), rows, named) for rows in others]
    return found


def _repeat(risk: Array, rows: list[Prediction], named: Sequence[NamedThreshold]) -> Repeat:
    keys = [fold_key(row.repeat or 1, row.fold or 1) for row in rows]
    flags = [
        (risk >= np.array([fixed.folds[key] for key in keys])).astype(float) if fixed.folds else None for fixed in named
    ]
    return Repeat(risk, np.array([row.fold for row in rows]), flags)


def _weights(part: str, models: dict[str, list[Prediction]]) -> Array | None:
    """(rows,) weights; None where no row has one. DataError for one that is not above 0, or that
    not all models have."""
    found = [[row.weight for row in rows] for rows in models.values()]
    if all(weight is None for weights in found for weight in weights):
        return None
    if any(weights != found[0] for weights in found) or not all(weight and weight > 0 for weight in found[0]):
        raise DataError(
            f"predictions, part {part}: a row with a known outcome has no weight above 0, or models differ in weights; make "
            "them anew with `cardiotune predict`"
        )
    return np.array(found[0], float)


def _numbers(keys: list[Hashable]) -> NDArray[np.int_] | None:
    """0, 1, 2... for the keys in their order; a number of its own for every None. None when no two
    rows share a key."""
    numbers: dict[Hashable, int] = {}
    own = [("row", place) if key is None else ("cluster", key) for place, key in enumerate(keys)]
    numbered = [numbers.setdefault(key, len(numbers)) for key in own]
    return np.array(numbered) if len(numbers) < len(keys) else None


def _judge_part(part: _Rows, bootstrap: _Bootstrap, table: FromTable, times: Censoring | None) -> Part:
    y_true, risks, test = part.y_true, part.risks, part.name == "test"
    samples = _resample(part, bootstrap)
    points = {model: _quantities(part, model, part.weight) for model in risks}
    spreads = {model: _spreads(part, model) for model in part.repeats}
    treat_all = metrics.decision_curve(y_true, np.ones(len(y_true)), part.weight, thresholds=CURVE_THRESHOLDS)
    if part.cautions:
        log.warning("part %s: %s", part.name, part.cautions[0])
    groups = _groups(part, bootstrap, table.told, test)
    tables = _tables(part, bootstrap, groups)
    judged = Part(
        n=len(y_true),
        n_events=told_events(len(y_true), int(y_true.sum())),
        models={model: _model(part, model, points[model], samples[model], spreads.get(model)) for model in risks},
        thresholds={
            model: _thresholds(part, model, points[model], samples[model], spreads.get(model)) for model in risks
        },
        decision_curve=DecisionCurve(
            CURVE_THRESHOLDS.tolist(),
            treat_all.tolist(),
            {model: _net_benefit(points[model], samples[model], spreads.get(model)) for model in risks},
        ),
        replicates=bootstrap.of(part) if bootstrap.of(part) < bootstrap.replicates else None,
        cautions=part.cautions,
        censoring=times,
        cross_validation=_cross_validated(part),
        subgroups=[group for group in groups if group.column != _OF_TABLES] if test else None,
        raw=_judge_raw(part, bootstrap),
        differences=_differences(part, points, samples, spreads) if "tuned" in risks else None,
        tables=tables,
        over_tables=_over([one.models for one in tables.values() if one.n_events is not None]) if test else {},
        over_sites=_over(_sites(groups, table.site)) if test and table.site else {},
    )
    judged = replace(judged, sample_size=_sample_size(part, judged, table.developed) if test else None)
    # The other parts had a hand in making the model.
    return (
        replace(judged, verdict=verdict(judged, table.held_out, table.margin)) if test and "tuned" in risks else judged
    )


def _quantities(part: _Rows, model: str, weight: Array | None) -> dict[str, Array]:
    """All that is estimated of one model, by name; at the described thresholds `metric@place`. Of
    several repeats the mean, and as `_PAIRED` that of those that the tuned model has too."""
    repeats = part.repeats.get(model)
    if not repeats:
        return _of_risks(part, model, part.risks[model], weight)
    each = [_of_risks(part, model, repeat.risk, weight, repeat.flags) for repeat in repeats]
    found = _means(each)
    shared = _means(each[: part.paired]) if part.paired else found
    return found | {_PAIRED + metric: shared[metric] for metric in DIFFERENCES}


_PAIRED = "paired "


def _means(each: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}


def _spreads(part: _Rows, model: str) -> dict[str, Spread]:
    """Of a cross-validated model: each quantity in every repeat, and without each of its folds."""
    each, without = [], []
    for repeat in part.repeats[model]:
        left = repeat.without() if part.weight is None else repeat.without() * part.weight
        each.append(_of_risks(part, model, repeat.risk, part.weight, repeat.flags))
        without.append(_of_risks(part, model, repeat.risk, left, repeat.flags))
    return {
        name: Spread(np.stack([one[name] for one in each]), np.stack([one[name] for one in without]))
        for name in each[0]
    }


def _cross_validated(part: _Rows) -> CrossValidated | None:
    if not part.repeats:
        return None
    steady = {
        model: found
        for model, repeats in part.repeats.items()
        if model not in IN_WORDS and (found := stability(repeats, part.decision[model]))
    }
    first = next(iter(part.repeats.values()))[0]
    numbers = {model: len(repeats) for model, repeats in part.repeats.items()}
    return CrossValidated(len(np.unique(first.fold)), numbers, steady)


def _of_risks(
    part: _Rows, model: str, risk: Array, weight: Array | None, flags: Sequence[Array | None] = ()
) -> dict[str, Array]:
    order = np.argsort(risk, kind="stable")  # once, and not in every metric
    rows = Judged(part.y_true, risk, part.decision[model], unread=part.unread.get(model)).among(order)
    weight = None if weight is None else weight[..., order]
    found = all_metrics(rows.y_true, rows.risk, weight, threshold=rows.threshold, unread=rows.unread)
    found["decision_curve"] = metrics.decision_curve(rows.y_true, rows.risk, weight, thresholds=CURVE_THRESHOLDS)
    for place, (_, threshold) in enumerate(part.named[model]):
        own = flags[place] if flags else None
        flagged = rows if own is None else replace(rows, risk=own[order])
        at = values(THRESHOLDS, flagged.at(threshold), weight)
        found |= {f"{name}@{place}": value for name, value in at.items()}
    return found


def _resample(part: _Rows, bootstrap: _Bootstrap) -> dict[str, dict[str, Array]]:
    """Model -> quantity -> (replicates, ...); all models see the same replicates."""
    drawn: dict[str, dict[str, list[Array]]] = {model: defaultdict(list) for model in part.risks}
    with ThreadPoolExecutor(WORKERS) as pool:  # numpy works outside the lock
        for counts in bootstrap.counts(part):
            counts = part.counted(counts)
            tasks = [(model, some) for model in part.risks for some in np.array_split(counts, WORKERS) if len(some)]
            found = pool.map(lambda task: _quantities(part, *task), tasks)
            for (model, _), quantities in zip(tasks, found, strict=True):
                for name, sample in quantities.items():
                    drawn[model][name].append(sample)
    return {model: {name: np.concatenate(v) for name, v in by_name.items()} for model, by_name in drawn.items()}


_Spreads = dict[str, Spread] | None
"""Of one model by quantity; None where rows were parted once."""


def _wider(entry: Estimate, name: str, sample: Array, spreads: _Spreads, key: str = "") -> Estimate:
    """The metric's estimate, with the interval of cross-validated rows where they are such; `key`:
    its name among the spreads."""
    if spreads is None:
        return entry
    return wider(entry, float(spreads[key or name].widening(sample)), named(name).range)


def _net_benefit(point: dict[str, Array], sample: dict[str, Array], spreads: _Spreads) -> NetBenefit:
    """The decision curve (m,) with the interval at each threshold, from samples (replicates, m)."""
    line, drawn = point["decision_curve"].tolist(), sample["decision_curve"]
    found = (percentile_interval(one) for one in drawn.T)
    entries = [Estimate(value, ci and around(value, ci)) for value, ci in zip(line, found, strict=True)]
    if spreads is not None:
        factors = spreads["decision_curve"].widening(drawn)
        entries = [
            wider(entry, float(factor), named("net_benefit").range)
            for entry, factor in zip(entries, factors, strict=True)
        ]
    return NetBenefit(line, [entry.ci for entry in entries])


def _model(
    part: _Rows, model: str, point: dict[str, Array], sample: dict[str, Array], spreads: _Spreads = None
) -> Estimates:
    rows = part.judged(model)
    entries = {
        name: _wider(estimate(name, point[name].item(), sample[name], rows), name, sample[name], spreads)
        for name in NAMES
    }
    alone = rows.independent and rows.unread is None and spreads is None  # DeLong's rows are of one model
    ci = delong_interval(rows.y_true, rows.risk) if alone else None
    auroc = entries["auroc"]
    return entries | {"auroc": Auroc(auroc.value, auroc.ci, auroc.reason, ci)}


def _thresholds(
    part: _Rows, model: str, point: dict[str, Array], sample: dict[str, Array], spreads: _Spreads
) -> list[ThresholdJudged]:
    judged = part.judged(model)

    def entry(metric: str, place: int, threshold: float) -> Estimate:
        key, flags = f"{metric}@{place}", part.repeats[model][0].flags if part.repeats else ()
        own = flags[place] if flags else None
        rows = judged if own is None else replace(judged, risk=own)
        found = estimate(metric, point[key].item(), sample[key], rows.at(threshold))
        return _wider(found, metric, sample[key], spreads, key)

    return [
        ThresholdJudged(name, threshold, {metric: entry(metric, place, threshold) for metric in THRESHOLDS})
        for place, (name, threshold) in enumerate(part.named[model])
    ]


_OF_TABLES = "\0table"
"""Title of the groups that are tables, where no column of the dictionary names them."""


def _groups(part: _Rows, bootstrap: _Bootstrap, told: Sequence[Told], test: bool) -> list[Group]:
    """Subgroups of the test part and, of any part, its tables: what may be told of either is found
    for both together."""
    columns = part.columns if test else {}
    if part.tables and part.tables not in columns.values():
        columns = {**columns, _OF_TABLES: list(part.tables)}
    asked = test and bool(part.columns)  # else the groups are counted alone
    resamples = bootstrap.counts(part, GROUP_REPLICATES) if asked else ()
    rows = {model: part.judged(model) for model in part.risks} if asked else {}
    return judge_groups(part.y_true, rows, columns, resamples, part.ids, told if test else ())


def _tables(part: _Rows, bootstrap: _Bootstrap, groups: Sequence[Group]) -> dict[str, TableJudged]:
    """Every table's rows, judged as the part is; withheld where its group is."""
    if not part.tables:
        return {}
    title = next((title for title, labels in part.columns.items() if labels == part.tables), _OF_TABLES)
    group_of = {group.group: group for group in groups if group.column in (title, _OF_TABLES)}
    found = {}
    for name in dict.fromkeys(part.tables):
        group = group_of[name]
        models: dict[str, Estimates] = {}
        if group.n is not None and not group.suppressed:
            own = part.among(np.flatnonzero(np.array(part.tables) == name))
            samples = _resample(own, bootstrap)
            models = {
                model: _model(own, model, _quantities(own, model, own.weight), samples[model]) for model in own.risks
            }
        found[name] = TableJudged(group.n, group.n_events, models)
    return found


def _sites(groups: Sequence[Group], title: str) -> list[Mapping[str, Estimates]]:
    """The models at each site whose numbers are told."""
    return [one.models for one in groups if one.column == title and one.group != MISSING and not one.suppressed]


def _over(judged: Sequence[Mapping[str, Estimates]]) -> dict[str, dict[str, Mean]]:
    """Of every model the mean over tables or sites; empty where fewer than two are judged."""
    found = [models for models in judged if models]
    if len(found) < 2:
        return {}
    return {
        model: {name: across(name, [one[model][name] for one in found]) for name in OVER_TABLES} for model in found[0]
    }


REGRESSION = "logistic_regression"
"""Whose AUROC a regression is planned with, where it was run."""


def _sample_size(part: _Rows, judged: Part, developed: Developed | None) -> SampleSize:
    """What it takes to develop a regression, and to validate the model that the report is about, if
    their AUROC and the prevalence are those found. Nothing where an outcome has a small count."""
    if judged.n_events is None:
        return SampleSize()
    known = {name: found["auroc"].value for name, found in judged.models.items() if name not in IN_WORDS}
    plannable = {name: area for name, area in known.items() if area is not None and 0.5 < area < 1}
    if not plannable:
        return SampleSize()
    main = main_model(plannable)
    rows = part.judged(main)
    prevalence = float(np.average(part.y_true, weights=part.weight))
    at = judged.thresholds[main][0]
    seen, unseen = at.metrics["sensitivity"].value, at.metrics["specificity"].value
    flagging = None if seen is None or unseen is None or not 0 < at.value < 1 else Flagging(at.value, seen, unseen)
    here, needed = int(rows.size(rows.everyone)), to_validate(plannable[main], prevalence, flagging)
    validate, develop = Needed(main, plannable[main], prevalence, here, needed), None
    if developed and developed.events and developed.parameters and developed.events < developed.rows:
        model = REGRESSION if REGRESSION in plannable else main
        share, area = developed.events / developed.rows, plannable[model]
        needed = to_develop(developed.parameters, share, cox_snell(area, share))
        develop = Needed(model, area, share, developed.rows, needed, developed.parameters)
    return SampleSize(develop, validate)


def _judge_raw(part: _Rows, bootstrap: _Bootstrap) -> dict[str, Estimates]:
    """How good the probabilities were before anything was done to them (they rank the rows as the
    final ones do)."""
    rows = {
        model: Judged(part.y_true, risk, weight=part.weight, clusters=part.clusters) for model, risk in part.raw.items()
    }
    drawn: dict[tuple[str, str], list[Array]] = defaultdict(list)
    for counts in bootstrap.counts(part, RAW_REPLICATES) if rows else ():
        counted = part.counted(counts)
        for model, own in rows.items():
            for name, sample in values(RAW, own, counted).items():
                drawn[model, name].append(sample)
    return {
        model: {
            name: estimate(name, value.item(), np.concatenate(drawn[model, name]), own)
            for name, value in values(RAW, own, part.weight).items()
        }
        for model, own in rows.items()
    }


def _judge_times(
    part: _Rows, unknown: dict[str, list[Prediction]], table: FromTable, bootstrap: _Bootstrap
) -> Censoring:
    """What the weights are worth and, with `followed`, the C-index and the observed risk of all at
    risk, censored ones too."""
    assert part.weight is not None
    known, horizon_days = table.followed or {}, table.horizon_days
    ids = part.ids + [row.row_id for row in next(iter(unknown.values()), []) if row.row_id in known]
    few = is_small(len(ids) - len(part.ids))  # then no number may tell how many there are with the censored
    judged = Censoring(
        prevalence=float(np.average(part.y_true, weights=part.weight)),
        weights=describe_weights(part.weight, None if table.followed is None or few else len(ids)),
        horizon_days=horizon_days,
    )
    if table.followed is None:
        return judged
    if not all(row_id in known for row_id in ids):
        raise DataError(f"part {part.name}: the follow-up of some predicted rows is not in the table")
    time, status = (np.array(column) for column in zip(*(known[row_id] for row_id in ids), strict=True))
    number = None if table.clusters is None else _numbers([table.clusters[row_id] for row_id in ids])
    happened = ((status == EVENT) & (time <= horizon_days)).astype(float)
    replicates = min(TIME_REPLICATES, bootstrap.replicates)
    drawn = list(bootstrap_counts(happened, replicates, bootstrap.seed, bootstrap.stratified, number))
    models: dict[str, Times] = {}
    for model, risk in part.risks.items():
        risk_of = {row.row_id: float(row.y_prob) for row in unknown.get(model, [])}
        risks = np.concatenate([risk, [risk_of[row_id] for row_id in ids[len(risk) :]]])
        models[model] = judge_times(time, status, risks, horizon_days, drawn, tell_sizes=not few)
    missing = next((m.c_index.reason for m in models.values() if "not installed" in (m.c_index.reason or "")), None)
    if missing:
        log.warning("no C-index and no Kaplan-Meier calibration: %s", missing)
    return replace(judged, models=models)


def _check_rows(part: str, models: dict[str, list[Prediction]]) -> tuple[Array, dict[str, Array], dict[str, float]]:
    """Outcomes (rows,), each model's risks (rows,) and threshold; DataError unless all models have
    the same rows."""
    keys = [(row.row_id, row.y_true) for row in next(iter(models.values()))]
    if len({row_id for row_id, _ in keys}) < len(keys):
        raise DataError(f"predictions: a row_id stands twice in part {part} for the same model; keep one")
    y_true = np.array([outcome for _, outcome in keys], float)
    risks = {name: np.array([row.y_prob for row in rows], float) for name, rows in models.items()}
    for name, rows in models.items():
        if [(row.row_id, row.y_true) for row in rows] != keys:
            raise DataError(
                f"predictions: model {name} does not cover the same rows of part {part} as the others, in the same "
                "order and with the same outcomes; make them anew with `cardiotune predict`"
            )
        if not np.isin(y_true, (0, 1)).all() or not np.all((risks[name] >= 0) & (risks[name] <= 1)):
            raise DataError(f"predictions: model {name}, part {part}: y_true must be 0, 1 or null, y_prob from 0 to 1")
        if len({row.threshold for row in rows}) > 1:
            raise DataError(f"predictions: model {name}, part {part}: rows have different thresholds; use one a model")
    return y_true, risks, {name: float(rows[0].threshold) for name, rows in models.items()}


def _differences(
    part: _Rows,
    points: dict[str, dict[str, Array]],
    samples: dict[str, dict[str, Array]],
    spreads: dict[str, dict[str, Spread]],
) -> dict[str, Estimates]:
    """Tuned minus each other model, with paired bootstrap intervals; of repeats those that both
    have. Beside a model that matches columns itself, it is the tuned one that does so too."""
    found: dict[str, Estimates] = {}
    for other in (model for model in part.risks if model != "tuned"):
        entries, own = {}, beside(other, part.risks)
        for metric in DIFFERENCES:
            key = _PAIRED + metric if part.repeats else metric
            sample = samples[own][key] - samples[other][key]
            entries[metric] = difference(float(points[own][key] - points[other][key]), sample)
            if part.repeats:
                factor = (spreads[own][metric] - spreads[other][metric]).widening(sample)
                entries[metric] = wider(entries[metric], float(factor), ANY)
        comparable = part.judged(other).independent and other not in IN_WORDS and not part.repeats
        test = delong_test(part.y_true, part.risks[own], part.risks[other]) if comparable else None
        auroc = entries["auroc"]
        delong = (None, None) if test is None else (test.p, test.ci)
        found[other] = entries | {"auroc": AurocDifference(auroc.value, auroc.ci, auroc.reason, *delong)}
    return found

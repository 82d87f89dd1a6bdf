"""What a model's risk depends on, column by column, in the same way for a language model and a
table model.

Every function takes `risk_of`, typed columns -> risks, and asks it once, for all the changed rows
together: a language model then shows one progress bar, and a table model is fitted once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data import schema
from cardiotune.data.prepare import Prepared
from cardiotune.data.serialize import serialize_rows
from cardiotune.data.small_counts import FEW
from cardiotune.data.split import cluster_numbers
from cardiotune.data.subsample import stratified_rows
from cardiotune.errors import DataError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.intervals import Interval, around, bootstrap_counts, percentile_interval
from cardiotune.evaluation.probes import Score, with_values
from cardiotune.models.labelled import row_weights
from cardiotune.settings import DataConfig, SerializeConfig

Array = NDArray[np.float64]
RiskOf = Callable[[pl.DataFrame], Array]
"""Rows with the dictionary's columns, typed, n of them -> risks (n,), 0 to 1."""

ROWS = 200
"""Patients that an importance rests on by default: a language model on a processor scores about 15
a second."""
CURVE_ROWS = 50
"""Patients that a partial dependence is averaged over by default."""


@dataclass(frozen=True, slots=True)
class ExplainSettings:
    """How much an explanation rests on."""

    rows: int = ROWS
    repeats: int = 3
    """Shuffles of each column."""
    curves: int = 5
    """Columns that get a curve: those that matter most to the first model."""
    grid_points: int = 6
    seed: int = 0
    replicates: int = 1000
    """Of the bootstrap behind the intervals."""


@dataclass(frozen=True, slots=True)
class Importance:
    """How much worse a model gets when one column is shuffled; no value with one outcome only, no
    interval where nothing varies."""

    column: str
    value: float | None
    """The fall of the AUROC."""
    ci: Interval | None
    log_loss: float | None
    """The rise of the log-loss."""
    log_loss_ci: Interval | None
    model: str = ""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """An entry of `importance`."""
        ends = {name: entry.get(name) and tuple(entry[name]) for name in ("ci", "log_loss_ci")}
        return cls(**{"log_loss": None, **entry, **ends})

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "column": self.column,
            "value": self.value,
            "ci": self.ci and list(self.ci),
            "log_loss": self.log_loss,
            "log_loss_ci": self.log_loss_ci and list(self.log_loss_ci),
            "model": self.model,
        }


@dataclass(frozen=True, slots=True)
class Dependence:
    """Mean risk by each model when all rows have the same value in a column, for each value `x`,
    codes in words."""

    column: str
    unit: str | None
    x: list[float | str]
    models: Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Explanations:
    """Which columns models rest on, and how."""

    importance: list[Importance] = field(default_factory=list)
    partial_dependence: list[Dependence] = field(default_factory=list)
    note: str | None = None
    """Why there is nothing, in words."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The content of `explanations.json`; empty where there is none."""
        importance = [Importance.from_json(entry) for entry in content.get("importance", [])]
        curves = [Dependence(**entry) for entry in content.get("partial_dependence", [])]
        return cls(importance, curves, content.get("note"))

    def as_json(self) -> dict[str, Any]:
        """The content of `explanations.json`."""
        return {
            "importance": [entry.as_json() for entry in self.importance],
            "partial_dependence": [asdict(entry) for entry in self.partial_dependence],
            **({} if self.note is None else {"note": self.note}),
        }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One field of a patient: the risk without it, and this minus the patient's. Above 0 the field
    lowers the risk."""

    column: str
    risk: float
    change: float


@dataclass(frozen=True, slots=True)
class RowExplained:
    """What one patient's risk rests on. No value of the patient is in it."""

    risk: float
    fields: list[LeftOut]
    """The largest change first."""
    not_recorded: list[str]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


# --------------------------------------------------------------------------------------------------
# two kinds of models behind one interface


def language_risk(score: Score, order: Sequence[str], data: DataConfig, serialize: SerializeConfig) -> RiskOf:
    """The risks of a language model, of which `score` takes texts. Equal texts are scored once."""

    def risk_of(frame: pl.DataFrame) -> Array:
        texts = serialize_rows(frame, order, data, serialize)
        distinct = list(dict.fromkeys(texts))
        risks = dict(zip(distinct, score(distinct), strict=True))
        return np.array([risks[text] for text in texts])

    return risk_of


def _ask(risk_of: RiskOf, frames: Sequence[pl.DataFrame]) -> list[Array]:
    """The risks of every frame, from one call."""
    risks = risk_of(pl.concat(frames))
    return np.split(risks, np.cumsum([frame.height for frame in frames])[:-1])


# --------------------------------------------------------------------------------------------------
# explanations


def explain(
    models: Mapping[str, RiskOf], prepared: Prepared, data: DataConfig, asked: ExplainSettings = ExplainSettings()
) -> Explanations:
    """Importance of the columns on the test part, and curves within the range of the training part.

    A table of ready texts has no columns that its language model reads; the result is then empty,
    with a note.
    """
    if data.name_of("text"):
        return Explanations(note="the patients' texts come ready made, so no column of theirs can be changed")
    frame, test = prepared.cohort.frame, prepared.rows("test")
    training, judged, events = frame[prepared.rows("train")], frame[test], prepared.cohort.events[test]
    importance = [
        replace(entry, model=name)
        for name, risk_of in models.items()
        for entry in permutation_importance(risk_of, judged, events, data, asked)
    ]
    first = [entry for entry in importance if entry.model == next(iter(models))]
    first.sort(key=lambda entry: -(entry.value if entry.value is not None else -np.inf))
    grids = {entry.column: grid_of(training[entry.column], data, asked.grid_points) for entry in first}
    grids = dict([(name, grid) for name, grid in grids.items() if len(grid) > 1][: asked.curves])
    some = judged[stratified_rows(events, min(asked.rows, CURVE_ROWS), asked.seed)]
    lines = {name: partial_dependence(risk_of, some, data, grids) for name, risk_of in models.items()}
    drawn = [
        Dependence(
            column,
            data.columns[column].unit,
            _spoken(grid, column, data),
            {name: line[column] for name, line in lines.items()},
        )
        for column, grid in grids.items()
    ]
    return Explanations(importance, drawn)


def permutation_importance(
    risk_of: RiskOf,
    frame: pl.DataFrame,
    events: NDArray[np.int_],
    data: DataConfig,
    asked: ExplainSettings = ExplainSettings(),
) -> list[Importance]:
    """How much worse the model ranks and predicts when one column is shuffled among the patients.

    Breiman, Mach Learn 2001;45:5, section 10. Of each feature column means over the shuffles;
    intervals are 95 % bootstraps over patients (whole, where they have several rows) and shuffles.
    What is derived from a column is derived anew; a column that others stand in for has a low
    importance. Texts scored: rows x (1 + columns x repeats). `events`: (n,) of 0 and 1.
    """
    rows, repeats, seed = asked.rows, asked.repeats, asked.seed
    chosen = stratified_rows(events, rows, seed)
    frame, y_true = frame[chosen], np.asarray(events)[chosen].astype(float)
    draw = np.random.default_rng(seed)
    shuffled = [
        with_values(frame, frame[name][draw.permutation(frame.height)], data)
        for name in data.features
        for _ in range(repeats)
    ]
    base, *others = _ask(risk_of, [frame, *shuffled])
    weight = row_weights(frame)
    clusters = cluster_numbers(frame, data)
    number = None if clusters is None else np.array(clusters)
    counts = np.concatenate(list(bootstrap_counts(y_true, asked.replicates, seed, clusters=number)))
    return [
        Importance(name, *_worse(y_true, base, others[place * repeats : (place + 1) * repeats], counts, weight))
        for place, name in enumerate(data.features)
    ]


def _worse(
    y_true: Array, base: Array, shuffled: list[Array], counts: Array, weight: Array | None = None
) -> tuple[float | None, Interval | None, float | None, Interval | None]:
    """Fall of the AUROC and rise of the log-loss with their intervals. Each replicate of the
    bootstrap judges one of the shuffles, so an interval holds the spread of both."""
    counts = counts if weight is None else counts * weight

    def worse(metric: Callable[..., Array], sign: int) -> tuple[float | None, Interval | None]:
        mean = float(
            np.mean([sign * (metric(y_true, risk, weight) - metric(y_true, base, weight)) for risk in shuffled])
        )
        drawn = [
            sign * (metric(y_true, risk, some) - metric(y_true, base, some))
            for risk, some in zip(
                shuffled, (counts[first :: len(shuffled)] for first in range(len(shuffled))), strict=True
            )
        ]
        interval = percentile_interval(np.concatenate(drawn))
        held = around(mean, interval) if interval and np.isfinite(mean) else None
        return mean if np.isfinite(mean) else None, held

    return *worse(metrics.auroc, -1), *worse(metrics.log_loss, 1)


def leave_one_field_out(risk_of: RiskOf, row: pl.DataFrame, data: DataConfig) -> RowExplained:
    """One patient's risk, and that without each field.

    row: one row with the dictionary's columns, typed; DataError for another number of rows.
    """
    if row.height != 1:
        raise DataError(f"leave_one_field_out: {row.height} rows came; it explains one patient's risk, so give one row")
    recorded = [name for name in data.features if row[name][0] is not None]
    blanks = [with_values(row, pl.Series(name, [None], dtype=row[name].dtype), data) for name in recorded]
    base, *without = (float(risk[0]) for risk in _ask(risk_of, [row, *blanks]))
    changes = sorted(zip(recorded, without, strict=True), key=lambda entry: -abs(entry[1] - base))
    return RowExplained(
        base,
        [LeftOut(name, risk, risk - base) for name, risk in changes],
        [name for name in data.features if name not in recorded],
    )


def partial_dependence(
    risk_of: RiskOf, frame: pl.DataFrame, data: DataConfig, grids: Mapping[str, Sequence[Any]]
) -> dict[str, list[float]]:
    """Mean risk of the rows when all of them have the same value in a column, for each value of the
    column's grid.

    Friedman, Ann Stat 2001;29:1189, section 8.2. It averages over patients who may not exist, such
    as a woman of 40 with the cholesterol of another; the grids of `grid_of` keep each value at
    least inside what training saw.
    """
    places = [(name, value) for name, grid in grids.items() for value in grid]
    if not places:
        return {}
    changed = [
        with_values(frame, pl.Series(name, [value] * frame.height, dtype=frame[name].dtype), data)
        for name, value in places
    ]
    means = iter([float(risks.mean()) for risks in _ask(risk_of, changed)])
    return {name: [next(means) for _ in grid] for name, grid in grids.items()}


def grid_of(training: pl.Series, data: DataConfig, points: int = 6) -> list[Any]:
    """Values to draw a curve over, of one column's training rows; empty when it has no scale or
    categories.

    Numbers: evenly spaced quantiles from 5 to 95 %, so that no extreme patient is shown. Coded
    columns: the codes that training has, if the dictionary does not list them only those of ten
    patients.
    """
    column, known = data.columns[training.name], training.drop_nulls()
    if known.is_empty():
        return []
    if column.is_number:
        decimals = 0 if column.kind.whole else 2 if column.decimals is None else column.decimals
        quantiles = [float(known.quantile(share, "linear") or 0.0) for share in np.linspace(0.05, 0.95, points)]
        return sorted({round(value, decimals) for value in quantiles})
    if codes := schema.codes_of(column):
        return [code for code in codes if code in set(known)]
    if column.is_coded:
        frequent = known.value_counts(sort=True).filter(pl.col("count") >= FEW)[training.name]
        return sorted(frequent.to_list()[: 2 * points])
    return []


def _spoken(grid: Sequence[Any], name: str, data: DataConfig) -> list[float | str]:
    """Numbers as they are, codes in words."""
    codes = schema.codes_of(data.columns[name])
    return [codes.get(value, value) for value in grid]

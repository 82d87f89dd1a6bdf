"""What `metrics.json` holds, typed: read by `from_json`, written by `as_json`.

The keys are described in `metrics.schema.json`. What an earlier version did not write is read as
not there.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from cardiotune.evaluation.intervals import Interval
from cardiotune.evaluation.sample_size import SampleSize

SCHEMA_VERSION = 1
WITH_TABLES = 2
"""Version of the schema where parts have `tables`, which readers of the first do not know."""
Decision = Literal["better", "worse", "no_difference_shown", "too_small_to_judge", "no_comparison"]


def _interval(ci: Any) -> Interval | None:
    return None if ci is None else (ci[0], ci[1])


def _ends(ci: Interval | None) -> list[float] | None:
    return None if ci is None else list(ci)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval; null with a reason where either is undefined."""

    value: float | None
    ci: Interval | None = None
    reason: str | None = None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Estimate":
        """An entry of `metrics.json`; of an AUROC with what DeLong's method says."""
        plain = (entry["value"], _interval(entry.get("ci")), entry.get("reason"))
        if "delong_p" in entry:
            return AurocDifference(*plain, entry["delong_p"], _interval(entry.get("delong_ci")))
        return Auroc(*plain, _interval(entry["delong_ci"])) if "delong_ci" in entry else Estimate(*plain)

    def as_json(self) -> dict[str, Any]:
        """`{"value", "ci"}`, and `reason` where there is one."""
        entry = {"value": self.value, "ci": _ends(self.ci)}
        return entry if self.reason is None else {**entry, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Auroc(Estimate):
    """An AUROC, with the interval by DeLong's method too."""

    delong_ci: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """That of an estimate, and `delong_ci`."""
        return {**Estimate.as_json(self), "delong_ci": _ends(self.delong_ci)}


@dataclass(frozen=True, slots=True)
class AurocDifference(Estimate):
    """A difference in AUROC, with DeLong's test and interval."""

    delong_p: float | None = None
    delong_ci: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        """That of an estimate, `delong_p` and `delong_ci`."""
        return {**Estimate.as_json(self), "delong_p": self.delong_p, "delong_ci": _ends(self.delong_ci)}


Estimates = Mapping[str, Estimate]
"""Key of a metric in this section of `metrics.json` -> its estimate."""
UNDEFINED = Estimate(None)
"""In the place of a metric that is not there."""


def _estimates(entries: Mapping[str, Any]) -> Estimates:
    return {name: Estimate.from_json(entry) for name, entry in entries.items()}


def _json_of(estimates: Estimates) -> dict[str, Any]:
    return {name: entry.as_json() for name, entry in estimates.items()}


@dataclass(frozen=True, slots=True)
class ThresholdJudged:
    """What a model does at a threshold that was fixed beforehand."""

    name: str
    value: float
    metrics: Estimates

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """An entry of a model's `thresholds`."""
        metrics = {name: found for name, found in entry.items() if name not in ("name", "value")}
        return cls(entry["name"], entry["value"], _estimates(metrics))

    def as_json(self) -> dict[str, Any]:
        """`{"name", "value", ...}` with the metrics."""
        return {"name": self.name, "value": self.value, **_json_of(self.metrics)}


@dataclass(frozen=True, slots=True)
class NetBenefit:
    """One model's decision curve: net benefit and its interval at each threshold, None where it has
    no width."""

    net_benefit: list[float]
    ci: list[Interval | None]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """A model of `decision_curve`."""
        return cls(entry["net_benefit"], [_interval(ci) for ci in entry.get("ci") or []])

    def as_json(self) -> dict[str, Any]:
        """`{"net_benefit", "ci"}`."""
        return {"net_benefit": self.net_benefit, "ci": [_ends(ci) for ci in self.ci]}


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit over a grid of thresholds, of each model and of flagging everybody."""

    thresholds: list[float]
    treat_all: list[float]
    models: Mapping[str, NetBenefit]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """`decision_curve` of a part."""
        models = {model: NetBenefit.from_json(line) for model, line in entry["models"].items()}
        return cls(entry["thresholds"], entry["treat_all"], models)

    def as_json(self) -> dict[str, Any]:
        """`{"thresholds", "treat_all", "models"}`."""
        models = {model: line.as_json() for model, line in self.models.items()}
        return {"thresholds": self.thresholds, "treat_all": self.treat_all, "models": models}


@dataclass(frozen=True, slots=True)
class Group:
    """One group of patients. A count that may not be told is None, and a metric that may not be
    told has no value; of a small group nothing is told, and `models` is empty."""

    column: str
    """Title of the column."""
    group: str
    n: int | None
    n_events: int | None
    suppressed: bool
    """Whether anything is withheld."""
    models: Mapping[str, Estimates]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """An entry of `subgroups`."""
        models = {model: _estimates(found) for model, found in (entry.get("models") or {}).items()}
        return cls(entry["column"], entry["group"], entry["n"], entry["n_events"], entry["suppressed"], models)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "column": self.column,
            "group": self.group,
            "n": self.n,
            "n_events": self.n_events,
            "suppressed": self.suppressed,
            "models": {model: _json_of(found) for model, found in self.models.items()},
        }


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over tables or sites; None where it is not defined."""

    value: float | None
    ci: Interval | None
    """95 % interval of the mean."""
    prediction: Interval | None
    """Where the value at a further one is expected to lie, 95 %; of three at least."""
    tables: int
    """How many it is of: those that have a value with an interval."""
    i2: float | None = None
    """Share of the variance of the estimates that is between them and not within (I^2)."""

    def as_json(self) -> dict[str, Any]:
        """`{"value", "ci", "prediction", "i2", "tables"}`."""
        return {
            "value": self.value,
            "ci": _ends(self.ci),
            "prediction": _ends(self.prediction),
            "i2": self.i2,
            "tables": self.tables,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Undo `as_json`."""
        return cls(
            entry["value"], _interval(entry["ci"]), _interval(entry["prediction"]), entry["tables"], entry.get("i2")
        )


def _means(entries: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Mean]]:
    return {model: {metric: Mean.from_json(mean) for metric, mean in found.items()} for model, found in entries.items()}


@dataclass(frozen=True, slots=True)
class TableJudged:
    """The rows of one table of a part. A count that may not be told is None, and `models` is then
    empty."""

    n: int | None
    n_events: int | None
    models: Mapping[str, Estimates]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """An entry of `tables`."""
        return cls(
            entry["n"], entry["n_events"], {model: _estimates(found) for model, found in entry["models"].items()}
        )

    def as_json(self) -> dict[str, Any]:
        """`{"n", "n_events", "models"}`."""
        models = {model: _json_of(found) for model, found in self.models.items()}
        return {"n": self.n, "n_events": self.n_events, "models": models}


@dataclass(frozen=True, slots=True)
class RiskGroup:
    """People of similar risk: their mean risk, and the share observed to have the event by the
    horizon."""

    n: int | None
    """None where it would tell how many are censored, and they are few."""
    n_events: int
    risk: float
    observed: float
    ci: Interval | None
    """None where it would have no width."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """A group of `observed`."""
        return cls(entry["n"], entry["n_events"], entry["risk"], entry["observed"], _interval(entry["ci"]))

    def as_json(self) -> dict[str, Any]:
        """`{"n", "n_events", "risk", "observed", "ci"}`."""
        return {
            "n": self.n,
            "n_events": self.n_events,
            "risk": self.risk,
            "observed": self.observed,
            "ci": _ends(self.ci),
        }


@dataclass(frozen=True, slots=True)
class Times:
    """How a model's risks go with the times to the event, among all at risk, the censored
    included."""

    c_index: Estimate
    observed: list[RiskGroup] | None
    """Groups of rising risk; None with a reason."""
    reason: str | None = None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """A model of `censoring`."""
        groups = entry["observed"]["groups"]
        observed = None if groups is None else [RiskGroup.from_json(group) for group in groups]
        return cls(Estimate.from_json(entry["c_index"]), observed, entry["observed"].get("reason"))

    def as_json(self) -> dict[str, Any]:
        """`{"c_index", "observed"}`."""
        groups = None if self.observed is None else [group.as_json() for group in self.observed]
        why = {} if self.reason is None else {"reason": self.reason}
        return {"c_index": self.c_index.as_json(), "observed": {"groups": groups, **why}}


@dataclass(frozen=True, slots=True)
class WeightsTold:
    """What the weights of censoring are worth."""

    n: int | None
    """All that were at risk; None where this is not known, or not told."""
    n_known: int
    """Those whose outcome is known."""
    largest_weight: float
    effective_n: float
    """How many equally weighted rows these are worth (Kish)."""

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "n": self.n,
            "n_known": self.n_known,
            "largest_weight": self.largest_weight,
            "effective_n": self.effective_n,
        }


@dataclass(frozen=True, slots=True)
class Censoring:
    """Of a part whose metrics are weighted by the inverse probability of censoring."""

    prevalence: float
    """Weighted share of events."""
    weights: WeightsTold
    horizon_days: float
    models: Mapping[str, Times] | None = None
    """None where the table could not be read."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """`censoring` of a part."""
        models = entry.get("models")
        times = None if models is None else {model: Times.from_json(found) for model, found in models.items()}
        return cls(entry["prevalence"], WeightsTold(**entry["weights"]), entry["horizon_days"], times)

    def as_json(self) -> dict[str, Any]:
        """All of it, without `models` where the table could not be read."""
        entry = {
            "prevalence": self.prevalence,
            "weights": self.weights.as_json(),
            "horizon_days": self.horizon_days,
        }
        if self.models is None:
            return entry
        return {**entry, "models": {model: found.as_json() for model, found in self.models.items()}}


@dataclass(frozen=True, slots=True)
class Band:
    """Patients of similar risk in the first repeat: their mean risk there, and between which risks
    95 % of theirs lie in the other repeats."""

    risk: float
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Stability:
    """How steady one model's risks of the same patients are over repeats of a cross-validation."""

    repeats: int
    threshold: float
    changed: float | None
    """Share of the patients who are flagged in some repeats and not in others; None where few are,
    or all but few."""
    mean_change: float
    """Mean distance of a patient's risk in a further repeat from that in the first."""
    p95_change: float
    """What the largest such distance of a patient is below, of 95 % of the patients."""
    bands: list[Band]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """A model of `stability`."""
        return cls(**{**entry, "bands": [Band(**band) for band in entry["bands"]]})

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CrossValidated:
    """Of rows that were each held out once in every repeat."""

    folds: int
    repeats: Mapping[str, int]
    """Model -> how many repeats it took part in."""
    stability: Mapping[str, Stability]
    """Of the models that took part in two or more."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """`cross_validation` of a part."""
        steady = {model: Stability.from_json(found) for model, found in entry["stability"].items()}
        return cls(entry["folds"], entry["repeats"], steady)

    def as_json(self) -> dict[str, Any]:
        """`{"folds", "repeats", "stability"}`."""
        steady = {model: found.as_json() for model, found in self.stability.items()}
        return {"folds": self.folds, "repeats": dict(self.repeats), "stability": steady}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the tuned model is worth it, and the classical model that decides it."""

    decision: Decision
    text: str
    against: str | None = None
    unharmonised: Self | None = None
    """The same beside models for tables whose columns nobody has matched, where there are some."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """`verdict` of the test part."""
        otherwise = entry.get("unharmonised")
        return cls(entry["decision"], entry["text"], entry.get("against"), otherwise and cls.from_json(otherwise))

    def as_json(self) -> dict[str, Any]:
        """`{"decision", "against", "text", "unharmonised"}`; without a comparison, nothing it is
        against."""
        against = {} if self.against is None else {"against": self.against}
        otherwise = {} if self.unharmonised is None else {"unharmonised": self.unharmonised.as_json()}
        return {"decision": self.decision, **against, "text": self.text, **otherwise}


@dataclass(frozen=True, slots=True)
class Part:
    """One judged part of the split."""

    n: int
    n_events: int | None
    """None for a small count."""
    models: Mapping[str, Estimates]
    thresholds: Mapping[str, list[ThresholdJudged]] = field(default_factory=dict)
    decision_curve: DecisionCurve | None = None
    replicates: int | None = None
    """Of the bootstrap, where the part is so large that it gets fewer."""
    cautions: list[str] = field(default_factory=list)
    """What makes all intervals doubtful, in words."""
    censoring: Censoring | None = None
    cross_validation: CrossValidated | None = None
    """None where rows were parted once."""
    subgroups: list[Group] | None = None
    """None for a part that has none judged, which all but the test part are."""
    raw: Mapping[str, Estimates] = field(default_factory=dict)
    """Models whose probabilities were corrected or calibrated -> how good they were before."""
    differences: Mapping[str, Estimates] | None = None
    """Other model -> tuned minus it; None without a tuned model."""
    verdict: Verdict | None = None
    sample_size: SampleSize | None = None
    """What it takes to develop and to validate; None for a part that is not the test part."""
    tables: Mapping[str, TableJudged] = field(default_factory=dict)
    """By the name of the table; empty where the experiment has one."""
    over_tables: Mapping[str, Mapping[str, Mean]] = field(default_factory=dict)
    """Model -> metric -> the mean over tables; empty where fewer than two are judged."""
    over_sites: Mapping[str, Mapping[str, Mean]] = field(default_factory=dict)
    """The same over the sites of a column of that role, which are among the subgroups."""

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """A part of `metrics.json`."""
        thresholds, groups = entry.get("thresholds") or {}, entry.get("subgroups")
        curve, censoring, verdict = (entry.get(name) for name in ("decision_curve", "censoring", "verdict"))
        differences, folds = entry.get("differences"), entry.get("cross_validation")
        return cls(
            n=entry["n"],
            n_events=entry["n_events"],
            models={model: _estimates(found) for model, found in entry["models"].items()},
            thresholds={
                model: [ThresholdJudged.from_json(one) for one in found] for model, found in thresholds.items()
            },
            decision_curve=DecisionCurve.from_json(curve) if curve else None,
            replicates=entry.get("replicates"),
            cautions=entry.get("cautions", []),
            censoring=Censoring.from_json(censoring) if censoring else None,
            cross_validation=CrossValidated.from_json(folds) if folds else None,
            subgroups=None if groups is None else [Group.from_json(group) for group in groups],
            raw={model: _estimates(found) for model, found in entry.get("raw", {}).items()},
            differences=None
            if differences is None
            else {other: _estimates(found) for other, found in differences.items()},
            verdict=Verdict.from_json(verdict) if verdict else None,
            sample_size=SampleSize.from_json(size) if (size := entry.get("sample_size")) else None,
            tables={name: TableJudged.from_json(found) for name, found in entry.get("tables", {}).items()},
            over_tables=_means(entry.get("over_tables", {})),
            over_sites=_means(entry.get("over_sites", {})),
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, in the order of the file; without what this part has not."""
        entry: dict[str, Any] = {
            "n": self.n,
            "n_events": self.n_events,
            "models": {model: _json_of(found) for model, found in self.models.items()},
            "thresholds": {model: [one.as_json() for one in found] for model, found in self.thresholds.items()},
        }
        if self.decision_curve is not None:
            entry["decision_curve"] = self.decision_curve.as_json()
        if self.replicates is not None:
            entry["replicates"] = self.replicates
        if self.cautions:
            entry["cautions"] = self.cautions
        if self.censoring is not None:
            entry["censoring"] = self.censoring.as_json()
        if self.cross_validation is not None:
            entry["cross_validation"] = self.cross_validation.as_json()
        if self.subgroups is not None:
            entry["subgroups"] = [group.as_json() for group in self.subgroups]
        if self.raw:
            entry["raw"] = {model: _json_of(found) for model, found in self.raw.items()}
        if self.differences is not None:
            entry["differences"] = {other: _json_of(found) for other, found in self.differences.items()}
        if self.verdict is not None:
            entry["verdict"] = self.verdict.as_json()
        if self.sample_size is not None:
            entry["sample_size"] = self.sample_size.as_json()
        if self.tables:
            entry["tables"] = {name: table.as_json() for name, table in self.tables.items()}
        for name, means in (("over_tables", self.over_tables), ("over_sites", self.over_sites)):
            if means:
                entry[name] = {
                    model: {metric: mean.as_json() for metric, mean in found.items()} for model, found in means.items()
                }
        return entry


@dataclass(frozen=True, slots=True)
class Method:
    """How the intervals were made that are not said to be other ones."""

    level: float
    method: str
    replicates: int
    seed: int
    exceptions: str | None = None
    """Which intervals are made in another way, in words."""

    @property
    def stratified(self) -> bool:
        """Whether events and others were drawn apart."""
        return self.method.startswith("stratified")

    def as_json(self) -> dict[str, Any]:
        """All of it, without exceptions where there are none."""
        entry = {"level": self.level, "method": self.method, "replicates": self.replicates, "seed": self.seed}
        return entry if self.exceptions is None else {**entry, "exceptions": self.exceptions}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The whole file."""

    interval: Method
    parts: Mapping[str, Part]
    weights: str | None = None
    """`ipcw` where all metrics are weighted by the inverse probability of censoring."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The content of `metrics.json`."""
        parts = {name: Part.from_json(part) for name, part in content["parts"].items()}
        return cls(Method(**content["interval"]), parts, content.get("weights"))

    def as_json(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return {
            "schema_version": WITH_TABLES if any(part.tables for part in self.parts.values()) else SCHEMA_VERSION,
            **({} if self.weights is None else {"weights": self.weights}),
            "interval": self.interval.as_json(),
            "parts": {name: part.as_json() for name, part in self.parts.items()},
        }

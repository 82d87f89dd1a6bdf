"""Everything that the files of a run folder say, read once for the report, the checklists and the
model card."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cardiotune.audit import findings
from cardiotune.audit.findings import Finding
from cardiotune.comparators import IN_WORDS, main_model
from cardiotune.config import load_resolved
from cardiotune.errors import DataError, ModelError
from cardiotune.evaluation.explain import Explanations
from cardiotune.evaluation.judgement import Judgement, Method, Part
from cardiotune.evaluation.probes import Probed
from cardiotune.evaluation.table1 import Table1
from cardiotune.files import read_json
from cardiotune.models.predictions import Prediction, read_predictions
from cardiotune.report.wording import events, in_order
from cardiotune.runs import RunFolder
from cardiotune.settings import Config

Array = NDArray[np.float64]


class Scores(NamedTuple):
    """One model on the test rows whose outcome is known; (rows,) each."""

    y_true: Array
    y_prob: Array
    y_prob_raw: Array
    weight: Array | None = None
    """How much each row counts; None when all count the same."""
    clusters: NDArray[np.int_] | None = None
    """Number of each row's patient; None when no two rows belong together."""


@dataclass(frozen=True)
class Record:
    """The content of a run folder. A file that the run has not is an empty dict."""

    run: RunFolder
    config: Config
    manifest: dict[str, Any]
    cohort: dict[str, Any]
    training: dict[str, Any]
    interval: Method
    """How the intervals of the test part were made."""
    part: Part
    """The test part of `metrics.json`."""
    models: list[str]
    scored: dict[str, Scores]
    findings: list[Finding] | None
    """Of the audit; None without one."""
    calibration: dict[str, Any]
    table1: Table1
    probes: Probed
    explanations: Explanations

    @property
    def events(self) -> str:
        """`36 events (54 %)` of the test part."""
        weighted = None if self.part.censoring is None else self.part.censoring.prevalence
        return events(self.part.n, self.part.n_events, weighted)

    @property
    def main(self) -> str:
        """The model that the report is about, by an order that knows nothing of the results:
        `Comparator.main`."""
        return main_model(self.models)


def read_record(run: RunFolder) -> Record:
    """Read a run folder. Raises DataError when it has no predictions or no metrics of its test
    part."""
    if not run.metrics.is_file():
        raise DataError(f"{run.metrics}: no metrics yet; make them with `cardiotune evaluate {run.path}`")
    rows = read_predictions(run)
    judgement = _parsed(run, run.metrics, Judgement.from_json)
    part = judgement.parts.get("test")
    if part is None:
        raise DataError(f"{run.metrics}: no test part with known outcomes, so there is nothing to report")
    models = in_order(list(part.models))
    scored = scores(rows, models)
    if any(len(found.y_true) != part.n for found in scored.values()):
        raise DataError(f"{run.metrics}: made from other predictions; renew it with `cardiotune evaluate {run.path}`")
    return Record(
        run=run,
        config=load_resolved(run.checked(run.config)),
        manifest=run.read_manifest(),
        cohort=read_json(run.checked(run.cohort)),
        training=read_json(run.checked(run.training)),
        interval=replace(judgement.interval, replicates=part.replicates or judgement.interval.replicates),
        part=part,
        models=models,
        scored=scored,
        findings=_parsed(run, run.audit, findings.from_json) if run.audit.is_file() else None,
        calibration=read_json(run.checked(run.calibration)),
        table1=_parsed(run, run.table1, Table1.from_json),
        probes=_parsed(run, run.probes, Probed.from_json),
        explanations=_parsed(run, run.explanations, Explanations.from_json),
    )


Parsed = TypeVar("Parsed")


def _parsed(run: RunFolder, file: Path, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed:
    """A file of the run, typed; nothing is read of one that is not there."""
    content = read_json(run.checked(file))
    try:
        return parse(content)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError(f"{file}: does not hold what CardioTune writes; restore it, or make it anew") from None


def scores(rows: list[Prediction], models: list[str]) -> dict[str, Scores]:
    """Outcomes and risks of each model on the test rows with a known outcome."""
    judged = [row for row in rows if row.part == "test" and row.y_true is not None]
    found = {}
    for model in models:
        own = [row for row in judged if row.model == model]
        y_true, y_prob, raw = (
            np.array([getattr(row, n) for row in own], float) for n in ("y_true", "y_prob", "y_prob_raw")
        )
        weighted = all(row.weight is not None for row in own)
        weight = np.array([row.weight for row in own], float) if own and weighted else None
        if model in IN_WORDS:  # what is neither 1 nor 0 is no answer, and flags nobody
            y_prob = raw = np.where(y_prob == 1, 1.0, 0.0)
        numbers = [row.cluster for row in own if row.cluster is not None]
        clusters = np.array(numbers) if numbers and len(set(numbers)) < len(own) else None
        found[model] = Scores(y_true, y_prob, raw, weight, clusters)
    return found

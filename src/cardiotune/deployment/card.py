"""What the server says about its model: `GET /v1/model`. Facts of the run only, never a value of a
patient."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cardiotune import __version__
from cardiotune.data.cohort import needed_columns
from cardiotune.data.schema import MISSING, codes_of, expected
from cardiotune.deployment.rows import plain_label
from cardiotune.deployment.scorer import RowScorer
from cardiotune.files import read_json
from cardiotune.models.predictions import Prediction
from cardiotune.report.curves import calibration_points
from cardiotune.report.wording import KEY_METRICS, metric_words
from cardiotune.runs import RunFolder
from cardiotune.settings import Column, Config

CARDS = ("model_card.md", "README.md")
"""The model card in a run folder, and in an export."""


def describe(scorer: RowScorer, folder: Path) -> dict[str, Any]:
    """Name, outcome, versions, threshold, the fields of a row, and what the run's folder tells of
    test and training.

    What an export does not hold (metrics, calibration groups) is null.
    """
    config = scorer.config
    test = read_json(RunFolder(folder).checked(folder / "metrics.json")).get("parts", {}).get("test", {})
    return {
        "name": config.name,
        "outcome": config.task.outcome,
        "research_use_only": True,
        "threshold": scorer.threshold,
        "versions": {**scorer.versions, "server": __version__},
        "base_model": {"name": config.model.name, "license": config.model.license, "revision": config.model.revision},
        "fields": fields(config),
        "missing_marks": list(MISSING),
        "test_part": {"n": test["n"], "n_events": test["n_events"]} if test else None,
        "metrics": _metrics(test),
        "calibration_groups": calibration_groups(folder),
        "explains": config.data.name_of("text") is None,
        "card": next((file.read_text("utf-8") for name in CARDS if (file := folder / name).is_file()), None),
        "has_report": (folder / "report.html").is_file(),
    }


def fields(config: Config) -> list[dict[str, Any]]:
    """The columns of a row, in the dictionary's order, as a form shows them."""
    data = config.data
    return [
        {
            "column": name,
            "label": plain_label(name, column),
            "type": column.type,
            "kind": kind_of(column),
            "role": column.role,
            "unit": column.unit,
            "range": column.range,
            "decimals": column.decimals,
            "codes": [{"code": code, "meaning": meaning} for code, meaning in codes_of(column).items()] or None,
            "missing": column.missing,
            "decimal": column.decimal,
            "day_first": column.day_first,
            "expected": expected(column),
        }
        for name in needed_columns(data, target_needed=False)
        for column in [data.columns[name]]
    ]


def kind_of(column: Column) -> dict[str, Any]:
    """What the page asks of a column's type: `values` (number, code, day or text), `whole`,
    `yes_or_no`."""
    return {key: getattr(column.kind, key) for key in ("values", "whole", "yes_or_no")}


def _metrics(test: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The key metrics of the tuned model on the test part, with their intervals."""
    judged = test.get("models", {}).get("tuned")
    if judged is None:
        return None
    return [
        {"metric": metric_words(name)[0], "reads": metric_words(name)[1], **_estimate(judged[name])}
        for name in KEY_METRICS
        if name in judged
    ]


def _estimate(entry: dict[str, Any]) -> dict[str, Any]:
    return {"value": entry["value"], "ci": entry.get("ci")}


def calibration_groups(folder: Path) -> list[dict[str, float]] | None:
    """Groups of test patients by their risk: mean risk, share with the outcome, its 95 % interval.
    The report draws them.

    None without predictions of the tuned model for a test part with both outcomes.
    """
    file = RunFolder(folder).checked(folder / "predictions.jsonl")
    if not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        rows = [
            (
                row.y_true,
                row.y_prob,
                1.0 if row.weight is None else row.weight,
                -1 - number if row.cluster is None else row.cluster,
            )
            for number, row in enumerate(Prediction.from_json(json.loads(line)) for line in lines)
            if row.model == "tuned" and row.part == "test" and row.y_true is not None
        ]
    y_true, risk, weight, cluster = np.array(rows, float).reshape(-1, 4).T
    if len(set(y_true)) < 2:
        return None
    groups = zip(*calibration_points(y_true, risk, weight, cluster.astype(int)), strict=True)
    return [
        {"mean_risk": float(mean), "observed": float(share), "low": float(low), "high": float(high)}
        for mean, share, low, high in groups
    ]

"""What the server says about its model: `GET /v1/model`. Facts of the run only, never a value of a
patient."""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel

from cardiotune import __version__
from cardiotune.comparators import LANGUAGE
from cardiotune.data.cohort import needed_columns
from cardiotune.data.schema import MISSING, codes_of, expected
from cardiotune.deployment.rows import plain_label
from cardiotune.deployment.scorer import RowScorer
from cardiotune.files import read_json
from cardiotune.models.predictions import Prediction
from cardiotune.report.curves import calibration_points
from cardiotune.report.wording import KEY_METRICS, metric_words, model_words
from cardiotune.runs import RunFolder
from cardiotune.settings import Column

CARDS = ("model_card.md", "README.md")
"""The model card in a run folder, and in an export."""


class BaseWeights(BaseModel):
    """The language model that was fine-tuned."""

    name: str
    license: str | None
    revision: str | None


class Code(BaseModel):
    """A code of a column, and what it means."""

    code: str
    meaning: str


class FieldKind(BaseModel):
    """What a form asks of a column's type."""

    values: str
    """`number`, `code`, `day` or `text`."""
    whole: bool
    yes_or_no: bool

    @classmethod
    def of(cls, column: Column) -> Self:
        """What a form asks of a column."""
        return cls(values=column.kind.values, whole=column.kind.whole, yes_or_no=column.kind.yes_or_no)


class FormField(BaseModel):
    """A column of a row, as a form shows it."""

    column: str
    label: str
    type: str
    kind: FieldKind
    role: str
    unit: str | None
    range: tuple[float, float] | None
    decimals: int | None
    codes: list[Code] | None
    missing: list[str]
    """Codes that mean that nothing was recorded."""
    decimal: str | None
    day_first: bool | None
    expected: str
    """What may stand there, in words."""


class PartSize(BaseModel):
    """The patients that the metrics are of; counts below ten are null."""

    n: int
    n_events: int | None


class KeyMetric(BaseModel):
    """A metric of the test part, what it reads as, and its 95 % interval."""

    metric: str
    reads: str
    value: float | None
    ci: tuple[float, float] | None


class CalibrationGroup(BaseModel):
    """Test patients of like risk: how many of them had the outcome."""

    mean_risk: float
    observed: float
    low: float
    high: float
    """Of the 95 % interval of the share."""


class ServedModel(BaseModel):
    """Answer of `/v1/model`, but for the limits of the server. What an export does not hold
    (metrics, calibration groups) is null."""

    name: str
    outcome: str
    research_use_only: bool
    threshold: float
    versions: dict[str, str]
    model: str
    """The comparator that is served, in words."""
    base_model: BaseWeights | None
    """Null of a classical model."""
    fields: list[FormField]
    missing_marks: list[str]
    """Texts that stand for a missing value in any column."""
    test_part: PartSize | None
    metrics: list[KeyMetric] | None
    calibration_groups: list[CalibrationGroup] | None
    explains: bool
    card: str | None
    """The model card, Markdown."""
    has_report: bool


def describe(scorer: RowScorer, folder: Path) -> ServedModel:
    """What is said of a model: of its settings, and of what its folder tells of test and
    training."""
    config, card = scorer.config, (file for name in CARDS if (file := folder / name).is_file())
    test = read_json(RunFolder(folder).checked(folder / "metrics.json")).get("parts", {}).get("test", {})
    model = config.model
    return ServedModel(
        name=config.name,
        outcome=config.task.outcome,
        research_use_only=True,
        threshold=scorer.threshold,
        versions={**scorer.versions, "server": __version__},
        model=model_words(scorer.model_name),
        base_model=BaseWeights(name=model.name, license=model.license, revision=model.revision)
        if scorer.model_name in LANGUAGE
        else None,
        fields=[_field(name, config.data.columns[name]) for name in needed_columns(config.data, target_needed=False)],
        missing_marks=list(MISSING),
        test_part=PartSize(n=test["n"], n_events=test["n_events"]) if test else None,
        metrics=_metrics(test, scorer.model_name),
        calibration_groups=calibration_groups(folder, scorer.model_name),
        explains=config.data.name_of("text") is None,
        card=next((file.read_text("utf-8") for file in card), None),
        has_report=(folder / "report.html").is_file(),
    )


def _field(name: str, column: Column) -> FormField:
    return FormField(
        column=name,
        label=plain_label(name, column),
        type=column.type,
        kind=FieldKind.of(column),
        role=column.role,
        unit=column.unit,
        range=column.range,
        decimals=column.decimals,
        codes=[Code(code=code, meaning=meaning) for code, meaning in codes_of(column).items()] or None,
        missing=column.missing,
        decimal=column.decimal,
        day_first=column.day_first,
        expected=expected(column),
    )


def _metrics(test: dict[str, Any], model: str) -> list[KeyMetric] | None:
    """The key metrics of a model on the test part, with their intervals."""
    judged = test.get("models", {}).get(model)
    if judged is None:
        return None
    return [
        KeyMetric(metric=title, reads=reads, value=judged[name]["value"], ci=judged[name].get("ci"))
        for name in KEY_METRICS
        if name in judged
        for title, reads, *_ in [metric_words(name)]
    ]


def calibration_groups(folder: Path, model: str = "tuned") -> list[CalibrationGroup] | None:
    """Groups of test patients by their risk: mean risk, share with the outcome, its 95 % interval.
    The report draws them.

    None without predictions of this model for a test part with both outcomes.
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
            if row.model == model and row.part == "test" and row.y_true is not None
        ]
    y_true, risk, weight, cluster = np.array(rows, float).reshape(-1, 4).T
    if len(set(y_true)) < 2:
        return None
    groups = zip(*calibration_points(y_true, risk, weight, cluster.astype(int)), strict=True)
    return [CalibrationGroup(mean_risk=mean, observed=share, low=low, high=high) for mean, share, low, high in groups]

"""One record a metric: nothing that is derived from the records lacks one of them."""

import inspect
import math
from typing import Any

import jsonschema
import numpy as np
import pytest

from cardiotune.evaluation import schema
from cardiotune.evaluation.catalogue import (
    DIFFERENCES,
    METRICS,
    NAMES,
    RAW,
    SUBGROUPS,
    THRESHOLDS,
    Better,
    Kind,
    Metric,
    all_metrics,
    glossary,
    named,
    values,
)
from cardiotune.evaluation.judged import Judged
from cardiotune.report import compare, learning_curve, wording
from cardiotune.report.report import VERDICT
from cardiotune.report.tables import AT_THRESHOLD

SCHEMA = schema.read()
DEFS: dict[str, Any] = SCHEMA["$defs"]


def test_the_schema_is_what_the_records_say() -> None:
    fresh = schema.as_text(schema.renewed(SCHEMA))
    assert schema.FILE.read_text("utf-8") == fresh, "run: python -m cardiotune.evaluation.schema"


def section_of(metric: Metric) -> dict[str, Any]:
    """The metrics of the schema's section that has this one."""
    found: dict[str, dict[str, Any]] = {
        "": DEFS["model"],
        "thresholds": DEFS["threshold"],
        "subgroups": DEFS["subgroup"]["properties"]["models"]["additionalProperties"],
        "censoring": DEFS["censoring"]["properties"]["models"]["additionalProperties"],
    }
    return found[metric.only_in]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_words_a_direction_and_an_entry_in_the_schema(metric: Metric) -> None:
    assert metric.words and metric.brief and isinstance(metric.better, Better)
    assert wording.metric_words(metric.name) == (metric.words, metric.better)
    assert metric.description == " ".join((inspect.getdoc(metric.of) or "").split()).replace("NaN", "Null") != ""
    section = section_of(metric)
    assert metric.name in section["required"]
    assert section["properties"][metric.name]["description"]
    entry = section["properties"][metric.name]
    named_range = schema.RANGES.get(metric.range, "estimate")
    assert entry["$ref"] in (f"#/$defs/{named_range}", f"#/$defs/{metric.name}") and named_range in DEFS
    allowed = jsonschema.Draft202012Validator({"$defs": DEFS, **entry})
    for value in (-2.0, -0.5, 0.5, 2.0):
        low, high = (math.inf * sign if end is None else end for sign, end in zip((-1, 1), metric.range, strict=True))
        more = {"delong_ci": None} if metric.name == "auroc" else {}
        assert allowed.is_valid({"value": value, "ci": [value, value], **more}) == (low <= value <= high)


def test_a_name_is_one_metric() -> None:
    every = [name for metric in METRICS for name in (metric.name, *metric.also)]
    assert len(set(every)) == len(every)
    assert [named(name).name for metric in METRICS for name in metric.also] == ["precision", "recall"]
    assert named("ppv").words == "PPV" and named("precision").words == "PPV (precision)"
    with pytest.raises(KeyError):
        named("accurracy")


def test_what_tables_choose_are_metrics_of_that_section() -> None:
    for names in (RAW, DIFFERENCES, VERDICT, compare.COMPARED, compare.SUBTRACTED, learning_curve.PLOTTED):
        assert set(names) <= set(NAMES)
    assert {named(name).kind for name in THRESHOLDS} == {Kind.THRESHOLD} and sorted(AT_THRESHOLD) == sorted(THRESHOLDS)
    for name in SUBGROUPS:
        assert named(name).only_in in ("", "subgroups")
    for metric in METRICS:
        assert {"thresholds": THRESHOLDS, "subgroups": SUBGROUPS}.get(metric.only_in, (metric.name,)).count(metric.name)


def test_the_report_shows_every_metric_of_a_model_once() -> None:
    assert sorted(wording.SHOWN) == sorted(NAMES)
    assert wording.SHOWN[: len(wording.KEY_METRICS)] == wording.KEY_METRICS
    assert [metric.words for metric in METRICS if metric.explained] == [
        words for line in glossary() for words in line.split(", ")
    ]


ROWS = {
    "random": (np.arange(60) % 2.0, np.random.default_rng(0).random(60)),
    "parted": (np.arange(60) % 2.0, 0.1 + 0.8 * (np.arange(60) % 2)),
    "wrong": (np.arange(60) % 2.0, 0.9 - 0.8 * (np.arange(60) % 2)),
    "never flagged": (np.arange(60) % 2.0, np.linspace(0, 0.3, 60)),
    "always flagged": (np.arange(60) % 2.0, np.full(60, 0.9)),
    "events only": (np.ones(60), np.linspace(0, 1, 60)),
    "others only": (np.zeros(60), np.linspace(0, 1, 60)),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_value_lies_in_its_range(kind: str) -> None:
    y_true, risk = ROWS[kind]
    counts = np.random.default_rng(1).integers(0, 3, (20, 60)).astype(float)
    others = [metric.name for metric in METRICS if metric.only_in and metric.kind is Kind.THRESHOLD]
    found = all_metrics(y_true, risk, counts) | values(others, Judged(y_true, risk), counts)
    assert found.keys() == {metric.name for metric in METRICS if metric.kind is not Kind.TIME}
    for name, drawn in found.items():
        low, high = named(name).range
        known = drawn[np.isfinite(drawn)]
        assert drawn.shape == (20,)
        assert (known >= (-np.inf if low is None else low)).all() and (
            known <= (np.inf if high is None else high)
        ).all()


def test_the_metric_of_an_other_name_is_the_same() -> None:
    rows = Judged(*ROWS["random"])
    found = values(["recall", "sensitivity", "precision", "ppv", "fnr"], rows, None)
    assert found["recall"] == found["sensitivity"] == 1 - found["fnr"] and found["precision"] == found["ppv"]

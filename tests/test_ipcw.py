"""Weights of censoring in what judges and what is fitted: whole numbers as weights must do what
repeated rows do."""

import json
import logging
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from cardiotune.data.cohort import WEIGHT
from cardiotune.errors import DataError
from cardiotune.evaluation.censoring import at_horizon, c_index
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.survival import Followed, c_index_of
from cardiotune.models import calibrate, thresholds
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.predictions import prediction_rows, write_predictions
from cardiotune.models.text_baselines import embedding, stacked, tfidf
from cardiotune.report import curves
from cardiotune.report.compare import as_text, compare
from cardiotune.runs import RunFolder
from cardiotune.settings import Column, DataConfig, Threshold
from test_censoring import HORIZON, followed

SCHEMA = json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))
FIGURES = ("auroc", "auprc", "brier", "log_loss", "calibration_slope", "observed_expected", "ici", "precision", "f1")


def judged(people: dict[str, Any], risks: dict[str, np.ndarray], weighted: bool = True, **more: Any) -> dict[str, Any]:
    """`metrics.json` of people with censoring; the censored have no outcome, and a weight of 0."""
    found = at_horizon(people["time"], people["status"], HORIZON)
    known, ids = found.weight > 0, [f"r{row}" for row in range(len(found.weight))]
    outcomes = [int(y) if is_known else None for y, is_known in zip(found.y_true, known, strict=True)]
    rows = [
        row
        for name, risk in risks.items()
        for row in prediction_rows(
            name, ids, ["test"] * len(ids), outcomes, risk, risk, 0.1, found.weight.tolist() if weighted else None
        )
    ]
    times = {
        row_id: Followed(float(time), int(status))
        for row_id, time, status in zip(ids, people["time"], people["status"], strict=True)
    }
    settings: dict[str, Any] = {"followed": times, "horizon_days": HORIZON} if weighted else {}
    result = evaluate_predictions(rows, 60, 0, table=FromTable(**settings | more))
    jsonschema.validate(json.loads(json.dumps(result, allow_nan=False)), SCHEMA)
    return result


def test_every_figure_is_weighted_and_says_so() -> None:
    people = followed(1200, 1)
    risk = np.clip(people["risk"] * 1.2, 0, 1)
    result = judged(people, {"tuned": people["risk"], "logistic_regression": risk})
    part, found = result["parts"]["test"], at_horizon(people["time"], people["status"], HORIZON)
    known = found.weight > 0
    y, w = found.y_true[known], found.weight[known]
    assert result["weights"] == "ipcw" and part["n"] == known.sum() < 1200
    models = part["models"]
    assert models["tuned"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(y, people["risk"][known], sample_weight=w), abs=1e-9
    )
    assert models["logistic_regression"]["brier"]["value"] == pytest.approx(
        brier_score_loss(y, risk[known], sample_weight=w)
    )
    assert models["tuned"]["observed_expected"]["value"] == pytest.approx((w @ y) / (w @ people["risk"][known]))
    assert (
        models["tuned"]["auroc"]["delong_ci"] is None
        and part["differences"]["logistic_regression"]["auroc"]["delong_p"] is None
    )
    flagged = people["risk"][known] >= 0.1
    entry = part["thresholds"]["tuned"][0]
    assert entry["sensitivity"]["value"] == pytest.approx((w @ (flagged * y)) / (w @ y))
    benefit = (w @ (flagged * y) - w @ (flagged * (1 - y)) * 0.1 / 0.9) / w.sum()
    assert entry["net_benefit"]["value"] == pytest.approx(benefit)
    assert "IPCW" in part["verdict"]["text"]
    assert part["censoring"]["prevalence"] == pytest.approx(np.average(y, weights=w))
    plain = judged(people, {"tuned": people["risk"]}, weighted=False)
    assert "weights" not in plain and "censoring" not in plain["parts"]["test"]
    assert plain["parts"]["test"]["models"]["tuned"]["auroc"]["delong_ci"] is not None
    for name in FIGURES:
        assert models["tuned"][name]["value"] != pytest.approx(
            plain["parts"]["test"]["models"]["tuned"][name]["value"], rel=1e-6
        )


def test_weights_find_the_truth_that_counting_misses() -> None:
    """With a half censored, true risks look too low when the known are counted, and right when they
    are weighted."""
    people = followed(8_000, 2)
    (weighted, plain) = (
        judged(people, {"m": people["risk"]}, way)["parts"]["test"]["models"]["m"] for way in (True, False)
    )
    assert weighted["observed_expected"]["value"] == pytest.approx(1, abs=0.1)
    low, high = weighted["observed_expected"]["ci"]
    assert low < 1 < high
    assert plain["observed_expected"]["value"] > 1.2


def test_times_are_judged_with_the_censored() -> None:
    people = followed(1500, 3)
    found = judged(people, {"m": people["risk"], "flat": np.full(1500, 0.1)})["parts"]["test"]["censoring"]
    assert found["weights"]["n"] == 1500 > found["weights"]["n_known"]
    entry = found["models"]["m"]["c_index"]
    assert entry["value"] == pytest.approx(c_index(people["time"], people["status"], people["risk"], HORIZON))
    assert entry["ci"][0] < entry["value"] < entry["ci"][1]
    assert found["models"]["flat"]["c_index"]["value"] == 0.5
    groups = found["models"]["m"]["observed"]["groups"]
    assert sum(group["n"] for group in groups) == 1500 and len(groups) > 1
    late = {**people, "time": people["time"] * 4}
    late["status"] = np.where((late["time"] >= HORIZON) & (people["status"] == 0), 0, np.maximum(people["status"], 1))
    late["status"][:3], late["time"][:3] = 0, 10.0
    told = judged(late, {"m": people["risk"]})["parts"]["test"]["censoring"]
    assert told["weights"]["n"] is None and {group["n"] for group in told["models"]["m"]["observed"]["groups"]} == {
        None
    }
    few = followed(60, 3)
    reason = judged(few, {"m": few["risk"]})["parts"]["test"]["censoring"]["models"]["m"]["observed"]
    assert reason["groups"] is None and "needs 10 events" in reason["reason"]


def test_a_c_index_of_counted_rows_is_that_of_repeated_rows() -> None:
    people = followed(200, 4, days=300)
    counts = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), size=5).astype(float)
    found = c_index_of(people["time"], people["status"], people["risk"], HORIZON, counts)
    for replicate, value in zip(counts, found, strict=True):
        rows = np.repeat(np.arange(200), replicate.astype(int))
        expected = c_index(people["time"][rows], people["status"][rows], people["risk"][rows], HORIZON)
        assert value == pytest.approx(expected, abs=1e-6)


def test_without_the_survival_library_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("lifelines", "lifelines.utils"):
        monkeypatch.setitem(sys.modules, module, None)
    people = followed(1500, 5)
    with caplog.at_level(logging.WARNING, "cardiotune"):
        part = judged(people, {"m": people["risk"], "n": people["risk"]})["parts"]["test"]
    for name in ("c_index", "observed"):
        assert "pip install 'cardiotune[survival]'" in part["censoring"]["models"]["m"][name]["reason"]
    assert part["models"]["m"]["auroc"]["value"] is not None
    assert len([line for line in caplog.messages if "cardiotune[survival]" in line]) == 1


def test_a_known_outcome_without_a_weight_is_refused() -> None:
    rows = prediction_rows("m", ["a", "b"], ["test"] * 2, [0, 1], np.array([0.1, 0.2]), np.zeros(2), 0.5, [1.0, None])
    with pytest.raises(DataError, match="no weight above 0"):
        evaluate_predictions(rows, 10, 0)


# --------------------------------------------------------------------------------------------------
# what is fitted


def rows_and_weights(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits, weight = draw.normal(-1, 1.5, rows), draw.integers(1, 4, rows)
    events = (draw.random(rows) < 1 / (1 + np.exp(-logits * 0.6))).astype(int)
    return logits, events, weight, np.repeat(np.arange(rows), weight)


@pytest.mark.parametrize("method", ["temperature", "platt", "beta", "isotonic"])
def test_calibrators_are_fitted_with_weights(method: Any) -> None:
    logits, events, weight, again = rows_and_weights(6)
    at = np.linspace(-3, 2, 20)
    weighted = calibrate.apply(calibrate.fit(logits, events.astype(float), method, weight.astype(float)), at)
    repeated = calibrate.apply(calibrate.fit(logits[again], events[again].astype(float), method), at)
    # Steps of the isotonic one are kept off 0 and 1 by the number of rows, which differs.
    assert weighted == pytest.approx(repeated, abs=5e-3 if method == "isotonic" else 1e-5)
    assert not np.allclose(
        weighted, calibrate.apply(calibrate.fit(logits, events.astype(float), method), at), atol=1e-4
    )


@pytest.mark.parametrize("method", ["intercept", "logistic"])
def test_recalibration_is_fitted_with_weights(method: Any) -> None:
    logits, events, weight, again = rows_and_weights(7)
    weighted = calibrate.update(logits, events.astype(float), method, weight.astype(float))
    repeated = calibrate.update(logits[again], events[again].astype(float), method)
    assert weighted.intercept == pytest.approx(repeated.intercept, abs=1e-5)
    assert weighted.slope == pytest.approx(repeated.slope, abs=1e-5)


def test_thresholds_are_fixed_with_weights() -> None:
    rules = [Threshold(rule="youden"), Threshold(rule="sensitivity", at=0.8), Threshold(rule="net_benefit", at=0.2)]
    differ = 0
    for seed in range(10):
        logits, events, weight, again = rows_and_weights(seed, 60)
        weighted = thresholds.fix(rules, events.astype(float), logits, weight.astype(float))
        assert weighted == thresholds.fix(rules, events[again].astype(float), logits[again])
        differ += weighted != thresholds.fix(rules, events.astype(float), logits)
    assert differ


def test_text_comparators_are_fitted_with_weights() -> None:
    """A row of weight 0 teaches nothing: whatever its outcome says, risks stay the same."""
    logits, events, _, _ = rows_and_weights(8)
    weights = np.where(np.arange(300) % 4 == 0, 0.0, 4 / 3)
    parts = np.where(np.arange(300) % 3 == 0, "validation", "train")
    flipped = np.where(weights == 0, 1 - events, events)
    texts = [f"score {round(value)} sign {'high' if value > -1 else 'low'}" for value in logits]
    states = np.column_stack([logits, logits**2])
    data = DataConfig(path="x", columns={"y": Column(role="target", type="binary"), "score": Column()})
    frame = pl.DataFrame({"score": logits, WEIGHT: weights})
    for fit in (
        lambda outcomes, counts: tfidf(texts, outcomes, parts, counts),
        lambda outcomes, counts: embedding(states, outcomes, parts, counts),
    ):
        assert np.allclose(fit(events, weights), fit(flipped, weights))
        assert not np.allclose(fit(events, None), fit(flipped, None))
    train = parts == "train"  # folds are drawn by the outcome, so only training rows, of one fit, can be compared
    assert np.allclose(
        stacked(LabelledRows(frame, events, parts, data), logits)[train],
        stacked(LabelledRows(frame, flipped, parts, data), logits)[train],
    )
    bare = frame.drop(WEIGHT)
    assert not np.allclose(
        stacked(LabelledRows(bare, events, parts, data), logits)[train],
        stacked(LabelledRows(bare, flipped, parts, data), logits)[train],
    )


# --------------------------------------------------------------------------------------------------
# what is drawn and compared


def test_curves_are_weighted() -> None:
    logits, events, weight, again = rows_and_weights(9)
    risk, y, w = 1 / (1 + np.exp(-logits)), events.astype(float), weight.astype(float)
    for curve in (curves.roc, curves.precision_recall):
        assert np.allclose(curve(y, risk, w), curve(y[again], risk[again]))
        assert not np.allclose(curve(y, risk)[1].mean(), curve(y, risk, w)[1].mean(), rtol=1e-6)
    with_event, without = curves.risk_counts(y, risk, weight=w)
    expected = curves.risk_counts(y[again], risk[again])
    assert np.array_equal(with_event, expected[0]) and np.array_equal(without, expected[1])
    plain = curves.calibration_points(y, risk)
    assert np.allclose(plain, curves.calibration_points(y, risk, np.full(300, 2.0))), "weights that are all the same"
    mean, share, low, high = curves.calibration_points(y[:60], risk[:60], w[:60])
    assert len(share) >= 1 and not np.allclose(share, curves.calibration_points(y[:60], risk[:60])[1])
    assert mean.min() >= risk[:60].min() and (low <= share).all() and (share <= high).all()
    band = curves.roc_band(y, risk, curves.Resampling(weight=w))
    wide = np.isfinite(band[0])
    assert wide.mean() > 0.8 and (band[0] < band[1])[wide].all()
    assert not np.allclose(band, curves.roc_band(y, risk), equal_nan=True)


def weighted_run(folder: Path, weights: Sequence[float]) -> RunFolder:
    logits, events, _, _ = rows_and_weights(10)
    risk, ids = 1 / (1 + np.exp(-logits)), [f"r{row}" for row in range(300)]
    folder.mkdir()
    run = RunFolder(folder)
    write_predictions(run.predictions, prediction_rows("m", ids, ["test"] * 300, events, risk, risk, 0.5, weights))
    return run


def test_runs_are_compared_with_weights(tmp_path: Path) -> None:
    logits, events, weight, _ = rows_and_weights(10)
    runs = [weighted_run(tmp_path / name, weight.astype(float)) for name in ("one", "two")]
    found = compare(runs, replicates=20)
    assert found["weights"] == "ipcw" and "IPCW" in as_text(found)
    expected = roc_auc_score(events, logits, sample_weight=weight)
    assert found["entries"][0]["metrics"]["auroc"]["value"] == pytest.approx(expected)
    with pytest.raises(DataError, match="weigh the shared rows in different ways"):
        compare([runs[0], weighted_run(tmp_path / "three", np.ones(300))], replicates=20)

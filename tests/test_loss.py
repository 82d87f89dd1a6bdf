"""Class imbalance: what is drawn and weighted, the odds multiplier, and that a probability stays
one."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cardiotune import stages
from cardiotune.errors import DataError
from cardiotune.settings import Imbalance, Oversample
from cardiotune.training.loss import balance, corrected
from conftest import build_toy_table, toy_config

EVENTS = np.array([1] * 15 + [0] * 85)


def test_nothing_by_default() -> None:
    found = balance(EVENTS, Imbalance(), 0)
    assert found.weights == (1.0, 1.0)
    assert found.odds_multiplier == 1
    np.testing.assert_array_equal(found.rows, np.arange(100))


def test_the_published_combination_multiplies_the_odds_by_twelve() -> None:
    both = Imbalance(class_weights=(0.501, 1.525), oversample=Oversample(times=4))
    assert balance(EVENTS, both, 0).odds_multiplier == pytest.approx(12.2, abs=0.05)


def test_balanced_weights_give_both_outcomes_the_same_total() -> None:
    found = balance(EVENTS, Imbalance(class_weights="balanced"), 0)
    assert found.weights[0] * 85 == pytest.approx(found.weights[1] * 15)
    assert found.weights[0] * 85 + found.weights[1] * 15 == pytest.approx(100)
    assert found.odds_multiplier == pytest.approx(85 / 15)


@pytest.mark.parametrize(("label", "times"), [(1, 4.0), (0, 2.0), (1, 2.5)])
def test_oversampling_repeats_rows_of_one_outcome(label: int, times: float) -> None:
    found = balance(EVENTS, Imbalance(oversample=Oversample(label=label, times=times)), 0)
    counts = np.bincount(EVENTS[found.rows])
    before = np.bincount(EVENTS)
    assert counts[label] == round(before[label] * times)
    assert counts[1 - label] == before[1 - label]
    assert set(found.rows) == set(range(100))
    expected = (counts[1] / before[1]) / (counts[0] / before[0])
    assert found.odds_multiplier == pytest.approx(expected)


def test_oversampling_to_a_prevalence() -> None:
    found = balance(EVENTS, Imbalance(oversample=Oversample(to_prevalence=0.5)), 0)
    assert EVENTS[found.rows].mean() == 0.5
    with pytest.raises(DataError, match="already has a higher"):
        balance(EVENTS, Imbalance(oversample=Oversample(to_prevalence=0.1)), 0)


def test_the_correction_gives_the_true_risk_back() -> None:
    """A model that fits weighted, oversampled data perfectly has odds m times too high; corrected,
    it is calibrated."""
    draw = np.random.default_rng(0)
    risk = draw.beta(1, 6, 20_000)
    multiplier = 12.2
    learned = np.log(risk / (1 - risk)) + np.log(multiplier)
    back = 1 / (1 + np.exp(-corrected(learned, multiplier)))
    np.testing.assert_allclose(back, risk, atol=1e-12)


def test_trained_with_weights_and_oversampling_the_risks_are_right_on_the_whole(
    tmp_path: Path, toy_model: Path
) -> None:
    """A 15 % outcome, and the published combination: far off as learned, right after the
    correction."""
    table = build_toy_table(9000, seed=3)
    rare = (table["disease"].to_numpy() == 0) | (np.random.default_rng(0).random(9000) < 0.184)
    table.filter(pl.Series(rare)).write_csv(tmp_path / "table.csv")
    config = toy_config(
        toy_model,
        runs_dir=str(tmp_path / "runs"),
        data={"path": str(tmp_path / "table.csv")},
        split={"validation": 0.1, "test": 0.5},
        imbalance={"class_weights": [0.501, 1.525], "oversample": {"times": 4}},
        train={"epochs": 3, "batch_size": 32, "learning_rate": 0.01, "early_stopping": None},
        models=["logistic_regression", "tuned"],
    )
    run = stages.run(config)
    part = json.loads(run.metrics.read_text())["parts"]["test"]
    assert part["n_events"] / part["n"] == pytest.approx(0.15, abs=0.01)
    assert json.loads(run.manifest.read_text())["training"]["odds_multiplier"] == pytest.approx(12.2, abs=0.05)
    after, before = part["models"]["tuned"], part["raw"]["tuned"]
    assert after["auroc"]["value"] > 0.65
    assert abs(after["calibration_intercept"]["value"]) < 0.1
    assert before["calibration_intercept"]["value"] < -2
    assert after["log_loss"]["value"] < before["log_loss"]["value"]
    for report in (run.report, run.report.with_suffix(".md")):
        text = report.read_text()
        assert "as the model gives them" in text and f"{before['calibration_intercept']['value']:.3f}" in text
    assert set(part["raw"]) == {"tuned"}, "what nothing was done to is not shown twice"


def test_a_config_takes_the_documented_forms() -> None:
    for imbalance in (
        {"class_weights": "balanced"},
        {"class_weights": [0.5, 1.5]},
        {"oversample": {"label": 1, "times": 4}},
        {"oversample": {"to_prevalence": 0.5}},
    ):
        assert toy_config(Path(), imbalance=imbalance).imbalance

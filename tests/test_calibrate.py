"""Calibration: what each method can mend, that few rows hardly move it, and that JSON brings it
back."""

import json
from typing import Any

import numpy as np
import pytest

from cardiotune.errors import DataError, ModelError
from cardiotune.evaluation.metrics import auroc, calibration_intercept, calibration_slope, log_loss
from cardiotune.models import calibrate

METHODS = ("temperature", "platt", "isotonic", "beta")


def drawn(rows: int, seed: int, intercept: float = 0.0, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model whose true log-odds are intercept + slope x logit, and outcomes drawn from
    them."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, rows)
    return logits, (draw.random(rows) < 1 / (1 + np.exp(-(intercept + slope * logits)))).astype(float)


@pytest.mark.parametrize("method", METHODS)
def test_too_extreme_risks_are_mended(method: Any) -> None:
    logits, y_true = drawn(4000, 0, slope=0.4)
    new, truth = drawn(20_000, 1, slope=0.4)
    risks = calibrate.apply(calibrate.fit(logits, y_true, method), new)
    before = 1 / (1 + np.exp(-new))
    assert calibration_slope(truth, before).item() == pytest.approx(0.4, abs=0.03)
    assert 0.85 < calibration_slope(truth, risks).item() < 1.15
    assert log_loss(truth, risks) < log_loss(truth, before)
    assert auroc(truth, risks) == pytest.approx(float(auroc(truth, before)), abs=0.01)


@pytest.mark.parametrize("method", ["platt", "isotonic", "beta"])
def test_shifted_risks_are_mended(method: Any) -> None:
    logits, y_true = drawn(4000, 2, intercept=-1.5)
    new, truth = drawn(20_000, 3, intercept=-1.5)
    risks = calibrate.apply(calibrate.fit(logits, y_true, method), new)
    assert abs(calibration_intercept(truth, risks).item()) < 0.12
    assert calibration_intercept(truth, 1 / (1 + np.exp(-new))).item() < -1.3


def test_beta_mends_what_a_line_cannot() -> None:
    """Risks that are right below one half and too extreme above it."""
    draw = np.random.default_rng(4)
    logits = draw.normal(0, 2, 20_000)
    y_true = (draw.random(20_000) < 1 / (1 + np.exp(-np.where(logits > 0, 0.3 * logits, logits)))).astype(float)
    losses = {
        method: float(log_loss(y_true, calibrate.apply(calibrate.fit(logits, y_true, method), logits)))
        for method in ("platt", "beta")
    }
    assert losses["beta"] < losses["platt"] - 0.002


def test_without_a_prior_platt_is_plain_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    logits, y_true = drawn(600, 5, intercept=0.5, slope=0.7)
    found = calibrate.update(logits, y_true, "logistic")
    stock = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], y_true)
    assert found.slope == pytest.approx(stock.coef_[0, 0], abs=1e-4)
    assert found.intercept == pytest.approx(stock.intercept_[0], abs=1e-4)


def test_few_rows_stay_near_what_the_model_said() -> None:
    """Over many draws of 40 rows, the prior halves the spread of the slope and costs little with
    4,000."""
    spread: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(60):
        logits, y_true = drawn(40, seed)
        spread[True].append(calibrate.fit(logits, y_true, "platt").slope)
        spread[False].append(calibrate.update(logits, y_true, "logistic").slope)
    assert np.std(spread[True]) < 0.6 * np.std(spread[False])
    logits, y_true = drawn(4000, 99, slope=0.5)
    assert calibrate.fit(logits, y_true, "platt").slope == pytest.approx(
        calibrate.update(logits, y_true, "logistic").slope, abs=0.01
    )


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_json_brings_it_back_and_order_is_kept(method: Any) -> None:
    logits, y_true = drawn(300, 6, slope=0.6)
    calibrator = calibrate.fit(logits, y_true, method)
    new = np.linspace(-40, 40, 2001)
    risks = calibrate.apply(calibrate.from_json(json.loads(json.dumps(calibrator.as_json()))), new)
    np.testing.assert_array_equal(risks, calibrate.apply(calibrator, new))
    assert (np.diff(risks) >= 0).all() and risks.min() >= 0 and risks.max() <= 1


def test_a_model_that_ranks_backwards_is_not_turned_round() -> None:
    logits, y_true = drawn(500, 7, slope=-1)
    for method in ("temperature", "platt", "beta"):
        assert np.ptp(calibrate.apply(calibrate.fit(logits, y_true, method), logits)) < 0.2  # type: ignore[arg-type]


def test_risks_that_part_the_outcomes_completely_stay_finite() -> None:
    logits = np.r_[np.full(20, -2.0), np.full(20, 2.0)]
    y_true = (logits > 0).astype(float)
    for method in METHODS:
        risks = calibrate.apply(calibrate.fit(logits, y_true, method), logits)  # type: ignore[arg-type]
        assert risks.min() > 0 and risks.max() < 1


@pytest.mark.parametrize("events", [0, 4, 37, 40])
def test_too_few_of_an_outcome(events: int) -> None:
    y_true = np.r_[np.ones(events), np.zeros(40 - events)]
    with pytest.raises(DataError, match="5 events and 5 non-events"):
        calibrate.fit(np.linspace(-1, 1, 40), y_true, "platt")
    assert calibrate.fit(np.linspace(-1, 1, 40), y_true, "none") == calibrate.Calibrator()
    with pytest.raises(DataError, match="recalibration needs"):
        calibrate.update(np.linspace(-1, 1, 40), y_true, "intercept")


def test_an_intercept_update_puts_the_mean_right_and_keeps_the_slope() -> None:
    logits, y_true = drawn(2000, 8, intercept=1.0)
    found = calibrate.update(logits, y_true, "intercept")
    assert found.slope == 1
    assert calibrate.apply(found, logits).mean() == pytest.approx(y_true.mean(), abs=1e-4)


@pytest.mark.parametrize("broken", [{}, {"method": "magic"}, {"method": "platt"}, {"method": "beta", "intercept": 1.0}])
def test_a_strange_calibrator_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="not a calibrator"):
        calibrate.from_json(broken)

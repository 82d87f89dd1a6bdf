"""Means over tables, against a worked example and by their own meaning."""

import numpy as np
import pytest
from scipy.stats import norm, t

from cardiotune.evaluation.judgement import Estimate
from cardiotune.evaluation.random_effects import SCALES, Mean, across


def around(value: float, error: float) -> Estimate:
    return Estimate(value, (value - norm.ppf(0.975) * error, value + norm.ppf(0.975) * error))


def test_slopes_by_hand() -> None:
    """Paule and Mandel's variance solves sum(w (y - mean)^2) = k - 1; the rest is arithmetic."""
    values, errors = np.array([0.6, 1.0, 1.5, 1.1]), np.array([0.1, 0.15, 0.2, 0.1])
    found = across("calibration_slope", [around(v, e) for v, e in zip(values, errors, strict=True)])
    low, high = 0.0, 5.0
    for _ in range(200):
        middle = (low + high) / 2
        w = 1 / (errors**2 + middle)
        spread = (w * (values - (w * values).sum() / w.sum()) ** 2).sum()
        low, high = (middle, high) if spread > 3 else (low, middle)
    w = 1 / (errors**2 + low)
    mean = (w * values).sum() / w.sum()
    error = np.sqrt(max((w * (values - mean) ** 2).sum() / 3, 1) / w.sum())
    assert found.value == pytest.approx(mean, abs=1e-4)
    assert found.ci == pytest.approx((mean - t.ppf(0.975, 3) * error, mean + t.ppf(0.975, 3) * error), abs=1e-3)
    far = t.ppf(0.975, 2) * np.sqrt(low + error**2)
    assert found.prediction == pytest.approx((mean - far, mean + far), abs=1e-3)
    assert found.tables == 4


def test_auroc_stays_a_share_and_ratios_above_zero() -> None:
    far_apart = [Estimate(v, (v - 0.02, v + 0.02)) for v in (0.97, 0.6, 0.9)]
    found = across("auroc", far_apart)
    assert found.prediction and 0 < found.prediction[0] < found.prediction[1] < 1
    ratio = across(
        "observed_expected", [Estimate(2.0, (1.0, 4.0)), Estimate(0.5, (0.25, 1.0)), Estimate(1.0, (0.5, 2.0))]
    )
    assert ratio.value == pytest.approx(1.0), "twice and half are equally far"
    assert ratio.prediction and ratio.prediction[0] > 0


def test_equal_tables_differ_by_their_own_errors_alone() -> None:
    found = across("calibration_slope", [around(1.0, 0.1)] * 5)
    assert found.value == pytest.approx(1)
    assert found.ci == pytest.approx((1 - t.ppf(0.975, 4) * 0.1 / np.sqrt(5), 1 + t.ppf(0.975, 4) * 0.1 / np.sqrt(5)))


def test_what_has_no_interval_is_passed_over() -> None:
    none, whole = Estimate(None, None), Estimate(1.0, (0.9, 1.0))
    assert across("auroc", [none, whole, Estimate(0.8, (0.7, 0.9))]) == Mean(None, None, None, 1)
    pair = across("auroc", [Estimate(0.8, (0.7, 0.9)), none, Estimate(0.7, (0.6, 0.8))])
    assert pair.tables == 2 and pair.ci and pair.prediction is None
    assert Mean.from_json(pair.as_json()) == pair
    assert set(SCALES) == {"auroc", "observed_expected"}

"""Means over tables and sites, against R's metafor and by their own meaning."""

import math
import shutil
import subprocess

import numpy as np
import pytest
from scipy.stats import norm, t

from cardiotune.evaluation.judgement import Estimate
from cardiotune.evaluation.random_effects import SCALES, Mean, across


def around(value: float, error: float) -> Estimate:
    return Estimate(value, (value - norm.ppf(0.975) * error, value + norm.ppf(0.975) * error))


BCG = (
    (-0.8893113339, 0.3255847650), (-1.5853886572, 0.1945811214), (-1.3480731483, 0.4153679654),
    (-1.4415511900, 0.0200100319), (-0.2175473222, 0.0512101722), (-0.7861155858, 0.0069056185),
    (-1.6208982236, 0.2230172476), (0.0119523335, 0.0039615793), (-0.4694176487, 0.0564342105),
    (-1.3713448035, 0.0730247936), (-0.3393588283, 0.0124122140), (0.4459134006, 0.5325058452),
    (-0.0173139482, 0.0714046597),
)  # fmt: skip
"""Logarithms of 13 risk ratios of tuberculosis after vaccination, and their variances (Colditz et
al., JAMA 1994;271:698): `dat.bcg` of metafor."""
METAFOR = (
    ("auroc", [(0.81, 0.76, 0.85), (0.74, 0.66, 0.81), (0.9, 0.85, 0.94), (0.69, 0.6, 0.77), (0.78, 0.73, 0.82)],
     (0.791793, 0.668723, 0.877516, 0.482901, 0.939344, 0.864380)),
    ("observed_expected", [(3.9, 3.0, 5.0), (3.1, 2.2, 4.2), (0.6, 0.45, 0.78), (1.02, 0.9, 1.15)],
     (1.644082, 0.397620, 6.797953, 0.070853, 38.149308, 0.982845)),
    ("calibration_slope", [(0.6, 0.4, 0.8), (1.0, 0.7, 1.3), (1.5, 1.1, 1.9), (1.1, 0.9, 1.3)],
     (1.025985, 0.447978, 1.603993, -0.171049, 2.223020, 0.865679)),
)  # fmt: skip
"""Metric, estimates with their intervals, and what metafor 3.8.1 says by
`rma(method = "REML", test = "knha")` and `predict`, on the metric's scale and back: mean, its
interval, prediction interval, I^2."""


def by_r(values: list[float], errors: list[float]) -> list[float]:
    """The same of metafor itself; values and standard errors on the metric's scale."""
    script = (
        "suppressMessages(library(metafor)); a <- as.numeric(commandArgs(TRUE)); k <- length(a) / 2;"
        'r <- rma(a[1:k], sei=a[-(1:k)], method="REML", test="knha", control=list(threshold=1e-12, maxiter=1000));'
        'p <- predict(r); cat(sprintf("%.9f", c(r$beta, r$ci.lb, r$ci.ub, p$pi.lb, p$pi.ub, r$I2 / 100)))'
    )
    given = [f"{number:.12f}" for number in (*values, *errors)]
    said = subprocess.run(["Rscript", "-e", script, *given], capture_output=True, text=True, check=True)
    return [float(number) for number in said.stdout.split()]


def told(found: Mean) -> list[float]:
    assert found.value is not None and found.ci and found.prediction and found.i2 is not None
    return [found.value, *found.ci, *found.prediction, found.i2]


def test_the_vaccine_trials_as_metafor_has_them() -> None:
    """tau^2 .3132, I^2 92.22 %: https://www.metafor-project.org and Viechtbauer, J Stat Softw
    2010;36(3), there without Knapp and Hartung."""
    found = across("calibration_slope", [around(value, math.sqrt(variance)) for value, variance in BCG])
    assert told(found) == pytest.approx(
        [-0.7145323, -1.1084437, -0.3206210, -1.9960168, 0.5669521, 0.922213845], abs=1e-6
    )


@pytest.mark.parametrize(("metric", "given", "said"), METAFOR, ids=[name for name, _, _ in METAFOR])
def test_sites_as_metafor_has_them(metric: str, given: list[tuple[float, ...]], said: tuple[float, ...]) -> None:
    found = across(metric, [Estimate(value, (low, high)) for value, low, high in given])
    assert told(found) == pytest.approx(said, abs=2e-6, rel=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs R: apt-get install r-cran-metafor")
def test_random_sites_as_metafor_has_them() -> None:
    draw = np.random.default_rng(0)
    for number in (3, 5, 12):
        errors = draw.uniform(0.05, 0.3, number)
        values = draw.normal(1, 0.5, number) + draw.normal(0, errors)
        found = across("calibration_slope", [around(v, e) for v, e in zip(values, errors, strict=True)])
        assert found.i2, "else the intervals differ on purpose"
        assert told(found) == pytest.approx(by_r(values.tolist(), errors.tolist()), abs=1e-5)


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
    """Knapp and Hartung's interval would have no width."""
    found = across("calibration_slope", [around(1.0, 0.1)] * 5)
    assert found.value == pytest.approx(1)
    assert found.ci == pytest.approx((1 - t.ppf(0.975, 4) * 0.1 / np.sqrt(5), 1 + t.ppf(0.975, 4) * 0.1 / np.sqrt(5)))
    assert found.i2 == 0


def test_what_has_no_interval_is_passed_over() -> None:
    none, whole = Estimate(None, None), Estimate(1.0, (0.9, 1.0))
    assert across("auroc", [none, whole, Estimate(0.8, (0.7, 0.9))]) == Mean(None, None, None, 1)
    pair = across("auroc", [Estimate(0.8, (0.7, 0.9)), none, Estimate(0.7, (0.6, 0.8))])
    assert pair.tables == 2 and pair.ci and pair.prediction is None
    assert Mean.from_json(pair.as_json()) == pair
    assert set(SCALES) == {"auroc", "observed_expected"}

"""Metrics under censoring: against simulations whose truth is known, a slow second implementation
and the library."""

import sys
from typing import Any

import lifelines
import numpy as np
import pytest

from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.censoring import (
    at_horizon,
    c_index,
    censoring_survival,
    describe_weights,
    judge_censored,
    observed_by_risk,
)
from cardiotune.evaluation.judgement import Estimate, WeightsTold

HORIZON = 3650.0


def followed(rows: int, seed: int, days: float = 1.0, competing: float = 0.0) -> dict[str, Any]:
    """People with exponential times to the event, some censored; `truth` is the outcome that no
    censoring hides.

    `days` is the grid that times lie on (0: none); `competing` the yearly rate of other deaths.
    """
    draw = np.random.default_rng(seed)
    signal = draw.normal(size=rows)
    rate = 0.012 * np.exp(signal)  # a year
    event = draw.exponential(365 / rate)
    other = draw.exponential(365 / competing, rows) if competing else np.full(rows, np.inf)
    censored = draw.exponential(365 * 14, rows)
    time = np.minimum(np.minimum(event, other), censored)
    status = np.where(event == time, 1, np.where(other == time, 2, 0))
    grid = np.maximum(np.ceil(time / days) * days, days) if days else time
    total = rate + competing
    risk = rate / total * -np.expm1(-10 * total)
    truth = ((event <= HORIZON) & (event < other)).astype(float)
    return {"time": grid, "status": status, "risk": risk, "truth": truth}


# --------------------------------------------------------------------------------------------------
# weights


def slow_uncensored(time: np.ndarray, status: np.ndarray, at: float) -> float:
    """G(at-), day by day: who has the event on a day leaves before anybody is censored on it."""
    share = 1.0
    for day in sorted(set(time[(status == 0) & (time < at)])):
        there = sum(t > day or (t == day and s == 0) for t, s in zip(time, status, strict=True))
        share *= 1 - sum(t == day and s == 0 for t, s in zip(time, status, strict=True)) / there
    return share


def slow_weights(time: np.ndarray, status: np.ndarray, horizon: float) -> tuple[list[int], list[float]]:
    happened, weights = [], []
    for t, s in zip(time, status, strict=True):
        happened.append(int(s == 1 and t <= horizon))
        known = t >= horizon or s != 0
        weights.append(1 / slow_uncensored_at(time, status, min(t, horizon), horizon) if known else 0.0)
    return happened, weights


def slow_uncensored_at(time: np.ndarray, status: np.ndarray, at: float, horizon: float) -> float:
    return slow_uncensored(np.minimum(time, horizon), np.where(time > horizon, 0, status), at)


@pytest.mark.parametrize("days", [1.0, 400.0])
@pytest.mark.parametrize("competing", [0.0, 0.02])
def test_weights_by_a_slow_second_implementation(days: float, competing: float) -> None:
    people = followed(120, 1, days, competing)
    found = at_horizon(people["time"], people["status"], HORIZON)
    happened, weights = slow_weights(people["time"], people["status"], HORIZON)
    assert found.y_true.tolist() == happened
    assert found.weight == pytest.approx(weights)
    assert found.weight.sum() == pytest.approx(120)


def test_by_hand() -> None:
    """On day 2 one of nine is censored; on day 4 one of six, the event of that day having left
    before."""
    time = np.array([1, 2, 3, 4, 4, 9, 9, 9, 9, 9.0])
    status = np.array([1, 0, 2, 1, 0, 1, 1, 0, 0, 0])
    found = at_horizon(time, status, 8)
    assert found.y_true.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    after_2 = 8 / 9
    after_4 = after_2 * 5 / 6
    expected = [1, 0, 1 / after_2, 1 / after_2, 0, *[1 / after_4] * 5]
    assert found.weight == pytest.approx(expected)


def test_censoring_curve_of_the_library() -> None:
    """Without ties, Kaplan-Meier of lifelines with event and censoring changed over."""
    people = followed(400, 2, days=0)
    fitted = lifelines.KaplanMeierFitter().fit(people["time"], people["status"] == 0)
    just_before = [fitted.predict(t - 1e-6) for t in people["time"]]
    assert censoring_survival(people["time"], people["status"]) == pytest.approx(just_before)


def test_weights_of_a_bootstrap_are_those_of_the_drawn_rows() -> None:
    people = followed(150, 3, days=200)
    counts = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), size=3).astype(float)
    found = at_horizon(people["time"], people["status"], HORIZON, counts=counts)
    for replicate, weight in zip(counts, found.weight, strict=True):
        rows = np.repeat(np.arange(150), replicate.astype(int))
        drawn = at_horizon(people["time"][rows], people["status"][rows], HORIZON)
        assert np.bincount(rows, drawn.weight, 150) == pytest.approx(weight)


def test_strata_are_weighted_apart() -> None:
    early, late = followed(300, 4), followed(300, 5)
    early["time"], early["status"] = np.minimum(early["time"], 3700), np.where(early["time"] > 3700, 0, early["status"])
    time, status = np.r_[early["time"], late["time"]], np.r_[early["status"], late["status"]]
    found = at_horizon(time, status, HORIZON, strata=["Scotland"] * 300 + ["England"] * 300)
    assert found.weight[:300] == pytest.approx(at_horizon(early["time"], early["status"], HORIZON).weight)
    assert found.weight[300:] == pytest.approx(at_horizon(late["time"], late["status"], HORIZON).weight)


def test_records_that_end_before_the_horizon_are_refused() -> None:
    """Wales: nobody is followed for ten years, so its ten-year outcome is not in the data."""
    people = followed(200, 6)
    short = np.minimum(people["time"][:100], 2900.0)
    status = np.where(people["time"][:100] > 2900, 0, people["status"][:100])
    time, status = np.r_[short, people["time"][100:]], np.r_[status, people["status"][100:]]
    with pytest.raises(DataError, match="nobody of stratum 2 of 2 was followed for 3650 days"):
        at_horizon(time, status, HORIZON, strata=["Wales"] * 100 + ["England"] * 100)
    assert at_horizon(time, status, HORIZON).weight.sum() == pytest.approx(200), "without strata others stand for them"


@pytest.mark.parametrize(
    ("time", "status", "said"),
    [
        ([0.0, 5, 9], [1, 0, 0], "1 rows have no time above 0"),
        ([1.0, 5, 9], [1, 0, 7], "1 rows have a status other than"),
    ],
)
def test_bad_follow_up_is_refused(time: list[float], status: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        at_horizon(np.array(time), np.array(status), 8)


def test_without_censoring_every_row_weighs_1() -> None:
    time, status = np.array([10.0, 20, 4000, 4000]), np.array([1, 2, 0, 1])
    found = at_horizon(time, status, HORIZON)
    assert found.weight.tolist() == [1, 1, 1, 1] and found.y_true.tolist() == [1, 0, 0, 0]
    assert describe_weights(found.weight, 4) == WeightsTold(n=4, n_known=4, largest_weight=1.0, effective_n=4.0)


# --------------------------------------------------------------------------------------------------
# metrics


def slow_auroc(y_true: np.ndarray, risk: np.ndarray, weight: np.ndarray) -> float:
    wins = total = 0.0
    for i in np.flatnonzero(y_true == 1):
        for j in np.flatnonzero(y_true == 0):
            pair = weight[i] * weight[j]
            total += pair
            wins += pair * ((risk[i] > risk[j]) + (risk[i] == risk[j]) / 2)
    return wins / total


def test_weighted_auroc_and_brier_by_their_formulas() -> None:
    people = followed(200, 7, days=30)
    risk = people["risk"].round(2)
    found = at_horizon(people["time"], people["status"], HORIZON)
    assert metrics.auroc(found.y_true, risk, found.weight) == pytest.approx(
        slow_auroc(found.y_true, risk, found.weight)
    )
    graf = np.mean(found.weight * (found.y_true - risk) ** 2)
    assert metrics.brier(found.y_true, risk, found.weight) == pytest.approx(graf)


@pytest.mark.parametrize("competing", [0.0, 0.03])
def test_weighted_metrics_are_those_of_the_uncensored(competing: float) -> None:
    """40,000 people, half of them censored. Leaving the censored out finds far too many events."""
    people = followed(40_000, 8, competing=competing)
    found = at_horizon(people["time"], people["status"], HORIZON)
    known = found.weight > 0
    assert 0.4 < known.mean() < 0.7
    for name, tolerance in {
        "auroc": 0.01,
        "brier": 0.002,
        "observed_expected": 0.03,
        "calibration_intercept": 0.04,
        "calibration_slope": 0.05,
    }.items():
        metric = getattr(metrics, name)
        truth = np.squeeze(metric(people["truth"], people["risk"]))
        assert np.squeeze(metric(found.y_true, people["risk"], found.weight)) == pytest.approx(truth, abs=tolerance), (
            name
        )
    left_out = metrics.observed_expected(found.y_true[known], people["risk"][known])
    assert left_out > 1.15
    truth = metrics.net_benefit(people["truth"], people["risk"], threshold=0.1)
    weighted = metrics.net_benefit(found.y_true, people["risk"], found.weight, threshold=0.1)
    naive = metrics.net_benefit(found.y_true[known], people["risk"][known], threshold=0.1)
    assert abs(weighted - truth) < 0.004 < abs(naive - truth)


def test_judged_with_intervals() -> None:
    people = followed(1500, 9)
    found = judge_censored(
        people["time"], people["status"], people["risk"], HORIZON, thresholds=[0.1], replicates=200, seed=1
    )
    assert found.keys() == {
        "auroc",
        "brier",
        "scaled_brier",
        "calibration_intercept",
        "calibration_slope",
        "observed_expected",
        "ici",
        "net_benefit at 0.1",
    }
    for name, entry in found.items():
        low, high = entry.ci or ()
        assert low < entry.value < high or name == "ici", name
    for name, best in {"observed_expected": 1, "calibration_slope": 1, "calibration_intercept": 0}.items():
        low, high = found[name].ci or ()
        assert low < best < high, "these risks are the true ones"
    weights = at_horizon(people["time"], people["status"], HORIZON)
    assert found["auroc"].value == pytest.approx(float(metrics.auroc(weights.y_true, people["risk"], weights.weight)))
    again = judge_censored(people["time"], people["status"], people["risk"], HORIZON, replicates=200, seed=1)
    assert again["auroc"] == found["auroc"]


def test_a_constant_risk_has_no_slope_and_says_why() -> None:
    people = followed(300, 10)
    found = judge_censored(people["time"], people["status"], np.full(300, 0.1), HORIZON, replicates=100)
    assert found["calibration_slope"] == Estimate(None, None, "the model gives every row the same risk")


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """95 % intervals of the AUROC and O:E in 200 simulations of 600; Monte Carlo error 1.5
    points."""
    large = followed(400_000, 11, days=0)
    truth = {"auroc": float(metrics.auroc(large["truth"], large["risk"])), "observed_expected": 1.0}
    hits = dict.fromkeys(truth, 0)
    for seed in range(200):
        people = followed(600, 100 + seed)
        found = judge_censored(people["time"], people["status"], people["risk"], HORIZON, replicates=200, seed=seed)
        for name, value in truth.items():
            low, high = found[name].ci or ()
            hits[name] += low <= value <= high
    assert all(0.90 <= count / 200 <= 0.99 for count in hits.values()), hits


# --------------------------------------------------------------------------------------------------
# the survival library


def slow_c_index(time: np.ndarray, status: np.ndarray, risk: np.ndarray, horizon: float) -> float:
    concordant = pairs = 0.0
    for i in np.flatnonzero((status == 1) & (time <= horizon)):
        later = (time > time[i]) | ((time == time[i]) & (status != 1))
        pairs += later.sum()
        concordant += (risk[i] > risk[later]).sum() + (risk[i] == risk[later]).sum() / 2
    return concordant / pairs


def test_c_index_by_all_pairs() -> None:
    people = followed(300, 12, days=0)
    found = c_index(people["time"], people["status"], people["risk"], HORIZON)
    assert found == pytest.approx(slow_c_index(people["time"], people["status"], people["risk"], HORIZON))
    assert 0.6 < found < 0.85
    assert np.isnan(c_index(np.array([1.0, 2]), np.array([0, 0]), np.array([0.1, 0.2]), HORIZON))


def slow_kaplan_meier(time: np.ndarray, happened: np.ndarray, horizon: float) -> float:
    alive = 1.0
    for day in sorted(set(time[happened & (time <= horizon)])):
        alive *= 1 - (happened & (time == day)).sum() / (time >= day).sum()
    return 1 - alive


def test_observed_risk_is_kaplan_meier_and_follows_true_risks() -> None:
    people = followed(12_000, 13)
    found = observed_by_risk(people["time"], people["status"], people["risk"], HORIZON)
    assert len(found) == 10 and sum(group.n for group in found) == 12_000
    edges = np.quantile(people["risk"], [0.9])
    rows = people["risk"] >= edges[0]
    expected = slow_kaplan_meier(people["time"][rows], people["status"][rows] == 1, HORIZON)
    assert found[-1].observed == pytest.approx(expected)
    risks = [group.risk for group in found]
    assert risks == sorted(risks)
    inside = sum(group.ci[0] <= group.risk <= group.ci[1] for group in found)
    assert inside >= 8, "true risks lie in the intervals"


def test_other_deaths_lower_the_observed_risk() -> None:
    """With a tenth dying of something else each year Kaplan-Meier says too much; the cumulative
    incidence does not."""
    people = followed(20_000, 14, days=0, competing=0.1)
    (group,) = observed_by_risk(people["time"], people["status"], people["risk"], HORIZON, groups=1)
    assert group.observed == pytest.approx(people["truth"].mean(), abs=0.006)
    as_if_censored = slow_kaplan_meier(people["time"].round(-2), people["status"] == 1, HORIZON)
    assert as_if_censored > group.observed + 0.02
    assert group.ci[0] < people["truth"].mean() < group.ci[1]


def test_no_group_has_a_small_count() -> None:
    people = followed(400, 15)
    found = observed_by_risk(people["time"], people["status"], people["risk"], HORIZON)
    assert 1 < len(found) < 10
    assert all(10 <= group.n_events <= group.n - 10 for group in found)
    with pytest.raises(DataError, match="needs 10 events and 10 others, found 0 events"):
        observed_by_risk(np.full(50, 9.0), np.zeros(50, int), np.linspace(0, 1, 50), HORIZON)


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lifelines.utils", None)
    with pytest.raises(ConfigError, match=r"pip install 'cardiotune\[survival\]'"):
        c_index(np.array([1.0, 2]), np.array([1, 0]), np.array([0.1, 0.2]), HORIZON)

import math
import time
import warnings
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics
from statsmodels.stats.proportion import proportion_confint
from statsmodels.tools.sm_exceptions import DomainWarning

from cardiotune.evaluation import intervals, metrics
from cardiotune.evaluation.catalogue import NAMES, Kind, all_metrics, of_kind
from cardiotune.evaluation.intervals import (
    bootstrap_counts,
    delong_interval,
    delong_test,
    percentile_interval,
    wilson,
)
from cardiotune.evaluation.metrics import Array, calibration_errors, decision_curve, net_benefit
from cardiotune.models import logistic
from cardiotune.models.logistic import EPSILON
from oracles.ask import ask, golden

THRESHOLD = 0.4
CURVE = of_kind(Kind.CURVE)


# --------------------------------------------------------------------------------------------------
# a slow second implementation, one row (or one pair of rows) at a time


def divide(above: float, below: float) -> float:
    return above / below if below else math.nan


def slow_auroc(y: list[float], p: list[float]) -> float:
    wins = pairs = 0.0
    for yi, pi in zip(y, p, strict=True):
        for yj, pj in zip(y, p, strict=True):
            if yi == 1 and yj == 0:
                pairs += 1
                wins += 1 if pi > pj else 0.5 if pi == pj else 0
    return divide(wins, pairs)


def slow_auprc(y: list[float], p: list[float]) -> float:
    """Sum over the thresholds of precision x step in recall."""
    area = recall = 0.0
    if sum(y) == 0:
        return math.nan
    for cut in sorted(set(p), reverse=True):
        flagged = [yi for yi, pi in zip(y, p, strict=True) if pi >= cut]
        area += sum(flagged) / len(flagged) * (sum(flagged) / sum(y) - recall)
        recall = sum(flagged) / sum(y)
    return area


def slow_brier(y: list[float], p: list[float]) -> float:
    return sum((pi - yi) ** 2 for yi, pi in zip(y, p, strict=True)) / len(y)


def slow_log_loss(y: list[float], p: list[float]) -> float:
    kept = [min(max(pi, EPSILON), 1 - EPSILON) for pi in p]
    return -sum(math.log(pi) if yi == 1 else math.log1p(-pi) for yi, pi in zip(y, kept, strict=True)) / len(y)


def slow_log_odds(p: list[float]) -> list[float]:
    kept = [min(max(pi, EPSILON), 1 - EPSILON) for pi in p]
    return [math.log(pi) - math.log1p(-pi) for pi in kept]


def slow_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def slow_intercept(y: list[float], p: list[float], slope: float = 1.0) -> float:
    """Bisection: the sum of the risks rises with the intercept until it is the number of events."""
    if sum(y) in (0, len(y)):
        return math.nan
    log_odds = [slope * x for x in slow_log_odds(p)]
    low, high = -max(log_odds) - 40, -min(log_odds) + 40
    for _ in range(80):
        middle = (low + high) / 2
        if sum(slow_sigmoid(middle + x) for x in log_odds) < sum(y):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def slow_slope(y: list[float], p: list[float]) -> float:
    """Bisection on the slope's equation, the intercept solved for each slope."""
    events = [pi for yi, pi in zip(y, p, strict=True) if yi == 1]
    others = [pi for yi, pi in zip(y, p, strict=True) if yi == 0]
    if not events or not others or min(events) >= max(others) or max(events) <= min(others):
        return math.nan
    log_odds = slow_log_odds(p)
    low, high = -200.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        intercept = slow_intercept(y, p, middle)
        score = sum(x * (yi - slow_sigmoid(intercept + middle * x)) for yi, x in zip(y, log_odds, strict=True))
        if score > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def slow_cells(y: list[float], p: list[float]) -> tuple[int, int, int, int]:
    tp = fp = fn = tn = 0
    for yi, pi in zip(y, p, strict=True):
        if pi >= THRESHOLD:
            tp, fp = tp + (yi == 1), fp + (yi == 0)
        else:
            fn, tn = fn + (yi == 1), tn + (yi == 0)
    return tp, fp, fn, tn


def slow_accuracy(y: list[float], p: list[float]) -> float:
    tp, _, _, tn = slow_cells(y, p)
    return (tp + tn) / len(y)


def slow_precision(y: list[float], p: list[float]) -> float:
    tp, fp, _, _ = slow_cells(y, p)
    return divide(tp, tp + fp)


def slow_recall(y: list[float], p: list[float]) -> float:
    tp, _, fn, _ = slow_cells(y, p)
    return divide(tp, tp + fn)


def slow_specificity(y: list[float], p: list[float]) -> float:
    _, fp, _, tn = slow_cells(y, p)
    return divide(tn, tn + fp)


def slow_f1(y: list[float], p: list[float]) -> float:
    tp, fp, fn, _ = slow_cells(y, p)
    return divide(2 * tp, 2 * tp + fp + fn)


def slow_f1_weighted(y: list[float], p: list[float]) -> float:
    tp, fp, fn, tn = slow_cells(y, p)
    event = 2 * tp / (2 * tp + fp + fn) if tp else 0
    other = 2 * tn / (2 * tn + fp + fn) if tn else 0
    return (sum(y) * event + (len(y) - sum(y)) * other) / len(y)


def slow_scaled_brier(y: list[float], p: list[float]) -> float:
    constant = slow_brier(y, [sum(y) / len(y)] * len(y))
    return 1 - slow_brier(y, p) / constant if constant else math.nan


def slow_observed_expected(y: list[float], p: list[float]) -> float:
    return divide(sum(y), sum(p))


def slow_npv(y: list[float], p: list[float]) -> float:
    _, _, fn, tn = slow_cells(y, p)
    return divide(tn, tn + fn)


def slow_lr_positive(y: list[float], p: list[float]) -> float:
    return divide(slow_recall(y, p), 1 - slow_specificity(y, p)) if slow_specificity(y, p) != 1 else math.nan


def slow_lr_negative(y: list[float], p: list[float]) -> float:
    return divide(1 - slow_recall(y, p), slow_specificity(y, p))


def slow_flagged(y: list[float], p: list[float]) -> float:
    return sum(pi >= THRESHOLD for pi in p) / len(p)


def slow_errors(y: list[float], p: list[float]) -> list[float]:
    """|p - curve|, lowest first: statsmodels, on Harrell's truncated cubes, without a penalty."""
    rarer = min(sum(y), len(y) - sum(y))
    if not rarer:
        return [math.nan]
    x = slow_log_odds(p)
    wanted = [5, 27.5, 50, 72.5, 95] if rarer >= 100 else [5, 35, 65, 95] if rarer >= 50 else [10, 50, 90]
    ordered = sorted(x)
    t = sorted({ordered[math.ceil(len(x) * share / 100 - 1e-9) - 1] for share in wanted})

    def cube(value: float) -> float:
        return max(value, 0.0) ** 3

    def terms(value: float) -> list[float]:
        row = [1.0, value] if len(set(x)) > 1 else [1.0]
        if rarer >= 20 and len(t) > 2:
            scale = (t[-1] - t[0]) ** 2
            for knot in t[:-2]:
                last = cube(value - t[-2]) * (t[-1] - knot) - cube(value - t[-1]) * (t[-2] - knot)
                row.append((cube(value - knot) - last / (t[-1] - t[-2])) / scale)
        return row

    design = np.array([terms(value) for value in x])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve = sm.GLM(np.array(y), design, family=sm.families.Binomial()).fit(maxiter=100, tol=1e-12).fittedvalues
    return sorted(abs(pi - float(ci)) for pi, ci in zip(p, curve, strict=True))


def slow_percentile(y: list[float], p: list[float], share: float) -> float:
    errors = slow_errors(y, p)
    return errors[math.ceil(share * len(errors) - 1e-9) - 1]


SLOW = {
    "scaled_brier": slow_scaled_brier,
    "observed_expected": slow_observed_expected,
    "ici": lambda y, p: sum(slow_errors(y, p)) / len(y),
    "e50": lambda y, p: slow_percentile(y, p, 0.5),
    "e90": lambda y, p: slow_percentile(y, p, 0.9),
    "emax": lambda y, p: slow_percentile(y, p, 1),
    "npv": slow_npv,
    "lr_positive": slow_lr_positive,
    "lr_negative": slow_lr_negative,
    "flagged": slow_flagged,
    "auroc": slow_auroc,
    "auprc": slow_auprc,
    "brier": slow_brier,
    "log_loss": slow_log_loss,
    "calibration_intercept": slow_intercept,
    "calibration_slope": slow_slope,
    "accuracy": slow_accuracy,
    "precision": slow_precision,
    "recall": slow_recall,
    "specificity": slow_specificity,
    "f1": slow_f1,
    "f1_weighted": slow_f1_weighted,
}


def random_rows(n: int, seed: int) -> tuple[Array, Array]:
    draw = np.random.default_rng(seed)
    risk = draw.random(n)
    return (draw.random(n) < risk).astype(float), risk


def tied_rows() -> tuple[Array, Array]:
    y_true, risk = random_rows(60, 3)
    return y_true, np.round(risk, 1)  # holds 0 and 1, and the threshold itself


def hard_rows() -> tuple[Array, Array]:
    """A model that says 0 or 1 and is wrong once in ten."""
    y_true = np.r_[np.zeros(40), np.ones(30)]
    return y_true, np.where(np.arange(70) % 10 == 0, 1 - y_true, y_true)


INPUTS: dict[str, tuple[Array, Array]] = {
    "random": random_rows(80, 0),
    "tied": tied_rows(),
    "many": random_rows(257, 11),
    "many and tied": (random_rows(257, 12)[0], random_rows(257, 12)[1].round(1).clip(0.1, 0.9)),
    "some": random_rows(143, 13),
    "small": (np.array([0, 1, 0, 1.0]), np.array([0.2, 0.3, 0.6, 0.9])),
    "one event": (np.array([1.0]), np.array([0.7])),
    "one non-event": (np.array([0.0]), np.array([0.7])),
    "two rows": (np.array([0, 1.0]), np.array([0.6, 0.3])),
    "events only": (np.ones(20), random_rows(20, 1)[1]),
    "non-events only": (np.zeros(20), random_rows(20, 1)[1]),
    "parted": (np.r_[np.zeros(9), np.ones(8)], np.linspace(0.01, 0.99, 17)),
    "parted the wrong way": (np.r_[np.ones(9), np.zeros(8)], np.linspace(0.01, 0.99, 17)),
    "parted but for a tie": (np.array([0, 0, 1, 1.0]), np.array([0.1, 0.5, 0.5, 0.9])),
    "constant": (random_rows(50, 2)[0], np.full(50, 0.5)),
    # An unguarded Newton step goes back and forth for ever here.
    "constant and far from the prevalence": (np.r_[np.zeros(25), np.ones(25)], np.full(50, 0.075)),
    "never flagged": (random_rows(50, 4)[0], random_rows(50, 4)[1] * 0.39),
    "hard": hard_rows(),
    "overconfident": (
        random_rows(80, 5)[0],
        1 / (1 + np.exp(-15 * (random_rows(80, 5)[1] - 0.5 + 0.3 * random_rows(80, 6)[1]))),
    ),
    "nearly constant": (random_rows(80, 7)[0], 0.5 + 0.01 * (random_rows(80, 7)[1] - 0.5)),
}


BISECTED = ("calibration_intercept", "calibration_slope")  # too slow by bisection for many rows


@pytest.mark.parametrize("kind", INPUTS)
def test_agrees_with_a_slow_second_implementation(kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = all_metrics(y_true, y_prob, threshold=THRESHOLD)
    for name, value in values.items():
        if "many" in kind and name in BISECTED:
            continue
        assert value.shape == ()
        expected = SLOW[name](list(y_true), list(y_prob))
        # The curve's tiny penalty shows only where it would run to infinity.
        tolerance = 1e-9 if name not in CURVE else 2e-3 if kind.startswith("parted") else 2e-6
        np.testing.assert_allclose(value, expected, rtol=1e-7, atol=tolerance, err_msg=name)


def test_every_metric_has_a_second_implementation_and_one_list() -> None:
    assert set(SLOW) == set(NAMES)


WITH_BOTH_OUTCOMES = [kind for kind, (y_true, _) in INPUTS.items() if 0 < y_true.mean() < 1]


@pytest.mark.parametrize("kind", WITH_BOTH_OUTCOMES)
def test_agrees_with_scikit_learn(kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    flagged = (y_prob >= THRESHOLD).astype(float)
    expected = {
        "auroc": sklearn_metrics.roc_auc_score(y_true, y_prob),
        "auprc": sklearn_metrics.average_precision_score(y_true, y_prob),
        "brier": sklearn_metrics.brier_score_loss(y_true, y_prob),
        "log_loss": sklearn_metrics.log_loss(y_true, y_prob),
        "accuracy": sklearn_metrics.accuracy_score(y_true, flagged),
        "precision": sklearn_metrics.precision_score(y_true, flagged, zero_division=np.nan),
        "recall": sklearn_metrics.recall_score(y_true, flagged),
        "npv": sklearn_metrics.precision_score(y_true, flagged, pos_label=0, zero_division=np.nan),
        "scaled_brier": sklearn_metrics.d2_brier_score(y_true, y_prob),
        "specificity": sklearn_metrics.recall_score(y_true, flagged, pos_label=0),
        "f1": sklearn_metrics.f1_score(y_true, flagged),
        "f1_weighted": sklearn_metrics.f1_score(y_true, flagged, average="weighted"),
    }
    values = all_metrics(y_true, y_prob, threshold=THRESHOLD)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["random", "tied", "small", "overconfident", "nearly constant"])
def test_calibration_agrees_with_statsmodels(kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    log_odds = np.array(slow_log_odds(list(y_prob)))
    binomial = sm.families.Binomial()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)
        intercept = sm.GLM(y_true, np.ones(len(y_true)), family=binomial, offset=log_odds).fit(maxiter=200, tol=1e-12)
        slope = sm.GLM(y_true, sm.add_constant(log_odds), family=binomial).fit(maxiter=200, tol=1e-12)
    np.testing.assert_allclose(metrics.calibration_intercept(y_true, y_prob), intercept.params, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(metrics.calibration_slope(y_true, y_prob), slope.params[1:], rtol=1e-6, atol=1e-8)


def test_calibration_finds_what_was_planted() -> None:
    draw = np.random.default_rng(0)
    log_odds = draw.normal(-1, 1.5, 200_000)
    y_true = (draw.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))).astype(float)
    twice = 1 / (1 + np.exp(-2 * log_odds))
    higher = 1 / (1 + np.exp(-(log_odds + 0.7)))
    assert metrics.calibration_slope(y_true, twice) == pytest.approx(0.5, abs=0.01)
    assert metrics.calibration_intercept(y_true, higher) == pytest.approx(-0.7, abs=0.02)


def test_a_case_worked_by_hand() -> None:
    # Risks:   0.1  0.3  0.4  0.6  0.8
    # Events:   0    1    0    0    1     flagged at 0.4: the last three
    values = all_metrics(np.array([0, 1, 0, 0, 1.0]), np.array([0.1, 0.3, 0.4, 0.6, 0.8]), threshold=THRESHOLD)
    by_hand = {
        "auroc": 4 / 6,  # of 6 pairs, 0.3 loses to 0.4 and to 0.6
        "auprc": 0.5 * 1 + 0.5 * 2 / 4,
        "brier": (0.01 + 0.49 + 0.16 + 0.36 + 0.04) / 5,
        "log_loss": -math.log(0.9 * 0.3 * 0.6 * 0.4 * 0.8) / 5,
        "accuracy": 2 / 5,
        "precision": 1 / 3,
        "recall": 1 / 2,
        "specificity": 1 / 3,
        "f1": 2 / 5,
        "f1_weighted": 2 / 5,  # both classes: 2 / 5
    }
    for name, value in by_hand.items():
        assert values[name] == pytest.approx(value, abs=1e-12), name


def test_what_is_undefined_is_nan() -> None:
    undefined = {
        kind: {n for n, v in all_metrics(*INPUTS[kind], threshold=THRESHOLD).items() if np.isnan(v)} for kind in INPUTS
    }
    two_outcomes = {"auroc", "scaled_brier", "calibration_intercept", "calibration_slope", "lr_positive", "lr_negative"}
    assert undefined["events only"] == {"specificity"} | two_outcomes | set(CURVE)
    assert undefined["non-events only"] == {"auprc", "recall"} | two_outcomes | set(CURVE)
    assert undefined["parted"] == {"calibration_slope"}
    assert undefined["parted the wrong way"] == {"calibration_slope", "lr_negative"}
    assert undefined["parted but for a tie"] == {"calibration_slope"}
    assert undefined["constant"] == {"calibration_slope", "npv", "lr_negative"}
    assert undefined["never flagged"] == {"precision", "lr_positive"}
    assert undefined["hard"] == undefined["random"] == undefined["tied"] == set()
    nobody = all_metrics(np.array([0, 1.0]), np.zeros(2))
    assert np.isnan(nobody["observed_expected"])


def test_rounding_does_not_put_an_auroc_above_1() -> None:
    draw = np.random.default_rng(2)
    y_true, weight = np.arange(12) % 2.0, 1 + draw.random(12)
    risk = np.where(y_true == 1, draw.integers(3, 6, 12), draw.integers(0, 3, 12)) / 8
    assert metrics.auroc(y_true, risk, weight) == 1


def test_risks_in_float32_do_not_break_the_logarithms() -> None:
    y_true, y_prob = np.array([0, 1, 0, 1.0]), np.array([0, 1, 1, 0.25], np.float32)
    for name, value in all_metrics(y_true, y_prob).items():
        np.testing.assert_allclose(value, all_metrics(y_true, y_prob.astype(float))[name], rtol=1e-9, err_msg=name)


# --------------------------------------------------------------------------------------------------
# weights

ROW = st.tuples(st.integers(0, 1), st.integers(0, 10).map(lambda tenths: tenths / 10), st.integers(0, 4))


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=25))
def test_a_whole_weight_is_that_many_rows(rows: list[tuple[int, float, int]]) -> None:
    y_true, y_prob, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), weight.astype(int))
    knots = np.array([-1.0, 0.5, 2.0])  # by themselves they would not move with the weights
    curves = calibration_errors(y_true, y_prob, weight, knots)
    if len(repeated):
        for name, value in calibration_errors(y_true[repeated], y_prob[repeated], knots=knots).items():
            np.testing.assert_allclose(curves[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    weighted = all_metrics(y_true, y_prob, weight, threshold=THRESHOLD)
    if not len(repeated):
        assert all(np.isnan(value) for value in weighted.values())
        return
    plain = all_metrics(y_true[repeated], y_prob[repeated], threshold=THRESHOLD)
    for name in set(NAMES) - set(CURVE):
        np.testing.assert_allclose(weighted[name], plain[name], rtol=1e-7, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("kind", INPUTS)
def test_a_matrix_of_weights_is_one_row_at_a_time(kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    draw = np.random.default_rng(0)
    weight = np.vstack([
        draw.integers(0, 4, (12, len(y_true))),
        draw.random((4, len(y_true))),
        np.zeros((1, len(y_true))),
        y_true[None],
        1 - y_true[None],
    ])  # fmt: skip
    together = all_metrics(y_true, y_prob, weight, threshold=THRESHOLD)
    one_by_one = [all_metrics(y_true, y_prob, row, threshold=THRESHOLD) for row in weight]
    for name in NAMES:
        assert together[name].shape == (len(weight),)
        alone = [values[name] for values in one_by_one]
        # Risks of 0 and 1 with as many errors either way: any intercept near 0 solves the equation
        # to the last digit.
        flat = kind == "hard" and name == "calibration_intercept"
        tolerance = 1 if flat else 1e-6 if name in CURVE else 1e-8
        np.testing.assert_allclose(together[name], alone, rtol=1e-7, atol=tolerance, err_msg=name)
    assert all(np.isnan(together[name][-3]) for name in NAMES)  # no row has a weight
    assert all(np.isnan(together[name][-2:]).all() for name in ("auroc", "calibration_intercept", "calibration_slope"))


def test_the_scale_of_the_weights_does_not_matter() -> None:
    y_true, y_prob = INPUTS["tied"]
    weight = np.random.default_rng(1).random(len(y_true))
    first, second = (all_metrics(y_true, y_prob, weight * scale, threshold=THRESHOLD) for scale in (1, 1e-6))
    for name in NAMES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    y_true, y_prob = INPUTS["tied"]
    order = np.random.default_rng(seed).permutation(len(y_true))
    before = all_metrics(y_true, y_prob, threshold=THRESHOLD)
    after = all_metrics(y_true[order], y_prob[order], threshold=THRESHOLD)
    for name in NAMES:
        np.testing.assert_allclose(before[name], after[name], rtol=1e-9, err_msg=name)


# --------------------------------------------------------------------------------------------------
# bootstrap


def counts(y_true: Array, replicates: int, seed: int, stratified: bool = False) -> Array:
    return np.vstack(list(bootstrap_counts(y_true, replicates, seed, stratified)))


@pytest.mark.parametrize("stratified", [False, True])
def test_counts_are_whole_and_keep_the_rows(stratified: bool) -> None:
    y_true = random_rows(90, 0)[0]
    drawn = counts(y_true, 40, 1, stratified)
    assert drawn.shape == (40, 90)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    assert drawn.min() == 0
    np.testing.assert_array_equal(drawn.sum(1), 90)
    assert (np.ptp(drawn @ y_true) == 0) == stratified


def test_a_stratified_draw_keeps_the_events() -> None:
    y_true = random_rows(90, 0)[0]
    drawn = counts(y_true, 40, 1, stratified=True)
    np.testing.assert_array_equal(drawn @ y_true, y_true.sum())
    np.testing.assert_array_equal(drawn @ (1 - y_true), (1 - y_true).sum())


def test_counts_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    y_true = random_rows(90, 0)[0]
    drawn = counts(y_true, 25, 1)
    np.testing.assert_array_equal(counts(y_true, 25, 1), drawn)
    assert not np.array_equal(counts(y_true, 25, 2), drawn)
    np.testing.assert_array_equal(counts(y_true, 10, 1), drawn[:10])
    for cells in (1, 91, 700, 10**9):
        monkeypatch.setattr(intervals, "CHUNK_CELLS", cells)
        np.testing.assert_array_equal(counts(y_true, 25, 1), drawn)
    chunks = [len(chunk) for chunk in bootstrap_counts(y_true, 25, 1)]
    assert chunks == [25]


@pytest.mark.parametrize("stratified", [False, True])
def test_counts_are_those_of_drawing_rows_with_replacement(stratified: bool) -> None:
    y_true = np.array([0, 1, 0, 1, 1, 0, 0.0])
    drawn = counts(y_true, 20_000, 0, stratified)
    for outcome in (0, 1):
        rows = np.flatnonzero(y_true == outcome) if stratified else np.arange(7)
        size = len(rows)
        np.testing.assert_allclose(drawn[:, rows].mean(0), 1, atol=0.03)
        np.testing.assert_allclose(drawn[:, rows].var(0), 1 - 1 / size, atol=0.04)  # binomial
        np.testing.assert_allclose((drawn[:, rows] == 0).mean(0), (1 - 1 / size) ** size, atol=0.02)


def test_one_outcome_can_be_resampled() -> None:
    np.testing.assert_array_equal(counts(np.ones(5), 3, 0).sum(1), 5)


def test_an_interval_is_that_of_a_loop() -> None:
    """Rows drawn one by one from the counts, scored by the slow second implementation, and sorted
    by hand."""
    y_true, y_prob = random_rows(30, 8)
    values = all_metrics(y_true, y_prob, counts(y_true, 200, 5), threshold=THRESHOLD)
    for name in ("auroc", "brier", "recall"):
        looped = []
        for drawn in counts(y_true, 200, 5):
            rows = [row for row, times in enumerate(drawn) for _ in range(int(times))]
            looped.append(SLOW[name]([y_true[row] for row in rows], [y_prob[row] for row in rows]))
        looped.sort()

        def percentile(share: float, ordered: list[float] = looped) -> float:
            place = share * (len(ordered) - 1)
            below = math.floor(place)
            return ordered[below] + (place - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])

        assert percentile_interval(values[name]) == pytest.approx((percentile(0.025), percentile(0.975)), abs=1e-9), (
            name
        )


@pytest.mark.parametrize("undefined", [0, 3, 10, 24, 25])
def test_an_interval_holds_whatever_the_undefined_replicates_might_have_been(undefined: int) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    ordered = np.sort(values[undefined:])
    values[:undefined] = np.nan
    found = percentile_interval(values)
    assert found is not None
    # All of them below the others, or all above: the percentiles of 1,000 then stand between these
    # two neighbours.
    place = 25 - undefined
    assert ordered[max(place - 1, 0)] <= found[0] <= ordered[place]
    assert ordered[-place - 1] <= found[1] <= ordered[-max(place, 1)]
    if undefined == 0:
        assert found == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_there_is_no_interval_when_too_many_replicates_are_undefined() -> None:
    values = np.zeros(1000)
    values[:26] = np.nan
    assert percentile_interval(values) is None
    assert percentile_interval(np.full(100, np.nan)) is None


# --------------------------------------------------------------------------------------------------
# calibration curve


def test_the_curve_finds_what_was_planted() -> None:
    """Risks that are all 0.1 too high, in the middle: the curve has to find that distance
    everywhere."""
    draw = np.random.default_rng(0)
    risk = draw.uniform(0.3, 0.6, 100_000)
    errors = calibration_errors((draw.random(len(risk)) < risk - 0.1).astype(float), risk)
    for name, value in errors.items():
        assert value == pytest.approx(0.1, abs=0.02 if name == "emax" else 0.01), name
    well = calibration_errors((draw.random(len(risk)) < risk).astype(float), risk)
    assert well["ici"] < 0.006 and well["e50"] <= well["e90"] <= well["emax"]


def test_fewer_events_have_fewer_knots() -> None:
    risk = random_rows(1000, 0)[1]
    found = [len(logistic.knots((np.arange(1000) < events).astype(float), risk)) for events in (99, 100, 900, 901)]
    assert found == [4, 5, 5, 4]
    found = [len(logistic.knots((np.arange(1000) < events).astype(float), risk)) for events in (1, 19, 20, 49, 50)]
    assert found == [2, 2, 3, 3, 4]
    assert len(logistic.knots(np.arange(1000) % 2, np.where(np.arange(1000) == 5, 0.3, 0.2))) == 2
    assert len(logistic.knots(np.arange(1000) % 2, np.full(1000, 0.2))) == 1


@pytest.mark.parametrize("events", [1, 3, 20, 50])
def test_the_curve_is_quick_with_few_events(events: int) -> None:
    """Replicates whose likelihood has no maximum must not make the fit go on and on."""
    y_true, risk = (np.arange(2000) < events).astype(float), random_rows(2000, 0)[1]
    start = time.perf_counter()
    found = calibration_errors(y_true, np.where(y_true == 1, 0.5 + risk / 2, risk), counts(y_true, 100, 0))
    assert time.perf_counter() - start < 5
    assert np.isfinite(found["ici"]).mean() > 0.6  # a replicate without an event has no curve
    assert np.isfinite(found["ici"]).all() == (events > 10)


# --------------------------------------------------------------------------------------------------
# net benefit


@pytest.mark.parametrize("kind", INPUTS)
def test_net_benefit_is_that_of_a_loop(kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    thresholds = np.array([0, 0.05, 0.1, 0.4, 0.5, 0.99])
    found = decision_curve(y_true, y_prob, thresholds=thresholds)
    for threshold, value in zip(thresholds, found, strict=True):
        worth = sum(
            (1 if yi else -threshold / (1 - threshold))
            for yi, pi in zip(y_true, y_prob, strict=True)
            if pi >= threshold
        )
        assert value == pytest.approx(worth / len(y_true), abs=1e-12)
        assert net_benefit(y_true, y_prob, threshold=threshold) == pytest.approx(value, abs=1e-15)
    drawn = counts(y_true, 5, 0)
    together = decision_curve(y_true, y_prob, drawn, thresholds=thresholds)
    assert together.shape == (5, 6)
    for row, values in zip(drawn, together, strict=True):
        repeated = np.repeat(np.arange(len(y_true)), row.astype(int))
        alone = decision_curve(y_true[repeated], y_prob[repeated], thresholds=thresholds)
        np.testing.assert_allclose(values, alone, atol=1e-12)


def test_net_benefit_has_no_value_at_a_threshold_of_1() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(net_benefit(*INPUTS["random"], threshold=1.0))


def check_net_benefit(answer: dict[str, Any]) -> None:
    """Ours against what dcurves says; it is asked as `oracles/judge.py` tells."""
    y_true, y_prob, thresholds = (np.array(answer["input"][name]) for name in ("y_true", "y_prob", "thresholds"))
    risks = {"model": y_prob, "all": np.ones(len(y_true)), "none": np.zeros(len(y_true))}
    assert set(answer["net_benefit"]) == set(risks)
    for name, theirs in answer["net_benefit"].items():
        np.testing.assert_allclose(decision_curve(y_true, risks[name], thresholds=thresholds), theirs, atol=1e-9)


def test_net_benefit_is_what_dcurves_said() -> None:
    answer = golden()
    assert len(answer["input"]["y_true"]) == 120 and len(answer["net_benefit"]["model"]) == 13
    check_net_benefit(answer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "overconfident", "never flagged"])
def test_net_benefit_agrees_with_dcurves(kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    group = ["abc"[row % 3] for row in range(len(y_true))]
    check_net_benefit(
        ask(y_true=y_true, y_prob=y_prob, group=group, thresholds=np.arange(1, 100) / 100, threshold=THRESHOLD)
    )


@pytest.mark.slow
def test_dcurves_and_fairlearn_still_say_what_is_kept() -> None:
    kept = golden()
    fresh = ask(**kept["input"])
    for row, curve in kept["net_benefit"].items():
        np.testing.assert_allclose(fresh["net_benefit"][row], curve, atol=1e-12)
    assert fresh["by_group"].keys() == kept["by_group"].keys()
    for group, found in kept["by_group"].items():
        assert fresh["by_group"][group] == pytest.approx(found)


# --------------------------------------------------------------------------------------------------
# Wilson, DeLong


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 7), (81, 263), (1, 100_000)])
def test_wilson_agrees_with_statsmodels(count: int, size: int) -> None:
    assert wilson(count, size) == pytest.approx(proportion_confint(count, size, method="wilson"), abs=1e-9)


def test_wilson_is_that_of_a_published_table() -> None:
    # Newcombe, Stat Med 1998;17:857, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for count, size, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)]:  # fmt: skip
        assert wilson(count, size) == pytest.approx((low, high), abs=5e-5)


def slow_delong(y: Array, risks: list[Array]) -> tuple[Array, Array]:
    """AUROCs and their covariance, from the kernel of every pair. DeLong et al. 1988, equations 4
    and 5."""
    events, others = [i for i in range(len(y)) if y[i] == 1], [j for j in range(len(y)) if y[j] == 0]

    def kernel(p: Array, i: int, j: int) -> float:
        return 1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0

    aucs = [sum(kernel(p, i, j) for i in events for j in others) / len(events) / len(others) for p in risks]
    covariance = np.zeros((len(risks), len(risks)))
    v10 = [[sum(kernel(p, i, j) for j in others) / len(others) for i in events] for p in risks]
    v01 = [[sum(kernel(p, i, j) for i in events) / len(events) for j in others] for p in risks]
    for r in range(len(risks)):
        for s in range(len(risks)):
            for components in (v10, v01):
                size = len(components[0])
                both = zip(components[r], components[s], strict=True)
                total = sum((a - aucs[r]) * (b - aucs[s]) for a, b in both)
                covariance[r, s] += total / (size - 1) / size
    return np.array(aucs), covariance


@pytest.mark.parametrize("kind", [kind for kind in WITH_BOTH_OUTCOMES if kind != "many"])
@pytest.mark.parametrize("decimals", [1, 9])
def test_delong_agrees_with_all_pairs(kind: str, decimals: int) -> None:
    y_true, first = INPUTS[kind]
    second = (first + np.random.default_rng(0).normal(0, 0.3, len(first))).round(decimals)
    if min(y_true.sum(), (1 - y_true).sum()) < 2:
        assert delong_interval(y_true, first) is None and delong_test(y_true, first, second) is None
        return
    aucs, covariance = slow_delong(y_true, [first, second])
    error = math.sqrt(covariance[0, 0])
    expected = stats.norm.interval(0.95, aucs[0], error) if error else None
    found = delong_interval(y_true, first)
    assert found == (expected and pytest.approx(np.clip(expected, 0, 1), abs=1e-9))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    test = delong_test(y_true, first, second)
    if variance < 1e-15:
        assert test is None
        return
    assert test is not None
    assert test.difference == pytest.approx(aucs[0] - aucs[1], abs=1e-9)
    expected = stats.norm.interval(0.95, aucs[0] - aucs[1], math.sqrt(variance))
    assert test.ci == pytest.approx(expected, abs=1e-9)
    p = 2 * stats.norm.sf(abs(aucs[0] - aucs[1]) / math.sqrt(variance))
    assert test.p == pytest.approx(p, rel=1e-6, abs=1e-12)


def test_delong_worked_by_hand() -> None:
    # Events 0.3, 0.8; non-events 0.1, 0.4, 0.6. Of the non-events 1/3 and 3/3 are below the events,
    # and of the events 2/2, 1/2 and 1/2 above the non-events. Variances (2/9)/2 and (1/12)/3.
    y_true, risk = np.array([0, 1, 0, 0, 1.0]), np.array([0.1, 0.3, 0.4, 0.6, 0.8])
    half = 1.959964 * math.sqrt(1 / 9 + 1 / 36)
    assert delong_interval(y_true, risk) == pytest.approx((max(0, 2 / 3 - half), min(1, 2 / 3 + half)), abs=1e-6)


def test_delong_says_nothing_where_nothing_varies() -> None:
    y_true, risk = INPUTS["random"]
    assert delong_test(y_true, risk, risk) is None
    assert delong_test(y_true, risk, risk**3) is None  # the same order
    assert delong_interval(y_true, np.full(len(y_true), 0.3)) is None
    assert delong_interval(*INPUTS["parted"]) is None


def test_delong_is_much_like_the_bootstrap() -> None:
    y_true, risk = random_rows(2000, 0)
    second = (risk + np.random.default_rng(1).normal(0, 0.2, 2000)).clip(0, 1)
    drawn = counts(y_true, 1000, 0)
    values = metrics.auroc(y_true, risk, drawn)
    assert delong_interval(y_true, risk) == pytest.approx(percentile_interval(values), abs=0.004)
    test = delong_test(y_true, risk, second)
    assert test is not None
    assert test.ci == pytest.approx(percentile_interval(values - metrics.auroc(y_true, second, drawn)), abs=0.004)


# --------------------------------------------------------------------------------------------------
# cluster bootstrap


def test_clusters_are_drawn_whole() -> None:
    y_true = random_rows(60, 0)[0]
    clusters = np.random.default_rng(0).permutation(np.r_[np.arange(20), np.random.default_rng(1).integers(0, 20, 40)])
    drawn = np.vstack(list(bootstrap_counts(y_true, 300, 1, clusters=clusters)))
    assert drawn.shape == (300, 60)
    first = [int(np.flatnonzero(clusters == number)[0]) for number in range(20)]
    for row in range(60):
        np.testing.assert_array_equal(drawn[:, row], drawn[:, first[clusters[row]]])
    np.testing.assert_array_equal(drawn[:, first].sum(1), 20)
    np.testing.assert_array_equal(drawn, np.vstack(list(bootstrap_counts(y_true, 300, 1, clusters=clusters))))


def test_rows_by_themselves_are_the_ordinary_bootstrap() -> None:
    y_true = random_rows(60, 0)[0]
    for stratified in (False, True):
        drawn = np.vstack(list(bootstrap_counts(y_true, 20, 1, stratified, clusters=np.arange(60))))
        np.testing.assert_array_equal(drawn, counts(y_true, 20, 1, stratified))


def test_stratified_clusters_keep_those_with_an_event() -> None:
    clusters = np.arange(90) // 3
    y_true = np.isin(np.arange(90), [0, 1, 5, 33, 80]).astype(float)  # in clusters 0, 1, 11 and 26
    drawn = np.vstack(list(bootstrap_counts(y_true, 50, 1, True, clusters=clusters)))
    np.testing.assert_array_equal(drawn[:, [0, 3, 33, 78]].sum(1), 4)
    np.testing.assert_array_equal(drawn[:, ::3].sum(1), 30)


def test_copies_of_rows_do_not_make_an_interval_narrower_when_they_are_a_cluster() -> None:
    y_true, risk = random_rows(300, 0)
    y_copies, risk_copies, clusters = np.repeat(y_true, 4), np.repeat(risk, 4), np.repeat(np.arange(300), 4)

    def width(y: Array, p: Array, number: Array | None) -> float:
        drawn = np.vstack(list(bootstrap_counts(y, 800, 0, clusters=number)))
        found = percentile_interval(metrics.auroc(y, p, drawn))
        assert found is not None
        return found[1] - found[0]

    honest = width(y_true, risk, None)
    assert width(y_copies, risk_copies, clusters) == pytest.approx(honest, rel=1e-9)
    assert width(y_copies, risk_copies, None) == pytest.approx(honest / 2, rel=0.15)


# --------------------------------------------------------------------------------------------------
# slow


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """300 samples of 400 rows (patients of two like rows) from a population whose AUROC and O:E are
    known."""
    population = np.random.default_rng(0).normal(-0.5, 1.2, 2_000_000)
    truth = 1 / (1 + np.exp(-population))
    event = np.random.default_rng(1).random(len(truth)) < truth
    order = np.argsort(population)
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    auroc = (ranks[event].mean() - (event.sum() + 1) / 2) / (~event).sum()
    hits: dict[str, list[bool]] = {
        name: [] for name in ("delong", "bootstrap", "cluster", "not clustered", "o:e", "wilson")
    }
    draw = np.random.default_rng(2)
    sensitivity = (truth[event] >= 0.4).mean()

    def covers(interval: tuple[float, float] | None, value: float) -> bool:
        return interval is not None and interval[0] <= value <= interval[1]

    for seed in range(300):
        rows = draw.integers(len(truth), size=400)
        y, p = event[rows].astype(float), truth[rows]
        drawn = counts(y, 400, seed)
        hits["delong"].append(covers(delong_interval(y, p), auroc))
        hits["bootstrap"].append(covers(percentile_interval(metrics.auroc(y, p, drawn)), auroc))
        hits["o:e"].append(covers(percentile_interval(metrics.observed_expected(y, p, drawn)), 1.0))
        cells = metrics.table(y, p, threshold=0.4)
        hits["wilson"].append(covers(wilson(int(cells.tp), int(cells.tp + cells.fn)), sensitivity))
        y, p, clusters = np.repeat(y, 2), np.repeat(p, 2), np.repeat(np.arange(400), 2)
        whole = np.vstack(list(bootstrap_counts(y, 400, seed, clusters=clusters)))
        hits["cluster"].append(covers(percentile_interval(metrics.auroc(y, p, whole)), auroc))
        hits["not clustered"].append(covers(percentile_interval(metrics.auroc(y, p, counts(y, 400, seed))), auroc))
    share = {name: float(np.mean(found)) for name, found in hits.items()}
    for name in ("delong", "bootstrap", "cluster", "o:e", "wilson"):
        assert 0.91 <= share[name] <= 0.985, share  # 3 standard errors about 0.95
    assert share["not clustered"] < 0.9, share


@pytest.mark.slow
def test_a_large_part_takes_less_than_a_minute() -> None:
    y_true, y_prob = random_rows(34_000, 0)
    start = time.perf_counter()
    for drawn in bootstrap_counts(y_true, 1000, 0):
        values = all_metrics(y_true, y_prob, drawn, threshold=THRESHOLD)
    seconds = time.perf_counter() - start
    assert all(np.isfinite(value).all() for value in values.values())
    assert seconds < 60, f"{seconds:.0f} s"

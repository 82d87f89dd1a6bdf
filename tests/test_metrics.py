import math
import time
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from statsmodels.tools.sm_exceptions import DomainWarning

from cardiotune.evaluation import metrics
from cardiotune.evaluation.metrics import (
    AT_THRESHOLD,
    EPSILON,
    NAMES,
    PROBABILITY,
    RANKED,
    Array,
    all_metrics,
    bootstrap_counts,
    interval,
)

THRESHOLD = 0.4


# ---------------------------------------------------------------------------------------------------------------------
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


SLOW = {
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", INPUTS)
def test_agrees_with_a_slow_second_implementation(name: str, kind: str) -> None:
    y_true, y_prob = INPUTS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = all_metrics(y_true, y_prob, threshold=THRESHOLD)[name]
    assert value.shape == ()
    np.testing.assert_allclose(value, SLOW[name](list(y_true), list(y_prob)), rtol=1e-7, atol=1e-9)


def test_every_metric_has_a_second_implementation_and_one_list() -> None:
    assert set(SLOW) == set(NAMES) == {*RANKED, *PROBABILITY, *AT_THRESHOLD}


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
    calibration = {"calibration_intercept", "calibration_slope"}
    assert undefined["events only"] == {"auroc", "specificity"} | calibration
    assert undefined["non-events only"] == {"auroc", "auprc", "recall"} | calibration
    assert undefined["parted"] == undefined["parted the wrong way"] == {"calibration_slope"}
    assert undefined["parted but for a tie"] == undefined["constant"] == {"calibration_slope"}
    assert undefined["never flagged"] == {"precision"}
    assert undefined["hard"] == undefined["random"] == undefined["tied"] == set()


def test_risks_in_float32_do_not_break_the_logarithms() -> None:
    y_true, y_prob = np.array([0, 1, 0, 1.0]), np.array([0, 1, 1, 0.25], np.float32)
    for name, value in all_metrics(y_true, y_prob).items():
        np.testing.assert_allclose(value, all_metrics(y_true, y_prob.astype(float))[name], rtol=1e-9, err_msg=name)


# ---------------------------------------------------------------------------------------------------------------------
# weights

ROW = st.tuples(st.integers(0, 1), st.integers(0, 10).map(lambda tenths: tenths / 10), st.integers(0, 4))


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=25))
def test_a_whole_weight_is_that_many_rows(rows: list[tuple[int, float, int]]) -> None:
    y_true, y_prob, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), weight.astype(int))
    weighted = all_metrics(y_true, y_prob, weight, threshold=THRESHOLD)
    if not len(repeated):
        assert all(np.isnan(value) for value in weighted.values())
        return
    plain = all_metrics(y_true[repeated], y_prob[repeated], threshold=THRESHOLD)
    for name in NAMES:
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
    for name in NAMES:
        assert together[name].shape == (len(weight),)
        alone = [all_metrics(y_true, y_prob, row, threshold=THRESHOLD)[name] for row in weight]
        # Risks of 0 and 1 with as many errors either way: any intercept near 0 solves the equation to the last digit.
        flat = kind == "hard" and name == "calibration_intercept"
        np.testing.assert_allclose(together[name], alone, rtol=1e-7, atol=1 if flat else 1e-8, err_msg=name)
    assert all(np.isnan(together[name][-3]) for name in NAMES)  # no row has a weight
    assert all(np.isnan(together[name][-2:]).all() for name in ("auroc", "calibration_intercept", "calibration_slope"))


def test_the_scale_of_the_weights_does_not_matter() -> None:
    y_true, y_prob = INPUTS["tied"]
    weight = np.random.default_rng(1).random(len(y_true))
    first, second = (all_metrics(y_true, y_prob, weight * scale, threshold=THRESHOLD) for scale in (1, 1e-6))
    for name in NAMES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-7, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    y_true, y_prob = INPUTS["tied"]
    order = np.random.default_rng(seed).permutation(len(y_true))
    before = all_metrics(y_true, y_prob, threshold=THRESHOLD)
    after = all_metrics(y_true[order], y_prob[order], threshold=THRESHOLD)
    for name in NAMES:
        np.testing.assert_allclose(before[name], after[name], rtol=1e-9, err_msg=name)


# ---------------------------------------------------------------------------------------------------------------------
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
        monkeypatch.setattr(metrics, "CHUNK_CELLS", cells)
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
    """Rows drawn one by one from the counts, scored by the slow second implementation, and sorted by hand."""
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

        assert interval(values[name]) == pytest.approx((percentile(0.025), percentile(0.975)), abs=1e-9), name


@pytest.mark.parametrize("undefined", [0, 3, 10, 24, 25])
def test_an_interval_holds_whatever_the_undefined_replicates_might_have_been(undefined: int) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    ordered = np.sort(values[undefined:])
    values[:undefined] = np.nan
    found = interval(values)
    assert found is not None
    # All of them below the others, or all above: the percentiles of 1,000 then stand between these two neighbours.
    place = 25 - undefined
    assert ordered[max(place - 1, 0)] <= found[0] <= ordered[place]
    assert ordered[-place - 1] <= found[1] <= ordered[-max(place, 1)]
    if undefined == 0:
        assert found == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_there_is_no_interval_when_too_many_replicates_are_undefined() -> None:
    values = np.zeros(1000)
    values[:26] = np.nan
    assert interval(values) is None
    assert interval(np.full(100, np.nan)) is None


@pytest.mark.slow
def test_a_large_part_takes_less_than_a_minute() -> None:
    y_true, y_prob = random_rows(34_000, 0)
    start = time.perf_counter()
    for drawn in bootstrap_counts(y_true, 1000, 0):
        values = all_metrics(y_true, y_prob, drawn, threshold=THRESHOLD)
    seconds = time.perf_counter() - start
    assert all(np.isfinite(value).all() for value in values.values())
    assert seconds < 60, f"{seconds:.0f} s"

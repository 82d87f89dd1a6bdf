"""Every interval has a width and holds its estimate, or is null with a reason; and what formulas
give where nothing varies."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardiotune.evaluation import metrics
from cardiotune.evaluation.catalogue import NAMES
from cardiotune.evaluation.estimates import ONE_CLUSTER, estimate
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.intervals import auroc_interval, ratio_interval, symmetric_interval, wilson, worth
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.metrics import Array
from cardiotune.models.predictions import prediction_rows
from cardiotune.models.thresholds import NamedThreshold
from cardiotune.report.curves import Resampling, calibration_band, calibration_points, curve_risks, roc_band
from cardiotune.report.wording import span

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))
)


def judged(
    y_true: Any,
    risks: dict[str, Array],
    clusters: Any = None,
    weight: Any = None,
    group: Any = None,
    stratified: bool = False,
    replicates: int = 40,
) -> dict[str, Any]:
    """The test part of a `metrics.json` that fits the schema."""
    ids = [f"r{row}" for row in range(len(y_true))]
    rows = [
        row
        for model, risk in risks.items()
        for row in prediction_rows(model, ids, ["test"] * len(ids), y_true, risk, risk**2, 0.5, weight, clusters)
    ]
    named = {model: [NamedThreshold(str(value), value) for value in (0.1, 0.5, 1.0)] for model in risks}
    groups = {} if group is None else {"site": dict(zip(ids, group, strict=True))}
    table = FromTable(groups, horizon_days=3652)
    result = evaluate_predictions(rows, replicates, 0, stratified, named, table)
    VALIDATOR.validate(json.loads(json.dumps(result, allow_nan=False)))
    part: dict[str, Any] = result["parts"]["test"]
    return part


def entries(found: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every entry with a value and an interval, and where it stands."""
    if isinstance(found, dict):
        if {"value", "ci"} <= found.keys():
            yield place, found
        for key, inner in found.items():
            yield from entries(inner, f"{place}/{key}")
    elif isinstance(found, list):
        for number, inner in enumerate(found):
            yield from entries(inner, f"{place}/{number}")


def check(part: dict[str, Any]) -> None:
    for place, entry in entries(part):
        for name in ("ci", "delong_ci"):
            if (ci := entry.get(name)) is not None:
                assert ci[0] <= entry["value"] <= ci[1] and ci[1] - ci[0] > 1e-13, (place, entry)
                assert name == "delong_ci" or span(ci) is not None, place  # nor is it written as if it had none
        assert (entry["ci"] is None) == ("reason" in entry), (place, entry)
    for model, curve in part["decision_curve"]["models"].items():
        for value, ci in zip(curve["net_benefit"], curve["ci"], strict=True):
            assert ci is None or (ci[0] <= value <= ci[1] and ci[0] < ci[1]), model


RISKS = st.one_of(
    st.just("parted"), st.just("wrong"), st.just("hard"), st.just("hard wrong"), st.just("ties"), st.just("noise"),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)  # fmt: skip


def risk_of(kind: Any, y_true: Array, draw: np.random.Generator) -> Array:
    n = len(y_true)
    return {
        "parted": 0.1 + 0.8 * y_true,
        "wrong": 0.9 - 0.8 * y_true,
        "hard": y_true,
        "hard wrong": 1 - y_true,
        "ties": draw.integers(1, 4, n) / 4,
        "noise": draw.random(n),
    }.get(kind, np.full(n, kind if isinstance(kind, float) else 0.0))


@settings(max_examples=25, deadline=None)
@given(
    n=st.sampled_from([1, 2, 3, 12, 60]),
    rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    tuned=RISKS,
    rival=RISKS,
    clustered=st.sampled_from([None, 1, 2, 5, 40]),
    weighted=st.booleans(),
    stratified=st.booleans(),
    parsed=st.sampled_from([0.0, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_interval_has_a_width_and_holds_its_estimate(
    n: int, rate: float, tuned: Any, rival: Any, clustered: int | None, weighted: bool, stratified: bool, parsed: float,
    seed: int,
) -> None:  # fmt: skip
    draw = np.random.default_rng(seed)
    y_true = (draw.random(n) < rate).astype(float)
    words = np.where(draw.random(n) < parsed, draw.integers(0, 2, n), 0.4)
    risks = {"tuned": risk_of(tuned, y_true, draw), "lightgbm": risk_of(rival, y_true, draw), "free_generation": words}
    clusters = None if clustered is None else draw.integers(0, clustered, n)
    weight = 1 + draw.random(n) if weighted else None
    site = np.where(draw.random(n) < 0.5, "a", "b") if n < 60 else np.where(y_true == 1, "events", "none")
    check(judged(y_true.astype(int), risks, clusters, weight, site, stratified))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([24, 80]), RISKS, st.sampled_from([None, 1, 3, 30]), st.booleans(), st.integers(0, 99))
def test_every_band_has_a_width_or_is_not_drawn(
    n: int, kind: Any, clustered: int | None, weighted: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    y_true = np.arange(n) % 2.0
    risk = risk_of(kind, y_true, draw)
    drawn_as = Resampling(
        seed, False, 1 + draw.random(n) if weighted else None, draw.integers(0, clustered, n) if clustered else None
    )
    at = curve_risks(risk)
    for low, high in (roc_band(y_true, risk, drawn_as), calibration_band(y_true, risk, at, drawn_as)):
        assert (np.isnan(low) == np.isnan(high)).all() and not (high - low <= 1e-13).any()
        assert clustered != 1 or np.isnan(low).all()
    _, share, low, high = calibration_points(y_true, risk, drawn_as.weight, drawn_as.clusters)
    assert ((low <= share) & (share <= high) & (low < high)).all()


# --------------------------------------------------------------------------------------------------
# where nothing varies


def test_shares_at_the_border_have_wilsons_interval_everywhere() -> None:
    y_true = np.repeat([0, 1], [60, 20])
    part = judged(y_true, {"tuned": 0.1 + 0.8 * y_true}, group=np.repeat(["x"], 80))
    model, decision, subgroup = part["models"]["tuned"], part["thresholds"]["tuned"][1], part["subgroups"][0]
    for entry in (model["recall"], decision["sensitivity"], subgroup["models"]["tuned"]["sensitivity"]):
        assert entry == {"value": 1, "ci": [pytest.approx(20 / (20 + 1.96**2), abs=1e-4), 1]}
    assert model["specificity"]["ci"] == [pytest.approx(60 / (60 + 1.96**2), abs=1e-4), 1]
    assert subgroup["models"]["tuned"]["fnr"]["ci"] == [0, pytest.approx(1 - model["recall"]["ci"][0])]


def test_one_quantity_has_one_interval() -> None:
    draw = np.random.default_rng(0)
    y_true = draw.integers(0, 2, 200)
    risk = 1 / (1 + np.exp(-(y_true - 0.5 + draw.normal(0, 1, 200))))
    for clusters in (None, np.arange(200) // 4):
        part = judged(y_true, {"tuned": risk}, clusters)
        model, decision = part["models"]["tuned"], part["thresholds"]["tuned"][1]
        for title, name in (("sensitivity", "recall"), ("ppv", "precision"), ("specificity",) * 2, ("npv",) * 2,
                            ("flagged",) * 2, ("lr_positive",) * 2, ("lr_negative",) * 2):  # fmt: skip
            assert decision[title] == model[name], title
        assert part["decision_curve"]["models"]["tuned"]["ci"][49] == decision["net_benefit"]["ci"]
        assert part["decision_curve"]["models"]["tuned"]["ci"][9] == part["thresholds"]["tuned"][0]["net_benefit"]["ci"]


def test_a_site_without_events_has_an_upper_bound_of_o_e() -> None:
    y_true = np.r_[np.zeros(40, int), np.arange(60) % 2]
    part = judged(
        y_true, {"tuned": np.full(100, 0.2) + np.arange(100) / 1000}, group=np.repeat(["quiet", "busy"], [40, 60])
    )
    entry = next(group for group in part["subgroups"] if group["group"] == "quiet")["models"]["tuned"]
    expected = (0.2 + np.arange(40) / 1000).sum()
    assert entry["observed_expected"] == {"value": 0, "ci": [0, pytest.approx(40 * wilson(0, 40)[1] / expected)]}
    assert 3 < entry["observed_expected"]["ci"][1] * expected < 3.85  # an exact Poisson bound is 3.69 events


def test_likelihood_ratios_of_0_and_1_have_bounds() -> None:
    low, high = ratio_interval((0.0, 20), (0.25, 40))
    l2, u1 = wilson(10, 40)[0], wilson(0, 20)[1]
    assert low == 0 and high == pytest.approx(
        u1 / np.sqrt(l2 * (0.5 - l2))
    )  # Newcombe's formula with the first share 0
    low, high = ratio_interval((1.0, 20), (1.0, 40))
    assert (low, high) == pytest.approx((wilson(20, 20)[0], 1 / wilson(40, 40)[0]))
    # A middling case: near the interval of the logarithm.
    low, high = ratio_interval((0.6, 100), (0.3, 100))
    error = 1.96 * np.sqrt(0.4 / 60 + 0.7 / 30)
    assert (low, high) == pytest.approx((2 * np.exp(-error), 2 * np.exp(error)), rel=0.05)


def test_auroc_at_its_ends_and_within() -> None:
    # With one of each it is the interval of one right pair of one.
    assert auroc_interval(1, 1, 1) == pytest.approx(wilson(1, 1), abs=1e-9)
    low, high = auroc_interval(1, 30, 50)
    assert auroc_interval(0, 30, 50) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert high == 1 and 0.85 < low < 0.95
    low, high = auroc_interval(0.8, 40, 60)
    error = 1.96 * np.sqrt((0.16 + 39 * (0.8 / 1.2 - 0.64) + 59 * (2 * 0.64 / 1.8 - 0.64)) / 2400)  # Hanley & McNeil
    assert high - low == pytest.approx(2 * error, rel=0.1)


def test_the_formulas_cover_the_truth() -> None:
    """Where the bootstrap has no width most often: a good model on few events. The least and the
    mean are shown on failure."""
    draw = np.random.default_rng(0)
    hits: dict[str, list[bool]] = {"auroc": [], "lr": [], "f1": [], "o:e": []}
    for _ in range(400):
        # AUROC of two normals 3 apart, .983.
        low, high = auroc_interval(
            float(metrics.auroc(y := np.repeat([0.0, 1.0], [25, 10]), draw.normal(3 * y, 1))), 10, 25
        )
        hits["auroc"].append(low <= 0.98305 <= high)
        a, b = draw.binomial(20, 0.05), draw.binomial(40, 0.8)
        low, high = ratio_interval((a / 20, 20), (b / 40, 40))
        hits["lr"].append(low <= 0.05 / 0.8 <= high)
        s = draw.binomial(30, 0.9) / 30
        low, high = wilson(s * 30, 30)
        hits["f1"].append(2 * low / (1 + low) <= 2 * 0.9 / 1.9 <= 2 * high / (1 + high))
        low, high = wilson(draw.binomial(40, 0.05), 40)
        hits["o:e"].append(low / 0.05 <= 1 <= high / 0.05)
    for name, covered in hits.items():
        assert np.mean(covered) > 0.92, (name, np.mean(covered))


# --------------------------------------------------------------------------------------------------
# patients with many rows


def test_one_patient_gives_no_interval_at_all() -> None:
    draw = np.random.default_rng(0)
    y_true, risk = np.arange(100) % 2, draw.random(100)
    part = judged(y_true, {"tuned": risk, "lightgbm": risk**2}, clusters=np.zeros(100, int))
    assert [entry["reason"] for _, entry in entries(part["models"])] == [ONE_CLUSTER] * 2 * len(NAMES)
    assert all(entry["ci"] is None for _, entry in entries(part))
    assert all(ci is None for ci in part["decision_curve"]["models"]["tuned"]["ci"])
    assert "All rows are of one patient" in part["cautions"][0]
    assert part["verdict"]["decision"] == "no_difference_shown"


def test_few_patients_are_said_and_many_are_not() -> None:
    draw = np.random.default_rng(0)
    y_true, risk = np.arange(300) % 2, draw.random(300)
    for clusters, said in ((np.arange(300) // 30, True), (np.r_[np.zeros(200, int), 1 + np.arange(100)], True),
                           (np.arange(300) // 10, False), (np.arange(300), False)):  # fmt: skip
        assert ("cautions" in judged(y_true, {"tuned": risk}, clusters)) == said


def test_rows_of_one_patient_count_as_one_where_nothing_varies() -> None:
    y_true = np.repeat([0, 1], [60, 40])
    part = judged(y_true, {"tuned": 0.1 + 0.8 * y_true}, clusters=np.arange(100) // 4)
    assert part["models"]["tuned"]["recall"]["ci"] == list(wilson(10, 10))
    assert worth(None, np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)
    assert worth(np.array([1.0, 1, 2])) == pytest.approx(16 / 6)
    assert worth(np.array([1.0, 1, 2]), np.array([0, 0, 1])) == 2
    assert worth(rows=np.array([True, False, True])) == 2


def test_bands_of_patients_are_as_wide_as_if_each_row_stood_once() -> None:
    draw = np.random.default_rng(1)
    y_true = draw.integers(0, 2, 260).astype(float)  # enough of both outcomes for all knots
    risk = 1 / (1 + np.exp(-(y_true - 0.5 + draw.normal(0, 1, 260))))
    at = curve_risks(risk)

    def widths(y: Array, p: Array, drawn_as: Resampling) -> tuple[float, float]:
        found = roc_band(y, p, drawn_as), calibration_band(y, p, at, drawn_as)
        roc, calibration = (float(np.nanmean(high - low)) for low, high in found)
        return roc, calibration

    four, patients = (np.repeat(y_true, 4), np.repeat(risk, 4)), np.repeat(np.arange(260), 4)
    once = widths(y_true, risk, Resampling())
    assert widths(*four, Resampling(clusters=patients)) == pytest.approx(once, rel=0.02)
    assert all(apart < 0.65 * whole for apart, whole in zip(widths(*four, Resampling()), once, strict=True))
    _, _, low, high = calibration_points(y_true, risk)
    _, _, low_4, high_4 = calibration_points(*four, None, patients)
    assert np.mean(high_4 - low_4) == pytest.approx(np.mean(high - low), rel=0.25)


# --------------------------------------------------------------------------------------------------
# biased replicates


def test_calibration_errors_have_an_interval_around_the_estimate() -> None:
    assert symmetric_interval(0.3, np.linspace(0.25, 0.45, 1001)) == pytest.approx((0.155, 0.445))
    assert symmetric_interval(0.1, np.linspace(0.3, 0.5, 1001)) == pytest.approx((0, 0.495))
    assert symmetric_interval(0.9, np.linspace(0.7, 0.9, 1001)) == pytest.approx((0.705, 1))
    rows = Judged(np.array([0.0, 1]), np.array([0.2, 0.7]))
    assert estimate("ici", 0.1, np.linspace(0.3, 0.5, 1001), rows).ci == pytest.approx([0, 0.495])
    assert estimate("brier", 0.1, np.linspace(0.3, 0.5, 1001), rows).ci == pytest.approx([0.1, 0.495])


@pytest.mark.parametrize("slope", [1.0, 0.6])
def test_the_interval_of_the_ici_covers_the_truth(slope: float) -> None:
    """Percentiles cover 0 % where the risks are right, the true ICI being 0, and 90 % where they
    are too extreme."""
    draw = np.random.default_rng(0)

    def sample(rows: int) -> tuple[Array, Array, Array]:
        log_odds = draw.normal(-0.5, 1.2, rows)
        share, risk = (1 / (1 + np.exp(-factor * log_odds)) for factor in (slope, 1))
        return (draw.random(rows) < share).astype(float), risk, np.abs(share - risk)

    truth, covered = float(sample(100_000)[2].mean()) if slope != 1 else 0.0, []
    for _ in range(60):
        y_true, risk, _ = sample(150)
        counts = draw.multinomial(150, np.full(150, 1 / 150), 120).astype(float)
        ci = symmetric_interval(float(metrics.ici(y_true, risk)[0]), metrics.ici(y_true, risk, counts))
        assert ci is not None
        covered.append(ci[0] <= truth <= ci[1])
    assert np.mean(covered) > 0.7 if slope == 1 else np.mean(covered) > 0.9


@pytest.mark.parametrize(
    ("ci", "written"),
    [
        ([0.8011, 0.9312], "0.801 to 0.931"),
        ([0.99996, 1.0], "0.99996 to 1.00000"),
        ([1.0, 1.0], None),
        (None, None),
        ([-1e-9, 2e-9], "-0.000000001 to 0.000000002"),
    ],
)
def test_an_interval_is_never_written_without_width(ci: Any, written: str | None) -> None:
    assert span(ci) == written

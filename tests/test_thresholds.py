"""Threshold rules: what each finds on rows where the right answer can be counted by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from cardiotune.evaluation.metrics import recall, specificity
from cardiotune.models.thresholds import NamedThreshold, fix
from cardiotune.settings import Threshold

Y = np.array([0, 0, 0, 1, 0, 1, 1, 0, 1, 1], float)
P = np.array([0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.55, 0.6, 0.8, 0.9])


def found(y: np.ndarray = Y, p: np.ndarray = P, **rule: object) -> float:
    return fix([Threshold.model_validate(rule)], y, p)[0].value


def test_a_named_value_is_taken_as_it_is() -> None:
    assert fix([Threshold(name="10 %", value=0.1), Threshold(value=0.075)], Y, P) == [
        NamedThreshold("10 %", 0.1),
        NamedThreshold("0.075", 0.075),
    ]


@pytest.mark.parametrize(("at", "value"), [(0.2, 0.9), (0.6, 0.55), (0.8, 0.4), (0.99, 0.25)])
def test_sensitivity_takes_the_highest_threshold_that_flags_enough(at: float, value: float) -> None:
    assert found(rule="sensitivity", at=at) == value
    assert recall(Y, P, threshold=value) >= at


def test_youden_and_net_benefit_agree_with_trying_every_threshold() -> None:
    draw = np.random.default_rng(0)
    y = (draw.random(400) < 0.2).astype(float)
    p = np.clip(np.round(draw.normal(0.3 + 0.2 * y, 0.15), 2), 0.01, 0.99)
    youden = {t: float(recall(y, p, threshold=t) + specificity(y, p, threshold=t)) for t in np.unique(p)}
    assert youden[found(y, p, rule="youden")] == pytest.approx(max(youden.values()))
    for at in (0.1, 0.3):
        benefit = {t: ((p >= t) & (y == 1)).sum() - at / (1 - at) * ((p >= t) & (y == 0)).sum() for t in np.unique(p)}
        assert benefit[found(y, p, rule="net_benefit", at=at)] == pytest.approx(max(benefit.values()))


@pytest.mark.parametrize(
    "rule", [{}, {"value": 0.1, "rule": "youden"}, {"rule": "sensitivity"}, {"value": 0.1, "at": 0.5}]
)
def test_half_given_rules_are_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Threshold.model_validate(rule)


def by_trying(rule: Threshold, y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> float:
    """Every threshold against every row: memory as rows squared."""
    candidates = np.unique(p)[::-1]
    flagged = p >= candidates[:, None]
    found, false = flagged @ (weight * y), flagged @ (weight * (1 - y))
    events, others = (weight * y).sum(), (weight * (1 - y)).sum()
    if rule.rule == "sensitivity":
        return float(candidates[np.argmax(found >= (rule.at or 0) * events)])
    if rule.rule == "youden":
        return float(candidates[np.argmax(found / max(events, 1) - false / max(others, 1))])
    return float(candidates[np.argmax(found - (rule.at or 0) / (1 - (rule.at or 0)) * false)])


RULES = [
    {"rule": "youden"},
    *({"rule": rule, "at": at} for rule in ("sensitivity", "net_benefit") for at in (0.1, 0.5, 0.95)),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_threshold_as_by_trying_each(rule: dict[str, object], levels: int, weighted: bool) -> None:
    for seed in range(8):
        draw = np.random.default_rng(seed)
        y = (draw.random(150) < (0.3 if seed else 1.0)).astype(float)  # first of one outcome only
        p = np.round(np.clip(draw.normal(0.4 + 0.15 * y, 0.2), 0, 1) * levels) / levels
        weight = 2.0 ** draw.integers(0, 4, 150) if weighted else np.ones(150)  # sums are exact
        asked = Threshold.model_validate(rule)
        assert fix([asked], y, p, weight if weighted else None)[0].value == by_trying(asked, y, p, weight)


def test_a_large_part_needs_little_time_and_memory() -> None:
    import tracemalloc

    draw = np.random.default_rng(0)
    p = draw.random(75_000)
    y = (draw.random(75_000) < p).astype(float)
    tracemalloc.start()
    for rule in RULES:
        found(y, p, **rule)
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    assert found(y, p, rule="youden") == pytest.approx(0.5, abs=0.05)

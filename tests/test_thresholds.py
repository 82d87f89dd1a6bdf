"""Threshold rules: what each finds on rows where the right answer can be counted by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from cardiotune.config import Threshold
from cardiotune.evaluation.metrics import recall, specificity
from cardiotune.evaluation.thresholds import fix

Y = np.array([0, 0, 0, 1, 0, 1, 1, 0, 1, 1], float)
P = np.array([0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.55, 0.6, 0.8, 0.9])


def found(y: np.ndarray = Y, p: np.ndarray = P, **rule: object) -> float:
    return fix([Threshold.model_validate(rule)], y, p)[0]["value"]


def test_a_named_value_is_taken_as_it_is() -> None:
    assert fix([Threshold(name="10 %", value=0.1), Threshold(value=0.075)], Y, P) == [
        {"name": "10 %", "value": 0.1},
        {"name": "0.075", "value": 0.075},
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

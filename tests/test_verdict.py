"""The verdict over many tables on which it is known what is true."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from cardiotune.evaluation import metrics
from cardiotune.evaluation.estimates import difference
from cardiotune.evaluation.intervals import bootstrap_counts
from cardiotune.evaluation.judgement import Estimate, Part
from cardiotune.evaluation.metrics import Array
from cardiotune.evaluation.verdict import RIVALS, _decide, verdict

FIVE = ("logistic_regression", "lightgbm", "spline_regression", "tfidf", "age_sex_logistic_regression")


def drawn(seed: int, rows: int, noise: float, rivals: Sequence[str], better: float = 1.0) -> Part:
    """A test part of models that are equally good: each sees the patients' true risk through a
    noise of its own, the rivals through `better` times as much."""
    draw = np.random.default_rng(seed)
    logit = draw.normal(-0.5, 1.2, rows)
    y_true = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(float)
    risks: dict[str, Array] = {}
    for model in ("tuned", *rivals):
        spread = noise if model == "tuned" else better * noise
        seen = logit + draw.normal(0, spread, rows)
        risks[model] = 1 / (1 + np.exp(0.5 - (seen + 0.5) * 1.44 / (1.44 + spread**2)))
    counts = np.vstack(list(bootstrap_counts(y_true, 150, seed)))
    of = {"auroc": metrics.auroc, "log_loss": metrics.log_loss}
    found = {
        model: {name: (float(f(y_true, risk)), np.asarray(f(y_true, risk, counts))) for name, f in of.items()}
        for model, risk in risks.items()
    }
    differences = {
        rival: {
            name: difference(
                found["tuned"][name][0] - found[rival][name][0], found["tuned"][name][1] - found[rival][name][1]
            )
            for name in of
        }
        for rival in rivals
    }
    models = {model: {"auroc": Estimate(values["auroc"][0])} for model, values in found.items()}
    return Part(rows, int(y_true.sum()), models, differences=differences)


def decided(parts: Sequence[Part]) -> Counter[str]:
    return Counter(verdict(part).decision for part in parts)


def test_with_five_equal_rivals_worse_comes_out_in_five_of_a_hundred_at_most() -> None:
    """In 2,000 such tables of 300 rows: 1.8 %. Without counting the comparisons: 13.8 %."""
    assert set(FIVE) <= set(RIVALS)
    parts = [drawn(seed, 300, 0.6, FIVE) for seed in range(200)]
    differences = [part.differences.values() for part in parts if part.differences]
    alone = sum(any(_decide(each["auroc"], each["log_loss"]) == "worse" for each in found) for found in differences)
    assert alone / len(parts) > 0.08
    found = decided(parts)
    assert found["worse"] / len(parts) <= 0.05
    assert found["better"] / len(parts) <= 0.025


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "noise"), [(68, 0.6), (300, 0.2), (300, 1.5), (1000, 0.6)])
def test_nor_more_often_with_other_sizes_and_noises(rows: int, noise: float) -> None:
    found = decided([drawn(10_000 + seed, rows, noise, FIVE) for seed in range(600)])
    assert found["worse"] / 600 <= 0.04 and found["better"] / 600 <= 0.02


def test_what_is_better_or_worse_is_still_found() -> None:
    better = [drawn(seed, 3000, 0.5, FIVE, better=2.4) for seed in range(10)]
    assert decided(better) == {"better": 10}
    worse = [drawn(seed, 3000, 1.2, FIVE, better=0.3) for seed in range(10)]
    assert decided(worse) == {"worse": 10}


def only(auroc: Estimate, log_loss: Estimate) -> Part:
    models = {model: {"auroc": Estimate(0.8)} for model in ("tuned", "lightgbm")}
    return Part(500, 250, models, differences={"lightgbm": {"auroc": auroc, "log_loss": log_loss}})


UNCLEAR = Estimate(0.001, (-0.02, 0.02))


@pytest.mark.parametrize(
    ("auroc", "decision"),
    [
        (Estimate(0.01, (-0.03, 0.05)), "too_small_to_judge"),
        (Estimate(0.001, (-0.018, 0.019)), "no_difference_shown"),  # narrow: no difference that matters
        (Estimate(0.005, (-0.005, 0.03)), "no_difference_shown"),  # narrower than the margin to both sides
        (Estimate(-0.04, (-0.09, 0.01)), "no_difference_shown"),  # wide, but no gain that matters
        (Estimate(-0.05, (-0.09, -0.01)), "worse"),  # wide, and clear
        (Estimate(0.05, (0.01, 0.09)), "better"),
    ],
)
def test_too_small_is_an_interval_too_wide_for_the_margin(auroc: Estimate, decision: str) -> None:
    found = verdict(only(auroc, Estimate(-0.001, (-0.02, 0.02))))
    assert found.decision == decision
    if decision == "too_small_to_judge":
        assert found.text.startswith("Too small to judge: the rows do not tell whether")
        assert "better than LightGBM by 0.02 or more" in found.text
        assert verdict(only(auroc, UNCLEAR), margin=0.05).decision == "no_difference_shown"


def test_one_of_many_that_is_clear_by_chance_is_told_as_it_is() -> None:
    """p = .011: clear where two comparisons are counted, and not where ten are."""
    clear = {"auroc": Estimate(-0.0215, (-0.038, -0.005)), "log_loss": UNCLEAR}
    unclear = {"auroc": Estimate(0.0, (-0.01, 0.01)), "log_loss": UNCLEAR}
    alone = verdict(only(**clear))
    assert alone.decision == "worse" and alone.text.endswith("for the language model).")
    models = {model: {"auroc": Estimate(0.8)} for model in ("tuned", *FIVE)}
    part = Part(500, 250, models, differences={name: clear if name == "lightgbm" else unclear for name in FIVE})
    found = verdict(part)
    assert found.decision == "no_difference_shown" and found.against == "logistic_regression"
    assert found.text.endswith(
        "By itself LightGBM would count as better; with all 5 classical models counted (Holm) that may be chance."
    )

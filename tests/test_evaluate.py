import json
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest

from cardiotune.errors import DataError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.evaluate import DIFFERENCES, _decide, evaluate_predictions, verdict
from cardiotune.evaluation.metrics import Array
from cardiotune.evaluation.predict import prediction_rows

SCHEMA = json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def cohort(n: int = 600, seed: int = 0) -> tuple[Array, Array]:
    """Outcomes, and a signal that a model may see through more or less noise."""
    draw = np.random.default_rng(seed)
    signal = draw.normal(0, 1.5, n)
    return (draw.random(n) < 1 / (1 + np.exp(-signal))).astype(int), signal


def noisy(signal: Array, noise: float, seed: int) -> Array:
    return 1 / (1 + np.exp(-(signal + np.random.default_rng([7, seed]).normal(0, noise, len(signal)))))


def predictions(
    y_true: Any, risks: dict[str, Array], part: str = "test", threshold: float = 0.5
) -> list[dict[str, Any]]:
    ids = [f"r{row}" for row in range(len(y_true))]
    return [
        row
        for name, risk in risks.items()
        for row in prediction_rows(name, ids, [part] * len(ids), list(y_true), risk, risk, threshold)
    ]


def judge(y_true: Any, risks: dict[str, Array], part: str = "test", threshold: float = 0.5) -> dict[str, Any]:
    """The judged part; every output made in this file must fit the schema and be strict JSON."""
    result = evaluate_predictions(predictions(y_true, risks, part, threshold), 200, 0)
    check(result)
    judged: dict[str, Any] = result["parts"][part]
    return judged


def check(result: dict[str, Any]) -> None:
    read_back = json.loads(json.dumps(result, allow_nan=False))  # ValueError on NaN and Infinity
    assert read_back == result
    VALIDATOR.validate(read_back)
    for part in result["parts"].values():
        for model in part["models"].values():
            for name, entry in model.items():
                if entry["ci"] is not None:
                    assert entry["ci"][0] <= entry["ci"][1], name


# ---------------------------------------------------------------------------------------------------------------------
# the schema


def test_the_schema_is_a_schema_and_accepts_real_output() -> None:
    VALIDATOR.check_schema(SCHEMA)
    y_true, signal = cohort()
    risks = {name: noisy(signal, 1, seed) for seed, name in enumerate(["prevalence", "lightgbm", "tuned"])}
    rows = predictions(y_true, risks) + predictions(y_true, risks, "validation")
    result = evaluate_predictions(rows, 100, 3)
    check(result)
    assert result["schema_version"] == 1
    assert result["interval"]["replicates"] == 100 and result["interval"]["seed"] == 3
    assert set(result["parts"]) == {"test", "validation"}
    assert set(result["parts"]["test"]["models"]["tuned"]) == set(metrics.NAMES)
    assert set(SCHEMA["$defs"]["model"]["required"]) == set(metrics.NAMES)
    assert set(SCHEMA["$defs"]["part"]["properties"]["differences"]["additionalProperties"]["required"]) == set(
        DIFFERENCES
    )


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (["schema_version"], 2),
        (["parts", "test", "n"], 0),
        (["parts", "test", "n"], 600.5),
        (["parts", "test", "models", "tuned", "auroc"], 0.8),
        (["parts", "test", "models", "tuned", "auroc", "value"], 1.2),
        (["parts", "test", "models", "tuned", "auroc", "value"], None),
        (["parts", "test", "models", "tuned", "auroc", "ci"], None),
        (["parts", "test", "models", "tuned", "auroc", "ci"], [0.1]),
        (["parts", "test", "models", "tuned", "brier", "ci"], [-0.1, 0.2]),
        (["parts", "test", "models", "tuned", "brier", "reason"], "none is needed"),
        (["parts", "test", "models", "tuned", "unheard_of"], {"value": "x", "ci": None}),
        (["parts", "test", "verdict", "decision"], "splendid"),
        (["parts", "test", "verdict", "decision"], "no_comparison"),
        (["parts", "test", "patients"], []),
        (["parts", "holdout"], {}),
        (["seed"], 0),
    ],
)
def test_the_schema_refuses_what_breaks_the_contract(where: list[str], wrong: Any) -> None:
    y_true, signal = cohort(100)
    result = evaluate_predictions(predictions(y_true, {n: noisy(signal, 1, 0) for n in ("lightgbm", "tuned")}), 100, 0)
    VALIDATOR.validate(result)
    place: Any = result
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(result)


@pytest.mark.parametrize(
    "missing", ["interval", "parts", "parts.test.differences", "parts.test.verdict", "parts.test.models.tuned.recall"]
)
def test_the_schema_asks_for_what_the_contract_names(missing: str) -> None:
    y_true, signal = cohort(100)
    result: Any = evaluate_predictions(
        predictions(y_true, {n: noisy(signal, 1, 0) for n in ("lightgbm", "tuned")}), 100, 0
    )
    *path, last = missing.split(".")
    place = result
    for key in path:
        place = place[key]
    del place[last]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(result)


# ---------------------------------------------------------------------------------------------------------------------
# undefined is null, with a reason


@pytest.mark.parametrize("outcome", [0, 1])
def test_a_part_with_one_outcome(outcome: int) -> None:
    _, signal = cohort(50)
    judged = judge([outcome] * 50, {"logistic_regression": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)})
    assert judged["models"]["tuned"]["auroc"] == {"value": None, "ci": None, "reason": "only one outcome in these rows"}
    assert judged["models"]["tuned"]["accuracy"]["value"] is not None
    assert judged["differences"]["logistic_regression"]["auroc"]["reason"] == "undefined for one of the two models"
    assert judged["verdict"] == {
        "decision": "no_comparison",
        "text": "These rows hold one outcome only, so no comparison can be made.",
    }


def test_a_constant_model_that_flags_no_row() -> None:
    y_true, signal = cohort()
    judged = judge(
        y_true, {"prevalence": np.full(600, 0.3), "lightgbm": noisy(signal, 1, 0), "tuned": np.full(600, 0.2)}
    )
    tuned = judged["models"]["tuned"]
    assert tuned["auroc"] == {"value": 0.5, "ci": [0.5, 0.5]}
    assert tuned["calibration_slope"]["reason"] == "the model gives every row the same risk"
    assert tuned["precision"]["reason"] == "no row is flagged at this threshold"
    assert tuned["recall"]["value"] == tuned["f1"]["value"] == 0
    assert judged["verdict"]["decision"] == "worse"


def test_no_row_flagged_is_the_reason_even_with_one_outcome() -> None:
    entry = judge([0] * 20, {"tuned": np.linspace(0.1, 0.3, 20)})["models"]["tuned"]["precision"]
    assert entry["reason"] == "no row is flagged at this threshold"


def test_a_model_that_parts_the_outcomes() -> None:
    y_true, _ = cohort(80)
    tuned = judge(y_true, {"tuned": 0.1 + 0.8 * y_true})["models"]["tuned"]
    assert tuned["auroc"] == {"value": 1, "ci": [1, 1]}
    assert tuned["calibration_slope"]["reason"] == "the risks part the outcomes completely"


def test_an_interval_that_most_replicates_leave_undefined() -> None:
    y_true, signal = cohort(60)
    risk = np.where(np.arange(60) == np.argmax(y_true), 0.9, 0.1 + 0.01 * np.arange(60) / 60)
    entry = judge(y_true, {"tuned": risk, "lightgbm": noisy(signal, 1, 0)})["models"]["tuned"]["precision"]
    # One row is flagged; a replicate lacks it with a chance of about 1 / e.
    assert entry["value"] == 1 and entry["ci"] is None
    assert entry["reason"] == "undefined in more than 2.5 % of the bootstrap replicates, so no interval"


def test_one_row() -> None:
    assert judge([1], {"tuned": np.array([0.8]), "lightgbm": np.array([0.4])})["n"] == 1


def test_risks_of_exactly_0_and_1() -> None:
    y_true, _ = cohort(200)
    hard = np.where(np.arange(200) % 7 == 0, 1 - y_true, y_true).astype(float)
    entry = judge(y_true, {"tuned": hard})["models"]["tuned"]
    assert 0 < entry["calibration_slope"]["value"] < 0.1
    assert entry["log_loss"]["value"] == pytest.approx(36.04 * 29 / 200, rel=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# rows


def rows_of_two_models() -> list[dict[str, Any]]:
    y_true, signal = cohort(60)
    return predictions(y_true, {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "model tuned does not cover the same rows of part test"),
        (lambda rows: rows[1:], "model tuned does not cover the same rows of part test"),
        (lambda rows: [*rows[:-2], rows[-1], rows[-2]], "in the same order"),
        (lambda rows: [*rows[:-1], {**rows[-1], "row_id": "other"}], "does not cover the same rows"),
        (lambda rows: [*rows[:-1], {**rows[-1], "y_true": 1 - rows[-1]["y_true"]}], "the same outcomes"),
        (lambda rows: [*rows[:-1], {**rows[-1], "y_true": None}], "does not cover the same rows"),
        (lambda rows: [*rows, rows[0], rows[60]], "a row_id stands twice in part test"),
        (lambda rows: [*rows[:-1], {**rows[-1], "y_prob": 1.1}], "model tuned, part test: y_true must be 0, 1 or null"),
        (lambda rows: [*rows[:-1], {**rows[-1], "y_prob": float("nan")}], "y_prob from 0 to 1"),
        (lambda rows: [{**row, "y_true": 2} for row in rows], "y_true must be 0, 1 or null"),
        (lambda rows: [*rows[:-1], {**rows[-1], "threshold": 0.3}], "model tuned, part test: rows have different thresholds"),
        (lambda rows: [{**row, "y_true": None} for row in rows], "no row with a known outcome"),
        (lambda rows: [], "no row with a known outcome"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        evaluate_predictions(change(rows_of_two_models()), 100, 0)
    assert "r59" not in str(caught.value)  # no id in a message


def test_unknown_outcomes_are_left_out() -> None:
    y_true, signal = cohort(200)
    risks = {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)}
    known = judge(y_true[:150], {name: risk[:150] for name, risk in risks.items()})
    partly = judge([*y_true[:150], *[None] * 50], risks)
    assert partly == known
    assert partly["n"] == 150 and partly["n_events"] == y_true[:150].sum()


def test_parts_are_judged_apart_and_only_test_has_a_verdict() -> None:
    y_true, signal = cohort(200)
    risks = {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)}
    others = {name: risk[:100] for name, risk in risks.items()}
    rows = predictions(y_true, risks) + predictions(y_true[:100], others, "validation")
    parts = evaluate_predictions(rows, 200, 0)["parts"]
    assert parts["test"] == judge(y_true, risks)
    assert parts["validation"] == judge(y_true[:100], others, "validation")
    assert "verdict" not in parts["validation"] and "differences" in parts["validation"]


def test_values_are_those_of_the_metrics_at_the_threshold_of_the_rows() -> None:
    y_true, signal = cohort()
    risk = noisy(signal, 1, 0).round(8)
    judged = judge(y_true, {"lightgbm": risk}, threshold=0.3)
    expected = metrics.all_metrics(y_true.astype(float), risk, threshold=0.3)
    assert {name: entry["value"] for name, entry in judged["models"]["lightgbm"].items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=1e-9
    )
    assert "differences" not in judged and "verdict" not in judged


def test_the_order_of_the_models_does_not_matter() -> None:
    y_true, signal = cohort(300)
    names = ["prevalence", "logistic_regression", "lightgbm", "zero_shot", "tuned"]
    risks = {name: noisy(signal, 1 + seed / 4, seed) for seed, name in enumerate(names)}
    risks["lightgbm"] = risks["logistic_regression"]  # a tie between the rivals
    forwards = judge(y_true, risks)
    assert judge(y_true, dict(reversed(risks.items()))) == forwards
    assert judge(y_true, {name: risks[name] for name in sorted(names)}) == forwards


def test_a_model_is_judged_the_same_whoever_stands_beside_it() -> None:
    y_true, signal = cohort(300)
    risks = {name: noisy(signal, 1, seed) for seed, name in enumerate(["lightgbm", "zero_shot", "tuned"])}
    assert (
        judge(y_true, {"lightgbm": risks["lightgbm"]})["models"]["lightgbm"]
        == judge(y_true, risks)["models"]["lightgbm"]
    )


# ---------------------------------------------------------------------------------------------------------------------
# differences and verdict


def test_differences_are_paired() -> None:
    y_true, signal = cohort()
    rival = noisy(signal, 1, 0).round(8)
    tuned = noisy(signal, 1, 0).round(2)  # nearly the same, so that their errors go together
    judged = judge(y_true, {"lightgbm": rival, "tuned": tuned})
    counts = np.vstack(list(metrics.bootstrap_counts(y_true.astype(float), 200, 0)))
    for name in DIFFERENCES:
        both = [metrics.all_metrics(y_true.astype(float), risk, counts)[name] for risk in (tuned, rival)]
        entry = judged["differences"]["lightgbm"][name]
        assert entry["ci"] == pytest.approx(np.percentile(both[0] - both[1], [2.5, 97.5]), abs=1e-9)
        values = [judged["models"][model][name] for model in ("tuned", "lightgbm")]
        assert entry["value"] == pytest.approx(values[0]["value"] - values[1]["value"])
        widths = [value["ci"][1] - value["ci"][0] for value in values]
        assert entry["ci"][1] - entry["ci"][0] < 0.4 * min(widths), name


def test_better() -> None:
    y_true, signal = cohort()
    judged = judge(
        y_true,
        {"lightgbm": noisy(signal, 3, 0), "logistic_regression": noisy(signal, 4, 1), "tuned": noisy(signal, 0, 2)},
    )
    assert judged["verdict"]["decision"] == "better"
    assert judged["verdict"]["against"] == "lightgbm"
    assert judged["verdict"]["text"].startswith("The tuned language model beats LightGBM: AUROC +0.")
    assert "(95 % CI +0." in judged["verdict"]["text"]


def test_worse() -> None:
    y_true, signal = cohort()
    judged = judge(
        y_true,
        {"lightgbm": noisy(signal, 4, 0), "logistic_regression": noisy(signal, 0, 1), "tuned": noisy(signal, 3, 2)},
    )
    assert judged["verdict"]["decision"] == "worse"
    assert judged["verdict"]["against"] == "logistic_regression"
    assert judged["verdict"]["text"].startswith(
        "The tuned language model is not worth it here: logistic regression is better (AUROC -0."
    )
    assert "for the language model)." in judged["verdict"]["text"]


def test_no_difference() -> None:
    y_true, signal = cohort()
    judged = judge(y_true, {"lightgbm": noisy(signal, 1, 2), "tuned": noisy(signal, 1, 3)})
    assert judged["verdict"]["decision"] == "no_difference_shown"
    assert (
        "not shown to be worth it here: it does not differ clearly from LightGBM (AUROC " in judged["verdict"]["text"]
    )
    assert judged["verdict"]["text"].endswith("LightGBM is far cheaper to fit, run and explain.")


def test_no_comparison() -> None:
    y_true, signal = cohort()
    judged = judge(
        y_true, {"prevalence": np.full(600, 0.5), "zero_shot": noisy(signal, 3, 0), "tuned": noisy(signal, 0, 1)}
    )
    assert judged["verdict"] == {
        "decision": "no_comparison",
        "text": "No classical model was run beside the tuned model, so nothing is shown.",
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_of_the_rival_is_never_better_or_worse(seed: int) -> None:
    y_true, signal = cohort(80, seed)
    rival = noisy(signal, 1, seed)
    weaker = noisy(signal, 9, seed + 1)
    for copied in (rival, rival.round(2), np.full(80, 0.5)):
        judged = judge(y_true, {"logistic_regression": copied, "tuned": copied.copy()})
        assert judged["verdict"]["decision"] == "no_difference_shown"
        assert all(
            entry == {"value": 0, "ci": [0, 0]} for entry in judged["differences"]["logistic_regression"].values()
        )
    closer_by_a_hair = rival + 1e-7 * (2 * y_true - 1)
    judged = judge(y_true, {"logistic_regression": rival, "tuned": closer_by_a_hair})
    assert judged["verdict"]["decision"] == "no_difference_shown"
    judged = judge(y_true, {"logistic_regression": weaker, "lightgbm": rival, "tuned": rival})
    assert judged["verdict"]["decision"] == "no_difference_shown"
    assert judged["verdict"]["against"] == "lightgbm"


def test_better_means_better_than_every_classical_model() -> None:
    # The rival with the higher AUROC has poor probabilities; the other one's are better than the tuned model's.
    y_true, signal = cohort(2000)
    tuned = noisy(signal, 1.2, 0)
    ranks_well = 1 / (1 + np.exp(-4 * np.log(tuned / (1 - tuned)) + 1))
    calibrated = 1 / (1 + np.exp(-0.62 * np.log(tuned / (1 - tuned))))
    judged = judge(y_true, {"lightgbm": ranks_well, "logistic_regression": calibrated, "tuned": tuned})
    assert judge(y_true, {"lightgbm": ranks_well, "tuned": tuned})["verdict"]["decision"] == "better"
    assert judged["verdict"]["decision"] == "worse"
    assert judged["verdict"]["against"] == "logistic_regression"


def test_a_rival_with_an_auroc_of_0_is_a_rival() -> None:
    y_true, signal = cohort(100)
    judged = judge(y_true, {"lightgbm": 0.9 - 0.8 * y_true, "tuned": noisy(signal, 1, 0)})
    assert judged["models"]["lightgbm"]["auroc"]["value"] == 0
    assert judged["verdict"]["decision"] == "better"


def test_few_events_are_said() -> None:
    y_true, signal = cohort(150)
    risks = {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)}
    text = judge(y_true, risks)["verdict"]["text"]
    assert text.endswith(
        f"With only 150 test rows, {y_true.sum()} of them events, the intervals are wide: read this as a first look."
    )
    rare = (np.arange(3000) % 60 == 0).astype(int)
    signal = np.random.default_rng(0).normal(2.0 * rare, 1)
    assert (
        "With only 3000 test rows, 50 of them events"
        in judge(rare, {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)})["verdict"]["text"]
    )
    y_true, signal = cohort(600)
    assert (
        "With only"
        not in judge(y_true, {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)})["verdict"]["text"]
    )


UP, DOWN, UNCLEAR, NONE = [0.01, 0.03], [-0.03, -0.01], [-0.01, 0.02], None
EXACT = [0.0, 0.0]
POSITIVE, NEGATIVE = 0.005, -0.005


@pytest.mark.parametrize(
    ("auroc", "auroc_ci", "log_loss", "log_loss_ci", "decision"),
    [
        (0.02, UP, -0.02, DOWN, "better"),
        (0.02, UP, NEGATIVE, UNCLEAR, "better"),
        (POSITIVE, UNCLEAR, -0.02, DOWN, "better"),
        (0.02, UP, 0.0, EXACT, "better"),
        (0.02, UP, POSITIVE, UNCLEAR, "no_difference_shown"),  # ranks better, but the probabilities point to worse
        (NEGATIVE, UNCLEAR, -0.02, DOWN, "no_difference_shown"),
        (0.02, UP, 0.02, UP, "no_difference_shown"),  # a contradiction
        (-0.02, DOWN, -0.02, DOWN, "no_difference_shown"),
        (POSITIVE, UNCLEAR, NEGATIVE, UNCLEAR, "no_difference_shown"),
        (0.0, EXACT, 0.0, EXACT, "no_difference_shown"),
        (1e-15, [1e-16, 1e-14], 0.0, EXACT, "no_difference_shown"),  # rounding
        (0.0004, [0.0001, 0.0006], -0.0004, [-0.0006, -0.0001], "no_difference_shown"),  # written as 0.000
        (0.02, UP, 0.0004, [0.0001, 0.0006], "better"),
        (0.02, NONE, -0.02, NONE, "no_difference_shown"),
        (-0.02, DOWN, 0.02, UP, "worse"),
        (-0.02, DOWN, NEGATIVE, UNCLEAR, "worse"),
        (POSITIVE, UNCLEAR, 0.02, UP, "worse"),
        (0.02, NONE, 0.02, UP, "worse"),
    ],
)
def test_decisions(auroc: float, auroc_ci: Any, log_loss: float, log_loss_ci: Any, decision: str) -> None:
    differences = {"auroc": {"value": auroc, "ci": auroc_ci}, "log_loss": {"value": log_loss, "ci": log_loss_ci}}
    assert _decide(**differences) == decision
    found = verdict(
        {
            "n": 500,
            "n_events": 250,
            "models": {"tuned": {"auroc": {"value": 0.7}}, "lightgbm": {"auroc": {"value": 0.7}}},
            "differences": {"lightgbm": differences},
        }
    )
    assert found["decision"] == decision
    words = {
        "better": "beats LightGBM",
        "worse": "is not worth it here",
        "no_difference_shown": "is not shown to be worth it here",
    }
    assert f"The tuned language model {words[decision]}" in found["text"]


def test_a_contradiction_is_said() -> None:
    y_true, signal = cohort(1500)
    sharp = noisy(signal, 0, 0)
    judged = judge(y_true, {"lightgbm": noisy(0.5 * signal, 0.6, 1), "tuned": sharp**8})
    assert judged["verdict"]["decision"] == "no_difference_shown"
    assert "its ranking and its probabilities point to different sides beside LightGBM" in judged["verdict"]["text"]


@pytest.mark.slow
def test_two_equally_good_models_are_seldom_told_apart() -> None:
    decisions = []
    for seed in range(150):
        y_true, signal = cohort(300, seed)
        decisions.append(
            judge(y_true, {"lightgbm": noisy(signal, 1, seed), "tuned": noisy(signal, 1, seed + 9999)})["verdict"][
                "decision"
            ]
        )
    assert decisions.count("better") <= 12
    assert decisions.count("worse") <= 16

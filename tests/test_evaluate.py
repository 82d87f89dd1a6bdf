import json
import time
from copy import deepcopy
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest

from cardiotune.errors import DataError
from cardiotune.evaluation import metrics
from cardiotune.evaluation.catalogue import DIFFERENCES, NAMES, SUBGROUPS, all_metrics
from cardiotune.evaluation.estimates import ALIKE, SAME, SAME_RISK
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.groups import judge_groups
from cardiotune.evaluation.intervals import (
    auroc_interval,
    bootstrap_counts,
    delong_interval,
    delong_test,
    percentile_interval,
    wilson,
)
from cardiotune.evaluation.judged import Judged
from cardiotune.evaluation.judgement import Estimate, Part
from cardiotune.evaluation.metrics import Array
from cardiotune.evaluation.verdict import _decide, verdict
from cardiotune.models.predictions import Prediction, prediction_rows
from cardiotune.models.thresholds import NamedThreshold
from oracles.ask import ask, golden

SCHEMA = json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


REPLICATES = 100
GROUP = {"column": "sex", "group": "woman", "n": 50, "n_events": 20, "suppressed": False, "models": {}}


def cohort(n: int = 600, seed: int = 0) -> tuple[Array, Array]:
    """Outcomes, and a signal that a model may see through more or less noise."""
    draw = np.random.default_rng(seed)
    signal = draw.normal(0, 1.5, n)
    return (draw.random(n) < 1 / (1 + np.exp(-signal))).astype(int), signal


def noisy(signal: Array, noise: float, seed: int) -> Array:
    return 1 / (1 + np.exp(-(signal + np.random.default_rng([7, seed]).normal(0, noise, len(signal)))))


def predictions(y_true: Any, risks: dict[str, Array], part: str = "test", threshold: float = 0.5) -> list[Prediction]:
    ids = [f"r{row}" for row in range(len(y_true))]
    return [
        row
        for name, risk in risks.items()
        for row in prediction_rows(name, ids, [part] * len(ids), list(y_true), risk, risk, threshold)
    ]


def judge(y_true: Any, risks: dict[str, Array], part: str = "test", threshold: float = 0.5) -> dict[str, Any]:
    """The judged part; every output made in this file must fit the schema and be strict JSON."""
    result = evaluate_predictions(predictions(y_true, risks, part, threshold), REPLICATES, 0)
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
                for ci in (entry["ci"], entry.get("delong_ci")):
                    assert ci is None or (ci[0] <= entry["value"] <= ci[1] and ci[0] < ci[1]), name


# --------------------------------------------------------------------------------------------------
# the schema


@cache
def _two_models() -> dict[str, Any]:
    y_true, signal = cohort(100)
    rows = predictions(y_true, {name: noisy(signal, 1, 0) for name in ("lightgbm", "tuned")})
    result = evaluate_predictions(rows, REPLICATES, 0)
    check(result)
    return result


def two_models() -> dict[str, Any]:
    """Real output, for a test to spoil."""
    return deepcopy(_two_models())


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
    assert set(result["parts"]["test"]["models"]["tuned"]) == set(NAMES)
    assert set(SCHEMA["$defs"]["model"]["required"]) == set(NAMES)
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
        (["parts", "test", "models", "tuned", "auroc", "delong_ci"], [0.5, 1.1]),
        (["parts", "test", "models", "tuned", "auroc", "other"], 1),
        (["parts", "test", "models", "tuned", "brier", "other"], 1),
        (["parts", "test", "models", "tuned", "scaled_brier", "value"], 1.2),
        (["parts", "test", "models", "tuned", "lr_negative", "value"], -1),
        (["parts", "test", "models", "tuned", "unheard_of"], {"value": "x", "ci": None}),
        (["parts", "test", "differences", "lightgbm", "auroc", "delong_p"], 2),
        (["parts", "test", "thresholds", "tuned"], []),
        (["parts", "test", "decision_curve", "treat_all"], [None]),
        (["parts", "test", "subgroups"], [{"column": "sex"}]),
        (["parts", "test", "subgroups"], [GROUP | {"n": 9}]),
        (["parts", "test", "subgroups"], [GROUP | {"n_events": 9}]),
        (["parts", "test", "subgroups"], [GROUP | {"suppressed": True}]),
        (["parts", "test", "verdict", "decision"], "splendid"),
        (["parts", "test", "verdict", "decision"], "no_comparison"),
        (["parts", "test", "patients"], []),
        (["parts", "holdout"], {}),
        (["seed"], 0),
    ],
)
def test_the_schema_refuses_what_breaks_the_contract(where: list[str], wrong: Any) -> None:
    result = two_models()
    place: Any = result
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(result)


@pytest.mark.parametrize(
    "missing",
    [
        "interval",
        "parts",
        "parts.test.subgroups",
        "parts.test.thresholds",
        "parts.test.differences",
        "parts.test.verdict",
        "parts.test.models.tuned.recall",
    ],
)
def test_the_schema_asks_for_what_the_contract_names(missing: str) -> None:
    result: Any = two_models()
    *path, last = missing.split(".")
    place = result
    for key in path:
        place = place[key]
    del place[last]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(result)


# --------------------------------------------------------------------------------------------------
# undefined is null, with a reason


@pytest.mark.parametrize("outcome", [0, 1])
def test_a_part_with_one_outcome(outcome: int) -> None:
    _, signal = cohort(50)
    judged = judge([outcome] * 50, {"logistic_regression": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)})
    nothing = {"value": None, "ci": None, "reason": "only one outcome in these rows"}
    assert judged["models"]["tuned"]["auroc"] == nothing | {"delong_ci": None}
    for name in ("scaled_brier", "ici", "e50", "e90", "emax", "lr_positive", "lr_negative"):
        assert judged["models"]["tuned"][name] == nothing, name
    assert judged["thresholds"]["tuned"][0]["specificity" if outcome else "sensitivity"] == nothing
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
    assert tuned["auroc"] == {"value": 0.5, "ci": None, "reason": SAME_RISK, "delong_ci": None}
    assert tuned["lr_positive"]["reason"].startswith("no row without the event is flagged")
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
    events = int(y_true.sum())
    assert tuned["auroc"] == {"value": 1, "ci": list(auroc_interval(1, events, 80 - events)), "delong_ci": None}
    assert tuned["auprc"] == {"value": 1, "ci": list(wilson(events, events))}
    assert tuned["recall"] == {"value": 1, "ci": list(wilson(events, events))}
    assert tuned["lr_negative"]["value"] == 0 and tuned["lr_negative"]["ci"][1] < 0.2
    assert tuned["brier"]["reason"] == tuned["f1_weighted"]["reason"] == SAME
    assert tuned["calibration_slope"]["reason"] == "the risks part the outcomes completely"


def test_an_interval_that_most_replicates_leave_undefined() -> None:
    y_true, signal = cohort(60)
    risk = np.where(np.arange(60) == np.argmax(y_true), 0.9, 0.1 + 0.01 * np.arange(60) / 60)
    patients = {f"r{row}": row if row > 1 else 0 for row in range(60)}
    rows = predictions(y_true, {"tuned": risk, "lightgbm": noisy(signal, 1, 0)})
    result = evaluate_predictions(rows, REPLICATES, 0, table=FromTable(clusters=patients))
    check(result)
    entry = result["parts"]["test"]["models"]["tuned"]["precision"]
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


# --------------------------------------------------------------------------------------------------
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
        (lambda rows: [*rows[:-1], replace(rows[-1], row_id="other")], "does not cover the same rows"),
        (lambda rows: [*rows[:-1], replace(rows[-1], y_true=1 - (rows[-1].y_true or 0))], "the same outcomes"),
        (lambda rows: [*rows[:-1], replace(rows[-1], y_true=None)], "does not cover the same rows"),
        (lambda rows: [*rows, rows[0], rows[60]], "a row_id stands twice in part test"),
        (lambda rows: [*rows[:-1], replace(rows[-1], y_prob=1.1)], "model tuned, part test: y_true must be 0, 1 or null"),
        (lambda rows: [*rows[:-1], replace(rows[-1], y_prob=float("nan"))], "y_prob from 0 to 1"),
        (lambda rows: [replace(row, y_true=2) for row in rows], "y_true must be 0, 1 or null"),
        (lambda rows: [*rows[:-1], replace(rows[-1], threshold=0.3)], "model tuned, part test: rows have different thresholds"),
        (lambda rows: [replace(row, y_true=None) for row in rows], "no row with a known outcome"),
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
    parts = evaluate_predictions(rows, REPLICATES, 0)["parts"]
    assert parts["test"] == judge(y_true, risks)
    assert parts["validation"] == judge(y_true[:100], others, "validation")
    assert "verdict" not in parts["validation"] and "differences" in parts["validation"]


def test_values_are_those_of_the_metrics_at_the_threshold_of_the_rows() -> None:
    y_true, signal = cohort()
    risk = noisy(signal, 1, 0).round(8)
    judged = judge(y_true, {"lightgbm": risk}, threshold=0.3)
    expected = all_metrics(y_true.astype(float), risk, threshold=0.3)
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


# --------------------------------------------------------------------------------------------------
# thresholds and decision curve


def test_thresholds_are_described() -> None:
    y_true, signal = cohort(400)
    risks = {"lightgbm": noisy(signal, 1, 0).round(8), "tuned": noisy(signal, 1, 1).round(8)}
    named = {"tuned": [NamedThreshold("low", 0.2), NamedThreshold("nobody", 1.0)]}
    result = evaluate_predictions(predictions(y_true, risks, threshold=0.4), REPLICATES, 0, thresholds=named)
    check(result)
    found = result["parts"]["test"]["thresholds"]
    assert [(entry["name"], entry["value"]) for entry in found["lightgbm"]] == [("decision", 0.4)]
    low, nobody = found["tuned"]
    assert (low["name"], low["value"], nobody["name"]) == ("low", 0.2, "nobody")
    risk, y = risks["tuned"], y_true.astype(float)
    tp = sum(p >= 0.2 and e == 1 for p, e in zip(risk, y_true, strict=True))
    fp = sum(p >= 0.2 and e == 0 for p, e in zip(risk, y_true, strict=True))
    events = int(y_true.sum())
    cells = {
        "sensitivity": (tp, events),
        "specificity": (400 - events - fp, 400 - events),
        "ppv": (tp, tp + fp),
        "npv": (400 - events - fp, 400 - tp - fp),
        "flagged": (tp + fp, 400),
    }
    for name, (count, size) in cells.items():
        assert low[name] == {"value": count / size, "ci": pytest.approx(wilson(count, size))}, name
    drawn = np.vstack(list(bootstrap_counts(y, REPLICATES, 0)))
    assert low["net_benefit"]["value"] == pytest.approx((tp - fp / 4) / 400)
    expected = np.percentile(metrics.net_benefit(y, risk, drawn, threshold=0.2), [2.5, 97.5])
    assert low["net_benefit"]["ci"] == pytest.approx(expected)
    assert low["lr_positive"]["value"] == pytest.approx((tp / events) / (fp / (400 - events)))
    assert low["lr_negative"]["value"] == pytest.approx((1 - tp / events) / (1 - fp / (400 - events)))
    assert nobody["ppv"]["reason"] == "no row is flagged at this threshold"
    assert nobody["net_benefit"]["reason"] == "a threshold of 1 weighs a false positive without bound"
    assert nobody["flagged"]["value"] == 0 and nobody["npv"]["value"] == pytest.approx(1 - events / 400)
    with pytest.raises(DataError, match="model tuned: a threshold is not from 0 to 1"):
        evaluate_predictions(predictions(y_true, risks), 20, 0, thresholds={"tuned": [NamedThreshold("x", 7.5)]})


def test_the_decision_curve_is_net_benefit_at_every_threshold() -> None:
    y_true, signal = cohort(300)
    risk = noisy(signal, 1, 0).round(8)
    curve = judge(y_true, {"tuned": risk})["decision_curve"]
    y, drawn = y_true.astype(float), np.vstack(list(bootstrap_counts(y_true.astype(float), REPLICATES, 0)))
    assert curve["thresholds"] == pytest.approx([place / 100 for place in range(1, 100)])
    found = curve["models"]["tuned"]
    assert len(found["ci"]) == len(found["net_benefit"]) == len(curve["treat_all"]) == 99
    for place in (0, 9, 49, 98):
        threshold = curve["thresholds"][place]
        assert found["net_benefit"][place] == pytest.approx(float(metrics.net_benefit(y, risk, threshold=threshold)))
        sample = metrics.net_benefit(y, risk, drawn, threshold=threshold)
        expected = None if (risk < threshold).all() else pytest.approx(np.percentile(sample, [2.5, 97.5]))
        assert found["ci"][place] == expected
        share = y.mean()
        assert curve["treat_all"][place] == pytest.approx(share - (1 - share) * threshold / (1 - threshold))


def test_delong_stands_beside_the_bootstrap() -> None:
    y_true, signal = cohort(300)
    risks = {"lightgbm": noisy(signal, 1, 0).round(8), "tuned": noisy(signal, 1, 1).round(8)}
    judged, y = judge(y_true, risks), y_true.astype(float)
    for name, risk in risks.items():
        assert judged["models"][name]["auroc"]["delong_ci"] == list(delong_interval(y, risk) or ())
    test, entry = delong_test(y, risks["tuned"], risks["lightgbm"]), judged["differences"]["lightgbm"]["auroc"]
    assert test is not None
    assert (entry["delong_p"], entry["delong_ci"]) == (test.p, list(test.ci))
    assert entry["value"] == pytest.approx(test.difference)
    assert set(judged["differences"]["lightgbm"]["brier"]) == {"value", "ci"}


# --------------------------------------------------------------------------------------------------
# clusters


def test_patients_with_many_rows_are_resampled_whole() -> None:
    y_true, signal = cohort(150)
    risks = {name: noisy(signal, 1, seed).round(8) for seed, name in enumerate(["lightgbm", "tuned"])}
    once = evaluate_predictions(predictions(y_true, risks), REPLICATES, 0)
    rows = predictions(np.repeat(y_true, 4), {name: np.repeat(risk, 4) for name, risk in risks.items()})
    patients = {f"r{row}": f"p{row // 4}" for row in range(600)}
    whole = evaluate_predictions(rows, REPLICATES, 0, table=FromTable(clusters=patients))
    apart = evaluate_predictions(rows, REPLICATES, 0)
    check(whole)
    assert whole["interval"]["method"] == "cluster bootstrap, percentile"
    assert "p3" not in json.dumps(whole).replace("delong_p", "")
    parts = [result["parts"]["test"] for result in (once, whole, apart)]

    def widths(*path: Any) -> list[float]:
        found: list[Any] = list(parts)
        for key in path:
            found = [entry[key] for entry in found]
        return [high - low for low, high in found]

    for name in ("auroc", "brier", "observed_expected", "f1"):
        single, clustered, ordinary = widths("models", "tuned", name, "ci")
        assert clustered == pytest.approx(single, rel=1e-6), name
        assert ordinary < 0.75 * single, name
    single, clustered, ordinary = widths("differences", "lightgbm", "auroc", "ci")
    assert clustered == pytest.approx(single, rel=1e-6) and ordinary < 0.65 * single
    for where in (("thresholds", "tuned", 0, "sensitivity", "ci"), ("models", "tuned", "recall", "ci")):
        single, clustered, ordinary = widths(*where)
        assert clustered > 1.5 * ordinary  # Wilson's would take the copies as independent
    assert parts[1]["models"]["tuned"]["auroc"]["delong_ci"] is None
    assert parts[1]["differences"]["lightgbm"]["auroc"]["delong_p"] is None


def test_patients_with_one_row_each_change_nothing_but_the_name() -> None:
    y_true, signal = cohort(80)
    rows = predictions(y_true, {"lightgbm": noisy(signal, 1, 0), "tuned": noisy(signal, 1, 1)})
    plain = evaluate_predictions(rows, 50, 0)
    for keys in ({f"r{row}": row for row in range(80)}, {f"r{row}": None for row in range(80)}):
        assert evaluate_predictions(rows, 50, 0, table=FromTable(clusters=keys))["parts"] == plain["parts"]


@pytest.mark.parametrize("asked", ["clusters", "subgroups"])
def test_a_row_that_the_table_does_not_know_is_refused(asked: str) -> None:
    known = {f"r{row}": "x" for row in range(59)}
    table = FromTable(clusters=known) if asked == "clusters" else FromTable({"sex": known})
    with pytest.raises(DataError, match="some predicted rows are not in the table") as caught:
        evaluate_predictions(rows_of_two_models(), 20, 0, table=table)
    assert "r59" not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# subgroups


def by_group(part: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(entry["column"], entry["group"]): entry for entry in part["subgroups"]}


def test_subgroups_are_judged_as_parts_of_their_own() -> None:
    y_true, signal = cohort(900)
    risks = {"lightgbm": noisy(signal, 1, 0).round(8), "tuned": noisy(signal, 1, 1).round(8)}
    ages = ["under 45", "45 to under 55", "100 and above", None]
    age = {f"r{row}": ages[row % 4] for row in range(900)}
    sex = {f"r{row}": "woman" if row % 3 else "man" for row in range(900)}
    result = evaluate_predictions(
        predictions(y_true, risks, threshold=0.3), REPLICATES, 0, table=FromTable({"Sex": sex, "Age": age})
    )
    check(result)
    groups = by_group(result["parts"]["test"])
    assert [group for _, group in groups] == ["man", "woman", *ages[:3], "missing"]
    for (column, group), entry in groups.items():
        labels = [(sex if column == "Sex" else age)[f"r{row}"] or "missing" for row in range(900)]
        rows = np.flatnonzero(np.array(labels) == group)
        assert (entry["n"], entry["n_events"]) == (len(rows), y_true[rows].sum())
        assert entry["suppressed"] is False
        y = y_true[rows].astype(float)
        for model, risk in risks.items():
            alone = all_metrics(y, risk[rows], threshold=0.3)
            found = {name: value["value"] for name, value in entry["models"][model].items()}
            assert found == pytest.approx(
                {
                    "auroc": float(alone["auroc"]),
                    "observed_expected": float(alone["observed_expected"]),
                    "calibration_slope": float(alone["calibration_slope"]),
                    "sensitivity": float(alone["recall"]),
                    "fnr": 1 - float(alone["recall"]),
                },
                abs=1e-9,
            )
    # Intervals: the rows of the group among the rows that were drawn.
    rows = np.arange(0, 900, 3)
    drawn = np.vstack(list(bootstrap_counts(y_true.astype(float), REPLICATES, 0)))[:, rows]
    expected = percentile_interval(metrics.auroc(y_true[rows].astype(float), risks["tuned"][rows], drawn))
    assert groups["Sex", "man"]["models"]["tuned"]["auroc"]["ci"] == pytest.approx(expected)


def check_groups(answer: dict[str, Any]) -> None:
    """Ours against what fairlearn says; it is asked as `oracles/judge.py` tells."""
    asked = answer["input"]
    y_true, risk = np.array(asked["y_true"], float), np.array(asked["y_prob"])
    models = {"tuned": Judged(y_true, risk, asked["threshold"])}
    found = judge_groups(y_true, models, {"x": asked["group"]}, [np.ones((2, len(risk)))])
    told = {entry.group: entry.models["tuned"] for entry in found if not entry.suppressed}
    assert told.keys() == answer["by_group"].keys() and len(told) > 1
    for group, theirs in answer["by_group"].items():
        assert {name: told[group][name].value for name in theirs} == pytest.approx(theirs)


def test_subgroups_are_what_fairlearn_said() -> None:
    check_groups(golden())


@pytest.mark.slow
def test_subgroups_agree_with_fairlearn() -> None:
    y_true, signal = cohort(500)
    group = ["abc"[row % 3] for row in range(500)]
    check_groups(ask(y_true=y_true, y_prob=noisy(signal, 1, 0), group=group, thresholds=[0.5], threshold=0.4))


def grouped(sizes: dict[str, tuple[int, int]]) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """The judged part and its groups, for groups of so many rows and events."""
    labels = [group for group, (n, _) in sizes.items() for _ in range(n)]
    y_true = [int(place < events) for n, events in sizes.values() for place in range(n)]
    risk = np.random.default_rng(0).random(len(labels))
    keys = {f"r{row}": label for row, label in enumerate(labels)}
    result = evaluate_predictions(predictions(y_true, {"tuned": risk}), 20, 0, table=FromTable({"x": keys}))
    check(result)
    return result["parts"]["test"], by_group(result["parts"]["test"])


def test_a_small_group_and_one_more_are_not_told() -> None:
    _, groups = grouped({"a": (9, 4), "b": (60, 30), "c": (40, 20), "d": (80, 40)})
    for group in ("a", "c"):  # with c shown, a would be the whole less the others
        entry = groups["x", group]
        assert entry | {"group": ""} == {
            "column": "x", "group": "", "n": None, "n_events": None, "suppressed": True, "models": {},
        }  # fmt: skip
    assert groups["x", "b"]["n"] == 60 and groups["x", "d"]["n_events"] == 40


def test_small_groups_that_are_few_rows_together_hide_one_more() -> None:
    _, groups = grouped({"a": (2, 1), "b": (3, 1), "c": (40, 20), "d": (80, 40)})
    assert [group for (_, group), entry in groups.items() if entry["n"] is None] == ["a", "b", "c"]
    _, groups = grouped({"a": (6, 1), "b": (7, 1), "c": (40, 20), "d": (80, 40)})
    assert [group for (_, group), entry in groups.items() if entry["n"] is None] == ["a", "b"]


@pytest.mark.parametrize("events", [1, 9, 51, 59])
def test_few_events_or_non_events_of_a_group_are_not_told(events: int) -> None:
    _, groups = grouped({"a": (60, events), "b": (70, 35), "c": (90, 45)})
    for group in ("a", "b"):
        entry = groups["x", group]
        assert (entry["n"], entry["n_events"], entry["suppressed"]) == (60 if group == "a" else 70, None, True)
        assert set(entry["models"]["tuned"]) == set(SUBGROUPS)
        for value in entry["models"]["tuned"].values():
            assert value["value"] is None and value["ci"] is None and value["reason"].startswith("withheld")
    assert groups["x", "c"]["n_events"] == 45


def test_ten_rows_ten_events_or_none_are_told() -> None:
    _, groups = grouped({"a": (20, 10), "b": (10, 0), "c": (90, 45)})
    assert [(entry["n"], entry["n_events"]) for entry in groups.values()] == [(20, 10), (10, 0), (90, 45)]
    assert groups["x", "b"]["models"]["tuned"]["auroc"]["reason"] == "only one outcome in these rows"


# --------------------------------------------------------------------------------------------------
# differences and verdict


def test_differences_are_paired() -> None:
    y_true, signal = cohort()
    rival = noisy(signal, 1, 0).round(8)
    tuned = noisy(signal, 1, 0).round(2)  # nearly the same, so that their errors go together
    judged = judge(y_true, {"lightgbm": rival, "tuned": tuned})
    counts = np.vstack(list(bootstrap_counts(y_true.astype(float), REPLICATES, 0)))
    for name in DIFFERENCES:
        both = [all_metrics(y_true.astype(float), risk, counts)[name] for risk in (tuned, rival)]
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
    assert judged["verdict"]["against"] == "logistic_regression", "the first of a fixed order, not by its results"
    assert judged["verdict"]["text"].startswith("The tuned language model beats logistic regression: AUROC +0.")
    assert "; and LightGBM too." in judged["verdict"]["text"]
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
    assert "for the language model), 2 classical models counted (Holm)." in judged["verdict"]["text"]


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


@pytest.mark.parametrize("seed", range(3))
def test_a_copy_of_the_rival_is_never_better_or_worse(seed: int) -> None:
    y_true, signal = cohort(80, seed)
    rival = noisy(signal, 1, seed)
    weaker = noisy(signal, 9, seed + 1)
    for copied in (rival, rival.round(2), np.full(80, 0.5)):
        judged = judge(y_true, {"logistic_regression": copied, "tuned": copied.copy()})
        assert judged["verdict"]["decision"] == "no_difference_shown"
        differences = judged["differences"]["logistic_regression"]
        nothing = {"value": 0, "ci": None, "reason": ALIKE}
        assert differences["auroc"] == nothing | {"delong_p": None, "delong_ci": None}
        assert all(differences[name] == nothing for name in DIFFERENCES if name != "auroc")
    closer_by_a_hair = rival + 1e-7 * (2 * y_true - 1)
    judged = judge(y_true, {"logistic_regression": rival, "tuned": closer_by_a_hair})
    assert judged["verdict"]["decision"] == "no_difference_shown"
    judged = judge(y_true, {"logistic_regression": weaker, "lightgbm": rival, "tuned": rival})
    assert judged["verdict"]["decision"] == "no_difference_shown"
    assert judged["verdict"]["against"] == "lightgbm"


def test_better_means_better_than_every_classical_model() -> None:
    # One rival ranks worse; the other ranks the same, and its probabilities are better than the
    # tuned model's.
    y_true, signal = cohort(2000)
    tuned = noisy(signal, 1.2, 0)
    ranks_worse = noisy(signal, 2.4, 1)
    calibrated = 1 / (1 + np.exp(-0.62 * np.log(tuned / (1 - tuned))))
    judged = judge(y_true, {"lightgbm": ranks_worse, "logistic_regression": calibrated, "tuned": tuned})
    assert judge(y_true, {"lightgbm": ranks_worse, "tuned": tuned})["verdict"]["decision"] == "better"
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
        (POSITIVE, UNCLEAR, -0.02, DOWN, "no_difference_shown"),  # it alone was calibrated
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
    differences = {"auroc": Estimate(auroc, auroc_ci), "log_loss": Estimate(log_loss, log_loss_ci)}
    assert _decide(**differences) == decision
    models = {name: {"auroc": Estimate(0.7)} for name in ("tuned", "lightgbm")}
    found = verdict(Part(500, 250, models, differences={"lightgbm": differences})).as_json()
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


@pytest.mark.slow
def test_a_large_part_takes_less_than_a_minute() -> None:
    draw = np.random.default_rng(0)
    risk = draw.random(34_000)
    y_true = (draw.random(34_000) < risk).astype(int)
    rows = predictions(y_true, {"tuned": risk})
    thresholds = {"tuned": [NamedThreshold(str(value), value) for value in (0.075, 0.1, 0.5)]}
    start = time.perf_counter()
    result = evaluate_predictions(rows, 1000, 0, thresholds=thresholds)
    seconds = time.perf_counter() - start
    check(result)
    assert all(entry["ci"] is not None for entry in result["parts"]["test"]["models"]["tuned"].values())
    assert seconds < 60, f"{seconds:.0f} s"

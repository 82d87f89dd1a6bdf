import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.data.cohort import EVENT, Cohort
from cardiotune.data.prepare import Prepared
from cardiotune.data.schema import synthetic_rows
from cardiotune.errors import DataError
from cardiotune.evaluation.explain import (
    ExplainSettings,
    Explanations,
    explain,
    grid_of,
    language_risk,
    leave_one_field_out,
    partial_dependence,
    permutation_importance,
)
from cardiotune.evaluation.metrics import auroc, log_loss
from cardiotune.models.baselines import BASELINES, FITS
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.language import LanguageScorer, probabilities
from cardiotune.settings import DataConfig, SerializeConfig
from conftest import TOY_COLUMNS, build_toy_table, toy_config

DATA = DataConfig.model_validate({"path": "table.csv", "columns": TOY_COLUMNS})


def toy() -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Typed rows, events, parts."""
    table = build_toy_table()
    frame = table.with_columns(pl.col("age", "sbp").cast(pl.Float64), pl.col("sex", "smoker").cast(pl.String))
    parts = np.array(["train", "train", "train", "validation", "test"], dtype="<U10")[np.arange(240) % 5]
    return frame, table["disease"].to_numpy(), parts


def importance(
    risk_of: Any, frame: pl.DataFrame, events: np.ndarray, data: DataConfig, **asked: Any
) -> list[dict[str, Any]]:
    found = permutation_importance(risk_of, frame, events, data, ExplainSettings(**asked))
    return [{key: value for key, value in entry.as_json().items() if key != "model"} for entry in found]


def by_age(frame: pl.DataFrame) -> np.ndarray:
    """A risk that depends on the age alone; 0.5 where it is not recorded."""
    risk: np.ndarray = 1 / (1 + np.exp(-0.1 * (frame["age"].fill_null(58).to_numpy() - 58)))
    return risk


def test_all_importance_is_where_the_risk_comes_from() -> None:
    frame, events, _ = toy()
    found = {entry["column"]: entry for entry in importance(by_age, frame, events, DATA)}
    assert list(found) == DATA.features
    assert found["age"]["value"] > 0.1 and found["age"]["ci"][0] > 0 and found["age"]["log_loss_ci"][0] > 0
    for name in ("sex", "sbp", "smoker", "pain"):
        assert found[name]["value"] == found[name]["log_loss"] == 0 and found[name]["ci"] is None  # nothing varies


def test_importance_against_the_slow_way() -> None:
    frame, events, _ = toy()
    found = importance(by_age, frame, events, DATA, rows=1000, repeats=1, seed=3)
    draw = np.random.default_rng(3)
    shuffled = frame.with_columns(frame["age"][draw.permutation(240)])  # age is the first column
    y = events.astype(float)
    assert found[0]["value"] == pytest.approx(float(auroc(y, by_age(frame)) - auroc(y, by_age(shuffled))))
    assert found[0]["log_loss"] == pytest.approx(float(log_loss(y, by_age(shuffled)) - log_loss(y, by_age(frame))))


def test_one_outcome_has_no_auroc() -> None:
    frame, _, _ = toy()
    found = importance(by_age, frame, np.zeros(240, int), DATA)
    assert found[0]["value"] is None and found[0]["ci"] is None and found[0]["log_loss"] is not None


def test_a_model_is_asked_once_and_about_so_many_rows() -> None:
    frame, events, _ = toy()
    asked: list[int] = []

    def counting(rows: pl.DataFrame) -> np.ndarray:
        asked.append(rows.height)
        return by_age(rows)

    importance(counting, frame, events, DATA, rows=50, repeats=2)
    assert asked == [50 * (1 + 5 * 2)]


@pytest.mark.parametrize("name", ["logistic_regression", "lightgbm"])
def test_a_table_model_is_that_of_the_report(name: str) -> None:
    frame, events, parts = toy()
    risk_of = FITS[name](LabelledRows(frame, events, parts, DATA)).risks
    reported = BASELINES[name](LabelledRows(frame, events, parts, DATA))
    some = [7, 3, 200, 4]
    np.testing.assert_allclose(risk_of(frame[some]), reported[some], rtol=1e-12)
    found = importance(risk_of, frame, events, DATA, rows=240)
    strongest = sorted(found, key=lambda entry: -entry["value"])[:2]
    assert {entry["column"] for entry in strongest} == {"age", "sbp"}, "the outcome was made from these two"


def test_one_patients_fields() -> None:
    row = pl.DataFrame({"age": [78.0], "sex": ["1"], "sbp": [150.0], "smoker": ["0"], "pain": [None]}).cast(
        {"pain": pl.String}
    )
    found = leave_one_field_out(by_age, row, DATA).as_json()
    assert found["risk"] == pytest.approx(1 / (1 + np.exp(-2)))
    age, *others = found["fields"]
    assert [entry["column"] for entry in others] == ["sex", "sbp", "smoker"], "what is missing cannot be left out"
    assert found["not_recorded"] == ["pain"]
    assert age == {"column": "age", "risk": pytest.approx(0.5), "change": pytest.approx(0.5 - found["risk"])}
    assert all((entry["risk"], entry["change"]) == (found["risk"], 0) for entry in others)
    assert "78.0" not in json.dumps(found) and "150.0" not in json.dumps(found), "no value of the patient"
    nothing = leave_one_field_out(by_age, row.clear(n=1), DATA).as_json()
    assert nothing == {"risk": 0.5, "fields": [], "not_recorded": DATA.features}
    with pytest.raises(DataError, match="give one row"):
        leave_one_field_out(by_age, pl.concat([row, row]), DATA)


def test_partial_dependence_is_the_risk_at_each_value() -> None:
    frame, _, _ = toy()
    found = partial_dependence(by_age, frame, DATA, {"age": [40.0, 58.0, 70.0], "sex": ["0", "1"]})
    assert found["age"] == pytest.approx([1 / (1 + np.exp(-0.1 * (x - 58))) for x in (40, 58, 70)])
    assert found["sex"][0] == found["sex"][1] == pytest.approx(by_age(frame).mean())


def test_grids_stay_within_training() -> None:
    frame, _, _ = toy()
    grid = grid_of(frame["age"], DATA, 6)
    assert grid == sorted(set(grid)) and len(grid) == 6 and all(value == round(value) for value in grid)
    assert frame["age"].min() < grid[0] and grid[-1] < frame["age"].max()  # type: ignore[operator]
    assert grid_of(frame["sex"], DATA) == ["0", "1"]
    assert grid_of(frame["sex"].filter(frame["sex"] == "1"), DATA) == ["1"], "no code that training lacks"
    assert grid_of(pl.Series("age", [None, None], dtype=pl.Float64), DATA) == []
    columns = {"ward": {"type": "categorical"}, "note": {"type": "text"}, "y": {"role": "target"}}
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    assert grid_of(pl.Series("ward", ["A"] * 30 + ["B"] * 30 + ["Mr Rare"]), data) == ["A", "B"]
    assert grid_of(pl.Series("note", ["a", "b"]), data) == []


def test_a_derived_column_follows_what_is_shuffled() -> None:
    columns: dict[str, Any] = {
        "height": {"type": "numeric"},
        "weight": {"type": "numeric"},
        "bmi": {"type": "numeric", "derive": {"function": "bmi", "inputs": ["height", "weight"]}},
        "y": {"role": "target"},
    }
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    draw = np.random.default_rng(0)
    weight = draw.uniform(50, 130, 150)
    frame = pl.DataFrame({"height": [170.0] * 150, "weight": weight, "bmi": (weight / 1.7**2).round(1)})
    found = importance(lambda f: f["bmi"].to_numpy() / 100, frame, (weight > 90).astype(int), data)
    assert {entry["column"] for entry in found if entry["value"] > 0.1} == {"weight", "bmi"}


def test_the_toy_language_model_beside_lightgbm(toy_model: Path) -> None:
    config = toy_config(toy_model)
    frame, events, parts = toy()
    scorer = LanguageScorer(config, toy_model, None)
    models = {
        "tuned": language_risk(
            lambda texts: probabilities(scorer.logits(texts)), DATA.features, DATA, config.serialize
        ),
        "lightgbm": FITS["lightgbm"](LabelledRows(frame, events, parts, DATA)).risks,
    }
    prepared = Prepared(Cohort(frame.with_columns(pl.Series(EVENT, events)), []), parts, [], [])
    asked = ExplainSettings(rows=30, repeats=2, curves=2, grid_points=4)
    typed = explain(models, prepared, DATA, asked)
    assert Explanations.from_json(typed.as_json()) == typed
    found = typed.as_json()
    assert {(e["column"], e["model"]) for e in found["importance"]} == {(c, m) for c in DATA.features for m in models}
    assert len(found["partial_dependence"]) == 2
    for curve in found["partial_dependence"]:
        assert set(curve) == {"column", "unit", "x", "models"}
        for line in curve["models"].values():
            assert len(line) == len(curve["x"]) and np.isfinite(line).all() and 0 < min(line) <= max(line) < 1
    json.dumps(found, allow_nan=False)
    assert explain(models, prepared, DATA, asked) == typed


def test_language_risk_writes_the_texts_of_the_run() -> None:
    seen: list[str] = []

    def score(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.linspace(0.1, 0.9, len(texts))

    rows = synthetic_rows(DATA, 3, 0)
    twice = pl.concat([rows, rows])
    risks = language_risk(score, ["sbp", "age"], DATA, SerializeConfig())(twice)
    assert len(seen) == 3 and seen[0].startswith("systolic pressure"), "equal texts are scored once, in the run's order"
    assert risks.tolist() == [0.1, 0.5, 0.9, 0.1, 0.5, 0.9]


def test_ready_text_has_no_columns_to_explain() -> None:
    data = DataConfig.model_validate({"path": "t.csv", "columns": {"note": {"role": "text"}, "y": {"role": "target"}}})
    frame = pl.DataFrame({"note": ["a", "b"]})
    prepared = Prepared(Cohort(frame.with_columns(pl.Series(EVENT, [0, 1])), []), np.array(["test", "train"]), [], [])
    found = explain({"tuned": by_age}, prepared, data).as_json()
    assert found["importance"] == found["partial_dependence"] == [] and "ready made" in found["note"]

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.config import configs_folder, read_yaml
from cardiotune.data import schema
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.schema import synthetic_rows
from cardiotune.evaluation.probes import (
    CONVERSIONS,
    READY_TEXT,
    TEMPLATE,
    Probed,
    ProbeSettings,
    _raised,
    probe,
    with_values,
)
from cardiotune.models.language import LanguageScorer, probabilities
from cardiotune.settings import DataConfig, SerializeConfig
from conftest import TOY_COLUMNS, toy_config

DATA = DataConfig.model_validate({"path": "table.csv", "columns": TOY_COLUMNS})
COMPACT = SerializeConfig()


def toy_rows(rows: int = 60) -> pl.DataFrame:
    return synthetic_rows(DATA, rows, 0)


def reads(pattern: str, weight: float = 0.002) -> Any:
    """A scorer that reads one number in the text, wherever it stands; 0 where it is not
    recorded."""

    def score(texts: list[str]) -> np.ndarray:
        found = [re.search(pattern, text) for text in texts]
        return np.array([0.2 + weight * float(hit[1]) if hit else 0.1 for hit in found])

    return score


def tried(
    score: Any, frame: pl.DataFrame, order: list[str], data: DataConfig, serialize: SerializeConfig, **asked: Any
) -> dict[str, Any]:
    """The content of `probes.json`."""
    found = probe(score, frame, order, data, serialize, ProbeSettings(**asked))
    assert Probed.from_json(found.as_json()) == found
    return found.as_json()


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in found["probes"]}


def by_column(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["column"]: entry for entry in found["monotonicity"]}


def test_a_scorer_that_ignores_the_order_does_not_move() -> None:
    found = tried(reads(r"pressure:? (?:is )?(\d+)"), toy_rows(), DATA.features, DATA, COMPACT)
    assert by_name(found)["order"]["max_change"] == 0
    assert by_name(found)["style: list"]["max_change"] == by_name(found)["style: sentence"]["max_change"] == 0


def test_a_scorer_that_reads_the_place_moves_with_the_order() -> None:
    def place(texts: list[str]) -> np.ndarray:
        return np.array([text.index("smoker") / len(text) for text in texts])

    entry = by_name(tried(place, toy_rows(), DATA.features, DATA, COMPACT))["order"]
    assert 0 < entry["mean_change"] <= entry["p95_change"] <= entry["max_change"] <= 1
    assert entry["n"] == 60


def test_only_the_field_that_is_read_matters_when_missing() -> None:
    rows = toy_rows()
    found = by_name(tried(reads(r"pressure (\d+)"), rows, DATA.features, DATA, COMPACT))
    assert found["missing: sbp"]["mean_change"] > 0.1
    assert found["missing: sbp"]["n"] == rows["sbp"].count() < 60, "patients who have no value lose none"
    assert all(found[f"missing: {name}"]["max_change"] == 0 for name in ("age", "sex", "smoker", "pain"))


def test_the_rows_that_move_most_are_named() -> None:
    rows = toy_rows().with_columns(pl.Series(ROW_ID, [f"r{row}" for row in range(60)]))
    found = tried(reads(r"pressure (\d+)", -0.002), rows, DATA.features, DATA, COMPACT)
    known = rows.drop_nulls("sbp").sort("sbp")
    # Without a pressure the risk is 0.1, with it 0.2 less 0.002 a mmHg: the highest pressures move
    # most.
    worst = by_name(found)["missing: sbp"]["worst"]
    assert [entry["row_id"] for entry in worst] == known[ROW_ID].reverse()[:3].to_list() or known[
        "sbp"
    ].is_duplicated().any()
    assert [entry["change"] for entry in worst] == pytest.approx(
        (0.002 * known["sbp"].reverse()[:3] - 0.1).abs().to_list()
    )
    assert by_name(found)["missing: age"]["worst"] == [], "nobody moved"
    falls = by_column(found)["sbp"]["worst"]
    assert len(falls) == 3 and all(entry["change"] == pytest.approx(0.02) for entry in falls)
    assert {entry["row_id"] for entry in falls} <= set(rows[ROW_ID])


def test_rounding_and_units_by_hand() -> None:
    rows = pl.DataFrame({"age": [61.0], "sex": ["0"], "sbp": [147.0], "smoker": ["1"], "pain": ["none"]})
    found = by_name(tried(reads(r"pressure ([\d.]+)", 0.002), rows, DATA.features, DATA, COMPACT))
    assert found["rounding"]["mean_change"] == pytest.approx(0.002 * 3)  # 147 is written as 150
    assert found["unit: sbp"]["mean_change"] == pytest.approx(0.002 * (147 - 19.6))  # 147 mmHg are 19.6 kPa
    assert found["unit: sbp"]["text"] == "sbp in kPa in place of mmHg"
    assert found["names"]["max_change"] > 0, "the scorer knows the phrase only"


@pytest.mark.parametrize(
    ("name", "unit", "step", "said"),
    [
        ("sbp", None, 10, "10 mmhg"),
        ("sbp", "mmHg", 10, "10 mmHg"),
        ("sbp", "kPa", 1.3, "1.3 kPa"),
        ("sbp_kpa", None, 10 / 7.500617, "10 mmhg"),
        ("age", None, 5, "5 years"),
        ("age_days", None, 1826.25, "5 years"),
        ("age", "days", 1826.25, "1826.25 days"),
    ],
)
def test_a_finding_is_raised_in_its_own_unit(name: str, unit: str | None, step: float, said: str) -> None:
    columns = {name: {"type": "numeric", "unit": unit}, "y": {"role": "target"}}
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    (rise,) = _raised(pl.DataFrame({name: [20.0, 30.0, 1e6]}), [name], data)
    assert rise.steps[0][name][0] == pytest.approx(20 + step) and f"raised by {said}, " in rise.text


def test_conversions_go_there_and_back() -> None:
    for there in CONVERSIONS:
        back = [c for c in CONVERSIONS if (c.unit, c.other, c.substance) == (there.other, there.unit, there.substance)]
        assert len(back) == 1 and there.factor * back[0].factor == pytest.approx(1, abs=1e-4)


def test_the_substance_decides_between_mass_and_amount() -> None:
    numeric = {"type": "numeric", "unit": "mg/dL"}
    columns = {
        "ldl": numeric,
        "glucose": numeric,
        "urea": numeric,
        "cholesterol_mg_dl": numeric,
        "y": {"role": "target"},
    }
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    frame = pl.DataFrame({name: [100.0] for name in data.features})
    seen: list[str] = []

    def listen(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.full(len(texts), 0.5)

    found = by_name(tried(listen, frame, data.features, data, COMPACT))
    assert "unit: ldl" in found and "unit: glucose" in found
    assert "unit: urea" not in found and "unit: cholesterol_mg_dl" not in found, "its name would contradict the unit"
    assert any("ldl 2.6 mmol/L" in text for text in seen) and any("glucose 5.6 mmol/L" in text for text in seen)


def test_a_model_that_rises_is_never_wrong_and_one_that_falls_always() -> None:
    rows = toy_rows()
    rising = by_column(tried(reads(r"pressure (\d+)"), rows, DATA.features, DATA, COMPACT))
    falling = by_column(tried(reads(r"pressure (\d+)", -0.002), rows, DATA.features, DATA, COMPACT))
    assert set(rising) == {"age", "sbp"}
    assert rising["sbp"]["share_wrong"] == 0 and falling["sbp"]["share_wrong"] == 1
    assert falling["age"]["share_wrong"] == 0
    within = rows.filter(pl.col("sbp") + 10 <= 260).height
    assert rising["sbp"]["n"] == within, "nobody is raised beyond the range"


def test_a_fall_within_the_tolerance_is_not_wrong() -> None:
    score = reads(r"pressure (\d+)", -0.002)  # falls by 0.02 a step
    rows = toy_rows()
    for tolerance, share in ((0.019, 1), (0.021, 0)):
        found = by_column(tried(score, rows, DATA.features, DATA, COMPACT, tolerance=tolerance))
        assert found["sbp"]["share_wrong"] == share


def test_the_cardio_table_is_recognised_and_derived_columns_follow() -> None:
    data = cardio()
    rows = cardio_rows(data)
    texts: list[str] = []

    def listen(asked: list[str]) -> np.ndarray:
        texts.extend(asked)
        return np.full(len(asked), 0.5)

    found = by_column(tried(listen, rows, data.features, data, COMPACT))
    assert set(found) == {"cholesterol", "gluc", "age_years", "ap_hi", "weight"}
    stage = r"systolic blood pressure 1[4-9]\d mmHg.*blood pressure category (normal|elevated|hypertension stage 1)"
    assert not [text for text in texts if re.search(stage, text)], "a raised pressure takes its category along"


def cardio() -> DataConfig:
    tree = read_yaml(configs_folder() / "datasets" / "cardio.yaml")["data"]
    return DataConfig.model_validate({**tree, "path": "cardio.csv"})


def cardio_rows(data: DataConfig) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    n = 40
    cells = {
        "gender": draw.choice(["1", "2"], n),
        "cholesterol": draw.choice(["1", "2", "3"], n),
        "gluc": draw.choice(["1", "2", "3"], n),
        **{name: draw.choice(["0", "1"], n) for name in ("smoke", "alco", "active")},
        "age": draw.integers(12000, 24000, n).astype(float),
        "ap_hi": draw.integers(100, 180, n).astype(float),
        "ap_lo": np.full(n, 70.0),
        "height": np.full(n, 170.0),
        "weight": draw.integers(50, 120, n).astype(float),
    }
    return schema.derive(pl.DataFrame(cells), data)


def test_with_values_derives_anew_only_what_depends() -> None:
    data = cardio()
    rows = cardio_rows(data)
    heavier = with_values(rows, pl.Series("weight", [200.0] * rows.height), data)
    assert heavier["bmi"].to_list() == [69.2] * rows.height
    assert heavier.drop("weight", "bmi").equals(rows.drop("weight", "bmi"))
    older = with_values(rows, pl.Series("age_years", [80.0] * rows.height), data)
    assert older["age_years"].to_list() == [80.0] * rows.height, "a derived column that is set stays set"


def test_ready_text_has_no_probes() -> None:
    columns = {"note": {"role": "text"}, "y": {"role": "target"}}
    data = DataConfig.model_validate({"path": "t.csv", "columns": columns})
    found = tried(reads("x"), pl.DataFrame({"note": ["a"]}), [], data, COMPACT)
    assert found == {"probes": [], "monotonicity": [], "note": READY_TEXT}


def test_a_template_keeps_its_order() -> None:
    template = SerializeConfig(style="template", template="pressure {{ sbp }}, {{ age }} years")
    found = tried(reads(r"pressure (\d+)"), toy_rows(), DATA.features, DATA, template)
    assert found["note"] == TEMPLATE and not {"order", "names"} & set(by_name(found))
    assert by_name(found)["missing: sbp"]["mean_change"] > 0


def test_the_toy_language_model_gives_finite_numbers_without_values(toy_model: Path) -> None:
    config = toy_config(toy_model)
    scorer = LanguageScorer(config, toy_model, None)
    rows = toy_rows(30)
    calls: list[int] = []

    def score(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return probabilities(scorer.logits(texts))

    found = tried(score, rows, config.data.features, config.data, config.serialize, rows=12, orders=2)
    assert len(calls) == 1 and calls[0] < 12 * 20
    assert by_name(found)["order"]["max_change"] > 0, "random weights do mind the order"
    numbers = [
        v for e in [*found["probes"], *found["monotonicity"]] for v in e.values() if not isinstance(v, str | list)
    ]
    assert np.isfinite(numbers).all()
    json.dumps(found, allow_nan=False)
    assert found == tried(score, rows, config.data.features, config.data, config.serialize, rows=12, orders=2)

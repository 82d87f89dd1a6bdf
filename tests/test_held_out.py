"""A table that nobody has harmonised: its columns matched by name and automatically, local models,
and a verdict for both cases."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from cardiotune import stages
from cardiotune.comparators import COMPARATORS, having
from cardiotune.config import compose, load_config
from cardiotune.data.matching import Matching, automatic, by_name
from cardiotune.data.pool import pooled_rows
from cardiotune.data.prepare import Prepared, read_prepared
from cardiotune.errors import ConfigError
from cardiotune.evaluation import schema
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.models.baselines import BASELINES
from cardiotune.models.held_out import local, matched
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.predictions import prediction_rows
from cardiotune.report import done
from cardiotune.report.record import read_record
from cardiotune.settings import Config

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
HELD_OUT = having(lambda one: one.held_out)
LOGISTIC = [name for name in HELD_OUT if COMPARATORS[name].like == "logistic_regression"]


@cache
def hospitals(test: str = "va") -> tuple[Config, Prepared]:
    tables = {name: {"part": "test"} if name == test else None for name in HOSPITALS}
    use = {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}
    config = compose({"name": "pooled", "tables": tables, "use": use}, [], "experiment.yaml", Path())
    return config, read_prepared(config)


def found(way: Any, test: str) -> tuple[Matching, dict[str, str]]:
    """The matching of a hospital to the others, and the one of its dictionary."""
    config, prepared = hospitals(test)
    training = [source for source in prepared.sources if source.name != test]
    table = next(source for source in prepared.sources if source.name == test)
    truth = {name: table.data.columns[name].same_as or name for name in table.data.features}
    # As if nobody had said it.
    columns = {n: c.model_copy(update={"same_as": None, "same_codes": None}) for n, c in table.data.columns.items()}
    blind = type(table)(
        table.name, table.rows, table.frame, table.data.model_copy(update={"columns": columns}), table.order
    )
    return way(training, blind, config.data), truth


@pytest.mark.parametrize(
    ("test", "columns"),
    [
        ("cleveland", {"age", "sex", "thal", "trestbps", "chol"}),
        ("hungarian", {"age_years", "gender", "systolic_pressure_rest", "cholesterol_mmol_l"}),
        ("switzerland", {"pat_age", "pat_sex", "sbp_admission"}),
        ("va", {"AGE", "SEX", "THAL", "ADMIT_SBP", "TOTAL_CHOL"}),
    ],
)
def test_by_name_only_what_is_called_alike_or_known(test: str, columns: set[str]) -> None:
    matching, truth = found(by_name, test)
    right = {name: match.quantity for name, match in matching.columns.items() if match}
    assert set(right) == columns
    assert right == {name: truth[name] for name in columns}


@pytest.mark.parametrize("test", HOSPITALS)
def test_words_units_and_values_find_the_columns_and_codes_of_a_hospital(test: str) -> None:
    matching, truth = found(automatic, test)
    assert {name: match and match.quantity for name, match in matching.columns.items()} == truth
    assert all(code == other for match in matching.columns.values() if match for code, other in match.codes.items())


def test_the_rows_are_those_that_the_dictionary_gives() -> None:
    config, prepared = hospitals("hungarian")
    table = next(source for source in prepared.sources if source.name == "hungarian")
    like = prepared.cohort.frame[table.rows]
    assert found(automatic, "hungarian")[0].brought(table, config.data, like).equals(like)
    some = found(by_name, "hungarian")[0].brought(table, config.data, like)
    assert some["chol"].equals(pooled_rows("hungarian", table.frame, table.data, config.data)["chol"]), "in mg/dL"
    assert some["cp"].null_count() == len(like)


def test_neither_outcomes_nor_same_as_are_read() -> None:
    config, prepared = hospitals("va")
    training, table = list(prepared.sources[:-1]), prepared.sources[-1]
    silent = type(table)(
        table.name, table.rows, table.frame.select(table.data.features), table.data, table.order
    )  # a column that is asked for and not there would be an error
    assert automatic(training, silent, config.data) == automatic(training, table, config.data)
    assert automatic(training, table, config.data) == found(automatic, "va")[0]


def test_codes_in_other_words_and_letters_are_matched(tmp_path: Path) -> None:
    """`vrouw` and `heer` beside woman and man; a quantity that training does not know stays
    alone."""
    draw = np.random.default_rng(0)
    first = ["age,sugar,smoker,y", *(f"{40 + i % 30},{90 + i % 50},{'nvx'[i % 3]},{i // 2 % 2}" for i in range(90))]
    other = [
        "leeftijd,glucose_mmol,rookt,lengte,krank",
        *(
            f"{40 + i % 30},{5 + (i % 50) / 18:.2f},{'012'[i % 3]},{draw.normal(170, 8):.0f},{i // 2 % 2}"
            for i in range(90)
        ),
    ]
    for name, rows in (("first", first), ("other", other)):
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    smoking = {"n": "never smoked", "v": "former smoker", "x": "current smoker"}
    columns = {
        "age": {"type": "integer", "unit": "years"},
        "sugar": {"unit": "mg/dL", "phrase": "fasting glucose"},
        "smoker": {"type": "categorical", "codes": smoking, "phrase": "smoking"},
        "y": {"role": "target"},
    }
    theirs = {
        "leeftijd": {"type": "integer", "unit": "years"},
        "glucose_mmol": {"unit": "mmol/L", "phrase": "plasma glucose"},
        "rookt": {
            "type": "categorical",
            "codes": {"0": "smokes (current)", "1": "never", "2": "former"},
            "phrase": "smoking",
        },
        "lengte": {"unit": "cm"},
        "krank": {"role": "target"},
    }
    tables = {
        "first": {"data": {"path": str(tmp_path / "first.csv"), "columns": columns}},
        "other": {"part": "test", "data": {"path": str(tmp_path / "other.csv"), "columns": theirs}},
    }
    theirs["rookt"]["same_codes"] = {"0": "x", "1": "n", "2": "v"}
    theirs["rookt"]["same_as"] = "smoker"
    use = {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}
    config = compose({"name": "two", "tables": tables, "use": use}, [], "experiment.yaml", Path())
    training, table = read_prepared(config).sources
    matching = automatic([training], table, config.data)
    right = {"leeftijd": "age", "glucose_mmol": "sugar", "rookt": "smoker", "lengte": None}
    assert {name: match and match.quantity for name, match in matching.columns.items()} == right
    assert matching.columns["rookt"] and matching.columns["rookt"].codes == {"0": "x", "1": "n", "2": "v"}


@pytest.mark.parametrize("way", [by_name, automatic])
def test_values_come_in_the_pools_unit_whoever_knows_what_is_measured(tmp_path: Path, way: Any) -> None:
    """`lipid` says no substance; it is known by the pooled column's name, and never taken raw."""
    draw = np.random.default_rng(1)
    tables: dict[str, Any] = {}
    for name, column, unit, mean, spread in (
        ("first", "cholesterol", "mg/dL", 215, 40),
        ("second", "lipid", "mmol/L", 5.56, 1),
        ("held", "lipid", "mmol/L", 5.56, 1),
    ):
        values = draw.normal(mean, spread, 80).round(2)
        rows = [f"age,{column},y", *(f"{40 + i % 30},{value},{i % 2}" for i, value in enumerate(values))]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
        same = {"same_as": "cholesterol"} if column == "lipid" else {}
        columns = {"age": {"unit": "years"}, column: {"unit": unit, **same}, "y": {"role": "target"}}
        tables[name] = {"data": {"path": str(tmp_path / f"{name}.csv"), "columns": columns}}
    tables["held"]["part"] = "test"
    use = {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}
    config = compose({"name": "units", "tables": tables, "use": use}, [], "experiment.yaml", Path())
    prepared = read_prepared(config)
    *training, table = prepared.sources
    matching = way(training, table, config.data)
    assert matching.columns["lipid"] and matching.columns["lipid"].quantity == "cholesterol"
    like = prepared.cohort.frame[table.rows.tolist()]
    brought = matching.brought(table, config.data, like)["cholesterol"]
    np.testing.assert_allclose(brought, table.frame["lipid"] * 38.665, rtol=1e-4)


def test_a_model_reads_the_matched_columns_alone() -> None:
    config, prepared = hospitals("va")
    rows = LabelledRows(prepared.cohort.frame, prepared.cohort.events, prepared.parts, config.data, 0)
    model, tables = BASELINES["logistic_regression"], prepared.sources
    given = model(rows)
    by_words = matched(model, rows, tables, {"va": found(automatic, "va")[0]})
    assert np.allclose(by_words, given), "for every column was found"
    few = matched(model, rows, tables, {"va": found(by_name, "va")[0]})
    assert not np.isnan(few).any()
    held = prepared.parts == "test"
    assert np.corrcoef(few[held], given[held])[0, 1] < 0.9
    nothing = matched(model, rows, tables, {"va": Matching("va", {"AGE": None})})
    assert len(np.unique(nothing)) == 1, "the prevalence"
    assert np.array_equal(matched(model, rows, tables, {}), given), "no table is held out"


def test_local_risks_are_of_models_that_have_not_seen_the_row() -> None:
    config, prepared = hospitals("va")
    events = prepared.cohort.events.copy()
    rows = LabelledRows(prepared.cohort.frame, events, prepared.parts, config.data, 0)
    seen: list[tuple[int, int, set[str]]] = []

    def model(known: LabelledRows) -> np.ndarray:
        seen.append((known.frame.height, int((known.parts == "test").sum()), set(known.data.features)))
        return BASELINES["prevalence"](known)

    risks = local(model, rows, prepared.sources, config.test_tables)
    assert not np.isnan(risks).any()
    folds = [entry for entry in seen if entry[0] == 200]
    assert [tested for _, tested, _ in folds] == [40] * 5
    assert folds[0][2] == set(prepared.sources[-1].data.features)
    hungarian = prepared.sources[1].rows
    train = prepared.parts[hungarian] == "train"
    assert risks[hungarian] == pytest.approx(events[hungarian][train].mean()), "of its own training rows"


# --------------------------------------------------------------------------------------------------
# where they run, and what is said


def test_they_run_only_where_a_table_is_held_out() -> None:
    in_one_way = {name for name in HELD_OUT if not COMPARATORS[name].views}
    assert {name for name in hospitals()[0].comparators if COMPARATORS[name].held_out} == in_one_way
    assert set(HELD_OUT) <= {*load_config("uci_hospitals", ["models=null"]).comparators}
    assert not set(HELD_OUT) & set(load_config("statlog_heart").comparators)
    with pytest.raises(ConfigError, match="models: lightgbm_local: for experiments of several tables"):
        load_config("statlog_heart", ["models=[lightgbm_local]"])


def test_a_run_says_what_was_matched(tmp_path: Path) -> None:
    tables = {name: {"part": "test"} if name == "va" else None for name in HOSPITALS}
    use = {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}
    tree = {"name": "m", "runs_dir": str(tmp_path), "tables": tables, "use": use, "evaluation": {"bootstrap": 100}}
    config = compose({**tree, "models": ["logistic_regression", *LOGISTIC]}, [], "experiment.yaml", Path())
    folder, prepared = stages.prepare(config)
    stages.predict(folder, prepared)
    judged = stages.evaluate(folder, prepared)["parts"]["test"]["models"]
    assert judged["logistic_regression_matched"]["auroc"]["value"] == judged["logistic_regression"]["auroc"]["value"]
    assert judged["logistic_regression_by_name"]["auroc"]["value"] < 0.7
    assert 0.5 < judged["logistic_regression_local"]["auroc"]["value"] < 0.75
    told = folder.read_manifest()["matching"]
    assert told["matched"]["va"]["columns"]["ST_DEPR"] == {"is": "oldpeak", "score": 0.76, "codes": {}}
    assert told["by name"]["va"]["as_given"] == 5
    said = done.matching(read_record(folder))
    assert "va: AGE is age" in said["Matched by name"] and "5 of 13 as same_as has them" in said["Matched by name"]
    assert "without a match MAX_HR" in said["Matched by name"]
    assert "13 of 13" in said["Matched automatically"]
    stages.report(folder)
    report = (folder.path / "report.md").read_text()
    assert "Matched automatically: va: AGE is age" in report
    assert "Logistic regression, local: of each table its own columns" in report


def verdict_of(risks: dict[str, np.ndarray], y_true: np.ndarray) -> dict[str, Any]:
    ids, parts = [f"r{i}" for i in range(len(y_true))], ["test"] * len(y_true)
    rows = [row for name, p in risks.items() for row in prediction_rows(name, ids, parts, y_true, p, p, 0.5)]
    result = evaluate_predictions(rows, 100, 0)
    jsonschema.Draft202012Validator(schema.read()).validate(json.loads(json.dumps(result)))
    found: dict[str, Any] = result["parts"]["test"]["verdict"]
    return found


def test_the_verdict_speaks_of_both_cases() -> None:
    draw = np.random.default_rng(0)
    y_true = draw.integers(0, 2, 600)

    def risk(signal: float) -> np.ndarray:
        return 1 / (1 + np.exp(-signal * (y_true - 0.5) - draw.normal(size=600)))

    risks = {"logistic_regression": risk(3.5), "logistic_regression_by_name": risk(0.3), "tuned": risk(1.5)}
    both = verdict_of({**risks, "lightgbm_local": risk(9)}, y_true)
    assert (both["decision"], both["against"]) == ("worse", "logistic_regression")
    other = both["unharmonised"]
    assert (other["decision"], other["against"]) == ("better", "logistic_regression_by_name")
    assert both["text"].startswith("If you can harmonise the columns: The tuned language model is not worth it here")
    assert "If you cannot harmonise the columns: The tuned language model beats logistic regression on" in both["text"]
    risks["logistic_regression_matched"] = risks["logistic_regression"]
    assert verdict_of(risks, y_true)["unharmonised"]["against"] == "logistic_regression_matched"
    alone = verdict_of({name: risks[name] for name in ("logistic_regression_by_name", "tuned")}, y_true)
    assert alone["text"].startswith("If you cannot harmonise") and "unharmonised" not in alone
    one = verdict_of({name: risks[name] for name in ("logistic_regression", "tuned")}, y_true)
    assert set(one) == {"decision", "against", "text"} and "harmonise" not in one["text"]

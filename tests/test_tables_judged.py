"""Predictions of several tables: judged together, a table apart, and over tables."""

import csv
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from cardiotune import stages
from cardiotune.audit.export_check import LEAVE, STAY, check_export
from cardiotune.config import compose
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.judgement import Judgement
from cardiotune.models.predictions import Prediction, prediction_rows, read_predictions
from cardiotune.report import places
from cardiotune.report.figures import by_place
from cardiotune.report.record import read_record

SCHEMA = json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))


def predicted(sizes: dict[str, int], part: str = "test", seed: int = 0) -> list[Prediction]:
    """Rows of tables of these sizes, half of them events, ranked well by one model and badly by
    another."""
    draw, rows = np.random.default_rng(seed), []
    names = np.repeat(list(sizes), list(sizes.values()))
    events = np.arange(len(names)) % 2
    for model, noise in (("tuned", 1.0), ("logistic_regression", 2.0)):
        risk = 1 / (1 + np.exp(-(2 * events - 1 + draw.normal(0, noise, len(names)))))
        ids = [f"{part}{row}" for row in range(len(names))]
        lines = prediction_rows(model, ids, [part] * len(names), events, risk, risk, 0.5)
        rows += [replace(line, table=str(name)) for line, name in zip(lines, names, strict=True)]
    return rows


def judged(rows: list[Prediction], table: FromTable | None = None) -> dict[str, Any]:
    result = evaluate_predictions(rows, 60, 1, table=table)
    jsonschema.Draft202012Validator(SCHEMA).validate(result)
    assert Judgement.from_json(result).as_json() == result
    return result


def test_every_table_is_judged_as_it_would_be_alone() -> None:
    rows = predicted({"a": 120, "b": 80, "c": 100})
    result = judged(rows)
    assert result["schema_version"] == 2
    test = result["parts"]["test"]
    assert list(test["tables"]) == ["a", "b", "c"]
    alone = judged([replace(row, table=None) for row in rows if row.table == "b"])
    assert alone["schema_version"] == 1 and "tables" not in alone["parts"]["test"]
    assert test["tables"]["b"] == {key: alone["parts"]["test"][key] for key in ("n", "n_events", "models")}
    assert test["models"] == judged([replace(row, table=None) for row in rows])["parts"]["test"]["models"]
    assert test["subgroups"] == []


def test_over_tables_there_is_a_mean_and_where_a_further_table_lies() -> None:
    test = judged(predicted({"a": 120, "b": 80, "c": 100}))["parts"]["test"]
    mean = test["over_tables"]["tuned"]["auroc"]
    areas = [table["models"]["tuned"]["auroc"]["value"] for table in test["tables"].values()]
    assert min(areas) <= mean["value"] <= max(areas) and mean["tables"] == 3
    assert mean["prediction"][0] <= mean["ci"][0] < mean["value"] < mean["ci"][1] <= mean["prediction"][1]
    assert set(test["over_tables"]["tuned"]) == {"auroc", "observed_expected", "calibration_slope"}
    two = judged(predicted({"a": 120, "b": 80}))["parts"]["test"]["over_tables"]["tuned"]["auroc"]
    assert two["value"] and two["prediction"] is None
    assert "over_tables" not in judged(predicted({"a": 120}))["parts"]["test"]


def test_a_small_table_is_withheld_and_with_it_what_would_tell() -> None:
    """Of 300 rows, 12 with 6 events: the next smallest is withheld too, for the rest would tell."""
    test = judged(predicted({"a": 12, "b": 80, "c": 100, "d": 108}))["parts"]["test"]
    assert test["tables"]["a"]["n_events"] is None
    assert test["tables"]["b"]["n_events"] is None
    assert test["tables"]["a"] == {"n": 12, "n_events": None, "models": {}}
    assert test["tables"]["c"]["n_events"] == 50
    assert test["over_tables"]["tuned"]["auroc"]["tables"] == 2
    few = judged(predicted({"a": 8, "b": 80, "c": 100}))["parts"]["test"]["tables"]
    assert few["a"] == {"n": None, "n_events": None, "models": {}} == few["b"]


def test_subgroups_and_tables_are_withheld_together() -> None:
    """A column that parts the rows as the tables do tells no more than they."""
    rows = predicted({"a": 12, "b": 80, "c": 100, "d": 108})
    labels = {row.row_id: row.table for row in rows}
    found = judged(rows, FromTable(subgroups={"table": labels}))["parts"]["test"]
    assert [group["group"] for group in found["subgroups"]] == ["a", "b", "c", "d"]
    assert [group["n_events"] for group in found["subgroups"]] == [t["n_events"] for t in found["tables"].values()]
    sexes = {row.row_id: "woman" if int(row.row_id[4:]) % 3 else "man" for row in rows}
    both = judged(rows, FromTable(subgroups={"sex": sexes}))["parts"]["test"]
    assert {group["column"] for group in both["subgroups"]} == {"sex"}


def test_validation_has_its_tables_and_no_mean() -> None:
    rows = predicted({"a": 60, "b": 60}, "validation") + predicted({"c": 60})
    parts = judged(rows)["parts"]
    assert list(parts["validation"]["tables"]) == ["a", "b"] and "over_tables" not in parts["validation"]


def test_the_verdict_names_what_was_held_out() -> None:
    rows = predicted({"a": 60, "b": 60, "c": 60})
    said = judged(rows, FromTable(held_out=("a", "b", "c")))["parts"]["test"]["verdict"]["text"]
    assert said.endswith(" Held out: a, b and c.")
    assert "Held out" not in judged(rows)["parts"]["test"]["verdict"]["text"]


def test_a_line_has_its_table_only_where_there_are_several() -> None:
    line = predicted({"a": 4})[0]
    assert list(line.as_json()) == [*list(replace(line, table=None).as_json()), "table"]
    assert Prediction.from_json(line.as_json()) == line


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Learned from two hospitals, judged at two others."""
    experiment = {
        "name": "hospitals",
        "runs_dir": str(tmp_path_factory.mktemp("runs")),
        "tables": {"cleveland": None, "switzerland": None, "va": {"part": "test"}, "hungarian": {"part": "test"}},
        "use": {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"},
        "models": ["logistic_regression", "prevalence"],
        "evaluation": {"bootstrap": 100},
    }
    return stages.run(compose(experiment, [], "hospitals.yaml", Path()))


def test_a_run_of_several_tables(hospitals: Any) -> None:
    rows = read_predictions(hospitals)
    assert {row.table for row in rows if row.part == "test"} == {"va", "hungarian"}
    metrics = json.loads(hospitals.metrics.read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(metrics)
    test = metrics["parts"]["test"]
    assert metrics["schema_version"] == 2 and test["n"] == 494
    assert {name: table["n"] for name, table in test["tables"].items()} == {"va": 200, "hungarian": 294}
    assert test["over_tables"]["logistic_regression"]["auroc"]["tables"] == 2


def test_the_report_shows_every_table(hospitals: Any) -> None:
    text = hospitals.report.with_suffix(".md").read_text()
    section = text.split("## Table by table")[1].split("\n## ")[0]
    assert "| va | 200 | 149 |" in section and "| hungarian | 294 | 106 |" in section
    assert "| mean over tables |" in section
    page = hospitals.report.read_text()
    assert '<h2 id="tables">Table by table</h2>' in page and "hospitals-tables.csv" in page


def test_the_figure_has_the_numbers_of_all_models(hospitals: Any) -> None:
    record = read_record(hospitals)
    drawing = by_place(record, places.tables(record))
    assert drawing is not None
    lines = list(csv.DictReader(drawing.data.splitlines()))
    mean = record.part.over_tables["logistic_regression"]["auroc"].value
    assert mean is not None
    found = [line for line in lines if line["table"] == "mean over tables" and line["metric"] == "auroc"]
    assert float(next(line for line in found if line["model"] == "logistic_regression")["value"]) == round(mean, 4)
    assert {line["table"] for line in lines} == {"va", "hungarian", "mean over tables"}


def test_aggregates_by_table_may_leave_and_rows_stay(hospitals: Any) -> None:
    verdicts = {entry.path: entry.verdict for entry in check_export(hospitals)}
    assert verdicts["metrics.json"] == verdicts["report.html"] == verdicts["report.md"] == LEAVE
    assert verdicts["predictions.jsonl"] == STAY

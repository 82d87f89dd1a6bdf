"""Classical models are saved with the run, and whoever has the run can use them."""

import json
from pathlib import Path

import lightgbm as gbm
import numpy as np
import polars as pl
import pytest
import yaml

from cardiotune import RiskModel, stages
from cardiotune.audit.export_check import ASK, check_export
from cardiotune.config import load_config
from cardiotune.data.prepare import read_prepared
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ConfigError, ModelError
from cardiotune.models.baselines import BASELINES
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.predictions import read_predictions
from cardiotune.models.regression import Regression
from cardiotune.models.saved import read_model, saved_models
from cardiotune.runs import RunFolder
from conftest import build_toy_table, write_toy_experiment
from serving import ROW, ROWS, serving
from test_cli import call

MODELS = ("age_sex_logistic_regression", "lightgbm", "logistic_regression", "prevalence", "spline_regression")
WORDS = ["calm", "tired", "chest", "pain", "again", "well"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without any language model; its table has a date, a code list of its own and a note."""
    folder = tmp_path_factory.mktemp("saved")
    file = write_toy_experiment(folder, folder / "no-model")
    experiment = yaml.safe_load(file.read_text())
    draw = np.random.default_rng(1)
    table = build_toy_table(400)
    notes = [" ".join(draw.choice(WORDS, 4)) if draw.random() > 0.1 else None for _ in range(400)]
    table = table.with_columns(
        seen=pl.date(2020, 1, 1) + pl.duration(days=pl.Series(draw.integers(0, 900, 400))),
        ward=pl.Series(
            [None if draw.random() < 0.1 else str(draw.choice(list("ABC"))) for _ in range(390)] + ["rare"] * 10
        ),
        note=pl.Series(notes),
    )
    table.write_csv(folder / "table.csv")
    columns = experiment["data"]["columns"]
    columns |= {"seen": {"type": "date"}, "ward": {"type": "categorical"}, "note": {"type": "text"}}
    experiment |= {"models": list(MODELS), "evaluation": {"bootstrap": 100, "keep_row_ids": True}}
    file.write_text(yaml.safe_dump(experiment))
    return stages.run(load_config(file, [])).path


def own_risks(run: Path, model: str) -> dict[str, float]:
    return {
        row.row_id: row.y_prob for row in read_predictions(RunFolder(run)) if row.model == model and row.part == "test"
    }


def test_every_model_that_reads_columns_is_kept_and_hashed(run: Path) -> None:
    folder = RunFolder(run)
    assert saved_models(folder) == list(MODELS)
    recorded = [name for name in folder.read_manifest()["files"] if name.startswith("classical/")]
    kept = sorted(f"classical/{file.name}" for file in folder.classical.iterdir())
    assert sorted(recorded) == kept == sorted([*(f"classical/{m}.json" for m in MODELS), "classical/lightgbm.txt"])


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_scores_as_the_run_did(run: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "risks.csv"
    done = call("predict", run, run.parent.parent / "table.csv", "--keep-ids", "--model", model, "--out", out)
    assert done.exit_code == 0, done.output
    scored = pl.read_csv(out, schema_overrides={"row_id": pl.String})
    again = dict(zip(scored["row_id"], scored["y_prob"], strict=True))
    reported = own_risks(run, model)
    assert len(reported) > 50
    np.testing.assert_allclose([again[row] for row in reported], list(reported.values()), rtol=1e-12)


def test_the_trees_are_lightgbms_own_and_tell_nothing_of_a_leafs_patients(run: Path) -> None:
    text = (run / "classical" / "lightgbm.txt").read_text()
    assert gbm.Booster(model_str=text).num_trees() > 1
    assert "leaf_count" not in text and "internal_count" not in text
    infos = next(line for line in text.splitlines() if line.startswith("feature_infos="))
    assert set(infos.removeprefix("feature_infos=").split()) == {"none"}, "no smallest and largest value"


def test_the_python_api_and_a_server_give_the_same(run: Path) -> None:
    rows = [{**row, "seen": "2020-05-01", "ward": "A", "note": "chest pain"} for row in ROWS[:5]]
    model = RiskModel.load(run, model="lightgbm")
    expected = model.predict_proba(rows)[:, 1]
    assert np.ptp(expected) > 0
    with serving(run, lambda: RowScorer.load(run, model="lightgbm")) as (client, _):
        answer = client.post("/v1/predict", json={"rows": rows}).json()
        np.testing.assert_array_equal([one["probability"] for one in answer["predictions"]], expected)
        card = client.get("/v1/model").json()
        assert card["model"] == "LightGBM" and card["base_model"] is None
        judged = json.loads((run / "metrics.json").read_text())["parts"]["test"]["models"]["lightgbm"]
        assert judged["auroc"]["value"] in [entry["value"] for entry in card["metrics"]]
        assert card["calibration_groups"]
        told = client.post("/v1/explain", json={"rows": rows[:1]}).json()
        assert told["risk"] == expected[0] and len(told["fields"]) == 8


def test_what_does_not_go_together_is_said_before_a_row_is_read(run: Path) -> None:
    for options, said in (
        (["--model", "stacked"], "not among the saved models"),
        (["--model", "lightgbm", "--site", "x"], "--site is of the tuned model"),
        (["--model", "lightgbm", "--zero-shot"], "name one model"),
        ([], "logistic_regression"),
    ):
        done = call("predict", run, "none.csv", *options)
        assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output
    with pytest.raises(ConfigError, match="does not go with --dataset"):
        RowScorer.load(run, dataset="cardio", model="lightgbm")


def test_a_changed_model_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("lightgbm.txt", "logistic_regression.json"):
        file = run / "classical" / name
        before = file.read_bytes()
        file.write_bytes(before.replace(b"1", b"2", 1))
        try:
            with pytest.raises(ModelError, match="differs from what the run recorded"):
                read_model(RunFolder(run), name.split(".")[0])
        finally:
            file.write_bytes(before)
    read_model(RunFolder(run), "lightgbm")


def test_a_model_is_looked_at_before_it_leaves(run: Path) -> None:
    judged = {entry.path: entry for entry in check_export(RunFolder(run))}
    for name in ("logistic_regression.json", "lightgbm.json", "lightgbm.txt"):
        assert judged[f"classical/{name}"].verdict == ASK, judged[f"classical/{name}"]


def test_the_report_prints_the_coefficients_and_withholds_those_of_few(run: Path) -> None:
    report, card, checklists = ((run / name).read_text() for name in ("report.md", "model_card.md", "checklists.md"))
    model = read_model(RunFolder(run), "logistic_regression")
    assert isinstance(model, Regression)
    age = next(v for t, v in zip(model.design.terms, model.coefficients, strict=True) if t.column == "age")
    for page in (report.split("## Coefficients: Logistic regression")[1], card.split("### Coefficients")[1]):
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in page.split("##")[0].splitlines()
            if line.startswith("|")
        ]
        table = {row[0]: row[1:] for row in rows}
        assert table["age, per years"] == [f"{age:.5g}", f"{np.exp(age):.3g}"]
        assert table["ward: rare"] == ["few patients", "few patients"]
        assert float(table["intercept"][0]) == pytest.approx(model.intercept, rel=1e-4)
        assert "chest" not in page.split("##")[0], "no word of a note"
    assert "Coefficients: Spline" not in report
    assert "the fitted classical models (classical/)" in checklists
    assert "cardiotune predict RUN TABLE --model logistic_regression scores new patients" in report


def test_a_risk_can_be_computed_from_the_printed_table(run: Path) -> None:
    report = (run / "report.md").read_text().split("## Coefficients: Age and sex only")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("|")]
    table = {row[0]: float(row[1]) for row in rows[2:5]}
    step = next(name for name in table if name.startswith("sex, per step from 0"))
    log_odds = table["intercept"] + table["age, per years"] * ROW["age"] + table[step] * int(ROW["sex"])
    row = {**ROW, "seen": "2020-05-01", "ward": "A", "note": "pain"}
    found = RowScorer.load(run, model="age_sex_logistic_regression").risks([row])[0]
    assert found == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-3)


def test_a_cross_validated_run_saves_what_all_rows_make(tmp_path: Path, run: Path) -> None:
    file = run.parent.parent / "experiment.yaml"
    overrides = [f"runs_dir={tmp_path}", "models=[logistic_regression,lightgbm]", "split.by=cross_validation"]
    config = load_config(file, [*overrides, "split.folds=2", "split.repeats=1"])
    found = stages.run(config)
    assert saved_models(found) == ["lightgbm", "logistic_regression"]
    cohort = read_prepared(config).cohort
    rows = LabelledRows(cohort.frame, cohort.events, np.full(cohort.frame.height, "train"), config.data, config.seed)
    for model in saved_models(found):
        np.testing.assert_allclose(read_model(found, model).risks(cohort.frame), BASELINES[model](rows), rtol=1e-12)
        assert RowScorer.load(found.path, model=model).thresholds, "those that the folds have fixed"


def test_one_row_alone_is_scored_as_among_others(run: Path) -> None:
    row = {**ROW, "seen": "2020-05-01", "ward": None, "note": None}
    for model in MODELS:
        scorer = RowScorer.load(run, model=model)
        together = scorer.risks([row, {**row, "age": 80}])
        assert scorer.risks([row])[0] == pytest.approx(together[0], rel=1e-12)

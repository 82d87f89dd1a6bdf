"""A table with notes and dates, all the way: the classical models read them, and what stands on
those still works."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cardiotune import stages, studies
from cardiotune.config import load_resolved
from cardiotune.data.prepare import read_prepared
from cardiotune.data.serialize import NOT_RECORDED
from cardiotune.files import read_json
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from conftest import TOY_COLUMNS, build_toy_table, toy_config

READERS = ("logistic_regression", "spline_regression", "lightgbm", "stacked")


def config(folder: Path, model: Path, **sections: object) -> Config:
    """The toy experiment with a note that decides the outcome, a word that only test rows have, and
    a date."""
    frame, draw = build_toy_table(), np.random.default_rng(0)
    words = {0: "slept well", 1: "had angina"}
    notes = [f"patient {words[event]}" if draw.random() < 0.95 else None for event in frame["disease"]]
    days = [(date(2021, 1, 1) + timedelta(int(day))).isoformat() for day in draw.integers(0, 700, frame.height)]
    frame.with_columns(note=pl.Series(notes), seen=pl.Series(days)).write_csv(folder / "table.csv")
    columns = {**TOY_COLUMNS, "note": {"type": "text"}, "seen": {"type": "date"}}
    data = {"path": str(folder / "table.csv"), "columns": columns}
    return toy_config(model, data=data, runs_dir=str(folder / "runs"), **sections)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> RunFolder:
    models = ["tuned", "age_sex_logistic_regression", "tfidf", *READERS]
    train = {"max_steps": 2, "batch_size": 16, "threads": 1}
    return stages.run(config(tmp_path_factory.mktemp("notes"), toy_model, models=models, train=train))


def test_a_deciding_note_is_used_by_all_that_read_columns(run: RunFolder) -> None:
    judged = read_json(run.metrics)["parts"]["test"]["models"]
    found = {model: entries["auroc"]["value"] for model, entries in judged.items()}
    assert all(found[model] > 0.95 for model in (*READERS, "tfidf")), found
    assert found["age_sex_logistic_regression"] < 0.9, "that of age and sex reads no note"


def test_the_audit_sees_what_the_note_tells(run: RunFolder) -> None:
    checks = {finding["check"]: finding["severity"] for finding in read_json(run.audit)["findings"]}
    assert "leak" in checks.values(), "a quick LightGBM reads it too, and is above what is believable"


def test_probes_and_explanations_work_on_notes_and_dates(run: RunFolder) -> None:
    assert studies.probe(run, 8)["probes"]
    found = studies.explain(run, 30)["importance"]
    worth = {entry["column"]: entry["value"] for entry in found if entry["model"] == "lightgbm"}
    assert worth.keys() == {*(set(TOY_COLUMNS) - {"patient_id", "disease"}), "note", "seen"}
    assert max(worth, key=lambda column: worth[column]) == "note"
    assert worth["note"] > 0.2
    stages.report(run)
    assert "free text as TF-IDF of words and pairs of words" in run.report.read_text()


def test_a_missing_note_is_scored(run: RunFolder, tmp_path: Path) -> None:
    table = pl.read_csv(read_config(run).data.path).with_columns(
        note=pl.lit(None, pl.String), seen=pl.lit("2030-05-01")
    )
    table.drop("disease").write_csv(tmp_path / "new.csv")
    assert studies.score_table(run, str(tmp_path / "new.csv"), False)["y_prob"].is_between(0, 1).all()
    texts = read_prepared(read_config(run)).texts
    assert any(f"note {NOT_RECORDED}" in text for text in texts), "as the classical models read it"


def read_config(run: RunFolder) -> Config:
    return load_resolved(run.config)


def test_a_learning_curve_of_models_that_read_notes(tmp_path: Path, toy_model: Path) -> None:
    settings = config(tmp_path, toy_model, models=["logistic_regression", "lightgbm"])
    curve, _ = studies.learn_curve(settings, [40, "all"], 1, tmp_path / "curve")
    found = {(point["model"], point["size"]): point["auroc"] for point in curve["points"]}
    assert found["logistic_regression", 40] > 0.9, "forty rows tell the word"
    assert found["lightgbm", "all"] > 0.95

"""Runs that differ in what they did: report, checklists and card say what was done, and not what
was not."""

import json
import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune import stages
from cardiotune.config import read_yaml
from cardiotune.evaluation.random_effects import across
from cardiotune.files import read_json
from cardiotune.models.predictions import read_predictions
from cardiotune.report.record import read_record
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from conftest import TOY_COLUMNS, build_toy_encoder, build_toy_table, toy_config

CLASSICAL = ["logistic_regression", "lightgbm"]
LANGUAGE_WORDS = ("language model:", "base model", "prompt", "fine-tun", "lora", "tuned llm", "checkpoint is chosen")


@dataclass(frozen=True)
class Said:
    """A finished run, and what it says of itself: the three documents, settings left aside."""

    run: RunFolder
    report: str
    checklists: str
    card: str

    @property
    def all(self) -> str:
        return "\n".join([self.report, self.checklists, self.card])


def say(config: Config) -> Said:
    run = stages.run(config)
    texts = [(run.path / name).read_text() for name in ("report.md", "checklists.md", "model_card.md")]
    html = run.report.read_text().split("All settings")[0]
    for text in (*texts, html):
        assert not re.search(r"\b(None|nan)\b|^- \.$", text, re.M)
    check_flow(run)
    return Said(run, *texts)


def check_flow(run: RunFolder) -> None:
    """From the rows of the table to the parts, nobody is lost without a word."""
    cohort = read_json(run.exact_counts)
    left = cohort["flow"][0]["left"]
    for step in cohort["flow"][1:]:
        left -= step["excluded"]
        assert left == step["left"]
    assert left == sum(part["n"] for part in cohort["parts"].values())
    told = read_record(run)
    assert told.cohort["parts"].keys() == cohort["parts"].keys()


def table(folder: Path, rows: int = 240) -> pl.DataFrame:
    """The toy table with more columns for other splits; written to `folder`."""
    draw = np.random.default_rng(5)
    frame = build_toy_table(rows).with_columns(
        ward=pl.Series(draw.choice(["A", "B", "C", "D", "E"], rows)),
        seen=pl.Series([(date(2020, 1, 1) + timedelta(int(day))).isoformat() for day in draw.permutation(rows)]),
        part=pl.Series((["train"] * 6 + ["validation"] * 2 + ["test"] * 4) * (rows // 12)),
        family=pl.Series([f"F{number}" for number in draw.integers(0, rows * 3 // 4, rows)]),
        note=pl.Series([f"seen {'again' if draw.random() < 0.5 else 'once'} on the ward" for _ in range(rows)]),
    )
    frame.write_csv(folder / "table.csv")
    return frame


def classical(folder: Path, columns: dict[str, Any] | None = None, **sections: Any) -> Config:
    """A run of classical models on that table."""
    data = {
        "path": str(folder / "table.csv"),
        "columns": {**TOY_COLUMNS, **(columns or {})},
        **sections.pop("data", {}),
    }
    sections = {"models": CLASSICAL, **sections}
    return toy_config(folder / "no_model", data=data, runs_dir=str(folder / "runs"), **sections)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Classical models alone, and subgroups of which some are withheld."""
    folder = tmp_path_factory.mktemp("plain")
    table(folder)
    return say(classical(folder, evaluation={"bootstrap": 100, "subgroups": ["sex", "age", "smoker x sex"]}))


def test_a_classical_run_has_no_word_of_a_language_model(plain: Said) -> None:
    for name, text in (("report", plain.report), ("checklists", plain.checklists), ("card", plain.card)):
        body = text.replace("no tuned language model", "").lower()
        assert not [word for word in LANGUAGE_WORDS if word in body], name
    assert "the fitted classical models (classical/)" in plain.card
    assert "fitted on the training part" in plain.card
    assert "the class weights" not in plain.all


def test_what_was_not_calibrated_is_not_said_to_be(plain: Said) -> None:
    assert "Platt" not in plain.all
    assert "Calibration: none" in plain.report and "Calibration: none." in plain.card
    assert "before and after" not in plain.report


def test_withheld_groups_are_not_judged(plain: Said) -> None:
    groups = read_record(plain.run).part.subgroups or []
    withheld = sum(group.suppressed for group in groups)
    assert 0 < withheld < len(groups)
    judged = len(groups) - withheld
    said = f"udged in {judged} of {len(groups)} groups by sex, age and smoker x sex, {withheld} withheld"
    assert said in plain.card and said in plain.checklists


def test_blinding_is_not_answered_by_the_audit(plain: Said) -> None:
    probast = plain.checklists.split("## PROBAST+AI")[1]
    asked = [line for line in probast.splitlines() if "knowledge of the" in line or "use or knowledge" in line]
    assert len(asked) == 4
    assert all("not provided" in line and "leaks" not in line for line in asked)


def test_guidelines_thresholds_are_for_their_outcome_alone(plain: Said, tmp_path: Path) -> None:
    """Those of an example, given in the settings, are called so."""
    assert not re.search(r"\b7\.5 %", plain.all) and "guideline" not in plain.all
    assert "Youden: the highest sensitivity + specificity on the validation part" in plain.report
    table(tmp_path)
    given = {"thresholds": [{"name": "10 %", "value": 0.1}], "bootstrap": 100}
    text = say(classical(tmp_path, evaluation=given))
    assert "10 %: example thresholds, given in the settings" in text.report and "guideline" not in text.all


def test_the_threshold_is_the_share_of_events_or_what_a_missed_event_costs(plain: Said, tmp_path: Path) -> None:
    train = read_json(plain.run.exact_counts)["parts"]["train"]
    share = float(f"{train['n_events'] / train['n']:.2g}")
    told = f"flagged at a risk of {share:g} and above, the share of events in the training part"
    assert all(told in text for text in (plain.report, plain.checklists, plain.card))
    assert read_yaml(plain.run.config)["task"]["threshold"] == share
    rows = read_predictions(plain.run)
    assert {row.threshold for row in rows} == {share}
    assert all(row.prediction == int(row.y_prob >= share) for row in rows)
    table(tmp_path)
    text = say(classical(tmp_path, task={"outcome": "heart disease", "missed_event": 9}))
    assert "flagged at a risk of 0.1 and above, where a missed event weighs 9 false alarms" in text.report
    text = say(classical(tmp_path, task={"outcome": "heart disease", "threshold": 0.3}, name="given"))
    assert "flagged at a risk of 0.3 and above, given in the settings" in text.report
    with pytest.raises(ValueError, match="threshold and missed_event"):
        classical(tmp_path, task={"outcome": "heart disease", "threshold": 0.3, "missed_event": 9})


def test_the_columns_of_the_classical_models_are_told(plain: Said) -> None:
    assert "Logistic regression and LightGBM: all 5 feature columns" in plain.report
    assert "TF-IDF" not in plain.all


def test_sites_have_a_mean_and_where_a_further_one_lies(tmp_path: Path) -> None:
    frame = table(tmp_path, 1200)
    wards = pl.Series(np.resize(["A", "B", "C", "D"], 1200))
    frame.with_columns(ward=wards).write_csv(tmp_path / "table.csv")
    text = say(classical(tmp_path, {"ward": {"role": "site"}}))
    record = read_record(text.run)
    groups = {group.group: group for group in record.part.subgroups or [] if group.column == "ward"}
    mean = record.part.over_sites["lightgbm"]["auroc"]
    assert mean == across("auroc", [group.models["lightgbm"]["auroc"] for group in groups.values()])
    assert mean.tables == 4 and mean.prediction and mean.i2 is not None
    section = text.report.split("## Site by site")[1].split("\n## ")[0]
    assert all(f"| {ward} | {groups[ward].n} | {groups[ward].n_events} |" in section for ward in "ABCD")
    assert "| mean over sites |" in section and "| I² (variance between sites, of all) |" in section
    assert '<h2 id="sites">Site by site</h2>' in text.run.report.read_text()


SPLITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "site": ({"ward": {"role": "site"}}, {"by": "site"}, "whole sites held out"),
    "time": ({"seen": {"role": "time"}}, {"by": "time"}, "latest rows held out"),
    "column": ({"part": {"role": "split"}}, {"by": "column"}, "given by a column of the table"),
    "group": ({"family": {"role": "group"}}, {}, "rows of one family stay together"),
    "rows": ({}, {"train_rows": 50}, "the training part is cut to 50 rows"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_each_split_is_told_as_it_was(tmp_path: Path, name: str) -> None:
    columns, split, said = SPLITS[name]
    table(tmp_path)
    text = say(classical(tmp_path, columns, split=split))
    assert all(said in some.lower() for some in (text.report, text.checklists, text.card))
    for other in {words for _, _, words in SPLITS.values()} - {said}:
        assert other not in text.all.lower()
    assert ("random, stratified" in text.report.lower()) == (name in ("group", "rows"))
    assert ("nothing is shown about other places or times" in text.card) == (name in ("group", "rows"))
    assert ("split 0" in text.report) == (name not in ("time", "column"))
    parts = read_json(text.run.exact_counts)["parts"]
    used = sum(parts[part]["n"] for part in ("train", "validation", "test"))
    if name != "column":
        assert f"{100 * parts['test']['n'] / used:.0f} % test of the rows used" in text.report
    if name == "rows":
        unused = parts["unused"]["n"]
        assert used + unused == 240 and parts["train"]["n"] == 50
        assert f"{unused} rows unused" in text.report and f"| unused | {unused} |" in text.report
        assert f"240 left; {unused} rows unused: the training part is cut to 50 rows; {used} analysed" in text.card


def test_rows_of_shared_groups_are_unused_and_counted(tmp_path: Path) -> None:
    table(tmp_path)
    columns = {"seen": {"role": "time"}, "family": {"role": "group"}}
    text = say(classical(tmp_path, columns, split={"by": "time", "shared_groups": "unused"}))
    assert re.search(r"\d+ rows unused: rows whose family is also in a later part are left out", text.report)


def test_a_sample_of_files_adds_up(tmp_path: Path) -> None:
    frame = table(tmp_path)
    frame[:180].write_csv(tmp_path / "table.csv")
    frame[180:].write_csv(tmp_path / "later.csv")
    data = {"test_path": str(tmp_path / "later.csv"), "max_rows": 200}
    text = say(classical(tmp_path, data=data))
    assert "the test part is a file of its own, validation is drawn at random" in text.report
    assert "240 rows in the 2 files" in text.report and "240 rows in the files" in text.card
    assert "40 excluded (not in the random sample of data.max_rows = 200)" in text.card
    assert "test file later.csv, sha256" in text.card


def test_notes_and_dates_are_told_of_those_that_read_them(tmp_path: Path) -> None:
    table(tmp_path)
    columns = {"note": {"type": "text"}, "seen": {"type": "date"}}
    models = ["age_sex_logistic_regression", "logistic_regression", "spline_regression", "lightgbm", "tfidf"]
    text = say(classical(tmp_path, columns, models=models))
    read = text.report.split("Classical models read: ")[1].split("\n")[0]
    assert "Logistic regression, LightGBM and Spline regression: all 7 feature columns" in read
    assert "dates as day, month and weekday (seen)" in read
    assert "free text as TF-IDF of words and pairs of words" in read and "(note)" in read
    assert "Age and sex only: age, sex" in read
    assert "TF-IDF of the text: the words of the row's text" in read


def test_ready_text_is_told_to_be_read_by_some_alone(tmp_path: Path) -> None:
    table(tmp_path)
    columns = {"note": {"role": "text"}}
    text = say(classical(tmp_path, columns, models=["logistic_regression", "tfidf"]))
    assert "the ready text (column note) is not read by Logistic regression" in text.report
    assert "the 5 feature columns are not read by TF-IDF of the text" in text.report
    assert "Texts come ready made" in text.checklists
    terms = text.report.split("## Coefficients")[1].split("\n## ")[0]  # a regression's own term for what is missing
    assert "not recorded" not in text.report.replace(terms, "")


def test_sections_left_out_of_the_text_are_told(tmp_path: Path) -> None:
    table(tmp_path)
    columns = {"smoker": {"type": "binary", "section": "habits"}}
    config = classical(tmp_path, columns, models=["lightgbm", "tfidf"], serialize={"leave_out": ["habits"]})
    assert "smoker are not in the text that TF-IDF of the text read" in say(config).report


# --------------------------------------------------------------------------------------------------
# with a language model


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    table(folder)
    return folder / "table.csv"


def tuned(folder: Path, model: Path, path: Path, **sections: Any) -> Config:
    train = {"max_steps": 2, "batch_size": 16, "learning_rate": 0.01, "threads": 1}
    data = {"path": str(path), "columns": TOY_COLUMNS, **sections.pop("data", {})}
    return toy_config(model, data=data, runs_dir=str(folder / "runs"), train=train, **sections)


def test_nothing_is_calibrated_or_corrected(tmp_path: Path, toy_model: Path, data_path: Path) -> None:
    evaluation = {"bootstrap": 100, "calibration": "none"}
    text = say(tuned(tmp_path, toy_model, data_path, models=["tuned", "logistic_regression"], evaluation=evaluation))
    assert "- Calibration: none\n" in text.report and "Calibration: none." in text.card
    for claim in ("Platt", "before and after", "adjusted", "class weights were", "Zero-shot", "few-shot"):
        assert claim not in text.all
    assert "No class weights, no oversampling" in text.card
    rows = [json.loads(line) for line in text.run.predictions.read_text().splitlines()]
    assert all(row["y_prob"] == row["y_prob_raw"] for row in rows)
    assert not read_record(text.run).part.raw
    assert "Training the language model took" in text.report


def test_weights_and_oversampling_are_told_and_a_resumed_training_too(
    tmp_path: Path, toy_model: Path, data_path: Path
) -> None:
    imbalance = {"class_weights": [1, 3], "oversample": {"times": 2}}
    text = say(tuned(tmp_path, toy_model, data_path, models=["tuned", "lightgbm"], imbalance=imbalance))
    assert "class weights and oversampling in the training part of the tuned model only" in text.report
    assert (
        "Probabilities before and after the correction for class weights and oversampling and Platt scaling"
        in text.report
    )
    assert "Platt scaling, fitted on the validation part, 36 rows" in text.report
    assert "of the tuned model alone; not of LightGBM" in text.report
    assert "resumed" not in text.all
    stages.train(text.run, resume=True)
    stages.report(text.run)
    again = (text.run.path / "report.md").read_text()
    assert "resumed after step 2" in again
    assert "Training the language model after step 2, where it was resumed, took" in again
    assert "| train, after step 2 where it was resumed |" in again


def test_a_calibrator_without_rows_is_said_not_to_be(tmp_path: Path, toy_model: Path, data_path: Path) -> None:
    text = say(tuned(tmp_path, toy_model, data_path, models=["tuned", "prevalence"], data={"max_rows": 60}))
    assert "none: Platt scaling was asked for, but the validation part has too few events or non-events" in text.report
    assert "Platt scaling, fitted" not in text.all
    assert "180 excluded (not in the random sample of data.max_rows = 60)" in text.card


def test_an_encoder_is_read_at_its_first_token(tmp_path: Path, data_path: Path) -> None:
    task = {"outcome": "heart disease", "head": "classifier"}
    config = tuned(tmp_path, build_toy_encoder(tmp_path / "bert"), data_path, models=["tuned", "embedding"], task=task)
    text = say(config.model_copy(update={"model": config.model.model_copy(update={"family": "encoder"})}))
    assert "linear classifier on the hidden state of the first token" in text.card
    assert "logits of the two answers" not in text.all
    assert "a logistic regression on the hidden states of the first token" in text.checklists


def test_an_untuned_model_was_not_fine_tuned(tmp_path: Path, toy_model: Path, data_path: Path) -> None:
    models = ["zero_shot", "free_generation", "logistic_regression"]
    imbalance = {"class_weights": "balanced"}
    text = say(tuned(tmp_path, toy_model, data_path, models=models, imbalance=imbalance, task={"max_new_tokens": 3}))
    main = read_record(text.run).main
    assert "no class weights, no oversampling: those of the settings are for a tuned model" in text.checklists.lower()
    for claim in (
        "LoRA",
        "Platt",
        "checkpoint is chosen",
        "weights of what was tuned",
        "taken out of the probabilities",
    ):
        assert claim not in text.all, claim
    assert "No fine-tuning" in text.checklists
    assert "Free generation: " in text.report
    assert ("the untuned language model" in text.card) == (main != "logistic_regression")
    assert "Device: cpu" in text.report, "of the scoring, for nothing was trained"

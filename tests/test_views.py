"""Rows that are scored in several ways, in the words of training; and a teacher on columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cardiotune import reopen
from cardiotune.config import compose
from cardiotune.data.prepare import Prepared, Source, read_prepared
from cardiotune.data.units import line
from cardiotune.data.views import Trained, texts_of, written
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ConfigError, DataError
from cardiotune.models.teaching import targets
from cardiotune.settings import Config
from cardiotune.training.loss import mean_log_loss
from test_any_columns import ABROAD, write_others, write_two_tables
from test_cli import call

USE = {"model": "gemma3-270m", "method": "lora", "task": "heart_disease"}


def hospitals(test: str, **more: Any) -> tuple[Config, Prepared]:
    tables = {
        name: {"part": "test"} if name == test else None for name in ("cleveland", "hungarian", "switzerland", "va")
    }
    more = {"serialize": {"views": 3, "missing": "omit"}, **more}
    config = compose({"name": "pooled", "tables": tables, "use": USE, **more}, [], "experiment.yaml", Path())
    return config, read_prepared(config)


def source_of(prepared: Prepared, name: str) -> Source:
    return next(source for source in prepared.sources if source.name == name)


def said_in_training(config: Config) -> set[str]:
    trained = Trained.of(config)
    return {way for ways in trained.ways.values() for way in ways.names}


def columns_of(text: str, names: set[str]) -> set[str]:
    """The training tables' names that a text's parts begin with."""
    parts = text.split(", ")
    return {
        next((name for name in sorted(names, key=len, reverse=True) if part.startswith(name)), part) for part in parts
    }


def test_a_held_out_table_is_told_in_the_words_of_training() -> None:
    config, prepared = hospitals("hungarian")
    rows = source_of(prepared, "hungarian").rows[:20]
    views = written(config, prepared, rows)
    assert [len(texts) for texts in views] == [20, 20, 20]
    names = said_in_training(config)
    assert "type of chest pain" not in names and "chest pain" in names
    for texts in views:
        for text in texts:
            assert columns_of(text, names) <= names
    assert len({texts[0] for texts in views}) == 3, "each has an order of its own"
    told = [
        sorted(part.rsplit(" ", 1)[-1] for part in texts[0].split(", ") if part.endswith("mg/dL")) for texts in views
    ]
    assert told[0] and told[0] == told[1] == told[2], "cholesterol in the unit of training"


def test_a_row_alone_is_written_as_among_others() -> None:
    config, prepared = hospitals("hungarian")
    source, trained = source_of(prepared, "hungarian"), Trained.of(config)
    matching = trained.matched(source.data)
    together = trained.table(source.frame, source.data, source.order, matching)
    alone = trained.table(source.frame[7:8], source.data, source.order, matching)
    for number in range(3):
        assert texts_of(together, [7], number) == texts_of(alone, [0], number)
    assert texts_of(together, [7], 0) == [written(config, prepared, source.rows[[7]])[0][0]]


def test_without_same_as_columns_are_known_by_description_and_others_keep_their_words() -> None:
    config, prepared = hospitals("switzerland")
    source, trained = source_of(prepared, "switzerland"), Trained.of(config)
    plain = {n: c.model_copy(update={"same_as": None, "same_codes": None}) for n, c in source.data.columns.items()}
    data = source.data.model_copy(update={"columns": plain})
    names = said_in_training(config)
    (given,) = texts_of(trained.table(source.frame, source.data, source.order, trained.matched(source.data)), [0], 0)
    assert columns_of(given, names) <= names
    (text,) = texts_of(trained.table(source.frame, data, source.order, trained.matched(data)), [0], 0)
    own = columns_of(text, names) - names
    assert own and all("ergometry" in part or "ST segment under load" in part for part in own)
    assert text.count(", ") == given.count(", ")


@pytest.mark.parametrize(
    ("more", "line_of"),
    [
        (
            {"serialize": {"views": 2, "vary": False}},
            "serialize.views: more than 1 is for several tables whose texts vary",
        ),
        ({"serialize": {"views": 1}, "models": ["tuned", "tuned_matched"]}, "models: tuned_matched reads texts"),
        (
            {"train": {"teacher": "lightgbm"}, "imbalance": {"class_weights": "balanced"}},
            "train.teacher: its risks take no class weights",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(more: dict[str, Any], line_of: str) -> None:
    with pytest.raises(ConfigError, match=line_of.replace("(", r"\(")):
        hospitals("va", **more)


def test_one_table_is_scored_as_it_is_written() -> None:
    with pytest.raises(ConfigError, match=r"serialize\.views: more than 1"):
        compose(
            {"name": "one", "use": {**USE, "dataset": "cleveland"}, "serialize": {"views": 2}},
            [],
            "experiment.yaml",
            Path(),
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """The toy table trains; the one from abroad is held out."""
    place = tmp_path_factory.mktemp("views")
    write_others(place)
    file = write_two_tables(
        place,
        toy_model,
        part="test",
        models=["logistic_regression", "tuned", "tuned_matched"],
        train={"teacher": "logistic_regression"},
        serialize={"views": 2},
    )
    done = call("run", file)
    assert done.exit_code == 0, done.output
    return place / "runs" / "toy"


def risks(run: Path, model: str) -> np.ndarray:
    lines = [json.loads(text) for text in (run / "predictions.jsonl").read_text().splitlines()]
    return np.array([line["y_prob"] for line in lines if line["model"] == model and line["part"] == "test"])


def test_who_scores_the_table_later_gets_the_run_s_own_risks(run: Path) -> None:
    scorer = RowScorer.load(run, dataset="abroad")
    rows = pl.read_csv(run.parent.parent / "abroad.csv", infer_schema=False)
    np.testing.assert_allclose(scorer.risks(rows), risks(run, "tuned"), atol=1e-7)
    one = scorer.risks(rows[3:4])
    np.testing.assert_allclose(one, risks(run, "tuned")[3:4], atol=1e-7)
    told = scorer.leave_one_field_out(rows[3:4])
    assert told["risk"] == pytest.approx(float(one[0]), abs=1e-7)
    assert len(told["fields"]) == 3


def test_the_risks_are_of_the_mean_log_odds_of_all_ways(run: Path) -> None:
    scorer = RowScorer.load(run, dataset="abroad")
    frame = scorer._typed(pl.read_csv(run.parent.parent / "abroad.csv", infer_schema=False))
    ways = scorer.reading.written(frame)
    assert len(ways) == 2 and ways[0] != ways[1]
    each = [scorer.text_logits(texts) for texts in ways]
    np.testing.assert_allclose(scorer.logits(frame.select(list(ABROAD)[:3])), np.mean(each, axis=0), atol=1e-7)
    assert np.abs(each[0] - each[1]).max() > 1e-4


def test_where_columns_are_matched_alike_so_are_the_risks(run: Path) -> None:
    """`alter`, `druck` and `geschlecht` have phrases of their own that tell what they are."""
    matching = json.loads((run / "manifest.json").read_text())["matching"]["matched"]["abroad"]
    assert matching["as_given"] == 3
    np.testing.assert_allclose(risks(run, "tuned_matched"), risks(run, "tuned"), atol=1e-6)


def test_a_table_with_an_unseen_column_is_scored_in_known_words_and_its_own(run: Path) -> None:
    place = run.parent.parent
    out = place / "third.risks.csv"
    done = call("predict", run, place / "third.csv", "--dataset", place / "third.yaml", "--out", out)
    assert done.exit_code == 0, done.output
    assert pl.read_csv(out)["y_prob"].is_between(0, 1).all()
    scorer = RowScorer.load(run, dataset=place / "third.yaml")
    texts = scorer.reading.written(scorer._typed(pl.read_csv(place / "third.csv", infer_schema=False)))
    assert all("potassium" in text and "smoker" in text for way in texts for text in way)


def test_an_export_of_one_text_a_row_is_refused(run: Path, tmp_path: Path) -> None:
    done = call("export", run, "--to", "merged", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "(serialize.views)" in done.stderr.splitlines()[-1]


# --------------------------------------------------------------------------------------------------
# a teacher


def test_targets_are_between_the_outcome_and_the_teacher_s_risk(run: Path) -> None:
    config, prepared = reopen.reopen(reopen.open_run(run), None)
    found = targets(config, prepared)
    assert found is not None
    events = prepared.cohort.events
    assert ((found >= 0.2 * events) & (found <= 0.2 * events + 0.8)).all()
    teacher = (found - 0.2 * events) / 0.8
    test = prepared.parts == "test"
    np.testing.assert_allclose(teacher[test], risks(run, "logistic_regression"), atol=1e-9)
    none = config.model_copy(update={"train": config.train.model_copy(update={"teacher": None})})
    assert targets(none, prepared) is None


def test_the_teacher_learns_from_the_training_part_alone(run: Path) -> None:
    config, prepared = reopen.reopen(reopen.open_run(run), None)
    before = targets(config, prepared)
    elsewhere = prepared.parts != "train"
    prepared.cohort.events[elsewhere] = 1 - prepared.cohort.events[elsewhere]
    after = targets(config, prepared)
    assert before is not None and after is not None
    np.testing.assert_array_equal(before[~elsewhere], after[~elsewhere])


def test_the_loss_compares_with_a_share_of_both_outcomes() -> None:
    logits, share, ones = torch.tensor([0.3, -2.0]), torch.tensor([0.9, 0.25]), torch.ones(2)
    by_hand = -(share * torch.sigmoid(logits).log() + (1 - share) * torch.sigmoid(-logits).log()).mean()
    assert float(mean_log_loss(logits, share, ones, 2)) == pytest.approx(float(by_hand), rel=1e-6)


def test_a_share_and_a_concentration_are_no_one_quantity() -> None:
    """They divided by zero."""
    for source, target in (("%", "g/L"), ("g/L", "%"), ("mmol", "mmol/L"), ("mmol/L", "mmol")):
        with pytest.raises(DataError, match="they do not measure the same"):
            line(source, target, "glucose")
    assert line("mmol/L", "mg/dL", "glucose").factor == pytest.approx(18.0156, rel=1e-4)

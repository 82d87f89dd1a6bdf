"""What report and checklists say of an experiment of several tables."""

import re
from pathlib import Path
from typing import Any

import pytest

from cardiotune.comparators import COMPARATORS, MATCHED, having
from cardiotune.config import dump
from cardiotune.evaluation.judgement import Verdict
from cardiotune.files import read_json, write_json, write_text
from cardiotune.report import done, report
from cardiotune.report.checklists import facts
from cardiotune.report.record import Record, read_record
from cardiotune.report.report import as_text
from test_pool import experiment
from test_report import make_run

EXCLUDE = {"data": {"out_of_range": "exclude", "duplicate_rows": "keep"}}


def told(folder: Path, tables: dict[str, Any], **more: Any) -> Record:
    """The record of a run whose settings and manifest are those of several tables."""
    run = make_run(folder / "run", ("prevalence", "logistic_regression"))
    config = experiment(tables, models=["prevalence", "logistic_regression"], task={"threshold": 0.5}, **more)
    write_text(run.config, dump(config))
    files = {name: {"file": f"heart_{name}.csv", "sha256": "0" * 64} for name in config.tables}
    write_json(run.manifest, {"data": {"tables": files}})
    cohort = read_json(run.cohort)
    cohort["flow"][0]["step"] = "rows in the tables"
    write_json(run.cohort, cohort)
    return read_record(run)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (
            {"cleveland": None, "va": None},
            " for each table: an implausible value is taken as missing; rows that repeat an id and all its values are left "
            "out; equal rows without an id stay",
        ),
        (
            {"cleveland": EXCLUDE, "va": EXCLUDE},
            " for each table: rows with an implausible value are left out; equal rows stay",
        ),
        (
            {"cleveland": EXCLUDE, "va": None},
            " for each table; table cleveland: rows with an implausible value are left out; equal rows stay; table va: an "
            "implausible value is taken as missing; rows that repeat an id and all its values are left out; equal rows "
            "without an id stay",
        ),
    ],
    ids=["defaults", "alike", "apart"],
)
def test_each_table_was_checked_as_its_own_dictionary_asks(tmp_path: Path, tables: dict[str, Any], said: str) -> None:
    checked = "types, codes and plausible ranges checked by a data dictionary"
    assert done.checks(told(tmp_path, tables)) == checked + said


def test_every_table_is_named_and_its_rows_counted(tmp_path: Path) -> None:
    record = told(tmp_path, {"cleveland": None, "va": {"part": "test"}})
    text = as_text(record)
    assert "Tables: cleveland: heart_cleveland.csv; va: heart_va.csv" in text
    assert not re.search("^.*Table: ", text, re.M)
    assert done.flow(record).startswith("273 rows in the tables; 2 excluded (target missing)")


@pytest.mark.parametrize(
    ("tables", "more", "said"),
    [
        (
            {"cleveland": None, "va": None},
            {},
            "the test part comes from the same tables as training, so nothing is shown about other places or times",
        ),
        (
            {"cleveland": None, "va": {"part": "train"}, "hungarian": {"part": "test"}},
            {"split": {"by": "random"}},
            "test rows of cleveland come from tables of training, so only those of hungarian may show anything about other "
            "places or times",
        ),
        ({"cleveland": {"part": "train"}, "va": {"part": "test"}}, {"split": {"by": "random"}}, ""),
        ({"cleveland": None, "va": {"part": "test"}}, {}, ""),
    ],
    ids=["all mixed", "some mixed", "none mixed", "held out"],
)
def test_what_test_rows_from_tables_of_training_do_not_show(
    tmp_path: Path, tables: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    few = "the test part has 67 rows and 36 events, so intervals are wide"
    assert facts(told(tmp_path, tables, **more))["limits"] == "; ".join(filter(None, (few, said)))


def test_every_way_to_read_a_held_out_table_has_its_words() -> None:
    held_out = having(lambda one: one.held_out)
    assert set(done.HELD_OUT) == {COMPARATORS[name].columns for name in held_out}
    assert set(done.MATCHED_WORDS) == {COMPARATORS[name].columns for name in MATCHED}


def test_no_saved_model_is_offered_that_several_tables_cannot_use(tmp_path: Path) -> None:
    """`predict --model` reads one table's columns alone."""
    record = told(tmp_path, {"cleveland": None, "va": None})
    verdict = Verdict("no_difference_shown", "", "logistic_regression")
    (record.run.path / "classical").mkdir(exist_ok=True)
    (record.run.path / "classical" / "logistic_regression.json").write_text("{}")
    assert report._at_hand(record, verdict) == ""

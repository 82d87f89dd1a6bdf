"""A run on a synthetic UK Biobank export with weights of censoring, without a language model; and
what its folder gives away."""

import gzip
import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from cardiotune import stages
from cardiotune.audit.export_check import ASK, LEAVE, STAY, check_export
from cardiotune.config import load_config, load_resolved
from cardiotune.data.cohort import EVENT, ROW_ID, STATUS, TIME
from cardiotune.data.prepare import Prepared, read_prepared
from cardiotune.data.small_counts import FEW, HIDDEN, SMALL
from cardiotune.data.ukb.read import open_export
from cardiotune.errors import DataError
from cardiotune.evaluation.censoring import c_index
from cardiotune.models.predictions import read_predictions, write_predictions
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.synthetic_ukb.export import write_export

SCHEMA = json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("ukb")
    write_export(folder / "export", 3000, 1, "csv")
    return load_config(
        "ukb_cad_demo",
        [
            f"data.path={folder / 'export'}",
            f"runs_dir={folder}",
            "data.ukb.censored=ipcw",
            "models=[prevalence,logistic_regression,tfidf]",
            "split.train_rows=null",
            "split.test=0.4",
            "evaluation.bootstrap=100",
        ],
    )


@pytest.fixture(scope="module")
def run(config: Config) -> RunFolder:
    return stages.run(config)


@pytest.fixture(scope="module")
def prepared(config: Config) -> Prepared:
    return read_prepared(config)


def test_metrics_are_weighted_from_the_export_to_the_report(run: RunFolder, prepared: Prepared, tmp_path: Path) -> None:
    censored = prepared.censored
    assert censored is not None and censored.frame[EVENT].null_count() == censored.frame.height
    learned = set(prepared.cohort.frame["family"].filter(pl.Series(prepared.parts != "test")))
    held = set(censored.frame["family"].filter(pl.Series(censored.parts == "test")))
    assert held and not held & learned, "relatives are in one part"

    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    unknown = [row for row in rows if row["y_true"] is None]
    assert unknown and all(row["weight"] == 0 and 0 <= row["y_prob"] <= 1 for row in unknown)
    metrics = json.loads(run.metrics.read_text())
    jsonschema.validate(metrics, SCHEMA)
    test = [row for row in rows if row["part"] == "test" and row["model"] == "logistic_regression"]
    known = [row for row in test if row["y_true"] is not None]
    y, risk, weight = (np.array([row[name] for row in known]) for name in ("y_true", "y_prob", "weight"))
    part = metrics["parts"]["test"]
    auroc = part["models"]["logistic_regression"]["auroc"]["value"]
    assert auroc == pytest.approx(roc_auc_score(y, risk, sample_weight=weight))
    at_risk = pl.concat([prepared.cohort.frame, censored.frame])
    joined = pl.DataFrame(test, infer_schema_length=None).join(at_risk, left_on="row_id", right_on=ROW_ID, how="left")
    assert joined.height == part["censoring"]["weights"]["n"]
    expected = c_index(joined[TIME].to_numpy(), joined[STATUS].to_numpy(), joined["y_prob"].to_numpy(), 3652)
    found = part["censoring"]["models"]["logistic_regression"]["c_index"]["value"]
    assert found == pytest.approx(expected)
    for page in ("report.md", "report.html", "model_card.md"):
        assert "IPCW" in (run.path / page).read_text()
    assert "C-index" in run.report.read_text() and "## Censoring" in (run.path / "report.md").read_text()

    bare = RunFolder(tmp_path / "bare")
    shutil.copytree(run.path, bare.path)
    write_predictions(bare.predictions, [replace(row, weight=None, weighted=False) for row in read_predictions(run)])
    bare.record(bare.predictions)
    with pytest.raises(DataError, match="without the weights of censoring"):
        stages.evaluate(bare, prepared)


def test_small_counts_are_in_one_private_file(run: RunFolder, prepared: Prepared) -> None:
    exact, told = (json.loads(file.read_text()) for file in (run.exact_counts, run.cohort))
    assert (
        exact["flow"] == [asdict(step) for step in prepared.cohort.flow]
        and run.exact_counts.stat().st_mode & 0o077 == 0
    )
    small = [step["step"] for step in exact["flow"] if 0 < step["excluded"] < FEW]
    assert small, "the traps of the synthetic export make small exclusions"
    assert [step["step"] for step in told["flow"] if step["excluded"] == SMALL] == small
    hidden = [step["left"] for step in told["flow"]].count(HIDDEN)
    assert hidden >= len(small) - 1 and told["flow"][-1]["left"] == prepared.cohort.frame.height
    events = {part: size["n_events"] for part, size in exact["parts"].items()}
    assert all(told["parts"][part]["n_events"] in (None, count) for part, count in events.items())
    assert all(told["parts"][part]["n_events"] is None for part, count in events.items() if count < FEW)
    page = (run.path / "report.md").read_text()
    for step in small:
        assert f"&lt;10 excluded: {step}" in page


def test_the_documents_tell_the_outcome_of_the_export(run: RunFolder) -> None:
    exact = json.loads(run.exact_counts.read_text())
    assert exact["flow"][-1]["left"] == sum(part["n"] for part in exact["parts"].values())
    card, page, lists = ((run.path / name).read_text() for name in ("model_card.md", "report.md", "checklists.md"))
    for text in (card, lists):
        assert "yes or no within 10 years of baseline, made from health records by the endpoint cad_metagrs" in text
        assert "from column" not in text
    assert "10 % (NICE NG238): by a guideline for the 10-year risk of cardiovascular disease" in page
    assert "C-index" in lists
    assert "rows of one family stay together" in page


# --------------------------------------------------------------------------------------------------
# what may leave the safe environment


def verdicts(run: RunFolder) -> dict[str, Any]:
    return {entry.path: entry for entry in check_export(run)}


def test_what_a_run_leaves_itself(run: RunFolder) -> None:
    found = verdicts(run)
    must_stay = {name for name, entry in found.items() if entry.verdict == STAY}
    metrics = json.loads(run.metrics.read_text())["parts"]
    few = {"metrics.json"} if any(part["n_events"] is None for part in metrics.values()) else set()
    assert must_stay == {"predictions.jsonl", "split.parquet", "exact_counts.json"} | few
    for name in ("config.yaml", "cohort.json", "table1.json", "report.html", "report.md"):
        assert found[name].verdict in (LEAVE, ASK), found[name]
    assert found["cohort.json"].verdict == LEAVE, found["cohort.json"]


def numpy_file(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def numpy_archive(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=array)
    return buffer.getvalue()


def parquet_file(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def sqlite_file(eid: int, folder: Path) -> bytes:
    file = folder / f"made{eid}.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("create table notes (number integer)")
        database.execute("insert into notes values (?)", [eid])
    database.close()
    return file.read_bytes()


IDS: dict[str, Callable[[int, Path], bytes]] = {
    "ids.npy": lambda eid, _: numpy_file(np.array([eid, 3, 5])),
    "floats.npy": lambda eid, _: numpy_file(np.array([eid, np.nan, 5.5])),
    "ids.npz": lambda eid, _: numpy_archive(np.array([eid, 3, 5])),
    "numbers.parquet": lambda eid, _: parquet_file(pl.DataFrame({"a": [1.0, float(eid)], "b": [None, 0.5]})),
    "pandas.csv": lambda eid, _: f"number,share\n{eid}.0,0.5\n".encode(),
    "base.sqlite": sqlite_file,
    "run.log": lambda eid, _: f"12:00 info: could not read {eid}.\n".encode(),
    "old.log.gz": lambda eid, _: gzip.compress(f"skipped eid={eid}\n".encode()),
    "page.html": lambda eid, _: f"<table><tr><td>{eid}</td></tr></table>".encode(),
}


def test_a_single_id_is_found_in_any_file_that_of_an_excluded_participant_too(
    run: RunFolder, prepared: Prepared, config: Config, tmp_path: Path
) -> None:
    everybody = open_export(Path(config.data.path)).eids
    excluded = everybody.filter(~everybody.is_in(prepared.cohort.frame["eid"].implode()))
    for who, eid in {"member": prepared.cohort.frame["eid"][11], "excluded": excluded[0]}.items():
        copy = RunFolder(tmp_path / who)
        shutil.copytree(run.path, copy.path)
        for name, made in IDS.items():
            (copy.path / name).write_bytes(made(int(eid), tmp_path))
        found = verdicts(copy)
        for name in IDS:
            assert found[name].verdict == STAY, found[name]
            assert any("ids of the run's table" in reason for reason in found[name].reasons), found[name]


def test_rows_and_texts_are_found_those_of_the_censored_too(run: RunFolder, prepared: Prepared, tmp_path: Path) -> None:
    assert prepared.censored is not None
    features = load_resolved(run.config).data.features
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    planted = {}
    for who, frame, text in (
        ("member", prepared.cohort.frame, prepared.texts[5]),
        ("censored", prepared.censored.frame, prepared.censored.texts[5]),
    ):
        row = frame[5:6].select(features)
        planted |= {
            f"{who}.parquet": parquet_file(row.rename({name: f"x{place}" for place, name in enumerate(features)})),
            f"{who}.npy": numpy_file(np.array(["" if value is None else str(value) for value in row.row(0)])),
            f"{who}.log": f"info: scored: {text}\n".encode(),
            f"{who}.html.gz": gzip.compress(f"<p>{text}</p>".encode()),
            f"{who}_row_id.json": json.dumps({"worst": frame[ROW_ID][5]}).encode(),
        }
    for name, data in planted.items():
        (copy.path / name).write_bytes(data)
    found = verdicts(copy)
    assert not {name: found[name] for name in planted if found[name].verdict != STAY}

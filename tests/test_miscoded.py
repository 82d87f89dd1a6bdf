"""A column in other codes or units than the dictionary's stops, at every door; what is written
alike is read alike."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune import RiskModel
from cardiotune.data.chunks import TableChunks
from cardiotune.data.cohort import read_rows
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig
from conftest import build_toy_table, write_toy_experiment
from serving import serving
from test_cli import call, check_refusal, run_tuned_alone

TABLE = build_toy_table(60, seed=9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return run_tuned_alone(write_toy_experiment(tmp_path_factory.mktemp("miscoded"), toy_model))


@pytest.fixture(scope="module")
def export(run: Path) -> Path:
    folder = run.parent / "exported"
    assert call("export", run, "--to", "merged", "--out", folder).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> RiskModel:
    return RiskModel.load(run)


@pytest.fixture(scope="module")
def exported(export: Path) -> RiskModel:
    return RiskModel.load(export)


@pytest.fixture(scope="module")
def data(model: RiskModel) -> DataConfig:
    return model.scorer_.config.data


@pytest.fixture(scope="module")
def expected(model: RiskModel) -> np.ndarray:
    return model.predict_proba(TABLE)[:, 1]


def in_words(column: str, *words: str) -> pl.DataFrame:
    """The table with other words for the codes 0 and 1."""
    return TABLE.with_columns(pl.Series(column, [words[code] for code in TABLE[column]]))


OTHERWISE: dict[str, tuple[pl.DataFrame, str]] = {
    "codes": (in_words("sex", "F", "M"), "sex (60 of 60 values are none of its codes)"),
    "units": (
        TABLE.with_columns(sbp=pl.col("sbp") / 7.5),
        "sbp (60 of 60 values are not a whole number, 60 to 260 mmHg)",
    ),
    "a category": (in_words("sex", "0", "M"), f"sex ({TABLE['sex'].sum()} of 60 values are none of its codes)"),
    "mostly missing": (
        TABLE.with_columns(pain=pl.when(pl.int_range(60) < 3).then(pl.lit("severe"))),
        "pain (<10 of <10 values are none of its codes)",
    ),
}
DOORS: dict[str, Callable[[DataConfig, RiskModel, RiskModel, Path], Any]] = {
    "read_rows": lambda data, model, exported, file: read_rows(str(file), data),
    "chunks": lambda data, model, exported, file: TableChunks(str(file), data, True, rows=7),
    "RiskModel": lambda data, model, exported, file: model.predict_proba(pl.read_csv(file)),
    "of an export": lambda data, model, exported, file: exported.predict(pl.read_csv(file).to_dicts()),
}


@pytest.mark.parametrize("kind", OTHERWISE)
@pytest.mark.parametrize("door", DOORS)
def test_a_column_in_other_codes_or_units_stops(
    data: DataConfig, model: RiskModel, exported: RiskModel, tmp_path: Path, kind: str, door: str
) -> None:
    frame, said = OTHERWISE[kind]
    frame.write_csv(tmp_path / "t.csv")
    with pytest.raises(DataError) as caught:
        DOORS[door](data, model, exported, tmp_path / "t.csv")
    assert said in str(caught.value) and "--allow-unknown" in str(caught.value) and "severe" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ""])
def test_predict_stops_before_it_writes(run: Path, export: Path, tmp_path: Path, suffix: str) -> None:
    """Whatever the size of the pieces: each is read before one is scored."""
    frame, said = OTHERWISE["codes"]
    frame.write_csv(tmp_path / "t.csv")
    out = ["--out", str(tmp_path / f"risks{suffix}")] if suffix else []
    for folder in (run, export):
        done = call("predict", folder, tmp_path / "t.csv", *out, "--chunk-rows", "7")
        check_refusal(done, 3, said)
        assert not done.stdout and sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]
    done = call("predict", run, tmp_path / "t.csv", *out, "--chunk-rows", "7", "--allow-unknown")
    assert done.exit_code == 0, done.output
    assert "values out of range are taken as missing: sex (60 rows)" in done.stderr


def test_one_unlucky_piece_does_not_stop_a_table_and_one_lucky_one_does_not_save_it(
    data: DataConfig, tmp_path: Path
) -> None:
    for wrong, stops in ((range(10), False), (range(20, 60), True), (range(31), True), (range(29), False)):
        sexes = ["?!" if row in wrong else str(sex) for row, sex in enumerate(TABLE["sex"])]
        TABLE.with_columns(sex=pl.Series(sexes)).write_csv(tmp_path / "t.csv")
        if stops:
            with pytest.raises(DataError, match="sex"):
                TableChunks(str(tmp_path / "t.csv"), data, True, rows=10)
        else:
            assert TableChunks(str(tmp_path / "t.csv"), data, True, rows=10).rows == 60


@pytest.mark.slow
def test_workers_are_told_what_is_allowed(run: Path, tmp_path: Path) -> None:
    OTHERWISE["codes"][0].write_csv(tmp_path / "t.csv")
    options = ["--out", str(tmp_path / "risks.csv"), "--chunk-rows", "30", "--workers", "2"]
    check_refusal(call("predict", run, tmp_path / "t.csv", *options), 3, "sex (60 of 60")
    assert not list(tmp_path.glob("risks*"))
    done = call("predict", run, tmp_path / "t.csv", *options, "--allow-unknown")
    assert done.exit_code == 0, done.output
    assert pl.read_csv(tmp_path / "risks.csv").height == 60


def test_what_is_allowed_counts_as_missing(run: Path, tmp_path: Path) -> None:
    frame, _ = OTHERWISE["codes"]
    blank = TABLE.with_columns(sex=pl.lit(None, pl.String))
    allowing = RiskModel.load(run, allow_unknown=True)
    np.testing.assert_allclose(allowing.predict_proba(frame), allowing.predict_proba(blank), atol=1e-6)
    with pytest.raises(DataError, match="allow_unknown=True"):
        allowing.set_params(allow_unknown=False).predict_proba(frame)


def test_a_table_that_is_judged_stops_too(run: Path, tmp_path: Path) -> None:
    frame, said = OTHERWISE["units"]
    frame.write_csv(tmp_path / "t.csv")
    checkpoint = next((run / "checkpoints").glob("step-*"))
    for command in (
        ["evaluate", run, "--checkpoint", checkpoint, "--table", tmp_path / "t.csv"],
        ["recalibrate", run, tmp_path / "t.csv"],
    ):
        check_refusal(call(*command), 3, said)
        done = call(*command, "--allow-unknown")
        assert done.exit_code == 0, done.output
    shutil.rmtree(run / "evaluations")
    check_refusal(call("explain", run, "--table", tmp_path / "t.csv", "--row", "1"), 3, said)
    done = call("explain", run, "--table", tmp_path / "t.csv", "--row", "1", "--allow-unknown")
    assert done.exit_code == 0, done.output


def test_a_training_table_stops_too(tmp_path: Path, toy_model: Path) -> None:
    experiment = write_toy_experiment(tmp_path, toy_model)
    frame = build_toy_table().with_columns(sex=pl.when(pl.int_range(240) % 3 == 0).then("sex").otherwise(7))
    frame.write_csv(tmp_path / "table.csv")
    check_refusal(call("prepare", experiment), 3, "sex (160 of 240 values are none of its codes)")
    assert not (tmp_path / "runs").exists()


def test_a_few_unusual_patients_do_not_stop(model: RiskModel) -> None:
    assert model.predict_proba(TABLE[:2].with_columns(age=pl.Series([111, 112]))).shape == (2, 2)
    assert model.predict_proba(TABLE.with_columns(age=pl.int_range(60) + 80)).shape == (60, 2), "29 are above 110"


def test_a_column_without_values_is_said(data: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TABLE.with_columns(pain=pl.lit(None, pl.String), sbp=pl.lit("NA")).write_csv(tmp_path / "t.csv")
    with caplog.at_level(logging.WARNING, "cardiotune"):
        TableChunks(str(tmp_path / "t.csv"), data, True, rows=7)
    assert "t.csv: no value in any row: pain, sbp; they count as not recorded" in caplog.text


def test_a_spelling_is_no_other_code_at_any_door(
    run: Path, export: Path, model: RiskModel, tmp_path: Path, expected: np.ndarray
) -> None:
    """Case, blanks and `1.0` change no risk: as file, as frame, as objects and over HTTP."""
    written = {
        "sex": [("0.0", " 1")[code] for code in TABLE["sex"]],
        "smoker": [("No", "TRUE ")[code] for code in TABLE["smoker"]],
        "pain": [pain and (pain.upper(), f"\u00a0{pain.title()} ")[row % 2] for row, pain in enumerate(TABLE["pain"])],
    }
    frame = TABLE.with_columns(**{name: pl.Series(cells, dtype=pl.String) for name, cells in written.items()})
    frame.write_csv(tmp_path / "t.csv")
    for folder in (run, export):
        done = call("predict", folder, tmp_path / "t.csv", "--chunk-rows", "7")
        np.testing.assert_allclose(pl.read_csv(done.stdout.encode())["y_prob"], expected, atol=1e-5)
    for rows in (frame, frame.to_dicts()):
        np.testing.assert_allclose(model.predict_proba(rows)[:, 1], expected, atol=1e-5)
    sent = frame.drop("patient_id", "disease").to_dicts()
    with serving(run, lambda: model.scorer_) as (client, _):
        answer = client.post("/v1/predict", json={"rows": sent})
        assert answer.status_code == 200, answer.text
        found = [one["probability"] for one in answer.json()["predictions"]]
        refused = client.post("/v1/predict", json={"rows": [{**sent[0], "sex": "F"}]})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert refused.status_code == 422 and "one of 0 (woman), 1 (man)" in json.dumps(refused.json())

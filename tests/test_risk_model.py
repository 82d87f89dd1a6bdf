"""The Python API: the same risks as the command line, from any kind of frame; scikit-learn's
rules."""

import os
import pickle
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import transformers
import yaml
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score

from cardiotune import RiskModel
from cardiotune.deployment.scorer import Problem, RowScorer
from cardiotune.errors import CardioTuneError, ConfigError, DataError
from cardiotune.files import read_json
from cardiotune.runs import RunFolder
from cardiotune.training.machine import set_up, settings_kept
from conftest import build_toy_table, write_toy_experiment
from test_cli import call, run_tuned_alone


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return write_toy_experiment(tmp_path_factory.mktemp("api"), toy_model)


@pytest.fixture(scope="module")
def run(experiment: Path) -> Path:
    return run_tuned_alone(experiment)


@pytest.fixture(scope="module")
def model(run: Path) -> RiskModel:
    return RiskModel.load(run)


NEW = build_toy_table(50, seed=9).drop("disease", "patient_id")


class Arrow:
    """A table of some library that speaks Arrow's C interface, and nothing else."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return NEW.__arrow_c_stream__(requested_schema)


@pytest.fixture(scope="module")
def offline(run: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """What the command writes for the same rows."""
    table = tmp_path_factory.mktemp("new") / "new.csv"
    NEW.write_csv(table)
    done = call("predict", run, table)
    assert done.exit_code == 0, done.output
    return pl.read_csv(done.stdout.encode())


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, cardiotune; assert not {'torch', 'polars', 'sklearn'} & set(sys.modules); cardiotune.RiskModel"
    subprocess.run([sys.executable, "-c", code], check=True)


def settings_of_this_process() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "warnings": list(warnings.filters),
        "bars": transformers.utils.logging.is_progress_bar_enabled(),
        "verbosity": transformers.logging.get_verbosity(),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.fixture
def own_settings() -> Iterator[dict[str, object]]:
    """Settings that are a user's own, and none that a command would choose."""
    with settings_kept():
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
        warnings.simplefilter("default")
        transformers.logging.set_verbosity_warning()
        transformers.utils.logging.enable_progress_bar()
        yield settings_of_this_process()


def test_a_users_own_settings_stay_while_rows_are_scored(run: Path, own_settings: dict[str, object]) -> None:
    for scorer in (RiskModel.load(run), RowScorer.load(run), RowScorer.load(run, model="zero_shot")):
        scorer.predict_proba(NEW)
        assert settings_of_this_process() == own_settings


def test_a_users_own_settings_are_back_after_a_fit(experiment: Path, own_settings: dict[str, object]) -> None:
    table, random_numbers = build_toy_table(120, seed=3), torch.get_rng_state()
    RiskModel(experiment, ["train.max_steps=1"]).fit(table.drop("disease"), table["disease"])
    assert settings_of_this_process() == own_settings
    assert torch.equal(torch.get_rng_state(), random_numbers)
    set_up(2)  # as a command does
    assert settings_of_this_process() != own_settings


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow", "dicts", "text"])
def test_every_kind_of_frame_gives_the_risks_of_the_command(model: RiskModel, offline: pl.DataFrame, kind: str) -> None:
    rows = {
        "polars": lambda: NEW,
        "lazy": NEW.lazy,
        "pandas": lambda: pd.DataFrame(NEW.to_dict(as_series=False)),  # numbers beside None
        "arrow": Arrow,
        "dicts": NEW.to_dicts,
        "text": lambda: NEW.cast(pl.String),
    }[kind]()
    found = model.predict_proba(rows)
    assert found.shape == (50, 2) and list(model.classes_) == [0, 1]
    np.testing.assert_allclose(found[:, 1], offline["y_prob"], atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert list(model.predict(rows)) == offline["prediction"].to_list()


def test_the_runs_own_test_part_is_scored_the_same(run: Path, model: RiskModel) -> None:
    written = pl.read_ndjson(run / "predictions.jsonl").filter(model="tuned", part="test")
    split = pl.read_parquet(run / "split.parquet")
    table = build_toy_table().with_columns(row_id=split["row_id"]).join(written, on="row_id", maintain_order="right")
    assert table.height == 60
    np.testing.assert_allclose(model.predict_proba(table)[:, 1], written["y_prob"], atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-model.scorer_.logits(table))), written["y_prob_raw"], atol=1e-5)


def test_threads_get_their_own_patients_risks(model: RiskModel) -> None:
    alone = [model.predict_proba(NEW[place : place + 5])[:, 1] for place in range(0, 50, 5)]
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda place: model.predict_proba(NEW[place : place + 5])[:, 1], [*range(0, 50, 5)] * 4))
    for place, risks in enumerate(again):
        np.testing.assert_allclose(risks, alone[place % 10], atol=1e-6)


# --------------------------------------------------------------------------------------------------
# what a server needs


def test_the_schema_asks_for_what_the_model_reads(model: RiskModel) -> None:
    found = {entry["column"]: entry for entry in model.scorer_.schema}
    assert list(found) == ["age", "pain", "sbp", "sex", "smoker"]
    assert found["sbp"] == {
        "column": "sbp",
        "type": "integer",
        "unit": "mmHg",
        "range": [60, 260],
        "categories": None,
        "description": "systolic pressure",
    }
    assert found["sex"]["categories"] == {"0": "woman", "1": "man"}
    assert found["smoker"]["categories"] == {"0": "no", "1": "yes"}


def test_cells_are_checked_without_their_values(model: RiskModel) -> None:
    good = {"age": 60, "sex": 1, "sbp": 140, "smoker": False, "pain": "none"}
    rows = [good, {**good, "age": 17771}, {**good, "sex": "CANARY", "pain": None}, {**good, "sbp": "CANARY"}]
    found = model.check_rows(rows)
    assert found == [
        [],
        [Problem("age", "out_of_range", "a whole number, 18 to 110 years")],
        [
            Problem("pain", "missing", "one of none, typical"),
            Problem("sex", "unknown_category", "one of 0 (woman), 1 (man)"),
        ],
        [Problem("sbp", "unreadable", "a whole number, 60 to 260 mmHg")],
    ]
    assert "CANARY" not in str(found) and "17771" not in str(found)
    blank = model.predict_proba([{**good, "age": None}])
    np.testing.assert_allclose(model.predict_proba(rows[1:2]), blank, atol=1e-6, err_msg="implausible is not recorded")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (NEW.drop("age"), "not in the table: age"),
        (NEW.to_numpy(), "a ndarray has no column names"),
        ([{"ages": 3}], "1 keys that the data dictionary does not know; did you mean age?"),
        ([{"age": [61]}], "cells that hold lists"),
        ([{"age": "CANARY"}], "cells that are not of the column's type: age: integer (<10 rows)"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(model: RiskModel, rows: object, said: str) -> None:
    with pytest.raises(DataError) as error:
        model.predict_proba(rows)
    assert said in str(error.value) and "CANARY" not in str(error.value)


def test_one_patients_risk_is_explained_field_by_field(model: RiskModel) -> None:
    row = {"age": 80, "sex": 1, "sbp": 170, "smoker": 1}
    found = model.scorer_.leave_one_field_out([row])
    assert found["risk"] == pytest.approx(model.predict_proba([row])[0, 1], abs=1e-6)
    assert found["not_recorded"] == ["pain"]
    without = {field["column"]: field["risk"] for field in found["fields"]}
    assert without["age"] == pytest.approx(model.predict_proba([{**row, "age": None}])[0, 1], abs=1e-6)


def test_versions_tell_models_and_calibrators_apart(run: Path, model: RiskModel, tmp_path: Path) -> None:
    versions = model.scorer_.versions
    assert len(versions["model"]) == len(versions["calibrator"]) == 12 and versions["run"] == "toy"
    assert RowScorer.load(run).versions == versions
    site = tmp_path / "site.csv"
    build_toy_table(80, seed=3).write_csv(site)
    assert call("recalibrate", run, site).exit_code == 0
    adapted = RiskModel.load(run, site="site")
    assert adapted.scorer_.versions["calibrator"] != versions["calibrator"]
    scored = pl.read_csv(call("predict", run, site, "--site", "site").stdout.encode())
    np.testing.assert_allclose(adapted.predict_proba(pl.read_csv(site))[:, 1], scored["y_prob"], atol=1e-5)
    names = [threshold.name for threshold in model.scorer_.thresholds]
    assert names == ["decision", "Youden"]
    shares = read_json(RunFolder(run).exact_counts)["parts"]["train"]
    assert model.scorer_.threshold == pytest.approx(shares["n_events"] / shares["n"], abs=0.005)


# --------------------------------------------------------------------------------------------------
# scikit-learn


def test_fit_learns_and_keeps_no_row(experiment: Path, tmp_path: Path) -> None:
    table = build_toy_table(300, seed=4)
    tree = yaml.safe_load(experiment.read_text())
    untouched = RiskModel(tree, overrides=("train.epochs=8", "train.batch_size=8"), out=tmp_path / "kept")
    copied = clone(untouched)
    assert copied.get_params() == untouched.get_params() and copied is not untouched
    with pytest.raises(NotFittedError):
        copied.predict(table)
    fitted = copied.fit(table.drop("disease"), table["smoker"].to_numpy())  # what a toy can learn
    assert fitted is copied and vars(untouched).keys() == {"config", "overrides", "out", "allow_unknown"}
    new = build_toy_table(200, seed=5)
    assert roc_auc_score(new["smoker"], fitted.predict_proba(new)[:, 1]) > 0.9
    assert call("predict", tmp_path / "kept", experiment.parent / "table.csv").exit_code == 0, (
        "it is a run like any other"
    )
    ids = table["patient_id"].to_list()
    for file in (tmp_path / "kept").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(identity.encode() in content for identity in ids[:50]), file
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(new), fitted.predict_proba(new), atol=1e-6)


def test_it_is_cross_validated(experiment: Path) -> None:
    table = pd.DataFrame(build_toy_table(160, seed=6).to_dict(as_series=False))
    model = RiskModel(experiment, overrides=["train.epochs=1"])
    X, y = table.drop(columns="disease"), table["disease"]
    scores = cross_val_score(model, X, y, cv=2, scoring="neg_log_loss", error_score="raise")
    assert scores.shape == (2,) and -0.75 < scores.min() < 0


def test_what_cannot_be_fitted_is_refused(experiment: Path, run: Path) -> None:
    table = build_toy_table(40)
    for y in (["yes"] * 40, np.zeros(39), np.full(40, 2)):
        with pytest.raises(DataError, match="expected 40 outcomes of 0 and 1"):
            RiskModel(experiment).fit(table, y)
    with pytest.raises(ConfigError, match="config is missing"):
        RiskModel().fit(table, table["disease"])
    with pytest.raises(CardioTuneError, match="not a run folder"):
        RiskModel.load(run.parent)


def test_the_run_folder_of_a_fit_may_have_any_name(experiment: Path, tmp_path: Path) -> None:
    """Also one that no experiment may have; and its owner alone can read it."""
    table = build_toy_table(100)
    before = os.umask(0)
    try:
        place = tmp_path / "deep" / "mein Modell, später.v2 (ü)"
        model = RiskModel(experiment, overrides=["train.max_steps=1"], out=f"{place}/").fit(table, table["smoker"])
    finally:
        os.umask(before)
    assert model.run_folder_ == place
    again = RiskModel.load(place)
    np.testing.assert_allclose(again.predict_proba(table), model.predict_proba(table), atol=1e-6)
    assert call("predict", place, experiment.parent / "table.csv").exit_code == 0
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep", *(tmp_path / "deep").rglob("*"))}
    assert len(modes) > 15 and {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("", "out is no folder's name"),
        (5, "out is no folder's name"),
        ("FILE", "is a file; choose another name"),
        ("FILE/below", "cannot make the run folder|cannot be a run folder"),
        ("FULL", "is left alone"),
        ("n" * 300, "cannot be a run folder"),
        ("a\0b", "cannot make the run folder"),
        ("..", "is left alone"),
    ],
)
def test_where_a_fit_cannot_stay_is_said(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str | int, said: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "FILE").write_text("mine")
    (tmp_path / "here" / "FULL").mkdir()
    (tmp_path / "here" / "FULL" / "thesis.doc").write_text("mine")
    table = build_toy_table(60)
    with pytest.raises(CardioTuneError, match=said) as error:
        RiskModel(experiment, out=out).fit(table, table["smoker"])  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert (tmp_path / "here" / "FILE").read_text() == "mine"

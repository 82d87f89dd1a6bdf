"""Calibration inside a run, and recalibration to another site: what is written, and that it is
applied."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from cardiotune import stages, studies
from cardiotune.cli import app
from cardiotune.config import load_config
from cardiotune.errors import ConfigError, DataError
from cardiotune.models import calibrate, tuned
from cardiotune.models.logistic import logit
from cardiotune.runs import RunFolder
from conftest import build_toy_table, write_toy_experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> RunFolder:
    file = write_toy_experiment(tmp_path_factory.mktemp("calibrated"), toy_model)
    return stages.run(load_config(file, ["models=[logistic_regression,tuned]"]))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The same patients' kind at a site where most outcomes are events."""
    table = build_toy_table(400, seed=9)
    rare = np.random.default_rng(0).random(400) < 0.25
    table.filter(pl.Series((table["disease"].to_numpy() == 1) | rare)).write_csv(tmp_path / "clinic_b.csv")
    return tmp_path / "clinic_b.csv"


def test_probabilities_are_calibrated_on_the_validation_part(run: RunFolder) -> None:
    found = json.loads(run.calibration.read_text())
    assert found["fitted_on"] == "validation" and found["method"] == "platt"
    rows = pl.read_ndjson(run.predictions).filter(pl.col("model") == "tuned")
    held = rows.filter(pl.col("part") == "validation")
    assert found["n"] == held.height and found["n_events"] == held["y_true"].sum()
    again = calibrate.fit(logit(held["y_prob_raw"].to_numpy()), held["y_true"].to_numpy().astype(float), "platt")
    assert found["models"]["tuned"]["slope"] == pytest.approx(again.slope, abs=1e-6)
    final = calibrate.apply(calibrate.from_json(found["models"]["tuned"]), logit(rows["y_prob_raw"].to_numpy()))
    np.testing.assert_allclose(rows["y_prob"], final, atol=1e-9)
    assert (rows["y_prob"] - rows["y_prob_raw"]).abs().max() > 1e-3


def test_thresholds_are_fixed_on_the_validation_part_and_judged_on_test(run: RunFolder) -> None:
    fixed = json.loads(run.calibration.read_text())["thresholds"]["tuned"]
    assert [entry["name"] for entry in fixed] == ["decision", "Youden"]
    judged = json.loads(run.metrics.read_text())["parts"]["test"]["thresholds"]["tuned"]
    assert [(entry["name"], entry["value"]) for entry in judged] == [(e["name"], e["value"]) for e in fixed]


def test_subgroups_are_judged(run: RunFolder) -> None:
    groups = json.loads(run.metrics.read_text())["parts"]["test"]["subgroups"]
    assert {group["column"] for group in groups} == {"sex", "age"}
    assert {group["group"] for group in groups if group["column"] == "sex"} == {"woman", "man"}


def test_a_new_table_is_scored_with_the_calibrator(run: RunFolder) -> None:
    table = run.path.parents[1] / "table.csv"
    scored = studies.score_table(run, str(table), keep_ids=False)
    both = pl.read_ndjson(run.predictions).filter(pl.col("model") == "tuned").join(scored, on="row_id", suffix="_new")
    np.testing.assert_allclose(both["y_prob"], both["y_prob_new"], atol=1e-5)


@pytest.mark.parametrize("method", ["intercept", "logistic"])
def test_recalibration_mends_a_shifted_site(run: RunFolder, site: Path, method: str) -> None:
    file, judged = studies.recalibrate(run, studies.NewTable(str(site)), method, overwrite=True)  # of the other method
    assert file.name == "clinic_b.json"
    assert judged["before"]["calibration_intercept"] > 0.5
    assert abs(judged["after"]["calibration_intercept"]) < 0.15
    assert judged["after"]["log_loss"] < judged["before"]["log_loss"]
    plain = studies.score_table(run, str(site), keep_ids=False)["y_prob"]
    adapted = studies.score_table(run, str(site), keep_ids=False, site="clinic_b")["y_prob"]
    assert adapted.mean() > plain.mean()
    np.testing.assert_array_equal(np.argsort(adapted), np.argsort(plain))
    content = file.read_text()
    assert not any(patient in content for patient in build_toy_table(400, seed=9)["patient_id"])


def test_the_command_shows_before_and_after(run: RunFolder, site: Path) -> None:
    result = CliRunner().invoke(app, ["recalibrate", str(run.path), str(site), "--method", "intercept", "--overwrite"])
    assert result.exit_code == 0, result.output
    assert "before" in result.output and "after" in result.output and "--site clinic_b" in result.output
    assert result.stderr.count("read clinic_b.csv") == 1, "the table is read once"


def test_only_a_known_site_can_be_named(run: RunFolder, site: Path) -> None:
    with pytest.raises(ConfigError, match="--site nowhere: this run has been recalibrated for"):
        studies.score_table(run, str(site), keep_ids=False, site="nowhere")


@pytest.mark.parametrize(("events", "others"), [(0, 0), (5, 40), (40, 5)])
def test_recalibration_needs_outcomes_of_both_kinds(run: RunFolder, tmp_path: Path, events: int, others: int) -> None:
    table = build_toy_table(400, seed=9)
    few = pl.concat([table.filter(disease=1)[:events], table.filter(disease=0)[:others]])
    file = tmp_path / "few.csv"
    (few if events else table.drop("disease")).write_csv(file)
    said = rf"few\.csv: disease is known in {events + others} rows, {events} of them events; .* of 6 events and 6 non-events"
    with pytest.raises(DataError, match=said):
        studies.recalibrate(run, studies.NewTable(str(file)), "intercept")
    assert not (run.path / "sites" / "few.json").exists()


def test_the_fewest_outcomes_that_suffice(run: RunFolder, tmp_path: Path) -> None:
    """Rows without an outcome are left out; every fold still holds enough of both outcomes."""
    table = build_toy_table(400, seed=9)
    blind = table[:30].with_columns(disease=pl.lit(None, pl.Int64))
    pl.concat([table.filter(disease=1)[:6], table.filter(disease=0)[:9], blind]).write_csv(tmp_path / "six.csv")
    file, judged = studies.recalibrate(run, studies.NewTable(str(tmp_path / "six.csv")), "intercept")
    site = json.loads(file.read_text())
    assert (site["n"], site["n_events"]) == (15, None), "six events are too few to be told"
    assert judged["after"]["log_loss"] is not None
    file.unlink()


# --------------------------------------------------------------------------------------------------
# names


def sites_of(run: RunFolder) -> set[str]:
    return {file.stem for file in (run.path / "sites").glob("*.json")}


@pytest.fixture
def tables(tmp_path: Path) -> Callable[..., Path]:
    """Writes labelled tables, each of other rows, under any name."""

    def write(name: str, seed: int) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        frame = build_toy_table(120, seed=seed)
        frame.write_parquet(file) if file.suffix == ".parquet" else frame.write_csv(file)
        return file

    return write


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("north.2023.csv", "north.2024.csv", {"north.2023", "north.2024"}),
        ("Köln (Süd).csv", "Köln (Nord).csv", {"Köln_Süd", "Köln_Nord"}),
        (f"{'a' * 200}1.csv", f"{'a' * 200}2.csv", None),
    ],
)
def test_tables_of_other_names_are_kept_apart(
    run: RunFolder, tables: Callable[..., Path], first: str, second: str, names: set[str] | None
) -> None:
    before = sites_of(run)
    for seed, name in enumerate((first, second), start=20):
        done = CliRunner().invoke(app, ["recalibrate", str(run.path), str(tables(name, seed))])
        assert done.exit_code == 0, done.output
        named = done.stdout.replace("\n", "").rpartition("--site ")[2].rstrip("`")
        assert json.loads((run.path / "sites" / f"{named}.json").read_text())["n"] == 120
    made = sites_of(run) - before
    assert len(made) == 2 and (names is None or made == names)
    assert all(len(name.encode()) < 120 for name in made)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a/east.csv", "b/east.csv"),
        ("west.csv", "west.parquet"),
        ("South.csv", "c/south.csv"),
        ("x y.csv", "c/x_y.csv"),
    ],
)
def test_another_table_of_this_name_is_refused_unless_asked(
    run: RunFolder, tables: Callable[..., Path], first: str, second: str
) -> None:
    studies.recalibrate(run, studies.NewTable(str(tables(first, 30))), "intercept")
    other = str(tables(second, 31))
    before = {file: file.read_bytes() for file in (run.path / "sites").iterdir()}
    done = CliRunner().invoke(app, ["recalibrate", str(run.path), other])
    assert done.exit_code == 2 and "was made from something else; choose another name with --site" in done.stderr
    assert {file: file.read_bytes() for file in (run.path / "sites").iterdir()} == before
    file, _ = studies.recalibrate(
        run, studies.NewTable(other), "intercept", site_name=f"second-{Path(first).stem}".replace(" ", "_")
    )
    assert file.is_file() and before.items() <= {f: f.read_bytes() for f in file.parent.iterdir()}.items()
    done = CliRunner().invoke(app, ["recalibrate", str(run.path), other, "--overwrite"])
    assert done.exit_code == 0, done.output


def test_the_same_table_is_recalibrated_again_but_not_by_another_method(
    run: RunFolder, tables: Callable[..., Path]
) -> None:
    table = str(tables("again.csv", 40))
    file, _ = studies.recalibrate(run, studies.NewTable(table), "intercept")
    made = file.read_bytes()
    studies.recalibrate(run, studies.NewTable(table), "intercept")
    assert file.read_bytes() == made
    with pytest.raises(ConfigError, match="made from something else"):
        studies.recalibrate(run, studies.NewTable(table), "logistic")
    assert file.read_bytes() == made
    file.write_text("damaged")
    studies.recalibrate(run, studies.NewTable(table), "logistic", overwrite=True)
    assert json.loads(file.read_text())["method"] == "logistic"


@pytest.mark.parametrize("name", ["../config", "a/b", "two words", ".hidden", ""])
def test_odd_names_of_a_site_are_refused(run: RunFolder, tables: Callable[..., Path], name: str) -> None:
    if name:
        with pytest.raises(ConfigError, match="expected letters, digits, dots"):
            studies.recalibrate(run, studies.NewTable(str(tables("odd.csv", 50))), "intercept", site_name=name)
    with pytest.raises(ConfigError, match="this run has been recalibrated for"):
        tuned.read_site(run, name)

"""The commands that look into runs, through the command line, on one trained toy run."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from conftest import TOY_COLUMNS, build_toy_table, write_toy_experiment
from test_cli import call, check_refusal

# --------------------------------------------------------------------------------------------------
# runs that the tests share


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return write_toy_experiment(tmp_path_factory.mktemp("commands"), toy_model)


@pytest.fixture(scope="module")
def trained(experiment: Path) -> Path:
    """A finished run with a tuned model."""
    done = call("run", experiment, "models=[logistic_regression, tuned]")
    assert done.exit_code == 0, done.output
    return experiment.parent / "runs" / "toy"


def predicted(experiment: Path, name: str, *overrides: str) -> Path:
    """A run of logistic regression alone, as far as its predictions."""
    run = experiment.parent / "runs" / name
    for step in (("prepare", experiment, f"name={name}", "models=[logistic_regression]", *overrides), ("predict", run)):
        done = call(*step)
        assert done.exit_code == 0, done.output
    return run


@pytest.fixture(scope="module")
def classical(experiment: Path) -> Path:
    return predicted(experiment, "classical")


@pytest.fixture(scope="module")
def untrained(experiment: Path) -> Path:
    assert call("prepare", experiment, "name=untrained").exit_code == 0
    return experiment.parent / "runs" / "untrained"


def read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def holds_no_patient(text: str) -> bool:
    return not any(patient in text for patient in build_toy_table()["patient_id"])


# --------------------------------------------------------------------------------------------------
# audit


def test_a_clean_table_and_its_run_pass_the_audit(experiment: Path, trained: Path) -> None:
    table = call("audit", experiment)
    assert table.exit_code == 0 and "permutation" in table.stdout and "leak" not in table.stdout
    run = call("audit", trained, "--json")
    assert run.exit_code == 0, run.output
    findings = json.loads(run.stdout)["findings"]
    assert findings and all(finding["severity"] != "leak" for finding in findings)
    assert read(trained / "audit.json") == {"findings": findings}
    asked = json.loads(call("audit", experiment, "--json").stdout)["findings"]
    assert [finding for finding in findings if finding in asked] == asked, "a run is judged as its table, and further"


@pytest.fixture
def leaking(toy_experiment: Path) -> Path:
    """The toy experiment with a feature that is the outcome in other words."""
    table = build_toy_table()
    given = table["disease"].replace_strict({0: "none", 1: "statin"})
    table.with_columns(drug=given).write_csv(toy_experiment.parent / "table.csv")
    tree = yaml.safe_load(toy_experiment.read_text())
    tree["data"]["columns"]["drug"] = {"type": "categorical", "codes": {"none": "none", "statin": "statin"}}
    toy_experiment.write_text(yaml.safe_dump(tree))
    return toy_experiment


def test_a_planted_leak_is_found_and_told(leaking: Path) -> None:
    found = call("audit", leaking, "--json")
    check_refusal(found, 3, "results are not to be believed before they are explained")
    leaks = [finding for finding in json.loads(found.stdout)["findings"] if finding["severity"] == "leak"]
    (single,) = [finding for finding in leaks if finding["check"] == "single_column"]
    assert single["text"].startswith("column drug alone has an AUROC of 1.000")

    run = leaking.parent / "runs" / "toy"
    done = call("run", leaking, "models=[logistic_regression]")
    assert done.exit_code == 0, done.output
    assert "warning: LEAK: column drug alone has an AUROC of 1.000" in done.stderr
    assert single in read(run / "audit.json")["findings"]
    for file in ("report.html", "report.md"):
        assert "column drug alone has an AUROC of 1.000" in (run / file).read_text("utf-8")
    audited = call("audit", run)
    check_refusal(audited, 3, "results are not to be believed before they are explained")
    assert "single column" in audited.stdout and holds_no_patient(audited.stdout)


# --------------------------------------------------------------------------------------------------
# compare


def test_runs_are_put_side_by_side(trained: Path, classical: Path) -> None:
    shown = call("compare", classical, trained)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("60 test rows, ") and "Tuned LLM" in shown.stdout
    found = json.loads(call("compare", classical, trained, "--json").stdout)
    assert [(entry["run"], entry["model"]) for entry in found["entries"]] == [
        ("classical", "logistic_regression"),
        ("toy", "tuned"),
    ]
    reported = read(trained / "metrics.json")["parts"]["test"]["models"]
    tuned = found["entries"][1]
    assert tuned["metrics"]["auroc"]["value"] == pytest.approx(reported["tuned"]["auroc"]["value"])
    difference = reported["tuned"]["auroc"]["value"] - reported["logistic_regression"]["auroc"]["value"]
    assert tuned["differences"]["auroc"]["value"] == pytest.approx(difference), "the same rows, split by the same seed"
    every = json.loads(call("compare", classical, trained, "--json", "--all-models").stdout)
    assert len(every["entries"]) == 3


def test_runs_of_other_rows_are_not_compared(experiment: Path, trained: Path) -> None:
    other = predicted(experiment, "other", "seed=1")
    check_refusal(call("compare", trained, other), 3, "the test rows differ: toy 60, other 60")
    common = json.loads(call("compare", trained, other, "--common", "--json").stdout)
    ids = [set(pl.read_ndjson(run / "predictions.jsonl").filter(part="test")["row_id"]) for run in (trained, other)]
    assert common["common"] and common["n"] == len(ids[0] & ids[1])


# --------------------------------------------------------------------------------------------------
# probe, explain


def test_probe_writes_its_findings_and_the_report_shows_them(trained: Path) -> None:
    done = call("probe", trained, "--rows", "6")
    assert done.exit_code == 0, done.output
    found = read(trained / "probes.json")
    assert {item["name"] for item in found["probes"]} >= {"order", "style: list", "rounding", "missing: age"}
    assert all(item["n"] <= 6 and 0 <= item["mean_change"] <= item["max_change"] for item in found["probes"])
    assert {item["column"] for item in found["monotonicity"]} == {"age", "sbp"}
    assert "style: list" in done.stdout and "the wrong way" in done.stdout
    assert "age is not recorded" in (trained / "report.html").read_text("utf-8")
    assert holds_no_patient(done.stdout + (trained / "probes.json").read_text())


def test_explain_ranks_the_columns_of_both_models(trained: Path) -> None:
    done = call("explain", trained, "--rows", "20")
    assert done.exit_code == 0, done.output
    found = read(trained / "explanations.json")
    features = {name for name, column in TOY_COLUMNS.items() if "role" not in column}
    assert {(entry["model"], entry["column"]) for entry in found["importance"]} == {
        (model, name) for model in ("tuned", "lightgbm") for name in features
    }
    assert "AUROC lost" in done.stdout and f"report: {trained / 'report.html'}" in done.stdout
    assert holds_no_patient(done.stdout + (trained / "explanations.json").read_text())


def explained(*arguments: str | Path) -> Any:
    done = call("explain", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_one_patients_fields_are_left_out_one_by_one(trained: Path, tmp_path: Path) -> None:
    """The same patient named in three ways; each change is what scoring the table without that
    value gives."""
    risks = pl.read_ndjson(trained / "predictions.jsonl").filter(model="tuned", part="test")
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    by_row_id = explained(trained, "--row", risks["row_id"][0])
    assert by_row_id["risk"] == pytest.approx(risks["y_prob"][0], abs=1e-5)

    table = trained.parents[1] / "table.csv"
    scored = call("predict", trained, table)
    ids = pl.read_csv(scored.stdout.encode())["row_id"].cast(pl.String).to_list()
    number = ids.index(risks["row_id"][0])
    patient = pl.read_csv(table)[number]
    by_own_id = explained(trained, "--row", patient["patient_id"][0])
    assert by_own_id == by_row_id
    patient.drop("disease", "patient_id").write_csv(tmp_path / "new.csv")
    by_number = explained(trained, "--table", table, "--row", str(number + 1))
    assert by_number["risk"] == pytest.approx(by_row_id["risk"], abs=1e-6)
    assert explained(trained, "--table", tmp_path / "new.csv", "--row", "1") == by_number

    fields = {field["column"]: field for field in by_number["fields"]}
    assert fields.keys() | set(by_number["not_recorded"]) == {"age", "sex", "sbp", "smoker", "pain"}
    changes = [abs(field["change"]) for field in by_number["fields"]]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    for name in ("age", "sbp"):
        patient.with_columns(pl.lit(None).alias(name)).write_csv(tmp_path / "blank.csv")
        without = pl.read_csv(call("predict", trained, tmp_path / "blank.csv").stdout.encode())["y_prob"][0]
        assert fields[name]["risk"] == pytest.approx(without, abs=1e-5)
        assert fields[name]["change"] == pytest.approx(without - by_number["risk"], abs=1e-5)

    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*")} == before, "nothing is written"


def test_one_patients_fields_as_a_table(trained: Path) -> None:
    split = pl.read_parquet(trained / "split.parquet")
    shown = call("explain", trained, "--row", split.filter(part="test")["row_id"][0])
    assert shown.exit_code == 0, shown.output
    assert "risk of this patient: 0." in shown.stdout and "sbp" in shown.stdout and "risk without it" in shown.stdout
    assert "training part" not in shown.stderr and holds_no_patient(shown.stdout + shown.stderr)
    learned = call("explain", trained, "--row", split.filter(part="train")["row_id"][0])
    assert "warning: --row: this patient is in the training part" in learned.stderr


def test_a_patient_who_is_not_there_is_refused_without_being_named(trained: Path) -> None:
    table = trained.parents[1] / "table.csv"
    for wrong in ("P99999", "17"):
        refused = call("explain", trained, "--row", wrong)
        check_refusal(refused, 2, "0 of the run's 240 rows have this id; expected a row_id of predictions.jsonl")
        assert wrong not in refused.output
    for wrong in ("0", "241", "P00017", "1.5", "²"):
        refused = call("explain", trained, "--row", wrong, "--table", table)
        check_refusal(refused, 2, "table.csv, 1 to 240")
        assert "P00017" not in refused.output
    check_refusal(call("explain", trained, "--table", table), 2, "--table and --json go with --row")


def test_ready_texts_have_no_fields_to_leave_out(toy_experiment: Path) -> None:
    table = build_toy_table().with_columns(note="age " + pl.col("age").cast(pl.String))
    table.write_csv(toy_experiment.parent / "table.csv")
    note = "data.columns.note={role: text, type: text}"
    done = call("prepare", toy_experiment, note)
    assert done.exit_code == 0, done.output
    refused = call("explain", toy_experiment.parent / "runs" / "toy", "--row", "1", "--table", "table.csv")
    check_refusal(refused, 2, "texts come ready made, so no field of theirs can be left out")


# --------------------------------------------------------------------------------------------------
# learn-curve


def finished(run: Path) -> bool:
    return (run / "manifest.json").is_file() and read(run / "manifest.json")["status"] == "finished"


@pytest.mark.slow
def test_a_killed_learning_curve_goes_on_and_lands_in_the_report(experiment: Path, trained: Path) -> None:
    folder = trained.with_name("toy_learning_curve")
    asked = ["learn-curve", str(experiment), "--sizes", "32,999,all", "--seeds", "2"]
    command = [str(Path(sys.executable).with_name("cardiotune")), *asked]
    first = folder / "toy-rows-32-seed-0"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not finished(first) and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -9 and finished(first)
    assert not (trained / "learning_curve").exists(), "no half a curve in the report"
    made = (first / "predictions.jsonl").stat().st_mtime_ns

    done = call(*asked)
    assert done.exit_code == 0, done.output
    assert "sizes left out: 999, for all training rows are 144" in done.stderr
    assert done.stderr.count("finished before, so it is read") == 1
    assert (first / "predictions.jsonl").stat().st_mtime_ns == made, "what was finished is not run again"
    curve = read(trained / "learning_curve" / "learning_curve.json")
    models = {"logistic_regression", "lightgbm", "zero_shot", "few_shot", "tuned"}
    points = {(point["model"], point["train_rows"], point["seed"]) for point in curve["points"]}
    assert points == {(model, rows, seed) for model in models for rows in (32, 144) for seed in (0, 1)}
    assert len(curve["points"]) == len(points)
    names = {"learning_curve.json", "learning_curve.png", "learning_curve.md"}
    assert {file.name for file in (trained / "learning_curve").iterdir()} == names
    assert (trained / "learning_curve" / "learning_curve.md").read_text() in done.stdout
    assert f"report: {trained / 'report.html'}" in done.stdout
    assert "144 rows" in (trained / "report.md").read_text("utf-8"), "the report shows the curve"


def test_a_curve_without_its_run_waits_for_it(toy_experiment: Path) -> None:
    asked = ("learn-curve", toy_experiment, "models=[prevalence]", "--sizes", "20", "--seeds", "2")
    runs = toy_experiment.parent / "runs"
    alone = call(*asked)
    assert alone.exit_code == 0, alone.output
    curve = (runs / "toy_learning_curve" / "learning_curve.json").read_bytes()
    (runs / "toy_learning_curve" / "toy-rows-20-seed-1" / "metrics.json").unlink()
    redone = call(*asked)
    assert redone.exit_code == 0, redone.output
    assert redone.stderr.count("finished before, so it is read") == 1, "only the deleted result is made again"
    assert (runs / "toy_learning_curve" / "learning_curve.json").read_bytes() == curve
    assert "no such run; once it is there, the same command puts the curve into its report" in alone.stderr
    assert f"written: {runs / 'toy_learning_curve' / 'learning_curve.png'}" in alone.stdout
    assert not (runs / "toy").exists()

    assert call("prepare", toy_experiment, "models=[logistic_regression]", "serialize.style=list").exit_code == 0
    other = call(*asked)
    assert other.exit_code == 0 and not (runs / "toy" / "learning_curve").exists()
    assert "warning: " in other.stderr and "which is of another serialize.style" in other.stderr

    assert call("prepare", toy_experiment, "models=[logistic_regression]", "--overwrite").exit_code == 0
    joined = call(*asked)
    assert joined.exit_code == 0, joined.output
    assert (runs / "toy" / "learning_curve" / "learning_curve.md").is_file()
    elsewhere = call(*asked, "--out", runs / "toy_learning_curve")
    assert f"written: {runs / 'toy_learning_curve' / 'learning_curve.png'}" in elsewhere.stdout


@pytest.mark.parametrize(
    ("code", "said", "options"),
    [
        (2, "--sizes: 'many'; expected whole numbers and all, such as 32,128,all", ["--sizes", "32,many"]),
        (2, "--sizes: ''; expected", ["--sizes", "32,"]),
        (2, "--sizes: '²'; expected", ["--sizes", "²"]),
        (2, "size 3 is too small; expected 4 training rows or more, or all", ["--sizes", "3"]),
        (2, "each of them once", ["--sizes", "32,32"]),
        (3, "--sizes: 999, but the training part has 144 rows; ask for fewer, or for all", ["--sizes", "32,999"]),
        (2, "table.csv: is a file; name a folder", ["--out", "table.csv"]),
        (2, "toy: is a run folder; name a folder", ["--out", "runs/toy"]),
        (2, "trian: unknown key", ["trian.epochs=1"]),
    ],
)
def test_bad_learning_curves_are_refused_before_any_run(
    experiment: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str, options: list[str]
) -> None:
    monkeypatch.chdir(experiment.parent)
    check_refusal(call("learn-curve", experiment, *options, "name=fresh"), code, said)
    assert not (trained.with_name("fresh_learning_curve")).exists()


# --------------------------------------------------------------------------------------------------
# bad input to all of them


def test_a_run_without_a_tuned_model_is_refused(classical: Path, untrained: Path) -> None:
    table = classical.parents[1] / "table.csv"
    for command in (("probe",), ("explain",), ("explain", "--row", "1"), ("recalibrate", table), ("predict", table)):
        name, *rest = command
        check_refusal(
            call(name, untrained, *rest), 2, f"has no tuned model; train it with `cardiotune train {untrained}`"
        )
        check_refusal(call(name, classical, *rest), 2, "has no tuned model; its models do not hold tuned")
    check_refusal(call("compare", classical, untrained), 3, "no predictions yet")


def test_a_folder_that_is_no_run_is_named(experiment: Path, trained: Path, tmp_path: Path) -> None:
    table = experiment.parent / "table.csv"
    for command in (("audit",), ("probe",), ("explain",), ("explain", "--row", "1"), ("recalibrate", table)):
        name, *rest = command
        check_refusal(call(name, tmp_path, *rest), 2, "not a run folder (no manifest.json)")
    check_refusal(call("compare", trained, tmp_path), 2, "not a run folder")
    check_refusal(call("compare", trained), 2, "got 1 run, expected two or more")
    check_refusal(call("compare", trained, trained), 2, "a run is named twice")
    check_refusal(call("audit", trained, "seed=1"), 2, "a run folder keeps the settings it was made with")
    check_refusal(
        call("learn-curve", trained), 2, f"is a folder; expected an experiment YAML, such as {trained}/config.yaml"
    )
    check_refusal(call("run", tmp_path), 2, "is a folder; expected an experiment YAML")


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("audit", "--rows", "1"),
        ("compare", "--main", "tuned"),
        ("probe", "--rows", "0"),
        ("explain", "--rows", "many"),
        ("learn-curve", "--seeds", "0"),
        ("recalibrate", "--method", "beta"),
    ],
)
def test_wrong_options_are_usage_errors(trained: Path, command: str, option: str, value: str) -> None:
    refused = call(command, trained, "table.csv", option, value)
    assert refused.exit_code == 2 and "Traceback" not in refused.stderr
    assert option in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("columns of the data dictionary that are not in the table: sbp", lambda t: t.drop("sbp")),
        ("disease is known in 0 rows", lambda t: t.drop("disease")),
        ("disease is known in 0 rows", lambda t: t.with_columns(disease=pl.lit(None))),
        ("disease is known in 240 rows, 240 of them events", lambda t: t.with_columns(disease=pl.lit(1))),
        ("expected 0 and 1, found 3 different values", lambda t: t.with_columns(disease=pl.Series([0, 1, 2] * 80))),
        ("has a header but no rows", lambda t: t.clear()),
    ],
)
def test_tables_that_cannot_recalibrate(
    trained: Path, tmp_path: Path, said: str, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    change(build_toy_table()).write_csv(tmp_path / "clinic.csv")
    check_refusal(call("recalibrate", trained, tmp_path / "clinic.csv"), 3, said)
    assert not (trained / "sites" / "clinic.json").exists()


@pytest.mark.parametrize(
    ("file", "commands"),
    [
        ("split.parquet", ["audit", "probe", "explain"]),
        ("cohort.json", ["audit", "recalibrate"]),
        ("calibration.json", ["audit", "probe", "explain", "recalibrate"]),
        ("metrics.json", ["audit"]),
        ("manifest.json", ["audit", "probe", "explain", "recalibrate", "compare"]),
    ],
)
def test_a_damaged_run_is_said_to_be_damaged(trained: Path, tmp_path: Path, file: str, commands: list[str]) -> None:
    damaged = tmp_path / "toy"
    shutil.copytree(trained, damaged)
    (damaged / file).write_text("{")
    more = {"recalibrate": [trained.parents[1] / "table.csv"], "compare": [trained]}
    for command in commands:
        said = f"{file}: {'damaged' if file == 'manifest.json' else 'differs from what the run recorded'}"
        check_refusal(call(command, damaged, *more.get(command, [])), 4, said)


def test_a_run_that_was_stopped_while_it_was_prepared(trained: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "toy"
    stopped.mkdir()
    shutil.copy(trained / "config.yaml", stopped)
    (stopped / "manifest.json").write_text('{"status": "running"}')
    check_refusal(
        call("audit", stopped), 4, "was stopped before its table was prepared; start it anew with --overwrite"
    )


@pytest.mark.slow
def test_a_protein_panel_of_thousands_of_columns_runs(tmp_path: Path) -> None:
    """Its resolved config is above a mebibyte; the report shows the first of its columns and says
    where the others are."""
    draw, names = np.random.default_rng(0), [f"p{place}" for place in range(4600)]
    panel = pl.DataFrame(draw.integers(0, 10, (60, 4600)), schema=names, orient="row")
    frame = panel.with_columns(died=draw.permutation([0, 1] * 30)).with_row_index("id")
    frame.write_csv(tmp_path / "wide.csv")
    assert call("init", tmp_path / "wide.csv", "--target", "died", "--out", tmp_path / "study").exit_code == 0
    done = call(
        "run", tmp_path / "study" / "experiment.yaml", "models=[logistic_regression]", f"runs_dir={tmp_path}/runs"
    )
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "wide"
    assert (folder / "config.yaml").stat().st_size > 1 << 20
    assert "8900 further rows are in" in (folder / "report.html").read_text()
    assert (folder / "report.md").stat().st_size < 100_000 and call("report", folder).exit_code == 0

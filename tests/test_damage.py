"""Files of a finished run or an export that are not what was written: each door refuses them, and
the road back is open."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from cardiotune import RiskModel, reopen, stages
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ModelError
from cardiotune.files import sha256
from cardiotune.models.calibrate import Calibrator, from_json
from cardiotune.runs import RunFolder
from conftest import write_toy_experiment
from serving import KEY, ROW, ROWS, serving
from test_cli import call, check_refusal


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """A run with all that it may hold: model, report, a site, what was asked for later."""
    file = write_toy_experiment(tmp_path_factory.mktemp("damage"), toy_model)
    run = file.parent / "runs" / "toy"
    pl.DataFrame(ROWS).write_csv(file.parent / "new.csv")
    steps: list[tuple[Any, ...]] = [("run", file, "models=[tuned]", "train.max_steps=3"), ("probe", run, "--rows", "2")]
    steps += [("recalibrate", run, file.parent / "table.csv"), ("export", run, "--to", "merged", "--out", run / "out")]
    for step in steps:
        done = call(*step)
        assert done.exit_code == 0, done.output
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "toy"))


def beside(run: Path, finished: Path) -> dict[str, tuple[Any, ...]]:
    """Commands that read a run, with what they need."""
    table = finished.parents[1]
    return {
        "predict": ("predict", run, table / "new.csv"),
        "to file": ("predict", run, table / "new.csv", "--out", run.parent / "risks.parquet"),
        "site": ("predict", run, table / "new.csv", "--site", "table"),
        "evaluate": ("evaluate", run),
        "report": ("report", run),
        "export": ("export", run, "--to", "merged", "--out", run.parent / "out"),
        "recalibrate": ("recalibrate", run, table / "table.csv"),
        "probe": ("probe", run, "--rows", "2"),
        "compare": ("compare", run, finished),
        "serve": ("serve", run, "--port", "0"),
        "train": ("train", run),
    }


def swapped_codes(file: Path) -> None:
    """Woman is man, and man is woman."""
    tree = yaml.safe_load(file.read_text())
    tree["data"]["columns"]["sex"]["codes"] = {"0": "man", "1": "woman"}
    file.write_text(yaml.safe_dump(tree, sort_keys=False))


def another_threshold(file: Path) -> None:
    tree = yaml.safe_load(file.read_text())
    tree["task"]["threshold"] = 0.2
    file.write_text(yaml.safe_dump(tree, sort_keys=False))


def other_numbers(file: Path) -> None:
    """The first digit is another."""
    file.write_text(re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), file.read_text(), count=1))


def fixed_threshold(file: Path) -> None:
    tree = json.loads(file.read_text())
    tree["thresholds"]["tuned"][0]["value"] = 0.1
    file.write_text(json.dumps(tree))


def a_bit_flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


SCORE = ["predict", "to file", "site", "export", "recalibrate", "probe", "serve"]
DAMAGES: list[tuple[str, Callable[[Path], None], list[str]]] = [
    ("config.yaml", swapped_codes, [*SCORE, "evaluate", "report", "train"]),
    ("config.yaml", another_threshold, [*SCORE, "evaluate", "report", "train"]),
    ("cohort.json", other_numbers, [*SCORE, "report"]),
    ("split.parquet", a_bit_flipped, ["probe", "evaluate", "train"]),
    ("calibration.json", other_numbers, [*SCORE, "evaluate", "report"]),
    ("calibration.json", fixed_threshold, [*SCORE, "evaluate", "report"]),
    ("calibration.json", Path.unlink, [*SCORE, "evaluate", "report"]),
    ("sites/table.json", other_numbers, ["site"]),
    ("adapter/adapter_model.safetensors", a_bit_flipped, ["predict", "export", "serve"]),
    ("adapter/sha256.json", other_numbers, SCORE),
    ("adapter/probe.json", Path.unlink, SCORE),
    ("predictions.jsonl", other_numbers, ["evaluate", "report", "compare", "serve"]),
    ("metrics.json", other_numbers, ["report", "compare", "serve"]),
    ("probes.json", other_numbers, ["report"]),
    ("audit.json", a_bit_flipped, ["report"]),
    ("logs/training.json", other_numbers, ["report"]),
    ("manifest.json", other_numbers, [*SCORE, "evaluate", "report", "compare", "train"]),
]


@pytest.mark.parametrize(
    ("file", "damage", "commands"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_what_differs_from_its_record_is_refused(
    run: Path, finished: Path, file: str, damage: Callable[[Path], None], commands: list[str]
) -> None:
    damage(run / file)
    for command in commands:
        done = call(*beside(run, finished)[command])
        assert done.exit_code == 4, f"{command}: {done.output}"
        assert done.stderr.count("error:") == 1 and Path(file).name in done.stderr, f"{command}: {done.stderr}"
        assert "internal" not in done.stderr
        assert not done.stdout.startswith("row,"), f"{command}: rows were given out"
    assert not (run.parent / "risks.parquet").exists() and not (run.parent / "out").exists()
    if "serve" in commands and "predict" in commands:
        with pytest.raises(ModelError):
            RiskModel.load(run)


@pytest.mark.parametrize("file", ["calibration.json", "predictions.jsonl", "metrics.json", "sites/table.json"])
def test_the_road_back_is_the_command_that_made_it(run: Path, finished: Path, file: str) -> None:
    whole = {name: sha256(run / name) for name in ("calibration.json", "predictions.jsonl", "metrics.json")}
    (run / file).write_text("{}\n")
    made_by = {"metrics.json": "evaluate", "sites/table.json": "recalibrate"}.get(file)
    for command in [made_by] if made_by else ["own", "evaluate"]:
        again = ["--overwrite"] if command == "recalibrate" else []
        done = call("predict", run) if command == "own" else call(*beside(run, finished)[command], *again)
        assert done.exit_code == 0, done.output
    assert {name: sha256(run / name) for name in whole} == whole
    for command in ("site", "report"):
        assert call(*beside(run, finished)[command]).exit_code == 0


def test_a_new_model_makes_its_predecessors_calibrator_useless(run: Path, finished: Path) -> None:
    other = finished.parents[1] / "experiment.yaml"
    place = run.parent / "other"
    for step in (
        ("prepare", other, "name=other", f"runs_dir={run.parent}", "models=[tuned]", "seed=5"),
        ("train", place),
    ):
        assert call(*step).exit_code == 0
    shutil.rmtree(run / "adapter")
    shutil.copytree(place / "adapter", run / "adapter")
    check_refusal(call(*beside(run, finished)["predict"]), 4, "adapter/sha256.json: differs from what the run recorded")
    RunFolder(run).record(run / "adapter" / "sha256.json", run / "adapter" / "probe.json")  # as training does
    check_refusal(
        call(*beside(run, finished)["predict"]), 4, "calibration.json: not recorded by the run, or made of what"
    )
    with pytest.raises(ModelError, match=r"sites.table.json: not recorded"):
        RowScorer.load(run, site="table")


EXPORTED = ["config.yaml", "calibration.json", "export.json", "tokenizer.json", "config.json", "model.safetensors"]


@pytest.mark.parametrize("file", [*EXPORTED, "probe.json", "README.md", "added_tokens.json"])
def test_an_export_is_checked_too(run: Path, finished: Path, tmp_path: Path, file: str) -> None:
    export = run / "out"
    with (export / file).open("a") as out:
        out.write(" " if (export / file).stat().st_size else "{}")
    check_refusal(call("predict", export, finished.parents[1] / "new.csv"), 4, file)
    with pytest.raises(ModelError, match=file):
        RiskModel.load(export)


# --------------------------------------------------------------------------------------------------
# calibrators whose record fits them, and that are none


GOOD: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "temperature": {"method": "temperature", "slope": 0.9},
    "platt": {"method": "platt", "intercept": 0.1, "slope": 0.9},
    "beta": {"method": "beta", "intercept": 0.1, "slope_log_p": 0.9, "slope_log_1_p": 1.1},
    "isotonic": {"method": "isotonic", "logits": [-1.0, 0.0, 2.0], "risks": [0.1, 0.4, 0.8]},
}
NAN, INFINITE = float("nan"), float("inf")
BAD: dict[str, list[dict[str, Any]]] = {
    "none": [{"method": "None"}, {"method": None}, {"method": ["none"]}, {}],
    "temperature": [{"slope": value} for value in (NAN, INFINITE, -0.5, "1.0", True, None, 10**400)],
    "platt": [{"slope": -1.0}, {"intercept": NAN}, {"intercept": -INFINITE}, {"intercept": "0.1"}, {"slope": None}],
    "beta": [{"slope_log_p": -1.0}, {"slope_log_1_p": NAN}, {"intercept": INFINITE}, {"slope_log_1_p": None}],
    "isotonic": [
        {"risks": [0.1, 0.4, 20.87]},
        {"risks": [-0.1, 0.4, 0.8]},
        {"risks": [0.1, NAN, 0.8]},
        {"risks": [0.8, 0.4, 0.1]},
        {"logits": [2.0, 0.0, -1.0]},
        {"logits": [-1.0, 0.0, INFINITE]},
        {"logits": [-1.0, 0.0]},
        {"logits": [], "risks": []},
        {"risks": "abc"},
        {"risks": None},
        {"risks": 0.5},
    ],
}
DAMAGED = [
    pytest.param({**GOOD[kind], **bad} if bad else bad, id=f"{kind}-{bad}"[:60]) for kind in GOOD for bad in BAD[kind]
]


def put(run: Path, calibrator: Any) -> None:
    """A calibrator with a record that fits it, as of whoever writes both."""
    tree = json.loads((run / "calibration.json").read_text())
    tree["models"]["tuned"] = calibrator
    (run / "calibration.json").write_text(json.dumps(tree))
    RunFolder(run).record(run / "calibration.json")


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_calibrator_is_served(run: Path, kind: str) -> None:
    put(run, GOOD[kind])
    risks = RiskModel.load(run).predict_proba(ROWS)[:, 1]
    assert ((risks >= 0) & (risks <= 1)).all()


@pytest.fixture(scope="module")
def open_run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("calibrators") / "toy"))


@pytest.mark.parametrize("calibrator", DAMAGED)
def test_a_calibrator_that_cannot_be_is_refused_before_the_model_is_loaded(open_run: Path, calibrator: Any) -> None:
    put(open_run, calibrator)
    with pytest.raises(ModelError, match=r"calibration.json: (not a calibrator of this program|damaged)"):
        RiskModel.load(open_run)


def test_every_door_refuses_such_a_calibrator(run: Path, finished: Path) -> None:
    put(run, {**GOOD["isotonic"], "risks": [0.1, 0.4, 20.87]})
    for command in ("predict", "to file", "export", "recalibrate", "probe"):
        check_refusal(call(*beside(run, finished)[command]), 4, "not a calibrator of this program")
    site = json.loads((run / "sites" / "table.json").read_text())
    (run / "sites" / "table.json").write_text(json.dumps({**site, "slope": -3.0}))
    put(run, GOOD["platt"])
    RunFolder(run).record(run / "sites" / "table.json")
    check_refusal(call(*beside(run, finished)["site"]), 4, "table.json: not a calibrator of this program")


def test_a_server_keeps_its_model_when_the_new_calibrator_is_none(run: Path) -> None:
    load = lambda: RowScorer.load(run)  # noqa: E731
    whole = (run / "calibration.json").read_bytes()
    with serving(run, load, keys=[KEY.encode()]) as (client, _):
        before = client.post("/v1/predict", json={"rows": [ROW]}).json()
        for bad in ({"method": "platt", "intercept": NAN, "slope": 1.0}, {**GOOD["isotonic"], "risks": [0, 1, 20.87]}):
            for recorded in (True, False):
                put(run, bad)
                if not recorded:
                    (run / "calibration.json").write_bytes((run / "calibration.json").read_bytes() + b" ")
                assert client.post("/v1/reload").status_code == 409
                after = client.post("/v1/predict", json={"rows": [ROW]}).json()
                assert after["predictions"] == before["predictions"]
        (run / "calibration.json").write_bytes(whole)
        RunFolder(run).record(run / "calibration.json")
        assert call("evaluate", run).exit_code == 0  # its metrics were made with another
        assert client.post("/v1/reload").status_code == 200
        assert client.post("/v1/predict", json={"rows": [ROW]}).json()["predictions"] == before["predictions"]


@pytest.mark.parametrize("risk", ["NaN", "20.87", "-0.1", "null", '"0.5"', "Infinity"])
def test_predictions_that_are_no_risks_are_not_judged(run: Path, risk: str) -> None:
    first, *others = (run / "predictions.jsonl").read_text().splitlines()
    row = json.loads(first)
    first = first.replace(f'"y_prob": {row["y_prob"]}', f'"y_prob": {risk}')
    (run / "predictions.jsonl").write_text("\n".join([first, *others]) + "\n")
    RunFolder(run).record(run / "predictions.jsonl")
    check_refusal(call("evaluate", run), 4, "predictions.jsonl: ")


def test_what_is_no_probability_never_leaves(run: Path) -> None:
    scorer = RowScorer.load(run)
    scorer.calibrator = replace(
        from_json(GOOD["isotonic"]), risks=(0.1, 0.4, 20.87)
    )  # as if it had been changed in memory
    for use in (scorer.risks, scorer.predict_proba, scorer.predict, lambda rows: scorer.leave_one_field_out(rows[:1])):
        with pytest.raises(ModelError):
            use(ROWS)
    scorer.calibrator, scorer._model = Calibrator(), lambda texts: np.full(len(texts), np.nan)
    with serving(run, lambda: scorer) as (client, _):
        for path in ("/v1/predict", "/v1/explain"):
            answer = client.post(path, json={"rows": [ROW]})
            assert answer.status_code == 503 and "retry-after" in answer.headers and "probability" not in answer.text


def test_stages_that_were_prepared_only_ask_for_no_record(tmp_path: Path, toy_model: Path) -> None:
    file = write_toy_experiment(tmp_path, toy_model)
    assert call("prepare", file, "models=[tuned]", "train.max_steps=1").exit_code == 0
    run = tmp_path / "runs" / "toy"
    assert (
        call(
            "train",
            run,
        ).exit_code
        == 0
    )
    scorer = RowScorer.load(run)  # not calibrated yet, which is said
    assert scorer.calibrator == Calibrator()
    stages.predict(reopen.open_run(run))
    assert RowScorer.load(run).calibrator.method == "platt"

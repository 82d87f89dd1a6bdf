"""The whole way on a toy model and a toy table: files, counts, repeatability, scoring from the run
folder alone."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cardiotune import reopen, stages, studies
from cardiotune.comparators import having
from cardiotune.config import load_config, load_resolved
from cardiotune.data.prepare import read_prepared
from cardiotune.errors import ConfigError, DataError, ModelError
from conftest import build_toy_table, write_toy_experiment

DEFAULT = having(lambda one: not (one.on_request or one.held_out))
FILES = {
    "config.yaml",
    "manifest.json",
    "cohort.json",
    "exact_counts.json",
    "table1.json",
    "split.parquet",
    "audit.json",
    "predictions.jsonl",
    "calibration.json",
    "metrics.json",
    "report.html",
    "report.md",
    "checklists.md",
    "model_card.md",
}
FOLDERS = {"classical", "adapter", "checkpoints", "logs", "tokens"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """One finished run, shared by the tests that only read it."""
    file = write_toy_experiment(tmp_path_factory.mktemp("run"), toy_model)
    return stages.run(load_config(file)).path


def predictions(run: Path) -> pl.DataFrame:
    return pl.read_ndjson(run / "predictions.jsonl")


def test_the_run_folder_holds_exactly_the_contract(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FILES | FOLDERS
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["stages"].keys() == {"prepare", "audit", "train", "predict", "evaluate", "report"}
    assert all(stage["peak_memory_mib"] > 0 for stage in manifest["stages"].values())
    assert manifest["scoring"].keys() == set(DEFAULT)
    assert (
        0
        < sum(cost["seconds"] for cost in manifest["scoring"].values())
        <= manifest["stages"]["predict"]["seconds"] + 0.1
    )
    assert manifest["base_model"]["sha256"].keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert manifest["versions"].keys() >= {"torch", "transformers", "peft", "cardiotune"}


def test_counts_agree_between_all_files(finished: Path) -> None:
    cohort = json.loads((finished / "cohort.json").read_text())
    split = pl.read_parquet(finished / "split.parquet")
    assert cohort["flow"][-1]["left"] == split.height == 240
    frame = predictions(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    for part in ("validation", "test"):
        ids = set(split.filter(pl.col("part") == part)["row_id"])
        assert len(ids) == cohort["parts"][part]["n"] == metrics["parts"][part]["n"]
        for model in DEFAULT:
            rows = frame.filter((pl.col("part") == part) & (pl.col("model") == model))
            assert set(rows["row_id"]) == ids
            assert rows["y_true"].sum() == metrics["parts"][part]["n_events"]
    assert frame["y_prob"].is_between(0, 1).all()
    assert (frame["prediction"] == (frame["y_prob"] >= frame["threshold"])).all()
    assert cohort["tokens"]["longest"] <= cohort["tokens"]["limit"]


def test_no_patient_value_is_in_any_file(finished: Path) -> None:
    everything = b"".join(file.read_bytes() for file in finished.rglob("*") if file.is_file())
    assert b"P00017" not in everything  # an id
    texts = read_prepared(load_resolved(finished / "config.yaml")).texts
    assert not any(text.encode() in everything for text in texts)


def test_the_config_resolves_to_itself(finished: Path) -> None:
    saved = load_resolved(finished / "config.yaml")
    assert stages.dump(saved) == (finished / "config.yaml").read_text()


def test_the_same_command_gives_the_same_bytes(finished: Path) -> None:
    again = stages.run(load_config(finished.parents[1] / "experiment.yaml", ["name=again"]))
    assert again.predictions.read_bytes() == (finished / "predictions.jsonl").read_bytes()
    first, second = (path / "adapter" / "adapter_model.safetensors" for path in (finished, again.path))
    assert first.read_bytes() == second.read_bytes()


def test_another_seed_gives_another_split(finished: Path) -> None:
    config = load_config(finished.parents[1] / "experiment.yaml", ["seed=1"])
    saved = pl.read_parquet(finished / "split.parquet")["part"].to_list()
    assert list(read_prepared(config).parts) != saved


def test_stages_one_by_one_give_what_run_gives(finished: Path) -> None:
    config = load_config(finished.parents[1] / "experiment.yaml", ["name=staged"])
    folder, _ = stages.prepare(config)
    stages.train(folder)
    stages.predict(folder)
    stages.evaluate(folder)
    stages.report(folder)
    assert folder.predictions.read_bytes() == (finished / "predictions.jsonl").read_bytes()
    assert folder.metrics.read_bytes() == (finished / "metrics.json").read_bytes()


def test_predict_in_a_fresh_process_reproduces_the_test_part(finished: Path, tmp_path: Path) -> None:
    table = finished.parents[1] / "table.csv"
    out = tmp_path / "risks.csv"
    command = [sys.executable, "-m", "cardiotune", "predict", str(finished), str(table), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    fresh = pl.read_csv(out, schema_overrides={"row_id": pl.String})
    assert fresh["row"].to_list() == list(range(1, 241))
    both = predictions(finished).filter(model="tuned").join(fresh, on="row_id", suffix="_fresh")
    assert both.height == predictions(finished).filter(model="tuned").height
    np.testing.assert_allclose(both["y_prob"], both["y_prob_fresh"], atol=1e-5)


def test_a_row_scores_the_same_alone_and_with_others(finished: Path, tmp_path: Path) -> None:
    folder = reopen.open_run(finished)
    table = pl.read_csv(finished.parents[1] / "table.csv").drop("disease")
    some, shuffled = tmp_path / "some.csv", tmp_path / "shuffled.parquet"
    table[[7]].write_csv(some)
    table[::-1].write_parquet(shuffled)
    alone = studies.score_table(folder, str(some), keep_ids=True)
    others = studies.score_table(folder, str(shuffled), keep_ids=True)
    whole = others.filter(row_id=table["patient_id"][7])["y_prob"][0]
    assert alone["y_prob"][0] == pytest.approx(whole, abs=1e-5)


def test_scoring_keeps_every_row_and_counts_what_is_missing(finished: Path, tmp_path: Path) -> None:
    folder = reopen.open_run(finished)
    table = pl.DataFrame({"age": ["61", "", "900"], "sex": ["0", "1", "7"], "sbp": ["140", "150", "160"]})
    table = table.with_columns(smoker=pl.lit("1"), pain=pl.lit("none"), unknown_column=pl.lit("x"))
    table.write_csv(tmp_path / "new.csv")
    scored = studies.score_table(folder, str(tmp_path / "new.csv"), keep_ids=False)
    assert scored["values_missing"].to_list() == [0, 1, 2]
    assert scored["y_prob"].is_between(0, 1).all()


def test_a_checkpoint_is_judged_like_the_run(finished: Path) -> None:
    folder = reopen.open_run(finished)
    step = json.loads(folder.manifest.read_text())["training"]["selected_step"]
    target, result = studies.evaluate_checkpoint(folder, Path(f"checkpoints/step-{step:06d}"))
    run = json.loads(folder.metrics.read_text())["parts"]["test"]["models"]["tuned"]
    judged = result["parts"]["test"]["models"]["tuned"]
    assert judged["auroc"] == run["auroc"]
    assert judged["brier"]["value"] == pytest.approx(run["brier"]["value"], abs=1e-6)
    table = finished.parents[1] / "table.csv"
    _, on_table = studies.evaluate_checkpoint(
        folder, folder.path / f"checkpoints/step-{step:06d}", studies.NewTable(str(table))
    )
    assert on_table["parts"]["test"]["n"] == 240
    with pytest.raises(ConfigError, match="not a checkpoint of this run; it keeps checkpoints/step-"):
        studies.evaluate_checkpoint(folder, Path("checkpoints/step-999999"))
    twins = [finished.parents[1] / name for name in ("north.2023.csv", "north.2024.csv", "other/north.2023.csv")]
    for number, twin in enumerate(twins):
        twin.parent.mkdir(exist_ok=True)
        build_toy_table(60 + number, seed=number).write_csv(twin)
    judge = partial(studies.evaluate_checkpoint, folder, Path(f"checkpoints/step-{step:06d}"))
    made = {judge(studies.NewTable(str(twin)))[0].name for twin in twins[:2]}
    assert made == {f"step-{step:06d}-north.2023", f"step-{step:06d}-north.2024"}
    assert judge(studies.NewTable(str(twins[0])))[1]["parts"]["test"]["n"] == 60, "made anew from the same table"
    with pytest.raises(
        ConfigError, match=r"made from something else; give the table's file another name, or replace it"
    ):
        judge(studies.NewTable(str(twins[2])))
    assert judge(studies.NewTable(str(twins[2])), overwrite=True)[1]["parts"]["test"]["n"] == 62
    import shutil

    shutil.rmtree(target.parent)


def test_zero_shot_differs_from_tuned_and_needs_no_training(finished: Path, tmp_path: Path) -> None:
    frame = predictions(finished)
    tuned, zero = (frame.filter(model=name)["y_prob"].to_numpy() for name in ("tuned", "zero_shot"))
    assert np.abs(tuned - zero).max() > 0.002
    overrides = ["name=zero", "models=[zero_shot, prevalence]"]
    run = stages.run(load_config(finished.parents[1] / "experiment.yaml", overrides))
    np.testing.assert_allclose(predictions(run.path).filter(model="zero_shot")["y_prob"], zero, atol=1e-6)
    assert not run.adapter.exists()


def test_a_run_without_language_model_needs_no_weights(finished: Path) -> None:
    overrides = ["name=classical", "models=[logistic_regression, lightgbm]", "model.path=null", "model.hub_id=null"]
    run = stages.run(load_config(finished.parents[1] / "experiment.yaml", overrides))
    assert set(predictions(run.path)["model"]) == {"logistic_regression", "lightgbm"}
    assert run.report.is_file()


def test_a_changed_table_is_refused(toy_experiment: Path) -> None:
    folder, _ = stages.prepare(load_config(toy_experiment))
    with (toy_experiment.parent / "table.csv").open("a") as table:
        table.write("P99999,50,1,120,0,none,1\n")
    with pytest.raises(DataError, match="has changed since"):
        stages.train(folder)


def test_another_base_model_is_refused(toy_experiment: Path, tmp_path: Path) -> None:
    from conftest import build_toy_model

    model = build_toy_model(tmp_path / "model")
    folder, _ = stages.prepare(load_config(toy_experiment, [f"model.path={model}"]))
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="not the base model of this run"):
        stages.train(folder)


def test_a_failed_run_says_so_and_is_replaced_when_asked(toy_experiment: Path) -> None:
    bad = load_config(toy_experiment, ["method.target_modules=[no_such_layer]"])
    with pytest.raises(ModelError):
        stages.run(bad)
    assert json.loads((bad.run_path / "manifest.json").read_text())["status"] == "failed"
    with pytest.raises(ConfigError, match="exists already"):  # its split and audit are there
        stages.run(load_config(toy_experiment, ["models=[prevalence]"]))
    assert (bad.run_path / "split.parquet").is_file() and (bad.run_path / "audit.json").is_file()
    stages.run(load_config(toy_experiment, ["models=[prevalence]"]), overwrite=True)
    with pytest.raises(ConfigError, match="exists already"):
        stages.run(load_config(toy_experiment))


def test_every_style_runs_to_a_report(toy_experiment: Path, tmp_path: Path) -> None:
    template = "serialize.template='{{ age }}, pressure {{ sbp }}, {{ pain }}'"
    for style, more in {"sentence": [], "list": [], "template": [template]}.items():
        overrides = [f"name={style}", f"serialize.style={style}", "train.max_steps=2", "models=[tuned]", *more]
        assert stages.run(load_config(toy_experiment, overrides)).report.is_file()


def test_time_and_site_and_group_splits_run(toy_experiment: Path) -> None:
    frame = pl.read_csv(toy_experiment.parent / "table.csv")
    draw = np.random.default_rng(0)
    frame.with_columns(
        site=pl.Series(draw.choice(list("ABCDEFGH"), frame.height)),
        visit=pl.Series(draw.integers(2010, 2022, frame.height)),
        household=pl.Series(draw.integers(0, 90, frame.height)),
    ).write_csv(toy_experiment.parent / "table.csv")
    extra = ["models=[logistic_regression]", "data.columns.site={role: site, type: text}"]
    extra += ["data.columns.visit={role: time, type: integer}"]
    for by in ("site", "time", "random"):
        if by == "random":  # a household may span sites and years
            extra += ["data.columns.household={role: group, type: text}"]
        run = stages.run(load_config(toy_experiment, [f"name={by}", f"split.by={by}", *extra]))
        assert run.report.is_file()

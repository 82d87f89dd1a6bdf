"""Training that begins from another run's weights: whose they are, what must be the same, and whose
patients they have seen."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cardiotune import stages
from cardiotune.config import compose, dump, load_config
from cardiotune.data.prepare import read_prepared
from cardiotune.errors import ConfigError, DataError, InterruptedRunError, ModelError
from cardiotune.files import sha256
from cardiotune.lineage import lineage
from cardiotune.reopen import config_of
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training import checkpoint, train
from cardiotune.training.model import build, build_encoder, load_base
from cardiotune.training.warm_start import Start, begin_from, check_start, find_start
from conftest import build_toy_model, build_toy_table, toy_config


def experiment(folder: Path, base: Path, name: str, number: int = 0, **sections: Any) -> Config:
    """A run of the tuned model on a toy table of its own."""
    table = folder / f"table{number}.csv"
    if not table.is_file():
        build_toy_table(160, number).write_csv(table)
    tree: dict[str, Any] = {
        "name": name,
        "runs_dir": str(folder / "runs"),
        "models": ["tuned"],
        "train": {"max_steps": 3, "evaluate_every": 1, "batch_size": 16, "save_total_limit": 9},
        "data": {"path": str(table)},
    }
    for key, section in sections.items():
        tree[key] = {**tree.get(key, {}), **section} if isinstance(section, dict) else section
    return toy_config(base, **tree)


def trained(config: Config) -> RunFolder:
    folder, prepared = stages.prepare(config)
    stages.train(folder, prepared)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> RunFolder:
    return trained(experiment(tmp_path_factory.mktemp("source"), toy_model, "source"))


def from_source(folder: Path, source: RunFolder, name: str = "target", number: int = 5, **sections: Any) -> Config:
    start = {"start_from": str(source.path), **sections.pop("train", {})}
    return experiment(folder, Path(config_of(source).model.path or ""), name, number, train=start, **sections)


def network_of(config: Config) -> Any:
    weights, cpu = Path(config.model.path or ""), torch.device("cpu")
    return build(load_base(weights, config, torch.float32, cpu), config, build_encoder(config, weights))


def test_before_the_first_step_the_weights_are_those_of_the_source(tmp_path: Path, source: RunFolder) -> None:
    config = from_source(tmp_path, source)
    run, _ = stages.prepare(config)
    network = network_of(config)
    with pytest.raises(ModelError, match="not those in memory"):
        checkpoint.check_same_weights(network, checkpoint.trained_state(network), source.adapter)
    begin_from(network, config, run)
    checkpoint.check_same_weights(network, checkpoint.trained_state(network), source.adapter)


def test_a_start_is_recorded_helps_and_comes_out_the_same_twice(
    tmp_path: Path, source: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        one = trained(from_source(tmp_path, source))
    assert "training starts from the weights of source" in caplog.text
    other = trained(from_source(tmp_path, source, "again"))
    name = "adapter_model.safetensors"
    assert sha256(one.adapter / name) == sha256(other.adapter / name)
    fresh = trained(from_source(tmp_path, source, "fresh", train={"start_from": None}))
    first = [json.loads(run.training.read_text())["history"]["steps"][0]["loss"] for run in (one, fresh)]
    assert first[0] != first[1]
    manifest = one.read_manifest()["training"]
    assert manifest["steps"] == 3
    assert manifest["start_from"] == {
        "name": "source",
        "sha256": {name: sha256(source.adapter / name)},
        "tables": source.read_manifest()["data"],
        "patients": "none of the test patients is among those of source, by the columns that the tables share",
    }
    assert "start_from" not in fresh.read_manifest()["training"]


def test_what_is_of_another_kind_is_refused_before_a_run_is_made(
    tmp_path: Path, source: RunFolder, toy_model: Path
) -> None:
    other = shutil.copytree(toy_model, tmp_path / "other_base")
    build_toy_model(other, layers=3)
    for sections, said in (
        ({"method": {"r": 8}}, r"method.r was 4, is 8$"),
        ({"method": {"target_modules": ["q_proj"]}}, r"method.target_modules was all-linear, is \['q_proj'\]$"),
        ({"method": {"kind": "full"}}, r"method.kind was lora, is full$"),
        ({"task": {"head": "classifier"}}, r"task.head was label_tokens, is classifier$"),
        ({"model": {"path": str(other)}}, r"its base model toy has other files \(config.json, model.safetensors\)$"),
    ):
        config = from_source(tmp_path, source, **sections)
        with pytest.raises(ConfigError, match=f"^train.start_from: source is not of this experiment's kind: {said}"):
            stages.prepare(config)
        assert not config.run_path.exists()


def test_a_folder_that_is_no_start_is_said(tmp_path: Path, source: RunFolder) -> None:
    with pytest.raises(ConfigError, match="is neither a run folder nor one of an adapter or a model"):
        find_start(str(tmp_path))
    damaged = RunFolder(shutil.copytree(source.path, tmp_path / "source"))
    with (damaged.adapter / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match="changed since it was saved"):
        stages.prepare(from_source(tmp_path, damaged))
    shutil.rmtree(damaged.adapter)
    with pytest.raises(ConfigError, match="has no tuned model"):
        find_start(str(damaged.path))


def test_an_adapter_alone_is_taken_with_what_is_not_known(
    tmp_path: Path, source: RunFolder, toy_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = shutil.copytree(source.adapter, tmp_path / "somewhere" / "weights")
    run = trained(experiment(tmp_path, toy_model, "target", 5, train={"start_from": str(adapter)}))
    start = run.read_manifest()["training"]["start_from"]
    assert start["tables"] is None and start["name"] == "weights"
    assert start["patients"].startswith("not checked whether weights was learned from test patients")
    assert "says only the name of its base model" in caplog.text
    for section, said in (({"r": 8}, "method.r was 4, is 8"), ({"dora": True}, "method.dora was False, is True")):
        config = experiment(tmp_path, toy_model, "other", 5, train={"start_from": str(adapter)}, method=section)
        with pytest.raises(ConfigError, match=said):
            check_start(find_start(str(adapter)), config, toy_model)
    fewer = experiment(
        tmp_path, toy_model, "q", 5, train={"start_from": str(adapter)}, method={"target_modules": ["q_proj"]}
    )
    folder, prepared = stages.prepare(fewer)
    with pytest.raises(
        ModelError, match=r"other adapters than method.target_modules and method.r ask for \(\d+ differ"
    ):
        stages.train(folder, prepared)
    by_run = find_start(str(source.adapter)).run
    assert by_run and by_run.path == source.path.resolve(), "of its own run it is known whose it is"


def test_a_resumed_training_does_not_need_the_start(
    tmp_path: Path, source: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = RunFolder(shutil.copytree(source.path, tmp_path / "source"))
    whole = trained(from_source(tmp_path, moved, "whole"))
    run, prepared = stages.prepare(from_source(tmp_path, moved, "stopped"))
    asked = iter([0, 15])  # stopped after the second step
    monkeypatch.setattr(train, "_agree", lambda *_: next(asked))
    with pytest.raises(InterruptedRunError):
        stages.train(run, prepared)
    monkeypatch.undo()
    shutil.rmtree(moved.path)
    stages.train(run, resume=True)
    name = "adapter_model.safetensors"
    assert sha256(run.adapter / name) == sha256(whole.adapter / name)
    assert run.read_manifest()["training"]["start_from"]["name"] == "source"
    shutil.rmtree(run.checkpoints)
    with pytest.raises(ConfigError, match=r"source is neither a run folder"):
        stages.train(run, resume=True)


def test_a_start_that_changed_after_prepare_is_refused(tmp_path: Path, source: RunFolder) -> None:
    moved = RunFolder(shutil.copytree(source.path, tmp_path / "source"))
    run, prepared = stages.prepare(from_source(tmp_path, moved))
    shutil.copytree(trained(from_source(tmp_path, source, "another")).adapter, moved.adapter, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="has changed since this run was prepared"):
        stages.train(run, prepared)


# --------------------------------------------------------------------------------------------------
# whose patients


def test_test_patients_of_the_same_file_are_found_by_row_ids(tmp_path: Path, source: RunFolder) -> None:
    table = Path(config_of(source).data.path)
    same = from_source(tmp_path, source, data={"path": str(table)})
    run, _ = stages.prepare(same)
    assert run.read_manifest()["training"]["start_from"]["patients"].endswith("those of source, by row ids")
    with pytest.raises(
        DataError, match=r"^train.start_from: source was learned from test patients: \d+ rows of the test"
    ):
        stages.prepare(from_source(tmp_path, source, "other", data={"path": str(table)}, seed=1))


def test_patients_of_another_table_are_found_by_its_columns(
    tmp_path: Path, source: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(source)
    rows = build_toy_table(160, 0)
    copy = rows.with_columns(rows["patient_id"].str.replace("P", "Q"))[::-1]
    copy.write_csv(tmp_path / "copy.csv")
    with pytest.raises(
        DataError, match=r"was learned from test patients: \d+ of \d+ patients of source stand in the test part"
    ):
        stages.prepare(from_source(tmp_path, source, data={"path": str(tmp_path / "copy.csv")}))
    moved = RunFolder(shutil.copytree(source.path, tmp_path / "source"))
    gone = config.model_copy(update={"data": config.data.model_copy(update={"path": str(tmp_path / "gone.csv")})})
    moved.config.write_text(dump(gone))
    moved.update_manifest(files={"config.yaml": sha256(moved.config)})
    run, _ = stages.prepare(from_source(tmp_path, moved, data={"path": str(tmp_path / "copy.csv")}))
    said = "not checked whether source was learned from test patients: its table is not at hand as it was"
    assert run.read_manifest()["training"]["start_from"]["patients"] == said
    assert said in caplog.text


def test_a_start_of_a_start_is_looked_at_too(tmp_path: Path, source: RunFolder) -> None:
    middle = trained(from_source(tmp_path, source, "middle"))
    table = config_of(source).data.path
    with pytest.raises(DataError, match="source was learned from test patients"):
        stages.prepare(from_source(tmp_path, middle, "last", 1, data={"path": table}, seed=1))
    run, _ = stages.prepare(from_source(tmp_path, middle, "good", 7))
    start = run.read_manifest()["training"]["start_from"]
    assert start["name"] == "middle" and start["start_from"]["name"] == "source"
    assert start["patients"].count("none of the test patients") == 2


def test_a_run_does_not_replace_the_weights_that_it_starts_from(tmp_path: Path, source: RunFolder) -> None:
    own = RunFolder(shutil.copytree(source.path, tmp_path / "runs" / "source"))
    for start in (own.path, own.adapter):
        config = from_source(
            tmp_path, source, "source", runs_dir=str(tmp_path / "runs"), train={"start_from": str(start)}
        )
        with pytest.raises(
            ConfigError, match=r"train.start_from: source lies in the folder that this run would replace"
        ):
            stages.prepare(config, overwrite=True)
        assert (own.adapter / "adapter_model.safetensors").is_file()


def test_an_earlier_start_that_was_made_anew_is_not_taken_for_it(tmp_path: Path, source: RunFolder) -> None:
    """Its folder holds other weights; two that point at each other come to an end, too."""
    first = RunFolder(shutil.copytree(source.path, tmp_path / "first"))
    middle = trained(from_source(tmp_path, first, "middle"))
    shutil.rmtree(first.path)
    shutil.copytree(middle.path, first.path)  # started from itself
    run, _ = stages.prepare(from_source(tmp_path, middle, "last", 7))
    said = (
        "not checked whether middle was learned from test patients: the weights that it started from have changed since"
    )
    assert run.read_manifest()["training"]["start_from"]["patients"].endswith(said)


def test_classifier_heads_and_whole_models_come_along(tmp_path: Path, toy_model: Path) -> None:
    for number, sections in enumerate(({"task": {"head": "classifier"}}, {"method": {"kind": "full"}})):
        source = trained(experiment(tmp_path, toy_model, f"source{number}", train={"max_steps": 1}, **sections))
        config = from_source(tmp_path, source, f"target{number}", **sections)
        run, _ = stages.prepare(config)
        network = network_of(config)
        begin_from(network, config, run)
        saved = source.tuned_folder(config.method.kind)
        checkpoint.check_same_weights(network, checkpoint.trained_state(network), saved)


def test_statlog_and_cleveland_are_the_same_patients(tmp_path: Path) -> None:
    """Real tables: most of Statlog's rows are Cleveland's, under other names, codes and ids."""
    run, _ = stages.prepare(load_config("statlog_heart", ["models=[prevalence]", f"runs_dir={tmp_path}"]))
    tables = {name: {"part": "test"} if name == "cleveland" else None for name in ("va", "cleveland")}
    use = {"model": "gemma3-270m", "method": "lora"}
    config = compose({"name": "hospitals", "tables": tables, "use": use}, [], "experiment.yaml", tmp_path)
    with pytest.raises(DataError, match=r"patients of statlog_heart stand in the test part of table cleveland too"):
        lineage(Start(run.path, run), config, read_prepared(config))

"""Every YAML in `configs/` loads, composes, and says what it must."""

from pathlib import Path

import pytest

from cardiotune.config import GROUPS, configs_folder, dump, load_config, load_model, load_resolved, read_yaml, shipped
from cardiotune.data.cohort import read_cohort
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import serialize_rows

FILES = sorted(configs_folder().rglob("*.yaml"))
SECTION = {"models": {"model"}, "datasets": {"data", "task"}, "tasks": {"task"}, "methods": {"method", "train"}}


def name(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def test_every_group_has_files() -> None:
    for folder in (*GROUPS.values(), "experiments"):
        assert shipped(folder), folder


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in SECTION], ids=name)
def test_a_group_file_holds_its_sections(file: Path) -> None:
    assert set(read_yaml(file)) <= SECTION[file.parent.name]


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in ("models", "tasks", "methods")], ids=name)
def test_a_group_file_composes(file: Path) -> None:
    group = {folder: key for key, folder in GROUPS.items()}[file.parent.name]
    encoder = group == "model" and load_model(file).family == "encoder"
    overrides = [f"use.{group}={file.stem}"] + (["models=[logistic_regression]"] if encoder else [])
    config = load_config("statlog_heart", overrides)
    assert config.use[group] == file.stem
    for section, settings in read_yaml(file).items():
        loaded = getattr(config, section).model_dump()
        for key in settings.keys() - read_yaml(shipped("experiments")["statlog_heart"]).get(section, {}).keys():
            expected = settings[key]
            assert loaded[key] == expected or (isinstance(expected, dict) and expected.items() <= loaded[key].items())


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "datasets"], ids=name)
def test_a_dataset_composes(file: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "e.yaml"
    experiment.write_text(f"name: e\nuse: {{model: gemma3-270m, dataset: {file.stem}, method: lora}}\n")
    given = {"data.path": "table.csv"} if "path" not in read_yaml(file)["data"] else {}
    given |= {"task.outcome": "disease"} if "task" not in read_yaml(file) else {}
    config = load_config(experiment, [f"{key}={value}" for key, value in given.items()])
    rows = synthetic_rows(config.data, 5, seed=0)
    assert rows.columns == config.data.inputs
    assert all(serialize_rows(rows, config.data.features, config.data, config.serialize))


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "experiments"], ids=name)
def test_an_experiment_composes(file: Path, tmp_path: Path) -> None:
    uses = read_yaml(file)["use"]
    needs_path = "path" not in read_yaml(shipped("datasets")[uses["dataset"]])["data"]
    config = load_config(file.stem, ["data.path=table.csv"] if needs_path else [])
    saved = tmp_path / "config.yaml"
    saved.write_text(dump(config))
    assert load_resolved(saved) == config
    assert config.use == uses


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "models"], ids=name)
def test_a_model_says_where_it_is_from(file: Path) -> None:
    model = load_model(file)
    assert model.name == file.stem
    assert model.hub_id and model.hub_id.count("/") == 1
    assert model.license != "unknown"
    assert model.license_url and model.license_url.startswith("https://")
    assert not model.allow_download, "no network call unless the user asks"
    assert model.gguf is None or "==" in model.gguf.package


def test_models_of_the_brief() -> None:
    expected = {"gemma3-270m", "smollm2-135m", "medgemma-4b", "gemma3-1b", "llama3.2-1b", "qwen3-0.6b", "biobert"}
    assert expected <= shipped("models").keys()


def test_embedded_table_fits_its_dictionary() -> None:
    cohort = read_cohort(load_config("statlog_heart").data, 0)
    assert [step["left"] for step in cohort.flow] == [270]
    assert int(cohort.events.sum()) == 120
    assert set(cohort.notes["missing"].values()) == {0}

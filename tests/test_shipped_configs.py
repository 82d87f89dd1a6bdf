"""Every YAML in `configs/` loads, composes, and says what it must; every notebook in `examples/`
runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from cardiotune.config import GROUPS, configs_folder, dump, load_config, load_model, load_resolved, read_yaml, shipped
from cardiotune.data.cohort import ROW_ID, read_cohort
from cardiotune.data.prepare import read_prepared
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import serialize_rows
from cardiotune.errors import ModelError
from cardiotune.training.weights import find_weights

FILES = sorted(configs_folder().rglob("*.yaml"))
NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
SECTION = {
    "models": {"model"},
    "datasets": {"data", "evaluation", "split", "task"},
    "tasks": {"data", "serialize", "task"},
    "methods": {"method", "train"},
}


def name(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def holds(loaded: Any, expected: Any) -> bool:
    """Whether a resolved setting has all that a file says; codes are text once they are loaded."""
    if isinstance(expected, dict):
        return all(holds(loaded[str(key)], value) for key, value in expected.items())
    if isinstance(loaded, tuple):
        return list(loaded) == expected
    return bool(loaded == expected or loaded == str(expected))


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
    # A prompt that says how values are written goes with one table.
    experiment = "cardio_published" if "data" in read_yaml(file) else "statlog_heart"
    config = load_config(experiment, [*overrides, "data.path=table.csv"])
    assert config.use[group] == file.stem
    for section, settings in read_yaml(file).items():
        loaded = getattr(config, section).model_dump()
        for key in settings.keys() - read_yaml(shipped("experiments")[experiment]).get(section, {}).keys():
            assert holds(loaded[key], settings[key]), key


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
    needs_path = "dataset" in uses and "path" not in read_yaml(shipped("datasets")[uses["dataset"]])["data"]
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
    assert [step.left for step in cohort.flow] == [270]
    assert int(cohort.events.sum()) == 120
    assert set(cohort.notes.missing.values()) == {0}


# --------------------------------------------------------------------------------------------------
# the published MedGemma experiment


@pytest.fixture(scope="module", params=["cardio_medgemma_4b", "cardio_gemma_270m"])
def published(request: pytest.FixtureRequest, shared_data: Path) -> tuple[Any, Any]:
    config = load_config(
        request.param, [f"data.path={shared_data / 'cardio_train.csv'}", "evaluation.keep_row_ids=true"]
    )
    return config, read_prepared(config)


def test_published_rows_and_test_half(published: tuple[Any, Any]) -> None:
    _, prepared = published
    events = prepared.cohort.events
    assert len(events) == 68205
    _, test = train_test_split(np.arange(68205), test_size=0.5, stratify=events, random_state=42)
    assert np.array_equal(prepared.rows("test"), np.sort(test))
    assert (len(test), int(events[test].sum())) == (34103, 16836)
    assert len(prepared.rows("validation")) == 3411
    assert prepared.cohort.frame[ROW_ID].n_unique() == 68205


def test_published_settings() -> None:
    config = load_config("cardio_medgemma_4b", ["data.path=table.csv"])
    method, train = config.method, config.train
    assert config.model.hub_id == "google/medgemma-4b-it"
    assert (method.kind, method.quantization) == ("lora", "nf4")
    assert (method.r, method.alpha, method.dropout, method.target_modules) == (16, 16, 0.05, "all-linear")
    assert (train.learning_rate, train.epochs, train.schedule) == (2e-4, 1, "linear")
    assert train.batch_size * train.gradient_accumulation == 32
    assert (train.warmup_share, train.max_grad_norm, train.gradient_checkpointing) == (0.03, 0.3, True)
    assert config.data.columns["bp_category"].derive.bp_rule == "stage_1_first"  # type: ignore[union-attr]
    assert (config.task.positive_label, config.task.negative_label) == ("1", "0")


def test_the_same_protocol_on_the_small_model() -> None:
    large, small = (load_config(name, ["data.path=t.csv"]) for name in ("cardio_medgemma_4b", "cardio_gemma_270m"))
    assert (small.split, small.seed) == (large.split, large.seed)
    assert {n: c.range for n, c in small.data.columns.items()} == {n: c.range for n, c in large.data.columns.items()}
    step = small.train.batch_size * small.train.gradient_accumulation
    assert (step, small.train.epochs) == (32, large.train.epochs)


@pytest.mark.parametrize(("task", "rule"), [("cardio_published_prompt", True), ("cardio_short_prompt", False)])
def test_either_prompt_goes_with_either_model(task: str, rule: bool) -> None:
    for name in ("cardio_medgemma_4b", "cardio_gemma_270m", "cardio_published"):
        config = load_config(name, ["data.path=t.csv", f"use.task={task}"])
        assert (config.data.columns["bp_category"].derive.bp_rule == "stage_1_first") == rule  # type: ignore[union-attr]
    guideline = "data.columns.bp_category.derive.bp_rule=acc_aha_2017"
    config = load_config("cardio_medgemma_4b", ["data.path=t.csv", guideline])
    assert config.data.columns["bp_category"].derive.bp_rule == "acc_aha_2017"  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------
# notebooks


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_notebook() -> None:
    assert "heart_disease" in {notebook.stem for notebook in NOTEBOOKS}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_a_notebook_was_executed_and_tells_nothing_of_the_machine(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    words = json.dumps(
        [{**o, "data": {k: v for k, v in o.get("data", {}).items() if "image" not in k}} for o in outputs]
    )
    assert "AUROC" in words
    assert not re.search(r"/(home|root|work|tmp|Users|opt)/", words)


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    """Its cells, one after the other, in a process of their own."""
    try:
        find_weights(load_model(shipped("models")["gemma3-270m"]))
    except ModelError as error:
        pytest.skip(str(error))
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code_cells(notebook)))
    command = [sys.executable, "-W", "ignore", script]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "The tuned language model" in done.stdout

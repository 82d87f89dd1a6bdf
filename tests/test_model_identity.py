"""What is said of one model is never said of another's weights, whichever way a config names a
second one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.errors import ConfigError
from cardiotune.runs import RunFolder
from cardiotune.settings import ModelConfig
from conftest import build_toy_table, write_toy_experiment

USE = {"dataset": "statlog_heart", "task": "heart_disease", "method": "lora"}
SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
DIGEST = "0" * 64


def loaded(
    tmp_path: Path, overrides: list[str], model: str | None = None, own: dict[str, Any] | None = None
) -> ModelConfig:
    tree: dict[str, Any] = {"name": "x", "use": {**USE, **({"model": model} if model else {})}}
    if own:
        tree["model"] = own
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(tree))
    return load_config(file, overrides).model


def sources(model: ModelConfig) -> set[str]:
    return {key for key in ("path", "hub_id", "gguf", "packed") if getattr(model, key)}


CASES: list[tuple[dict[str, Any], str, str | None, str, set[str]]] = [
    # what is set over smollm2-135m (hub id and package) -> name, hub id, revision, sources
    ({}, "smollm2-135m", SMOLLM, "main", {"hub_id", "gguf"}),
    ({"hub_id": SMOLLM, "revision": "main"}, "smollm2-135m", SMOLLM, "main", {"hub_id", "gguf"}),
    ({"hub_id": "other/model"}, "model", "other/model", "main", {"hub_id"}),
    ({"hub_id": "other/model", "revision": "abc"}, "model", "other/model", "abc", {"hub_id"}),
    ({"hub_id": "other/model", "name": "mine"}, "mine", "other/model", "main", {"hub_id"}),
    ({"hub_id": SMOLLM, "revision": "abc"}, "smollm2-135m", SMOLLM, "abc", {"hub_id"}),
    ({"path": "/weights/toy"}, "toy", None, "main", {"path"}),
    ({"path": "/weights/toy", "hub_id": "other/model"}, "toy", "other/model", "main", {"path", "hub_id"}),
    ({"path": "/weights/copy", "hub_id": SMOLLM}, "smollm2-135m", SMOLLM, "main", {"path", "hub_id"}),
    ({"gguf": {"package": "p", "files": ["f"], "sha256": DIGEST}}, "unnamed", None, "main", {"gguf"}),
    ({"packed": {"package": "p", "folder": "f", "sha256": DIGEST}, "name": "mine"}, "mine", None, "main", {"packed"}),
    ({"gguf": None, "revision": "abc"}, "smollm2-135m", SMOLLM, "abc", {"hub_id"}),
    ({"hub_id": None}, "smollm2-135m", None, "main", {"gguf"}),
]


@pytest.mark.parametrize("way", ["in the file", "on the command line"])
@pytest.mark.parametrize(("above", "name", "hub_id", "revision", "kept"), CASES)
def test_another_source_is_another_model(
    above: dict[str, Any], name: str, hub_id: str | None, revision: str, kept: set[str], way: str, tmp_path: Path
) -> None:
    if way == "in the file":
        found = loaded(tmp_path, [], "smollm2-135m", above)
    else:
        given = [
            f"model.{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"
            for key, value in above.items()
        ]
        found = loaded(tmp_path, given, "smollm2-135m")
    assert (found.name, found.hub_id, found.revision, sources(found)) == (name, hub_id, revision, kept)
    assert found.license == ("Apache-2.0" if name == "smollm2-135m" else "unknown")
    assert found.prompt == "chat"  # how it is used is not what it is


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.revision=abc"], "model.revision: is of the hub, but the weights come from model.gguf"),
        (["model.name=mine"], "model.name: the weights are those of smollm2-135m"),
        (["model.gguf.sha256=" + DIGEST], "model.gguf.package: missing"),
    ],
)
@pytest.mark.parametrize("way", ["in the file", "on the command line"])
def test_what_cannot_be_true_is_refused(overrides: list[str], words: str, way: str, tmp_path: Path) -> None:
    own: dict[str, Any] = {}
    for item in overrides if way == "in the file" else []:
        key, value = item.removeprefix("model.").split("=")
        own = {"gguf": {"sha256": value}} if key.startswith("gguf") else {key: value}
    with pytest.raises(ConfigError, match=words):
        loaded(tmp_path, [] if own else overrides, "smollm2-135m", own)


def test_the_same_of_an_experiments_own_model(tmp_path: Path) -> None:
    own = {"name": "toy", "path": "/weights/toy", "hub_id": "some/toy"}
    other = loaded(tmp_path, ["model.hub_id=other/model"], own=own)
    assert (other.name, other.hub_id, sources(other)) == ("model", "other/model", {"hub_id"})
    moved = loaded(tmp_path, ["model.path=/weights/two"], own=own)
    assert (moved.name, moved.hub_id, moved.path) == ("two", None, "/weights/two")
    with pytest.raises(ConfigError, match=r"model\.revision: is of the hub, but the weights come from model\.path"):
        loaded(tmp_path, ["model.revision=abc"], own=own)


def test_a_model_named_on_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    own = {"name": "toy", "path": "/weights/toy", "prompt": "plain"}
    found = loaded(tmp_path, ["use.model=smollm2-135m"], "gemma3-270m", own)
    assert (found.name, found.hub_id, found.path, found.prompt) == ("smollm2-135m", SMOLLM, None, "plain")
    pinned = loaded(tmp_path, ["use.model=llama3.2-1b", "model.revision=abc"])
    assert (pinned.name, pinned.revision) == ("llama3.2-1b", "abc")


def test_the_manifest_says_what_was_loaded(tmp_path: Path, toy_model: Path) -> None:
    build_toy_table(80).write_csv(tmp_path / "table.csv")
    experiment = write_toy_experiment(tmp_path, toy_model)
    tree = yaml.safe_load(experiment.read_text())
    experiment.write_text(yaml.safe_dump({**tree, "use": {"model": "smollm2-135m"}, "model": {"prompt": "plain"}}))
    run, _ = stages.prepare(load_config(experiment, [f"model.path={toy_model}", "models=[tuned]"]))
    recorded = RunFolder(run.path).read_manifest()["base_model"]
    assert recorded["source"] == f"the local folder {toy_model.name}" and recorded["name"] == toy_model.name
    assert recorded["hub_id"] is None and recorded["revision"] is None and recorded["license"] == "unknown"

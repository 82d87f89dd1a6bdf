"""Pickled weights become safetensors once and on request; a pickle that is more than tensors never
runs."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForPreTraining
from typer.testing import CliRunner

from cardiotune.cli import app
from cardiotune.errors import ConfigError, ModelError
from cardiotune.files import HASHES, sha256
from cardiotune.models.language import LanguageScorer
from cardiotune.settings import ModelConfig
from cardiotune.training.convert import convert
from cardiotune.training.model import load_tokenizer
from cardiotune.training.weights import find_weights
from conftest import build_toy_model, toy_config

CASED = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "Patient",
    "patient",
    "age",
    "Age",
    "##s",
    "6",
    "##1",
    "years",
    ":",
    "No",
    "Yes",
]
IDS = torch.tensor([[2, 5, 7, 8, 10, 3]])


def build_old_bert(folder: Path, words: list[str] = CASED, legacy: bool = True, **config: Any) -> BertForPreTraining:
    """As BioBERT lies on the hub: old names of the norms, a prefix, heads of the pretraining, a
    list of words, no model_type."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertForPreTraining(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).eval()
    settings = model.config.to_dict() | {"architectures": ["BertForPreTraining"], **config}
    del settings["model_type"]
    (folder / "config.json").write_text(json.dumps(settings))
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {"bert.embeddings.position_ids": torch.arange(64)[None]}
    for name, value in model.state_dict().items():
        for new, before in old.items():
            name = name.replace(new, before)
        state[name] = value.clone()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    return model


@pytest.mark.parametrize("legacy", [True, False])
def test_an_old_bert_is_written_whole(legacy: bool, tmp_path: Path) -> None:
    model = build_old_bert(tmp_path / "old", legacy=legacy)
    result = CliRunner().invoke(
        app, ["convert", str(tmp_path / "old"), "--out", str(tmp_path / "new"), "--model-type", "bert"]
    )
    assert result.exit_code == 0, result.output
    again = AutoModel.from_pretrained(tmp_path / "new").eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).last_hidden_state, model.bert(IDS).last_hidden_state)
    record = json.loads((tmp_path / "new" / "cardiotune_source.json").read_text())
    assert record["converted_from"] == {"pytorch_model.bin": sha256(tmp_path / "old" / "pytorch_model.bin")}
    assert record["weights_not_used"] and all(name.startswith("cls.") for name in record["weights_not_used"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    words = tokenizer.convert_ids_to_tokens(tokenizer("Patient age patient Age 61")["input_ids"])
    assert words == ["[CLS]", "Patient", "age", "patient", "Age", "6", "##1", "[SEP]"]
    config = toy_config(tmp_path / "new", model={"family": "encoder"}, task={"head": "classifier"})
    scorer = LanguageScorer(config, find_weights(config.model), None)
    assert scorer.states(["age 61 years"]).shape == (1, 32)


@pytest.mark.parametrize(
    ("words", "told", "lower"),
    [
        (CASED, {}, False),
        ([word if word.startswith("[") else word.lower() for word in CASED], {}, True),
        (CASED, {"do_lower_case": True}, True),
        (CASED, {"do_lower_case": False}, False),
    ],
)
def test_a_list_of_words_tells_its_case(words: list[str], told: dict[str, bool], lower: bool, tmp_path: Path) -> None:
    words = list(dict.fromkeys(words))
    build_old_bert(tmp_path / "old", words)
    if told:
        (tmp_path / "old" / "tokenizer_config.json").write_text(json.dumps(told))
    convert(tmp_path / "old", tmp_path / "new", "bert")
    first = load_tokenizer(tmp_path / "new")("Age", add_special_tokens=False)["input_ids"]
    assert first == [words.index("age" if lower else "Age")]


def test_a_decoder_too(tmp_path: Path) -> None:
    folder = build_toy_model(tmp_path / "old", "gemma3_text")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    (folder / "model.safetensors").unlink()
    half = len(state := model.state_dict()) // 2
    for number, names in enumerate((list(state)[:half], list(state)[half:]), start=1):
        torch.save({name: state[name] for name in names}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    convert(folder, tmp_path / "new")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "new").eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("kind", ["a pickle", "inside torch's file", "inside torch's old file", "as a key"])
def test_a_pickle_that_is_more_than_tensors_does_not_run(kind: str, tmp_path: Path) -> None:
    build_old_bert(tmp_path / "old")
    bomb, file = Bomb(tmp_path / "ran"), tmp_path / "old" / "pytorch_model.bin"
    if kind == "a pickle":
        file.write_bytes(pickle.dumps({"weight": bomb}))
    elif kind == "as a key":
        torch.save({bomb: torch.ones(1)}, file)
    else:
        state = {"bert.weight": torch.ones(2), "more": bomb}
        torch.save(state, file, _use_new_zipfile_serialization=kind == "inside torch's file")
    with pytest.raises(ModelError, match="holds more than tensors, or is damaged"):
        convert(tmp_path / "old", tmp_path / "new", "bert")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


def test_what_is_not_all_of_the_model_is_refused(tmp_path: Path) -> None:
    folder, new = tmp_path / "old", tmp_path / "new"
    build_old_bert(folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)

    def refused(changed: Any, words: str) -> None:
        torch.save(changed, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=words):
            convert(folder, new, "bert")
        assert not new.exists()

    key = "bert.encoder.layer.1.output.dense.weight"
    refused({n: v for n, v in state.items() if n != key}, r"1 weights of the model .* encoder\.layer\.1\.output")
    refused(state | {key: torch.zeros(3, 3)}, "do not fit")
    refused([torch.ones(1)], "expected a mapping of names to tensors")
    refused({"step": 3}, "expected a mapping of names to tensors")
    (folder / "pytorch_model.bin").write_bytes(b"half a file")
    with pytest.raises(ModelError, match="damaged"):
        convert(folder, new, "bert")
    torch.save({n: v for n, v in state.items() if "pooler" not in n}, folder / "pytorch_model.bin")
    convert(folder, new, "bert")  # nothing is read through a pooler
    with pytest.raises(ConfigError, match="exists; choose a new folder"):
        convert(folder, new, "bert")


def test_folders_that_are_not_for_it(tmp_path: Path, toy_model: Path) -> None:
    build_old_bert(tmp_path / "old")
    with pytest.raises(ModelError, match="names no model_type; give it with --model-type"):
        convert(tmp_path / "old", tmp_path / "new")
    with pytest.raises(ModelError, match="model type t5: nothing is known"):
        convert(tmp_path / "old", tmp_path / "new", "t5")
    with pytest.raises(ModelError, match=r"expected a model folder with config\.json and pytorch_model\.bin"):
        convert(toy_model, tmp_path / "new")
    settings = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps({**settings, "model_type": "bert"}))
    with pytest.raises(ConfigError, match=r"--model-type roberta: its config\.json says bert; leave the option out"):
        convert(tmp_path / "old", tmp_path / "new", "roberta")
    (tmp_path / "old" / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"its config\.json cannot be read"):
        convert(tmp_path / "old", tmp_path / "new", "bert")
    (tmp_path / "old" / "modeling.py").write_text("")
    with pytest.raises(ModelError, match="holds code"):
        convert(tmp_path / "old", tmp_path / "new", "bert")


def test_the_new_folder_is_its_owners_alone_and_whole(tmp_path: Path) -> None:
    build_old_bert(tmp_path / "old")
    before = os.umask(0)
    try:
        convert(tmp_path / "old", tmp_path / "deep" / "new", "bert")
    finally:
        os.umask(before)
    wide = [path.name for path in (tmp_path / "deep").rglob("*") if path.stat().st_mode & 0o077]
    assert wide == [] and not list((tmp_path / "deep").glob(".*"))
    recorded = json.loads((tmp_path / "deep" / "new" / HASHES).read_text())
    assert recorded["model.safetensors"] == sha256(tmp_path / "deep" / "new" / "model.safetensors")


def test_a_folder_with_a_pickle_alone_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_old_bert(tmp_path / "old")
    words = "convert them once with `cardiotune convert .* --out FOLDER`, then set model.path=FOLDER"
    with pytest.raises(ModelError, match=words):
        find_weights(ModelConfig(name="biobert", path=str(tmp_path / "old")))
    from huggingface_hub import constants

    cached = tmp_path / "hub" / "models--dmis-lab--biobert-v1.1"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir()
    (tmp_path / "old").rename(cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError, match=words):
        find_weights(ModelConfig(name="biobert", hub_id="dmis-lab/biobert-v1.1", family="encoder"))

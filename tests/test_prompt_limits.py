"""Prompts beyond the model's positions, tokens beyond its vocabulary, tokenizers without pad and
end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cardiotune import RiskModel, stages
from cardiotune.data.serialize import Pieces
from cardiotune.data.tokens import Capacity, PromptEncoder
from cardiotune.errors import ModelError, PromptsTooLongError
from cardiotune.models.language import LanguageScorer
from cardiotune.settings import Config
from cardiotune.training.model import build_encoder
from cardiotune.training.packing import lay_out
from conftest import build_toy_encoder, build_toy_model, build_toy_table, toy_config


def resized(folder: Path, build: Any, **settings: Any) -> Path:
    """A toy model whose config has these settings; its weights fit them."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    build(folder)
    config = AutoConfig.from_pretrained(folder, **settings)
    kind = AutoModelForCausalLM if build is build_toy_model else AutoModel
    kind.from_config(config).save_pretrained(folder)
    return folder


def on_table(tmp_path: Path, model: Path, **sections: Any) -> Config:
    if not (tmp_path / "table.csv").is_file():
        build_toy_table(80).write_csv(tmp_path / "table.csv")
    data = {"path": str(tmp_path / "table.csv")}
    train = {"max_steps": 2, "batch_size": 8, "threads": 1}
    config = {"runs_dir": str(tmp_path / "runs"), "data": data, "models": ["tuned"], "train": train, **sections}
    return toy_config(model, **config)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_one_prompt_beyond_the_positions_is_refused_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    build = build_toy_encoder if kind == "encoder" else build_toy_model
    model = resized(tmp_path / "model", build, max_position_embeddings=128)
    head = {"head": "classifier" if kind == "encoder" else "label_tokens"}
    rows = [{"text": f"age {40 + n} years", "outcome": n % 2} for n in range(120)]
    rows[7]["text"] = "age 61 years, " * 40
    (tmp_path / "notes.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    columns = {"text": {"role": "text"}, "outcome": {"role": "target"}}
    tree = on_table(tmp_path, model).model_dump(mode="json")
    tree |= {"data": {"path": str(tmp_path / "notes.jsonl"), "columns": columns}}
    tree["model"]["family"], tree["task"] = kind, {**tree["task"], **head}
    with pytest.raises(PromptsTooLongError, match="1 of 120 prompts is longer than the model's 128 positions") as error:
        stages.run(Config.model_validate(tree))
    assert error.value.rows == [7] and error.value.exit_code == 3
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Room for a toy patient, and not for much more."""
    return resized(tmp_path_factory.mktemp("short"), build_toy_model, max_position_embeddings=96)


def test_ways_of_writing_that_are_too_long_are_refused_before_anything_is_written(tmp_path: Path, short: Path) -> None:
    """Texts as they stand fit; one alias would not, in whichever batch it is drawn."""
    plain = on_table(tmp_path, short, serialize={"vary": {"units": False}})
    stages.prepare(plain)
    columns = {"age": plain.data.columns["age"].model_copy(update={"aliases": ["age in completed years " * 20]})}
    data = plain.data.model_copy(update={"columns": {**plain.data.columns, **columns}})
    with pytest.raises(
        PromptsTooLongError, match=r"^training texts as serialize.vary may write them .* prompts are longer"
    ):
        stages.prepare(plain.model_copy(update={"data": data, "name": "other"}))
    assert not (tmp_path / "runs" / "other").exists()


def test_what_is_scored_later_is_refused_too(short: Path, tmp_path: Path) -> None:
    config = on_table(tmp_path, short)
    config = config.model_copy(update={"data": config.data.model_copy(update={"out_of_range": "error"})})
    run, prepared = stages.prepare(config)
    stages.train(run, prepared)
    scorer = LanguageScorer(config, short, run.adapter)
    assert scorer.encoder.positions == 96
    with pytest.raises(PromptsTooLongError, match="1 of 2 prompts is longer than the model's 96 positions"):
        scorer.logits(["age 61 years", "age 61 years, " * 40])


def test_solved_patients_and_a_written_answer_need_room(short: Path, tmp_path: Path) -> None:
    for models, words in (
        (["few_shot"], "80 of 80 prompts are longer than the model's 96 positions"),
        (["free_generation"], "prompts are longer than the model's 96 positions .* and an answer of 60"),
    ):
        with pytest.raises(PromptsTooLongError, match=words):
            stages.prepare(on_table(tmp_path, short, models=models, task={"max_new_tokens": 60}))
    assert not (tmp_path / "runs").exists()
    stages.prepare(on_table(tmp_path, short, models=["zero_shot"]))


def test_a_risk_model_is_refused_too(short: Path, tmp_path: Path) -> None:
    table = build_toy_table(80)
    instruction = "Judge from the patient's findings. " * 12
    config = on_table(tmp_path, short, task={"instruction": instruction})
    with pytest.raises(PromptsTooLongError, match="model's 96 positions"):
        RiskModel(config).fit(table.drop("disease"), table["disease"])


WITHOUT = {
    "neither": {"pad_token": None, "eos_token": None},
    "pad": {"eos_token": None},
    "eos": {"pad_token": None},
    "bos": {"pad_token": None, "eos_token": None, "bos_token": "<bos>"},
}


def with_tokens(tmp_path: Path, tokens: dict[str, Any]) -> Path:
    folder = build_toy_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_tokenizer_needs_neither_pad_nor_end(kind: str, tmp_path: Path) -> None:
    folder = with_tokens(tmp_path, WITHOUT[kind])
    plain = build_toy_model(tmp_path / "plain")
    found = []
    for one in (folder, plain):
        scorer = LanguageScorer(toy_config(one), one, None)
        assert 0 <= scorer.pad_id < 600
        prompts = scorer.encoder.encode(["age 61 years", "age 30 years, sex man, smoker no", "sex woman"])
        with torch.no_grad():
            found.append(scorer.network(lay_out(prompts, scorer.pad_id, "padded")))
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_a_run_with_such_a_tokenizer(tmp_path: Path) -> None:
    config = on_table(tmp_path, with_tokens(tmp_path, WITHOUT["neither"]), models=["tuned", "free_generation"])
    run, prepared = stages.prepare(config)
    stages.train(run, prepared)
    stages.predict(run, prepared)
    assert run.predictions.is_file()


def test_a_pad_token_that_the_model_does_not_know_is_not_used(toy_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy_model)
    known = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<later>"})
    assert tokenizer.pad_token_id == known
    encoder = PromptEncoder(tokenizer, Pieces("", "Answer:"), "plain", 100, capacity=Capacity(vocabulary=known))
    assert encoder.pad_id == tokenizer.eos_token_id
    encoder.vocabulary = known + 1
    assert encoder.pad_id == known


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = resized(tmp_path / "model", build_toy_model, vocab_size=200)
    encoder = build_encoder(toy_config(folder, task={"head": "classifier"}), folder)
    with pytest.raises(ModelError, match="tokens beyond the model's 200; it belongs to another model"):
        encoder.encode(["age 61 years, sex woman"])

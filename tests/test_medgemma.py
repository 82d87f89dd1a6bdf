"""MedGemma's checkpoint class, small and random, laid out as on the hub: loaded, scored, tuned and
generated from."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.data.tokens import PromptEncoder
from cardiotune.models.generation import Generator
from cardiotune.settings import Config
from cardiotune.training.heads import LabelTokenNetwork, RiskNetwork
from cardiotune.training.model import build, build_encoder, load_base, load_tokenizer
from cardiotune.training.optimizer import build_optimizer
from cardiotune.training.packing import lay_out
from cardiotune.training.scoring import Batching, score
from conftest import build_toy_model

CPU = torch.device("cpu")
CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ROPE = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
ROPE |= {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 7,  # five with a sliding window, one without, one with
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 16,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


@pytest.fixture(scope="module")
def source() -> Any:
    """The model that the checkpoint was saved from."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**TEXT, "rope_parameters": ROPE, "vocab_size": 402, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=400)
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.1)  # far enough apart to tell rows from each other
        weight.data = weight.data.bfloat16().float()
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As on the hub: two shards in bfloat16, the vision tower's names, and a config of the time it
    was published."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("medgemma")
    build_toy_model(folder)
    (folder / "model.safetensors").unlink()
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) <= 402
    copy.deepcopy(source).to(torch.bfloat16).save_pretrained(folder, max_shard_size="150KB")
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    old = {name: name.replace("vision_tower.", "vision_tower.vision_model.") for name in index["weight_map"]}
    index["weight_map"] = {old[name]: file for name, file in index["weight_map"].items()}
    index_file.write_text(json.dumps(index))
    for file in folder.glob("model-*.safetensors"):
        save_file({old[name]: weight for name, weight in load_file(file).items()}, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    text = {**TEXT, "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    text |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6, "vocab_size": 402}
    config["text_config"] = text
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated table in the layout of cardio_train.csv."""
    draw = np.random.default_rng(0)
    rows = 100
    pressure = draw.integers(100, 170, rows)
    columns = {
        "id": np.arange(rows),
        "age": draw.integers(12000, 23000, rows),
        "gender": draw.integers(1, 3, rows),
        "height": draw.integers(150, 190, rows),
        "weight": draw.integers(50, 110, rows).astype(float),
        "ap_hi": pressure,
        "ap_lo": draw.integers(65, 110, rows),
        "cholesterol": draw.integers(1, 4, rows),
        "gluc": draw.integers(1, 4, rows),
        "smoke": draw.integers(0, 2, rows),
        "alco": draw.integers(0, 2, rows),
        "active": draw.integers(0, 2, rows),
        "cardio": (draw.random(rows) < 1 / (1 + np.exp(-(pressure - 135) / 8))).astype(int),
    }
    file = tmp_path_factory.mktemp("table") / "cardio_train.csv"
    pl.DataFrame(columns).write_csv(file, separator=";")
    return file


def experiment(checkpoint: Path, table: Path, *more: str) -> Config:
    """The shipped experiment, on the small checkpoint."""
    given = [f"data.path={table}", f"model.path={checkpoint}", "train.threads=1", *more]
    return load_config("cardio_medgemma_4b", given)


@pytest.fixture(scope="module")
def config(checkpoint: Path, table: Path) -> Config:
    return experiment(checkpoint, table, "use.method=lora", "model.dtype=float32")


@pytest.fixture(scope="module")
def encoder(config: Config, checkpoint: Path) -> PromptEncoder:
    return build_encoder(config, checkpoint)


@pytest.fixture(scope="module")
def prompts(config: Config, encoder: PromptEncoder) -> list[list[int]]:
    return encoder.encode([f"{age} years of age, gender {1 + age % 2}, smoking = 0" for age in (39, 52, 52, 64, 7)])


def test_every_weight_is_where_it_was_saved(source: Any, config: Config, checkpoint: Path) -> None:
    base = load_base(checkpoint, config, torch.float32, CPU)
    assert type(base).__name__ == "Gemma3ForConditionalGeneration"
    found, saved = base.state_dict(), source.state_dict()
    assert found.keys() == saved.keys()
    assert any("vision_tower" in name for name in found)
    assert [name for name in saved if not torch.equal(found[name], saved[name])] == []


def test_text_alone_is_scored_as_by_the_stock_class(
    source: Any, config: Config, checkpoint: Path, encoder: PromptEncoder, prompts: list[list[int]]
) -> None:
    labels = encoder.label_tokens("1", "0")
    assert encoder.tokenizer.decode([labels.positive]) == "1"
    network = LabelTokenNetwork(load_base(checkpoint, config, torch.float32, CPU), labels).eval()
    assert network.layout == "tree"
    ours = score(network, prompts, Batching(0, 512, CPU, network.layout))
    with torch.no_grad():
        logits = torch.cat([source(input_ids=torch.tensor([prompt])).logits[:, -1] for prompt in prompts])
    np.testing.assert_allclose(ours, (logits[:, labels.positive] - logits[:, labels.negative]).numpy(), atol=1e-4)
    assert np.ptp(ours) > 0.01


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_step_trains_the_text_path_alone(
    method: str, checkpoint: Path, table: Path, encoder: PromptEncoder, prompts: list[list[int]]
) -> None:
    config = experiment(checkpoint, table, f"use.method={method}", "model.dtype=float32", "train.learning_rate=1e-4")
    network: RiskNetwork = build(load_base(checkpoint, config, torch.float32, CPU), config, encoder)
    assert (network.model.peft_config["default"].r, network.model.peft_config["default"].lora_alpha) == (16, 16)
    frozen = {n: w.clone() for n, w in network.named_parameters() if not w.requires_grad}
    trained = [n for n, w in network.named_parameters() if w.requires_grad]
    assert len(trained) == 2 * 7 * TEXT["num_hidden_layers"]  # two matrices for each of a layer's seven linear maps
    assert all("language_model" in name and "lora_" in name for name in trained)

    optimizer = build_optimizer(network, config.train, config.method)
    batch, events = lay_out(prompts, 0, network.layout), torch.tensor([0.0, 1, 1, 1, 0])
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network.eval()(batch), events)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    assert all(torch.equal(frozen[n], w) for n, w in network.named_parameters() if not w.requires_grad)


def test_it_writes_the_same_alone_and_in_a_batch(
    config: Config, checkpoint: Path, encoder: PromptEncoder, prompts: list[list[int]]
) -> None:
    base = load_base(checkpoint, config, torch.float32, CPU)
    assert len({len(prompt) for prompt in prompts}) > 1
    generator = Generator(base, encoder.tokenizer, 0, max_new_tokens=6)
    together = generator.write(prompts)
    assert together == [text for prompt in prompts for text in generator.write([prompt])]
    assert any(together)


def test_the_shipped_experiment_runs(checkpoint: Path, table: Path, tmp_path: Path) -> None:
    """QLoRA, prompt and settings as in the file; only the checkpoint, the table and the number of
    steps are small."""
    small = ["train.max_steps=2", "train.batch_size=4", "evaluation.score_batch_tokens=1024", f"runs_dir={tmp_path}"]
    config = experiment(checkpoint, table, *small, "models=[prevalence,zero_shot,tuned]")
    assert (config.method.quantization, config.train.gradient_checkpointing) == ("nf4", True)
    run, prepared = stages.prepare(config, overwrite=False)
    stages.train(run, prepared)
    stages.predict(run, prepared)
    risks = pl.read_ndjson(run.predictions).filter(pl.col("part") == "test")
    assert risks.group_by("model").len()["len"].to_list() == [50, 50, 50]
    assert risks["y_prob"].is_between(0, 1).all()
    raw = {name: risks.filter(pl.col("model") == name)["y_prob_raw"].to_numpy() for name in ("zero_shot", "tuned")}
    assert np.abs(raw["zero_shot"] - raw["tuned"]).max() > 1e-4
    steps = json.loads(run.training.read_text())["history"]["steps"]
    assert len(steps) == 2 and all(np.isfinite(step["loss"]) for step in steps)

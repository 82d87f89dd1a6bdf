"""Every method and head on every family: a tiny model is trained, saved, reloaded, and scores the
same."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cardiotune import reopen, stages, studies
from cardiotune.errors import ModelError
from cardiotune.families import FAMILIES
from cardiotune.models.language import LanguageScorer
from cardiotune.settings import Config
from cardiotune.training.heads import trunk_of
from cardiotune.training.model import HEAD_FILE, build, build_encoder, load_base
from conftest import build_toy_encoder, build_toy_model, build_toy_table, toy_config

CPU = torch.device("cpu")
DECODERS = tuple(name for name, record in FAMILIES.items() if record.line and record.kind == "decoder")
"""What docs/compatibility.md speaks of."""
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full", "kind": "full"},
    "lora": {"name": "lora", "r": 4},
    "qlora": {"name": "qlora", "r": 4, "quantization": "nf4"},
    "lora_8bit": {"name": "lora_8bit", "r": 4, "quantization": "int8"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {family: build_toy_model(tmp_path_factory.mktemp(family), family) for family in DECODERS}
    return found | {"bert": build_toy_encoder(tmp_path_factory.mktemp("bert"))}


def run_toy(tmp_path: Path, folder: Path, family: str, method: str, head: str, **more: Any) -> tuple[Config, Path]:
    """Run to predictions with the tuned model alone, on a small table."""
    build_toy_table(120).write_csv(tmp_path / "table.csv")
    kind = "encoder" if family == "bert" else "decoder"
    config = toy_config(
        folder,
        runs_dir=str(tmp_path / "runs"),
        data={"path": str(tmp_path / "table.csv")},
        model={"family": kind},
        task={"head": head},
        method=METHODS[method],
        train={
            "epochs": 6,
            "batch_size": 16,
            "learning_rate": 0.001 if method == "full" else 0.01,
            "early_stopping": None,
        },
        models=["tuned"],
        **more,
    )
    folder, prepared = stages.prepare(config)
    stages.train(folder, prepared)
    stages.predict(folder, prepared)
    return config, folder.path


def losses(run: Path) -> list[float]:
    import json

    return [entry["loss"] for entry in json.loads((run / "logs" / "training.json").read_text())["history"]["steps"]]


def risks(run: Path) -> np.ndarray:
    import polars as pl

    return pl.read_ndjson(run / "predictions.jsonl")["y_prob"].to_numpy()


QUICK = {
    ("gemma3_text", "lora", "label_tokens"),
    ("gemma3_text", "full", "classifier"),
    ("gemma3", "lora", "label_tokens"),
    ("llama", "qlora", "label_tokens"),
    ("llama", "full", "label_tokens"),
    ("llama", "lora_8bit", "classifier"),
    ("qwen3", "lora", "classifier"),
    ("mistral", "lora", "label_tokens"),
    ("bert", "lora", "classifier"),
    ("bert", "full", "classifier"),
}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow, id="-".join(case))
    for case in product((*DECODERS, "bert"), METHODS, ("label_tokens", "classifier"))
    if case[0] != "bert" or case[2] == "classifier"
]


@pytest.mark.parametrize(("family", "method", "head"), CASES)
def test_train_save_reload_predict(
    family: str, method: str, head: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config, run = run_toy(tmp_path, folders[family], family, method, head)
    found = losses(run)
    assert np.mean(found[-4:]) < np.mean(found[:4])
    assert np.isfinite(risks(run)).all()
    assert np.ptp(risks(run)) > 1e-4
    saved = run / ("model" if method == "full" else "adapter")
    assert (saved / HEAD_FILE).is_file() == (head == "classifier")
    again = studies.score_table(reopen.open_run(run), config.data.path, keep_ids=False)
    import polars as pl

    both = pl.read_ndjson(run / "predictions.jsonl").join(again, on="row_id", suffix="_again")
    # LLM.int8 rounds activations by what else is in the batch.
    np.testing.assert_allclose(both["y_prob"], both["y_prob_again"], atol=1e-3 if method == "lora_8bit" else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"dora": True}, {"rslora": True}, {"lora_plus": 16}])
def test_variants_of_lora(
    more: dict[str, Any], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "variant", {"name": "lora", "r": 4, **more})
    _, run = run_toy(tmp_path, folders["llama"], "llama", "variant", "label_tokens")
    assert np.mean(losses(run)[-4:]) < np.mean(losses(run)[:4])


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_32bit", "adafactor", "sgd"])
def test_optimizers_by_name(optimizer: str, folders: dict[str, Path], tmp_path: Path) -> None:
    from cardiotune.training.optimizer import build_optimizer

    config = toy_config(folders["llama"], train={"optimizer": optimizer})
    network = build(load_base(folders["llama"], config, torch.float32, CPU), config, _encoder(config, folders["llama"]))
    built = build_optimizer(network, config.train, config.method)
    expected = {"paged_adamw_32bit": "AdamW", "adamw": "AdamW", "adafactor": "Adafactor", "sgd": "SGD"}[optimizer]
    assert type(built).__name__ == expected


def test_lora_plus_gives_b_its_own_rate(folders: dict[str, Path]) -> None:
    from cardiotune.training.optimizer import build_optimizer

    config = toy_config(folders["llama"], method={"lora_plus": 16})
    network = build(load_base(folders["llama"], config, torch.float32, CPU), config, _encoder(config, folders["llama"]))
    slow, fast = build_optimizer(network, config.train, config.method).param_groups
    assert fast["lr"] == pytest.approx(16 * slow["lr"])
    assert len(fast["params"]) == len(slow["params"])


def test_gradient_checkpointing_gives_the_same_gradients(folders: dict[str, Path]) -> None:
    from cardiotune.training.packing import lay_out

    gradients = []
    for on in (False, True):
        config = toy_config(folders["gemma3_text"], train={"gradient_checkpointing": on})
        torch.manual_seed(0)
        base = load_base(folders["gemma3_text"], config, torch.float32, CPU)
        network = build(base, config, _encoder(config, folders["gemma3_text"])).train()
        network(lay_out([[1, 7, 8, 9], [1, 7, 3]], 0, network.layout)).sum().backward()
        gradients.append(torch.cat([w.grad.ravel() for w in network.parameters() if w.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_evaluation_leaves_the_gradients_of_quantized_models_as_they_were(
    method: str, folders: dict[str, Path]
) -> None:
    """bitsandbytes repacks 4-bit weights in evaluation, for a kernel without gradients."""
    from cardiotune.training.packing import lay_out

    config = toy_config(folders["llama"], method=METHODS[method])
    torch.manual_seed(0)
    base = load_base(folders["llama"], config, torch.float32, CPU)
    network = build(base, config, _encoder(config, folders["llama"]))
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    batch = lay_out([[1, 7, 8, 9], [1, 7, 3]], 0, network.layout)
    gradients = []
    for _ in range(2):
        network.train().zero_grad()
        network(batch).sum().backward()
        gradients.append(torch.cat([w.grad.ravel() for w in network.parameters() if w.grad is not None]))
        with torch.no_grad():
            network.eval()(batch)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].abs().max() > 0


def test_only_the_text_path_of_a_vision_model_trains(folders: dict[str, Path]) -> None:
    for method in ("lora", "full"):
        config = toy_config(folders["gemma3"], method=METHODS[method])
        base = load_base(folders["gemma3"], config, torch.float32, CPU)
        network = build(base, config, _encoder(config, folders["gemma3"]))
        training = [name for name, weight in network.named_parameters() if weight.requires_grad]
        assert training
        assert not any("vision" in name or "projector" in name for name in training)
        assert trunk_of(network.base).config.model_type == "gemma3_text"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it may run")
def test_flash_attention_falls_back_and_says_so(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("cardiotune"), "propagate", True)
    config = toy_config(folders["llama"], model={"attention": "flash_attention_2"})
    base = load_base(folders["llama"], config, torch.float32, CPU)
    assert base.config._attn_implementation == "sdpa"
    assert "flash_attention_2 cannot run here (no GPU); sdpa is used" in caplog.text


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_by_name(attention: str, folders: dict[str, Path]) -> None:
    config = toy_config(folders["llama"], model={"attention": attention})
    assert load_base(folders["llama"], config, torch.float32, CPU).config._attn_implementation == attention


def test_a_head_is_never_made_afresh(folders: dict[str, Path], tmp_path: Path) -> None:
    config, run = run_toy(tmp_path, folders["llama"], "llama", "lora", "classifier")
    (run / "adapter" / HEAD_FILE).unlink()
    with pytest.raises(ModelError, match="changed since"):
        stages.predict(reopen.open_run(run))
    with pytest.raises(ModelError, match="without its trained head"):
        LanguageScorer(config, folders["llama"], run / "adapter", foreign=True)


def _encoder(config: Config, folder: Path) -> Any:
    return build_encoder(config, folder)

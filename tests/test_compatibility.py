"""The compatibility table: its document is fresh, and configs are refused or taken as it says."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from cardiotune import stages
from cardiotune.compatibility import DTYPES, HEADS, METHODS, STAGES, Choice, refusals, table
from cardiotune.config import load_config, load_model, shipped
from cardiotune.errors import ConfigError, ModelError
from cardiotune.families import FAMILIES, LINES, OTHER, line_of, record_of
from cardiotune.settings import ModelConfig
from cardiotune.training.model import DTYPES as DTYPES_OF_TORCH
from cardiotune.training.model import build_encoder, score_dtype
from conftest import build_toy_model, toy_config

OFFLOAD = {"zero2": {"stage": 2}, "zero3": {"stage": 3}}


def test_the_document_is_what_the_code_says() -> None:
    document = Path(__file__).parents[1] / "docs" / "compatibility.md"
    assert document.read_text() == table(), "run: python -m cardiotune.compatibility > docs/compatibility.md"


def test_every_cell_is_in_the_document() -> None:
    training, _, scoring = table().partition("## Scoring")
    assert len([line for line in scoring.splitlines() if line.startswith("| ")]) == 1 + len(DTYPES) * len(LINES)
    lines = [line for line in training.splitlines() if line.startswith("| ") and not line.startswith("| method")]
    assert len(lines) == len(METHODS) * len(HEADS) * len(DTYPES) * len(LINES)
    refused = [c for c in map(lambda x: Choice(*x), product(METHODS, HEADS, STAGES, DTYPES, LINES)) if refusals(c)]
    assert sum(line.count("refused") for line in lines) == len(refused)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["use.method=qlora", "use.deepspeed=zero3"], "ZeRO-3 cuts weights"),
        (["use.method=lora_8bit", "use.deepspeed=zero3_offload"], "ZeRO-3 cuts weights"),
        (["model.dtype=float16"], "overflow float16"),
        (["model.score_dtype=float16"], "overflow float16"),
        (["model.dtype=float16", "models=[zero_shot]"], "overflow float16"),
        (["model.dtype=float16", "use.model=llama3.2-1b"], "loss scaling"),
        (["model.dtype=float16", "use.model=qwen3-0.6b", "use.method=qlora"], "loss scaling"),
        (["use.method=full", "method.quantization=nf4"], "cannot train quantized weights"),
        (["use.method=full", "model.dtype=float16", "use.model=smollm2-135m"], "loss scaling"),
        (["use.model=biobert"], "use task.head=classifier"),
        (["use.model=biobert", "task.head=classifier", "models=[zero_shot]"], "is an encoder"),
    ],
)
def test_what_does_not_work_is_refused_before_anything_is_read(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("statlog_heart", ["data.path=/nowhere.csv", *overrides])


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "lora_8bit"])
@pytest.mark.parametrize("stage", [None, "zero2", "zero2_offload"])
@pytest.mark.parametrize("head", HEADS)
def test_what_works_is_taken(method: str, stage: str | None, head: str) -> None:
    more = [f"use.deepspeed={stage}"] if stage else []
    config = load_config("statlog_heart", [f"use.method={method}", f"task.head={head}", *more])
    assert config.choice == Choice(method, head, stage or "none", "auto", "gemma3")


def test_an_encoder_runs_without_prompted_models(tmp_path: Path) -> None:
    config = toy_config(tmp_path, model={"family": "encoder"}, task={"head": "classifier"})
    assert not {"zero_shot", "few_shot"} & set(config.comparators)
    assert {"logistic_regression", "embedding", "tuned", "stacked"} <= set(config.comparators)


def test_every_shipped_model_has_a_family() -> None:
    families = {n: line_of(f"{n} {load_model(p).hub_id}", load_model(p).family) for n, p in shipped("models").items()}
    assert families.pop("smollm2-135m") == OTHER  # a Llama by its config; no rule is about it
    assert set(families.values()) <= set(LINES)
    assert families["medgemma-4b"] == "gemma3_vision"
    assert families["medgemma-27b"] == "gemma3"
    assert families["med42-8b"] == "llama"


@pytest.mark.parametrize("line", LINES)
def test_what_the_table_says_of_a_line_holds_for_each_of_its_model_types(line: str) -> None:
    for record in FAMILIES.values():
        if record.line and record.line.name == line:
            told, own = record_of(line), FAMILIES[record.text] if record.text else record
            assert (own.kind, own.float16, own.tree) == (told.kind, told.float16, told.tree)
            assert record.float16 == told.float16


def test_a_line_of_models_whose_rows_share_no_tokens_is_refused_lora_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], tree=False))
    assert "lower layers" in "".join(refusals(Choice("lora_top", "classifier", "none", "auto", "llama")))
    assert not refusals(Choice("lora", "classifier", "none", "auto", "llama"))
    assert "lower layers" in table()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_scored_in_by_device(dtype: str) -> None:
    model = ModelConfig.model_validate({"name": "toy", "score_dtype": dtype})
    cpu, gpu = map(torch.device, ("cpu", "cuda:0"))
    if dtype != "auto":
        assert score_dtype(model, gpu) == DTYPES_OF_TORCH[dtype]
    if dtype == "float16":
        with pytest.raises(ModelError, match=r"model\.score_dtype: float16 is for a GPU"):
            score_dtype(model, cpu)
    else:
        assert score_dtype(model, cpu) == DTYPES_OF_TORCH.get(dtype, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is scored in float16")
def test_float16_on_a_cpu_is_refused_before_anything_is_written(toy_experiment: Path) -> None:
    config = load_config(toy_experiment, ["model.score_dtype=float16"])
    with pytest.raises(ModelError, match="float16 is for a GPU; on a CPU use float32 or bfloat16"):
        stages.prepare(config)
    assert not config.run_path.exists()


@pytest.mark.parametrize("family", [name for name, record in FAMILIES.items() if not record.float16])
@pytest.mark.parametrize("key", ["dtype", "score_dtype"])
def test_a_gemma_by_another_name_is_refused_by_its_record(family: str, key: str, tmp_path: Path) -> None:
    folder = build_toy_model(tmp_path, family)
    config = toy_config(folder, model={key: "float16"}, models=["zero_shot"])
    with pytest.raises(ModelError, match=f"{FAMILIES[family].text or family} overflows float16"):
        build_encoder(config, folder)

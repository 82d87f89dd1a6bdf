"""`cardiotune evaluate ADAPTER --base ...`: a PEFT adapter that no run of ours has made."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from typer.testing import CliRunner

from cardiotune import stages, studies
from cardiotune.cli import app
from cardiotune.config import load_config
from cardiotune.data.prepare import read_prepared
from cardiotune.errors import ConfigError
from cardiotune.training.model import build_encoder
from conftest import TOY_COLUMNS, build_toy_table, write_toy_experiment


@pytest.fixture
def files(tmp_path: Path, toy_model: Path) -> Path:
    """A folder with a dictionary, a base model's and a task's YAML, and a table."""
    build_toy_table(80, seed=5).write_csv(tmp_path / "other.csv")
    model = {"name": "toy", "path": str(toy_model), "dtype": "float32"}
    groups = {"dictionary": {"data": {"path": "other.csv", "columns": TOY_COLUMNS}}, "base": {"model": model}}
    for name, content in {**groups, "question": {"task": {"outcome": "heart disease"}}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def evaluate(files: Path, adapter: Path, *more: str) -> pl.DataFrame:
    options = {"--base": "base.yaml", "--task": "question.yaml", "--dataset": "dictionary.yaml"}
    arguments = [item for option, name in options.items() for item in (option, str(files / name))]
    settings = ["evaluation.bootstrap=100", *more]
    result = CliRunner().invoke(app, ["evaluate", str(adapter), *settings, *arguments, "--out", str(files / "out")])
    assert result.exit_code == 0, result.output
    metrics = json.loads((files / "out" / "metrics.json").read_text())
    assert metrics["parts"]["test"]["n"] == 80 and metrics["parts"]["test"]["models"].keys() == {"tuned"}
    return pl.read_ndjson(files / "out" / "predictions.jsonl")


@pytest.mark.parametrize("head", ["label_tokens", pytest.param("classifier", marks=pytest.mark.slow)])
def test_the_adapter_alone_scores_as_in_its_run(files: Path, toy_model: Path, head: str) -> None:
    experiment = write_toy_experiment(files, toy_model)
    run = stages.run(load_config(experiment, ["train.max_steps=3", f"task.head={head}", "models=[tuned]"]))
    bare = Path(shutil.copytree(run.adapter, files / "bare"))
    for ours in ("sha256.json", "probe.json"):
        (bare / ours).unlink()
    expected = studies.score_table(run, str(files / "other.csv"), keep_ids=False)["y_prob_raw"]
    np.testing.assert_allclose(evaluate(files, bare)["y_prob"], expected, atol=1e-6)
    if head == "label_tokens":  # another table is another evaluation
        made = (files / "out" / "metrics.json").read_bytes()
        build_toy_table(80, seed=6).write_csv(files / "other.csv")
        with pytest.raises(AssertionError, match="made from something else; choose another with --out"):
            evaluate(files, bare)
        assert (files / "out" / "metrics.json").read_bytes() == made
        evaluate(files, bare, "--overwrite")
        assert (files / "out" / "metrics.json").read_bytes() != made


@pytest.mark.parametrize("classes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_sequence_classification_adapter_brings_its_head(files: Path, toy_model: Path, classes: int) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    stock = AutoModelForSequenceClassification.from_pretrained(toy_model, num_labels=classes, dtype=torch.float32)
    stock = get_peft_model(stock, LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear")).eval()
    with torch.no_grad():
        for weight in stock.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    stock.save_pretrained(files / "stock")
    found = evaluate(files, files / "stock")["y_prob"]
    config = load_config(write_toy_experiment(files, toy_model), [f"data.path={files / 'other.csv'}"])
    prompts = build_encoder(config, toy_model).encode(read_prepared(config).texts)
    with torch.no_grad():
        scores = torch.cat([stock(input_ids=torch.tensor([prompt])).logits for prompt in prompts])
    expected = scores.softmax(1)[:, 1] if classes == 2 else scores.sigmoid()[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found.to_numpy()) > 0.01


def test_an_age_that_was_scaled_makes_no_age_bands(files: Path, toy_model: Path) -> None:
    """What columns mean is learned from their values too, as a run learns it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(toy_model)
    get_peft_model(stock, LoraConfig(task_type="CAUSAL_LM", r=4)).save_pretrained(files / "adapter")
    dictionary = yaml.safe_load((files / "dictionary.yaml").read_text())
    dictionary["data"]["columns"]["age"] = {"type": "numeric"}
    (files / "dictionary.yaml").write_text(yaml.safe_dump(dictionary))
    table, judged = pl.read_csv(files / "other.csv"), {}
    for name, scale in (("years", 1), ("scaled", 100)):
        table.with_columns(pl.col("age") / scale).write_csv(files / "other.csv")
        evaluate(files, files / "adapter", "--overwrite")
        groups = json.loads((files / "out" / "metrics.json").read_text())["parts"]["test"]["subgroups"]
        judged[name] = {group["column"] for group in groups}
    assert judged == {"years": {"sex", "age"}, "scaled": {"sex"}}


def test_what_is_asked_for_is_said(files: Path, tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["evaluate", *arguments])
        assert result.exit_code == 2
        return result.output

    (tmp_path / "bare").mkdir()
    assert "no adapter_config.json" in error(str(tmp_path / "bare"), "--base", "gemma3-270m")
    (tmp_path / "bare" / "adapter_config.json").write_text("{}")
    assert "--base needs --dataset" in error(str(tmp_path / "bare"), "--base", "gemma3-270m")
    assert "not a run folder" in error(str(tmp_path / "bare"))
    assert "go with --base" in error(str(tmp_path / "bare"), "--task", "heart_disease")


def test_a_checkpoint_of_another_run_is_refused(files: Path, toy_model: Path) -> None:
    experiment = write_toy_experiment(files, toy_model)
    first, second = (
        stages.run(load_config(experiment, [f"name={name}", f"seed={seed}", "train.max_steps=2", "models=[tuned]"]))
        for seed, name in enumerate(("first", "second"))
    )
    newest = max(second.checkpoints.glob("step-*"))
    with pytest.raises(ConfigError, match=r"a checkpoint of another run \(second\)"):
        studies.evaluate_checkpoint(first, newest.resolve())
    assert studies.evaluate_checkpoint(second, newest.resolve())[1]["parts"]


def test_an_adapter_that_does_not_fit_is_refused(files: Path, toy_model: Path) -> None:
    """PEFT only warns when weights are missing, and goes on with untrained ones."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    adapter = files / "adapter"
    stock = AutoModelForCausalLM.from_pretrained(toy_model)
    get_peft_model(stock, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])).save_pretrained(adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), adapter / "adapter_model.safetensors")
    options = {"--base": "base.yaml", "--task": "question.yaml", "--dataset": "dictionary.yaml"}
    arguments = [item for option, name in options.items() for item in (option, str(files / name))]
    result = CliRunner().invoke(app, ["evaluate", str(adapter), *arguments])
    assert result.exit_code == 4 and "does not fit this base model" in result.output

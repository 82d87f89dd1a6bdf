"""Ready text with neither instruction nor question is the whole prompt, to the letter: risks are
those of a stock script."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from cardiotune import stages, studies
from cardiotune.cli import app
from cardiotune.config import load_config
from cardiotune.data.serialize import Pieces
from cardiotune.data.tokens import PromptEncoder
from cardiotune.training.model import build_encoder
from conftest import build_toy_model

CHAT = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<eos>\n{% endfor %}"
    "<start_of_turn>model{{ '\\n' }}"
)
TEXTS = [
    "age 61 years, sex man\nAnswer:",
    "  age 30 years \n",
    "Patient: smoker yes\n\nAnswer:",
    "\n\nnote  not recorded",
    "chest pain typical <eos> sex woman",
    "smoker no",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_toy_model(tmp_path_factory.mktemp("base"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    # As Llama's: a text on its own begins with the model's first token.
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def stock(base: Path, adapter: Path, prompts: list[list[int]], labels: tuple[str, str]) -> np.ndarray:
    """What anybody's script does: the probability of the positive of two label tokens at the end of
    the prompt."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    (positive,), (negative,) = (tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels)
    with torch.no_grad():
        logits = torch.stack([model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in prompts])
    return logits[:, [negative, positive]].softmax(1)[:, 1].numpy()


def evaluated(folder: Path, base: Path, adapter: Path, task: dict[str, Any], prompt: str) -> np.ndarray:
    rows = [{"text": text, "outcome": number % 2} for number, text in enumerate(TEXTS * 5)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    columns = {"text": {"role": "text"}, "outcome": {"role": "target"}}
    data = {"path": "rows.jsonl", "columns": columns, "duplicate_rows": "keep"}
    model = {"name": "toy", "path": str(base), "dtype": "float32", "prompt": prompt}
    sections = {"base": {"model": model}, "task": {"task": {"outcome": "death", **task}}, "data": {"data": data}}
    for name, content in sections.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    options = {"--base": "base.yaml", "--task": "task.yaml", "--dataset": "data.yaml"}
    arguments = [item for option, name in options.items() for item in (option, str(folder / name))]
    command = ["evaluate", str(adapter), "evaluation.bootstrap=100", *arguments, "--out", str(folder / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return pl.read_ndjson(folder / "out" / "predictions.jsonl")["y_prob"].to_numpy()[: len(TEXTS)]


LABELS = ("Yes", "No")
COMBINATIONS = {
    "neither": ("", "", "{}"),
    "question": ("", "Answer:", "{}\nAnswer:"),
    "instruction": ("Judge.", "", "Judge.\n\nPatient: {}"),
    "both": ("Judge.", "Answer:", "Judge.\n\nPatient: {}\nAnswer:"),
}


@pytest.mark.parametrize("prompt", ["plain", "chat"])
@pytest.mark.parametrize("kind", COMBINATIONS)
def test_an_adapter_from_elsewhere_is_judged_on_the_text_as_it_is(
    kind: str, prompt: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    instruction, question, form = COMBINATIONS[kind]
    task = {"instruction": instruction, "question": question, "positive_label": "Yes", "negative_label": "No"}
    found = evaluated(tmp_path, base, adapter, task, prompt)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if kind == "neither" and prompt == "plain":
        prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    elif kind == "neither":
        cleaned = [text.replace(" <eos> ", " ") for text in TEXTS]  # it would end the turn
        chats = [[{"role": "user", "content": text}] for text in cleaned]
        prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    else:  # with something around the text each piece is split into tokens by itself, so that rows share their first ones
        around = form.split("{}")
        if prompt == "chat":
            turn = [{"role": "user", "content": form.format("SLOT")}]
            around = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False).split("SLOT")
        before, after = (tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in around)
        cleaned = [text.strip().replace(" <eos> ", " ") for text in TEXTS]
        own = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in cleaned]
        prompts = [[*([1] if prompt == "plain" else []), *before, *ids, *after] for ids in own]
    labels = LABELS if prompt == "chat" or not question else (" Yes", " No")
    expected = stock(base, adapter, prompts, labels)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_labels_behind_a_text_stand_as_they_are_written(base: Path, adapter: Path, tmp_path: Path) -> None:
    task = {"instruction": "", "question": "", "positive_label": " Yes", "negative_label": " No"}
    prompts = [AutoTokenizer.from_pretrained(base)(text)["input_ids"] for text in TEXTS]
    found = evaluated(tmp_path, base, adapter, task, "plain")
    np.testing.assert_allclose(found, stock(base, adapter, prompts, (" Yes", " No")), atol=1e-5)


@pytest.mark.parametrize("prompt", ["plain", "chat"])
def test_a_whole_run_on_texts_alone(prompt: str, base: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [{"text": f"  age {draw.integers(30, 80)} years\n", "outcome": int(draw.random() < 0.4)} for _ in range(80)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tree = {
        "name": "alone",
        "runs_dir": str(tmp_path / "runs"),
        "data": {
            "path": "rows.jsonl",
            "columns": {"text": {"role": "text"}, "outcome": {"role": "target"}},
            "duplicate_rows": "keep",
        },
        "task": {"outcome": "death", "instruction": "", "question": ""},
        "model": {"name": "toy", "path": str(base), "dtype": "float32", "prompt": prompt},
        "models": ["zero_shot", "few_shot", "tuned"],
        "train": {"max_steps": 2, "threads": 1},
        "evaluation": {"bootstrap": 100},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(tree))
    config = load_config(tmp_path / "experiment.yaml")
    run, prepared = stages.prepare(config)
    stages.train(run, prepared)
    stages.predict(run, prepared)
    predictions = pl.read_ndjson(run.predictions)
    assert predictions["model"].unique().sort().to_list() == ["few_shot", "tuned", "zero_shot"]
    again = studies.score_table(run, str(tmp_path / "rows.jsonl"), keep_ids=False)
    assert again["y_prob"].is_finite().all()
    encoder = build_encoder(config, base)
    shown = encoder.with_examples([("age 30 years", "No"), ("age 80 years", "Yes")])
    (ids,) = shown.encode(["age 50 years"])
    before = "<start_of_turn>user\n" if prompt == "chat" else "<bos>"
    after = "<eos>\n<start_of_turn>model\n" if prompt == "chat" else ""
    assert encoder.tokenizer.decode(ids) == f"{before}age 30 yearsNo\n\nage 80 yearsYes\n\nage 50 years{after}"


def test_a_made_text_that_stands_alone_is_not_wrapped_but_cleaned(base: Path) -> None:
    """A template's texts may hold cells with the model's control tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoder = PromptEncoder(tokenizer, Pieces("", ""), "plain", 100)
    (ids,) = encoder.encode(["age 61 <eos> years"])
    assert tokenizer.decode(ids) == "<bos>age 61 years"


@pytest.mark.parametrize(("instruction", "question"), [("", "Answer:"), ("Judge.", ""), ("Judge.", "Answer:")])
def test_made_texts_are_framed_as_ever(instruction: str, question: str) -> None:
    before, after = Pieces(instruction, question).around()
    assert before + "TEXT" + after == f"{instruction}\n\nPatient: TEXT\n{question}"

"""Free generation: parsing, greedy writing, and what failures do to the figures."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from cardiotune import stages
from cardiotune.config import load_config, load_model, shipped
from cardiotune.errors import ModelError
from cardiotune.evaluation.estimates import NO_PROBABILITY
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.models.generation import (
    UNPARSABLE,
    Generator,
    figures,
    option_parser,
    risks_of,
    word_parser,
)
from cardiotune.models.predictions import prediction_rows
from cardiotune.models.thresholds import NamedThreshold
from cardiotune.training import model as building
from cardiotune.training.heads import LabelTokenNetwork
from cardiotune.training.scoring import Batching, score
from cardiotune.training.weights import find_weights
from conftest import toy_config

CPU = torch.device("cpu")
NO, YES = "0: No risk", "1: Risk of cardiovascular disease"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Yes", 1),
        (" no.", 0),
        ("\n\n**YES**\nNo", 1),
        ("The answer is No, as the pressure is normal.", 0),
        ("No\n\nPatient: age 61 years\nAnswer: Yes", 0),
        ("Yes or No", UNPARSABLE),
        ("Nothing can be said. Yesterday", UNPARSABLE),
        ("I cannot tell.\nYes", UNPARSABLE),
        ("   \n", UNPARSABLE),
        ("", UNPARSABLE),
    ],
)
def test_a_word_is_read_in_the_first_line(text: str, parsed: int) -> None:
    assert word_parser("No", "Yes")(text) == parsed
    assert word_parser("Yes", "No")(text) == {1: 0, 0: 1}.get(parsed, UNPARSABLE)


def test_a_word_may_be_any_text() -> None:
    parse = word_parser("(-)", "(+)")
    assert [parse(text) for text in ("(+)", "result: (-)", "+")] == [1, 0, UNPARSABLE]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("1: Risk of cardiovascular disease", 1),
        ("Based on the findings:\n0: No risk", 0),
        ("(1) Risk of cardiovascular disease", 1),
        ("The answer is (0) No risk.", 0),
        (f"{YES}\n{NO}", 0),
        ("1", UNPARSABLE),
        ("Risk of cardiovascular disease", UNPARSABLE),
        ("0: no risk", UNPARSABLE),
        ("**0:** No risk", UNPARSABLE),
        ("", UNPARSABLE),
    ],
)
def test_an_option_is_read_as_published(text: str, parsed: int) -> None:
    assert option_parser(NO, YES)(text) == parsed


def test_a_failure_counts_as_wrong_and_is_counted() -> None:
    parsed, y_true = np.array([1, 0, UNPARSABLE, 1]), np.array([1, 1, 0, 1])
    found = figures(parsed, y_true)
    assert (found["n"], found["n_unparsable"], found["share_unparsable"]) == (4, 1, 0.25)
    assert found["accuracy"] == 0.5
    assert found["accuracy_parsed"] == pytest.approx(2 / 3)
    # No event: none of the one row found. Event: both answers right, two of three found.
    assert found["precision_weighted"] == pytest.approx(0.75)
    assert found["f1_weighted"] == pytest.approx(0.75 * 0.8)
    assert risks_of(parsed, 0.3).tolist() == [1, 0, 0.3, 1]


def test_no_answer_at_all() -> None:
    found = figures(np.full(3, UNPARSABLE), np.array([0, 1, 1]))
    assert found["accuracy"] == found["precision_weighted"] == found["f1_weighted"] == 0
    assert found["accuracy_parsed"] is None


def test_the_published_artefact() -> None:
    """The published zero-shot figures to their last digit, and the only counts that give them.

    Of 34,103 test rows 19,062 had no answer that could be parsed; of the others 62 % were right,
    not 27 %.
    """
    right, wrong, failed = {0: 4996, 1: 4351}, {0: 3924, 1: 1770}, {0: 8347, 1: 10715}
    y_true = np.repeat([0, 1], [17267, 16836])
    parsed = np.concatenate(
        [np.repeat([event, 1 - event, UNPARSABLE], [right[event], wrong[event], failed[event]]) for event in (0, 1)]
    )
    found = figures(parsed, y_true)
    assert found["accuracy"] == pytest.approx(0.27408145910916926, abs=1e-15)
    assert found["precision_weighted"] == pytest.approx(0.6334426596971561, abs=1e-15)
    assert found["f1_weighted"] == pytest.approx(0.38158891819823754, abs=1e-15)
    assert found["share_unparsable"] == pytest.approx(0.5590, abs=5e-5)
    assert found["accuracy_parsed"] == pytest.approx(0.6214, abs=5e-5)


# --------------------------------------------------------------------------------------------------
# writing


@pytest.fixture(scope="module")
def toy(toy_model: Path) -> tuple[Any, Any]:
    """The toy model, far enough from constant that answers differ, and its tokenizer."""
    base = building.load_base(toy_model, toy_config(toy_model), torch.float32, CPU)
    torch.manual_seed(1)
    for weight in base.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return base, building.load_tokenizer(toy_model)


def prompts_of(tokenizer: Any) -> list[list[int]]:
    texts = ["age 61 years, sex man", "age 40 years", "sex woman, systolic pressure 145 mmHg, smoker no", "smoker yes"]
    return [tokenizer(text)["input_ids"] for text in texts]


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """One token at a time, without padding and cache."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.generation_config.eos_token_id:
            break
    return ids[len(prompt) :]


def test_writing_is_greedy_and_the_same_in_any_batch(toy: tuple[Any, Any]) -> None:
    model, tokenizer = toy
    prompts = prompts_of(tokenizer)
    expected = [tokenizer.decode(greedy(model, prompt, 7), skip_special_tokens=True) for prompt in prompts]
    assert len(set(expected)) > 1
    generator = Generator(model, tokenizer, pad_id=0, max_new_tokens=7)
    assert generator.write(prompts) == expected
    assert [text for prompt in prompts for text in generator.write([prompt])] == expected


def test_a_checkpoint_that_asks_for_sampling_is_still_read_greedily(
    toy: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = toy
    prompts = prompts_of(tokenizer)
    expected = Generator(model, tokenizer, pad_id=0, max_new_tokens=7).write(prompts)
    for name, value in {"do_sample": True, "temperature": 5.0, "top_k": 64, "top_p": 0.95}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert Generator(model, tokenizer, pad_id=0, max_new_tokens=7).write(prompts) == expected


def test_rows_keep_their_order_and_are_counted(toy: tuple[Any, Any]) -> None:
    model, tokenizer = toy
    prompts = prompts_of(tokenizer)
    texts = Generator(model, tokenizer, pad_id=0, max_new_tokens=7).write(prompts)
    letter = next(c for c in "".join(texts) if 0 < sum(c in text for text in texts) < len(texts))
    counted: list[int] = []
    generator = Generator(model, tokenizer, pad_id=0, max_new_tokens=7, batch_rows=3)
    parsed = generator.parsed(prompts, lambda text: int(letter in text), counted.append)
    assert parsed.tolist() == [int(letter in text) for text in texts]
    assert counted == [3, 1]


# --------------------------------------------------------------------------------------------------
# how answers are judged


def part_of(parsed: Any, y_true: Any, threshold: float = 0.5, prevalence: float = 0.45) -> dict[str, Any]:
    """The test part of `metrics.json` for these answers, beside a tuned model."""
    ids = [f"r{row}" for row in range(len(y_true))]
    told = risks_of(np.array(parsed), prevalence)
    tuned = np.linspace(0.2, 0.8, len(y_true))
    rows = prediction_rows("free_generation", ids, ["test"] * len(ids), y_true, told, told, threshold)
    rows += prediction_rows("tuned", ids, ["test"] * len(ids), y_true, tuned, tuned, threshold)
    assert [row.prediction for row in rows[: len(ids)]] == [None if p == UNPARSABLE else p for p in parsed]
    named = {"free_generation": [NamedThreshold("low", 0.1)]}
    groups = {"half": {row_id: "ab"[place % 2] for place, row_id in enumerate(ids)}}
    result = evaluate_predictions(rows, 50, 0, thresholds=named, table=FromTable(groups))
    schema = json.loads((files("cardiotune.evaluation") / "metrics.schema.json").read_text("utf-8"))
    jsonschema.validate(result, schema)
    part: dict[str, Any] = result["parts"]["test"]
    return part


# 40 rows: 20 events of which 8 are answered Yes, 4 No and 8 not at all; of 20 others 6 No, 2 Yes
# and 12 not at all.
EVENTS = [1] * 20 + [0] * 20
ANSWERS = [1] * 8 + [0] * 4 + [UNPARSABLE] * 8 + [0] * 6 + [1] * 2 + [UNPARSABLE] * 12


@pytest.mark.parametrize(("threshold", "prevalence"), [(0.5, 0.45), (0.1, 0.45), (0.5, 0.7)])
def test_an_unparsable_answer_is_wrong_whatever_the_outcome_and_the_threshold(
    threshold: float, prevalence: float
) -> None:
    part = part_of(ANSWERS, EVENTS, threshold, prevalence)
    found = {
        name: entry["value"] for name, entry in part["models"]["free_generation"].items() if entry["value"] is not None
    }
    by_hand = {
        "accuracy": 14 / 40, "recall": 8 / 20, "specificity": 6 / 20, "precision": 8 / 10, "npv": 6 / 10,
        "flagged": 10 / 40, "f1": 16 / (8 + 2 + 20), "lr_positive": 0.4 / 0.7, "lr_negative": 0.6 / 0.3,
        "f1_weighted": (16 / 30 + 12 / (6 + 4 + 20)) / 2,
    }  # fmt: skip
    assert found == pytest.approx(by_hand)
    published = figures(np.array(ANSWERS), np.array(EVENTS))
    assert published["accuracy"] == pytest.approx(found["accuracy"])
    assert published["f1_weighted"] == pytest.approx(found["f1_weighted"])
    assert published["precision_weighted"] == pytest.approx((found["precision"] + found["npv"]) / 2)
    for name in ("auroc", "auprc", "brier", "log_loss", "calibration_slope", "observed_expected", "ici"):
        assert part["models"]["free_generation"][name]["reason"] == NO_PROBABILITY, name
    low = part["thresholds"]["free_generation"][0]
    assert (low["sensitivity"]["value"], low["specificity"]["value"], low["flagged"]["value"]) == (0.4, 0.3, 0.25)
    assert low["net_benefit"]["value"] == pytest.approx((8 - 2 / 9) / 40)
    differences = part["differences"]["free_generation"]
    tuned = part["models"]["tuned"]["accuracy"]["value"]
    assert differences["accuracy"]["value"] == pytest.approx(tuned - 0.35)
    assert differences["auroc"]["value"] is None and differences["auroc"]["delong_p"] is None
    for group in part["subgroups"]:  # every second row: 10 events, of which 4 are found
        assert group["models"]["free_generation"]["sensitivity"]["value"] == pytest.approx(0.4)
        assert group["models"]["free_generation"]["fnr"]["value"] == pytest.approx(0.6)
        assert group["models"]["free_generation"]["auroc"]["reason"] == NO_PROBABILITY


def test_all_answers_and_none_parsed() -> None:
    none = part_of([UNPARSABLE] * 40, EVENTS)["models"]["free_generation"]
    for name in ("accuracy", "recall", "specificity", "flagged", "f1", "f1_weighted"):
        assert none[name]["value"] == 0, name
    assert none["precision"]["value"] is None and none["npv"]["value"] is None
    right = part_of(EVENTS, EVENTS)["models"]["free_generation"]
    for name in ("accuracy", "recall", "specificity", "precision", "npv", "f1", "f1_weighted"):
        assert right[name]["value"] == 1, name


# --------------------------------------------------------------------------------------------------
# a real model


@pytest.fixture(scope="module")
def gemma() -> tuple[LabelTokenNetwork, Any]:
    try:
        folder = find_weights(load_model(shipped("models")["gemma3-270m"]))
    except ModelError as error:
        pytest.skip(str(error))
    config = load_config("statlog_heart")
    encoder = building.build_encoder(config, folder)
    base = building.load_base(folder, config, torch.float32, CPU)
    return LabelTokenNetwork(base, encoder.label_tokens("Yes", "No")).eval(), encoder


@pytest.mark.real_model
def test_the_written_answer_is_the_likelier_label(gemma: tuple[LabelTokenNetwork, Any]) -> None:
    network, encoder = gemma
    generator = Generator(network.base, encoder.tokenizer, pad_id=0, max_new_tokens=2)
    answers = []
    for answer in ("Yes", "No"):  # after three patients with this answer
        shown = encoder.with_examples([(f"age {age} years", answer) for age in (44, 57, 63)])
        prompts = shown.encode(["age 51 years", "age 70 years, sex man, chest pain typical"])
        logits = score(network, prompts, Batching(0, 512, CPU, network.layout))
        parsed = generator.parsed(prompts, word_parser("No", "Yes"))
        assert parsed.tolist() == (logits > 0).astype(int).tolist()
        answers += parsed.tolist()
    assert set(answers) == {0, 1}


@pytest.mark.real_model
def test_a_listed_option_is_hardly_ever_written_by_a_small_base_model(gemma: tuple[LabelTokenNetwork, Any]) -> None:
    """What the published artefact is made of: the answer is there in the logits, and nothing in the
    text."""
    network, encoder = gemma
    generator = Generator(network.base, encoder.tokenizer, pad_id=0, max_new_tokens=12)
    prompts = encoder.encode([f"age {age} years, sex man\nOptions:\n{NO}\n{YES}" for age in (45, 66)])
    parsed = generator.parsed(prompts, option_parser(NO, YES))
    found = figures(parsed, np.array([0, 1]))
    assert found["share_unparsable"] == 1 and found["accuracy"] == 0
    assert np.isfinite(score(network, prompts, Batching(0, 512, CPU, network.layout))).all()


# --------------------------------------------------------------------------------------------------
# in a run


def test_a_run_tells_how_many_answers_could_not_be_parsed(toy_experiment: Path) -> None:
    """A random model writes no Yes or No: its failures are counted, its patients get the
    prevalence, the report says so."""
    overrides = ["models=[prevalence,free_generation]", "task.max_new_tokens=4"]
    run = stages.run(load_config(toy_experiment, overrides))
    found = json.loads(run.manifest.read_text())["free_generation"]
    lines = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    risks = {
        line["row_id"]: line["y_prob"] for line in lines if (line["model"], line["part"]) == ("free_generation", "test")
    }
    prevalence = next(line["y_prob"] for line in lines if line["model"] == "prevalence")
    assert found["n"] == len(risks)
    assert sum(risk == pytest.approx(prevalence) for risk in risks.values()) == found["n_unparsable"] > 0
    judged = json.loads(run.metrics.read_text())["parts"]["test"]["models"]["free_generation"]
    assert judged["accuracy"]["value"] == pytest.approx(found["accuracy"])
    assert judged["f1_weighted"]["value"] == pytest.approx(found["f1_weighted"]) and judged["auroc"]["value"] is None
    missed = [line for line in lines if line["model"] == "free_generation" and line["prediction"] is None]
    assert sum(line["part"] == "test" for line in missed) == found["n_unparsable"]
    for page in (run.report, run.path / "report.md"):
        assert f"{found['n_unparsable']} of {found['n']} written answers" in page.read_text()


def test_it_runs_on_request_only(toy_experiment: Path) -> None:
    assert "free_generation" not in load_config(toy_experiment).comparators

"""The shipped measurements, end to end on a toy model; and what they measure with."""

import asyncio
import importlib
import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from benchmarks import evaluate_scale, load_test, scaling, score_speed, speed, train_speed
from benchmarks.peak import flop_per_token, multiplication_peak, weights_multiplied
from benchmarks.tables import GUIDELINE, cardio_table, long_instruction
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cardiotune.config import load_config
from cardiotune.data.prepare import read_prepared
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ConfigError, RunError
from cardiotune.training.model import build_encoder
from conftest import toy_config
from serving import serving, train_toy_run

SCHEMA = json.loads((Path(speed.__file__).parent / "speed.schema.json").read_text())


def checked(file: Path) -> dict[str, Any]:
    """A result that fits the schema and has been drawn."""
    found: dict[str, Any] = json.loads(file.read_text())
    jsonschema.validate(found, SCHEMA)
    assert file.with_suffix(".png").stat().st_size > 1000
    return found


# --------------------------------------------------------------------------------------------------
# what is measured with


def test_generated_rows_fit_the_cardio_dictionary(tmp_path: Path) -> None:
    table = cardio_table(3000)
    table.write_csv(tmp_path / "cardio.csv", separator=";")
    prepared = read_prepared(load_config("cardio_published", [f"data.path={tmp_path / 'cardio.csv'}"]))
    assert prepared.cohort.frame.height == 3000, prepared.cohort.flow
    inputs = table.drop("id", "cardio").to_numpy() / table.drop("id", "cardio").to_numpy().std(axis=0)
    outcome = table["cardio"].to_numpy()
    risks = LogisticRegression(max_iter=1000).fit(inputs, outcome).predict_proba(inputs)[:, 1]
    assert 0.74 < roc_auc_score(outcome, risks) < 0.9
    assert 0.35 < outcome.mean() < 0.65
    assert cardio_table(3000).equals(table)
    assert not cardio_table(3000, seed=1).equals(table)


def test_a_long_instruction_has_the_asked_tokens_and_ends_with_the_own(toy_model: Path) -> None:
    config = toy_config(toy_model)
    text = long_instruction(config, toy_model, 300)
    lengthened = config.model_copy(update={"task": config.task.model_copy(update={"instruction": text})})
    longest_word = 30  # tokens: the toy tokenizer knows few words
    assert 300 <= len(build_encoder(lengthened, toy_model).prefix) < 300 + longest_word
    assert text.endswith(config.task.instruction)
    assert long_instruction(config, toy_model, 1) == config.task.instruction
    assert "{" not in GUIDELINE, "it would be read as a place to fill in"


def test_blocks_are_spread_runs_of_neighbours() -> None:
    order = [3 * row for row in range(1000)]
    blocks = score_speed.blocks_of_neighbours(order, 128, 4)
    assert len({row for block in blocks for row in block}) == sum(map(len, blocks)), "no row in two blocks"
    for block in blocks:
        assert 64 <= len(block) <= 192
        assert block[:64] == list(range(block[0], block[0] + 3 * 64, 3))
    assert score_speed.blocks_of_neighbours(order, 1000, 2) == [order, order]
    assert score_speed.spread(order, 4) == [0, 750, 1500, 2250]
    assert score_speed.spread(order[:2], 4) == [0, 3]


def test_flop_are_counted_from_the_linear_layers(toy_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(toy_model)
    linear = [m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    weights = weights_multiplied(toy_model)
    assert sum(linear) <= weights < 1.02 * sum(linear), "norms are the rest"
    assert flop_per_token(weights, training=False) == 2 * weights
    assert flop_per_token(weights, training=True) == 4 * weights
    assert all(rate > 0 for rate in multiplication_peak((32,)).values())


def test_shared_tokens_count_once_in_a_batch(toy_model: Path) -> None:
    encoder = build_encoder(toy_config(toy_model), toy_model)
    facts = speed.token_facts(encoder, [[[1, 2, 3], [1, 2, 4]], [[1, 2, 3]]])
    assert (facts["median"], facts["mean"], facts["distinct_per_row"]) == (3, 3, pytest.approx(7 / 3, abs=0.01))


def test_numbers_come_from_the_blocks_and_not_from_the_warm_up() -> None:
    def turn(seconds: float, rows: int = 32) -> dict[str, Any]:
        return {"seconds": seconds, "rows": rows, "tokens": 10 * rows, "peak_memory_mib": 100.4, "dtype": "float32"}

    judged = {
        "seconds": 99.0,
        "tokens": 7,
        "peak_memory_mib": 900.0,
        "dtype": "bfloat16",
        "validation": {"log_loss": 0.5},
    }
    facts = speed.facts_of([turn(100.0), turn(4.0), turn(8.0), turn(2.0), judged], 3, tokens_a_row=20)
    assert facts["rows_per_second"] == 8.0
    assert facts["rows_per_second_blocks"] == [8.0, 4.0, 16.0]
    assert (facts["prompt_tokens_per_second"], facts["tokens_computed_per_second"]) == (160.0, 80.0)
    assert (facts["warm_up_seconds"], facts["peak_memory_mib"], facts["dtype"]) == (100.0, 100, "bfloat16")
    other = speed.facts_of([turn(1.0), turn(8.0), turn(8.0), turn(8.0)], 3, tokens_a_row=20)
    assert speed._ratio(facts, other) == {"ratio": 2.0, "lowest": 1.0, "highest": 4.0}


# --------------------------------------------------------------------------------------------------
# turns


def test_a_worker_works_only_when_told_and_a_dead_one_is_named(tmp_path: Path) -> None:
    job = {"contender": "peak", "threads": 1, "sizes": [32, 64]}
    with closing(speed.Worker("peak", job, tmp_path)) as worker:
        worker.listen()
        answer = worker.turn()
        assert set(answer["gflops"]) == {"float32", "bfloat16"}
        assert answer["peak_memory_mib"] > 50
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(RunError, match="contender peak died with exit code -9"):
            worker.turn()


class Stub:
    """A worker that answers at once, for the order of turns."""

    def __init__(self) -> None:
        self.turns, self.closed = 0, False

    def turn(self) -> dict[str, Any]:
        self.turns += 1
        return {"rows": 1, "seconds": 1.0}

    def close(self) -> None:
        self.closed = True


def test_optional_contenders_leave_a_quick_run_that_would_be_long() -> None:
    for until, left in ((math.inf, False), (0.0, True)):
        running: Any = {"ours": Stub(), "trainer": Stub(), "sft_bfloat16": Stub()}
        optional, skipped = running["sft_bfloat16"], {}
        speed.measure(running, 3, skipped, until)
        assert running["trainer"].turns == 3
        assert (optional.closed, "sft_bfloat16" in skipped, "sft_bfloat16" not in running) == (left, left, left)


def test_a_quick_run_ends_early_rather_than_late_where_blocks_stand_alone() -> None:
    for until, least, rounds in ((math.inf, 2, 5), (0.0, 2, 2), (0.0, None, 5)):
        running: Any = {"ours": Stub(), "trainer": Stub()}
        assert speed.measure(running, 5, {}, until, least) == rounds
        assert running["ours"].turns == running["trainer"].turns == rounds


def test_strange_contenders_and_too_few_rows_are_one_line(
    toy_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = speed.parser("").parse_args(["--contenders", "ours,theirs"])
    with pytest.raises(ConfigError, match=r"theirs.*expected ours and any of ours, trainer"):
        speed.contenders(given, train_speed.CONTENDERS, [])
    with pytest.raises(SystemExit, match="error: --rows 16: 3 steps of 16 rows"):
        train_speed.main(["--experiment", str(toy_experiment), "--rows", "16", "--blocks", "2"])
    arguments = ["--rows", "32", "--blocks", "1", "--validation", "16", "method.kind=full"]
    with pytest.raises(SystemExit, match="error: method: the references train LoRA"):
        train_speed.main(["--experiment", str(toy_experiment), *arguments])


def test_a_contender_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    names, skipped = speed.contenders(speed.parser("").parse_args([]), train_speed.CONTENDERS, train_speed.CONTENDERS)
    assert names == ["ours", "trainer", "trainer_bfloat16", "trainer_autocast"]
    assert "cardiotune[bench]" in skipped["sft_bfloat16"]


# --------------------------------------------------------------------------------------------------
# end to end


@pytest.mark.parametrize("measure", [train_speed, score_speed], ids=["train", "score"])
def test_ours_is_measured_beside_the_trainer(tmp_path: Path, toy_experiment: Path, measure: Any) -> None:
    file = tmp_path / "found.json"
    sizes = ["--rows", "48", "--blocks", "2", "--peak-sizes", "32"]
    sizes += ["--reference-rows", "16"] if measure is score_speed else ["--validation", "16"]
    given = ["--contenders", "ours,trainer", "--experiment", str(toy_experiment), *sizes, "--json", str(file)]
    measure.main(given)
    found = checked(file)
    assert set(found["contenders"]) == {"ours", "trainer"}
    mine, theirs = (found["contenders"][name] for name in ("ours", "trainer"))
    assert found["ratio"] == pytest.approx(mine["rows_per_second"] / theirs["rows_per_second"], rel=0.5)
    assert mine["tokens_computed_per_row"] < theirs["tokens_computed_per_row"]
    assert file.with_suffix(".png").is_file()


@pytest.mark.slow
def test_train_speed_end_to_end(tmp_path: Path, toy_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.json"
    sizes = ["--rows", "64", "--blocks", "3", "--validation", "24", "--peak-sizes", "32,64", "--prefix", "60"]
    split = ["--reference-micro-batch", "8"]
    train_speed.main(["--quick", "--experiment", str(toy_experiment), *sizes, *split, "--json", str(file)])
    found = checked(file)
    contenders = found["contenders"]
    assert {"ours", "trainer", "trainer_bfloat16"} <= set(contenders)
    assert set(contenders) | set(found["skipped"]) == set(train_speed.CONTENDERS) - {"trainer_autocast"}
    for facts in contenders.values():
        assert facts["rows_a_block"] == [16, 16, 16]
        assert 0 < facts["validation"]["log_loss"] < 3
        assert facts["tokens_computed_per_row"] > 0
        assert facts["share_of_peak"] > 0
    tokens = found["setting"]["tokens"]
    assert tokens["shared_prefix"] >= 60
    assert contenders["ours"]["tokens_computed_per_row"] < 0.8 * tokens["mean"]
    whole = contenders["trainer"]["tokens_computed_per_row"]
    assert 0.95 * tokens["mean"] < whole < 1.1 * tokens["longest"], (
        "padded; a whole text may merge tokens of its pieces"
    )
    assert contenders["trainer_bfloat16"]["dtype"] == "bfloat16"
    assert found["ratio"] == found["ratios"]["trainer"]["ratio"]
    assert "| CardioTune as it comes" in capsys.readouterr().out


@pytest.mark.slow
def test_score_speed_end_to_end(tmp_path: Path, toy_experiment: Path) -> None:
    file = tmp_path / "score.json"
    sizes = ["--rows", "64", "--reference-rows", "16", "--blocks", "3", "--peak-sizes", "32,64"]
    names = "ours,ours_bfloat16,trainer,trainer_bfloat16"
    score_speed.main(["--contenders", names, "--experiment", str(toy_experiment), *sizes, "--json", str(file)])
    found = checked(file)
    contenders = found["contenders"]
    assert contenders["ours_bfloat16"]["dtype"] == "bfloat16"
    mine, theirs = (contenders[name]["rows_per_second"] for name in ("ours_bfloat16", "trainer_bfloat16"))
    assert found["ratio_bfloat16"]["ratio"] == pytest.approx(mine / theirs, abs=0.01)
    assert contenders["ours"]["rows_a_block"] == [60, 60, 60]
    assert contenders["trainer"]["rows_a_block"] == [16, 16, 16]
    assert contenders["ours"]["validation"] is None
    assert contenders["ours"]["tokens_computed_per_row"] >= found["setting"]["tokens"]["distinct_per_row"] - 0.01
    assert found["setting"]["test_rows"] == 60


@pytest.mark.slow
def test_scaling_end_to_end(tmp_path: Path, toy_model: Path) -> None:
    file = tmp_path / "scaling.json"
    toy = [f"model.path={toy_model}", "model.name=toy", "model.dtype=float32", "train.threads=1"]
    cells = ["--rows", "500", "--lengths", "90", "--shares", "40,80", "--length", "120", "--sample", "32"]
    scaling.main(["--quick", *cells, "--json", str(file), *toy])
    found = json.loads(file.read_text())
    (rows,) = found["rows"]
    assert rows["rows"] == 500
    assert rows["score_rows"] == 32
    assert all(rows[name] >= 0 for name in rows)
    low, high = found["prefix_share"]
    assert low["shared_prefix"] < high["shared_prefix"]
    assert abs(low["prompt_tokens"] - 120) < 15
    assert low["score"]["tokens_computed_per_row"] > high["score"]["tokens_computed_per_row"]
    assert file.with_suffix(".png").is_file()


# --------------------------------------------------------------------------------------------------
# load on the server


def test_load_on_the_server_is_measured_and_every_answer_checked(
    tmp_path: Path, toy_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = train_toy_run(tmp_path, toy_model), tmp_path / "load.json"
    asked = ["--clients", "1,8", "--seconds", "1", "--minutes", "0.05", "--json", str(file)]
    assert load_test.main([str(run), *asked]) == 0
    found = json.loads(file.read_text())
    for entry in (*found["load"], found["batching"]["one_by_one"], found["memory"]):
        assert entry["answers"] > 0 and entry["wrong"] == entry["failed"] == 0
        assert 0 < entry["p50_ms"] <= entry["p95_ms"] <= entry["p99_ms"]
    assert [entry["clients"] for entry in found["load"]] == [1, 8]
    assert found["patients"]["distinct_risks"] > 100, "or an answer that went astray would not be seen"
    assert len(found["memory"]["samples"]) > 1 and all(size > 100 for _, size in found["memory"]["samples"])
    assert f"{found['batching']['ratio']} times" in capsys.readouterr().out


def test_an_answer_of_another_patient_is_counted(tmp_path: Path, toy_model: Path) -> None:
    run = train_toy_run(tmp_path, toy_model)
    scorer = RowScorer.load(run)
    rows, risks = load_test.patients(scorer, None)
    with serving(run, lambda: scorer, requests_a_minute=10**6) as (client, _):
        found = asyncio.run(load_test.load(str(client.base_url), rows, np.roll(risks, 1), 4, 1))
    assert found.wrong > 0.5 * len(found.latencies) > 0


def test_evaluation_at_scale_end_to_end(tmp_path: Path) -> None:
    found = evaluate_scale.measure(300, tmp_path, "evaluation.bootstrap=100")
    assert list(found["steps"]) == ["thresholds", "evaluate", "report"]
    assert 290 <= found["rows"] <= 300 and found["replicates"] == 100 and found["validation_rows"] > 30
    assert found["report_kib"] > 100 and found["peak_mib"] > 0


@pytest.mark.parametrize("file", sorted(Path(speed.__file__).parent.glob("*.py")), ids=lambda file: file.stem)
def test_every_measurement_can_be_loaded(file: Path) -> None:
    importlib.import_module(f"benchmarks.{file.stem}")

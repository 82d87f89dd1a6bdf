"""Time and memory of ours against the rows of a table, the length of a prompt, and the share of it
that all rows share.

    python -m benchmarks.scaling --json scaling.json
    python -m benchmarks.scaling --quick --json scaling.json

Rows: a generated cardio table is read, checked, split and written as text, made into tokens and
laid out in batches, all of it; a sample is scored, and the time for all rows follows from the
tokens that are left to compute. Prompt length and prefix share: texts of random words behind
guideline text; rows/s of training and of scoring. Every cell has processes of its own, so that its
peak memory is its own.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.speed import EXPERIMENT, Worker, job_of, machine, say, whole_numbers
from benchmarks.tables import GUIDELINE, cardio_table, long_instruction
from cardiotune import stages
from cardiotune.config import load_config, to_yaml
from cardiotune.errors import CardioTuneError
from cardiotune.files import write_json
from cardiotune.settings import Config
from cardiotune.training.model import build_encoder
from cardiotune.training.weights import find_weights

FULL = {
    "rows": [1_000, 10_000, 100_000, 500_000],
    "lengths": [64, 128, 256, 512, 1024],
    "shares": [10, 30, 50, 70, 90, 95],
    "length": 400,
    "sample": 512,
}
QUICK = {"rows": [1_000, 10_000], "lengths": [64, 128, 256], "shares": [20, 50, 90], "length": 200, "sample": 64}
SHARED = 0.4
"""Share of the prompt that all rows share, while its length varies."""
BLOCK_STEPS = 2
"""Measured optimizer steps, after one to warm up."""
STEPS = {
    "read": "read, check, split, write",
    "encode": "tokens",
    "lay_out": "lay out",
    "score_all": "score all (estimated)",
}


# --------------------------------------------------------------------------------------------------
# rows


def by_rows(rows: int, sample: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Seconds of every step of the way, and peak memory, for a table of so many rows."""
    table = folder / f"{rows}.csv"
    cardio_table(rows).write_csv(table, separator=";")
    chosen = [f"data.path={table}", "models=[tuned]", *overrides]
    config = load_config(EXPERIMENT, chosen)
    job = job_of(config, find_weights(config.model), folder, steps=1)
    with closing(
        Worker("ours", job | {"task": "way", "experiment": EXPERIMENT, "overrides": chosen, "sample": sample}, folder)
    ) as worker:
        facts = worker.listen()
    table.unlink()
    facts["peak_memory_mib"] = round(facts["peak_memory_mib"])
    return {"rows": rows, **{name: value for name, value in facts.items() if name not in ("seconds", "tokens")}}


# --------------------------------------------------------------------------------------------------
# prompts


def _written(tokens: int, share: float, rows: int, folder: Path, overrides: list[str]) -> Config:
    """Rows of ready text: random words, so that `share` of about `tokens` tokens of a prompt is
    what all rows share."""
    tree: dict[str, Any] = {
        "name": f"tokens{tokens}-share{share}",
        "use": {"model": "gemma3-270m", "method": "lora"},
        "runs_dir": str(folder),
        "data": {"path": "texts.jsonl", "columns": {"text": {"role": "text"}, "outcome": {"role": "target"}}},
        "task": {
            "outcome": "cardiovascular disease",
            "instruction": "Cardiovascular disease? {positive} or {negative}.",
        },
        "serialize": {"max_tokens": 2 * max(tokens, 64)},
        "split": {"test": 0.1, "validation": 0.1},
        "train": {"max_steps": 1 + BLOCK_STEPS, "evaluate_every": 1 + BLOCK_STEPS},
        "models": ["tuned"],
    }
    file = folder / "experiment.yaml"
    file.write_text(to_yaml(tree))
    config = load_config(file, overrides)
    weights = find_weights(config.model)
    tree["task"]["instruction"] = long_instruction(config, weights, round(tokens * share))
    file.write_text(to_yaml(tree))
    config = load_config(file, overrides)
    encoder = build_encoder(config, weights)
    body = max(1, tokens - len(encoder.prefix) - len(encoder.suffix))
    texts = _random_texts(encoder.tokenizer, body, rows)
    pl.DataFrame({"text": texts, "outcome": [row % 2 for row in range(rows)]}).write_ndjson(folder / "texts.jsonl")
    return config


def _random_texts(tokenizer: Any, tokens: int, rows: int) -> list[str]:
    """Texts of about so many tokens each, of words in random order."""
    draw = random.Random(0)
    words = sorted({word.strip(".,;:").lower() for word in GUIDELINE.split()})
    lengths = {word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in words}
    texts = []
    for _ in range(rows):
        drawn = draw.choices(words, k=tokens)  # none is less than a token
        fitting = sum(total <= tokens for total in accumulate(lengths[word] for word in drawn))
        texts.append(" ".join(drawn[: max(1, fitting)]))
    return texts


def by_prompt(tokens: int, share: float, rows: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Rows/s and peak memory of training and of scoring prompts of this length and share."""
    config = _written(tokens, share, rows, folder, overrides)
    run, prepared = stages.prepare(config, overwrite=True)
    weights = find_weights(config.model)
    encoder = build_encoder(config, weights)
    lengths = [len(prompt) for prompt in encoder.encode(prepared.texts)]
    batch_rows = config.train.batch_size * config.train.gradient_accumulation
    job = job_of(config, weights, folder, steps=1 + BLOCK_STEPS) | {"run": str(run.path)}
    training = {"task": "train", "warm_up": 1, "block": BLOCK_STEPS, "batch_rows": batch_rows}
    blocks = [list(range(min(8, rows))), list(range(rows))]
    scoring = {"task": "score", "tuned": False, "texts": prepared.texts, "blocks": blocks}
    return {
        "prompt_tokens": round(statistics.fmean(lengths), 1),
        "shared_prefix": len(encoder.prefix),
        "train": _after_warm_up(job | training, folder),
        "score": _after_warm_up(job | scoring, folder),
    }


def _after_warm_up(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Facts of the turn after the first."""
    with closing(Worker("ours", job, folder)) as worker:
        worker.listen()
        facts = worker.turn()
    return {
        "rows_per_second": round(facts["rows"] / facts["seconds"], 3),
        "tokens_computed_per_row": round(facts["tokens"] / facts["rows"], 2) if facts["tokens"] else None,
        "peak_memory_mib": round(facts["peak_memory_mib"]),
    }


# --------------------------------------------------------------------------------------------------
# the whole


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result."""
    start = time.perf_counter()
    overrides = [f"train.threads={torch.get_num_threads()}", *given.overrides]
    result: dict[str, Any] = {"schema_version": 1, "benchmark": "scaling"}
    with tempfile.TemporaryDirectory(prefix="cardiotune-bench-") as name:
        folder = Path(name)
        result["rows"] = []
        for rows in given.rows:
            say(f"a table of {rows} rows")
            result["rows"].append(by_rows(rows, given.sample, folder, overrides))
        for axis, cells in {
            "prompt_length": [(tokens, SHARED) for tokens in given.lengths],
            "prefix_share": [(given.length, share / 100) for share in given.shares],
        }.items():
            result[axis] = []
            for tokens, share in cells:
                say(f"prompts of {tokens} tokens, {share:.0%} shared")
                result[axis].append(by_prompt(tokens, share, given.sample, folder, overrides))
    return {**result, "machine": machine(), "seconds": round(time.perf_counter() - start, 1)}


def as_markdown(found: dict[str, Any]) -> str:
    """Two tables: rows, prompts."""
    lines = [
        "| rows | read, check, split, write | tokens | lay out | score all (estimated) | tokens computed a row | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found["rows"]:
        seconds = (one[f"{step}_seconds"] for step in ("read", "encode", "lay_out", "score_all"))
        cells = [f"{one['rows']}", *(f"{value:.1f} s" for value in seconds)]
        lines.append(
            "| " + " | ".join([*cells, f"{one['tokens_per_row']:.1f}", f"{one['peak_memory_mib']:.0f}"]) + " |"
        )
    lines += [
        "\n| prompt tokens | shared | train rows/s | computed a row | peak MiB | score rows/s | computed a row | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in [*found["prompt_length"], *found["prefix_share"]]:
        cells = [f"{one['prompt_tokens']:.0f}", f"{one['shared_prefix']}"]
        for task in ("train", "score"):
            computed = one[task]["tokens_computed_per_row"]
            cells += [f"{one[task]['rows_per_second']:.2f}", f"{computed:.0f}" if computed else ""]
            cells += [f"{one[task]['peak_memory_mib']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Any], file: Path) -> None:
    """Time over rows, and rows/s over prompt length and prefix share; memory below each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    (time_rows, *speeds), (memory_rows, *memories) = figure.subplots(2, 3, sharex="col")
    rows = [one["rows"] for one in found["rows"]]
    for step, label in STEPS.items():
        time_rows.loglog(rows, [one[f"{step}_seconds"] for one in found["rows"]], ".-", label=label)
    time_rows.set_ylabel("seconds")
    time_rows.legend()
    memory_rows.plot(rows, [one["peak_memory_mib"] / 1024 for one in found["rows"]], ".-", color="black")
    memory_rows.set_xlabel("rows of the table")
    memory_rows.set_ylabel("peak memory, GiB")
    for speed, memory, axis, label in zip(
        speeds,
        memories,
        ("prompt_length", "prefix_share"),
        (f"prompt, tokens ({SHARED:.0%} shared)", "share of the prompt that all rows share"),
        strict=True,
    ):
        cells = found[axis]
        tokens = [one["prompt_tokens"] for one in cells]
        places = tokens if axis == "prompt_length" else [one["shared_prefix"] / one["prompt_tokens"] for one in cells]
        for task in ("train", "score"):
            speed.plot(places, [one[task]["rows_per_second"] for one in cells], ".-", label=task)
            memory.plot(places, [one[task]["peak_memory_mib"] / 1024 for one in cells], ".-", label=task)
        speed.set_yscale("log")
        speed.set_ylabel("rows/s")
        speed.legend()
        memory.set_xlabel(label)
    for memory in (memory_rows, *memories):
        memory.set_ylim(0, 1.1 * memory.get_ylim()[1])
    figure.savefig(file, dpi=150)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cells only")
    parser.add_argument("--rows", type=whole_numbers, help="rows of the tables")
    parser.add_argument("--lengths", type=whole_numbers, help="prompt lengths, tokens")
    parser.add_argument("--shares", type=whole_numbers, help="of the prompt, what all rows share, percent")
    parser.add_argument("--length", type=int, help="prompt length while the share varies, tokens")
    parser.add_argument("--sample", type=int, help="rows that are scored in each cell")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, and a plot beside it (.png)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the experiment")
    given = parser.parse_intermixed_args(arguments)
    for name, value in (QUICK if given.quick else FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    try:
        found = run(given)
    except CardioTuneError as error:
        sys.exit(f"error: {error}")
    print(as_markdown(found))
    if given.json:
        write_json(given.json, found)
        draw(found, given.json.with_suffix(".png"))


if __name__ == "__main__":
    main()

"""Seconds and peak memory on the way from a table's file to tokens, step by step, with the real
Gemma tokenizer.

    python -m benchmarks.prepare --rows 500000 --json prepare.json

The rows are generated in the columns of the cardio dictionary. The last step is what every later
stage does instead of tokenizing: it reads the run's tokens from its cache.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.tables import cardio_table
from benchmarks.worker import peak_memory_mib
from cardiotune.config import load_config
from cardiotune.data.cache import keep_tokens, run_tokens
from cardiotune.data.cohort import read_cohort
from cardiotune.data.serialize import column_order, serialize_rows
from cardiotune.data.split import overlap, split_cohort
from cardiotune.files import write_json
from cardiotune.runs import RunFolder
from cardiotune.training.model import build_encoder
from cardiotune.training.weights import find_weights

EXPERIMENT = "cardio_published"
LIMITS = {"seconds": 300, "peak_mib": 4096}
"""What 500,000 rows may take on two cores, all steps together."""


class Steps:
    """Seconds of each step, and the process's highest resident size until its end."""

    def __init__(self) -> None:
        self.measured: dict[str, dict[str, float]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.measured[name] = {"seconds": round(seconds, 2), "peak_mib": round(peak_memory_mib())}
        print(f"{name:<32}{seconds:8.1f} s{peak_memory_mib():8.0f} MiB", flush=True)


def measure(rows: int, folder: Path) -> dict[str, Any]:
    table = folder / "table.csv"
    cardio_table(rows).write_csv(table, separator=";")
    config = load_config(EXPERIMENT, [f"data.path={table}", "models=[tuned]"])
    data = config.data
    weights = find_weights(config.model)
    run = RunFolder(folder)
    clock = Steps()
    with clock.step("read and check"):
        cohort = read_cohort(data, config.seed)
    with clock.step("split"):
        parts = split_cohort(cohort, data, config.split, config.split_seed)
    with clock.step("text"):
        order = column_order(cohort.frame.filter(pl.Series(parts == "train")), data, config.serialize)
        texts = serialize_rows(cohort.frame, order, data, config.serialize)
    with clock.step("count what parts share"):
        overlap(cohort, parts, texts, data)
    with clock.step("load the tokenizer"):
        encoder = build_encoder(config, weights)
    with clock.step("tokens"):
        made = encoder.prompts(texts)
    with clock.step("write the cache"):
        keep_tokens(run, texts, made, weights)
    total = sum(step["seconds"] for step in clock.measured.values())
    with clock.step("read the cache (later stages)"):
        kept = run_tokens(run, texts, encoder, weights)
    if not np.array_equal(kept.lengths, made.lengths) or not np.array_equal(kept.tokens, made.tokens):
        raise SystemExit("the cache holds other tokens than were put into it")
    return {
        "rows": rows,
        "rows_in_cohort": cohort.frame.height,
        "tokens_mean": round(float(made.lengths.mean()), 1),
        "cpus": os.cpu_count(),
        "steps": clock.measured,
        "seconds": round(total, 1),
        "peak_mib": round(peak_memory_mib()),
        "limits": LIMITS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.rows, Path(folder))
    within = all(found[name] <= limit for name, limit in LIMITS.items())
    print(
        f"{found['rows']:,} rows: {found['seconds']} s, {found['peak_mib']} MiB; "
        f"{'within' if within else 'OVER'} the limits of {LIMITS['seconds']} s and {LIMITS['peak_mib']} MiB for 500,000"
    )
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()

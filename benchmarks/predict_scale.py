"""`cardiotune predict` on a large table: killed once and resumed, and shared by two processes;
memory while it runs.

    python -m benchmarks.predict_scale --rows 1000000 --json predict_scale.json

The rows are generated in the columns of the cardio dictionary, the model is a small Llama with
random weights, trained for two steps: what is measured is the way from table to file, not a model.
Exit code 1 when files differ or memory grows.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.tables import cardio_table
from cardiotune import stages
from cardiotune.config import configs_folder, load_config, load_model
from cardiotune.files import write_json
from cardiotune.training.model import load_tokenizer
from cardiotune.training.weights import find_weights

TRAINING_ROWS = 400
GROWTH = 1.15
"""Resident size that the last quarter of the time may have, as a multiple of that in the second."""


def small_model(folder: Path) -> None:
    """A Llama of two layers with the tokenizer of SmolLM2, which comes from a package."""
    tokenizer = load_tokenizer(find_weights(load_model(configs_folder() / "models" / "smollm2-135m.yaml")))
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)


def small_run(folder: Path) -> Path:
    """A run folder with a tuned model."""
    small_model(folder / "model")
    cardio_table(TRAINING_ROWS, seed=1).write_csv(folder / "training.csv")
    settings = [f"data.path={folder / 'training.csv'}", f"model.path={folder / 'model'}", f"runs_dir={folder / 'runs'}"]
    settings += ["name=small", "models=[tuned]", "train.max_steps=2", "train.threads=1", "model.dtype=float32"]
    run, prepared = stages.prepare(load_config("cardio_gemma_270m", settings))
    stages.train(run, prepared)
    stages.predict(run, prepared)
    return run.path


class Watched:
    """A command, its seconds, and the resident size of its processes together, twice a second."""

    def __init__(self, *arguments: object) -> None:
        self.start = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cardiotune", "predict", *map(str, arguments)], env=environment
        )
        self.sizes: list[float] = []

    def look(self) -> bool:
        """Take a measurement; whether it still runs."""
        time.sleep(0.5)
        try:
            whole = psutil.Process(self.process.pid)
            family = [whole, *whole.children(recursive=True)]
            self.sizes.append(sum(one.memory_info().rss for one in family) / 2**20)
        except psutil.Error:
            pass
        return self.process.poll() is None

    def finish(self, rows: int) -> dict[str, Any]:
        """Wait for the end; seconds, rows a second, and memory."""
        while self.look():
            pass
        if self.process.returncode:
            raise SystemExit(f"cardiotune predict ended with exit code {self.process.returncode}")
        seconds = time.perf_counter() - self.start
        quarter = max(1, len(self.sizes) // 4)
        early, late = max(self.sizes[quarter : 2 * quarter], default=0), max(self.sizes[3 * quarter :], default=0)
        return {
            "seconds": round(seconds, 1),
            "rows_per_second": round(rows / seconds, 1),
            "peak_mib": round(max(self.sizes)),
            "second_quarter_mib": round(early),
            "last_quarter_mib": round(late),
        }


def measure(rows: int, chunk_rows: int, folder: Path) -> dict[str, Any]:
    run, table = small_run(folder), folder / "table.csv"
    cardio_table(rows, seed=2).drop("cardio").write_csv(table)
    parts = -(-rows // chunk_rows)
    measured = {}

    def out(name: str) -> Path:
        return folder / f"{name}.csv"

    def options(name: str) -> list[object]:
        return [run, table, "--out", out(name), "--chunk-rows", chunk_rows]

    measured["one process"] = Watched(*options("one")).finish(rows)
    begun, done = Watched(*options("killed")), out("killed").with_name("killed.csv.parts")
    while len(list(done.glob("0*.csv"))) < max(1, parts // 2) and begun.look():
        pass
    os.kill(begun.process.pid, signal.SIGKILL)
    begun.process.wait()
    kept = len(list(done.glob("0*.csv")))
    measured["resumed after SIGKILL"] = Watched(*options("killed")).finish(rows)
    measured["two workers"] = Watched(*options("two"), "--workers", 2).finish(rows)
    digests = {name: hashlib.sha256(out(name).read_bytes()).hexdigest() for name in ("one", "killed", "two")}
    lines = sum(1 for _ in out("one").open("rb")) - 1
    alone = measured["one process"]
    return {
        "rows": rows,
        "rows_written": lines,
        "chunk_rows": chunk_rows,
        "parts": parts,
        "parts_kept_after_kill": kept,
        "identical": len(set(digests.values())) == 1,
        "memory_flat": alone["last_quarter_mib"] <= GROWTH * alone["second_quarter_mib"],
        "measured": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunk-rows", type=int, default=16_384)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.rows, given.chunk_rows, Path(folder))
    for name, numbers in found["measured"].items():
        print(
            f"{name:<24}{numbers['seconds']:9.1f} s{numbers['rows_per_second']:10.1f} rows/s"
            f"{numbers['second_quarter_mib']:7d} -> {numbers['last_quarter_mib']:d} MiB"
        )
    print(
        f"{found['rows_written']:,} rows written; {found['parts_kept_after_kill']} of {found['parts']} parts outlived the "
        f"kill; identical: {found['identical']}; memory flat: {found['memory_flat']}"
    )
    if given.json:
        write_json(given.json, found)
    if not (found["identical"] and found["memory_flat"] and found["rows_written"] == found["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

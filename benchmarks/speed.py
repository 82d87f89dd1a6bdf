"""What train_speed and score_speed share: who is compared, whose turn it is, and what is written
down.

Every contender is a process of its own that works only while it is asked to (`worker`). So its peak
memory is its own, and blocks of work alternate: whatever else the machine does meets all of them
alike.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.peak import SIZES, flop_per_token, weights_multiplied
from benchmarks.tables import cardio_table, long_instruction
from cardiotune.config import load_config
from cardiotune.data.tokens import PromptEncoder
from cardiotune.errors import CardioTuneError, ConfigError, RunError
from cardiotune.files import write_json
from cardiotune.runs import environment
from cardiotune.settings import Config
from cardiotune.training.packing import shared_length
from cardiotune.training.weights import find_weights

EXPERIMENT = "cardio_published"
PROMPT = ["serialize.order=by_sharing", "data.columns.bp_category.role=ignore", "data.columns.bmi.role=ignore"]
"""Of the default experiment: the columns that the table has itself, those that are shared most
first."""
PREFIX = 37
"""Tokens of its shared instruction. With the patient's, a prompt has about 100."""
GENERATED_ROWS = 70_000
"""As many as the real table has."""
CONTENDERS = {
    "ours": "CardioTune as it comes",
    "ours_bfloat16": "CardioTune with model.score_dtype=bfloat16",
    "trainer": "Trainer + PEFT, sequence classification, as it comes",
    "trainer_bfloat16": "Trainer + PEFT, sequence classification, loaded in bfloat16",
    "trainer_autocast": "Trainer + PEFT, sequence classification, bf16=True",
    "sft_bfloat16": "TRL SFTTrainer on chat text, loaded in bfloat16",
}
"""Name -> what it is. `ours_bfloat16` takes part in scoring only: training computes in bfloat16 by
itself where it pays."""
REFERENCE = "trainer"
"""Whom `ratio` compares with."""
HALF_REFERENCE = "trainer_bfloat16"
"""Whom `ratio_bfloat16` compares ours with, when ours computes in bfloat16 too."""
OPTIONAL = ("sft_bfloat16", "trainer_autocast", "ours_bfloat16", "trainer_bfloat16")
"""Who leaves, in this order, when the quick run would not be quick: bfloat16 takes minutes where it
is emulated."""
QUICK_SECONDS = 420
"""When a quick run's blocks have to be done; after that, validation rows are judged."""


def whole_numbers(text: str) -> list[int]:
    """Numbers between commas."""
    return [int(number) for number in text.split(",")]


def parser(about: str) -> argparse.ArgumentParser:
    """The arguments that both measurements have."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="under ten minutes on two cores")
    found.add_argument("--table", type=Path, help="the cardio table (CSV); default: generated rows in its columns")
    found.add_argument("--experiment", default=EXPERIMENT, help="a YAML file or shipped name that brings its own table")
    found.add_argument(
        "--prefix",
        type=int,
        metavar="TOKENS",
        help=f"lengthen the instruction to so many tokens ({PREFIX})",
    )
    found.add_argument("--blocks", type=int, help="blocks of work measured for each contender, after the warm-up")
    found.add_argument("--contenders", help="comma-separated, of " + ", ".join(CONTENDERS))
    found.add_argument("--peak-sizes", type=whole_numbers, default=SIZES, help="matrices for the peak, rows = columns")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, and a plot beside it (.png)")
    found.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the experiment")
    return found


# --------------------------------------------------------------------------------------------------
# experiment


@dataclass(frozen=True)
class Setup:
    """A folder for the time of the measurement, overrides that every config of it has, and where
    the rows came from."""

    folder: Path
    overrides: list[str]
    table: str


@contextmanager
def experiment(given: argparse.Namespace) -> Iterator[Setup]:
    """The experiment with its table, and its instruction as long as asked."""
    with tempfile.TemporaryDirectory(prefix="cardiotune-bench-") as name:
        folder = Path(name)
        usual = given.experiment == EXPERIMENT
        overrides = [f"runs_dir={folder / 'runs'}", "models=[tuned]", *(PROMPT if usual else []), *given.overrides]
        table = "given" if given.table else "the experiment's own"
        if given.table:
            overrides.append(f"data.path={given.table.resolve()}")
        elif _lacks_table(given.experiment, overrides):
            table = "generated"
            cardio_table(GENERATED_ROWS).write_csv(folder / "generated.csv", separator=";")
            overrides.append(f"data.path={folder / 'generated.csv'}")
        config = load_config(given.experiment, overrides)
        # Ours would take the physical cores, PyTorch may take others: all contenders get the same
        # number.
        overrides.append(f"train.threads={config.train.threads or torch.get_num_threads()}")
        if prefix := given.prefix or (PREFIX if usual else None):
            text = long_instruction(config, find_weights(config.model), prefix)
            overrides.append(f"task.instruction={json.dumps(text)}")
        yield Setup(folder, overrides, table)


def _lacks_table(name: str, overrides: list[str]) -> bool:
    """Whether the experiment names no table: those shipped so are on the columns of the cardio
    dictionary."""
    try:
        load_config(name, overrides)
    except ConfigError as error:
        return "data.path: missing" in str(error)
    return False


def contenders(
    given: argparse.Namespace, possible: Sequence[str], default: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Who takes part, and who was left out, with the reason."""
    names = given.contenders.split(",") if given.contenders else list(default)
    strange = [name for name in names if name not in possible]
    if strange or "ours" not in names:
        raise ConfigError(f"--contenders {given.contenders}: expected ours and any of {', '.join(possible)}")
    skipped = {}
    if not find_spec("trl"):
        skipped = {
            name: "TRL is not installed: pip install 'cardiotune[bench]'" for name in names if name.startswith("sft")
        }
    return [name for name in names if name not in skipped], skipped


def job_of(config: Config, weights: Path, folder: Path, steps: int) -> dict[str, Any]:
    """What every contender is told about the experiment."""
    if config.method.kind != "lora" or config.method.quantization != "none":
        raise ConfigError(
            "method: the references train LoRA adapters on plain weights; use.method=lora compares with them"
        )
    variants = ("top_layers", "dora", "rslora", "lora_plus")
    if differing := [name for name in variants if getattr(config.method, name)]:
        raise ConfigError(f"method.{differing[0]}: the references do not have it, so nothing would be compared")
    names = ["batch_size", "gradient_accumulation", "learning_rate", "schedule", "warmup_share"]
    names += ["weight_decay", "max_grad_norm"]
    return {
        "weights": str(weights),
        "folder": str(folder),
        "threads": config.train.threads,
        "seed": config.seed,
        "steps": steps,
        "labels": [config.task.negative_label, config.task.positive_label],
        "recipe": {name: getattr(config.train, name) for name in names},
        "lora": {name: getattr(config.method, name) for name in ("r", "alpha", "dropout", "target_modules")},
    }


def token_facts(encoder: PromptEncoder, batches: Sequence[Sequence[list[int]]]) -> dict[str, float]:
    """How long the prompts are, and how many tokens a row are left when a beginning that rows of a
    batch share counts once."""
    lengths = [len(prompt) for batch in batches for prompt in batch]
    shared = 0
    for batch in batches:
        in_order = sorted(batch)
        shared += sum(shared_length(*pair) for pair in pairwise(in_order))
    return {
        "shared_prefix": len(encoder.prefix),
        "shared_suffix": len(encoder.suffix),
        "median": statistics.median(lengths),
        "mean": round(statistics.fmean(lengths), 2),
        "longest": max(lengths),
        "distinct_per_row": round((sum(lengths) - shared) / len(lengths), 2),
    }


# --------------------------------------------------------------------------------------------------
# turns


class Worker:
    """A contender's process, seen from outside."""

    def __init__(self, name: str, job: dict[str, Any], folder: Path) -> None:
        self.name, self.job = name, job
        self.log = folder / f"{name}.log"
        here = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        self._tell({**job, "contender": name})
        self.answers: list[dict[str, Any]] = []

    def _tell(self, what: Any) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; `listen` says so
            print(json.dumps(what), file=self.process.stdin, flush=True)

    def listen(self) -> dict[str, Any]:
        """The answer to the present turn."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            last = "\n".join(self.log.read_text().splitlines()[-15:])
            raise RunError(f"contender {self.name} died with exit code {self.process.returncode}:\n{last}")
        self.answers.append(json.loads(line))
        return self.answers[-1]

    def turn(self) -> dict[str, Any]:
        """Let it work for another turn."""
        self._tell({})
        return self.listen()

    def close(self) -> None:
        """End it, wherever it is."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


@contextmanager
def workers(jobs: dict[str, dict[str, Any]], folder: Path) -> Iterator[dict[str, Worker]]:
    """Start the contenders one after the other; each has had its warm-up turn."""
    started: dict[str, Worker] = {}
    try:
        for name, job in jobs.items():
            say(f"warming up: {name}")
            started[name] = Worker(name, job, folder)
            started[name].listen()
        yield started
    finally:
        for worker in started.values():
            worker.close()


def measure(
    running: dict[str, Worker], blocks: int, skipped: dict[str, str], until: float = math.inf, least: int | None = None
) -> int:
    """Give every contender a turn in every round. `peak` takes part: it is measured as the machine
    was meanwhile.

    Optional contenders leave, and are noted in `skipped`, when the rounds would last longer than
    `until`. If that is not enough, it ends after `least` rounds (default: all). Returns how many
    rounds there were.
    """
    for block in range(1, blocks + 1):
        found, took = {}, {}
        for name, worker in running.items():
            began = time.perf_counter()
            found[name] = worker.turn()
            took[name] = time.perf_counter() - began
        rates = ", ".join(f"{n} {a['rows'] / a['seconds']:.2f}" for n, a in found.items() if "rows" in a)
        say(f"block {block} of {blocks}, rows/s: {rates}")
        left = until - time.perf_counter()
        for name in [name for name in OPTIONAL if name in running]:
            if (blocks - block) * sum(took[still] for still in running) > left:
                running.pop(name).close()
                skipped[name] = "it would have made the quick run a long one; leave --quick out"
        if block >= (least or blocks) and sum(took[still] for still in running) > left:
            return block
    return blocks


def say(text: str) -> None:
    """Tell how far it is, beside the result."""
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------
# results


def facts_of(answers: list[dict[str, Any]], blocks: int, tokens_a_row: float) -> dict[str, Any]:
    """Numbers of one contender from its answers: the warm-up, then the blocks, then perhaps what it
    was judged by."""
    measured = answers[1 : 1 + blocks]
    rates = [answer["rows"] / answer["seconds"] for answer in measured]
    rate = statistics.median(rates)
    computed = [answer["tokens"] / answer["rows"] for answer in measured if answer["tokens"]]
    per_row = round(statistics.median(computed), 2) if computed else None
    last = answers[-1]
    return {
        "dtype": last["dtype"],
        "rows_per_second": round(rate, 3),
        "rows_per_second_blocks": [round(value, 3) for value in rates],
        "rows_a_block": [answer["rows"] for answer in measured],
        "prompt_tokens_per_second": round(rate * tokens_a_row, 1),
        "tokens_computed_per_row": per_row,
        "tokens_computed_per_second": round(rate * per_row, 1) if per_row else None,
        "warm_up_seconds": round(answers[0]["seconds"], 2),
        "peak_memory_mib": round(measured[-1]["peak_memory_mib"]),
        "validation": last.get("validation"),
    }


def result(
    benchmark: str,
    setting: dict[str, Any],
    weights: Path,
    running: dict[str, Worker],
    blocks: int,
    skipped: dict[str, str],
    start: float,
) -> dict[str, Any]:
    """The whole result, as `speed.schema.json` describes it."""
    sizes = running["peak"].job["sizes"]
    answers = {name: worker.answers for name, worker in running.items()}
    peaks = [answer["gflops"] for answer in answers.pop("peak")]
    peak = {dtype: max(found[dtype] for found in peaks) for dtype in peaks[0]}
    multiplied = weights_multiplied(weights)
    flop = flop_per_token(multiplied, training=benchmark == "train_speed")
    found = {name: facts_of(given, blocks, setting["tokens"]["mean"]) for name, given in answers.items()}
    for name, facts in found.items():
        facts["what"] = CONTENDERS[name]
        speed = facts["tokens_computed_per_second"]
        facts["share_of_peak"] = round(speed * flop / 1e9 / peak[facts["dtype"]], 4) if speed else None
    ratios = {name: _ratio(found["ours"], facts) for name, facts in found.items() if name != "ours"}
    half = next(
        (facts for name, facts in found.items() if name.startswith("ours") and facts["dtype"] == "bfloat16"), None
    )
    return {
        "schema_version": 1,
        "benchmark": benchmark,
        "ratio": ratios[REFERENCE]["ratio"] if REFERENCE in ratios else None,
        "ratio_bfloat16": _ratio(half, found[HALF_REFERENCE]) if half and HALF_REFERENCE in found else None,
        "ratios": ratios,
        "setting": setting,
        "peak": {"gflops": {dtype: round(value, 1) for dtype, value in peak.items()}, "sizes": sizes},
        "weights_multiplied": multiplied,
        "flop_per_token": flop,
        "contenders": found,
        "skipped": skipped,
        "machine": machine(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _ratio(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Ours over the other: of the medians, and the lowest and highest of a round."""
    pairs = zip(ours["rows_per_second_blocks"], other["rows_per_second_blocks"], strict=True)
    rounds = [mine / theirs for mine, theirs in pairs]
    whole = ours["rows_per_second"] / other["rows_per_second"]
    return {"ratio": round(whole, 3), "lowest": round(min(rounds), 3), "highest": round(max(rounds), 3)}


def machine() -> dict[str, Any]:
    """Processor and versions."""
    names = ("torch", "transformers", "peft", "accelerate", *(("trl",) if find_spec("trl") else ()))
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "git_commit": environment()["git_commit"],
    }


def as_markdown(found: dict[str, Any]) -> str:
    """The result as a table."""
    lines = [
        "| contender | rows/s | ours is faster by | tokens computed a row | share of peak | peak MiB | validation log-loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, facts in found["contenders"].items():
        ratio = found["ratios"].get(name)
        share, computed = facts["share_of_peak"], facts["tokens_computed_per_row"]
        judged = facts["validation"]
        cells = [
            f"{facts['what']} ({facts['dtype']})",
            f"{facts['rows_per_second']:.2f}",
            f"{ratio['ratio']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else "",
            f"{computed:.1f}" if computed else "not counted",
            f"{share:.0%}" if share else "",
            str(facts["peak_memory_mib"]),
            f"{judged['log_loss']:.4f}" if judged else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n{CONTENDERS[name]}: left out; {reason}" for name, reason in found["skipped"].items()]
    if half := found["ratio_bfloat16"]:
        span = f"{half['ratio']:.2f} ({half['lowest']:.2f} to {half['highest']:.2f})"
        lines.append(f"\nBoth in bfloat16, ours is faster than the Trainer by {span}.")
    peak = ", ".join(f"{value:.0f} GFLOP/s in {dtype}" for dtype, value in found["peak"]["gflops"].items())
    return "\n".join([*lines, f"\nMatrix-multiply peak: {peak}. The whole took {found['seconds']:.0f} s."])


def draw(found: dict[str, Any], file: Path) -> None:
    """Rows/s of every contender, its blocks as dots, and the share of the peak that it reached."""
    from matplotlib.figure import Figure

    facts = list(found["contenders"].values())[::-1]
    places = range(len(facts))
    figure = Figure(figsize=(10, 1.2 + 0.6 * len(facts)), layout="constrained")
    speed, share = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    colours = ["#0072b2" if one["what"].startswith("CardioTune") else "#999" for one in facts]
    speed.barh(places, [one["rows_per_second"] for one in facts], color=colours)
    for place, one in zip(places, facts, strict=True):
        blocks = one["rows_per_second_blocks"]
        speed.plot(blocks, [place] * len(blocks), ".", color="black", markersize=4)
    speed.set_yticks(places, [f"{one['what']}\n({one['dtype']})" for one in facts])
    speed.set_xlabel(f"rows/s ({found['setting']['tokens']['median']:.0f}-token prompts)")
    share.barh(places, [one["share_of_peak"] or 0 for one in facts], color=colours)
    share.set_xlabel("share of the multiplication peak", loc="right")
    share.set_xlim(0, 1)
    figure.savefig(file, dpi=150)


def publish(found: dict[str, Any], json_file: Path | None) -> None:
    """Print the result; write it, and its plot, where asked."""
    print(as_markdown(found))
    if json_file:
        write_json(json_file, found)
        draw(found, json_file.with_suffix(".png"))


def command(run: Any, given: argparse.Namespace) -> None:
    """Run a measurement; an expected error is one line."""
    start = time.perf_counter()
    try:
        found = run(given, start)
    except CardioTuneError as error:
        sys.exit(f"error: {error}")
    publish(found, given.json)

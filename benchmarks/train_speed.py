"""Rows/s of fine-tuning, ours beside Trainer with PEFT and TRL's SFTTrainer: same model, rows, LoRA
and effective batch.

    python -m benchmarks.train_speed --quick --json train_speed.json
    python -m benchmarks.train_speed --table cardio_train.csv --prefix 300 --json speed_300.json

Each contender trains once over the same rows, with the same recipe, in blocks of optimizer steps
that alternate; the log-loss of the same validation rows afterwards shows whether speed was bought
with quality. `ratio` is ours over the Trainer as it comes.
"""

import argparse
import math
from typing import Any

from benchmarks import speed
from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.data.serialize import shared_pieces
from cardiotune.errors import ConfigError
from cardiotune.training.model import build_encoder
from cardiotune.training.weights import find_weights

CONTENDERS = ["ours", "trainer", "trainer_bfloat16", "sft_bfloat16", "trainer_autocast"]
"""In `--quick` without the last, with a long prompt without the last two."""
WARM_UP = 1
"""Optimizer steps before the first block."""
LONG_PROMPT = 200
"""Tokens of an instruction from which `--quick` measures fewer blocks, and the references split a
batch to fit into memory."""
LONG_MICRO_BATCH = 8
"""Rows that a reference then takes at a time: 32 prompts of 360 tokens in float32 took more than 24
GiB."""


def run(given: argparse.Namespace, start: float) -> dict[str, Any]:
    """Measure, and return the result."""
    with speed.experiment(given) as setup:
        folder, overrides = setup.folder, setup.overrides
        config = load_config(given.experiment, overrides)
        weights = find_weights(config.model)
        long = (given.prefix or 0) > LONG_PROMPT
        names, skipped = speed.contenders(given, CONTENDERS, CONTENDERS[: (3 if long else 4) if given.quick else None])

        # --- how much work ------------------------------------------------------------------------
        blocks = given.blocks or ((3 if long else 5) if given.quick else 6)
        batch_rows = config.train.batch_size * config.train.gradient_accumulation
        wanted = given.rows // batch_rows if given.rows else WARM_UP + blocks * (1 if given.quick else 4)
        block = (wanted - WARM_UP) // blocks
        if block < 1:
            raise ConfigError(f"--rows {given.rows}: {WARM_UP + blocks} steps of {batch_rows} rows are needed at least")
        steps = WARM_UP + blocks * block
        held = given.validation or ((32 if long else 128) if given.quick else 512)

        # --- the rows -----------------------------------------------------------------------------
        train_rows = steps * batch_rows
        test_rows = math.ceil((train_rows + held) / 10)  # no part may be empty
        total = train_rows + held + test_rows + 4  # a stratified split rounds
        sized = [
            "name=train_speed",
            f"data.max_rows={total}",
            f"split.validation={held / total:.6f}",
            f"split.test={test_rows / total:.6f}",
            f"split.train_rows={train_rows}",
            f"train.max_steps={steps}",
            f"train.evaluate_every={steps}",
        ]
        config = load_config(given.experiment, [*overrides, *sized])
        run_folder, prepared = stages.prepare(config)
        encoder = build_encoder(config, weights)
        prompts = encoder.encode(prepared.texts_of(prepared.rows("train")))
        batches = [prompts[first : first + batch_rows] for first in range(0, len(prompts), batch_rows)]

        job = speed.job_of(config, weights, folder, steps)
        job |= {
            "task": "train",
            "warm_up": WARM_UP,
            "block": block,
            "batch_rows": batch_rows,
            "sizes": given.peak_sizes,
        }
        micro = given.reference_micro_batch or (LONG_MICRO_BATCH if long else config.train.batch_size)
        if config.train.batch_size % micro:
            raise ConfigError(f"--reference-micro-batch {micro}: expected a divisor of {config.train.batch_size}")
        pieces = shared_pieces(config.task, config.data.name_of("text") is not None)
        read: dict[str, Any] = {
            part: {
                "texts": [pieces.whole(text) for text in prepared.texts_of(prepared.rows(part))],
                "events": prepared.cohort.events[prepared.rows(part)].tolist(),
            }
            for part in ("train", "validation")
        }
        read["recipe"] = job["recipe"] | {"batch_size": micro, "gradient_accumulation": batch_rows // micro}
        jobs = {name: {**job, "run": str(run_folder.path)} if name == "ours" else {**job, **read} for name in names}

        # --- the turns ----------------------------------------------------------------------------
        with speed.workers({"peak": job, **jobs}, folder) as running:
            speed.measure(running, blocks, skipped, start + speed.QUICK_SECONDS if given.quick else math.inf)
            speed.say("judging the validation rows")
            for name in [name for name in running if name != "peak"]:
                running[name].turn()
            setting = {
                "experiment": given.experiment,
                "table": setup.table,
                "model": config.model.name,
                "quick": given.quick,
                "threads": job["threads"],
                "batch_rows": batch_rows,
                "reference_micro_batch": micro,
                "train_rows": train_rows,
                "validation_rows": len(prepared.rows("validation")),
                "steps": steps,
                "steps_a_block": block,
                "blocks": blocks,
                "lora": job["lora"],
                "recipe": job["recipe"],
                "tokens": speed.token_facts(encoder, batches),
            }
            return speed.result("train_speed", setting, weights, running, blocks, skipped, start)


def main(arguments: list[str] | None = None) -> None:
    parser = speed.parser(__doc__ or "")
    parser.add_argument("--rows", type=int, help="training rows of each contender, warm-up included")
    parser.add_argument("--validation", type=int, metavar="ROWS", help="rows that all are judged by afterwards")
    parser.add_argument(
        "--reference-micro-batch",
        type=int,
        metavar="ROWS",
        help=f"rows that a reference takes at a time, same effective batch (all; {LONG_MICRO_BATCH} with long prompts)",
    )
    speed.command(run, parser.parse_intermixed_args(arguments))


if __name__ == "__main__":
    main()

"""Rows/s of scoring with a trained adapter, ours beside Trainer with PEFT and a chat model that TRL
would have trained.

    python -m benchmarks.score_speed --quick --json score_speed.json
    python -m benchmarks.score_speed --table cardio_train.csv --json score_speed_all.json

Texts go in and logits come out; making tokens of them is in the time of all. The experiment's test
part is scored; by ours whole, in every block. The references, which read a row the same way
wherever it stands, score some rows of it.

`--quick` scores a sample of the test part. Neighbours in the order of their tokens share more of
them than strangers do, so a sample of strangers would make ours slower than it is on the whole
part. It is therefore a sample of runs of neighbours, evenly spread;
`setting.tokens.distinct_per_row` (whole part) and `contenders.ours.tokens_computed_per_row`
(sample) show how well it stands for the whole.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import speed
from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.data.prepare import read_prepared
from cardiotune.data.serialize import shared_pieces
from cardiotune.training.machine import computes_in_bfloat16
from cardiotune.training.model import build_encoder
from cardiotune.training.weights import find_weights

CONTENDERS = ["ours", "trainer", "trainer_bfloat16", "ours_bfloat16", "trainer_autocast", "sft_bfloat16"]
"""In `--quick` without the last two, and `ours_bfloat16` only where the hardware computes in it."""
NEIGHBOURS = 64
"""Rows in a run of neighbours."""


def blocks_of_neighbours(order: Sequence[int], rows: int, blocks: int) -> list[list[int]]:
    """Row numbers of each block: runs of neighbours in `order`, evenly spread, other ones in every
    block while there are."""
    runs = [list(order[first : first + NEIGHBOURS]) for first in range(0, len(order), NEIGHBOURS)]
    step = max(1, len(order) // rows)
    return [[row for run in runs[block % step :: step] for row in run] for block in range(blocks)]


def spread(rows: Sequence[int], count: int) -> list[int]:
    """So many of the rows, evenly spread."""
    count = min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _default(quick: bool) -> list[str]:
    if not quick:
        return CONTENDERS
    return CONTENDERS[: 4 if computes_in_bfloat16(torch.device("cpu")) else 3]


def run(given: argparse.Namespace, start: float) -> dict[str, Any]:
    """Measure, and return the result."""
    with speed.experiment(given) as setup:
        folder, overrides = setup.folder, setup.overrides
        names, skipped = speed.contenders(given, CONTENDERS, _default(given.quick))
        blocks = given.blocks or (4 if given.quick else 3)

        # --- a run with an adapter that has learned a step; nearly all other rows are to be scored
        config = load_config(given.experiment, overrides)
        held = max(0.001, 40 / read_prepared(config).cohort.frame.height)
        small = [
            "name=score_speed",
            f"split.validation={held:.6f}",
            f"split.train_rows={max(16, config.train.batch_size)}",
            "train.max_steps=1",
        ]
        config = load_config(given.experiment, [*overrides, *small])
        weights = find_weights(config.model)
        run_folder, prepared = stages.prepare(config)
        speed.say("training a step, for an adapter")
        stages.train(run_folder, prepared)

        # --- the rows -----------------------------------------------------------------------------
        texts = prepared.texts_of(prepared.rows("test"))
        encoder = build_encoder(config, weights)
        prompts = encoder.encode(texts)
        own_rows = given.rows or (2048 if given.quick else len(texts))
        reference_rows = given.reference_rows or (64 if given.quick else 256)
        order = sorted(range(len(texts)), key=lambda row: prompts[row])
        warm_up, *measured = blocks_of_neighbours(order, own_rows, blocks + 1)
        warm_up = warm_up[: max(NEIGHBOURS, own_rows // 8)]

        job = speed.job_of(config, weights, folder, steps=1) | {"task": "score", "sizes": given.peak_sizes}
        own = {"run": str(run_folder.path), "tuned": True, "texts": texts, "blocks": [warm_up, *measured]}
        pieces = shared_pieces(config.task, config.data.name_of("text") is not None)
        whole = [pieces.whole(text) for text in texts]
        few = [spread(rows, reference_rows) for rows in (warm_up, *measured)]
        jobs = {name: job | (own if name.startswith("ours") else {"texts": whole, "blocks": few}) for name in names}
        if "ours_bfloat16" in jobs:
            jobs["ours_bfloat16"]["score_dtype"] = "bfloat16"

        # --- the turns ----------------------------------------------------------------------------
        with speed.workers({"peak": job, **jobs}, folder) as running:
            until = start + speed.QUICK_SECONDS if given.quick else math.inf
            blocks = speed.measure(running, blocks, skipped, until, least=2)
            setting = {
                "experiment": given.experiment,
                "table": setup.table,
                "model": config.model.name,
                "quick": given.quick,
                "threads": job["threads"],
                "batch_rows": config.train.batch_size,
                "test_rows": len(texts),
                "blocks": blocks,
                "lora": job["lora"],
                "tokens": speed.token_facts(encoder, [prompts]),
            }
            return speed.result("score_speed", setting, weights, running, blocks, skipped, start)


def main(arguments: list[str] | None = None) -> None:
    parser = speed.parser(__doc__ or "")
    parser.add_argument("--rows", type=int, help="rows of a block of ours; default: all, with --quick 2048")
    parser.add_argument(
        "--reference-rows", type=int, help="rows of a block of the others; default: 256, with --quick 64"
    )
    speed.command(run, parser.parse_intermixed_args(arguments))


if __name__ == "__main__":
    main()

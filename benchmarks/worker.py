"""A contender's process: it works when its turn comes, says what it did, and waits.

Standard input brings the job, one JSON line, and then a line for every further turn; a turn is
answered by a JSON line. What libraries print goes to standard error. The first turn, which also
loads the model, is the warm-up.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook


class Turns:
    """Counts the tokens that go through the model, and ends a turn."""

    def __init__(self, answers: TextIO) -> None:
        self.answers = answers
        self.embedded: dict[int, int] = {}
        register_module_forward_pre_hook(self._count)
        self.started = time.perf_counter()

    def _count(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        """Every token that is computed, padding too, passes the embedding once; a BERT has
        embeddings of other things."""
        if isinstance(module, torch.nn.Embedding) and arguments:
            self.embedded[id(module)] = self.embedded.get(id(module), 0) + arguments[0].numel()

    def end(self, **facts: Any) -> None:
        """Answer, and sleep until the next turn."""
        seconds = time.perf_counter() - self.started
        tokens = max(self.embedded.values(), default=None)
        answer = {"seconds": seconds, "tokens": tokens, "peak_memory_mib": peak_memory_mib(), **facts}
        memory = psutil.virtual_memory()
        if memory.available < memory.total / 2:
            from cardiotune.training.memory import release

            release()  # what the C library keeps of a step's memory may be what the next contender lacks
        print(json.dumps(answer), file=self.answers, flush=True)
        if not sys.stdin.readline():
            sys.exit()  # nobody waits for more
        self.embedded.clear()
        self.started = time.perf_counter()

    def end_with_steps(self, warm_up: int, block: int, rows_a_step: int) -> None:
        """From now on end a turn after `warm_up` optimizer steps, and then after every `block`
        steps.

        PyTorch itself tells of the steps, so that no trainer needs a way to be paused.
        """
        done = 0

        def count(*_: Any) -> None:
            nonlocal done
            done += 1
            if done >= warm_up and (done - warm_up) % block == 0:
                self.end(rows=(warm_up if done == warm_up else block) * rows_a_step)

        register_optimizer_step_post_hook(count)


def peak_memory_mib() -> float:
    """Highest resident size of this process. Not by getrusage on Linux, where it begins with that
    of the parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1024)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    turns = Turns(answers)
    if job["contender"] == "peak":
        from benchmarks.peak import multiplication_peak

        while True:
            turns.end(gflops=multiplication_peak(tuple(job["sizes"])))
    if job["contender"].startswith("ours"):
        from benchmarks import ours as side
    else:
        from benchmarks import references as side  # type: ignore[no-redef]
    if job["task"] == "way":
        turns.end(**side.way(job))
    elif job["task"] == "train":
        turns.end_with_steps(job["warm_up"], job["block"], job["batch_rows"])
        turns.end(**side.train(job))
    else:
        scorer = side.Scorer(job)
        for rows in job["blocks"]:
            logits = scorer.logits([job["texts"][row] for row in rows])
            turns.end(rows=len(rows), dtype=scorer.dtype, finite=bool(torch.as_tensor(logits).isfinite().all()))


if __name__ == "__main__":
    main()

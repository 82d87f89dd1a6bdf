"""Load on the server, from outside: clients that each send one patient and wait for the answer, all
on this machine.

    python -m benchmarks.load_test runs/statlog_heart --json load.json
    python -m benchmarks.load_test runs/statlog_heart --minutes 10 --json load.json  # memory
    python -m benchmarks.load_test runs/cardio_gemma_270m --table cardio_train.csv  # a table

Starts `cardiotune serve` in a process of its own. Every answer is compared with what the model
gives offline for the same row, so an answer that went to another patient is seen. `batching`
compares a server that scores whatever waits together with one that scores row by row (`--batch-rows
1`), under the same clients.
"""

import argparse
import asyncio
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from cardiotune.data.cohort import needed_columns, read_rows
from cardiotune.data.schema import synthetic_rows
from cardiotune.deployment.scorer import RowScorer, settings_of
from cardiotune.errors import RunError
from cardiotune.files import write_json
from cardiotune.runs import environment
from cardiotune.training.machine import set_up

CLIENTS = (1, 8, 64, 500)
PATIENTS = 512
"""Different rows: drawn from the data dictionary alone, or spread evenly over a table."""
TOLERANCE = 1e-4
"""A probability may move that much with the batch it is computed in; rows of equal risk are told
apart by nothing."""
SAMPLE_SECONDS = 5
MARKS = (50, 95, 99)
"""Percentiles of the time to an answer."""
COLUMNS = {
    "clients": "clients",
    "rows/s": "rows_per_second",
    **{f"p{mark} ms": f"p{mark}_ms" for mark in MARKS},
    "answers": "answers",
    "wrong": "wrong",
    "busy": "refused",
    "failed": "failed",
}
"""Head of a printed column -> name in the JSON."""


@dataclass
class Found:
    """What clients met while they asked for some seconds."""

    clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    wrong: int = 0
    refused: int = 0
    """Answers that say the server is busy."""
    failed: int = 0

    def told(self) -> dict[str, Any]:
        """As the JSON has it; times in milliseconds."""
        times = np.percentile(self.latencies, MARKS) * 1000 if self.latencies else [None] * len(MARKS)
        return {
            "clients": self.clients,
            "seconds": round(self.seconds, 2),
            "answers": len(self.latencies),
            "rows_per_second": round(len(self.latencies) / self.seconds, 1),
            **{
                f"p{mark}_ms": None if value is None else round(float(value), 1)
                for mark, value in zip(MARKS, times, strict=True)
            },
            "wrong": self.wrong,
            "refused": self.refused,
            "failed": self.failed,
        }


@contextmanager
def server(run: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """`cardiotune serve` on a free port: its address and process."""
    command = [sys.executable, "-m", "cardiotune", "serve", str(run), "--port", "0", "--rate", "100000000", *options]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log, stdout=log) as process:
        try:
            yield _url(process, log), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(120)


def _url(process: "subprocess.Popen[bytes]", log: Any, seconds: float = 600) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        log.seek(0)
        said = log.read()
        if "serving model" in said:
            found = re.search(r"http://\S+", said)
            assert found
            return found[0]
        time.sleep(0.1)
    raise RunError("the server did not start; start it by hand with `cardiotune serve` to see why")


def patients(scorer: RowScorer, table: Path | None) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows that a client would send, and their risks by the same model without a server,
    (rows,)."""
    data = scorer.config.data
    names = needed_columns(data, target_needed=False)
    if table:
        whole = read_rows(str(table), data).frame
        frame = whole.gather_every(max(1, whole.height // PATIENTS)).head(PATIENTS)
    else:
        frame = synthetic_rows(data, PATIENTS, seed=1)
    rows = [{name: row.get(name) for name in names} for row in frame.iter_rows(named=True)]
    return rows, scorer.risks(rows)


async def load(url: str, rows: Sequence[Any], risks: np.ndarray, clients: int, seconds: float) -> Found:
    """`clients` at once, each with one row after the other until `seconds` are over; each has a
    connection of its own."""
    found = Found(clients)
    numbers = itertools.cycle(range(len(rows)))
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
        start = time.perf_counter()

        async def ask() -> None:
            while time.perf_counter() - start < seconds:
                number = next(numbers)
                begun = time.perf_counter()
                try:
                    answer = await client.post("/v1/predict", json={"rows": [rows[number]]})
                except httpx.TransportError:
                    found.failed += 1
                    continue
                if answer.status_code != 200:
                    found.refused += answer.status_code == 503
                    found.failed += answer.status_code != 503
                    continue
                found.latencies.append(time.perf_counter() - begun)
                risk = answer.json()["predictions"][0]["probability"]
                found.wrong += bool(abs(risk - risks[number]) > TOLERANCE)

        await asyncio.gather(*(ask() for _ in range(clients)))
        found.seconds = time.perf_counter() - start
    return found


def memory_over(
    process: psutil.Process, url: str, rows: Any, risks: Any, clients: int, minutes: float
) -> dict[str, Any]:
    """Resident memory of the server, MiB, every few seconds under steady load; `growth` from the
    second tenth to the last."""

    async def watched() -> tuple[Found, list[tuple[float, float]]]:
        loaded = asyncio.create_task(load(url, rows, risks, clients, 60 * minutes))
        samples, start = [], time.perf_counter()
        while not loaded.done():
            samples.append((time.perf_counter() - start, process.memory_info().rss / 2**20))
            await asyncio.wait([loaded], timeout=min(SAMPLE_SECONDS, 6 * minutes))
        return loaded.result(), samples

    found, samples = asyncio.run(watched())
    sizes = [size for _, size in samples]
    tenth = max(1, len(sizes) // 10)
    early, late = statistics.median(sizes[tenth : 2 * tenth] or sizes), statistics.median(sizes[-tenth:])
    return {
        "minutes": minutes,
        **found.told(),
        "early_mib": round(early, 1),
        "late_mib": round(late, 1),
        "growth": round(late / early - 1, 4),
        "samples": [[round(at, 1), round(size, 1)] for at, size in samples],
    }


def measure(run: Path, clients: Sequence[int], seconds: float, minutes: float, table: Path | None) -> dict[str, Any]:
    """All of it, as the JSON has it."""
    set_up(settings_of(run).train.threads)
    scorer = RowScorer.load(run)
    rows, risks = patients(scorer, table)
    distinct = len(np.unique(risks.round(4)))
    result: dict[str, Any] = {
        "schema_version": 1,
        "environment": environment(),
        "run": {"name": scorer.config.name, "base_model": scorer.config.model.name, "versions": scorer.versions},
        "patients": {"rows": len(rows), "distinct_risks": distinct, "drawn_from": "table" if table else "dictionary"},
        "tolerance": TOLERANCE,
    }
    with server(run) as (url, process):
        asyncio.run(load(url, rows, risks, 4, min(3, seconds)))  # the first passes are slower
        result["load"] = [asyncio.run(load(url, rows, risks, number, seconds)).told() for number in clients]
        if minutes:
            result["memory"] = memory_over(process, url, rows, risks, min(64, max(clients)), minutes)
    at_once = min(64, max(clients))
    together = next(entry for entry in result["load"] if entry["clients"] == max(n for n in clients if n <= at_once))
    with server(run, "--batch-rows", "1", "--batch-wait-ms", "0") as (url, _):
        asyncio.run(load(url, rows, risks, 4, min(3, seconds)))
        alone = asyncio.run(load(url, rows, risks, together["clients"], seconds)).told()
    ratio = together["rows_per_second"] / alone["rows_per_second"]
    result["batching"] = {"together": together, "one_by_one": alone, "ratio": round(ratio, 2)}
    return result


def show(result: dict[str, Any]) -> str:
    """The table that is printed."""
    lines = [" ".join(f"{name:>9}" for name in COLUMNS)]
    lines += [" ".join(f"{entry[name]!s:>9}" for name in COLUMNS.values()) for entry in result["load"]]
    batching = result["batching"]
    lines.append(
        f"batching, {batching['together']['clients']} clients: {batching['together']['rows_per_second']} rows/s together, "
        f"{batching['one_by_one']['rows_per_second']} one by one: {batching['ratio']} times"
    )
    if memory := result.get("memory"):
        lines.append(
            f"memory over {memory['minutes']:g} minutes: {memory['early_mib']} MiB early, {memory['late_mib']} late "
            f"({memory['growth']:+.1%}); {memory['answers']} answers, {memory['wrong']} wrong"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder or an export")
    parser.add_argument(
        "--table", type=Path, help="send patients of this table; default: drawn from the data dictionary"
    )
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="how many at once, between commas")
    parser.add_argument("--seconds", type=float, default=20, help="of load for each number of clients")
    parser.add_argument("--minutes", type=float, default=0, help="of steady load while memory is watched")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number here")
    given = parser.parse_args(arguments)
    clients = [int(number) for number in given.clients.split(",")]
    result = measure(given.run, clients, given.seconds, given.minutes, given.table)
    print(show(result))
    if given.json:
        write_json(given.json, result)
    judged = [*result["load"], result["batching"]["one_by_one"], *([result["memory"]] if given.minutes else [])]
    return int(any(entry["wrong"] for entry in judged))


if __name__ == "__main__":
    sys.exit(main())

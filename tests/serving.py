"""A real server for tests: uvicorn on a free port, with a toy language model that was really
trained."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from cardiotune.deployment.batching import BatchSettings
from cardiotune.deployment.limits import Limits
from cardiotune.deployment.scorer import RowScorer
from cardiotune.deployment.serve import ServeSettings, Serving, bind
from cardiotune.errors import CardioTuneError
from conftest import build_toy_table, write_toy_experiment
from test_cli import call

KEY = "a-key-of-the-tests-0123456789"
ROWS: list[dict[str, Any]] = build_toy_table(60, seed=9).drop("disease", "patient_id").to_dicts()
"""Rows that the model has not seen."""
ROW: dict[str, Any] = {"age": 61, "sex": "1", "sbp": 145, "smoker": "0", "pain": "typical"}


def train_toy_run(folder: Path, model: Path, report: bool = False) -> Path:
    """A run whose toy model has learned enough to tell patients apart; with a report when asked."""
    file = write_toy_experiment(folder, model)
    experiment = yaml.safe_load(file.read_text())
    experiment |= {"method": {"kind": "full"}, "models": ["tuned"]}
    experiment["train"] |= {"epochs": 6, "learning_rate": 0.003}
    file.write_text(yaml.safe_dump(experiment))
    run = folder / "runs" / "toy"
    steps = [("prepare", file), ("train", run), ("predict", run)]
    steps += [("audit", run), ("evaluate", run), ("report", run)] if report else []
    for step in steps:
        done = call(*step)
        assert done.exit_code == 0, done.output
    return run


@contextmanager
def serving(
    run: Path, load: Callable[[], RowScorer], ready: bool = True, keys: list[bytes] | None = None, **limits: Any
) -> Iterator[tuple[httpx.Client, Serving]]:
    """A server in a thread, and a client of it; `limits` are those of `Limits`, `rows_waiting` and
    `batch` of the queue."""
    batches = BatchSettings(rows=limits.pop("batch", 256), queue_rows=limits.pop("rows_waiting", 4096))
    made = bind(ServeSettings(run, port=0, keys=keys or [], limits=Limits(**limits), batches=batches), load)
    thread = threading.Thread(target=_run, args=(made,))
    thread.start()
    headers = {"Authorization": f"Bearer {keys[0].decode()}"} if keys else {}
    try:
        with httpx.Client(base_url=made.url, headers=headers, timeout=60, trust_env=False) as client:
            wait_until(lambda: answers(client, "/readyz" if ready else "/healthz"))
            yield client, made
    finally:
        made.server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


def _run(made: Serving) -> None:
    with suppress(CardioTuneError):  # a test looks at `models.failure`
        made.run()


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.02)

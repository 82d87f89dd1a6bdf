"""Many small requests, one busy model: rows that wait are scored together, by a single thread.

Rows of different patients share most of their prompt, and the scorer computes what they share once;
so the more rows a pass holds, the less each costs. Nobody waits for company longer than a few
milliseconds: while the model is busy, the next batch gathers by itself.
"""

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Generic, TypeVar

from cardiotune.errors import CardioTuneError, DataError, RunError

Row = TypeVar("Row")
Answer = TypeVar("Answer")


class QueueFullError(CardioTuneError):
    """More rows wait than the server is willing to hold."""


@dataclass(frozen=True)
class BatchSettings:
    """How rows are gathered."""

    rows: int = 256
    """Most rows of a pass. One request with more goes alone; the scorer cuts every pass by its own
    token budget."""
    wait_seconds: float = 0.003
    """How long the first row of an idle model waits for others."""
    queue_rows: int = 4096
    """Rows that may wait; one more is refused."""


@dataclass
class _Job(Generic[Row, Answer]):
    rows: Sequence[Row]
    answers: "Future[list[Answer]]" = field(default_factory=Future)


class Batcher(Generic[Row, Answer]):
    """Gives every row to `score` in batches; the answers come back to those who asked, in their
    order.

    A DataError is of some rows: those of the others are scored without them. Any other error is of
    the model, so all who wait for this pass get it, and the model is not asked again for each.
    """

    def __init__(
        self,
        score: Callable[[list[Row]], Sequence[Answer]],
        settings: BatchSettings | None = None,
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """`score`: rows -> an answer each, called by one thread only. `on_batch` is told of every
        pass, for measuring."""
        self._score, self._settings, self._on_batch = score, settings or BatchSettings(), on_batch
        self._jobs: deque[_Job[Row, Answer]] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that nobody has begun to score."""
        return self._waiting

    def submit(self, rows: Sequence[Row]) -> "Future[list[Answer]]":
        """The answers of `rows`, when they are there; cancelled, they are not computed.

        Raises QueueFullError when too many rows wait, RunError after `close`.
        """
        job: _Job[Row, Answer] = _Job(rows)
        with self._changed:
            if self._closed:
                raise RunError("the scoring thread has been stopped")
            if self._waiting + len(rows) > self._settings.queue_rows:
                raise QueueFullError(f"{self._waiting} rows wait already, and {self._settings.queue_rows} may")
            self._jobs.append(job)
            self._waiting += len(rows)
            self._changed.notify()
        return job.answers

    def close(self, timeout: float | None = None) -> None:
        """Accept no more, and come back when all that was accepted is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while gathered := self._gather():
            jobs = [job for job in gathered if job.answers.set_running_or_notify_cancel()]
            if jobs:
                self._answer(jobs)

    def _gather(self) -> list[_Job[Row, Answer]]:
        """The jobs of the next pass; none when closed and all is done."""
        settings = self._settings
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            self._changed.wait_for(lambda: self._waiting >= settings.rows or self._closed, settings.wait_seconds)
            jobs: list[_Job[Row, Answer]] = []
            rows = 0
            while self._jobs and (not jobs or rows + len(self._jobs[0].rows) <= settings.rows):
                jobs.append(self._jobs.popleft())
                rows += len(jobs[-1].rows)
            self._waiting -= rows
            return jobs

    def _answer(self, jobs: list[_Job[Row, Answer]]) -> None:
        rows = [row for job in jobs for row in job.rows]
        start = time.perf_counter()
        try:
            answers = list(self._score(rows))
            if len(answers) != len(rows):
                raise RunError(f"the model gave {len(answers)} answers for {len(rows)} rows")
        except Exception as error:  # noqa: BLE001 - raised again by those who wait, or this thread would die for all
            if isinstance(error, DataError) and len(jobs) > 1:
                for some in _without_the_named(jobs, getattr(error, "rows", [])):
                    self._answer(some)
                return
            for job in jobs:
                job.answers.set_exception(error)
            return
        self._on_batch(len(rows), time.perf_counter() - start)
        first = 0
        for job in jobs:
            job.answers.set_result(answers[first : first + len(job.rows)])
            first += len(job.rows)


def _without_the_named(jobs: list[_Job[Row, Answer]], rows: Sequence[int]) -> list[list[_Job[Row, Answer]]]:
    """The jobs that hold one of these rows of the pass, each alone, and all others together; each
    alone, if no row is named."""
    ends = list(accumulate(len(job.rows) for job in jobs))
    named = {bisect_right(ends, row) for row in rows if 0 <= row < ends[-1]} or {*range(len(jobs))}
    others = [job for place, job in enumerate(jobs) if place not in named]
    return [*([others] if others else []), *([job] for place, job in enumerate(jobs) if place in named)]

"""What a model costs, measured where it is spent: seconds to start, to score, and the rest, which
is fitting.

While one model's risks are made a `Clock` runs; loading weights happens inside `starting`, making
risks of rows inside `scoring`. Of blocks within blocks the outer one counts, so loading that scores
a few rows to check itself is loading.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds of one model."""

    start: float = 0.0
    """Loading weights and what else comes before the first row."""
    score: float = 0.0
    rows: int = 0
    """Rows that `score` stands for. A model of several steps takes each of them over all its
    rows."""
    begun: float = field(default_factory=time.perf_counter)
    busy: bool = False
    """Whether a block is being measured."""

    def entry(self) -> dict[str, float | int]:
        """For the manifest: `seconds` is what scoring `rows` rows took; with the two others it is
        all that was spent."""
        whole = time.perf_counter() - self.begun
        return {
            "rows": self.rows,
            "seconds": round(self.score, 6),
            "start_seconds": round(self.start, 6),
            "fit_seconds": round(max(0.0, whole - self.score - self.start), 6),
        }


_RUNNING: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def clock() -> Iterator[Clock]:
    """A clock for all that is measured inside."""
    running = Clock()
    token = _RUNNING.set(running)
    try:
        yield running
    finally:
        _RUNNING.reset(token)


@contextmanager
def starting() -> Iterator[None]:
    """What is done inside is done once, however many rows follow."""
    with _outermost() as running:
        since = time.perf_counter()
        yield
        if running:
            running.start += time.perf_counter() - since


@contextmanager
def scoring(rows: int) -> Iterator[None]:
    """Inside, the risks of so many rows are made, or a step of them, by a model that is ready."""
    with _outermost() as running:
        since = time.perf_counter()
        yield
        if running:
            running.score += time.perf_counter() - since
            running.rows = max(running.rows, rows)


@contextmanager
def _outermost() -> Iterator[Clock | None]:
    """The running clock; None without one, and inside of another block."""
    running = _RUNNING.get()
    if running is None or running.busy:
        yield None
        return
    running.busy = True
    try:
        yield running
    finally:
        running.busy = False

"""Who looks on while a model is trained: told of every look at the validation part, and may stop
the training by raising."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cardiotune.training.course import Look

Watcher = Callable[[Look], None]
_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Inside, trainings of this process tell their looks to `watcher`."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def tell(look: Look) -> None:
    """A look at the validation part."""
    if watcher := _WATCHER.get():
        watcher(look)

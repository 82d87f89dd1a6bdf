"""The progress bar, on standard error and only where somebody looks at it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """A bar while its work lasts."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown = shown
        self._task = task

    def advance(self, done: int, told: str = "") -> None:
        """So much more is done; `told` stands beside the bar."""
        self._shown.update(self._task, advance=done, told=told)

    def say(self, line: str) -> None:
        """A line that stays, above the bar; it is printed where there is no terminal too."""
        self._shown.console.print(line, highlight=False)


@contextmanager
def progress(what: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Bar]:
    """A bar for `total` rows or steps, of which some may be `done`. A `quiet` one shows and says
    nothing, as in all but the first of many processes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    console = Console(stderr=True, quiet=quiet, soft_wrap=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not sys.stderr.isatty()
    ) as shown:
        yield Bar(shown, shown.add_task(what, total=total, completed=done, told=""))

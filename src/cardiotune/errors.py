"""The errors a user can meet, each with the exit code that a script can act on.

Every message is one line: what came, what was expected, how to fix it. It names files, columns and
counts, never the value of a cell.
"""

from collections.abc import Sequence


class CardioTuneError(Exception):
    """An expected failure, which one process can hand to another. `exit_code` is what the command
    line ends with."""

    exit_code = 5


class ConfigError(CardioTuneError):
    """Wrong usage or settings."""

    exit_code = 2


class DataError(CardioTuneError):
    """A table, or the data dictionary beside it, cannot be used as it is."""

    exit_code = 3


class PromptsTooLongError(DataError):
    """Prompts of more tokens than `serialize.max_tokens`; `rows` are their numbers among those
    given, from 0."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


class ModelError(CardioTuneError):
    """Base weights, a tokenizer, an adapter or a checkpoint cannot be used."""

    exit_code = 4


class InterruptedRunError(CardioTuneError):
    """A signal ended the work after a step that was saved; the exit code is the shell's for that
    signal."""

    def __init__(self, message: str, signal_number: int = 0) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class RunError(CardioTuneError):
    """Something failed while running: a full disk, a loss that is not finite."""

    exit_code = 5

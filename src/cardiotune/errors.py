"""The errors a user can meet, each with the exit code that a script can act on.

Every message is one line: what came, what was expected, how to fix it. It names files, columns and counts,
never the value of a cell.
"""


class CardioTuneError(Exception):
    """An expected failure. `exit_code` is what the command line ends with."""

    exit_code = 5


class ConfigError(CardioTuneError):
    """Wrong usage or settings."""

    exit_code = 2


class DataError(CardioTuneError):
    """A table, or the data dictionary beside it, cannot be used as it is."""

    exit_code = 3


class ModelError(CardioTuneError):
    """Base weights, a tokenizer, an adapter or a checkpoint cannot be used."""

    exit_code = 4


class RunError(CardioTuneError):
    """Something failed while running: a full disk, a loss that is not finite."""

    exit_code = 5

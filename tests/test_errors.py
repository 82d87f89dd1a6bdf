"""Errors that a process hands to another arrive as they were."""

import pickle

import pytest

from cardiotune import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.DataError("3 rows"),
        errors.PromptsTooLongError("2 of 8 prompts", [2, 5]),
        errors.InterruptedRunError("stopped", 15),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling(error: errors.CardioTuneError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert again.exit_code == error.exit_code

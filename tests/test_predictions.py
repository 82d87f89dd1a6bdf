"""A line of `predictions.jsonl`: its keys, their order, and that it comes back as it was."""

import json

import numpy as np
import pytest

from cardiotune.models.predictions import Prediction, prediction_rows

PLAIN = {
    "row_id": "a",
    "part": "test",
    "model": "tuned",
    "y_true": 1,
    "y_prob": 0.75,
    "y_prob_raw": 0.5,
    "prediction": 1,
    "threshold": 0.5,
}


def line(**more: list[float | None] | list[int] | None) -> Prediction:
    (found,) = prediction_rows("tuned", ["a"], ["test"], [1], np.array([0.75]), np.array([0.5]), 0.5, **more)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({}, {}),
        ({"weights": [1.25]}, {"weight": 1.25}),
        ({"weights": [None]}, {"weight": None}),
        ({"clusters": np.array([0])}, {"cluster": 0}),
        ({"weights": [0.0], "clusters": [7]}, {"weight": 0.0, "cluster": 7}),
    ],
)
def test_a_line_has_these_keys_in_this_order_and_comes_back(given: dict[str, list[int]], keys: dict[str, int]) -> None:
    row = line(**given)
    text = json.dumps(row.as_json(), allow_nan=False)
    assert text == json.dumps(PLAIN | keys)
    assert Prediction.from_json(json.loads(text)) == row


def test_every_list_must_be_as_long() -> None:
    with pytest.raises(ValueError, match="shorter"):
        line(weights=[1.0, 2.0][:0])


def test_a_line_without_a_key_is_none() -> None:
    with pytest.raises(KeyError, match="y_prob"):
        Prediction.from_json({name: value for name, value in PLAIN.items() if name != "y_prob"})

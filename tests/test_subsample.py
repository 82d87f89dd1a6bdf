import numpy as np
import pytest

from cardiotune.data.subsample import UNUSED, cut_training, stratified_rows
from cardiotune.errors import DataError


def test_smaller_draws_are_part_of_larger_ones_and_keep_the_share() -> None:
    events = (np.random.default_rng(0).random(200) < 0.3).astype(int)
    before: set[int] = set()
    for rows in range(1, 201):
        drawn = stratified_rows(events, rows, 7)
        assert len(set(drawn)) == len(drawn) == rows
        assert before <= set(drawn)
        assert abs(events[drawn].sum() - rows * events.mean()) <= 0.5 + 1e-9
        before = set(drawn)
    assert set(stratified_rows(events, 20, 7)) != set(stratified_rows(events, 20, 8))
    assert len(stratified_rows(events, 999, 7)) == 200


def test_cutting_leaves_the_other_parts_alone() -> None:
    parts = np.array(["train", "train", "validation", "train", "test"] * 40, dtype="<U10")
    events = np.arange(200) % 3 == 0
    cut = cut_training(parts, events, 30, 0)
    assert (cut == "train").sum() == 30 and (cut == UNUSED).sum() == 90
    assert np.array_equal(cut[parts != "train"], parts[parts != "train"])
    assert set(parts[cut == UNUSED]) == {"train"} and (parts == "train").sum() == 120, "the argument is not changed"
    larger = cut_training(parts, events, 60, 0)
    assert set(np.flatnonzero(cut == "train")) <= set(np.flatnonzero(larger == "train"))


@pytest.mark.parametrize(("rows", "match"), [(121, "has 120 rows; ask for fewer"), (9, "hold 1 events; expected 2")])
def test_a_cut_that_cannot_be_is_refused(rows: int, match: str) -> None:
    parts = np.full(200, "test", dtype="<U10")
    parts[:120] = "train"
    with pytest.raises(DataError, match=match):
        cut_training(parts, (np.arange(200) % 10 == 0).astype(int), rows, 0)

"""Small counts and what would give them away, against a slow search of everything that a reader
could work out."""

import itertools

import numpy as np
import pytest

from cardiotune.data.counts import Step
from cardiotune.data.small_counts import FEW, HIDDEN, SMALL, hide, tell_each, tell_flow, tell_parts, told_events
from cardiotune.report.curves import calibration_points, histogram, merged


def flow_of(excluded: list[int], left: int) -> list[Step]:
    rows = [left + sum(excluded[place:]) for place in range(len(excluded) + 1)]
    steps = [("rows in the table", 0, rows[0])]
    steps += [(f"reason {place}", count, rows[place + 1]) for place, count in enumerate(excluded)]
    return [Step(*step) for step in steps]


def possible(told: list[Step], most: int) -> list[tuple[int, ...]]:
    """Every list of exclusions that fits what is told, by trying them all."""
    ranges = []
    for step in told[1:]:
        count = step.excluded
        ranges.append(range(1, FEW) if count == SMALL else range(FEW, most) if count == HIDDEN else [count])
    found = []
    for counts in itertools.product(*ranges):
        left = told[-1].left + sum(counts)
        fits = told[0].left in (HIDDEN, left)
        for step, count in zip(told[1:], counts, strict=True):
            left -= count
            fits &= step.left in (HIDDEN, left)
        if fits:
            found.append(counts)
    return found


@pytest.mark.parametrize("seed", range(25))
def test_no_small_exclusion_follows_from_what_is_told(seed: int) -> None:
    draw = np.random.default_rng(seed)
    excluded = [int(draw.choice([0, 1, 3, 9, 10, 11, 14, 30])) for _ in range(draw.integers(1, 5))]
    flow = flow_of(excluded, 200)
    told = tell_flow(flow)
    assert told[-1].left == 200
    fits = possible(told, 60)
    assert tuple(excluded) in fits, "what is told is true"
    for place, count in enumerate(excluded):
        if 0 < count < FEW:
            assert told[place + 1].excluded == SMALL
            assert len({counts[place] for counts in fits}) > 1
        elif told[place + 1].excluded != HIDDEN:
            assert told[place + 1].excluded == count
    if not any(0 < count < FEW for count in excluded):
        assert told == flow


def test_neighbouring_steps_by_hand() -> None:
    told = tell_flow(flow_of([124, 5, 7, 91], 2000))
    assert [step.excluded for step in told] == [0, 124, SMALL, SMALL, 91]
    assert [step.left for step in told] == [2227, 2103, HIDDEN, 2091, 2000]
    told = tell_flow(flow_of([124, 5, 91], 2000))
    assert [step.excluded for step in told] == [0, 124, SMALL, HIDDEN], (
        "the next larger one goes with a single small one"
    )
    assert [step.left for step in told] == [2220, 2096, HIDDEN, 2000]
    told = tell_flow(flow_of([3], 240))
    assert [step.left for step in told] == [HIDDEN, 240], "nothing else can hide it but how many there were"
    told = tell_flow(flow_of([9, 9, 40], 240))
    assert [step.excluded for step in told] == [0, SMALL, SMALL, HIDDEN], "18 is twice 9 and nothing else"


def test_hide_takes_the_last_only_where_nothing_else_is_left() -> None:
    assert hide([6, 30, 50], last=1) == ({0, 2}, True)
    assert hide([6, 30], last=1) == ({0, 1}, True)
    assert hide([6, 0], last=1) == ({0}, False)
    assert hide([0, 30]) == (set(), True)


def test_events_of_the_parts() -> None:
    parts = {
        "train": {"n": 300, "n_events": 60},
        "validation": {"n": 40, "n_events": 7},
        "test": {"n": 80, "n_events": 16},
    }
    told = tell_parts(parts)
    assert [part["n_events"] for part in told.values()] == [None, None, 16] and told["train"]["n"] == 300
    few_others = {name: {"n": size["n"], "n_events": size["n"] - size["n_events"]} for name, size in parts.items()}
    assert [part["n_events"] for part in tell_parts(few_others).values()] == [None, None, 64]
    assert told_events(40, 7) is None and told_events(40, 33) is None and told_events(40, 40) == 40
    assert tell_each({"a": 0, "b": 4, "c": 40}) == {"a": 0, "b": SMALL, "c": 40}
    assert tell_each({"a": 0, "b": 4, "c": 40}, hide_all=True) == {"a": 0, "b": SMALL, "c": HIDDEN}


@pytest.mark.parametrize("seed", range(20))
def test_bins_of_a_figure_have_no_small_count(seed: int) -> None:
    draw = np.random.default_rng(seed)
    risk = draw.beta(1, 6, draw.integers(60, 900))
    y_true = (draw.random(len(risk)) < risk).astype(float)
    drawn = histogram(y_true, risk)
    for counts, outcome in zip(drawn.counts, (1, 0), strict=True):
        total = (y_true == outcome).sum()
        if 0 < total < FEW:
            assert np.isnan(counts).all()
            continue
        assert counts.sum() == total and not ((counts > 0) & (counts < FEW)).any()
    areas = drawn.heights[1] * np.diff(drawn.edges) / (drawn.edges[-1] / 20)
    assert areas == pytest.approx(drawn.counts[1], nan_ok=True)
    mean, share, _, _ = calibration_points(y_true, risk)
    happened, others = y_true.sum(), (1 - y_true).sum()
    assert (len(mean) == 0) == (happened < FEW or others < FEW)
    if len(mean):
        assert (np.diff(mean) > 0).all()
        sizes = np.array([happened + others]) if len(mean) == 1 else None
        assert sizes is None or share * sizes == pytest.approx(happened)


def test_merged_by_hand() -> None:
    rows = np.array([[0, 3, 8, 0, 12, 2], [20, 15, 11, 0, 30, 9]])
    assert merged(rows).tolist() == [0, 1, 1, 2, 3, 3]
    assert merged(np.array([[3, 0], [50, 50]])).tolist() == [0, 0], "a small count of all rows stays small"

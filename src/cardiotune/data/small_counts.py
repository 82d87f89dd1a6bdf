"""Which counts of people may be told: none of 1 to 9, and none that gives such a one away.

A member of a list whose total is known is the total less the others, so further members are hidden
until no small one follows. Complementary suppression: Hundepool et al., Statistical Disclosure
Control, Wiley 2012, chapter 4. Tables of several dimensions: `cardiotune.evaluation.disclosure`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cardiotune.data.counts import CohortCounts, Count, Step

FEW = 10
"""A count below this, but not 0, is not told: a neighbour could recognise a patient."""
SMALL = f"<{FEW}"
HIDDEN = "hidden"
"""Written for a count of ten or more that is left out, because it would give a small one away."""


def is_small(count: float) -> bool:
    """Whether a count must not be told."""
    return 0 < count < FEW


def told(count: Count) -> Count:
    """A count that stands for itself, or `SMALL`."""
    return SMALL if is_small(int(count)) else count


def told_events(n: int, n_events: int) -> int | None:
    """How many of n have the event; None where they, or the others, are few."""
    return None if is_small(n_events) or is_small(n - n_events) else n_events


def hide(counts: Sequence[int], last: int | None = None) -> tuple[set[int], bool]:
    """Places that must be hidden in a list whose total is known; and whether that protects the
    small ones.

    The smallest other counts are hidden with them, that of place `last` only if nothing else is
    left. What hides a small count must hold at least FEW with it. Where even hiding all does not
    do, the total must not be told.
    """
    hidden = {place for place, count in enumerate(counts) if is_small(count)}
    while hidden and _given_away([counts[place] for place in hidden]):
        others = [place for place, count in enumerate(counts) if count and place not in hidden]
        if not others:
            return hidden, False
        hidden.add(min(others, key=lambda place: (place == last, counts[place])))
    return hidden, True


def _given_away(counts: Sequence[int]) -> bool:
    """Whether the sum of hidden counts, each known to be small or to be ten or more, is small or
    allows one value of one."""
    total = sum(counts)
    ranges = [(1, FEW - 1) if is_small(count) else (FEW, total) for count in counts]
    lowest, highest = (sum(end) for end in zip(*ranges, strict=True))
    return total < FEW or any(
        max(low, total - (highest - high)) == min(high, total - (lowest - low))
        for (low, high), count in zip(ranges, counts, strict=True)
        if is_small(count)
    )


def tell_flow(flow: Sequence[Step]) -> list[Step]:
    """Exclusions in order, as they may be told; how many are left in the end is always told.

    Small exclusions become SMALL, others that would give them away HIDDEN. How many are left is
    hidden from the first hidden step to the last: their differences are the exclusions. Where one
    small exclusion stands alone, the number that the table had is hidden too.
    """
    counts = [int(step.excluded) for step in flow[1:]]
    hidden, safe = hide(counts)
    first, last = (min(hidden), max(hidden)) if hidden else (len(counts), -1)
    if not safe:
        first = -1

    def row(place: int, step: Step) -> Step:
        excluded = step.excluded
        if place in hidden:
            excluded = SMALL if is_small(counts[place]) else HIDDEN
        return Step(step.step, excluded, HIDDEN if first <= place < last else step.left)

    return [row(place, step) for place, step in enumerate(flow, -1)]


def tell_parts(parts: Mapping[str, Mapping[str, int | None]]) -> dict[str, dict[str, int | None]]:
    """`{"n", "n_events"}` a part, as they may be told beside the totals; a number that is not told
    is None.

    The test part's is the last to go, for its metrics stand on it.
    """
    names = list(parts)
    sizes, events = ([int(parts[name][key] or 0) for name in names] for key in ("n", "n_events"))
    last = names.index("test") if "test" in names else None
    without_size, _ = hide(sizes, last)
    few = without_size.union(
        *(hide(some, last)[0] for some in (events, [a - b for a, b in zip(sizes, events, strict=True)]))
    )
    return {
        name: {
            "n": None if place in without_size else parts[name]["n"],
            "n_events": None if place in few else parts[name]["n_events"],
        }
        for place, name in enumerate(names)
    }


def tell_each(counts: Mapping[str, Count], hide_all: bool = False) -> dict[str, Count]:
    """Counts that do not add up to anything: small ones become SMALL, and with `hide_all` the
    others HIDDEN."""
    return {name: HIDDEN if hide_all and int(count) >= FEW else told(count) for name, count in counts.items()}


def shareable(exact: CohortCounts, described: Mapping[str, Any]) -> CohortCounts:
    """Exact counts of the cohort as they may leave the machine, beside Table 1.

    Where Table 1 hides how many lack a value because it would give a small count away, none of the
    larger ones is told.
    """
    hidden = any(row["missing"] == HIDDEN for row in described["columns"])
    notes = exact.notes

    def each(counts: Mapping[str, Count] | None) -> dict[str, Count] | None:
        return None if counts is None else tell_each(counts, hidden)

    equal, ukb = notes.equal_rows, notes.ukb
    if ukb:
        listed = replace(ukb.withdrawals, listed=told(ukb.withdrawals.listed))
        related = ukb.kinship and replace(ukb.kinship, pairs=told(ukb.kinship.pairs))
        ukb = replace(ukb, withdrawals=listed, kinship=related)
    return CohortCounts(
        tell_flow(exact.flow),
        replace(
            notes,
            missing=each(notes.missing),
            values_out_of_range=each(notes.values_out_of_range),
            equal_rows=equal and replace(equal, rows=told(equal.rows)),
            ukb=ukb,
        ),
        tell_parts(exact.parts),
        {kind: tell_each(found) for kind, found in exact.overlap.items()},
    )

"""Equal rows: people who are alike, or copies? Chance explains so many of them, and no order in
which they come again.

A table of five yes/no columns is full of equal rows; a table of laboratory values has none, unless
somebody copied them.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.settings import DataConfig

Keys = NDArray[np.uint64]

TOLERANCE = 2.0
"""So many times the expected number of equal rows is still taken for chance. The estimate was 0.9
to 1.3 times the truth on the cardio table and on generated ones, and less exact where columns
depend on each other."""
WORDS = 256
"""Words of a ready text that are compared one by one; those after them count as one."""
FALSE_ALARM = 1e-6
"""Chance with which rows in a random order are taken for copies by that order or by how often each
row stands."""
SHORTEST_BLOCK = 10
"""Rows in a row, at least, whose coming again is taken for a copied block."""


class EqualRows(NamedTuple):
    """How many rows equal an earlier one, and what chance has to do with it."""

    rows: int
    """Rows that equal an earlier row in every feature, ready text and the outcome."""
    pairs: int
    """Pairs of rows equal in every feature and ready text; not those of one patient (group)."""
    expected: float
    """How many such pairs chance explains."""
    in_blocks: int
    """Rows in blocks that came before, row by row in the same order."""
    times: int
    """So many times (or a multiple of it) every different row stands in the table: 1, or the table
    was put together."""

    @property
    def copied(self) -> bool:
        """Whether there are more than chance explains."""
        return exceeds(self.pairs, self.expected) or self.in_blocks > 0 or self.times > 1

    @property
    def excess(self) -> float:
        """The share of equal rows that chance does not explain, 0 to 1."""
        if exceeds(self.pairs, self.expected):
            return 1 - self.expected / self.pairs
        return min(1.0, self.in_blocks / max(1, self.rows)) if self.in_blocks else float(self.times > 1)


def equal_rows(columns: list[Keys], events: NDArray[np.int_], groups: pl.Series | None = None) -> EqualRows:
    """Judge rows by their keys of each column (`column_keys`), (rows,) outcomes and, where they
    have several rows, patients."""
    keys = total(columns)
    outcomes = keys + pl.Series(events).hash(seed=len(columns)).to_numpy()
    counts = np.unique(outcomes, return_counts=True)[1]
    if len(counts) == len(keys) and not pairs_of(keys):
        return EqualRows(0, 0, 0.0, 0, 1)
    pairs = pairs_of(keys) - (0 if groups is None else pairs_of(keys + groups.hash().to_numpy()))
    # Of a random row's count, 2 is a divisor with chance 1/2 at most, larger numbers more rarely.
    known = len(counts) * np.log(2) >= -np.log(FALSE_ALARM)
    times = int(np.gcd.reduce(counts)) if known else 1
    alike = 2 * pairs_of(outcomes) / (len(keys) * (len(keys) - 1))
    return EqualRows(
        len(keys) - len(counts), pairs, expected_pairs(columns, events), _rows_in_blocks(outcomes, alike), times
    )


def _rows_in_blocks(keys: Keys, alike: float) -> int:
    """Rows that stand in a block which came before. `alike`: chance that two rows are equal.

    A block is so long that two equal ones among all are less likely than `FALSE_ALARM`, and holds
    different rows: in a sorted table equal ones follow each other.
    """
    rows = len(keys)
    length = SHORTEST_BLOCK
    if alike > 0:
        length = max(length, int(np.ceil((2 * np.log(rows) - np.log(FALSE_ALARM)) / -np.log(min(alike, 0.99)))))
    if rows < 2 * length:
        return 0
    factors = np.random.default_rng(0).integers(2**63, size=length, dtype=np.uint64) | np.uint64(1)
    blocks = np.zeros(rows - length + 1, np.uint64)
    for place, factor in enumerate(factors):
        blocks += keys[place : place + len(blocks)] * factor
    changes = np.concatenate([[0], np.cumsum(keys[1:] != keys[:-1])])
    mixed = changes[length - 1 :] - changes[: len(blocks)] >= length // 2
    _, first, which = np.unique(blocks, return_index=True, return_inverse=True)
    again = np.flatnonzero(mixed & (np.arange(len(blocks)) - first[which] >= length))
    begun = np.zeros(rows + 1, np.int64)
    np.add.at(begun, again, 1)
    np.add.at(begun, again + length, -1)
    return int((np.cumsum(begun) > 0).sum())


def expected_pairs(columns: list[Keys], events: NDArray[np.int_] | None) -> float:
    """How many pairs of rows are expected to be equal in every column by chance: the largest of
    three estimates.

    1. From near misses, which copies do not add to: with D_j the pairs that differ in column j
       alone and D_jk those that differ in both j and k alone, D_j / D_jk are the odds of agreeing
       in k, so D_j D_k / D_jk pairs agree in all (log-linear model without a j-k interaction).
       Taken over the columns that near misses differ in most.
    2. Independent columns: the product of each column's share of equal pairs.
    3. From the outcome: copies agree in it. A share d of pairs that do not, against 2p(1 - p) of
       any two rows, leaves at least d / 2p(1 - p) of the pairs to chance.
    """
    rows, keys = len(columns[0]), total(columns)
    pairs = pairs_of(keys)
    if not pairs:
        return 0.0
    without = np.array([pairs_of(keys - column) for column in columns])
    missed = without - pairs
    top = np.argsort(-missed, kind="stable")[:5]
    estimates = [0.0]
    for j, k in combinations(top, 2):
        both = pairs_of(keys - columns[j] - columns[k]) - without[j] - without[k] + pairs
        if both >= 5:
            estimates.append(missed[j] * missed[k] / both)
    everyone = rows * (rows - 1) / 2
    estimates.append(everyone * float(np.prod([pairs_of(column) / everyone for column in columns])))
    if events is not None:
        agreeing = sum(pairs_of(keys[events == outcome]) for outcome in (0, 1))
        anyone = 2 * events.mean() * (1 - events.mean())
        estimates.append((pairs - agreeing) / max(anyone, 1e-9))
    return float(max(estimates))


def exceeds(pairs: int, expected: float) -> bool:
    """Whether there are more pairs of equal rows than chance explains."""
    return pairs > TOLERANCE * expected + 4 * float(np.sqrt(expected)) + 3


def pairs_of(keys: Keys) -> int:
    """Pairs of rows with the same key."""
    counts = np.unique(keys, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def column_keys(frame: pl.DataFrame, names: Sequence[str], data: DataConfig) -> list[Keys]:
    """A hash of every cell, (rows,) a column; of a ready text, of each word. A missing value equals
    a missing value.

    Hashes of different columns are independent, so their sum (modulo 2**64) is a key of the row,
    and a column leaves the key by subtraction.
    """
    columns = []
    for name in names:
        if data.columns[name].role == "text":
            words = frame[name].fill_null("").str.splitn(" ", WORDS).struct.unnest()
            columns += [words[word] for word in words.columns if words[word].n_unique() > 1]
        else:
            columns.append(frame[name])
    nothing = [pl.Series([""] * frame.height, dtype=pl.String)]
    return [column.hash(seed=place).to_numpy() for place, column in enumerate(columns or nothing)]


def total(columns: list[Keys]) -> Keys:
    """A key of each row, (rows,)."""
    return np.asarray(np.sum(columns, axis=0, dtype=np.uint64))

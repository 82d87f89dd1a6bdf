"""Near copies: rows that another row was made from, with its numbers changed a little, as by noise
or SMOTE.

How near the nearest row may be by chance depends on the table, so nearness alone proves nothing.
But people who are alike by chance differ in the outcome nearly as often as people who are a little
less alike, and a copy never differs from its original. So rows with a near neighbour must agree
with it in the outcome far more often than their further neighbours let one expect.

It takes 20 to 40 pairs; fewer are not told from chance, nor are copies that were changed so much
that a true neighbour is as near. The same patients measured twice look the same. So may, with few
columns, an outcome that is computed from them, which is a leak as well.
"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from cardiotune.audit.findings import Checks, Finding
from cardiotune.audit.table import SHARE_OF_COPIES, Table
from cardiotune.settings import DataConfig

CHECKS = Checks[Table]()

Places = NDArray[np.float64]
"""(rows, dimensions): points whose distance says how unlike two patients are."""
Numbers = NDArray[np.int_]
"""Row numbers."""

NEIGHBOURS = 20
"""Neighbours that are looked at."""
FURTHER = slice(5, None)
"""Those that say what the surroundings are like: oversampling mostly makes fewer than five copies
of a row."""
NEAR = (0.15, 0.25, 0.5)
"""A copy is nearer than this share of the distance to the last neighbour; the share that says most
is taken."""
COLUMNS = 30
"""Columns, at most, in which rows are compared: those with the most values."""
CODES = 10
"""Codes of a column, the most frequent, that are told apart."""
ROWS = 4000
"""Rows, at most, whose neighbours are looked for."""
PAIRS = 3e8
"""Distances, at most, that are computed, which takes some seconds."""


@dataclass(frozen=True)
class Agreement:
    """Of `asked` rows, `near` have a near neighbour; with it `differ` of them differ in the
    outcome."""

    asked: int
    near: int = 0
    differ: int = 0
    expected: float = 0.0
    """How many would differ by chance."""

    def p_value(self, counted: float = 1.0) -> float:
        """Probability of so few that differ, if each counts `counted` times. Poisson, which is
        wider than the truth.

        Times the number of shares tried (Bonferroni), for the one that says most is taken.
        """
        single = stats.poisson.cdf(np.ceil(self.differ * counted), self.expected * counted)
        return float(min(1.0, len(NEAR) * single))

    @property
    def copies(self) -> float:
        """How many of the near ones must be copies for so few to differ."""
        return max(0.0, 1 - self.differ / self.expected) * self.near if self.expected else 0.0


@CHECKS.add
def copies_with_changes(table: Table) -> list[Finding]:
    """Copies whose numbers were changed a little, as noise or SMOTE does: are there any, and do
    they lie across parts?

    In the whole table a pair may be seen from both sides, so what is found there counts half.
    """
    if not table.numbers.width:
        return []
    train = np.flatnonzero(table.parts == "train")
    held = np.flatnonzero(np.isin(table.parts, ("validation", "test")))
    everyone = np.arange(len(table.events))
    where = places(table.frame, table.data)
    anywhere = agreement(where, table.events, table.keys, everyone, everyone, table.seed)
    across = agreement(where, table.events, table.keys, train, held, table.seed)
    if anywhere.p_value(0.5) > 1e-4:
        return []
    share = across.copies / across.asked
    numbers = {"in_table": asdict(anywhere), "held_out_to_training": asdict(across), "share_of_held_out": share}
    text = (
        f"{anywhere.near} of {anywhere.asked} rows lie so near to another, and have its outcome so often ({anywhere.differ} "
        f"differ, {anywhere.expected:.0f} would by chance), that they look like copies with numbers changed a little, or "
        "like the same patients again"
    )
    if across.p_value() > 1e-2:
        return [Finding("near_copies", "note", f"{text}; nothing says that they lie across the parts", numbers)]
    text += f"; about {share:.0%} of the validation and test rows have theirs in training"
    return [Finding("near_copies", "leak" if share >= SHARE_OF_COPIES else "warning", text, numbers)]


def agreement(
    places: Places, events: NDArray[np.int_], keys: NDArray[np.uint64], among: Numbers, asked: Numbers, seed: int
) -> Agreement:
    """Rows `asked` with their nearest neighbours `among` rows, equal rows (of one key) left out:
    they are found as such.

    At the largest share of NEAR many rows are near by chance. There it only counts if the rows that
    are not near differ as often as expected: else the outcome changes little from place to place,
    and near ones agree of themselves.
    """
    among = among[np.unique(keys[among], return_index=True)[1]]
    most = int(min(ROWS, PAIRS // max(len(among), 1)))
    asked = np.random.default_rng(seed).permutation(asked[np.unique(keys[asked], return_index=True)[1]])[:most]
    nothing = Agreement(len(asked))
    if len(among) < 2 * NEIGHBOURS or not len(asked):
        return nothing
    distance, found = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(places[among]).kneighbors(places[asked])
    equal = keys[among[found]] == keys[asked][:, None]
    order = np.argsort(equal, axis=1, kind="stable")[:, :NEIGHBOURS]  # an equal row goes last, and out
    distance, found = np.take_along_axis(distance, order, 1), np.take_along_axis(found, order, 1)
    differ = events[among[found]] != events[asked][:, None]
    expected, way = differ[:, FURTHER].mean(axis=1), distance[:, 0] / np.maximum(distance[:, -1], 1e-12)
    known = [nothing]
    for share in NEAR:
        near = way < share
        some = Agreement(len(asked), int(near.sum()), int(differ[near, 0].sum()), float(expected[near].sum()))
        smooth = share == NEAR[-1] and differ[~near, 0].sum() < 0.85 * expected[~near].sum()
        if some.differ < some.expected / 2 and not smooth:
            known.append(some)
    return min(known, key=Agreement.p_value)


def places(frame: pl.DataFrame, data: DataConfig) -> Places:
    """Numbers in standard deviations (of the inner 98 %), a missing one in the middle and 1 apart;
    two codes 1 apart."""
    compared = [name for name in data.features if not data.columns[name].is_text]
    compared = sorted(compared, key=lambda name: -frame[name].n_unique())[:COLUMNS]
    dimensions = []
    for name in compared:
        values = frame[name]
        if data.columns[name].is_number:
            number = values.cast(pl.Float64)
            inner = number.clip(number.quantile(0.01), number.quantile(0.99)).drop_nulls().to_numpy()
            scale = float(np.std(inner)) or 1.0 if len(inner) else 1.0
            dimensions += [((number - number.median()) / scale).fill_null(0), values.is_null().cast(pl.Float64)]
        else:
            codes = values.cast(pl.String).fill_null("")
            for code in codes.value_counts(sort=True)[name].head(CODES):
                dimensions.append((codes == code).cast(pl.Float64) / np.sqrt(2))
    return np.column_stack([dimension.to_numpy() for dimension in dimensions])

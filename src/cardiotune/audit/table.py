"""What a check of a table and its parts looks at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data.copies import EqualRows, Keys, column_keys, equal_rows, total
from cardiotune.data.prepare import Prepared
from cardiotune.data.split import Parts
from cardiotune.settings import DataConfig

Events = NDArray[np.int_]
FEW = 20
"""A share or an AUROC of fewer rows (of fewer events) says nothing."""
SHARE_OF_COPIES = 0.01
"""A smaller share of test rows with a copy in training moves no metric by more than it."""


@dataclass(frozen=True)
class Table:
    """A cohort with its parts and texts, and what several checks compute of it, once.

    `known_ceiling` is the AUROC that no honest model exceeds on this table, where it is known;
    `judged` has the columns of each table with rows in the test part, by which a public one is
    recognised.
    """

    prepared: Prepared
    data: DataConfig
    seed: int
    known_ceiling: float | None = None
    judged: Sequence[Iterable[str]] = ()

    @property
    def frame(self) -> pl.DataFrame:
        """A row a patient, with the columns of the dictionary and `ROW_ID`."""
        return self.prepared.cohort.frame

    @property
    def parts(self) -> Parts:
        """(rows,) as in `cardiotune.data.split`."""
        return self.prepared.parts

    @property
    def texts(self) -> list[str]:
        """(rows,) what the model reads."""
        return self.prepared.texts

    @cached_property
    def events(self) -> Events:
        """(rows,) 0 or 1."""
        return self.prepared.cohort.events

    @cached_property
    def column_keys(self) -> list[Keys]:
        """(rows,) for each column that a model reads: equal where the values are."""
        return column_keys(self.frame, self.data.inputs, self.data)

    @cached_property
    def keys(self) -> Keys:
        """(rows,) equal where the rows are equal in all that a model reads."""
        return total(self.column_keys)

    @cached_property
    def equal_rows(self) -> EqualRows:
        """How many rows equal another, and how many by chance."""
        patient = self.data.name_of("group")
        return equal_rows(self.column_keys, self.events, self.frame[patient] if patient else None)

    @cached_property
    def numbers(self) -> pl.DataFrame:
        """The features that are numbers."""
        return self.frame.select(name for name in self.data.features if self.data.columns[name].is_number)


def text_keys(texts: Sequence[str]) -> Keys:
    """(rows,) equal where the texts are."""
    return pl.Series(texts, dtype=pl.String).hash().to_numpy()

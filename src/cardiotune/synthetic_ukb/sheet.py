"""Columns of a made-up export while they are filled, under the names of the classic CSV:
`21003-0.0`."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cardiotune.data.ukb.fields import fields
from cardiotune.synthetic_ukb.people import Array

Flags = npt.NDArray[np.bool_]


class Sheet:
    """Named columns of the same rows; a cell that is not known is null."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.columns: dict[str, pl.Series] = {}

    def put(self, name: str, values: Array, known: Flags | None = None) -> None:
        """A column from `values` (rows,), null where not `known`."""
        series = pl.Series(name, values, nan_to_null=True) if values.dtype.kind == "f" else pl.Series(name, values)
        if known is not None:
            series = series.set(pl.Series(~known), None)
        self.columns[name] = series

    def put_rounded(self, name: str, values: Array, decimals: int, known: Flags | None = None) -> None:
        """A measurement; whole numbers with 0 decimals."""
        rounded = np.round(values, decimals)
        self.put(name, rounded.astype(np.int64) if decimals == 0 else rounded, known)

    def put_choices(
        self, field: str, choices: dict[int, Flags], otherwise: Array | None = None
    ) -> npt.NDArray[np.int64]:
        """Answers to a question with several: array 0 is filled first, in the order of `choices`.

        `field` has its instance (`6150-0`). Who gave none has `otherwise` (rows,), 0 for an empty
        cell, in array 0. Returns (rows, arrays) with 0 for an empty cell; the dictionary says how
        many arrays there are at most.
        """
        most = fields()[place(f"{field}.0")[0]].arrays
        given = np.column_stack(list(choices.values()))
        codes = np.broadcast_to(np.array(list(choices)), given.shape)
        filled = fill_slots(given, codes)[:, :most]
        if otherwise is not None:
            filled[:, 0] = np.where(given.any(axis=1), filled[:, 0], otherwise)
        for slot in range(filled.shape[1]):
            self.put(f"{field}.{slot}", filled[:, slot], filled[:, slot] != 0)
        return filled

    def put_long(self, code_field: str, date_field: str, records: pl.DataFrame, slots: int) -> None:
        """Records `row`, `code`, `date`: the first date of every code, codes in order, in `slots`
        arrays each."""
        first = records.group_by("row", "code").agg(pl.col("date").min()).sort("row", "code")
        first = first.with_columns(slot=pl.int_range(pl.len()).over("row"))
        for slot in range(slots):
            here = first.filter(pl.col("slot") == slot)
            rows = here["row"].to_numpy()
            for field, column in ((code_field, "code"), (date_field, "date")):
                cells = pl.Series(f"{field}-0.{slot}", [None], dtype=here[column].dtype).new_from_index(0, self.rows)
                self.columns[cells.name] = cells.scatter(rows, here[column])

    def frame(self) -> pl.DataFrame:
        """All columns, ordered by field, instance and array; `eid` first."""
        return pl.DataFrame([self.columns[name] for name in sorted(self.columns, key=place)])


def fill_slots(given: Flags, values: Array) -> Array:
    """Push the `values` that are `given` to the left, each row apart; 0 in the rest. All (rows,
    arrays)."""
    filled = np.zeros_like(values)
    rows, columns = np.nonzero(given)
    filled[rows, (np.cumsum(given, axis=1) - 1)[rows, columns]] = values[rows, columns]
    return filled


def place(name: str) -> tuple[Any, ...]:
    """Field, instance and array of a classic name, as numbers; `eid` comes before all."""
    if name == "eid":
        return (0, 0, 0)
    field, _, rest = name.partition("-")
    instance, _, array = rest.partition(".")
    return int(field), int(instance), int(array)

"""Training texts that do not depend on one hospital's habits: a way of writing is drawn for every
batch.

Column order, columns left out, names and code words, units, decimals, and whether missing values
are said (`serialize.vary`). A draw is known by its number, so a resumed training sees the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from cardiotune.data import schema
from cardiotune.data.serialize import serialize_rows
from cardiotune.data.units import line, other_units, substance_of
from cardiotune.settings import Column, DataConfig, SerializeConfig, VaryConfig
from cardiotune.settings.tables import codes_in, shared_name

FEWEST = 3
"""Columns that a draw leaves in, if the table has as many."""
UNIT_SHARE = 0.5
"""Chance that a number with other usual units is written in one of them."""


@dataclass(frozen=True)
class Wordings:
    """Ways to say one quantity."""

    names: list[str] = field(default_factory=list)
    codes: dict[str, list[str]] = field(default_factory=dict)
    """Own code -> words."""


def wordings(columns: Mapping[str, Column], dictionaries: Sequence[Mapping[str, Column]]) -> dict[str, Wordings]:
    """Feature column -> the ways in which `dictionaries` say its quantity, their aliases among
    them; its own where none of them has it."""
    found = {}
    for name, column in columns.items():
        if column.role != "feature":
            continue
        said = [
            _said(own, same, column) for others in dictionaries for own, same in others.items() if _is(own, same, name)
        ]
        said = said or [_said(name, column, column)]
        names = [way for one in said for way in one.names]
        # A sentence of its own would not go with drawn words.
        plain = [way for way in names if "{value}" not in way] or names[:1]
        codes = {code: [way for one in said for way in one.codes.get(code, [])] for code in said[0].codes}
        found[name] = Wordings(list(dict.fromkeys(plain)), {c: list(dict.fromkeys(w)) for c, w in codes.items() if w})
    return found


def _is(own: str, same: Column, name: str) -> bool:
    return same.role == "feature" and shared_name(own, same) == name


def _said(own: str, same: Column, column: Column) -> Wordings:
    """How one dictionary says `column`, which it calls `own`; by the codes of `column`."""
    words = schema.codes_of(same)
    matching = {theirs: code for code, theirs in codes_in(same, column).items() if theirs is not None}
    codes = {theirs: [words[code], *same.code_aliases.get(code, [])] for theirs, code in matching.items()}
    return Wordings([schema.label(own, same), *same.aliases], codes)


@dataclass(frozen=True)
class Varied:
    """The rows of one table, written in ways that are drawn."""

    frame: pl.DataFrame
    data: DataConfig
    order: list[str]
    serialize: SerializeConfig
    vary: VaryConfig
    ways: dict[str, Wordings]

    def texts(self, rows: Sequence[int] | np.ndarray, draw: np.random.Generator) -> list[str]:
        """Texts of these rows, all written in the one way that `draw` gives."""
        frame, order, data, serialize = self._drawn(self.frame[rows], draw)
        return serialize_rows(frame, order, data, serialize)

    def _drawn(
        self, frame: pl.DataFrame, draw: np.random.Generator
    ) -> tuple[pl.DataFrame, list[str], DataConfig, SerializeConfig]:
        vary, order = self.vary, list(self.order)
        if vary.order:
            order = [order[place] for place in draw.permutation(len(order))]
        if vary.drop:
            kept = draw.random(len(order)) >= vary.drop
            kept[draw.permutation(len(order))[: min(FEWEST, len(order))]] = True
            order = [name for name, keep in zip(order, kept, strict=True) if keep]
        columns = dict(self.data.columns)
        for name in order:
            columns[name], values = self._way(name, frame[name], draw)
            frame = frame.with_columns(values.alias(name))
        data = self.data.model_copy(update={"columns": columns})
        missing = draw.choice(["say", "omit"]) if vary.missing else self.serialize.missing
        return frame, order, data, self.serialize.model_copy(update={"missing": str(missing)})

    def _way(self, name: str, values: pl.Series, draw: np.random.Generator) -> tuple[Column, pl.Series]:
        """A column as this draw calls and counts it."""
        column, ways = self.data.columns[name], self.ways[name]
        change: dict[str, Any] = {}
        if self.vary.wording:
            change["phrase"] = _one(ways.names, draw)
            if ways.codes:
                drawn = {code: _one(words, draw) for code, words in ways.codes.items()}
                change["codes"] = {**schema.codes_of(column), **drawn}
        if column.is_number and self.vary.units and column.unit and draw.random() < UNIT_SHARE:
            substance = substance_of(name, column.phrase or "", column.same_as or "")
            if others := other_units(column.unit, substance):
                unit = _one(others, draw)
                straight = line(column.unit, unit, substance)
                values = values * straight.factor + straight.offset
                change |= {"unit": unit, "decimals": _decimals(values), "type": "numeric", "range": None}
        if column.is_number and self.vary.numbers and draw.random() < 0.25:
            now = change.get("decimals", column.decimals)
            if now:
                change["decimals"] = now - 1
        return column.model_copy(update=change), values


def _one(ways: Sequence[str], draw: np.random.Generator) -> str:
    return ways[int(draw.integers(len(ways)))]


def _decimals(values: pl.Series) -> int:
    """So many that three digits are told."""
    middle = values.drop_nulls().abs().median()
    return 0 if not isinstance(middle, float) or middle <= 0 else int(np.clip(2 - np.floor(np.log10(middle)), 0, 3))

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
        codes: dict[str, list[str]] = {}
        for one in said:
            for code, ways in one.codes.items():
                codes.setdefault(code, []).extend(ways)
        found[name] = Wordings(list(dict.fromkeys(plain)), {c: list(dict.fromkeys(w)) for c, w in codes.items()})
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

    def longest(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Texts of these rows in the longest way that can be drawn, by its letters: all columns,
        the longest names, words and units, and missing values said."""
        frame, columns = self.frame[rows], dict(self.data.columns)
        for name in self.order:
            column, ways = columns[name], self.ways[name]
            change: dict[str, Any] = {}
            if self.vary.wording:
                longest = {code: max(words, key=len) for code, words in ways.codes.items()}
                change = {"phrase": max(ways.names, key=len)}
                change |= {"codes": {**schema.codes_of(column), **longest}} if longest else {}
            columns[name], values = column.model_copy(update=change), frame[name]
            for unit in self._units(name) if self.vary.units else ():
                other, written = self._in_unit(name, columns[name], values, unit)
                if _letters(written, other) > _letters(values, columns[name]):
                    columns[name], values = other, written
            frame = frame.with_columns(values.alias(name))
        say = "say" if self.vary.missing else self.serialize.missing
        serialize = self.serialize.model_copy(update={"missing": say})
        return serialize_rows(frame, self.order, self.data.model_copy(update={"columns": columns}), serialize)

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
        told = column.model_copy(update=change)
        other_unit = column.is_number and self.vary.units and column.unit and draw.random() < UNIT_SHARE
        if other_unit and (others := self._units(name)):
            told, values = self._in_unit(name, told, values, _one(others, draw))
        if column.is_number and self.vary.numbers and draw.random() < 0.25 and told.decimals:
            told = told.model_copy(update={"decimals": told.decimals - 1})
        return told, values

    def _substance(self, name: str) -> str | None:
        column = self.data.columns[name]
        return substance_of(name, column.phrase or "", column.same_as or "")

    def _units(self, name: str) -> list[str]:
        """Other units that clinicians use for a column."""
        column = self.data.columns[name]
        return other_units(column.unit, self._substance(name)) if column.is_number and column.unit else []

    def _in_unit(self, name: str, told: Column, values: pl.Series, unit: str) -> tuple[Column, pl.Series]:
        """A column, told so far in its own unit, and its values in another one."""
        straight = line(str(told.unit), unit, self._substance(name))
        values = values * straight.factor + straight.offset
        change = {"unit": unit, "decimals": _decimals(values), "type": "numeric", "range": None}
        return told.model_copy(update=change), values


def _one(ways: Sequence[str], draw: np.random.Generator) -> str:
    return ways[int(draw.integers(len(ways)))]


def _letters(values: pl.Series, column: Column) -> int:
    """Of the longest value in words; 0 where there is none."""
    return max((len(schema.words(value, column)) for value in values.drop_nulls().unique()), default=0)


def _decimals(values: pl.Series) -> int:
    """So many that three digits are told."""
    middle = values.drop_nulls().abs().median()
    return 0 if not isinstance(middle, float) or middle <= 0 else int(np.clip(2 - np.floor(np.log10(middle)), 0, 3))

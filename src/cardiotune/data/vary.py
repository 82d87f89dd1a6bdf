"""Training texts that do not depend on one hospital's habits: a way of writing is drawn for every
batch.

Column order, columns left out, names and code words, units, decimals, and whether missing values
are said (`serialize.vary`). A draw is known by its number, so a resumed training sees the same.
"""

from collections.abc import Callable, Mapping, Sequence
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
        order = _drawn_order(self.order, self.vary, draw)
        frame, data = self.written(frame, order, lambda _: draw)
        return frame, order, data, _drawn_missing(self.serialize, self.vary, draw)

    def written(
        self, frame: pl.DataFrame, names: Sequence[str], draw_of: Callable[[str], np.random.Generator]
    ) -> tuple[pl.DataFrame, DataConfig]:
        """Rows and dictionary with these columns called and counted as the draw of each has it."""
        columns = dict(self.data.columns)
        for name in names:
            columns[name], values = self._way(name, frame[name], draw_of(name))
            frame = frame.with_columns(values.alias(name))
        return frame, self.data.model_copy(update={"columns": columns})

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
        change: dict[str, Any] = {"unit": unit, "decimals": _decimals(values), "type": "numeric", "range": None}
        if told.reference:
            low, high = (end * straight.factor + straight.offset for end in told.reference)
            change["reference"] = (low, high)
        return told.model_copy(update=change), values


@dataclass(frozen=True)
class OwnWords:
    """The rows of several tables, each in its own table's words and units.

    A draw is still one for all rows of a batch: the order of quantities and those that are left
    out, which of them are in another unit or lose a decimal, and whether missing values are said.
    """

    tables: tuple[tuple[np.ndarray, Varied], ...]
    """Of each table its rows' numbers in the cohort, ascending, and the rows."""
    quantities: list[str]
    """All that the tables tell, by shared names."""
    serialize: SerializeConfig
    vary: VaryConfig

    def texts(self, rows: Sequence[int] | np.ndarray, draw: np.random.Generator) -> list[str]:
        """Texts of these rows, all written in the one way that `draw` gives."""
        seed = int(draw.integers(2**32))
        drawn = {name: place for place, name in enumerate(_drawn_order(self.quantities, self.vary, draw))}
        serialize = _drawn_missing(self.serialize, self.vary, draw)

        def draw_of(quantity: str) -> np.random.Generator:
            return np.random.default_rng([seed, self.quantities.index(quantity)])

        def texts_of(table: Varied, places: np.ndarray) -> list[str]:
            called = {name: shared_name(name, table.data.columns[name]) for name in table.order}
            later = len(drawn) + np.random.default_rng(seed).permutation(len(called))
            rank = {name: drawn.get(shared, later[at]) for at, (name, shared) in enumerate(called.items())}
            # A table that has few of the columns that are left in keeps some of the others.
            told = sorted(rank, key=rank.__getitem__)[: max(FEWEST, sum(one in drawn for one in called.values()))]
            order = told if self.vary.order else [name for name in table.order if name in told]
            frame, data = table.written(table.frame[places], order, lambda name: draw_of(called[name]))
            return serialize_rows(frame, order, data, serialize)

        return self._by_table(rows, texts_of)

    def longest(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """As `Varied.longest`."""
        return self._by_table(rows, lambda table, places: table.longest(places))

    def _by_table(
        self, rows: Sequence[int] | np.ndarray, texts_of: Callable[[Varied, np.ndarray], list[str]]
    ) -> list[str]:
        """Texts of rows, in their order; `texts_of`: a table and its rows' numbers -> theirs."""
        wanted, texts = np.asarray(rows), np.empty(len(rows), object)
        for numbers, table in self.tables:
            here = np.isin(wanted, numbers)
            if here.any():
                texts[here] = texts_of(table, np.searchsorted(numbers, wanted[here]))
        return texts.tolist()


def _drawn_order(names: Sequence[str], vary: VaryConfig, draw: np.random.Generator) -> list[str]:
    """Columns in a drawn order, without those that are left out."""
    order = list(names)
    if vary.order:
        order = [order[place] for place in draw.permutation(len(order))]
    if vary.drop:
        kept = draw.random(len(order)) >= vary.drop
        kept[draw.permutation(len(order))[: min(FEWEST, len(order))]] = True
        order = [name for name, keep in zip(order, kept, strict=True) if keep]
    return order


def _drawn_missing(serialize: SerializeConfig, vary: VaryConfig, draw: np.random.Generator) -> SerializeConfig:
    missing = draw.choice(["say", "omit"]) if vary.missing else serialize.missing
    return serialize.model_copy(update={"missing": str(missing)})


def _one(ways: Sequence[str], draw: np.random.Generator) -> str:
    return ways[int(draw.integers(len(ways)))]


def _letters(values: pl.Series, column: Column) -> int:
    """Of the longest value in words; 0 where there is none."""
    return max((len(schema.words(value, column)) for value in values.drop_nulls().unique()), default=0)


def _decimals(values: pl.Series) -> int:
    """So many that three digits are told."""
    middle = values.drop_nulls().abs().median()
    return 0 if not isinstance(middle, float) or middle <= 0 else int(np.clip(2 - np.floor(np.log10(middle)), 0, 3))

"""Several ways in which a row is written to be scored; the mean of their log-odds is its score.

A table that training has not seen is written in the words of the training tables, as far as its
columns are known to be theirs: by `same_as`, and for what that does not tell by what the
dictionaries say, names, words of codes and units. What is not matched stays in its own words.
Columns stand in a new order each time. Nothing here reads an outcome or how a column's values are
spread, so a row alone is written as it is among others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from cardiotune.data.matching import Matching, as_given, described
from cardiotune.data.prepare import Prepared, Source
from cardiotune.data.schema import label, missing_rows
from cardiotune.data.vary import Varied, Wordings, wordings
from cardiotune.settings import Config, DataConfig, SerializeConfig, VaryConfig
from cardiotune.settings.tables import quantities, shared_name

SEED = 5


@dataclass(frozen=True)
class Views:
    """Rows of one table, in ways that are numbered."""

    varied: Varied

    def texts(self, rows: Sequence[int] | np.ndarray, number: int) -> list[str]:
        """Texts of these rows, all in the way of this number, from 0."""
        return self.varied.texts(rows, np.random.default_rng([SEED, number]))


@dataclass(frozen=True)
class Trained:
    """The words of the tables that train."""

    pooled: DataConfig
    dictionaries: Mapping[str, DataConfig]
    """Of the tables that train, by name."""
    ways: Mapping[str, Wordings]
    """Quantities -> how these dictionaries say them."""
    serialize: SerializeConfig
    vary: VaryConfig
    """What changes from way to way; no values do."""

    @classmethod
    def of(cls, config: Config) -> "Trained":
        """Those of an experiment of several tables."""
        tables = {name: table.data for name, table in config.tables.items() if name not in config.test_tables}
        ways = wordings(config.data.columns, [data.columns for data in tables.values()])
        asked = config.vary or VaryConfig()
        still = asked.model_copy(update={"drop": None, "units": False, "numbers": False, "missing": False})
        return cls(config.data, tables, ways, config.serialize, still)

    def rows(self, frame: pl.DataFrame) -> Views:
        """Of rows under the pooled dictionary, of tables that train."""
        order = [name for name in self.pooled.features if name in frame.columns]
        return Views(self._varied(frame, self.pooled, order, self.ways))

    def table(
        self, frame: pl.DataFrame, data: DataConfig, order: Sequence[str], matching: Matching | None = None
    ) -> Views:
        """Of a table's rows, typed by its own dictionary, `data`; `order`: its columns that are
        told. `matching`: what they are, if not as the dictionary tells."""
        source = Source("", np.arange(frame.height), frame, data, list(order))
        return Views(self._known(source, matching or self._matched(source)))

    def _matched(self, source: Source) -> Matching:
        """What the columns are, by `same_as` and, for the others, by description."""
        given = {
            name: match for name, match in as_given(source.data, self.pooled).items() if match.quantity in self.trained
        }
        taken = {match.quantity for match in given.values()}
        others = {n: c for n, c in source.data.columns.items() if n not in given}
        free = {
            key: data.model_copy(
                update={"columns": {n: c for n, c in data.columns.items() if shared_name(n, c) not in taken}}
            )
            for key, data in self.dictionaries.items()
        }
        rest = described(free, replace(source, data=source.data.model_copy(update={"columns": others})), self.pooled)
        return Matching(source.name, {**rest.columns, **given})

    @property
    def trained(self) -> set[str]:
        """Quantities that the training tables have."""
        return {quantity for data in self.dictionaries.values() for quantity in quantities(data)}

    def _known(self, source: Source, matching: Matching) -> Varied:
        """The table's rows in the words of training, and behind them what is not matched."""
        data, there = source.data, set(source.order)
        matching = replace(matching, columns={n: match for n, match in matching.columns.items() if n in there})
        found = {match.quantity for match in matching.columns.values() if match}
        told = [name for name in self.pooled.features if name in found]
        left = [name for name in source.order if not matching.columns.get(name)]
        free = {name: name if name not in found else f"{name} " for name in left}
        brought = matching.brought(source, self.pooled, missing_rows(self.pooled, source.frame.height)).select(told)
        frame = brought.with_columns(source.frame[name].alias(free[name]) for name in left)
        own = {free[n]: data.columns[n].model_copy(update={"phrase": label(n, data.columns[n])}) for n in left}
        columns = {name: self.pooled.columns[name] for name in told} | own
        ways = {name: self.ways[name] for name in told} | wordings(own, [own])
        both = self.pooled.model_copy(update={"columns": columns})
        return self._varied(frame, both, [*told, *free.values()], ways)

    def _varied(
        self, frame: pl.DataFrame, data: DataConfig, order: Sequence[str], ways: Mapping[str, Wordings]
    ) -> Varied:
        return Varied(frame, data, list(order), self.serialize, self.vary, dict(ways))


def written(
    config: Config, prepared: Prepared, rows: np.ndarray, matchings: Mapping[str, Matching] | None = None
) -> list[list[str]]:
    """Texts of these rows of the cohort, once for each of `serialize.views`, or as their own
    dictionaries say; `matchings`: what the
    columns of held-out tables are, if not as their dictionaries tell."""
    if config.serialize.views == 1:
        texts = prepared.all_texts
        return [[texts[row] for row in rows]]
    trained, matchings = Trained.of(config), matchings or {}
    found = [[""] * len(rows) for _ in range(config.serialize.views)]
    for source in prepared.sources:
        here = np.flatnonzero(np.isin(rows, source.rows))
        if source.name in config.test_tables:
            views = trained.table(source.frame, source.data, source.order, matchings.get(source.name))
            local = np.searchsorted(source.rows, rows[here])
        else:
            views, local = trained.rows(prepared.cohort.frame), rows[here]
        for number, texts in enumerate(found):
            for place, text in zip(here, views.texts(local, number), strict=True):
                texts[place] = text
    return found

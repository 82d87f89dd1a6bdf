"""Several ways in which a row is written to be scored; the mean of their log-odds is its score.

A table that training has not seen is written in the words of the training tables, as far as its
columns are known to be theirs: by `same_as`, and for what that does not tell by what the
dictionaries say, names, words of codes and units. What is not matched stays in its own words.
Columns stand in a new order each time. Nothing here reads an outcome or how a column's values are
spread, so a row alone is written as it is among others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cardiotune.data.matching import Matching, as_given, described
from cardiotune.data.prepare import Prepared, Source
from cardiotune.data.schema import label, missing_rows
from cardiotune.data.vary import Varied, Wordings, wordings
from cardiotune.settings import Config, DataConfig, SerializeConfig, VaryConfig
from cardiotune.settings.tables import quantities, shared_name

SEED = 5


def texts_of(varied: Varied, rows: Sequence[int] | np.ndarray, number: int) -> list[str]:
    """Texts of these rows, all in the way of this number, from 0."""
    return varied.texts(rows, np.random.default_rng([SEED, number]))


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

    def rows(self, frame: pl.DataFrame) -> Varied:
        """Of rows under the pooled dictionary, of tables that train."""
        order = [name for name in self.pooled.features if name in frame.columns]
        return self._varied(frame, self.pooled, order, self.ways)

    def table(self, frame: pl.DataFrame, data: DataConfig, order: Sequence[str], matching: Matching) -> Varied:
        """Of a table's rows, typed by its own dictionary, `data`, in the words of training and,
        behind them, what is not matched in its own. `order`: its columns that are told."""
        matched = {name: match for name, match in matching.columns.items() if match and name in order}
        found = {match.quantity for match in matched.values()}
        told = [name for name in self.pooled.features if name in found]
        left = [name for name in order if name not in matched]
        free = {name: name if name not in found else f"{name} " for name in left}
        source = Source("", np.arange(frame.height), frame, data, list(order))
        nothing = missing_rows(self.pooled, frame.height)
        brought = Matching(matching.table, {**matched}).brought(source, self.pooled, nothing).select(told)
        own = {free[n]: data.columns[n].model_copy(update={"phrase": label(n, data.columns[n])}) for n in left}
        columns = {name: self.pooled.columns[name] for name in told} | own
        ways = {name: self.ways[name] for name in told} | wordings(own, [own])
        both = self.pooled.model_copy(update={"columns": columns})
        frame = brought.with_columns(frame[name].alias(free[name]) for name in left)
        return self._varied(frame, both, [*told, *free.values()], ways)

    def matched(self, data: DataConfig) -> Matching:
        """What the columns of a dictionary are, by `same_as` and, for the others, by
        description."""
        known = as_given(data, self.pooled)
        given = {name: match for name, match in known.items() if match.quantity in self.trained}
        taken = {match.quantity for match in given.values()}
        others = {n: c for n, c in data.columns.items() if n not in given}
        free = {
            key: own.model_copy(
                update={"columns": {n: c for n, c in own.columns.items() if shared_name(n, c) not in taken}}
            )
            for key, own in self.dictionaries.items()
        }
        rest = described(free, data.model_copy(update={"columns": others}), self.pooled)
        return Matching(rest.table, {**rest.columns, **given})

    @property
    def trained(self) -> set[str]:
        """Quantities that the training tables have."""
        return {quantity for data in self.dictionaries.values() for quantity in quantities(data)}

    def _varied(
        self, frame: pl.DataFrame, data: DataConfig, order: Sequence[str], ways: Mapping[str, Wordings]
    ) -> Varied:
        return Varied(frame, data, list(order), self.serialize, self.vary, dict(ways))


def written(
    config: Config, prepared: Prepared, rows: np.ndarray, matchings: Mapping[str, Matching] | None = None
) -> list[list[str]]:
    """Texts of these rows of the cohort, once for each of `serialize.views`, or as their own
    dictionaries say; `matchings`: what the columns of held-out tables are, if not as `matched`."""
    if config.serialize.views == 1:
        texts = prepared.all_texts
        return [[texts[row] for row in rows]]
    trained, matchings = Trained.of(config), matchings or {}
    found = [[""] * len(rows) for _ in range(config.serialize.views)]
    for source in prepared.sources:
        here = np.flatnonzero(np.isin(rows, source.rows))
        if source.name in config.test_tables:
            matching = matchings.get(source.name) or trained.matched(source.data)
            varied = trained.table(source.frame, source.data, source.order, matching)
            local = np.searchsorted(source.rows, rows[here])
        else:
            varied, local = trained.rows(prepared.cohort.frame), rows[here]
        for number, texts in enumerate(found):
            for place, text in zip(here, texts_of(varied, local, number), strict=True):
                texts[place] = text
    return found

"""How a run reads a table: by its own dictionary, or by another one that says how its columns are
to be understood.

By another one, whatever columns the table has are told, in its dictionary's words and order. What
training had and the table has not is absent; what training never had is read if it is described.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cardiotune.config import load_dataset
from cardiotune.data.cohort import present_only, read_rows
from cardiotune.data.matching import Matching
from cardiotune.data.serialize import serialize_rows, text_columns
from cardiotune.data.table import column_names, locate
from cardiotune.data.views import Trained, texts_of
from cardiotune.errors import ConfigError
from cardiotune.settings import Config, DataConfig, SerializeConfig
from cardiotune.settings.tables import shared_name

log = logging.getLogger(__name__)

Dataset = str | Path | DataConfig
"""A dictionary, or where it is: a file, a shipped dataset's short name, or the name of one of a
run's tables."""
COUNTS = ("columns_known", "columns_unseen", "columns_absent")
MOST_NAMED = 20


@dataclass(frozen=True)
class Reading:
    """The dictionary by which rows are read, and what of it training had."""

    data: DataConfig
    order: list[str]
    """Feature columns in the order of the text."""
    serialize: SerializeConfig
    trained: frozenset[str] = frozenset()
    """Quantities that training texts told, by their shared names."""
    other: bool = False
    """Whether the dictionary was given, so that any of its columns may be absent."""
    words: Trained | None = None
    """The words of training, where rows are written in them."""
    matching: Matching | None = None
    """What the dictionary's columns are there; found once, however often rows come."""

    def narrowed(self, source: object, present: Sequence[str]) -> DataConfig:
        """The dictionary of a table that has the columns `present`. DataError when it has none of
        them."""
        return present_only(source, list(present), self.data) if self.other else self.data

    def of_table(self, table: str) -> DataConfig:
        """The dictionary of a table, as `narrowed`; its rows are not read."""
        if not self.other:
            return self.data
        file = locate(table)
        return self.narrowed(file, column_names(file, header=self.data.column_names))

    def rows(self, table: str, keep_row_ids: bool = False, allow_unknown: bool = False) -> "Read":
        """All rows of a table, as `read_rows`."""
        data = self.of_table(table)
        frame = read_rows(table, data, keep_row_ids, allow_unknown).frame
        if self.other:
            self.tell(locate(table), data)
        return Read(frame, data)

    def texts(self, frame: pl.DataFrame) -> list[str]:
        """Patients' texts of typed rows; columns that the frame has not are left out of them."""
        return serialize_rows(frame, self.told(frame.columns), self.data, self.serialize)

    def written(self, frame: pl.DataFrame) -> list[list[str]]:
        """Patients' texts of typed rows, once for each way in which they are scored."""
        if self.words is None or self.matching is None:
            return [self.texts(frame)]
        varied = self.words.table(frame, self.data, self.told(frame.columns), self.matching)
        return [texts_of(varied, range(frame.height), number) for number in range(self.serialize.views)]

    def told(self, present: Sequence[str]) -> list[str]:
        """Those of the columns `present` that a text tells, in its order."""
        there = set(present)
        return [name for name in self.order if name in there] if self.other else self.order

    def counts(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Of each row: values recorded of quantities that training had, and of others; quantities
        of training that the table has no column for."""
        known, unseen, absent = self._parted(frame.columns)
        nothing = pl.repeat(0, frame.height, dtype=pl.Int64, eager=True)
        given = [
            sum((frame[name].is_not_null().cast(pl.Int64) for name in those), nothing) for those in (known, unseen)
        ]
        return pl.DataFrame(dict(zip(COUNTS, (*given, nothing + len(absent)), strict=True)))

    def tell(self, source: Path, data: DataConfig) -> None:
        """Log which columns a table lacks, and what of it training had; `data` as `narrowed`."""
        known, unseen, absent = self._parted(list(data.columns))
        lacking = [name for name in self.order if name not in data.columns]
        told = f"{len(known)} of {len(self.trained)} quantities of the training are in the table"
        log.info("%s: %s%s", source.name, told, f"; absent: {_named(sorted(absent))}" if absent else "")
        if lacking:
            log.warning("%s: not in the table and left out of the texts: %s", source.name, _named(lacking))
        if unseen:
            log.warning("%s: read by their description, never seen in training: %s", source.name, _named(unseen))
        if not known:
            log.warning("%s: no column of it was seen in training, so its risks are of no use", source.name)

    def _parted(self, present: Sequence[str]) -> tuple[list[str], list[str], frozenset[str]]:
        """Columns of the text that training had, those that it had not, and what is absent."""
        shared = {name: shared_name(name, self.data.columns[name]) for name in self.told(present)}
        known = [name for name, quantity in shared.items() if quantity in self.trained]
        return known, [name for name in shared if name not in known], self.trained.difference(shared.values())


@dataclass(frozen=True)
class Read:
    """Rows of a table, typed."""

    frame: pl.DataFrame
    data: DataConfig
    """The dictionary without columns that the table has not."""


def reading(
    config: Config,
    order: list[str],
    dataset: Dataset | None,
    where: object,
    trained: Sequence[str] | None = None,
) -> Reading:
    """How the run or export `where` reads a table.

    `order`: of its own text. `trained`: what training told, where `config` no longer says it.
    ConfigError when it has several tables and no `dataset` is given, or one that does not go with
    it.
    """
    quantities = frozenset(trained_quantities(config) if trained is None else trained)
    if dataset is None:
        if config.tables:
            raise ConfigError(
                f"{where}: was made of several tables; say with --dataset (in Python, dataset=) how to read this one: as "
                f"{', '.join(config.tables)}, or by a dataset's short name or file"
            )
        return Reading(config.data, order, config.serialize, quantities)
    if config.data.name_of("text") or config.serialize.style == "template":
        made = "come ready made" if config.data.name_of("text") else "are made by a template of its own columns"
        raise ConfigError(f"{where}: its texts {made}, so --dataset does not go with it")
    data = dictionary(config, dataset)
    if data.name_of("text") or data.format == "ukb":
        raise ConfigError(
            "--dataset: expected a dictionary of plain columns, not of ready texts or a UK Biobank export"
        )
    told = order if data == config.text_data else text_columns(data, config.serialize)
    words = Trained.of(config) if config.serialize.views > 1 else None
    return Reading(data, told, config.serialize, quantities, True, words, words.matched(data) if words else None)


def dictionary(config: Config, dataset: Dataset) -> DataConfig:
    """That of the run's own table of this name, of a shipped dataset, or of a file."""
    if isinstance(dataset, DataConfig):
        return dataset
    name = str(dataset)
    return config.tables[name].data if name in config.tables else load_dataset(name)


def trained_quantities(config: Config) -> list[str]:
    """What the texts of the training tables tell, by shared names."""
    own = [table.data for name, table in config.tables.items() if name not in config.test_tables] or [config.data]
    return sorted(
        {shared_name(name, data.columns[name]) for data in own for name in text_columns(data, config.serialize)}
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more

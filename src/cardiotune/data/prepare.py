"""Table -> cohort, parts and texts, in memory."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data.cohort import Cohort, read_cohort
from cardiotune.data.pool import InTwo, in_two_tables, read_pool, strangers, units_missing
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows, shared_pieces, text_columns
from cardiotune.data.split import Parts, part_patients, split_cohort, split_pool
from cardiotune.data.subsample import cut_training
from cardiotune.data.vary import OwnWords, Varied, wordings
from cardiotune.errors import ModelError
from cardiotune.files import read_json
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, DataConfig, VaryConfig
from cardiotune.settings.tables import shared_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Censored:
    """`Cohort.censored` with the parts that they fall in and their texts."""

    frame: pl.DataFrame
    parts: Parts
    texts: list[str]


@dataclass(frozen=True)
class Source:
    """The rows of one table, and how they become text."""

    name: str
    """Of the table; empty where the experiment has one."""
    rows: np.ndarray
    """Their numbers in the cohort."""
    frame: pl.DataFrame
    """Under the table's own dictionary."""
    data: DataConfig
    order: list[str]
    """Feature columns in the order of the text."""

    def said(self, text: str) -> str:
        """A text about the table, with its name where there are several."""
        return f"table {self.name}: {text}" if self.name else text


@dataclass(frozen=True)
class Prepared:
    """The cohort with its parts and texts, in memory."""

    cohort: Cohort
    parts: Parts
    order: list[str]
    """Feature columns in the order of the text."""
    texts: list[str]
    censored: Censored | None = None
    sources: tuple[Source, ...] = ()
    """The cohort's rows by table, in the cohort's order."""
    varied: Varied | OwnWords | None = None
    """What writes the cohort's rows in other ways, where training texts vary."""
    in_two: tuple[InTwo, ...] = ()
    """Patients who stand in two tables."""
    strangers: tuple[str, ...] = ()
    """Held-out tables that have no column of those that train."""
    units_missing: tuple[str, ...] = ()
    """Columns of one quantity of which one has a unit and the other has none, in words."""
    shares: NDArray[np.float64] | None = None
    """(rows,) how much each counts in the loss, 1 on average over the training part, where tables
    have shares."""

    @property
    def all_texts(self) -> list[str]:
        """Of the cohort's rows and, behind them, of the censored."""
        return self.texts + (self.censored.texts if self.censored else [])

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of a part."""
        return np.flatnonzero(self.parts == part)

    def texts_of(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Texts of the given row numbers."""
        return [self.texts[row] for row in rows]


def read_prepared(config: Config) -> Prepared:
    """Read, check, split and serialize the table. Deterministic: every stage gets the same."""
    if config.tables:
        return _of_tables(config)
    cohort = read_cohort(config.data, config.sample_seed, config.evaluation.keep_row_ids)
    parts, others = np.split(split_cohort(cohort, config.data, config.split, config.split_seed), [cohort.frame.height])
    if config.split.train_rows:
        parts = cut_training(parts, cohort.events, config.split.train_rows, config.split_seed)
    order = column_order(cohort.frame.filter(pl.Series(parts == "train")), config.data, config.serialize)

    def texts(frame: pl.DataFrame) -> list[str]:
        return serialize_rows(frame, order, config.data, config.serialize)

    censored = None if cohort.censored is None else Censored(cohort.censored, others, texts(cohort.censored))
    source = Source("", np.arange(cohort.frame.height), cohort.frame, config.data, order)
    varied = _varied(config, cohort, order, [config.data])
    return Prepared(cohort, parts, order, texts(cohort.frame), censored, (source,), varied)


def _varied(config: Config, cohort: Cohort, order: list[str], dictionaries: list[DataConfig]) -> Varied | None:
    """What draws training texts among the ways of these dictionaries; None where texts do not
    vary."""
    if not (vary := config.vary):
        return None
    ways = wordings(config.data.columns, [data.columns for data in dictionaries])
    return Varied(cohort.frame, config.data, order, config.serialize, vary, ways)


def _own_words(config: Config, sources: Sequence[Source], vary: VaryConfig) -> OwnWords:
    """What draws training texts of several tables without their words."""
    tables, quantities = [], dict[str, None]()
    for source in sources:
        quantities |= dict.fromkeys(shared_name(name, source.data.columns[name]) for name in source.order)
        ways = wordings(source.data.columns, [])
        tables.append((source.rows, Varied(source.frame, source.data, source.order, config.serialize, vary, ways)))
    return OwnWords(tuple(tables), list(quantities), config.serialize, vary)


def _of_tables(config: Config) -> Prepared:
    """The rows of all tables under the dictionary that they share; their texts under their own."""
    pool = read_pool(config.tables, config.data, config.seed, config.evaluation.keep_row_ids)
    parts = split_pool(
        pool.cohort, config.data, config.split, config.test_tables, config.training_tables, config.split_seed
    )
    in_two = in_two_tables(pool, config.tables)
    parts = part_patients(parts, in_two, pool.cohort, config.data, config.split)
    if config.split.train_rows:
        parts = cut_training(parts, pool.cohort.events, config.split.train_rows, config.split_seed)
    unlike = strangers(config.tables, config.test_tables)
    for name in unlike:
        log.warning(
            "table %s has no column in common with the tables that train: nothing was learned of what it has", name
        )
    unconverted = units_missing(config.tables)
    for said in unconverted:
        log.warning("%s", said)
    sources, texts, first = [], [], 0
    for name, cohort in pool.tables.items():
        rows = np.arange(first, first := first + cohort.frame.height)
        data = config.tables[name].data.model_copy(update={"columns": cohort.columns})
        learned_on = cohort.frame.filter(pl.Series(parts[rows] == "train"))
        plain = config.serialize.model_copy(update={"order": "dictionary"})
        order = column_order(learned_on, data, config.serialize if learned_on.height else plain)
        sources.append(Source(name, rows, cohort.frame, data, order))
        texts += serialize_rows(cohort.frame, order, data, config.serialize)
    first_order = next(source.order for source in sources if source.name not in config.test_tables)
    training = [source.data for source in sources if source.name not in config.test_tables]
    varied: Varied | OwnWords | None
    if config.vary and not config.vary.wording:
        varied = _own_words(config, sources, config.vary)
    else:
        varied = _varied(config, pool.cohort, text_columns(config.data, config.serialize), training)
    shares = _shares(config, sources, parts)
    return Prepared(
        pool.cohort,
        parts,
        first_order,
        texts,
        sources=tuple(sources),
        varied=varied,
        in_two=tuple(in_two),
        strangers=tuple(unlike),
        units_missing=tuple(unconverted),
        shares=shares,
    )


def _shares(config: Config, sources: Sequence[Source], parts: Parts) -> NDArray[np.float64] | None:
    """(rows,) weights by which the training rows of each table count together as its share; None
    where no table has one."""
    training = {source.name: source.rows[parts[source.rows] == "train"] for source in sources}
    training = {name: rows for name, rows in training.items() if len(rows)}
    given = {name: share for name in training if (share := config.tables[name].share) is not None}
    if not given:
        return None
    total, others = sum(map(len, training.values())), sum(len(r) for name, r in training.items() if name not in given)
    weights = np.ones(len(parts))
    for name, rows in training.items():
        share = given[name] / (1 if others else sum(given.values())) if name in given else None
        part = (1 - sum(given.values())) * len(rows) / others if share is None else share
        weights[rows] = part * total / len(rows)
    return weights


def read_order(run: RunFolder) -> list[str]:
    """Feature columns in the order of a run's text; ModelError when the run does not say it."""
    order: list[str] | None = read_json(run.checked(run.cohort)).get("column_order")
    if order is None:
        raise ModelError(f"{run.cohort}: does not say the order of the columns; restore it, or start a new run")
    return order


def show_prompts(config: Config, number: int, real_rows: bool) -> list[str]:
    """Prompts as the model will read them: of synthetic rows drawn from the dictionary, or of real
    ones when asked."""
    if real_rows:
        prepared = read_prepared(config)
        texts = prepared.texts_of(prepared.rows("train")[:number])
    else:
        data = config.text_data
        rows = synthetic_rows(data, number, config.seed)
        texts = serialize_rows(rows, text_columns(data, config.serialize), data, config.serialize)
    pieces = shared_pieces(config.task, config.data.name_of("text") is not None)
    return [pieces.whole(text) for text in texts]

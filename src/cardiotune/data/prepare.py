"""Table -> cohort, parts and texts, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cardiotune.data.cohort import Cohort, read_cohort
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows, shared_pieces, text_columns
from cardiotune.data.split import Parts, split_cohort
from cardiotune.data.subsample import cut_training
from cardiotune.errors import ModelError
from cardiotune.files import read_json
from cardiotune.runs import RunFolder
from cardiotune.settings import Config


@dataclass(frozen=True)
class Censored:
    """`Cohort.censored` with the parts that they fall in and their texts."""

    frame: pl.DataFrame
    parts: Parts
    texts: list[str]


@dataclass(frozen=True)
class Prepared:
    """The cohort with its parts and texts, in memory."""

    cohort: Cohort
    parts: Parts
    order: list[str]
    """Feature columns in the order of the text."""
    texts: list[str]
    censored: Censored | None = None

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
    cohort = read_cohort(config.data, config.seed, config.evaluation.keep_row_ids)
    parts, others = np.split(split_cohort(cohort, config.data, config.split, config.split_seed), [cohort.frame.height])
    if config.split.train_rows:
        parts = cut_training(parts, cohort.events, config.split.train_rows, config.split_seed)
    order = column_order(cohort.frame.filter(pl.Series(parts == "train")), config.data, config.serialize)

    def texts(frame: pl.DataFrame) -> list[str]:
        return serialize_rows(frame, order, config.data, config.serialize)

    censored = None if cohort.censored is None else Censored(cohort.censored, others, texts(cohort.censored))
    return Prepared(cohort, parts, order, texts(cohort.frame), censored)


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
        texts = serialize_rows(
            synthetic_rows(config.data, number, config.seed),
            text_columns(config.data, config.serialize),
            config.data,
            config.serialize,
        )
    pieces = shared_pieces(config.task, config.data.name_of("text") is not None)
    return [pieces.whole(text) for text in texts]

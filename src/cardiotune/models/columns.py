"""A table's columns as classical models read them: each becomes a number, a rank, a category or
TF-IDF of words, by what its type says and what the training part had.

What is learned (codes, words) is kept as JSON, so that a saved model reads new rows as it read its
own.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from cardiotune.data.schema import codes_of
from cardiotune.data.serialize import NOT_RECORDED
from cardiotune.models.terms import known_terms, learn_terms
from cardiotune.settings import Column, DataConfig

Array = NDArray[np.float64]
Part = Literal["value", "rank", "category", "day", "month", "weekday"]
CATEGORIES: tuple[Part, ...] = ("category", "month", "weekday")
"""Parts whose numbers stand for codes and have no order."""
TREE_TERMS, TREE_ROWS = 2000, 20
"""Terms that LightGBM gets: none of fewer training rows, and at most so many, those that go most
with the outcome of the training part."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a classical model reads of one column: the value, or one part of it."""

    column: str
    part: Part
    codes: tuple[str, ...] = ()
    """Of ranks and categories: rising, or as the dictionary has them."""

    def read(self, frame: pl.DataFrame) -> Array:
        """(rows,) NaN where missing. A rank counts from 0; so does a category, and `len(codes)` is
        one that training had not."""
        values = frame[self.column]
        match self.part:
            case "value":
                return values.cast(pl.Float64).fill_null(np.nan).to_numpy()
            case "day":
                return values.cast(pl.Int32).cast(pl.Float64).fill_null(np.nan).to_numpy()
            case "rank":
                return _rank(values, self.codes)
            case "month":
                return _category(values.dt.month().cast(pl.String), self.codes)
            case "weekday":
                return _category(values.dt.weekday().cast(pl.String), self.codes)
        return _category(values, self.codes)


@dataclass(frozen=True)
class Vocabulary:
    """The words that a column of free text had in two training rows or more."""

    column: str
    terms: tuple[str, ...]
    idf: tuple[float, ...]
    """Inverse document frequency of each."""

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        return known_terms(self.terms, self.idf)

    def read(self, frame: pl.DataFrame) -> Any:
        """(rows, terms) sparse. A missing text reads as the language model has it, "not
        recorded"."""
        return self._vectorizer.transform(_texts(frame[self.column]))


class Read(NamedTuple):
    """Rows of a table as a classical model reads them."""

    matrix: Array
    """(rows, numbers and then categories), NaN where missing."""
    terms: Any
    """(rows, terms) sparse TF-IDF of all free text; None without any."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of a table become numbers."""

    fields: tuple[Field, ...]
    """Numbers, and behind them categories."""
    vocabularies: tuple[Vocabulary, ...] = ()

    @property
    def numbers(self) -> int:
        """How many of the fields, the first ones, are numbers: days for dates, ranks of the code
        for ordinal and binary columns."""
        return sum(field.part not in CATEGORIES for field in self.fields)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.fields and not self.vocabularies

    def read(self, frame: pl.DataFrame) -> Read:
        """These rows, which have the columns, typed."""
        columns = [field.read(frame) for field in self.fields]
        terms = [vocabulary.read(frame) for vocabulary in self.vocabularies]
        return Read(
            np.column_stack(columns) if columns else np.empty((frame.height, 0)),
            sparse.hstack(terms, format="csr") if terms else None,
        )

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "fields": [asdict(field) for field in self.fields],
            "vocabularies": [asdict(vocabulary) for vocabulary in self.vocabularies],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Undo `as_json`."""
        return cls(
            tuple(Field(one["column"], one["part"], tuple(one["codes"])) for one in content["fields"]),
            tuple(Vocabulary(one["column"], tuple(one["terms"]), tuple(one["idf"])) for one in content["vocabularies"]),
        )


def learn_columns(training: pl.DataFrame, data: DataConfig, features: Sequence[str]) -> Columns:
    """How these features are read, learned on the training part's rows."""
    fields: list[Field] = []
    vocabularies = []
    for name in features:
        column = data.columns[name]
        if (encoding := column.kind.encoding) == "terms":
            if (found := _vocabulary(name, training)) is not None:
                vocabularies.append(found)
        else:
            fields += ENCODINGS[encoding].fields(name, training[name], column)
    fields.sort(key=lambda field: field.part in CATEGORIES)
    return Columns(tuple(fields), tuple(vocabularies))


def _texts(values: pl.Series) -> list[str]:
    return values.fill_null(NOT_RECORDED).to_list()


def _vocabulary(name: str, training: pl.DataFrame) -> Vocabulary | None:
    learned = learn_terms(_texts(training[name]))
    if learned is None:
        return None
    return Vocabulary(name, tuple(learned.get_feature_names_out().tolist()), tuple(learned.idf_.tolist()))


class Encoding(NamedTuple):
    """A way to hand a column to the classical models."""

    fields: Callable[[str, pl.Series, Column], list[Field]]
    """Name of a column, its values in training, its entry in the dictionary -> what is read of
    it."""
    words: str = ""
    """For the report; empty for a plain number or code."""


def _day(name: str, values: pl.Series, column: Column) -> list[Field]:
    """A number of days, and two categories, the month and the weekday."""
    month, weekday = (_codes(part.cast(pl.String), column) for part in (values.dt.month(), values.dt.weekday()))
    return [Field(name, "day"), Field(name, "month", month), Field(name, "weekday", weekday)]


ENCODINGS = {
    "number": Encoding(lambda name, values, column: [Field(name, "value")]),
    "rank": Encoding(lambda name, values, column: [Field(name, "rank", _codes(values, column))]),
    "category": Encoding(lambda name, values, column: [Field(name, "category", _codes(values, column))]),
    "day": Encoding(_day, "dates as day, month and weekday"),
    "terms": Encoding(
        lambda name, values, column: [],
        "free text as TF-IDF of words and pairs of words, its vocabulary that of the training part (LightGBM: terms of "
        f"{TREE_ROWS} training rows or more, {TREE_TERMS:,} at most)",
    ),
}
"""By the key that a column's type names (`cardiotune.settings.column_types`)."""


def _codes(values: pl.Series, column: Column) -> tuple[str, ...]:
    """Codes in the order of the dictionary or, without one, those of the training part: numbers by
    size, else words."""
    if codes_of(column):
        return tuple(codes_of(column))
    seen = values.drop_nulls().unique().sort()
    size = seen.cast(pl.Float64, strict=False)
    return tuple((seen if size.has_nulls() else seen.gather(size.arg_sort())).to_list())


def _category(values: pl.Series, codes: Sequence[str]) -> Array:
    """A number for each category, and one more for all those that training did not have."""
    known = np.nan_to_num(_rank(values, codes), nan=len(codes))
    return np.where(values.is_null().to_numpy(), np.nan, known)


def _rank(values: pl.Series, codes: Sequence[str]) -> Array:
    """Position among the codes, NaN for a value that is none of them."""
    rank = pl.Series(range(len(codes)), dtype=pl.Float64)
    numbers = values.replace_strict(pl.Series(codes, dtype=pl.String), rank, default=None, return_dtype=pl.Float64)
    return numbers.fill_null(np.nan).to_numpy()

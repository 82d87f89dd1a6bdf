"""Which column of a table is which of the training tables' columns, where nobody has said it.

By name alone, as tables are joined that were never harmonised, or automatically: by the words of
names, phrases and codes, by units, and by values, in one assignment of all columns. What the
training tables are to each other is given (`same_as`). Of the table that is matched, `same_as` and
`same_codes` are not read, nor its outcome.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import ks_2samp
from sklearn.feature_extraction.text import TfidfVectorizer

from cardiotune.data import roles, schema
from cardiotune.data.prepare import Source
from cardiotune.data.units import Line, line_between
from cardiotune.errors import DataError
from cardiotune.settings import Column, DataConfig, spelling
from cardiotune.settings.tables import codes_in, quantities

THRESHOLD = 0.35
"""A column stays unmatched whose best score is below."""
WORDS, VALUES = 0.7, 0.3
"""Weights of what a column is called and of what it holds."""
UNKNOWN = 0.5
"""Likeness of values where one of the tables has hardly any."""
FEWEST = 10
"""So many known values tell how a column is spread."""

Array = NDArray[np.float64]


class Match(NamedTuple):
    """What a column of a table is in the pool."""

    quantity: str
    """Its name in the pooled dictionary."""
    score: float
    """0 to 1; 1 by name."""
    codes: dict[str, str]
    """Own code -> code of the pooled dictionary. Empty where they are taken as they are."""


@dataclass(frozen=True)
class Matching:
    """What the columns of one table are in the pool."""

    table: str
    columns: dict[str, Match | None]
    """Own name of a feature -> its match; None where it has none."""

    @property
    def quantities(self) -> list[str]:
        """Names in the pooled dictionary of what was found."""
        return [match.quantity for match in self.columns.values() if match]

    def as_json(self, data: DataConfig) -> dict[str, Any]:
        """With how many columns are matched as the table's dictionary, `data`, has it."""
        given = quantities(data)
        return {
            "columns": {
                name: match and {"is": match.quantity, "score": round(match.score, 2), "codes": match.codes}
                for name, match in self.columns.items()
            },
            "as_given": sum(match is not None and given.get(match.quantity) == n for n, match in self.columns.items()),
        }

    def brought(self, source: Source, pooled: DataConfig, like: pl.DataFrame) -> pl.DataFrame:
        """The table's rows under the pooled dictionary, what is not matched missing; `like`: the
        same rows there as the table's own dictionary has it, for all that is no feature."""
        found = {match.quantity: (name, match) for name, match in self.columns.items() if match}
        columns = []
        for name in pooled.features:
            if name not in found:
                columns.append(pl.Series(name, [None] * like.height, dtype=like.schema[name]))
                continue
            own, match = found[name]
            values, column, first = source.frame[own], source.data.columns[own], pooled.columns[name]
            if match.codes:
                values = values.replace_strict(match.codes, default=None, return_dtype=pl.String)
            elif column.is_number:
                straight = _line(own, column, name, first)
                # Of a unit that cannot be the pooled column's they would be other values: missing.
                values = values * straight.factor + straight.offset if straight else values.clear(len(values))
            columns.append(values.cast(like.schema[name]).alias(name))
        return like.with_columns(columns)


Matcher = Callable[[Sequence[Source], Source, DataConfig], Matching]
"""Training tables, a table and the pooled dictionary -> what the table's columns are."""


class _Version(NamedTuple):
    """A quantity as one training table has it."""

    quantity: str
    name: str
    column: Column
    values: pl.Series
    meaning: str | None


def _versions(training: Sequence[Source]) -> list[_Version]:
    found = []
    for source in training:
        meanings = _meanings(source)
        found += [
            _Version(quantity, name, source.data.columns[name], source.frame[name], meanings[name])
            for quantity, name in quantities(source.data).items()
        ]
    return found


def _meanings(source: Source) -> dict[str, str | None]:
    """Features -> what the program knows them to mean."""
    known = {name: meaning for meaning, name in roles.learn(source.data.columns, source.frame).columns.items()}
    return {name: known.get(name) for name in source.data.features}


def _line(name: str, own: Column, other_name: str, other: Column) -> Line | None:
    """From the units of a column, whose `same_as` is not read, to those of another; None where they
    cannot be converted."""
    try:
        return line_between(name, own.model_copy(update={"same_as": None}), other_name, other)
    except DataError:
        return None


def _can_be(name: str, column: Column, version: _Version) -> bool:
    """Whether a column holds what the other one does: numbers, codes, days or text, in one
    dimension."""
    alike = column.kind.values == version.column.kind.values
    return alike and (not column.is_number or _line(name, column, version.name, version.column) is not None)


# --------------------------------------------------------------------------------------------------
# by name


def by_name(training: Sequence[Source], table: Source, pooled: DataConfig) -> Matching:
    """Columns that are called alike, but for case and signs between words, or of which the program
    knows that they mean the same: age, sex, systolic pressure and so on."""
    versions, found = _versions(training), dict[str, Match | None]()
    meanings = _meanings(table)

    def quantity(name: str, meaning: str | None) -> str | None:
        known = [v for v in versions if _can_be(name, table.data.columns[name], v)]
        alike = [v.quantity for v in known if _plain(v.name) == _plain(name)]
        alike += [v.quantity for v in known if meaning and v.meaning == meaning]
        return next((q for q in alike if q not in {match.quantity for match in found.values() if match}), None)

    for name, meaning in meanings.items():
        is_ = quantity(name, meaning)
        own = [v for v in versions if v.quantity == is_]
        found[name] = Match(is_, 1.0, _codes_by_name(name, table, own, pooled.columns[is_])) if is_ else None
    return Matching(table.name, found)


def _plain(name: str) -> str:
    return " ".join(roles.name_words(name)) or spelling(name)


def _codes_by_name(name: str, table: Source, versions: Sequence[_Version], first: Column) -> dict[str, str]:
    """Own code -> pooled code, by the first training table whose codes are in the same words, or
    else spelled alike; man and woman as they are known."""
    column, found = table.data.columns[name], dict[str, str]()
    plain = column.model_copy(update={"same_codes": None})
    for version in versions if column.is_coded else ():
        sexes = [roles.sex_of(n, c) if version.meaning == "sex" else {} for n, c in ((name, column), version[1:3])]
        sides = {side: code for code, side in sexes[1].items()}
        theirs = codes_in(plain, version.column) | {code: sides.get(side) for code, side in sexes[0].items()}
        into = codes_in(version.column, first)
        for code, other in theirs.items():
            if other is not None and (pooled := into.get(other)) is not None:
                found.setdefault(code, pooled)
    return found


# --------------------------------------------------------------------------------------------------
# automatically


def automatic(training: Sequence[Source], table: Source, pooled: DataConfig) -> Matching:
    """Every column with the quantity that is most like it, in the one assignment of most likeness
    over all; none below `THRESHOLD`.

    A quantity is as like as it is in the training table in which it is most. Words count `WORDS`,
    values `VALUES`; columns of other kinds, or of units that do not convert, are never one.
    """
    versions, names = _versions(training), list(table.data.features)
    quantities = list(dict.fromkeys(version.quantity for version in versions))
    if not (names and quantities):
        return Matching(table.name, dict.fromkeys(names))
    meanings = _meanings(table)
    words = _likeness(
        [_said(name, table.data.columns[name]) for name in names], [_said(v.name, v.column) for v in versions]
    )
    scores = np.zeros((len(names), len(quantities)))
    codes: dict[tuple[str, str], dict[str, str]] = {}
    for column, name in enumerate(names):
        for place, quantity in enumerate(quantities):
            own = [(v, words[column, at]) for at, v in enumerate(versions) if v.quantity == quantity]
            own = [(v, said) for v, said in own if _can_be(name, table.data.columns[name], v)]
            if not own:
                continue
            codes[name, quantity] = _codes(name, table, [v for v, _ in own], pooled.columns[quantity])
            scores[column, place] = max(
                WORDS * _known(said, meanings[name], v.meaning)
                + VALUES * _alike(name, table, v, pooled.columns[quantity], codes[name, quantity])
                for v, said in own
            )
    rows, places = linear_sum_assignment(scores, maximize=True)
    found: dict[str, Match | None] = dict.fromkeys(names)
    for column, place in zip(rows, places, strict=True):
        if (score := float(scores[column, place])) >= THRESHOLD:
            pair = names[column], quantities[place]
            found[pair[0]] = Match(pair[1], score, codes[pair])
    return Matching(table.name, found)


def _known(said: float, meaning: str | None, other: str | None) -> float:
    """Likeness of words; certain where the program knows what both columns mean."""
    if meaning and other:
        return float(meaning == other)
    return said


def _said(name: str, column: Column) -> str:
    """Name, phrase and the words of codes, in small letters."""
    codes = [words for words in (column.codes or {}).values() if not words.isdigit()]
    return " ".join(word for text in (name, column.phrase or "", *codes) for word in roles.name_words(text))


def _likeness(own: Sequence[str], others: Sequence[str]) -> Array:
    """(own, others) from 0 to 1: cosine of TF-IDF of words and of groups of two to four
    letters."""
    if not any(text.split() for text in (*own, *others)):
        return np.zeros((len(own), len(others)))
    found = []
    for settings in ({"token_pattern": r"\S+"}, {"analyzer": "char_wb", "ngram_range": (2, 4)}):
        terms = TfidfVectorizer(sublinear_tf=True, **settings).fit([*own, *others])
        found.append((terms.transform(own) @ terms.transform(others).T).toarray())
    return np.asarray(np.maximum(*found))


def _codes(name: str, table: Source, versions: Sequence[_Version], first: Column) -> dict[str, str]:
    """Own code -> pooled code: by their words, and where these tell little by how the codes are
    stored and how often they are; one for one."""
    column = table.data.columns[name]
    if not column.is_coded:
        return {}
    own, theirs = schema.codes_of(column), schema.codes_of(first)
    if not (own and theirs):
        return {}
    certain = _codes_by_name(name, table, versions, first) if versions[0].meaning == "sex" else {}
    score = np.zeros((len(own), len(theirs)))
    shares = _shares(table.frame[name], list(own))
    for version in versions:
        into = codes_in(version.column, first)
        back = {pooled: code for code, pooled in into.items() if pooled is not None}
        words = schema.codes_of(version.column)
        said = [" ".join(roles.name_words(words.get(back.get(code, ""), ""))) for code in theirs]
        alike = _likeness([" ".join(roles.name_words(text)) for text in own.values()], said)
        stored = np.array([[spelling(a) == spelling(back.get(b, "")) for b in theirs] for a in own])
        often = _shares(version.values.replace(into), list(theirs))
        near = 1 - np.abs(shares[:, None] - often[None, :])
        score = np.maximum(score, alike + 0.5 * stored + 0.2 * np.nan_to_num(near))
    for place, code in enumerate(own):
        score[place] += [10.0 * (certain.get(code) == other) for other in theirs]
    rows, places = linear_sum_assignment(score, maximize=True)
    return {list(own)[row]: list(theirs)[place] for row, place in zip(rows, places, strict=True)}


def _shares(values: pl.Series, codes: Sequence[str]) -> Array:
    """(codes,) share of the known values; NaN where hardly any are known."""
    known = values.drop_nulls()
    if len(known) < FEWEST:
        return np.full(len(codes), np.nan)
    return np.array([(known == code).sum() / len(known) for code in codes])


def _alike(name: str, table: Source, version: _Version, first: Column, codes: dict[str, str]) -> float:
    """Likeness of what two columns hold, 0 to 1."""
    own, other = table.frame[name], version.values
    if table.data.columns[name].is_number:
        straight = _line(name, table.data.columns[name], version.name, version.column)
        one, two = (values.drop_nulls().cast(pl.Float64).to_numpy() for values in (own, other))
        if straight is None or min(len(one), len(two)) < FEWEST:
            return UNKNOWN
        return float(1 - ks_2samp(straight(one), two).statistic)
    if not codes:
        return UNKNOWN
    theirs = list(dict.fromkeys(schema.codes_of(first)))
    shares = _shares(own.replace(codes), theirs), _shares(other.replace(codes_in(version.column, first)), theirs)
    apart = np.abs(shares[0] - shares[1]).sum() / 2
    return UNKNOWN if np.isnan(apart) else float(1 - apart)


def described(dictionaries: Mapping[str, DataConfig], data: DataConfig, pooled: DataConfig) -> Matching:
    """As `automatic`, by what the dictionaries say alone, whatever the tables hold."""

    def empty(name: str, own: DataConfig) -> Source:
        return Source(name, np.arange(0), schema.missing_rows(own, 0), own, [])

    return automatic([empty(name, own) for name, own in dictionaries.items()], empty("", data), pooled)


def as_given(data: DataConfig, pooled: DataConfig) -> dict[str, Match]:
    """What a table's own dictionary says that its columns are (`same_as`, `same_codes`)."""
    found = {}
    for quantity, name in quantities(data).items():
        if (first := pooled.columns.get(quantity)) and first.kind.values == data.columns[name].kind.values:
            codes = codes_in(data.columns[name], first)
            known = {code: theirs for code, theirs in codes.items() if theirs is not None}
            found[name] = Match(quantity, 1.0, known)
    return found


MATCHERS: dict[str, Matcher] = {"by name": by_name, "matched": automatic}
"""By the columns that a comparator reads (`Comparator.columns`)."""

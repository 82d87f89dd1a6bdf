"""L2 logistic regression on a table's columns: medians and indicators for missing numbers, one-hot
categories, curves, TF-IDF; its penalty chosen by cross-validation in the training part.

The fitted model is a sum that a reader can add up: every coefficient is of the value as it stands
in the table, in its unit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import SplineTransformer

from cardiotune.models.columns import Columns, Read
from cardiotune.models.labelled import Events, Training
from cardiotune.models.logistic import sigmoid

Array = NDArray[np.float64]
Kind = Literal["value", "missing", "code", "curve"]
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Values of C (1 / penalty) that are tried. The prior of a coefficient, of a standardized number or
of a category, has variance C."""
USUAL = 1.0
"""C where the training part is too small to choose one."""
TERM_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""What TF-IDF values may be multiplied by beside standardized numbers, which is another ridge for
words than for numbers: a single word that decides wants little of it, notes that say nothing
much."""
CONSTANT = 1e-10
"""Standard deviation, beside the mean, up to which a number is a constant."""
WIDE = 100
"""Terms above which a design is kept sparse: most of them are codes that a row has not."""


@dataclass(frozen=True, slots=True)
class Term:
    """What one coefficient is of."""

    column: str
    part: str
    """As `columns.Field`."""
    kind: Kind
    """The value itself; 1 where it is missing, or where it is `code`; or a B-spline of it."""
    code: str = ""
    """A category, whose coefficient is against the mean of the patients; of a curve the number of
    its B-spline, from 1."""


@dataclass(frozen=True)
class Design:
    """From columns to the terms of a regression, without gaps."""

    columns: Columns
    fills: tuple[float, ...]
    """A number's median in training, which stands for a missing one."""
    told: tuple[bool, ...]
    """Whether a number was missing in training, so that being missing has a coefficient."""
    knots: tuple[tuple[float, ...], ...]
    """Of a number; empty where it has no curve."""
    categories: tuple[tuple[int | None, ...], ...]
    """Of a category: places of the codes that training had, the number of codes for all others,
    None for missing."""

    @classmethod
    def learn(cls, columns: Columns, matrix: Array, knots: Mapping[int, Array]) -> Self:
        """Of the training part's `Read.matrix`; numbers that have knots get a curve."""
        numbers, categories = matrix[:, : columns.numbers].T, matrix[:, columns.numbers :].T
        missing = [np.isnan(values) for values in numbers]
        return cls(
            columns,
            tuple(
                0.0 if gone.all() else float(np.median(values[~gone]))
                for values, gone in zip(numbers, missing, strict=True)
            ),
            tuple(bool(gone.any()) for gone in missing),
            tuple(tuple(np.asarray(knots.get(place, ())).tolist()) for place in range(len(numbers))),
            tuple(
                (
                    *(int(code) for code in np.unique(values[~np.isnan(values)])),
                    *([None] * bool(np.isnan(values).any())),
                )
                for values in categories
            ),
        )

    @property
    def firsts(self) -> list[Term]:
        """The first term of each of `blocks`."""
        return [term for term in self.terms if term.kind != "curve" or term.code == "1"]

    @property
    def terms(self) -> list[Term]:
        """What the columns of the design are, in order."""
        found = []
        fields = self.columns.fields
        for field, told, knots in zip(fields, self.told, self.knots, strict=False):
            if knots:
                found += [Term(field.column, field.part, "curve", str(k + 1)) for k in range(len(knots) + 2)]
            else:
                found.append(Term(field.column, field.part, "value"))
            if told:
                found.append(Term(field.column, field.part, "missing"))
        for field, seen in zip(fields[self.columns.numbers :], self.categories, strict=True):
            for code in seen:
                kind: Kind = "missing" if code is None else "code"
                known = code is not None and code < len(field.codes)
                found.append(Term(field.column, field.part, kind, field.codes[code] if known else ""))  # type: ignore[index]
        return found

    def of(self, matrix: Array, standard: "Standard | None" = None) -> Any:
        """(rows, terms) of a `Read.matrix`, where asked standardized; sparse where it is wide."""
        blocks, place = [], 0
        for block in self.blocks(matrix):
            own = slice(place, place := place + block.shape[1])
            blocks.append(block if standard is None else (block - standard.mean[own]) / standard.spread[own])
        if place > WIDE:
            return sparse.hstack([sparse.csr_matrix(block) for block in blocks], format="csr")
        return np.hstack(blocks) if blocks else np.empty((len(matrix), 0))

    def blocks(self, matrix: Array) -> Iterator[Array]:
        """The terms of one field after the other, (rows, some)."""
        for place, (fill, told, knots) in enumerate(zip(self.fills, self.told, self.knots, strict=True)):
            values = matrix[:, place]
            missing = np.isnan(values)
            filled = np.where(missing, fill, values)[:, None]
            yield _curve(knots).transform(filled) if knots else filled
            if told:
                yield missing[:, None].astype(float)
        for place, seen in enumerate(self.categories, self.columns.numbers):
            values = matrix[:, place]
            for code in seen:
                yield (np.isnan(values) if code is None else values == code)[:, None].astype(float)


class Standard(NamedTuple):
    """(terms,) what is taken off each term, and what it is then divided by, to be penalised."""

    mean: Array
    spread: Array

    @classmethod
    def of(cls, design: Design, matrix: Array) -> "Standard":
        """Mean and standard deviation of straight numbers, and of their being missing; 0 and 1 of
        all others, which the ridge takes as they are."""
        fields = zip(design.columns.fields, design.knots, strict=False)
        straight = {(field.column, field.part) for field, knots in fields if not knots}
        found = []
        for block, term in zip(design.blocks(matrix), design.firsts, strict=True):
            if (term.column, term.part) not in straight:
                found += [(0.0, 1.0)] * block.shape[1]
                continue
            mean, spread = float(block.mean()), float(block.std())
            found.append((mean, spread if spread > CONSTANT * abs(mean) else 1.0))
        return cls(*np.array(found).reshape(-1, 2).T)


@cache
def _curve(knots: tuple[float, ...]) -> SplineTransformer:
    """Cubic B-splines on these knots, straight lines beyond the outer two."""
    places = np.array(knots)[:, None]
    return SplineTransformer(knots=places, extrapolation="linear").fit(places)


@dataclass(frozen=True)
class Regression:
    """A fitted logistic regression: the log-odds are the intercept and the sum of the terms, each
    times its coefficient."""

    design: Design
    intercept: float
    coefficients: tuple[float, ...]
    """Of `design.terms`, each for the value as it stands in the table."""
    words: tuple[float, ...] = ()
    """Of the TF-IDF weights of all vocabularies, in order."""
    penalty: float = USUAL
    """C, as it was chosen."""
    rows: tuple[int, ...] = ()
    """Training rows that each of `design.terms` is of: those that have the code, or lack the value,
    or have it."""

    def risks(self, frame: pl.DataFrame) -> Array:
        """(rows,) probabilities of the event."""
        read = self.design.columns.read(frame)
        log_odds = self.intercept + self.design.of(read.matrix) @ np.array(self.coefficients)
        if read.terms is not None:
            log_odds = log_odds + read.terms @ np.array(self.words)
        return sigmoid(np.asarray(log_odds, float))

    def as_json(self) -> dict[str, Any]:
        """All of it; every coefficient beside what it is of."""
        own = zip(self.design.terms, self.rows, self.coefficients, strict=True)
        return {
            "kind": "logistic regression",
            "c": self.penalty,
            "intercept": self.intercept,
            "coefficients": [{**asdict(term), "rows": rows, "coefficient": value} for term, rows, value in own],
            "word_coefficients": list(self.words),
            "columns": self.design.columns.as_json(),
            "fills": list(self.design.fills),
            "told_missing": list(self.design.told),
            "knots": [list(knots) for knots in self.design.knots],
            "categories": [list(seen) for seen in self.design.categories],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Undo `as_json`."""
        design = Design(
            Columns.from_json(content["columns"]),
            tuple(content["fills"]),
            tuple(content["told_missing"]),
            tuple(tuple(knots) for knots in content["knots"]),
            tuple(tuple(seen) for seen in content["categories"]),
        )
        coefficients, rows = (tuple(one[key] for one in content["coefficients"]) for key in ("coefficient", "rows"))
        words = tuple(content["word_coefficients"])
        return cls(design, content["intercept"], coefficients, words, content["c"], rows)


def fit_regression(
    training: Training, columns: Columns, knots_of: Callable[[Array], Array] | None = None
) -> Regression:
    """Fitted on the training part; `knots_of`: a number's values -> its knots, of which three or
    more make a curve."""
    read = columns.read(training.frame)
    found = {} if knots_of is None else {p: knots_of(read.matrix[:, p]) for p in range(columns.numbers)}
    design = Design.learn(columns, read.matrix, {place: at for place, at in found.items() if len(at) > 2})
    standard = Standard.of(design, read.matrix)
    known = design.of(read.matrix, standard)
    scale = _term_scale(known, read, training)
    seen = _beside(known, read.terms, scale)
    penalty = _least_loss(seen, training)
    model = _fitted(seen, training.events, training.weights, penalty)
    weights = model.coef_[0]
    own, words = weights[: known.shape[1]] / standard.spread, weights[known.shape[1] :] * scale
    intercept = float(model.intercept_[0] - own @ standard.mean)
    for some, shares in _category_shares(design, read.matrix):
        # Against the mean of the patients: no risk changes, and a code that training had not gets
        # that mean.
        mean = float(shares @ own[some])
        own[some] -= mean
        intercept += mean
    rows = tuple(_rows_of(design, read.matrix))
    return Regression(design, intercept, tuple(own.tolist()), tuple(words.tolist()), penalty, rows)


def _rows_of(design: Design, matrix: Array) -> Iterator[int]:
    """Of each term, how many training rows it is of."""
    recorded: dict[tuple[str, str], int] = {
        (field.column, field.part): int((~np.isnan(values)).sum())
        for field, values in zip(design.columns.fields, matrix.T, strict=True)
    }
    for block, term in zip(design.blocks(matrix), design.firsts, strict=True):
        own = int(block.sum()) if term.kind in ("missing", "code") else recorded[term.column, term.part]
        yield from [own] * block.shape[1]


def _category_shares(design: Design, matrix: Array) -> Iterator[tuple[slice, Array]]:
    """Of each category: where its terms stand, and the share of the training rows that has each."""
    first = len(design.terms) - sum(map(len, design.categories))
    for place, seen in enumerate(design.categories, design.columns.numbers):
        values = matrix[:, place]
        counted = [np.isnan(values).mean() if code is None else (values == code).mean() for code in seen]
        yield slice(first, first := first + len(seen)), np.array(counted)


def _beside(columns: Any, terms: Any, scale: float) -> Any:
    """Columns and, where there are some, the terms behind them."""
    if terms is None:
        return columns
    scaled = scale * terms
    return scaled if not columns.shape[1] else sparse.hstack([sparse.csr_matrix(columns), scaled], format="csr")


def _fitted(seen: Any, events: Events, weights: Array | None, penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=2000).fit(seen, events, sample_weight=weights)


def _term_scale(known: Any, read: Read, training: Training) -> float:
    """The one of `TERM_SCALES` with the least log-loss in cross-validation; 1 with too few rows."""
    if read.terms is None or not training.repeated_folds:
        return 1.0
    return min(TERM_SCALES, key=lambda scale: float(_loss(_beside(known, read.terms, scale), training, [USUAL])[0]))


def _least_loss(seen: Any, training: Training) -> float:
    """The one of `PENALTIES` with the least log-loss in cross-validation, at a tie the smallest."""
    if not training.repeated_folds:
        return USUAL
    return PENALTIES[int(np.argmin(_loss(seen, training, PENALTIES)))]


def _loss(seen: Any, training: Training, penalties: Sequence[float]) -> Array:
    """(penalties,) log-loss of each in cross-validation of the training rows, summed over them."""
    some = training.searched
    seen, events = seen[some], training.events[some]
    counts = None if training.weights is None else training.weights[some]
    losses = np.zeros(len(penalties))
    for others, held in training.repeated_folds:
        fitted, judged = (None if counts is None else counts[rows] for rows in (others, held))
        share = len(held) if judged is None else judged.sum()
        model = LogisticRegression(max_iter=2000, warm_start=True)
        for place, penalty in enumerate(penalties):
            model.set_params(C=penalty).fit(seen[others], events[others], sample_weight=fitted)
            risks = model.predict_proba(seen[held])[:, 1]
            losses[place] += share * log_loss(events[held], risks, labels=[0, 1], sample_weight=judged)
    return losses

"""What a language model must beat on the same columns and rows: from the prevalence to splines and
LightGBM.

All are fitted on the training part alone; imputation, scaling, encoding and the vocabulary of free
text are part of the fit, so nothing of another part reaches them. LightGBM also looks at the
validation part, to know when to stop. All but that of age and sex read every feature column: a date
as its day, month and weekday, free text as TF-IDF. Rows of a cohort with
inverse-probability-of-censoring weights count by them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import lightgbm as gbm
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import chi2
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler

from cardiotune.data import roles
from cardiotune.data.cohort import WEIGHT
from cardiotune.data.schema import codes_of
from cardiotune.data.serialize import NOT_RECORDED
from cardiotune.data.split import Parts
from cardiotune.data.subsample import stratified_rows
from cardiotune.models.costs import scoring
from cardiotune.models.terms import tfidf_terms
from cardiotune.settings import Column, DataConfig, Meaning

log = logging.getLogger(__name__)

MAX_TREES = 1000
PATIENCE = 50
NOTHING_TO_READ = "{}: there is no feature column, or only free text without a term that stands in two training rows"
TERM_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""What TF-IDF values may be multiplied by beside standardized numbers, which is another ridge for
words than for numbers: a single word that decides wants little of it, notes that say nothing
much."""
SCALE_ROWS = 5000
"""Training rows, at most, on which the scale is chosen."""
FOLDS = 5
TREE_TERMS, TREE_ROWS = 2000, 20
"""Terms that LightGBM gets: none of fewer training rows than its smallest leaf has, and at most so
many, those that go most with the outcome of the training part."""
AGE_AND_SEX: tuple[Meaning, ...] = ("age", "sex")
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a table with outcomes and parts, as a comparator learns from them and scores them."""

    frame: pl.DataFrame
    """The columns of the dictionary, typed; of a cohort with censoring `WEIGHT` too."""
    events: NDArray[np.int_]
    """(rows,) 0 or 1. Of the training part alone, and of validation for what is chosen on it."""
    parts: Parts
    """(rows,) as in `cardiotune.data.split`."""
    data: DataConfig
    seed: int = 0

    @cached_property
    def train(self) -> Mask:
        """(rows,) whether a row is learned from."""
        return np.asarray(self.parts == "train")

    @cached_property
    def weights(self) -> Array | None:
        """(rows,) how much each counts; None when all count the same."""
        return row_weights(self.frame)

    @cached_property
    def groups(self) -> NDArray[np.int_] | None:
        """(training rows,), as `groups_of`."""
        return groups_of(self.frame, self.data, np.flatnonzero(self.train))


Baseline = Callable[[LabelledRows], Array]
"""Rows -> their risks (rows,), learned on the training part."""
BASELINES: dict[str, Baseline] = {}
"""The comparators that read the table alone, by name: each function below that `baseline`
marks."""


def baseline(function: Baseline) -> Baseline:
    """Registers a function as the comparator of its name."""
    BASELINES[function.__name__] = function
    return function


@baseline
def prevalence(rows: LabelledRows) -> Array:
    """The training part's share of events, for every row."""
    return _prevalence(rows.events, rows.parts, rows.weights)


def row_weights(frame: pl.DataFrame) -> Array | None:
    """(rows,) how much each counts; None when all count the same."""
    return frame[WEIGHT].to_numpy() if WEIGHT in frame.columns else None


def prevalence_because(reason: str, events: NDArray[np.int_], parts: Parts, weights: Array | None = None) -> Array:
    """The prevalence for every row, and a warning: for a comparator that has nothing to read."""
    log.warning("%s, so it predicts the prevalence", reason)
    return _prevalence(events, parts, weights)


def _nothing_to_read(name: str, rows: LabelledRows) -> Array:
    return prevalence_because(NOTHING_TO_READ.format(name), rows.events, rows.parts, rows.weights)


def _prevalence(events: NDArray[np.int_], parts: Parts, weights: Array | None) -> Array:
    rows = parts == "train"
    share = np.average(events[rows], weights=None if weights is None else weights[rows])
    with scoring(len(events)):
        return np.full(len(events), share)


@baseline
def logistic_regression(rows: LabelledRows) -> Array:
    """L2 logistic regression (C = 1): medians and an indicator for missing numbers, scaling,
    one-hot categories, TF-IDF."""
    columns = _columns(rows, rows.data.features)
    return _nothing_to_read("logistic regression", rows) if columns.empty else _regression(columns, rows)


def parameters(rows: LabelledRows) -> int:
    """How many coefficients `logistic_regression` has without its intercept, if of every category
    one code is the reference."""
    columns = _columns(rows, rows.data.features)
    terms = 0 if columns.terms is None else int(columns.terms.shape[1])
    if not columns.matrix.shape[1]:
        return terms
    train = columns.matrix[rows.train]
    coded = _encoder(columns, {}).fit(train).transform(train[:1]).shape[1]
    return int(coded - (columns.matrix.shape[1] - columns.numbers) + terms)


@baseline
def age_sex_logistic_regression(rows: LabelledRows) -> Array:
    """`logistic_regression` on age and sex alone: what everybody knows about a patient before any
    measurement."""
    name, found = "age and sex logistic regression", age_and_sex(rows.data)
    if not found:
        hint = "give a feature column `meaning: age`, or `phrase: age`, and another `meaning: sex`"
        reason = f"{name}: the dictionary names neither age nor sex ({hint})"
        return prevalence_because(reason, rows.events, rows.parts, rows.weights)
    if len(found) == 1:
        log.warning("%s: of age and sex the dictionary names one alone, column %s", name, found[0])
    return _regression(_columns(rows, found), rows)


@baseline
def spline_regression(rows: LabelledRows) -> Array:
    """`logistic_regression` with a cubic spline for every number of three values or more: curves,
    no interactions.

    B-splines on the knots of `knots_of`, straight lines beyond the outer two, so that an outlier
    neither bends a curve nor runs off along a cubic. The ridge (C = 1) is on the coefficients of
    the B-splines, unscaled; on the truncated powers of the textbook it holds so little that Statlog
    heart, with 161 training rows, lost 0.05 of log-loss.
    """
    columns = _columns(rows, rows.data.features)
    if columns.empty:
        return _nothing_to_read("spline regression", rows)
    knots = {column: knots_of(columns.matrix[rows.train, column]) for column in range(columns.numbers)}
    return _regression(columns, rows, {column: at for column, at in knots.items() if len(at) > 2})


def knots_of(values: Array) -> Array:
    """Distinct knots, ascending, of values (rows,), NaN left out: quantiles after Harrell 2015,
    table 2.3.

    Four knots below 100 values, else five. Where ties leave fewer than three (most patients have
    0), the quantiles are those of the distinct values. Harrell, Regression Modeling Strategies, 2nd
    edition.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return known
    shares = [0.05, 0.35, 0.65, 0.95] if len(known) < 100 else [0.05, 0.275, 0.5, 0.725, 0.95]
    knots = np.unique(np.quantile(known, shares, method="inverted_cdf"))
    return knots if len(knots) > 2 else np.unique(np.quantile(np.unique(known), shares, method="inverted_cdf"))


def _regression(columns: "_Columns", rows: LabelledRows, knots: dict[int, Array] | None = None) -> Array:
    """(rows,) risks, fitted on the training part; columns that have knots get a curve."""
    matrix, terms = columns.matrix, columns.terms
    encoder, model = _encoder(columns, knots or {}), LogisticRegression(max_iter=2000)

    def read(known: Mask | slice, fit: bool = False) -> Any:
        """The columns of these rows, ready for the regression; None without any."""
        if not matrix.shape[1]:
            return None
        return encoder.fit_transform(matrix[known]) if fit else encoder.transform(matrix[known])

    train, events = rows.train, rows.events[rows.train]
    counts, known = None if rows.weights is None else rows.weights[train], read(train, fit=True)
    scale = 0.0
    if terms is not None:
        scale = _term_scale(known, terms[train], events, counts, rows.groups, rows.seed)
    model.fit(_beside(known, terms, train, scale), events, sample_weight=counts)
    with scoring(len(train)):
        return np.asarray(model.predict_proba(_beside(read(slice(None)), terms, slice(None), scale))[:, 1])


def _encoder(columns: "_Columns", knots: dict[int, Array]) -> ColumnTransformer:
    """From the matrix of columns to numbers without gaps: medians, scaling, indicators, one-hot
    codes, curves."""
    first = columns.numbers
    straight = [column for column in range(first) if column not in knots]
    numbers = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    steps: list[Any] = [
        ("numbers", make_pipeline(numbers, StandardScaler()), straight),
        ("missing", MissingIndicator(error_on_new=False), list(knots)),
        ("categories", OneHotEncoder(handle_unknown="ignore"), list(range(first, columns.matrix.shape[1]))),
    ]
    for column, at in knots.items():
        curve = SplineTransformer(knots=at[:, None], extrapolation="linear")
        steps.append((f"curve {column}", make_pipeline(SimpleImputer(strategy="median"), curve), [column]))
    return ColumnTransformer(steps)


def _beside(columns: Any, terms: Any, rows: Any, scale: float) -> Any:
    """Columns and, where there are some, the terms of these rows behind them."""
    if terms is None:
        return columns
    scaled = scale * terms[rows]
    return scaled if columns is None else sparse.hstack([sparse.csr_matrix(columns), scaled], format="csr")


def _term_scale(
    columns: Any,
    terms: Any,
    events: NDArray[np.int_],
    weights: Array | None,
    groups: NDArray[np.int_] | None,
    seed: int,
) -> float:
    """The one of `TERM_SCALES` with the least log-loss in cross-validation of the training rows; 1
    with too few of them."""
    some = stratified_rows(events, SCALE_ROWS, seed)
    y_true, counts = events[some], None if weights is None else weights[some]
    parted = folds(y_true, None if groups is None else groups[some], seed)
    if any(len(np.unique(y_true[others])) < 2 for others, _ in parted):
        return 1.0

    def loss(scale: float) -> float:
        seen = _beside(None if columns is None else columns[some], terms, some, scale)
        risks = np.empty(len(some))
        for others, held in parted:
            model = LogisticRegression(max_iter=2000)
            model.fit(seen[others], y_true[others], sample_weight=None if counts is None else counts[others])
            risks[held] = model.predict_proba(seen[held])[:, 1]
        return float(log_loss(y_true, risks, labels=[0, 1], sample_weight=counts))

    return min(TERM_SCALES, key=loss)


def folds(
    events: NDArray[np.int_], groups: NDArray[np.int_] | None, seed: int
) -> list[tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """(rows to fit on, rows held out) of each fold; each row is held out once, and a group in one
    fold."""
    everything = np.arange(len(events))
    most = min(FOLDS, events.sum(), (1 - events).sum(), len(events) if groups is None else len(np.unique(groups)))
    if most < 2:
        return [(everything[:0], everything)]
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(kind(int(most), shuffle=True, random_state=seed).split(everything, events, groups))


def groups_of(frame: pl.DataFrame, data: DataConfig, rows: NDArray[np.int_]) -> NDArray[np.int_] | None:
    """(rows,) numbers that rows of one group, else of one patient, share; None where every row
    stands alone."""
    name = data.name_of("group") or data.name_of("id")
    if name is None or name not in frame.columns:
        return None
    own = frame[name].gather(rows)
    if own.n_unique() == len(own):
        return None
    return np.asarray(own.rank("dense").fill_null(0).to_numpy().astype(int))


def age_and_sex(data: DataConfig) -> list[str]:
    """The feature columns that are the patient's age and sex, in this order: none, one or two
    names."""
    found = roles.learn(data.columns).columns
    return [found[meaning] for meaning in AGE_AND_SEX if meaning in found]


# --------------------------------------------------------------------------------------------------
# boosted trees


@baseline
def lightgbm(rows: LabelledRows) -> Array:
    """Gradient-boosted trees, rate 0.03, stopped on the validation part's log-loss; its own
    categories and missing, and words."""
    train, validation, events = rows.train, rows.parts == "validation", rows.events
    columns = _columns(rows, rows.data.features)
    matrix, first = columns.for_trees(events, train), columns.numbers
    if not matrix.shape[1]:
        return _nothing_to_read("LightGBM", rows)
    settings = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": 0.03,
        "seed": rows.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
        # The default, 100 rows, shuts a column with five categories or more out of every small
        # table.
        "min_data_per_group": int(np.clip(train.sum() // 20, 1, 100)),
    }
    categories = list(range(first, columns.matrix.shape[1]))
    counts = [None if rows.weights is None else rows.weights[part] for part in (train, validation)]
    known = gbm.Dataset(matrix[train], events[train], weight=counts[0], categorical_feature=categories, params=settings)
    watched = gbm.Dataset(matrix[validation], events[validation], weight=counts[1], reference=known, params=settings)
    stop = gbm.early_stopping(PATIENCE, verbose=False)
    booster = gbm.train(settings, known, MAX_TREES, valid_sets=[watched], callbacks=[stop])
    with scoring(len(train)):
        return np.asarray(booster.predict(matrix, num_iteration=booster.best_iteration))


# --------------------------------------------------------------------------------------------------
# columns -> numbers


class _Columns(NamedTuple):
    """A table as a classical model reads it."""

    matrix: Array
    """(rows, numbers and then categories), NaN where missing."""
    numbers: int
    """How many of its columns, the first ones, are numbers: days for dates, ranks of the code for
    ordinal and binary columns."""
    terms: Any
    """(rows, terms) sparse TF-IDF of all free text, `tfidf_terms` of each column; None without
    any."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.matrix.shape[1] and self.terms is None

    def for_trees(self, events: NDArray[np.int_], train: NDArray[np.bool_]) -> Any:
        """(rows, columns) with the terms that trees can use behind the others; sparse when there
        are some."""
        if self.terms is None:
            return self.matrix
        frequent = np.flatnonzero(self.terms[train].getnnz(axis=0) >= TREE_ROWS)
        if len(frequent) > TREE_TERMS:
            scores = chi2(self.terms[train][:, frequent], events[train])[0]
            frequent = np.sort(frequent[np.argsort(-scores, kind="stable")[:TREE_TERMS]])
        return sparse.hstack([sparse.csr_matrix(self.matrix), self.terms[:, frequent]], format="csr")


def _columns(rows: LabelledRows, features: Sequence[str]) -> _Columns:
    """These features of all rows, each as its type is encoded; what there is to learn is learned on
    the training part."""
    frame, data, train = rows.frame, rows.data, rows.train
    dictionary = {name: data.columns[name] for name in features}
    read = [ENCODINGS[c.kind.encoding].of(frame[name], c, train) for name, c in dictionary.items()]
    columns = [number for encoded in read for number in encoded.numbers]
    numbers = len(columns)
    columns += [category for encoded in read for category in encoded.categories]
    terms = [encoded.terms for encoded in read if encoded.terms is not None]
    return _Columns(
        np.column_stack(columns) if columns else np.empty((frame.height, 0)),
        numbers,
        sparse.hstack(terms, format="csr") if terms else None,
    )


class _Encoded(NamedTuple):
    """One column as classical models read it; every array is (rows,), NaN where missing."""

    numbers: Sequence[Array] = ()
    categories: Sequence[Array] = ()
    terms: Any = None
    """As in `_Columns`."""


def _as_number(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> _Encoded:
    return _Encoded([values.cast(pl.Float64).fill_null(np.nan).to_numpy()])


def _as_rank(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> _Encoded:
    return _Encoded([_rank(values, _codes(values, column, train))])


def _as_category(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> _Encoded:
    return _Encoded(categories=[_category(values, column, train)])


def _as_day(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> _Encoded:
    """A number of days, and two categories, the month and the weekday."""
    days = _as_number(values.cast(pl.Int32), column, train).numbers
    parts = (values.dt.month(), values.dt.weekday())
    return _Encoded(days, [_category(part.cast(pl.String), column, train) for part in parts])


def _as_terms(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> _Encoded:
    """A missing text reads as the language model has it, "not recorded"."""
    return _Encoded(terms=tfidf_terms(values.fill_null(NOT_RECORDED).to_list(), train))


class Encoding(NamedTuple):
    """A way to hand a column to the classical models."""

    of: Callable[[pl.Series, Column, NDArray[np.bool_]], _Encoded]
    """Values of all rows, and which of them are training rows, (rows,) bool."""
    words: str = ""
    """For the report; empty for a plain number or code."""


ENCODINGS = {
    "number": Encoding(_as_number),
    "rank": Encoding(_as_rank),
    "category": Encoding(_as_category),
    "day": Encoding(_as_day, "dates as day, month and weekday"),
    "terms": Encoding(
        _as_terms,
        "free text as TF-IDF of words and pairs of words, its vocabulary that of the training part (LightGBM: terms of "
        f"{TREE_ROWS} training rows or more, {TREE_TERMS:,} at most)",
    ),
}
"""By the key that a column's type names (`cardiotune.settings.column_types`)."""


def _category(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> Array:
    """A number for each category, and one more for all those that training did not have."""
    codes = _codes(values, column, train)
    known = np.nan_to_num(_rank(values, codes), nan=len(codes))
    return np.where(values.is_null().to_numpy(), np.nan, known)


def _codes(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> list[str]:
    """Codes in the order of the dictionary or, without one, those of the training part: numbers by
    size, else words."""
    if codes_of(column):
        return list(codes_of(column))
    seen = values.filter(pl.Series(train)).drop_nulls().unique().sort()
    size = seen.cast(pl.Float64, strict=False)
    return (seen if size.has_nulls() else seen.gather(size.arg_sort())).to_list()


def _rank(values: pl.Series, codes: list[str]) -> Array:
    """Position among the codes, NaN for a value that is none of them."""
    rank = pl.Series(range(len(codes)), dtype=pl.Float64)
    numbers = values.replace_strict(pl.Series(codes, dtype=pl.String), rank, default=None, return_dtype=pl.Float64)
    return numbers.fill_null(np.nan).to_numpy()

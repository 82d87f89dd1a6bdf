"""What a language model must beat on the same columns and rows: from the prevalence to splines and LightGBM.

All are fitted on the training part alone; imputation, scaling and encoding are part of the fit, so nothing of another
part reaches them. LightGBM also looks at the validation part, to know when to stop. Free-text columns are left out. Rows of a
cohort with inverse-probability-of-censoring weights count by them.
"""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.config import CODED, NUMBERS, Column, DataConfig
from cardiotune.data.cohort import WEIGHT
from cardiotune.data.schema import codes_of
from cardiotune.data.split import Parts

log = logging.getLogger(__name__)

MAX_TREES = 1000
PATIENCE = 50
ALL_TEXT = "{}: every feature is free text, which it does not read"
Array = NDArray[np.float64]
Baseline = Callable[[pl.DataFrame, NDArray[np.int_], Parts, DataConfig, int], Array]


def prevalence(frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int) -> Array:
    """The training part's share of events, for every row."""
    return _prevalence(events, parts, row_weights(frame))


def row_weights(frame: pl.DataFrame) -> Array | None:
    """(rows,) how much each counts; None when all count the same."""
    return frame[WEIGHT].to_numpy() if WEIGHT in frame.columns else None


def prevalence_because(reason: str, events: NDArray[np.int_], parts: Parts, weights: Array | None = None) -> Array:
    """The prevalence for every row, and a warning: for a comparator that has nothing to read."""
    log.warning("%s, so it predicts the prevalence", reason)
    return _prevalence(events, parts, weights)


def _prevalence(events: NDArray[np.int_], parts: Parts, weights: Array | None) -> Array:
    rows = parts == "train"
    return np.full(len(events), np.average(events[rows], weights=None if weights is None else weights[rows]))


def logistic_regression(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> Array:
    """L2 logistic regression (C = 1): medians and an indicator for missing numbers, scaling, one-hot categories."""
    rows = parts == "train"
    matrix, first = _matrix(frame, data, rows, data.features)
    if not matrix.shape[1]:
        return prevalence_because(ALL_TEXT.format("logistic regression"), events, parts, row_weights(frame))
    return _regression(matrix, first, events, rows, weights=row_weights(frame))


def age_sex_logistic_regression(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> Array:
    """`logistic_regression` on age and sex alone: what everybody knows about a patient before any measurement."""
    rows, name = parts == "train", "age and sex logistic regression"
    found = age_and_sex(data)
    if not found:
        hint = "give a feature column `phrase: age` or `phrase: sex`"
        return prevalence_because(
            f"{name}: the dictionary names neither age nor sex ({hint})", events, parts, row_weights(frame)
        )
    if len(found) == 1:
        log.warning("%s: of age and sex the dictionary names one alone, column %s", name, found[0])
    matrix, first = _matrix(frame, data, rows, found)
    return _regression(matrix, first, events, rows, weights=row_weights(frame))


def spline_regression(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> Array:
    """`logistic_regression` with a cubic spline for every number of three values or more: curves, no interactions.

    B-splines on the knots of `knots_of`, straight lines beyond the outer two, so that an outlier neither bends a curve
    nor runs off along a cubic. The ridge (C = 1) is on the coefficients of the B-splines, unscaled; on the truncated
    powers of the textbook it holds so little that Statlog heart, with 161 training rows, lost 0.05 of log-loss.
    """
    rows = parts == "train"
    matrix, first = _matrix(frame, data, rows, data.features)
    if not matrix.shape[1]:
        return prevalence_because(ALL_TEXT.format("spline regression"), events, parts, row_weights(frame))
    knots = {column: knots_of(matrix[rows, column]) for column in range(first)}
    curves = {column: at for column, at in knots.items() if len(at) > 2}
    return _regression(matrix, first, events, rows, curves, row_weights(frame))


def knots_of(values: Array) -> Array:
    """Distinct knots, ascending, of values (rows,), NaN left out: quantiles after Harrell 2015, table 2.3.

    Four knots below 100 values, else five. Where ties leave fewer than three (most patients have 0), the quantiles are
    those of the distinct values. Harrell, Regression Modeling Strategies, 2nd edition.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return known
    shares = [0.05, 0.35, 0.65, 0.95] if len(known) < 100 else [0.05, 0.275, 0.5, 0.725, 0.95]
    knots = np.unique(np.quantile(known, shares, method="inverted_cdf"))
    return knots if len(knots) > 2 else np.unique(np.quantile(np.unique(known), shares, method="inverted_cdf"))


def _regression(
    matrix: Array,
    first: int,
    events: NDArray[np.int_],
    rows: NDArray[np.bool_],
    knots: dict[int, Array] | None = None,
    weights: Array | None = None,
) -> Array:
    """(rows,) risks. `matrix` and `first` as from `_matrix`; fitted on `rows`; columns that have knots get a curve."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler

    knots = knots or {}
    straight = [column for column in range(first) if column not in knots]
    numbers = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    steps: list[Any] = [
        ("numbers", make_pipeline(numbers, StandardScaler()), straight),
        ("missing", MissingIndicator(error_on_new=False), list(knots)),
        ("categories", OneHotEncoder(handle_unknown="ignore"), list(range(first, matrix.shape[1]))),
    ]
    for column, at in knots.items():
        curve = SplineTransformer(knots=at[:, None], extrapolation="linear")
        steps.append((f"curve {column}", make_pipeline(SimpleImputer(strategy="median"), curve), [column]))
    model = make_pipeline(ColumnTransformer(steps), LogisticRegression(max_iter=2000))
    counts = {} if weights is None else {"logisticregression__sample_weight": weights[rows]}
    return np.asarray(model.fit(matrix[rows], events[rows], **counts).predict_proba(matrix)[:, 1])


# ---------------------------------------------------------------------------------------------------------------------
# which columns are age and sex

_WHEN = "at of the in on when is patient patients participant person subject group band category"
_VISIT = "recruitment baseline enrolment enrollment entry admission visit attended assessment centre center examination"
_BESIDE = {*_WHEN.split(), *_VISIT.split(), "inclusion", "index", "screening", "reported", "self", "value", "code", "f"}
_AGE = {"age", "aged"}, {*_BESIDE, "a", "years", "year", "yrs", "yr", "y", "months", "days", "old", "anchor"}
_SEX = {"sex", "gender", "male", "female", "man", "woman"}, {*_BESIDE, "birth", "assigned", "genetic", "biological"}
"""Words of which a name must have one, and all words that it may have beside: `age at menopause` is not the age."""


def age_and_sex(data: DataConfig) -> list[str]:
    """The feature columns that are the patient's age and sex, in this order: none, one or two names.

    Found by name, phrase or derivation. A number goes before age bands, and years before days; then the first counts.
    """
    readable = {name: data.columns[name] for name in data.features if data.columns[name].type not in ("text", "date")}
    ages = [name for name, column in readable.items() if _is_age(name, column)]
    sexes = [name for name, column in readable.items() if _says(name, column, *_SEX)]
    ages.sort(key=lambda name: (readable[name].type not in NUMBERS, _in_days(name, readable[name])))
    return ages[:1] + sexes[:1]


def _is_age(name: str, column: Column) -> bool:
    derived = column.derive is not None and column.derive.function == "age_years_from_days"
    return derived or _says(name, column, *_AGE)


def _in_days(name: str, column: Column) -> bool:
    return "days" in _words(name) or (column.unit or "").lower().startswith("day")


def _says(name: str, column: Column, needed: set[str], beside: set[str]) -> bool:
    """Whether the name, or the phrase, has a needed word, and none but those and the words that may stand beside."""
    return any(words & needed and words <= needed | beside for words in (_words(name), _words(column.phrase or "")))


def _words(name: str) -> set[str]:
    """Words of `ageAtVisit`, `AGE_YEARS`, `p21022 age` or `The age is {value}.`, in small letters and without digits."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("{value}", " "))
    return set(re.findall(r"[^\W\d_]+", parted.lower()))


# ---------------------------------------------------------------------------------------------------------------------
# boosted trees


def lightgbm(frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int) -> Array:
    """Gradient-boosted trees, rate 0.03, stopped on the validation part's log-loss; its own categories and missing."""
    from lightgbm import Dataset, early_stopping
    from lightgbm import train as boost

    train, validation = parts == "train", parts == "validation"
    matrix, first = _matrix(frame, data, train, data.features)
    if not matrix.shape[1]:
        return prevalence_because(ALL_TEXT.format("LightGBM"), events, parts, row_weights(frame))
    settings = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": 0.03,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
        # The default, 100 rows, shuts a column with five categories or more out of every small table.
        "min_data_per_group": int(np.clip(train.sum() // 20, 1, 100)),
    }
    categories = list(range(first, matrix.shape[1]))
    weights = row_weights(frame)
    counts = [None if weights is None else weights[rows] for rows in (train, validation)]
    known = Dataset(matrix[train], events[train], weight=counts[0], categorical_feature=categories, params=settings)
    watched = Dataset(matrix[validation], events[validation], weight=counts[1], reference=known, params=settings)
    stop = early_stopping(PATIENCE, verbose=False)
    booster = boost(settings, known, MAX_TREES, valid_sets=[watched], callbacks=[stop])
    return np.asarray(booster.predict(matrix, num_iteration=booster.best_iteration))


BASELINES: dict[str, Baseline] = {
    "prevalence": prevalence,
    "age_sex_logistic_regression": age_sex_logistic_regression,
    "logistic_regression": logistic_regression,
    "spline_regression": spline_regression,
    "lightgbm": lightgbm,
}
"""The comparators that read the table alone."""


# ---------------------------------------------------------------------------------------------------------------------
# columns -> numbers


def _matrix(
    frame: pl.DataFrame, data: DataConfig, train: NDArray[np.bool_], features: Sequence[str]
) -> tuple[Array, int]:
    """(rows, columns) float64, and how many of its columns, the first ones, are numbers; the others are categories.

    Numbers are also days for dates and ranks of the code for ordinal and binary columns. NaN is missing in both kinds.
    """
    types = {name: data.columns[name].type for name in features}
    numbers = [name for name, kind in types.items() if kind not in ("categorical", "text")]
    categories = [name for name, kind in types.items() if kind == "categorical"]
    columns = [_number(frame[name], data.columns[name], train) for name in numbers]
    columns += [_category(frame[name], data.columns[name], train) for name in categories]
    return (np.column_stack(columns) if columns else np.empty((frame.height, 0))), len(numbers)


def _number(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> Array:
    if column.type in CODED:
        return _rank(values, _codes(values, column, train))
    number = values.cast(pl.Int32) if column.type == "date" else values
    return number.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _category(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> Array:
    """A number for each category, and one more for all those that training did not have."""
    codes = _codes(values, column, train)
    known = np.nan_to_num(_rank(values, codes), nan=len(codes))
    return np.where(values.is_null().to_numpy(), np.nan, known)


def _codes(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> list[str]:
    """Codes in the order of the dictionary or, without one, those of the training part: numbers by size, else words."""
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

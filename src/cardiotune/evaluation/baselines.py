"""What a language model must beat: the prevalence, logistic regression and LightGBM on the same columns and rows.

All are fitted on the training part alone; imputation, scaling and encoding are part of the fitted pipeline, so nothing
of another part reaches them. Free-text columns are left out.
"""

import logging
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.config import CODED, Column, DataConfig
from cardiotune.data.schema import codes_of
from cardiotune.data.split import Parts

log = logging.getLogger(__name__)

MAX_TREES = 1000
PATIENCE = 50
Baseline = Callable[[pl.DataFrame, NDArray[np.int_], Parts, DataConfig, int], NDArray[np.float64]]


def prevalence(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> NDArray[np.float64]:
    """The training part's share of events, for every row."""
    return np.full(len(events), events[parts == "train"].mean())


def _without_columns(events: NDArray[np.int_], parts: Parts, name: str) -> NDArray[np.float64]:
    log.warning("%s: every feature is free text, which it does not read, so it predicts the prevalence", name)
    return np.full(len(events), events[parts == "train"].mean())


def logistic_regression(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> NDArray[np.float64]:
    """L2 logistic regression (C = 1): medians and an indicator for missing numbers, scaling, one-hot categories."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rows = parts == "train"
    matrix, first = _matrix(frame, data, rows)
    if not matrix.shape[1]:
        return _without_columns(events, parts, "logistic regression")
    steps = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(
                    SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
                    StandardScaler(),
                ),
                list(range(first)),
            ),
            ("categories", OneHotEncoder(handle_unknown="ignore"), list(range(first, matrix.shape[1]))),
        ]
    )
    model = make_pipeline(steps, LogisticRegression(max_iter=2000))
    return np.asarray(model.fit(matrix[rows], events[rows]).predict_proba(matrix)[:, 1])


def lightgbm(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> NDArray[np.float64]:
    """Gradient-boosted trees, rate 0.03, stopped on the validation part's log-loss; its own categories and missing."""
    from lightgbm import Dataset, early_stopping
    from lightgbm import train as boost

    train, validation = parts == "train", parts == "validation"
    matrix, first = _matrix(frame, data, train)
    if not matrix.shape[1]:
        return _without_columns(events, parts, "LightGBM")
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
    known = Dataset(matrix[train], events[train], categorical_feature=categories, params=settings)
    watched = Dataset(matrix[validation], events[validation], reference=known, params=settings)
    stop = early_stopping(PATIENCE, verbose=False)
    booster = boost(settings, known, MAX_TREES, valid_sets=[watched], callbacks=[stop])
    return np.asarray(booster.predict(matrix, num_iteration=booster.best_iteration))


BASELINES: dict[str, Baseline] = {
    "prevalence": prevalence,
    "logistic_regression": logistic_regression,
    "lightgbm": lightgbm,
}


def _matrix(frame: pl.DataFrame, data: DataConfig, train: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """(rows, columns) float64, and how many of its columns, the first ones, are numbers; the others are categories.

    Numbers are also days for dates and ranks of the code for ordinal and binary columns. NaN is missing in both kinds.
    """
    types = {name: data.columns[name].type for name in data.features}
    numbers = [name for name, kind in types.items() if kind not in ("categorical", "text")]
    categories = [name for name, kind in types.items() if kind == "categorical"]
    columns = [_number(frame[name], data.columns[name], train) for name in numbers]
    columns += [_category(frame[name], data.columns[name], train) for name in categories]
    return (np.column_stack(columns) if columns else np.empty((frame.height, 0))), len(numbers)


def _number(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    if column.type in CODED:
        return _rank(values, _codes(values, column, train))
    number = values.cast(pl.Int32) if column.type == "date" else values
    return number.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _category(values: pl.Series, column: Column, train: NDArray[np.bool_]) -> NDArray[np.float64]:
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


def _rank(values: pl.Series, codes: list[str]) -> NDArray[np.float64]:
    """Position among the codes, NaN for a value that is none of them."""
    rank = pl.Series(range(len(codes)), dtype=pl.Float64)
    numbers = values.replace_strict(pl.Series(codes, dtype=pl.String), rank, default=None, return_dtype=pl.Float64)
    return numbers.fill_null(np.nan).to_numpy()

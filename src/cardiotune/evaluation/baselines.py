"""What a language model must beat: the prevalence, logistic regression and LightGBM on the same columns and rows.

All are fitted on the training part alone; imputation, scaling and encoding are part of the fitted pipeline, so nothing
of another part reaches them. Free-text columns are left out.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.config import Column, DataConfig
from cardiotune.data.schema import CODED, codes_of
from cardiotune.data.split import Parts

MAX_TREES = 1000
PATIENCE = 50
Baseline = Callable[[pl.DataFrame, NDArray[np.int_], Parts, DataConfig, int], NDArray[np.float64]]


def prevalence(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> NDArray[np.float64]:
    """The training part's share of events, for every row."""
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

    numbers, categories = _numbers(frame, data), _categories(frame, data)
    matrix = np.hstack([numbers, categories])
    first = numbers.shape[1]
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
    rows = parts == "train"
    return np.asarray(model.fit(matrix[rows], events[rows]).predict_proba(matrix)[:, 1])


def lightgbm(
    frame: pl.DataFrame, events: NDArray[np.int_], parts: Parts, data: DataConfig, seed: int
) -> NDArray[np.float64]:
    """Gradient-boosted trees, rate 0.03, stopped on the validation part's log-loss; its own categories and missing."""
    from lightgbm import LGBMClassifier, early_stopping

    numbers, categories = _numbers(frame, data), _categories(frame, data)
    matrix = np.hstack([numbers, categories])
    model = LGBMClassifier(
        n_estimators=MAX_TREES,
        learning_rate=0.03,
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        verbosity=-1,
    )
    train, validation = parts == "train", parts == "validation"
    model.fit(
        matrix[train],
        events[train],
        eval_set=[(matrix[validation], events[validation])],
        eval_metric="binary_logloss",
        categorical_feature=list(range(numbers.shape[1], matrix.shape[1])),
        callbacks=[early_stopping(PATIENCE, verbose=False)],
    )
    # The booster itself: the scikit-learn wrapper warns about feature names that it made up.
    return np.asarray(model.booster_.predict(matrix, num_iteration=model.best_iteration_))


BASELINES: dict[str, Baseline] = {
    "prevalence": prevalence,
    "logistic_regression": logistic_regression,
    "lightgbm": lightgbm,
}


def _is_number(column: Column) -> bool:
    return column.type in ("numeric", "integer", "date", "ordinal", "binary")


def _numbers(frame: pl.DataFrame, data: DataConfig) -> NDArray[np.float64]:
    """(rows, columns) float64 with NaN: numbers, days for dates, rank of the code for ordinal and binary columns."""
    columns = [_as_number(frame[n], data.columns[n]) for n in data.features if _is_number(data.columns[n])]
    return np.column_stack(columns) if columns else np.empty((frame.height, 0))


def _as_number(values: pl.Series, column: Column) -> NDArray[np.float64]:
    if column.type in CODED:
        codes = list(codes_of(column)) or sorted(values.drop_nulls().unique())
        rank = pl.Series(range(len(codes)), dtype=pl.Float64)
        return values.replace_strict(pl.Series(codes, dtype=pl.String), rank, default=None).to_numpy().astype(float)
    number = values.cast(pl.Int32) if column.type == "date" else values
    return number.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _categories(frame: pl.DataFrame, data: DataConfig) -> NDArray[np.float64]:
    """(rows, columns) float64: a number for each category of the dictionary or, without one, of the rows; -1 missing."""
    names = [n for n in data.features if data.columns[n].type == "categorical"]
    columns = [_as_number(frame[n], data.columns[n]) for n in names]
    return np.nan_to_num(np.column_stack(columns), nan=-1) if columns else np.empty((frame.height, 0))

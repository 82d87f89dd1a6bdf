"""Gradient-boosted trees (LightGBM) on a table's columns, with sizes that fit the table: leaves and
penalty by cross-validation in the training part."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import lightgbm as gbm
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_selection import chi2

from cardiotune.models.columns import TREE_ROWS, TREE_TERMS, Columns, Read
from cardiotune.models.labelled import SEARCH_ROWS, LabelledRows, Training

Array = NDArray[np.float64]
Settings = dict[str, Any]
MAX_TREES = 2000
MOST_TRIED = 500
"""Trees, at most, of the search."""
WORTH = 1e-4
"""By how much `PATIENCE // 2` trees must lower the log-loss in the search to go on."""
USUAL_TREES = 50
"""Where there is nothing to choose their number on."""
PATIENCE = 50
"""Trees without a better log-loss after which no further ones are grown."""
TRIED: tuple[Settings, ...] = tuple(
    {"num_leaves": leaves, "min_data_in_leaf": rows, "lambda_l2": ridge, "feature_fraction": share}
    for leaves, rows, ridge, share in (
        *((leaves, 5, ridge, 0.5) for leaves in (2, 4, 8) for ridge in (0.0, 10.0)),
        *((leaves, 20, ridge, 0.5) for leaves in (8, 16) for ridge in (0.0, 10.0)),
        (8, 20, 10.0, 1.0),
        (31, 100, 10.0, 1.0),
    )
)
"""Leaves of a tree, rows of a leaf, L2 penalty and share of the columns that each tree sees, as
they are tried. Half of the columns makes the most of small tables, all of them of large ones."""
SHARED: Settings = {"learning_rate": 0.05, "bagging_fraction": 0.8, "bagging_freq": 1}
"""Each tree sees four in five of the rows, so that they differ."""
PLAIN: Settings = {"learning_rate": 0.03}
"""LightGBM as it comes (31 leaves of 20 rows), at a slow rate."""


@dataclass(frozen=True)
class Trees:
    """Fitted trees, and how a table's columns reach them."""

    columns: Columns
    terms: tuple[int, ...]
    """Places, in the vocabularies, of the words that they read."""
    text: str
    """The model as LightGBM writes it, without counts and ranges of training rows."""
    settings: Settings
    """What was chosen: leaves, rows of a leaf, penalty."""

    @cached_property
    def booster(self) -> gbm.Booster:
        """LightGBM's own."""
        return gbm.Booster(model_str=self.text)

    def risks(self, frame: pl.DataFrame) -> Array:
        """(rows,) probabilities of the event."""
        return np.asarray(self.booster.predict(_matrix(self.columns.read(frame), self.terms)))

    def as_json(self) -> dict[str, Any]:
        """All of it but `text`, which is a file of its own."""
        settings = {**self.settings, "trees": self.booster.num_trees()}
        return {
            "kind": "gradient-boosted trees",
            "settings": settings,
            "columns": self.columns.as_json(),
            "terms": list(self.terms),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], text: str) -> Self:
        """Undo `as_json`."""
        settings = {name: value for name, value in content["settings"].items() if name != "trees"}
        return cls(Columns.from_json(content["columns"]), tuple(content["terms"]), text, settings)


def fit_trees(rows: LabelledRows, columns: Columns) -> Trees | None:
    """With settings by cross-validation in the training part, and the number of trees too; of more
    rows than are searched, that is where the validation part's log-loss is least. None where there
    is nothing that trees can read."""
    training, material = rows.training, Material.of(rows, columns)
    if material is None:
        return None
    watched = bool((rows.parts == "validation").any())
    if not training.folds:
        return material.fit(SHARED | TRIED[1], None if watched else USUAL_TREES)
    chosen, trees = material.search()
    many = len(training.searched) >= SEARCH_ROWS
    return material.fit(SHARED | chosen, None if many and watched else trees)


def fit_plain(rows: LabelledRows, columns: Columns) -> Trees | None:
    """With LightGBM's own settings, which take no search; their number by the validation part's
    log-loss. None as in `fit_trees`."""
    material = Material.of(rows, columns)
    return None if material is None else material.fit(PLAIN, None)


@dataclass(frozen=True)
class Material:
    """What trees are grown from, and how."""

    rows: LabelledRows
    columns: Columns
    matrix: Any
    """(training rows, columns and then terms); sparse when there are terms."""
    terms: tuple[int, ...]

    @classmethod
    def of(cls, rows: LabelledRows, columns: Columns) -> "Self | None":
        """Of the training part; None where there is nothing that trees can read."""
        training = rows.training
        read = columns.read(training.frame)
        terms = _frequent(read, training)
        matrix = _matrix(read, terms)
        return cls(rows, columns, matrix, terms) if matrix.shape[1] else None

    @property
    def common(self) -> Settings:
        """What does not depend on the search."""
        return {
            "objective": "binary",
            "metric": "binary_logloss",
            "seed": self.rows.seed,
            "deterministic": True,
            "force_row_wise": True,
            "feature_pre_filter": False,
            "verbosity": -1,
            # The default, 100 rows, shuts a column with five categories or more out of every small
            # table.
            "min_data_per_group": int(np.clip(len(self.rows.training.events) // 20, 1, 100)),
        }

    def dataset(self, matrix: Any, events: Any, weights: Array | None, settings: Settings, **more: Any) -> gbm.Dataset:
        """Rows as LightGBM takes them."""
        categories = list(range(self.columns.numbers, len(self.columns.fields)))
        more = more or {"categorical_feature": categories}
        return gbm.Dataset(matrix, events, weight=weights, params=settings, free_raw_data=False, **more)

    def search(self) -> tuple[Settings, int]:
        """The settings of `TRIED` with the least log-loss in cross-validation, at a tie the first;
        and the number of trees at which it was least."""
        found = [(*self.cross_validated(SHARED | tried), tried) for tried in TRIED]
        _, trees, chosen = min(found, key=lambda entry: entry[0])
        return chosen, trees

    def cross_validated(self, settings: Settings) -> tuple[float, int]:
        """The least log-loss in the folds of the training part, and at how many trees."""
        training, some = self.rows.training, self.rows.training.searched
        weights = None if training.weights is None else training.weights[some]
        asked = self.common | settings
        known = self.dataset(self.matrix[some], training.events[some], weights, asked)
        stop = gbm.early_stopping(PATIENCE // 2, verbose=False, min_delta=WORTH)
        losses = gbm.cv(asked, known, MOST_TRIED, folds=training.folds, callbacks=[stop])
        mean = losses["valid binary_logloss-mean"]
        return float(min(mean)), int(np.argmin(mean)) + 1

    def fit(self, settings: Settings, trees: int | None) -> Trees:
        """So many trees on all training rows; without a number, until the validation part gets no
        better."""
        rows, training = self.rows, self.rows.training
        asked = self.common | settings
        known = self.dataset(self.matrix, training.events, training.weights, asked)
        if trees is not None:
            booster = gbm.train(asked, known, trees)
        else:
            held = np.asarray(rows.parts == "validation")
            matrix = _matrix(self.columns.read(rows.frame.filter(pl.Series(held))), self.terms)
            weights = None if rows.weights is None else rows.weights[held]
            watched = self.dataset(matrix, rows.events[held], weights, asked, reference=known)
            stop = gbm.early_stopping(PATIENCE, verbose=False)
            booster = gbm.train(asked, known, MAX_TREES, valid_sets=[watched], callbacks=[stop])
        text = booster.model_to_string(num_iteration=booster.best_iteration if trees is None else None)
        return Trees(self.columns, self.terms, _without_counts(text), settings)


def _matrix(read: Read, terms: tuple[int, ...]) -> Any:
    """(rows, columns) with these terms behind the others; sparse when there are some."""
    if read.terms is None:
        return read.matrix
    return sparse.hstack([sparse.csr_matrix(read.matrix), read.terms[:, list(terms)]], format="csr")


def _frequent(read: Read, training: Training) -> tuple[int, ...]:
    """Places of the terms that trees can use."""
    if read.terms is None:
        return ()
    frequent = np.flatnonzero(read.terms.getnnz(axis=0) >= TREE_ROWS)
    if len(frequent) > TREE_TERMS:
        scores = chi2(read.terms[:, frequent], training.events)[0]
        frequent = np.sort(frequent[np.argsort(-scores, kind="stable")[:TREE_TERMS]])
    return tuple(frequent.tolist())


def _without_counts(text: str) -> str:
    """A model in LightGBM's text without what it tells of training rows and does not need: how many
    are in each leaf, and each column's smallest and largest value."""
    kept = [
        "feature_infos=" + " ".join("none" for _ in line.split(" ")) if line.startswith("feature_infos=") else line
        for line in text.split("\n")
        if not re.match(r"(leaf|internal)_(count|weight)=|tree_sizes=", line)
    ]
    return "\n".join(kept)

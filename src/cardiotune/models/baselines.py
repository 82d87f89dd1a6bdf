"""What a language model must beat on the same columns and rows: from the prevalence to splines and
LightGBM.

All are fitted on the training part alone; imputation, scaling, encoding, the vocabulary of free
text, penalties and sizes are part of the fit, so nothing of another part reaches them. (Of very
many rows LightGBM also looks at the validation part, to know when to stop.) All but that of age
and sex read every feature column: a date as its day, month and weekday, free text as TF-IDF. Rows
of a cohort with inverse-probability-of-censoring weights count by them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data import roles
from cardiotune.models.columns import Columns, learn_columns
from cardiotune.models.costs import scoring
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.regression import Design, fit_regression
from cardiotune.models.trees import fit_trees
from cardiotune.settings import DataConfig, Meaning

log = logging.getLogger(__name__)

NOTHING_TO_READ = "{}: there is no feature column, or only free text without a term that stands in two training rows"
AGE_AND_SEX: tuple[Meaning, ...] = ("age", "sex")
Array = NDArray[np.float64]


class ClassicalModel(Protocol):
    """A fitted comparator that reads columns."""

    def risks(self, frame: pl.DataFrame) -> Array:
        """(rows,) probabilities of the event, of rows with the columns of the dictionary, typed."""

    def as_json(self) -> dict[str, Any]:
        """All that `risks` needs, as `models.saved` keeps it."""


@dataclass(frozen=True, slots=True)
class Prevalence:
    """The same risk for everybody."""

    risk: float

    def risks(self, frame: pl.DataFrame) -> Array:
        """(rows,) of them."""
        return np.full(frame.height, self.risk)

    def as_json(self) -> dict[str, Any]:
        """Its risk."""
        return {"kind": "prevalence", "risk": self.risk}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Undo `as_json`."""
        return cls(content["risk"])


Fit = Callable[[LabelledRows], ClassicalModel]
"""Rows -> a model, learned on the training part."""
FITS: dict[str, Fit] = {}
"""The comparators that read the table alone, by name: each function below that `baseline`
marks."""
Baseline = Callable[[LabelledRows], Array]
"""Rows -> their risks (rows,), learned on the training part."""
BASELINES: dict[str, Baseline] = {}
"""The same comparators, fitted and asked at once."""


def baseline(fit: Fit) -> Baseline:
    """Registers a function as the one that fits the comparator of its name."""

    @wraps(fit)
    def risks_of(rows: LabelledRows) -> Array:
        return fit_and_score(fit, rows)[1]

    FITS[fit.__name__], BASELINES[fit.__name__] = fit, risks_of
    return risks_of


def fit_and_score(fit: Fit, rows: LabelledRows) -> tuple[ClassicalModel, Array]:
    """A model and its risks (rows,) of all rows."""
    model = fit(rows)
    with scoring(len(rows.parts)):
        return model, model.risks(rows.frame)


@baseline
def prevalence(rows: LabelledRows) -> ClassicalModel:
    """The training part's share of events, for every row."""
    return Prevalence(rows.training.prevalence)


def prevalence_because(reason: str, rows: LabelledRows) -> Prevalence:
    """The prevalence for every row, and a warning: for a comparator that has nothing to read."""
    log.warning("%s, so it predicts the prevalence", reason)
    return Prevalence(rows.training.prevalence)


def _nothing_to_read(name: str, rows: LabelledRows) -> Prevalence:
    return prevalence_because(NOTHING_TO_READ.format(name), rows)


def _columns(rows: LabelledRows) -> Columns:
    return learn_columns(rows.training.frame, rows.data, rows.data.features)


@baseline
def logistic_regression(rows: LabelledRows) -> ClassicalModel:
    """L2 logistic regression: medians and an indicator for missing numbers, scaling, one-hot
    categories, TF-IDF; its penalty by cross-validation in the training part."""
    columns = _columns(rows)
    return _nothing_to_read("logistic regression", rows) if columns.empty else fit_regression(rows.training, columns)


def parameters(rows: LabelledRows) -> int:
    """How many coefficients `logistic_regression` has without its intercept, if of every category
    one code is the reference."""
    columns, training = _columns(rows), rows.training
    design = Design.learn(columns, columns.read(training.frame).matrix, {})
    words = sum(len(vocabulary.terms) for vocabulary in columns.vocabularies)
    return len(design.terms) - len(design.categories) + words


@baseline
def age_sex_logistic_regression(rows: LabelledRows) -> ClassicalModel:
    """`logistic_regression` on age and sex alone: what everybody knows about a patient before any
    measurement."""
    name, found = "age and sex logistic regression", age_and_sex(rows.data)
    if not found:
        hint = "give a feature column `meaning: age`, or `phrase: age`, and another `meaning: sex`"
        return prevalence_because(f"{name}: the dictionary names neither age nor sex ({hint})", rows)
    if len(found) == 1:
        log.warning("%s: of age and sex the dictionary names one alone, column %s", name, found[0])
    return fit_regression(rows.training, learn_columns(rows.training.frame, rows.data, found))


@baseline
def spline_regression(rows: LabelledRows) -> ClassicalModel:
    """`logistic_regression` with a cubic spline for every number of three values or more: curves,
    no interactions.

    B-splines on the knots of `knots_of`, straight lines beyond the outer two, so that an outlier
    neither bends a curve nor runs off along a cubic. The ridge is on the coefficients of the
    B-splines, unscaled; on the truncated powers of the textbook it holds so little that Statlog
    heart, with 161 training rows, lost 0.05 of log-loss.
    """
    columns = _columns(rows)
    return (
        _nothing_to_read("spline regression", rows)
        if columns.empty
        else fit_regression(rows.training, columns, knots_of)
    )


@baseline
def lightgbm(rows: LabelledRows) -> ClassicalModel:
    """Gradient-boosted trees with their own categories and missing, and words; leaves, penalty and
    number by cross-validation in the training part."""
    return fit_trees(rows, _columns(rows)) or _nothing_to_read("LightGBM", rows)


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


def age_and_sex(data: DataConfig) -> list[str]:
    """The feature columns that are the patient's age and sex, in this order: none, one or two
    names."""
    found = roles.learn(data.columns).columns
    return [found[meaning] for meaning in AGE_AND_SEX if meaning in found]

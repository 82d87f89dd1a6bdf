"""What a tuned model must beat on the text that it reads itself, and what it adds to the columns.

`tfidf` counts the words, `embedding` reads the untuned model's hidden states, `stacked` puts the
tuned model's logit beside the columns.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from cardiotune.data.split import Parts
from cardiotune.errors import ModelError
from cardiotune.models.baselines import lightgbm, logistic_regression
from cardiotune.models.costs import scoring
from cardiotune.models.labelled import LabelledRows, folds, groups_of
from cardiotune.models.logistic import logit, most_probable, sigmoid
from cardiotune.models.terms import tfidf_terms

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Events = NDArray[np.int_]

TEXT_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
STATE_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Values of C (1 / penalty). States have hundreds of columns, often more than there are rows, so
theirs are smaller."""
WEIGHT_SD = 0.25
"""Standard deviation of the prior on a weight of the stack: forty rows move it a little, thousands
decide it."""


def tfidf(texts: Sequence[str], events: Events, parts: Parts, counts: Array | None = None) -> Array:
    """(rows,) risks: logistic regression on `tfidf_terms`.

    C is that of the least log-loss in the validation part. `counts` (rows,): how much each row
    counts, by default 1.
    """
    train = parts == "train"
    terms = tfidf_terms(texts, train)
    if terms is None:
        log.warning("tfidf: no term stands in two training texts, so it predicts the prevalence")
        return np.full(len(events), np.average(events[train], weights=None if counts is None else counts[train]))
    return _least_validation_loss(terms, events, parts, TEXT_PENALTIES, counts)


def embedding(states: NDArray[np.floating[Any]], events: Events, parts: Parts, counts: Array | None = None) -> Array:
    """(rows,) risks: logistic regression on frozen hidden states, a linear probe.

    states: (rows, width), of any scale: standardized on the training part. C is that of the least
    log-loss in the validation part. Alain & Bengio, arXiv 1610.01644. `counts` (rows,): how much
    each row counts, by default 1. Raises ModelError for states that are not finite.
    """
    if not np.isfinite(states).all():
        raise ModelError("embedding: hidden states that are not finite; score with model.score_dtype=float32")
    train = parts == "train"
    scaled = np.array(states, np.float64)
    StandardScaler(copy=False).fit(scaled[train]).transform(scaled)
    return _least_validation_loss(scaled, events, parts, STATE_PENALTIES, counts)


def _least_validation_loss(
    matrix: Any, events: Events, parts: Parts, penalties: Sequence[float], counts: Array | None
) -> Array:
    """(rows,) risks of the L2 logistic regression, fitted on training, whose C is the best; at a
    tie the smallest C."""
    train, validation = parts == "train", parts == "validation"
    known, outcomes = matrix[train], events[train]
    fitted, judged = (None if counts is None else counts[rows] for rows in (train, validation))
    model = LogisticRegression(max_iter=2000, warm_start=True)
    found = []
    for penalty in sorted(penalties):
        model.set_params(C=penalty).fit(known, outcomes, sample_weight=fitted)
        risks = model.predict_proba(matrix)[validation, 1]
        loss = log_loss(events[validation], risks, labels=[0, 1], sample_weight=judged)
        found.append((loss, model.coef_.copy(), model.intercept_.copy()))
    _, model.coef_, model.intercept_ = min(found, key=lambda entry: entry[0])
    with scoring(len(parts)):
        return np.asarray(model.predict_proba(matrix)[:, 1])


def stacked(rows: LabelledRows, logits: Array) -> Array:
    """(rows,) risks of the tuned model and the columns together: whether the one knows what the
    other does not.

    logits: (rows,) of the tuned model, not calibrated; training rows may be NaN.

    The log-odds are `a + b * logit of the tuned model + c * logit of logistic_regression + d *
    logit of lightgbm`. All models have seen the training rows, where their logits are too good; so
    a to d are fitted on the validation part, which is also why the columns come as two logits:
    forty rows cannot bear a coefficient for each column. Weights are not negative (Breiman, Stacked
    regressions, Machine Learning 1996) and have a normal prior around 1/3: the average of the
    logits, which is hard to beat with few rows (Clemen, International Journal of Forecasting 1989),
    while many rows decide alone. Without a readable column the prior is around the tuned logit
    itself. Rows of one outcome alone leave the average as it is.

    Validation rows get their risk from the other folds of five (the rows of a patient or group in
    one fold), test rows from all validation rows. The checkpoint was
    chosen on the validation part, so its logits are a little too good there; one choice among a few
    costs less than taking rows away. Training rows get the model's value, optimistic as that of
    every model on the rows it learned from, and NaN where their logit is. Rows of a cohort with
    inverse-probability-of-censoring weights count by them.

    Raises ModelError for logits of validation or test rows that are not finite.
    """
    events, parts, counts = rows.events, rows.parts, rows.weights
    if not np.isfinite(logits[np.isin(parts, ("validation", "test"))]).all():
        raise ModelError("stacked: logits of the tuned model that are not finite; score with model.score_dtype=float32")
    columns = [logit(fit(rows)) for fit in (logistic_regression, lightgbm)]
    sources = np.column_stack([logits, *(found for found in columns if np.ptp(found))])
    validation = np.flatnonzero(parts == "validation")

    def weights_of(some: Events) -> Array:
        return _weights(sources[some], events[some], None if counts is None else counts[some])

    fitted = weights_of(validation)
    with scoring(len(parts)):
        risks = _combine(sources, fitted)
    for others, held in folds(events[validation], groups_of(rows.frame, rows.data, validation), rows.seed):
        fitted = weights_of(validation[others])
        risks[validation[held]] = _combine(sources[validation[held]], fitted)
    return risks


def _combine(sources: Array, weights: Array) -> Array:
    return sigmoid(weights[0] + sources @ weights[1:])


def _weights(sources: Array, events: Events, counts: Array | None = None) -> Array:
    """(1 + sources,): intercept, with a flat prior, and weights, at least 0, of the greatest
    posterior density."""
    count = sources.shape[1]
    start: Array = np.r_[0.0, np.full(count, 1 / count)]
    if len(np.unique(events)) < 2:
        return start
    design = np.column_stack([np.ones(len(events)), sources])
    precision = np.r_[0.0, np.full(count, WEIGHT_SD**-2)]

    bounds = [(None, None), *[(0.0, None)] * count]
    return most_probable(design, np.zeros(len(events)), events.astype(float), start, precision, bounds, counts)

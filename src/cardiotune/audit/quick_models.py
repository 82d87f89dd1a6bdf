"""Models that take seconds: what they rank with true labels, and with shuffled ones."""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from cardiotune.audit.ceilings import above, area, believable, standard_error
from cardiotune.audit.findings import Checks, Finding
from cardiotune.audit.table import FEW, Table
from cardiotune.data.copies import Keys
from cardiotune.data.split import PARTS
from cardiotune.models.baselines import Baseline
from cardiotune.models.columns import learn_columns
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.trees import fit_plain

CHECKS = Checks[Table]()
TEXT = "__text__"
SHUFFLED_ROWS = 20_000
"""Rows, at most, on which models are fitted to shuffled labels; drawn by distinct rows, so that
copies stay together."""


@CHECKS.add
def quick_models(table: Table) -> list[Finding]:
    """LightGBM on the table, or TF-IDF and logistic regression on ready texts: with true labels and
    with shuffled ones."""
    readable = any(not table.data.columns[name].is_text for name in table.data.features)
    name, model = ("lightgbm", _lightgbm) if readable else ("tf-idf", _tfidf)
    test = table.parts == "test"
    happened = table.events[test]
    risk = model(LabelledRows(_with_texts(table), table.events, table.parts, table.data, table.seed))[test]
    ranked = area(happened, risk)
    low = ranked - 1.96 * standard_error(ranked, int(happened.sum()), int((1 - happened).sum()))
    enough = min(happened.sum(), (1 - happened).sum()) >= FEW
    ceiling = believable(table.judged, table.known_ceiling)
    found = above(f"a quick {name}", ranked, low, ceiling) if enough else []
    if table.equal_rows.copied:  # copies are learned by heart, which takes long and shows clearly
        return found + audit_permutation(name, model, table, table.keys, 2)
    return found + audit_permutation(name, model, table)


def _with_texts(table: Table) -> pl.DataFrame:
    return table.frame.with_columns(pl.Series(TEXT, table.texts, pl.String))


def audit_permutation(
    name: str, model: Baseline, table: Table, copied: Keys | None = None, permutations: int = 5
) -> list[Finding]:
    """Shuffle the labels of all rows, fit, and judge the test part: nothing can be learned, so the
    AUROC must be 0.5.

    Against the shuffled test labels it is above 0.5 only when the model saw them: it was fitted on
    all rows, or a code was replaced by its rate of events in all rows. Chance is exact here (all
    orders of the labels are alike), so the mean over the permutations is held against the
    Mann-Whitney variance, z > 4. Against the true test labels it may stray on either side, for a
    model fitted to noise still ranks by columns that matter; its mean is 0.5 unless the model reads
    the outcome elsewhere than in the labels it is given (t test over the permutations, p < 1e-4,
    and off by 0.1).

    A copy of the outcome among the features does not survive shuffling: `single_column` is the
    check for it. Copied rows do not either, unless copies keep one label: with `copied` (a key a
    row) labels are shuffled over distinct rows, and what is above 0.5 is what recognising copies is
    worth.
    """
    draw = np.random.default_rng(table.seed)
    frame, events, parts = _with_texts(table), table.events, table.parts
    keys = copied if copied is not None else np.arange(len(events))
    if len(keys) > SHUFFLED_ROWS:
        rank = draw.permutation(len(keys))[np.unique(keys, return_inverse=True)[1]]  # of each row's distinct row
        rows = np.sort(np.argsort(rank, kind="stable")[:SHUFFLED_ROWS])
        frame, events, parts, keys = frame[rows], events[rows], parts[rows], keys[rows]
    test = parts == "test"
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    shuffled_areas, true_areas = [], []
    for _ in range(permutations):
        shuffled = draw.permutation(events[first])[group]
        if any(shuffled[parts == part].min() == shuffled[parts == part].max() for part in PARTS):
            continue  # a part of one outcome cannot be judged
        risk = model(LabelledRows(frame, shuffled, parts, table.data, table.seed))[test]
        shuffled_areas.append(area(shuffled[test], risk))
        true_areas.append(area(events[test], risk))
    if len(shuffled_areas) < 2:
        return []
    happened, others = int(events[test].sum()), int((1 - events[test]).sum())
    by_chance = np.sqrt((happened + others + 1) / (12 * happened * others) / len(shuffled_areas))
    mean, true_mean = float(np.mean(shuffled_areas)), float(np.mean(true_areas))
    spread = max(float(np.std(true_areas, ddof=1)), 1e-6) / np.sqrt(len(true_areas))
    p_value = float(2 * stats.t.sf(abs(true_mean - 0.5) / spread, len(true_areas) - 1))
    saw = (mean - 0.5) / by_chance > 4 and mean > 0.52
    read = p_value < 1e-4 and abs(true_mean - 0.5) > 0.1
    numbers = {"auroc_shuffled": mean, "auroc_true": true_mean, "permutations": len(shuffled_areas)}
    what = f"with shuffled labels {name} has a test AUROC of {mean:.3f} (against the true ones {true_mean:.3f})"
    if not (saw or read):
        return [Finding("permutation", "note", f"{what}, as chance allows", numbers)]
    why = "copies of test rows are in training" if copied is not None else "it sees the outcome of test rows"
    return [Finding("permutation", "leak", f"{what}, where 0.5 is expected: {why}", numbers)]


def _lightgbm(rows: LabelledRows) -> NDArray[np.float64]:
    """LightGBM as it comes: a search for its best settings would take long, and a leak shows
    without."""
    fitted = fit_plain(rows, learn_columns(rows.training.frame, rows.data, rows.data.features))
    return np.full(len(rows.parts), rows.training.prevalence) if fitted is None else fitted.risks(rows.frame)


def _tfidf(rows: LabelledRows) -> NDArray[np.float64]:
    """Logistic regression on the TF-IDF weights of column `TEXT`, both fitted on the training
    part."""
    train, texts = rows.train, rows.frame[TEXT].to_numpy()
    words = TfidfVectorizer(token_pattern=r"[^\s,;:]+", max_features=20_000).fit(texts[train])
    weights = words.transform(texts)
    model = LogisticRegression(max_iter=200).fit(weights[train], rows.events[train])
    return np.asarray(model.predict_proba(weights)[:, 1])

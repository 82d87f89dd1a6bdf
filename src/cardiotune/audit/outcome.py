"""What tells the outcome, or leaves it open: columns that give it away, texts of both outcomes."""

import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.audit.ceilings import area
from cardiotune.audit.findings import Checks, Finding, listed
from cardiotune.audit.table import FEW, Events, Table, text_keys

CHECKS = Checks[Table]()


SINGLE_AUROC = 0.95
"""No one column of a patient comes near: systolic pressure alone has 0.75 on the cardio table."""
LATER = re.compile(
    r"death|dead|died|deceased|mortality|surviv\w*|censor\w*|diagnos\w*|icd\d*|discharge\w*|outcomes?|label|follow(up)?|"
    r"followup|readmi\w+|complications?|procedures?|surgery|stent\w*|cabg|pci|autopsy|future|after|post|los"
)
"""Words of what is known only after the outcome, or because of it."""


@CHECKS.add
def conflicts(table: Table) -> list[Finding]:
    """Equal texts with both outcomes, and how good a model that reads only the text can be at best.

    `ceiling_*` lets the best model know every text's own share of events: optimistic, as a text
    that stands once is always right. `accuracy_bound` is free of that, on rows whose text stands
    more than once: where two rows of one text differ in the outcome with chance d, no model is
    right more often than (1 + sqrt(1 - 2d)) / 2 (Cover & Hart, IEEE Trans Inf Theory 1967;13:21).
    """
    events = table.events
    _, group = np.unique(text_keys(table.texts), return_inverse=True)
    rows, happened = np.bincount(group), np.bincount(group, events)
    mixed, repeated = (happened > 0) & (happened < rows), (rows > 1)[group]
    if not mixed.any():
        return []
    others = np.where(events == 1, rows[group] - happened[group], happened[group])
    differ = min(0.5, float((others[repeated] / (rows[group][repeated] - 1)).mean()))
    best = np.maximum(happened, rows - happened)
    numbers = {
        "texts": int(mixed.sum()),
        "rows": int(rows[mixed].sum()),
        "rows_with_repeated_text": int(repeated.sum()),
        "ceiling_accuracy": float(best.sum() / len(events)),
        "ceiling_auroc": area(events, (happened / rows)[group]),
        "ceiling_accuracy_repeated": float(best[rows > 1].sum() / repeated.sum()),
        "accuracy_bound_repeated": float((1 + np.sqrt(1 - 2 * differ)) / 2),
    }
    text = (
        f"{numbers['texts']} texts ({numbers['rows']} rows) stand with both outcomes: no model that reads only the text "
        f"can be right on all of them, and on rows of a repeated text on at most {numbers['accuracy_bound_repeated']:.0%}"
    )
    return [Finding("conflicting_labels", "note", text, numbers)]


@CHECKS.add
def single_columns(table: Table) -> list[Finding]:
    """One column, or that it is missing, or the text's length, that alone ranks the held-out rows
    almost perfectly."""
    frame, events, train = table.frame, table.events, table.parts == "train"
    if min(events[~train].sum(), (1 - events[~train]).sum()) < FEW:
        return []
    lengths = pl.Series([len(text) for text in table.texts], dtype=pl.Float64)
    scores = {"the length of the text": _rate(lengths, events, train)}
    for name in table.data.features:
        scores[f"column {name}"] = _rate(frame[name], events, train)
        scores[f"whether {name} is missing"] = _rate(frame[name].is_null().cast(pl.Float64), events, train)
    areas = {name: [area(events[rows], score[rows]) for rows in (train, ~train)] for name, score in scores.items()}
    return [
        Finding(
            "single_column",
            "leak",
            f"{name} alone has an AUROC of {held_out:.3f} on rows that it was not judged from; does it tell the outcome?",
            {"auroc": held_out, "auroc_train": trained},
        )
        for name, (trained, held_out) in areas.items()
        if min(trained, held_out) > SINGLE_AUROC
    ]


def _rate(values: pl.Series, events: Events, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(rows,) share of events among training rows of the same code or, for a number or date, the
    same twentieth of them.

    Shrunk towards the prevalence as if by one row more, so that a code seen once ranks low. Missing
    is a code.
    """
    if values.dtype.is_numeric() or values.dtype.is_temporal():
        number = (
            (values if values.dtype.is_numeric() else values.cast(pl.Int32))
            .cast(pl.Float64)
            .fill_null(np.nan)
            .to_numpy()
        )
        seen = number[train & ~np.isnan(number)]
        edges = np.unique(np.quantile(seen, np.linspace(0.05, 1, 20))) if len(seen) else np.zeros(1)
        codes = np.where(np.isnan(number), len(edges) + 1, np.searchsorted(edges, number))
    else:
        codes = np.unique(values.hash().to_numpy(), return_inverse=True)[1]
    rows = np.bincount(codes[train], minlength=codes.max() + 1)
    happened = np.bincount(codes[train], events[train], minlength=codes.max() + 1)
    return np.asarray(((happened + events[train].mean()) / (rows + 1))[codes])


@CHECKS.add
def names(table: Table) -> list[Finding]:
    """Features named after the outcome, or after what comes later than it."""
    target = set(_words(str(table.data.name_of("target"))))
    smelling = [
        name
        for name in table.data.features
        if (target and target <= set(_words(name))) or any(LATER.fullmatch(word) for word in _words(name))
    ]
    text = (
        f"named like the outcome or like what follows it: {listed(smelling)}; is it known when the risk is asked for?"
    )
    return [Finding("column_names", "warning", text, {"columns": smelling})] if smelling else []


def _words(name: str) -> list[str]:
    """Words of a column's name, lower case: `postOp_day` -> post, op, day."""
    return re.findall(r"[a-z]+\d*", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())

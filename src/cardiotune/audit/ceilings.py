"""How well patients can honestly be ranked: the highest AUROC that is believable on a table."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cardiotune.audit.findings import Finding
from cardiotune.audit.table import Events
from cardiotune.evaluation.metrics import auroc

PERFECT_AUROC = 0.99
"""Above it no clinical outcome is predicted honestly; the ceiling of a table that is not known."""


@dataclass(frozen=True)
class Ceiling:
    """The highest AUROC that is believable on a table; a public one is recognised by columns that
    it is known for."""

    name: str
    columns: frozenset[str]
    auroc: float
    source: str


ANY_TABLE = Ceiling("any clinical table", frozenset(), PERFECT_AUROC, "a rule of thumb")
CEILINGS = (
    Ceiling(
        "Kaggle cardiovascular disease",
        frozenset({"ap_hi", "ap_lo", "cholesterol", "gluc", "smoke", "alco", "active"}),
        0.81,
        "LightGBM 0.804 (0.800 to 0.807), 70,000 rows, 5-fold, measured",
    ),
    Ceiling(
        "Framingham teaching data",
        frozenset({"totchol", "sysbp", "diabp", "cigsperday", "bpmeds", "glucose"}),
        0.75,
        "logistic regression 0.724, LightGBM 0.715, 4,240 rows, 5 x 5-fold, measured",
    ),
    Ceiling(
        "UCI heart disease",
        frozenset({"cp", "trestbps", "restecg", "thalach", "oldpeak", "slope"}),
        0.95,
        "logistic regression 0.906 (0.877 to 0.942), Cleveland 303 rows, 5 x 5-fold, measured",
    ),
    Ceiling(
        "UCI Statlog heart",
        frozenset(
            {"chest_pain", "resting_sbp_mmhg", "max_heart_rate", "st_depression_mm", "major_vessels", "thallium"}
        ),
        0.95,
        "logistic regression 0.932, median of five test parts of 68 rows, measured",
    ),
    Ceiling(
        "Kaggle heart failure prediction",
        frozenset({"chestpaintype", "restingbp", "fastingbs", "restingecg", "maxhr", "st_slope"}),
        0.95,
        "LightGBM 0.932, logistic regression 0.925, 918 rows, 5 x 5-fold, measured",
    ),
)


def ceiling_of(columns: Iterable[str]) -> Ceiling | None:
    """The public table that has these columns (case does not matter), or None."""
    present = {name.lower() for name in columns}
    return next((ceiling for ceiling in CEILINGS if ceiling.columns <= present), None)


def believable(judged: Iterable[Iterable[str]], known: float | None) -> Ceiling:
    """The ceiling of a test part of tables with these columns each: `known`, or the highest of
    theirs, a public one or a rule of thumb."""
    if known is not None:
        return Ceiling("this table", frozenset(), known, "evaluation.known_ceiling")
    found = [ceiling_of(columns) or ANY_TABLE for columns in judged]
    return max(found, key=lambda ceiling: ceiling.auroc, default=ANY_TABLE)


def above(model: str, area: float | None, low: float | None, ceiling: Ceiling) -> list[Finding]:
    """A leak when even the interval's lower end is above the ceiling (or there is no interval);
    else it may be chance."""
    if area is None or area <= ceiling.auroc:
        return []
    sure = low is None or low > ceiling.auroc
    text = (
        f"{model} has a test AUROC of {area:.3f}, above the {ceiling.auroc:.2f} that honest models reach on {ceiling.name} "
        f"({ceiling.source})" + ("" if sure else ", by no more than chance allows")
    )
    return [Finding("above_ceiling", "leak" if sure else "note", text, {"auroc": area, "ceiling": ceiling.auroc})]


def area(events: Events, score: NDArray[np.float64]) -> float:
    """AUROC of a score (rows,)."""
    return float(auroc(events.astype(float), score))


def standard_error(area: float, events: int, others: int) -> float:
    """Of an AUROC. Hanley & McNeil, Radiology 1982;143:29."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (events - 1) * (q1 - area**2) + (others - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0) / (events * others)))

"""Published cardiovascular risk scores: the formulas, and their inputs taken from a cohort."""

from cardiotune.evaluation.risk_scores.cohort import (
    PUBLISHED,
    check_inputs,
    completed_risks,
    read_inputs,
    score_cohort,
)
from cardiotune.evaluation.risk_scores.formulas import (
    Scored,
    framingham,
    framingham_bmi,
    pooled_cohort,
    score2,
    to_mg_dl,
    to_mmol_l,
)

__all__ = [
    "PUBLISHED",
    "Scored",
    "check_inputs",
    "completed_risks",
    "framingham",
    "framingham_bmi",
    "pooled_cohort",
    "read_inputs",
    "score2",
    "score_cohort",
    "to_mg_dl",
    "to_mmol_l",
]

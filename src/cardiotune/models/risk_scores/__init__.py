"""Published cardiovascular risk scores: the formulas, and their inputs taken from a cohort."""

from cardiotune.models.risk_scores.american import framingham, framingham_bmi, pooled_cohort
from cardiotune.models.risk_scores.cohort import (
    PUBLISHED,
    check_inputs,
    completed_risks,
    read_inputs,
    score_cohort,
)
from cardiotune.models.risk_scores.rows import PublishedRisks, to_mg_dl, to_mmol_l
from cardiotune.models.risk_scores.score2 import score2

__all__ = [
    "PUBLISHED",
    "PublishedRisks",
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

"""The comparators: everything that gives a risk."""

import typing
from typing import Literal

Comparator = Literal[
    "prevalence",
    "age_sex_logistic_regression",
    "logistic_regression",
    "spline_regression",
    "lightgbm",
    "tfidf",
    "embedding",
    "zero_shot",
    "few_shot",
    "free_generation",
    "tuned",
    "stacked",
]
COMPARATORS: tuple[Comparator, ...] = typing.get_args(Comparator)
ON_REQUEST: tuple[Comparator, ...] = ("free_generation",)
"""Comparators that run only where `models` names them."""
PublishedScore = Literal["score2", "pooled_cohort", "framingham", "framingham_bmi"]
"""Risk scores with fixed coefficients. They run only when `models` names them: few tables have what
they need."""
PUBLISHED_SCORES: tuple[PublishedScore, ...] = typing.get_args(PublishedScore)

WORDS = "free_generation"
"""Answers in words, which carry no probability."""

PROMPTED = ("tuned", "zero_shot", "few_shot", "free_generation")
READS_LOGITS = ("zero_shot", "few_shot")
LANGUAGE = (*PROMPTED, "embedding")
"""Models that hold a language model. `stacked` stands on one."""
READS_TEXT = (*LANGUAGE, "tfidf")
"""Models that read the row's text."""

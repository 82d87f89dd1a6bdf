"""The comparators: everything that gives a risk, a record each.

Whatever is said, drawn, allowed or checked by a comparator's name is derived from these records. A
new one is a record here and the function that makes its risks (`models/baselines.py` for what reads
columns, `models/risks.py` for all others).
"""

import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

Dash = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: `-`, or offset and lengths of dashes and gaps in points."""
Answer = Literal["logits", "head", "words", "states"]
"""How a risk is read from a language model: logits of the two answers, the task's head, an answer
in words, which carries no probability, or hidden states."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a comparator is drawn in every figure; told from all others without colour."""

    color: str
    dash: Dash
    marker: str
    width: float = 1.5
    """Points."""
    above: bool = False
    """Whether it is drawn over the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparator:
    """One comparator: its words, its look, and what is true of it."""

    name: str
    """As settings and files have it."""
    words: str
    """Its name in everything that a person reads."""
    description: str
    """What it is, in a few words."""
    look: Look
    shown: int
    """Place in tables and legends. Of equal places the first record comes first."""
    main: int
    """Place among those that a report may be about: it is about the first that was run. Never one
    chosen for its results on the test part."""
    rival: str = ""
    """What the verdict calls it, where the tuned model must beat it: cheap to fit, run and
    explain."""
    on_request: bool = False
    """Whether it runs only where `models` names it."""
    in_curves: bool = False
    """Whether a learning curve has it whose experiment does not choose its models."""
    fitted: bool = False
    """Whether the training part makes it a model, more than a number."""
    needs: tuple[str, ...] = ()
    """Comparators that it stands on. They come before it."""

    columns: Literal["", "all", "age and sex", "formula", "by name", "matched", "own"] = ""
    """The columns that it reads: every feature, these two, or what its formula asks for; of a
    held-out table those of a training table's name, those matched automatically, or all of its
    own."""
    like: str = ""
    """The comparator whose model it is, on other columns or rows."""
    fills_missing: str = ""
    """What of it reads columns as numbers alone, missing ones filled, as the report calls it."""
    takes_missing: str = ""
    """What of it takes missing values and categories as they are, as the report calls it."""
    terms: bool = False
    """Whether it counts words of the row's text."""
    regional: bool = False
    """Whether its formula has a version for each risk region."""

    language: Literal["", "base", "tuned"] = ""
    """The language model that it holds: none, the base model or the tuned one."""
    answer: Answer | None = None
    decoder: bool = False
    """Whether its language model must be a decoder."""
    examples: bool = False
    """Whether its prompt shows solved patients of the training part."""

    views: bool = False
    """Whether it is about texts that are written in several ways (`serialize.views`)."""

    @property
    def reads_text(self) -> bool:
        """Whether it reads the row's text itself."""
        return bool(self.language) or self.terms

    @property
    def held_out(self) -> bool:
        """Whether it is about a table that is held out: for experiments of several tables, and by
        itself only where one is."""
        return self.columns in ("by name", "matched", "own")


_RECORDS = (
    Comparator(
        name="score2",
        words="SCORE2",
        description="SCORE2 with its published coefficients",
        look=Look("#1b6f7a", (0, (9, 2)), "h"),
        shown=12,
        main=10,
        on_request=True,
        columns="formula",
        regional=True,
    ),
    Comparator(
        name="pooled_cohort",
        words="Pooled cohort equations",
        description="the pooled cohort equations with their published coefficients",
        look=Look("#8c3a5b", (0, (9, 2, 2, 2)), "p"),
        shown=12,
        main=10,
        on_request=True,
        columns="formula",
    ),
    Comparator(
        name="framingham",
        words="Framingham CVD",
        description="the Framingham equation with its published coefficients",
        look=Look("#5a5f00", (0, (3, 3)), "d"),
        shown=12,
        main=10,
        on_request=True,
        columns="formula",
    ),
    Comparator(
        name="framingham_bmi",
        words="Framingham CVD (BMI)",
        description="the Framingham equation with body-mass index and its published coefficients",
        look=Look("#7d4f8f", (0, (3, 3, 1, 3)), "H"),
        shown=12,
        main=10,
        on_request=True,
        columns="formula",
    ),
    Comparator(
        name="prevalence",
        words="Prevalence",
        description="the training part's share of events, for every patient",
        look=Look("#555", (0, (1, 4)), "+"),
        shown=13,
        main=13,
    ),
    Comparator(
        name="age_sex_logistic_regression",
        words="Age and sex only",
        description="logistic regression with an L2 penalty on age and sex alone, fitted on the training part; the penalty "
        "by cross-validation in it",
        look=Look("#666", (0, (8, 3)), "X"),
        shown=9,
        main=11,
        rival="logistic regression on age and sex",
        fitted=True,
        columns="age and sex",
        fills_missing="regressions",
    ),
    Comparator(
        name="logistic_regression",
        words="Logistic regression",
        description="logistic regression with an L2 penalty, fitted on the training part; the penalty by cross-validation "
        "in it",
        look=Look("#d55e00", (0, (5, 2)), "s"),
        shown=6,
        main=3,
        rival="logistic regression",
        in_curves=True,
        fitted=True,
        columns="all",
        fills_missing="regressions",
    ),
    Comparator(
        name="spline_regression",
        words="Spline regression",
        description="logistic regression with an L2 penalty and a cubic spline for each number, fitted on the training part; "
        "the penalty by cross-validation in it",
        look=Look("#7a4b00", (0, (3, 1)), "P"),
        shown=8,
        main=5,
        rival="spline regression",
        fitted=True,
        columns="all",
        fills_missing="regressions",
    ),
    Comparator(
        name="lightgbm",
        words="LightGBM",
        description="gradient-boosted trees, fitted on the training part; leaves, penalty and number of trees by "
        "cross-validation in it (of 40,000 rows or more the number by the log-loss of the validation part)",
        look=Look("#009e73", (0, (7, 1.5, 1, 1.5, 1, 1.5)), "D"),
        shown=7,
        main=4,
        rival="LightGBM",
        in_curves=True,
        fitted=True,
        columns="all",
        takes_missing="LightGBM",
    ),
    Comparator(
        name="logistic_regression_by_name",
        words="Logistic regression, columns matched by name",
        description="logistic regression with an L2 penalty, fitted on the training tables' columns that a held-out "
        "table has by the same name or known meaning",
        look=Look("#ff7f50", (0, (5, 3, 2, 3)), "2"),
        shown=7,
        main=6,
        rival="logistic regression on columns matched by name",
        fitted=True,
        like="logistic_regression",
        columns="by name",
        fills_missing="regressions",
    ),
    Comparator(
        name="logistic_regression_matched",
        words="Logistic regression, columns matched automatically",
        description="logistic regression with an L2 penalty, fitted on the training tables' columns that were found in "
        "a held-out table automatically, by words, units and values",
        look=Look("#a63a00", (0, (4, 2, 1, 2)), "3"),
        shown=7,
        main=6,
        rival="logistic regression on automatically matched columns",
        fitted=True,
        like="logistic_regression",
        columns="matched",
        fills_missing="regressions",
    ),
    Comparator(
        name="logistic_regression_local",
        words="Logistic regression, local",
        description="logistic regression with an L2 penalty, fitted on a table's own rows and columns alone; of a "
        "held-out table by cross-validation",
        look=Look("#c08040", (0, (2, 1, 2, 4)), "4"),
        shown=7,
        main=6,
        fitted=True,
        like="logistic_regression",
        columns="own",
        fills_missing="regressions",
    ),
    Comparator(
        name="lightgbm_by_name",
        words="LightGBM, columns matched by name",
        description="gradient-boosted trees, fitted on the training tables' columns that a held-out table has by the "
        "same name or known meaning",
        look=Look("#66c2a5", (0, (7, 2, 1, 2)), "8"),
        shown=7,
        main=6,
        rival="LightGBM on columns matched by name",
        fitted=True,
        like="lightgbm",
        columns="by name",
        takes_missing="LightGBM",
    ),
    Comparator(
        name="lightgbm_matched",
        words="LightGBM, columns matched automatically",
        description="gradient-boosted trees, fitted on the training tables' columns that were found in a held-out "
        "table automatically, by words, units and values",
        look=Look("#00624a", (0, (6, 1, 2, 1)), "|"),
        shown=7,
        main=6,
        rival="LightGBM on automatically matched columns",
        fitted=True,
        like="lightgbm",
        columns="matched",
        takes_missing="LightGBM",
    ),
    Comparator(
        name="lightgbm_local",
        words="LightGBM, local",
        description="gradient-boosted trees, fitted on a table's own rows and columns alone; of a held-out table by "
        "cross-validation",
        look=Look("#3f8f7f", (0, (3, 1, 1, 4)), "_"),
        shown=7,
        main=6,
        fitted=True,
        like="lightgbm",
        columns="own",
        takes_missing="LightGBM",
    ),
    Comparator(
        name="tfidf",
        words="TF-IDF of the text",
        description="logistic regression with an L2 penalty on TF-IDF of the text, fitted on the training part; the penalty "
        "by the log-loss of the validation part",
        look=Look("#3b5d00", (0, (2, 2)), "<"),
        shown=10,
        main=6,
        rival="TF-IDF with logistic regression",
        fitted=True,
        terms=True,
    ),
    Comparator(
        name="embedding",
        words="Frozen LLM embedding",
        description="logistic regression with an L2 penalty on hidden states of the untuned language model, fitted on the "
        "training part; the penalty by the log-loss of the validation part",
        look=Look("#5e3c99", (0, (6, 2, 2, 2)), ">"),
        shown=11,
        main=7,
        fitted=True,
        language="base",
        answer="states",
    ),
    Comparator(
        name="zero_shot",
        words="Zero-shot LLM",
        description="the untuned language model",
        look=Look("#333", (0, (1, 1.2)), "v"),
        shown=2,
        main=9,
        in_curves=True,
        language="base",
        answer="logits",
        decoder=True,
    ),
    Comparator(
        name="few_shot",
        words="Few-shot LLM",
        description="the untuned language model, whose prompt shows solved patients of the training part",
        look=Look("#a6508a", (0, (4, 1.5, 1, 1.5)), "^"),
        shown=3,
        main=8,
        in_curves=True,
        language="base",
        answer="logits",
        decoder=True,
        examples=True,
    ),
    Comparator(
        name="free_generation",
        words="Free generation, parsed",
        description="the untuned language model, whose written answer is parsed",
        look=Look("#4d4d00", (0, (1, 2, 3, 2)), "1"),
        shown=4,
        main=12,
        on_request=True,
        language="base",
        answer="words",
        decoder=True,
    ),
    Comparator(
        name="tuned",
        words="Tuned LLM",
        description="a language model fine-tuned on the training part",
        look=Look("#0072b2", "-", "o", width=2.2, above=True),
        shown=1,
        main=1,
        in_curves=True,
        fitted=True,
        language="tuned",
        answer="head",
    ),
    Comparator(
        name="tuned_matched",
        words="Tuned LLM, columns matched automatically",
        description="the tuned language model, which reads a held-out table in the training tables' words; its columns "
        "were matched automatically, by words, units and values",
        look=Look("#4fa3d1", (0, (5, 1)), "."),
        shown=1,
        main=2,
        like="tuned",
        needs=("tuned",),
        columns="matched",
        views=True,
    ),
    Comparator(
        name="stacked",
        words="Stacked",
        description="the tuned language model beside logistic regression and LightGBM on the columns, weighted on the "
        "validation part",
        look=Look("#b00020", "-", "*", width=1),
        shown=5,
        main=2,
        fitted=True,
        needs=("tuned",),
        columns="all",
        fills_missing="regressions",
        takes_missing="LightGBM",
    ),
)
COMPARATORS: dict[str, Comparator] = {record.name: record for record in _RECORDS}
"""Name -> record, in the order in which their risks are made: each after those that it stands
on."""

if TYPE_CHECKING:  # pydantic can read the names off the records, mypy cannot
    ComparatorName = str
else:
    ComparatorName = Literal[tuple(COMPARATORS)]


def having(fact: Callable[[Comparator], object]) -> tuple[str, ...]:
    """Names of the comparators of which this is true."""
    return tuple(name for name, record in COMPARATORS.items() if fact(record))


def main_model(models: Iterable[str]) -> str:
    """The model that a report is about, by `Comparator.main`; of unknown ones the first by name."""
    known = {record.name: (record.main, place) for place, record in enumerate(COMPARATORS.values())}
    return min(models, key=lambda name: (known.get(name, (math.inf, 0)), name))


def beside(other: str, models: Container[str]) -> str:
    """Which form of the tuned model another of the `models` is compared with: where that matches a
    held-out table's columns itself, the one that does so too."""
    alike = other in MATCHED and COMPARATORS[other].like != "tuned"
    return "tuned_matched" if alike and "tuned_matched" in models else "tuned"


PUBLISHED_SCORES = having(lambda one: one.columns == "formula")
"""Risk scores with fixed coefficients."""
IN_WORDS = having(lambda one: one.answer == "words")
"""Those whose answers, in words, carry no probability: a risk that is neither 1 nor 0 is none."""
MATCHED = having(lambda one: one.columns in ("by name", "matched"))
"""Those that match the columns of a held-out table themselves."""
LANGUAGE = having(lambda one: one.language)
"""Those that hold a language model."""
ON_LANGUAGE = having(lambda one: one.language or set(one.needs) & set(LANGUAGE))
"""Those, and what stands on one of them."""
ON_TUNED = having(lambda one: one.language == "tuned" or "tuned" in one.needs)
"""The tuned model, and what stands on it."""

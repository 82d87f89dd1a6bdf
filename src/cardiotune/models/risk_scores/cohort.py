"""From a cohort's columns to the inputs of the published scores, and to a comparator's risks."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.comparators import COMPARATORS
from cardiotune.data import roles, small_counts
from cardiotune.data.schema import codes_of
from cardiotune.errors import DataError
from cardiotune.models.risk_scores.american import framingham, framingham_bmi, pooled_cohort
from cardiotune.models.risk_scores.rows import Array, Beyond, PublishedRisks, Region, to_mg_dl, to_mmol_l
from cardiotune.models.risk_scores.score2 import score2
from cardiotune.settings import Column, Meaning

log = logging.getLogger(__name__)


class Input(NamedTuple):
    """One input of a score: what its column means, and in a flag the words for 1 and 0."""

    meaning: Meaning
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()


YES, NO = ("yes", "true", "1"), ("no", "false", "0")
INPUTS = {
    "age_years": Input("age"),
    "male": Input("sex"),
    "black": Input(
        "ethnicity",
        ("black", "african", "caribbean", "any other black"),
        (
            "white",
            "mixed",
            "asian",
            "chinese",
            "other",
            "indian",
            "pakistani",
            "bangladeshi",
            "british",
            "irish",
            "any",
        ),
    ),
    "smoker": Input(
        "smoking",
        (*YES, "current", "smoker", "only occasionally"),
        (*NO, "never", "previous", "former", "ex", "past", "non", "not", "nonsmoker"),
    ),
    "diabetes": Input("diabetes", YES, NO),
    "bp_medication": Input("blood_pressure_medication", YES, NO),
    "sbp_mmhg": Input("systolic_pressure"),
    "total_cholesterol": Input("total_cholesterol"),
    "hdl": Input("hdl_cholesterol"),
    "bmi_kg_m2": Input("body_mass_index"),
}
OPTIONAL = {"black": "everybody is scored with the equations for white people"}
LIPIDS = ("total_cholesterol", "hdl")
_TREATED = ("age_years", "male", "smoker", "diabetes", "sbp_mmhg", "bp_medication")


class Published(NamedTuple):
    """A score: its function, the inputs that it takes, and the unit of its lipids."""

    function: Callable[..., PublishedRisks]
    inputs: tuple[str, ...]
    lipids: str = "mg_dl"


PUBLISHED: dict[str, Published] = {
    "score2": Published(score2, ("age_years", "male", "smoker", "diabetes", "sbp_mmhg", *LIPIDS), lipids="mmol_l"),
    "pooled_cohort": Published(pooled_cohort, (*_TREATED, "black", *LIPIDS)),
    "framingham": Published(framingham, (*_TREATED, *LIPIDS)),
    "framingham_bmi": Published(framingham_bmi, (*_TREATED, "bmi_kg_m2")),
}
"""The scores by name. QRISK3 is not among them: `docs/decisions.md` says why."""


def check_inputs(frame: pl.DataFrame, columns: Mapping[str, Column], wanted: Collection[str]) -> None:
    """DataError unless the cohort has what the published scores among `wanted` need."""
    for score in PUBLISHED:
        if score in wanted:
            read_inputs(frame, columns, score)


def score_cohort(
    frame: pl.DataFrame,
    columns: Mapping[str, Column],
    score: str,
    region: Region = "low",
    beyond: Beyond = "missing",
) -> PublishedRisks:
    """A score of every row of a cohort. `columns` is the data dictionary; DataError when an input
    is not in it."""
    return _apply(score, read_inputs(frame, columns, score), region, beyond)


def completed_risks(
    frame: pl.DataFrame,
    columns: Mapping[str, Column],
    score: str,
    training: NDArray[np.bool_],
    region: Region = "low",
) -> Array:
    """(rows,) a risk for every row, as a comparator needs: nobody may be left out of a comparison
    for missing a value.

    An unknown input is the median of the `training` rows (rows,), ages beyond the score's range
    count as its nearest end, and SCORE2 uses its term for diabetes. How many rows each concerns is
    logged.
    """
    inputs = read_inputs(frame, columns, score)
    exact = _apply(score, inputs, region, "missing")
    for name, values in inputs.items():
        known = values[training & np.isfinite(values)]
        if not len(known):
            raise DataError(f"{score}: no training row has {name}; leave {score} out of models")
        inputs[name] = np.where(np.isfinite(values), values, np.quantile(known, 0.5, method="inverted_cdf"))
    if exact.left_out:
        told = "; ".join(f"{reason} ({small_counts.told(rows)} rows)" for reason, rows in exact.left_out.items())
        log.warning("%s: scored with the training median, or the nearest end of its range: %s", score, told)
    return _apply(score, inputs, region, "nearest").risk


def _apply(score: str, inputs: Mapping[str, Array], region: Region, beyond: Beyond) -> PublishedRisks:
    published = PUBLISHED[score]
    convert = to_mg_dl if published.lipids == "mg_dl" else np.asarray
    values: dict[str, Any] = {
        f"{name}_{published.lipids}" if name in LIPIDS else name: convert(values) if name in LIPIDS else values
        for name, values in inputs.items()
    }
    if COMPARATORS[score].regional:
        values["region"] = region
    return published.function(**values, beyond=beyond)


def read_inputs(frame: pl.DataFrame, columns: Mapping[str, Column], score: str) -> dict[str, Array]:
    """Input -> (rows,) floats, NaN where not known; flags are 0 and 1, lipids mmol/L.

    DataError when the dictionary names no column for an input, or not the unit of a lipid.
    """
    found: dict[str, Array] = {}
    absent: list[str] = []
    learned = roles.learn(columns)
    for name in PUBLISHED[score].inputs:
        meaning = INPUTS[name].meaning
        column = learned.columns.get(meaning)
        if column is not None and column in frame.columns:
            found[name] = _read(frame[column], columns[column], name, column)
        elif name in OPTIONAL:
            log.warning("%s: the dictionary names no %s; %s", score, name, OPTIONAL[name])
            found[name] = np.zeros(frame.height)
        else:
            why = learned.passed_over.get(meaning)
            absent.append(f"{meaning} ({why})" if why else meaning)
    if absent:
        raise DataError(
            f"{score}: data.columns has no {', '.join(absent)}; give each a column with `meaning:`, such as `meaning: "
            f"systolic_pressure`, or leave {score} out of models"
        )
    return found


def _read(values: pl.Series, column: Column, name: str, title: str) -> Array:
    if name == "male":
        return _male(values, column, title)
    if INPUTS[name].yes:
        return _flag(values, column, name, title)
    numbers = roles.scaled(INPUTS[name].meaning, values, title, column).fill_null(np.nan).to_numpy()
    if name not in LIPIDS:
        return numbers
    unit = (column.unit or "").replace(" ", "").casefold()
    if unit not in ("mmol/l", "mg/dl"):
        raise DataError(f"data.columns.{title}.unit: expected mmol/L or mg/dL, found {column.unit or 'none'}")
    return numbers if unit == "mmol/l" else to_mmol_l(numbers)


def _male(values: pl.Series, column: Column, title: str) -> Array:
    """1 for men and 0 for women, NaN for all other codes."""
    codes = values.cast(pl.String)
    known = roles.sex_of(title, column, codes.drop_nulls().unique())
    if not known:
        raise DataError(
            f"data.columns.{title}.codes: no code is in words that male is read from; expected such as {{1: woman, 2: man}}"
        )
    sides = {code: float(side == "man") for code, side in known.items()}
    return codes.replace_strict(sides, default=None, return_dtype=pl.Float64).fill_null(np.nan).to_numpy()


def _flag(values: pl.Series, column: Column, name: str, title: str) -> Array:
    """1 and 0 by the words that the dictionary has for the codes; NaN for other words."""
    meaning = INPUTS[name]
    codes = values.cast(pl.String).str.replace(r"\.0$", "")
    words = {code: codes_of(column).get(code, code).casefold().strip() for code in codes.drop_nulls().unique()}
    sides = {code: _side(word, meaning) for code, word in words.items()}
    if sides and all(np.isnan(side) for side in sides.values()):
        raise DataError(
            f"data.columns.{title}.codes: no code is in words that {name} is read from; expected words that begin with "
            f"{', '.join(meaning.yes)} (1) or {', '.join(meaning.no)} (0)"
        )
    return codes.replace_strict(sides, default=None, return_dtype=pl.Float64).fill_null(np.nan).to_numpy()


def _side(word: str, meaning: Input) -> float:
    """1, 0 or NaN: which list has the longest beginning of this word."""
    longest = [max((len(b) for b in begins if _begins(word, b)), default=0) for begins in (meaning.yes, meaning.no)]
    return float("nan") if longest[0] == longest[1] else float(longest[0] > longest[1])


def _begins(word: str, beginning: str) -> bool:
    """Whether `word` begins with these whole words."""
    return word == beginning or (word.startswith(beginning) and not word[len(beginning)].isalnum())

"""What the published scores share: inputs with units, ranges, reasons for having no risk, and
linear predictors.

Every argument is (n,) or a scalar for all rows. Flags (`male`, `black`, `smoker`, `diabetes`,
`bp_medication`) are 0 and 1; NaN is "not known". `smoker` means a current smoker, `bp_medication`
that the pressure is a treated one. Ages are whole or decimal: a range of 40 to 69 years holds all
who are not yet 70. A row that a score is not made for has no risk, and is counted under the reason.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Region = Literal["low", "moderate", "high", "very_high"]
Beyond = Literal["missing", "nearest"]
"""What becomes of a row beyond a score's range: no risk, or the risk at the nearest end of the
range."""

MG_DL_PER_MMOL_L = 38.67
"""Of cholesterol, whose molar mass is 386.65 g/mol."""
FLAGS = ("male", "black", "smoker", "diabetes", "bp_medication")


class PublishedRisks(NamedTuple):
    """Risks (n,) from 0 to 1, NaN where there is none, and how many rows have each reason for that
    (or several)."""

    risk: Array
    left_out: dict[str, int]


def to_mg_dl(mmol_l: ArrayLike) -> Array:
    """Cholesterol in mg/dL from mmol/L."""
    return np.asarray(mmol_l, float) * MG_DL_PER_MMOL_L


def to_mmol_l(mg_dl: ArrayLike) -> Array:
    """Cholesterol in mmol/L from mg/dL."""
    return np.asarray(mg_dl, float) / MG_DL_PER_MMOL_L


class Rows:
    """The inputs by name, each (n,), and the rows that have no risk by the reason for it."""

    def __init__(self, ages: tuple[int, int], beyond: Beyond, **inputs: ArrayLike) -> None:
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(values, float)) for values in inputs.values()))
        self.values: dict[str, Array] = {name: array.copy() for name, array in zip(inputs, arrays, strict=True)}
        self.reasons: dict[str, NDArray[np.bool_]] = {}
        for name, array in self.values.items():
            self.leave_out(f"{name} not known", np.isnan(array))
            if name in FLAGS:
                self.leave_out(f"{name} neither 0 nor 1", ~np.isnan(array) & (array != 0) & (array != 1))
            else:
                self.leave_out(f"{name} not above 0", array <= 0)
        age, (first, last) = self.values["age_years"], ages
        if beyond == "missing":
            self.leave_out(f"younger than {first}", age < first)
            self.leave_out(f"older than {last}", age >= last + 1)
        self.values["age_years"] = np.clip(age, first, last + 1)

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def log(self, name: str) -> Array:
        """Natural logarithm; of 1 where there is no risk anyhow."""
        positive = self.values[name] > 0
        return np.log(np.where(positive, self.values[name], 1.0))

    def leave_out(self, reason: str, rows: NDArray[np.bool_]) -> None:
        """Give `rows` (n,) no risk, for a reason in words."""
        if rows.any():
            self.reasons[reason] = rows

    def scored(self, risk: Array) -> PublishedRisks:
        """`risk` (n,) without those that were left out."""
        for rows in self.reasons.values():
            risk = np.where(rows, np.nan, risk)
        return PublishedRisks(risk, {reason: int(rows.sum()) for reason, rows in self.reasons.items()})


def linear(terms: Mapping[str, Array], coefficients: Mapping[str, tuple[float, ...]], group: NDArray[np.int_]) -> Array:
    """(n,) sum of term x coefficient, where `group` (n,) says which of each term's coefficients is
    the row's."""
    parts = [np.asarray(coefficients[name])[group] * terms[name] for name in coefficients]
    return np.asarray(np.sum(parts, axis=0))


def cox(predictor: Array, mean: tuple[float, ...], survival: tuple[float, ...], group: NDArray[np.int_]) -> Array:
    """1 - baseline survival ^ exp(linear predictor - its mean)."""
    return np.asarray(1 - np.asarray(survival)[group] ** np.exp(predictor - np.asarray(mean)[group]))


def group_of(rows: Rows, *flags: str) -> NDArray[np.int_]:
    """(n,) number of the row's group: its flags as binary digits; 0 where one is not known."""
    known = [np.nan_to_num(rows[flag]).clip(0, 1).astype(int) for flag in flags]
    return np.asarray(sum(flag << place for place, flag in enumerate(reversed(known))))

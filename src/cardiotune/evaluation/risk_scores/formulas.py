"""10-year risks by published scores, as pure functions of arrays with units.

Every argument is (n,) or a scalar for all rows. Flags (`male`, `black`, `smoker`, `diabetes`, `bp_medication`) are 0 and
1; NaN is "not known". `smoker` means a current smoker, `bp_medication` that the pressure is a treated one. Ages are whole
or decimal: a range of 40 to 69 years holds all who are not yet 70. A row that a score is not made for has no risk, and is
counted under the reason.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Region = Literal["low", "moderate", "high", "very_high"]
Beyond = Literal["missing", "nearest"]
"""What becomes of a row beyond a score's range: no risk, or the risk at the nearest end of the range."""

MG_DL_PER_MMOL_L = 38.67
"""Of cholesterol, whose molar mass is 386.65 g/mol."""
FLAGS = ("male", "black", "smoker", "diabetes", "bp_medication")


class Scored(NamedTuple):
    """Risks (n,) from 0 to 1, NaN where there is none, and how many rows have each reason for that (or several)."""

    risk: Array
    left_out: dict[str, int]


def to_mg_dl(mmol_l: ArrayLike) -> Array:
    """Cholesterol in mg/dL from mmol/L."""
    return np.asarray(mmol_l, float) * MG_DL_PER_MMOL_L


def to_mmol_l(mg_dl: ArrayLike) -> Array:
    """Cholesterol in mmol/L from mg/dL."""
    return np.asarray(mg_dl, float) / MG_DL_PER_MMOL_L


class _Rows:
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
        if rows.any():
            self.reasons[reason] = rows

    def scored(self, risk: Array) -> Scored:
        for rows in self.reasons.values():
            risk = np.where(rows, np.nan, risk)
        return Scored(risk, {reason: int(rows.sum()) for reason, rows in self.reasons.items()})


def _linear(
    terms: Mapping[str, Array], coefficients: Mapping[str, tuple[float, ...]], group: NDArray[np.int_]
) -> Array:
    """(n,) sum of term x coefficient, where `group` (n,) says which of each term's coefficients is the row's."""
    parts = [np.asarray(coefficients[name])[group] * terms[name] for name in coefficients]
    return np.asarray(np.sum(parts, axis=0))


def _cox(linear: Array, mean: tuple[float, ...], survival: tuple[float, ...], group: NDArray[np.int_]) -> Array:
    """1 - baseline survival ^ exp(linear predictor - its mean)."""
    return np.asarray(1 - np.asarray(survival)[group] ** np.exp(linear - np.asarray(mean)[group]))


def _group(rows: _Rows, *flags: str) -> NDArray[np.int_]:
    """(n,) number of the row's group: its flags as binary digits; 0 where one is not known."""
    known = [np.nan_to_num(rows[flag]).clip(0, 1).astype(int) for flag in flags]
    return np.asarray(sum(flag << place for place, flag in enumerate(reversed(known))))


# ---------------------------------------------------------------------------------------------------------------------
# SCORE2

SCORE2 = {
    "age": (0.4648, 0.3742),
    "smoker": (0.7744, 0.6012),
    "sbp": (0.3131, 0.2777),
    "diabetes": (0.8096, 0.6457),
    "total_cholesterol": (0.1002, 0.1458),
    "hdl": (-0.2606, -0.2698),
    "age x smoker": (-0.1088, -0.0755),
    "age x sbp": (-0.0277, -0.0255),
    "age x total_cholesterol": (-0.0226, -0.0281),
    "age x hdl": (0.0613, 0.0426),
    "age x diabetes": (-0.1272, -0.0983),
}
"""Women, men. SCORE2 working group, Eur Heart J 2021;42:2439, supplementary methods, table 2."""
SCORE2_SURVIVAL = (0.9776, 0.9605)
SCORE2_SCALES: dict[Region, tuple[tuple[float, float], tuple[float, float]]] = {
    "low": ((-0.7380, 0.7019), (-0.5699, 0.7476)),
    "moderate": ((-0.3143, 0.7701), (-0.1565, 0.8009)),
    "high": ((0.5710, 0.9369), (0.3207, 0.9360)),
    "very_high": ((0.9412, 0.8329), (0.5836, 0.8294)),
}
"""Region -> scale 1 and scale 2 of women and of men; supplementary methods, table 3. The United Kingdom is `low`."""


def score2(
    *,
    age_years: ArrayLike,
    male: ArrayLike,
    smoker: ArrayLike,
    sbp_mmhg: ArrayLike,
    total_cholesterol_mmol_l: ArrayLike,
    hdl_mmol_l: ArrayLike,
    diabetes: ArrayLike = 0,
    region: Region = "low",
    beyond: Beyond = "missing",
) -> Scored:
    """SCORE2: fatal and non-fatal cardiovascular disease, ages 40 to 69, without diabetes, recalibrated to a region.

    SCORE2 working group, Eur Heart J 2021;42:2439, supplementary methods, tables 2 to 4. From 70 on SCORE2-OP is the
    score to use, which is not here. It was derived with a term for diabetes but is not meant for diabetics: they have
    no risk, or with `beyond="nearest"` the one that this term gives.
    """
    rows = _Rows(
        (40, 69),
        beyond,
        age_years=age_years,
        male=male,
        smoker=smoker,
        sbp_mmhg=sbp_mmhg,
        total_cholesterol_mmol_l=total_cholesterol_mmol_l,
        hdl_mmol_l=hdl_mmol_l,
        diabetes=diabetes,
    )
    if beyond == "missing":
        rows.leave_out("diabetes", rows["diabetes"] == 1)
    men, age = _group(rows, "male"), (rows["age_years"] - 60) / 5
    terms = {
        "smoker": rows["smoker"],
        "sbp": (rows["sbp_mmhg"] - 120) / 20,
        "diabetes": rows["diabetes"],
        "total_cholesterol": rows["total_cholesterol_mmol_l"] - 6,
        "hdl": (rows["hdl_mmol_l"] - 1.3) / 0.5,
    }
    terms |= {"age": age} | {f"age x {name}": age * term for name, term in terms.items()}
    # log(-log(1 - risk)) before it is recalibrated: the baseline's own, plus the linear predictor.
    log_hazard = np.log(-np.log(np.asarray(SCORE2_SURVIVAL)[men])) + _linear(terms, SCORE2, men)
    first, second = np.asarray(SCORE2_SCALES[region])[men].T
    return rows.scored(-np.expm1(-np.exp(first + second * log_hazard)))


# ---------------------------------------------------------------------------------------------------------------------
# pooled cohort equations

POOLED = {
    "age": (-29.799, 12.344, 17.114, 2.469),
    "age x age": (4.884, 0.0, 0.0, 0.0),
    "total_cholesterol": (13.540, 11.853, 0.940, 0.302),
    "age x total_cholesterol": (-3.114, -2.664, 0.0, 0.0),
    "hdl": (-13.578, -7.990, -18.920, -0.307),
    "age x hdl": (3.149, 1.769, 4.475, 0.0),
    "treated": (2.019, 1.797, 29.291, 1.916),
    "age x treated": (0.0, 0.0, -6.432, 0.0),
    "untreated": (1.957, 1.764, 27.820, 1.809),
    "age x untreated": (0.0, 0.0, -6.087, 0.0),
    "smoker": (7.574, 7.837, 0.691, 0.549),
    "age x smoker": (-1.665, -1.795, 0.0, 0.0),
    "diabetes": (0.661, 0.658, 0.874, 0.645),
}
"""White women, white men, Black women, Black men; of logarithms. Goff et al. 2014, appendix 7, table A."""
POOLED_MEAN, POOLED_SURVIVAL = (-29.18, 61.18, 86.61, 19.54), (0.9665, 0.9144, 0.9533, 0.8954)


def pooled_cohort(
    *,
    age_years: ArrayLike,
    male: ArrayLike,
    black: ArrayLike,
    smoker: ArrayLike,
    diabetes: ArrayLike,
    sbp_mmhg: ArrayLike,
    bp_medication: ArrayLike,
    total_cholesterol_mg_dl: ArrayLike,
    hdl_mg_dl: ArrayLike,
    beyond: Beyond = "missing",
) -> Scored:
    """Pooled cohort equations: first hard atherosclerotic cardiovascular disease, ages 40 to 79.

    Goff et al., Circulation 2014;129(suppl 2):S49, appendix 7, table A. `black` chooses the equations for African
    Americans; for all others the guideline offers those for white people.
    """
    rows = _Rows(
        (40, 79),
        beyond,
        age_years=age_years,
        male=male,
        black=black,
        smoker=smoker,
        diabetes=diabetes,
        sbp_mmhg=sbp_mmhg,
        bp_medication=bp_medication,
        total_cholesterol_mg_dl=total_cholesterol_mg_dl,
        hdl_mg_dl=hdl_mg_dl,
    )
    terms = _log_terms(rows)
    age = terms["age"]
    terms |= {f"age x {name}": age * term for name, term in terms.items()}
    group = _group(rows, "black", "male")
    return rows.scored(_cox(_linear(terms, POOLED, group), POOLED_MEAN, POOLED_SURVIVAL, group))


def _log_terms(rows: _Rows) -> dict[str, Array]:
    """What the pooled cohort equations and Framingham's share: logarithms, the pressure by its treatment, and flags."""
    pressure, treated = rows.log("sbp_mmhg"), rows["bp_medication"]
    terms = {"age": rows.log("age_years"), "treated": treated * pressure, "untreated": (1 - treated) * pressure}
    if "hdl_mg_dl" in rows.values:
        terms |= {"total_cholesterol": rows.log("total_cholesterol_mg_dl"), "hdl": rows.log("hdl_mg_dl")}
    return terms | {"smoker": rows["smoker"], "diabetes": rows["diabetes"]}


# ---------------------------------------------------------------------------------------------------------------------
# Framingham general cardiovascular disease

FRAMINGHAM = {
    "age": (2.32888, 3.06117),
    "total_cholesterol": (1.20904, 1.12370),
    "hdl": (-0.70833, -0.93263),
    "untreated": (2.76157, 1.93303),
    "treated": (2.82263, 1.99881),
    "smoker": (0.52873, 0.65451),
    "diabetes": (0.69154, 0.57367),
}
"""Women, men; of logarithms. D'Agostino et al. 2008; framinghamheartstudy.org lists the same."""
FRAMINGHAM_MEAN, FRAMINGHAM_SURVIVAL = (26.1931, 23.9802), (0.95012, 0.88936)
FRAMINGHAM_BMI = {
    "age": (2.72107, 3.11296),
    "bmi": (0.51125, 0.79277),
    "untreated": (2.81291, 1.85508),
    "treated": (2.88267, 1.92672),
    "smoker": (0.61868, 0.70953),
    "diabetes": (0.77763, 0.53160),
}
"""Women, men; of logarithms. D'Agostino et al. 2008, the simple model with office measurements alone."""
FRAMINGHAM_BMI_MEAN, FRAMINGHAM_BMI_SURVIVAL = (26.0145, 23.9388), (0.94833, 0.88431)


def framingham(
    *,
    total_cholesterol_mg_dl: ArrayLike,
    hdl_mg_dl: ArrayLike,
    beyond: Beyond = "missing",
    **shared: Any,
) -> Scored:
    """Framingham general cardiovascular disease with lipids, ages 30 to 74.

    `shared`: age_years, male, smoker, diabetes, sbp_mmhg and bp_medication. D'Agostino et al., Circulation 2008;117:743.
    """
    rows = _framingham_rows(beyond, **shared, total_cholesterol_mg_dl=total_cholesterol_mg_dl, hdl_mg_dl=hdl_mg_dl)
    men = _group(rows, "male")
    return rows.scored(_cox(_linear(_log_terms(rows), FRAMINGHAM, men), FRAMINGHAM_MEAN, FRAMINGHAM_SURVIVAL, men))


def framingham_bmi(*, bmi_kg_m2: ArrayLike, beyond: Beyond = "missing", **shared: Any) -> Scored:
    """Framingham general cardiovascular disease without blood tests, ages 30 to 74; `shared` as in `framingham`.

    D'Agostino et al., Circulation 2008;117:743.
    """
    rows = _framingham_rows(beyond, **shared, bmi_kg_m2=bmi_kg_m2)
    men, terms = _group(rows, "male"), _log_terms(rows) | {"bmi": rows.log("bmi_kg_m2")}
    return rows.scored(_cox(_linear(terms, FRAMINGHAM_BMI, men), FRAMINGHAM_BMI_MEAN, FRAMINGHAM_BMI_SURVIVAL, men))


def _framingham_rows(
    beyond: Beyond,
    *,
    age_years: ArrayLike,
    male: ArrayLike,
    smoker: ArrayLike,
    diabetes: ArrayLike,
    sbp_mmhg: ArrayLike,
    bp_medication: ArrayLike,
    **others: ArrayLike,
) -> _Rows:
    return _Rows(
        (30, 74),
        beyond,
        age_years=age_years,
        male=male,
        smoker=smoker,
        diabetes=diabetes,
        sbp_mmhg=sbp_mmhg,
        bp_medication=bp_medication,
        **others,
    )

"""Ten-year risks by the pooled cohort equations and the Framingham general cardiovascular disease
model."""

from typing import Any

from numpy.typing import ArrayLike

from cardiotune.models.risk_scores.rows import Array, Beyond, PublishedRisks, Rows, cox, group_of, linear

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
"""White women, white men, Black women, Black men; of logarithms. Goff et al. 2014, appendix 7,
table A."""
POOLED_MEAN, POOLED_SURVIVAL = (-29.18, 61.18, 86.61, 19.54), (0.9665, 0.9144, 0.9533, 0.8954)


def pooled_cohort(  # an argument an input of the formula
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
) -> PublishedRisks:
    """Pooled cohort equations: first hard atherosclerotic cardiovascular disease, ages 40 to 79.

    Goff et al., Circulation 2014;129(suppl 2):S49, appendix 7, table A. `black` chooses the
    equations for African Americans; for all others the guideline offers those for white people.
    """
    rows = Rows(
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
    group = group_of(rows, "black", "male")
    return rows.scored(cox(linear(terms, POOLED, group), POOLED_MEAN, POOLED_SURVIVAL, group))


def _log_terms(rows: Rows) -> dict[str, Array]:
    """What the pooled cohort equations and Framingham's share: logarithms, the pressure by its
    treatment, and flags."""
    pressure, treated = rows.log("sbp_mmhg"), rows["bp_medication"]
    terms = {"age": rows.log("age_years"), "treated": treated * pressure, "untreated": (1 - treated) * pressure}
    if "hdl_mg_dl" in rows.values:
        terms |= {"total_cholesterol": rows.log("total_cholesterol_mg_dl"), "hdl": rows.log("hdl_mg_dl")}
    return terms | {"smoker": rows["smoker"], "diabetes": rows["diabetes"]}


# --------------------------------------------------------------------------------------------------
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
"""Women, men; of logarithms. D'Agostino et al. 2008, the simple model with office measurements
alone."""
FRAMINGHAM_BMI_MEAN, FRAMINGHAM_BMI_SURVIVAL = (26.0145, 23.9388), (0.94833, 0.88431)


def framingham(  # an argument an input of the formula
    *,
    total_cholesterol_mg_dl: ArrayLike,
    hdl_mg_dl: ArrayLike,
    beyond: Beyond = "missing",
    **shared: Any,
) -> PublishedRisks:
    """Framingham general cardiovascular disease with lipids, ages 30 to 74.

    `shared`: age_years, male, smoker, diabetes, sbp_mmhg and bp_medication. D'Agostino et al.,
    Circulation 2008;117:743.
    """
    rows = _framingham_rows(beyond, **shared, total_cholesterol_mg_dl=total_cholesterol_mg_dl, hdl_mg_dl=hdl_mg_dl)
    men = group_of(rows, "male")
    return rows.scored(cox(linear(_log_terms(rows), FRAMINGHAM, men), FRAMINGHAM_MEAN, FRAMINGHAM_SURVIVAL, men))


def framingham_bmi(*, bmi_kg_m2: ArrayLike, beyond: Beyond = "missing", **shared: Any) -> PublishedRisks:
    """Framingham general cardiovascular disease without blood tests, ages 30 to 74; `shared` as in
    `framingham`.

    D'Agostino et al., Circulation 2008;117:743.
    """
    rows = _framingham_rows(beyond, **shared, bmi_kg_m2=bmi_kg_m2)
    men, terms = group_of(rows, "male"), _log_terms(rows) | {"bmi": rows.log("bmi_kg_m2")}
    return rows.scored(cox(linear(terms, FRAMINGHAM_BMI, men), FRAMINGHAM_BMI_MEAN, FRAMINGHAM_BMI_SURVIVAL, men))


def _framingham_rows(  # an argument an input of the formula
    beyond: Beyond,
    *,
    age_years: ArrayLike,
    male: ArrayLike,
    smoker: ArrayLike,
    diabetes: ArrayLike,
    sbp_mmhg: ArrayLike,
    bp_medication: ArrayLike,
    **others: ArrayLike,
) -> Rows:
    return Rows(
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

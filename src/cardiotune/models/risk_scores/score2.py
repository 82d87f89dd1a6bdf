"""SCORE2: ten-year risk of fatal and non-fatal cardiovascular disease in Europe."""

import numpy as np
from numpy.typing import ArrayLike

from cardiotune.models.risk_scores.rows import Beyond, PublishedRisks, Region, Rows, group_of, linear

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
"""Region -> scale 1 and scale 2 of women and of men; supplementary methods, table 3. The United
Kingdom is `low`."""


def score2(  # an argument an input of the formula
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
) -> PublishedRisks:
    """SCORE2: fatal and non-fatal cardiovascular disease, ages 40 to 69, without diabetes,
    recalibrated to a region.

    SCORE2 working group, Eur Heart J 2021;42:2439, supplementary methods, tables 2 to 4. From 70 on
    SCORE2-OP is the score to use, which is not here. It was derived with a term for diabetes but is
    not meant for diabetics: they have no risk, or with `beyond="nearest"` the one that this term
    gives.
    """
    rows = Rows(
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
    men, age = group_of(rows, "male"), (rows["age_years"] - 60) / 5
    terms = {
        "smoker": rows["smoker"],
        "sbp": (rows["sbp_mmhg"] - 120) / 20,
        "diabetes": rows["diabetes"],
        "total_cholesterol": rows["total_cholesterol_mmol_l"] - 6,
        "hdl": (rows["hdl_mmol_l"] - 1.3) / 0.5,
    }
    terms |= {"age": age} | {f"age x {name}": age * term for name, term in terms.items()}
    # log(-log(1 - risk)) before it is recalibrated: the baseline's own, plus the linear predictor.
    log_hazard = np.log(-np.log(np.asarray(SCORE2_SURVIVAL)[men])) + linear(terms, SCORE2, men)
    first, second = np.asarray(SCORE2_SCALES[region])[men].T
    return rows.scored(-np.expm1(-np.exp(first + second * log_hazard)))

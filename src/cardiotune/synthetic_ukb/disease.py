"""The made-up course of coronary artery disease: who had it before baseline, who gets it when, who
dies or is lost.

Proportional hazards with a constant baseline, so the true risk within any time is known in closed
form.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from cardiotune.synthetic_ukb.people import Floats, Values

Flags = npt.NDArray[np.bool_]

LOG_HAZARD_RATIOS = {
    "women": {
        "age": 0.4648,
        "smoker": 0.7744,
        "sbp": 0.3131,
        "diabetes": 0.8096,
        "cholesterol": 0.1002,
        "hdl": -0.2606,
        "family": np.log(1.229),
        "townsend": np.log(1.035),
        "prs": np.log(1.33),
        "lpa": np.log(1.11),
    },
    "men": {
        "age": 0.3742,
        "smoker": 0.6012,
        "sbp": 0.2777,
        "diabetes": 0.6457,
        "cholesterol": 0.1458,
        "hdl": -0.2698,
        "family": np.log(1.300),
        "townsend": np.log(1.017),
        "prs": np.log(1.33),
        "lpa": np.log(1.11),
    },
}
"""Per 5 years, current smoker, 20 mmHg, diabetes, 1 mmol/L, 0.5 mmol/L (SCORE2 working group 2021,
Eur Heart J 42:2439, supplementary methods table 2, without its interactions with age, which would
not be proportional); family history and Townsend score (QRISK, Hippisley-Cox et al. 2007, BMJ
335:136, table 3); polygenic score per SD (Howe et al. 2020, Hum Mol Genet 29:1388); lipoprotein(a)
per 50 nmol/L (Patel et al. 2021, Arterioscler Thromb Vasc Biol 41:465)."""

TEN_YEAR_HAZARD = {"women": 0.0112, "men": 0.0310}
"""Cumulative, at 60 years and the reference values. Set so that 3 % get the disease within ten
years. Men against women 2.8 (unverified; 1.8 in SCORE2, whose outcome is all cardiovascular
disease)."""
PREVALENT_HAZARD = {"women": 0.0125, "men": 0.047}
"""Likewise for disease before baseline: 5 % have had it."""

HOSPITAL_UNTIL = {
    "England": np.datetime64("2021-03-31"),
    "Scotland": np.datetime64("2021-05-07"),
    "Wales": np.datetime64("2018-03-06"),
}
"""Last day with hospital records, December 2021 freeze (docs/ukb.md). Deaths are known a few months
longer."""
DEATHS_UNTIL = np.datetime64("2021-09-30")
HOSPITAL_FROM = {
    "England": np.datetime64("1993-01-01"),
    "Scotland": np.datetime64("1980-01-01"),
    "Wales": np.datetime64("1991-01-01"),
}
NEVER = np.datetime64("2200-01-01")
DAYS_A_YEAR = 365.25


def covariates(who: Values) -> dict[str, Floats]:
    """The predictors of `LOG_HAZARD_RATIOS`, in its units, zero at its reference values; each
    (rows,)."""
    return {
        "age": (np.floor(who["age"]) - 60) / 5,
        "smoker": (who["smoking"] == 2).astype(float),
        "sbp": (who["sbp"] - 120) / 20,
        "diabetes": who["diabetes"].astype(float),
        "cholesterol": who["cholesterol"] - 6,
        "hdl": (who["hdl"] - 1.3) / 0.5,
        "family": who["family"].astype(float),
        "townsend": who["townsend"] + 1.4,
        "prs": who["prs"],
        "lpa": (who["lpa"] - 20) / 50,
    }


def live_on(who: Values, rng: np.random.Generator) -> Values:
    """Disease before baseline and its treatment, and what happens later; days are NEVER where it
    does not happen.

    Changes `ldl` and adds `cholesterol` (both as measured, under treatment), `prevalent`, `earlier`
    (day of the first disease), `statin`, `bp_drug`, `insulin`, `hazard` (a year), `event` (day),
    `death` (of another cause), `lost`.
    """
    rows = len(who["age"])
    _add_cholesterol(who)
    who["prevalent"] = rng.random(rows) < 1 - np.exp(-_scaled(who, PREVALENT_HAZARD))
    _treat(who, rng)
    _add_cholesterol(who)
    years_ago = np.minimum(rng.exponential(7, rows) + 0.02, who["age"] - 36)
    who["earlier"] = np.where(who["prevalent"], who["visit"] - _days(years_ago), NEVER)
    who["hazard"] = _scaled(who, TEN_YEAR_HAZARD) / 10
    who["event"] = who["visit"] + 1 + _days(rng.exponential(1 / who["hazard"]))
    who["death"] = who["visit"] + 1 + _days(rng.exponential(1 / _mortality(who)))
    lost = rng.random(rows) < 0.003
    who["lost"] = np.where(lost, who["visit"] + 1 + _days(rng.random(rows) * 12), NEVER)
    return who


def true_risk(who: Values, years: float = 10) -> Floats:
    """Chance of the disease within `years`, in a world without other deaths; (rows,), from 0 to
    1."""
    return np.asarray(1 - np.exp(-years * who["hazard"]))


def area_under_curve(risk: Floats, event: Flags) -> float:
    """AUROC by ranks (Mann-Whitney); NaN without both outcomes."""
    events = int(event.sum())
    others = len(event) - events
    if not events or not others:
        return float("nan")
    return float((rankdata(risk)[event].sum() - events * (events + 1) / 2) / (events * others))


def _scaled(who: Values, hazard: dict[str, float]) -> Floats:
    """`hazard`, given at the reference values for each sex, times everybody's hazard ratio."""
    known, male = covariates(who), who["male"]
    ratios = {
        sex: np.exp(sum(value * known[name] for name, value in LOG_HAZARD_RATIOS[sex].items()))
        for sex in ("women", "men")
    }
    return np.asarray(np.where(male, hazard["men"] * ratios["men"], hazard["women"] * ratios["women"]))


def _add_cholesterol(who: Values) -> None:
    who["cholesterol"] = np.maximum(who["ldl"], 0.6) + who["hdl"] + 0.4 * np.minimum(who["tg"], 8)


def _treat(who: Values, rng: np.random.Generator) -> None:
    """Drugs; statins lower LDL. About 17 % take them (Sci Rep 2024, table 1: 16 %), blood pressure
    drugs 21 % (unverified)."""
    male, years = who["male"], who["age"] - 56.5
    sick, diabetes = who["prevalent"], who["diabetes"]
    rows = len(male)
    chance = -2.33 + 0.3 * male + 0.09 * years + 1.9 * diabetes + 3.0 * sick + 0.35 * (who["ldl"] - 3.75)
    who["statin"] = rng.random(rows) < 1 / (1 + np.exp(-chance))
    chance = -1.95 + 0.07 * years + 0.025 * (who["sbp"] - 137) + 1.2 * diabetes + 2.2 * sick
    who["bp_drug"] = rng.random(rows) < 1 / (1 + np.exp(-chance))
    who["insulin"] = who["diabetes"] & (rng.random(rows) < 0.2)
    who["ldl"] = who["ldl"] * np.where(who["statin"], 0.68, 1.0)


def _mortality(who: Values) -> Floats:
    """Hazard a year of death from other causes: doubles in seven years of age; 5 % in ten years
    (unverified)."""
    years = who["age"] - 60
    log_ratio = 0.1 * years + 0.4 * who["male"] + 0.75 * (who["smoking"] == 2) + 0.5 * who["diabetes"]
    return np.asarray(0.0042 * np.exp(log_ratio + 0.4 * who["prevalent"]))


def _days(years: Floats) -> npt.NDArray[np.timedelta64]:
    return np.asarray((np.minimum(years, 150.0) * DAYS_A_YEAR).astype("timedelta64[D]"))

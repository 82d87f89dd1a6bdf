"""Made-up participants at baseline: what is true of them, before anybody wrote it down in codes.

Nothing here was fitted to UK Biobank data. Margins are those that publications give for the whole
cohort, joined by a Gaussian copula. Sources of the numbers, by the letters in the comments:

- [F] Fry et al. 2017, Am J Epidemiol 186:1026, and ukbiobank.ac.uk "Our participants": ages, sex,
  period.
- [J] J Transl Med 2022, 10.1186/s12967-022-03439-y, table 1: Townsend, ethnicity, education,
  cholesterol, CRP.
- [B] BMC Med 2024, 10.1186/s12916-024-03302-5, table 1: BMI, waist, lipids, glucose, HbA1c, never
  smokers.
- [S] Sci Rep 2024, 10.1038/s41598-024-52023-5, table 1: blood pressure, lipid lowering.
- [O] BMJ Open (449,943 participants; table 1 read, its citation unverified): current smokers,
  alcohol.
- [L] Patel et al. 2021, Arterioscler Thromb Vasc Biol 41:465: lipoprotein(a).
- [K] Bycroft et al. 2018, Nature 562:203: relatives.

Everything else, above all correlations and differences between sexes, is (unverified): of the size
that one expects.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import gamma

from cardiotune.data.ukb.fields import centres

Array = npt.NDArray[Any]
Values = dict[str, Array]
Floats = npt.NDArray[np.float64]


CENTRES = {
    **{10003: 0.008, 11001: 0.028, 11002: 0.028, 11003: 0.036, 11004: 0.037},
    **{11005: 0.034, 11006: 0.039, 11007: 0.059, 11008: 0.056, 11009: 0.074},
    **{11010: 0.088, 11011: 0.086, 11012: 0.025, 11013: 0.067, 11014: 0.060},
    **{11016: 0.065, 11017: 0.042, 11018: 0.057, 11020: 0.054, 11021: 0.050},
    **{11022: 0.005, 11023: 0.002},
}
"""Share of participants of every assessment centre (unverified)."""
PILOT = 10003

COPULA = (
    *("bmi", "waist", "height", "sbp", "dbp", "ldl", "hdl", "tg", "lpa", "hba1c", "glucose", "crp"),
    *("cystatin_c", "creatinine", "townsend", "prs"),
)
CORRELATIONS = """
bmi waist .85 | bmi sbp .2 | bmi dbp .25 | bmi hdl -.35 | bmi tg .3 | bmi hba1c .2 | bmi glucose .15 | bmi crp .45
bmi cystatin_c .2 | bmi townsend .1 | waist sbp .2 | waist dbp .25 | waist hdl -.38 | waist tg .35 | waist hba1c .22
waist glucose .15 | waist crp .43 | waist cystatin_c .22 | waist townsend .1 | waist height .1 | sbp dbp .65
sbp tg .12 | ldl tg .2 | ldl hdl -.05 | hdl tg -.45 | hdl crp -.2 | hba1c glucose .4 | hba1c tg .12 | hba1c hdl -.15
crp cystatin_c .2 | crp tg .15 | cystatin_c creatinine .5 | prs ldl .1 | prs lpa .15 | prs sbp .05 | townsend crp .07
townsend hdl -.05
"""
"""Within one sex and age, of normal scores; all (unverified)."""

LINKED = 0.165
"""Chance of being related to the next participant: (1 - LINKED)^2 leaves 30 % with a relative
[K]."""
KINSHIP = np.array([0.25, 0.125, 0.0625])
KINSHIP_SHARES = np.array([0.27, 0.11, 0.62])
"""First, second and third degree; 107,162 pairs, 22,666 of siblings [K], the rest of the shares
(unverified)."""


def draw(rows: int, rng: np.random.Generator) -> Values:
    """`rows` participants. Every value is an array (rows,), in the unit of its field; ages 40 to
    69."""
    who: Values = {"age": _ages(rows, rng), "male": rng.random(rows) < 0.456}  # [F]
    shares = np.array(list(CENTRES.values()))
    centre = rng.choice(len(CENTRES), rows, p=shares / shares.sum())
    scores = rng.standard_normal((rows, len(COPULA))) @ _cholesky().T
    latent = {name: scores[:, i] for i, name in enumerate(COPULA)}
    _relate(who, latent, centre, rng)
    nations = np.array([centres()[str(code)].nation for code in CENTRES])
    who |= {"centre": np.array(list(CENTRES))[centre], "nation": nations[centre], "prs": latent["prs"]}
    who["ethnicity"] = _ethnicities(rows, rng)
    who["visit"] = _visits(who["centre"] == PILOT, rng)
    _measure(who, latent)
    _live(who, rng)
    return who


def _ages(rows: int, rng: np.random.Generator) -> Floats:
    """Years with their fraction: 24 % in their forties, 34 % fifties, 42 % sixties [F], even
    within."""
    decade = rng.choice(3, rows, p=[0.24, 0.34, 0.42])
    return np.asarray(40 + 10 * (decade + rng.random(rows)))


def _visits(pilot: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.datetime64]:
    """Day of the baseline visit: the pilot in spring 2006, all others from April 2007 to July
    2010."""
    start = np.where(pilot, np.datetime64("2006-03-13"), np.datetime64("2007-04-16"))
    days = np.where(pilot, 90, 1200)
    return np.asarray(start + (rng.random(len(pilot)) * days).astype("timedelta64[D]"))


def _cholesky() -> Floats:
    matrix = np.eye(len(COPULA))
    for entry in CORRELATIONS.replace("\n", "|").split("|"):
        if entry.strip():
            one, other, value = entry.split()
            i, j = COPULA.index(one), COPULA.index(other)
            matrix[i, j] = matrix[j, i] = float(value)
    return np.asarray(np.linalg.cholesky(matrix))


def _relate(who: Values, latent: dict[str, Floats], centre: npt.NDArray[np.int64], rng: np.random.Generator) -> None:
    """Chain some participants as relatives: `relative` is the row of one, or -1; most live near,
    some do not."""
    rows = len(centre)
    order = rng.permutation(rows)
    linked = rng.random(rows - 1) < LINKED
    one, other = order[:-1][linked], order[1:][linked]
    kinship = rng.choice(KINSHIP, len(one), p=KINSHIP_SHARES)
    shared = 2 * kinship
    own = latent["prs"].copy()
    latent["prs"][other] = shared * own[one] + np.sqrt(1 - shared**2) * own[other]
    near = rng.random(len(one)) < 0.7
    centre[other[near]] = centre[one[near]]
    relative, degree = np.full(rows, -1), np.zeros(rows)
    relative[other], degree[other] = one, kinship
    who |= {"relative": relative, "kinship": degree}


ETHNICITIES = {
    **{1001: 0.880, 1002: 0.026, 1003: 0.0344},
    **{2001: 0.0012, 2002: 0.0008, 2003: 0.0016, 2004: 0.0020},
    **{3001: 0.0116, 3002: 0.0037, 3003: 0.0005, 3004: 0.0036},
    **{4001: 0.0090, 4002: 0.0066, 4003: 0.0003},
    **{5: 0.0031, 6: 0.0088, -1: 0.0004, -3: 0.0032},
}
"""Field 21000. White 94, mixed 0.6, Asian 1.9, black 1.6, Chinese 0.3, other 0.9 % [J]; finer
groups (unverified)."""


def _ethnicities(rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    shares = np.array(list(ETHNICITIES.values()))
    return np.asarray(rng.choice(list(ETHNICITIES), rows, p=shares / shares.sum()))


def _measure(who: Values, z: dict[str, Floats]) -> None:
    """Measurements and bloods, before treatment; comments give published mean (SD) of both sexes
    together."""
    male, years = who["male"], who["age"] - 56.5
    who["height"] = np.where(male, 175.6 + 6.8 * z["height"], 162.5 + 6.3 * z["height"])
    who["bmi"] = np.where(male, 27.5 * np.exp(0.15 * z["bmi"]), 26.6 * np.exp(0.19 * z["bmi"]))  # 27.4 (4.8) [B]
    who["waist"] = np.where(male, 96.8 + 11.3 * z["waist"], 84.7 + 12.5 * z["waist"])  # 90.3 (13.5) [B]
    who["sbp"] = 137.4 + np.where(male, 3.2, -2.7) + 0.6 * years + 17.4 * z["sbp"]  # 137.4 (18.6) [S]
    who["dbp"] = 82.3 + np.where(male, 1.9, -1.6) + 9.9 * z["dbp"]  # 82.3 (10.1) [S]
    who["hdl"] = np.where(male, 1.26, 1.56) * np.exp(0.23 * z["hdl"])  # 1.45 (0.4) [B]
    who["ldl"] = 3.75 + 0.83 * z["ldl"]  # 3.55 (0.87) after statins [B]
    who["tg"] = np.where(male, 1.70, 1.35) * np.exp(0.5 * z["tg"])  # 1.74 (1.0) [B]
    who["lpa"] = _lipoprotein_a(z["lpa"])
    who["hba1c"] = 34.9 * np.exp(0.10 * z["hba1c"]) + 0.12 * years  # 36.1 (6.8) with diabetes [B]
    who["glucose"] = 4.95 * np.exp(0.11 * z["glucose"])  # 5.12 (1.2) with diabetes [B]
    who["crp"] = 1.3 * np.exp(1.08 * z["crp"])  # mean 2.4 [J]
    who["cystatin_c"] = 0.9 * np.exp(0.15 * z["cystatin_c"]) + 0.006 * years
    who["creatinine"] = np.where(male, 80.0, 64.0) * np.exp(0.17 * z["creatinine"])
    who["townsend"] = np.minimum(gamma.ppf(ndtr(z["townsend"]), 2.63, scale=1.88) - 6.26, 11.0)  # -1.4 (3.0) [J]


def _lipoprotein_a(score: Floats) -> Floats:
    """Quartiles 7.6, 19.6 and 74.8 nmol/L [L]; 20.8 % above 100, 9.2 % above 175 (Welsh 2020,
    PubMed 33624048)."""
    below = ndtri([1e-4, 0.25, 0.5, 0.75, 0.792, 0.908, 0.9999])
    return np.asarray(np.exp(np.interp(score, below, np.log([1.0, 7.6, 19.6, 74.8, 100, 175, 500]))))


def _live(who: Values, rng: np.random.Generator) -> None:
    """Habits, diabetes and family: each a chance that depends on what is known already."""
    male, years = who["male"], who["age"] - 56.5
    poor = who["townsend"] + 1.4
    asian = np.isin(who["ethnicity"], (3001, 3002, 3003))
    rows = len(male)
    current = _happens(-2.47 + 0.35 * male + 0.13 * poor - 0.02 * years, rng)  # 10.4 % [O]
    before = _happens(-0.60 + 0.38 * male + 0.025 * years, rng) & ~current  # never 54.8 % [B]
    who["smoking"] = np.select([current, before], [2, 1], 0)
    bmi = who["bmi"] - 27.4
    who["diabetes"] = _happens(-3.45 + 0.5 * male + 0.05 * years + 0.11 * bmi + 1.2 * asian, rng)  # 5 % (unverified)
    who["hba1c"] = np.where(who["diabetes"], who["hba1c"] + 17 + 12 * rng.standard_normal(rows), who["hba1c"])
    who["glucose"] = np.where(who["diabetes"], who["glucose"] + rng.gamma(1.2, 3.2, rows), who["glucose"])
    for relation, cut in (("father", 0.52), ("mother", 0.95), ("siblings", 1.35)):  # 30, 17 and 9 % (unverified)
        liability = (0.2 * who["prs"] + rng.standard_normal(rows)) / np.sqrt(1.04)
        who[relation] = liability > cut
    who["family"] = who["father"] | who["mother"] | who["siblings"]


def _happens(log_odds: Floats, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    return np.asarray(rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds)))

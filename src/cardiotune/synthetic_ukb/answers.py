"""What was written down about made-up participants at their visits: fields, codes, gaps and
repeats.

Shares of missing cells and of `-1`, `-3`, `-7`, `-10` answers are (unverified), of the size of the
real ones.
"""

import numpy as np
import polars as pl

from cardiotune.synthetic_ukb.disease import DAYS_A_YEAR
from cardiotune.synthetic_ukb.people import Array, Values
from cardiotune.synthetic_ukb.sheet import Flags, Sheet

BLOODS = {
    "30690": ("cholesterol", 3, 0.065),
    "30760": ("hdl", 3, 0.144),
    "30780": ("ldl", 3, 0.067),
    "30870": ("tg", 3, 0.066),
    "30640": ("apob", 3, 0.07),
    "30710": ("crp", 2, 0.067),
    "30720": ("cystatin_c", 3, 0.065),
    "30700": ("creatinine", 1, 0.066),
    "30740": ("glucose", 3, 0.145),
    "30750": ("hba1c", 1, 0.071),
}
"""Field: value, decimals, share missing. Most of it goes together: no blood was drawn."""
NO_BLOOD = 0.05
REPORTABLE = {"30790": ("lpa", 3.8, 189.0), "30710": ("crp", 0.08, 79.5), "30640": ("apob", 0.4, 2.0)}
"""Outside of these limits a cell is empty, and field + 6 says why (data-coding 4917); limits
(unverified)."""

DRUGS = {
    "statin": (1140861958, 1141146234),  # simvastatin, atorvastatin
    "bp_drug": (1140879802, 1141194794),  # amlodipine, bendroflumethiazide
}
ASPIRIN, OMEPRAZOLE = 1140868226, 1140865634
VISITS = {
    1: (0.04, "2012-08-01", 300, (11024,)),
    2: (0.10, "2014-05-01", 1800, (11025, 11026, 11027)),
    3: (0.01, "2019-06-01", 500, (11025, 11026)),
}
"""Repeat visit: share of participants, its first day, days it lasted, its centres."""


def answer(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    """Write everything but health records into `sheet`."""
    _identify(who, sheet, rng)
    _examine(who, sheet, rng)
    _analyse(who, sheet, rng)
    _ask_habits(who, sheet, rng)
    _ask_health(who, sheet, rng)
    _repeat(who, sheet, rng)


def _chance(sheet: Sheet, share: float, rng: np.random.Generator) -> Flags:
    return np.asarray(rng.random(sheet.rows) < share)


def _refuse(values: Array, rng: np.random.Generator, dont_know: float = 0.0, refused: float = 0.004) -> Array:
    """Some answers become -1, do not know, or -3, prefer not to answer."""
    dice = rng.random(len(values))
    return np.where(dice < refused, -3, np.where(dice < refused + dont_know, -1, values))


def _identify(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    born = who["visit"] - (who["age"] * DAYS_A_YEAR).astype("timedelta64[D]")
    sheet.put("eid", who["eid"])
    sheet.put("31-0.0", who["male"].astype(np.int64))
    sheet.put("34-0.0", born.astype("datetime64[Y]").astype(np.int64) + 1970)
    sheet.put("52-0.0", born.astype("datetime64[M]").astype(np.int64) % 12 + 1)
    sheet.put("53-0.0", who["visit"])
    sheet.put("54-0.0", who["centre"])
    sheet.put_rounded("189-0.0", who["townsend"], 2, ~_chance(sheet, 0.0012, rng))
    sheet.put("21000-0.0", who["ethnicity"], ~_chance(sheet, 0.002, rng))
    sheet.put("21003-0.0", np.floor(who["age"]).astype(np.int64))
    sheet.put("21022-0.0", np.floor(who["age"]).astype(np.int64))
    genotyped = ~_chance(sheet, 0.03, rng)
    noise = 0.8 * who["prs"] + 0.6 * rng.standard_normal(sheet.rows)
    sheet.put_rounded("26223-0.0", noise, 4, genotyped)
    sheet.put_rounded("26227-0.0", who["prs"], 4, genotyped)


def _examine(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    measured = ~_chance(sheet, 0.005, rng)
    weight = who["bmi"] * (who["height"] / 100) ** 2
    sheet.put_rounded("48-0.0", who["waist"], 0, measured)
    sheet.put_rounded("49-0.0", who["waist"] * 0.5 + 58 + 4 * rng.standard_normal(sheet.rows), 0, measured)
    sheet.put_rounded("50-0.0", who["height"], 1, measured)
    sheet.put_rounded("21002-0.0", weight, 1, measured)
    sheet.put_rounded("21001-0.0", who["bmi"], 4, measured & ~_chance(sheet, 0.002, rng))
    by_hand = _chance(sheet, 0.06, rng)
    one_each = by_hand & _chance(sheet, 0.3, rng)
    none = _chance(sheet, 0.01, rng)
    automatic = (~by_hand & ~none, (~by_hand | one_each) & ~none & ~_chance(sheet, 0.03, rng))
    manual = (by_hand & ~none, by_hand & ~one_each & ~none)
    for top, low, known in (("4080", "4079", automatic), ("93", "94", manual)):
        for reading in (0, 1):
            _press(who, sheet, f"{top}-0.{reading}", f"{low}-0.{reading}", known[reading], rng)


def _press(who: Values, sheet: Sheet, top: str, low: str, known: Flags, rng: np.random.Generator) -> None:
    """One reading of both pressures, mmHg."""
    systolic = np.clip(who["sbp"] + 4 * rng.standard_normal(sheet.rows), 70, 260)
    diastolic = np.clip(who["dbp"] + 2.5 * rng.standard_normal(sheet.rows), 35, 140)
    sheet.put_rounded(top, systolic, 0, known)
    sheet.put_rounded(low, np.minimum(diastolic, systolic - 10), 0, known)


def _analyse(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    drawn = ~_chance(sheet, NO_BLOOD, rng)
    who["apob"] = np.maximum(
        0.2 * (who["cholesterol"] - who["hdl"]) + 0.18 + 0.06 * rng.standard_normal(sheet.rows), 0.3
    )
    for field, (name, decimals, missing) in BLOODS.items():
        known = drawn & ~_chance(sheet, 1 - (1 - missing) / (1 - NO_BLOOD), rng)
        if field not in REPORTABLE:
            sheet.put_rounded(f"{field}-0.0", np.maximum(who[name], 0.1), decimals, known)
    for field, (name, lowest, highest) in REPORTABLE.items():
        known = drawn & ~_chance(sheet, 0.03, rng)
        low, high = who[name] < lowest, who[name] > highest
        sheet.put_rounded(f"{field}-0.0", who[name], 2, known & ~low & ~high)
        corrected = _chance(sheet, 0.2, rng)
        why = np.select([low & corrected, high & corrected, low, high], [2, 3, 4, 5], 1)
        sheet.put(f"{int(field) + 6}-0.0", why, known)


def _ask_habits(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    smoking, years = who["smoking"], who["age"]
    sheet.put("20116-0.0", _refuse(smoking, rng))
    daily = (smoking == 2) & ~_chance(sheet, 0.25, rng) | (smoking == 1) & ~_chance(sheet, 0.35, rng)
    a_day = np.clip(np.round(rng.lognormal(2.75, 0.5, sheet.rows)), 1, 140)
    smoked = np.maximum(years - 17 - np.where(smoking == 1, rng.random(sheet.rows) * (years - 20), 0), 0.5)
    sheet.put_rounded("20161-0.0", a_day / 20 * smoked, 4, daily & ~_chance(sheet, 0.04, rng))
    counted = np.where(_chance(sheet, 0.02, rng), -10, a_day).astype(np.int64)
    for field, group in (("3456", 2), ("2887", 1)):
        sheet.put(f"{field}-0.0", _refuse(counted, rng, 0.01), daily & (smoking == group))
    sheet.put("1239-0.0", _refuse(np.where(smoking == 2, np.where(daily, 1, 2), 0), rng, 0, 0.001))
    shares = [0.203, 0.231, 0.261, 0.112, 0.114, 0.079]  # daily, weekly and never as BMJ Open; finer (unverified)
    drinks = rng.choice([1, 2, 3, 4, 5, 6], sheet.rows, p=shares)
    sheet.put("1558-0.0", _refuse(drinks, rng, 0, 0.001))
    sheet.put("20117-0.0", np.select([drinks < 6, _chance(sheet, 0.45, rng)], [2, 1], 0))
    for field, mean in (("864", 5.4), ("884", 3.6), ("904", 1.8)):
        days = rng.binomial(7, mean / 7, sheet.rows)
        sheet.put(f"{field}-0.0", _refuse(days, rng, 0.03, 0.005))
    for field, mean in (("1309", 2.2), ("1289", 2.7)):
        portions = rng.poisson(mean, sheet.rows)
        sheet.put(f"{field}-0.0", _refuse(np.where(_chance(sheet, 0.04, rng), -10, portions), rng, 0.01, 0.002))
    sheet.put("1329-0.0", _refuse(rng.choice(4, sheet.rows, p=[0.11, 0.33, 0.38, 0.18]), rng, 0.004, 0.001))
    _ask_education(who, sheet, rng)


def _ask_education(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    """Highest: 35.3, 11.6, 21.0, 5.4, 6.6, 5.1, none 14.3 % (J Transl Med 2022, table 1); lower
    ones are ticked too."""
    shares = np.array([0.353, 0.116, 0.210, 0.054, 0.066, 0.051, 0.143, 0.007])
    highest = rng.choice(8, sheet.rows, p=shares / shares.sum()) + 1
    choices = {code: highest == code for code in range(1, 7)}
    for code, below, share in ((2, 1, 0.8), (3, 2, 0.85), (6, 1, 0.3)):
        choices[code] = choices[code] | (highest <= below) & _chance(sheet, share, rng)
    sheet.put_choices("6138-0", choices, np.where(highest == 8, -3, -7))


def _ask_health(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    male, diabetes = who["male"], who["diabetes"]
    sheet.put("2443-0.0", _refuse(diabetes.astype(np.int64), rng, 0.003, 0.001))
    at_age = np.maximum(who["age"] - rng.gamma(2, 4, sheet.rows), 5).astype(np.int64)
    sheet.put("2976-0.0", _refuse(at_age, rng, 0.02), diabetes)
    known = ~_chance(sheet, 0.01, rng)
    none = _refuse(np.full(sheet.rows, -7), rng, 0.004, 0.003)
    pill = ~male & _chance(sheet, 0.02, rng)
    hormones = ~male & ~pill & _chance(sheet, 0.07, rng)
    told = {1: who["statin"], 2: who["bp_drug"], 3: who["insulin"]}
    women, men = known & ~male, known & male
    sheet.put_choices(
        "6153-0", {code: flag & women for code, flag in {**told, 4: hormones, 5: pill}.items()}, none * women
    )
    sheet.put_choices("6177-0", {code: flag & men for code, flag in told.items()}, none * men)
    choices: dict[int, Flags] = {}
    for name, (one, other) in DRUGS.items():
        first = _chance(sheet, 0.7, rng)
        choices |= {one: who[name] & first, other: who[name] & ~first}
    choices |= {ASPIRIN: _chance(sheet, 0.13, rng) | who["prevalent"], OMEPRAZOLE: _chance(sheet, 0.05, rng)}
    sheet.put_choices("20003-0", choices)
    for field, relation in (("20107", "father"), ("20110", "mother"), ("20111", "siblings")):
        _ask_family(field, who[relation], sheet, rng)


def _ask_family(field: str, heart: Flags, sheet: Sheet, rng: np.random.Generator) -> None:
    """Data-coding 1010: two groups of illnesses, each with its own don't know, refusal and none of
    the above."""
    known = ~_chance(sheet, 0.015, rng)
    silent = {group: _chance(sheet, 0.05, rng) for group in (1, 2)}
    others = {2: 0.12, 8: 0.22, 9: 0.1, 3: 0.07, 4: 0.05}
    choices = {1: heart & ~silent[1]} | {
        code: _chance(sheet, share, rng) & ~silent[2 if code < 6 and code != 2 else 1] for code, share in others.items()
    }
    groups = {1: (1, 2, 8, 9), 2: (3, 4)}
    for group, codes in groups.items():
        any_told = np.any([choices[code] for code in codes], axis=0)
        refused = silent[group] & _chance(sheet, 0.15, rng)
        tens = -10 * group
        choices |= {tens - 1: silent[group] & ~refused, tens - 3: refused, tens - 7: ~any_told & ~silent[group]}
    sheet.put_choices(f"{field}-0", {code: flag & known for code, flag in choices.items()})


def _repeat(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    """Later visits of some. A few values exist at instance 1 only, and must not slip into the
    baseline."""
    for instance, (share, first_day, lasted, centres) in VISITS.items():
        day = np.datetime64(first_day) + (rng.random(sheet.rows) * lasted).astype("timedelta64[D]")
        came = _chance(sheet, share, rng) & (day < np.minimum(who["death"], who["died"]))
        later = f"-{instance}"
        years = who["age"] + (day - who["visit"]).astype(float) / DAYS_A_YEAR
        sheet.put(f"53{later}.0", day, came)
        sheet.put(f"54{later}.0", rng.choice(centres, sheet.rows), came)
        sheet.put(f"21003{later}.0", np.floor(years).astype(np.int64), came)
        sheet.put_rounded(f"21001{later}.0", who["bmi"] * (1 + 0.03 * rng.standard_normal(sheet.rows)), 4, came)
        sheet.put(f"20116{later}.0", _refuse(who["smoking"], rng), came)
        for reading in (0, 1):
            _press(who, sheet, f"4080{later}.{reading}", f"4079{later}.{reading}", came, rng)
        if instance == 1:
            sheet.put_rounded("30690-1.0", who["cholesterol"] + 0.5 * rng.standard_normal(sheet.rows), 3, came)
            sheet.put_rounded("30760-1.0", who["hdl"], 3, came)
            _blank(
                sheet, ("4080-0.0", "4080-0.1", "4079-0.0", "4079-0.1", "30690-0.0"), came & _chance(sheet, 0.1, rng)
            )
        ill = who["prevalent"] | (who["seen"] < day)
        none = np.where(came, -7, 0)
        choices = {1: ill & came, 4: who["bp_drug"] & came}
        sheet.put_choices(f"6150{later}", choices, none)


def _blank(sheet: Sheet, names: tuple[str, ...], where: Flags) -> None:
    for name in names:
        sheet.columns[name] = sheet.columns[name].set(pl.Series(where), None)

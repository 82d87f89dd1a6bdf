"""How disease and death of made-up participants reached the records: hospital, death register,
interview, algorithms.

The codes of an event are those that the default endpoint looks for (docs/ukb.md); how often each is
used is (unverified). Traps are set on purpose: see `TRAPS`.
"""

import numpy as np
import polars as pl

from cardiotune.synthetic_ukb.disease import (
    DAYS_A_YEAR,
    DEATHS_UNTIL,
    HOSPITAL_FROM,
    HOSPITAL_UNTIL,
    NEVER,
)
from cardiotune.synthetic_ukb.people import Array, Floats, Values
from cardiotune.synthetic_ukb.sheet import Flags, Sheet, fill_slots

TRAPS = {
    "undated": "heart attack told in the interview without a year (20008 is -1 or -3), with no hospital record",
    "same_day": "hospital code dated on the day of the baseline visit",
    "late_code": "hospital codes after the end of follow-up: after loss, after the last day of records in Wales",
    "placeholder": "1900-01-01, 1901-01-01, 1902-02-02, 1903-03-03 and 2037-07-07 in dates of 42000 and 131298",
    "second_certificate": "a second death certificate: 40000-1.0",
    "instance_1": "pressure or cholesterol at instance 1 only",
}
PLACEHOLDERS = np.array(["1901-01-01", "1902-02-02", "1903-03-03", "2037-07-07"], dtype="datetime64[D]")
UNKNOWN = np.datetime64("1900-01-01")
ICD10_FROM = np.datetime64("1996-04-01")
SLOTS = {"41270": 20, "41271": 4, "41272": 8}
"""Arrays of code fields, more than anybody has codes; their dates stand in field + 10."""

NOISE_ICD10 = (
    *("I10", "E119", "E780", "J459", "K219", "K573", "M179"),
    *("N390", "R074", "Z864", "I251", "I209", "I48", "C509"),
)
NOISE_OPCS = ("G451", "H229", "W903", "Z942", "U212")
ATTACKS = ("I210", "I211", "I214", "I219", "I221", "I240")
OPERATIONS = ("K751", "K492", "K401", "K451", "K753")


def record(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    """Write records into `sheet`; adds to `who` the days `died` and `seen` (first disease after
    baseline, or NEVER)."""
    rows = sheet.rows
    who["kind"] = rng.choice(3, rows, p=[0.60, 0.28, 0.12])  # heart attack, operation, death from it out of hospital
    same_day = ~who["prevalent"] & (rng.random(rows) < 0.001)
    who["event"] = np.where(same_day, who["visit"], np.where(who["prevalent"], NEVER, who["event"]))
    who["kind"] = np.where(same_day, 0, who["kind"])
    happens = who["event"] < who["death"]
    fatal = happens & ((who["kind"] == 2) | (who["kind"] == 0) & (rng.random(rows) < 0.07) & ~same_day)
    who["died"] = np.where(fatal, who["event"] + np.where(who["kind"] == 2, 0, 5), who["death"])
    who["seen"] = np.where(happens, who["event"], NEVER)
    told = _interview(who, sheet, rng)
    hospital = _hospital(who, sheet, fatal, told, rng)
    causes = _deaths(who, sheet, fatal, rng)
    _lost(who, sheet, rng)
    _algorithms(who, sheet, hospital, causes, told, rng)


def _interview(who: Values, sheet: Sheet, rng: np.random.Generator) -> Values:
    """Self-report at baseline; returns flags: `attack`, `operated`, `dated`, `hospital` (has a
    record)."""
    rows, sick = sheet.rows, who["prevalent"]
    operated = sick & (rng.random(rows) < 0.4)
    by_nation = np.array([HOSPITAL_FROM[nation] for nation in who["nation"]])
    hospital = sick & (rng.random(rows) < 0.8) & (who["earlier"] >= by_nation)
    attack = sick & ((rng.random(rows) < 0.88) | ~hospital)
    angina = ~sick & (rng.random(rows) < 0.015)
    dated = rng.random(rows) < 0.9
    year = np.floor(10 * (1970 + who["earlier"].astype(float) / DAYS_A_YEAR)) / 10  # never after the visit
    unknown = np.where(rng.random(rows) < 0.8, -1.0, -3.0)
    illnesses = {
        1075: attack,
        1074: angina,
        1065: who["bp_drug"] & (rng.random(rows) < 0.9),
        1220: who["diabetes"] & (rng.random(rows) < 0.9),
        1111: rng.random(rows) < 0.115,
    }
    years = np.column_stack([np.where(dated, year, unknown), *(_some_year(who, rng) for _ in range(4))])
    _put_dated(sheet, "20002-0", "20008-0", illnesses, years)
    by_pass = operated & (rng.random(rows) < 0.35)
    operations = {1070: operated & ~by_pass, 1095: by_pass, 1523: by_pass & (rng.random(rows) < 0.3)}
    _put_dated(sheet, "20004-0", "20010-0", operations, np.column_stack([np.where(dated, year, unknown)] * 3))
    silent = np.where(rng.random(rows) < 0.003, -3, -7)
    asked = {1: attack, 2: angina | operated, 3: rng.random(rows) < 0.015, 4: illnesses[1065]}
    sheet.put_choices("6150-0", {code: flag & (silent == -7) for code, flag in asked.items()}, silent)
    at_age = (who["age"] - (who["visit"] - who["earlier"]).astype(float) / DAYS_A_YEAR).astype(np.int64)
    sheet.put("3894-0.0", np.where(dated, at_age, unknown.astype(np.int64)), attack)
    return {"attack": attack, "operated": operated, "dated": dated, "hospital": hospital}


def _some_year(who: Values, rng: np.random.Generator) -> Floats:
    year = 1970 + who["visit"].astype(float) / DAYS_A_YEAR - rng.exponential(8, len(who["age"]))
    return np.where(rng.random(len(year)) < 0.05, -1.0, np.floor(10 * np.maximum(year, 1950)) / 10)


def _put_dated(sheet: Sheet, codes: str, years: str, choices: dict[int, Flags], when: Floats) -> None:
    filled = sheet.put_choices(codes, choices)
    given = np.column_stack(list(choices.values()))
    moved = fill_slots(given, when)
    for slot in range(filled.shape[1]):
        sheet.put(f"{years}.{slot}", moved[:, slot], filled[:, slot] != 0)


def _hospital(who: Values, sheet: Sheet, fatal: Flags, told: Values, rng: np.random.Generator) -> pl.DataFrame:
    """ICD-10, ICD-9 and OPCS-4 codes with dates; returns those of ICD-10 that were written."""
    until = _hospital_until(who, rng)
    earlier, event = who["earlier"], who["seen"]
    attack = (event < NEVER) & (who["kind"] == 0)
    operation = (event < NEVER) & (who["kind"] == 1)
    admitted = told["hospital"]
    old = admitted & (earlier < ICD10_FROM)
    again = admitted & (rng.random(sheet.rows) < 0.4)
    later = who["visit"] + (rng.random(sheet.rows) * 3000).astype("timedelta64[D]")
    icd10 = [
        _records(attack, rng.choice(ATTACKS, sheet.rows, p=[0.14, 0.16, 0.38, 0.28, 0.02, 0.02]), event),
        _records(attack | operation, "I251", event),
        _records(operation & (rng.random(sheet.rows) < 0.6), "Z955", event),
        _records(admitted & ~old, rng.choice(ATTACKS, sheet.rows), earlier),
        _records(again, "I252", later),
        *_noise(NOISE_ICD10, 0.13, who, until, rng),
    ]
    opcs = [
        _records(operation | attack & (rng.random(sheet.rows) < 0.5), rng.choice(OPERATIONS, sheet.rows), event),
        _records(admitted & told["operated"], rng.choice(OPERATIONS, sheet.rows), earlier),
        *_noise(NOISE_OPCS, 0.2, who, until, rng),
    ]
    icd9 = [_records(old, rng.choice(("4109", "4129", "4119"), sheet.rows), earlier)]
    written = {}
    for field, records in (("41270", icd10), ("41271", icd9), ("41272", opcs)):
        known = pl.concat(records)
        written[field] = known.filter(known["date"] <= pl.Series(until).gather(known["row"]))
        sheet.put_long(field, str(int(field) + 10), written[field], SLOTS[field])
    return written["41270"]


def _hospital_until(who: Values, rng: np.random.Generator) -> Array:
    """Last day with records (rows,): of the nation or of life; some moved out of Wales, some
    records outlast a loss."""
    rows = len(who["age"])
    until = np.array([HOSPITAL_UNTIL[nation] for nation in who["nation"]])
    moved = (who["nation"] == "Wales") & (rng.random(rows) < 0.04)
    until = np.minimum(np.where(moved, HOSPITAL_UNTIL["England"], until), who["died"])
    stops = (who["lost"] < NEVER) & (rng.random(rows) < 0.5)
    return np.where(stops, np.minimum(until, who["lost"]), until)


def _noise(
    codes: tuple[str, ...], share: float, who: Values, until: Array, rng: np.random.Generator
) -> list[pl.DataFrame]:
    """Other codes, each for a share of participants, at any time from 1997 to the end of their
    records."""
    start = np.datetime64("1997-01-01")
    found = []
    for code in codes:
        day = start + (rng.random(len(until)) * (until - start).astype(float)).astype("timedelta64[D]")
        found.append(_records(rng.random(len(until)) < share, code, day))
    return found


def _records(flags: Flags, code: Array | str, day: Array) -> pl.DataFrame:
    """One record for each flagged row."""
    rows = np.flatnonzero(flags)
    codes = np.full(len(rows), code) if isinstance(code, str) else code[rows]
    return pl.DataFrame({"row": rows, "code": pl.Series(codes.tolist(), dtype=pl.String), "date": day[rows]})


def _deaths(who: Values, sheet: Sheet, fatal: Flags, rng: np.random.Generator) -> pl.DataFrame:
    """Death register; returns the causes as records. Hospital records may have ended before:
    Wales."""
    known = who["died"] <= DEATHS_UNTIL
    other = rng.choice(("C349", "C509", "C189", "J440", "I639", "G309", "I500", "K709", "X599"), sheet.rows)
    cause = np.where(fatal, rng.choice(("I219", "I219", "I249", "I213"), sheet.rows), other)
    sheet.put("40000-0.0", who["died"], known)
    sheet.put("40001-0.0", cause, known)
    contributory = known & (rng.random(sheet.rows) < 0.5)
    second = np.where(fatal, "I251", rng.choice(("I10", "E119", "J449", "N189", "I259"), sheet.rows))
    sheet.put("40002-0.0", second, contributory)
    sheet.put("40002-0.1", np.full(sheet.rows, "F179"), contributory & (who["smoking"] == 2))
    twice = known & (rng.random(sheet.rows) < 0.01)
    sheet.put("40000-1.0", who["died"], twice)
    sheet.put("40001-1.0", cause, twice)
    return _records(known, cause, who["died"])


def _lost(who: Values, sheet: Sheet, rng: np.random.Generator) -> None:
    lost = (who["lost"] < who["died"]) & (who["lost"] < DEATHS_UNTIL)
    sheet.put("190-0.0", rng.choice((1, 2, 3, 4, 5), sheet.rows, p=[0.02, 0.2, 0.6, 0.1, 0.08]), lost)
    sheet.put("191-0.0", who["lost"], lost)


FIRST_OCCURRENCES = {"I20": 131296, "I21": 131298, "I22": 131300, "I23": 131302, "I24": 131304, "I25": 131306}


def _algorithms(
    who: Values, sheet: Sheet, hospital: pl.DataFrame, causes: pl.DataFrame, told: Values, rng: np.random.Generator
) -> None:
    """Algorithmic heart attack (42000 to 42005) and first occurrences, with placeholder dates for
    what has no date."""
    reported = _records(told["attack"], "I219", np.where(told["dated"], who["earlier"], UNKNOWN))
    sources = (hospital.with_columns(source=pl.lit(11)), causes.with_columns(source=pl.lit(12)))
    records = pl.concat([*sources, reported.with_columns(source=pl.lit(0))])
    for field, codes in ((42000, ("I21", "I22")), (42002, ("I210", "I211")), (42004, ("I214",))):
        found = records.filter(pl.col("code").str.contains("^(" + "|".join(codes) + ")"))
        if field > 42000:
            found = found.filter(pl.col("source") > 0)
        _put_first(sheet, field, found)
    for code, field in FIRST_OCCURRENCES.items():
        found = records.filter(pl.col("code").str.starts_with(code))
        placeholder = pl.Series(rng.choice(PLACEHOLDERS, found.height), dtype=pl.Date)
        date = pl.when(pl.col("date") == UNKNOWN.item()).then(placeholder).otherwise(pl.col("date"))
        found = found.with_columns(date=date)
        source = pl.col("source").replace_strict({0: 50, 11: 40, 12: 20}, return_dtype=pl.Int64)
        _put_first(sheet, field, found.with_columns(source=source))


def _put_first(sheet: Sheet, field: int, records: pl.DataFrame) -> None:
    """The earliest record of a row: its day in `field`, its source in the next."""
    first = records.sort("row", "date", "source").unique("row", keep="first", maintain_order=True)
    for offset, column in ((0, "date"), (1, "source")):
        cells = pl.Series(f"{field + offset}-0.0", [None], dtype=first[column].dtype).new_from_index(0, sheet.rows)
        sheet.columns[cells.name] = cells.scatter(first["row"].to_numpy(), first[column])

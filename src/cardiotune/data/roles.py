"""Which column is age, sex, systolic pressure...: one rule, learned once, kept in the run.

The dictionary says it (`meaning:`), or a feature is called so and nothing else: every word of its
name, or of its phrase, must belong. So `is_male` is the sex and `sex_hormone` is not;
`age_at_visit` is the age and `age_at_menarche` is not. Type, unit, range and, where the rows are at
hand, values must fit too. `prepare` writes what was found into the run's `config.yaml`, which every
later stage reads.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cardiotune.data.schema import TRUTH, codes_of
from cardiotune.errors import DataError
from cardiotune.settings import MEANINGS, Column, Meaning

# --------------------------------------------------------------------------------------------------
# what columns are called


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


MALE = _listed(
    "male males man men boy mann mannlich maennlich herr homme masculin hombre varon masculino maschio uomo maschile mannelijk "
    "kille mies mand mezczyzna homem erkek"
)
FEMALE = _listed(
    "female females woman women girl frau weiblich femme feminin mujer hembra femenino femmina donna femminile vrouw vrouwelijk "
    "kvinna kvinde kvinne nainen kobieta mulher feminino kadin"
)
"""Words for a man and for a woman, without accents."""
LETTERS = (("m", "f"), ("m", "w"), ("m", "k"), ("h", "f"), ("h", "m"))
"""Pairs of letters for man and woman. M and V are not among them: man and vrouw in Dutch, but mujer
and varón in Spanish."""

_NAMES: dict[Meaning, str] = {
    "age": "age | aged | ageyears | ageyrs | ageyr | agey | ridageyr | patientage | ptage | alter | leeftijd | edad | eta | "
    "idade | alder | ika | wiek",
    "sex": "sex | gender | sexe | sexo | sesso | geschlecht | geslacht | kon | kjonn | sukupuoli | plec | cinsiyet | genre | "
    "genero | genere | sexn | sexcd | gendercd | riagendr | sex m | gender m",
    "ethnicity": "ethnicity | ethnic | race | race ethnicity | ethnic background | ethnic group",
    "smoking": "smoker | smokes | smoking | smoke | current smoker | current smoking | currently smoking | smoking status | "
    "current smoking status | smokes currently | raucher | raucherstatus | fumeur | fumador | fumatore | roker",
    "diabetes": "diabetes | diabetic | dm | diabetes mellitus | diabetes diagnosed | diabetes diagnosis | diabetes history",
    "blood_pressure_medication": "bpmeds | antihypertensive | antihypertensives | antihypertensive medication | "
    "antihypertensive treatment | antihypertensive therapy | antihypertensive drugs | bp medication | bp meds | bp med | "
    "bp treatment | bp lowering medication | blood pressure medication | blood pressure treatment | "
    "blood pressure lowering medication | hypertension medication | hypertension treatment | treated hypertension",
    "systolic_pressure": "sbp | systolic | systolic bp | systolic pressure | systolic blood pressure | sysbp | sys bp | ap hi | "
    "trestbps | systolisch | systolischer blutdruck | rr systolisch | tension arterielle systolique | "
    "pression arterielle systolique | presion arterial sistolica | presion sistolica | pressione sistolica",
    "diastolic_pressure": "dbp | diastolic | diastolic bp | diastolic pressure | diastolic blood pressure | diabp | dia bp | "
    "ap lo | diastolisch | diastolischer blutdruck | rr diastolisch | tension arterielle diastolique | "
    "pression arterielle diastolique | presion arterial diastolica | presion diastolica | pressione diastolica",
    "total_cholesterol": "cholesterol | total cholesterol | chol | total chol | tot chol | totchol | tchol | cholesterin | "
    "gesamtcholesterin | colesterol total | colesterolo totale",
    "hdl_cholesterol": "hdl | hdlc | hdl c | hdl cholesterol | hdl chol | hdl cholesterin",
    "body_mass_index": "bmi | body mass index | bodymassindex",
}
"""All ways to call it, in small letters without accents, parted by bars; the order of the words
does not matter."""
_CALLED = {meaning: {frozenset(name.split()) for name in names.split("|")} for meaning, names in _NAMES.items()}
_CALLED["sex"] |= {also | {word} for word in MALE | FEMALE for also in (frozenset[str](), *_CALLED["sex"])}
_CALLED["sex"] |= {also | {"male", "female"} for also in (frozenset[str](), frozenset({"sex"}), frozenset({"gender"}))}

_ASIDE = _listed(
    "the of in at on when is a an s was has had this patient patients participant participants subject person pt pat subj value "
    "values recruitment baseline base bl enrolment enrollment entry admission adm visit attended assessment centre center "
    "examination exam inclusion index screening randomisation randomization consent interview survey study presentation "
    "arrival hospital icu scan imaging ecg echo sampling collection self reported recorded measured measurement observed known "
    "code codes coded cd dummy flag indicator new raw clean imputed num numeric n f p i v t x"
)
"""Words that may stand beside any of them, also with figures behind: `f31`, `visit1`."""
_UNITS = _listed(
    "years year yrs yr y months month mo mos weeks week wk days day d mmhg kpa mmol mg dl l kg m unit units"
)
_PRESSURE = _UNITS | _listed("resting rest sitting seated supine office clinic")
_BLOOD = _UNITS | _listed("serum plasma fasting")
_OWN_ASIDE: dict[Meaning, frozenset[str]] = {
    "age": _UNITS
    | _listed(
        "old current exact decimal rounded integer completed anchor group band category cat "
        "jahre jahren bei aufnahme ans anos anni jaar"
    ),
    "sex": _listed("birth assigned genetic biological natal legal administrative concept source id bin binary"),
    "systolic_pressure": _PRESSURE,
    "diastolic_pressure": _PRESSURE,
    "total_cholesterol": _BLOOD,
    "hdl_cholesterol": _BLOOD,
    "body_mass_index": _UNITS,
}
_KEY = re.compile(r"(\w+)\s*=\s*(\w+)")
"""A code and its meaning in a header: `sex (1=male, 2=female)`."""


def name_words(name: str) -> list[str]:
    """Words of `ageAtVisit`, `AGE_YEARS` or `The age is {value}.`, in small letters without
    accents; figures stay."""
    plain = unicodedata.normalize("NFKD", name.replace("{value}", " ").replace("ß", "ss").replace("ø", "o"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"[^\W\d_]+\d*|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower())


@cache
def meanings_of(name: str) -> frozenset[Meaning]:
    """What a name, or a phrase, can mean."""
    said = {word for word in name_words(_KEY.sub(" ", name)) if not word.isdigit()}
    found = set()
    for meaning, ways in _CALLED.items():
        aside = _ASIDE | _OWN_ASIDE.get(meaning, frozenset())
        beside = {word for word in said if word.rstrip("0123456789") in aside}
        if any(way <= said <= way | beside for way in ways):
            found.add(meaning)
    return frozenset(found)


def called(name: str, column: Column) -> Meaning | None:
    """What a column is called: the one meaning of its name, its phrase or how it is derived; None
    where they say several."""
    found = set(meanings_of(name)) | (meanings_of(column.phrase) if column.phrase else set())
    if column.derive:
        derived: dict[str, Meaning] = {"age_years_from_days": "age", "bmi": "body_mass_index"}
        if column.derive.function in derived:
            return derived[column.derive.function]
    return next(iter(found)) if len(found) == 1 else None


# --------------------------------------------------------------------------------------------------
# units and values

_PER_YEAR = {"year": 1.0, "month": 12.0, "week": 365.25 / 7, "day": 365.25}
_TIMES = {"years": "year", "yrs": "year", "yr": "year", "y": "year", "a": "year", "jahre": "year", "months": "month",
          "mo": "month", "mos": "month", "weeks": "week", "wk": "week", "days": "day", "d": "day"}  # fmt: skip
_PRESSURES = {"mmhg": 1.0, "kpa": 7.500617}
"""mmHg in one unit of pressure."""
_LIKELY: dict[Meaning, tuple[float, float]] = {
    "systolic_pressure": (60, 250),
    "diastolic_pressure": (30, 150),
    "body_mass_index": (10, 80),
}
"""What the median of a table may be, in mmHg and kg/m2."""


def scale(meaning: Meaning, name: str, column: Column) -> float | None:
    """What one unit of the column is in years (age), mmHg (pressure) or kg/m2; 1 for all else, None
    where it is not known."""
    unit = re.sub(r"[\s^.]", "", column.unit or "").lower().replace("²", "2")
    if meaning == "age":
        return _years(unit, name, column)
    if meaning in ("systolic_pressure", "diastolic_pressure"):
        told = [word for word in name_words(name) if word in _PRESSURES]
        return _PRESSURES.get(unit or (told[0] if told else "mmhg"))
    if meaning == "body_mass_index":
        return 1.0 if unit in ("", "kg/m2", "kgm-2", "kg/m**2") else None
    return 1.0


def _years(unit: str, name: str, column: Column) -> float | None:
    if not column.is_number:
        return None
    if not unit and column.derive is None:
        said = {
            word for word in name_words(name) + name_words(column.phrase or "") if len(word) > 1
        }  # `a` is an article too
        told = {_TIMES.get(word, word) for word in said} & set(_PER_YEAR)
        if len(told) > 1 or (not told and column.range is not None and column.range[1] > 150):
            return None
        unit = told.pop() if told else "year"
    per_year = _PER_YEAR.get(_TIMES.get(unit, unit or "year"))
    return None if per_year is None else 1 / per_year


def _doubt(meaning: Meaning, name: str, column: Column, values: pl.Series | None) -> str:
    """Why a column that is called so may be something else; empty where nothing speaks against
    it."""
    if column.type not in MEANINGS[meaning]:
        return f"is of type {column.type}; give it type {' or '.join(MEANINGS[meaning])}"
    if not column.is_number:
        return ""
    factor = scale(meaning, name, column)
    if factor is None:
        wanted = "years, months, weeks or days" if meaning == "age" else "kg/m2" if "mass" in meaning else "mmHg or kPa"
        return f"has a unit or a range that does not say its unit; give it unit: {wanted}"
    present = pl.Series([], dtype=pl.Float64) if values is None else values.cast(pl.Float64).drop_nulls()
    if not len(present):
        return ""
    low, middle, high = np.quantile(present.to_numpy(), (0.05, 0.5, 0.95))
    if meaning == "age":
        scaled = high <= 1 and bool((present != present.round()).any())
        if low < 0 or high * factor > 130 or scaled:
            return "holds values that are no ages in its unit; correct the unit, or the values, if they were scaled"
    elif meaning in _LIKELY and not _LIKELY[meaning][0] <= middle * factor <= _LIKELY[meaning][1]:
        return "holds values that are unlikely in its unit; correct the unit, or the values, if they were scaled"
    return ""


def scaled(meaning: Meaning, values: pl.Series, name: str, column: Column) -> pl.Series:
    """Numbers of a column in years, mmHg or kg/m2, Float64. DataError where its unit is not
    known."""
    factor = scale(meaning, name, column)
    if factor is None:
        raise DataError(f"data.columns.{name}: {_doubt(meaning, name, column, None) or f'{meaning} is no number'}")
    numbers = values.cast(pl.Float64, strict=False)
    return numbers if factor == 1 else numbers * factor


# --------------------------------------------------------------------------------------------------
# learned once


class Learned(NamedTuple):
    """Meaning -> name of its column; and, of meanings without one, why a column that is called so
    was passed over."""

    columns: dict[Meaning, str]
    passed_over: dict[Meaning, str]


def learn(columns: Mapping[str, Column], frame: pl.DataFrame | None = None) -> Learned:
    """What the columns of a dictionary mean: as `meaning` says or, without it, as they are called.

    frame: their typed rows, which must fit; without it the dictionary alone is asked. Of several
    columns the first is taken, but numbers go before bands, and what is in years before what is
    not. A column with `meaning: none` is left out.
    """
    found: dict[Meaning, str] = {c.meaning: name for name, c in columns.items() if c.meaning not in (None, "none")}
    candidates: dict[Meaning, list[str]] = {}
    passed_over: dict[Meaning, str] = {}
    for name, column in columns.items():
        meaning = called(name, column) if column.role == "feature" and column.meaning is None else None
        if meaning is None or meaning in found:
            continue
        values = None if frame is None or name not in frame.columns else frame[name]
        if why := _doubt(meaning, name, column, values):
            passed_over.setdefault(meaning, f"column {name} is called so, but {why}")
        else:
            candidates.setdefault(meaning, []).append(name)
    for meaning, names in candidates.items():
        found[meaning] = min(names, key=lambda name: _rank(meaning, name, columns[name]))
    return Learned(
        {meaning: found[meaning] for meaning in MEANINGS if meaning in found},
        {meaning: why for meaning, why in passed_over.items() if meaning not in found},
    )


def _rank(meaning: Meaning, name: str, column: Column) -> tuple[bool, bool, bool]:
    years = meaning == "age" and "year" in {
        _TIMES.get(word, word) for word in name_words(f"{name} {column.unit or ''}")
    }
    return not column.is_number and meaning == "age", scale(meaning, name, column) != 1, not years


class Meant(NamedTuple):
    """The column of a meaning, and how it is read."""

    column: str
    codes: Mapping[str, str] | None = None
    """Of the sex: code -> `man` or `woman`, of the codes that tell."""
    unit: str | None = None
    """Of the age: `years`, `months`, `weeks` or `days`."""

    def as_json(self) -> dict[str, Any]:
        """`{"column": "age_years", "unit": "years"}`."""
        return {key: value for key, value in self._asdict().items() if value is not None}


class Settled(NamedTuple):
    """A dictionary in which every column has its meaning, `none` for most, so that nothing is
    learned again."""

    columns: dict[str, Column]
    meanings: dict[Meaning, Meant]
    passed_over: dict[Meaning, str]


def settle(columns: Mapping[str, Column], frame: pl.DataFrame) -> Settled:
    """Learn, once a run, from the training rows. DataError where they do not fit a `meaning` of the
    dictionary."""
    wrong = [
        f"data.columns.{name}.meaning: {column.meaning} {why}"
        for name, column in columns.items()
        if column.meaning not in (None, "none") and (why := _doubt(column.meaning, name, column, frame[name]))
    ]
    if wrong:
        raise DataError("; ".join(wrong))
    learned = learn(columns, frame)
    meant = {name: meaning for meaning, name in learned.columns.items()}
    settled = {name: c.model_copy(update={"meaning": meant.get(name, "none")}) for name, c in columns.items()}
    found = {meaning: _meant(meaning, name, columns[name], frame[name]) for meaning, name in learned.columns.items()}
    return Settled(settled, found, learned.passed_over)


def _meant(meaning: Meaning, name: str, column: Column, values: pl.Series) -> Meant:
    if meaning == "sex":
        codes = sorted(values.cast(pl.String).drop_nulls().unique().to_list())
        return Meant(name, codes=sex_of(name, column, codes))
    factor = scale(meaning, name, column) if meaning == "age" else None
    return Meant(name, unit=next((f"{unit}s" for unit, count in _PER_YEAR.items() if factor == 1 / count), None))


def meanings_in_words(entries: Mapping[Meaning, Meant]) -> str:
    """`Settled.meanings` in words: `age: column age_years (years); sex: column is_male (1 = man, 0
    = woman)`."""
    named = [meaning for meaning in MEANINGS if meaning in entries or meaning in ("age", "sex")]
    return "; ".join(f"{spoken(meaning)}: {_told(meaning, entries.get(meaning))}" for meaning in named)


def _told(meaning: str, entry: Meant | None) -> str:
    if entry is None:
        return f"no column (give a feature `meaning: {meaning}`)"
    codes = ", ".join(f"{code} = {word}" for code, word in (entry.codes or {}).items())
    unknown = "its codes do not say who is a man" if meaning == "sex" else ""
    more = codes or entry.unit or unknown
    return f"column {entry.column}" + (f" ({more})" if more else "")


def spoken(meaning: str) -> str:
    """`systolic pressure`."""
    return meaning.replace("_", " ")


# --------------------------------------------------------------------------------------------------
# who is a man


def sex_of(name: str, column: Column, present: Iterable[str] = ()) -> dict[str, str]:
    """Code -> `man` or `woman`, of the codes that tell; empty where none does.

    By the dictionary's words for the codes, by the codes themselves (`present`: those in the table,
    where the dictionary lists none), by a header such as `sex (1=male, 2=female)`, and by a name
    such as `is_male`, of which 1 and yes are men. 1 and 2 alone tell nothing: both orders are in
    use.
    """
    codes = codes_of(column) or {code: code for code in present}
    found = {code: side for code, word in codes.items() if (side := _side(name_words(word)))}
    letters = {word.lower(): code for code, word in codes.items() if len(word) == 1}
    pairs = (*LETTERS, ("m", "v")) if "geslacht" in name_words(name) else LETTERS
    if not found and (pair := next((pair for pair in pairs if letters.keys() >= set(pair)), None)):
        found = {letters[pair[0]]: "man", letters[pair[1]]: "woman"}
    if not found:
        both = [pair for a, b in _KEY.findall(name) for pair in ((a, b.lower()), (b, a.lower())) if pair[0] in codes]
        found = {code: side for code, word in both if (side := _side([{"m": "male", "f": "female"}.get(word, word)]))}
    return found or _by_name(name, codes)


def _side(word: list[str]) -> str:
    male, female = not MALE.isdisjoint(word), not FEMALE.isdisjoint(word)
    return "" if male == female or {"not", "non", "no"} & set(word) else "man" if male else "woman"


def _by_name(name: str, codes: Mapping[str, str]) -> dict[str, str]:
    letters = {"m", "f"} & {*name_words(name)}  # `Sex_M`, as an indicator of one category is called
    side = _side(name_words(name)) or ({"m": "man", "f": "woman"}[letters.pop()] if len(letters) == 1 else "")
    truth = {code: TRUTH.get(word.lower(), word) for code, word in codes.items()}
    if not side or set(truth.values()) != {"0", "1"}:
        return {}
    other = "woman" if side == "man" else "man"
    return {code: side if value == "1" else other for code, value in truth.items()}


def sex_words(name: str, column: Column, present: Iterable[str]) -> dict[str, str]:
    """Code -> the word for its group: the dictionary's, unless that is yes, no or the code itself,
    else man or woman."""
    present = list(present)
    known, own = sex_of(name, column, present), codes_of(column)
    says = {code for code, word in own.items() if word.lower() not in (code.lower(), *TRUTH)}
    return {code: own[code] if code in says else known.get(code, code) for code in [*own, *present]}

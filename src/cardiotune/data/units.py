"""One clinical quantity in the units that hospitals write it in: `mg/dl` and mmol/L, `yrs` and
days, `mm Hg` and kPa.

Dimensions are pint's, which is imported where two units differ: it takes a third of a second, and
most tables need no conversion. What it cannot know is here: how clinicians spell units, and what a
mole of a substance weighs. Every conversion is a straight line, learned once.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pint
from numpy.typing import ArrayLike, NDArray

from cardiotune.data.roles import name_words
from cardiotune.errors import DataError
from cardiotune.settings import Column

# --------------------------------------------------------------------------------------------------
# substances


@dataclass(frozen=True, slots=True)
class Substance:
    """What is measured in blood or urine."""

    called: str
    """Ways to call it, parted by bars; every word of one of them must stand in a column's name or
    phrase."""
    molar_mass: float
    """g/mol, of what the laboratory counts: urea nitrogen is the two nitrogens of a urea."""
    usual: tuple[str, str]
    """By mass, and by amount of substance, as laboratories write it."""
    valence: int = 1
    """Equivalents a mole."""


_MMOL, _UMOL, _NMOL, _PMOL = (("mg/dL", unit) for unit in ("mmol/L", "µmol/L", "nmol/L", "pmol/L"))
SUBSTANCES: dict[str, Substance] = {
    "glucose": Substance("glucose | blood sugar | fasting sugar | glu | gluc | glukose", 180.156, _MMOL),
    "cholesterol": Substance(
        "cholesterol | chol | cholesterin | hdl | ldl | vldl | hdlc | ldlc | tchol", 386.65, _MMOL
    ),
    "triglycerides": Substance("triglycerides | triglyceride | trig | triglyzeride", 885.4, _MMOL),
    "creatinine": Substance("creatinine | creat | crea | kreatinin", 113.12, _UMOL),
    "urea": Substance("urea | harnstoff", 60.055, _MMOL),
    "urea nitrogen": Substance("bun | urea nitrogen", 28.014, _MMOL),
    "uric acid": Substance("uric acid | urate | harnsaure", 168.11, _UMOL),
    "bilirubin": Substance("bilirubin | bili", 584.66, _UMOL),
    "calcium": Substance("calcium | ca", 40.078, _MMOL, 2),
    "magnesium": Substance("magnesium | mg", 24.305, _MMOL, 2),
    "phosphate": Substance("phosphate | phosphorus", 30.974, _MMOL),
    "sodium": Substance("sodium | na | natrium", 22.990, _MMOL),
    "potassium": Substance("potassium | k | kalium", 39.098, _MMOL),
    "chloride": Substance("chloride | cl", 35.45, _MMOL),
    "bicarbonate": Substance("bicarbonate | hco3", 61.017, _MMOL),
    "lactate": Substance("lactate | lactic acid | laktat", 90.08, _MMOL),
    "iron": Substance("iron | ferrum | eisen", 55.845, ("µg/dL", "µmol/L")),
    "ammonia": Substance("ammonia | nh3", 17.031, ("µg/dL", "µmol/L")),
    "homocysteine": Substance("homocysteine", 135.18, ("mg/L", "µmol/L")),
    "haemoglobin": Substance("haemoglobin | hemoglobin | hb | hgb", 16114.5, ("g/dL", "mmol/L")),
    "albumin": Substance("albumin", 66_438.0, ("g/dL", "µmol/L")),
    "vitamin D": Substance("vitamin d | 25ohd | calcidiol", 400.64, ("ng/mL", "nmol/L")),
    "vitamin B12": Substance("vitamin b12 | cobalamin | b12", 1355.37, ("pg/mL", "pmol/L")),
    "folate": Substance("folate | folic acid", 441.40, ("ng/mL", "nmol/L")),
    "cortisol": Substance("cortisol", 362.46, ("µg/dL", "nmol/L")),
    "testosterone": Substance("testosterone", 288.42, ("ng/dL", "nmol/L")),
    "oestradiol": Substance("oestradiol | estradiol", 272.38, ("pg/mL", "pmol/L")),
    "thyroxine": Substance("thyroxine | t4 | ft4", 776.87, ("µg/dL", "nmol/L")),
    "triiodothyronine": Substance("triiodothyronine | t3 | ft3", 650.97, ("ng/dL", "nmol/L")),
}
"""Molar masses: IUPAC standard atomic weights. Of triglycerides, which are a mixture, triolein;
haemoglobin as its monomer (ICSH); albumin as the human protein. They give the conversion factors of
the AMA Manual of Style (11th edition, 17.5) to three digits."""
HBA1C = "HbA1c"
"""Glycated haemoglobin in % (NGSP) and in mmol/mol (IFCC) are two scales, not two units of one."""
_HBA1C_CALLED = "hba1c | a1c | hb a1c | glycated haemoglobin | glycated hemoglobin | glycosylated hemoglobin"
_IFCC = (10.93, -23.5)
"""mmol/mol = 10.93 % - 23.5 (Hoelzel et al., Clin Chem 2004;50:166; NGSP = 0.0915 IFCC + 2.15)."""
_CALLED = {name: substance.called for name, substance in SUBSTANCES.items()} | {HBA1C: _HBA1C_CALLED}


def substance_of(*names: str) -> str | None:
    """The substance that a column's name or phrase speaks of; None for none, and for several, as in
    a ratio.

    Symbols such as `K` and `Ca` count only where they are the whole name, but for its unit.
    """
    said = [frozenset(name_words(name)) for name in names]
    alone = {name.difference(_SPELLED) or name for name in said}
    everything = frozenset[str]().union(*said)
    found = {
        name: way
        for name, ways in _CALLED.items()
        for way in (frozenset(name_words(way)) for way in ways.split("|"))
        if way in alone or (way <= everything and sum(map(len, way)) > 2)
    }
    # A name within another's: `urea nitrogen` is no urea, `glycated haemoglobin` no haemoglobin.
    widest = [name for name, way in found.items() if not any(way < other for other in found.values())]
    return widest[0] if len(widest) == 1 else None


# --------------------------------------------------------------------------------------------------
# spelling

_PREFIXES = {
    "": "",
    "k": "k",
    "d": "d",
    "c": "c",
    "m": "m",
    "u": "µ",
    "μ": "µ",
    "mc": "µ",
    "n": "n",
    "p": "p",
    "f": "f",
}
_BASES = {"g": "g", "gr": "g", "l": "L", "mol": "mol", "m": "m", "pa": "Pa", "iu": "IU", "u": "U", "kat": "kat", "eq": "Eq",
          "s": "s"}  # fmt: skip
_SPELLED: dict[str, str] = {
    prefix + base: _PREFIXES[prefix] + _BASES[base] for prefix, base in product(_PREFIXES, _BASES)
}
_SPELLED |= {
    spelling: unit
    for unit, spellings in {
        "year": "years year yrs yr y a jahre",
        "month": "months month mos mo mth mths",
        "week": "weeks week wks wk",
        "day": "days day d",
        "hour": "hours hour hrs hr h",
        "minute": "minutes minute mins min",
        "second": "seconds second secs sec",
        "mmHg": "mmhg torr",
        "cmH2O": "cmh2o",
        "cm": "cms centimeter centimeters centimetre centimetres",
        "m": "meter meters metre metres",
        "mm": "millimeter millimeters millimetre millimetres",
        "kg": "kgs kilo kilos kilogram kilograms",
        "g": "gram grams gm",
        "lb": "lb lbs pound pounds",
        "stone": "st stone stones",
        "inch": 'in ins inch inches "',
        "foot": "ft foot feet",
        "degC": "c °c degc celsius",
        "degF": "f °f degf fahrenheit",
        "1/minute": "bpm",
        "1": "beats beat breaths breath cells cell count counts",
        "percent": "% percent pct",
        "L": "liter liters litre litres",
        "µm": "micron microns",
        "mol": "mole moles",
    }.items()
    for spelling in spellings.split()
}
"""Small letters -> pint's spelling. There is no mega among them: `MG/DL` is mg/dL."""


def spelled(unit: str) -> str:
    """A unit as clinicians write it, in pint's spelling: `mm Hg` -> `mmHg`, `/min` -> `1/minute`,
    `kg/m²` -> `kg/m**2`. What is not known stays as it is."""
    text = unicodedata.normalize("NFKC", unit.replace("²", "^2").replace("³", "^3")).strip()
    text = re.sub(r"\bper\b", "/", re.sub(r"°\s+", "°", text), flags=re.I)
    text = re.sub(r"\b(mm|cm)\s+(Hg|H2O)\b", r"\1\2", text, flags=re.I)
    text = re.sub(r"/\s*1\.73\s*m\^?2\b", "/(1.73 m^2)", text, flags=re.I)
    text = re.sub(r"^x\s*(?=10)|\b(?<=\d)\s*x\s*(?=10)", "", text, flags=re.I)
    text = re.sub(r"^\s*/", "1/", text)
    text = re.sub(r"(?<=[^\W\d_])\^?-(\d)", r"^-\1", text)
    named = re.sub(
        r"cmh2o|[°]?[^\W\d_]+|[%\"]", lambda match: _SPELLED.get(match[0].lower(), match[0]), text, flags=re.I
    )
    powers = re.sub(r"(?<=[^\W\d_])(?<!cmH)\^?(-?\d)\b", r"**\1", named)
    return re.sub(r"\s*([/*()])\s*", r"\1", powers.replace("^", "**").replace("·", "*"))


# --------------------------------------------------------------------------------------------------
# conversion

_TERM = r"(?:\d+(?:\.\d+)?|[^\W\d_]\w*)(?:\*\*-?\d)?|\(1\.73 m\*\*2\)"
_UNIT = re.compile(rf"(?:{_TERM})(?:[*/ ](?:{_TERM}))*")
"""What pint is given to read: numbers, names and whole powers, multiplied and divided."""


@dataclass(frozen=True, slots=True)
class Line:
    """target = factor * source + offset."""

    factor: float
    offset: float = 0.0

    def __call__(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values of any shape."""
        return self.factor * np.asarray(values, float) + self.offset


@cache
def _registry() -> pint.UnitRegistry:
    registry = pint.UnitRegistry()
    registry.define("international_unit = [biological_activity] = IU")
    return registry


@cache
def line(source: str, target: str, substance: str | None = None) -> Line:
    """How a value in one unit becomes one in another.

    substance: a key of `SUBSTANCES`, or `HBA1C`; needed between mass and amount. DataError where
    the units do not measure the same, or are not known.
    """
    failed = f"cannot convert {source} to {target}" + (f" for {substance}" if substance else "")
    match spelled(source), spelled(target):
        case one, other if one == other:
            return Line(1.0)
        case "percent", "mmol/mol" if substance == HBA1C:
            return Line(*_IFCC)
        case "mmol/mol", "percent" if substance == HBA1C:
            return Line(1 / _IFCC[0], -_IFCC[1] / _IFCC[0])
    if substance == HBA1C:
        raise DataError(f"{failed}: it is measured in % (NGSP) or in mmol/mol (IFCC)")
    known = SUBSTANCES.get(substance or "")
    start, end = (_quantity(unit, known) for unit in (source, target))
    if start is None or end is None:
        raise DataError(f"{failed}: one of them is no known unit; expected such as mg/dL, mmol/L, mmHg or years")
    by_amount = ["[substance]" in quantity.dimensionality for quantity in (start, end)]
    if known and by_amount[0] != by_amount[1]:
        molar_mass = _registry().Quantity(known.molar_mass, "g/mol")
        start = start * molar_mass if by_amount[0] else start / molar_mass
    if not start.is_compatible_with(end):
        why = "name the substance" if by_amount[0] != by_amount[1] and not known else "they do not measure the same"
        raise DataError(f"{failed}: {why}")

    def converted(number: float) -> float:
        value = _registry().Quantity(number * start.magnitude, start.units)
        return float(value.to(end.units).magnitude / end.magnitude)

    zero = converted(0.0)
    return Line(converted(1.0) - zero, zero)


def _quantity(unit: str, substance: Substance | None) -> Any:
    """One of a unit, as pint has it; None where it is not known."""
    text = spelled(unit)
    if substance:
        text = re.sub(r"([mµ]?)Eq\b", rf"\1mol/{substance.valence}", text)
    try:
        return _registry().Quantity(_registry().parse_expression(text)) if _UNIT.fullmatch(text) else None
    except pint.PintError:
        return None


def line_between(name: str, own: Column, other_name: str, other: Column) -> Line:
    """How a value of one column becomes one of another that measures the same, by what either is
    called; as it is where one of them has no unit. DataError as `line`."""
    if not (own.unit and other.unit) or spelled(own.unit) == spelled(other.unit):
        return Line(1.0)
    named = ((name, own), (other_name, other))
    said = (substance_of(called, column.phrase or "", column.same_as or "") for called, column in named)
    return line(own.unit, other.unit, next(filter(None, said), None))


def convert(values: ArrayLike, source: str, target: str, substance: str | None = None) -> NDArray[np.float64]:
    """Values of any shape in another unit; errors as `line`."""
    return line(source, target, substance)(values)


_WAYS = (("years", "months", "days"), ("cm", "m", "in"), ("kg", "lb"), ("mmHg", "kPa"), ("°C", "°F"))


def other_units(unit: str, substance: str | None = None) -> list[str]:
    """Other units that clinicians write the same quantity in, as they are written; empty where none
    are usual or the unit is not known."""
    own = spelled(unit)
    if substance == HBA1C:
        ways: tuple[str, ...] = ("%", "mmol/mol")
    elif substance in SUBSTANCES and "/" in own:
        ways = SUBSTANCES[substance].usual
    else:
        ways = next((way for way in _WAYS if own in map(spelled, way)), ())
    return [way for way in ways if spelled(way) != own and _converts(unit, way, substance)]


def _converts(source: str, target: str, substance: str | None) -> bool:
    try:
        line(source, target, substance)
    except DataError:
        return False
    return True

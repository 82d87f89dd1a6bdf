"""Units as clinicians write them, against factors and pairs from textbooks."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardiotune.data.units import HBA1C, SUBSTANCES, convert, line, other_units, spelled, substance_of
from cardiotune.errors import DataError


class Known(NamedTuple):
    value: float
    unit: str
    equals: float
    other: str
    substance: str | None = None


BLOOD = [
    Known(100, "mg/dL", 5.55, "mmol/L", "glucose"),
    Known(126, "mg/dL", 7.0, "mmol/L", "glucose"),  # ADA and WHO: diabetes
    Known(200, "mg/dL", 5.17, "mmol/L", "cholesterol"),
    Known(40, "mg/dL", 1.03, "mmol/L", "cholesterol"),  # low HDL
    Known(150, "mg/dL", 1.69, "mmol/L", "triglycerides"),
    Known(1, "mg/dL", 88.4, "µmol/L", "creatinine"),
    Known(1, "mg/dL", 17.1, "µmol/L", "bilirubin"),
    Known(1, "mg/dL", 59.5, "µmol/L", "uric acid"),
    Known(60, "mg/dL", 10.0, "mmol/L", "urea"),
    Known(28, "mg/dL", 10.0, "mmol/L", "urea nitrogen"),
    Known(10, "mg/dL", 2.495, "mmol/L", "calcium"),
    Known(2.5, "mmol/L", 5.0, "mEq/L", "calcium"),
    Known(140, "mEq/L", 140, "mmol/L", "sodium"),
    Known(4, "mEq/L", 15.64, "mg/dL", "potassium"),
    Known(100, "µg/dL", 17.9, "µmol/L", "iron"),
    Known(15, "g/dL", 9.31, "mmol/L", "haemoglobin"),
    Known(15, "g/dL", 150, "g/L", "haemoglobin"),
    Known(30, "ng/mL", 74.9, "nmol/L", "vitamin D"),
    Known(300, "pg/mL", 221.3, "pmol/L", "vitamin B12"),
    Known(10, "µg/dL", 275.9, "nmol/L", "cortisol"),
    Known(8, "µg/dL", 103.0, "nmol/L", "thyroxine"),
    Known(7, "%", 53, "mmol/mol", HBA1C),
    Known(48, "mmol/mol", 6.54, "%", HBA1C),
]
BODY = [
    Known(1, "year", 365.25, "days"),
    Known(5, "yrs", 60, "months"),
    Known(2, "weeks", 14, "d"),
    Known(180, "cm", 1.8, "m"),
    Known(70, "inches", 177.8, "cm"),
    Known(154, "lbs", 69.85, "kg"),
    Known(120, "mm Hg", 16.0, "kPa"),
    Known(37, "°C", 98.6, "°F"),
    Known(98.6, "F", 310.15, "K"),
    Known(27, "kg/m²", 0.0027, "kg/cm2"),
    Known(90, "mL/min/1.73m2", 1.5, "mL/s/1.73 m^2"),
    Known(250, "10^9/L", 250, "10^3/µL"),
    Known(250, "x10^9/L", 250_000, "/mm3"),
    Known(60, "U/L", 1.0, "µkat/L"),
    Known(2, "mIU/L", 2, "µIU/mL"),
    Known(45, "%", 0.45, "L/L"),
    Known(72, "beats per minute", 72, "/min"),
]


@pytest.mark.parametrize("known", BLOOD + BODY, ids=lambda known: f"{known.unit} {known.other} {known.substance}")
def test_known_pairs(known: Known) -> None:
    assert convert(known.value, known.unit, known.other, known.substance) == pytest.approx(known.equals, rel=0.005)
    assert convert(known.equals, known.other, known.unit, known.substance) == pytest.approx(known.value, rel=0.005)


@pytest.mark.parametrize(
    ("spellings", "unit"),
    [
        (["mg/dl", "MG/DL", "mg / dL", "mg per dl"], "mg/dL"),
        (["umol/l", "µmol/L", "μmol/l", "mcmol/L"], "µmol/L"),
        (["mmHg", "mm Hg", "mmhg", "MM HG", "Torr"], "mmHg"),
        (["years", "yrs", "yr", "Y", "Years"], "year"),
        (["/min", "bpm", "beats/min", "1/min", "beats per minute", "min-1", "min^-1"], "/minute"),
        (["kg/m2", "kg/m²", "kg/m^2", "KG/M2"], "kg/m^2"),
        (["cms", "centimetres", "CM"], "cm"),
        (["mcg/L", "ug/l", "µg/L"], "µg/L"),
        (["°C", "° C", "C", "celsius", "degC"], "°C"),
        (["10^9/L", "10**9/L", "x10^9/l", "10^9 cells/L", "x 10^9/L"], "10^9/L"),
        (["%", "percent"], "%"),
        (["mL/min/1.73m2", "ml/min/1.73 m²", "mL/min/1.73 m^2"], "mL/min/1.73m2"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_spelled_by_clinicians(spellings: list[str], unit: str) -> None:
    for spelling in spellings:
        found = line(spelling, unit)
        assert found.factor == pytest.approx(1), (spelling, spelled(spelling))
        assert found.offset == pytest.approx(0, abs=1e-9)


@given(value=st.floats(0.01, 1e4), substance=st.sampled_from(sorted(SUBSTANCES)))
def test_there_and_back(value: float, substance: str) -> None:
    mass, amount = SUBSTANCES[substance].usual
    assert convert(convert(value, mass, amount, substance), amount, mass, substance) == pytest.approx(value)


def test_arrays_and_missing_values() -> None:
    found = convert([[0, 100], [np.nan, 200]], "mg/dL", "mmol/L", "cholesterol")
    assert found.shape == (2, 2) and np.isnan(found[1, 0])
    assert found[1, 1] == pytest.approx(5.17, abs=0.005) and found[0, 0] == 0


@pytest.mark.parametrize(
    ("source", "target", "substance", "message"),
    [
        ("mg/dL", "mmol/L", None, "cannot convert mg/dL to mmol/L: name the substance"),
        ("mmHg", "mmol/L", "glucose", "cannot convert mmHg to mmol/L for glucose: they do not measure the same"),
        ("kg", "cm", None, "cannot convert kg to cm: they do not measure the same"),
        ("mm", "mmHg", None, "cannot convert mm to mmHg: they do not measure the same"),
        ("mEq/L", "mmol/L", None, "cannot convert mEq/L to mmol/L: one of them is no known unit"),
        ("Agatston", "mm", None, "cannot convert Agatston to mm: one of them is no known unit"),
        ("", "mm", None, "cannot convert  to mm: one of them is no known unit"),
        ("mg/", "mm", None, "one of them is no known unit"),
        ("__import__('os')", "mm", None, "one of them is no known unit"),
        ("%", "mg/dL", HBA1C, "cannot convert % to mg/dL for HbA1c: it is measured in % (NGSP) or in mmol/mol (IFCC)"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(
    source: str, target: str, substance: str | None, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        line(source, target, substance)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "substance"),
    [
        (["serum_cholesterol", "cholesterol"], "cholesterol"),
        (["HDL"], "cholesterol"),
        (["ldl_chol_mg_dl"], "cholesterol"),
        (["s_creat"], "creatinine"),
        (["bun"], "urea nitrogen"),
        (["blood urea nitrogen"], "urea nitrogen"),
        (["urea"], "urea"),
        (["glycated haemoglobin"], HBA1C),
        (["HbA1c"], HBA1C),
        (["fasting_glucose"], "glucose"),
        (["K"], "potassium"),
        (["uric_acid"], "uric acid"),
        (["albumin_creatinine_ratio"], None),
        (["vessels_ca"], None),
        (["ca"], "calcium"),
        (["ca_mg_dl"], "calcium"),
        (["Hb (g/dL)"], "haemoglobin"),
        (["mg"], "magnesium"),
        (["weight_mg"], None),
        (["resting pressure"], None),
    ],
)
def test_the_substance_of_a_column(names: list[str], substance: str | None) -> None:
    assert substance_of(*names) == substance


def test_other_units() -> None:
    assert other_units("mg/dl", "cholesterol") == ["mmol/L"]
    assert other_units("mmol/L", "glucose") == ["mg/dL"]
    assert other_units("umol/l", "creatinine") == ["mg/dL"]
    assert other_units("%", HBA1C) == ["mmol/mol"]
    assert other_units("yrs") == ["months", "days"]
    assert other_units("cm") == ["m", "in"]
    assert other_units("mm Hg") == ["kPa"]
    assert other_units("mg/dL") == other_units("Agatston") == other_units("/min") == other_units("mm") == []

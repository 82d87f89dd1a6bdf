"""Columns that say who a patient is: by name, by form and check digit, by behaviour; and those that
do not."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.audit.audit import audit_prepared
from cardiotune.config import load_config
from cardiotune.data.draft import draft
from cardiotune.data.identifiers import FORMS, Identifier, compact, identify, in_texts
from cardiotune.data.prepare import read_prepared
from cardiotune.settings import Column, Config

ROWS = 60


def listed(names: str) -> list[str]:
    return names.split()


def kind(name: str, values: Any) -> str | None:
    found = identify(name, pl.Series(name, values))
    return found.kind if found else None


# --------------------------------------------------------------------------------------------------
# forms

PUBLISHED = {
    "an NHS or CHI number": (["943 476 5919", "9434765919", "401 023 2137"], ["943 476 5918"]),
    "a German insurance number": (["A000500015"], ["A000500016"]),
    "a French social security number": (["2 55 08 14 168 025 38", "255081416802538"],
                                        ["255081416802539"]),
    "a Spanish DNI or NIE": (["54362315K", "X2482300W"], ["54362315Z"]),
    "a Swiss AHV number": (["756.9217.0769.85", "7569217076985"], ["756.9217.0769.84"]),
    "a Swedish personnummer": (["811228-9874", "198112289874"], ["811228-9873"]),
    "a Danish CPR number": (["211062-5629"], ["811262-5629"]),
    "a Norwegian national identity number": (["15108695088"], ["15108695077"]),
    "a Finnish personal identity code": (["131052-308T"], ["131052-308U"]),
    "a Dutch BSN": (["111222333", "123456782"], ["111252333"]),
    "a Canadian SIN": (["046 454 286", "123-456-782"], ["046 454 287"]),
    "a Belgian national number": (["85.07.30-033 28".replace(" ", "."), "85073003328"], ["85073003329"]),
    "a Polish PESEL": (["44051401359"], ["44051401358"]),
    "a Brazilian CPF": (["390.533.447-05"], ["390.533.447-06"]),
    "an Australian Medicare number": (["2123 45670 1"], ["2123 45671 1"]),
    "a Chilean RUT": (["76086428-5", "12531909-2"], ["12531909-3"]),
}  # fmt: skip
"""Numbers that the standards, or the documentation of libraries for them, give as valid and as
invalid."""
CHECKS = {what: (pattern, check) for what, _, pattern, check in FORMS}


@pytest.mark.parametrize("what", PUBLISHED)
def test_check_digits_of_published_numbers(what: str) -> None:
    pattern, check = CHECKS[what]
    good, bad = PUBLISHED[what]
    for number in good:
        assert re.fullmatch(pattern, number, re.I) and check(compact(number)), number
    assert not any(check(compact(number)) for number in bad)


def made_up(template: str, check: Callable[[str], bool], count: int = ROWS) -> list[str]:
    """Different values: `9` is any figure, `@` any letter or figure; those that pass."""
    draw = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        value = "".join(
            str(draw.randrange(10)) if c == "9" else draw.choice("ABCDEFGHJKLMNPRSTVWXYZ0123456789") if c == "@" else c
            for c in template
        )
        if check(compact(value)):
            found[value.replace("{at}", "@")] = None
    return list(found)


TEMPLATES = {
    "an NHS or CHI number": ["9999999999", "999 999 9999"],
    "a social security number": ["999-99-9999"],
    "a national insurance number": ["AB999999C", "AB 99 99 99 C"],
    "an Italian codice fiscale": ["RSSMRA80A01H999U"],
    "a Mexican CURP": ["GARC850101HDFRRL99"],
    "a Medicare number": ["1EG4-TE5-MK99"],
    "a German insurance number": ["A999999999"],
    "a French social security number": ["199079999999999"],
    "a Spanish DNI or NIE": ["99999999@", "X9999999@"],
    "a Swiss AHV number": ["756.9999.9999.99"],
    "a Swedish personnummer": ["199999-9999", "20019999-9999"],
    "a Danish CPR number": ["999999-9999"],
    "a Norwegian national identity number": ["99999999999"],
    "a Finnish personal identity code": ["999999-999@"],
    "a Dutch BSN": ["999999999"],
    "a Canadian SIN": ["999 999 999"],
    "an Ontario health card number": ["9999-999-999-AB"],
    "an Australian Medicare number": ["2999 99999 9"],
    "a Belgian national number": ["99.99.99-999.99"],
    "a Polish PESEL": ["99999999999"],
    "a Brazilian CPF": ["999.999.999-99"],
    "a Chilean RUT": ["99999999-9"],
    "a UUID": ["12345678-1234-4234-8234-999999999999"],
    "a hash": ["9" * 32, "abcdef99" * 8],
    "an e-mail address": ["p9999.q{at}example.org"],
    "a telephone number": ["+44 7700 900999", "(555) 999-9999", "0151 99999999"],
    "an internet address": ["10.9.9.99", "https://example.org/9999"],
}


def test_every_form_is_tested() -> None:
    assert {*TEMPLATES, "a name"} == CHECKS.keys()


@pytest.mark.parametrize(("what", "template"), [(what, t) for what, templates in TEMPLATES.items() for t in templates])
def test_a_column_is_known_by_its_form_whatever_it_is_called(what: str, template: str) -> None:
    values = made_up(template, CHECKS[what][1])
    found = identify("x", pl.Series(values))
    assert found is not None and found.why in ("by its form", "by its check digit")
    assert found.kind == next(kind for w, kind, _, _ in FORMS if w == what)
    assert identify("x", pl.Series([*values, None, "", " NA "])) == found, "missing cells"
    assert identify("x", pl.Series(values * 3)) == found, "rows of one patient"
    if CHECKS[what][1].__name__ not in ("_any", "_phone"):
        wrong = [v for v in made_up(template, lambda _: True, 200) if not CHECKS[what][1](compact(v))]
        other = identify("x", pl.Series(wrong[:40] * 3))
        assert other is None or other.what != what, "a figure that does not check is no such number"


@pytest.mark.parametrize("numeric", [pl.Int64, pl.Float64], ids=str)
def test_numbers_that_lost_their_zeros(numeric: Any) -> None:
    """As integers or floats, as a data frame stores them: leading zeros gone, `.0` behind."""
    for what, template in (
        ("an NHS or CHI number", "0199999999"),
        ("a Dutch BSN", "019999999"),
        ("a Polish PESEL", "001" + "9" * 8),
    ):
        values = [int(v) for v in made_up(template, CHECKS[what][1])]
        assert kind("x", pl.Series(values).cast(numeric)) is not None
    nhs = [int(v) for v in made_up("9999999999", CHECKS["an NHS or CHI number"][1])]
    found = identify("x", pl.Series(nhs).cast(numeric))
    assert found == Identifier("patient", "an NHS or CHI number", "by its check digit")


def test_nearly_all_must_pass() -> None:
    good = made_up("9999999999", CHECKS["an NHS or CHI number"][1], 100)
    slips = [f"{v[:-1]}{(int(v[-1]) + 1) % 10}" for v in good[:4]]
    found = identify("x", pl.Series(good[4:] + slips))
    assert found is not None and found.what == "an NHS or CHI number"
    draw = np.random.default_rng(0)
    by_chance = [str(v) for v in draw.integers(100_000_000, 999_999_999, 12)] * 5
    assert kind("code", by_chance) is None, "a few codes of nine figures, of which one in ten or so passes a check"


@pytest.mark.parametrize("form", ["{}, {}", "{} {}", "{} Q. {}", "{}, {} MD"])
def test_names_of_people(form: str) -> None:
    first = ["Ann", "Bob", "Carl", "Dora", "Eve", "Fay", "Gus", "Hal", "Ida", "Jón"]
    last = ["Smith", "O'Neil", "Müller", "Ng", "Lee", "Fox"]
    assert kind("x", [form.format(b, a) for a in first for b in last]) == "contact"
    assert kind("x", ["Heart Failure", "Angina Pectoris", "Mitral Stenosis", "Atrial Flutter", "Long Qt"] * 12) is None


# --------------------------------------------------------------------------------------------------
# names

PATIENT = listed(
    "patient_id PatientID patientId PATIENT patient patient_no patient_number Patienten-Nr pat_nr pat_id PatNr subject SUBJID subject_id USUBJID "
    "participant_id participant person_id individual_id pid eid IID mrn MRN medical_record_number hospital_number hospital_no nhs nhs_number "
    "nhsno NHSNumber chi_number ssn social_security_number nino bsn personnummer kvnr versichertennummer Versicherten-ID insurance_number "
    "health_card_number healthcard passport_no national_id codice_fiscale curp pesel medicare_number ptid pseudonym pseudo_id id_patient "
    "src_subject_id dbGaP_Subject_ID patient_hash study_patient_id uniquepid randid participant_code subject_key hashed_patient_id "
    "mother_id donor_id screening_no uhid"
)  # fmt: skip
WEAK = listed("id ID ids record_id RecordID study_id STUDYID case_id caseid seqn idno")
RECORD = listed(
    "visit_id VisitID encounter_id hadm_id HADM_ID stay_id icustay_id sample_id SampleID accession_number specimen_id fallnummer Fall-Nr "
    "case_no visit_occurrence_id episode_id row_id scan_id image_id order_id hospital_id site_id device_id doctor_id provider_id barcode "
    "patientunitstayid pat_enc_csn_id"
)  # fmt: skip
CONTACT = {
    "number": listed("phone phone_number telephone mobile_no home_phone tel zip zip_code postcode postal_code PLZ date_of_birth dob DOB Geburtsdatum"),
    "text": listed("name surname first_name last_name FirstName lastname patient_name Vorname Nachname full_name address street_address "
    "address_line_1 home_address email e-mail e_mail_address mail birth_date BRTHDTC postcode"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [(PATIENT, "patient"), (WEAK, "weak"), (["family_id", "FID", "household_id"], "family"), (RECORD, "record")],
)
@pytest.mark.parametrize(
    "make", [lambda n: n + 1000, lambda n: f"P{n:04d}", lambda n: f"{n:06d}", lambda n: n // 2 + 1000]
)
def test_names_of_keys(names: list[str], expected: str, make: Callable[[int], Any]) -> None:
    """Whether the values are numbers, have a prefix, zeros in front, or repeat."""
    values = [make(number) for number in range(ROWS)]
    assert {name: kind(name, values) for name in names} == dict.fromkeys(names, expected)


def test_names_of_people_addresses_and_dates_of_birth() -> None:
    words = [f"Q{'abcdefghij'[n % 10]}{'klmnopq'[n // 10]} w" for n in range(ROWS)]
    assert {name: kind(name, words) for name in CONTACT["text"]} == dict.fromkeys(CONTACT["text"], "contact")
    numbers = [30000 + 17 * n for n in range(ROWS)]
    assert {name: kind(name, numbers) for name in CONTACT["number"]} == dict.fromkeys(CONTACT["number"], "contact")


DRAW = np.random.default_rng(1)
FINDINGS: dict[str, Any] = {
    "age": DRAW.integers(20, 90, 300),
    "weight": DRAW.integers(45, 120, 300),
    "crp": DRAW.gamma(2, 4, 300),
    "troponin": DRAW.random(300) * 1e7,
    "platelets": DRAW.integers(150_000, 450_000, 300),
    "nt_probnp": DRAW.integers(5, 35_000, 300),
    "total_reads": DRAW.integers(10_000_000, 99_000_000, 300),
    "viral_load": DRAW.integers(1, 10_000_000, 300),
    "ferritin": DRAW.permutation(300) * 3 + 7,
    "income": DRAW.integers(10_000, 99_000, 300),
    "VISITNUM": np.arange(300) % 3,
    "visit_number": np.arange(300) % 12,
    "episode_no": np.arange(300) % 7,
    "patients_seen": DRAW.integers(1, 90, 300),
    "number_of_patients": DRAW.integers(1, 90, 300),
    "cpr": np.arange(300) % 2,
    "medicare": ["yes", "no"] * 150,
    "phone": ["yes", "no", None] * 100,
    "email": np.arange(300) % 2,
    "patient_class_code": ["A1", "B2", "C3"] * 100,
    "test_code": ["T1", "T2", "T3"] * 100,
    "drug_name": ["aspirin", "Metoprolol"] * 150,
    "redcap_event_name": ["baseline_arm_1", "month_6_arm_1"] * 150,
    "icd10": ["I21.4", "E11.9", "I50.0", "J18.1", "N17.9", "I25.10"] * 50,
    "atc": ["C09AA05", "B01AC06", "A10BA02", "C07AB02", "C10AA05"] * 60,
    "child": ["A", "B", "C"] * 100,
    "covid": np.arange(300) % 2,
    "thyroid": DRAW.integers(1, 90, 300),
    "amyloid": DRAW.random(300),
    "race_concept_id": [8527, 8516, 8515] * 100,
    "identity_score": DRAW.integers(0, 99, 300),
    "mother_age": DRAW.integers(18, 45, 300),
    "birth_year": DRAW.integers(1930, 2000, 300),
    "birth_weight": DRAW.integers(900, 4500, 300),
    "name_of_drug": ["a", "b"] * 150,
    "nir": DRAW.random(300),
    "sin": DRAW.random(300),
    "chi": DRAW.integers(0, 20, 300),
    "seen_on": DRAW.permutation(np.arange(20_200_101, 20_200_128).repeat(12))[:300],
    "admitted": [f"2020-{1 + n // 28 % 12:02d}-{n % 28 + 1:02d} 10:{n % 60:02d}" for n in range(300)],
    "note": [f"seen on day {n}, stable" for n in range(300)],
    "sex": ["M", "F"] * 150,
    "postop_day": DRAW.integers(0, 30, 300),
    "mail_order": np.arange(300) % 2,
    "sample_volume": DRAW.integers(1, 99, 300),
    "kreatinin": [f"0,{n}" for n in DRAW.permutation(9000)[:300] + 1000],
    "bnp": [f"{n // 1000}.{n % 1000:03d}" for n in DRAW.permutation(30_000)[:300] + 1000],
    "créatinine": [f"1 {n // 10},{n % 10}" for n in DRAW.permutation(9000)[:300] + 1000],
    "leukocytes": [f"1'{n // 10}.{n % 10}" for n in DRAW.permutation(9000)[:300] + 1000],
    "wert": [f"${n // 1000},{n % 1000:03d}.50" for n in DRAW.permutation(9000)[:300] + 1000],
    "base_excess": [f"({n / 1000})" for n in DRAW.permutation(9000)[:300] + 1000],
    "glucose": [f"{n} mg/dL" for n in DRAW.permutation(9000)[:300] + 1000],
    "fraction": [f"{n / 100:.2f}%" for n in DRAW.permutation(9000)[:300] + 1000],
    "troponin_t": [f"<{n / 1e4:.4f}" if n % 5 == 0 else f"{n / 1e4:.4f}" for n in DRAW.permutation(9000)[:300] + 1000],
    "pressure": [f"{80 + n % 99}/{40 + n // 5}" for n in range(300)],
    "clock": [f"{n % 24:02d}:{n % 60:02d}:{n // 5:02d}" for n in range(300)],
    "two_digit_years": [f"{1 + n % 28:02d}/{1 + n // 28:02d}/{10 + n % 90}" for n in range(300)],
    "both_orders": [f"{1 + n % 28:02d}/{1 + n // 28:02d}/{1950 + n % 70}" for n in range(300)],
    "sas_datetime": [f"{1 + n % 28:02d}JAN19:{n % 24:02d}:{n % 60:02d}:11" for n in range(300)],
}


@pytest.mark.parametrize("name", FINDINGS)
def test_findings_are_no_identifiers(name: str) -> None:
    assert identify(name, pl.Series(FINDINGS[name])) is None


def test_findings_that_differ_between_men_and_women_are_no_keys_in_any_writing() -> None:
    """Men and women share few values of a hormone; with a decimal comma it is one all the same."""
    men = [row % 2 == 0 for row in range(300)]
    hormone = [f"{(9 if man else 1) + row % 60 / 60:.2f}".replace(".", ",") for row, man in enumerate(men)]
    assert identify("testosteron", pl.Series(hormone), pl.DataFrame({"sex": men})) is None


# --------------------------------------------------------------------------------------------------
# behaviour


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(1, 61), "record"),
        (range(100, 160), "record"),
        ([n for n in range(90) if n % 3], "record"),
        (DRAW.permutation(60) + 1, "record"),
        (DRAW.integers(1_000_000_000, 9_999_999_999, 60), "weak"),
        (DRAW.integers(1_000_000, 9_999_999, 60).astype(float), "weak"),
        ([f"{n:07d}" for n in DRAW.integers(0, 9_999_999, 60)], "weak"),
        ([f"P{n:04d}" for n in range(60)], "weak"),
        ([f"ABC {n:05d}" for n in range(60)], "weak"),
        ([f"X-{n}/19" for n in range(60)], "weak"),
        ([f"{n // 60 + 31}-{n * 7 % 60 + 32}-{n * 13 % 90 + 10}" for n in range(60)], "weak"),
        ([f"A{100_000_000 + n // 3 * 7919}" for n in range(90)], "weak"),
    ],
)
def test_behaviour_under_any_name(values: Any, expected: str) -> None:
    assert kind("x", list(values)) == expected


def test_rows_of_one_patient_are_known_by_what_does_not_change_in_a_person() -> None:
    draw = np.random.default_rng(2)
    keys = np.repeat([f"Q{n}" for n in draw.permutation(100)], 3)
    sex = pl.DataFrame({"sex": np.repeat(draw.choice(["M", "F"], 100), 3)})
    assert identify("x", pl.Series(keys), sex) is not None
    assert identify("x", pl.Series(np.repeat(np.arange(100), 3)), sex) is not None, "numbers that follow each other"
    assert identify("x", pl.Series(keys), pl.DataFrame({"sex": draw.choice(["M", "F"], 300)})) is None
    men = (sex["sex"] == "M").to_numpy()
    hormone = np.where(men, draw.integers(300, 900, 300), draw.integers(10, 70, 300))
    assert identify("testosterone", pl.Series(hormone), sex) is None, "men and women share no value of it"


# --------------------------------------------------------------------------------------------------
# texts


def test_texts_that_hold_numbers_of_patients() -> None:
    nhs = made_up("999 999 9999", CHECKS["an NHS or CHI number"][1])
    for made in (
        [f"Seen today, NHS no. {n}, age 61." for n in nhs],
        [f"Ref {n}; age 61" for n in nhs],
        [f"Mail: p{n}@example.org" for n in range(ROWS)],
        [f"MRN: {n} age 61" for n in range(ROWS)],
        ["Surname: Q. Date of birth: 1960"] * ROWS,
    ):
        found = in_texts(pl.Series(made))
        assert found is not None and not any(word in str(found) for word in ("999", "example"))
    draw = np.random.default_rng(3)
    harmless = [
        f"age {n % 90}, bp {n}/80, counted {draw.integers(10**9, 10**10)} cells of the patient." for n in range(ROWS)
    ]
    assert in_texts(pl.Series(harmless)) is None


# --------------------------------------------------------------------------------------------------
# what `init` makes of them


def drafted(
    folder: Path, columns: dict[str, Any], rows: int = ROWS, ending: str = "csv"
) -> tuple[dict[str, Column], str]:
    draw = np.random.default_rng(0)
    findings = {"age": draw.integers(30, 90, rows), "crp": draw.random(rows), "died": draw.integers(0, 2, rows)}
    frame = pl.DataFrame({**columns, **{name: values for name, values in findings.items() if name not in columns}})
    file = folder / f"table.{ending}"
    frame.write_csv(file) if ending == "csv" else frame.write_parquet(file)
    written = draft(str(file), "died", folder / "study")
    return load_config(written.experiment).data.columns, "\n".join(written.notes) + written.dataset.read_text()


NHS = made_up("9999999999", CHECKS["an NHS or CHI number"][1])
TWICE = [n // 2 for n in range(ROWS)]
ROLES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"nhs_number": NHS}, {"nhs_number": "id"}),
    ({"nhs_number": [f"{v[:3]} {v[3:6]} {v[6:]}" for v in NHS]}, {"nhs_number": "id"}),
    ({"x": NHS}, {"x": "id"}),
    ({"x": [NHS[n] for n in TWICE]}, {"x": "group"}),
    ({"USUBJID": [f"ABC-01-{n:04d}" for n in TWICE], "VISITNUM": [n % 2 for n in range(ROWS)]}, {"USUBJID": "group", "VISITNUM": "feature"}),
    ({"STUDYID": ["ABC"] * ROWS, "SUBJID": TWICE, "USUBJID": [f"ABC-{n}" for n in TWICE]},
     {"STUDYID": "ignore", "SUBJID": "ignore", "USUBJID": "group"}),
    ({"record_id": TWICE, "redcap_event_name": ["a", "b"] * 30}, {"record_id": "group"}),
    ({"record_id": [1] * 30 + [2] * 30, "redcap_repeat_instance": [*range(30)] * 2}, {"record_id": "group"}),
    ({"record_id": range(ROWS)}, {"record_id": "id"}),
    ({"id": TWICE}, {"id": "group"}),
    ({"study_id": ["A", "B", "C"] * 20}, {"study_id": "ignore"}),
    ({"subject_id": TWICE, "hadm_id": range(500, 500 + ROWS)}, {"subject_id": "group", "hadm_id": "id"}),
    ({"subject_id": TWICE, "stay_id": [n // 4 for n in range(ROWS)]}, {"subject_id": "group", "stay_id": "ignore"}),
    ({"patient_id": range(ROWS), "visit_id": range(ROWS)}, {"patient_id": "id", "visit_id": "ignore"}),
    ({"visit_id": range(ROWS), "patient_id": range(ROWS)}, {"patient_id": "id", "visit_id": "ignore"}),
    ({"id": range(ROWS), "patient": [f"P{n:03d}" for n in TWICE]}, {"id": "id", "patient": "group"}),
    ({"FID": TWICE, "IID": [f"S{n}" for n in range(ROWS)]}, {"FID": "group", "IID": "id"}),
    ({"patient_id": [None, *range(1, ROWS)]}, {"patient_id": "ignore"}),
    ({"patient_name": [f"Q{'abcdefghij'[n % 10]} R" for n in range(ROWS)], "email": [f"q{n}@e.org" for n in range(ROWS)],
      "phone": [f"0151 {n:07d}" for n in range(ROWS)], "dob": ["1950-01-02"] * ROWS, "zip": range(30000, 30000 + ROWS)},
     dict.fromkeys(("patient_name", "email", "phone", "dob", "zip"), "ignore")),
    ({"hospital_id": [0, 1, 2] * 20, "gender_concept_id": [8507, 8532] * 30}, {"hospital_id": "ignore", "gender_concept_id": "feature"}),
    ({"nummer": range(1, ROWS + 1)}, {"nummer": "id"}),
    ({"x": range(1, ROWS + 1)}, {"x": "ignore"}),
    ({"pat": [f"P{n:04d}" for n in TWICE]}, {"pat": "group"}),
    ({"pat": [f"{n:04d}" for n in TWICE]}, {"pat": "group"}),
    ({"x": [f"Q{n}" for n in TWICE] * 3, "sex": [["M", "F"][n % 3 % 2] for n in TWICE] * 3}, {"x": "group", "sex": "feature"}),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "expected"), ROLES, ids=lambda value: "-".join(value)[:40])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_drafted_roles(tmp_path: Path, columns: dict[str, Any], expected: dict[str, str], ending: str) -> None:
    columns = {name: list(values) for name, values in columns.items()}
    found, said = drafted(tmp_path, columns, len(next(iter(columns.values()))), ending)
    assert {name: found[name].role for name in expected} == expected
    for name, role in expected.items():
        assert role == "feature" or f"{name}: role {role}, " in said, "there is a note"
    quoted = [
        str(v)
        for name, values in columns.items()
        if expected.get(name, "feature") != "feature"
        for v in values
        if len(str(v)) > 6
    ]
    assert not [value for value in quoted if value in said], "no value is quoted"
    assert found["age"].role == found["crp"].role == "feature"


def test_ids_as_floats(tmp_path: Path) -> None:
    found, _ = drafted(
        tmp_path, {"nhs_number": [float(v) for v in NHS], "x": [float(NHS[n]) for n in TWICE]}, ending="parquet"
    )
    assert (found["nhs_number"].role, found["x"].role) == ("id", "group")


def test_meanings_are_drafted(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    columns = {"age_days": draw.integers(10_000, 30_000, ROWS), "is_male": [0, 1] * 30, "sbp": draw.integers(95, 180, ROWS),
               "sex_hormone": draw.random(ROWS), "age": draw.integers(10_000, 30_000, ROWS)}  # fmt: skip
    found, said = drafted(tmp_path, columns)
    meanings = {name: column.meaning for name, column in found.items() if column.meaning}
    assert meanings == {"age_days": "age", "is_male": "sex", "sbp": "systolic_pressure"}
    assert "do not say who is a man" not in said


def test_a_sex_without_words_is_said(tmp_path: Path) -> None:
    found, said = drafted(tmp_path, {"sex": [0, 1] * 30})
    assert found["sex"].meaning == "sex" and found["sex"].codes == {"0": "0", "1": "1"}, "not yes and no"
    assert "sex: its codes do not say who is a man" in said


# --------------------------------------------------------------------------------------------------
# what the audit says of a dictionary that was written by hand


def audited(
    folder: Path, columns: dict[str, Any], entries: dict[str, Any], **settings: Any
) -> list[tuple[str, str, str]]:
    """(check, severity, text) of the findings about keys."""
    rows = len(next(iter(columns.values())))
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({"age": draw.integers(30, 90, rows), "died": draw.integers(0, 2, rows), **columns})
    frame.write_csv(folder / "table.csv")
    dictionary = {"age": {"type": "integer"}, **entries, "died": {"role": "target"}}
    tree = {
        "name": "toy",
        "data": {"path": str(folder / "table.csv"), "columns": dictionary, **settings.pop("data", {})},
        "task": {"outcome": "death"},
        "model": {"name": "none", "path": str(folder)},
        "models": ["logistic_regression"],
        "evaluation": {"keep_row_ids": settings.pop("keep_row_ids", False)},
        **settings,
    }
    config = Config.model_validate(tree)
    found = audit_prepared(config, read_prepared(config))
    return [(f.check, f.severity, f.text) for f in found if f.check in ("identifier_feature", "patients_in_parts")]


LONG = 240
MANY = made_up("9999999999", CHECKS["an NHS or CHI number"][1], LONG)
PAIRS = [n // 3 for n in range(LONG)]


@pytest.mark.parametrize(
    ("columns", "entries", "expected"),
    [
        ({"nhs_number": MANY}, {"nhs_number": {"type": "integer"}}, [("identifier_feature", "warning")]),
        ({"x": [int(v) for v in MANY]}, {"x": {"type": "numeric"}}, [("identifier_feature", "warning")]),
        ({"mrn": PAIRS}, {"mrn": {"type": "integer"}}, [("patients_in_parts", "leak"), ("identifier_feature", "warning")]),
        ({"USUBJID": [f"A-{n:04d}" for n in PAIRS]}, {"USUBJID": {"role": "ignore", "type": "text"}}, [("patients_in_parts", "leak")]),
        ({"USUBJID": [f"A-{n:04d}" for n in PAIRS]}, {}, [("patients_in_parts", "leak")]),
        ({"record_id": PAIRS}, {"record_id": {"role": "ignore"}}, [("patients_in_parts", "warning")]),
        ({"record_id": PAIRS, "row": range(LONG)}, {"row": {"role": "id"}}, [("patients_in_parts", "warning")]),
        ({"x": [MANY[n] for n in PAIRS]}, {}, [("patients_in_parts", "leak")]),
        ({"USUBJID": PAIRS}, {"USUBJID": {"role": "group"}}, []),
        ({"nhs_number": MANY}, {"nhs_number": {"role": "id"}}, []),
        ({"nhs_number": MANY}, {}, []),
        ({"study_id": ["A", "B"] * 120, "site_no": [n % 4 for n in range(LONG)]}, {}, []),
        ({"note": [f"NHS no. {n}, stable" for n in MANY]}, {"note": {"type": "text"}}, [("identifier_feature", "warning")]),
        ({"note": [f"MRN: {n % 7}, stable" for n in range(LONG)]}, {"note": {"role": "text"}}, [("identifier_feature", "warning")]),
        ({"note": [f"age {n % 70}, stable" for n in range(LONG)]}, {"note": {"role": "text"}}, []),
        ({"email": [f"p{n}@example.org" for n in range(LONG)]}, {"email": {"type": "text"}}, [("identifier_feature", "warning")]),
    ],
    ids=lambda value: "-".join(map(str, value))[:30],
)  # fmt: skip
@pytest.mark.parametrize("keep_row_ids", [False, True])
def test_audit_of_keys(
    tmp_path: Path, columns: dict[str, Any], entries: dict[str, Any], expected: list[Any], keep_row_ids: bool
) -> None:
    found = audited(tmp_path, columns, entries, keep_row_ids=keep_row_ids)
    assert [(check, severity) for check, severity, _ in found] == expected
    values = {str(v) for name in columns for v in columns[name] if len(str(v)) > 4}
    assert not [v for v in values for *_, text in found if v in text], "no value is quoted"


def test_patients_of_training_and_validation_alone_are_said_to_be_there(tmp_path: Path) -> None:
    """Nobody of the test part is known, so its figures stand; early stopping and calibration saw
    patients of the training."""
    parts = (["train"] * 40 + ["validation"] * 40) * 2 + ["test"] * 80
    keys = [n % 80 for n in range(160)]
    mrn = [keys[n] if n < 80 else keys[(n + 40) % 80] for n in range(160)] + [n // 2 + 200 for n in range(80)]
    columns = {"mrn": mrn, "part": parts}
    entries = {"mrn": {"role": "ignore", "type": "text"}, "part": {"role": "split"}}
    ((check, severity, text),) = audited(tmp_path, columns, entries, split={"by": "column"})
    assert (check, severity) == ("patients_in_parts", "warning")
    assert "80 validation rows have a value that training rows have too" in text and "test" not in text


def test_rows_that_left_do_not_shift_the_keys(tmp_path: Path) -> None:
    """Keys that stay together are no leak, and blank outcomes and the files of other parts shift
    nothing."""
    keys = [f"A-{n:04d}" for n in PAIRS]
    split = ["train", "validation", "test"]
    columns = {
        "USUBJID": keys,
        "part": [split[n % 3] for n in PAIRS],
        "crp": [None if n % 11 == 0 else n * 7 % 101 for n in range(LONG)],
    }
    entries = {"part": {"role": "split"}, "crp": {"type": "numeric", "range": [5, 500]}}
    settings: dict[str, Any] = {"split": {"by": "column"}, "data": {"out_of_range": "exclude"}}
    assert audited(tmp_path, columns, entries, **settings) == []
    columns["part"][3] = next(part for part in split if part != columns["part"][3])
    columns["part"][7] = next(part for part in split if part != columns["part"][7])
    assert [check for check, *_ in audited(tmp_path, columns, entries, **settings)] == ["patients_in_parts"]

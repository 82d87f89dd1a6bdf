"""Patients who stand in two tables are found, and nobody else."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.config import load_config, read_yaml, shipped
from cardiotune.data.across import InBoth, Shared, in_both, shared_columns
from cardiotune.data.cohort import Cohort, read_cohort
from cardiotune.settings import DataConfig

# The published order of the columns.
COLUMNS = {
    "cleveland": "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal",
    "statlog_heart": "age_years sex chest_pain resting_sbp_mmhg cholesterol_mg_dl fasting_sugar_over_120 resting_ecg max_heart_rate "
    "exercise_angina st_depression_mm st_slope major_vessels thallium",
    "hungarian": "age_years gender chest_pain_type systolic_pressure_rest cholesterol_mmol_l high_fasting_glucose ecg_at_rest "
    "peak_pulse exercise_angina st_depression st_segment stained_vessels perfusion_scan",
    "switzerland": "pat_age pat_sex symptoms sbp_admission s_cholesterol glucose_above_6_7 rest_ekg hr_max ergo_angina ergo_st_mm "
    "ergo_st_course angio_vessels thallium_201",
    "va": "AGE SEX CHEST_PAIN ADMIT_SBP TOTAL_CHOL FBS_GT_120 ECG MAX_HR ANGINA_TREADMILL ST_DEPR ST_SLOPE FLUORO_VESSELS THAL",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohorts() -> dict[str, Cohort]:
    return {name: read_cohort(load_config("cleveland", [f"use.dataset={name}"]).data, 0) for name in COLUMNS}


def same_as(first: str, second: str) -> dict[str, str]:
    return dict(zip(COLUMNS[first].split(), COLUMNS[second].split(), strict=True))


def compared(cohorts: dict[str, Cohort], first: str, second: str) -> InBoth:
    shared = shared_columns(cohorts[first], cohorts[second], same_as(first, second))
    return in_both(cohorts[first], cohorts[second], shared)


def test_statlog_stands_in_cleveland(cohorts: dict[str, Cohort]) -> None:
    found = compared(cohorts, "statlog_heart", "cleveland")
    assert len(found.shared) == 13 and found.found and found.expected == 0
    assert found.rows(exact=True) == 270
    assert found.rows(exact=False) == 0
    events = [cohorts[name].events[found.pairs[:, side]] for side, name in enumerate(("statlog_heart", "cleveland"))]
    assert (events[0] == events[1]).all()
    back = compared(cohorts, "cleveland", "statlog_heart")
    assert {tuple(pair) for pair in back.pairs[:, ::-1]} == {tuple(pair) for pair in found.pairs}


def test_patients_of_whom_one_value_differs_are_found_too(cohorts: dict[str, Cohort]) -> None:
    """A decimal point lost: every whole millimetre of ST depression is a tenth."""
    statlog = cohorts["statlog_heart"]
    depth = pl.col("st_depression_mm")
    spoilt = pl.when((depth > 0) & (depth == depth.round())).then(depth / 10).otherwise(depth)
    copies = {**cohorts, "statlog_heart": replace(statlog, frame=statlog.frame.with_columns(spoilt))}
    found = compared(copies, "statlog_heart", "cleveland")
    assert (found.rows(exact=True), found.rows(exact=False)) == (244, 26)
    assert found.text("statlog_heart", "cleveland", 270) == (
        "244 of 270 patients of statlog_heart stand in cleveland too, equal in the 13 columns that both have, and 26 in all of "
        "them but one"
    )


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.combinations(sorted(COLUMNS.keys() - {"statlog_heart"}), 2))
)
def test_no_patient_is_in_two_hospitals(cohorts: dict[str, Cohort], first: str, second: str) -> None:
    found = compared(cohorts, first, second)
    assert (
        not found.found
        and not len(found.pairs)
        and len(found.shared) == (12 if "switzerland" in (first, second) else 13)
    )


def test_four_columns_that_are_known_by_their_meaning_tell_many_patients(cohorts: dict[str, Cohort]) -> None:
    """A pair alone would prove nothing; so many of them do."""
    shared = shared_columns(cohorts["statlog_heart"], cohorts["cleveland"])
    assert set(shared) == {
        Shared("age_years", "age"), Shared("sex", "sex"), Shared("resting_sbp_mmhg", "trestbps"), Shared("cholesterol_mg_dl", "chol")
    }  # fmt: skip
    found = in_both(cohorts["statlog_heart"], cohorts["cleveland"], shared)
    truth = {tuple(pair) for pair in compared(cohorts, "statlog_heart", "cleveland").pairs}
    pairs = {tuple(pair) for pair in found.pairs}
    assert found.found and len(pairs & truth) >= 190 and len(pairs - truth) <= 0.05 * len(pairs)
    for first, second in itertools.combinations(set(COLUMNS) - {"statlog_heart"}, 2):
        if "hungarian" not in (first, second):
            assert not in_both(cohorts[first], cohorts[second], shared_columns(cohorts[first], cohorts[second])).found


# --------------------------------------------------------------------------------------------------
# tables that write the same in another way


def cohort(folder: Path, name: str, rows: dict[str, Any], **columns: dict[str, Any]) -> Cohort:
    pl.DataFrame(rows).write_csv(folder / f"{name}.csv")
    target = {"y": {"role": "target"}}
    return read_cohort(DataConfig.model_validate({"path": str(folder / f"{name}.csv"), "columns": columns | target}), 0)


@pytest.fixture
def patients() -> pl.DataFrame:
    draw = np.random.default_rng(0)
    size = 300
    return pl.DataFrame(
        {
            "days": draw.integers(30 * 365, 80 * 365, size),
            "woman": draw.integers(0, 2, size),
            "chol": draw.integers(120, 350, size),
            "sbp": draw.integers(95, 190, size),
            "y": draw.integers(0, 2, size),
        }
    )


def here(folder: Path, patients: pl.DataFrame) -> Cohort:
    return cohort(
        folder,
        "here",
        patients.select("days", "woman", "chol", "sbp", "y").to_dict(as_series=False),
        days={"type": "integer", "unit": "days", "phrase": "age"},
        woman={"type": "binary", "codes": {0: "man", 1: "woman"}},
        chol={"type": "integer", "unit": "mg/dL"},
        sbp={"type": "integer", "unit": "mmHg"},
    )


def there(folder: Path, patients: pl.DataFrame) -> Cohort:
    """Ages in completed years, sexes of other codes, cholesterol in mmol/L of one decimal."""
    rows = {
        "age_years": (patients["days"] / 365.25).floor().cast(int),
        "geschlecht": 2 - patients["woman"],
        "tc": (patients["chol"] / 38.665).round(1),
        "systolic": patients["sbp"],
        "y": patients["y"],
    }
    return cohort(
        folder,
        "there",
        rows,
        age_years={"type": "integer", "unit": "yrs"},
        geschlecht={"type": "binary", "codes": {1: "Woman", 2: "Man"}, "missing": ["9"]},
        tc={"type": "numeric", "unit": "mmol/l"},
        systolic={"type": "integer", "unit": "mm Hg"},
    )


SAME = {"days": "age_years", "woman": "geschlecht", "chol": "tc", "sbp": "systolic"}


def test_other_units_and_codes(tmp_path: Path, patients: pl.DataFrame) -> None:
    ours, theirs = here(tmp_path, patients[:200]), there(tmp_path, patients[100:])
    found = in_both(ours, theirs, shared_columns(ours, theirs, SAME))
    assert {(i, i - 100) for i in range(100, 200)} <= {tuple(pair) for pair in found.pairs[found.exact]}
    assert found.found and len(found.pairs) <= 105
    apart = in_both(ours, there(tmp_path, patients[200:]), found.shared)
    assert not apart.found


def test_what_says_nothing_finds_nobody(tmp_path: Path, patients: pl.DataFrame) -> None:
    ours = here(tmp_path, patients)
    by_sex = in_both(ours, ours, [Shared("woman", "woman")])
    assert not by_sex.found and by_sex.pairs.shape == (0, 2)
    nothing = in_both(ours, ours, [])
    assert not nothing.found and nothing.rows(exact=True) == 0


def test_columns_that_cannot_be_compared_are_not_shared(tmp_path: Path, patients: pl.DataFrame) -> None:
    ours, theirs = here(tmp_path, patients), there(tmp_path, patients)
    by_meaning = [Shared("woman", "geschlecht"), Shared("sbp", "systolic")]
    assert shared_columns(ours, theirs, {"days": "geschlecht", "chol": "no such"}) == by_meaning


@pytest.mark.parametrize("columns", [5, 12])
@pytest.mark.parametrize("seed", range(5))
def test_patients_who_are_alike_by_chance(tmp_path: Path, columns: int, seed: int) -> None:
    """Yes/no columns that hang together: full of equal rows."""
    draw = np.random.default_rng(seed)
    ill = draw.normal(size=1000)
    table = {f"s{place}": (draw.normal(size=1000) + 2 * ill > 0.6).astype(int) for place in range(columns)}
    table |= {"twice": table["s0"], "y": draw.integers(0, 2, 1000)}
    kinds = {name: {"type": "binary"} for name in table if name != "y"}
    halves = [
        cohort(tmp_path, name, {column: values[part] for column, values in table.items()}, **kinds)
        for name, part in (("a", slice(0, 400)), ("b", slice(400, 1000)))
    ]
    assert not in_both(*halves, shared_columns(*halves)).found


@pytest.mark.slow
def test_halves_of_the_cardio_table(shared_data: Path) -> None:
    tree = read_yaml(shipped("datasets")["cardio"])["data"]
    whole = read_cohort(DataConfig.model_validate({**tree, "path": str(shared_data / "cardio_train.csv")}), 0)
    half = np.random.default_rng(0).random(whole.frame.height) < 0.5
    parts = [Cohort(whole.frame.filter(pl.Series(rows)), [], columns=whole.columns) for rows in (half, ~half)]
    shared = shared_columns(*parts)
    assert len(shared) >= 10
    assert not in_both(*parts, shared).found
    doubled = Cohort(pl.concat([parts[1].frame, parts[0].frame[:500]]), [], columns=whole.columns)
    found = in_both(parts[0], doubled, shared)
    # Ten rounded values tell few of 35,000 patients apart; that there are copies is certain.
    assert found.found and found.rows(exact=True) >= 40
    copies = found.pairs[found.exact]
    assert ((copies[:, 0] < 500) & (copies[:, 1] >= parts[1].frame.height)).mean() > 0.9

"""The four embedded UCI hospitals: as published, each under a dictionary of its own."""

import importlib.util
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from cardiotune import stages
from cardiotune.audit.audit import audit_prepared
from cardiotune.config import load_config
from cardiotune.data import roles, schema
from cardiotune.data.cohort import read_cohort
from cardiotune.data.prepare import read_prepared
from cardiotune.data.table import locate, read_cells
from cardiotune.settings import Config

COUNTS = {"cleveland": (303, 139), "hungarian": (294, 106), "switzerland": (123, 115), "va": (200, 149)}
"""Patients, and those with a narrowing of more than 50 %."""
MISSING = {
    "cleveland": {"ca": 4, "thal": 2},
    "hungarian": {
        "systolic_pressure_rest": 1, "cholesterol_mmol_l": 23, "high_fasting_glucose": 8, "ecg_at_rest": 1, "peak_pulse": 1,
        "exercise_angina": 1, "st_segment": 190, "stained_vessels": 291, "perfusion_scan": 266,
    },
    "switzerland": {
        "ergo_angina": 1, "hr_max": 1, "ergo_st_mm": 6, "ergo_st_course": 17, "rest_ekg": 1, "sbp_admission": 2,
        "glucose_above_6_7": 75, "thallium_201": 52, "angio_vessels": 118,
    },
    "va": {
        "ADMIT_SBP": 57, "MAX_HR": 53, "TOTAL_CHOL": 56, "FBS_GT_120": 7, "ANGINA_TREADMILL": 53, "ST_DEPR": 56, "ST_SLOPE": 102,
        "FLUORO_VESSELS": 198, "THAL": 166,
    },
}  # fmt: skip
"""Counted in the published files: `?`, and a pressure or cholesterol of 0."""


def hospital(name: str, *overrides: str) -> Config:
    return load_config("cleveland", [f"use.dataset={name}", f"name={name}", *overrides])


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = Path(__file__).parents[1] / "examples" / "uci_hospitals.py"
    spec = importlib.util.spec_from_file_location("uci_hospitals", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COUNTS)
def test_the_table_is_what_the_script_writes(name: str, script: ModuleType, shared_data: Path, tmp_path: Path) -> None:
    written = script.convert(name, shared_data / f"processed.{name}.data", tmp_path)
    assert written.read_bytes() == locate(f"builtin:{name}").read_bytes()


@pytest.mark.parametrize("name", COUNTS)
def test_rows_are_as_published(name: str, script: ModuleType, shared_data: Path) -> None:
    lines = (shared_data / f"processed.{name}.data").read_text().split()
    published = pl.DataFrame([line.split(",") for line in lines], orient="row")
    table = read_cells(locate(f"builtin:{name}"))
    if name == "hungarian":
        known = table["cholesterol_mmol_l"] != "?"
        mg_dl = table["cholesterol_mmol_l"].filter(known).cast(pl.Float64) * script.MG_DL_A_MMOL_L
        assert mg_dl.round(0).to_list() == published["column_4"].filter(known).cast(pl.Float64).to_list()
        table = table.with_columns(published["column_4"].alias("cholesterol_mmol_l"))
    assert table.rows() == published.rows()


@pytest.mark.parametrize("name", COUNTS)
def test_the_dictionary_fits(name: str) -> None:
    data = hospital(name).data
    cohort = read_cohort(data, 0)
    assert [step.left for step in cohort.flow] == [COUNTS[name][0]]
    assert int(cohort.events.sum()) == COUNTS[name][1]
    assert {column: count for column, count in cohort.notes.missing.items() if count} == MISSING[name]
    assert not cohort.notes.values_out_of_range and not cohort.notes.columns_ignored
    for column, entry in data.columns.items():
        if entry.codes and entry.role == "feature":
            assert set(cohort.frame[column].drop_nulls()) <= entry.codes.keys(), column


@pytest.mark.parametrize("name", COUNTS)
def test_what_the_columns_mean_is_found(name: str) -> None:
    cohort = read_cohort(hospital(name).data, 0)
    expected = {"age", "sex", "systolic_pressure", "total_cholesterol"}
    assert roles.settle(cohort.columns, cohort.frame).meanings.keys() == expected - (
        {"total_cholesterol"} if name == "switzerland" else set()
    )


def test_hospitals_call_nothing_but_age_and_sex_alike() -> None:
    """What differs between them is what is to be shown: names, wordings, and a unit."""
    labels: dict[str, list[str]] = {}
    for name in COUNTS:
        for column, entry in hospital(name).data.columns.items():
            if entry.role == "feature":
                labels.setdefault(schema.label(column, entry).casefold(), []).append(name)
    shared = {label: names for label, names in labels.items() if len(names) > 1}
    assert shared == {"age": ["cleveland", "hungarian", "va"], "sex": ["cleveland", "va"]}


@pytest.mark.parametrize("name", COUNTS)
def test_the_audit_finds_no_leak(name: str) -> None:
    config = hospital(name)
    prepared = read_prepared(config)
    assert all(prepared.cohort.events[prepared.rows(part)].any() for part in ("train", "validation", "test"))
    findings = audit_prepared(config, prepared)
    assert {finding.severity for finding in findings} == {"note"}
    of_outcome = [finding.text.split()[0] for finding in findings if finding.check == "missing_by_group"]
    assert of_outcome == (["st_segment"] if name == "hungarian" else [])


@pytest.mark.parametrize("name", COUNTS)
def test_each_runs_alone(name: str, tmp_path: Path) -> None:
    models = "models=[prevalence, logistic_regression]"
    run, prepared = stages.prepare(hospital(name, models, f"runs_dir={tmp_path}"))
    stages.predict(run, prepared)
    predictions = pl.read_ndjson(run.predictions).filter(pl.col("part") == "test")
    assert set(predictions["model"]) == {"prevalence", "logistic_regression"}
    assert predictions["y_prob"].is_between(0, 1).all()

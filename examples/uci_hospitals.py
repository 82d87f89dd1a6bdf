"""Writes the four embedded UCI hospitals from the published files.

    python examples/uci_hospitals.py FOLDER src/cardiotune/data/tables

FOLDER holds `processed.cleveland.data`, `processed.hungarian.data`, `processed.switzerland.data`
and `processed.va.data` of https://archive.ics.uci.edu/dataset/45/heart+disease. Rows keep their
order and every cell its text, but for the Hungarian cholesterol: a European laboratory reports
mmol/L.
"""

import csv
import sys
from pathlib import Path

MG_DL_A_MMOL_L = 38.67
"""Of cholesterol, as in NCEP ATP III; 386.65 g/mol. Two decimals of mmol/L give every published
whole mg/dL back."""
CHOLESTEROL = 4
"""Its place among the published columns."""
HEAD = """\
# UCI Heart Disease data set, {hospital}, https://archive.ics.uci.edu/dataset/45/heart+disease
# Licence: Creative Commons Attribution 4.0 (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/
# Citation: Janosi, Steinbrunn, Pfisterer, Detrano. Heart Disease. UCI Machine Learning Repository. \
https://doi.org/10.24432/C52P4X
# Changes: a header line{changes}.
"""
HOSPITALS = {
    "cleveland": (
        "Cleveland Clinic Foundation",
        "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num",
    ),
    "hungarian": (
        "Hungarian Institute of Cardiology, Budapest",
        "age_years gender chest_pain_type systolic_pressure_rest cholesterol_mmol_l high_fasting_glucose ecg_at_rest "
        "peak_pulse exercise_angina st_depression st_segment stained_vessels perfusion_scan coronary_stenosis",
    ),
    "switzerland": (
        "University Hospitals Zurich and Basel",
        "pat_age pat_sex symptoms sbp_admission s_cholesterol glucose_above_6_7 rest_ekg hr_max ergo_angina "
        "ergo_st_mm ergo_st_course angio_vessels thallium_201 cad_grade",
    ),
    "va": (
        "V.A. Medical Center, Long Beach",
        "AGE SEX CHEST_PAIN ADMIT_SBP TOTAL_CHOL FBS_GT_120 ECG MAX_HR ANGINA_TREADMILL ST_DEPR ST_SLOPE FLUORO_VESSELS "
        "THAL CAD_CLASS",
    ),
}
"""Who they are, and their columns in the order of the published files."""


def convert(hospital: str, published: Path, folder: Path) -> Path:
    """One hospital's table with its header, written to `folder`."""
    name, columns = HOSPITALS[hospital]
    with published.open(encoding="ascii", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    changes = ""
    if hospital == "hungarian":
        changes = f"; cholesterol in mmol/L, two decimals, by {MG_DL_A_MMOL_L} mg/dL"
        for row in rows:
            if row[CHOLESTEROL] != "?":
                row[CHOLESTEROL] = f"{float(row[CHOLESTEROL]) / MG_DL_A_MMOL_L:.2f}"
    table = folder / f"{hospital}.csv"
    with table.open("w", encoding="ascii", newline="") as file:
        file.write(HEAD.format(hospital=name, changes=changes))
        csv.writer(file, lineterminator="\n").writerows([columns.split(), *rows])
    return table


if __name__ == "__main__":
    for hospital in HOSPITALS:
        convert(hospital, Path(sys.argv[1]) / f"processed.{hospital}.data", Path(sys.argv[2]))

"""Published risk scores: worked examples of their papers, ranges, units, and the scores as
comparators of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.data.cohort import read_cohort
from cardiotune.errors import ConfigError, DataError
from cardiotune.models import calibrate
from cardiotune.models.logistic import logit
from cardiotune.models.risk_scores import (
    PUBLISHED,
    PublishedRisks,
    completed_risks,
    framingham,
    framingham_bmi,
    pooled_cohort,
    score2,
    score_cohort,
    to_mg_dl,
    to_mmol_l,
)
from cardiotune.settings import Column, Config
from cardiotune.synthetic_ukb.export import write_export
from conftest import toy_config, write_toy_experiment

# --------------------------------------------------------------------------------------------------
# published examples

SMOKER = {"age_years": 50, "smoker": 1, "sbp_mmhg": 140}


@pytest.mark.parametrize(
    ("region", "men", "women"),
    [("low", 0.0631, 0.0433), ("moderate", 0.0811, 0.0523), ("high", 0.0881, 0.0713), ("very_high", 0.1506, 0.1413)],
)
def test_score2_gives_its_supplementary_table_4(region: Any, men: float, women: float) -> None:
    """50 years, smoker, 140 mmHg, total cholesterol 6.3 and HDL 1.4 mmol/L, in each region, to four
    digits."""
    found = score2(**SMOKER, male=[1, 0], total_cholesterol_mmol_l=6.3, hdl_mmol_l=1.4, region=region)
    assert found.risk == pytest.approx([men, women], abs=0.00006)
    assert found.left_out == {}


def test_score2_gives_the_example_of_its_abstract() -> None:
    """Eur Heart J 2021;42:2439: cholesterol 5.5, HDL 1.3: 5.9 % to 14.0 % in men, 4.2 % to 13.7 %
    in women."""
    profile = {**SMOKER, "male": [1, 0], "total_cholesterol_mmol_l": 5.5, "hdl_mmol_l": 1.3}
    assert score2(**profile, region="low").risk == pytest.approx([0.059, 0.042], abs=0.0005)
    assert score2(**profile, region="very_high").risk == pytest.approx([0.140, 0.137], abs=0.0005)


def test_pooled_cohort_equations_give_the_example_of_appendix_7() -> None:
    """Goff 2014, table A: 55 years, 213 and 50 mg/dL, 120 mmHg untreated, no smoker, no diabetes.

    The table rounds every product to two digits: its white man has a sum of 60.69 and 5.3 %, in
    full 60.70 and 5.38 %.
    """
    found = pooled_cohort(
        age_years=55,
        male=[0, 0, 1, 1],
        black=[0, 1, 0, 1],
        smoker=0,
        diabetes=0,
        sbp_mmhg=120,
        bp_medication=0,
        total_cholesterol_mg_dl=213,
        hdl_mg_dl=50,
    )
    assert found.risk[[0, 1, 3]] == pytest.approx([0.021, 0.030, 0.061], abs=0.0005)
    assert found.risk[2] == pytest.approx(1 - 0.9144 ** np.exp(60.69 - 61.18), abs=0.0005)


def test_pooled_cohort_equations_agree_with_an_r_package() -> None:
    """At 140 mmHg, as the tests of CVrisk have it: 2.76, 5.08, 7.01 and 7.95 %."""
    shared = {"age_years": 55, "smoker": 0, "diabetes": 0, "sbp_mmhg": 140, "bp_medication": 0}
    lipids = {"total_cholesterol_mg_dl": 213, "hdl_mg_dl": 50}
    found = pooled_cohort(**shared, **lipids, male=[0, 0, 1, 1], black=[0, 1, 0, 1])
    assert found.risk == pytest.approx([0.0276, 0.0508, 0.0701, 0.0795], abs=0.00005)
    men = {**shared, "male": 1}
    assert framingham(**men, **lipids).risk == pytest.approx([0.1353], abs=0.00005)
    assert framingham_bmi(**men, bmi_kg_m2=30).risk == pytest.approx([0.1675], abs=0.00005)


def test_framingham_gives_the_two_cases_of_its_paper() -> None:
    """D'Agostino 2008: a smoking woman of 61 with 124 mmHg untreated, a diabetic man of 53 with 125
    mmHg treated."""
    found = framingham(
        age_years=[61, 53],
        male=[0, 1],
        smoker=[1, 0],
        diabetes=[0, 1],
        sbp_mmhg=[124, 125],
        bp_medication=[0, 1],
        total_cholesterol_mg_dl=[180, 161],
        hdl_mg_dl=[47, 55],
    )
    assert found.risk == pytest.approx([0.1048, 0.1562], abs=0.0001)


# --------------------------------------------------------------------------------------------------
# a slow second implementation, term by term


def slow_pooled_white_woman(
    age: float, total: float, hdl: float, sbp: float, treated: int, smoker: int, dm: int
) -> float:
    la, lt, lh, ls = np.log([age, total, hdl, sbp])
    lp = -29.799 * la + 4.884 * la**2 + 13.54 * lt - 3.114 * la * lt - 13.578 * lh + 3.149 * la * lh
    lp += (2.019 if treated else 1.957) * ls + smoker * (7.574 - 1.665 * la) + 0.661 * dm
    return float(1 - 0.9665 ** np.exp(lp + 29.18))


def slow_score2_man(age: float, smoker: int, sbp: float, total: float, hdl: float, dm: int) -> float:
    a, s, t, h = (age - 60) / 5, (sbp - 120) / 20, total - 6, (hdl - 1.3) / 0.5
    lp = 0.3742 * a + 0.6012 * smoker + 0.2777 * s + 0.6457 * dm + 0.1458 * t - 0.2698 * h
    lp += a * (-0.0755 * smoker - 0.0255 * s - 0.0281 * t + 0.0426 * h - 0.0983 * dm)
    return float(1 - np.exp(-np.exp(-0.5699 + 0.7476 * np.log(-np.log(0.9605 ** np.exp(lp))))))


def test_every_term_by_a_second_implementation() -> None:
    draw = np.random.default_rng(0)
    n = 300
    age, sbp = draw.uniform(40, 69.9, n), draw.uniform(95, 190, n)
    total, hdl = draw.uniform(3, 9, n), draw.uniform(0.7, 2.6, n)
    smoker, treated, dm = draw.integers(0, 2, (3, n))
    shared = {"age_years": age, "smoker": smoker, "sbp_mmhg": sbp, "diabetes": dm}
    found = score2(**shared, male=1, total_cholesterol_mmol_l=total, hdl_mmol_l=hdl, beyond="nearest").risk
    rows = zip(age, smoker, sbp, total, hdl, dm, strict=True)
    assert found == pytest.approx([slow_score2_man(*row) for row in rows], rel=1e-9)
    lipids = {"total_cholesterol_mg_dl": to_mg_dl(total), "hdl_mg_dl": to_mg_dl(hdl)}
    found = pooled_cohort(**shared, **lipids, male=0, black=0, bp_medication=treated).risk
    rows = zip(age, total * 38.67, hdl * 38.67, sbp, treated, smoker, dm, strict=True)
    assert found == pytest.approx([slow_pooled_white_woman(*row) for row in rows], rel=1e-9)


def test_each_risk_factor_raises_the_risk() -> None:
    middle = {"age_years": 55, "male": 1, "smoker": 0, "diabetes": 0, "sbp_mmhg": 130, "bp_medication": 0}
    lipids = {"total_cholesterol_mg_dl": 210, "hdl_mg_dl": 50}
    for function, profile in (
        (framingham, middle | lipids),
        (framingham_bmi, middle | {"bmi_kg_m2": 27}),
        (pooled_cohort, middle | lipids | {"black": 0}),
        (pooled_cohort, middle | lipids | {"black": 1, "male": 0}),
    ):
        before = function(**profile).risk[0]
        for name, value in {"smoker": 1, "diabetes": 1, "sbp_mmhg": 150, "bp_medication": 1, "age_years": 62}.items():
            assert function(**profile | {name: value}).risk[0] > before, (function.__name__, name)


def test_units_are_converted_back_and_forth() -> None:
    assert to_mg_dl(1) == pytest.approx(38.67)
    assert to_mmol_l(to_mg_dl([5.5, 1.3])) == pytest.approx([5.5, 1.3])


# --------------------------------------------------------------------------------------------------
# rows without a risk


def scored(age: Any, **changes: Any) -> PublishedRisks:
    profile = {
        "age_years": age,
        "male": 1,
        "smoker": 0,
        "sbp_mmhg": 130,
        "total_cholesterol_mmol_l": 5.5,
        "hdl_mmol_l": 1.3,
    }
    return score2(**profile | changes)


def test_who_is_out_of_range_has_no_risk_and_is_counted_under_the_reason() -> None:
    found = scored([39.9, 40, 69.9, 70, np.nan, 50], sbp_mmhg=[130, 130, 130, 130, 130, 0], diabetes=[0, 0, 1, 0, 0, 0])
    assert np.isnan(found.risk).tolist() == [True, False, True, True, True, True]
    assert found.left_out == {
        "age_years not known": 1,
        "younger than 40": 1,
        "older than 69": 1,
        "sbp_mmhg not above 0": 1,
        "diabetes": 1,
    }


def test_a_flag_is_0_or_1() -> None:
    found = scored(50, smoker=[0, 1, 2, np.nan])
    assert np.isnan(found.risk).tolist() == [False, False, True, True]
    assert found.left_out == {"smoker not known": 1, "smoker neither 0 nor 1": 1}


def test_the_nearest_end_of_the_range_is_taken_when_asked() -> None:
    found = scored([30, 40, 70, 85], beyond="nearest")
    assert found.risk[0] == found.risk[1] and found.risk[2] == found.risk[3]
    assert found.left_out == {}


@pytest.mark.parametrize(("function", "first", "last"), [(pooled_cohort, 40, 79), (framingham, 30, 74)])
def test_ranges_of_the_others(function: Any, first: int, last: int) -> None:
    profile = {"male": 1, "smoker": 0, "diabetes": 0, "sbp_mmhg": 130, "bp_medication": 0}
    profile |= {"total_cholesterol_mg_dl": 210, "hdl_mg_dl": 50} | ({"black": 0} if function is pooled_cohort else {})
    found = function(age_years=[first - 0.1, first, last + 0.9, last + 1], **profile)
    assert np.isnan(found.risk).tolist() == [True, False, False, True]
    assert found.left_out == {f"younger than {first}": 1, f"older than {last}": 1}


# --------------------------------------------------------------------------------------------------
# a cohort

COLUMNS = {
    "age_years": {"type": "numeric", "unit": "years"},
    "sex": {"type": "binary", "codes": {"0": "female", "1": "male"}},
    "ethnicity": {
        "type": "categorical",
        "codes": {"1": "white", "2": "mixed", "4": "Black or Black British", "6": "other"},
    },
    "smoking": {"type": "categorical", "codes": {"0": "never", "1": "previous", "2": "current"}, "missing": ["-3"]},
    "diabetes": {"type": "binary"},
    "bp_medication": {"type": "binary"},
    "sbp_mmhg": {"type": "numeric", "unit": "mmHg"},
    "total_cholesterol": {"type": "numeric", "unit": "mmol/L"},
    "hdl": {"type": "numeric", "unit": "mg/dL"},
    "bmi": {"type": "numeric"},
}
FOUR = pl.DataFrame(
    {
        "age_years": [55.0, 55.0, 55.0, None],
        "sex": ["0", "1", "1", "1"],
        "ethnicity": ["1", "4", "6", None],
        "smoking": ["0", "1", "2", None],
        "diabetes": ["0", "0", "0", "0"],
        "bp_medication": ["0", "0", "1", "0"],
        "sbp_mmhg": [120.0, 120.0, 120.0, 120.0],
        "total_cholesterol": [213 / 38.67] * 4,
        "hdl": [50.0] * 4,
        "bmi": [27.0] * 4,
    }
)


def dictionary(**changes: Any) -> dict[str, Column]:
    return {name: Column.model_validate(entry) for name, entry in (COLUMNS | changes).items() if entry is not None}


def test_a_cohort_is_read_by_its_dictionary() -> None:
    found = score_cohort(FOUR, dictionary(), "pooled_cohort")
    assert found.risk[:2] == pytest.approx([0.0205, 0.0607], abs=0.0001)
    expected = pooled_cohort(
        age_years=55,
        male=1,
        black=0,
        smoker=1,
        diabetes=0,
        sbp_mmhg=120,
        bp_medication=1,
        total_cholesterol_mg_dl=213,
        hdl_mg_dl=50,
    )
    assert found.risk[2] == pytest.approx(expected.risk[0])
    assert np.isnan(found.risk[3])
    assert found.left_out == {"age_years not known": 1, "black not known": 1, "smoker not known": 1}


def test_score2_of_a_cohort_takes_the_region() -> None:
    low, high = (score_cohort(FOUR, dictionary(), "score2", region).risk[:3] for region in ("low", "very_high"))
    assert (high > 1.5 * low).all()


def test_every_row_of_a_comparator_has_a_risk(caplog: pytest.LogCaptureFixture) -> None:
    training = np.array([True, True, True, False])
    with caplog.at_level("WARNING", logger="cardiotune"):
        found = completed_risks(FOUR, dictionary(), "pooled_cohort", training)
    exact = score_cohort(FOUR, dictionary(), "pooled_cohort").risk
    assert found[:3] == pytest.approx(exact[:3]) and 0 < found[3] < 1
    assert "age_years not known (<10 rows)" in caplog.text
    older = FOUR.with_columns(age_years=pl.Series([55.0, 55.0, 72.0, 39.0]), smoking=pl.lit("0"))
    found = completed_risks(older, dictionary(), "score2", np.ones(4, bool))
    assert np.isfinite(found).all(), "ages beyond the range count as its nearest end"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hdl": None}, "score2: data.columns has no hdl_cholesterol; give each a column with `meaning:`"),
        ({"hdl": {"type": "numeric"}}, "data.columns.hdl.unit: expected mmol/L or mg/dL, found none"),
        ({"sex": {"type": "binary", "codes": {"0": "a", "1": "b"}}}, "data.columns.sex.codes: no code is in words"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as error:
        score_cohort(FOUR, dictionary(**changes), "score2")
    assert said in str(error.value)


def test_a_table_without_ethnicity_is_scored_by_the_equations_for_white_people() -> None:
    found = score_cohort(FOUR, dictionary(ethnicity=None), "pooled_cohort")
    assert found.risk[1] == pytest.approx(0.0538, abs=0.0001)


def test_uk_biobank_has_the_inputs_of_every_score(tmp_path: Path) -> None:
    """A synthetic export, read with the shipped dictionary: who has a value missing has no risk,
    the others have."""
    write_export(tmp_path / "ukb", 400, 3, "csv", None)
    config = load_config(
        "ukb_cad_demo", [f"data.path={tmp_path / 'ukb'}", "models=[score2, pooled_cohort, framingham]"]
    )
    cohort = read_cohort(config.data, 0)
    means = {}
    for score in PUBLISHED:
        found = score_cohort(cohort.frame, config.data.columns, score)
        known = np.isfinite(found.risk)
        assert 0.6 < known.mean() < 1, score
        means[score] = found.risk[known].mean()
    assert 0.02 < means["score2"] < 0.08 < means["framingham"] < 0.25


# --------------------------------------------------------------------------------------------------
# a run


def test_published_scores_run_only_when_they_are_named(toy_model: Path) -> None:
    assert not {"score2", "pooled_cohort", "framingham"} & set(toy_config(toy_model).comparators)
    assert toy_config(toy_model, models=["score2", "tuned"]).comparators == ["score2", "tuned"]


def cohort_experiment(folder: Path, model: Path, rows: int = 600) -> Config:
    """The toy experiment with a table that has the inputs, and an outcome that follows SCORE2 with
    twice its odds."""
    draw = np.random.default_rng(0)
    flags = {name: draw.integers(0, 2, rows).astype(str) for name in ("sex", "diabetes", "bp_medication")}
    frame = pl.DataFrame(
        {
            "age_years": draw.uniform(40, 70, rows).round(1),
            **flags,
            "ethnicity": draw.choice(["1", "4", "6"], rows),
            "smoking": draw.choice(["0", "1", "2", "-3"], rows),
            "sbp_mmhg": draw.normal(138, 18, rows).round(),
            "total_cholesterol": draw.normal(5.7, 1.1, rows).clip(2).round(2),
            "hdl": draw.normal(55, 12, rows).clip(20).round(),
            "bmi": draw.normal(27, 4, rows).clip(16).round(1),
        }
    )
    risks = completed_risks(
        frame.with_columns(pl.col("smoking").replace("-3", None)), dictionary(), "score2", np.ones(rows, bool)
    )
    odds = 2 * risks / (1 - risks)
    frame = frame.with_columns(disease=pl.Series((draw.random(rows) < odds / (1 + odds)).astype(int)))
    file = write_toy_experiment(folder, model)
    frame.write_csv(folder / "table.csv")
    tree = yaml.safe_load(file.read_text())
    tree["data"]["columns"] = COLUMNS | {"disease": {"role": "target", "type": "binary"}}
    tree["models"] = ["score2", "pooled_cohort", "framingham", "framingham_bmi", "logistic_regression"]
    file.write_text(yaml.safe_dump(tree))
    return load_config(file)


def test_a_run_shows_a_score_raw_and_recalibrated(tmp_path: Path, toy_model: Path) -> None:
    config = cohort_experiment(tmp_path, toy_model)
    run = stages.run(config)
    rows = pl.read_ndjson(run.predictions).filter(pl.col("model") == "score2")
    assert rows["y_prob"].is_between(0, 1).all() and (rows["y_prob"] != rows["y_prob_raw"]).any()
    kept = json.loads(run.calibration.read_text())["models"]["score2"]
    assert kept["method"] == "logistic"
    assert rows["y_prob"].to_numpy() == pytest.approx(
        calibrate.apply(calibrate.from_json(kept), logit(rows["y_prob_raw"].to_numpy()))
    )
    test = json.loads(run.metrics.read_text())["parts"]["test"]
    assert test["models"]["score2"]["auroc"]["value"] > 0.6
    before, after = test["raw"]["score2"]["calibration_intercept"], test["models"]["score2"]["calibration_intercept"]
    assert abs(after["value"]) < abs(before["value"])
    assert "SCORE2, as the model gives them" in run.report.with_suffix(".md").read_text()


def test_a_table_without_the_inputs_is_refused_before_anything_is_written(toy_experiment: Path) -> None:
    config = load_config(toy_experiment, ["models=[score2, tuned]"])
    with pytest.raises(DataError, match=r"score2: data.columns has no .*total_cholesterol.*hdl"):
        stages.run(config)
    assert not config.run_path.exists()


def test_an_unknown_comparator_is_answered_with_the_nearest(toy_experiment: Path) -> None:
    with pytest.raises(ConfigError, match="score2"):
        load_config(toy_experiment, ["models=[score3]"])

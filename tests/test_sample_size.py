"""How many rows a study takes: against published examples, and the authors' own packages."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, norm

from cardiotune import stages
from cardiotune.config import load_config
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.judge import of_run
from cardiotune.evaluation.sample_size import (
    Developed,
    Flagging,
    cox_snell,
    for_auroc,
    for_net_benefit,
    for_observed_expected,
    for_slope,
    risks_of,
    to_develop,
    to_validate,
)
from cardiotune.models.predictions import prediction_rows

STATLOG = Path(__file__).parents[1] / "configs/experiments/statlog_heart.yaml"
CLASSICAL = ["models=[logistic_regression, prevalence]", "model.path=null", "model.hub_id=null"]


def test_the_developing_example_of_the_authors_package() -> None:
    # pmsampsize, help page: Cox-Snell R2 .288, 24 parameters, prevalence .174: 662 rows
    assert to_develop(24, 0.174, 0.288) == {"shrinkage": 623, "optimism": 662, "intercept": 221}


@pytest.mark.parametrize(
    ("parameters", "prevalence", "auroc", "r2", "rows"),
    [  # pmsampsize 0.1.0 of Python, which draws a million patients for the AUROC and rounds R2 to four digits
        (24, 0.174, 0.89, 0.2908, (615, 660, 221)),
        (13, 0.444, 0.92, 0.4835, (169, 247, 380)),
        (15, 0.152, 0.72, 0.08, (1612, 495, 199)),
    ],
)
def test_developing_by_auroc(parameters: int, prevalence: float, auroc: float, r2: float, rows: Any) -> None:
    found = cox_snell(auroc, prevalence)
    assert found == pytest.approx(r2, abs=4e-4)
    assert tuple(to_develop(parameters, prevalence, found).values()) == pytest.approx(rows, rel=0.005)


def test_r2_of_an_auroc_against_drawn_patients() -> None:
    draw = np.random.default_rng(0)
    y_true = draw.random(1_000_000) < 0.2
    apart = math.sqrt(2) * norm.ppf(0.8)
    log_odds = math.log(0.25) + apart * (draw.normal(size=1_000_000) + apart * y_true) - apart**2 / 2
    rate = y_true.mean()
    null = rate * math.log(rate) + (1 - rate) * math.log(1 - rate)
    gain = np.mean(y_true * log_odds - np.logaddexp(0, log_odds)) - null
    assert cox_snell(0.8, 0.2) == pytest.approx(1 - math.exp(-2 * gain), abs=0.002)


def test_published_examples_of_validating() -> None:
    # Riley et al., Stat Med 2021;40:4230, sections 3.1.1, 3.3.1 and 4, rounded up
    oe = [for_observed_expected(*asked) for asked in ((0.5, 0.051), (0.1, 0.051), (0.1, 0.175), (0.018, 0.2456))]
    assert oe == [385, 3461, 294, 905]
    assert [for_auroc(0.7, 0.1, 0.0255), for_auroc(0.8, 0.5, 0.0255)] == [1154, 303]
    assert for_auroc(0.8, 0.018, 0.1 / 2 / 1.96) == 4252
    # Riley et al., BMJ 2024;384:e074821: COVID-19, prevalence .43, risks Beta(1.33, 1.75)
    risk = beta.ppf((np.arange(200_000) + 0.5) / 200_000, 1.33, 1.75)
    log_odds, share = np.log(risk / (1 - risk)), np.full(200_000, 1 / 200_000)
    assert for_slope(log_odds, share, 0.3 / 2 / 1.96) == pytest.approx(949, abs=2)
    assert for_observed_expected(0.43, math.asinh(0.11) / 1.96) == 423
    assert for_auroc(0.77, 0.43, 0.1 / 2 / 1.96) == 347


def test_validating_as_the_authors_package_does() -> None:
    # pmvalsampsize 0.2.1 of Python, by a million drawn patients each
    at = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    share = np.full(200_000, 1 / 200_000)
    assert for_slope(-5 + 2.5 * at, share, 0.2 / 2 / 1.96) == pytest.approx(4544, rel=0.01)
    found = to_validate(0.8, 0.018)
    assert found["observed_expected"] == pytest.approx(20_975, rel=0.004)  # it searches in steps of .0001
    assert found["calibration_slope"] == pytest.approx(17_080, rel=0.03)  # the mean log-odds was given, not sought
    assert found["auroc"] == 4252


def test_net_benefit_against_drawn_studies() -> None:
    """The standardised net benefit of so many rows spreads as it should."""
    draw, prevalence, at = np.random.default_rng(0), 0.3, Flagging(0.25, 0.7, 0.8)
    rows = for_net_benefit(at, prevalence, 0.051)
    events = draw.binomial(rows, prevalence, 20_000)
    found, alarms = draw.binomial(events, at.sensitivity), draw.binomial(rows - events, 1 - at.specificity)
    benefit = (found - alarms * at.threshold / (1 - at.threshold)) / events
    assert benefit.std() == pytest.approx(0.051, rel=0.03)


def test_the_shipped_tables() -> None:
    """Statlog heart (13 columns, 120 of 270 events) and the Framingham teaching table (15.2 %)."""
    statlog = to_develop(13, 0.444, cox_snell(0.92, 0.444))
    assert max(statlog.values()) == 380
    assert to_validate(0.92, 120 / 270)["calibration_slope"] == pytest.approx(1454, abs=2)
    assert to_validate(0.72, 0.152)["calibration_slope"] == pytest.approx(5308, rel=0.002)


def test_the_risks_that_an_auroc_stands_for_are_calibrated() -> None:
    log_odds, share = risks_of(0.8, 0.1)
    risk = 1 / (1 + np.exp(-log_odds))
    assert share.sum() == pytest.approx(1) and share @ risk == pytest.approx(0.1, abs=1e-6)
    others = np.cumsum(share * (1 - risk))
    assert (share * risk) @ others / (0.1 * 0.9) == pytest.approx(0.8, abs=1e-3)


# --------------------------------------------------------------------------------------------------
# of a run


def test_every_report_says_what_it_takes(tmp_path: Path) -> None:
    """Statlog heart: ten single columns, four kinds of pain, three ECGs and three scans."""
    run = stages.run(load_config(STATLOG, [*CLASSICAL, f"runs_dir={tmp_path}"]))
    found = json.loads(run.metrics.read_text())["parts"]["test"]["sample_size"]
    develop, validate = found["develop"], found["validate"]
    assert (develop["parameters"], develop["here"]) == (
        10 + 3 + 2 + 2,
        json.loads(run.cohort.read_text())["parts"]["train"]["n"],
    )
    area = json.loads(run.metrics.read_text())["parts"]["test"]["models"]["logistic_regression"]["auroc"]["value"]
    assert develop["rows"] == to_develop(17, develop["prevalence"], cox_snell(area, develop["prevalence"]))
    assert validate["rows"]["calibration_slope"] == to_validate(area, validate["prevalence"])["calibration_slope"]
    for text in (run.report.read_text(), run.report.with_suffix(".md").read_text()):
        assert f"it takes {max(develop['rows'].values()):,} rows" in text
        assert f"it takes {max(validate['rows'].values()):,} rows" in text
        assert "part is worth 68, too few" in text
        assert "language model" not in text[text.index("Sample size") : text.index("order of magnitude")]
    assert "by Riley's criteria" in (run.path / "checklists.md").read_text()


def test_few_in_any_part_and_no_ranking_tell_nothing() -> None:
    draw = np.random.default_rng(0)
    y_true, developed = draw.integers(0, 2, 80), Developed(200, None, 5)

    def planned(risk: Any, events: Any) -> dict[str, Any]:
        ids = [f"r{row}" for row in range(len(events))]
        rows = prediction_rows("tuned", ids, ["test"] * len(ids), list(events), risk, risk, 0.5)
        result = evaluate_predictions(rows, 100, 0, table=FromTable(developed=developed))
        found: dict[str, Any] = result["parts"]["test"]["sample_size"]
        return found

    good = np.clip(0.3 + 0.3 * y_true + draw.normal(0, 0.2, 80), 0.01, 0.99)
    found = planned(good, y_true)
    assert found["develop"] is None and found["validate"]["model"] == "tuned"  # training events are few
    assert planned(np.full(80, 0.4), y_true) == planned(good, np.arange(80) < 9) == {"develop": None, "validate": None}
    assert planned(1 - good, y_true) == {"develop": None, "validate": None}


def test_parameters_are_those_of_the_fitted_regression(tmp_path: Path) -> None:
    config = load_config(STATLOG, [*CLASSICAL, f"runs_dir={tmp_path}"])
    _, prepared = stages.prepare(config)
    developed = of_run(config, prepared).developed
    assert developed and developed.parameters == 17
    assert developed.events == int(prepared.cohort.events[prepared.parts == "train"].sum())

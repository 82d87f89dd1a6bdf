"""Classical models at their best: settings that fit the table, chosen in its training part
alone."""

import time
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from benchmarks import rivals
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss, roc_auc_score

from cardiotune.config import load_dataset
from cardiotune.data.cohort import WEIGHT, read_cohort
from cardiotune.models import labelled
from cardiotune.models.baselines import BASELINES, FITS
from cardiotune.models.columns import learn_columns
from cardiotune.models.labelled import LabelledRows, Training
from cardiotune.models.regression import PENALTIES, Regression, fit_regression
from cardiotune.models.trees import Trees, fit_plain
from cardiotune.settings import SplitConfig
from test_baselines import ALL, FITTED, dictionary, mixed_table

COLUMNS = {f"x{place}": {} for place in range(6)}
DATA = dictionary(**COLUMNS)


def plain_table(train: int, strength: float = 1.0, seed: int = 0, test: int = 2000) -> LabelledRows:
    """Six numbers, of which the first two add up to the log-odds; the rest is noise."""
    draw = np.random.default_rng(seed)
    sizes = [train, max(10, train // 4), test]
    values = draw.normal(size=(sum(sizes), 6))
    events = (draw.random(sum(sizes)) < 1 / (1 + np.exp(-strength * (values[:, 0] + values[:, 1])))).astype(int)
    frame = pl.DataFrame({name: values[:, place] for place, name in enumerate(COLUMNS)})
    return LabelledRows(frame, events, np.repeat(["train", "validation", "test"], sizes), DATA, seed)


def area(rows: LabelledRows, risks: np.ndarray) -> float:
    test = rows.parts == "test"
    return float(roc_auc_score(rows.events[test], risks[test]))


def plain_lightgbm(rows: LabelledRows) -> np.ndarray:
    fitted = fit_plain(rows, learn_columns(rows.training.frame, rows.data, rows.data.features))
    assert fitted is not None
    return fitted.risks(rows.frame)


def test_lightgbm_learns_from_32_rows() -> None:
    """By its own leaf size of 20 rows it cannot split them, and gives everybody the same risk."""
    tables = [plain_table(32, 2.0, seed) for seed in range(5)]
    assert [area(rows, plain_lightgbm(rows)) for rows in tables] == [0.5] * 5
    assert np.median([area(rows, BASELINES["lightgbm"](rows)) for rows in tables]) > 0.75


def test_trees_fit_a_table_of_4000_rows_whose_effects_are_weak() -> None:
    rows = plain_table(4000, 0.4, test=20_000)
    started = time.process_time()
    found = FITS["lightgbm"](rows)
    assert time.process_time() - started < 30
    assert isinstance(found, Trees) and found.settings["num_leaves"] <= 8
    assert area(rows, found.risks(rows.frame)) > area(rows, plain_lightgbm(rows)) + 0.005


def test_the_penalty_follows_the_table() -> None:
    noise, clear = (
        fit_regression(rows.training, learn_columns(rows.training.frame, DATA, DATA.features))
        for rows in (plain_table(80, 0.0), plain_table(2000, 2.0))
    )
    assert noise.penalty < 0.1 < clear.penalty


def test_the_penalty_is_that_of_scikit_learns_search() -> None:
    rows = plain_table(150, 0.7)
    training = rows.training
    found = FITS["logistic_regression"](rows)
    assert isinstance(found, Regression)
    values = training.frame.to_numpy()
    scaled = (values - values.mean(0)) / values.std(0)
    search = LogisticRegressionCV(
        Cs=list(PENALTIES), cv=training.repeated_folds, scoring="neg_log_loss", max_iter=2000, use_legacy_attributes=False,
        l1_ratios=(0,),
    )  # fmt: skip
    search.fit(scaled, training.events)
    assert found.penalty == pytest.approx(float(search.C_))
    again = LogisticRegression(C=found.penalty, max_iter=2000).fit(scaled, training.events)
    own = (rows.frame.to_numpy() - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(found.risks(rows.frame), again.predict_proba(own)[:, 1], rtol=1e-6)


def test_coefficients_are_of_the_values_as_they_stand() -> None:
    """Written down by hand: the sum of the terms is the log-odds."""
    frame, events, parts = mixed_table(400)
    rows = LabelledRows(frame, events, parts, ALL.model_copy(update={"columns": {
        name: column for name, column in ALL.columns.items() if name in ("age", "ward", "y")}}))  # fmt: skip
    found = FITS["logistic_regression"](rows)
    assert isinstance(found, Regression)
    own = {(one["column"], one["kind"], one["code"]): one["coefficient"] for one in found.as_json()["coefficients"]}
    place = next(row for row in range(400) if frame["age"][row] and frame["ward"][row])
    by_hand = (
        found.intercept + own["age", "value", ""] * frame["age"][place] + own["ward", "code", frame["ward"][place]]
    )
    assert found.risks(frame)[place] == pytest.approx(1 / (1 + np.exp(-by_hand)), rel=1e-9)
    gone = frame[:1].with_columns(age=pl.lit(None, pl.Float64), ward=pl.lit("never seen"))
    median = frame.filter(pl.Series(parts == "train"))["age"].median()
    by_hand = found.intercept + own["age", "value", ""] * median + own["age", "missing", ""]
    assert found.risks(gone)[0] == pytest.approx(1 / (1 + np.exp(-by_hand)), rel=1e-9)


@pytest.mark.parametrize("name", FITTED)
def test_settings_are_chosen_without_the_other_parts(name: str) -> None:
    rows = plain_table(200, 0.5)
    train = rows.parts == "train"
    flipped = LabelledRows(rows.frame, np.where(train, rows.events, 1 - rows.events), rows.parts, DATA)
    np.testing.assert_array_equal(BASELINES[name](rows), BASELINES[name](flipped))


def test_rows_of_a_patient_stay_in_one_fold() -> None:
    frame, events, parts = mixed_table(300)
    patient = np.arange(300) // 4
    data = ALL.model_copy(
        update={"columns": {**ALL.columns, "who": dictionary(age={}, who={"role": "group"}).columns["who"]}}
    )
    training = LabelledRows(frame.with_columns(who=pl.Series(patient.astype(str))), events, parts, data).training
    own = patient[parts == "train"][training.searched]
    assert len(training.folds) == 5
    for others, held in training.folds:
        assert not set(own[others]) & set(own[held])


def test_many_rows_are_searched_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(rows: int) -> Training:
        return plain_table(rows, test=10).training

    monkeypatch.setattr(labelled, "SEARCH_ROWS", 400)
    for rows, folds in ((50, 5), (80, 5), (120, 3), (300, 1), (1000, 1)):
        training = searched(rows)
        assert len(training.folds) == folds and len(training.searched) == min(rows, 400)
        assert sum(len(others) + len(held) for others, held in training.folds) <= 5 * 80


@pytest.mark.parametrize("name", FITTED)
def test_weights_reach_the_search(name: str) -> None:
    """Half of the rows tell the opposite and count little: what is chosen is as if they were not
    there."""
    rows = plain_table(300, 1.5)
    flipped = np.arange(len(rows.events)) % 2 == 1
    events = np.where(flipped & (rows.parts == "train"), 1 - rows.events, rows.events)
    frame = rows.frame.with_columns(pl.Series(WEIGHT, np.where(flipped, 1e-6, 1.0)))
    counted = LabelledRows(frame, events, rows.parts, DATA)
    assert area(counted, BASELINES[name](counted)) > 0.8


@pytest.mark.parametrize("few", [1, 2, 3])
def test_a_training_part_too_small_for_folds(few: int) -> None:
    rows = plain_table(40)
    events = rows.events.copy()
    train = np.flatnonzero(rows.parts == "train")
    events[train] = 0
    events[train[:few]] = 1
    for name in FITTED:
        risks = BASELINES[name](LabelledRows(rows.frame, events, rows.parts, DATA))
        assert ((risks > 0) & (risks < 1)).all()


def losses(fit: Callable[[LabelledRows], np.ndarray], train: int) -> float:
    """Median test log-loss over five tables."""
    found = []
    for seed in range(5):
        rows = plain_table(train, 0.0, seed)
        test = rows.parts == "test"
        found.append(log_loss(rows.events[test], fit(rows)[test]))
    return float(np.median(found))


def test_a_chosen_penalty_costs_less_than_a_fixed_one_on_noisy_small_tables() -> None:
    def usual(rows: LabelledRows) -> np.ndarray:
        values, train = rows.frame.to_numpy(), rows.train
        model = LogisticRegression(C=1.0).fit(values[train], rows.events[train])
        return np.asarray(model.predict_proba(values)[:, 1])

    assert losses(BASELINES["logistic_regression"], 40) < losses(usual, 40)


def test_the_benchmark_of_random_settings_runs_small() -> None:
    data, split = load_dataset("va"), SplitConfig(test=0.5, validation=0.1)
    settings = rivals.random_settings(3)
    found = rivals.measure("va", read_cohort(data, seed=42), data, split, range(2), settings)
    assert len(found.shipped) == 2 and np.shape(found.random) == np.shape(found.losses) == (3, 2)
    assert all(0 <= one <= 1 for one in (found.median, found.chosen, found.hindsight))
    assert found.chosen <= np.max(found.random) and found.hindsight <= np.max(found.random)
    assert "| va | " in rivals.as_markdown([found])

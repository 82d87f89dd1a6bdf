import re
import typing
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from scipy.special import logit as log_odds
from sklearn.metrics import log_loss, roc_auc_score

from cardiotune.errors import ModelError
from cardiotune.models import labelled, text_baselines
from cardiotune.models.baselines import logistic_regression
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.terms import TOKEN
from cardiotune.models.text_baselines import embedding, stacked, tfidf
from cardiotune.settings import DataConfig

DATA = DataConfig.model_validate(
    {
        "path": "t.csv",
        "columns": {
            "patient": {"role": "id"},
            "x": {},
            "ward": {"type": "categorical"},
            "y": {"role": "target", "type": "binary"},
        },
    }
)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> typing.Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def in_parts(train: int, validation: int, test: int) -> np.ndarray:
    return np.repeat(["train", "validation", "test"], [train, validation, test])


def fine(risks: np.ndarray, rows: int) -> np.ndarray:
    assert risks.shape == (rows,) and risks.dtype == np.float64
    assert np.all((risks >= 0) & (risks <= 1))
    return risks


# --------------------------------------------------------------------------------------------------
# text


def patients(rows: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts with a sign that matters, words that do not, and the outcomes."""
    draw = np.random.default_rng(seed)
    pressure, pain = draw.choice([110, 120, 130, 140, 150, 160], rows), draw.choice(["typical", "none"], rows)
    events = (draw.random(rows) < expit(0.12 * (pressure - 135) + np.where(pain == "typical", 1.5, -1.5))).astype(int)
    ages = draw.integers(30, 80, rows)
    texts = [f"age {a} years, pressure {p} mmHg, chest pain {w}" for a, p, w in zip(ages, pressure, pain, strict=True)]
    return texts, events


def test_numbers_keep_sign_and_decimals() -> None:
    text = "pressure 140, potassium 5.2 mmol/l, score -1.5 on 2020-01-05; p53 +2, grade 3-4, 5mg"
    expected = "pressure 140 potassium 5.2 mmol l score -1.5 on 2020 01 05 p53 +2 grade 3 4 5 mg"
    assert " ".join(re.findall(TOKEN, text)) == expected


def test_tfidf_learns_from_words_and_numbers() -> None:
    texts, events = patients(1500)
    parts = in_parts(600, 200, 700)
    test = parts == "test"
    assert roc_auc_score(events[test], fine(tfidf(texts, events, parts), 1500)[test]) > 0.85


def test_tfidf_tells_apart_what_a_single_word_does_not() -> None:
    """The pair counts: `pain none` with `cough typical` has the words of `pain typical` with `cough
    none`."""
    draw = np.random.default_rng(0)
    events = draw.integers(0, 2, 400)
    texts = ["pain typical, cough none" if event else "pain none, cough typical" for event in events]
    parts = in_parts(200, 100, 100)
    assert roc_auc_score(events[300:], tfidf(texts, events, parts)[300:]) == 1


def linear_states(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States of very different scales, of which one direction tells the outcome; float32, as a
    model gives them."""
    draw = np.random.default_rng(seed)
    states = draw.normal(size=(rows, width))
    events = (draw.random(rows) < expit(2 * states[:, 0])).astype(int)
    mixed = states @ np.linalg.qr(draw.normal(size=(width, width)))[0]
    return (mixed * draw.uniform(0.01, 100, width) + draw.normal(size=width) * 50).astype(np.float32), events


def test_embedding_learns_a_direction() -> None:
    states, events = linear_states(2000, 32)
    parts = in_parts(1000, 200, 800)
    assert roc_auc_score(events[1200:], fine(embedding(states, events, parts), 2000)[1200:]) > 0.85


def test_embedding_does_not_overfit_with_more_columns_than_rows() -> None:
    """Noise, in 300 columns and 100 training rows: nearly separable, so a weak penalty is confident
    and wrong."""
    draw = np.random.default_rng(0)
    states, events = draw.normal(size=(1100, 300)), draw.integers(0, 2, 1100)
    parts = in_parts(100, 200, 800)
    assert log_loss(events[300:], embedding(states, events, parts)[300:]) < 0.72


def test_embedding_leaves_its_input_alone_and_takes_constant_columns() -> None:
    states, events = linear_states(300, 8)
    states[:200, 3] = 7.0
    before = states.copy()
    risks = fine(embedding(states, events, in_parts(200, 50, 50)), 300)
    np.testing.assert_array_equal(states, before)
    assert np.ptp(risks) > 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embedding_refuses_states_that_are_not_finite(value: float) -> None:
    states, events = linear_states(60, 4)
    states[50, 0] = value
    with pytest.raises(ModelError, match="not finite"):
        embedding(states, events, in_parts(30, 15, 15))


def of_text(events: np.ndarray, parts: np.ndarray, hostile: np.ndarray) -> np.ndarray:
    texts = patients(len(events))[0]
    return tfidf([text + " wholly new 140" * int(bad) for text, bad in zip(texts, hostile, strict=True)], events, parts)


def of_states(events: np.ndarray, parts: np.ndarray, hostile: np.ndarray) -> np.ndarray:
    states = linear_states(len(events), 6)[0]
    return embedding(np.where(hostile[:, None], 1e6, states), events, parts)


def of_stack(events: np.ndarray, parts: np.ndarray, hostile: np.ndarray) -> np.ndarray:
    draw = np.random.default_rng(1)
    frame = pl.DataFrame({"x": np.where(hostile, 1e6, draw.normal(size=len(events)))}).with_columns(
        patient=pl.int_range(pl.len()).cast(pl.String),
        ward=pl.when(pl.Series(hostile)).then(None).otherwise(pl.lit("A")),
    )
    return stacked(LabelledRows(frame, events, parts, DATA), np.where(hostile, 99.0, draw.normal(size=len(events))))


@pytest.mark.parametrize("risks_of", [of_text, of_states, of_stack])
def test_nothing_of_the_test_part_reaches_the_fit(risks_of: Callable[..., np.ndarray]) -> None:
    events = patients(400)[1]
    parts = np.array(["train", "train", "validation", "test"])[np.arange(400) % 4]
    test, nobody = parts == "test", np.zeros(400, bool)
    before = risks_of(events, parts, nobody)
    np.testing.assert_array_equal(risks_of(events, parts, nobody), before)
    np.testing.assert_array_equal(risks_of(np.where(test, 1 - events, events), parts, nobody), before)
    after = risks_of(np.where(test, 1 - events, events), parts, test)
    np.testing.assert_array_equal(after[~test], before[~test])
    assert not np.array_equal(after[test], before[test])


@pytest.mark.parametrize("name", ["tfidf", "embedding"])
def test_the_validation_part_chooses_the_penalty_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one penalty to choose from, validation outcomes change nothing; with all, they do."""
    texts, events = patients(300)
    parts = in_parts(150, 50, 100)
    other = np.where(parts == "validation", 1 - events, events)
    source: Any = texts if name == "tfidf" else linear_states(300, 20)[0]
    fit = getattr(text_baselines, name)
    if name == "tfidf":
        assert not np.array_equal(fit(source, events, parts), fit(source, other, parts))
    for grid in ("TEXT_PENALTIES", "STATE_PENALTIES"):
        monkeypatch.setattr(text_baselines, grid, (0.1,))
    np.testing.assert_array_equal(fit(source, events, parts), fit(source, other, parts))


def test_the_penalty_is_that_of_the_least_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    states, events = linear_states(300, 60)
    parts = in_parts(100, 100, 100)
    chosen = embedding(states, events, parts)
    losses = []
    for penalty in text_baselines.STATE_PENALTIES:
        with monkeypatch.context() as alone:
            alone.setattr(text_baselines, "STATE_PENALTIES", (penalty,))
            losses.append(log_loss(events[100:200], embedding(states, events, parts)[100:200]))
    assert log_loss(events[100:200], chosen[100:200]) == pytest.approx(min(losses), abs=1e-4)
    assert max(losses) > min(losses) + 0.01


def test_tfidf_of_unseen_words_and_empty_texts() -> None:
    texts, events = patients(100)
    texts[-2:] = ["", "wholly unseen vocabulary"]
    fine(tfidf(texts, events, in_parts(60, 20, 20)), 100)


@pytest.mark.parametrize("texts", [[""] * 60, ["q" * row for row in range(60)]], ids=["empty", "all different"])
def test_tfidf_without_a_common_term(texts: list[str], caplog: pytest.LogCaptureFixture) -> None:
    events = patients(60)[1]
    np.testing.assert_array_equal(tfidf(texts, events, in_parts(30, 15, 15)), events[:30].mean())
    assert "no term stands in two training texts" in caplog.text


def test_thirty_rows_are_enough_to_fit() -> None:
    texts, events = patients(50)
    parts = in_parts(30, 10, 10)
    fine(tfidf(texts, events, parts), 50)
    fine(embedding(linear_states(50, 640)[0], events, parts), 50)


# --------------------------------------------------------------------------------------------------
# stack


def two_sources(
    rows: tuple[int, int, int], tuned: float, columns: float, seed: int = 0
) -> tuple[pl.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Frame, events, parts, logits. `tuned` and `columns` are how much of the signal is behind
    each.

    The tuned model has memorised the training part, as models do.
    """
    draw = np.random.default_rng(seed)
    parts = in_parts(*rows)
    behind_text, behind_columns, noise = draw.normal(size=(3, len(parts)))
    events = (draw.random(len(parts)) < expit(tuned * behind_text + columns * behind_columns)).astype(int)
    logits = tuned * behind_text if tuned else 2 * noise
    logits = np.where(parts == "train", 8.0 * (2 * events - 1), logits)
    frame = pl.DataFrame({"x": behind_columns}).with_columns(
        patient=pl.int_range(pl.len()).cast(pl.String), ward=pl.lit("A")
    )
    return frame, events, parts, logits


def losses(rows: tuple[int, int, int], tuned: float, columns: float, seeds: int) -> dict[str, float]:
    """Mean log-loss on test rows of the stack and its two parts."""
    found: dict[str, list[float]] = {"stacked": [], "tuned": [], "columns": []}
    for seed in range(seeds):
        frame, events, parts, logits = two_sources(rows, tuned, columns, seed)
        test = parts == "test"
        both = {
            "stacked": fine(stacked(LabelledRows(frame, events, parts, DATA, seed), logits), len(parts)),
            "tuned": expit(logits),
            "columns": logistic_regression(LabelledRows(frame, events, parts, DATA, seed)),
        }
        for name, risks in both.items():
            found[name].append(log_loss(events[test], risks[test]))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize(("rows", "seeds"), [((160, 40, 2000), 12), ((1000, 1000, 3000), 2)])
def test_the_stack_beats_its_parts_when_each_has_half(rows: tuple[int, int, int], seeds: int) -> None:
    loss = losses(rows, 1.2, 1.2, seeds)
    assert loss["stacked"] < min(loss["tuned"], loss["columns"]) - 0.05


@pytest.mark.parametrize(("rows", "seeds", "worse"), [((160, 40, 2000), 12, 0.04), ((1000, 1000, 3000), 2, 0.005)])
@pytest.mark.parametrize(("tuned", "columns"), [(1.6, 0.0), (0.0, 1.6)])
def test_a_part_that_is_noise_costs_little(
    rows: tuple[int, int, int], seeds: int, worse: float, tuned: float, columns: float
) -> None:
    loss = losses(rows, tuned, columns, seeds)
    assert loss["stacked"] < min(loss["tuned"], loss["columns"]) + worse


def test_the_memorised_training_part_does_not_reach_the_weights() -> None:
    frame, events, parts, logits = two_sources((200, 100, 200), 0.0, 1.6)
    before = stacked(LabelledRows(frame, events, parts, DATA), logits)
    after = stacked(LabelledRows(frame, events, parts, DATA), np.where(parts == "train", np.nan, logits))
    np.testing.assert_array_equal(after[parts != "train"], before[parts != "train"])
    assert np.isnan(after[parts == "train"]).all()
    test = parts == "test"
    assert roc_auc_score(events[test], before[test]) > 0.75, "a stack that trusted training would follow the noise"


def test_the_risk_of_a_validation_row_does_not_know_its_own_outcome() -> None:
    """Two rows of a patient, who is in one fold, exchange outcomes: the folds stay, and so do the
    patient's risks."""
    frame, events, parts, logits = two_sources((100, 60, 20), 1.0, 1.0)
    patients_of = np.arange(180) // 6
    frame = frame.with_columns(patient=pl.Series(patients_of.astype(str)))
    validation = parts == "validation"
    patient = next(p for p in patients_of[validation] if set(events[validation & (patients_of == p)]) == {0, 1})
    own = np.flatnonzero(validation & (patients_of == patient))
    one, two = own[events[own] == 1][0], own[events[own] == 0][0]
    changed = events.copy()
    changed[[one, two]] = [0, 1]
    before = stacked(LabelledRows(frame, events, parts, DATA), logits)
    after = stacked(LabelledRows(frame, changed, parts, DATA), logits)
    np.testing.assert_array_equal(after[own], before[own])
    assert not np.array_equal(after[parts == "test"], before[parts == "test"])


def test_the_folds_hold_each_row_out_once_and_part_no_patient() -> None:
    draw = np.random.default_rng(0)
    events, groups = draw.integers(0, 2, 90), draw.integers(0, 20, 90)
    for known in (None, groups):
        folds = labelled.folds(events, known, 0)
        assert len(folds) == 5
        np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in folds])), np.arange(90))
        for others, held in folds:
            assert not set(others) & set(held)
            assert known is None or not set(known[others]) & set(known[held])


def test_the_weights_are_those_of_the_greatest_posterior() -> None:
    """Against a grid, in the plane of the two weights and the intercept."""
    draw = np.random.default_rng(0)
    sources = draw.normal(size=(50, 2)) * 1.5
    events = (draw.random(50) < expit(sources[:, 0] - sources[:, 1] + 0.3)).astype(int)
    found = text_baselines._weights(sources, events)

    def posterior(weights: np.ndarray) -> float:
        risks = expit(weights[0] + sources @ weights[1:])
        prior = -(((weights[1:] - 0.5) / text_baselines.WEIGHT_SD) ** 2).sum() / 2
        return float(np.log(np.where(events, risks, 1 - risks)).sum() + prior)

    best = posterior(found)
    for step in draw.normal(size=(300, 3)) * 0.05:
        beside = found + step
        beside[1:] = np.maximum(beside[1:], 0)
        assert posterior(beside) <= best + 1e-9
    assert found[2] == 0, "a source that ranks the wrong way round is left out"


@pytest.mark.parametrize("events_in_validation", [1, 2, 5])
def test_few_events_in_validation(events_in_validation: int) -> None:
    frame, events, parts, logits = two_sources((160, 40, 100), 1.2, 1.2)
    validation = np.flatnonzero(parts == "validation")
    events[validation] = 0
    events[validation[:events_in_validation]] = 1
    risks = fine(stacked(LabelledRows(frame, events, parts, DATA), logits), 300)
    assert 0.001 < risks[parts == "test"].mean() < 0.5


def test_validation_rows_of_one_patient_alone() -> None:
    frame, events, parts, logits = two_sources((60, 20, 20), 1.2, 1.2)
    patient = pl.Series(["same" if part == "validation" else None for part in parts], dtype=pl.String)
    fine(stacked(LabelledRows(frame.with_columns(patient=patient), events, parts, DATA), logits), 100)


def test_without_a_readable_column_it_recalibrates_the_tuned_model(caplog: pytest.LogCaptureFixture) -> None:
    frame, events, parts, logits = two_sources((100, 400, 1000), 1.5, 0.0)
    frame = frame.with_columns(ward=pl.Series([f"only{number}" for number in range(1500)]))  # no word twice
    data = DataConfig.model_validate(
        {"path": "t", "columns": {"ward": {"type": "text"}, "y": {"role": "target", "type": "binary"}}}
    )
    risks = fine(stacked(LabelledRows(frame, events, parts, data), 4 * logits + 3), 1500)
    test = parts == "test"
    assert roc_auc_score(events[test], risks[test]) == roc_auc_score(events[test], logits[test])
    assert log_loss(events[test], risks[test]) < log_loss(events[test], expit(logits[test])) + 0.02
    assert "free text" in caplog.text


def test_missing_values_and_unseen_categories() -> None:
    frame, events, parts, logits = two_sources((100, 40, 60), 1.2, 1.2)
    test = pl.Series(parts == "test")
    frame = frame.with_columns(
        x=pl.when(~test).then(pl.col("x")), ward=pl.when(test).then(pl.lit("unseen")).otherwise(pl.lit("A"))
    )
    fine(stacked(LabelledRows(frame, events, parts, DATA), logits), 200)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_logits_that_are_not_finite_are_refused(part: str) -> None:
    frame, events, parts, logits = two_sources((60, 20, 20), 1.2, 1.2)
    logits[np.flatnonzero(parts == part)[0]] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        stacked(LabelledRows(frame, events, parts, DATA), logits)


def test_the_stack_is_calibrated_whatever_the_scale_of_the_logits() -> None:
    frame, events, parts, logits = two_sources((500, 2000, 4000), 1.2, 1.2)
    risks = stacked(LabelledRows(frame, events, parts, DATA), 5 * logits - 4)
    for part in ("validation", "test"):
        rows = parts == part
        assert risks[rows].mean() == pytest.approx(events[rows].mean(), abs=0.03)
        slope = np.polyfit(log_odds(risks[rows]), events[rows] - risks[rows], 1)[0]
        assert abs(slope) < 0.03

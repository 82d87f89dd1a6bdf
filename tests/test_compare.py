import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from cardiotune.errors import ConfigError, DataError, ModelError
from cardiotune.evaluation.estimates import ALIKE, NO_PROBABILITY
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.evaluation.intervals import bootstrap_counts, percentile_interval
from cardiotune.evaluation.metrics import auroc
from cardiotune.files import write_json
from cardiotune.models.predictions import prediction_rows, read_predictions, write_predictions
from cardiotune.report.compare import _joined, as_text, compare
from cardiotune.runs import RunFolder

N = 200
IDS = [f"row{number:04d}" for number in range(N)]
EVENTS = np.random.default_rng(0).integers(0, 2, N)


def risks(seed: int, signal: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, N)
    return 1 / (1 + np.exp(-(signal * (2 * EVENTS - 1) + noise)))


def make(
    path: Path,
    models: dict[str, np.ndarray],
    rows: Any = slice(None),
    events: np.ndarray = EVENTS,
    clusters: np.ndarray | None = None,
) -> RunFolder:
    run = RunFolder(path)
    path.mkdir(parents=True)
    ids, own = np.array(IDS)[rows], events[rows].tolist()
    lines = [
        line
        for model, risk in models.items()
        for line in prediction_rows(model, ids, ["test"] * len(ids), own, risk[rows], risk[rows], 0.5, None, clusters)
    ]
    lines += prediction_rows("tuned", ["v1"], ["validation"], [1], np.array([0.9]), np.array([0.9]), 0.5)
    write_predictions(run.predictions, lines)
    return run


@pytest.fixture
def pair(tmp_path: Path) -> list[RunFolder]:
    return [make(tmp_path / "a", {"tuned": risks(1, 0.4)}), make(tmp_path / "b", {"tuned": risks(2, 1.5)})]


def test_metrics_and_differences_are_those_of_the_same_rows(pair: list[RunFolder]) -> None:
    result = compare(pair, replicates=200)
    assert (result["n"], result["n_events"]) == (N, EVENTS.sum())
    first, second = result["entries"]
    assert (first["run"], first["model"], second["run"]) == ("a", "tuned", "b")
    for entry, risk in ((first, risks(1, 0.4)), (second, risks(2, 1.5))):
        assert entry["metrics"]["auroc"]["value"] == pytest.approx(roc_auc_score(EVENTS, risk))
        assert entry["metrics"]["brier"]["value"] == pytest.approx(brier_score_loss(EVENTS, risk))
        assert entry["metrics"]["log_loss"]["value"] == pytest.approx(log_loss(EVENTS, risk))
        low, high = entry["metrics"]["auroc"]["ci"]
        assert low < entry["metrics"]["auroc"]["value"] < high
    assert "differences" not in first
    difference = second["differences"]["auroc"]
    assert difference["value"] == pytest.approx(
        second["metrics"]["auroc"]["value"] - first["metrics"]["auroc"]["value"]
    )
    assert difference["ci"][0] > 0
    json.dumps(result, allow_nan=False)
    assert "better" in as_text(result)


def test_order_of_rows_does_not_matter_and_pairing_narrows(tmp_path: Path, pair: list[RunFolder]) -> None:
    shuffled = np.random.default_rng(5).permutation(N)
    again = make(tmp_path / "again", {"tuned": risks(1, 0.4)}, shuffled)
    same = compare([pair[0], again], replicates=100)["entries"][1]["differences"]
    assert same["auroc"] == {"value": 0, "ci": None, "reason": ALIKE}
    assert compare(pair, replicates=100) == compare(pair, replicates=100)


def test_main_model_is_the_tuned_one_or_the_first_of_a_fixed_order(tmp_path: Path) -> None:
    classical = {"prevalence": np.full(N, 0.5), "logistic_regression": risks(3, 0.2), "lightgbm": risks(4, 1.0)}
    first = make(tmp_path / "first", classical)
    second = make(tmp_path / "second", {**classical, "tuned": risks(5, 0.1)})
    chosen = compare([first, second], replicates=100)["entries"]
    assert [entry["model"] for entry in chosen] == ["logistic_regression", "tuned"]
    everything = compare([first, second], all_models=True, replicates=100)
    assert [entry["run"] for entry in everything["entries"]] == ["first"] * 3 + ["second"] * 4
    text = as_text(everything)
    assert "LightGBM" in text
    assert "–" in text  # the prevalence has no calibration slope
    assert "None" not in text


def test_other_test_rows_are_refused_with_how_many_are_shared(tmp_path: Path, pair: list[RunFolder]) -> None:
    part = make(tmp_path / "part", {"tuned": risks(1, 0.4)}, slice(0, 150))
    with pytest.raises(DataError, match="a 200, part 150, 150 of them shared") as caught:
        compare([pair[0], part], replicates=100)
    assert "row0" not in str(caught.value)
    assert "\n" not in str(caught.value)
    result = compare([pair[0], part], common=True, replicates=100)
    assert (result["n"], result["n_events"]) == (150, EVENTS[:150].sum())
    assert "those that all runs share" in as_text(result)


def test_no_shared_row_is_refused_even_with_common(tmp_path: Path) -> None:
    runs = [make(tmp_path / n, {"tuned": risks(1, 1)}, rows) for n, rows in (("x", slice(0, 90)), ("y", slice(90, N)))]
    for common in (False, True):
        with pytest.raises(DataError, match="share no test row"):
            compare(runs, common=common)


@pytest.mark.parametrize("common", [False, True])
def test_other_outcomes_are_refused(tmp_path: Path, pair: list[RunFolder], common: bool) -> None:
    flipped = EVENTS.copy()
    flipped[:7] = 1 - flipped[:7]
    other = make(tmp_path / "other", {"tuned": risks(1, 1)}, events=flipped)
    with pytest.raises(DataError, match="7 of 200 shared test rows have different outcomes"):
        compare([pair[0], other], common=common)


def test_one_run_is_no_comparison_and_incomplete_models_are_named(tmp_path: Path, pair: list[RunFolder]) -> None:
    with pytest.raises(ConfigError, match="two or more"):
        compare(pair[:1])
    lines = pair[1].predictions.read_text().splitlines(keepends=True)
    lines += [line.replace('"tuned"', '"tfidf"') for line in lines[:3]]
    pair[1].predictions.write_text("".join(lines))
    with pytest.raises(DataError, match="tfidf does not cover all 200 test rows"):
        compare(pair)


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [make(tmp_path / folder / "demo", {"tuned": risks(1, 1)}) for folder in ("x", "y")]
    names = [entry["run"] for entry in compare(runs, replicates=100)["entries"]]
    assert names == [str(run.path) for run in runs]


def test_rows_of_one_patient_are_no_independent_rows(
    pair: list[RunFolder], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("cardiotune"), "propagate", True)
    compare(pair, replicates=100)
    assert "too narrow" not in caplog.text
    pair[1].metrics.write_text('{"interval": {"method": "cluster bootstrap, percentile"}}')
    compare(pair, replicates=100)
    assert "too narrow" in caplog.text


def test_rows_of_one_patient_are_resampled_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that tells who belongs together is enough; two that tell of different rows are taken
    together."""
    four = np.arange(N) // 4
    alone = [make(tmp_path / "a", {"tuned": risks(1, 0.4)}), make(tmp_path / "b", {"tuned": risks(2, 1.5)})]
    told = [make(tmp_path / "c", {"tuned": risks(1, 0.4)}, clusters=four), alone[1]]
    found = [
        compare(runs, replicates=200)
        for runs in (told, [told[0], make(tmp_path / "d", {"tuned": risks(2, 1.5)}, clusters=four)])
    ]
    assert found[0]["interval"]["method"] == "paired cluster bootstrap, percentile"
    assert [{**entry, "run": ""} for entry in found[0]["entries"]] == [
        {**entry, "run": ""} for entry in found[1]["entries"]
    ]
    assert (
        found[0]["entries"][0]["metrics"]["auroc"]["ci"]
        != compare(alone, replicates=200)["entries"][0]["metrics"]["auroc"]["ci"]
    )
    drawn = np.vstack(list(bootstrap_counts(EVENTS.astype(float), 200, 0, clusters=four)))
    expected = percentile_interval(auroc(EVENTS.astype(float), risks(1, 0.4), drawn))
    assert found[0]["entries"][0]["metrics"]["auroc"]["ci"] == pytest.approx(expected)
    assert _joined([[0, 0, 1, 2, None], [5, 6, 6, 7, 8]]).tolist() == [0, 0, 0, 1, 2]
    assert _joined([[None] * 3, [1, 2, 3]]) is None


def test_one_quantity_has_one_interval_in_the_report_and_beside_others(tmp_path: Path) -> None:
    clusters = np.arange(N) // 2
    runs = [make(tmp_path / name, {"tuned": risks(seed, 0.8)}, clusters=clusters) for seed, name in enumerate("ab")]
    for seed, run in enumerate(runs):
        write_json(run.metrics, evaluate_predictions(read_predictions(run), 120, 7 + seed))
    result = compare(runs)
    assert (result["interval"]["replicates"], result["interval"]["seed"]) == (120, 7)
    for run, entry in zip(runs, result["entries"], strict=True):
        own = json.loads(run.metrics.read_text())["parts"]["test"]["models"]["tuned"]
        for metric, found in entry["metrics"].items():
            assert found == {"value": own[metric]["value"], "ci": own[metric]["ci"]}, metric


def test_answers_in_words_have_nothing_to_compare_but_do_not_stop_it(tmp_path: Path) -> None:
    words = np.where(np.arange(N) % 5 == 0, 0.4, EVENTS)
    run = make(tmp_path / "a", {"free_generation": words, "lightgbm": risks(1, 1)})
    other = make(tmp_path / "b", {"lightgbm": risks(2, 1)})
    entries = compare([run, other], all_models=True, replicates=50)["entries"]
    spoken = next(entry for entry in entries if entry["model"] == "free_generation")
    assert all(found == {"value": None, "ci": None, "reason": NO_PROBABILITY} for found in spoken["metrics"].values())
    assert [entry["model"] for entry in compare([run, other], replicates=50)["entries"]] == ["lightgbm"] * 2


def test_the_same_run_twice_is_no_comparison(pair: list[RunFolder]) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        compare([*pair, RunFolder(pair[0].path / ".." / "a")])


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"part": "test", "y_true": 1}'])
def test_damaged_predictions_are_refused_in_one_line(pair: list[RunFolder], line: str) -> None:
    with pair[1].predictions.open("a") as file:
        file.write(line)
    with pytest.raises(ModelError, match=r"predictions\.jsonl: damaged; make the predictions anew"):
        compare(pair)

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiotune.config import Config, dump
from cardiotune.errors import DataError
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.evaluation.predict import prediction_rows, write_predictions
from cardiotune.evaluation.report import WORDS, _calibration_points, write_report
from cardiotune.runs import RunFolder, write_json, write_text

ALL = ("prevalence", "logistic_regression", "lightgbm", "zero_shot", "few_shot", "tuned")
# What makes a browser or a style sheet fetch something: attributes and CSS, not xmlns or plain text.
FETCHES = re.compile(
    r"""(?:\b(?:src|srcset|href|data|action|poster)\s*=\s*["']|url\(\s*["']?|@import\s+["']?)(?!#|data:)""",
    re.I,
)


def settings(models: tuple[str, ...]) -> Config:
    return Config.model_validate(
        {
            "name": "demo",
            "data": {
                "path": "heart <table>.csv",
                "columns": {
                    "age": {"unit": "years"},
                    "sbp_mmhg": {},
                    "disease": {"role": "target", "type": "binary"},
                },
            },
            "task": {"outcome": "heart <disease> & |more|"},
            "model": {"name": "toy", "license": "Apache-2.0", "license_url": "https://example.org/licence"},
            "models": list(models),
        }
    )


def risks(models: tuple[str, ...], events: np.ndarray) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    signal = {"tuned": 1.4, "logistic_regression": 1.5, "lightgbm": 1.2, "few_shot": 0.5}
    drawn = {
        m: 1 / (1 + np.exp(-(signal.get(m, 0.2) * (2 * events - 1) + draw.normal(0, 1.2, len(events))))) for m in ALL
    }
    return {
        m: np.full(len(events), events.mean()) if m == "prevalence" else drawn.get(m, drawn["lightgbm"]) for m in models
    }


def cohort(events: np.ndarray, parts: np.ndarray) -> dict[str, Any]:
    counts = {
        p: {"n": int((parts == p).sum()), "n_events": int(events[parts == p].sum())}
        for p in ("train", "validation", "test")
    }
    none = {"validation_in_train": 0, "test_in_train": 0, "test_in_validation": 0}
    total = len(events)
    return {
        "flow": [
            {"step": "rows in the table", "excluded": 0, "left": total + 5},
            {"step": "target missing", "excluded": 2, "left": total + 3},
            {"step": "sbp_mmhg out of range", "excluded": 3, "left": total},
        ],
        "notes": {"columns_ignored": ["ward <b>"], "missing": {"age": 0, "sbp_mmhg": 4}},
        "parts": counts,
        "overlap": {"rows": none, "texts": {**none, "test_in_train": 1}},
    }


def training() -> dict[str, Any]:
    draw = np.random.default_rng(2)
    steps = [
        {"step": s, "loss": 0.7 * 0.98**s + 0.05 * draw.random(), "learning_rate": 1e-4, "grad_norm": 1.0}
        for s in range(1, 81)
    ]
    looks = [
        {
            "step": s,
            "epoch": s / 20,
            "log_loss": 0.5 + abs(s - 60) / 300,
            "brier": 0.2,
            "auroc": 0.85 - abs(s - 60) / 400,
        }
        for s in (20, 40, 60, 80)
    ]
    summary = {
        "steps": 80,
        "steps_planned": 80,
        "rows_seen": 640,
        "rows_per_second": 12.3,
        "selected_step": 60,
        "selected_on": "log_loss",
        "dtype": "float32",
    }
    return {**summary, "history": {"steps": steps, "validation": looks}}


def make_run(path: Path, models: tuple[str, ...] = ALL, n: int = 268, outcomes: tuple[int, ...] = (0, 1)) -> RunFolder:
    """A run folder as the stages before the report leave it."""
    run = RunFolder(path)
    draw = np.random.default_rng(0)
    parts = np.array(["train", "train", "validation", "test"] * (n // 4 + 1))[:n]
    events = np.where(parts == "test", draw.choice(outcomes, n), draw.integers(0, 2, n))
    judged = parts != "train"
    ids = np.array([draw.bytes(8).hex() for _ in range(n)])
    rows = [
        row
        for model, risk in risks(models, events).items()
        for row in prediction_rows(
            model, ids[judged], parts[judged], events[judged].tolist(), risk[judged], risk[judged], 0.5
        )
    ]
    write_text(run.config, dump(settings(models)))
    write_predictions(run.predictions, rows)
    write_json(run.metrics, evaluate_predictions(rows, 200, 0))
    write_json(run.cohort, cohort(events, parts))
    run.update_manifest(
        versions={"python": "3.12.1", "cardiotune": "0.1.0"},
        git_commit="0123abcd",
        data={"file": "heart <table>.csv", "sha256": "f" * 64},
        stages={
            "prepare": {"seconds": 0.21, "peak_memory_mib": 310},
            "train": {"seconds": 214.5, "peak_memory_mib": 2410},
        },
    )
    if "tuned" in models:
        history = training()
        write_json(run.training, history)
        summary = {key: value for key, value in history.items() if key != "history"}
        base = {"name": "toy", "revision": "abc123", "license": "Apache-2.0"}
        run.update_manifest(base_model=base, device="cpu", training=summary)
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "demo")


def texts(run: RunFolder) -> tuple[str, str]:
    assert write_report(run) == run.report
    return run.report.read_text(), run.report.with_suffix(".md").read_text()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str, str]:
    """A run with every model, its page and its text; for tests that only read."""
    run = make_run(tmp_path_factory.mktemp("runs") / "demo")
    return run, *texts(run)


def test_says_the_verdict_the_models_and_the_numbers(full: tuple[RunFolder, str, str]) -> None:
    run, html, markdown = full
    test = json.loads(run.metrics.read_text())["parts"]["test"]
    for text in (html, markdown):
        assert test["verdict"]["text"] in text
        assert "Research use only, not for clinical use." in text
        for model in ALL:
            assert WORDS[model] in text
            low, high = test["models"][model]["brier"]["ci"]
            assert f"{test['models'][model]['brier']['value']:.3f}" in text
            assert f"{low:.3f} to {high:.3f}" in text
        for other in ("logistic_regression", "zero_shot"):
            assert f"{test['differences'][other]['auroc']['value']:+.3f}" in text
    assert html.index(test["verdict"]["text"]) < html.index("What was done") < html.index("From the table to the parts")
    assert html.index("ROC curves") < html.index("What it cost") < html.index("All settings")


def test_is_one_file_that_fetches_nothing(full: tuple[RunFolder, str, str]) -> None:
    _, html, _ = full
    assert "https://example.org/licence" in html  # settings are shown as text
    assert not FETCHES.findall(html)
    assert "<script" not in html


def test_is_the_same_bytes_each_time_and_does_not_depend_on_matplotlibrc(full: tuple[RunFolder, str, str]) -> None:
    import matplotlib

    run, *first = full
    run.update_manifest(stages={"report": {"seconds": 3.14, "peak_memory_mib": 400}})
    with matplotlib.rc_context({"axes.grid": True, "font.size": 20, "svg.hashsalt": None}):
        assert list(texts(run)) == first
        assert matplotlib.rcParams["font.size"] == 20


def test_holds_no_row(full: tuple[RunFolder, str, str]) -> None:
    run, *written = full
    for text in written:
        for line in run.predictions.read_text().splitlines():
            row = json.loads(line)
            assert row["row_id"] not in text
            if row["model"] != "prevalence":
                assert f"{row['y_prob']:.8f}" not in text


def test_is_sound_html(full: tuple[RunFolder, str, str]) -> None:
    _, html, _ = full
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    known = set(ids)
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)) <= {
        pair for i in known for pair in ((i, ""), ("", i))
    }
    assert set(re.findall(r'aria-labelledby="([^"]+)"', html)) <= known
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert html.count("<table") == html.count("<caption") == 4
    assert html.count('role="img"') == html.count("<figcaption") == html.count("<figure") == 5
    assert html.count("<svg") == 4 + 5  # calibration has a panel for each model whose risks differ


def test_escapes_what_the_user_wrote(full: tuple[RunFolder, str, str]) -> None:
    _, html, markdown = full
    assert "heart &lt;disease&gt; &amp; |more|" in html
    assert "<disease>" not in html
    assert "ward <b>" not in html
    assert r"heart &lt;disease> & \|more\|" in markdown


def test_null_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", outcomes=(0,))
    html, markdown = texts(run)
    for text in (html, markdown):
        assert "only one outcome in these rows" in text
        assert "–" in text
        assert not re.search(r"\b(None|nan)\b", text)
    assert html.count('<li id="note-') == len(re.findall(r"^\d+\. ", markdown.split("Notes:")[1], re.M))
    assert "ROC curves" not in html


def test_a_run_without_a_language_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression", "lightgbm"))
    html, _ = texts(run)
    assert "no tuned language model" in html
    assert "Risks by outcome: Logistic regression" in html
    for absent in ("Tuned LLM", "Learning curves", "Base model", "Prompt"):
        assert absent not in html


def test_a_run_with_only_the_prevalence_and_the_barest_manifest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence",))
    write_json(run.manifest, {})
    run.cohort.unlink()
    html, _ = texts(run)
    assert "Prevalence" in html
    assert "What it cost" not in html
    assert "From the table" not in html


def test_a_model_that_it_does_not_know_is_named_in_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    rows += [{**row, "model": "my_$stacked_model"} for row in rows if row["model"] == "tuned"]
    write_predictions(run.predictions, rows)
    write_json(run.metrics, evaluate_predictions(rows, 200, 0))
    assert "My $stacked model" in texts(run)[0]


@pytest.mark.parametrize("name", ["metrics", "predictions"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(run: RunFolder, name: str) -> None:
    path: Path = getattr(run, name)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: no {name} yet; make them with `cardiotune \w+ ") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert not run.report.exists()


def test_metrics_of_other_predictions_are_refused(run: RunFolder) -> None:
    lines = run.predictions.read_text().splitlines(keepends=True)
    run.predictions.write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(DataError, match="made from other predictions"):
        write_report(run)


def test_calibration_points_are_group_means_with_wilson_intervals() -> None:
    # By hand: two groups of 20; Wilson interval of 5 / 20 as in Newcombe, Stat Med 1998;17:857.
    risk = np.repeat([0.2, 0.8], 20)
    y_true = np.r_[np.ones(5), np.zeros(15), np.ones(16), np.zeros(4)]
    mean, share, low, high = _calibration_points(y_true, risk)
    np.testing.assert_allclose(mean, [0.2, 0.8])
    np.testing.assert_allclose(share, [0.25, 0.8])
    np.testing.assert_allclose((low[0], high[0]), (0.1119, 0.4687), atol=1e-4)


@pytest.mark.parametrize(("rows", "groups"), [(20, 2), (68, 4), (1000, 10)])
def test_few_rows_make_few_calibration_groups(rows: int, groups: int) -> None:
    draw = np.random.default_rng(0)
    mean, share, low, high = _calibration_points(draw.integers(0, 2, rows).astype(float), draw.random(rows))
    assert len(mean) == groups
    assert np.all(low <= share)
    assert np.all(share <= high)

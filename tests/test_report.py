import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from cardiotune.comparators import main_model
from cardiotune.config import dump
from cardiotune.errors import DataError
from cardiotune.evaluation.evaluate import FromTable, evaluate_predictions
from cardiotune.evaluation.intervals import bootstrap_counts
from cardiotune.evaluation.metrics import emax, ici
from cardiotune.evaluation.sample_size import Developed
from cardiotune.files import write_json, write_text
from cardiotune.models.predictions import Prediction, prediction_rows, write_predictions
from cardiotune.models.thresholds import NamedThreshold
from cardiotune.report.curves import (
    BAND_GRID,
    BAND_REPLICATES,
    Resampling,
    axis_end,
    calibration_band,
    calibration_curve,
    calibration_points,
    curve_risks,
    roc,
    roc_band,
)
from cardiotune.report.figures import performance
from cardiotune.report.learning_curve import learning_curve
from cardiotune.report.record import read_record
from cardiotune.report.report import write_report
from cardiotune.report.wording import model_words
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from test_learning_curve import Runs, experiment

ALL = ("prevalence", "logistic_regression", "lightgbm", "zero_shot", "few_shot", "tuned")
# What makes a browser or a style sheet fetch something: attributes and CSS, not xmlns or plain
# text.
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
            "task": {"outcome": "heart <disease> & |more|", "threshold": 0.5},
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
    write_json(run.metrics, evaluate_predictions(rows, 100, 0))
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


def add_everything(run: RunFolder) -> RunFolder:
    """Every optional file and section, a leak among the findings, on a run that `make_run` left."""
    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    for row in rows:  # as if the tuned model's risks had been too extreme
        if row["model"] == "tuned":
            logit = np.log(row["y_prob"]) - np.log1p(-row["y_prob"])
            row["y_prob_raw"] = float(1 / (1 + np.exp(-2 * logit - 1)))
    rows += [
        {**row, "model": name, "y_prob": row["y_prob"] ** power, "y_prob_raw": row["y_prob"] ** power}
        for power, name in ((0.8, "stacked"), (0.9, "spline_regression"), (1.2, "tfidf"), (1.4, "embedding"))
        for row in rows
        if row["model"] == "lightgbm"
    ]
    told = [Prediction.from_json(row) for row in rows]
    write_predictions(run.predictions, told)
    models = list(dict.fromkeys(row["model"] for row in rows))
    ids = list(dict.fromkeys(row["row_id"] for row in rows))
    thresholds = {m: [NamedThreshold("7.5 %", 0.075), NamedThreshold("Youden", 0.41)] for m in models}
    bands = ("under 45", "45 to under 65", "65 and above")
    groups = {
        "sex": {row_id: ("woman", "man")[number // 2 % 2] for number, row_id in enumerate(ids)},
        "age": {row_id: bands[number % 29 % 3] for number, row_id in enumerate(ids)},
        "ward": {row_id: "small <ward>" if number < 12 else None for number, row_id in enumerate(ids)},
    }
    write_json(
        run.metrics,
        evaluate_predictions(
            told, 100, 0, thresholds=thresholds, table=FromTable(groups, developed=Developed(134, 66, 17))
        ),
    )
    for name, content in extras().items():
        write_json(run.path / f"{name}.json", content)
    seconds = {"tuned": {"rows": 200, "seconds": 14.0}, "logistic_regression": {"rows": 200, "seconds": 0.01}}
    run.update_manifest(scoring=seconds)
    add_learning_curve(run)
    return run


def add_learning_curve(run: RunFolder) -> dict[str, Any]:
    """The real curve of three classical models, where the command leaves it; returned."""
    folder = run.path / "learning_curve"
    folder.mkdir()
    config = experiment(folder, models=["logistic_regression", "spline_regression", "lightgbm"])
    return learning_curve(config, [20, 60, "all"], [0, 1], Runs(), folder)


def extras() -> dict[str, Any]:
    """The optional files as the modules that make them document them."""
    columns = ("name", "unit", "kind", "overall", "no_event", "event", "missing")
    table1 = [
        ("age", "years", "mean (SD)", "61.2 (9.1)", "58.0 (8.8)", "64.0 (8.4)", "<10"),
        ("sex: woman", "", "n (%)", "120 (45)", "70 (54)", "50 (36)", "0 (0)"),
    ]
    findings = [
        ("many_missing", "note", "Two columns are often missing."),
        ("copies", "leak", "9 test rows are <copies> of training rows."),
        ("ceiling", "warning", "The AUROC is near the ceiling."),
    ]
    probe = {"name": "field_order", "text": "columns in another order", "n": 50}
    rule = {"column": "sbp_mmhg", "text": "a higher pressure, a higher risk", "n": 50, "share_wrong": 0.08}
    importance = [
        {"column": column, "value": value, "ci": [value - 0.02, value + 0.02], "model": model}
        for model in ("tuned", "logistic_regression")
        for column, value in (("age", 0.11), ("sbp_mmhg", 0.05), ("smoker", -0.001))
    ]
    by_age = {"tuned": [0.2, 0.3, 0.45, 0.6], "logistic_regression": [0.25, 0.35, 0.45, 0.55]}
    by_sex = {"tuned": [0.35, 0.48], "logistic_regression": [0.37, 0.45]}
    return {
        "audit": {"findings": [{"check": c, "severity": s, "text": t, "numbers": {}} for c, s, t in findings]},
        "calibration": {
            "method": "platt",
            "fitted_on": "validation",
            "n": 67,
            "n_events": 30,
            "models": {"tuned": {"method": "platt", "intercept": -0.51, "slope": 0.52}},
        },
        "table1": {
            "n": {"overall": 268, "no_event": 130, "event": 138},
            "columns": [dict(zip(columns, row, strict=True)) for row in table1],
        },
        "probes": {
            "probes": [
                {
                    **probe,
                    "mean_change": 0.012,
                    "p95_change": 0.04,
                    "max_change": 0.093,
                    "worst": [{"row_id": "0f3a91", "change": 0.093}],
                }
            ],
            "monotonicity": [rule],
        },
        "explanations": {
            "importance": importance,
            "partial_dependence": [
                {"column": "age", "unit": "years", "x": [40, 50, 60, 70], "models": by_age},
                {"column": "sex", "unit": None, "x": ["woman", "man"], "models": by_sex},
            ],
        },
    }


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


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str, str]:
    """The same with ten models and every optional file."""
    run = add_everything(make_run(tmp_path_factory.mktemp("runs") / "rich"))
    return run, *texts(run)


def test_says_the_verdict_the_models_and_the_numbers(full: tuple[RunFolder, str, str]) -> None:
    run, html, markdown = full
    test = json.loads(run.metrics.read_text())["parts"]["test"]
    for text in (html, markdown):
        assert test["verdict"]["text"] in text
        assert "Research use only, not for clinical use." in text
        for model in ALL:
            assert model_words(model) in text
            low, high = test["models"][model]["brier"]["ci"]
            assert f"{test['models'][model]['brier']['value']:.3f}" in text
            assert f"{low:.3f} to {high:.3f}" in text
        for other in ("logistic_regression", "zero_shot"):
            assert f"{test['differences'][other]['auroc']['value']:+.3f}" in text
    assert html.index(test["verdict"]["text"]) < html.index("What was done") < html.index("From the table to the parts")
    assert html.index("ROC curves") < html.index("What it cost") < html.index("All settings")


def test_calibration_stands_beside_the_verdict(full: tuple[RunFolder, str, str]) -> None:
    for text in (full[1].split('id="done"')[0], full[2].split("## What was done")[0]):
        assert "Calibration slope" in text and "O:E ratio" in text


@pytest.mark.parametrize("made", ["full", "rich"])
def test_is_one_file_that_fetches_nothing(made: str, request: pytest.FixtureRequest) -> None:
    _, html, _ = request.getfixturevalue(made)
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


@pytest.mark.parametrize("made", ["full", "rich"])
def test_holds_no_row(made: str, request: pytest.FixtureRequest) -> None:
    run, *_ = request.getfixturevalue(made)
    written = [file.read_text() for file in run.path.iterdir() if file.suffix in (".html", ".md")]
    assert len(written) == 4
    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    for text in written:
        assert not any(row["row_id"] in text for row in rows)
        assert not any(f"{row['y_prob']:.8f}" in text for row in rows if row["model"] != "prevalence")


@pytest.mark.parametrize("made", ["full", "rich"])
def test_is_sound_html(made: str, request: pytest.FixtureRequest) -> None:
    _, html, _ = request.getfixturevalue(made)
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
    assert html.count("<table") == html.count("<caption") == html.count('role="region"') - 1  # the settings scroll too
    figures = html.count("<figure")
    assert figures == {"full": 7, "rich": 11}[made]
    assert html.count('role="img"') == html.count("<figcaption") == html.count('download="demo-') == figures
    panels = {"full": 5, "rich": 9}[made]  # calibration has one for each model whose risks differ
    assert html.count("<svg") == figures - 1 + panels + (made == "rich") * 3  # forest, importance, dependence: two each


def test_escapes_what_the_user_wrote(full: tuple[RunFolder, str, str]) -> None:
    _, html, markdown = full
    assert "heart &lt;disease&gt; &amp; |more|" in html
    assert "<disease>" not in html
    assert "ward <b>" not in html
    assert r"heart &lt;disease> & \|more\|" in markdown


def test_null_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression", "tuned"), outcomes=(0,))
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
    for absent in ("Tuned LLM", "Loss during training", "Base model", "Prompt"):
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
    told = [Prediction.from_json(row) for row in rows]
    write_predictions(run.predictions, told)
    write_json(run.metrics, evaluate_predictions(told, 100, 0))
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


def test_ten_models_are_a_row_each_and_the_key_metrics_come_first(rich: tuple[RunFolder, str, str]) -> None:
    run, html, _ = rich
    judged = json.loads(run.metrics.read_text())["parts"]["test"]["models"]
    table = html.split('id="metrics-caption"')[1].split("</table>")[0]
    assert len(judged) == 10
    assert table.count('<th scope="row">') == 10
    assert [re.sub(r" *<.*", "", cell) for cell in re.findall(r'<th scope="col">(.*)</th>', table)] == [
        "Model", "AUROC", "AUPRC", "Brier score", "Log-loss", "Calibration slope", "Calibration intercept", "O:E ratio", "ICI",
    ]  # fmt: skip
    for name in judged:
        assert model_words(name) in table
    others = html.split("All other metrics")[1].split("</details>")[0]
    for name in ("Emax", "NPV", "LR+", "Scaled Brier", "Weighted F1", "interval by DeLong"):
        assert name in others


@pytest.mark.parametrize("made", ["full", "rich"])
def test_tables_of_the_text_twin_are_whole(made: str, request: pytest.FixtureRequest) -> None:
    *_, markdown = request.getfixturevalue(made)
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.M)
    assert len(tables) >= {"full": 7, "rich": 15}[made]
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
        assert len(table.splitlines()) >= 3
    assert r"\|---" not in markdown


def test_every_optional_file_is_shown(rich: tuple[RunFolder, str, str]) -> None:
    run, html, markdown = rich
    test = json.loads(run.metrics.read_text())["parts"]["test"]
    threshold = test["thresholds"]["tuned"][1]
    for text in (html, markdown):
        for said in (
            "61.2 (9.1)",
            "near the ceiling",
            "0.093",
            "8 %",
            "Platt scaling, fitted on the validation part, 67 rows",
        ):
            assert said in text
        assert "at 0.410" in text
        assert f"{threshold['net_benefit']['value']:.3f}" in text
        assert "sex: woman" in text
        assert "Energy (Wh, estimate)" in text
        assert "1.3" in text.split("Energy")[1]  # 14 s for 200 rows: 70 s for 1,000, at 65 W
    p_value = test["differences"]["zero_shot"]["auroc"]["delong_p"]
    assert ("&lt; 0.001" if p_value < 0.001 else f"{p_value:.3f}") in html.split("DeLong p")[1]
    assert "Platt scaling (intercept -0.51, slope 0.52)" in html


def test_leaks_come_right_after_the_verdict(rich: tuple[RunFolder, str, str], full: tuple[RunFolder, str, str]) -> None:
    _, html, markdown = rich
    for text, start in ((html, "<main>"), (markdown, "# demo")):
        body = text[text.index(start) :]
        leak = body.index("9 test rows are &lt;copies")
        assert leak < body.index("What was done") < body.index("near the ceiling") < body.index("often missing")
    assert "do not trust" not in full[1]


def test_small_groups_stay_hidden(rich: tuple[RunFolder, str, str]) -> None:
    run, html, _ = rich
    groups = json.loads(run.metrics.read_text())["parts"]["test"]["subgroups"]
    (small,) = [group for group in groups if group["group"] == "small <ward>"]
    assert small["suppressed"]
    assert small["n"] is None
    row = html.split(f'<th scope="row">{small["column"]}: small &lt;ward&gt;</th>')[1].split("</tr>")[0]
    assert row.count("few") == 2
    assert row.count("<td>–") == 5


def test_each_figure_carries_its_numbers(rich: tuple[RunFolder, str, str]) -> None:
    run, html, _ = rich
    links = re.findall(r'download="demo-([\w-]+)\.csv" href="data:text/csv;charset=utf-8,([^"]*)"', html)
    files = {name: list(csv.DictReader(io.StringIO(unquote(content)))) for name, content in links}
    assert files.keys() == {
        "roc", "precision-recall", "calibration", "risks", "decision-curve", "training", "subgroups", "importance",
        "partial-dependence", "learning-curve", "costs",
    }  # fmt: skip
    test = json.loads(run.metrics.read_text())["parts"]["test"]
    tuned = [(float(r["1 - specificity"]), float(r["sensitivity"])) for r in files["roc"] if r["model"] == "tuned"]
    area = np.trapezoid([y for _, y in tuned], [x for x, _ in tuned])
    assert area == pytest.approx(test["models"]["tuned"]["auroc"]["value"], abs=2e-3)
    assert sum(float(row["rows with the event"]) for row in files["risks"]) == test["n_events"]
    drawn = {(row["probabilities"], row["drawn as"]) for row in files["calibration"] if row["model"] == "tuned"}
    assert drawn == {(when, how) for when in ("final", "before") for how in ("group", "curve")}
    for row in files["calibration"]:
        if (row["probabilities"], row["drawn as"]) == ("final", "curve"):
            assert 0 <= float(row["low"]) <= float(row["high"]) <= 1
    curve = [row for row in files["learning-curve"] if row["model"] == "lightgbm"]
    assert {(row["size"], row["training rows"]) for row in curve} == {("20", "20"), ("60", "60"), ("all", "144")}
    curve = [row["net benefit"] for row in files["decision-curve"] if row["model"] == "lightgbm"]
    expected = test["decision_curve"]["models"]["lightgbm"]["net_benefit"]
    np.testing.assert_allclose(np.array(curve, float), expected, atol=1e-4)


def test_a_report_without_optional_sections_names_none(full: tuple[RunFolder, str, str]) -> None:
    for text in full[1:]:
        for absent in (
            "Table 1: who",
            "How steady",
            "## Audit",
            'id="audit"',
            "1,000 patients",
            "In groups of patients",
        ):
            assert absent not in text


def test_sections_that_an_older_evaluation_did_not_make_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    metrics = json.loads(run.metrics.read_text())
    for part in metrics["parts"].values():
        for section in ("thresholds", "decision_curve", "subgroups"):
            part.pop(section, None)
        for entries in part["models"].values():
            for metric in ("observed_expected", "ici", "npv", "lr_positive"):
                del entries[metric]
            del entries["auroc"]["delong_ci"]
        for entries in part["differences"].values():
            del entries["auroc"]["delong_p"], entries["auroc"]["delong_ci"]
    write_json(run.metrics, metrics)
    html, _ = texts(run)
    assert "Calibration slope" in html
    for absent in ("Decision curve", "At decision thresholds", "DeLong", '<th scope="col">ICI'):
        assert absent not in html


def test_roc_band_holds_the_curve_and_narrows_with_more_rows() -> None:
    draw = np.random.default_rng(0)
    widths = []
    for n in (100, 1600):
        y_true = draw.integers(0, 2, n).astype(float)
        risk = 1 / (1 + np.exp(-(2 * y_true - 1 + draw.normal(0, 1, n))))
        low, high = roc_band(y_true, risk)
        at = np.interp(BAND_GRID, *roc(y_true, risk))
        wide = np.isfinite(low)  # no band where every event is found in every replicate
        assert (at[~wide] > 0.999).all() and (low < high)[wide].all()
        inside = (low - 0.02 <= at) & (at <= high + 0.02)
        assert inside[wide].mean() > 0.95
        widths.append(np.where(wide, high - low, 0).mean())
    assert widths[1] < widths[0] / 3


def test_roc_band_equals_one_replicate_at_a_time() -> None:
    # The slow way: repeat rows as drawn and let scikit-learn draw the curve. Without ties, so that
    # at each false alarm there is one point to interpolate to.
    from sklearn.metrics import roc_curve

    draw = np.random.default_rng(3)
    y_true, risk = draw.integers(0, 2, 60).astype(float), draw.permutation(60) / 60
    slow = []
    for counts in np.concatenate(list(bootstrap_counts(y_true, BAND_REPLICATES, 5))):
        rows = np.repeat(np.arange(60), counts.astype(int))
        alarms, found, _ = roc_curve(y_true[rows], risk[rows], drop_intermediate=False)
        slow.append([found[alarms <= x + 1e-12].max() for x in BAND_GRID])
    low, high = roc_band(y_true, risk, Resampling(seed=5))
    # A step curve read from above; interpolation may differ by a part of one event's step.
    below, above = np.quantile(slow, [0.025, 0.975], axis=0)
    wide = np.isfinite(low)
    assert wide.sum() > 80 and (below == above)[~wide].all()
    np.testing.assert_allclose(low[wide], below[wide], atol=0.05)
    np.testing.assert_allclose(high[wide], above[wide], atol=0.05)


def test_risks_of_exactly_0_and_1_and_of_one_value_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "lightgbm", "tuned"), n=120)
    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    for row in rows:
        if row["model"] == "tuned":
            row["y_prob"] = row["y_prob_raw"] = 0.3
        if row["model"] == "lightgbm":
            row["y_prob"] = row["y_prob_raw"] = float(round(row["y_prob"]))
    told = [Prediction.from_json(row) for row in rows]
    write_predictions(run.predictions, told)
    write_json(run.metrics, evaluate_predictions(told, 100, 0))
    html, _ = texts(run)
    assert "ROC curves on the test part: Logistic regression, LightGBM" in html


def test_calibration_points_are_group_means_with_wilson_intervals() -> None:
    # By hand: two groups of 40; Wilson interval of 10 / 40.
    risk = np.repeat([0.2, 0.8], 40)
    y_true = np.r_[np.ones(10), np.zeros(30), np.ones(30), np.zeros(10)]
    mean, share, low, high = calibration_points(y_true, risk)
    np.testing.assert_allclose(mean, [0.2, 0.8])
    np.testing.assert_allclose(share, [0.25, 0.75])
    np.testing.assert_allclose((low[0], high[0]), (0.1419, 0.4019), atol=1e-4)


@pytest.mark.parametrize("rows", [30, 90, 1000])  # a straight line, three knots, five
def test_the_ici_is_the_distance_of_the_risks_from_the_calibration_curve(rows: int) -> None:
    draw = np.random.default_rng(rows)
    y_true = draw.integers(0, 2, rows).astype(float)
    risk = 1 / (1 + np.exp(-(2 * y_true - 1 + draw.normal(0, 1, rows))))
    errors = np.abs(calibration_curve(y_true, risk, risk) - risk)
    assert errors.mean() == pytest.approx(ici(y_true, risk), abs=1e-12)
    assert errors.max() == pytest.approx(emax(y_true, risk), abs=1e-12)


def test_the_calibration_band_covers_the_truth_as_often_as_it_says_and_narrows_with_more_rows() -> None:
    draw = np.random.default_rng(0)
    covered, widths = [], []
    for n in [400] * 60 + [1600]:
        risk = draw.random(n)
        y_true = (draw.random(n) < risk).astype(float)  # perfectly calibrated: the truth is the diagonal
        at = curve_risks(risk)
        low, high = calibration_band(y_true, risk, at)
        covered.append(((low <= at) & (at <= high)).mean())
        widths.append((high - low).mean())
    # 95 %, less what percentile intervals lose in samples of this size; the standard error of this
    # mean is 2 %.
    assert 0.88 < np.mean(covered[:60]) < 0.99
    assert widths[-1] == pytest.approx(np.mean(widths[:60]) / 2, rel=0.2)


def test_a_curve_is_drawn_where_the_bulk_of_the_risks_is() -> None:
    risk = np.r_[0.001, np.linspace(0.2, 0.4, 500), 0.9]
    at = curve_risks(risk)
    assert 0.2 <= at[0] < 0.21 and 0.39 < at[-1] <= 0.4
    assert not np.isin(at, risk).any()


@pytest.mark.parametrize(("highest", "end"), [(0.04, 0.05), (0.12, 0.2), (0.45, 0.5), (0.55, 1.0)])
def test_axes_of_rare_events_end_early(highest: float, end: float) -> None:
    low = np.full(1000, highest / 2)
    assert axis_end([low, np.full(1000, highest)]) == end
    assert axis_end([np.r_[np.full(1000, highest), 0.99]]) == end, "one row does not stretch the axis"


def test_a_rare_event_fills_the_calibration_figure(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    for row in rows:
        row["y_prob"] = row["y_prob_raw"] = 0.15 * row["y_prob"]
    told = [Prediction.from_json(row) for row in rows]
    write_predictions(run.predictions, told)
    write_json(run.metrics, evaluate_predictions(told, 100, 0))
    html, _ = texts(run)
    assert "The axes end at 0.2, above which 1 % of the rows are at most." in html


def test_the_learning_curve_of_the_run_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    curve = add_learning_curve(run)
    shown = [p["auroc"] for p in curve["points"] if (p["model"], p["size"]) == ("lightgbm", 60)]
    middle, low, high = (f"{value:.3f}" for value in (sum(shown) / 2, min(shown), max(shown)))
    html, markdown = texts(run)
    assert f"<td>{middle} <small>{low} to {high}</small>" in html.split("With fewer patients")[1]
    assert f"{middle} ({low} to {high})" in markdown.split("With fewer patients")[1]
    for text in (html, markdown):
        assert "with 2 seeds each" in text
        assert "144 rows" in text
    assert 'aria-label="AUROC and log-loss on the test part over the number of training rows: Logistic' in html
    assert html.count('href="#size"') == html.count('id="size"') == 1


def test_a_learning_curve_of_one_seed_has_no_spread_and_undefined_points_are_dashes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("logistic_regression", "tuned"))
    (run.path / "learning_curve").mkdir()
    point = {"model": "tuned", "size": "all", "train_rows": 1234, "seed": 0, "auroc": None, "log_loss": 0.5}
    write_json(run.path / "learning_curve" / "learning_curve.json", {"points": [point]})
    _, markdown = texts(run)
    section = markdown.split("With fewer patients")[1].split("## ")[0]
    assert "seeds" not in section
    assert "| Tuned LLM | – |" in section and "| Tuned LLM | 0.500 |" in section and "1,234 rows" in section


def test_small_counts_of_values_are_written_as_table_1_does(run: RunFolder) -> None:
    found = json.loads(run.cohort.read_text())
    found["notes"] |= {"missing": {"age": 0, "sbp_mmhg": 9, "ldl": 10}, "values_out_of_range": {"sbp_mmhg": 3}}
    write_json(run.cohort, found)
    for text in texts(run):
        assert "Missing values: sbp_mmhg (&lt;10), ldl (10)." in text
        assert "taken as missing: sbp_mmhg (&lt;10)." in text
    # Table 1 hides a larger count because it would give a small one away: it must not stand above
    # the table.
    hides = {**extras()["table1"]["columns"][0], "missing": "hidden"}
    write_json(run.table1, {"n": extras()["table1"]["n"], "columns": [hides]})
    for text in texts(run):
        assert "ldl (hidden)." in text
        assert "ldl (10)" not in text


@pytest.mark.parametrize(("rows", "groups"), [(18, 0), (68, 2), (1000, 10)])
def test_few_rows_make_few_calibration_groups(rows: int, groups: int) -> None:
    """Every group has ten events and ten others; of 18 rows there is none."""
    mean, share, low, high = calibration_points(np.arange(rows) % 2.0, np.random.default_rng(0).random(rows))
    assert len(mean) == groups
    assert np.all(low <= share)
    assert np.all(share <= high)


# --------------------------------------------------------------------------------------------------
# one resampling for tables and figures


def band_widths(run: RunFolder, model: str) -> dict[str, float]:
    """Mean width of the bands that are drawn of a model, by figure, and of the bars of its
    calibration groups."""
    drawn = {drawing.name: list(csv.DictReader(io.StringIO(drawing.data))) for drawing in performance(read_record(run))}
    kinds = {
        "roc": [row for row in drawn["roc"] if row["model"] == f"{model} 95 % band"],
        "curve": [row for row in drawn["calibration"] if (row["model"], row["drawn as"]) == (model, "curve")],
        "group": [row for row in drawn["calibration"] if (row["model"], row["drawn as"]) == (model, "group")],
        "decision": [row for row in drawn["decision-curve"] if row["model"] == model],
    }
    limits = {
        kind: [(float(row["low"]), float(row["high"])) for row in rows if row["low"]] for kind, rows in kinds.items()
    }
    assert all(low <= high for found in limits.values() for low, high in found)
    return {kind: float(np.mean([high - low for low, high in found])) for kind, found in limits.items()}


def test_bands_and_tables_are_of_the_same_resamples(tmp_path: Path) -> None:
    """Rows that stand four times each: with the patients told, figures and tables are as wide as if
    each stood once."""
    runs, widths, tables = {}, {}, {}
    for name in ("once", "apart", "together"):
        run = runs[name] = make_run(tmp_path / name, ("lightgbm", "tuned"), n=960)
        rows = [json.loads(line) for line in run.predictions.read_text().splitlines()]
        rows = [row for row in rows if row["part"] == "test"]
        places = {row_id: place for place, row_id in enumerate(dict.fromkeys(row["row_id"] for row in rows))}
        if name != "once":
            grouped = name == "together"
            rows = [
                row | {"row_id": f"{row['row_id']}{copy}"} | ({"cluster": places[row["row_id"]]} if grouped else {})
                for row in rows
                for copy in range(4)
            ]
        told = [Prediction.from_json(row) for row in rows]
        write_predictions(run.predictions, told)
        write_json(run.metrics, evaluate_predictions(told, 200, 0))
        widths[name] = band_widths(run, "tuned")
        judged = json.loads(run.metrics.read_text())["parts"]["test"]["models"]["tuned"]
        tables[name] = judged["auroc"]["ci"][1] - judged["auroc"]["ci"][0]
    assert tables["together"] == pytest.approx(tables["once"], rel=0.02) and tables["apart"] < 0.6 * tables["once"]
    for kind, once in widths["once"].items():
        if kind != "group":  # more rows are cut into more groups
            assert widths["together"][kind] == pytest.approx(once, rel=0.2), kind
        assert widths["apart"][kind] < 0.65 * widths["together"][kind], kind


def test_the_main_model_is_not_chosen_by_the_test_part(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("prevalence", "logistic_regression", "lightgbm", "zero_shot"))
    metrics = json.loads(run.metrics.read_text())
    for best in ("lightgbm", "zero_shot", "prevalence"):
        for model, entries in metrics["parts"]["test"]["models"].items():
            entries["auroc"]["value"] = 0.9 if model == best else 0.6
        write_json(run.metrics, metrics)
        assert read_record(run).main == "logistic_regression"
    assert main_model(("lightgbm", "tuned", "stacked")) == "tuned"
    assert main_model(("score2", "prevalence", "unheard_of")) == "score2"
    assert main_model(("unheard_of", "another")) == "another"


def test_one_patient_in_the_test_part_is_said_and_has_no_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("lightgbm", "tuned"))
    rows = [json.loads(line) | {"cluster": 0} for line in run.predictions.read_text().splitlines()]
    told = [Prediction.from_json(row) for row in rows]
    write_predictions(run.predictions, told)
    write_json(run.metrics, evaluate_predictions(told, 100, 0))
    html, text = texts(run)
    for page in (html, text):
        assert "All rows are of one patient (or group), so there are no intervals" in page
        assert not re.search(r"(\d\.\d{3}) to \1\b", page)
    drawn = {drawing.name: drawing.data for drawing in performance(read_record(run))}
    assert "95 % band,0.5,,,\n" in drawn["roc"]


def test_a_part_with_fewer_replicates_says_how_many(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("lightgbm", "tuned"))
    metrics = json.loads(run.metrics.read_text())
    metrics["parts"]["test"]["replicates"] = 77
    write_json(run.metrics, metrics)
    assert all("77 replicates" in page for page in texts(run))

"""Cross-validation inside `run`: a run a fold, resumed fold by fold, and one judgement of all rows,
whose intervals hold the split and the fits."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from cardiotune import stages
from cardiotune.audit.export_check.folder import STAY, check_export
from cardiotune.config import load_config
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation import metrics, schema
from cardiotune.evaluation.catalogue import SHARE
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.evaluation.judgement import Estimate, Judgement
from cardiotune.evaluation.repeats import Repeat, Spread, stability, wider
from cardiotune.models.folds import turns
from cardiotune.models.predictions import Prediction, prediction_rows, read_predictions, read_repeats
from cardiotune.models.thresholds import NamedThreshold, fold_key, of_folds
from cardiotune.report.compare import compare
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from conftest import TOY_COLUMNS, build_toy_table

FOLDS, REPEATS = 3, 2


def experiment(folder: Path, model: Path, **more: Any) -> Config:
    build_toy_table(90, 3).write_csv(folder / "toy.csv")
    tree = {
        "name": "crossed",
        "runs_dir": str(folder / "runs"),
        "data": {"path": "toy.csv", "columns": TOY_COLUMNS},
        "task": {"outcome": "heart disease"},
        "split": {"by": "cross_validation", "folds": FOLDS, "repeats": REPEATS},
        "model": {"name": "toy", "path": str(model), "dtype": "float32"},
        "method": {"r": 4, "alpha": 8},
        "train": {"max_steps": 2, "batch_size": 16, "threads": 1},
        "evaluation": {"bootstrap": 100},
        "models": ["prevalence", "logistic_regression", "tuned"],
        **more,
    }
    file = folder / "crossed.yaml"
    file.write_text(json.dumps(tree))
    return load_config(file)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Config:
    return experiment(tmp_path_factory.mktemp("crossed"), toy_model)


@pytest.fixture(scope="module")
def run(config: Config) -> RunFolder:
    return stages.run(config)


# --------------------------------------------------------------------------------------------------
# the run


def test_every_row_is_held_out_once_in_every_repeat(run: RunFolder) -> None:
    rows = read_repeats(run)
    assert {row.part for row in rows} == {"test"}
    for model, repeats in (("logistic_regression", REPEATS), ("prevalence", REPEATS), ("tuned", 1)):
        for repeat in range(1, repeats + 1):
            own = [row for row in rows if (row.model, row.repeat) == (model, repeat)]
            assert len(own) == len({row.row_id for row in own}) == 90
            assert {row.fold for row in own} == set(range(1, FOLDS + 1))
        assert not [row for row in rows if row.model == model and (row.repeat or 0) > repeats]
    first = read_predictions(run)
    assert len(first) == 3 * 90 and {row.repeat for row in first} == {1}


def test_a_fold_is_a_whole_run_whose_parts_are_those_of_sklearn(run: RunFolder, config: Config) -> None:
    found = turns(config)
    assert [turn.key for turn in found][:2] == ["repeat 1, fold 1", "repeat 1, fold 2"]
    assert "tuned" in found[0].config.comparators and "tuned" not in found[-1].config.comparators
    assert len({turn.config.seed for turn in found}) == FOLDS * REPEATS
    ids = [row.row_id for row in read_predictions(run) if row.model == "tuned"]
    events = np.array([row.y_true for row in read_predictions(run) if row.model == "tuned"])
    for repeat in (1, 2):
        expected = StratifiedKFold(FOLDS, shuffle=True, random_state=config.seed + repeat - 1).split(events, events)
        for fold, (_, test) in enumerate(expected, start=1):
            turn = next(turn for turn in found if (turn.repeat, turn.fold) == (repeat, fold))
            held = {row.row_id for row in read_predictions(turn.run) if row.part == "test"}
            assert held == {ids[place] for place in test}
            learned = json.loads(turn.run.cohort.read_text())["parts"]
            assert turn.run.calibration.is_file() and learned["train"]["n"] + learned["validation"]["n"] == 60
    assert (found[0].run.adapter / "sha256.json").is_file() and not found[-1].run.adapter.exists()


def test_metrics_are_means_over_repeats_and_the_file_follows_its_schema(run: RunFolder) -> None:
    content = json.loads(run.metrics.read_text())
    jsonschema.validate(content, schema.read())
    assert Judgement.from_json(content).as_json() == content
    part = Judgement.from_json(content).parts["test"]
    assert part.n == 90 and part.cross_validation
    assert part.cross_validation.repeats == {"prevalence": 2, "logistic_regression": 2, "tuned": 1}
    assert list(part.cross_validation.stability) == ["prevalence", "logistic_regression"]
    rows = read_repeats(run)

    def auroc(model: str, repeat: int) -> float:
        own = [row for row in rows if (row.model, row.repeat) == (model, repeat)]
        return float(metrics.auroc(np.array([row.y_true for row in own], float), np.array([r.y_prob for r in own])))

    both = np.mean([auroc("logistic_regression", 1), auroc("logistic_regression", 2)])
    assert part.models["logistic_regression"]["auroc"].value == pytest.approx(both)
    assert part.differences is not None
    paired = auroc("tuned", 1) - auroc("logistic_regression", 1)
    assert part.differences["logistic_regression"]["auroc"].value == pytest.approx(paired)


def test_report_and_checklists_say_what_was_done(run: RunFolder) -> None:
    text = run.report.with_suffix(".md").read_text()
    assert "3-fold cross-validation, folds stratified by the outcome, 2 repeats (Tuned LLM: 1)" in text
    assert "every row was held out once in every repeat" in text and "Below, the parts of the first fold." in text
    assert "Patients who change sides of the threshold between repeats" in text
    assert "Instability of risks" in run.report.read_text()
    checklists = (run.path / "checklists.md").read_text()
    assert "all steps of development repeated in each sample | Yes: 3-fold cross-validation" in checklists
    assert run.manifest.read_text().count("finished") == 1


def test_a_stopped_run_goes_on_fold_by_fold(config: Config, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.predictions.read_bytes()
    found = turns(config)
    run.update_manifest(status="interrupted")
    found[2].run.update_manifest(status="interrupted")
    prepared: list[str] = []
    prepare = stages.prepare
    monkeypatch.setattr(
        stages,
        "prepare",
        lambda config, *args, **more: (prepared.append(config.name), prepare(config, *args, **more))[1],
    )
    assert stages.run(config).path == run.path
    assert prepared == []  # the fold that was stopped goes on from its checkpoint
    assert run.predictions.read_bytes() == before
    with pytest.raises(ConfigError, match="exists already"):
        stages.run(config)


def test_folds_that_were_not_all_made_are_refused(config: Config, run: RunFolder) -> None:
    file = turns(config)[4].run.predictions
    content = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(DataError, match=r"repeat-2-fold-2.*no predictions yet"):
            stages.predict(run)
    finally:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="cross-validated"):
        stages.train(run)


def test_what_may_leave_is_said_of_the_folds_too(run: RunFolder) -> None:
    judged = {entry.path: entry.verdict for entry in check_export(run)}
    first = "folds/repeat-1-fold-1"
    stay = ("predictions.jsonl", f"{first}/predictions.jsonl", f"{first}/split.parquet", f"{first}/exact_counts.json")
    for name in (*stay, f"{first}/cohort.json", f"{first}/calibration.json"):
        assert judged[name] == STAY, name
    for name in ("calibration.json", "report.html", f"{first}/config.yaml"):
        assert judged[name] != STAY, name


def test_runs_are_compared_by_what_their_reports_say(run: RunFolder, config: Config, tmp_path: Path) -> None:
    tree = config.model_dump(mode="json") | {"name": "once", "runs_dir": str(tmp_path), "models": ["prevalence"]}
    other = stages.run(type(config).model_validate(tree))
    found = compare([run, other])
    told = json.loads(run.metrics.read_text())["parts"]["test"]["models"]["tuned"]["auroc"]
    assert found["n"] == 90 and found["entries"][0]["metrics"]["auroc"] == {"value": told["value"], "ci": told["ci"]}


# --------------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"by": "random", "fold": 1, "repeat": 1}, "cross_validation"),
        ({"by": "cross_validation", "fold": 1}, "repeat goes with fold"),
        ({"by": "cross_validation", "fold": 6, "repeat": 1}, "none beyond"),
        ({"by": "cross_validation", "folds": 2, "validation": 0.5}, "one of 2 folds"),
        ({"by": "cross_validation", "whole_sites": True}, "role site"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, toy_model: Path, split: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        experiment(tmp_path, toy_model, split=split)


def test_a_repeat_without_any_model_is_left_out(tmp_path: Path, toy_model: Path) -> None:
    assert {turn.repeat for turn in turns(experiment(tmp_path, toy_model, models=["tuned"]))} == {1}


# --------------------------------------------------------------------------------------------------
# intervals


def crossed(rows: int, repeats: int, seed: int = 0, worse: int = 0) -> list[Prediction]:
    """Risks of a model in `repeats` draws of five folds; of fold `worse` they are noise."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=rows)
    events = (draw.random(rows) < 1 / (1 + np.exp(-logits))).astype(int)
    found = []
    for repeat in range(1, repeats + 1):
        folds = draw.permutation(np.arange(rows) % 5 + 1)
        risks = 1 / (1 + np.exp(-logits - draw.normal(scale=0.3, size=rows)))
        risks = np.where(folds == worse, draw.random(rows), risks)
        own = prediction_rows(
            "logistic_regression", [f"r{n}" for n in range(rows)], ["test"] * rows, events, risks, risks, 0.5
        )
        found += [
            Prediction(**{**{name: getattr(row, name) for name in row.__slots__}, "repeat": repeat, "fold": int(fold)})
            for row, fold in zip(own, folds, strict=True)
        ]
    return found


def judged(rows: list[Prediction], **more: Any) -> Any:
    return Judgement.from_json(evaluate_predictions(rows, 200, 0, **more)).parts["test"]


def width(entry: Estimate) -> float:
    assert entry.ci is not None
    return entry.ci[1] - entry.ci[0]


def test_an_interval_is_wider_where_a_fit_went_wrong_and_never_narrower_than_that_of_the_rows() -> None:
    plain = [
        Prediction.from_json({k: v for k, v in row.as_json().items() if k not in ("repeat", "fold")})
        for row in crossed(300, 1)
    ]
    alone, together = judged(plain), judged(crossed(300, 1))
    spoiled = crossed(300, 1, worse=2)
    same = judged(
        [
            Prediction.from_json({k: v for k, v in row.as_json().items() if k not in ("repeat", "fold")})
            for row in spoiled
        ]
    )
    for metric in ("auroc", "brier", "log_loss", "calibration_slope", "accuracy"):
        one, other = (found.models["logistic_regression"][metric] for found in (alone, together))
        assert one.value == pytest.approx(other.value) and width(other) >= width(one) - 1e-12
    for metric in ("auroc", "brier"):
        entry = judged(spoiled).models["logistic_regression"][metric]
        assert width(entry) > 1.3 * width(same.models["logistic_regression"][metric])


def test_the_widening_by_hand() -> None:
    sample = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # variance 2.5
    without = np.array([[2.0, 3.0, 4.0], [2.0, 4.0, 6.0]])  # 2/3 of 2 and of 8: mean 10/3
    each = np.array([3.0, 4.0])  # 0.5, over two
    assert Spread(each, without).widening(sample) == pytest.approx(np.sqrt((10 / 3 + 0.25) / 2.5))
    assert Spread(each[:1], without[:1] / 9).widening(sample) == 1
    assert Spread(np.array([np.nan]), without[:1]).widening(np.ones(5)) == 1
    assert wider(Estimate(0.9, (0.8, 0.96)), 2, SHARE) == Estimate(0.9, (pytest.approx(0.7), 1))


def test_each_fold_has_its_own_threshold() -> None:
    rows = crossed(200, 2)
    own = of_folds("Youden", {fold_key(row.repeat or 0, row.fold or 0): 0.3 + 0.05 * (row.fold or 0) for row in rows})
    assert own.value == pytest.approx(0.45) and NamedThreshold.from_json(own.as_json()) == own
    assert of_folds("10 %", {"repeat 1, fold 1": 0.1, "repeat 1, fold 2": 0.1}).folds == {}
    entry = judged(rows, thresholds={"logistic_regression": [own]}).thresholds["logistic_regression"][0]
    by_hand = []
    for repeat in (1, 2):
        of_repeat = [row for row in rows if row.repeat == repeat and row.y_true == 1]
        by_hand.append(np.mean([row.y_prob >= 0.3 + 0.05 * (row.fold or 0) for row in of_repeat]))
    assert entry.metrics["sensitivity"].value == pytest.approx(np.mean(by_hand))


def test_stability_by_hand() -> None:
    risks = np.array([[0.2, 0.4, 0.6, 0.8] * 25, [0.3, 0.55, 0.45, 0.8] * 25])
    found = stability([Repeat(one, np.zeros(100, int)) for one in risks], 0.5)
    assert found is not None and found.changed == 0.5
    assert found.mean_change == pytest.approx((0.1 + 0.15 + 0.15 + 0) / 4)
    assert [band.risk for band in found.bands] == sorted(band.risk for band in found.bands)
    few = risks[:, :8]
    told = stability([Repeat(one, np.zeros(8, int)) for one in few], 0.5)
    assert told is not None and told.changed is None and told.bands == []
    assert stability([Repeat(risks[0], np.zeros(100, int))], 0.5) is None

import json
from pathlib import Path
from typing import Any

import pytest

from cardiotune import runs
from cardiotune.config import dump
from cardiotune.data.cohort import ROW_ID, read_cohort
from cardiotune.data.split import counts, split_cohort
from cardiotune.data.subsample import cut_training
from cardiotune.errors import ConfigError, DataError, ModelError
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.files import sha256, write_json
from cardiotune.models.baselines import BASELINES
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.predictions import prediction_rows
from cardiotune.report.learning_curve import (
    FILE,
    FROM_BASE,
    differences,
    draw,
    learning_curve,
    parse_sizes,
    to_markdown,
    variant,
    worth,
    write,
)
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from conftest import build_toy_table, toy_config

# --------------------------------------------------------------------------------------------------
# the curve


class Runs:
    """Whole runs of the classical comparators; counts them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stop_before: str | None = None
        self.test_rows: set[tuple[str, ...]] = set()

    def __call__(self, config: Config) -> RunFolder:
        if config.name == self.stop_before:
            raise KeyboardInterrupt
        self.done.append(config.name)
        cohort = read_cohort(config.data, config.seed)
        parts = split_cohort(cohort, config.data, config.split, config.split_seed)
        if config.split.train_rows:
            parts = cut_training(parts, cohort.events, config.split.train_rows, config.split_seed)
        folder = runs.create(config.run_path, dump(config), overwrite=True)
        write_json(folder.cohort, {"parts": counts(parts, cohort.events)})
        test = parts == "test"
        ids = cohort.frame[ROW_ID].to_numpy()[test].tolist()
        self.test_rows.add(tuple(ids))
        lines = []
        for name in config.comparators:
            risks = BASELINES[name](LabelledRows(cohort.frame, cohort.events, parts, config.data, config.seed))[test]
            lines += prediction_rows(name, ids, ["test"] * len(ids), cohort.events[test], risks, risks, 0.5)
        write_json(folder.metrics, evaluate_predictions(lines, 100, config.seed))
        folder.record(folder.cohort, folder.metrics)
        folder.update_manifest(data=sha256(Path(config.data.path)), status="finished")
        return folder


def experiment(folder: Path, **sections: Any) -> Config:
    build_toy_table().write_csv(folder / "table.csv")
    chosen: dict[str, Any] = {"models": ["prevalence", "logistic_regression"], **sections}
    return toy_config(folder, data={"path": str(folder / "table.csv")}, **chosen)


def test_a_curve_has_a_point_for_every_model_size_and_seed(tmp_path: Path) -> None:
    config, run_one = experiment(tmp_path, split={"seed": 5}), Runs()
    curve = learning_curve(config, ["all", 60, 20], [0, 1], run_one, tmp_path / "curve")
    assert [name.split("-", 1)[1] for name in run_one.done[::2]] == [
        "rows-20-seed-0",
        "rows-60-seed-0",
        "rows-all-seed-0",
    ]
    assert len(curve["points"]) == 3 * 2 * 2
    assert {point["train_rows"] for point in curve["points"]} == {20, 60, 144}
    assert len(run_one.test_rows) == 1, "all are judged on the same patients"
    metrics = json.loads((tmp_path / "curve" / "toy-rows-20-seed-1" / "metrics.json").read_text())
    expected = metrics["parts"]["test"]["models"]["logistic_regression"]
    (point,) = [p for p in curve["points"] if (p["model"], p["size"], p["seed"]) == ("logistic_regression", 20, 1)]
    assert point["auroc"] == expected["auroc"]["value"] and point["log_loss"] == expected["log_loss"]["value"]
    assert json.loads((tmp_path / "curve" / "learning_curve.json").read_text()) == curve


def test_an_interrupted_curve_goes_on_without_repeating(tmp_path: Path) -> None:
    config, run_one, out = experiment(tmp_path), Runs(), tmp_path / "curve"
    run_one.stop_before = "toy-rows-60-seed-0"
    with pytest.raises(KeyboardInterrupt):
        learning_curve(config, [20, 60], [0], run_one, out)
    assert len(json.loads((out / "learning_curve.json").read_text())["points"]) == 2
    run_one.stop_before = None
    curve = learning_curve(config, [20, 60], [0], run_one, out)
    assert run_one.done == ["toy-rows-20-seed-0", "toy-rows-60-seed-0"]
    RunFolder(out / "toy-rows-60-seed-0").update_manifest(status="failed")
    assert learning_curve(config, [20, 60], [0], run_one, out) == curve
    assert run_one.done[2:] == ["toy-rows-60-seed-0"], "an unfinished run is made anew"


def test_a_run_killed_while_its_folder_was_made_is_made_anew(tmp_path: Path) -> None:
    config, run_one, out = experiment(tmp_path), Runs(), tmp_path / "curve"
    fragment = RunFolder(out / "toy-rows-20-seed-0")
    fragment.path.mkdir(parents=True)
    fragment.config.write_text(dump(variant(config, 20, 0, out)))
    (fragment.path / ".manifest.json.x1y2z3").touch()
    assert len(learning_curve(config, [20], [0], run_one, out)["points"]) == 2
    foreign = out / "toy-rows-60-seed-0"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is left alone"):
        learning_curve(config, [20, 60], [0], run_one, out)
    assert (foreign / "mine.txt").read_text() == "keep"


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    config, run_one, out = experiment(tmp_path), Runs(), tmp_path / "curve"
    learning_curve(config, [20], [0], run_one, out)
    other = experiment(tmp_path, train={"epochs": 9}, task={"threshold": 0.4})
    with pytest.raises(ConfigError, match=r"other settings \(task\.threshold, train\.epochs\)"):
        learning_curve(other, [10, 20], [0], run_one, out)
    assert len(run_one.done) == 1, "nothing was run before the refusal"


def test_the_curve_of_another_experiment_gives_way_only_when_asked(tmp_path: Path) -> None:
    config, run_one, out = experiment(tmp_path), Runs(), tmp_path / "curve"
    learning_curve(config, [20], [0], run_one, out)
    grown = learning_curve(config, [20, 40], [0], run_one, out)
    others = (experiment(tmp_path, name="other"), experiment(tmp_path, train={"epochs": 9}))
    for other in others:  # sizes of their own, so that no run of theirs is there
        with pytest.raises(ConfigError, match=r"learning_curve\.json: is there already .*--out, or .*--overwrite"):
            learning_curve(other, [60], [0], run_one, out)
        assert json.loads((out / "learning_curve.json").read_text()) == grown and len(run_one.done) == 2
    replaced = learning_curve(others[0], [60], [0], run_one, out, overwrite=True)
    assert json.loads((out / "learning_curve.json").read_text()) == replaced
    assert (out / "toy-rows-20-seed-0").is_dir(), "its runs stay"


def test_another_table_is_refused(tmp_path: Path) -> None:
    config, run_one, out = experiment(tmp_path), Runs(), tmp_path / "curve"
    learning_curve(config, [20], [0], run_one, out)
    build_toy_table(seed=1).write_csv(tmp_path / "table.csv")
    with pytest.raises(DataError, match="another table"):
        learning_curve(config, [20, 60], [0], run_one, out)


@pytest.mark.parametrize(("file", "content"), [("metrics.json", "{"), ("metrics.json", "{}"), ("cohort.json", "[]")])
def test_a_damaged_result_is_named_and_may_be_deleted(tmp_path: Path, file: str, content: str) -> None:
    config, run_one, out = experiment(tmp_path), Runs(), tmp_path / "curve"
    curve = learning_curve(config, [20], [0], run_one, out)
    damaged = out / "toy-rows-20-seed-0" / file
    damaged.write_text(content)
    with pytest.raises(ModelError, match=f"toy-rows-20-seed-0/{file}: differs from what the run recorded"):
        learning_curve(config, [20], [0], run_one, out)
    RunFolder(damaged.parent).update_manifest(files={file: sha256(damaged)})
    with pytest.raises(DataError, match=r"toy-rows-20-seed-0: .* damaged; delete this folder"):
        learning_curve(config, [20], [0], run_one, out)
    damaged.unlink()
    assert learning_curve(config, [20], [0], run_one, out) == curve and len(run_one.done) == 2


def test_a_curve_has_few_models_unless_the_experiment_chooses(tmp_path: Path) -> None:
    few = ["logistic_regression", "lightgbm", "zero_shot", "few_shot", "tuned"]
    assert variant(experiment(tmp_path, models=None), 20, 0, tmp_path).models == few
    encoder = experiment(tmp_path, models=None, model={"family": "encoder"}, task={"head": "classifier"})
    assert variant(encoder, 20, 0, tmp_path).models == ["logistic_regression", "lightgbm", "tuned"]
    assert variant(experiment(tmp_path, models=["tfidf"]), 20, 0, tmp_path).models == ["tfidf"]


def test_a_curve_belongs_to_runs_of_the_same_settings_and_table(tmp_path: Path) -> None:
    run_one = Runs()
    config = experiment(tmp_path, runs_dir=str(tmp_path / "runs"))
    own = run_one(config.model_copy(update={"models": ["prevalence"], "seed": 7}))
    one = run_one(variant(config, 20, 0, tmp_path / "curve"))
    assert differences(own, one) == [], "seed, training rows and models are what a curve may choose"
    tuned = experiment(tmp_path, runs_dir=str(tmp_path / "runs"), train={"epochs": 9})
    assert differences(run_one(tuned), one) == ["train.epochs"]
    build_toy_table(seed=1).write_csv(tmp_path / "table.csv")
    assert differences(run_one(config), one) == ["table"]


def test_sizes_are_read_as_they_are_written() -> None:
    assert parse_sizes("32, 128,all") == [32, 128, "all"]
    for text, strange in {"": "''", "32,": "''", "1e3": "'1e3'", "-5,x": "'-5', 'x'", "²": "'²'", "٣": "'٣'"}.items():
        with pytest.raises(ConfigError, match=rf"^--sizes: {strange}; expected whole numbers"):
            parse_sizes(text)


@pytest.mark.parametrize(
    ("sizes", "seeds", "match"),
    [
        ([], [0], "at least one"),
        ([20, 20], [0], "once"),
        ([20], [0, 0], "once"),
        ([20], [], "at least"),
        ([3], [0], "4"),
    ],
)
def test_sizes_and_seeds_must_make_sense(tmp_path: Path, sizes: list[Any], seeds: list[int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        learning_curve(experiment(tmp_path), sizes, seeds, Runs(), tmp_path)


# --------------------------------------------------------------------------------------------------
# what is shown


def points() -> dict[str, Any]:
    def point(model: str, size: Any, rows: int, seed: int, auroc: float | None) -> dict[str, Any]:
        return {"model": model, "size": size, "train_rows": rows, "seed": seed, "auroc": auroc, "log_loss": 0.5}

    tuned = [point("tuned", 20, 20, seed, value) for seed, value in enumerate((0.6, 0.7, 0.65))]
    return {"points": [*tuned, point("tuned", "all", 150, 0, 0.8), point("lightgbm", 20, 20, 0, None)]}


def test_the_table_shows_median_and_spread() -> None:
    auroc, log_loss = to_markdown(points()).strip().split("\n\n")
    assert auroc.splitlines() == [
        "| AUROC, by training rows | 20 | 150 |",
        "|---|---|---|",
        "| Tuned LLM | 0.650 (0.600 to 0.700) | 0.800 |",
        "| LightGBM | - | - |",
    ]
    assert log_loss.startswith("| Log-loss")


def test_a_curve_is_written_as_data_figure_and_table(tmp_path: Path) -> None:
    write(points(), tmp_path / "learning_curve")
    written = {file.name: file.read_bytes() for file in (tmp_path / "learning_curve").iterdir()}
    assert written.keys() == {FILE, "learning_curve.png", "learning_curve.md"}
    assert json.loads(written[FILE]) == points()
    assert written["learning_curve.png"].startswith(b"\x89PNG")
    assert written["learning_curve.md"].decode() == to_markdown(points())


@pytest.mark.parametrize(("name", "begins"), [("curve.png", b"\x89PNG"), ("curve.svg", b"<?xml")])
def test_the_figure_is_written_the_same_every_time(tmp_path: Path, name: str, begins: bytes) -> None:
    first = draw(points(), tmp_path / name).read_bytes()
    assert first.startswith(begins) and draw(points(), tmp_path / name).read_bytes() == first
    if name.endswith("svg"):
        assert b"Tuned LLM" in first and b"Training rows" in first and first.count(b"stroke-dasharray") > 0


def test_an_unknown_kind_of_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        draw(points(), tmp_path / "curve.pdf")


# --------------------------------------------------------------------------------------------------
# what a start is worth


def points_of(start: dict[int, float], base: dict[int, float], seed: int = 0) -> list[dict[str, Any]]:
    lines = {"tuned": start, FROM_BASE: base}
    return [
        {"model": model, "size": rows, "train_rows": rows, "seed": seed, "auroc": value, "log_loss": 0.5}
        for model, line in lines.items()
        for rows, value in line.items()
    ]


def test_a_start_is_worth_the_rows_at_which_the_base_does_as_well() -> None:
    base = {16: 0.60, 64: 0.70, 256: 0.80}
    (one, two, three) = worth(points_of({16: 0.75, 64: 0.58, 256: 0.81}, base))
    assert one.rows == pytest.approx(128), "half way between 64 and 256 on a logarithmic axis"
    assert "16 training rows from the start do as well as 128 from the base model (by AUROC)" in one.words
    assert two.words.startswith("64 training rows from the start do as well as 16 or fewer")
    assert "as more than 256 from" in three.words and three.as_json()["rows"] is None
    both = points_of({16: 0.75}, base) + points_of({16: 0.9}, base, seed=1) + points_of({16: 0.65}, base, seed=2)
    (seeds,) = worth(both)
    assert seeds.rows == pytest.approx(128) and seeds.low == pytest.approx(32)
    assert "; 32 to more than 256 over 3 seeds)" in seeds.words
    assert seeds.words in to_markdown({"points": both})
    (two_seeds,) = worth(points_of({16: 0.5}, base) + points_of({16: 0.9}, base, seed=1))
    assert two_seeds.rows == 16, "no more is said than the lower of two shows"
    (alike,) = worth(points_of({16: 0.5}, base) + points_of({16: 0.55}, base, seed=1))
    assert "16 or fewer from the base model (by AUROC; all 2 seeds alike)" in alike.words
    assert worth([point for point in both if point["model"] == "tuned"]) == []


def test_seeds_of_one_size_are_one_line_whatever_rows_they_have() -> None:
    """Whole sites and patients with several rows make parts that differ by a few rows."""
    apart = [
        {**point, "train_rows": point["train_rows"] + (0, 3, -2)[seed], "seed": seed}
        for seed, value in enumerate((0.75, 0.5, 0.9))
        for point in points_of({200: value}, {200: 0.60, 800: 0.80})
    ]
    (one,) = worth(apart)
    assert (one.train_rows, one.seeds, one.smallest, one.largest) == (200, 3, 200, 800)
    assert one.rows == pytest.approx(200 * 4**0.75) and one.low == 200
    assert "200 training rows from the start do as well as 566 from" in one.words
    assert "; 200 or fewer to more than 800 over 3 seeds)" in one.words
    assert to_markdown({"points": apart}).count(" training rows from the start") == 1
    (two,) = worth([point for point in apart if point["seed"] < 2])
    assert isinstance(two.train_rows, int) and two.seeds == 2


def test_a_curve_with_a_start_has_the_tuned_model_from_both(tmp_path: Path) -> None:
    start = {"start_from": str(tmp_path / "source")}
    config = experiment(tmp_path, models=["logistic_regression", "tuned"], train=start)
    made: list[Config] = []

    def run_one(one: Config) -> RunFolder:
        made.append(one)
        folder = runs.create(one.run_path, dump(one), overwrite=True)
        rows, better = one.split.train_rows or 144, 0.1 if one.train.start_from else 0.0
        write_json(folder.cohort, {"parts": {"train": {"n": rows}}})
        values = {"auroc": {"value": 0.6 + better + rows / 1000}, "log_loss": {"value": 0.5}}
        write_json(folder.metrics, {"parts": {"test": {"models": {name: values for name in one.comparators}}}})
        folder.record(folder.cohort, folder.metrics)
        folder.update_manifest(data="table", status="finished")
        return folder

    curve = learning_curve(config, [20, "all"], [0], run_one, tmp_path / "curve")
    assert [(one.name, one.models, bool(one.train.start_from)) for one in made] == [
        ("toy-rows-20-seed-0", ["logistic_regression", "tuned"], True),
        ("toy-rows-20-seed-0-base", ["tuned"], False),
        ("toy-rows-all-seed-0", ["logistic_regression", "tuned"], True),
        ("toy-rows-all-seed-0-base", ["tuned"], False),
    ]
    assert [point["model"] for point in curve["points"]] == ["logistic_regression", "tuned", FROM_BASE] * 2
    assert curve["worth"][0] == {
        "train_rows": 20, "rows": pytest.approx(110, abs=40), "low": curve["worth"][0]["rows"],
        "high": curve["worth"][0]["rows"], "seeds": 1, "smallest": 20, "largest": 144,
    }  # fmt: skip
    assert json.loads((tmp_path / "curve" / FILE).read_text()) == curve
    write(curve, tmp_path / "shown")
    assert "Tuned from base" in (tmp_path / "shown" / "learning_curve.md").read_text()

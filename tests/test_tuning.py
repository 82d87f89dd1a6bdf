"""`cardiotune tune`: the validation part alone, resumable, pruned."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from cardiotune import stages, tuning
from cardiotune.config import load_config
from cardiotune.errors import ConfigError, RunError
from cardiotune.settings import Config
from cardiotune.training.course import Look
from cardiotune.tuning import STUDY, tune

optuna = pytest.importorskip("optuna")


def experiment(file: Path, *overrides: str) -> Config:
    return load_config(file, ["train.epochs=1", "models=[tuned]", "method.r=4", *overrides])


def test_a_search_keeps_the_best_and_never_less_than_the_experiments_own(toy_experiment: Path) -> None:
    config = experiment(toy_experiment)
    found = tune(config, 3)
    assert sum(found.trials.values()) == 3
    assert found.own is not None and found.best <= found.own
    kept = {path.name for path in found.folder.iterdir()}
    assert kept == {STUDY, "tune.json"}, "no weights and no rows of trials"
    told = json.loads((found.folder / "tune.json").read_text())
    assert told["best"] == found.best and len(told["trials"]) == 3
    again = tune(config, 3)
    assert again == found, "nothing is left to do"
    load_config(toy_experiment, found.overrides)


def test_a_stopped_search_goes_on(toy_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(toy_experiment, "train.max_steps=2")
    made = stages.train
    calls: list[int] = []

    def stopped(*given: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        made(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(config, 3)
    found = tune(config, 3)
    assert found.trials == {"complete": 3, "fail": 1} and len(calls) == 4
    values = [trial["settings"] for trial in json.loads((found.folder / "tune.json").read_text())["trials"]]
    assert values[1] == values[2], "the trial that was stopped is made again"


def test_the_test_part_has_no_say(toy_experiment: Path, tmp_path: Path) -> None:
    """With the test part's outcomes turned round the search finds the same."""
    tree = yaml.safe_load(toy_experiment.read_text())
    frame = pl.read_csv(toy_experiment.parent / tree["data"]["path"])
    parts = pl.Series("part", ["train"] * 140 + ["validation"] * 40 + ["test"] * 60)
    tree["data"]["columns"]["part"] = {"role": "split"}
    tree["split"] = {"by": "column"}
    found = []
    for turned in (False, True):
        folder = tmp_path / str(turned)
        folder.mkdir()
        outcome = pl.when((parts == "test") & turned).then(1 - pl.col("disease")).otherwise(pl.col("disease"))
        frame.with_columns(parts, disease=outcome).write_csv(folder / "table.csv")
        file = folder / "experiment.yaml"
        file.write_text(yaml.safe_dump({**tree, "runs_dir": str(folder / "runs")}))
        found.append(tune(experiment(file, "train.max_steps=2"), 2))
    assert found[0].best == found[1].best and found[0].overrides == found[1].overrides


def test_a_trial_that_does_badly_is_pruned(toy_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, numbers = experiment(toy_experiment), iter(range(100))

    def train(*given: object) -> None:
        worse = next(numbers) / 10
        for step in (1, 2, 3):
            tuning_watch.tell(Look(step, step, 0.5 + worse, 0.2, 0.7))

    from cardiotune.training import watch as tuning_watch

    monkeypatch.setattr(stages, "train", train)
    assert tune(config, 6).trials == {"complete": 4, "pruned": 2}


def test_what_cannot_be_tuned_is_said(toy_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="classical models choose their settings themselves"):
        tune(load_config(toy_experiment, ["models=[logistic_regression]"]), 1)
    with pytest.raises(ConfigError, match="needs one split"):
        tune(experiment(toy_experiment, "split.by=cross_validation"), 1)
    config = experiment(toy_experiment, "train.max_steps=1")
    tune(config, 1)
    with pytest.raises(ConfigError, match="a search of other settings or tables"):
        tune(experiment(toy_experiment, "train.max_steps=2"), 1)

    def fails(*given: object) -> None:
        raise RunError("no room")

    monkeypatch.setattr(tuning.stages, "train", fails)
    with pytest.raises(RunError, match="no room"):
        tune(config, 2)

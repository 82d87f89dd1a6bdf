"""`cardiotune tune`: settings of the fine-tuning with the best validation part. The test part is
never scored, so what is found can be judged on it once.

The study is a SQLite file, so a search that was stopped goes on. Each trial is a training without
predictions; one that does worse than the median of the others at the same look is pruned.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiotune import stages
from cardiotune.config import compose
from cardiotune.errors import ConfigError, ModelError, RunError
from cardiotune.files import delete_folder, make_folder, read_json, write_json
from cardiotune.reopen import describe_files
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training.course import Look
from cardiotune.training.watch import watched

log = logging.getLogger(__name__)

STUDY, FOUND = "study.sqlite", "tune.json"
METRIC = "log_loss"
WARM_UP_TRIALS = 4
"""Trials, the experiment's own settings first, before any is pruned."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search has found."""

    folder: Path
    own: float | None
    """Validation log-loss of the experiment's own settings; None where they failed."""
    best: float
    overrides: list[str]
    """The best settings, as the command line takes them."""
    trials: dict[str, int]
    """State -> how many trials ended so."""


def tune(config: Config, trials: int, overwrite: bool = False) -> Tuned:
    """Search until so many trials have ended, those of earlier calls included.

    Leaves `study.sqlite` and `tune.json` in `<run folder>_tune/`. ConfigError where there is
    nothing to tune, or the study there is of other settings or tables and not to be replaced.
    """
    optuna = _optuna()
    _check(config)
    place = config.run_path.with_name(f"{config.name}_tune")
    made_from = {"settings": config.model_dump(mode="json"), "tables": describe_files(config)}
    if (place / FOUND).is_file() and read_json(place / FOUND).get("made_from") != made_from:
        if not overwrite:
            raise ConfigError(
                f"{place}: a search of other settings or tables; name the experiment otherwise with name=NAME, or replace "
                "it with --overwrite"
            )
        delete_folder(place)
    make_folder(place)
    write_json(place / FOUND, {"made_from": made_from})
    study = optuna.create_study(
        study_name=config.name,
        storage=f"sqlite:///{(place / STUDY).resolve()}",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WARM_UP_TRIALS),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(_as_they_are(config))
    running, states = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState
    for trial in study.get_trials(states=(running,)):  # of a process that was stopped
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params)
    ended = [trial for trial in study.trials if trial.state in (states.COMPLETE, states.PRUNED)]
    for number in range(len(ended), trials):
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + number)  # the same, stopped or not
        log.info("trial %d of %d", number + 1, trials)
        _one(study, config, place, optuna)
    return _told(study, config, place, made_from)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune: optuna is not installed; pip install 'cardiotune[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check(config: Config) -> None:
    if "tuned" not in config.comparators:
        raise ConfigError("tune: models does not hold tuned, and classical models choose their settings themselves")
    if config.in_folds:
        raise ConfigError("tune: needs one split; give split.by=random here, and cross-validate what it finds")
    if config.launch.processes > 1 or config.deepspeed:
        raise ConfigError(
            "tune: trains in one process, so that a bad trial can be pruned; leave launch and deepspeed out"
        )


def _space(config: Config) -> dict[str, Any]:
    """Setting -> the values that are tried: a list of them, or (lowest, highest), drawn on a log
    scale."""
    rate, epochs = config.train.learning_rate, config.train.epochs
    space: dict[str, Any] = {
        "train.learning_rate": (rate / 8, rate * 4),
        "train.epochs": sorted({epochs / 2, epochs, epochs * 2}),
        "train.weight_decay": sorted({0.0, 0.01, 0.1, config.train.weight_decay}),
    }
    if config.train.max_steps:  # which ends a training before any number of epochs
        del space["train.epochs"]
    if config.method.kind == "lora":
        space["method.r"] = sorted({4, 8, 16, 32, config.method.r})
        space["method.dropout"] = sorted({0.0, 0.05, 0.1, config.method.dropout})
    return space


def _as_they_are(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    return {name: tree[name.split(".")[0]][name.split(".")[1]] for name in _space(config)}


def _one(study: Any, config: Config, place: Path, optuna: Any) -> None:
    """Train with the settings that the study asks for, and tell it the best look at the validation
    part."""
    trial = study.ask()
    asked = {
        name: trial.suggest_float(name, *values, log=True)
        if isinstance(values, tuple)
        else trial.suggest_categorical(name, values)
        for name, values in _space(config).items()
    }
    own = {"name": f"trial-{trial.number:04d}", "runs_dir": str(place)}
    tree = config.model_dump(mode="json") | own | {"models": ["tuned"], "use": {}}
    one = compose(tree, _overrides(asked), "tune", Path())
    best: list[float] = []

    def on_look(look: Look) -> None:
        best.append(look.log_loss)
        trial.report(look.log_loss, look.step)
        if trial.should_prune():
            raise optuna.TrialPruned

    folder = RunFolder(one.run_path)
    with _cleared(folder):
        try:
            folder, prepared = stages.prepare(one, overwrite=True)
            with watched(on_look):
                stages.train(folder, prepared)
            study.tell(trial, min(best))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except (ModelError, RunError) as error:
            log.warning("trial %d failed: %s", trial.number + 1, error)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if not best:  # not by its settings: no other will do better
                raise
    log.info("trial %d: validation log-loss %s, %s", trial.number + 1, _best_of(best), " ".join(_overrides(asked)))


@contextmanager
def _cleared(folder: RunFolder) -> Iterator[None]:
    """Weights of trials would fill the disc; the study keeps what they were worth."""
    try:
        yield
    finally:
        if folder.path.is_dir():
            delete_folder(folder.path)


def _best_of(losses: list[float]) -> str:
    return f"{min(losses):.4f}" if losses else "none"


def _overrides(settings: dict[str, Any]) -> list[str]:
    """As they are trained with and told, in three digits."""
    return [f"{name}={value:.3g}" for name, value in settings.items()]


def _told(study: Any, config: Config, place: Path, made_from: dict[str, Any]) -> Tuned:
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not complete:
        raise ModelError(
            f"{place}: no trial came to its end; look at the messages above, or ask for more with --trials"
        )
    states: dict[str, int] = {}
    for trial in study.trials:
        if trial.state.name != "WAITING":
            states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
    as_they_are = _as_they_are(config)
    own = next((trial.value for trial in complete if trial.params == as_they_are), None)
    best = min(complete, key=lambda trial: trial.value)
    overrides = _overrides({name: value for name, value in best.params.items() if value != as_they_are[name]})
    trials = [{"state": t.state.name.lower(), "value": t.value, "settings": t.params} for t in study.trials]
    found = {"metric": f"validation {METRIC}", "own": own, "best": best.value, "overrides": overrides, "trials": trials}
    write_json(place / FOUND, {"schema_version": 1, "made_from": made_from, **found})
    return Tuned(place, own, best.value, overrides, states)

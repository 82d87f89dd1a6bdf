"""Every value of every setting that has a list of values goes through report, checklists and card
of a real run's files.

The settings classes are walked, so that a new value without words fails here, before it fails after
hours of training.
"""

import copy
import json
import shutil
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from cardiotune import stages
from cardiotune.comparators import COMPARATORS, PUBLISHED_SCORES, having
from cardiotune.config import dump, load_config
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.files import write_json, write_text
from cardiotune.models import calibrate, thresholds
from cardiotune.models.logistic import logit
from cardiotune.models.predictions import read_predictions, write_predictions
from cardiotune.report import checklists, model_card
from cardiotune.report.record import Record, read_record
from cardiotune.report.report import as_text, write_report
from cardiotune.runs import RunFolder
from cardiotune.settings import MEANINGS, Config, Settings, Threshold
from conftest import write_toy_experiment

ALL = having(lambda one: not one.held_out)  # those are in test_held_out.py
Value = tuple[tuple[str, ...], Any]

WARD = {"data": {"columns": {"ward": {"role": "site", "type": "text"}}}}
MORE: dict[Value, dict[str, Any]] = {
    (("split", "by"), "site"): WARD,
    (("split", "by"), "time"): {"data": {"columns": {"seen": {"role": "time", "type": "date"}}}},
    (("split", "by"), "column"): {"data": {"columns": {"part": {"role": "split", "type": "text"}}}},
    (("split", "by"), "files"): {"data": {"test_path": "later.csv"}},
    (("split", "whole_sites"), True): {**WARD, "split": {"by": "cross_validation"}},
    (("split", "shared_groups"), "error"): {"data": {"columns": {"family": {"role": "group", "type": "text"}}}},
    (("split", "shared_groups"), "unused"): {"data": {"columns": {"family": {"role": "group", "type": "text"}}}},
    (("serialize", "interpret"), True): {"data": {"columns": {"sbp": {"reference": [90, 119]}}}},
    (("serialize", "style"), "template"): {"serialize": {"template": "{{ age }}"}},
    (("model", "family"), "encoder"): {"task": {"head": "classifier"}, "models": ["tuned"]},
    (("model", "dtype"), "float16"): {"models": ["zero_shot"]},
    (("method", "kind"), "full"): {"method": {"quantization": "none"}},
    (("data", "format"), "ukb"): {"data": {"path": "export"}},
    (("data", "ukb", "censored"), "ipcw"): {"data": {"format": "ukb"}},
    (("data", "ukb", "censored"), "exclude"): {"data": {"format": "ukb"}},
    (("data", "ukb", "other_deaths"), "no_event"): {"data": {"format": "ukb", "ukb": {"censored": "ipcw"}}},
    (("data", "ukb", "other_deaths"), "censored"): {"data": {"format": "ukb", "ukb": {"censored": "ipcw"}}},
    (("evaluation", "thresholds", "rule"), "sensitivity"): {"evaluation": {"thresholds": {"at": 0.9}}},
    (("evaluation", "thresholds", "rule"), "net_benefit"): {"evaluation": {"thresholds": {"at": 0.1}}},
    (("data", "columns", "role"), "group"): {"data": {"columns": {"extra": {"type": "text"}}}},
}
"""What a value needs beside it, to be a config at all or to be told."""
REFUSED: set[Value] = {
    (("data", "columns", "role"), "target"),  # a second one
    (("data", "columns", "role"), "split"),  # goes with split.by: column, which is sent through
    (("data", "columns", "role"), "id"),  # a second one
    (("split", "by"), "table"),  # of several tables
}
"""Values that no config takes in that place."""
NOT_TOLD = {
    ("data", "columns", "day_first"),  # told by `init` and the log, as the next
    ("data", "columns", "decimal"),
    ("data", "columns", "derive", "bp_rule"),
    ("data", "columns", "derive", "function"),
    ("data", "ukb", "censored"),  # told by the weights in metrics.json
    ("deepspeed", "offload_optimizer"),
    ("deepspeed", "offload_weights"),
    ("evaluation", "bootstrap_method"),  # told by metrics.json, as everything of an interval
    ("evaluation", "keep_row_ids"),
    ("evaluation", "parts"),
    ("imbalance", "oversample", "label"),
    ("model", "allow_download"),
    ("model", "attention"),
    ("model", "dtype"),  # told by what training computed in
    ("model", "score_dtype"),
    ("method", "target_modules"),
    ("split", "shared_groups"),  # told where rows are unused for it
    ("train", "gradient_checkpointing"),
    ("trackers",),
    ("use",),
    ("split", "shared_patients"),  # told by the audit, where patients are shared
}
"""Settings whose values report, checklists and card do not tell apart, the settings at their end
left aside."""


PARTLY_TOLD = {("data", "columns", "role"), ("data", "columns", "meaning")}
"""Of their values some are told."""


def walk(
    kind: type[Settings], above: tuple[str, ...] = (), seen: set[type[Settings]] | None = None
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Path -> values of every setting below that has a list of them, truth values and "none" where
    it may be left out; of settings that stand in several places, in the first."""
    seen = set() if seen is None else seen
    seen.add(kind)
    for name, field in kind.model_fields.items():
        values, below = choices(field.annotation)
        for settings in below:
            if settings not in seen:
                yield from walk(settings, (*above, name), seen)
        if values:
            yield (*above, name), values


def choices(annotation: Any) -> tuple[list[Any], list[type[Settings]]]:
    """The values that an annotation lists, and the settings classes in it."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [], [annotation]
    if annotation is bool:
        return [False, True], []
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(arguments), []
    if origin in (list, dict, tuple, typing.Union, types.UnionType, typing.Annotated):
        found = [choices(argument) for argument in arguments]
        return [v for values, _ in found for v in values], [kind for _, kinds in found for kind in kinds]
    return [], []


SETTINGS = dict(walk(Config))
VALUES = [(path, value) for path, values in SETTINGS.items() for value in values]


def test_the_walk_finds_settings_of_every_depth() -> None:
    assert SETTINGS["serialize", "order"] == ["dictionary", "by_cardinality", "by_sharing"]
    assert SETTINGS["method", "dora"] == [False, True]
    assert SETTINGS["trackers",] == ["mlflow", "wandb"]
    assert SETTINGS["imbalance", "class_weights"] == ["none", "balanced"]
    assert SETTINGS["evaluation", "thresholds", "rule"] == ["sensitivity", "youden", "net_benefit"]
    assert SETTINGS["data", "columns", "derive", "function"][0] == "bmi"
    assert set(SETTINGS["models",]) == set(COMPARATORS)
    assert len(VALUES) > 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> RunFolder:
    """A finished run of the tuned model beside others."""
    file = write_toy_experiment(tmp_path_factory.mktemp("words"), toy_model)
    wanted = "models=[tuned,zero_shot,few_shot,embedding,tfidf,lightgbm,logistic_regression,stacked,prevalence]"
    return stages.run(load_config(file, [wanted, "train.max_steps=2", "method.r=4"]))


@pytest.fixture(scope="module")
def record(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Record:
    some = ("tuned", "zero_shot", "few_shot", "embedding", "tfidf", "lightgbm", "score2")
    return read_record(with_models(run, tmp_path_factory.mktemp("some") / "toy", some))


def merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def config_with(config: Config, path: tuple[str, ...], value: Any) -> Config:
    """The run's config with this value in this place, and what it needs."""
    *above, name = path
    tree: Any = value
    if path == ("use",):
        tree = {value: "some"}
    elif path in (("trackers",), ("models",)):
        tree = [value]
    elif path == ("evaluation", "parts"):
        tree = list(dict.fromkeys([value, "test"]))
    if path == ("data", "columns", "role"):
        kind = {"role": value} if value != "feature" else {"role": value, "type": "numeric"}
        changed: Any = {"data": {"columns": {"extra": kind}}}
    elif path[:2] == ("data", "columns") and len(path) == 3:
        kind = {"decimal": {"type": "numeric"}, "day_first": {"type": "date"}}.get(name, {})
        changed = {"data": {"columns": {"extra": {**kind, name: value}}}}
        if name == "meaning":  # one column alone has it, and the types that fit are few
            others = {column: {"meaning": None} for column in config.data.columns}
            changed["data"]["columns"] |= others | {
                "extra": {"type": MEANINGS.get(value, ("numeric",))[0], name: value}
            }
    elif path[:3] == ("data", "columns", "derive"):
        derive = {"function": "pulse_pressure", "inputs": ["sbp", "age"], name: value}
        derive["inputs"] = ["sbp", "age"][: 1 if derive["function"] == "age_years_from_days" else 2]
        changed = {"data": {"columns": {"extra": {"derive": derive}}}}
    else:
        changed = {name: tree}
        for section in reversed(above):
            changed = {section: changed}
    changed = merged(changed, MORE.get((path, value), {}))
    rule = changed.get("evaluation", {}).get("thresholds")
    if rule:
        changed["evaluation"]["thresholds"] = [rule]
    return Config.model_validate(merged(config.model_dump(mode="json"), changed))


def with_settings(record: Record, config: Config) -> Record:
    """The record as a run with these settings would have left it: what of the settings is told by
    its files is in them."""
    manifest = copy.deepcopy(record.manifest)
    scored = record.scored["tuned"]
    method = config.evaluation.calibration
    calibration = record.calibration | {
        "method": method,
        "models": {"tuned": calibrate.fit(logit(scored.y_prob_raw), scored.y_true, method).as_json()},
    }
    fixed = thresholds.fix(config.thresholds, scored.y_true, scored.y_prob)
    judged = {
        model: [first, *(replace(first, name=threshold.name, value=threshold.value) for threshold in fixed)]
        for model, (first, *_) in record.part.thresholds.items()
    }
    manifest["training"] |= {"selected_on": config.train.select_on}
    if config.split.by == "files":
        manifest["data"]["test"] = {"file": "later.csv", "sha256": "0" * 64}
    part = replace(record.part, thresholds=judged)
    return replace(record, config=config, calibration=calibration, part=part, manifest=manifest)


def told(record: Record) -> str:
    """All that the three documents say."""
    return "\n".join([as_text(record), checklists.as_markdown(checklists.fill(record)), model_card.render(record)])


@pytest.mark.parametrize("path", SETTINGS, ids=".".join)
def test_every_value_has_its_words(record: Record, path: tuple[str, ...]) -> None:
    if path == ("models",):
        return  # below: other models leave other files
    if path == ("tables", "part"):
        return  # of several tables: those held out are named, as tests/test_pool.py sees
    said = {}
    for value in SETTINGS[path]:
        if (path, value) in REFUSED:
            with pytest.raises(ValueError, match=r"role|type|several tables"):
                config_with(record.config, path, value)
            continue
        text = told(with_settings(record, config_with(record.config, path, value)))
        for nothing in ("None", "nan", "..", " ,", "( )", "()", "by_", "_at"):
            assert nothing not in text.replace("...", ""), f"{path} = {value}: {nothing}"
        said[value] = text
    if path in NOT_TOLD:
        assert len(set(said.values())) == 1, "it is told; take it off the list"
    elif path in PARTLY_TOLD:
        assert 1 < len(set(said.values())) < len(said)
    else:
        assert len(set(said.values())) == len(said), f"{path}: its values read alike: give each its words"


def test_the_lists_of_exceptions_name_what_is_there() -> None:
    assert SETTINGS.keys() >= NOT_TOLD | PARTLY_TOLD
    assert set(MORE) | REFUSED <= set(VALUES)


def with_models(run: RunFolder, folder: Path, models: tuple[str, ...]) -> RunFolder:
    """A run folder with these comparators alone; those that the run has not have the risks of
    LightGBM."""
    other = RunFolder(folder)
    shutil.copytree(run.path, other.path, ignore=shutil.ignore_patterns("checkpoints", "logs", "adapter", "tokens"))
    tree = merged(json.loads(read_record(run).config.model_dump_json()), {"models": list(models), "name": folder.name})
    write_text(other.config, dump(Config.model_validate(tree)))
    rows = read_predictions(run)
    known = {row.model for row in rows}
    chosen = [
        replace(row, model=model)
        for model in models
        for row in rows
        if row.model == (model if model in known else "lightgbm")
    ]
    write_predictions(other.predictions, chosen)
    write_json(other.metrics, evaluate_predictions(chosen, 100, 0))
    found = json.loads(run.calibration.read_text())
    tuned = found["models"]["tuned"]
    score = {"method": "logistic", "intercept": 0.1, "slope": 0.9}
    found["models"] = {m: tuned if m == "tuned" else score for m in models if m in ("tuned", *PUBLISHED_SCORES)}
    write_json(other.calibration, found)
    manifest = run.read_manifest()
    costs = manifest["scoring"]
    manifest["scoring"] = {model: costs.get(model, costs["lightgbm"]) for model in models}
    if "free_generation" in models:
        judged = {"n": 60, "n_unparsable": 2, "share_unparsable": 0.03, "accuracy": 0.5, "accuracy_parsed": 0.51}
        manifest["free_generation"] = judged
    manifest.pop("files")  # they were of the other run
    if "tuned" not in models:
        manifest.pop("training")
        manifest["stages"].pop("train")
    write_json(other.manifest, manifest)
    return other


@pytest.mark.parametrize("models", [*((*COMPARATORS[model].needs, model) for model in ALL), ALL])
def test_every_comparator_alone_and_all_together(run: RunFolder, tmp_path: Path, models: tuple[str, ...]) -> None:
    other = with_models(run, tmp_path / "some", models)
    write_report(other)
    for name in ("report.md", "report.html", "checklists.md", "model_card.md"):
        text = (other.path / name).read_text()
        assert "{" not in text.split("All settings")[0].split("</style>")[-1], name
        assert "None" not in text.split("All settings")[0]


def test_the_thresholds_of_a_rule_and_of_a_value_are_told_apart(record: Record) -> None:
    rules = [Threshold(name="10 %", value=0.1), Threshold(name="mine", value=0.3), Threshold(rule="youden")]
    evaluation = record.config.evaluation.model_copy(update={"thresholds": rules})
    text = told(with_settings(record, record.config.model_copy(update={"evaluation": evaluation})))
    assert "10 % and mine: example thresholds, given in the settings" in text
    assert "Youden: the highest sensitivity + specificity on the validation part" in text
    assert "guideline" not in text


def test_a_guideline_is_named_only_for_the_outcome_that_it_is_for(record: Record) -> None:
    rules = [Threshold(name="7.5 %", value=0.075), Threshold(name="10 %", value=0.1), Threshold(value=0.2)]
    for ukb, guided in (({}, True), ({"horizon_years": 5}, False), ({"endpoint": "/my/dementia.yaml"}, False)):
        tree = merged(record.config.model_dump(mode="json"), {"data": {"format": "ukb", "ukb": ukb}})
        tree["evaluation"]["thresholds"] = [rule.model_dump() for rule in rules]
        text = told(with_settings(record, Config.model_validate(tree)))
        assert ("7.5 % (ACC/AHA 2019) and 10 % (NICE NG238): by a guideline for the 10-year risk" in text) == guided
        assert ("7.5 %, 10 % and 0.2: example thresholds" in text) != guided

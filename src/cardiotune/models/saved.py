"""Fitted classical models in the run folder, `classical/`: JSON of coefficients and encoding, for
trees also LightGBM's own text. Nothing there is code, and no pickle is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm as gbm
import numpy as np

from cardiotune.data.cohort import Cohort
from cardiotune.errors import ConfigError, ModelError
from cardiotune.files import delete_folder, read_json, write_json, write_text
from cardiotune.models.baselines import FITS, ClassicalModel, Prevalence
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.regression import Regression
from cardiotune.models.trees import Trees
from cardiotune.runs import RunFolder
from cardiotune.settings import Config

KINDS: dict[str, Any] = {"prevalence": Prevalence, "logistic regression": Regression}
"""What is written as JSON alone, by its `kind`."""


def write_models(run: RunFolder, models: Mapping[str, ClassicalModel]) -> None:
    """Keep these comparators' models, and no others, and record the files' hashes."""
    if run.classical.is_dir():
        delete_folder(run.classical)
    files = []
    for name, model in models.items():
        file = run.classical / f"{name}.json"
        write_json(file, {"schema_version": 1, **model.as_json()})
        files.append(file)
        if isinstance(model, Trees):
            write_text(_text_of(file), model.text)
            files.append(_text_of(file))
    run.record(*files)


def final_models(config: Config, cohort: Cohort) -> dict[str, ClassicalModel]:
    """Of a cross-validated run: what its classical comparators become on all rows, which is the
    model that the folds have judged the making of."""
    parts = np.full(cohort.frame.height, "train")
    rows = LabelledRows(cohort.frame, cohort.events, parts, config.data, config.seed)
    return {name: FITS[name](rows) for name in config.comparators if name in FITS}


def saved_models(run: RunFolder) -> list[str]:
    """The comparators whose models the run holds, in the order of their names."""
    return sorted(file.stem for file in run.classical.glob("*.json"))


def model_files(run: RunFolder, name: str) -> list[Path]:
    """The files of a comparator's model, if they are as the run recorded them."""
    file = run.classical / f"{name}.json"
    return [run.checked(own) for own in (file, _text_of(file)) if own.is_file()]


def check_saved(run: RunFolder, name: str) -> None:
    """ConfigError when the run has no saved model of this name."""
    if name not in (saved := saved_models(run)):
        raise ConfigError(
            f"--model {name}: not among the saved models of {run.path} ({', '.join(saved) or 'none'}); `cardiotune predict "
            f"{run.path}` saves those of its comparators that read columns"
        )


def read_model(run: RunFolder, name: str) -> ClassicalModel:
    """A comparator's model as it was saved. ConfigError when the run has none of this name,
    ModelError when it is not what was recorded."""
    file = run.classical / f"{name}.json"
    check_saved(run, name)
    content = read_json(run.checked(file))
    try:
        if content["kind"] in KINDS:
            model: ClassicalModel = KINDS[content["kind"]].from_json(content)
            return model
        trees = Trees.from_json(content, run.checked(_text_of(file)).read_text("utf-8"))
        trees.booster  # noqa: B018  # what LightGBM cannot read is told now
    except (KeyError, TypeError, ValueError, AttributeError, OSError, gbm.basic.LightGBMError):
        raise ModelError(
            f"{file}: does not hold a model of this program; make it anew with `cardiotune predict {run.path}`"
        ) from None
    return trees


def _text_of(file: Path) -> Path:
    return file.with_suffix(".txt")

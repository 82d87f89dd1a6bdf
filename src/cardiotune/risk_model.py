"""The Python API: a run's model as a scikit-learn classifier, fitted by the stages that the command
line runs."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from cardiotune import stages
from cardiotune.config import compose, load_config, run_name
from cardiotune.data.reading import Dataset
from cardiotune.data.schema import DEFAULT_CODES, code_reader
from cardiotune.data.table import cells_of
from cardiotune.deployment.scorer import TUNED, Array, Problem, RowScorer
from cardiotune.errors import ConfigError, DataError
from cardiotune.files import private
from cardiotune.settings import Column, Config
from cardiotune.training.machine import settings_kept

SMALLEST_TEST = 0.01
"""Share of the rows that a fit leaves to the test part, which nobody looks at: whoever calls it
holds out rows of their own."""


class RiskModel(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fine-tuned language model that predicts a yes/no outcome from patients' rows.

    `RiskModel.load(run)` opens a run folder or an export. `RiskModel(config).fit(X, y)` fine-tunes
    afresh on rows with the columns of the experiment's data dictionary; the outcome comes as `y`,
    of 0 and 1. Rows (`X`) are a polars or pandas frame, an Arrow table or a list of `{column:
    value}`.
    """

    classes_: NDArray[np.int_]
    scorer_: RowScorer
    """The loaded model; also what a server needs: schema, versions, thresholds."""

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | Config | None = None,
        overrides: Sequence[str] = (),
        out: str | Path | None = None,
        allow_unknown: bool = False,
    ) -> None:
        """`config`: an experiment, as file, shipped name, mapping or `Config`; `overrides`:
        `key.sub=value` on top.

        `out`: where the run folder of a fit stays. Default: a temporary folder that goes with the
        model. `allow_unknown`: rows of which a column holds mostly unknown codes or values out of
        range are scored, those values being taken as missing; otherwise they are a DataError.
        """
        self.config = config
        self.overrides = overrides
        self.out = out
        self.allow_unknown = allow_unknown

    @classmethod
    def load(
        cls,
        folder: str | Path,
        site: str | None = None,
        allow_unknown: bool = False,
        dataset: Dataset | None = None,
        model: str = TUNED,
    ) -> "RiskModel":
        """The model of a run folder or an export; `site` as `cardiotune recalibrate` named it,
        `dataset` and `model` as `cardiotune predict` takes them. Errors as `RowScorer.load`."""
        scorer = RowScorer.load(folder, site, dataset, model)
        loaded = cls(scorer.config, allow_unknown=allow_unknown)
        loaded._use(folder, scorer, site, dataset)
        return loaded

    def fit(self, X: Any, y: Any) -> "RiskModel":
        """Fine-tune on rows X, whose outcomes y are 0 and 1, (rows,). Part of them is held out as
        the experiment's split says, to choose the step and to calibrate.

        Raises ConfigError, DataError and ModelError as `cardiotune train` does.
        """
        cells, config = cells_of(X), self._experiment()
        target = str(config.data.name_of("target"))
        if self.out is not None and not (isinstance(self.out, str | Path) and str(self.out)):
            raise ConfigError("RiskModel: out is no folder's name; give a path, or leave it out for a temporary folder")
        outcome = _coded(y, config.data.columns[target], cells.height)
        kept = tempfile.TemporaryDirectory(prefix="cardiotune-")
        place = Path(os.path.abspath(self.out)) if self.out else Path(kept.name) / "run"
        # The rows lie on disk for as long as the fit takes, readable by their owner alone.
        with tempfile.TemporaryDirectory(prefix="cardiotune-") as closed, private(), settings_kept():
            table = Path(closed) / "table.parquet"
            cells.with_columns(pl.Series(target, outcome, pl.String)).write_parquet(table)
            run, prepared = stages.prepare(_to_fit(config, table, place, cells.height), place=place)
            stages.train(run, prepared)
            stages.predict(run, prepared)
            run.update_manifest(status="trained")
            scorer = RowScorer.load(place)
        self._kept = kept
        self.n_features_in_ = cells.width
        self.feature_names_in_ = np.array(cells.columns, dtype=object)
        self._use(place, scorer)
        return self

    def predict_proba(self, X: Any) -> Array:
        """(rows, 2) calibrated probabilities of no event and of the event, as `cardiotune predict`
        gives them."""
        return self._scorer.predict_proba(X)

    def predict(self, X: Any) -> NDArray[np.int_]:
        """(rows,) 1 where the risk is at or above the experiment's threshold, else 0."""
        return self._scorer.predict(X)

    def check_rows(self, X: Any) -> list[list[Problem]]:
        """What is wrong with each row's cells, without their values."""
        return self._scorer.check_rows(X)

    def __getstate__(self) -> dict[str, Any]:
        """Settings and the run folder's place: a pickle holds no weights, so the folder must stay
        where it is (`out`)."""
        if hasattr(self, "_kept") and self.out is None:
            raise ConfigError("RiskModel: its run folder is temporary; fit with out=FOLDER to pickle it")
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("scorer_", "_kept")}

    @property
    def _scorer(self) -> RowScorer:
        if not hasattr(self, "scorer_"):
            if not hasattr(self, "run_folder_"):
                raise NotFittedError("RiskModel: not fitted yet; call fit, or open a run with RiskModel.load")
            scorer = RowScorer.load(self.run_folder_, self.site_, self.dataset_, self.model_)
            self._use(self.run_folder_, scorer, self.site_, self.dataset_)
        self.scorer_.allow_unknown = self.allow_unknown
        return self.scorer_

    def _use(
        self, folder: str | Path, scorer: RowScorer, site: str | None = None, dataset: Dataset | None = None
    ) -> None:
        self.run_folder_, self.site_, self.dataset_ = Path(folder), site, dataset
        self.scorer_, self.classes_, self.model_ = scorer, scorer.classes_, scorer.model_name

    def _experiment(self) -> Config:
        overrides = list(self.overrides)
        if isinstance(self.config, str | Path):
            return load_config(self.config, overrides)
        if self.config is None:
            raise ConfigError(
                "RiskModel: config is missing; give an experiment to fit, or open a run with RiskModel.load"
            )
        if isinstance(self.config, Config):
            _check_one_table(self.config)
        tree = self.config.model_dump(mode="json") if isinstance(self.config, Config) else dict(self.config)
        return compose(tree, overrides, "config", Path())


def _coded(y: Any, target: Column, rows: int) -> list[str]:
    """Outcomes of 0 and 1 in the codes of the data dictionary."""
    outcome = np.asarray(y)
    if outcome.shape != (rows,) or not np.isin(outcome, (0, 1)).all():
        raise DataError(f"y: expected {rows} outcomes of 0 and 1, one for each row of X; came: shape {outcome.shape}")
    read = code_reader(target)
    positive = [read(code) for code in target.positive or ["1"]]
    event, other = positive[0], next(code for code in target.codes or DEFAULT_CODES if code not in positive)
    return [event if value else other for value in outcome.tolist()]


def _check_one_table(config: Config) -> None:
    if config.tables:
        raise ConfigError(
            "RiskModel: fits the rows of one table, and this experiment has several; use `cardiotune run`, then RiskModel.load"
        )


def _to_fit(config: Config, table: Path, place: Path, rows: int) -> Config:
    """The experiment on another table, with the tuned model alone."""
    _check_one_table(config)
    if config.data.format == "ukb":
        raise ConfigError(
            "RiskModel: an export of UK Biobank is more than its rows; use `cardiotune run`, then RiskModel.load"
        )
    tree = config.model_dump(mode="json")
    tree |= {"name": run_name(place.name), "runs_dir": str(place.parent), "models": ["tuned"], "use": {}}
    tree["data"] |= {"path": str(table), "test_path": None, "validation_path": None, "column_names": None}
    tree["data"] |= {"separator": None, "encoding": None}
    if tree["split"]["by"] in ("random", "files", "cross_validation"):
        of_folds = {"whole_sites": False, "repeat": None, "fold": None}
        tree["split"] |= {"by": "random", "test": max(SMALLEST_TEST, 4 / rows), **of_folds}
    return Config.model_validate(tree)

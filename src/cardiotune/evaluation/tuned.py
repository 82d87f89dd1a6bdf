"""A run's own model, from its folder: texts -> logits -> probabilities that mean what they say."""

import json
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardiotune.config import Config
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import serialize_rows
from cardiotune.data.tokens import TokenRows
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation import calibrate
from cardiotune.evaluation.predict import LanguageScorer
from cardiotune.runs import RunFolder, read_json
from cardiotune.training.loss import corrected
from cardiotune.training.weights import same_weights

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
PROBE_ROWS = 4
PROBE_SEED = 7


class TunedModel:
    """The run's model, or the weights that one of its checkpoints holds; loaded once, checked against its record."""

    def __init__(self, run: RunFolder, config: Config, order: list[str], saved: Path | None = None) -> None:
        """`order`: feature columns in the order of the run's text. ModelError when the model is not the one recorded."""
        self.run = run
        saved = saved or run.tuned_folder(config.method.kind)
        self.scorer = LanguageScorer(config, same_weights(run, config.model), saved)
        self.scorer.check(saved, probe_texts(config, order))
        self.odds_multiplier = float(run.read_manifest().get("training", {}).get("odds_multiplier", 1.0))

    def logits(self, texts: list[str] | TokenRows) -> Array:
        """(rows,) logits as the model gives them."""
        return self.scorer.logits(texts, what="scoring tuned")

    def corrected(self, logits: Array) -> Array:
        """(rows,) logits without what class weights and oversampling added."""
        return corrected(logits, self.odds_multiplier)

    def risks(self, texts: list[str]) -> Array:
        """(rows,) final probabilities, with the run's calibrator."""
        return calibrate.apply(read_calibrator(self.run), self.corrected(self.logits(texts)))


def fit_calibrator(config: Config, logits: Array, events: NDArray[np.int_]) -> calibrate.Calibrator:
    """The experiment's calibrator on held-out rows; none, said aloud, where they hold too few of an outcome."""
    try:
        return calibrate.fit(logits, events.astype(float), config.evaluation.calibration)
    except DataError as error:
        log.warning("%s; probabilities stay as they are", error)
        return {"method": "none"}


def read_calibrator(run: RunFolder) -> calibrate.Calibrator:
    """The calibrator of the run's model; none, said aloud, before the run was predicted."""
    if not run.calibration.is_file():
        log.warning("%s: not calibrated yet; `cardiotune predict %s` does that first", run.path, run.path)
        return {"method": "none"}
    found: calibrate.Calibrator = json.loads(run.calibration.read_text())["models"].get("tuned", {"method": "none"})
    return found


def read_site(run: RunFolder, site: str) -> calibrate.Calibrator:
    """The recalibration of this name; ConfigError when the run has none."""
    file = run.path / "sites" / f"{site}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in (run.path / "sites").glob("*.json"))) or "none"
        raise ConfigError(
            f"--site {site}: this run has been recalibrated for {known}; see `cardiotune recalibrate --help`"
        )
    return read_json(file)


def probe_texts(config: Config, order: list[str]) -> list[str]:
    """Texts of a fixed synthetic sample: the same for every process that opens the run."""
    return serialize_rows(synthetic_rows(config.data, PROBE_ROWS, PROBE_SEED), order, config.data, config.serialize)

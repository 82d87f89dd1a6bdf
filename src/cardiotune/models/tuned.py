"""A run's own model, from its folder: texts -> logits -> probabilities that mean what they say."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.prepare import Prepared, read_order
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import serialize_rows
from cardiotune.data.tokens import TokenRows
from cardiotune.data.views import written
from cardiotune.errors import ConfigError, DataError, ModelError
from cardiotune.files import HASHES, read_json
from cardiotune.models import calibrate
from cardiotune.models.language import LanguageScorer, probabilities
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training.checkpoint import PROBE, record_probe
from cardiotune.training.distributed import world
from cardiotune.training.loss import corrected
from cardiotune.training.weights import same_weights

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
PROBE_ROWS = 4
PROBE_SEED = 7


class TunedModel:
    """The run's model, or the weights that one of its checkpoints holds; loaded once, checked
    against its record."""

    def __init__(self, run: RunFolder, config: Config, order: list[str], saved: Path | None = None) -> None:
        """`order`: feature columns in the order of the run's text. ModelError when the model is not
        the one recorded."""
        self.run = run
        saved = saved or recorded_model(run, config)
        self.scorer = LanguageScorer(config, same_weights(run, config.model), saved)
        self.scorer.check(saved, probe_texts(config, order))
        self.odds_multiplier = odds_multiplier(run)

    def logits(self, texts: list[str] | TokenRows) -> Array:
        """(rows,) logits as the model gives them."""
        return self.scorer.logits(texts, what="scoring tuned")

    def mean_logits(self, views: Sequence[list[str]]) -> Array:
        """(rows,) means of the logits of the same rows, written in several ways."""
        return np.asarray(np.mean([self.logits(texts) for texts in views], axis=0))

    def corrected(self, logits: Array) -> Array:
        """(rows,) logits without what class weights and oversampling added."""
        return corrected(logits, self.odds_multiplier)

    def risks(self, texts: list[str]) -> Array:
        """(rows,) final probabilities, with the run's calibrator."""
        return calibrate.apply(read_calibrator(self.run), self.corrected(self.logits(texts)))

    def calibrated_anew(self, views: Sequence[list[str]], config: Config, prepared: Prepared) -> tuple[Array, Array]:
        """Final and raw probabilities of rows, written in several ways, with a calibrator of these
        weights' own, fitted on the validation part."""
        held, weights = prepared.rows("validation"), prepared.cohort.weights
        known = written(config, prepared, held)
        logits = self.mean_logits([[*one, *other] for one, other in zip(known, views, strict=True)])
        shifted = self.corrected(logits)
        calibrator = fit_calibrator(
            config, shifted[: len(held)], prepared.cohort.events[held], None if weights is None else weights[held]
        )
        final = calibrate.apply(calibrator, shifted[len(held) :])
        untouched = calibrator.method == "none" and np.array_equal(shifted, logits)
        return final, final if untouched else probabilities(logits[len(held) :])


def fit_calibrator(
    config: Config, logits: Array, events: NDArray[np.int_], weight: Array | None = None
) -> calibrate.Calibrator:
    """The experiment's calibrator on held-out rows; none, said aloud, where they hold too few of an
    outcome."""
    try:
        return calibrate.fit(logits, events.astype(float), config.evaluation.calibration, weight)
    except DataError as error:
        log.warning("%s; probabilities stay as they are", error)
        return calibrate.Calibrator()


def read_calibrator(run: RunFolder) -> calibrate.Calibrator:
    """The calibrator of the run's model; none, said aloud, before the run was predicted."""
    if not run.checked(run.calibration).is_file():
        log.warning("%s: not calibrated yet; `cardiotune predict %s` does that first", run.path, run.path)
        return calibrate.Calibrator()
    return tuned_calibrator(read_json(run.calibration), run.calibration)


def tuned_calibrator(calibration: dict[str, Any], file: object) -> calibrate.Calibrator:
    """The tuned model's, of the content of a `calibration.json`; ModelError when it is not
    sound."""
    models = calibration.get("models")
    return calibrate.from_json(models.get("tuned") if isinstance(models, dict) else None, file)


def recorded_model(run: RunFolder, config: Config) -> Path:
    """The folder of the run's own model, if it is the one that the run recorded; its files are for
    `verify` to check."""
    saved = run.tuned_folder(config.method.kind)
    for name in (HASHES, PROBE):
        run.checked(saved / name)
    return saved


def odds_multiplier(run: RunFolder) -> float:
    """What class weights and oversampling multiplied the odds by in training; ModelError when it
    cannot be."""
    found = run.read_manifest().get("training", {}).get("odds_multiplier", 1.0)
    if type(found) not in (int, float) or not 0 < found < np.inf:
        raise ModelError(f"{run.manifest}: training.odds_multiplier is no positive number; restore it")
    return float(found)


def read_site(run: RunFolder, site: str) -> calibrate.Calibrator:
    """The recalibration of this name; ConfigError when the run has none."""
    file = run.path / "sites" / f"{site}.json"
    if Path(site).name != site or not file.is_file():
        known = ", ".join(sorted(path.stem for path in (run.path / "sites").glob("*.json"))) or "none"
        raise ConfigError(
            f"--site {site}: this run has been recalibrated for {known}; see `cardiotune recalibrate --help`"
        )
    return calibrate.from_json(read_json(run.checked(file)), file)


def probe_texts(config: Config, order: list[str]) -> list[str]:
    """Texts of a fixed synthetic sample: the same for every process that opens the run."""
    data = config.text_data
    return serialize_rows(synthetic_rows(data, PROBE_ROWS, PROBE_SEED), order, data, config.serialize)


def record_saved_probe(folder: RunFolder, config: Config) -> None:
    """Reload what was saved, as prediction will, and keep how it scores the synthetic sample."""
    saved = folder.tuned_folder(config.method.kind)
    scorer = LanguageScorer(config, same_weights(folder, config.model), saved)
    logits = scorer.logits(probe_texts(config, read_order(folder)), what="checking")
    if world().rank == 0:
        record_probe(saved, logits, scorer.dtype)
        folder.record(saved / HASHES, saved / PROBE, folder.training)

"""A trained model that takes patients' rows as they stand in a table: of a run folder, or of an
export; the language model, or one of the classical ones beside it."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cardiotune import __version__
from cardiotune.config import load_resolved
from cardiotune.data import schema
from cardiotune.data.cohort import Tally, check_meant, check_present, needed_columns, plausible_rows, typed_rows
from cardiotune.data.prepare import read_order
from cardiotune.data.reading import Dataset, Reading, reading
from cardiotune.data.table import cells_of
from cardiotune.deployment.gguf import GgufModel
from cardiotune.deployment.onnx import OnnxModel
from cardiotune.deployment.record import ExportRecord, Format, is_export
from cardiotune.errors import ConfigError, DataError, RunError
from cardiotune.evaluation.explain import leave_one_field_out
from cardiotune.files import read_json, sha256
from cardiotune.models import calibrate
from cardiotune.models.baselines import ClassicalModel
from cardiotune.models.language import LanguageScorer, probabilities
from cardiotune.models.logistic import logit
from cardiotune.models.saved import model_files, read_model
from cardiotune.models.thresholds import NamedThreshold
from cardiotune.models.tuned import (
    TunedModel,
    probe_texts,
    read_calibrator,
    read_site,
    recorded_model,
    tuned_calibrator,
)
from cardiotune.runs import RunFolder
from cardiotune.settings import Column, Config, suggest
from cardiotune.training.checkpoint import check_probe, verify, version_of
from cardiotune.training.loss import corrected
from cardiotune.training.model import build_encoder
from cardiotune.training.scoring import all_finite
from cardiotune.training.weights import same_weights

Array = NDArray[np.float64]
TUNED, ZERO_SHOT = "tuned", "zero_shot"
TextModel = Callable[[list[str]], Array]
"""Patients' texts, n of them -> logits (n,), as the model gives them."""


def settings_of(folder: Path) -> Config:
    """The settings of a run folder or an export; ConfigError when it is neither."""
    if is_export(folder):
        return load_resolved(folder / "config.yaml")
    run = RunFolder(folder)
    run.read_manifest()
    return load_resolved(run.checked(run.config))


def reading_of(folder: Path, dataset: Dataset | None) -> Reading:
    """How a run folder or an export reads a table, before its model is loaded; errors as
    `reading`."""
    config = settings_of(folder)
    if is_export(folder):
        record = ExportRecord.read(folder)
        return reading(config, record.order, dataset, folder, record.trained)
    return reading(config, read_order(RunFolder(folder)), dataset, folder)


class Problem(NamedTuple):
    """What is wrong with one cell; it never holds the cell's value."""

    column: str
    kind: str
    """`missing`, `unreadable` (not of the column's type), `out_of_range`, or `unknown_category`."""
    expected: str
    """What may stand there, in words."""


class Scored(NamedTuple):
    """Probabilities of rows, (rows,) each."""

    final: Array
    raw: Array
    """As the model gives them, before class imbalance is taken out and they are calibrated."""


class Checked(NamedTuple):
    """Rows that were checked and scored, an entry each."""

    problems: list[list[Problem]]
    risks: Array
    abstains: NDArray[np.bool_]
    counts: pl.DataFrame
    """As `Reading.counts`."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done to a model's logits before they are a patient's risk."""

    calibration: dict[str, Any] = field(default_factory=dict)
    """As `calibration.json`; only `tuned` is read of it. Empty before the run was predicted, and of
    a base model."""
    odds_multiplier: float = 1.0
    """What class weights and oversampling multiplied the odds by in training."""
    site: calibrate.Calibrator | None = None
    """The recalibration for another site."""


class RowScorer:
    """Raw rows -> calibrated risks, the same that `cardiotune predict` writes. May be called from
    several threads.

    Rows are a polars or pandas frame, an Arrow table or a list of `{column: value}`, with the
    columns of `schema`; others are passed over. An implausible value counts as a missing one, as it
    does in `predict`; `check_rows` tells which they are. Methods raise DataError for absent
    columns, for cells that are not of their column's type and, but with `allow_unknown`, for a
    column of which most values are unknown codes or out of range; `check_rows` and
    `check_and_score` tell each instead.
    """

    classes_ = np.array([0, 1])
    """No event, event: the columns of `predict_proba`."""
    model_name = TUNED
    """The comparator whose risks these are."""
    allow_unknown = False
    """Score rows of which a column holds mostly unknown codes or values out of range, as missing
    ones."""

    def __init__(
        self,
        config: Config,
        read: Reading,
        model: TextModel,
        versions: dict[str, str],
        correction: Correction | None = None,
    ) -> None:
        """`read`: how rows become text. `versions`: of the run, its format and the model."""
        correction = correction or Correction()
        calibration, odds_multiplier, site = correction.calibration, correction.odds_multiplier, correction.site
        self.config = config.model_copy(update={"data": read.data, "tables": {}}) if read.other else config
        self.reading = read
        self.order = read.order
        self.calibrator = (
            tuned_calibrator(calibration, f"{config.name}: calibration") if calibration else calibrate.Calibrator()
        )
        fixed = calibration.get("thresholds", {}).get("tuned", [])
        self.thresholds = [NamedThreshold.from_json(entry) for entry in fixed]
        """The decision threshold and those by rule, fixed on the validation part."""
        self.fewest_columns = int(calibration.get("fewest_columns") or read.other)
        """Values of quantities that training had below which a row says too little; learned on the
        validation part where training texts vary."""
        self.odds_multiplier = odds_multiplier
        self.site = site
        adapted = site and site.as_json()
        changed = {"calibrator": self.calibrator.as_json(), "odds_multiplier": odds_multiplier, "site": adapted}
        self.versions = {
            "cardiotune": __version__,
            **versions,
            "calibrator": hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12],
        }
        """Of the program, the model (first digits of the sha256 of its weights' hashes) and the
        calibrator."""
        self._model = model
        self._lock = threading.RLock()  # the network's hooks hold the state of one pass

    @classmethod
    def load(
        cls, folder: str | Path, site: str | None = None, dataset: Dataset | None = None, model: str = TUNED
    ) -> "RowScorer":
        """Open a run folder or an export; `site` as `recalibrate` named it. `model`: `zero_shot`
        for a run's base model, or the name of a classical model that it has saved.

        `dataset`: another dictionary by which rows are read, as `--dataset` names it; a run of
        several tables needs one. Columns of it may then be absent. Raises ConfigError when the
        folder is neither, or has no such model, ModelError when the model does not score as it did
        when it was saved.
        """
        folder = Path(folder)
        if is_export(folder):
            if site or model != TUNED:
                raise ConfigError(
                    f"{folder}: an export holds the tuned model alone, and no sites; ask its run for others"
                )
            return cls.open_export(folder, dataset=dataset)
        run = RunFolder(folder)
        run.read_manifest()  # ConfigError when it is no run folder
        config, order = load_resolved(run.checked(run.config)), read_order(run)
        if model not in (TUNED, ZERO_SHOT):
            return ClassicalScorer.open(run, config, order, model, site, dataset)
        read = reading(config, order, dataset, folder)
        adapted = read_site(run, site) if site else None
        versions = {"run": config.name, "format": "run"}
        if model == ZERO_SHOT:
            base = LanguageScorer(config, same_weights(run, config.model), None)
            scorer = cls(config, read, base.logits, {**versions, "model": "base"})
            scorer.model_name = ZERO_SHOT
            return scorer
        read_calibrator(run)  # refused, if damaged, before the weights are loaded; says so when the run has none yet
        calibration = read_json(run.calibration)
        own = TunedModel(run, config, order)
        versions["model"] = version_of(recorded_model(run, config))
        return cls(config, read, own.logits, versions, Correction(calibration, own.odds_multiplier, adapted))

    @classmethod
    def open_export(cls, folder: Path, verified: bool = True, dataset: Dataset | None = None) -> "RowScorer":
        """Open an export; `verified` checks its files' hashes and how it scores the recorded
        sample, as `load` does."""
        if verified:
            verify(folder)
        record, config = ExportRecord.read(folder), load_resolved(folder / "config.yaml")
        read = reading(config, record.order, dataset, folder, record.trained)
        model = _exported_model(folder, record.format, config)
        if verified:
            exact = torch.float32 if record.format != "gguf" else torch.float16
            check_probe(folder, model(probe_texts(config, record.order)), exact)
        versions = {**record.versions, "format": record.kind}
        calibration = read_json(folder / "calibration.json")
        return cls(config, read, model, versions, Correction(calibration, record.odds_multiplier))

    # ----------------------------------------------------------------------------------------------
    # raw rows

    def risks(self, rows: Any) -> Array:
        """(rows,) final probabilities of the event."""
        return self.score(self._typed(rows)).final

    def logits(self, rows: Any) -> Array:
        """(rows,) logits as the model gives them, before calibration."""
        return self._logits(self._typed(rows))

    def predict_proba(self, rows: Any) -> Array:
        """(rows, 2) probabilities of no event and of the event."""
        risks = self.risks(rows)
        return np.column_stack([1 - risks, risks])

    def predict(self, rows: Any) -> NDArray[np.int_]:
        """(rows,) 1 where the risk is at or above `threshold`, else 0."""
        return (self.risks(rows) >= self.threshold).astype(int)

    def leave_one_field_out(self, row: Any) -> dict[str, Any]:
        """What one patient's risk rests on, as `explain.leave_one_field_out` gives it; for one
        row."""
        data = self.config.data
        if data.name_of("text"):
            raise DataError("leave_one_field_out: the patients' texts come ready made, so no field can be left out")
        return self.explained(self._typed(row))

    def explained(self, frame: pl.DataFrame) -> dict[str, Any]:
        """`leave_one_field_out` of one row that is typed."""
        data = self.reading.narrowed("row", frame.columns)

        def risk_of(rows: pl.DataFrame) -> Array:
            return self.score(rows).final

        return leave_one_field_out(risk_of, frame, data).as_json()

    def check_rows(self, rows: Any) -> list[list[Problem]]:
        """For each row, what is wrong with its cells: an empty list where nothing is. No value is
        repeated.

        DataError when a column is absent, or a list of `{column: value}` has a key that the
        dictionary does not know.
        """
        return self._checked(self._cells(rows))[0]

    def check_and_score(self, rows: Any) -> "Checked":
        """`check_rows` and `risks` of the same rows, whose cells are read once."""
        cells = self._cells(rows)
        problems, frame = self._checked(cells)
        if any(problem.kind == "unreadable" for found in problems for problem in found):
            typed_rows("rows", cells, self.reading.narrowed("rows", cells.columns))  # raises, as in `risks`
        return Checked(problems, self.score(frame).final, self.abstains(frame), self.reading.counts(frame))

    def _checked(self, cells: pl.DataFrame) -> tuple[list[list[Problem]], pl.DataFrame]:
        """What is wrong with each row, and the rows typed, without the cells that cannot be
        read."""
        data = self.reading.narrowed("rows", cells.columns)
        found: list[list[Problem]] = [[] for _ in range(cells.height)]
        typed = []
        names = check_present("rows", cells.columns, data)
        writings = schema.writings(cells.select(names), data.columns)
        for name in names:
            column = data.columns[name]
            text, values = schema.texts_and_values(cells[name], column, writings[name])
            typed.append(values)
            missing = text.is_null()
            for kind, rows_of in (("unreadable", values.is_null() & ~missing), ("missing", missing)):
                for row in rows_of.arg_true():
                    found[row].append(Problem(name, kind, schema.expected(column)))
        frame, blanked = plausible_rows(typed, data)
        for name, outside in blanked.items():
            column = data.columns[name]
            kind = "unknown_category" if schema.codes_of(column) else "out_of_range"
            for row in outside:
                found[row].append(Problem(name, kind, schema.expected(column)))
        return found, frame

    # ----------------------------------------------------------------------------------------------
    # rows that are typed

    def score(self, frame: pl.DataFrame) -> Scored:
        """Probabilities of rows with the dictionary's columns, typed."""
        logits = self._logits(frame)
        return Scored(self._calibrated(logits), probabilities(logits))

    def abstains(self, frame: pl.DataFrame) -> NDArray[np.bool_]:
        """(rows,) whether a row tells too little of what training had: fewer than
        `fewest_columns` values. Never of ready texts."""
        if self.config.data.name_of("text"):
            return np.zeros(frame.height, bool)
        return self.reading.counts(frame)["columns_known"].to_numpy() < self.fewest_columns

    def text_logits(self, texts: list[str]) -> Array:
        """(texts,) logits of patients' texts, as the model gives them. One call at a time is
        computed.

        Raises ModelError where one is not finite, RunError when the memory is too small for them.
        """
        try:
            with self._lock:
                return all_finite(self._model(texts), self.config.name)
        except (MemoryError, torch.OutOfMemoryError):
            raise RunError(
                f"{self.config.name}: out of memory while scoring {len(texts)} rows; send fewer at a time"
            ) from None

    def _calibrated(self, logits: Array) -> Array:
        risks = calibrate.apply(self.calibrator, corrected(logits, self.odds_multiplier))
        return calibrate.apply(self.site, logit(risks)) if self.site else risks

    def _logits(self, frame: pl.DataFrame) -> Array:
        """(rows,) means over the ways in which rows are written."""
        return np.asarray(np.mean([self.text_logits(texts) for texts in self.reading.written(frame)], axis=0))

    def _typed(self, rows: Any) -> pl.DataFrame:
        cells = self._cells(rows)
        data = self.reading.narrowed("rows", cells.columns)
        frame, blanked = typed_rows("rows", cells, data)
        if not self.allow_unknown:
            tally = Tally()
            tally.add(frame, blanked)
            check_meant("rows", tally.present, tally.outside, data)
        return frame

    def _cells(self, rows: Any) -> pl.DataFrame:
        """Text cells. In rows of `{column: value}` an absent key is an empty cell, but one that
        nobody knows is an error."""
        cells = cells_of(rows)
        if isinstance(rows, list | tuple):
            columns = self.config.data.columns
            needed = needed_columns(self.config.data, target_needed=False)
            if strange := [name for name in cells.columns if name not in columns]:
                near = suggest(strange[0], needed)  # names of the dictionary, not what came
                raise DataError(f"rows: {len(strange)} keys that the data dictionary does not know; {near}")
            absent = [pl.lit(None, pl.String).alias(name) for name in needed if name not in cells.columns]
            # A row without any key still is a row.
            cells = cells.with_columns(absent) if cells.width else pl.DataFrame({n: [None] * len(rows) for n in needed})
        return cells

    # ----------------------------------------------------------------------------------------------
    # what is known about them

    @property
    def threshold(self) -> float:
        """Risk at and above which `predict` gives 1."""
        return self.config.task.flagged_at

    @cached_property
    def schema(self) -> list[dict[str, Any]]:
        """The data dictionary of a row, in its order: `{column, type, unit, range, categories,
        description}`.

        `range`: [lowest, highest] plausible value; `categories`: code -> meaning. Null where a
        column has none. What is derived is not asked for.
        """
        return [_described(name, self.config.data.columns[name]) for name in needed_columns(self.config.data, False)]


class ClassicalScorer(RowScorer):
    """Raw rows -> risks by a classical model of a run, as its `predictions.jsonl` has them."""

    def __init__(self, config: Config, read: Reading, name: str, model: ClassicalModel, run: RunFolder) -> None:
        """`name`: of the comparator; its thresholds are those that the run fixed."""
        files = [sha256(file) for file in model_files(run, name)]
        version = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]
        super().__init__(config, read, _reads_no_text, {"run": config.name, "format": "run", "model": version})
        self.model_name, self._classical = name, model
        fixed = read_json(run.checked(run.calibration)).get("thresholds", {}).get(name, [])
        self.thresholds = [NamedThreshold.from_json(entry) for entry in fixed]

    @classmethod
    def open(  # what `RowScorer.load` was asked, and the run that it has opened
        cls, run: RunFolder, config: Config, order: list[str], name: str, site: str | None, dataset: Dataset | None
    ) -> "ClassicalScorer":
        """A model of this run, for rows of its own columns."""
        if site or dataset or config.tables:
            what = "--site" if site else "--dataset" if dataset else "a run of several tables"
            raise ConfigError(f"--model {name}: a classical model reads its own columns and does not go with {what}")
        model = read_model(run, name)
        return cls(config, reading(config, order, None, run.path), name, model, run)

    def score(self, frame: pl.DataFrame) -> Scored:
        """Probabilities of rows with the dictionary's columns, typed; nothing lies between raw and
        final."""
        risks = calibrate.in_range(self._classical.risks(frame), self.model_name)
        return Scored(risks, risks)

    def logits(self, rows: Any) -> Array:
        """(rows,) log-odds."""
        return logit(self.risks(rows))


def _reads_no_text(texts: list[str]) -> Array:
    raise ConfigError("a classical model reads columns, no texts")


def _exported_model(folder: Path, kind: Format, config: Config) -> TextModel:
    """The model in an export, by the library that its format is for."""
    if kind == "merged":
        return LanguageScorer(config, folder, folder, foreign=True).logits
    encoder = build_encoder(config, folder)
    model: OnnxModel | GgufModel
    if kind == "onnx":
        budget = config.evaluation.score_batch_tokens
        model = OnnxModel(folder, encoder.pad_id, budget, config.train.threads)
    else:
        labels = encoder.label_tokens(config.task.positive_label, config.task.negative_label)
        model = GgufModel(folder, labels, config.serialize.max_tokens, config.train.threads)
    return lambda texts: model.logits(encoder.prompts(texts))


def _described(name: str, column: Column) -> dict[str, Any]:
    label = schema.label(name, column)
    return {
        "column": name,
        "type": column.type,
        "unit": column.unit,
        "range": list(column.range) if column.range else None,
        "categories": dict(schema.codes_of(column)) or None,
        "description": " ".join(label.replace("{value}", "...").split()),
    }

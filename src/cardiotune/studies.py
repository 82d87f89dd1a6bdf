"""What is asked of a run once it is there: probes, explanations, learning curves, other weights,
other sites, exports."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune import runs
from cardiotune.config import dump
from cardiotune.data import roles
from cardiotune.data.cohort import EVENT, WEIGHT, place_of_id, place_of_number, read_rows
from cardiotune.data.prepare import read_order
from cardiotune.data.reading import Dataset, Read, Reading, reading
from cardiotune.data.serialize import column_order, serialize_rows
from cardiotune.data.small_counts import told, told_events
from cardiotune.data.table import locate
from cardiotune.data.views import written
from cardiotune.deployment import export as exporting
from cardiotune.deployment.bulk import Job, score_chunks
from cardiotune.deployment.record import Parity
from cardiotune.deployment.scorer import TUNED, RowScorer
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation import explain as explaining
from cardiotune.evaluation import probes
from cardiotune.evaluation.evaluate import Thresholds
from cardiotune.evaluation.explain import language_risk, leave_one_field_out
from cardiotune.evaluation.judge import judge, of_rows
from cardiotune.evaluation.recalibration import adapt
from cardiotune.files import named_after, plain_name, read_json, sha256, write_json
from cardiotune.models import calibrate
from cardiotune.models.baselines import FITS
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.language import LanguageScorer, probabilities
from cardiotune.models.predictions import Prediction, frame_rows, outcomes, rows_to_tell, write_predictions
from cardiotune.models.thresholds import settle
from cardiotune.models.tuned import TunedModel, recorded_model
from cardiotune.reopen import check_tuned, config_of, differs, open_run, reopen, tuned_model
from cardiotune.report import learning_curve as curve
from cardiotune.report import leave_out as leaving_out
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.stages import go_on, run
from cardiotune.training.checkpoint import own_checkpoint, version_of
from cardiotune.training.machine import set_up
from cardiotune.training.model import has_head
from cardiotune.training.weights import find_weights

log = logging.getLogger(__name__)


Array = NDArray[np.float64]
EVALUATION = "evaluation.json"
"""Beside the metrics of a checkpoint or an adapter: hashes of what was judged."""


@dataclass(frozen=True, slots=True)
class NewTable:
    """A table that is none of the run's, and how it is read."""

    path: str
    dataset: Dataset | None = None
    """As `RowScorer.load`."""
    allow_unknown: bool = False

    def read(self, by: Reading, keep_row_ids: bool = False) -> Read:
        """All its rows."""
        return by.rows(self.path, keep_row_ids, self.allow_unknown)

    def made_from(self, by: Reading) -> dict[str, str]:
        """Hashes of the table and, where one was given, of the dictionary."""
        table = {"table_sha256": sha256(locate(self.path, folder=by.data.format == "ukb"))}
        if not by.other:
            return table
        return {**table, "dataset_sha256": hashlib.sha256(by.data.model_dump_json().encode()).hexdigest()}

    @property
    def name(self) -> str:
        """For files about it: its own, and the dictionary's by which it is read."""
        read_as = f"-as-{plain_name(Path(self.dataset).stem)}" if isinstance(self.dataset, str | Path) else ""
        return named_after(self.path) + read_as


def evaluate_checkpoint(
    folder: RunFolder, checkpoint: Path, table: NewTable | None = None, overwrite: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Judge the weights of a checkpoint on the run's own parts, or on another table that has the
    outcome.

    Leaves `predictions.jsonl`, `metrics.json` and what they were made from (`evaluation.json`) in
    `evaluations/<checkpoint>[-<table>]/`; returns that folder and the metrics. What is there of
    another table of this name is replaced with `overwrite` alone.
    """
    config = config_of(folder)
    checkpoint = own_checkpoint(folder, config, checkpoint)
    by = reading(config, read_order(folder), table.dataset, folder.path) if table else None
    target = RunFolder(folder.path / "evaluations" / (checkpoint.name + (f"-{table.name}" if table else "")))
    of_table = table.made_from(by) if table and by else {"table_sha256": None}
    made_from = {"checkpoint": version_of(checkpoint), **of_table}
    otherwise = "give the table's file another name"
    runs.check_free(target.path, target.path / EVALUATION, made_from, overwrite, otherwise)
    _, prepared = reopen(folder, None)
    judged = config
    if table and by:
        read = table.read(by, config.evaluation.keep_row_ids)
        frame, judged = read.frame, _read_by(config, by, read)
        parts, views = ["test"] * frame.height, by.written(frame)
    else:
        rows, frame, told_parts = rows_to_tell(prepared, config.evaluation.parts)
        parts, views = list(told_parts), written(config, prepared, np.asarray(rows))
    set_up(config.train.threads)
    model = TunedModel(folder, config, prepared.order, checkpoint / "weights")
    final, raw = model.calibrated_anew(views, config, prepared)
    lines = frame_rows("tuned", frame, parts, final, raw, judged)
    return target.path, _leave_evaluation(judged, target, made_from, lines, frame)


def evaluate_table(folder: RunFolder, table: NewTable, overwrite: bool = False) -> tuple[Path, dict[str, Any]]:
    """Judge the run's model, as it is calibrated, on another table that has the outcome; all of its
    rows are the test part.

    Leaves `predictions.jsonl`, `metrics.json` and what they were made from (`evaluation.json`) in
    `evaluations/<table>[-as-<dataset>]/`; returns that folder and the metrics.
    """
    check_tuned(folder)
    config = config_of(folder)
    by = reading(config, read_order(folder), table.dataset, folder.path)
    target = RunFolder(folder.path / "evaluations" / table.name)
    model = version_of(recorded_model(folder, config))
    calibrator = hashlib.sha256(json.dumps(read_json(folder.checked(folder.calibration))).encode()).hexdigest()
    made_from = {"model": model, "calibration": calibrator, **table.made_from(by)}
    runs.check_free(target.path, target.path / EVALUATION, made_from, overwrite, "give the table's file another name")
    read = table.read(by, config.evaluation.keep_row_ids)
    if read.frame[EVENT].null_count() == read.frame.height:
        raise DataError(
            f"{table.path}: the outcome {by.data.name_of('target')} is known in no row; it is needed to judge"
        )
    set_up(config.train.threads)
    scorer = RowScorer.load(folder.path, dataset=table.dataset)
    found = scorer.score(read.frame)
    if few := int(scorer.abstains(read.frame).sum()) if by.other else 0:
        log.warning("%s: %s rows tell too little and are judged too; `predict` abstains on them", table.path, told(few))
    judged = _read_by(config, by, read)
    lines = frame_rows("tuned", read.frame, ["test"] * read.frame.height, found.final, found.raw, judged)
    thresholds = {"tuned": scorer.thresholds}
    return target.path, _leave_evaluation(judged, target, made_from, lines, read.frame, thresholds)


def _read_by(config: Config, by: Reading, read: Read) -> Config:
    """The settings by which rows of another table are judged: with its dictionary, whose columns
    the run's subgroups do not name."""
    if not by.other:
        return config
    subgroups = config.evaluation.model_copy(update={"subgroups": None})
    return config.model_copy(update={"data": read.data, "tables": {}, "evaluation": subgroups})


def _leave_evaluation(
    config: Config,
    target: RunFolder,
    made_from: dict[str, Any],
    lines: list[Prediction],
    frame: pl.DataFrame,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """Predictions, metrics and what they were made from, in a folder that then holds no others."""
    for file in (target.metrics, target.predictions):
        file.unlink(missing_ok=True)
    write_json(target.path / EVALUATION, made_from)
    write_predictions(target.predictions, lines)
    return judge(config, target, of_rows(config, frame), thresholds)


def evaluate_adapter(
    adapter: Path, config: Config, out: Path, allow_unknown: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Judge a PEFT adapter from elsewhere on a labelled table, all of which is taken as the test
    part.

    `config` says base model, task, and the table with its dictionary. Leaves `predictions.jsonl`,
    `metrics.json` and what they were made from (`evaluation.json`) in `out`; another evaluation
    there is replaced with `overwrite` alone. Its probabilities are as they are: what class weights
    or oversampling may have added cannot be known.
    """
    if RunFolder(out).manifest.is_file():
        raise ConfigError(f"--out {out}: is a run folder, which has results of its own; choose another")
    settings = hashlib.sha256(dump(config).encode()).hexdigest()
    made_from = {
        "adapter": sha256(adapter),
        "table_sha256": sha256(locate(config.data.path, folder=config.data.format == "ukb")),
        "settings": settings,
    }
    runs.check_free(out, out / EVALUATION, made_from, overwrite, "choose another with --out")
    head = "classifier" if has_head(adapter) else "label_tokens"
    config = config.model_copy(update={"task": config.task.model_copy(update={"head": head})})
    frame = read_rows(config.data.path, config.data, config.evaluation.keep_row_ids, allow_unknown).frame
    columns = roles.settle(config.data.columns, frame).columns  # by the values too, as a run learns it
    config = config.model_copy(update={"data": config.data.model_copy(update={"columns": columns})})
    set_up(config.train.threads)
    scorer = LanguageScorer(config, find_weights(config.model), adapter, foreign=True)
    texts = serialize_rows(frame, column_order(frame, config.data, config.serialize), config.data, config.serialize)
    risks = probabilities(scorer.logits(texts, what="scoring"))
    config = config.model_copy(update={"task": settle(config.task, *outcomes(frame)).task})  # of all there is
    lines = frame_rows("tuned", frame, ["test"] * frame.height, risks, risks, config)
    return _leave_evaluation(config, RunFolder(out), made_from, lines, frame)


def _one_table(folder: RunFolder, config: Config, otherwise: str = "") -> None:
    """ConfigError where a run has several tables: what is asked is of one dictionary's columns."""
    if config.tables:
        raise ConfigError(f"{folder.path}: was made of several tables, and this asks for the columns of one{otherwise}")


def probe(folder: RunFolder, rows: int) -> dict[str, Any]:
    """How the risks of `rows` test patients change when their text is written otherwise ->
    `probes.json`."""
    check_tuned(folder)
    _one_table(folder, config_of(folder))
    config, prepared = reopen(folder, None)
    set_up(config.train.threads)
    with folder.stage("probe"):
        model = tuned_model(folder, config, prepared.order)
        frame = prepared.cohort.frame[prepared.rows("test")]
        asked = probes.ProbeSettings(rows, seed=config.seed)
        found = probes.probe(model.risks, frame, prepared.order, config.data, config.serialize, asked).as_json()
        write_json(folder.probes, found)
        folder.record(folder.probes)
    return found


def explain(folder: RunFolder, rows: int) -> dict[str, Any]:
    """Which columns the tuned model and LightGBM use, on `rows` test patients ->
    `explanations.json`."""
    check_tuned(folder)
    _one_table(folder, config_of(folder), "; one patient's are told by explain --row")
    config, prepared = reopen(folder, None)
    cohort = prepared.cohort
    set_up(config.train.threads)
    with folder.stage("explain"):
        model = tuned_model(folder, config, prepared.order)
        models = {
            "tuned": explaining.language_risk(model.risks, prepared.order, config.data, config.serialize),
            "lightgbm": FITS["lightgbm"](
                LabelledRows(cohort.frame, cohort.events, prepared.parts, config.data, config.seed)
            ).risks,
        }
        asked = explaining.ExplainSettings(rows, seed=config.seed)
        found = explaining.explain(models, prepared, config.data, asked).as_json()
        write_json(folder.explanations, found)
        folder.record(folder.explanations)
    return found


def explain_row(folder: RunFolder, row: str, table: NewTable | None = None) -> dict[str, Any]:
    """One patient's risk by the tuned model and by it without each field, as `leave_one_field_out`.
    Nothing is written.

    row: the id of one of the run's own patients, as in `predictions.jsonl` or in the table's id
    column; with a `table`, the number of one of its rows from 1, as `score_table` counts them.
    """
    config = config_of(folder)
    if config.data.name_of("text"):
        raise ConfigError(f"{folder.path}: its patients' texts come ready made, so no field of theirs can be left out")
    check_tuned(folder)
    if table is None:
        _, prepared = reopen(folder, None)
        place = place_of_id(prepared.cohort.frame, row, config.data)
        if prepared.parts[place] == "train":
            log.warning("--row: this patient is in the training part, so the model has learned from the outcome")
        source = next(one for one in prepared.sources if place in one.rows)
        frame, order, data = source.frame, source.order, source.data
        place -= int(source.rows[0])
    else:
        by = reading(config, read_order(folder), table.dataset, folder.path)
        read = table.read(by)
        frame, order, data = read.frame, by.told(read.frame.columns), read.data
        place = place_of_number(frame, row, table.path)
    set_up(config.train.threads)
    risk_of = language_risk(tuned_model(folder, config, read_order(folder)).risks, order, data, config.serialize)
    return leave_one_field_out(risk_of, frame[place : place + 1], data).as_json()


def learn_curve(
    config: Config, sizes: list[Any], seeds: int, out: Path | None = None, overwrite: bool = False
) -> tuple[dict[str, Any], Path]:
    """The whole run at growing training sizes, several seeds each. Returns the curve and the folder
    that shows it.

    Its runs lie in `out`, by default in `<run folder>_learning_curve`, beside
    `learning_curve.json`, `.png` and `.md`. By default these are also left in `learning_curve/` of
    the experiment's own run, where its report finds them. The curve of another experiment in `out`
    is replaced with `overwrite` alone; its runs stay.
    """

    def run_one(one: Config) -> RunFolder:
        return run(one, overwrite=True)

    own = RunFolder(config.run_path)
    place = out or own.path.with_name(f"{config.name}_learning_curve")
    if place.is_file() or RunFolder(place).manifest.is_file():
        what = "file" if place.is_file() else "run folder"
        raise ConfigError(f"{place}: is a {what}; name a folder for the curve's own runs with --out")
    curve.check(sizes, range(seeds))
    sizes = curve.sizes_that_fit(config, sizes)
    found = curve.learning_curve(config, sizes, range(seeds), run_one, place, overwrite)
    curve.write(found, place)
    first = RunFolder(curve.variant(config, sizes[0], 0, place).run_path)
    given = out is None and curve.give(found, own, first)
    return found, own.path / curve.FOLDER if given else place


def leave_out(config: Config, overwrite: bool = False) -> tuple[dict[str, Any], Path]:
    """The whole run with every table in turn as the test part. Returns what `leave_out.json` holds
    and the folder of it and of the runs, `<run folder>_leave_out`.

    Finished runs of the same settings and tables are read; one that was stopped goes on. One of
    other settings or tables is refused before any is made, or replaced with `overwrite`.
    """
    place = config.run_path.with_name(f"{config.name}_leave_out")
    turns = leaving_out.turns(config, place)
    changed = {table: differs(one) for table, one in turns.items()}
    if (other := [table for table, what in changed.items() if what]) and not overwrite:
        what = changed[other[0]]
        raise ConfigError(
            f"{turns[other[0]].run_path}: made with other {what}; set them back, name the experiment otherwise with "
            "name=NAME, or replace what is there with --overwrite"
        )
    tables: dict[str, Any] = {}
    for table, one in turns.items():
        folder = RunFolder(one.run_path)
        if table in other or not folder.manifest.is_file():
            log.info("leaving out %s (%d of %d)", table, len(tables) + 1, len(turns))
            folder = run(one, overwrite=True)
        elif curve.finished(folder):
            log.info("%s: finished before, so it is read", folder.path)
        else:
            log.info("%s: was stopped, and goes on", folder.path)
            folder = go_on(one)
        tables[table] = leaving_out.judged(folder)
        found = leaving_out.pooled(tables)
        write_json(place / leaving_out.FILE, found)
    leaving_out.write(found, place)
    return found, place


def score_table(
    folder: RunFolder, table: str, keep_ids: bool, model: str = TUNED, site: str | None = None
) -> pl.DataFrame:
    """Risks for a new table from the run folder alone, a row each, in the table's order; `model` as
    `RowScorer.load`, `site` as `recalibrate` named it.

    Columns: row (1-based), row_id, y_prob, y_prob_raw, prediction, threshold, values_missing (how
    many of the row's values were missing or out of range).
    """
    return pl.concat(score_chunks(Job(folder.path, table, keep_ids, model, site)))


def export(
    path: Path, to: Any, out: Path, precision: Any = "f16", check: bool = False, overwrite: bool = False
) -> Parity:
    """The run's model in another format, in `out`; or, with `check`, an export that is there put
    through the gate again.

    What is in `out` of another model or in another format is replaced with `overwrite` alone.
    Returns the parity gate's numbers. Without the run's table they are of synthetic rows alone,
    which is said.
    """
    folder = open_run(path)
    check_tuned(folder)
    set_up(config_of(folder).train.threads)
    prepared = None
    try:
        prepared = reopen(folder, None)[1]
    except DataError as error:
        log.warning("parity is checked on synthetic rows alone: %s", error)
    if check:
        return exporting.check_again(folder, out, prepared)
    return exporting.export(folder, to, out, precision, prepared, overwrite)


def recalibrate(
    folder: RunFolder,
    table: NewTable,
    method: Any,
    site_name: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, dict[str, dict[str, float | None]]]:
    """Adapt the run's calibrated risks to a new site, whose table has the outcome.

    Leaves `sites/<name>.json`, which `score_table` applies; the name is by default the table's. A
    recalibration of this name by another table or method is replaced with `overwrite` alone.
    Returns that file, and log-loss, Brier score, calibration intercept and slope before and after;
    after is cross-fitted in ten folds, so no row judges itself.
    """
    check_tuned(folder)
    config = config_of(folder)
    if site_name and (plain := plain_name(site_name)) != site_name:
        raise ConfigError(
            f"--site {site_name}: expected letters, digits, dots, dashes and underscores, such as {plain}"
        )
    by = reading(config, read_order(folder), table.dataset, folder.path)
    file = folder.path / "sites" / f"{site_name or named_after(table.path)}.json"
    made_from = {"method": method, **table.made_from(by)}
    runs.check_free(file, file, made_from, overwrite, "choose another name with --site")
    frame = table.read(by).frame.filter(pl.col(EVENT).is_not_null())
    y_true = frame[EVENT].to_numpy().astype(float)
    weight = frame[WEIGHT].to_numpy() if WEIGHT in frame.columns else None
    fewest = int(min(y_true.sum(), (1 - y_true).sum()))
    needed = calibrate.MIN_OUTCOMES + 1  # a fold leaves one of them out
    if fewest < needed:
        raise DataError(
            f"{table.path}: {by.data.name_of('target')} is known in {frame.height} rows, {int(y_true.sum())} of them events; "
            f"recalibration needs the outcome, of {needed} events and {needed} non-events at least"
        )
    set_up(config.train.threads)
    before = RowScorer.load(folder.path, dataset=table.dataset).score(frame).final
    found = adapt(before, y_true, method, weight, config.seed)
    size = {"n": len(y_true), "n_events": told_events(len(y_true), int(y_true.sum()))}
    judged = {"before": found.before, "after": found.after}
    write_json(file, {**found.calibrator.as_json(), **made_from, **size, **judged})
    folder.record(file)
    return file, judged

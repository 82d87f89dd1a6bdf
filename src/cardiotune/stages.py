"""The whole way on one page: prepare -> train -> predict -> evaluate -> report.

Each stage reads the run folder and leaves its files there, so each can be run alone; `run` does
them in order. Patients' rows are read afresh from the table by every stage that needs them. What
the model reads of them is kept as token ids in `tokens/` of the run folder, for its owner alone.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import polars as pl

from cardiotune import runs
from cardiotune.audit import audit as auditing
from cardiotune.audit.audit import audit_prepared
from cardiotune.audit.findings import Finding, as_json, from_json, gravest_first
from cardiotune.audit.results import Results
from cardiotune.config import dump
from cardiotune.data import roles
from cardiotune.data.cache import keep_tokens
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.prepare import Prepared, read_prepared
from cardiotune.errors import ConfigError, DataError, InterruptedRunError
from cardiotune.evaluation.describe import describe_cohort
from cardiotune.evaluation.judge import judge, of_run
from cardiotune.files import atomic, private, read_json, write_json
from cardiotune.lineage import lineage
from cardiotune.models.folds import pooled, pooled_calibration, pooled_costs, turns
from cardiotune.models.predictions import frame_rows, outcomes, read_predictions, rows_to_tell, write_predictions
from cardiotune.models.prompts import encode_prompts
from cardiotune.models.risk_scores import check_inputs
from cardiotune.models.risks import CohortRisks
from cardiotune.models.saved import final_models, write_models
from cardiotune.models.teaching import targets
from cardiotune.models.thresholds import NamedThreshold
from cardiotune.models.thresholds import settle as settle_threshold
from cardiotune.models.tuned import record_saved_probe
from cardiotune.processes import current
from cardiotune.reopen import config_of, describe_files, differs, reopen
from cardiotune.report.report import write_report
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.training.distributed import check_meeting_place, join, launch, world
from cardiotune.training.machine import set_up
from cardiotune.training.start import fine_tune
from cardiotune.training.trunk import forget
from cardiotune.training.warm_start import check_start, find_start
from cardiotune.training.weights import base_model, find_weights

log = logging.getLogger(__name__)


def run(config: Config, overwrite: bool = False) -> RunFolder:
    """Every stage in order. The manifest says `finished` only when all of them did."""
    if config.in_folds:
        return _cross_validate(config, overwrite)
    folder, prepared = prepare(config, overwrite)
    with _failing(folder):
        audit(folder, prepared)
        if "tuned" in config.comparators:
            train(folder, prepared)
        predict(folder, prepared)
        evaluate(folder, prepared)
        audit_results(folder)
        report(folder)
    return folder


def _cross_validate(config: Config, overwrite: bool) -> RunFolder:
    """A run of every fold, each in a folder of its own below the experiment's; what they predict
    for their test parts is then judged together. A run that was stopped goes on: finished folds are
    read. The table is audited by the parts of the first fold."""
    folder, prepared = RunFolder(config.run_path), None
    if overwrite or not _begun(folder, config):
        folder, prepared = prepare(config, overwrite)
    with _failing(folder):
        folder.update_manifest(status="running")
        if not folder.audit.is_file():
            audit(folder, prepared)
        # One threshold for all folds: that of the parts of the first.
        found = turns(config.model_copy(update={"task": config_of(folder).task}))
        for number, turn in enumerate(found, start=1):
            log.info("%s (%d of %d)", turn.key, number, len(found))
            _run_fold(turn.config)
        predict(folder, prepared)
        evaluate(folder, prepared)
        audit_results(folder)
        report(folder)
    return folder


def _begun(folder: RunFolder, config: Config) -> bool:
    """Whether this experiment was begun on this table, and not finished."""
    if not folder.cohort.is_file() or folder.read_manifest().get("status") == "finished":
        return False
    return "prepare" in folder.read_manifest().get("stages", {}) and not differs(config)


def _run_fold(config: Config) -> None:
    """The run of one fold, as far as its predictions; one that was stopped goes on, one that is
    finished is left as it is."""
    folder, prepared = RunFolder(config.run_path), None
    same = _begun(folder, config)
    if folder.predictions.is_file() and folder.read_manifest().get("status") == "finished" and not differs(config):
        return
    resume = same and any(folder.checkpoints.glob("step-*"))
    if not resume:
        folder, prepared = prepare(config, overwrite=True)
    with _failing(folder):
        folder.update_manifest(status="running")
        if "tuned" in config.comparators:
            train(folder, prepared, resume)
        predict(folder, prepared)
    folder.update_manifest(status="finished")


def go_on(config: Config) -> RunFolder:
    """The run of this experiment, which was stopped: from its newest checkpoint where it has one,
    else from its start."""
    folder = RunFolder(config.run_path)
    if config.in_folds:
        return run(config)
    if not any(folder.checkpoints.glob("step-*")):
        return run(config, overwrite=True)
    with _failing(folder):
        folder.update_manifest(status="running")
        train(folder, resume=True)
        predict(folder)
        evaluate(folder)
        audit_results(folder)
        report(folder)
    return folder


@contextmanager
def _failing(folder: RunFolder) -> Iterator[None]:
    """Whatever ends the work before its time stands in the manifest."""
    try:
        yield
    except BaseException as error:
        folder.update_manifest(status="interrupted" if isinstance(error, InterruptedRunError) else "failed")
        raise


@private()
def prepare(config: Config, overwrite: bool = False, place: Path | None = None) -> tuple[RunFolder, Prepared]:
    """Table -> cohort, parts and texts. Nothing is written before table, weights and prompts have
    been found good.

    `place`: the run folder; by default the one that the config names.
    """
    begun = time.perf_counter()
    prepared = read_prepared(config)
    # With how the table writes numbers and dates, so that tables to be scored are read likewise,
    # and what its columns mean.
    train = prepared.cohort.frame.filter(pl.Series(prepared.parts == "train"))
    found = roles.settle(prepared.cohort.columns, train)
    check_inputs(prepared.cohort.frame, found.columns, config.comparators)
    weights = find_weights(config.model) if config.needs_llm else None
    start_from = _start(config, prepared, weights, place or config.run_path)
    tokens, encoded = encode_prompts(config, prepared, weights) if weights else (None, None)
    learned = config.data.model_copy(update={"columns": found.columns})
    tables = {source.name: source.data for source in prepared.sources if source.name}
    changed = {name: table.model_copy(update={"data": tables[name]}) for name, table in config.tables.items()}
    task, source = settle_threshold(config.task, *outcomes(train))
    resolved = config.model_copy(update={"data": learned, "tables": changed, "task": task})
    folder = runs.create(place or config.run_path, dump(resolved), overwrite)
    with _failing(folder), folder.stage("prepare", begun):
        if encoded is not None and weights:
            keep_tokens(folder, prepared.all_texts, encoded, weights)
        with atomic(folder.split) as temporary:
            ids = prepared.cohort.frame[ROW_ID]
            pl.DataFrame({"row_id": ids, "part": prepared.parts}).write_parquet(temporary)
        meanings = {meaning: meant.as_json() for meaning, meant in found.meanings.items()}
        further = {"column_order": prepared.order, "meanings": meanings, "tokens": tokens}
        shared = describe_cohort(folder, prepared, config.data, further)
        folder.update_manifest(data=describe_files(config), threshold={"from": source})
        folder.record(folder.split, folder.cohort, folder.table1)
        if weights:
            folder.update_manifest(base_model=base_model(config.model, weights))
        if start_from:
            folder.update_manifest(training={"start_from": start_from})
    for part, count in shared.parts.items():
        log.info("%s: %s rows, %s events", part, *("few or hidden" if c is None else c for c in count.values()))
    log.info("what the columns mean: %s", roles.meanings_in_words(found.meanings))
    for meaning in ("age", "sex"):
        if why := found.passed_over.get(meaning):
            log.warning("%s: %s", meaning, why)
    return folder, prepared


def _start(config: Config, prepared: Prepared, weights: Path | None, target: Path) -> dict[str, Any] | None:
    """What is recorded of the weights that training begins from, once they are found to fit; None
    where it begins afresh. ConfigError where they lie in `target`, which the run would replace."""
    if not (config.train.start_from and weights and "tuned" in config.comparators):
        return None
    start = find_start(config.train.start_from)
    if start.folder.resolve().is_relative_to(target.resolve()):
        raise ConfigError(
            f"train.start_from: {start.name} lies in the folder that this run would replace; give the run another name"
        )
    check_start(start, config, weights)
    return lineage(start, config, prepared)


@private()
def train(folder: RunFolder, prepared: Prepared | None = None, resume: bool = False) -> None:
    """Fine-tune, in as many processes as asked; leaves `adapter/` or `model/`, `checkpoints/`,
    `logs/`."""
    config = config_of(folder)
    if "tuned" not in config.comparators:
        raise ConfigError(f"{folder.path}: models does not hold tuned, so there is nothing to train")
    if config.in_folds:
        raise ConfigError(f"{folder.path}: is cross-validated; the models of its folds are trained by `cardiotune run`")
    process = current()
    if process.is_worker:
        check_meeting_place(process)
        set_up(config.train.threads)
        _, prepared = reopen(folder, None)
        fine_tune(folder, config, prepared, resume, targets(config, prepared))
        if not process.is_launched:
            record_saved_probe(folder, config)
        return
    with folder.stage("train"):
        if config.launch.processes > 1 or config.deepspeed:
            launch(config, ["train", str(folder.path), *(["--resume"] if resume else [])])
            set_up(config.train.threads)  # and not before: those that were launched have the memory
        else:
            set_up(config.train.threads)
            _, prepared = reopen(folder, prepared)
            fine_tune(folder, config, prepared, resume, targets(config, prepared))
        record_saved_probe(folder, config)


@private()
def predict(folder: RunFolder, prepared: Prepared | None = None) -> None:
    """Every comparator's risks for the parts in `evaluation.parts` -> `predictions.jsonl` and
    `calibration.json`."""
    config = config_of(folder)
    if config.in_folds:
        _pool(folder, prepared)
        return
    forget(folder)
    if config.needs_llm and config.launch.processes > 1 and not current().is_worker:
        launch(config, ["predict", str(folder.path)])
        return
    if config.needs_llm:
        set_up(config.train.threads)
    join(config)
    config, prepared = reopen(folder, prepared)
    cohort = CohortRisks(folder, config, prepared)
    with folder.stage("predict") if world().rank == 0 else nullcontext():
        risks = cohort.all()
    if world().rank == 0 and cohort.device and "device" not in folder.read_manifest():  # where nothing was trained
        folder.update_manifest(device=cohort.device)
    rows, frame, parts = rows_to_tell(prepared, config.evaluation.parts)
    lines = [
        line
        for name in config.comparators
        for line in frame_rows(name, frame, parts, risks[name].final[rows], risks[name].raw[rows], config)
    ]
    if world().rank == 0:
        write_predictions(folder.predictions, lines)
        write_json(folder.calibration, cohort.calibration())
        write_models(folder, cohort.classical)
        folder.record(folder.predictions, folder.calibration)


def _pool(folder: RunFolder, prepared: Prepared | None) -> None:
    """The test rows of every fold's predictions, as the experiment's own."""
    config, prepared = reopen(folder, prepared)
    found = turns(config)
    everyone = prepared.cohort.frame
    if prepared.censored:
        everyone = pl.concat([everyone, prepared.censored.frame])
    write_predictions(folder.predictions, pooled(found, everyone, config))
    write_json(folder.calibration, pooled_calibration(found))
    write_models(folder, final_models(config, prepared.cohort))
    folder.update_manifest(**pooled_costs(found))
    folder.record(folder.predictions, folder.calibration)


def evaluate(folder: RunFolder, prepared: Prepared | None = None) -> dict[str, Any]:
    """`predictions.jsonl` -> `metrics.json`, and its content. Subgroups need the table; without it
    they are left out."""
    config = config_of(folder)
    with folder.stage("evaluate"):
        table = None
        try:
            table = of_run(config, reopen(folder, prepared)[1])
        except DataError as error:
            log.warning("no subgroups, and nothing that judges times: %s", error)
        found = read_json(folder.checked(folder.calibration)).get("thresholds", {})
        fixed = {model: [NamedThreshold.from_json(entry) for entry in entries] for model, entries in found.items()}
        result = judge(config, folder, table, fixed)
    folder.record(folder.metrics)
    return result


def audit(folder: RunFolder, prepared: Prepared | None = None) -> list[Finding]:
    """Look for leaks in the table and its parts, before anything is trained -> `audit.json`, and
    its findings."""
    config, prepared = reopen(folder, prepared)
    with folder.stage("audit"):
        findings = audit_prepared(config, prepared)
        _keep_findings(folder, findings)
    _tell_leaks(findings)
    return findings


def audit_results(folder: RunFolder) -> list[Finding]:
    """Look for leaks in what a run has left, and add the findings to `audit.json`."""
    config = config_of(folder)
    new = auditing.audit_results(
        Results(
            read_predictions(folder),
            read_json(folder.checked(folder.metrics)),
            [data.columns for data in config.judged_data],
            config.evaluation.known_ceiling,
            calibration=read_json(folder.checked(folder.calibration)),
            tokens=read_json(folder.checked(folder.cohort)).get("tokens"),
        )
    )
    before = from_json(read_json(folder.checked(folder.audit)))
    findings = gravest_first([*(finding for finding in before if finding not in new), *gravest_first(new)])
    _keep_findings(folder, findings)
    _tell_leaks(new)
    return findings


def _keep_findings(folder: RunFolder, findings: list[Finding]) -> None:
    write_json(folder.audit, as_json(findings))
    folder.record(folder.audit)


def _tell_leaks(findings: list[Finding]) -> None:
    for finding in findings:
        if finding.severity == "leak":
            log.warning("LEAK: %s", finding.text)


def report(folder: RunFolder) -> Path:
    """`report.html` and `report.md`."""
    with folder.stage("report"):
        page = write_report(folder)
    folder.update_manifest(status="finished")
    return page

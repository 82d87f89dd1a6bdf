"""The whole way on one page: prepare -> train -> predict -> evaluate -> report.

Each stage reads the run folder and leaves its files there, so each can be run alone; `run` does them in order. Patients'
rows are read afresh from the table by every stage that needs them. What the model reads of them is kept as token ids in
`tokens/` of the run folder, for its owner alone.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cardiotune import runs
from cardiotune.config import dump, load_resolved
from cardiotune.data import roles
from cardiotune.data.cache import keep_tokens, run_tokens
from cardiotune.data.cohort import EVENT, ROW_ID, STATUS, TIME, WEIGHT, as_written, read_rows, read_unused
from cardiotune.data.prepare import Prepared, read_order, read_prepared
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows, shared_pieces, text_columns
from cardiotune.data.small_counts import HIDDEN, tell_each, tell_flow, tell_parts, told, told_events
from cardiotune.data.split import PARTS, Parts, cluster_numbers, counts, overlap
from cardiotune.data.table import locate
from cardiotune.data.tokens import TokenRows
from cardiotune.errors import ConfigError, DataError, InterruptedRunError, ModelError, PromptsTooLongError
from cardiotune.processes import current
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, DataConfig

if TYPE_CHECKING:
    from cardiotune.data.tokens import PromptEncoder
    from cardiotune.models.tuned import TunedModel

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
EVALUATION = "evaluation.json"
"""Beside the metrics of a checkpoint or an adapter: hashes of what was judged."""

# ---------------------------------------------------------------------------------------------------------------------
# the stages


def run(config: Config, overwrite: bool = False) -> RunFolder:
    """Every stage in order. The manifest says `finished` only when all of them did."""
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


@contextmanager
def _failing(folder: RunFolder) -> Iterator[None]:
    """Whatever ends the work before its time stands in the manifest."""
    try:
        yield
    except BaseException as error:
        folder.update_manifest(status="interrupted" if isinstance(error, InterruptedRunError) else "failed")
        raise


@runs.private()
def prepare(config: Config, overwrite: bool = False, place: Path | None = None) -> tuple[RunFolder, Prepared]:
    """Table -> cohort, parts and texts. Nothing is written before table, weights and prompts have been found good.

    `place`: the run folder; by default the one that the config names.
    """
    from cardiotune.evaluation.table1 import table1
    from cardiotune.models.risk_scores import check_inputs
    from cardiotune.training.weights import find_weights, origin, weights_hashes

    start = time.perf_counter()
    prepared = read_prepared(config)
    # With how the table writes numbers and dates, so that tables to be scored are read likewise, and what its columns mean.
    found = roles.settle(prepared.cohort.columns, prepared.cohort.frame.filter(pl.Series(prepared.parts == "train")))
    check_inputs(prepared.cohort.frame, found.columns, config.comparators)
    weights = find_weights(config.model) if config.needs_llm else None
    tokens, encoded = _encode(config, prepared, weights) if weights else (None, None)
    learned = config.data.model_copy(update={"columns": found.columns})
    folder = runs.create(place or config.run_path, dump(config.model_copy(update={"data": learned})), overwrite)
    with _failing(folder), folder.stage("prepare", start):
        if encoded is not None and weights:
            keep_tokens(folder, prepared.all_texts, encoded, weights)
        frame = prepared.cohort.frame
        with runs.atomic(folder.split) as temporary:
            pl.DataFrame({"row_id": frame[ROW_ID], "part": prepared.parts}).write_parquet(temporary)
        frame, events, parts = prepared.cohort.frame, prepared.cohort.events, prepared.parts
        described = table1(frame, events, parts, config.data)
        runs.write_json(folder.table1, described)
        exact = {
            "flow": prepared.cohort.flow,
            "notes": prepared.cohort.notes,
            "parts": counts(parts, events),
            "overlap": overlap(prepared.cohort, parts, prepared.texts, config.data),
        }
        runs.write_json(folder.exact_counts, exact)
        shareable = {
            **_told(exact, described),
            "column_order": prepared.order,
            "meanings": found.meanings,
            "tokens": tokens,
        }
        runs.write_json(folder.cohort, shareable)
        folder.update_manifest(data=_describe_files(config.data))
        folder.record(folder.split, folder.cohort, folder.table1)
        if weights:
            model = config.model
            named = {
                "name": model.name,
                "hub_id": model.hub_id,
                "license": model.license,
                **origin(model, weights),
            }
            folder.update_manifest(base_model={**named, "sha256": weights_hashes(weights)})
    for part, count in shareable["parts"].items():
        log.info("%s: %s rows, %s events", part, *("few or hidden" if c is None else c for c in count.values()))
    log.info("what the columns mean: %s", roles.told(found.meanings))
    for meaning in ("age", "sex"):
        if why := found.passed_over.get(meaning):
            log.warning("%s: %s", meaning, why)
    return folder, prepared


def _told(exact: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Exact counts of the cohort as they may leave the machine, beside Table 1.

    Where Table 1 hides how many lack a value because it would give a small count away, none of the larger ones is told.
    """
    hidden = any(row["missing"] == HIDDEN for row in described["columns"])
    notes = dict(exact["notes"])
    for name in ("missing", "values_out_of_range"):
        if name in notes:
            notes[name] = tell_each(notes[name], hidden)
    if equal := notes.get("equal_rows"):
        notes["equal_rows"] = {**equal, "rows": told(equal["rows"])}
    if ukb := notes.get("ukb"):
        listed = {**ukb["withdrawals"], "listed": told(ukb["withdrawals"]["listed"])}
        notes["ukb"] = {**ukb, "withdrawals": listed}
        if kinship := ukb["kinship"]:
            notes["ukb"]["kinship"] = {**kinship, "pairs": told(kinship["pairs"])}
    return {
        "flow": tell_flow(exact["flow"]),
        "notes": notes,
        "parts": tell_parts(exact["parts"]),
        "overlap": {kind: tell_each(found) for kind, found in exact["overlap"].items()},
    }


def _encode(config: Config, prepared: Prepared, weights: Path) -> tuple[dict[str, int], TokenRows]:
    """How long the prompts are, and they; raises when one is over the limit or the labels do not fit the tokenizer."""
    from cardiotune.models.risks import examples
    from cardiotune.training.model import build_encoder, score_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    score_dtype(config.model, device)  # refuses what this machine cannot score in
    encoder = build_encoder(config, weights)
    if config.model.family == "decoder" and {*config.comparators} & {
        "zero_shot",
        "few_shot",
        "free_generation",
        "embedding",
    }:
        encoder.label_tokens(config.task.positive_label, config.task.negative_label)
    rows = encoder.prompts(prepared.all_texts)
    if "few_shot" in config.comparators:
        shown = encoder.with_examples(examples(config, prepared))
        shown.prompts(prepared.all_texts if encoder.whole else rows)
    if "free_generation" in config.comparators:
        encoder.prompts(rows, room=config.task.max_new_tokens)
    if "tuned" in config.comparators:
        _check_probe_fits(config, prepared.order, encoder)
    facts = {
        "shortest": int(rows.lengths.min()),
        "median": int(np.median(rows.lengths)),
        "longest": int(rows.lengths.max()),
        "instruction_and_question": len(encoder.prefix) + len(encoder.suffix),
        "limit": config.serialize.max_tokens,
    }
    return facts, rows


def _check_probe_fits(config: Config, order: list[str], encoder: "PromptEncoder") -> None:
    """PromptsTooLongError when the synthetic sample, by which a saved model is known again, is too long for the model."""
    from cardiotune.models.tuned import probe_texts

    try:
        encoder.prompts(probe_texts(config, order))
    except PromptsTooLongError as error:
        raise PromptsTooLongError(f"the synthetic sample that a run is checked by: {error}") from None


@runs.private()
def train(folder: RunFolder, prepared: Prepared | None = None, resume: bool = False) -> None:
    """Fine-tune, in as many processes as asked; leaves `adapter/` or `model/`, `checkpoints/`, `logs/`."""
    from cardiotune.training.distributed import check_meeting_place, launch

    config = _config(folder)
    if "tuned" not in config.comparators:
        raise ConfigError(f"{folder.path}: models does not hold tuned, so there is nothing to train")
    process = current()
    if process.is_worker:
        check_meeting_place(process)
        _train_here(folder, None, resume)
        if not process.is_launched:
            _record_probe(folder, config)
        return
    with folder.stage("train"):
        if config.launch.processes > 1 or config.deepspeed:
            launch(config, ["train", str(folder.path), *(["--resume"] if resume else [])])
        else:
            _train_here(folder, prepared, resume)
        _record_probe(folder, config)


def _train_here(folder: RunFolder, prepared: Prepared | None, resume: bool) -> None:
    from cardiotune.training import model as building
    from cardiotune.training.distributed import join, world
    from cardiotune.training.loss import balance
    from cardiotune.training.packing import Rows
    from cardiotune.training.train import train as fine_tune
    from cardiotune.training.trunk import over_frozen_trunk
    from cardiotune.training.weights import same_weights

    config, prepared = _open(folder, prepared)
    weights = same_weights(folder, config.model)
    device = building.set_up(config.train.threads)
    join(config)
    dtype = building.train_dtype(config.model, device)
    encoder = building.build_encoder(config, weights)
    rows = {part: prepared.rows(part) for part in ("train", "validation")}
    tokens, weigh = run_tokens(folder, prepared.all_texts, encoder, weights), prepared.cohort.weights
    encoded = {
        part: Rows(tokens.take(r), prepared.cohort.events[r], weights=None if weigh is None else weigh[r])
        for part, r in rows.items()
    }
    balanced = balance(encoded["train"].events, config.imbalance, config.seed)
    if balanced.odds_multiplier != 1:
        both = config.imbalance.oversample and config.imbalance.class_weights != "none"
        tell = log.warning if both else log.info
        tell("class weights and oversampling multiply the odds by %.3g; predictions undo it", balanced.odds_multiplier)
    torch.manual_seed(config.seed)
    # Weights that train are float32 and compute in `dtype` under autocast; frozen ones are kept in `dtype`.
    kept = torch.float32 if config.method.kind == "full" else dtype
    network = building.build(building.load_base(weights, config, kept, device), config, encoder)
    log.info("training on %s in %s", device, str(dtype).removeprefix("torch."))
    pad_id = encoder.pad_id
    with over_frozen_trunk(network, encoded, config, folder, pad_id, dtype) as known:
        summary = fine_tune(
            network, known["train"], known["validation"], balanced, config, folder, pad_id, dtype, resume
        )
    if world()[0] == 0:
        folder.update_manifest(training=summary, device=str(device))


@runs.private()
def predict(folder: RunFolder, prepared: Prepared | None = None) -> None:
    """Every comparator's risks for the parts in `evaluation.parts` -> `predictions.jsonl` and `calibration.json`."""
    from cardiotune.models import language as scoring
    from cardiotune.models.risks import CohortRisks
    from cardiotune.training.distributed import join, launch, world
    from cardiotune.training.model import set_up
    from cardiotune.training.trunk import forget

    config = _config(folder)
    forget(folder)
    if config.needs_llm and config.launch.processes > 1 and not current().is_worker:
        launch(config, ["predict", str(folder.path)])
        return
    if config.needs_llm:
        set_up(config.train.threads)
    join(config)
    config, prepared = _open(folder, prepared)
    cohort = CohortRisks(folder, config, prepared)
    with folder.stage("predict") if world()[0] == 0 else nullcontext():
        risks = cohort.all()
    if world()[0] == 0 and cohort.device and "device" not in folder.read_manifest():  # where nothing was trained
        folder.update_manifest(device=cohort.device)
    rows, frame, parts = _rows_to_tell(prepared, config.evaluation.parts)
    ids, outcomes, clusters = frame[ROW_ID].to_list(), frame[EVENT].to_list(), cluster_numbers(frame, config.data)
    lines = [
        line
        for name in config.comparators
        for line in scoring.prediction_rows(
            name,
            ids,
            list(parts),
            outcomes,
            risks[name].final[rows],
            risks[name].raw[rows],
            config.task.threshold,
            _weights(frame),
            clusters,
        )
    ]
    if world()[0] == 0:
        scoring.write_predictions(folder.predictions, lines)
        runs.write_json(folder.calibration, cohort.calibration())
        folder.record(folder.predictions, folder.calibration)


def _rows_to_tell(prepared: Prepared, wanted: Sequence[str]) -> tuple[NDArray[np.int_], pl.DataFrame, Parts]:
    """Rows in these parts: their numbers, those of the censored behind all others; frame and parts of these rows."""
    frame, parts = prepared.cohort.frame, prepared.parts
    order = [prepared.rows(part) for part in PARTS if part in wanted]
    if others := prepared.censored:
        order.append(len(parts) + np.flatnonzero(np.isin(others.parts, wanted)))
        frame, parts = pl.concat([frame, others.frame]), np.concatenate([parts, others.parts])
    rows = np.concatenate(order)
    return rows, frame[rows], parts[rows]


def _weights(frame: pl.DataFrame) -> list[float | None] | None:
    """How much each row counts when it is judged; None when all count the same."""
    return frame[WEIGHT].to_list() if WEIGHT in frame.columns else None


def evaluate(folder: RunFolder, prepared: Prepared | None = None) -> dict[str, Any]:
    """`predictions.jsonl` -> `metrics.json`, and its content. Subgroups need the table; without it they are left out."""
    config = _config(folder)
    with folder.stage("evaluate"):
        frame = parts = censored = None
        try:
            prepared = _open(folder, prepared)[1]
            frame, parts, censored = prepared.cohort.frame, prepared.parts, prepared.cohort.censored
        except DataError as error:
            log.warning("no subgroups, and nothing that judges times: %s", error)
        fixed = runs.read_json(folder.checked(folder.calibration)).get("thresholds")
        result = _judge(config, folder, frame, fixed, parts, censored)
    folder.record(folder.metrics)
    return result


def _judge(
    config: Config,
    folder: RunFolder,
    frame: pl.DataFrame | None = None,
    thresholds: dict[str, Any] | None = None,
    parts: Parts | None = None,
    censored: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Metrics of the predictions in a folder, written beside them.

    `frame` tells the rows' subgroups, patients and follow-up; with its `parts`, subgroups are withheld with regard to Table 1
    too. `censored`: further rows, of unknown outcome. DataError when weights are asked for and the predictions have none.
    """
    from cardiotune.data.ukb.followup import horizon_days
    from cardiotune.evaluation.censoring import Followed
    from cardiotune.evaluation.evaluate import evaluate_predictions
    from cardiotune.evaluation.subgroups import subgroups
    from cardiotune.evaluation.table1 import told_beside
    from cardiotune.models.language import read_predictions

    settings = config.evaluation
    rows = read_predictions(folder)
    weighted = config.data.format == "ukb" and config.data.ukb.censored == "ipcw"
    if weighted and not all("weight" in row for row in rows):
        raise DataError(
            f"{folder.predictions}: without the weights of censoring; make it anew with `cardiotune predict`"
        )
    groups = clusters = followed = None
    told = []
    if frame is not None:
        groups = subgroups(frame, config.data, settings.subgroups, settings.age_bands)
        if parts is not None:
            told = told_beside(frame, frame[EVENT].to_numpy(), parts, config.data, settings.subgroups)
        patient = config.data.name_of("group")
        everyone = frame if censored is None else pl.concat([frame, censored])
        clusters = dict(zip(everyone[ROW_ID], everyone[patient].cast(pl.String), strict=True)) if patient else None
        if weighted:
            times = everyone.filter(pl.col(TIME).is_not_null()).select(ROW_ID, TIME, STATUS)
            followed = {row_id: Followed(time, status) for row_id, time, status in times.iter_rows()}
    result = evaluate_predictions(
        rows,
        settings.bootstrap,
        config.seed,
        settings.bootstrap_method == "stratified",
        thresholds=thresholds,
        subgroups=groups,
        clusters=clusters,
        told=told,
        followed=followed,
        horizon_days=horizon_days(config.data.ukb),
    )
    runs.write_json(folder.metrics, result)
    return result


def audit(folder: RunFolder, prepared: Prepared | None = None) -> list[dict[str, Any]]:
    """Look for leaks in the table and its parts, before anything is trained -> `audit.json`, and its findings."""
    config, prepared = _open(folder, prepared)
    with folder.stage("audit"):
        findings = audit_prepared(config, prepared)
        runs.write_json(folder.audit, {"findings": findings})
        folder.record(folder.audit)
    _tell_leaks(findings)
    return findings


def audit_prepared(config: Config, prepared: Prepared) -> list[dict[str, Any]]:
    """Findings of the audit of a table and its parts, the gravest first."""
    from cardiotune.audit.audit import as_json, audit_keys, audit_raw, audit_table

    frame, events = prepared.cohort.frame, prepared.cohort.events
    ceiling = config.evaluation.known_ceiling
    inside = audit_table(frame, events, prepared.parts, prepared.texts, config.data, config.seed, ceiling)
    # An export's raw cells are codes of many fields: only what was made of them can be judged.
    if config.data.format == "ukb":
        return as_json(inside)
    unused = read_unused(config.data, config.evaluation.keep_row_ids)
    keys = audit_keys(frame, prepared.parts, config.data, unused)
    return as_json([*audit_raw(config.data), *keys, *inside])


def audit_results(folder: RunFolder) -> list[dict[str, Any]]:
    """Look for leaks in what a run has left, and add the findings to `audit.json`."""
    from cardiotune.audit.audit import SEVERITIES, as_json, audit_predictions
    from cardiotune.models.language import read_predictions

    config = _config(folder)
    found = audit_predictions(
        read_predictions(folder),
        runs.read_json(folder.checked(folder.metrics)),
        config.data.columns,
        config.evaluation.known_ceiling,
        calibration=runs.read_json(folder.checked(folder.calibration)),
        tokens=runs.read_json(folder.checked(folder.cohort)).get("tokens"),
    )
    new = as_json(found)
    before = runs.read_json(folder.checked(folder.audit)).get("findings", [])
    known = [finding for finding in before if finding not in new]
    findings = sorted([*known, *new], key=lambda finding: SEVERITIES.index(finding["severity"]))
    runs.write_json(folder.audit, {"findings": findings})
    folder.record(folder.audit)
    _tell_leaks(new)
    return findings


def _tell_leaks(findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        if finding["severity"] == "leak":
            log.warning("LEAK: %s", finding["text"])


def evaluate_checkpoint(
    folder: RunFolder, checkpoint: Path, table: str | None = None, allow_unknown: bool = False, overwrite: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Judge the weights of a checkpoint on the run's own parts, or on another table that has the outcome.

    Leaves `predictions.jsonl`, `metrics.json` and what they were made from (`evaluation.json`) in
    `evaluations/<checkpoint>[-<table>]/`; returns that folder and the metrics. What is there of another table of this name is
    replaced with `overwrite` alone.
    """
    from cardiotune.models import calibrate
    from cardiotune.models import language as scoring
    from cardiotune.models.tuned import TunedModel, fit_calibrator
    from cardiotune.training.checkpoint import verify, version_of

    config = _config(folder)
    checkpoint = checkpoint if checkpoint.is_dir() else folder.path / checkpoint
    if not (checkpoint / "weights").is_dir():
        kept = ", ".join(sorted(f"checkpoints/{path.name}" for path in folder.checkpoints.glob("step-*")))
        raise ConfigError(f"{checkpoint}: not a checkpoint of this run; it keeps {kept or 'none'}")
    made_with = runs.read_json(checkpoint / "state.json").get("config", {})
    if made_with != config.model_dump(mode="json"):
        raise ConfigError(f"{checkpoint}: a checkpoint of another run ({made_with.get('name')})")
    verify(checkpoint, inside="weights/")
    name = checkpoint.name + (f"-{runs.named_after(table)}" if table else "")
    target = RunFolder(folder.path / "evaluations" / name)
    made_from = {"checkpoint": version_of(checkpoint), "table_sha256": _sha256_of(table, config.data)}
    otherwise = "give the table's file another name"
    runs.check_free(target.path, target.path / EVALUATION, made_from, overwrite, otherwise)
    _, prepared = _open(folder, None)
    held = prepared.rows("validation")  # its calibrator is this checkpoint's own
    if table is None:
        rows, cohort, told_parts = _rows_to_tell(prepared, config.evaluation.parts)
        parts, texts = list(told_parts), [prepared.all_texts[row] for row in rows]
    else:
        cohort = read_rows(table, config.data, config.evaluation.keep_row_ids, allow_unknown).frame
        parts, texts = ["test"] * cohort.height, serialize_rows(cohort, prepared.order, config.data, config.serialize)
    model = TunedModel(folder, config, prepared.order, checkpoint / "weights")
    logits = model.logits(prepared.texts_of(held) + texts)
    shifted = model.corrected(logits)
    weights = prepared.cohort.weights
    calibrator = fit_calibrator(
        config, shifted[: len(held)], prepared.cohort.events[held], None if weights is None else weights[held]
    )
    risks = calibrate.apply(calibrator, shifted[len(held) :])
    untouched = calibrator["method"] == "none" and np.array_equal(shifted, logits)
    raw = risks if untouched else scoring.probabilities(logits[len(held) :])
    threshold = config.task.threshold
    lines = scoring.prediction_rows(
        "tuned",
        cohort[ROW_ID],
        parts,
        cohort[EVENT],
        risks,
        raw,
        threshold,
        _weights(cohort),
        cluster_numbers(cohort, config.data),
    )
    _begin_evaluation(target, made_from)
    scoring.write_predictions(target.predictions, lines)
    return target.path, _judge(config, target, cohort)


def _begin_evaluation(target: RunFolder, made_from: dict[str, Any]) -> None:
    """Say what results in this folder are made from, once there are no others in it."""
    for file in (target.metrics, target.predictions):
        file.unlink(missing_ok=True)
    runs.write_json(target.path / EVALUATION, made_from)


def _sha256_of(table: str | None, data: DataConfig) -> str | None:
    return None if table is None else runs.sha256(locate(table, folder=data.format == "ukb"))


def evaluate_adapter(
    adapter: Path, config: Config, out: Path, allow_unknown: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Judge a PEFT adapter from elsewhere on a labelled table, all of which is taken as the test part.

    `config` says base model, task, and the table with its dictionary. Leaves `predictions.jsonl`, `metrics.json` and what they
    were made from (`evaluation.json`) in `out`; another evaluation there is replaced with `overwrite` alone. Its probabilities
    are as they are: what class weights or oversampling may have added cannot be known.
    """
    from cardiotune.models import language as scoring
    from cardiotune.training.model import has_head
    from cardiotune.training.weights import find_weights

    if RunFolder(out).manifest.is_file():
        raise ConfigError(f"--out {out}: is a run folder, which has results of its own; choose another")
    settings = hashlib.sha256(dump(config).encode()).hexdigest()
    made_from = {
        "adapter": runs.sha256(adapter),
        "table_sha256": _sha256_of(config.data.path, config.data),
        "settings": settings,
    }
    runs.check_free(out, out / EVALUATION, made_from, overwrite, "choose another with --out")
    head = "classifier" if has_head(adapter) else "label_tokens"
    config = config.model_copy(update={"task": config.task.model_copy(update={"head": head})})
    cohort = read_rows(config.data.path, config.data, config.evaluation.keep_row_ids, allow_unknown).frame
    columns = roles.settle(config.data.columns, cohort).columns  # by the values too, as a run learns it
    config = config.model_copy(update={"data": config.data.model_copy(update={"columns": columns})})
    scorer = scoring.LanguageScorer(config, find_weights(config.model), adapter, foreign=True)
    order = column_order(cohort, config.data, config.serialize)
    texts = serialize_rows(cohort, order, config.data, config.serialize)
    risks = scoring.probabilities(scorer.logits(texts, what="scoring"))
    parts = ["test"] * cohort.height
    lines = scoring.prediction_rows(
        "tuned",
        cohort[ROW_ID],
        parts,
        cohort[EVENT],
        risks,
        risks,
        config.task.threshold,
        _weights(cohort),
        cluster_numbers(cohort, config.data),
    )
    target = RunFolder(out)
    _begin_evaluation(target, made_from)
    scoring.write_predictions(target.predictions, lines)
    return _judge(config, target, cohort)


def probe(folder: RunFolder, rows: int) -> dict[str, Any]:
    """How the risks of `rows` test patients change when their text is written otherwise -> `probes.json`."""
    from cardiotune.evaluation import probes

    _check_tuned(folder)
    config, prepared = _open(folder, None)
    with folder.stage("probe"):
        model = _tuned_model(folder, config, prepared.order)
        frame = prepared.cohort.frame[prepared.rows("test")]
        found = probes.probe(model.risks, frame, prepared.order, config.data, config.serialize, rows, seed=config.seed)
        runs.write_json(folder.probes, found)
        folder.record(folder.probes)
    return found


def explain(folder: RunFolder, rows: int) -> dict[str, Any]:
    """Which columns the tuned model and LightGBM use, on `rows` test patients -> `explanations.json`."""
    from cardiotune.evaluation import explain as explaining
    from cardiotune.models.baselines import lightgbm

    _check_tuned(folder)
    config, prepared = _open(folder, None)
    frame, events, test = prepared.cohort.frame, prepared.cohort.events, prepared.rows("test")
    with folder.stage("explain"):
        model = _tuned_model(folder, config, prepared.order)
        models = {
            "tuned": explaining.language_risk(model.risks, prepared.order, config.data, config.serialize),
            "lightgbm": explaining.table_risk(lightgbm, frame, events, prepared.parts, config.data, config.seed),
        }
        training = frame[prepared.rows("train")]
        found = explaining.explain(models, frame[test], events[test], training, config.data, rows, seed=config.seed)
        runs.write_json(folder.explanations, found)
        folder.record(folder.explanations)
    return found


def explain_row(folder: RunFolder, row: str, table: str | None = None, allow_unknown: bool = False) -> dict[str, Any]:
    """One patient's risk by the tuned model and by it without each field, as `leave_one_field_out`. Nothing is written.

    row: the id of one of the run's own patients, as in `predictions.jsonl` or in the table's id column; with a `table`, the
    number of one of its rows from 1, as `score_table` counts them.
    """
    from cardiotune.evaluation.explain import language_risk, leave_one_field_out

    config = _config(folder)
    if config.data.name_of("text"):
        raise ConfigError(f"{folder.path}: its patients' texts come ready made, so no field of theirs can be left out")
    _check_tuned(folder)
    if table is None:
        _, prepared = _open(folder, None)
        frame, order, place = prepared.cohort.frame, prepared.order, _place_of(prepared.cohort.frame, row, config.data)
        if prepared.parts[place] == "train":
            log.warning("--row: this patient is in the training part, so the model has learned from the outcome")
    else:
        frame, order = read_rows(table, config.data, allow_unknown=allow_unknown).frame, read_order(folder)
        place = int(row) - 1 if row.isascii() and row.isdigit() else -1
        if not 0 <= place < frame.height:
            raise ConfigError(f"--row: expected the number of a row of {table}, 1 to {frame.height}")
    risk_of = language_risk(_tuned_model(folder, config, order).risks, order, config.data, config.serialize)
    return leave_one_field_out(risk_of, frame[place : place + 1], config.data)


def _place_of(frame: pl.DataFrame, row: str, data: DataConfig) -> int:
    """The place of the row with this id. An error does not repeat what was typed, which may be a patient's id."""
    own = data.name_of("id")
    found = np.flatnonzero((frame[ROW_ID] == row) | (as_written(frame[own or ROW_ID]) == row))
    if len(found) != 1:
        ids = f"a row_id of predictions.jsonl{f' or a value of column {own}' if own else ''}"
        raise ConfigError(f"--row: {len(found)} of the run's {frame.height} rows have this id; expected {ids}")
    return int(found[0])


def learn_curve(config: Config, sizes: list[Any], seeds: int, out: Path | None = None) -> tuple[dict[str, Any], Path]:
    """The whole run at growing training sizes, several seeds each. Returns the curve and the folder that shows it.

    Its runs lie in `out`, by default in `<run folder>_learning_curve`, beside `learning_curve.json`, `.png` and `.md`. By
    default these are also left in `learning_curve/` of the experiment's own run, where its report finds them.
    """
    from cardiotune.report import learning_curve as curve

    def run_one(one: Config) -> RunFolder:
        return run(one, overwrite=True)

    own = RunFolder(config.run_path)
    place = out or own.path.with_name(f"{config.name}_learning_curve")
    if place.is_file() or RunFolder(place).manifest.is_file():
        what = "file" if place.is_file() else "run folder"
        raise ConfigError(f"{place}: is a {what}; name a folder for the curve's own runs with --out")
    curve.check(sizes, range(seeds))
    sizes = _sizes_that_fit(config, sizes)
    found = curve.learning_curve(config, sizes, range(seeds), run_one, place)
    curve.write(found, place)
    if out:
        return found, place
    if not own.manifest.is_file():
        log.info("%s: no such run; once it is there, the same command puts the curve into its report", own.path)
        return found, place
    differ = curve.differences(own, RunFolder(curve.variant(config, sizes[0], 0, place).run_path))
    if differ:
        log.warning("%s: not given the curve, which is of another %s", own.path, ", ".join(differ))
        return found, place
    curve.write(found, own.path / curve.FOLDER)
    own.record(own.path / curve.FOLDER / curve.FILE)
    return found, own.path / curve.FOLDER


def _sizes_that_fit(config: Config, sizes: list[Any]) -> list[Any]:
    """Without sizes above the training part, if `all` stands for them; else DataError, before hours of smaller ones."""
    whole = config.model_copy(update={"split": config.split.model_copy(update={"train_rows": None})})
    rows = len(read_prepared(whole).rows("train"))
    large = [size for size in sizes if size != "all" and size > rows]
    if large and "all" not in sizes:
        raise DataError(f"--sizes: {large[0]}, but the training part has {rows} rows; ask for fewer, or for all")
    if large:
        log.info("sizes left out: %s, for all training rows are %d", ", ".join(map(str, large)), rows)
    return [size for size in sizes if size not in large]


def report(folder: RunFolder) -> Path:
    """`report.html` and `report.md`."""
    from cardiotune.report.report import write_report

    with folder.stage("report"):
        page = write_report(folder)
    folder.update_manifest(status="finished")
    return page


def score_table(
    folder: RunFolder, table: str, keep_ids: bool, tuned: bool = True, site: str | None = None
) -> pl.DataFrame:
    """Risks for a new table from the run folder alone, a row each, in the table's order; `site` as `recalibrate` named it.

    Columns: row (1-based), row_id, y_prob, y_prob_raw, prediction, threshold, values_missing (how many of the row's
    values were missing or out of range).
    """
    from cardiotune.deployment.bulk import Job, score_chunks

    return pl.concat(score_chunks(Job(folder.path, table, keep_ids, tuned, site)))


def _score(folder: RunFolder, frame: pl.DataFrame, tuned: bool = True, site: str | None = None) -> tuple[Array, Array]:
    """Final and raw risks of rows that the run has not seen, (rows,) each."""
    from cardiotune.deployment.scorer import RowScorer

    return RowScorer.load(folder.path, site, tuned).score(frame)


def export(path: Path, to: Any, out: Path, precision: Any = "f16", check: bool = False) -> dict[str, Any]:
    """The run's model in another format, in `out`; or, with `check`, an export that is there put through the gate again.

    Returns the parity gate's numbers. Without the run's table they are of synthetic rows alone, which is said.
    """
    from cardiotune.deployment import export as exporting

    folder = open_run(path)
    _check_tuned(folder)
    prepared = None
    try:
        prepared = _open(folder, None)[1]
    except DataError as error:
        log.warning("parity is checked on synthetic rows alone: %s", error)
    if check:
        return exporting.check_again(folder, out, prepared)
    return exporting.export(folder, to, out, precision, prepared)


def recalibrate(
    folder: RunFolder,
    table: str,
    method: Any,
    allow_unknown: bool = False,
    site_name: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, dict[str, dict[str, float | None]]]:
    """Adapt the run's calibrated risks to a new site, whose table has the outcome.

    Leaves `sites/<name>.json`, which `score_table` applies; the name is by default the table's. A recalibration of this name by
    another table or method is replaced with `overwrite` alone. Returns that file, and log-loss, Brier score,
    calibration intercept and slope before and after; after is cross-fitted in ten folds, so no row judges itself.
    """
    from sklearn.model_selection import StratifiedKFold

    from cardiotune.evaluation import metrics
    from cardiotune.models import calibrate
    from cardiotune.models.logistic import logit

    _check_tuned(folder)
    config = _config(folder)
    if site_name and (plain := runs.plain_name(site_name)) != site_name:
        raise ConfigError(
            f"--site {site_name}: expected letters, digits, dots, dashes and underscores, such as {plain}"
        )
    file = folder.path / "sites" / f"{site_name or runs.named_after(table)}.json"
    made_from = {"method": method, "table_sha256": _sha256_of(table, config.data)}
    runs.check_free(file, file, made_from, overwrite, "choose another name with --site")
    frame = read_rows(table, config.data, allow_unknown=allow_unknown).frame.filter(pl.col(EVENT).is_not_null())
    y_true = frame[EVENT].to_numpy().astype(float)
    weight = frame[WEIGHT].to_numpy() if WEIGHT in frame.columns else None
    fewest = int(min(y_true.sum(), (1 - y_true).sum()))
    needed = calibrate.MIN_OUTCOMES + 1  # a fold leaves one of them out
    if fewest < needed:
        raise DataError(
            f"{table}: {config.data.name_of('target')} is known in {frame.height} rows, {int(y_true.sum())} of them events; "
            f"recalibration needs the outcome, of {needed} events and {needed} non-events at least"
        )
    before, _ = _score(folder, frame)
    logits = logit(before)
    site = calibrate.update(logits, y_true, method, weight)
    after = np.empty_like(logits)
    folds = StratifiedKFold(min(10, fewest), shuffle=True, random_state=config.seed)
    for train_rows, rows in folds.split(logits, y_true):
        counted = None if weight is None else weight[train_rows]
        fitted = calibrate.update(logits[train_rows], y_true[train_rows], method, counted)
        after[rows] = calibrate.apply(fitted, logits[rows])
    judged = {
        when: {
            name: float(np.asarray(metric(y_true, risks, weight)).item())
            for name, metric in metrics.PROBABILITY.items()
        }
        for when, risks in (("before", before), ("after", after))
    }
    size = {"n": len(y_true), "n_events": told_events(len(y_true), int(y_true.sum()))}
    finite = {when: {k: v if np.isfinite(v) else None for k, v in found.items()} for when, found in judged.items()}
    runs.write_json(file, {**site, **made_from, **size, **finite})
    folder.record(file)
    return file, finite


# ---------------------------------------------------------------------------------------------------------------------
# pieces that stages share


def open_run(path: str | Path) -> RunFolder:
    """An existing run folder; ConfigError when it is none."""
    folder = RunFolder(Path(path))
    folder.read_manifest()
    return folder


def prompt_text(config: Config, text: str) -> str:
    """A whole prompt in words, as the model reads it but for the chat template."""
    before, after = shared_pieces(config.task, config.data.name_of("text") is not None).around()
    return before + text + after


def _config(folder: RunFolder) -> Config:
    return load_resolved(folder.checked(folder.config))


def _check_tuned(folder: RunFolder, otherwise: str = "") -> None:
    """ConfigError, before any table is read, when the run has no tuned model."""
    config = _config(folder)
    if folder.tuned_folder(config.method.kind).is_dir():
        return
    if "tuned" in config.comparators:
        how = f"train it with `cardiotune train {folder.path}`"
    else:
        how = "its models do not hold tuned, so make another run"
    raise ConfigError(f"{folder.path}: has no tuned model; {how}{otherwise}")


def check_scorable(path: Path, tuned: bool) -> None:
    """ConfigError, before any table is read, when a folder is no run or export that can score a table."""
    from cardiotune.deployment.scorer import is_export

    if not is_export(path):
        folder = open_run(path)
        if tuned:
            _check_tuned(folder, ", or ask for the zero-shot model with --zero-shot")
    elif not tuned:
        raise ConfigError(f"{path}: an export has no base model; use --zero-shot with its run")


def _tuned_model(folder: RunFolder, config: Config, order: list[str]) -> "TunedModel":
    """The run's own model."""
    from cardiotune.models.tuned import TunedModel, read_calibrator

    read_calibrator(folder)  # applied to the model's risks: refused, if damaged, before hours of scoring
    return TunedModel(folder, config, order)


def _open(folder: RunFolder, prepared: Prepared | None) -> tuple[Config, Prepared]:
    """Config and cohort of a run; DataError when the table is no longer the one that was split."""
    config = _config(folder)
    if prepared is not None:
        return config, prepared
    recorded = folder.read_manifest().get("data")
    if recorded is None:
        raise ModelError(f"{folder.path}: was stopped before its table was prepared; start it anew with --overwrite")
    if _describe_files(config.data) != recorded:
        files = ", ".join(config.data.files.values())
        raise DataError(f"{files}: has changed since this run was prepared; restore it, or start a new run")
    prepared = read_prepared(config)
    try:
        saved = pl.read_parquet(folder.checked(folder.split))
    except (OSError, pl.exceptions.PolarsError):
        raise ModelError(f"{folder.split}: damaged or not there; restore it, or start a new run") from None
    if saved["row_id"].to_list() != prepared.cohort.frame[ROW_ID].to_list() or list(saved["part"]) != list(
        prepared.parts
    ):
        raise DataError(f"{folder.split}: does not match the table; restore it, or start a new run")
    return config, prepared


def _describe_files(data: DataConfig) -> dict[str, Any]:
    """For the manifest: name and sha256 of the table, and below `test` and `validation` those of files of their own."""
    files = {part: locate(path, folder=data.format == "ukb") for part, path in data.files.items()}
    named: dict[str, Any] = {part: {"file": f.name, "sha256": runs.sha256(f)} for part, f in files.items()}
    return {**named.pop("train"), **named}


def _record_probe(folder: RunFolder, config: Config) -> None:
    """Reload what was saved, as prediction will, and keep how it scores the synthetic sample."""
    from cardiotune.models.language import LanguageScorer
    from cardiotune.models.tuned import probe_texts
    from cardiotune.training.checkpoint import PROBE, record_probe
    from cardiotune.training.distributed import world
    from cardiotune.training.weights import same_weights

    saved = folder.tuned_folder(config.method.kind)
    scorer = LanguageScorer(config, same_weights(folder, config.model), saved)
    logits = scorer.logits(probe_texts(config, read_order(folder)), what="checking")
    if world()[0] == 0:
        record_probe(saved, logits, scorer.dtype)
        folder.record(saved / runs.HASHES, saved / PROBE, folder.training)


def show_prompts(config: Config, number: int, real_rows: bool) -> list[str]:
    """Prompts as the model will read them: of synthetic rows drawn from the dictionary, or of real ones when asked."""
    if real_rows:
        prepared = read_prepared(config)
        texts = prepared.texts_of(prepared.rows("train")[:number])
    else:
        texts = serialize_rows(
            synthetic_rows(config.data, number, config.seed),
            text_columns(config.data, config.serialize),
            config.data,
            config.serialize,
        )
    return [prompt_text(config, text) for text in texts]

"""The whole way on one page: prepare -> train -> predict -> evaluate -> report.

Each stage reads the run folder and leaves its files there, so each can be run alone; `run` does them in order. Patients'
rows are read afresh from the table by every stage that needs them, and are never kept in the run folder.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from cardiotune import runs
from cardiotune.config import Config, DataConfig, dump, load_resolved
from cardiotune.data.cohort import EVENT, ROW_ID, read_rows
from cardiotune.data.prepare import Prepared, read_prepared
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows, shared_pieces
from cardiotune.data.split import PARTS, counts, overlap
from cardiotune.data.table import locate
from cardiotune.errors import ConfigError, DataError, InterruptedRunError
from cardiotune.runs import RunFolder

log = logging.getLogger(__name__)

PROBE_ROWS = 4
PROBE_SEED = 7


# ---------------------------------------------------------------------------------------------------------------------
# the stages


def run(config: Config, overwrite: bool = False) -> RunFolder:
    """Every stage in order. The manifest says `finished` only when all of them did."""
    folder, prepared = prepare(config, overwrite)
    try:
        if "tuned" in config.comparators:
            train(folder, prepared)
        predict(folder, prepared)
        evaluate(folder)
        report(folder)
    except BaseException as error:
        folder.update_manifest(status="interrupted" if isinstance(error, InterruptedRunError) else "failed")
        raise
    return folder


def prepare(config: Config, overwrite: bool = False) -> tuple[RunFolder, Prepared]:
    """Table -> cohort, parts and texts. Nothing is written before table, weights and prompts have been found good."""
    start = time.perf_counter()
    prepared = read_prepared(config)
    weights = _find_weights(config) if config.needs_llm else None
    tokens = _count_tokens(config, prepared, weights) if weights else None
    folder = runs.create(config.run_path, dump(config), overwrite)
    with folder.stage("prepare", start):
        frame = prepared.cohort.frame
        pl.DataFrame({"row_id": frame[ROW_ID], "part": prepared.parts}).write_parquet(folder.split)
        runs.write_json(
            folder.cohort,
            {
                "flow": prepared.cohort.flow,
                "notes": prepared.cohort.notes,
                "parts": counts(prepared.parts, prepared.cohort.events),
                "overlap": overlap(prepared.cohort, prepared.parts, prepared.texts, config.data),
                "column_order": prepared.order,
                "tokens": tokens,
            },
        )
        folder.update_manifest(
            data=_describe_files(config.data),
            files={path.name: runs.sha256(path) for path in (folder.config, folder.split, folder.cohort)},
        )
        if weights:
            from cardiotune.training.weights import weights_hashes

            model = config.model
            named = {
                "name": model.name,
                "hub_id": model.hub_id,
                "revision": model.revision,
                "license": model.license,
            }
            folder.update_manifest(base_model={**named, "sha256": weights_hashes(weights)})
    for part, count in counts(prepared.parts, prepared.cohort.events).items():
        log.info("%s: %d rows, %d events", part, count["n"], count["n_events"])
    return folder, prepared


def _count_tokens(config: Config, prepared: Prepared, weights: Path) -> dict[str, int]:
    """Tokens of the prompts; raises when one is over the limit or the labels do not fit the tokenizer."""
    from cardiotune.training.model import build_encoder, load_tokenizer

    encoder = build_encoder(config, load_tokenizer(weights))
    if {"zero_shot", "few_shot"} & set(config.comparators):
        encoder.label_tokens(config.task.positive_label, config.task.negative_label)
    lengths = [len(prompt) for prompt in encoder.encode(prepared.texts)]
    if "few_shot" in config.comparators:
        encoder.with_examples(_examples(config, prepared)).encode(prepared.texts[:1])
    return {
        "shortest": min(lengths),
        "median": int(np.median(lengths)),
        "longest": max(lengths),
        "instruction_and_question": len(encoder.prefix) + len(encoder.suffix),
        "limit": config.serialize.max_tokens,
    }


def train(folder: RunFolder, prepared: Prepared | None = None, resume: bool = False) -> None:
    """Fine-tune, in as many processes as asked; leaves `adapter/` or `model/`, `checkpoints/`, `logs/`."""
    from cardiotune.training.distributed import is_launched, is_worker, launch

    config = _config(folder)
    if "tuned" not in config.comparators:
        raise ConfigError(f"{folder.path}: models does not hold tuned, so there is nothing to train")
    if is_worker():
        _train_here(folder, None, resume)
        if not is_launched():
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
    from cardiotune.training.distributed import join
    from cardiotune.training.loss import balance
    from cardiotune.training.train import Rows
    from cardiotune.training.train import train as fine_tune

    config, prepared = _open(folder, prepared)
    weights = _same_weights(folder, config)
    device = building.set_up(config.train.threads)
    join(config)
    dtype = building.train_dtype(config.model, device)
    tokenizer = building.load_tokenizer(weights)
    encoder = building.build_encoder(config, tokenizer)
    rows = {part: prepared.rows(part) for part in ("train", "validation")}
    encoded = {p: Rows(encoder.encode(prepared.texts_of(r)), prepared.cohort.events[r]) for p, r in rows.items()}
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
    pad_id = building.pad_id_of(tokenizer)
    summary = fine_tune(
        network, encoded["train"], encoded["validation"], balanced, config, folder, pad_id, dtype, resume
    )
    folder.update_manifest(training=summary, device=str(device))


def predict(folder: RunFolder, prepared: Prepared | None = None) -> None:
    """Every comparator's risks for the parts in `evaluation.parts` -> `predictions.jsonl`."""
    from cardiotune.evaluation import predict as scoring
    from cardiotune.evaluation.baselines import BASELINES
    from cardiotune.training.distributed import is_worker, join, launch, world
    from cardiotune.training.model import set_up

    config = _config(folder)
    if config.needs_llm and config.launch.processes > 1 and not is_worker():
        launch(config, ["predict", str(folder.path)])
        return
    if config.needs_llm:
        set_up(config.train.threads)
    join(config)
    config, prepared = _open(folder, prepared)
    frame, events = prepared.cohort.frame, prepared.cohort.events
    rows = np.concatenate([prepared.rows(part) for part in PARTS if part in config.evaluation.parts])
    risks: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # calibrated, raw
    with folder.stage("predict_baselines"):
        for name in config.comparators:
            if name in BASELINES:
                risk = BASELINES[name](frame, events, prepared.parts, config.data, config.seed)[rows]
                risks[name] = risk, risk
    texts = prepared.texts_of(rows)
    if untuned := [name for name in config.comparators if name in ("zero_shot", "few_shot")]:
        scorer = scoring.LanguageScorer(config, _same_weights(folder, config), None)
        for name in untuned:
            with folder.stage(f"predict_{name}"):
                shown = scorer.encoder.with_examples(_examples(config, prepared)) if name == "few_shot" else None
                risk = scoring.probabilities(scorer.logits(texts, shown, what=f"scoring {name}"))
                risks[name] = risk, risk
        del scorer
    if "tuned" in config.comparators:
        with folder.stage("predict_tuned"):
            risks["tuned"] = _tuned_risks(folder, config, texts, prepared.order)
    ids, parts = frame[ROW_ID].gather(rows).to_list(), list(prepared.parts[rows])
    lines = [
        line
        for name in config.comparators
        for line in scoring.prediction_rows(name, ids, parts, events[rows], *risks[name], config.task.threshold)
    ]
    if world()[0] == 0:
        scoring.write_predictions(folder.predictions, lines)
        folder.update_manifest(files={folder.predictions.name: runs.sha256(folder.predictions)})


def _tuned_risks(
    folder: RunFolder, config: Config, texts: list[str], order: list[str], weights_folder: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated and raw risks of the run's model, or of the checkpoint weights in `weights_folder`.

    What class weights and oversampling added to the odds is in the raw ones and taken out of the others.
    """
    from cardiotune.evaluation import predict as scoring
    from cardiotune.training.loss import corrected

    saved = weights_folder or folder.tuned_folder(config.method.kind)
    scorer = scoring.LanguageScorer(config, _same_weights(folder, config), saved)
    scorer.check(saved, probe_texts(config, order))
    logits = scorer.logits(texts, what="scoring tuned")
    multiplier = folder.read_manifest().get("training", {}).get("odds_multiplier", 1.0)
    return scoring.probabilities(corrected(logits, multiplier)), scoring.probabilities(logits)


def evaluate(folder: RunFolder) -> dict[str, Any]:
    """`predictions.jsonl` -> `metrics.json`, and its content."""
    with folder.stage("evaluate"):
        result = _judge(_config(folder), folder)
    folder.update_manifest(files={folder.metrics.name: runs.sha256(folder.metrics)})
    return result


def _judge(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Metrics of the predictions in a folder, written beside them."""
    from cardiotune.evaluation.evaluate import evaluate_predictions
    from cardiotune.evaluation.predict import read_predictions

    settings = config.evaluation
    stratified = settings.bootstrap_method == "stratified"
    result = evaluate_predictions(read_predictions(folder), settings.bootstrap, config.seed, stratified)
    runs.write_json(folder.metrics, result)
    return result


def evaluate_checkpoint(folder: RunFolder, checkpoint: Path, table: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Judge the weights of a checkpoint on the run's own parts, or on another table that has the outcome.

    Leaves `predictions.jsonl` and `metrics.json` in `evaluations/<checkpoint>[-<table>]/`; returns that folder and the
    metrics.
    """
    from cardiotune.evaluation import predict as scoring

    config = _config(folder)
    checkpoint = checkpoint if checkpoint.is_dir() else folder.path / checkpoint
    if not (checkpoint / "weights").is_dir():
        kept = ", ".join(sorted(f"checkpoints/{path.name}" for path in folder.checkpoints.glob("step-*")))
        raise ConfigError(f"{checkpoint}: not a checkpoint of this run; it keeps {kept or 'none'}")
    made_with = json.loads((checkpoint / "state.json").read_text())["config"]
    if made_with != config.model_dump(mode="json"):
        raise ConfigError(f"{checkpoint}: a checkpoint of another run ({made_with.get('name')})")
    order = json.loads(folder.cohort.read_text())["column_order"]
    if table is None:
        _, prepared = _open(folder, None)
        rows = np.concatenate([prepared.rows(part) for part in PARTS if part in config.evaluation.parts])
        cohort, parts, texts = prepared.cohort.frame[rows], list(prepared.parts[rows]), prepared.texts_of(rows)
    else:
        cohort = read_rows(table, config.data, config.evaluation.keep_row_ids).frame
        parts, texts = ["test"] * cohort.height, serialize_rows(cohort, order, config.data, config.serialize)
    risks = _tuned_risks(folder, config, texts, order, checkpoint / "weights")
    lines = scoring.prediction_rows("tuned", cohort[ROW_ID], parts, cohort[EVENT], *risks, config.task.threshold)
    target = RunFolder(folder.path / "evaluations" / (checkpoint.name + (f"-{Path(table).stem}" if table else "")))
    scoring.write_predictions(target.predictions, lines)
    return target.path, _judge(config, target)


def evaluate_adapter(adapter: Path, config: Config, out: Path) -> dict[str, Any]:
    """Judge a PEFT adapter from elsewhere on a labelled table, all of which is taken as the test part.

    `config` says base model, task, and the table with its dictionary. Leaves `predictions.jsonl` and `metrics.json` in
    `out`. Its probabilities are as they are: what class weights or oversampling may have added cannot be known.
    """
    from cardiotune.evaluation import predict as scoring
    from cardiotune.training.model import has_head

    head = "classifier" if has_head(adapter) else "label_tokens"
    config = config.model_copy(update={"task": config.task.model_copy(update={"head": head})})
    cohort = read_rows(config.data.path, config.data, config.evaluation.keep_row_ids).frame
    scorer = scoring.LanguageScorer(config, _find_weights(config), adapter, foreign=True)
    order = column_order(cohort, config.data, config.serialize)
    texts = serialize_rows(cohort, order, config.data, config.serialize)
    risks = scoring.probabilities(scorer.logits(texts, what="scoring"))
    parts = ["test"] * cohort.height
    lines = scoring.prediction_rows("tuned", cohort[ROW_ID], parts, cohort[EVENT], risks, risks, config.task.threshold)
    target = RunFolder(out)
    scoring.write_predictions(target.predictions, lines)
    return _judge(config, target)


def report(folder: RunFolder) -> Path:
    """`report.html` and `report.md`."""
    from cardiotune.evaluation.report import write_report

    with folder.stage("report"):
        page = write_report(folder)
    folder.update_manifest(status="finished")
    return page


def score_table(folder: RunFolder, table: str, keep_ids: bool, tuned: bool = True) -> pl.DataFrame:
    """Risks for a new table from the run folder alone, a row each, in the table's order.

    Columns: row (1-based), row_id, y_prob, y_prob_raw, prediction, threshold, values_missing (how many of the row's
    values were missing or out of range).
    """
    from cardiotune.evaluation import predict as scoring

    config = _config(folder)
    if tuned and not folder.tuned_folder(config.method.kind).is_dir():
        raise ConfigError(
            f"{folder.path}: has no tuned model; train it, or ask for the zero-shot model with --zero-shot"
        )
    cohort = read_rows(table, config.data, keep_ids)
    order = json.loads(folder.cohort.read_text())["column_order"]
    texts = serialize_rows(cohort.frame, order, config.data, config.serialize)
    if tuned:
        risks, raw = _tuned_risks(folder, config, texts, order)
    else:
        risks = raw = scoring.probabilities(
            scoring.LanguageScorer(config, _same_weights(folder, config), None).logits(texts)
        )
    blanked = cohort.frame.select(pl.sum_horizontal(pl.col(config.data.inputs).is_null())).to_series()
    return pl.DataFrame(
        {
            "row": range(1, len(risks) + 1),
            "row_id": cohort.frame[ROW_ID],
            "y_prob": risks,
            "y_prob_raw": raw,
            "prediction": (risks >= config.task.threshold).astype(int),
            "threshold": config.task.threshold,
            "values_missing": blanked,
        }
    )


# ---------------------------------------------------------------------------------------------------------------------
# pieces that stages share


def open_run(path: str | Path) -> RunFolder:
    """An existing run folder; ConfigError when it is none."""
    folder = RunFolder(Path(path))
    folder.read_manifest()
    return folder


def prompt_text(config: Config, text: str) -> str:
    """A whole prompt in words, as the model reads it but for the chat template."""
    pieces = shared_pieces(config.task)
    return f"{pieces.instruction}\n\nPatient: {text}\n{pieces.question}"


def probe_texts(config: Config, order: list[str]) -> list[str]:
    """Texts of a fixed synthetic sample: the same for every process that opens the run."""
    return serialize_rows(synthetic_rows(config.data, PROBE_ROWS, PROBE_SEED), order, config.data, config.serialize)


def _config(folder: RunFolder) -> Config:
    return load_resolved(folder.config)


def _open(folder: RunFolder, prepared: Prepared | None) -> tuple[Config, Prepared]:
    """Config and cohort of a run; DataError when the table is no longer the one that was split."""
    config = _config(folder)
    if prepared is not None:
        return config, prepared
    recorded = folder.read_manifest()["data"]
    if _describe_files(config.data) != recorded:
        files = ", ".join(config.data.files.values())
        raise DataError(f"{files}: has changed since this run was prepared; restore it, or start a new run")
    prepared = read_prepared(config)
    saved = pl.read_parquet(folder.split)
    if saved["row_id"].to_list() != prepared.cohort.frame[ROW_ID].to_list() or list(saved["part"]) != list(
        prepared.parts
    ):
        raise DataError(f"{folder.split}: does not match the table; restore it, or start a new run")
    return config, prepared


def _describe_files(data: DataConfig) -> dict[str, Any]:
    """For the manifest: name and sha256 of the table, and below `test` and `validation` those of files of their own."""
    files = {part: locate(path) for part, path in data.files.items()}
    named: dict[str, Any] = {part: {"file": f.name, "sha256": runs.sha256(f)} for part, f in files.items()}
    return {**named.pop("train"), **named}


def _find_weights(config: Config) -> Path:
    from cardiotune.training.weights import find_weights

    return find_weights(config.model)


def _same_weights(folder: RunFolder, config: Config) -> Path:
    """The base weights, if they are still those that the run was prepared with."""
    from cardiotune.errors import ModelError
    from cardiotune.training.weights import weights_hashes

    weights = _find_weights(config)
    recorded = folder.read_manifest().get("base_model", {}).get("sha256")
    present = weights_hashes(weights)
    if recorded and recorded != present:
        changed = sorted(name for name in recorded.keys() | present.keys() if recorded.get(name) != present.get(name))
        raise ModelError(f"{weights}: not the base model of this run ({', '.join(changed)} differ)")
    return weights


def _examples(config: Config, prepared: Prepared) -> list[tuple[str, str]]:
    from cardiotune.evaluation.predict import choose_examples

    rows = prepared.rows("train")
    return choose_examples(
        prepared.texts_of(rows),
        prepared.cohort.events[rows],
        config.task.few_shot_examples,
        (config.task.negative_label, config.task.positive_label),
        config.seed,
    )


def _record_probe(folder: RunFolder, config: Config) -> None:
    """Reload what was saved, as prediction will, and keep how it scores the synthetic sample."""
    from cardiotune.evaluation.predict import LanguageScorer
    from cardiotune.training.checkpoint import record_probe
    from cardiotune.training.distributed import world
    from cardiotune.training.memory import release

    release()  # the trained network would stand beside the reloaded one
    saved = folder.tuned_folder(config.method.kind)
    scorer = LanguageScorer(config, _same_weights(folder, config), saved)
    order = json.loads(folder.cohort.read_text())["column_order"]
    logits = scorer.logits(probe_texts(config, order), what="checking")
    if world()[0] == 0:
        record_probe(saved, logits, scorer.dtype)


def show_prompts(config: Config, number: int, real_rows: bool) -> list[str]:
    """Prompts as the model will read them: of synthetic rows drawn from the dictionary, or of real ones when asked."""
    if real_rows:
        prepared = read_prepared(config)
        texts = prepared.texts_of(prepared.rows("train")[:number])
    else:
        texts = serialize_rows(
            synthetic_rows(config.data, number, config.seed),
            config.data.features,
            config.data,
            config.serialize,
        )
    return [prompt_text(config, text) for text in texts]


def write_table(frame: pl.DataFrame, file: Path) -> None:
    """Write a table as CSV or Parquet, by the file's ending; whole or not at all."""
    with runs.atomic(file) as temporary:
        if file.suffix == ".parquet":
            frame.write_parquet(temporary)
        else:
            frame.write_csv(temporary)

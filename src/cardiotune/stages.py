"""The whole way on one page: prepare -> train -> predict -> evaluate -> report.

Each stage reads the run folder and leaves its files there, so each can be run alone; `run` does them in order. Patients'
rows are read afresh from the table by every stage that needs them, and are never kept in the run folder.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cardiotune import runs
from cardiotune.config import Config, dump, load_resolved
from cardiotune.data.cohort import ROW_ID, Cohort, read_cohort, read_rows
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows, shared_pieces
from cardiotune.data.split import PARTS, Parts, counts, overlap, split_cohort
from cardiotune.data.table import locate
from cardiotune.errors import ConfigError, DataError
from cardiotune.runs import RunFolder

log = logging.getLogger(__name__)

PROBE_ROWS = 4
PROBE_SEED = 7
LANGUAGE_MODELS = ("zero_shot", "few_shot", "tuned")


@dataclass(frozen=True)
class Prepared:
    """The cohort with its parts and texts, in memory."""

    cohort: Cohort
    parts: Parts
    order: list[str]
    """Feature columns in the order of the text."""
    texts: list[str]

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of a part."""
        return np.flatnonzero(self.parts == part)

    def texts_of(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Texts of the given row numbers."""
        return [self.texts[row] for row in rows]


# ---------------------------------------------------------------------------------------------------------------------
# the stages


def run(config: Config, overwrite: bool = False) -> RunFolder:
    """Every stage in order. The manifest says `finished` only when all of them did."""
    folder, prepared = prepare(config, overwrite)
    try:
        if "tuned" in config.models:
            train(folder, prepared)
        predict(folder, prepared)
        evaluate(folder)
        report(folder)
    except BaseException:
        folder.update_manifest(status="failed")
        raise
    folder.update_manifest(status="finished")
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
        table = locate(config.data.path)
        folder.update_manifest(
            data={"file": table.name, "sha256": runs.sha256(table)},
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

    encoder, _ = build_encoder(config, load_tokenizer(weights))
    lengths = [len(prompt) for prompt in encoder.encode(prepared.texts)]
    return {
        "shortest": min(lengths),
        "median": int(np.median(lengths)),
        "longest": max(lengths),
        "instruction_and_question": len(encoder.prefix) + len(encoder.suffix),
        "limit": config.serialize.max_tokens,
    }


def read_prepared(config: Config) -> Prepared:
    """Read, check, split and serialize the table. Deterministic: every stage gets the same."""
    cohort = read_cohort(config.data, config.seed, config.evaluation.keep_row_ids)
    parts = split_cohort(cohort, config.data, config.split, config.split_seed)
    order = column_order(cohort.frame.filter(pl.Series(parts == "train")), config.data, config.serialize)
    return Prepared(cohort, parts, order, serialize_rows(cohort.frame, order, config.data, config.serialize))


def train(folder: RunFolder, prepared: Prepared | None = None) -> None:
    """Fine-tune; leaves `adapter/`, `checkpoints/`, `logs/`."""
    from cardiotune.training import model as building
    from cardiotune.training.train import Rows
    from cardiotune.training.train import train as fine_tune

    config, prepared = _open(folder, prepared)
    if "tuned" not in config.models:
        raise ConfigError(f"{folder.path}: models does not hold tuned, so there is nothing to train")
    weights = _same_weights(folder, config)
    with folder.stage("train"):
        device = building.set_up(config.train.threads)
        dtype = building.train_dtype(config.model, device)
        tokenizer = building.load_tokenizer(weights)
        encoder, labels = building.build_encoder(config, tokenizer)
        rows = {p: prepared.rows(p) for p in ("train", "validation")}
        encoded = {p: Rows(encoder.encode(prepared.texts_of(r)), prepared.cohort.events[r]) for p, r in rows.items()}
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        seeded(config.seed)
        base = building.load_base(weights, dtype, config.model.attention).to(device)
        model = building.build(base, config.method, config.model, labels)
        log.info("training on %s in %s", device, str(dtype).removeprefix("torch."))
        summary = fine_tune(
            model,
            encoded["train"],
            encoded["validation"],
            config.train,
            folder,
            int(pad_id),
            config.evaluation.score_batch_tokens,
            dtype,
            config.seed,
        )
    folder.update_manifest(training=summary, device=str(device))
    del model, base
    _record_probe(folder, config, weights)


def predict(folder: RunFolder, prepared: Prepared | None = None) -> None:
    """Every comparator's risks for the parts in `evaluation.parts` -> `predictions.jsonl`."""
    from cardiotune.evaluation import predict as scoring
    from cardiotune.evaluation.baselines import BASELINES

    config, prepared = _open(folder, prepared)
    frame, events = prepared.cohort.frame, prepared.cohort.events
    rows = np.concatenate([prepared.rows(part) for part in PARTS if part in config.evaluation.parts])
    risks: dict[str, np.ndarray] = {}
    with folder.stage("predict_baselines"):
        for name in config.models:
            if name in BASELINES:
                risks[name] = BASELINES[name](frame, events, prepared.parts, config.data, config.seed)[rows]
    if config.needs_llm:
        adapter = folder.adapter if "tuned" in config.models else None
        scorer = scoring.LanguageScorer(config, _same_weights(folder, config), adapter)
        if adapter:
            scorer.check(adapter, probe_texts(config, prepared.order))
        texts = prepared.texts_of(rows)
        for name in config.models:
            if name in LANGUAGE_MODELS:
                with folder.stage(f"predict_{name}"):
                    encoder = None
                    if name == "few_shot":
                        encoder = scorer.encoder.with_examples(_examples(config, prepared))
                    logits = scorer.logits(texts, encoder, tuned=name == "tuned", what=f"scoring {name}")
                    risks[name] = scoring.probabilities(logits)
    ids, parts = frame[ROW_ID].gather(rows).to_list(), list(prepared.parts[rows])
    lines = [
        line
        for name in config.models
        for line in scoring.prediction_rows(name, ids, parts, events[rows], risks[name], config.task.threshold)
    ]
    scoring.write_predictions(folder, lines)
    folder.update_manifest(files={folder.predictions.name: runs.sha256(folder.predictions)})


def evaluate(folder: RunFolder) -> dict[str, Any]:
    """`predictions.jsonl` -> `metrics.json`, and its content."""
    from cardiotune.evaluation.evaluate import evaluate_predictions
    from cardiotune.evaluation.predict import read_predictions

    config = _config(folder)
    with folder.stage("evaluate"):
        result = evaluate_predictions(read_predictions(folder), config.evaluation.bootstrap, config.seed)
        runs.write_json(folder.metrics, result)
    folder.update_manifest(files={folder.metrics.name: runs.sha256(folder.metrics)})
    return result


def report(folder: RunFolder) -> Path:
    """`report.html` and `report.md`."""
    from cardiotune.evaluation.report import write_report

    with folder.stage("report"):
        return write_report(folder)


def score_table(folder: RunFolder, table: str, keep_ids: bool, tuned: bool = True) -> pl.DataFrame:
    """Risks for a new table from the run folder alone, a row each, in the table's order.

    Columns: row (1-based), row_id, y_prob, y_prob_raw, prediction, threshold, values_missing (how many of the row's
    values were missing or out of range).
    """
    from cardiotune.evaluation import predict as scoring

    config = _config(folder)
    if not (folder.adapter.is_dir() or not tuned):
        raise ConfigError(
            f"{folder.path}: has no tuned model; train it, or ask for the zero-shot model with --zero-shot"
        )
    cohort = read_rows(table, config.data, keep_ids)
    order = json.loads(folder.cohort.read_text())["column_order"]
    texts = serialize_rows(cohort.frame, order, config.data, config.serialize)
    scorer = scoring.LanguageScorer(config, _same_weights(folder, config), folder.adapter if tuned else None)
    if tuned:
        scorer.check(folder.adapter, probe_texts(config, order))
    risks = scoring.probabilities(scorer.logits(texts, what="scoring"))
    blanked = cohort.frame.select(pl.sum_horizontal(pl.col(config.data.features).is_null())).to_series()
    return pl.DataFrame(
        {
            "row": range(1, len(risks) + 1),
            "row_id": cohort.frame[ROW_ID],
            "y_prob": risks.round(scoring.DIGITS),
            "y_prob_raw": risks.round(scoring.DIGITS),
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


def seeded(seed: int) -> None:
    """Seed PyTorch, which draws the adapters' first weights and the dropout."""
    import torch

    torch.manual_seed(seed)


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
    recorded = folder.read_manifest()["data"]["sha256"]
    table = locate(config.data.path)
    if runs.sha256(table) != recorded:
        raise DataError(f"{table}: has changed since this run was prepared; restore it, or start a new run")
    prepared = read_prepared(config)
    saved = pl.read_parquet(folder.split)
    if saved["row_id"].to_list() != prepared.cohort.frame[ROW_ID].to_list() or list(saved["part"]) != list(
        prepared.parts
    ):
        raise DataError(f"{folder.split}: does not match the table; restore it, or start a new run")
    return config, prepared


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


def _record_probe(folder: RunFolder, config: Config, weights: Path) -> None:
    """Reload what was saved, as prediction will, and keep how it scores the synthetic sample."""
    from cardiotune.evaluation.predict import LanguageScorer
    from cardiotune.training.checkpoint import record_probe

    scorer = LanguageScorer(config, weights, folder.adapter)
    order = json.loads(folder.cohort.read_text())["column_order"]
    record_probe(folder.adapter, scorer.logits(probe_texts(config, order), what="checking"), scorer.dtype)


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

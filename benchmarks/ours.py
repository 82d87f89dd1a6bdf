"""Our side of the comparison: the shipped stages, as `cardiotune train` and `predict` run them."""

import json
import time
from typing import Any

import numpy as np

from cardiotune import reopen, stages
from cardiotune.config import load_config, load_resolved
from cardiotune.data.prepare import read_prepared
from cardiotune.models.language import LanguageScorer
from cardiotune.training.machine import set_up
from cardiotune.training.packing import by_token_budget, lay_out
from cardiotune.training.weights import find_weights


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune the prepared run; the last look at its validation part."""
    run = reopen.open_run(job["run"])
    stages.train(run)
    look = json.loads(run.training.read_text())["history"]["validation"][-1]
    return {
        "dtype": run.read_manifest()["training"]["dtype"],
        "validation": {name: look[name] for name in ("log_loss", "auroc")},
    }


class Scorer:
    """Patients' texts -> logits, by the scorer of every stage."""

    def __init__(self, job: dict[str, Any]) -> None:
        run = reopen.open_run(job["run"])
        config = load_resolved(run.config)
        if dtype := job.get("score_dtype"):
            config = config.model_copy(update={"model": config.model.model_copy(update={"score_dtype": dtype})})
        tuned = run.adapter if job["tuned"] else None
        set_up(config.train.threads)
        self.scorer = LanguageScorer(config, find_weights(config.model), tuned)
        self.dtype = str(self.scorer.dtype).removeprefix("torch.")

    def logits(self, texts: list[str]) -> np.ndarray:
        """(rows,) logits."""
        logits: np.ndarray = self.scorer.logits(texts)
        return logits


def way(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds from a table to its logits, step by step: all rows up to the layout, `sample` of them
    through the model."""
    config = load_config(job["experiment"], job["overrides"])
    marks = [time.perf_counter()]
    prepared = read_prepared(config)
    marks.append(time.perf_counter())
    set_up(config.train.threads)
    scorer = LanguageScorer(config, find_weights(config.model), None)
    marks.append(time.perf_counter())
    prompts = scorer.encoder.encode(prepared.texts)
    marks.append(time.perf_counter())
    tokens = _laid_out(prompts, scorer)
    marks.append(time.perf_counter())
    read, load, encode, laid = np.diff(marks).tolist()

    # Neighbours, for strangers share fewer tokens than the rows of the whole table do.
    order = sorted(range(len(prompts)), key=lambda row: prompts[row])[: job["sample"]]
    computed = _laid_out([prompts[row] for row in order], scorer)
    scorer.logits(prepared.texts_of(order[:8]))  # the first call prepares kernels
    start = time.perf_counter()
    scorer.logits(prepared.texts_of(order))
    score = time.perf_counter() - start
    return {
        "read_seconds": round(read, 3),
        "load_seconds": round(load, 3),
        "encode_seconds": round(encode, 3),
        "lay_out_seconds": round(laid, 3),
        "score_rows": len(order),
        "score_seconds": round(score, 3),
        "score_all_seconds": round(score * tokens / computed, 1),
        "tokens_per_row": round(tokens / len(prompts), 2),
    }


def _laid_out(prompts: list[list[int]], scorer: LanguageScorer) -> int:
    """Tokens of all batches, after laying them out as scoring does."""
    budget, layout = scorer.config.evaluation.score_batch_tokens, scorer.network.layout
    batches = by_token_budget(prompts, budget, layout)
    return sum(lay_out([prompts[row] for row in rows], scorer.pad_id, layout).input_ids.numel() for rows in batches)

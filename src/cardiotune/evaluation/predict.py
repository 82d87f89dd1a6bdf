"""A model's risks for rows, by one scorer for all: tuned, zero-shot and few-shot differ in adapter and prefix only."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.config import Config
from cardiotune.data.tokens import LabelTokens, PromptEncoder
from cardiotune.errors import DataError
from cardiotune.runs import RunFolder, atomic
from cardiotune.training.checkpoint import check_probe, verify
from cardiotune.training.heads import LabelTokenModel
from cardiotune.training.model import (
    build_encoder,
    load_adapted,
    load_base,
    load_tokenizer,
    score_dtype,
    set_up,
)
from cardiotune.training.train import score

log = logging.getLogger(__name__)

DIGITS = 8
"""Decimals of a probability in files."""


class LanguageScorer:
    """The base model of an experiment, ready to score texts with or without the run's adapter."""

    def __init__(self, config: Config, weights: Path, adapter: Path | None) -> None:
        self.config = config
        self.device = set_up(config.train.threads)
        self.dtype = score_dtype(config.model, self.device)
        tokenizer = load_tokenizer(weights)
        self.encoder: PromptEncoder
        self.labels: LabelTokens
        self.encoder, self.labels = build_encoder(config, tokenizer)
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        base = load_base(weights, self.dtype, config.model.attention).to(self.device)
        self.adapted = adapter is not None
        if adapter is None:
            self.model = LabelTokenModel(base, self.labels).eval()
        else:
            verify(adapter)
            self.model = load_adapted(base, adapter, self.labels).eval()

    def logits(
        self,
        texts: Sequence[str],
        encoder: PromptEncoder | None = None,
        tuned: bool = True,
        what: str = "scoring",
    ) -> NDArray[np.float64]:
        """(rows,) logits. `tuned=False` switches the adapter off: the zero-shot model, by the same code."""
        prompts = (encoder or self.encoder).encode(texts)
        budget = self.config.evaluation.score_batch_tokens
        with progress(what, len(prompts)) as advance:
            if self.adapted and not tuned:
                with self.model.model.disable_adapter():  # type: ignore[operator]
                    return score(self.model, prompts, self.pad_id, budget, self.device, torch.float32, advance)
            return score(self.model, prompts, self.pad_id, budget, self.device, torch.float32, advance)

    def check(self, adapter: Path, probe_texts: Sequence[str]) -> None:
        """ModelError unless the loaded model scores the recorded synthetic sample as it did when it was saved."""
        check_probe(adapter, self.logits(probe_texts, what="checking"), self.dtype)


def progress(what: str, rows: int) -> Any:
    """A progress bar; entering it gives a function that takes the number of rows just done."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task(what, total=rows)
            yield lambda done: shown.update(task, advance=done)

    return bar()


def choose_examples(
    texts: Sequence[str], events: NDArray[np.int_], count: int, answers: tuple[str, str], seed: int
) -> list[tuple[str, str]]:
    """Solved patients for few-shot: drawn from the given (training) rows, half of them events, in random order.

    `answers` are the words for no event and for an event.
    """
    draw = np.random.default_rng(seed)
    wanted = {1: count // 2, 0: count - count // 2}
    chosen: list[int] = []
    for outcome, number in wanted.items():
        rows = np.flatnonzero(events == outcome)
        if len(rows) < number:
            raise DataError(f"few_shot: {number} examples with outcome {outcome} are wanted, training has {len(rows)}")
        chosen += list(draw.choice(rows, number, replace=False))
    return [(texts[row], answers[events[row]]) for row in draw.permutation(chosen)]


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows,) probabilities of logits."""
    return np.asarray(1 / (1 + np.exp(-logits)))


def prediction_rows(
    model: str,
    row_ids: Iterable[str],
    parts: Iterable[str],
    events: Iterable[int | None],
    risks: NDArray[np.float64],
    threshold: float,
) -> list[dict[str, Any]]:
    """Objects of `predictions.jsonl`: ids, part, model and numbers; never a patient's text or values."""
    return [
        {
            "row_id": row_id,
            "part": part,
            "model": model,
            "y_true": None if event is None else int(event),
            "y_prob": round(float(risk), DIGITS),
            "y_prob_raw": round(float(risk), DIGITS),
            "prediction": int(risk >= threshold),
            "threshold": threshold,
        }
        for row_id, part, event, risk in zip(row_ids, parts, events, risks, strict=True)
    ]


def write_predictions(run: RunFolder, rows: list[dict[str, Any]]) -> None:
    """`predictions.jsonl`, whole or not at all."""
    with atomic(run.predictions) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, allow_nan=False) + "\n")


def read_predictions(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of `predictions.jsonl`; DataError when there is none."""
    if not run.predictions.is_file():
        raise DataError(f"{run.predictions}: no predictions yet; make them with `cardiotune predict {run.path}`")
    with run.predictions.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]

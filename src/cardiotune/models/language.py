"""A model's risks for rows, by one scorer for all: tuned, zero-shot and few-shot differ in adapter and prefix only."""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.data.tokens import PromptEncoder, TokenRows
from cardiotune.errors import DataError, ModelError
from cardiotune.evaluation.estimates import WORDS
from cardiotune.models.calibrate import in_range
from cardiotune.models.costs import scoring
from cardiotune.runs import RunFolder, atomic
from cardiotune.settings import Config
from cardiotune.training.checkpoint import check_probe, verify
from cardiotune.training.fixed_weights import fix_weights
from cardiotune.training.heads import LabelTokenNetwork, RiskNetwork
from cardiotune.training.lean import slim
from cardiotune.training.memory import release
from cardiotune.training.model import (
    build_encoder,
    load_base,
    load_tuned,
    score_dtype,
    set_up,
)
from cardiotune.training.scoring import score

log = logging.getLogger(__name__)


class LanguageScorer:
    """A language model ready to score texts: the base model, or what a run has made of it."""

    def __init__(self, config: Config, weights: Path, tuned: Path | None, foreign: bool = False) -> None:
        """`tuned`: a saved adapter or model. None is the base model, read at the label tokens by the same code.

        What we saved has a record of hashes and must fit it; a `foreign` adapter has none.
        """
        release()  # a model that was dropped, before there is another
        self.config = config
        self.device = set_up(config.train.threads)
        self.dtype = score_dtype(config.model, self.device)
        self.encoder: PromptEncoder = build_encoder(config, weights)
        self.pad_id = self.encoder.pad_id
        if tuned is None:
            base = load_base(weights, config, self.dtype, self.device)
            if config.model.family == "encoder":  # only its hidden states can be read
                self.network: RiskNetwork = RiskNetwork(base).eval()
            else:
                labels = self.encoder.label_tokens(config.task.positive_label, config.task.negative_label)
                self.network = LabelTokenNetwork(base, labels).eval()
        else:
            if not foreign:
                verify(tuned)
            self.network = load_tuned(weights, tuned, config, self.encoder, self.dtype, self.device)
        slim(self.network)
        fix_weights(self.network.trunk, self.network.family.gated)
        release()  # the plain weights

    def logits(
        self, texts: Sequence[str] | TokenRows, encoder: PromptEncoder | None = None, what: str = "scoring"
    ) -> NDArray[np.float64]:
        """(rows,) logits of texts, or of rows encoded before; with another encoder, of prompts with solved examples first."""
        return self._score(self.network, (encoder or self.encoder).prompts(texts), what)

    def states(self, texts: Sequence[str] | TokenRows, what: str = "reading") -> NDArray[np.float64]:
        """(rows, width) hidden states where rows are read."""
        return self._score(self.network.hidden, self.encoder.prompts(texts), what)

    def _score(self, network: Any, prompts: TokenRows, what: str) -> NDArray[np.float64]:
        budget, layout = self.config.evaluation.score_batch_tokens, self.network.layout
        with progress(what, len(prompts)) as advance, scoring(len(prompts)):
            name = f"{self.config.model.name} in {str(self.dtype).removeprefix('torch.')}"
            return score(network, prompts, self.pad_id, budget, self.device, layout, torch.float32, advance, whose=name)

    def check(self, saved: Path, probe_texts: Sequence[str]) -> None:
        """ModelError unless the loaded model scores the recorded synthetic sample as it did when it was saved."""
        check_probe(saved, self.logits(probe_texts, what="checking"), self.dtype)


def progress(what: str, rows: int) -> Any:
    """A progress bar; entering it gives a function that takes the number of rows just done."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
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
    """(rows,) probabilities of logits. ModelError where a logit is not finite."""
    return in_range(np.asarray(1 / (1 + np.exp(-logits))))


def prediction_rows(
    model: str,
    row_ids: Iterable[str],
    parts: Iterable[str],
    events: Iterable[int | None],
    risks: NDArray[np.float64],
    raw_risks: NDArray[np.float64],
    threshold: float,
    weights: Iterable[float | None] | None = None,
    clusters: Iterable[int] | None = None,
) -> list[dict[str, Any]]:
    """Objects of `predictions.jsonl`: ids, part, model and numbers; never a patient's text or values.

    raw_risks are the model's own, before anything that was added to its odds in training is taken out. `weights`, where the
    rows of a cohort have some, say how much each counts when it is judged; 0 for the censored, None for who is no part of
    a cohort. `clusters`: a number that rows of one patient share, and that tells nothing else. An answer in words that could
    not be parsed is no prediction: null.
    """
    in_range(risks, model), in_range(raw_risks, model)
    rows = [
        {
            "row_id": row_id,
            "part": part,
            "model": model,
            "y_true": None if event is None else int(event),
            "y_prob": float(risk),
            "y_prob_raw": float(raw),
            "prediction": None if model == WORDS and risk not in (0, 1) else int(risk >= threshold),
            "threshold": threshold,
        }
        for row_id, part, event, risk, raw in zip(row_ids, parts, events, risks, raw_risks, strict=True)
    ]
    if weights is not None:
        rows = [{**row, "weight": weight} for row, weight in zip(rows, weights, strict=True)]
    if clusters is not None:
        rows = [{**row, "cluster": int(cluster)} for row, cluster in zip(rows, clusters, strict=True)]
    return rows


def write_predictions(file: Path, rows: list[dict[str, Any]]) -> None:
    """`predictions.jsonl`, whole or not at all."""
    with atomic(file) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, allow_nan=False) + "\n")


def read_predictions(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of `predictions.jsonl`; DataError when there is none, ModelError when they are not what was written."""
    if not run.predictions.is_file():
        raise DataError(f"{run.predictions}: no predictions yet; make them with `cardiotune predict {run.path}`")
    try:
        with run.checked(run.predictions).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for name in ("y_prob", "y_prob_raw"):
            risks = [row[name] if type(row[name]) in (int, float) else np.nan for row in rows]  # NumPy reads text too
            in_range(np.array(risks, float), f"{run.predictions}: {name}")
        return rows
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{run.predictions}: damaged; make the predictions anew with `cardiotune predict {run.path}`"
        ) from None

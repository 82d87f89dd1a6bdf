"""A model's risks for rows, by one scorer for all: tuned, zero-shot and few-shot differ in adapter
and prefix only."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiotune.data.tokens import PromptEncoder, TokenRows
from cardiotune.errors import DataError
from cardiotune.models.calibrate import in_range
from cardiotune.models.costs import scoring
from cardiotune.progress import progress
from cardiotune.settings import Config
from cardiotune.training.checkpoint import check_probe, verify
from cardiotune.training.fixed_weights import fix_weights
from cardiotune.training.heads import LabelTokenNetwork, RiskNetwork
from cardiotune.training.lean import slim
from cardiotune.training.machine import own_device
from cardiotune.training.memory import release
from cardiotune.training.model import build_encoder, load_base, load_tuned, score_dtype
from cardiotune.training.scoring import Batching, score

log = logging.getLogger(__name__)


class LanguageScorer:
    """A language model ready to score texts: the base model, or what a run has made of it."""

    def __init__(self, config: Config, weights: Path, tuned: Path | None, foreign: bool = False) -> None:
        """`tuned`: a saved adapter or model. None is the base model, read at the label tokens by
        the same code.

        What we saved has a record of hashes and must fit it; a `foreign` adapter has none.
        """
        release()  # a model that was dropped, before there is another
        self.config = config
        self.device = own_device()
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
        """(rows,) logits of texts, or of rows encoded before; with another encoder, of prompts with
        solved examples first."""
        return self._score(self.network, (encoder or self.encoder).prompts(texts), what)

    def states(self, texts: Sequence[str] | TokenRows, what: str = "reading") -> NDArray[np.float64]:
        """(rows, width) hidden states where rows are read."""
        return self._score(self.network.hidden, self.encoder.prompts(texts), what)

    def _score(self, network: Any, prompts: TokenRows, what: str) -> NDArray[np.float64]:
        budget = self.config.evaluation.score_batch_tokens
        batching = Batching(self.pad_id, budget, self.device, self.network.layout)
        name = f"{self.config.model.name} in {str(self.dtype).removeprefix('torch.')}"
        with progress(what, len(prompts)) as bar, scoring(len(prompts)):
            return score(network, prompts, batching, bar.advance, whose=name)

    def check(self, saved: Path, probe_texts: Sequence[str]) -> None:
        """ModelError unless the loaded model scores the recorded synthetic sample as it did when it
        was saved."""
        check_probe(saved, self.logits(probe_texts, what="checking"), self.dtype)


def choose_examples(
    texts: Sequence[str], events: NDArray[np.int_], count: int, answers: tuple[str, str], seed: int
) -> list[tuple[str, str]]:
    """Solved patients for few-shot: drawn from the given (training) rows, half of them events, in
    random order.

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

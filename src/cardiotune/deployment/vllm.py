"""The same risks from a vLLM server: its OpenAI-compatible completions API, asked for the two label
tokens.

Prompts are sent as token ids, so the server's tokenizer and chat template have no say. The logit of
a row is the log-probability of the positive label minus that of the negative one: the softmax's
normalizer falls out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.config import load_resolved
from cardiotune.data.prepare import read_order
from cardiotune.data.reading import Dataset, reading
from cardiotune.data.tokens import LabelTokens, PromptEncoder
from cardiotune.deployment.scorer import Correction, RowScorer
from cardiotune.errors import ConfigError, RunError
from cardiotune.files import read_json
from cardiotune.models.tuned import odds_multiplier, probe_texts, read_calibrator, read_site, recorded_model
from cardiotune.runs import RunFolder
from cardiotune.training.checkpoint import check_probe, verify, version_of
from cardiotune.training.model import build_encoder
from cardiotune.training.weights import same_weights

Array = NDArray[np.float64]
TOP = 20
"""Most likely tokens asked for: what vLLM gives by default (`--max-logprobs`). A tuned model's
labels are among them."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a vLLM server is asked."""

    url: str
    """Ends in `/v1`."""
    model: str | None = None
    """The name that the model is served under; by default the only one."""
    key: str | None = None
    seconds: float = 60
    """For one answer."""


class VllmModel:
    """Patients' texts -> logits, by a server that holds the tuned model (merged, or the base with
    its adapter)."""

    def __init__(
        self,
        server: Server,
        encoder: PromptEncoder,
        labels: LabelTokens,
        batch_rows: int = 64,
    ) -> None:
        """ConfigError when the server does not serve that model, RunError when it is silent."""
        self.encoder, self.labels, self.batch_rows = encoder, labels, batch_rows
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        self._url = server.url.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=server.seconds, trust_env=False)
        try:
            names = [str(entry["id"]) for entry in self._ask("GET", "/models")["data"]]
        except (KeyError, TypeError):
            raise self._strange() from None
        model = server.model
        if model is None and len(names) == 1:
            (model,) = names
        if model not in names:
            raise ConfigError(f"{self._url}: serves {', '.join(names) or 'no model'}; name one with --backend-model")
        self.model = model

    def __call__(self, texts: Sequence[str]) -> Array:
        """(rows,) logits of texts. RunError when the server does not answer as vLLM does."""
        try:
            logits = self._logits(texts)
        except (KeyError, IndexError, TypeError, ValueError):
            raise self._strange() from None
        if not np.isfinite(logits).all():
            raise self._strange()
        return logits

    def _strange(self) -> RunError:
        return RunError(f"{self._url}: answered otherwise than vLLM does; see its log")

    def _logits(self, texts: Sequence[str]) -> Array:
        prompts = [[int(token) for token in ids] for ids in self.encoder.prompts(texts)]
        logits = np.full(len(prompts), np.nan)
        for first in range(0, len(prompts), self.batch_rows):
            some = range(first, min(first + self.batch_rows, len(prompts)))
            for row, found in zip(some, self._first_tokens([prompts[row] for row in some]), strict=True):
                yes, no = (found.get(f"token_id:{label}") for label in (self.labels.positive, self.labels.negative))
                logits[row] = self._told(prompts[row]) if yes is None or no is None else yes - no
        return logits

    def _first_tokens(self, prompts: list[list[int]]) -> list[dict[str, Any]]:
        """For each prompt, the log-probabilities of the likeliest next tokens, by `token_id:N`."""
        choices = self._complete(prompts, max_tokens=1, logprobs=TOP)
        return [choice["logprobs"]["top_logprobs"][0] for choice in choices]

    def _told(self, prompt: list[int]) -> float:
        """The logit of a row whose labels are not both among the likeliest: each is appended, and
        its own one is read."""
        ended = [[*prompt, label] for label in (self.labels.positive, self.labels.negative)]
        positive, negative = self._complete(ended, max_tokens=0, logprobs=1, echo=True)
        return float(positive["logprobs"]["token_logprobs"][-1] - negative["logprobs"]["token_logprobs"][-1])

    def _complete(self, prompts: list[list[int]], **more: Any) -> list[dict[str, Any]]:
        request = {"model": self.model, "prompt": prompts, "temperature": 0, "return_tokens_as_token_ids": True}
        choices: list[dict[str, Any]] = self._ask("POST", "/completions", {**request, **more})["choices"]
        if len(choices) != len(prompts):
            raise RunError(f"{self._url}: {len(choices)} answers came for {len(prompts)} prompts")
        return sorted(choices, key=lambda choice: int(choice["index"]))

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._client.request(method, self._url + path, json=body)
        except httpx.HTTPError as error:
            raise RunError(f"{self._url}: no answer ({type(error).__name__}); is `vllm serve` running there?") from None
        if answer.status_code != 200:  # what it says may quote the prompt
            raise RunError(f"{self._url}{path}: answered with status {answer.status_code}; see the log of vLLM")
        try:
            return answer.json()
        except ValueError:
            raise self._strange() from None


def load_vllm(
    folder: Path,
    url: str,
    name: str | None = None,
    key: str | None = None,
    site: str | None = None,
    dataset: Dataset | None = None,
) -> RowScorer:
    """A run whose model is computed by a vLLM server; prompts, calibration and checks of rows stay
    here. `site` and `dataset` as `RowScorer.load`.

    ConfigError for a run without a tuned label-token model, ModelError when the server does not
    score the run's synthetic sample as the run recorded it: another model, or the base without its
    adapter.
    """
    run = RunFolder(folder)
    run.read_manifest()  # ConfigError when it is no run folder
    config = load_resolved(run.checked(run.config))
    if config.task.head != "label_tokens":
        raise ConfigError(f"{folder}: task.head is {config.task.head}; vLLM gives only what label_tokens needs")
    saved = run.tuned_folder(config.method.kind)
    if not saved.is_dir():
        raise ConfigError(f"{folder}: has no tuned model; train it with `cardiotune train {folder}`")
    verify(recorded_model(run, config))
    read_calibrator(run)
    order, adapted = read_order(run), read_site(run, site) if site else None
    read = reading(config, order, dataset, folder)
    if read.words:
        raise ConfigError(
            f"{folder}: a server of vLLM is asked once a row; serialize.views above 1 needs the run itself"
        )
    weights = same_weights(run, config.model)
    encoder = build_encoder(config, weights)
    labels = encoder.label_tokens(config.task.positive_label, config.task.negative_label)
    model = VllmModel(Server(url, name, key), encoder, labels)
    check_probe(saved, model(probe_texts(config, order)), torch.bfloat16)
    versions = {"run": config.name, "format": "vllm", "model": version_of(saved)}
    return RowScorer(
        config, read, model, versions, Correction(read_json(run.calibration), odds_multiplier(run), adapted)
    )

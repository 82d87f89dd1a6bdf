"""The client of vLLM's completions API, against a small server that speaks it and computes true
log-probabilities."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cardiotune.deployment import vllm
from cardiotune.deployment.scorer import RowScorer
from cardiotune.deployment.vllm import load_vllm
from cardiotune.errors import ConfigError, ModelError, RunError
from serving import KEY, ROW, ROWS, serving, train_toy_run, wait_until

NO_NUMBER = b'{"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"token_id:%d": NaN, "token_id:%d": -0.1}]}}]}'
"""Log-probabilities of the labels, put in by the test."""


class Completions:
    """What vLLM answers to /v1/models and /v1/completions, by plain transformers: one forward pass
    a prompt."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("tuned",)) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.names, self.asked, self.status = names, [], 200
        self.requests = 0
        self.answer: bytes | None = None
        """What is answered in place of the truth."""

    @torch.no_grad()
    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        assert request["model"] in self.names and request["return_tokens_as_token_ids"] and request["temperature"] == 0
        choices = [{"index": index, **self._one(ids, request)} for index, ids in enumerate(request["prompt"])]
        return {"object": "text_completion", "choices": choices[::-1]}  # whoever relies on their order is wrong

    def _one(self, ids: list[int], request: dict[str, Any]) -> dict[str, Any]:
        told = self.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        if request.get("echo"):
            assert request["max_tokens"] == 0
            own = [None, *(float(told[place, token]) for place, token in enumerate(ids[1:]))]
            return {"logprobs": {"tokens": [f"token_id:{token}" for token in ids], "token_logprobs": own}}
        assert request["max_tokens"] == 1
        values, tokens = told[-1].topk(min(request["logprobs"], told.shape[1]))
        top = {f"token_id:{token}": value for token, value in zip(tokens.tolist(), values.tolist(), strict=True)}
        return {"logprobs": {"tokens": [next(iter(top))], "token_logprobs": [values[0].item()], "top_logprobs": [top]}}


@contextmanager
def speaking(completions: Completions) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"object": "list", "data": [{"id": name} for name in completions.names]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            completions.requests += 1
            if self.headers["Authorization"] != f"Bearer {KEY}":
                self._say({"error": {"message": "no key"}}, 401)
            elif completions.status != 200:
                self._say({"error": {"message": str(request)}}, completions.status)
            else:
                self._say(completions.complete(request))

        def _say(self, content: Any, status: int = 200) -> None:
            body = completions.answer or json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return train_toy_run(tmp_path_factory.mktemp("vllm"), toy_model)


@pytest.fixture(scope="module")
def offline(run: Path) -> np.ndarray:
    return RowScorer.load(run).risks(ROWS)


@pytest.mark.parametrize("top", [vllm.TOP, 1, 600])
def test_risks_are_those_of_the_run(run: Path, offline: np.ndarray, monkeypatch: pytest.MonkeyPatch, top: int) -> None:
    """Read from the likeliest tokens, or, where a label is not among them, from the label's own
    log-probability."""
    monkeypatch.setattr(vllm, "TOP", top)
    completions = Completions(run / "model")
    with speaking(completions) as url:
        found = load_vllm(run, url, key=KEY).risks(ROWS)
    np.testing.assert_allclose(found, offline, atol=1e-4)
    assert np.ptp(found) > 0.2
    echoed = any(request.get("echo") for request in completions.asked)
    assert echoed == (top == 1) or top == vllm.TOP
    assert max(len(request["prompt"]) for request in completions.asked) > 16, "rows are sent together"


def test_a_server_with_another_model_is_refused(run: Path, toy_model: Path) -> None:
    with speaking(Completions(toy_model)) as url, pytest.raises(ModelError, match="does not score the recorded sample"):
        load_vllm(run, url, key=KEY)


def test_the_name_of_the_model_is_found_or_asked_for(run: Path, offline: np.ndarray) -> None:
    with speaking(Completions(run / "model", names=("base", "tuned"))) as url:
        with pytest.raises(ConfigError, match="serves base, tuned; name one with --backend-model"):
            load_vllm(run, url, key=KEY)
        np.testing.assert_allclose(load_vllm(run, url, "tuned", KEY).risks(ROWS), offline, atol=1e-4)


def test_what_goes_wrong_is_said_without_a_row(run: Path) -> None:
    with pytest.raises(RunError, match="no answer"):
        load_vllm(run, "http://127.0.0.1:9/v1", key=KEY)
    completions = Completions(run / "model")
    with speaking(completions) as url:
        with pytest.raises(RunError, match="status 401"):
            load_vllm(run, url, key="wrong")
        scorer = load_vllm(run, url, key=KEY)
        completions.status = 500
        with pytest.raises(RunError, match="status 500; see the log of vLLM") as raised:
            scorer.risks([ROW])
        assert "145" not in str(raised.value)
        with serving(run, lambda: scorer) as (client, _):
            answer = client.post("/v1/predict", json={"rows": [ROW]})
            assert answer.status_code == 503 and "retry-after" in answer.headers
            completions.status = 200
            assert client.post("/v1/predict", json={"rows": [ROW]}).status_code == 200


def test_a_backend_that_is_down_is_asked_once_a_pass(run: Path) -> None:
    """Not once for each request that waits, and all of them learn it at once."""
    completions = Completions(run / "model")
    with speaking(completions) as url:
        scorer = load_vllm(run, url, key=KEY)
        with serving(run, lambda: scorer) as (client, made), ThreadPoolExecutor(30) as pool:
            begun, go, score = threading.Event(), threading.Event(), scorer._model

            def slow(texts: list[str]) -> np.ndarray:
                begun.set()
                go.wait(30)
                return score(texts)

            scorer._model = slow
            served = made.models.served
            assert served is not None
            asked = [pool.submit(client.post, "/v1/predict", json={"rows": [ROW]})]
            begun.wait(30)
            asked += [pool.submit(client.post, "/v1/predict", json={"rows": [ROW]}) for _ in range(29)]
            wait_until(lambda: served.waiting == 29)
            completions.status, completions.requests = 500, 0
            go.set()
            answers = [answer.result() for answer in asked]
            assert {answer.status_code for answer in answers} == {503}
            assert all("retry-after" in answer.headers for answer in answers)
            assert completions.requests == 2, "one a pass"
            completions.status = 200
            assert client.post("/v1/predict", json={"rows": [ROW]}).status_code == 200


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b"{}", b'{"choices": 1}', b'{"choices": [{"index": 0}]}', NO_NUMBER]
)
def test_answers_that_are_not_vllms_are_a_backends_fault(run: Path, answer: bytes) -> None:
    completions = Completions(run / "model")
    with speaking(completions) as url:
        scorer = load_vllm(run, url, key=KEY)
        labels = scorer._model.labels  # type: ignore[attr-defined]
        completions.answer = answer % (labels.positive, labels.negative) if answer is NO_NUMBER else answer
        with pytest.raises(RunError, match="answered otherwise than vLLM does"):
            scorer.risks([ROW])
        with pytest.raises(RunError, match="answered otherwise than vLLM does"):
            load_vllm(run, url, key=KEY)

"""The server as its clients meet it: over HTTP, with a real model, at every limit."""

import gzip
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from cardiotune.config import load_config
from cardiotune.deployment import serve as serving_module
from cardiotune.deployment.app import WEB
from cardiotune.deployment.limits import read_keys
from cardiotune.deployment.rows import rows_model
from cardiotune.deployment.scorer import RowScorer
from cardiotune.deployment.serve import ServeSettings, bind
from cardiotune.errors import ConfigError, ModelError
from cardiotune.files import sha256
from cardiotune.models.calibrate import Calibrator
from cardiotune.runs import RunFolder
from serving import KEY, ROW, ROWS, serving, train_toy_run, wait_until
from test_cli import call

CANARY = "Zebra-7319"
"""Something that only a patient's row would hold."""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return train_toy_run(tmp_path_factory.mktemp("serve"), toy_model)


@pytest.fixture(scope="module")
def scorer(run: Path) -> RowScorer:
    return RowScorer.load(run)


@pytest.fixture(scope="module")
def offline(scorer: RowScorer) -> np.ndarray:
    risks = scorer.risks(ROWS)
    assert np.ptp(risks) > 0.2, "the toy model must tell patients apart, or no wrong pairing would be seen"
    return risks


@pytest.fixture(scope="module")
def client(run: Path, scorer: RowScorer) -> Iterator[httpx.Client]:
    """A server without keys."""
    with serving(run, lambda: scorer) as (made, _):
        yield made


@contextmanager
def held(scorer: RowScorer) -> Iterator[None]:
    """The model is busy with something else."""
    with scorer._lock:
        yield


def risks(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [found["probability"] for found in answer.json()["predictions"]]


def error(answer: httpx.Response) -> dict[str, Any]:
    """The failure that an answer tells, in the one shape that all have."""
    said = answer.json()
    assert set(said) == {"error", "request_id"} and set(said["error"]) == {"code", "message", "details"}
    assert said["request_id"] == answer.headers["x-request-id"]
    assert CANARY not in answer.text and "input" not in answer.text
    return said["error"]


# --------------------------------------------------------------------------------------------------
# answers


def test_a_table_gets_the_risks_that_the_model_gives_offline(
    run: Path, client: httpx.Client, offline: np.ndarray
) -> None:
    flagged_at = yaml.safe_load((run / "config.yaml").read_text())["task"]["threshold"]
    assert 0.3 < flagged_at < 0.7, "the share of events in training"
    answer = client.post("/v1/predict", json={"rows": ROWS})
    np.testing.assert_allclose(risks(answer), offline, atol=1e-5)
    for found, risk in zip(answer.json()["predictions"], offline, strict=True):
        assert (
            found["decision"] == int(risk >= flagged_at) and found["threshold"] == flagged_at and not found["abstain"]
        )


def test_no_patient_gets_the_answer_of_another(client: httpx.Client, offline: np.ndarray) -> None:
    def ask(number: int) -> float:
        return risks(client.post("/v1/predict", json={"rows": [ROWS[number]]}))[0]

    numbers = [number % len(ROWS) for number in range(150)]
    with ThreadPoolExecutor(24) as pool:
        np.testing.assert_allclose(list(pool.map(ask, numbers)), offline[numbers], atol=1e-5)
    measured = client.get("/metrics").text
    passes = float(re.search(r"^cardiotune_batch_rows_count (\S+)", measured, re.M)[1])  # type: ignore[index]
    assert passes < 120, "rows that came together were scored one by one"


def test_an_answer_says_what_made_it(client: httpx.Client, scorer: RowScorer) -> None:
    answer = client.post("/v1/predict", json={"rows": [ROW]}).json()
    assert answer["model_version"] == scorer.versions["model"]
    assert answer["calibrator_version"] == scorer.versions["calibrator"]
    assert re.fullmatch(r"[0-9a-f]{32}", answer["request_id"])


def test_out_of_range_the_answer_abstains_and_names_the_column(client: httpx.Client, scorer: RowScorer) -> None:
    answer = client.post("/v1/predict", json={"rows": [{**ROW, "age": 17}, {**ROW, "age": None}, ROW]})
    outside, missing, fine = answer.json()["predictions"]
    assert outside["abstain"] and outside["decision"] is None and outside["out_of_range"] == ["age"]
    assert not missing["abstain"] and missing["not_recorded"] == ["age"] and missing["decision"] in (0, 1)
    assert outside["probability"] == pytest.approx(missing["probability"], abs=1e-5), "as `predict` takes such a value"
    assert fine["out_of_range"] == fine["not_recorded"] == []


def test_nothing_recorded_is_no_patient(client: httpx.Client) -> None:
    (found,) = client.post("/v1/predict", json={"rows": [{}]}).json()["predictions"]
    assert found["abstain"] and len(found["not_recorded"]) == 5


@pytest.mark.parametrize("smoker", ["1", 1, 1.0, True, "yes", "True"])
def test_a_code_may_be_spelt_as_json_likes_it(client: httpx.Client, smoker: Any) -> None:
    wanted = risks(client.post("/v1/predict", json={"rows": [{**ROW, "smoker": "1"}]}))
    assert risks(client.post("/v1/predict", json={"rows": [{**ROW, "smoker": smoker}]})) == pytest.approx(
        wanted, abs=1e-6
    )


def test_each_field_is_left_out_in_turn(client: httpx.Client, scorer: RowScorer) -> None:
    row = {**ROW, "pain": None}
    found = client.post("/v1/explain", json={"rows": [row]}).json()
    wanted = scorer.leave_one_field_out([row])
    assert found["risk"] == pytest.approx(wanted["risk"], abs=1e-5)
    assert [field["column"] for field in found["fields"]] == [field["column"] for field in wanted["fields"]]
    assert found["not_recorded"] == ["pain"]
    without = risks(client.post("/v1/predict", json={"rows": [{**row, "age": None}]}))[0]
    (age,) = (field for field in found["fields"] if field["column"] == "age")
    assert age["risk"] == pytest.approx(without, abs=1e-5) and age["change"] == pytest.approx(
        without - found["risk"], abs=1e-5
    )
    assert error(client.post("/v1/explain", json={"rows": [row, row]}))["message"] == "expected one row"


def test_the_model_is_described(client: httpx.Client) -> None:
    found = client.get("/v1/model").json()
    age = next(field for field in found["fields"] if field["column"] == "age")
    assert (age["unit"], age["range"], age["type"]) == ("years", [18, 110], "integer")
    assert found["outcome"] == "heart disease" and found["research_use_only"] and found["limits"]["rows"] == 1000
    groups = found["calibration_groups"]
    assert all(group["low"] <= group["observed"] <= group["high"] for group in groups)
    assert "patient_id" not in [field["column"] for field in found["fields"]]


# --------------------------------------------------------------------------------------------------
# what is refused, without a word of what was sent

BAD: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "text for a number": (422, json.dumps({"rows": [{"age": CANARY}]}).encode(), JSON),
    "number as text": (422, b'{"rows": [{"age": "61"}]}', JSON),
    "a part of a year": (422, b'{"rows": [{"age": 61.5}]}', JSON),
    "a list": (422, json.dumps({"rows": [{"age": [CANARY]}]}).encode(), JSON),
    "an unknown code": (422, json.dumps({"rows": [{"pain": CANARY}]}).encode(), JSON),
    "true for a number": (422, b'{"rows": [{"age": true}]}', JSON),
    "an unknown column": (422, json.dumps({"rows": [{CANARY: 1}]}).encode(), JSON),
    "an unknown key": (422, json.dumps({"rows": [ROW], CANARY: 1}).encode(), JSON),
    "a row that is none": (422, json.dumps({"rows": [CANARY]}).encode(), JSON),
    "rows that are none": (422, json.dumps({"rows": CANARY}).encode(), JSON),
    "no rows": (422, b'{"rows": []}', JSON),
    "nothing": (422, b"{}", JSON),
    "a bare list": (422, b"[]", JSON),
    "too large a number": (422, b'{"rows": [{"age": 1' + b"0" * 400 + b"}]}", JSON),
    "1e999": (422, b'{"rows": [{"age": 1e999}]}', JSON),
    "NaN": (400, b'{"rows": [{"age": NaN}]}', JSON),
    "a key twice": (400, b'{"rows": [{"age": 61, "age": 62}]}', JSON),
    "broken JSON": (400, b'{"rows": [{"pain": "' + CANARY.encode(), JSON),
    "Latin-1": (400, b'{"rows": [{"pain": "\xe9"}]}', JSON),
    "deep": (400, b"[" * 100_000, JSON),
    "a number of 5,000 digits": (400, b'{"rows": [{"age": ' + b"9" * 5000 + b"}]}", JSON),
    "an empty body": (400, b"", JSON),
    "a form": (415, b"age=61", {"Content-Type": "application/x-www-form-urlencoded"}),
    "no type": (415, b'{"rows": []}', {}),
    "compressed": (415, gzip.compress(b'{"rows": []}' * 1000), {**JSON, "Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_body_is_refused_without_an_echo(client: httpx.Client, kind: str) -> None:
    status, body, headers = BAD[kind]
    answer = client.post("/v1/predict", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    error(answer)


def test_a_refusal_names_row_column_and_what_is_expected(client: httpx.Client) -> None:
    said = error(client.post("/v1/predict", json={"rows": [ROW, {**ROW, "age": CANARY, "sex": CANARY}]}))
    assert said["details"] == [
        {"row": 1, "column": "age", "problem": "expected a whole number, 18 to 110 years, or null"},
        {"row": 1, "column": "sex", "problem": "expected one of 0 (woman), 1 (man), or null"},
    ]


def test_of_many_problems_the_first_are_listed(client: httpx.Client) -> None:
    said = error(client.post("/v1/predict", json={"rows": [{"age": CANARY}] * 90}))
    assert said["message"].startswith("90 problems") and len(said["details"]) == 20


def test_rows_whose_prompts_are_too_long_are_named(
    client: httpx.Client, scorer: RowScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They pass the dictionary, and the model still cannot read them. Of an explanation's variants
    there is one row."""
    encoder = scorer._model.__self__.scorer.encoder  # type: ignore[attr-defined]
    rows = [ROW | {"pain": None} if number in (2, 5) else ROW for number in range(8)]  # "not recorded" is longer
    lengths = encoder.prompts(scorer.reading.texts(scorer._typed(rows))).lengths
    monkeypatch.setattr(encoder, "max_tokens", max(lengths) - 1)
    answer = client.post("/v1/predict", json={"rows": rows})
    assert answer.status_code == 422 and "2 of 8 rows cannot be read whole" in answer.json()["error"]["message"]
    named = [{"row": row, "column": None, "problem": "its prompt is too long"} for row in (2, 5)]
    assert answer.json()["error"]["details"] == named
    one = client.post("/v1/explain", json={"rows": [rows[2]]})
    assert one.status_code == 422 and [problem["row"] for problem in one.json()["error"]["details"]] == [0]


def test_a_wrong_path_or_method_is_not_repeated(client: httpx.Client) -> None:
    assert error(client.get(f"/{CANARY}"))["code"] == "not_found"
    answer = client.delete("/v1/predict")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


# --------------------------------------------------------------------------------------------------
# limits


def test_more_rows_than_allowed(run: Path, scorer: RowScorer) -> None:
    with serving(run, lambda: scorer, rows=3) as (client, _):
        assert client.post("/v1/predict", json={"rows": [ROW] * 3}).status_code == 200
        answer = client.post("/v1/predict", json={"rows": [ROW] * 4})
        assert answer.status_code == 422 and "too many rows" in error(answer)["details"][0]["problem"]


def test_a_body_over_the_limit_with_and_without_its_length(run: Path, scorer: RowScorer) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1024

    with serving(run, lambda: scorer, body_bytes=8192) as (client, _):
        assert client.post("/v1/predict", content=b" " * 8192, headers=JSON).status_code == 400, (
            "the limit itself is fine"
        )
        for body in (b" " * 8193, endless()):
            answer = client.post("/v1/predict", content=body, headers=JSON)
            assert answer.status_code == 413
            error(answer)
        assert client.post("/v1/predict", json={"rows": [ROW]}).status_code == 200


def test_a_body_that_does_not_come(run: Path, scorer: RowScorer) -> None:
    with serving(run, lambda: scorer, body_seconds=0.3) as (client, made):
        head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        assert said_to(made.listening.getsockname(), head).startswith(b"HTTP/1.1 408")
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_come(run: Path, scorer: RowScorer, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(serving_module, "HEADER_SECONDS", 0.3)
    with serving(run, lambda: scorer) as (client, made):
        start = time.monotonic()
        assert said_to(made.listening.getsockname(), begun) == b""
        assert time.monotonic() - start < 4, "the server's keep-alive, not this limit, ended it"
        whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(made.listening.getsockname(), timeout=30) as sent:
            for _ in range(3):  # a connection that is used is left open
                sent.sendall(whole)
                said = b""
                while not said.endswith(b"}"):
                    said += sent.recv(65536)
                assert said.startswith(b"HTTP/1.1 200")
                time.sleep(0.2)
            sent.sendall(b"GET /he")
            start = time.monotonic()
            assert sent.recv(65536) == b"" and time.monotonic() - start < 4
        assert client.get("/healthz").status_code == 200


def said_to(address: tuple[str, int], begun: bytes) -> bytes:
    """All that the server says to a client who says this and then no more."""
    with socket.create_connection(address, timeout=30) as sent:
        sent.sendall(begun)
        said = b""
        while more := sent.recv(65536):
            said += more
    return said


def test_too_many_requests_a_minute(run: Path, scorer: RowScorer) -> None:
    with serving(run, lambda: scorer, ready=False, requests_a_minute=20) as (client, _):
        answers = [client.get("/docs") for _ in range(42)]
        assert client.get("/healthz").status_code == 200, "a probe is never refused"
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.status_code for answer in answers} == {200, 429}
    assert error(refused[0])["code"] == "too_many_requests" and 1 <= int(refused[0].headers["retry-after"]) <= 61


def test_the_queue_is_full(run: Path, scorer: RowScorer, offline: np.ndarray) -> None:
    with serving(run, lambda: scorer, rows_waiting=4, batch=1) as (client, made), ThreadPoolExecutor(3) as pool:
        with held(scorer):
            first = pool.submit(client.post, "/v1/predict", json={"rows": ROWS[:1]})
            wait_until(lambda: made.server.server_state.tasks != set() and waiting(made) == 0)
            time.sleep(0.2)
            second = pool.submit(client.post, "/v1/predict", json={"rows": ROWS[1:5]})
            wait_until(lambda: waiting(made) == 4)
            answer = client.post("/v1/predict", json={"rows": ROWS[5:6]})
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert error(answer)["code"] == "busy"
        np.testing.assert_allclose(risks(first.result()) + risks(second.result()), offline[:5], atol=1e-5)


def waiting(made: Any) -> int:
    return made.models.served.waiting


def test_an_answer_that_takes_too_long(run: Path, scorer: RowScorer) -> None:
    with serving(run, lambda: scorer, answer_seconds=0.5) as (client, _):
        with held(scorer):
            answer = client.post("/v1/predict", json={"rows": [ROW]})
            assert answer.status_code == 503 and "retry-after" in answer.headers
            error(answer)
        # Half a second may be too short for an answer on a busy machine, but not every time.
        wait_until(lambda: client.post("/v1/predict", json={"rows": [ROW]}).status_code == 200)


def test_too_many_requests_at_once(run: Path, scorer: RowScorer) -> None:
    with serving(run, lambda: scorer, requests_at_once=2) as (client, made), ThreadPoolExecutor(2) as pool:
        with held(scorer):
            busy = [pool.submit(client.post, "/v1/predict", json={"rows": [ROW]}) for _ in range(2)]
            wait_until(lambda: len(made.server.server_state.tasks) == 2)
            answer = client.get("/docs")
            assert answer.status_code == 503 and "retry-after" in answer.headers
            assert client.get("/readyz").status_code == 200, "busy is not dead"
        assert [answer.result().status_code for answer in busy] == [200, 200]


def test_a_fault_is_told_by_its_place_alone(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    faulty = RowScorer.load(run)
    model = faulty._model

    def breaks(texts: list[str]) -> Any:
        if any("185" in text for text in texts):
            raise ValueError(f"{CANARY}: a message that quotes the row")
        return model(texts)

    faulty._model = breaks
    logging.getLogger("cardiotune").addHandler(caplog.handler)  # the command line may have cut it off
    with serving(run, lambda: faulty) as (client, _), ThreadPoolExecutor(8) as pool:
        rows = [{**ROW, "sbp": 185 if number == 3 else 120} for number in range(8)]
        answers = list(pool.map(lambda row: client.post("/v1/predict", json={"rows": [row]}), rows))
        again = client.post("/v1/predict", json={"rows": [ROW]})
    assert answers[3].status_code == 500 and again.status_code == 200
    assert {answer.status_code for answer in answers} <= {200, 500}, "a fault of ours fails its pass, and that alone"
    said = error(answers[3])
    assert said["code"] == "internal" and "ValueError" not in answers[3].text
    logging.getLogger("cardiotune").removeHandler(caplog.handler)
    assert f"request {answers[3].json()['request_id']}: ValueError at test_serve.py" in caplog.text
    assert CANARY not in caplog.text


# --------------------------------------------------------------------------------------------------
# who may ask


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_off_loopback_a_key_is_needed(run: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="an API key is needed"):
        bind(ServeSettings(run, host=host, port=0), lambda: RowScorer.load(run))
    assert call("serve", run, "--host", host, "--port", 0).exit_code == 2


@pytest.mark.parametrize("text", ["", "short", f"{KEY}\nshort"])
def test_keys_must_be_there_and_long(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    for found in ((file, None), (None, text)):
        with pytest.raises(ConfigError, match="openssl rand") as raised:
            read_keys(*found)
        assert KEY not in str(raised.value)


def test_keys_are_read_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n\n  {KEY}2 \n")
    assert read_keys(tmp_path / "keys", None) == [KEY.encode(), f"{KEY}2".encode()]
    assert read_keys(None, None) == []
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none", None)


def test_with_keys_only_who_has_one_gets_in(run: Path, scorer: RowScorer) -> None:
    second = "another-key-0123456789"
    with serving(run, lambda: scorer, keys=[KEY.encode(), second.encode()]) as (client, _):
        for given in (None, KEY[:-1], KEY + "x", "Zebra", "\xff"):
            headers = (
                {b"Authorization": f"Bearer {given}".encode("latin-1")}
                if given is not None
                else {b"Authorization": b""}
            )
            for path in ("/v1/model", "/v1/predict", "/v1/report", "/v1/reload", "/metrics", "/openapi.json", "/none"):
                answer = client.request("POST" if path[4:] in ("predict", "reload") else "GET", path, headers=headers)
                assert answer.status_code == 401, (path, given)
                assert answer.headers["www-authenticate"] == "Bearer"
        for key in (KEY, second):
            assert client.get("/v1/model", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        for path in ("/", "/docs", "/healthz", "/readyz", "/web/app.js", "/web/style.css"):
            assert client.get(path, headers={"Authorization": ""}).status_code == 200
        assert client.get("/metrics", headers={"Host": "risk.hospital.example"}).status_code == 200


def test_without_keys_only_loopback_names_and_the_own_page(client: httpx.Client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000"):
        assert client.get("/v1/model", headers={"Host": host}).status_code == 403
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        answer = client.post("/v1/predict", json={"rows": [ROW]}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
    assert error(client.post("/v1/reload"))["message"].startswith("reloading over HTTP needs API keys")


def test_every_answer_tells_browsers_to_be_strict(client: httpx.Client) -> None:
    for answer in (client.get("/"), client.get("/v1/model"), client.get("/none"), client.get("/web/app.js")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


def test_the_page_asks_nobody_else() -> None:
    for file in WEB.iterdir():
        assert not re.search(r"""(src|href|url\(|fetch\(|import)[=("' ]+(https?:)?//""", file.read_text()), file.name


# --------------------------------------------------------------------------------------------------
# loading, reloading, stopping


def test_until_the_model_is_there_the_server_says_so(run: Path, scorer: RowScorer) -> None:
    go = threading.Event()

    def slow() -> RowScorer:
        go.wait(60)
        return scorer

    with serving(run, slow, ready=False) as (client, _):
        assert client.get("/healthz").status_code == 200
        for answer in (
            client.get("/readyz"),
            client.get("/v1/model"),
            client.post("/v1/predict", json={"rows": [ROW]}),
        ):
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        go.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/predict", json={"rows": [ROW]}).status_code == 200


def test_an_export_is_served_as_its_run_is(run: Path, offline: np.ndarray, tmp_path: Path) -> None:
    assert call("export", run, "--to", "merged", "--out", tmp_path / "merged").exit_code == 0
    with serving(tmp_path / "merged", lambda: RowScorer.load(tmp_path / "merged")) as (client, _):
        np.testing.assert_allclose(risks(client.post("/v1/predict", json={"rows": ROWS})), offline, atol=1e-4)
        with ThreadPoolExecutor(8) as pool:
            alone = list(pool.map(lambda row: risks(client.post("/v1/predict", json={"rows": [row]}))[0], ROWS))
        np.testing.assert_allclose(alone, offline, atol=1e-4)
        assert client.get("/v1/model").json()["versions"]["format"] == "merged"


def test_a_reload_during_the_first_load_comes_after_it(run: Path) -> None:
    free = threading.Event()
    made: list[Any] = []

    def load() -> RowScorer:
        if not made:
            made.append(None)
            assert free.wait(60)
            made[0] = RowScorer.load(run)
            return made[0]
        made.append(RowScorer.load(run))
        return made[-1]

    with serving(run, load, ready=False, keys=[KEY.encode()]) as (client, server), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/reload")
        time.sleep(0.5)
        assert not asked.done()
        free.set()
        assert asked.result(60).status_code == 200
        assert len(made) == 2 and server.models.served.scorer is made[1], "the model that was loaded last is served"


def test_yes_and_true_are_codes_of_yes_no_columns_only() -> None:
    rows = rows_model(load_config("statlog_heart").data, 5)
    assert rows.model_validate({"rows": [{"resting_ecg": 1, "exercise_angina": True}]})
    for sent in (True, "yes"):
        with pytest.raises(ValidationError, match="resting_ecg"):
            rows.model_validate({"rows": [{"resting_ecg": sent}]})


def test_a_column_that_is_known_but_not_sent_is_said(client: httpx.Client) -> None:
    found = error(client.post("/v1/predict", json={"rows": [{**ROW, "disease": "1"}]}))
    (problem,) = found["details"]
    assert problem == {
        "row": 0,
        "column": "disease",
        "problem": "not a column that is sent: the model does not read it",
    }


def test_reloading_takes_a_good_model_and_refuses_a_bad_one(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with serving(copy, lambda: RowScorer.load(copy), keys=[KEY.encode()]) as (client, _):
        before = risks(client.post("/v1/predict", json={"rows": ROWS}))
        calibration = json.loads((copy / "calibration.json").read_text())
        calibration["models"]["tuned"] = {"method": "platt", "intercept": 1.0, "slope": 0.5}
        (copy / "calibration.json").write_text(json.dumps(calibration))
        assert client.post("/v1/reload").status_code == 409, "the run has recorded another"
        RunFolder(copy).update_manifest(files={"calibration.json": sha256(copy / "calibration.json")})
        assert client.post("/v1/reload").json() == {"status": "reloaded"}
        changed = client.post("/v1/predict", json={"rows": ROWS})
        assert max(abs(np.array(risks(changed)) - before)) > 0.05
        (weights,) = (copy / "model").glob("*.safetensors")
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        answer = client.post("/v1/reload")
        assert answer.status_code == 409 and "ModelError" in error(answer)["message"]
        assert str(copy) not in answer.text
        after = client.post("/v1/predict", json={"rows": ROWS})
        assert risks(after) == pytest.approx(risks(changed), abs=1e-6)
        assert after.json()["calibrator_version"] == changed.json()["calibrator_version"]
        measured = client.get("/metrics").text
        assert 'cardiotune_reloads_total{outcome="loaded"} 1.0' in measured
        assert 'cardiotune_reloads_total{outcome="refused"} 2.0' in measured


def test_a_reload_under_load_loses_and_mixes_nothing(run: Path, scorer: RowScorer, offline: np.ndarray) -> None:
    other = RowScorer.load(run)
    other.calibrator = Calibrator("platt", 3.0, 1.0)
    other.versions = {**other.versions, "calibrator": "other"}
    models = [scorer, other, scorer, other, scorer, other]
    wanted = {scorer.versions["calibrator"]: offline, "other": other.risks(ROWS)}
    turn = iter(models)
    seen = set()
    with serving(run, lambda: next(turn), keys=[KEY.encode()]) as (client, _), ThreadPoolExecutor(8) as pool:
        asked = {pool.submit(client.post, "/v1/predict", json={"rows": [ROWS[n % 60]]}): n % 60 for n in range(150)}
        for _ in range(5):
            assert client.post("/v1/reload").status_code == 200
        for future, number in asked.items():
            answer = future.result()
            version = answer.json()["calibrator_version"]
            seen.add(version)
            assert risks(answer) == pytest.approx([wanted[version][number]], abs=1e-5)
    assert len(seen) == 2


def test_a_bad_first_model_ends_the_server(run: Path, tmp_path: Path) -> None:
    def bad() -> RowScorer:
        raise ModelError("damaged")

    made = bind(ServeSettings(run, port=0), bad)
    with pytest.raises(ModelError, match="damaged"):
        made.run()
    done = call("serve", tmp_path, "--port", 0)
    assert done.exit_code == 2 and "not a run folder" in done.output


def test_a_port_in_use_is_said(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen there"):
            bind(ServeSettings(run, port=taken.getsockname()[1]), lambda: RowScorer.load(run))


def test_signals_reload_and_stop_and_nothing_of_a_row_is_written(
    run: Path, tmp_path: Path, offline: np.ndarray
) -> None:
    """The command itself, in a process of its own."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "cardiotune", "serve", copy, "--port", "0", "--rate", "100000"]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=os.environ) as process:
        try:
            wait_until(lambda: "serving model" in log.read_text() or process.poll() is not None)
            url = re.search(r"http://\S+", log.read_text())[0]  # type: ignore[index]
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                np.testing.assert_allclose(risks(client.post("/v1/predict", json={"rows": ROWS})), offline, atol=1e-5)
                client.post("/v1/predict", json={"rows": [{"pain": CANARY, CANARY: 1}]})
                client.get(f"/{CANARY}?name={CANARY}", headers={"User-Agent": CANARY})
                process.send_signal(signal.SIGHUP)
                wait_until(lambda: log.read_text().count("serving model") == 2)
                (copy / "config.yaml").write_text("name: [")
                process.send_signal(signal.SIGHUP)
                wait_until(lambda: "reload refused, the old model stays" in log.read_text())
                assert risks(client.post("/v1/predict", json={"rows": ROWS[:1]})) == pytest.approx(
                    offline[:1], abs=1e-5
                )
                with ThreadPoolExecutor(12) as pool:
                    accepted = [pool.submit(client.post, "/v1/predict", json={"rows": ROWS * 16}) for _ in range(4)]
                    in_flight = re.compile(r"^cardiotune_rows_total (\S+)", re.M)
                    wait_until(lambda: float(in_flight.search(client.get("/metrics").text)[1]) > 61)  # type: ignore[index]
                    process.send_signal(signal.SIGTERM)
                    for answer in accepted:
                        np.testing.assert_allclose(risks(answer.result()), np.tile(offline, 16), atol=1e-5)
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
    assert CANARY not in log.read_text()


# --------------------------------------------------------------------------------------------------
# the description of the API


def test_generated_requests_find_no_fault(run: Path, scorer: RowScorer, tmp_path: Path) -> None:
    """schemathesis: whatever the description allows or forbids, no answer is a 5xx, and each fits
    the description."""
    report = tmp_path / "report.xml"
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
    options = ["--checks", checks, "--mode", "all", "--max-examples", "25", "--report-junit-path", str(report)]
    with serving(run, lambda: scorer, requests_a_minute=10**6) as (client, _):
        # A process of its own: Python's parser fails where two threads of one process use it at
        # once.
        command = [Path(sys.executable).with_name("schemathesis"), "run", f"{client.base_url}/openapi.json", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout
    tried = {case.get("name") for case in ElementTree.parse(report).iter("testcase")}
    assert {"POST /v1/predict", "POST /v1/explain", "GET /v1/model"} <= tried

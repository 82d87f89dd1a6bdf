"""What stands between the network and the model: who may ask, how much, how often and for how long.

`Guard` wraps the whole application. It reads a body only as far as it may grow, answers every
failure in one shape that repeats nothing of what came, and writes one line a request: method,
route, status, size, time. Never a path, a query, a header or a value.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pydantic import BaseModel

from cardiotune.errors import ConfigError

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PROBES = ("/healthz", "/readyz")
"""Never limited: a busy server is not to be taken for a dead one."""
OPEN = ("/", "/docs", *PROBES)
"""Paths that need no key, like all below `/web/`: nothing of the model or of a patient is in
them."""
SHORTEST_KEY = 16
PASSED_OVER = 4 << 20
"""Bytes of a body over the limit that are read, and not kept, before it is refused."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""On every answer; one that sets its own keeps it."""
WORDS = {
    400: "bad_request",
    401: "key_needed",
    403: "forbidden",
    404: "not_found",
    405: "wrong_method",
    408: "too_slow",
    409: "refused",
    413: "too_large",
    415: "wrong_content_type",
    422: "invalid_rows",
    429: "too_many_requests",
    503: "busy",
}


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them, may ask of the server."""

    body_bytes: int = 1 << 20
    rows: int = 1000
    """Rows of a request."""
    body_seconds: float = 10
    """Time for a whole body to arrive."""
    answer_seconds: float = 60
    """Time that rows may wait and be scored."""
    requests_a_minute: int = 6000
    """Of one key, or of one address where there are no keys."""
    requests_at_once: int = 1000
    """Of all clients together."""


class RowProblem(BaseModel):
    """What is wrong with a row, if with one; its number counts from 0. Never a value."""

    row: int | None
    column: str | None
    problem: str


class Fault(BaseModel):
    """What went wrong, without a word of what was sent."""

    code: str
    message: str
    details: list[RowProblem]


class Failure(BaseModel):
    """Every answer that is not a success."""

    error: Fault
    request_id: str


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An answer other than success: status, a message that repeats nothing of the request, details,
    headers."""

    def __init__(
        self,
        status: int,
        message: str,
        details: list[RowProblem] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.details, self.headers = status, message, details or [], headers or {}

    def content(self, request_id: str) -> Failure:
        """The body of the answer; of a fault of ours it says nothing but the request's id."""
        code = WORDS.get(self.status, "internal" if self.status >= 500 else "refused")
        return Failure(error=Fault(code=code, message=self.message, details=self.details), request_id=request_id)


def busy(message: str, seconds: int = 1) -> Refusal:
    """Try again later."""
    return Refusal(503, message, headers={"Retry-After": str(seconds)})


def read_keys(file: Path | None, text: str | None) -> list[bytes]:
    """API keys, one a line, of a file or of an environment variable. ConfigError when one is too
    short, or none is there."""
    if file is None and text is None:
        return []
    if file is not None:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{file}: cannot be read; expected a file of API keys, one a line") from None
    keys = [line.strip().encode() for line in (text or "").splitlines() if line.strip()]
    if not keys:
        raise ConfigError("API keys: none found; expected one a line, for example from `openssl rand -hex 32`")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise ConfigError(
            f"API keys: one is shorter than {SHORTEST_KEY} characters; make it with `openssl rand -hex 32`"
        )
    return keys


class Guard:
    """The application behind its limits, as an ASGI application.

    `on_request(route, method, status, seconds)` is told of every answer. Without `keys`, only
    requests that name a loopback host are let in, so that a web page elsewhere cannot reach the
    server through a name of its own.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        keys: list[bytes],
        on_request: Callable[[str, str, int, float], None] = lambda *_: None,
    ) -> None:
        self.app, self.limits, self.keys, self.on_request = app, limits, keys, on_request
        self.at_once = 0
        self._rate = FixedWindowRateLimiter(MemoryStorage())
        self._allowance = RateLimitItemPerMinute(limits.requests_a_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; lifespan events go through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, request_id = time.perf_counter(), uuid.uuid4().hex
        answer = _Answer(send, request_id)
        scope.setdefault("state", {})["request_id"] = request_id
        self.at_once += 1
        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await self.app(scope, _replay(body, receive), answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception as error:  # noqa: BLE001 - a message may quote a row: only its type and place are told
            log.error("request %s: %s at %s", request_id, type(error).__name__, _place(error))
            await answer.refuse(Refusal(500, "internal error; the log has it under this request id"))
        finally:
            self.at_once -= 1
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - start
            self.on_request(route, _method(scope), answer.status, seconds)
            log.info("request %s: %s %s %d, %.0f ms", request_id, _method(scope), route, answer.status, 1000 * seconds)

    def _check(self, scope: Scope) -> None:
        """Refusal of a request that must not be served, before any of its body is read."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        probe = scope["path"] in PROBES
        if self.at_once > self.limits.requests_at_once and not probe:
            raise busy(f"more than {self.limits.requests_at_once} requests at once; try again")
        if not self.keys and _host(headers) not in LOOPBACK:
            raise Refusal(403, "without API keys the server answers under a loopback name only, such as 127.0.0.1")
        if scope["method"] != "GET" and headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise Refusal(403, "a page of another site sent this; only the server's own page may")
        known = self._key(headers)
        client = hashlib.sha256(known).hexdigest() if known else (scope.get("client") or ("unknown",))[0]
        if not probe and not self._rate.hit(self._allowance, client):
            reset = self._rate.get_window_stats(self._allowance, client).reset_time - time.time()
            raise Refusal(
                429,
                f"more than {self.limits.requests_a_minute} requests a minute; try again",
                headers={"Retry-After": str(max(1, round(reset)))},
            )
        path = scope["path"]
        if self.keys and not known and path not in OPEN and not path.startswith("/web/"):
            raise Refusal(
                401,
                "an API key is needed: send `Authorization: Bearer KEY`",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _key(self, headers: dict[bytes, bytes]) -> bytes | None:
        """The known key that the request holds. All are compared, each in a time that does not
        depend on where it differs."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        given = given.strip() if scheme.lower() == b"bearer" else b""
        matches = [key for key in self.keys if secrets.compare_digest(key, given)]
        return matches[0] if matches else None

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Refusal when it grows too large, whatever its length was said to be, or
        comes too slowly."""
        headers = dict(scope["headers"])
        most = self.limits.body_bytes
        too_large = Refusal(413, f"the body is over {most} bytes; send fewer rows", headers={"Connection": "close"})
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await _pass_over(receive, int(declared))
            raise too_large
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "the body is compressed; send it as it is")
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    if len(body) > most:
                        await _pass_over(receive, PASSED_OVER)
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refusal(
                408,
                f"the body did not arrive within {self.limits.body_seconds:g} seconds",
                headers={"Connection": "close"},
            ) from None
        return bytes(body)


class _Answer:
    """Sends an answer with the headers that all have; remembers its status, and whether it has
    begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message["headers"]}
            more = {"x-request-id": self._request_id, **HEADERS}
            message["headers"] = [
                *message["headers"],
                *((name.encode(), value.encode()) for name, value in more.items() if name.encode() not in own),
            ]
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, unless an answer has begun: then it is cut off, and the client
        sees that."""
        if self.status:
            return
        body = json.dumps(refusal.content(self._request_id).model_dump()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})


async def _pass_over(receive: Receive, size: int) -> None:
    """Read on for a moment and keep nothing: a client that is cut off while it sends may never see
    the answer."""
    left = min(size, PASSED_OVER)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what the client does next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _host(headers: dict[bytes, bytes]) -> str:
    """The name under which the server was asked, without its port."""
    named = headers.get(b"host", b"").decode("latin-1")
    return named[1:].partition("]")[0] if named.startswith("[") else named.partition(":")[0].lower()


def _method(scope: Scope) -> str:
    """The method, if it is one that is usual: an invented one may hold anything."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    return str(scope["method"]) if scope["method"] in known else "other"


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"

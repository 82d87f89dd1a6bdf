"""`cardiotune serve`: one process that loads a model, listens, reloads on SIGHUP and stops
gracefully on SIGTERM."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cardiotune.deployment.app import Measures, create_app
from cardiotune.deployment.batching import BatchSettings
from cardiotune.deployment.limits import LOOPBACK, Limits
from cardiotune.deployment.scorer import RowScorer
from cardiotune.deployment.served import Served
from cardiotune.errors import CardioTuneError, ConfigError, RunError
from cardiotune.training.memory import release

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""How long the scoring thread may keep the interpreter while a request waits for it; Python's 0.005
is felt at each read and write of each connection."""
HEADER_SECONDS = 30
"""Time for the head of a request, and for a connection to stay without one; the body has a limit of
its own. Hundreds of clients that start at once, on a machine that is busy scoring, need some."""


@dataclass(frozen=True)
class ServeSettings:
    """Where and how to listen."""

    folder: Path
    """A run folder or an export."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    keys: list[bytes] = field(default_factory=list)
    """API keys; off loopback one at least."""
    limits: Limits = field(default_factory=Limits)
    batches: BatchSettings = field(default_factory=BatchSettings)


class Models:
    """The model that is served now, and how it is replaced."""

    def __init__(self, load: Callable[[], RowScorer], settings: ServeSettings, measures: Measures) -> None:
        self.served: Served | None = None
        self.failure: CardioTuneError | None = None
        """Why there is no first model."""
        self.on_failure: Callable[[], None] = lambda: None
        self._load, self._settings, self._measures = load, settings, measures
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load in the background, so that the probes answer meanwhile; reload on SIGHUP."""
        # Outside of the main thread, as in a test, signals cannot be caught.
        with contextlib.suppress(RuntimeError, ValueError, AttributeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._on_signal()))
        self._spawn(self._first())

    async def reload(self) -> None:
        """Load anew and swap. What the old model has accepted, it answers. CardioTuneError when the
        new one is bad."""
        async with self._one_at_a_time:
            try:
                new = await asyncio.to_thread(self._open)
            except CardioTuneError as error:
                self._measures.reloads.labels("refused").inc()
                log.warning("reload refused, the old model stays: %s", error)
                raise
            old, self.served = self.served, new
            self._measures.reloads.labels("loaded").inc()
            log.info("serving model %s, calibrator %s", *_names(new))
            if old:
                await asyncio.to_thread(old.close)
                del old
                await asyncio.to_thread(release)

    async def stop(self) -> None:
        """Answer what was accepted."""
        if self.served:
            await asyncio.to_thread(self.served.close)

    def _open(self) -> Served:
        """A loaded model. Whatever makes it fail, it is a CardioTuneError that names no value."""
        try:
            scorer = self._load()
            settings = self._settings
            return Served(scorer, settings.folder, settings.limits.rows, settings.batches, self._measures.on_batch)
        except CardioTuneError:
            raise
        except Exception as error:
            raise RunError(f"{self._settings.folder}: cannot be loaded ({type(error).__name__})") from error

    async def _first(self) -> None:
        async with self._one_at_a_time:  # a reload that is asked for meanwhile comes after it
            try:
                self.served = await asyncio.to_thread(self._open)
                log.info("serving model %s, calibrator %s", *_names(self.served))
            except CardioTuneError as error:
                self.failure = error
                self.on_failure()

    async def _on_signal(self) -> None:
        with contextlib.suppress(CardioTuneError):  # told in the log
            await self.reload()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself would not keep it
        task.add_done_callback(self._tasks.discard)


@dataclass(frozen=True)
class Serving:
    """A server that is bound to its address and has not begun to answer."""

    server: uvicorn.Server
    models: Models
    listening: socket.socket

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self) -> None:
        """Answer until SIGTERM, SIGINT or `server.should_exit`, and finish what was accepted.

        Raises what `load` raised for the first model.
        """
        log.info("listening on %s", self.url)
        sys.setswitchinterval(SWITCH_SECONDS)
        with self.listening:
            self.server.run(sockets=[self.listening])
        if self.models.failure:
            raise self.models.failure


def bind(settings: ServeSettings, load: Callable[[], RowScorer]) -> Serving:
    """Take the address. `load` will give the model, and again at each reload.

    Raises ConfigError when the address cannot be had, or is reachable from other machines and there
    is no key.
    """
    if settings.host not in LOOPBACK and not settings.keys:
        raise ConfigError(
            f"--host {settings.host}: reachable from other machines, so an API key is needed; give --api-key-file FILE, "
            "one key a line, for example from `openssl rand -hex 32`"
        )
    measures = Measures()
    models = Models(load, settings, measures)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(models, settings.limits, settings.keys, measures, settings.folder),
            http=_Impatient,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=HEADER_SECONDS,
            timeout_graceful_shutdown=round(settings.limits.answer_seconds) + 5,
        )
    )
    models.on_failure = lambda: setattr(server, "should_exit", True)
    return Serving(server, models, _listen(settings.host, settings.port))


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ConfigError(
            f"{host}, port {port}: cannot listen there ({error.strerror}); choose another with --host or --port"
        ) from None
    return listening


def _names(served: Served) -> tuple[str, str]:
    return served.scorer.versions["model"], served.scorer.versions["calibrator"]


class _Impatient(H11Protocol):
    """Closes a connection whose client has begun a request, or opened the connection, and does not
    come to the point."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._idle():
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)
        super().data_received(data)
        if self._deadline is not None and not self._idle():
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        self._deadline = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()

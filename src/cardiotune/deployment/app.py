"""The HTTP side: which paths there are and what they answer. What may come in is decided in
`limits` and `rows`."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from cardiotune import __version__
from cardiotune.deployment.batching import QueueFullError
from cardiotune.deployment.card import ServedModel
from cardiotune.deployment.limits import Failure, Guard, Limits, Refusal, RowProblem, busy
from cardiotune.deployment.rows import MOST_PROBLEMS, Row, as_rows, problems
from cardiotune.deployment.served import Prediction, Served
from cardiotune.errors import CardioTuneError, DataError, ModelError, PromptsTooLongError, RunError

log = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
"""The report styles itself inside its one file; it runs no script."""
ABOUT = "Risks of patients' rows, for research use only. Send rows as they stand in a table; no prompt is needed."
Answer = TypeVar("Answer")


class Models(Protocol):
    """Holds the model that is served now."""

    served: Served | None

    async def start(self) -> None:
        """Begin to load."""

    async def reload(self) -> None:
        """Load anew and swap; CardioTuneError when the new model is bad, and the old one stays."""

    async def stop(self) -> None:
        """Answer what was accepted."""


class Allowed(BaseModel):
    """What one request may hold, and how long its answer may take."""

    rows: int
    body_bytes: int
    answer_seconds: float


class Model(ServedModel):
    """Answer of `/v1/model`."""

    limits: Allowed


class Predictions(BaseModel):
    """Answer of `/v1/predict`: a prediction for each row, in the order of the rows."""

    request_id: str
    model_version: str
    calibrator_version: str
    predictions: list[Prediction]


class Change(BaseModel):
    """The risk of the same patient with one field not recorded."""

    column: str
    risk: float
    change: float
    """That risk minus the patient's: below 0, the field raises the risk."""


class Explanation(BaseModel):
    """Answer of `/v1/explain`."""

    request_id: str
    model_version: str
    calibrator_version: str
    risk: float
    fields: list[Change]
    not_recorded: list[str]


class Status(BaseModel):
    """Answer of the probes and of a reload."""

    status: str


class Measures:
    """What `/metrics` tells Prometheus: counts, sizes and times, nothing of a patient."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "cardiotune_requests",
            "Answers, by route, method and status",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "cardiotune_request_seconds", "Time to an answer, by route", ["route"], registry=self.registry
        )
        self.rows = Counter("cardiotune_rows", "Rows scored", registry=self.registry)
        self.abstained = Counter("cardiotune_rows_abstained", "Rows whose answer abstained", registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
        self.batch = Histogram("cardiotune_batch_rows", "Rows of a pass", registry=self.registry, buckets=sizes)
        self.batch_seconds = Histogram("cardiotune_batch_seconds", "Time of a pass", registry=self.registry)
        self.waiting = Gauge("cardiotune_rows_waiting", "Rows that wait to be scored", registry=self.registry)
        self.reloads = Counter("cardiotune_reloads", "Reloads, by outcome", ["outcome"], registry=self.registry)

    def on_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Of one answer."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def on_batch(self, rows: int, seconds: float) -> None:
        """Of one pass of the model."""
        self.rows.inc(rows)
        self.batch.observe(rows)
        self.batch_seconds.observe(seconds)


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure} for status in statuses}


GUARDED = _failures(401, 403, 429, 503)
"""What any path but the page may answer."""
ROWS = _failures(400, 401, 403, 408, 413, 415, 422, 429, 503)


def create_app(models: Models, limits: Limits, keys: list[bytes], measures: Measures, folder: Path) -> Guard:
    """The application: its paths behind its limits."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await models.start()
        yield
        await models.stop()

    app = FastAPI(
        title="CardioTune", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal)  # answered here; the guard logs it
    app.mount("/web", StaticFiles(directory=WEB))
    seconds = limits.answer_seconds

    def current() -> Served:
        if models.served is None:
            raise busy("the model is being loaded", 5)
        return models.served

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(WEB / "docs.html")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return describe(app, models.served, bool(keys))

    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Status:
        return Status(status="ok")

    @app.get("/readyz", summary="Is a model loaded?", responses=_failures(503))
    async def readyz() -> Status:
        current()
        return Status(status="ready")

    @app.get("/metrics", summary="Counts and times for Prometheus", response_class=Response, responses=GUARDED)
    async def metrics() -> Response:
        measures.waiting.set(models.served.waiting if models.served else 0)
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", summary="The model: fields of a row, versions, card, metrics", responses=GUARDED)
    async def model() -> Model:
        allowed = Allowed(rows=limits.rows, body_bytes=limits.body_bytes, answer_seconds=seconds)
        return Model(**dict(current().description), limits=allowed)

    @app.get(
        "/v1/report", summary="The run's report, HTML", response_class=Response, responses=GUARDED | _failures(404)
    )
    async def report() -> Response:
        if not (folder / "report.html").is_file():
            raise Refusal(404, "no report lies beside this model")
        return FileResponse(folder / "report.html", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.post("/v1/predict", summary="Risks of rows", responses=ROWS)
    async def predict(request: Request) -> Predictions:
        body = _json(request, await request.body())
        served = current()  # no await from here to the queue: a reload cannot come between
        rows = _checked(served, body)
        found = await _answered(lambda: served.predict(rows), len(rows), seconds)
        measures.abstained.inc(sum(prediction.abstain for prediction in found))
        return Predictions(predictions=found, **_versions(request, served))

    @app.post("/v1/explain", summary="What one row's risk rests on: each field left out", responses=ROWS)
    async def explain(request: Request) -> Explanation:
        body = _json(request, await request.body())
        served = current()
        rows = _checked(served, body)
        if len(rows) != 1:
            raise Refusal(422, "expected one row")
        if not served.explains:
            raise Refusal(422, "patients' texts come ready made, so no field can be left out")
        (found,) = await _answered(lambda: served.explain(rows[0]), 1, seconds)
        return Explanation(**found, **_versions(request, served))

    @app.post("/v1/reload", summary="Load the model anew", responses=GUARDED | _failures(409))
    async def reload() -> Status:
        if not keys:
            raise Refusal(403, "reloading over HTTP needs API keys; without them, send SIGHUP")
        try:
            await models.reload()
        except CardioTuneError as error:
            raise Refusal(
                409, f"the new model is bad ({type(error).__name__}), the old one stays; see the log"
            ) from None
        return Status(status="reloaded")

    return Guard(app, limits, keys, measures.on_request)


def describe(app: FastAPI, served: Served | None, needs_key: bool) -> dict[str, Any]:
    """The OpenAPI description, with the rows of the model that is served."""
    document = get_openapi(title="CardioTune", version=__version__, description=ABOUT, routes=app.routes)
    schemas = document["components"]["schemas"]
    if served:
        body = served.rows.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**body.pop("$defs"), "Rows": body}
        one = {**body, "properties": {"rows": {**body["properties"]["rows"], "maxItems": 1}}}
        schemas["OneRow"] = {**one, "title": "OneRow"}
    for path, name in (("/v1/predict", "Rows"), ("/v1/explain", "OneRow")):
        schema = {"$ref": f"#/components/schemas/{name}"} if served else {"type": "object"}
        content = {"application/json": {"schema": schema}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            if path not in ("/healthz", "/readyz"):
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    return document


def _json(request: Request, body: bytes) -> Any:
    """Strict JSON: no NaN, no key twice. Refusal when it is something else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "expected Content-Type: application/json")
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON: UTF-8, no NaN or infinity, no key twice") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError("not a JSON number")


def _checked(served: Served, body: Any) -> list[Row]:
    try:
        return as_rows(served.rows.model_validate(body))
    except ValidationError as error:
        found = problems(error, served.data)
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise Refusal(422, f"{count} in what was sent{_first_are_listed(found)}", found[:MOST_PROBLEMS]) from None


def _first_are_listed(found: list[Any]) -> str:
    return f"; the first {MOST_PROBLEMS} are listed" if len(found) > MOST_PROBLEMS else ""


async def _answered(submit: Callable[[], "Future[list[Answer]]"], rows: int, seconds: float) -> list[Answer]:
    """The answers to a request of so many rows, or the refusal that says why there are none."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(submit()), seconds)
    except QueueFullError:
        raise busy("too many rows wait already; try again") from None
    except TimeoutError:
        raise busy(f"no answer within {seconds:g} seconds; try again, with fewer rows", 5) from None
    except (RunError, ModelError) as error:  # a backend elsewhere, no memory, an output that is no number
        log.warning("not scored: %s", error)
        raise busy("the model does not answer; try again", 5) from None
    except PromptsTooLongError as error:
        named = sorted({min(row, rows - 1) for row in error.rows})  # an explanation asks about variants of its one row
        found = [RowProblem(row=row, column=None, problem="its prompt is too long") for row in named]
        count = f"{len(named)} of {rows} rows cannot be read whole by this model"
        raise Refusal(422, count + _first_are_listed(found), found[:MOST_PROBLEMS]) from None
    except DataError as error:  # a row that passed the dictionary and still cannot be scored
        raise Refusal(422, str(error)) from None


def _versions(request: Request, served: Served) -> dict[str, str]:
    versions = served.scorer.versions
    return {
        "request_id": request.state.request_id,
        "model_version": versions["model"],
        "calibrator_version": versions["calibrator"],
    }


def _failed(request: Request, refusal: Refusal) -> Response:
    return JSONResponse(refusal.content(request.state.request_id).model_dump(), refusal.status, refusal.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _failed(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    words = {404: "no such path; see /docs", 405: "this path does not take this method; see /docs"}
    return _failed(
        request,
        Refusal(error.status_code, words.get(error.status_code, "refused"), headers=dict(error.headers or {})),
    )


async def _internal(request: Request, error: Exception) -> Response:
    return _failed(request, Refusal(500, "internal error; the log has it under this request id"))

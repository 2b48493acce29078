"""`app(reader)`: the ASGI app.

Pictures are uploaded and kept in memory until the reply; URLs and paths are never followed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mien.errors import PhotoError, UsageError
from mien.server.errors import NEEDED, ApiError, of_photo

try:
    import python_multipart  # noqa: F401 - Starlette's form parser asks for it only when a form comes
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware

    from mien.server import openapi, reference, schema
    from mien.server.middleware import Middleware
    from mien.server.request_body import read_form
except ModuleNotFoundError as e:
    raise UsageError(f"{NEEDED} ({e.name} is not installed)") from e

from mien import __version__
from mien.inference.reader import Reader
from mien.server.errors import envelope
from mien.server.limits import Keys, Limits, check_origins
from mien.server.page import Page
from mien.server.worker import AnalyzeRequest
from mien.tasks import Task, described

if TYPE_CHECKING:
    from mien.recognition.gallery import Gallery
from mien.server.service import Service

ABOUT = "Reads whole faces. Uploaded pictures stay in memory and are deleted after the reply."
ANALYZE_ERRORS = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)


def app(
    reader: Reader,
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    offered: Sequence[str] | None = None,
    workers: int = 4,
    batch_faces: int = 16,
    batch_wait_ms: float = 4.0,
    gallery: Callable[[Reader], Gallery] | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The server as an ASGI app, for `mien serve` or any ASGI server (one process; run several for more).

    Args:
        reader: from `mien.load()`.
        keys: accepted API keys. None: no keys, and only requests to a loopback name are accepted.
        limits: see `Limits`.
        offered: tasks that may be requested; None for all tasks of the model.
        gallery: builds a gallery with the given reader, for example `functools.partial(Gallery, "people")`;
            None for no gallery.
        origins: origins of other pages whose scripts may send requests (CORS), such as
            "https://photos.example". "*" for all, which needs keys.
        workers: number of pictures that are decoded and searched for faces at once.
        batch_faces: see `Batcher`.
        batch_wait_ms: see `Batcher`.

    Raises:
        UnknownTask: the model does not have a task.
        UsageError: another argument is wrong.
    """
    check_origins(origins, keys)
    service = Service(
        reader,
        limits=limits or Limits(),
        offered=offered,
        workers=workers,
        batch_faces=batch_faces,
        batch_wait_ms=batch_wait_ms,
    )

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        service.close()

    api = FastAPI(
        title="mien", version=__version__, lifespan=life, docs_url=None, redoc_url=None, description=ABOUT
    )
    api.state.service = service
    _pictures(api, service)
    _about(api, service)
    _errors(api)
    if gallery is not None:
        from mien.server.gallery_routes import routes

        if service.identity not in service.offered:
            raise UsageError(
                "a gallery needs identity, and this server does not offer it; add it to --tasks, or start"
                " without the gallery"
            )
        routes(api, service, gallery(service.work.reader_for((service.identity,))))
    plain = api.openapi
    api.openapi = lambda: openapi.finish(plain(), keys is not None)  # type: ignore[method-assign]
    api.add_middleware(
        Middleware,
        keys=keys,
        limits=service.limits,
        counts=service.counts,
        uploads=service.uploads,
        origins=origins,
    )
    api.add_middleware(
        Page
    )  # before the key check: a browser has no key until the user has entered it in the page
    if origins:  # before both: a browser sends no key with a CORS preflight request
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return api


def _pictures(api: FastAPI, service: Service) -> None:
    """Add the routes that take pictures."""

    @api.post(
        "/v1/analyze",
        responses=openapi.replies(schema.Analysis, *ANALYZE_ERRORS),
        openapi_extra=openapi.body(schema.AnalyzeForm),
    )
    async def analyze(request: Request) -> JSONResponse:
        """Read every face of one or more pictures. The reply has the records of `mien analyze`.

        A picture that cannot be read gets an error record, and the others are read. If it is the only
        picture, the reply is that error.
        """
        form = (await read_form(request, service.limits, request.state.deadline)).checked(schema.AnalyzeForm)
        if form.tasks is not None:
            service.allowed(form.tasks)
        analyze_request = AnalyzeRequest(
            form.tasks or service.default,
            form.score,
            form.faces,
            form.masks is not None,
            form.thorough or None,
        )
        records = await service.each(service.work.record, form.image, analyze_request, request)
        if len(records) == 1 and records[0].error is not None:
            raise of_photo(records[0].error, 1)
        return JSONResponse({"request_id": request.state.request_id, "results": [r.json for r in records]})

    @api.post(
        "/v1/verify",
        responses=openapi.replies(schema.Verification, *ANALYZE_ERRORS, 501),
        openapi_extra=openapi.body(schema.VerifyForm),
    )
    async def verify(request: Request) -> JSONResponse:
        """Compare the largest faces of two pictures. The reply never contains embeddings."""
        if service.identity is None:
            raise ApiError(501, "not_answered", "the model of this server does not predict identity")
        service.allowed([service.identity])
        form = (await read_form(request, service.limits, request.state.deadline)).checked(schema.VerifyForm)
        chosen = service.threshold_of(form.threshold, form.fmr)
        readings = await service.each(
            service.work.read, form.image, AnalyzeRequest((service.identity,), form.score), request
        )
        for number, reading in enumerate(readings, 1):
            if isinstance(reading.error, PhotoError):
                raise of_photo(reading.error, number)
            if not reading:
                raise ApiError(
                    422,
                    "no_face",
                    f"no face was found in picture {number}; send another, or a lower score",
                    details={"image": number},
                )
        a, b = (r[0][service.identity] for r in readings)
        similarity = round(max(-1.0, min(1.0, a.similarity(b))), 3)
        out: dict[str, Any] = {"request_id": request.state.request_id, "similarity": similarity}
        if chosen is not None:
            out |= {"same": similarity >= chosen.similarity, **chosen.to_dict()}
        faces = [{k: r[0].to_dict()[k] for k in ("box", "score")} | {"found": len(r)} for r in readings]
        return JSONResponse(out | {"task": service.identity, "model": service.work.model, "faces": faces})


def _about(api: FastAPI, service: Service) -> None:
    """Add the routes about the server itself."""

    @api.get("/v1/models", responses=openapi.replies(schema.Models, 401, 403, 429, 500))
    async def models(request: Request) -> JSONResponse:
        """The offered tasks, the weights and the limits."""
        own = service.work.reader.model.tasks
        tasks = [
            {"name": n, "sensitive": _sensitive(n, own), "default": n in service.default}
            for n in service.offered
        ]
        limits = {name: value for name, value in asdict(service.limits).items() if value is not None}
        return JSONResponse(
            {
                "request_id": request.state.request_id,
                "models": [service.work.model | {"tasks": tasks}],
                "limits": limits,
            }
        )

    @api.get("/healthz", responses=openapi.replies(schema.Health))
    async def healthz() -> JSONResponse:
        """The process is alive."""
        return JSONResponse({"status": "ok"})

    @api.get("/readyz", responses=openapi.replies(schema.Health, 503))
    async def readyz() -> JSONResponse:
        """Ready for a picture: the weights are loaded, the queue and the uploads have room, no shutdown."""
        if why := service.busy():
            raise ApiError(503, "not_ready", why, retry_after=1)
        return JSONResponse({"status": "ready"})

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The description of the routes as a page; it loads nothing from other servers."""
        return HTMLResponse(
            reference.page(api.openapi()), headers={"content-security-policy": reference.POLICY}
        )

    @api.get("/metrics", response_class=PlainTextResponse, responses=openapi.errors(401, 403, 500))
    async def metrics() -> PlainTextResponse:
        """Metrics for Prometheus."""
        return PlainTextResponse(service.counts.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _sensitive(name: str, tasks: Iterable[Task[Any]]) -> bool:
    known = described(name, tasks)
    return known is None or bool(known.sensitive)


def _errors(api: FastAPI) -> None:
    """Send all errors of routes and of the router in one format."""

    @api.exception_handler(ApiError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return JSONResponse(envelope(error, request.state.request_id), error.status, headers=error.headers)

    @api.exception_handler(HTTPException)
    async def lost(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "no_route", 405: "wrong_method"}.get(error.status_code, "http")
        text = {
            404: "there is no such route; /openapi.json lists them",
            405: "this route has another method; /openapi.json lists them",
        }
        wrong = ApiError(error.status_code, code, text.get(error.status_code, str(error.detail)))
        return JSONResponse(
            envelope(wrong, request.state.request_id), error.status_code, headers=dict(error.headers or {})
        )

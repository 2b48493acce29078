"""`app(reader)`: the ASGI app.

Pictures come in a form and go when they are answered; no address and no path is ever followed.
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

ABOUT = "Reads whole faces. Pictures come in a form, stay in memory, and go when they are answered."
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
    """The server as an ASGI app, for `mien serve` or any ASGI runner (one process; run several for more).

    Args:
        reader: from `mien.load()`.
        keys: who is let in; None lets in those who use a loopback name.
        limits: see `Limits`.
        offered: tasks that may be asked for, None for all of the model's.
        gallery: makes a gallery with the reader it is given, such as `functools.partial(Gallery, "people")`;
            None for no gallery.
        origins: of pages elsewhere whose scripts may ask (CORS), such as "https://photos.example"; "*", with
            keys only, for all.
        workers: pictures decoded and searched for faces at once.
        batch_faces, batch_wait_ms: see `Batcher`.

    Raises:
        UnknownTask, UsageError: arguments that do not fit.
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
                "a gallery needs identity, and this server does not offer it; add it to --tasks, or leave the"
                " gallery out"
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
    api.add_middleware(Page)  # before the gate: a browser has no key to send until the page has asked for it
    if origins:  # before both: a browser sends no key with the request that asks whether it may
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return api


def _pictures(api: FastAPI, service: Service) -> None:
    """The routes that take pictures."""

    @api.post(
        "/v1/analyze",
        responses=openapi.replies(schema.Analysis, *ANALYZE_ERRORS),
        openapi_extra=openapi.body(schema.AnalyzeForm),
    )
    async def analyze(request: Request) -> JSONResponse:
        """Every face of one or more pictures, as the records of `mien analyze`.

        A picture that cannot be read has an error record and the others go on; where it came alone, the reply
        is that error.
        """
        asked = (await read_form(request, service.limits, request.state.deadline)).checked(schema.AnalyzeForm)
        if asked.tasks is not None:
            service.allowed(asked.tasks)
        question = AnalyzeRequest(
            asked.tasks or service.default,
            asked.score,
            asked.faces,
            asked.masks is not None,
            asked.thorough or None,
        )
        records = await service.each(service.work.record, asked.image, question, request)
        if len(records) == 1 and records[0].error is not None:
            raise of_photo(records[0].error, 1)
        return JSONResponse({"request_id": request.state.request_id, "results": [r.json for r in records]})

    @api.post(
        "/v1/verify",
        responses=openapi.replies(schema.Verification, *ANALYZE_ERRORS, 501),
        openapi_extra=openapi.body(schema.VerifyForm),
    )
    async def verify(request: Request) -> JSONResponse:
        """How alike the largest faces of two pictures are. The embeddings themselves are not answered."""
        if service.identity is None:
            raise ApiError(501, "not_answered", "the model of this server answers no identity")
        service.allowed([service.identity])
        asked = (await read_form(request, service.limits, request.state.deadline)).checked(schema.VerifyForm)
        cut = service.cut(asked.threshold, asked.fmr)
        readings = await service.each(
            service.work.read, asked.image, AnalyzeRequest((service.identity,), asked.score), request
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
        if cut is not None:
            out |= {"same": similarity >= cut.similarity, **cut.to_dict()}
        faces = [{k: r[0].to_dict()[k] for k in ("box", "score")} | {"found": len(r)} for r in readings]
        return JSONResponse(out | {"task": service.identity, "model": service.work.model, "faces": faces})


def _about(api: FastAPI, service: Service) -> None:
    """The routes that tell about the server."""

    @api.get("/v1/models", responses=openapi.replies(schema.Models, 401, 403, 429, 500))
    async def models(request: Request) -> JSONResponse:
        """What can be asked here, of which weights, and how much at once."""
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
        """A picture sent now would be taken in: the weights are loaded, the queue and the uploads have a
        place, no stop is under way.
        """
        if why := service.busy():
            raise ApiError(503, "not_ready", why, retry_after=1)
        return JSONResponse({"status": "ready"})

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The description of the routes for people; it loads nothing from elsewhere."""
        return HTMLResponse(
            reference.page(api.openapi()), headers={"content-security-policy": reference.POLICY}
        )

    @api.get("/metrics", response_class=PlainTextResponse, responses=openapi.errors(401, 403, 500))
    async def metrics() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(service.counts.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _sensitive(name: str, tasks: Iterable[Task[Any]]) -> bool:
    known = described(name, tasks)
    return known is None or bool(known.sensitive)


def _errors(api: FastAPI) -> None:
    """Errors that routes or the router raise, in the one envelope."""

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

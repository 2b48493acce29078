"""Who is this: the routes of a gallery, where the server was given one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image

from mien.errors import UsageError
from mien.gallery import Gallery, NotErased
from mien.server import schema
from mien.server.errors import ApiError, of_photo
from mien.server.form import read_form
from mien.server.limits import Deadline
from mien.server.work import Question, Record

if TYPE_CHECKING:
    from mien.server.app import Service

ERRORS = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)
_log = logging.getLogger("mien.server")


@contextmanager
def said(gallery: Gallery) -> Iterator[None]:
    """The gallery's own refusals as replies, without the place where it lies."""
    try:
        yield
    except UsageError as e:
        raise ApiError(400, "gallery", str(e).replace(gallery.uri, "(this server's)")) from e
    except NotErased as e:
        _log.error("%s", e)
        raise ApiError(500, "not_erased", "something of what was to be forgotten is still on the disk; ask again") from e


def begun(gallery: Gallery) -> bool:
    """Whether anybody was ever enrolled: before that there is no table."""
    try:
        return gallery.store is not None
    except UsageError:
        return False


def forget(gallery: Gallery, person: str) -> dict[str, int]:
    """By id. Raises: ApiError 404."""
    with said(gallery):
        if not begun(gallery) or person not in [p.id for p in gallery.people()]:
            raise ApiError(404, "no_person", "nobody in this gallery has that id; GET /v1/gallery/people lists them")
        return asdict(gallery.forget(person))


def people(gallery: Gallery) -> list[dict[str, Any]]:
    """Everybody, as plain JSON values."""
    with said(gallery):
        return [p.to_dict() for p in gallery.people()] if begun(gallery) else []


def enrol(
    gallery: Gallery, pictures: list[Any], name: str, note: str | None, until: str | None, pick: Literal["refuse", "largest"]
) -> list[dict[str, Any]]:
    """All or none. Raises: ApiError, see `said`."""
    with said(gallery):
        added = gallery.add(pictures, name, note=note, until=until, pick=pick)
    plain = [{"face": a.face, "person": a.person, "name": a.name, "new": a.new} for a in added]
    return [p | {"alike": a.alike.to_dict() if a.alike else None} for p, a in zip(plain, added, strict=True)]


def routes(api: FastAPI, service: Service, gallery: Gallery) -> None:
    """Add, identify, list, forget. All of it runs on the line's threads."""
    _ = gallery.threshold  # where none is known the server shall not start
    question = Question((gallery.task,))
    _identify(api, service, gallery, question)
    _people(api, service, gallery, question)


def _identify(api: FastAPI, service: Service, gallery: Gallery, question: Question) -> None:
    def who_is(top: int, data: bytes, question: Question, deadline: Deadline) -> Record:
        reading = service.work.read(data, question, deadline)
        record = reading.to_dict()
        if reading.error is None:
            with said(gallery):
                record["faces"] = [a.to_dict() for a in gallery.answers(reading, top=top)]
        return Record(record, reading.error)

    @api.post("/v1/gallery/identify", responses=schema.replies("Identified", *ERRORS), openapi_extra=schema.body(schema.IDENTIFY_FORM))
    async def identify(request: Request) -> JSONResponse:
        """Who is in one or more pictures: the best people of each face, or unknown."""
        form = await read_form(request, service.limits, request.state.deadline)
        top = form.number("top", int, lambda v: 1 <= v <= 100, "a whole number from 1 to 100") or 3
        form.done(("image", "top"))
        if not begun(gallery):
            raise ApiError(400, "gallery", "nobody was enrolled yet; POST /v1/gallery/people does that")
        records = await service.each(partial(who_is, top), form.images, question, request)
        if len(records) == 1 and records[0].error is not None:
            raise of_photo(records[0].error, 1)
        return JSONResponse({"request_id": request.state.request_id, "results": [r.json for r in records]})


def _people(api: FastAPI, service: Service, gallery: Gallery, question: Question) -> None:
    @api.post("/v1/gallery/people", responses=schema.replies("Enrolled", *ERRORS), openapi_extra=schema.body(schema.ENROL_FORM))
    async def add(request: Request) -> JSONResponse:
        """Enrol the one face of each picture under one name. If any picture will not do, none is enrolled."""
        form = await read_form(request, service.limits, request.state.deadline)
        name, note, until, pick = (form.text(n) for n in ("name", "note", "until", "pick"))
        form.done(("image", "name", "note", "until", "pick"))
        if not name:
            raise ApiError(400, "bad_field", "the field 'name' says whose faces these are; send it", details={"field": "name"})
        if pick not in (None, "refuse", "largest"):
            raise ApiError(400, "bad_field", "the field 'pick' must be refuse or largest", details={"field": "pick"})
        readings = await service.each(service.work.read, form.images, question, request)
        for number, reading in enumerate(readings, 1):
            if reading.error is not None:
                raise of_photo(reading.error, number)
            if len(reading) != 1 and not (reading and pick == "largest"):
                text = f"picture {number} shows {len(reading)} faces where one is needed; cut it to one" + (
                    ", or send pick=largest" if reading else ""
                )
                raise ApiError(422, "several_faces" if reading else "no_face", text, details={"image": number})
        # The gallery reads them once more, by itself: enrolling is rare, and so its rules stay in one place. Decoded as
        # they are, nothing can be wrong with them that its log would have to tell.
        pictures = [Image.fromarray(r.photo.pixels) for r in readings if r.photo is not None]
        job = partial(enrol, gallery, pictures, name, note, until, "largest" if pick == "largest" else "refuse")
        (added,) = await service.line.run([job], request.state.deadline)
        return JSONResponse({"request_id": request.state.request_id, "added": added})

    @api.get("/v1/gallery/people", responses=schema.replies("People", 401, 403, 429, 500, 503, 504))
    async def everybody(request: Request) -> JSONResponse:
        """Who is enrolled: ids, names, faces, consent notes, last days. No embedding and no picture."""
        (found,) = await service.line.run([partial(people, gallery)], request.state.deadline)
        return JSONResponse({"request_id": request.state.request_id, "people": found})

    @api.delete("/v1/gallery/people/{person}", responses=schema.replies("Forgotten", "4XX", 500, 503, 504))
    async def erase(request: Request, person: str) -> JSONResponse:
        """Forget a person, by id, for good: vectors, pictures, name, note, old versions."""
        (gone,) = await service.line.run([partial(forget, gallery, person)], request.state.deadline)
        return JSONResponse({"request_id": request.state.request_id, **gone})

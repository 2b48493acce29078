"""The routes of a gallery, if the server has one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from mien.errors import UsageError
from mien.recognition.gallery import ErasureFailed, Gallery
from mien.server import openapi, schema
from mien.server.errors import ApiError, of_photo
from mien.server.limits import Deadline
from mien.server.request_body import Body, read_form, read_json
from mien.server.worker import AnalyzeRequest, Record

if TYPE_CHECKING:
    from mien.inference.reading import Reading
    from mien.server.service import Service
    from mien.types import Face

T = TypeVar("T")
ERRORS = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)
JSON_ERRORS = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)
PLAIN_ERRORS = (400, 401, 403, 429, 500, 503, 504)
_log = logging.getLogger("mien.server")


@contextmanager
def gallery_errors(gallery: Gallery) -> Iterator[None]:
    """Turn the gallery's errors into replies that do not contain its path."""
    try:
        yield
    except UsageError as e:
        raise ApiError(400, "gallery", str(e).replace(gallery.uri, "(this server's)")) from e
    except ErasureFailed as e:
        _log.error("%s", e)
        raise ApiError(500, "not_erased", "some of the data to erase is still on the disk; try again") from e


def begun(gallery: Gallery) -> bool:
    """Whether anybody was ever enrolled; before that there is no table."""
    try:
        return gallery.store is not None
    except UsageError:
        return False


def of_people(gallery: Gallery, ids: Sequence[str], change: Callable[[], T]) -> T:
    """Change enrolled people, by id. Raises: ApiError 404, and see `gallery_errors`."""
    with gallery_errors(gallery):
        if not begun(gallery) or not {p.id for p in gallery.people()}.issuperset(ids):
            raise ApiError(
                404, "no_person", "nobody in this gallery has that id; GET /v1/gallery/people lists them"
            )
        return change()


def people(gallery: Gallery) -> list[dict[str, Any]]:
    """All people, as plain JSON values."""
    with gallery_errors(gallery):
        return [p.to_dict() for p in gallery.people()] if begun(gallery) else []


def prune(gallery: Gallery) -> list[dict[str, Any]]:
    """Erase all people whose last day is over, and return them."""
    with gallery_errors(gallery):
        return [p.to_dict() for p in gallery.prune()] if begun(gallery) else []


def stats(gallery: Gallery) -> dict[str, Any]:
    """Counts, sizes, threshold and errors."""
    with gallery_errors(gallery):
        return gallery.stats()


def export(gallery: Gallery, after: str, limit: int, embeddings: bool) -> dict[str, Any]:
    """A page of all people, sorted by id, so that changes between two pages do not matter."""
    with gallery_errors(gallery):
        ids = sorted(p.id for p in gallery.people() if p.id > after) if begun(gallery) else []
        found = gallery.details(ids[:limit], embeddings=embeddings) if ids else []
        return {
            "people": sorted(found, key=lambda p: str(p["person"])),
            "next": ids[limit - 1] if len(ids) > limit else None,
        }


def export_one(gallery: Gallery, person: str, embeddings: bool) -> dict[str, Any]:
    """One person, in the form of `export`. Raises: ApiError 404."""
    return of_people(
        gallery, [person], lambda: {"people": gallery.details([person], embeddings=embeddings), "next": None}
    )


def merge(gallery: Gallery, person: str, others: Sequence[str]) -> dict[str, Any]:
    """Merge people. Raises: ApiError 404 if one of them is not enrolled."""

    def change() -> dict[str, Any]:
        return gallery.person(gallery.merge(person, *others)).to_dict()

    return of_people(gallery, [person, *others], change)


def split(gallery: Gallery, person: str, faces: Sequence[str], name: str) -> dict[str, Any]:
    """Move some faces to another person, and return that person. Raises: ApiError 404."""
    return of_people(gallery, [person], lambda: gallery.person(gallery.split(person, faces, name)).to_dict())


def edit(gallery: Gallery, person: str, changes: dict[str, str]) -> dict[str, Any]:
    """Change name, note or last day, and return the person. Raises: ApiError 404."""

    def change() -> dict[str, Any]:
        gallery.edit(person, **changes)
        return gallery.person(person).to_dict()

    return of_people(gallery, [person], change)


def enroll(
    gallery: Gallery, faces: Sequence[Face], name: str, note: str | None, until: str | None
) -> list[dict[str, Any]]:
    """Enroll all faces or none. Raises: ApiError, see `gallery_errors`."""
    with gallery_errors(gallery):
        added = gallery.enroll(faces, name, note=note, until=until)
    plain = [{"face": a.face, "person": a.person, "name": a.name, "new": a.new} for a in added]
    return [
        p | {"possible_duplicate": a.possible_duplicate.to_dict() if a.possible_duplicate else None}
        for p, a in zip(plain, added, strict=True)
    ]


def one_face_each(readings: Sequence[Reading], pick: schema.Pick) -> list[Face]:
    """The one face of each picture. Raises: ApiError if a picture shows none or several."""
    for number, reading in enumerate(readings, 1):
        if reading.error is not None:
            raise of_photo(reading.error, number)
        if len(reading) != 1 and not (reading and pick == "largest"):
            text = f"picture {number} shows {len(reading)} faces where one is needed; crop it to one" + (
                ", or send pick=largest" if reading else ""
            )
            raise ApiError(422, "several_faces" if reading else "no_face", text, details={"image": number})
    return [reading[0] for reading in readings]


def routes(api: FastAPI, service: Service, gallery: Gallery) -> None:
    """Add the routes that do what `mien gallery` does. Their work runs on the queue's threads."""
    _ = gallery.threshold  # without a threshold the server must not start
    analyze_request = AnalyzeRequest((gallery.task,))
    _identify(api, service, gallery, analyze_request)
    _people(api, service, gallery, analyze_request)
    _edit(api, service, gallery)
    _correct(api, service, gallery, analyze_request)
    _all_people(api, service, gallery)


def _reply(request: Request, **found: Any) -> JSONResponse:
    return JSONResponse({"request_id": request.state.request_id, **found})


def _identify(api: FastAPI, service: Service, gallery: Gallery, analyze_request: AnalyzeRequest) -> None:
    def identify_faces(top: int, data: bytes, analyze_request: AnalyzeRequest, deadline: Deadline) -> Record:
        reading = service.work.read(data, analyze_request, deadline)
        record = reading.to_dict()
        if reading.error is None:
            with gallery_errors(gallery):
                record["faces"] = [a.to_dict() for a in gallery.answers(reading, top=top)]
        return Record(record, reading.error)

    @api.post(
        "/v1/gallery/identify",
        responses=openapi.replies(schema.Identified, *ERRORS),
        openapi_extra=openapi.body(schema.IdentifyForm),
    )
    async def identify(request: Request) -> JSONResponse:
        """Identify the faces of one or more pictures: the best people of each face, or unknown."""
        form = (await read_form(request, service.limits, request.state.deadline)).checked(schema.IdentifyForm)
        if not begun(gallery):
            raise ApiError(400, "gallery", "nobody was enrolled yet; POST /v1/gallery/people does that")
        records = await service.each(partial(identify_faces, form.top), form.image, analyze_request, request)
        if len(records) == 1 and records[0].error is not None:
            raise of_photo(records[0].error, 1)
        return JSONResponse({"request_id": request.state.request_id, "results": [r.json for r in records]})


def _people(api: FastAPI, service: Service, gallery: Gallery, analyze_request: AnalyzeRequest) -> None:
    @api.post(
        "/v1/gallery/people",
        responses=openapi.replies(schema.Enrolled, *ERRORS),
        openapi_extra=openapi.body(schema.EnrollForm),
    )
    async def add(request: Request) -> JSONResponse:
        """Enroll the one face of each picture under one name. If one picture is refused, none is enrolled."""
        form = (await read_form(request, service.limits, request.state.deadline)).checked(schema.EnrollForm)
        readings = await service.each(service.work.read, form.image, analyze_request, request)
        faces = one_face_each(readings, form.pick)
        job = partial(enroll, gallery, faces, form.name, form.note, form.until)
        (added,) = await service.line.run([job], request.state.deadline)
        return _reply(request, added=added)

    @api.get("/v1/gallery/people", responses=openapi.replies(schema.People, *PLAIN_ERRORS))
    async def everybody(request: Request) -> JSONResponse:
        """The enrolled people: ids, names, faces, consent notes, last days. No embeddings, no pictures."""
        (found,) = await service.line.run([partial(people, gallery)], request.state.deadline)
        return _reply(request, people=found)

    @api.delete(
        "/v1/gallery/people/{person}", responses=openapi.replies(schema.Forgotten, 404, *PLAIN_ERRORS)
    )
    async def erase(request: Request, person: str) -> JSONResponse:
        """Erase a person by id: embeddings, pictures, name, note and old versions."""
        job = partial(of_people, gallery, [person], lambda: asdict(gallery.forget(person)))
        (gone,) = await service.line.run([job], request.state.deadline)
        return _reply(request, **gone)


def _edit(api: FastAPI, service: Service, gallery: Gallery) -> None:
    place, replies = "/v1/gallery/people/{person}", openapi.replies(schema.Changed, *JSON_ERRORS)

    @api.patch(place, responses=replies, openapi_extra=openapi.json_body(schema.EditBody))
    async def change(request: Request, person: str) -> JSONResponse:
        """Change name, consent note or last day; fields that are not sent stay as they are."""
        body = await read_json(request, request.state.deadline, schema.EditBody)
        changes = body.model_dump(exclude_unset=True)
        (found,) = await service.line.run([partial(edit, gallery, person, changes)], request.state.deadline)
        return _reply(request, person=found)

    @api.post(
        f"{place}/merge",
        responses=replies,
        openapi_extra=openapi.json_body(schema.MergeBody),
    )
    async def join(request: Request, person: str) -> JSONResponse:
        """Merge other people into this one: their faces move here, and their ids disappear.

        The earliest last day of all is kept.
        """
        body = await read_json(request, request.state.deadline, schema.MergeBody)
        (found,) = await service.line.run(
            [partial(merge, gallery, person, body.others)], request.state.deadline
        )
        return _reply(request, person=found)

    @api.post(
        f"{place}/split",
        responses=replies,
        openapi_extra=openapi.json_body(schema.SplitBody),
    )
    async def part(request: Request, person: str) -> JSONResponse:
        """Move some faces of this person to another one, new or known, and return that person."""
        body = await read_json(request, request.state.deadline, schema.SplitBody)
        (found,) = await service.line.run(
            [partial(split, gallery, person, body.faces, body.name)], request.state.deadline
        )
        return _reply(request, person=found)


def _correct(api: FastAPI, service: Service, gallery: Gallery, analyze_request: AnalyzeRequest) -> None:
    replies = openapi.replies(schema.Corrected, 404, *ERRORS)

    @api.post(
        "/v1/gallery/people/{person}/corrections",
        responses=replies,
        openapi_extra=openapi.body(schema.CorrectForm),
    )
    async def correct(request: Request, person: str) -> JSONResponse:
        """Record that the face of the picture is not this person.

        Faces that are nearer to this face than to the person's own faces no longer match. The embedding is
        stored with the person, without the picture. Enrolling the same picture as that person revokes this.
        """
        form = (await read_form(request, service.limits, request.state.deadline)).checked(schema.CorrectForm)
        (face,) = one_face_each(
            await service.each(service.work.read, form.image, analyze_request, request), form.pick
        )
        job = partial(of_people, gallery, [person], lambda: gallery.correct_face(face, person))
        (made,) = await service.line.run([job], request.state.deadline)
        return _reply(request, correction=made)


def _all_people(api: FastAPI, service: Service, gallery: Gallery) -> None:
    @api.post("/v1/gallery/prune", responses=openapi.replies(schema.People, *PLAIN_ERRORS))
    async def tidy(request: Request) -> JSONResponse:
        """Erase all people whose last day is over, and return them. Takes no body."""
        (gone,) = await service.line.run([partial(prune, gallery)], request.state.deadline)
        return _reply(request, people=gone)

    @api.get("/v1/gallery/stats", responses=openapi.replies(schema.Stats, *PLAIN_ERRORS))
    async def counts(request: Request) -> JSONResponse:
        """Counts, size, threshold, and the probability of a false match for a stranger."""
        (found,) = await service.line.run([partial(stats, gallery)], request.state.deadline)
        return _reply(request, **found)

    @api.get(
        "/v1/gallery/export",
        responses=openapi.replies(schema.Export, 404, *PLAIN_ERRORS),
        openapi_extra=openapi.query(schema.ExportQuery),
    )
    async def take(request: Request) -> JSONResponse:
        """All stored data, unsealed: of one person, or of all people in pages.

        Embeddings are included only on request.
        """
        params = request.query_params
        form = Body([], {name: params.getlist(name) for name in params}).checked(schema.ExportQuery)
        if form.person is None:
            job = partial(export, gallery, form.after or "", form.limit, form.embeddings)
        else:
            job = partial(export_one, gallery, form.person, form.embeddings)
        (found,) = await service.line.run([job], request.state.deadline)
        return _reply(request, **found)

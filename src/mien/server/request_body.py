"""A request's body: pictures and fields, checked while they arrive and never written to a disk."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mien.server.errors import ApiError
from mien.server.limits import Deadline, Limits
from mien.server.schema import TEXT_CHARACTERS, Form, Model

M = TypeVar("M", bound=Model)
F = TypeVar("F", bound=Form)
JSON_BYTES = 64 << 10  # a body without pictures
_SHOULD = re.compile(r"^\w+ should ")


class _InMemory(MultiPartParser):
    """Starlette's parser without temporary files; a picture that is too large is refused on arrival."""

    spool_max_size = 1 << 60

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], limits: Limits):
        super().__init__(headers, stream, max_files=limits.pictures, max_fields=16, max_part_size=4096)
        self._maximum, self._seen = limits.picture_bytes, 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._seen = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._seen += end - start
        if self._current_part.file is not None and self._seen > self._maximum:
            text = f"a picture has more than {self._maximum} bytes, which is the limit; save it smaller"
            raise ApiError(
                413, "picture_too_large", text, details={"limit": self._maximum, "image": self._current_files}
            )
        super().on_part_data(data, start, end)


@dataclass(slots=True)
class Body:
    """The content of a request.

    Attributes:
        images: bytes of the pictures.
        fields: name -> texts, one per occurrence of the field.
    """

    images: list[bytes]
    fields: dict[str, list[str]] = field(default_factory=dict)

    def checked(self, kind: type[F]) -> F:
        """The fields of a route, and its pictures if it takes any.

        Raises:
            ApiError: 400, the first wrong field.
        """
        values: dict[str, Any] = {}
        for name, texts in self.fields.items():
            if name == "image" or name not in kind.model_fields:  # a misspelled name must not be ignored
                raise _unknown(name, kind)
            if name in kind.repeated:
                values[name] = texts
            elif len(texts) > 1:
                text = f"the field {name!r} came {len(texts)} times; send it once"
                raise ApiError(400, "bad_field", text, details={"field": name})
            elif texts:
                values[name] = texts[0]
        if "image" in kind.model_fields:
            values["image"] = self.images
        return _validated(kind, values)


def _unknown(name: str, kind: type[Model]) -> ApiError:
    shown = printable(name[:40])
    text = f"no field {shown!r} here; there are: {', '.join(kind.model_fields)}"
    return ApiError(400, "unknown_field", text, details={"field": shown})


def _validated(kind: type[M], values: dict[str, Any]) -> M:
    """Raises: ApiError 400 for the first wrong value."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        wrong = e.errors(include_url=False, include_context=False)[0]
    if not wrong["loc"]:  # the object, not one of its fields
        raise ApiError(400, "bad_json", wrong["msg"])
    name = str(wrong["loc"][0])
    about = kind.model_fields[name].description
    if wrong["type"] == "missing":
        text = f"the field {name!r} is needed" + (f": {about}" if about else "")
    else:
        text = f"the field {name!r} {_SHOULD.sub('must ', wrong['msg'])}"
        if isinstance(wrong["input"], str | int | float):
            text += f", not {printable(str(wrong['input'])[:40])!r}"
    raise ApiError(400, "bad_field", text, details={"field": name})


async def read_form(request: Request, limits: Limits, deadline: Deadline) -> Body:
    """Read the body into memory: a form, one picture with the fields in the query, or JSON with base64.

    Raises:
        ApiError: 400, 408 (too slow), 413, 415.
    """
    kind = request.headers.get("content-type", "")
    media = kind.partition(";")[0].strip().lower()
    if media.startswith("image/") or media == "application/octet-stream":
        return await _raw(request, limits, deadline)
    if media == "application/json":
        return await asyncio.to_thread(
            _from_json, await _all_bytes(request, limits.request_bytes, deadline), limits
        )
    if media != "multipart/form-data":
        text = (
            "send multipart/form-data with a field image, a picture as the body (image/jpeg), or JSON with"
            " image in base64"
        )
        raise ApiError(415, "not_a_form", f"{text}; not {kind[:60] or 'a body without a content-type'}")
    try:
        async with asyncio.timeout(deadline.left()):
            items = (await _InMemory(request.headers, request.stream(), limits).parse()).multi_items()
    except TimeoutError as e:
        raise ApiError(
            408,
            "upload_timeout",
            f"the body did not arrive within {deadline.seconds:g} s; send smaller pictures",
        ) from e
    except MultiPartException as e:
        if "Too many files" in e.message:
            text = (
                f"more than {limits.pictures} pictures in one request, which is the limit; send several"
                " requests"
            )
            raise ApiError(413, "too_many_pictures", text, details={"limit": limits.pictures}) from e
        raise ApiError(
            400, "bad_form", f"the form cannot be read ({e.message}); check its boundary and its fields"
        ) from e
    except ClientDisconnect as e:
        raise ApiError(400, "disconnected", "the connection ended before the body did") from e
    form = Body([])
    try:
        for name, value in items:
            await _take(form, name, value)
    finally:
        for _, value in items:
            if isinstance(value, UploadFile):
                await value.close()
    if not form.images:
        raise ApiError(
            400,
            "no_image",
            "no picture was sent; add at least one file field image",
            details={"field": "image"},
        )
    return form


def _too_large(limits: Limits, number: int) -> ApiError:
    text = f"a picture has more than {limits.picture_bytes} bytes, which is the limit; save it smaller"
    return ApiError(413, "picture_too_large", text, details={"limit": limits.picture_bytes, "image": number})


async def _all_bytes(request: Request, limit: int, deadline: Deadline) -> bytes:
    """All bytes of a body. Raises: ApiError 400, 408, 413."""
    body = bytearray()
    try:
        async with asyncio.timeout(deadline.left()):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    text = f"the body has more than {limit} bytes, which is the limit; send less at once"
                    raise ApiError(413, "request_too_large", text, details={"limit": limit})
    except TimeoutError as e:
        raise ApiError(
            408, "upload_timeout", f"the body did not arrive within {deadline.seconds:g} s; send it again"
        ) from e
    except ClientDisconnect as e:
        raise ApiError(400, "disconnected", "the connection ended before the body did") from e
    return bytes(body)


async def _raw(request: Request, limits: Limits, deadline: Deadline) -> Body:
    try:
        data = await _all_bytes(request, limits.picture_bytes, deadline)
    except ApiError as e:
        raise (_too_large(limits, 1) if e.code == "request_too_large" else e) from e
    form = Body([data])
    for name, value in request.query_params.multi_items():
        form.fields.setdefault(printable(name), []).append(printable(value))
    return form


def _from_json(body: bytes, limits: Limits) -> Body:
    """{"image": base64 or a list of it, and the fields of the form as text, number or a list of texts}."""
    found = _object(body, ("image", "the fields of the form"))
    given = found.pop("image", None)
    pictures = given if isinstance(given, list) else [] if given is None else [given]
    if not pictures:
        raise ApiError(
            400,
            "no_image",
            "no picture was sent; add image: its bytes in base64, or a list of that",
            details={"field": "image"},
        )
    if len(pictures) > limits.pictures:
        text = (
            f"more than {limits.pictures} pictures in one request, which is the limit; send several requests"
        )
        raise ApiError(413, "too_many_pictures", text, details={"limit": limits.pictures})
    form = Body([_of_base64(p, number, limits) for number, p in enumerate(pictures, 1)])
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        for v in values:
            if not (_is_text(v) or isinstance(v, int | float)) or name != printable(name):
                shown = printable(name[:40])
                text = f"the field {shown!r} must be a text, a number, true, false or a list of texts"
                raise ApiError(400, "bad_field", text, details={"field": shown})
        form.fields[name] = [v if isinstance(v, str) else json.dumps(v) for v in values]
    return form


def _of_base64(text: object, number: int, limits: Limits) -> bytes:
    """Plain base64, or a data address (data:image/png;base64,...)."""
    if isinstance(text, str) and text.startswith("data:image/"):
        text = text.partition(",")[2]
    if not isinstance(text, str):
        raise ApiError(
            400, "bad_field", f"picture {number} must be its bytes in base64", details={"field": "image"}
        )
    if len(text) * 3 // 4 > limits.picture_bytes + 2:
        raise _too_large(limits, number)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as e:  # the text itself is not shown
        wrong = f"picture {number} is not valid base64; addresses and paths are not followed"
        raise ApiError(400, "bad_field", wrong, details={"field": "image"}) from e
    if len(data) > limits.picture_bytes:
        raise _too_large(limits, number)
    return data


def _object(body: bytes, wanted: tuple[str, ...]) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise ApiError(
            400,
            "bad_json",
            f"the body is not JSON ({type(e).__name__}); send an object with {', '.join(wanted)}",
        ) from e
    if not isinstance(found, dict):
        raise ApiError(400, "bad_json", f"the body must be an object with {', '.join(wanted)}")
    return found


async def _take(form: Body, name: str, value: UploadFile | str) -> None:
    """One part of the body."""
    if name != printable(name) or (isinstance(value, str) and value != printable(value)):
        raise ApiError(
            400,
            "bad_field",
            "a field's name or text is not Unicode; send UTF-8",
            details={"field": printable(name[:40])},
        )
    if isinstance(value, str):
        if name == "image":
            text = "the field 'image' must be a file; addresses and paths are not followed"
            raise ApiError(400, "bad_field", text, details={"field": name})
        form.fields.setdefault(name, []).append(value)
        return
    if name != "image":
        text = f"no file field {name[:40]!r} here; pictures come as image"
        raise ApiError(400, "unknown_field", text, details={"field": name[:40]})
    form.images.append(await value.read())


async def read_json(request: Request, deadline: Deadline, model: type[M]) -> M:
    """Read the body of a route that takes no picture.

    Raises:
        ApiError: 400, 408 (too slow), 413, 415.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            415, "not_json", f"send application/json, not {kind[:60] or 'a body without a content-type'}"
        )
    found = _object(await _all_bytes(request, JSON_BYTES, deadline), tuple(model.model_fields))
    for name in found:
        if name not in model.model_fields:
            raise _unknown(name, model)
    return _validated(model, found)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_CHARACTERS and value == printable(value)


def printable(text: str) -> str:
    """Text without lone surrogates, which JSON can contain but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")

"""A request's body: pictures and a few fields, checked while they arrive and never written to a disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mien.server.errors import ApiError
from mien.server.limits import Deadline, Limits

N = TypeVar("N", int, float)
JSON_BYTES = 64 << 10  # a body without pictures
TEXT_CHARACTERS = 4096  # as a form's field


class _InMemory(MultiPartParser):
    """Starlette's parser, but nothing goes to a temporary file, and a picture that is too large is refused as it comes."""

    spool_max_size = 1 << 60

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], limits: Limits):
        super().__init__(headers, stream, max_files=limits.pictures, max_fields=16, max_part_size=4096)
        self._most, self._seen = limits.picture_bytes, 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._seen = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._seen += end - start
        if self._current_part.file is not None and self._seen > self._most:
            text = f"a picture has more than {self._most} bytes, which is the limit; save it smaller"
            raise ApiError(413, "picture_too_large", text, details={"limit": self._most, "image": self._current_files})
        super().on_part_data(data, start, end)


@dataclass(slots=True)
class Form:
    """What was sent. The methods take a value out; `done` refuses what nobody took."""

    images: list[bytes]
    fields: dict[str, list[str]] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """A field that comes at most once."""
        values = self.fields.pop(name, [])
        if len(values) > 1:
            raise ApiError(400, "bad_field", f"the field {name!r} came {len(values)} times; send it once", details={"field": name})
        return values[0] if values else None

    def names(self, name: str) -> tuple[str, ...] | None:
        """A field that may come often, and may hold several names between commas."""
        values = self.fields.pop(name, None)
        if values is None:
            return None
        found = tuple(dict.fromkeys(n.strip() for v in values for n in v.split(",") if n.strip()))
        if not found:
            raise ApiError(400, "bad_field", f"the field {name!r} is empty; leave it out, or give names", details={"field": name})
        return found

    def number(self, name: str, kind: Callable[[str], N], fits: Callable[[N], bool], wanted: str) -> N | None:
        """A field with a number, or None."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = kind(text)
        except ValueError as e:
            raise ApiError(400, "bad_field", f"the field {name!r} must be {wanted}, not {text[:40]!r}", details={"field": name}) from e
        if not fits(value):
            raise ApiError(400, "bad_field", f"the field {name!r} must be {wanted}, not {text[:40]!r}", details={"field": name})
        return value

    def done(self, known: tuple[str, ...]) -> None:
        """Refuse fields that this route does not know: one misspelt must not be ignored."""
        if self.fields:
            name = next(iter(self.fields))
            raise ApiError(
                400, "unknown_field", f"no field {name[:40]!r} here; there are: {', '.join(known)}", details={"field": name[:40]}
            )


async def read_form(request: Request, limits: Limits, deadline: Deadline) -> Form:
    """The body, in memory.

    Raises:
        ApiError: 400, 408 (too slow), 413, 415.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(
            415, "not_a_form", f"send multipart/form-data with a field image, not {kind[:60] or 'a body without a content-type'}"
        )
    try:
        async with asyncio.timeout(deadline.left()):
            items = (await _InMemory(request.headers, request.stream(), limits).parse()).multi_items()
    except TimeoutError as e:
        raise ApiError(408, "upload_timeout", f"the body did not arrive within {deadline.seconds:g} s; send smaller pictures") from e
    except MultiPartException as e:
        if "Too many files" in e.message:
            text = f"more than {limits.pictures} pictures came in one request, which is the limit; send several requests"
            raise ApiError(413, "too_many_pictures", text, details={"limit": limits.pictures}) from e
        raise ApiError(400, "bad_form", f"the form cannot be read ({e.message}); check its boundary and its fields") from e
    except ClientDisconnect as e:
        raise ApiError(400, "disconnected", "the connection ended before the body did") from e
    form = Form([])
    try:
        for name, value in items:
            await _take(form, name, value)
    finally:
        for _, value in items:
            if isinstance(value, UploadFile):
                await value.close()
    if not form.images:
        raise ApiError(400, "no_image", "no picture came; send at least one file field image", details={"field": "image"})
    return form


async def _take(form: Form, name: str, value: UploadFile | str) -> None:
    """One part of the body."""
    if name != printable(name) or (isinstance(value, str) and value != printable(value)):
        raise ApiError(400, "bad_field", "a field's name or text is no Unicode; send UTF-8", details={"field": printable(name[:40])})
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


async def read_json(request: Request, deadline: Deadline, *, texts: tuple[str, ...] = (), lists: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body of a route that takes no picture: an object of texts and lists of texts.

    Raises:
        ApiError: 400, 408 (too slow), 413, 415.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", f"send application/json, not {kind[:60] or 'a body without a content-type'}")
    body = bytearray()
    try:
        async with asyncio.timeout(deadline.left()):
            async for part in request.stream():
                body += part
                if len(body) > JSON_BYTES:
                    text = f"the body has more than {JSON_BYTES} bytes, which is the limit; name fewer at once"
                    raise ApiError(413, "request_too_large", text, details={"limit": JSON_BYTES})
    except TimeoutError as e:
        raise ApiError(408, "upload_timeout", f"the body did not arrive within {deadline.seconds:g} s; send it again") from e
    except ClientDisconnect as e:
        raise ApiError(400, "disconnected", "the connection ended before the body did") from e
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError) as e:
        raise ApiError(400, "bad_json", f"the body is no JSON ({type(e).__name__}); send an object with {', '.join(texts + lists)}") from e
    if not isinstance(found, dict):
        raise ApiError(400, "bad_json", f"the body must be an object with {', '.join(texts + lists)}")
    for name, value in found.items():
        if name not in texts + lists:
            text = f"no field {name[:40]!r} here; there are: {', '.join(texts + lists)}"
            raise ApiError(400, "unknown_field", text, details={"field": printable(name[:40])})
        if not (_is_text(value) if name in texts else isinstance(value, list) and all(map(_is_text, value))):
            wanted = "text" if name in texts else "a list of texts"
            text = f"the field {name!r} must be {wanted}, of at most {TEXT_CHARACTERS} characters"
            raise ApiError(400, "bad_field", text, details={"field": name})
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_CHARACTERS and value == printable(value)


def printable(text: str) -> str:
    """Without halves of UTF-16 pairs, which JSON can name and nothing can write."""
    return text.encode("utf-8", "replace").decode("utf-8")

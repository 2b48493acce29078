"""A small client for the server, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.errors import MienError, UsageError

Picture = str | os.PathLike[str] | bytes


class ServerError(MienError):
    """An error reply of the server.

    Attributes:
        status: HTTP status.
        code: the error's stable code, see docs/server.md.
        details: values behind the error, see docs/server.md.
        request_id: see docs/server.md.
        retry_after: seconds to wait, if the server gave them.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: dict[str, Any],
        request_id: str,
        retry_after: float | None,
    ):
        super().__init__(message)
        self.status, self.code, self.details, self.request_id, self.retry_after = (
            status,
            code,
            details,
            request_id,
            retry_after,
        )


@dataclass(frozen=True, slots=True)
class Likeness:
    """The result of `Client.verify`.

    Attributes:
        similarity: cosine, -1..1. Not a probability.
        same: similarity >= the threshold that was sent or measured; None without one.
        record: the entire reply.
    """

    similarity: float
    same: bool | None
    record: dict[str, Any]


class Client:
    """A client for one server. It is thread-safe: each request has its own connection.

    Args:
        url: "http://127.0.0.1:8000", or https.
        key: a bearer key.
        timeout: seconds per request.
        retries: number of retries after status 429 or 503, after the wait that the server asks for.
    """

    def __init__(self, url: str, *, key: str | None = None, timeout: float = 60.0, retries: int = 0):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"the server's address must look like http://127.0.0.1:8000, not {url!r}")
        self._host, self._port, self._secure, self._base = (
            parts.hostname,
            parts.port,
            parts.scheme == "https",
            parts.path.rstrip("/"),
        )
        self._key, self.timeout, self.retries = key, timeout, retries

    def analyze(
        self,
        *pictures: Picture,
        tasks: Sequence[str] | None = None,
        score: float | None = None,
        faces: int | None = None,
        masks: bool = False,
        thorough: bool = False,
    ) -> list[dict[str, Any]]:
        """Read pictures and return their records (docs/schema.md) in order.

        If several pictures are sent, those that cannot be read have an "error".

        Args:
            pictures: paths, or bytes of files.
            tasks: requested tasks, by name.
            score: minimum detection score.
            faces: maximum number of faces; the largest are read.
            masks: include the parsing "mask": size, from_photo and runs; `mask_rows` decodes it.
            thorough: search at every scale and for turned faces too; takes 3 to 100 times as long.

        Raises:
            ServerError: the reply's status is not 200.
            OSError: there is no server, or a path cannot be read.
        """
        fields = {
            "tasks": ",".join(tasks) if tasks is not None else None,
            "score": score,
            "faces": faces,
            "masks": "runs" if masks else None,
            "thorough": "true" if thorough else None,
        }
        return list(self._post("/v1/analyze", pictures, fields)["results"])

    def verify(
        self,
        a: Picture,
        b: Picture,
        *,
        threshold: float | None = None,
        fmr: float | None = None,
        score: float | None = None,
    ) -> Likeness:
        """Compare the largest faces of two pictures.

        Args:
            first: path, or bytes of a file.
            second: path, or bytes of a file.
            threshold: minimum similarity of one person, -1..1.
            fmr: accepted false-match rate, 0..1, instead of `threshold`.

        Raises:
            ServerError: see `analyze`.
            OSError: see `analyze`.
        """
        record = self._post("/v1/verify", (a, b), {"threshold": threshold, "fmr": fmr, "score": score})
        return Likeness(record["similarity"], record.get("same"), record)

    def enroll(
        self,
        name: str,
        *pictures: Picture,
        note: str | None = None,
        until: str | None = None,
        pick: str | None = None,
    ) -> list[dict[str, Any]]:
        """Enroll the one face of each picture in the server's gallery. Raises: as `analyze`."""
        return list(
            self._post(
                "/v1/gallery/people", pictures, {"name": name, "note": note, "until": until, "pick": pick}
            )["added"]
        )

    def identify(self, *pictures: Picture, top: int | None = None) -> list[dict[str, Any]]:
        """Identify the faces of each picture: records whose faces have a match and candidates.

        Raises: as `analyze`.
        """
        return list(self._post("/v1/gallery/identify", pictures, {"top": top})["results"])

    def people(self) -> list[dict[str, Any]]:
        """The people in the server's gallery. Raises: as `analyze`."""
        return list(self._ask("GET", "/v1/gallery/people")["people"])

    def forget(self, person: str) -> dict[str, Any]:
        """Erase a person by id; returns the numbers of faces and corrections. Raises: as `analyze`."""
        return self._ask("DELETE", _place(person))

    def prune(self) -> list[dict[str, Any]]:
        """Erase all people whose last day is over, and return them. Raises: as `analyze`."""
        return list(self._ask("POST", "/v1/gallery/prune")["people"])

    def correct(self, picture: Picture, not_: str, *, pick: str | None = None) -> str:
        """Record that the face of this picture is not that person (an id).

        Returns the correction's id. Raises: as `analyze`.
        """
        return str(self._post(_place(not_, "corrections"), (picture,), {"pick": pick})["correction"])

    def edit(
        self, person: str, *, name: str | None = None, note: str | None = None, until: str | None = None
    ) -> dict[str, Any]:
        """Change a person's name, consent note or last day ("" for none); returns the person.

        Raises: as `analyze`.
        """
        changes = {"name": name, "note": note, "until": until}
        return dict(
            self._json("PATCH", _place(person), {k: v for k, v in changes.items() if v is not None})["person"]
        )

    def merge(self, into: str, *others: str) -> dict[str, Any]:
        """Merge these ids into one person; returns the person. Raises: as `analyze`."""
        return dict(self._json("POST", _place(into, "merge"), {"others": others})["person"])

    def split(self, person: str, faces: Sequence[str], name: str) -> dict[str, Any]:
        """Move some faces (ids) to the person of that name; returns that person. Raises: as `analyze`."""
        return dict(
            self._json("POST", _place(person, "split"), {"faces": list(faces), "name": name})["person"]
        )

    def stats(self) -> dict[str, Any]:
        """Counts, size, threshold, and the probability of a false match. Raises: as `analyze`."""
        return self._ask("GET", "/v1/gallery/stats")

    def export(
        self, person: str | None = None, *, embeddings: bool = False, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield all stored data person by person: of one by id, or of all, requested `limit` at a time.

        Thumbnails are base64 of a JPEG. `embeddings` includes them; a face can be reconstructed from an
        embedding. Raises: as `analyze`.
        """
        query = {
            "person": person,
            "limit": limit,
            "embeddings": "true" if embeddings else None,
            "after": None,
        }
        while True:
            sent = urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
            part = self._ask("GET", f"/v1/gallery/export?{sent}")
            yield from part["people"]
            if part["next"] is None:
                return
            query["after"] = part["next"]

    def models(self) -> dict[str, Any]:
        """The offered tasks, the weights and the limits. Raises: as `analyze`."""
        return self._ask("GET", "/v1/models")

    def ready(self) -> bool:
        """Whether the server would accept a picture now. Raises: OSError."""
        try:
            return self._ask("GET", "/readyz")["status"] == "ready"
        except ServerError as e:
            if e.status == 503:
                return False
            raise

    def _post(self, path: str, pictures: Sequence[Picture], fields: dict[str, Any]) -> dict[str, Any]:
        boundary = uuid.uuid4().hex
        parts = [
            f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items() if value is not None
        ]
        for picture in pictures:
            data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
            # the file's name is not sent: it may name a person
            parts.append(
                b'name="image"; filename="image"\r\nContent-Type: application/octet-stream\r\n\r\n' + data
            )
        head = f"--{boundary}\r\nContent-Disposition: form-data; ".encode()
        body = b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        return self._ask("POST", path, body, f"multipart/form-data; boundary={boundary}")

    def _json(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask(method, path, json.dumps(body).encode(), "application/json")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str | None = None
    ) -> dict[str, Any]:
        for attempt in range(self.retries + 1):
            try:
                return self._once(method, path, body, kind)
            except ServerError as e:
                if e.status not in (429, 503) or attempt == self.retries:
                    raise
                time.sleep(1.0 if e.retry_after is None else e.retry_after)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: bytes | None, kind: str | None) -> dict[str, Any]:
        connect = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = connect(self._host, self._port, timeout=self.timeout)
        headers = {"accept": "application/json"} | ({"content-type": kind} if kind else {})
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        try:
            connection.request(method, self._base + path, body, headers)
            reply = connection.getresponse()
            text = reply.read()
        finally:
            connection.close()
        try:
            record = json.loads(text)
            if reply.status == 200:
                return dict(record)
            error = record["error"]
            code, message, details, request_id = (
                error["code"],
                error["message"],
                error["details"],
                record["request_id"],
            )
        except (ValueError, KeyError, TypeError):  # not our format: a proxy's page, or another service
            code, message, details, request_id = (
                "http",
                f"HTTP {reply.status} {reply.reason}",
                {},
                reply.headers.get("x-request-id", ""),
            )
        after = reply.headers.get("retry-after", "")
        raise ServerError(
            reply.status, code, message, details, request_id, float(after) if after.isdecimal() else None
        )


def mask_rows(mask: dict[str, Any]) -> list[list[int]]:
    """A parsing "mask" of `analyze` -> rows of class indices; numpy.array makes them the mask (h, w)."""
    runs, (w, h) = mask["runs"], mask["size"]
    flat = [index for index, length in zip(runs[::2], runs[1::2], strict=True) for _ in range(length)]
    return [flat[y * w : (y + 1) * w] for y in range(h)]


def _place(person: str, rest: str = "") -> str:
    return f"/v1/gallery/people/{urllib.parse.quote(person, safe='')}" + (f"/{rest}" if rest else "")

"""Middleware of every request: id, key, rate, size, error format, log line and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.server.errors import ApiError, envelope
from mien.server.limits import MIB, Buckets, Deadline, Keys, Limits, Uploads, is_loopback, without_port
from mien.server.metrics import Counts

OPEN = ("/healthz", "/readyz")  # no key needed: container runtimes have none
FREE = (
    *OPEN,
    "/metrics",
    "/openapi.json",
    "/docs",
)  # every other route counts against the rate, also one that is added later
DROPPED = (
    256 * MIB
)  # at most so much of a refused body is read, for clients that send all of it before they read the reply
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("mien.server")


class Middleware:
    """ASGI middleware. The log has route, status, time, the key's name and the request id; never a body, a
    key or a reply.

    Args:
        keys: accepted keys. None accepts every request, but only to a loopback name, since another web page
            could let its own name resolve to this server.
        origins: origins of other pages that may send requests, even without keys.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys | None,
        limits: Limits,
        counts: Counts,
        uploads: Uploads,
        origins: Sequence[str] = (),
    ):
        self.origins = tuple(origins)
        self.app, self.keys, self.limits, self.counts, self.uploads = app, keys, limits, counts, uploads
        self.buckets = Buckets(limits.rate, limits.burst) if limits.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, headers = time.perf_counter(), 0, _headers(scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state |= {
            "request_id": request_id,
            "deadline": Deadline(self.limits.seconds),
            "key": "-",
            "charge": self.charge,
        }
        body = _Body(self.limits, self.uploads, receive, state["deadline"], scope, headers)
        method = scope["method"]
        if method == "HEAD":  # every route that answers GET; what it answers is left out below
            scope["method"] = "GET"

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {
                    "x-request-id": request_id,
                    "cache-control": "no-store",
                    "x-content-type-options": "nosniff",
                }
                message["headers"] = [
                    *message.get("headers", ()),
                    *((k.encode(), v.encode()) for k, v in extra.items()),
                ]
            elif method == "HEAD":
                message = {**message, "body": b""}
            elif not message.get("more_body", False) and body.unread:
                # Closed with unread bytes, the connection would be reset, and the client might never see why
                # it was refused.
                await send({**message, "more_body": True})
                await body.drop()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            self.let_in(scope, headers)
            body.begin()
            await self.app(scope, body.receive, reply)
        except ApiError as e:
            await answer(reply, e, request_id)
        except Exception:
            _log.exception("request %s failed", request_id)
            if status:  # half a reply is out; the connection must end
                raise
            error = ApiError(
                500, "internal", "something went wrong in the server; its log has this request's id"
            )
            await answer(reply, error, request_id)
        finally:
            body.end()
            route = getattr(scope.get("route"), "path", "other")
            took = time.perf_counter() - start
            self.counts.requests.labels(route, str(status)).inc()
            self.counts.seconds.labels(route).observe(took)
            _log.info(
                "%s %s %d %.0f ms key=%s id=%s", method, route, status, 1e3 * took, state["key"], request_id
            )

    def let_in(self, scope: Scope, headers: dict[str, str]) -> None:
        """Check the key and the rate.

        Raises:
            ApiError: 401, 403, 429.
        """
        path = route_path(scope)
        if path in OPEN or (path == "/docs" and self.keys is not None):  # a browser has no key to send
            return
        if self.keys is None:
            host = without_port(headers.get("host", ""))
            if not is_loopback(host):
                text = (
                    f"without keys this server answers under loopback names only, not {host[:60]!r}; start it"
                    " with --api-keys FILE"
                )
                raise ApiError(403, "bad_host", text)
            origin = headers.get("origin")
            own = (
                origin is None or origin in self.origins or origin.partition("://")[2] == headers.get("host")
            )
            if scope["method"] != "GET" and not own:
                assert origin is not None
                # another page may send a form here without a preflight; it would not see the reply, but a
                # person would be enrolled
                text = (
                    f"without keys this server takes nothing that a page of {origin[:60]!r} sends; name it"
                    " with --allow-origin"
                )
                raise ApiError(403, "bad_origin", text)
        else:
            kind, _, key = headers.get("authorization", "").partition(" ")
            name = self.keys.owner(key.strip()) if kind.lower() == "bearer" else None
            if name is None:
                raise ApiError(401, "no_key", "send a key that this server knows: Authorization: Bearer KEY")
            scope["state"]["key"] = name
        if path not in FREE:
            self.charge(scope["state"]["key"], 1)

    def charge(self, name: str, pictures: int) -> None:
        """Count pictures for a key. Raises: ApiError 429 if it has sent too many."""
        wait = self.buckets.take(name, pictures) if self.buckets else 0.0
        if wait > 0:
            text = f"more than {self.limits.rate:g} pictures per minute; try again in {wait:.1f} s"
            raise ApiError(
                429, "rate_limited", text, details={"pictures_per_minute": self.limits.rate}, retry_after=wait
            )


class _Body:
    """Limits a request's body while it arrives."""

    def __init__(
        self,
        limits: Limits,
        uploads: Uploads,
        receive: Receive,
        deadline: Deadline,
        scope: Scope,
        headers: dict[str, str],
    ):
        self._limits, self._uploads, self._receive, self._deadline = limits, uploads, receive, deadline
        self._bytes, self._counted = 0, False
        claimed = headers.get("content-length", "0")
        self._claimed = int(claimed) if claimed.isdecimal() else 0
        self._takes = scope["method"] in ("POST", "PUT", "PATCH")
        self._complete = not self._claimed and "transfer-encoding" not in headers
        # a client that waits for "100 Continue" sends nothing once it is refused
        self._waits = headers.get("expect", "").lower() == "100-continue"

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending."""
        return not self._complete and not (self._waits and self._bytes == 0) and self._deadline.left() > 0

    async def drop(self) -> None:
        """Read and discard the rest, for as long as the request may take."""
        if self._uploads.dropping >= self._limits.queue:
            return
        self._uploads.dropping += 1
        try:
            async with asyncio.timeout(self._deadline.left()):
                dropped = 0
                while not self._complete and dropped < DROPPED:
                    dropped += len((await self._next()).get("body", b""))
        except (TimeoutError, ApiError):
            _log.info("the rest of a refused body did not come; the connection ends")
        finally:
            self._uploads.dropping -= 1

    def begin(self) -> None:
        """Refuse a body whose declared size is too large, or one request too many, before reading it."""
        if not self._takes:
            return
        self._check(self._claimed)
        if self._uploads.open >= self._limits.queue:
            raise ApiError(
                503,
                "queue_full",
                f"{self._uploads.open} requests are open, which is the limit; try again",
                retry_after=1,
            )
        self._uploads.open += 1
        self._counted = True

    async def receive(self) -> Message:
        """The app's `receive`. Raises: ApiError 408, 413 or 503."""
        message = await self._next()
        size = len(message.get("body", b"")) if message["type"] == "http.request" else 0
        self._bytes += size
        self._uploads.held += size
        self._check(self._bytes)
        if self._uploads.held > self._limits.held_bytes:
            raise ApiError(
                503,
                "queue_full",
                "the open requests' bodies fill the memory reserved for them; try again",
                retry_after=1,
            )
        return message

    async def _next(self) -> Message:
        """The next message.

        Raises: ApiError 408, when no byte of an incomplete body has arrived for `stall` seconds.
        """
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits.stall):
                message = await self._receive()
        except TimeoutError as e:
            self._complete = True  # as far as we wait for it
            text = f"nothing of the body came for {self._limits.stall:g} s; send the request again"
            raise ApiError(408, "upload_timeout", text) from e
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def _check(self, size: int) -> None:
        limit = self._limits.request_bytes
        if size > limit:
            text = (
                f"the request has more than {limit} bytes, which is the limit; send fewer or smaller pictures"
            )
            raise ApiError(413, "request_too_large", text, details={"limit": limit})

    def end(self) -> None:
        """Release the body."""
        self._uploads.open -= self._counted
        self._uploads.held -= self._bytes


def route_path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted or served under, as the router matches it."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    below = path.removeprefix(prefix)
    return below if path.startswith(prefix) and below[:1] in ("", "/") else path


def _headers(scope: Scope) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


async def answer(send: Callable[[Message], Any], error: ApiError, request_id: str) -> None:
    """Send an error as the entire reply."""
    body = json.dumps(envelope(error, request_id)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    start = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})

"""The page for browsers: the files of src/mien/web, and the task data that the page needs."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send
from mien.server.middleware import route_path
from mien.web.assets import POLICY, about, parts

HEADERS = {
    "content-security-policy": POLICY + "; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@cache
def _served() -> dict[str, tuple[bytes, str, str]]:
    """Path -> body, content type, entity tag."""
    out = {}
    bodies = {f"/{name}": path.read_bytes() for name, path in parts().items()}
    bodies["/page/about.json"] = json.dumps(about()).encode()
    for path, body in bodies.items():
        kind = (
            {".js": "text/javascript", ".json": "application/json"}.get(Path(path).suffix)
            or mimetypes.guess_type(path)[0]
            or ""
        )
        kind += "; charset=utf-8" if kind.startswith("text/") else ""
        out[path] = body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    out["/"] = out.pop("/index.html")
    return out


class Page:
    """ASGI middleware that serves GET and HEAD of the page's files and passes other requests on.

    The files are public and contain no personal data, so they need no key and no log line.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] not in ("GET", "HEAD")
            or (path := route_path(scope)) not in _served()
        ):
            return await self.app(scope, receive, send)
        body, kind, tag = _served()[path]
        known = tag.encode() in [v for k, v in scope["headers"] if k == b"if-none-match"]
        headers = HEADERS | {"content-type": kind, "content-length": str(len(body)), "etag": tag}
        if known:
            del headers["content-length"]
        status = 304 if known else 200
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        await send(
            {"type": "http.response.body", "body": b"" if known or scope["method"] == "HEAD" else body}
        )

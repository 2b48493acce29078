"""The page that a browser sees: the files of mien/web, and what the page has to know of the tasks."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import __version__
from mien.draw import COLOURS
from mien.tasks import HELEN9, LAPA11, PARSING
from mien.tasks.groups import GROUPS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

WEB = Path(__file__).parent.parent / "web"
# A browser shall load nothing from elsewhere, run nothing that is not a file of ours, and send pictures nowhere but here.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "content-security-policy": POLICY + "; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
# Names that two label sets give to one part, where the palette knows the other.
ALIKE = {"face": "skin", "brow": "l_brow", "eye": "l_eye", "upper_lip": "u_lip", "lower_lip": "l_lip", "inner_mouth": "mouth"}
# Attributes that are rather an opinion of those who labelled them than something to be seen.
OPINIONS = ("Attractive", "Big_Lips", "Big_Nose", "Chubby", "Narrow_Eyes", "Oval_Face", "Pointy_Nose", "Young")


def about() -> dict[str, Any]:
    """Plain JSON values: label sets by name with a colour a class, the groups of the attributes, which of these are opinions."""
    sets = {
        t.labels: [{"name": n, "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[ALIKE.get(n, n)])} for n in t.names]
        for t in (PARSING, LAPA11, HELEN9)
    }
    # its "Object" is what concerns no part
    groups = {"Whole face" if n == "Object" else n: g for n, g in GROUPS["mgmtn8"].items()}
    return {"version": __version__, "sets": sets, "groups": groups, "opinions": list(OPINIONS)}


def parts() -> dict[str, Path]:
    """Address below the page's own -> file, of all that both modes need; mien/web/local is for the browser mode only."""
    found = {f"page/{p.name}": p for p in sorted(WEB.iterdir()) if p.suffix in (".js", ".css", ".png")}
    return {"index.html": WEB / "index.html", **found}


@cache
def _served() -> dict[str, tuple[bytes, str, str]]:
    """Path -> body, content type, entity tag."""
    out = {}
    bodies = {f"/{name}": path.read_bytes() for name, path in parts().items()}
    bodies["/page/about.json"] = json.dumps(about()).encode()
    for path, body in bodies.items():
        kind = {".js": "text/javascript", ".json": "application/json"}.get(Path(path).suffix) or mimetypes.guess_type(path)[0] or ""
        kind += "; charset=utf-8" if kind.startswith("text/") else ""
        out[path] = body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    out["/"] = out.pop("/index.html")
    return out


class Page:
    """ASGI middleware: GET and HEAD of the page's own files are answered here, everything else goes on.

    The files are the same for everybody and say nothing about anybody, so they need no key and no line in the log.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or scope["path"] not in _served():
            return await self.app(scope, receive, send)
        body, kind, tag = _served()[scope["path"]]
        known = tag.encode() in [v for k, v in scope["headers"] if k == b"if-none-match"]
        headers = HEADERS | {"content-type": kind, "content-length": str(len(body)), "etag": tag}
        if known:
            del headers["content-length"]
        status = 304 if known else 200
        await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
        await send({"type": "http.response.body", "body": b"" if known or scope["method"] == "HEAD" else body})

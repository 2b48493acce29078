"""A contact sheet: the faces of many photos in one HTML file that needs nothing but a browser.

Thumbnails are inside the file, and so is everything else: it may be mailed or kept, and its content policy
forbids it to ask any server for anything. Embeddings and landmarks are left out. The page, its style and its
script are the files contact_sheet.html, .css and .js next to this module.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import cv2
from PIL import Image

from mien.errors import UsageError
from mien.types import Face

THUMB = 112  # pixels
_LEFT_OUT = frozenset(("points5", "landmarks", "wflw98", "cofw29", "aflw19", "identity", "identity512"))


class ContactSheet:
    """Collects readings and writes them as one HTML file; about 5 KB a face are kept in memory until then.

    Args:
        path: FILE.html.
        title: of the page.

    Raises:
        UsageError: another suffix.
    """

    def __init__(self, path: str | os.PathLike[str], title: str = "Faces"):
        self.path, self.title = Path(path), title
        if self.path.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"a sheet is FILE.html, not {os.fspath(path)!r}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.photos, self.faces, self.errors = 0, list[dict[str, Any]](), list[dict[str, str]]()

    def add(self, reading: Any, persons: list[int] | None = None) -> None:
        """Add a photo.

        Args:
            reading: `Reading` of the photo.
            persons: one number per face, 0 for a face of nobody known, see `mien.recognition.clustering`.
        """
        if reading.error is not None:
            self.errors.append({"path": str(reading.path), "code": reading.error.code})
            return
        self.photos += 1
        for number, face in enumerate(reading, 1):
            answers = {k: v for k, v in face.to_dict().items() if k.partition("@")[0] not in _LEFT_OUT}
            card = {
                "path": str(reading.path),
                "face": number,
                "faces": len(reading),
                "thumb": thumb(face),
                **answers,
            }
            if persons is not None:
                card["person"] = persons[number - 1]
            self.faces.append(card)

    def close(self) -> None:
        """Write the file: under another name first, so that a half one never stands there."""
        data = json.dumps({"photos": self.photos, "faces": self.faces, "errors": self.errors})
        style, script = _file("contact_sheet.css"), _file("contact_sheet.js")
        page = Template(_file("contact_sheet.html")).substitute(
            title=html.escape(self.title),
            style=style,
            script=script,
            style_hash=_policy(style),
            script_hash=_policy(script),
            data=data.replace("<", "\\u003c"),
        )
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(page, encoding="utf-8")
        os.replace(part, self.path)


def _file(name: str) -> str:
    """A file beside this module."""
    return files("mien.visualize").joinpath(name).read_text(encoding="utf-8")


def _policy(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def thumb(face: Face) -> str:
    """The aligned face as a small JPEG in base64.

    Raises:
        UsageError: the face has no crop.
    """
    if face.crop is None:
        raise UsageError("this face has no crop to show; take it from a Reader")
    pixels = cv2.resize(face.crop.pixels, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()

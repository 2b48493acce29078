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
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mien import geometry
from mien.errors import UsageError
from mien.tasks.attribute_rates import notable
from mien.types import Crop, Face, Pixels

THUMB = 112  # pixels
_SHOWN_ELSEWHERE = frozenset(("Male", "Young", "Attractive"))
_LEFT_OUT = frozenset((
    "points5", "points5_network", "landmarks", "wflw98", "cofw29", "aflw19", "identity", "identity512",
))  # fmt: skip


class ContactSheet:
    """Collects readings and writes them as one HTML file; about 5 KB a face are kept in memory until then.

    Args:
        path: FILE.html.
        title: of the page; None for "Faces" and the folder that all photos share.

    Raises:
        UsageError: another suffix.
    """

    def __init__(self, path: str | os.PathLike[str], title: str | None = None):
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
            marks = {n for n, a in face.answers.items() if a.photo_points() is not None}
            answers = {
                k: v
                for k, v in face.to_dict().items()
                if k.partition("@")[0] not in _LEFT_OUT and k not in marks
            }
            card = {
                "path": str(reading.path),
                "face": number,
                "faces": len(reading),
                "thumb": thumb(face, (reading.photo.width, reading.photo.height) if reading.photo else None),
                **answers,
            }
            if "attributes" in face:
                likely = notable(face["attributes"].probabilities)
                card["notable"] = [n for n in likely if n not in _SHOWN_ELSEWHERE]
            if persons is not None:
                card["person"] = persons[number - 1]
            self.faces.append(card)

    def close(self) -> None:
        """Write the file: under another name first, so that a half one never stands there."""
        folder, names = short_names([card["path"] for card in self.faces])
        for card, name in zip(self.faces, names, strict=True):
            card["name"] = name
        title = self.title if self.title is not None else f"Faces in {folder}" if folder else "Faces"
        data = json.dumps({"photos": self.photos, "faces": self.faces, "errors": self.errors})
        style, script = _file("contact_sheet.css"), _file("contact_sheet.js")
        page = Template(_file("contact_sheet.html")).substitute(
            title=html.escape(title),
            style=style,
            script=script,
            style_hash=policy_of(style),
            script_hash=policy_of(script),
            data=data.replace("<", "\\u003c"),
        )
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(page, encoding="utf-8")
        os.replace(part, self.path)


def _file(name: str) -> str:
    """A file next to this module."""
    return files("mien.visualize").joinpath(name).read_text(encoding="utf-8")


def policy_of(text: str) -> str:
    """What allows a style or script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def short_names(paths: Sequence[str]) -> tuple[str, list[str]]:
    """(the folder that all paths share, each path below it); different paths have different names."""
    split = [re.split(r"[\\/]", path) for path in paths]
    shared = 0
    while split and all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    folder = "/".join(split[0][:shared]) if split else ""
    return folder, ["/".join(parts[shared:]) for parts in split]


def thumb(face: Face, size: tuple[int, int] | None = None) -> str:
    """The aligned face as a small JPEG in base64.

    Args:
        face: with its crop.
        size: (width, height) of the photo: what lies outside it is filled from its edge. None: black.

    Raises:
        UsageError: the face has no crop.
    """
    if face.crop is None:
        raise UsageError("this face has no crop to show; take it from a Reader")
    small = cv2.resize(face.crop.pixels, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    pixels: Pixels = np.asarray(small, np.uint8)
    if size is not None:
        pixels = _filled(pixels, face.crop, size)
    return jpeg_of(pixels)


def jpeg_of(pixels: Pixels) -> str:
    """A picture (H, W, 3) as JPEG in base64."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()


def _filled(pixels: Pixels, crop: Crop, size: tuple[int, int]) -> Pixels:
    """A thumbnail whose places outside the photo have the color of the nearest place inside, blurred."""
    height, width = crop.pixels.shape[:2]
    columns, rows = np.meshgrid(
        (np.arange(THUMB) + 0.5) / THUMB * width, (np.arange(THUMB) + 0.5) / THUMB * height
    )
    places = np.stack([columns.ravel(), rows.ravel()], 1) - 0.5
    photo = geometry.move_points(places, geometry.invert(crop.from_photo))
    rim = 1.5 / geometry.scale_of(crop.from_photo)  # its last pixels are mixed with black
    inside = ((photo >= rim) & (photo <= np.array(size) - 1 - rim)).all(1).reshape(THUMB, THUMB)
    if inside.all() or not inside.any():
        return pixels
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colors[nearest[inside]] = pixels[inside]
    spread = cv2.GaussianBlur(colors[nearest], (0, 0), THUMB / 28)
    return np.where(inside[..., None], pixels, spread).astype(np.uint8)

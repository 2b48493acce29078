"""Pictures as DeepFace takes them, and their faces as DeepFace gives them."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from mien.errors import PhotoError, UsageError
from mien.inference.detector import resized
from mien.inference.reader import Reader, load
from mien.inference.reading import Reading
from mien.io.image import load_photo
from mien.types import Crop, Face

Picture = Any  # a path, a BGR array, an open file, bytes, a torch tensor, or base64
Record = dict[str, Any]
MODEL = "mien"
NO_AREA = {"x": None, "y": None, "w": None, "h": None, "left_eye": None, "right_eye": None}
_lock = threading.Lock()


class PictureError(PhotoError, ValueError):
    """A picture that cannot be read; a ValueError too, which is what DeepFace raises.

    Attributes:
        code: of mien's own error, such as "not_found", which is the cause of this one.
    """


@contextmanager
def value_errors() -> Iterator[None]:
    """Errors of photos inside become a `PictureError`."""
    try:
        yield
    except PhotoError as e:
        error = PictureError(str(e))
        error.code = e.code
        raise error from e


@lru_cache(maxsize=16)
def _made(tasks: tuple[str, ...]) -> Reader:
    return load(tasks=tasks)


def reader_of(*tasks: str) -> Reader:
    """One reader per set of tasks, made once, also when several threads ask."""
    with _lock:
        return _made(tuple(sorted(tasks)))


def several(picture: Picture) -> bool:
    """A list of pictures, or a batch (N, H, W, 3)."""
    return isinstance(picture, (list, tuple)) or getattr(picture, "ndim", 0) == 4


def _source(picture: Picture) -> Any:
    if isinstance(picture, str) and picture.startswith("data:image/"):
        try:
            return base64.b64decode(picture.partition(",")[2], validate=True)
        except binascii.Error as e:
            raise UsageError(f"the picture given as {picture[:30]!r}... is not valid base64: {e}") from e
    if isinstance(picture, np.ndarray) and picture.dtype != np.uint8 and picture.dtype.kind in "fiu":
        return _as_bytes(picture)
    return picture


def _as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers 0..255, or fractions 0..1, as uint8; others as they are, for the reader to refuse."""
    if not array.size or not (array.min() >= 0 and array.max() <= 255):  # NaN is neither
        return array
    scale = 255 if array.dtype.kind == "f" and array.max() <= 1 else 1
    return np.round(scale * array).astype(np.uint8)


def faces_of(reader: Reader, picture: Picture, enforce_detection: bool, detector_backend: str) -> Reading:
    """The faces of a picture. The entire picture counts as one face where none is found and none is enforced,
    or where detection is skipped.

    Raises:
        PictureError: it cannot be read. UsageError: it shows no face.
    """
    source, skip = _source(picture), detector_backend == "skip"
    with value_errors():
        found = Reading(None, load_photo(source, color="bgr")) if skip else reader(source, color="bgr")
    if found:
        return found
    if enforce_detection and not skip:
        raise UsageError(
            "Face could not be detected: give a picture that shows a face, or enforce_detection=False"
        )
    found.append(_entire_picture(reader, found))
    return found


def _entire_picture(reader: Reader, reading: Reading) -> Face:
    """A face of score 0 whose crop is the entire picture, reduced to the network's view."""
    assert reading.photo is not None
    h, w = reading.photo.height, reading.photo.width
    width, height = reader.model.view.size
    scale = min(width / w, height / h)
    small = resized(reading.photo.pixels, scale)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small[:height, :width]
    crop = Crop(canvas, np.array([[scale, 0, 0], [0, scale, 0]], np.float64))
    (predictions,) = reader.read_crops([crop])
    nowhere = np.full((5, 2), np.nan, np.float32)
    return Face(np.array([0, 0, w, h], np.float32), 0.0, nowhere, predictions, crop)


def pixels_of(face: Face, reading: Reading) -> np.ndarray[Any, Any]:
    """The aligned crop of a face (H, W, 3) uint8 RGB; the picture itself where it counts as a face."""
    assert face.crop is not None and reading.photo is not None
    return face.crop.pixels if np.isfinite(face.points).all() else reading.photo.pixels


def area_of(face: Face, reading: Reading) -> Record:
    """Their region: whole pixels inside the picture; eyes named from the person's own side."""
    assert reading.photo is not None
    limits = [reading.photo.width, reading.photo.height] * 2
    x1, y1, x2, y2 = np.clip(np.round(face.box), 0, limits).astype(int).tolist()
    area: Record = {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "left_eye": None, "right_eye": None}
    if np.isfinite(face.points).all():
        in_picture_left, in_picture_right = (tuple(round(float(v)) for v in p) for p in face.points[:2])
        area |= {"left_eye": in_picture_right, "right_eye": in_picture_left}
    return area


def refuse_anti_spoofing(anti_spoofing: bool) -> None:
    """Refuse what mien does not have."""
    if anti_spoofing:
        raise UsageError("mien has no liveness check; call without anti_spoofing=True")

"""Faces made unrecognizable: blurred, in mosaic, or filled, where the parsing mask says a face is, or else in
its box.

A face that the detector does not find stays visible, and blur can in part be undone by a network: `fill` is
the safest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.io.image import check_pixels
from mien.types import Face, Pixels

How = Literal["blur", "mosaic", "fill"]
Mask = npt.NDArray[np.bool_]

GRAY = 118  # of `fill`: no skin color is left
CELLS = 6  # of `mosaic`: blocks across a face at strength 1
# What is no face is left as it is: hair, hats, clothes and what is behind.
KEPT = frozenset(("background", "hair", "hat", "earring", "necklace", "neck", "cloth"))
# Ours: this ellipse of the box is covered whatever the mask says, since a mask can be wrong and a face must
# not show.
CORE = 0.8
GROW = 0.04  # of a face's width, added around the mask
OUTSIDE = 255


def anonymize(pixels: Pixels, faces: Sequence[Face], *, how: How = "blur", strength: float = 1.0) -> Pixels:
    """A copy of the photo in which its faces cannot be recognized.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed.
        faces: as read from this photo; with "parsing", hair and clothes stay.
        strength: > 0, relative to a face's width; 1 leaves six blocks across a face, or a blur of an eighth
            of its width.

    Raises:
        BadArray: pixels are no RGB picture. UsageError: another way or strength.
    """
    check_pixels(pixels, "the photo to anonymize")
    check(how, strength)
    out = np.array(pixels, np.uint8, order="C", copy=True)
    for face in faces:
        mask = region(face, (pixels.shape[1], pixels.shape[0]))
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not ys.size:
            continue
        width = float(max(face.box[2] - face.box[0], 1.0))
        window = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        part = out[window]
        part[mask[window]] = _hidden(part, width, how, strength)[mask[window]]
    return out


def cover_boxes(
    pixels: Pixels, boxes: Sequence[npt.ArrayLike], *, how: How = "blur", strength: float = 1.0
) -> None:
    """Cover whole boxes in place.

    Args:
        pixels: (H, W, 3) uint8 RGB; changed.
        boxes: (4,) float xyxy in pixels each, covered as they are.
        how: see `anonymize`.
        strength: see `anonymize`.
    """
    height, width = pixels.shape[:2]
    for box in boxes:
        x1, y1, x2, y2 = (float(v) for v in np.asarray(box))
        left, right = int(np.clip(np.floor(x1), 0, width)), int(np.clip(np.ceil(x2) + 1, 0, width))
        top, bottom = int(np.clip(np.floor(y1), 0, height)), int(np.clip(np.ceil(y2) + 1, 0, height))
        if left < right and top < bottom:
            window = np.s_[top:bottom, left:right]
            pixels[window] = _hidden(pixels[window], max(x2 - x1, 1.0), how, strength)


def check(how: str, strength: float) -> None:
    """Pass quietly if `anonymize` takes these two.

    Raises:
        UsageError: it does not.
    """
    if how not in get_args(How):
        raise UsageError(f"how is one of {', '.join(get_args(How))}, not {how!r}")
    if not strength > 0 or not np.isfinite(strength):
        raise UsageError(f"strength is a number above 0, not {strength}")


def region(face: Face, size: tuple[int, int]) -> Mask:
    """(height, width) True where a face of a photo of size (width, height) is to be covered.

    With parsing: its face classes, a little grown, and the middle of the box in any case. Without: the box, a
    little grown.
    """
    width, height = size
    x1, y1, x2, y2 = (float(v) for v in face.box)
    w, h = x2 - x1, y2 - y1
    covered = np.zeros((height, width), np.uint8)
    if "parsing" not in face:
        grown = 2 * GROW
        left, right = (int(np.clip(v, 0, width)) for v in (x1 - grown * w, np.ceil(x2 + grown * w) + 1))
        top, bottom = (int(np.clip(v, 0, height)) for v in (y1 - grown * h, np.ceil(y2 + grown * h) + 1))
        covered[top:bottom, left:right] = 1
        return covered.astype(bool)
    answer = face["parsing"]
    shown = answer.mask_in(width, height)
    hide = np.zeros(256, np.uint8)
    hide[: len(answer.names)] = [name not in KEPT for name in answer.names]
    hide[OUTSIDE] = 0
    covered = hide[shown]
    grow = 2 * max(1, round(GROW * w)) + 1
    covered = cv2.dilate(covered, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (grow, grow)))  # type: ignore[assignment]
    middle = (round((x1 + x2) / 2), round((y1 + y2) / 2))
    core = np.zeros((height, width), np.uint8)
    cv2.ellipse(core, middle, (max(1, round(CORE * w / 2)), max(1, round(CORE * h / 2))), 0, 0, 360, (1,), -1)
    _, parts = cv2.connectedComponents(covered | core)
    return np.isin(parts, np.setdiff1d(parts[core > 0], 0))  # specks of a mask elsewhere are no face


def _hidden(part: Pixels, width: float, how: How, strength: float) -> Pixels:
    """A window of the photo as it shall look where it is covered; width: of the face, pixels."""
    if how == "fill":
        return np.full_like(part, GRAY)
    h, w = part.shape[:2]
    if how == "mosaic":
        block = max(2.0, width / CELLS * strength)
        cells = (max(1, round(w / block)), max(1, round(h / block)))
        small = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)  # type: ignore[return-value]
    # a wide Gaussian on fewer pixels is the same to the eye, and many times faster
    sigma = max(1.0, width / 8 * strength)
    scale = min(1.0, 4 / sigma)
    small = cv2.resize(
        part, (max(1, round(w * scale)), max(1, round(h * scale))), interpolation=cv2.INTER_AREA
    )
    small = cv2.GaussianBlur(small, (0, 0), sigma * scale, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]

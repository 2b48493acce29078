"""Convert decoded pictures of any mode to RGB, strip by strip to save memory; profile colors become sRGB."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.errors import NotAPicture
from mien.io.profile import to_srgb
from mien.types import Pixels

_log = logging.getLogger(__name__)


def to_rgb(image: Image.Image, name: str) -> Pixels:
    """Convert a loaded Pillow image of any mode to a new (H, W, 3) uint8 RGB array, without orientation.

    The conversion works on strips of rows: its copies of a large picture would need more than a gigabyte.
    """
    if image.mode == "LAB":
        raise NotAPicture(f"{name} has CIELAB colors, which mien does not read; convert it to RGB")
    if image.mode in ("I", "F"):
        return np.repeat(_scaled(np.asarray(image))[..., None], 3, axis=2)
    out = np.empty((image.height, image.width, 3), np.uint8)
    profile = to_srgb(image, name)
    if profile is not None and profile.mode != _profile_mode(image.mode):
        _log.warning(
            "%s: its color profile is for %s pictures, not %s; it is not used", name, profile.mode, image.mode
        )
        profile = None
    for top, end in _strips(image.height, image.width):
        strip = image.crop((0, top, image.width, end))
        if profile is None:
            out[top:end] = _strip_to_rgb(strip)
            continue
        plain = (
            strip if profile.mode == "CMYK" else Image.fromarray(_plain(_strip_to_rgb(strip), profile.mode))
        )
        out[top:end] = np.asarray(profile.apply(plain))
    return out


def _profile_mode(mode: str) -> str:
    """The mode of pictures that a profile must be for, given an image's mode."""
    if mode == "CMYK":
        return "CMYK"
    return "L" if mode in ("1", "L", "LA", "La") or mode.startswith("I;16") else "RGB"


def _plain(rgb: npt.NDArray[Any], mode: str) -> Pixels:
    """(H, W, 3) or (H, W, 1) -> what a transform of "RGB" or "L" takes."""
    return np.ascontiguousarray(rgb if mode == "RGB" else rgb[..., 0], np.uint8)


def _strips(height: int, width: int) -> list[tuple[int, int]]:
    """Rows of about a million pixels each, (first, end)."""
    rows = max(1, 2**20 // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _strip_to_rgb(image: Image.Image) -> npt.NDArray[Any]:
    """(H, W, 3), or (H, W, 1) for gray. Transparent pictures are put on white."""
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255. 257 = 65535 / 255; + 128 rounds.
        return ((np.asarray(image, np.uint32) + 128) // 257)[..., None]
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image.convert("RGB"))


def _scaled(values: npt.NDArray[Any]) -> Pixels:
    """Convert 32-bit gray, whose white level is unknown, to uint8.

    White is the smallest of 1 (floats only), 255 and 65535 that holds all values; values beyond are scaled
    from their minimum to their maximum. NaN counts as 0.
    """
    strips, is_float = _strips(*values.shape), values.dtype.kind == "f"
    out = np.empty(values.shape, np.uint8)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        ends = [
            (v.min(), v.max()) for v in (np.nan_to_num(values[i:j].astype(np.float64)) for i, j in strips)
        ]
        low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
        whites = [
            white for white in ((1, 255, 65535) if is_float else (255, 65535)) if low >= 0 and high <= white
        ]
        black, white = (0.0, float(whites[0])) if whites else (low, high)
        # divide before subtracting: the span of two huge floats would overflow
        unit = max(abs(black), abs(white)) or 1.0
        span = white / unit - black / unit or 1.0
        for i, j in strips:
            part = np.nan_to_num(values[i:j].astype(np.float64))
            out[i:j] = ((part / unit - black / unit) / span * 255).round().clip(0, 255)
    return out

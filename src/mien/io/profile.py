"""Color profiles (ICC): transforms from a picture's colors to sRGB, which networks and screens expect."""

from __future__ import annotations

import functools
import io
import logging
from typing import Any

import numpy as np
from PIL import Image, features

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's color space -> Pillow's mode
_LARGEST = 16 * 2**20  # bytes of a profile
_SAME = 2  # of 255: a profile that changes no color by more is sRGB under another name

_log = logging.getLogger(__name__)


def to_srgb(image: Image.Image, name: str) -> Any:
    """The transform of a picture's profile to sRGB; None where there is nothing to convert.

    Its `apply` takes images of its `mode` ("RGB", "L" or "CMYK") and returns RGB images.

    Args:
        image: a Pillow image; its profile is in `info`.
        name: of the picture, for the log.
    """
    icc = image.info.get("icc_profile")
    if not isinstance(icc, bytes) or not icc:
        return None
    if not features.check("littlecms2"):
        _log.warning("%s: this Pillow cannot read color profiles; the colors are left as they are", name)
        return None
    try:
        return _transform(icc)
    except ValueError as error:
        _log.warning("%s: its color profile is not used (%s); the colors are left as they are", name, error)
        return None


class Transform:
    """A picture's colors -> sRGB.

    Args:
        mode: Pillow's mode of the input pictures.
        transform: an ImageCms transform.
    """

    def __init__(self, mode: str, transform: Any):
        self.mode, self._transform = mode, transform

    def apply(self, image: Image.Image) -> Image.Image:
        """An image of `mode` -> an RGB image of the same size."""
        out = Image.new("RGB", image.size)
        self._transform.apply(image, out)
        return out


@functools.lru_cache(maxsize=8)
def _transform(icc: bytes) -> Transform | None:
    """None for sRGB itself.

    Raises:
        ValueError: no profile of red-green-blue, gray or CMYK pictures.
    """
    from PIL import ImageCms

    if len(icc) > _LARGEST:
        raise ValueError(f"it has {len(icc)} bytes")
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(icc))
        mode = _MODES.get(profile.profile.xcolor_space)
        if mode is None:
            raise ValueError(f"it is of {profile.profile.xcolor_space.strip() or 'unknown'} colors")
        made = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    transform = Transform(mode, made)
    return None if mode != "CMYK" and _is_srgb(transform) else transform


def _is_srgb(transform: Transform) -> bool:
    """Whether the transform leaves colors as they are."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    if transform.mode == "L":
        colors = np.repeat(steps[:, None, None], 3, 2)
        given = Image.fromarray(np.ascontiguousarray(colors[..., 0]))
    else:
        colors = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 18, 3)
        given = Image.fromarray(colors)
    moved = np.asarray(transform.apply(given)).astype(int) - colors
    return int(np.abs(moved).max()) <= _SAME

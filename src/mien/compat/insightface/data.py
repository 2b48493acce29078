"""`insightface.data`: pictures by name."""

from __future__ import annotations

import os
from importlib.resources import files

import numpy as np

from mien.io.image import load_photo
from mien.types import Pixels

_SAMPLES = ("t1", "Tom_Hanks_54745")  # of their sample pictures, those with faces that are seen entirely


def get_image(name: str | os.PathLike[str], to_rgb: bool = False, use_cache: bool = True) -> Pixels:
    """A picture (H, W, 3), BGR unless to_rgb.

    Args:
        name: a path. "t1", which InsightFace's examples use, is mien's own example photo.
        to_rgb: the order of the channels.
        use_cache: not used.

    Raises:
        PhotoError: the file cannot be read.
    """
    if name in _SAMPLES and not os.path.lexists(name):
        pixels = load_photo(files("mien").joinpath("web/example.jpg").read_bytes()).pixels
    else:
        pixels = load_photo(name).pixels
    return pixels if to_rgb else np.ascontiguousarray(pixels[..., ::-1])

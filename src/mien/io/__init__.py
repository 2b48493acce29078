"""Pictures in, records out: decoding, colors, paths, writers and data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.io.dataframe import to_dataframe, to_supervision
    from mien.io.image import MAX_PIXELS, Photo, load_photo
    from mien.io.paths import find_photos
    from mien.io.writers import open_output

__all__ = [
    "MAX_PIXELS",
    "Photo",
    "find_photos",
    "load_photo",
    "open_output",
    "to_dataframe",
    "to_supervision",
]

__getattr__ = attach(
    __name__,
    {
        "to_dataframe": "dataframe",
        "to_supervision": "dataframe",
        "MAX_PIXELS": "image",
        "Photo": "image",
        "load_photo": "image",
        "find_photos": "paths",
        "open_output": "writers",
    },
)

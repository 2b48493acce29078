"""Reads a whole face with one network in one pass.

import mien
reader = mien.load()
for face in reader("photo.jpg"):
    print(face["age"].years, face[mien.EXPRESSION].label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mien.errors import MienError, PhotoError
from mien.types import Crop, Detection, Face, View

if TYPE_CHECKING:
    from mien.inference.reader import Reader, Reading, load
    from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, GENDER, IDENTITY, LANDMARKS, PARSING, POINTS5, POSE

__version__ = "0.1.0"
_TASKS = ("AGE", "ATTRIBUTES", "EXPRESSION", "GENDER", "IDENTITY", "LANDMARKS", "PARSING", "POINTS5", "POSE")
_READING = ("Reader", "Reading", "load")
__all__ = [
    "AGE", "ATTRIBUTES", "EXPRESSION", "GENDER", "IDENTITY", "LANDMARKS", "PARSING", "POINTS5", "POSE",
    "Crop", "Detection", "Face", "MienError", "PhotoError", "Reader", "Reading", "View", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Tasks and the reader come when first used: they need OpenCV and the ONNX runtime, and `import mien` does not."""
    if name in _TASKS:
        from mien import tasks

        return getattr(tasks, name)
    if name in _READING:
        from mien.inference import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'mien' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

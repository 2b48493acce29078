"""Reads a whole face with one network in one pass.

import mien

reader = mien.load()
for face in reader("photo.jpg"):
    print(face["age"].years, face[mien.EXPRESSION].label)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from mien.errors import BadWeights, MienError, PhotoError, UnknownTask, UsageError
from mien.types import Crop, Detection, Face, View

if TYPE_CHECKING:
    from mien.inference import OnnxModel, Reader, Reading, features, load
    from mien.io import find_photos
    from mien.recognition import Gallery, cluster_faces, verify
    from mien.selection import best, check
    from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, GENDER, IDENTITY, LANDMARKS, PARSING, POINTS5, POSE
    from mien.training.finetune import finetune
    from mien.video import anonymize_video, read_video
    from mien.visualize import annotate, anonymize

__version__ = "0.2.0"

# Official builds of ONNX Runtime (1.29 and later) report their use to Microsoft, and begin when they are
# imported. mien opens no connection that nobody asked for. A value that is set already stays: 0 allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# `import mien` must stay cheap: what needs OpenCV or ONNX Runtime is imported on first use.
_LAZY = {
    **dict.fromkeys(("OnnxModel", "Reader", "Reading", "features", "load"), "mien.inference"),
    **dict.fromkeys(("find_photos",), "mien.io"),
    **dict.fromkeys(("Gallery", "cluster_faces", "verify"), "mien.recognition"),
    **dict.fromkeys(("best", "check"), "mien.selection"),
    **dict.fromkeys(
        ("AGE", "ATTRIBUTES", "EXPRESSION", "GENDER", "IDENTITY", "LANDMARKS", "PARSING", "POINTS5", "POSE"),
        "mien.tasks",
    ),
    **dict.fromkeys(("finetune",), "mien.training.finetune"),
    **dict.fromkeys(("anonymize_video", "read_video"), "mien.video"),
    **dict.fromkeys(("annotate", "anonymize"), "mien.visualize"),
}
__all__ = [
    "AGE", "ATTRIBUTES", "EXPRESSION", "GENDER", "IDENTITY", "LANDMARKS", "PARSING", "POINTS5", "POSE",
    "BadWeights", "Crop", "Detection", "Face", "Gallery", "MienError", "OnnxModel", "PhotoError", "Reader",
    "Reading",
    "UnknownTask", "UsageError", "View", "annotate", "anonymize", "anonymize_video", "best", "check",
    "cluster_faces", "features", "find_photos", "finetune", "load", "read_video", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mien' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

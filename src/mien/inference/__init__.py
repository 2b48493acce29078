"""The pipeline of a photo: detect, align, predict. Never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.inference.detector import Detector
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.reader import Reader, load
    from mien.inference.reading import Reading

__all__ = ["Detector", "OnnxModel", "Reader", "Reading", "load"]

__getattr__ = attach(
    __name__,
    {
        "Detector": "detector",
        "OnnxModel": "onnx_model",
        "Reader": "reader",
        "Reading": "reading",
        "load": "reader",
    },
)

"""The pipeline of a photo: detect, align, predict. Never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.inference.detector import Detector
    from mien.inference.encoder_features import FeatureReader, Features, features
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.reader import Reader, load
    from mien.inference.reading import Reading

__all__ = ["Detector", "FeatureReader", "Features", "OnnxModel", "Reader", "Reading", "features", "load"]

__getattr__ = attach(
    __name__,
    {
        "Detector": "detector",
        "FeatureReader": "encoder_features",
        "Features": "encoder_features",
        "OnnxModel": "onnx_model",
        "Reader": "reader",
        "Reading": "reading",
        "features": "encoder_features",
        "load": "reader",
    },
)

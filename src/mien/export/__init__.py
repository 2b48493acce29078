"""ONNX export, import and quantization. Needs the extra `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.export.onnx_export import export, release
    from mien.export.onnx_import import load_onnx
    from mien.export.quantization import quantize

__all__ = ["export", "load_onnx", "quantize", "release"]

__getattr__ = attach(
    __name__,
    {
        "export": "onnx_export",
        "release": "onnx_export",
        "load_onnx": "onnx_import",
        "quantize": "quantization",
    },
)

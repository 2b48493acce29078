"""The two networks behind InsightFace's models: made once per `FaceAnalysis`, and on the right device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from mien.errors import UsageError
from mien.inference.detector import Detector
from mien.inference.providers import CPU, Provider
from mien.inference.reader import Reader, load

_CUDA = "CUDAExecutionProvider"


class Networks:
    """A reader that InsightFace's models share.

    Args:
        tasks: that the reader predicts.
        providers: see `FaceAnalysis`.
        options: one dict per provider, as ONNX Runtime takes them.
        threads: inference threads.
        weights: an .onnx file of mien's in place of the embedded network.
        detector: an .onnx file of mien's in place of the embedded detector.

    Attributes:
        reader: detects and predicts.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        providers: Sequence[Provider] | None = None,
        options: Sequence[Mapping[str, Any]] | None = None,
        threads: int | None = None,
        *,
        weights: str | None = None,
        detector: str | None = None,
    ):
        named = list(providers) if providers is not None else _default()
        if options is not None and len(options) != len(named):
            raise UsageError(
                f"{len(options)} provider_options for {len(named)} providers; give one dict each"
            )
        if options is not None:
            named = [
                (p, dict(o)) if isinstance(p, str) and o else p for p, o in zip(named, options, strict=True)
            ]
        self._given: dict[str, Any] = {"weights": weights, "detector": detector, "threads": threads}
        self.reader: Reader = load(tasks=tasks, providers=named, **self._given)

    @property
    def detector(self) -> Detector:
        """The detector of the reader."""
        assert isinstance(self.reader.detector, Detector)
        return self.reader.detector

    def prepare(self, ctx_id: int, det_thresh: float | None) -> None:
        """Move to the CPU where ctx_id is below 0, and set the minimum score; None for the detector's own."""
        tasks, providers = self.reader.requested, getattr(self.detector.model, "providers", [CPU])
        if ctx_id < 0 and list(providers) != [CPU]:
            self.reader = load(tasks=tasks, providers=[CPU], **self._given)
        model = self.detector.model
        detector = Detector(model) if det_thresh is None else Detector(model, threshold=det_thresh)
        self.reader = Reader(detector, self.reader.model, tasks=tasks)


def _default() -> list[Provider]:
    """CUDA where it is installed, and the CPU."""
    return [_CUDA, CPU] if _CUDA in ort.get_available_providers() else [CPU]

"""`insightface.app.FaceAnalysis`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.compat.insightface.app.common import Face
from mien.compat.insightface.model_zoo import (
    TASKS,
    Detection,
    GenderAge,
    Model,
    Recognition,
    with_predictions,
)
from mien.compat.insightface.networks import Networks
from mien.errors import UsageError
from mien.inference.providers import Provider
from mien.types import Pixels

MODULES = TASKS | {"landmark_2d_106": ("landmarks", "pose"), "landmark_3d_68": ("landmarks", "pose")}
_KINDS: dict[str, type[Model]] = {"detection": Detection, "recognition": Recognition, "genderage": GenderAge}
_log = logging.getLogger(__name__)


def _model(module: str, networks: Networks) -> Model | None:
    """A module on its own; None for landmarks, which only `FaceAnalysis.get` reads."""
    return _KINDS[module](networks) if module in _KINDS else None


class FaceAnalysis:
    """Detects and reads faces in BGR pictures.

    Args:
        name: not used, like `root`: there is one network.
        root: see `name`.
        allowed_modules: of detection, recognition, genderage, landmark_2d_106, landmark_3d_68; None for all.
        providers: ONNX Runtime's execution providers, in order of preference, as names or (name, options);
            those that are not installed are left out with a warning. None for CUDA where it is installed,
            else the CPU.
        threads: inference threads.
        kwargs: `provider_options`, one dict per provider; others are not used.

    Attributes:
        models: the modules by name.
        det_model: the detector.

    Raises:
        UsageError: an unknown module or provider.
    """

    def __init__(
        self,
        name: str = "buffalo_l",
        root: str = "~/.insightface",
        allowed_modules: Sequence[str] | None = None,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        **kwargs: Any,
    ):
        modules = list(MODULES) if allowed_modules is None else list(allowed_modules)
        if unknown := [m for m in modules if m not in MODULES]:
            raise UsageError(f"no module {unknown[0]!r}; there are: {', '.join(MODULES)}")
        tasks = list(dict.fromkeys(t for m in modules for t in MODULES[m]))
        self._networks = Networks(tasks, providers, kwargs.pop("provider_options", None), threads)
        self.det_model = Detection(self._networks)
        self.models: dict[str, Model | None] = {"detection": self.det_model}
        for m in modules:
            self.models[m] = self.det_model if m == "detection" else _model(m, self._networks)
        self.det_size: tuple[int, int] | str | None = (640, 640)
        for extra in kwargs:
            _log.info("FaceAnalysis: %s is not used", extra)

    @property
    def det_thresh(self) -> float:
        """Minimum detection score."""
        return self._networks.detector.threshold

    def prepare(
        self,
        ctx_id: int = 0,
        det_thresh: float | None = None,
        det_size: tuple[int, int] | str | None = (640, 640),
    ) -> None:
        """Set the device and the minimum score.

        Args:
            ctx_id: below 0 for the CPU; else `providers` choose the device.
            det_thresh: minimum detection score; mien's scores are not InsightFace's, and None is mien's own
                threshold.
            det_size: not used: mien looks at each photo at several sizes, so that near and far faces are
                found.
        """
        self._networks.prepare(ctx_id, det_thresh)
        self.det_size = det_size

    def get(self, img: Pixels, max_num: int = 0, det_metric: str = "default") -> list[Face]:
        """A BGR picture -> its faces, largest first; max_num: at most so many, 0 for all."""
        found = self._networks.reader(img, color="bgr")
        return [with_predictions(face) for face in (found[:max_num] if max_num else found)]

    def draw_on(self, img: Pixels, faces: Sequence[Face]) -> Pixels:
        """A copy of the BGR picture with its faces drawn in."""
        from mien.visualize.drawing import annotate

        rgb = np.ascontiguousarray(img[..., ::-1])
        return np.ascontiguousarray(annotate(rgb, [f["mien"] for f in faces])[..., ::-1])

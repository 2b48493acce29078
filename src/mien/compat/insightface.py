"""`FaceAnalysis` as InsightFace documents it, answered by mien.

    from mien.compat.insightface import FaceAnalysis
    app = FaceAnalysis(name="buffalo_l")
    app.prepare(ctx_id=0, det_size=(640, 640))
    faces = app.get(cv2_picture)  # BGR

Differences: one network, whatever `name` says; its embedding has 128 numbers of length 1 and cannot be
compared with theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mien.errors import UsageError
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import Reader, load
from mien.inference.weights_file import WEIGHTS
from mien.io.image import load_photo
from mien.recognition.verification import embedding_of
from mien.types import Pixels

Array = npt.NDArray[Any]
# Their names of answers that mien does not give; reading one is None, as with their packs that lack a model.
ABSENT = frozenset(("landmark_3d_68", "landmark_2d_106", "mask", "liveness", "quality"))
MODULES = {
    "detection": (), "recognition": ("identity",), "genderage": ("age", "gender"),
    "landmark_2d_106": ("landmarks", "pose"),
    "landmark_3d_68": ("landmarks", "pose"),
}  # fmt: skip
_log = logging.getLogger(__name__)


class Face(dict[str, Any]):
    """One face: `face.bbox` and `face["bbox"]` are the same.

    `bbox` (4,) xyxy, `kps` (5, 2), `det_score`; and where asked for: `age` whole years, `gender` 1 male 0
    female, `sex` "M" or "F", `pose` (pitch, yaw, roll) in degrees with mien's signs, `landmark_2d_68` (68,
    2), `embedding` (128,). `mien`: the face as mien has it.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in ABSENT or name in ("age", "gender", "pose", "embedding", "landmark_2d_68"):
            return None
        raise AttributeError(f"a face has no {name!r}; it has: {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    @property
    def sex(self) -> str | None:
        """The letter "M" or "F"."""
        return None if self.gender is None else "M" if self.gender == 1 else "F"

    @property
    def embedding_norm(self) -> float | None:
        """1: mien's embeddings have length 1."""
        return None if self.embedding is None else float(np.linalg.norm(self.embedding))

    @property
    def normed_embedding(self) -> Array | None:
        """The same as `embedding`."""
        return self.embedding  # type: ignore[no-any-return]


class FaceAnalysis:
    """Detects and reads faces in BGR pictures.

    Args:
        name, root: taken and not used.
        allowed_modules: of detection, recognition, genderage, landmark_2d_106, landmark_3d_68.
        providers: ONNX Runtime's, in order; the CPU if not given.
        threads: of a forward.

    Raises:
        UsageError: an unknown module, or none of the providers is here; else the first that is here is taken,
            with a warning.
    """

    def __init__(
        self,
        name: str = "buffalo_l",
        root: str = "~/.insightface",
        allowed_modules: Sequence[str] | None = None,
        providers: Sequence[Any] | None = None,
        threads: int | None = None,
        **kwargs: Any,
    ):
        modules = list(MODULES) if allowed_modules is None else list(allowed_modules)
        if unknown := [m for m in modules if m not in MODULES]:
            raise UsageError(f"no module {unknown[0]!r}; there are: {', '.join(MODULES)}")
        named = _available(
            [p[0] if isinstance(p, tuple) else p for p in providers or ("CPUExecutionProvider",)]
        )
        self._model = OnnxModel(WEIGHTS / "mien.onnx", threads=threads, providers=named)
        self._finder = OnnxModel(WEIGHTS / "detector.onnx", threads=threads, providers=named)
        tasks = list(dict.fromkeys(t for m in modules for t in MODULES[m]))
        self._reader: Reader = load(self._model, tasks=tasks, threads=threads)
        self.det_thresh, self.det_size, self.models = 0.0, (640, 640), dict.fromkeys(modules)
        for extra in kwargs:
            _log.info("FaceAnalysis: %s has no meaning here", extra)

    def prepare(
        self,
        ctx_id: int = 0,
        det_thresh: float | None = None,
        det_size: tuple[int, int] | str | None = (640, 640),
    ) -> None:
        """ctx_id is not used: `providers` choose the device. det_thresh: mien's scores are not InsightFace's;
        its own cut if not given.

        det_size is not used either: mien looks at each photo at several sizes, so that near faces and far
        ones are found.
        """
        detector = (
            Detector(self._finder) if det_thresh is None else Detector(self._finder, threshold=det_thresh)
        )
        self._reader = Reader(detector, self._model, tasks=self._reader.requested)
        self.det_thresh = detector.threshold

    def get(self, img: Pixels, max_num: int = 0, det_metric: str = "default") -> list[Face]:
        """A BGR uint8 picture (H, W, 3) -> its faces, largest first; max_num: at most so many, 0 for all."""
        found = self._reader(img, color="bgr")
        return [_converted(face) for face in (found[:max_num] if max_num else found)]

    def draw_on(self, img: Pixels, faces: Sequence[Face]) -> Pixels:
        """A copy of the BGR picture with its faces drawn in."""
        from mien.visualize.drawing import annotate

        return np.ascontiguousarray(
            annotate(np.ascontiguousarray(img[..., ::-1]), [f["mien"] for f in faces])[..., ::-1]
        )


def _available(named: Sequence[str]) -> list[str]:
    """Those of the execution providers that are here, in order."""
    here = ort.get_available_providers()
    absent = [p for p in named if p not in here]
    if len(absent) == len(named):
        raise UsageError(f"no {absent[0]} here; there are: {', '.join(here)}")
    kept = [p for p in named if p in here]
    if absent:
        _log.warning("no %s here; %s is used", ", ".join(absent), kept[0])
    return kept


def _converted(face: Any) -> Face:
    out = Face(
        bbox=np.asarray(face.box, np.float32),
        kps=np.asarray(face.points, np.float32),
        det_score=np.float32(face.score),
    )
    if "age" in face:
        out["age"] = round(face["age"].years)
    if "gender" in face:
        out["gender"] = int(face["gender"].label == "male")
    if "landmarks" in face:
        out["landmark_2d_68"] = np.asarray(face["landmarks"].points, np.float32)
    if "pose" in face:
        out["pose"] = np.array([face["pose"].pitch, face["pose"].yaw, face["pose"].roll], np.float32)
    if any(n.startswith("identity") for n in face):
        out["embedding"] = np.asarray(embedding_of(face), np.float32)
    out["mien"] = face
    return out


def get_image(name: str, to_rgb: bool = False) -> Pixels:
    """A picture by path, BGR unless to_rgb; mien ships none of InsightFace's sample pictures."""
    pixels = load_photo(name).pixels
    return pixels if to_rgb else np.ascontiguousarray(pixels[..., ::-1])


def get_model(name: str, **kwargs: Any) -> Any:
    """Refused: mien has one network for all answers, and no single models of InsightFace's."""
    raise UsageError(
        f"mien has no separate model {name!r}; use FaceAnalysis(allowed_modules=[...]), which reads all by"
        " one network"
    )


# for `insightface.app.FaceAnalysis`, `insightface.data.get_image` and `insightface.model_zoo.get_model`
app = SimpleNamespace(FaceAnalysis=FaceAnalysis)
data = SimpleNamespace(get_image=get_image)
model_zoo = SimpleNamespace(get_model=get_model)

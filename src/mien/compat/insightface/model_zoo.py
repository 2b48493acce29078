"""`insightface.model_zoo`: single models by name, answered by the parts of mien's network."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.compat.insightface.app.common import Face
from mien.compat.insightface.networks import Networks
from mien.errors import UsageError
from mien.inference.onnx_model import OnnxModel
from mien.io.image import load_photo
from mien.recognition.verification import embedding_of
from mien.tasks.detection import FACES
from mien.types import Pixels

Array = npt.NDArray[Any]
TASKS: dict[str, tuple[str, ...]] = {
    "detection": (),
    "recognition": ("identity",),
    "genderage": ("age", "gender"),
}
# How the files of InsightFace's models are named, and what its documentation calls a user's own.
_NAMES = {
    "detection": ("det_", "scrfd", "retinaface", "detection"),
    "recognition": ("w600k", "glint", "arcface", "recognition"),
    "genderage": ("genderage",),
}


class Model:
    """One of InsightFace's models. Their `taskname` says which."""

    taskname = ""

    def __init__(self, networks: Networks):
        self._networks = networks

    def prepare(self, ctx_id: int = 0, det_thresh: float | None = None, **kwargs: Any) -> None:
        """Set the device and the minimum score, see `FaceAnalysis.prepare`; others are not used."""
        self._networks.prepare(ctx_id, det_thresh)

    def _predict(self, img: Pixels, face: Face) -> dict[str, Any]:
        """The model's predictions of one face of a BGR picture, aligned by its `kps`."""
        reader = self._networks.reader
        crop = geometry.align(load_photo(img, color="bgr").pixels, face.kps, reader.model.view)
        (predictions,) = reader.read_crops([crop], tasks=reader.select(TASKS[self.taskname]))
        return predictions


class Detection(Model):
    """Finds faces."""

    taskname = "detection"

    def detect(
        self,
        img: Pixels,
        input_size: tuple[int, int] | None = None,
        max_num: int = 0,
        metric: str = "default",
    ) -> tuple[Array, Array]:
        """Boxes with scores (n, 5) and points (n, 5, 2) of a BGR picture, largest first.

        Args:
            img: (H, W, 3) BGR.
            input_size: not used, like `metric`.
            max_num: maximum number of faces; 0 for all.
            metric: see `input_size`.
        """
        found = self._networks.detector(load_photo(img, color="bgr").pixels)
        found = found[:max_num] if max_num else found
        boxes = np.array([[*d.box, d.score] for d in found], np.float32).reshape(-1, 5)
        return boxes, np.array([d.points for d in found], np.float32).reshape(-1, 5, 2)


class Recognition(Model):
    """Embeds faces."""

    taskname = "recognition"

    def get(self, img: Pixels, face: Face) -> Array:
        """The embedding (128,) of a face of a BGR picture, which becomes `face.embedding`."""
        (predicted,) = self._predict(img, face).values()
        face["embedding"] = np.asarray(predicted.embedding, np.float32)
        return face.embedding  # type: ignore[no-any-return]

    def compute_sim(self, feat1: Array, feat2: Array) -> float:
        """Cosine similarity of two embeddings, -1..1."""
        a, b = np.ravel(feat1), np.ravel(feat2)
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def get_feat(self, imgs: Any) -> NoReturn:
        """Refused.

        Raises:
            UsageError: always; it names `get`.
        """
        raise UsageError(
            "get_feat takes crops of InsightFace's own alignment, and mien aligns faces in another way; use"
            " get(img, face) with the entire picture"
        )


class GenderAge(Model):
    """Reads gender and age."""

    taskname = "genderage"

    def get(self, img: Pixels, face: Face) -> tuple[int, int]:
        """(gender, age) of a face of a BGR picture: 1 male 0 female, whole years; set on the face too."""
        predicted = self._predict(img, face)
        face["gender"], face["age"] = int(predicted["gender"].label == "male"), round(predicted["age"].years)
        return face["gender"], face["age"]


def with_predictions(face: Any) -> Face:
    """A face of mien's as InsightFace has it."""
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


def get_model(name: str | os.PathLike[str], **kwargs: Any) -> Model:
    """A detector, or a model for recognition or for gender and age.

    Args:
        name: an .onnx file that mien exported; or a name of one of InsightFace's models, such as
            "det_10g.onnx" or "w600k_r50.onnx", for which the embedded networks are used.
        kwargs: `providers` and `provider_options` as in `FaceAnalysis`; others are not used.

    Raises:
        UsageError: a name that tells no kind of model.
        BadWeights: a file that mien did not export, such as InsightFace's own.
    """
    path = os.fspath(name)
    given: dict[str, Any] = {"providers": kwargs.get("providers"), "options": kwargs.get("provider_options")}
    if os.path.isfile(path):
        tasks = [t.name for t in OnnxModel(path, threads=1).tasks]
        if FACES.name in tasks:
            return Detection(Networks((), detector=path, **given))
        kind: type[Model] = Recognition if "identity" in tasks else GenderAge
        return kind(Networks(TASKS[kind.taskname], weights=path, **given))
    file = os.path.basename(path).lower()
    for kind in (Detection, Recognition, GenderAge):
        if any(part in file for part in _NAMES[kind.taskname]):
            return kind(Networks(TASKS[kind.taskname], **given))
    parts = ", ".join(part for parts in _NAMES.values() for part in parts)
    raise UsageError(
        f"no model {path!r}: there is no such file, and its name has none of {parts}; for a pack such as"
        " buffalo_l use FaceAnalysis"
    )

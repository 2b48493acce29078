"""`analyze`, `extract_faces` and `build_model` as DeepFace documents them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mien.compat.deepface.faces import (
    Picture,
    Record,
    area_of,
    faces_of,
    pixels_of,
    reader_of,
    refuse_anti_spoofing,
    several,
)
from mien.errors import UsageError
from mien.inference.reader import Reader
from mien.types import Face

EMOTIONS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}  # fmt: skip
_TASKS = {"emotion": "expression", "age": "age", "gender": "gender"}
_NO_RACE = "mien ships no race head, and none is planned"
_log = logging.getLogger(__name__)


def analyze(
    img_path: Picture,
    actions: str | Sequence[str] | None = None,
    enforce_detection: bool = True,
    detector_backend: str = "mien",
    align: bool = True,
    expand_percentage: int = 0,
    silent: bool = False,
    anti_spoofing: bool = False,
) -> list[Any]:
    """Age, gender and emotion of each face, percentages as in DeepFace; a list of pictures gives a list of
    lists.

    Args:
        img_path: one picture, a list of them, or a batch (N, H, W, 3).
        actions: of emotion, age, gender; None for all. "race" is left out with a warning.
        enforce_detection: whether a picture without a face is an error.
        detector_backend: "skip" to take the entire picture as a face; other names are not used.
        align: not used, like `expand_percentage`.
        expand_percentage: see `align`.
        silent: without the warning about race.
        anti_spoofing: refused.

    Raises:
        UsageError: (a ValueError) no face, or an unknown action. PictureError: (a ValueError) a picture that
            cannot be read.
    """
    refuse_anti_spoofing(anti_spoofing)
    requested = (actions,) if isinstance(actions, str) else tuple(_TASKS if actions is None else actions)
    if "race" in requested:
        if set(requested) == {"race"}:
            raise UsageError(f"{_NO_RACE}; ask for emotion, age or gender")
        if not silent:
            _log.warning("%s; 'race' is left out", _NO_RACE)
        requested = tuple(a for a in requested if a != "race")
    if unknown := [a for a in requested if a not in _TASKS]:
        raise UsageError(f"no action {unknown[0]!r}; there are: {', '.join(_TASKS)}")
    if several(img_path):
        return [analyze(p, requested, enforce_detection, detector_backend) for p in img_path]
    found = faces_of(
        reader_of(*(_TASKS[a] for a in requested)), img_path, enforce_detection, detector_backend
    )
    return [_analyzed(face, area_of(face, found)) for face in found]


def _analyzed(face: Face, area: Record) -> Record:
    out: Record = {"region": area, "face_confidence": round(float(face.score), 2)}
    if "age" in face:
        out["age"] = round(face["age"].years)
    if "gender" in face:
        p = face["gender"].probability
        woman = p if face["gender"].label == "female" else 1 - p
        out["gender"] = {"Woman": 100 * woman, "Man": 100 * (1 - woman)}
        out["dominant_gender"] = "Woman" if woman >= 0.5 else "Man"
    if "expression" in face:
        p = face["expression"].probabilities
        total = sum(p[ours] for ours in EMOTIONS.values())  # their seven know no contempt
        out["emotion"] = {emotion: 100 * p[ours] / total for emotion, ours in EMOTIONS.items()}
        out["dominant_emotion"] = max(out["emotion"], key=out["emotion"].get)
    return out


def extract_faces(
    img_path: Picture,
    detector_backend: str = "mien",
    enforce_detection: bool = True,
    align: bool = True,
    expand_percentage: int = 0,
    grayscale: bool = False,
    color_face: str = "rgb",
    normalize_face: bool = True,
    anti_spoofing: bool = False,
) -> list[Any]:
    """Each face's aligned pixels, area and confidence; a list of pictures gives a list of lists.

    Args:
        img_path: one picture, a list of them, or a batch (N, H, W, 3).
        detector_backend: "skip" to take the entire picture as a face; other names are not used.
        enforce_detection: whether a picture without a face is an error; if not, it is returned itself.
        align: not used, like `expand_percentage`.
        expand_percentage: see `align`.
        grayscale: the same as color_face="gray".
        color_face: "rgb" or "bgr" for (H, W, 3), "gray" for (H, W).
        normalize_face: values 0..1; else uint8, 0..255.
        anti_spoofing: refused.

    Raises:
        UsageError: (a ValueError) no face, or an unknown color. PictureError: (a ValueError) a picture that
            cannot be read.
    """
    refuse_anti_spoofing(anti_spoofing)
    color = "gray" if grayscale else color_face
    if color not in ("rgb", "bgr", "gray"):
        raise UsageError(f"color_face is rgb, bgr or gray, not {color_face!r}")
    if several(img_path):
        given: dict[str, Any] = {"color_face": color, "normalize_face": normalize_face}
        return [extract_faces(p, detector_backend, enforce_detection, **given) for p in img_path]
    found = faces_of(reader_of(), img_path, enforce_detection, detector_backend)
    out = []
    for face in found:
        pixels = _in_color(pixels_of(face, found), color)
        shown = pixels / 255.0 if normalize_face else pixels
        confidence = round(float(face.score), 2)
        out.append({"face": shown, "facial_area": area_of(face, found), "confidence": confidence})
    return out


def _in_color(rgb: np.ndarray[Any, Any], color: str) -> np.ndarray[Any, Any]:
    if color == "gray":
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return rgb if color == "rgb" else np.ascontiguousarray(rgb[..., ::-1])


def build_model(model_name: str, task: str = "facial_recognition") -> Reader:
    """Load a network ahead of its first use.

    Args:
        model_name: with task "facial_attribute", "Age", "Gender" or "Emotion"; else not used.
        task: "facial_recognition", "facial_attribute" or "face_detector".

    Returns:
        The `mien.Reader` that the other functions use for this task.

    Raises:
        UsageError: a task or an attribute that mien does not have.
    """
    if task == "facial_recognition":
        return reader_of("identity")
    if task == "face_detector":
        return reader_of()
    if task == "facial_attribute" and model_name.lower() in _TASKS:
        return reader_of(_TASKS[model_name.lower()])
    raise UsageError(
        f"no model {model_name!r} for the task {task!r}; tasks are facial_recognition, face_detector and"
        " facial_attribute with Age, Gender or Emotion"
    )

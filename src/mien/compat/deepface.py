"""`DeepFace.analyze`, `verify`, `represent`, `find` and `extract_faces` as DeepFace documents them, answered
by mien.

    from mien.compat import deepface as DeepFace
    DeepFace.verify("a.jpg", "b.jpg")["verified"]

Arrays are BGR, as there. Pictures come as paths, arrays, bytes or base64 (data:image/...); a URL is refused.
Names of models, detectors and normalizations are taken and not used: there is one network. docs/migrate.md
lists what differs.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import PhotoError, UsageError
from mien.inference.detector import resized
from mien.inference.reader import Reader, load
from mien.inference.reading import Reading
from mien.io.image import load_photo
from mien.io.paths import find_photos
from mien.recognition.verification import embedding_of, match_threshold
from mien.tasks import Embedding
from mien.types import Crop, Face

Picture = Any  # a path, a BGR array, bytes, or base64
Record = dict[str, Any]
MODEL = "mien"
EMOTIONS = {
    "angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness", "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}  # fmt: skip
_ANSWERS = {"emotion": "expression", "age": "age", "gender": "gender"}
METRICS = ("cosine", "euclidean", "euclidean_l2", "angular")
_lock = threading.Lock()
_log = logging.getLogger(__name__)


@lru_cache(maxsize=16)
def _made(tasks: tuple[str, ...]) -> Reader:
    return load(tasks=tasks)


def _reader(*tasks: str) -> Reader:
    """One reader a set of answers, made once, also when several threads ask."""
    with _lock:
        return _made(tuple(sorted(tasks)))


def _source(picture: Picture) -> Any:
    if isinstance(picture, str) and picture.startswith("data:image/"):
        try:
            return base64.b64decode(picture.partition(",")[2], validate=True)
        except binascii.Error as e:
            raise UsageError(f"the picture given as {picture[:30]!r}... is not valid base64: {e}") from e
    if (
        isinstance(picture, np.ndarray)
        and picture.dtype.kind == "f"
        and picture.size
        and picture.min() >= 0
        and picture.max() <= 1
    ):
        return np.round(255 * picture).astype(np.uint8)  # DeepFace takes 0..1 and 0..255 alike
    return picture


def _several(picture: Picture) -> bool:
    """A list of pictures, or a batch (N, H, W, 3)."""
    return isinstance(picture, (list, tuple)) or (isinstance(picture, np.ndarray) and picture.ndim == 4)


def _faces(reader: Reader, picture: Picture, enforce_detection: bool, detector_backend: str = "") -> Reading:
    """The faces of a picture; the whole picture as one where none is found and none is demanded, or detection
    is skipped.
    """
    source = _source(picture)
    found = (
        reader(source, color="bgr")
        if detector_backend != "skip"
        else Reading(None, load_photo(source, color="bgr"))
    )
    if not found and enforce_detection and detector_backend != "skip":
        raise UsageError(
            "Face could not be detected: give a picture that shows a face, or enforce_detection=False"
        )
    if not found:
        assert found.photo is not None
        h, w = found.photo.height, found.photo.width
        width, height = reader.model.view.size
        scale = min(width / w, height / h)
        small = resized(found.photo.pixels, scale)
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small[:height, :width]
        crop = Crop(canvas, np.array([[scale, 0, 0], [0, scale, 0]], np.float64))
        (answers,) = reader.read_crops([crop])
        box = np.array([0, 0, w, h], np.float32)
        nowhere = np.full((5, 2), np.nan, np.float32)
        found.append(Face(box, 0.0, nowhere, answers, crop))
    return found


def _area(face: Face, photo: Any) -> Record:
    """Their region: whole pixels inside the picture; eyes named from the person's own side."""
    x1, y1, x2, y2 = np.clip(np.round(face.box), 0, [photo.width, photo.height] * 2).astype(int).tolist()
    area: Record = {"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "left_eye": None, "right_eye": None}
    if np.isfinite(face.points).all():
        in_picture_right, in_picture_left = face.points[1], face.points[0]
        area["left_eye"], area["right_eye"] = (
            tuple(round(float(v)) for v in p) for p in (in_picture_right, in_picture_left)
        )
    return area


def _checked(anti_spoofing: bool, distance_metric: str = "cosine") -> None:
    if anti_spoofing:
        raise UsageError("mien has no liveness check; call without anti_spoofing=True")
    if distance_metric not in METRICS:
        raise UsageError(f"distance_metric is one of {', '.join(METRICS)}, not {distance_metric!r}")


def analyze(
    img_path: Picture,
    actions: str | Sequence[str] | None = None,
    enforce_detection: bool = True,
    detector_backend: str = "mien",
    align: bool = True,
    expand_percentage: int = 0,
    zero_loss: bool = False,
    anti_spoofing: bool = False,
) -> list[Any]:
    """Age, gender and emotion of each face, percentages as there; a list of pictures gives a list of lists.

    actions: of emotion, age, gender. "race" is not answered: left out, with a warning where it is named.

    Raises:
        UsageError: (a ValueError) no face, or an action that there is not. PhotoError: a picture that cannot
            be read.
    """
    _checked(anti_spoofing)
    asked = (actions,) if isinstance(actions, str) else tuple(actions or ("emotion", "age", "gender"))
    if "race" in asked:
        if set(asked) == {"race"}:
            raise UsageError("mien ships no race head, and none is planned; ask for emotion, age or gender")
        _log.warning("mien ships no race head, and none is planned; 'race' is left out")
        asked = tuple(a for a in asked if a != "race")
    if unknown := [a for a in asked if a not in _ANSWERS]:
        raise UsageError(f"no action {unknown[0]!r}; there are: {', '.join(_ANSWERS)}")
    if _several(img_path):
        return [analyze(p, asked, enforce_detection, detector_backend) for p in img_path]
    found = _faces(_reader(*(_ANSWERS[a] for a in asked)), img_path, enforce_detection, detector_backend)
    return [_analyzed(face, _area(face, found.photo)) for face in found]


def _analyzed(face: Face, area: Record) -> Record:
    out: Record = {"region": area, "face_confidence": round(float(face.score), 2)}
    if "age" in face:
        out["age"] = round(face["age"].years)
    if "gender" in face:
        woman = (
            face["gender"].probability if face["gender"].label == "female" else 1 - face["gender"].probability
        )
        out["gender"] = {"Woman": 100 * woman, "Man": 100 * (1 - woman)}
        out["dominant_gender"] = "Woman" if woman >= 0.5 else "Man"
    if "expression" in face:
        p = face["expression"].probabilities
        total = sum(p[ours] for ours in EMOTIONS.values())  # their seven know no contempt
        out["emotion"] = {theirs: 100 * p[ours] / total for theirs, ours in EMOTIONS.items()}
        out["dominant_emotion"] = max(out["emotion"], key=out["emotion"].get)
    return out


def _distance(a: npt.ArrayLike, b: npt.ArrayLike, metric: str) -> float:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cosine = float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))
    return _of_cosine(cosine, metric) if metric != "euclidean" else float(np.linalg.norm(x - y))


def _of_cosine(cosine: float, metric: str) -> float:
    """The distance of two embeddings of length 1 with that cosine."""
    if metric == "cosine":
        return 1 - cosine
    return (
        float(np.arccos(np.clip(cosine, -1, 1)) / np.pi)
        if metric == "angular"
        else float(np.sqrt(max(0.0, 2 - 2 * cosine)))
    )


def _embedded(
    picture: Picture, enforce_detection: bool, detector_backend: str
) -> list[tuple[npt.NDArray[Any], Record | None, float]]:
    """(embedding, facial area, confidence) of each face; numbers are an embedding already, lists of them
    several faces'.
    """
    numbers = _embeddings(picture)
    if numbers is not None:
        return [(e, None, 0.0) for e in numbers]
    if _several(picture):
        return [face for p in picture for face in _embedded(p, enforce_detection, detector_backend)]
    found = _faces(_reader("identity"), picture, enforce_detection, detector_backend)
    return [(embedding_of(face), _area(face, found.photo), float(face.score)) for face in found]


def _embeddings(given: Any) -> npt.NDArray[Any] | None:
    """Precomputed embeddings (N, D) from one, or from a list of them; None for a picture.

    Raises:
        UsageError: lists of numbers of different lengths, or of another length than mien's.
    """
    first = given
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    flat = isinstance(given, np.ndarray) and given.ndim == 1
    if not flat and not (isinstance(given, (list, tuple)) and isinstance(first, (int, float, np.number))):
        return None
    width = next(t.shape.d for t in _reader("identity").model.tasks if isinstance(t.shape, Embedding))
    try:
        numbers = np.atleast_2d(np.asarray(given, np.float32))
    except ValueError as e:
        raise UsageError(
            f"embeddings must be lists of {width} numbers each; these have different lengths"
        ) from e
    if numbers.ndim != 2 or numbers.shape[1] != width:
        raise UsageError(
            f"an embedding of mien has {width} numbers, not shape {numbers.shape}; make it with represent"
        )
    return numbers


def verify(
    img1_path: Picture,
    img2_path: Picture,
    model_name: str = MODEL,
    detector_backend: str = "mien",
    distance_metric: str = "cosine",
    enforce_detection: bool = True,
    align: bool = True,
    expand_percentage: int = 0,
    normalization: str = "base",
    zero_loss: bool = False,
    threshold: float | None = None,
    anti_spoofing: bool = False,
) -> Record:
    """Do two pictures show the same person? The two nearest of their faces decide.

    threshold: a distance, ours if not given.
    """
    _checked(anti_spoofing, distance_metric)
    began = time.perf_counter()
    first, second = (_embedded(p, enforce_detection, detector_backend) for p in (img1_path, img2_path))
    pairs = [(_distance(a[0], b[0], distance_metric), a, b) for a in first for b in second]
    distance, a, b = min(pairs, key=lambda pair: pair[0])
    limit = _limit(distance_metric) if threshold is None else threshold
    return {
        "verified": distance <= limit,
        "confidence": _confidence(distance, limit, distance <= limit),
        "distance": distance,
        "threshold": limit,
        "model": MODEL,
        "detector_backend": "mien",
        "similarity_metric": distance_metric,
        "facial_areas": {"img1": a[1], "img2": b[1]},
        "time": round(time.perf_counter() - began, 2),
    }


def _confidence(distance: float, limit: float, same: bool) -> float:
    """How far from the threshold, as percent: 51 to 100 for the same person, 0 to 49 for two; no measured
    probability.
    """
    if same:
        return round(100 - 49 * distance / limit, 2) if limit > 0 else 100.0
    return round(max(0.0, 49 - 49 * (distance - limit) / max(limit, 1e-9)), 2)


def _limit(metric: str) -> float:
    return _of_cosine(match_threshold(_reader("identity").model).similarity, metric)


def represent(
    img_path: Picture,
    model_name: str = MODEL,
    enforce_detection: bool = True,
    detector_backend: str = "mien",
    align: bool = True,
    expand_percentage: int = 0,
    normalization: str = "base",
    anti_spoofing: bool = False,
    max_faces: int | None = None,
) -> list[Any]:
    """Each face's embedding (128 numbers, length 1), area and confidence; a list of pictures gives a list of
    lists.
    """
    _checked(anti_spoofing)
    if _several(img_path):
        return [
            represent(p, model_name, enforce_detection, detector_backend, max_faces=max_faces)
            for p in img_path
        ]
    faces = _embedded(img_path, enforce_detection, detector_backend)[:max_faces]
    return [
        {"embedding": e.tolist(), "facial_area": area, "face_confidence": round(score, 2)}
        for e, area, score in faces
    ]


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
    """Each face's aligned pixels (0..1, or 0..255 with normalize_face=False), area and confidence; of a list,
    a list of lists.
    """
    _checked(anti_spoofing)
    if _several(img_path):
        return [
            extract_faces(
                p,
                detector_backend,
                enforce_detection,
                align,
                expand_percentage,
                grayscale,
                color_face,
                normalize_face,
            )
            for p in img_path
        ]
    if grayscale or color_face not in ("rgb", "bgr"):
        raise UsageError("faces come in rgb or bgr; turn them gray yourself")
    found = _faces(_reader(), img_path, enforce_detection, detector_backend)
    out = []
    for face in found:
        assert face.crop is not None
        pixels = (
            face.crop.pixels if color_face == "rgb" else np.ascontiguousarray(face.crop.pixels[..., ::-1])
        )
        shown = pixels / 255.0 if normalize_face else pixels
        out.append(
            {
                "face": shown,
                "facial_area": _area(face, found.photo),
                "confidence": round(float(face.score), 2),
            }
        )
    return out


def find(
    img_path: Picture,
    db_path: str,
    model_name: str = MODEL,
    distance_metric: str = "cosine",
    enforce_detection: bool = True,
    detector_backend: str = "mien",
    align: bool = True,
    expand_percentage: int = 0,
    threshold: float | None = None,
    normalization: str = "base",
    zero_loss: bool = False,
    refresh_database: bool = True,
    anti_spoofing: bool = False,
    batched: bool = False,
) -> list[Any]:
    """The faces of a folder that are near each face of a picture: a DataFrame a face, or, with batched=True,
    a list of dicts.

    The folder is read again at each call: nothing is cached on disk. For many calls take
    `mien.recognition.gallery`.

    Raises:
        UsageError: see `verify`; also where batched is False and pandas is not installed.
    """
    _checked(anti_spoofing, distance_metric)
    pandas: Any = None
    if not batched:
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as e:
            raise UsageError(
                "find returns DataFrames, and pandas is not installed: pip install pandas, or pass"
                " batched=True"
            ) from e
    limit = _limit(distance_metric) if threshold is None else threshold
    known = _folder(db_path)
    tables = []
    for embedding, area, score in _embedded(img_path, enforce_detection, detector_backend):
        rows = [
            _found(path, target, _distance(embedding, e, distance_metric), area, limit, score)
            for path, e, target in known
        ]
        near = sorted((r for r in rows if r["distance"] <= limit), key=lambda r: r["distance"])
        tables.append(
            near if batched else pandas.DataFrame(near, columns=list(_found("", {}, 0.0, {}, 0.0, 0.0)))
        )
    return tables


def _folder(db_path: str) -> list[tuple[str, npt.NDArray[Any], Record]]:
    """(path, embedding, area) of every face in a folder; what cannot be read is a warning, as with a Reader's
    list.
    """
    out = []
    for reading in _reader("identity").stream(find_photos(db_path)):
        out += [(str(reading.path), embedding_of(face), _area(face, reading.photo)) for face in reading]
    return out


def _found(
    path: str,
    target: Mapping[str, Any],
    distance: float,
    source: Mapping[str, Any] | None,
    limit: float,
    score: float,
) -> Record:
    here = {f"target_{k}": target.get(k) for k in "xywh"} | {
        f"source_{k}": (source or {}).get(k) for k in "xywh"
    }
    return {"identity": path, **here, "threshold": limit, "distance": distance, "confidence": round(score, 2)}


class DeepFace:
    """For `from mien.compat.deepface import DeepFace`."""

    analyze, verify, represent = staticmethod(analyze), staticmethod(verify), staticmethod(represent)
    find, extract_faces = staticmethod(find), staticmethod(extract_faces)


__all__ = ["DeepFace", "PhotoError", "analyze", "extract_faces", "find", "represent", "verify"]

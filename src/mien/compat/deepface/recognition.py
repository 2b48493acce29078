"""`represent`, `verify` and `find` as DeepFace documents them."""

from __future__ import annotations

import hashlib
import importlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mien.compat.deepface.faces import (
    MODEL,
    NO_AREA,
    Picture,
    Record,
    area_of,
    faces_of,
    pixels_of,
    reader_of,
    refuse_anti_spoofing,
    several,
    value_errors,
)
from mien.errors import UsageError
from mien.io.paths import find_photos
from mien.recognition.verification import embedding_of, match_threshold
from mien.tasks import Embedding

METRICS = ("cosine", "euclidean", "euclidean_l2", "angular")
_COLUMNS = (
    "identity", "hash", "target_x", "target_y", "target_w", "target_h", "source_x", "source_y", "source_w",
    "source_h", "threshold", "distance",
)  # fmt: skip


class _Embedded(NamedTuple):
    """A face's embedding of length 1, or one that was given; its area, detection score and BGR pixels."""

    embedding: npt.NDArray[Any]
    area: Record
    score: float = 0.0
    pixels: npt.NDArray[Any] | None = None


class _Known(NamedTuple):
    """A face of a folder: its photo's path and sha256, its embedding and its area."""

    path: str
    sha256: str
    embedding: npt.NDArray[Any]
    area: Record


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
    l2_normalize: bool = False,
    minmax_normalize: bool = False,
    return_face: bool = False,
    cryptosystem: Any = None,
) -> list[Any]:
    """Each face's embedding, area and confidence; a list of pictures gives a list of lists.

    Args:
        img_path: one picture, a list of them, or a batch (N, H, W, 3).
        model_name: not used, like `align`, `expand_percentage`, `normalization` and `l2_normalize`: the
            embedding has 128 numbers and length 1.
        enforce_detection: whether a picture without a face is an error.
        detector_backend: "skip" to take the entire picture as a face; other names are not used.
        align: see `model_name`.
        expand_percentage: see `model_name`.
        normalization: see `model_name`.
        anti_spoofing: refused.
        max_faces: maximum number of faces per picture, the largest first.
        l2_normalize: see `model_name`.
        minmax_normalize: map the numbers from -1..1 to 0..1.
        return_face: add "face", the aligned pixels (H, W, 3) BGR 0..1.
        cryptosystem: refused.

    Raises:
        UsageError: (a ValueError) no face. PictureError: (a ValueError) a picture that cannot be read.
    """
    refuse_anti_spoofing(anti_spoofing)
    if cryptosystem is not None:
        raise UsageError(
            "represent does not encrypt; pass its embedding to cryptosystem.encrypt, or keep faces in a"
            " sealed gallery: mien gallery key"
        )
    if several(img_path):
        options: dict[str, Any] = {"minmax_normalize": minmax_normalize, "return_face": return_face}
        options |= {"max_faces": max_faces, "detector_backend": detector_backend}
        return [represent(p, enforce_detection=enforce_detection, **options) for p in img_path]
    out = []
    for face in _embedded(img_path, enforce_detection, detector_backend)[:max_faces]:
        numbers = (1 + face.embedding) / 2 if minmax_normalize else face.embedding
        record: Record = {"embedding": numbers.tolist(), "facial_area": face.area}
        record["face_confidence"] = round(face.score, 2)
        if return_face:
            assert face.pixels is not None
            record["face"] = face.pixels / 255.0
        out.append(record)
    return out


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
    silent: bool = False,
    threshold: float | None = None,
    anti_spoofing: bool = False,
) -> Record:
    """Whether two pictures show the same person. The two nearest of their faces decide.

    Args:
        img1_path: a picture, several of them (a list, or a batch (N, H, W, 3)), or one embedding that
            `represent` gave: a list of numbers, or an array (D,).
        img2_path: the same.
        model_name: not used, but repeated in the result, like `detector_backend`.
        detector_backend: "skip" to take the entire picture as a face.
        distance_metric: "cosine", "euclidean", "euclidean_l2" or "angular".
        enforce_detection: whether a picture without a face is an error.
        align: not used, like `expand_percentage`, `normalization` and `silent`.
        expand_percentage: see `align`.
        normalization: see `align`.
        silent: see `align`.
        threshold: maximum distance; None for mien's own.
        anti_spoofing: refused.

    Raises:
        UsageError: (a ValueError) no face, an unknown metric, or numbers that are no embedding.
        PictureError: (a ValueError) a picture that cannot be read.
    """
    refuse_anti_spoofing(anti_spoofing)
    _check_metric(distance_metric)
    began = time.perf_counter()
    sides = []
    for number, picture in ((1, img1_path), (2, img2_path)):
        given = _given_embedding(picture, number, model_name)
        sides.append(
            _embedded(picture, enforce_detection, detector_backend)
            if given is None
            else [_Embedded(given, dict(NO_AREA))]
        )
    pairs = [(_distance(a.embedding, b.embedding, distance_metric), a, b) for a in sides[0] for b in sides[1]]
    distance, a, b = min(pairs, key=lambda pair: pair[0])
    limit = _limit(distance_metric) if threshold is None else threshold
    return {
        "verified": distance <= limit,
        "confidence": _confidence(distance, limit),
        "distance": distance,
        "threshold": limit,
        "model": model_name,
        "detector_backend": detector_backend,
        "similarity_metric": distance_metric,
        "facial_areas": {"img1": a.area, "img2": b.area},
        "time": round(time.perf_counter() - began, 2),
    }


def find(
    img_path: Picture,
    db_path: str | os.PathLike[str],
    model_name: str = MODEL,
    distance_metric: str = "cosine",
    enforce_detection: bool = True,
    detector_backend: str = "mien",
    align: bool = True,
    similarity_search: bool = False,
    k: int | None = None,
    expand_percentage: int = 0,
    threshold: float | None = None,
    normalization: str = "base",
    silent: bool = False,
    refresh_database: bool = True,
    anti_spoofing: bool = False,
    batched: bool = False,
    credentials: Any = None,
) -> list[Any]:
    """The faces of a folder that are near each face of a picture: one DataFrame per face, nearest first.

    The folder is read on each call: nothing is cached on disk, so there is nothing to refresh or to sign. For
    many calls use `mien.Gallery`.

    Args:
        img_path: one picture.
        db_path: a folder of photos.
        model_name: not used, like `align`, `expand_percentage`, `normalization`, `refresh_database` and
            `credentials`.
        distance_metric: "cosine", "euclidean", "euclidean_l2" or "angular".
        enforce_detection: whether a picture without a face is an error.
        detector_backend: "skip" to take the entire picture as a face.
        align: see `model_name`.
        similarity_search: return faces beyond the threshold too.
        k: maximum number of faces to return.
        expand_percentage: see `model_name`.
        threshold: maximum distance; None for mien's own.
        normalization: see `model_name`.
        silent: not used.
        refresh_database: see `model_name`.
        anti_spoofing: refused.
        batched: return lists of dicts in place of DataFrames, without the column "confidence".
        credentials: see `model_name`.

    Raises:
        UsageError: (a ValueError) see `verify`; also where there is no such folder, or where batched is False
            and pandas is not installed.
        PictureError: (a ValueError) the picture cannot be read, or the folder has none.
    """
    refuse_anti_spoofing(anti_spoofing)
    _check_metric(distance_metric)
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
    for face in _embedded(img_path, enforce_detection, detector_backend):
        rows = [_row(k, face, _distance(face.embedding, k.embedding, distance_metric), limit) for k in known]
        rows = [r for r in rows if similarity_search or r["distance"] <= limit]
        rows = sorted(rows, key=lambda r: r["distance"])[:k]
        if not batched:
            rows = [r | {"confidence": _confidence(r["distance"], limit)} for r in rows]
        tables.append(rows if batched else pandas.DataFrame(rows, columns=[*_COLUMNS, "confidence"]))
    return tables


def _folder(db_path: str | os.PathLike[str]) -> list[_Known]:
    """Every face in a folder; a photo that cannot be read is a warning."""
    if not Path(db_path).is_dir():
        raise UsageError(f"db_path {os.fspath(db_path)!r} is not a folder; check the path")
    with value_errors():
        paths = find_photos(db_path)
    known = []
    for reading in reader_of("identity").stream(paths):
        if reading:
            path = str(reading.path)
            sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            known += [_Known(path, sha256, embedding_of(face), area_of(face, reading)) for face in reading]
    return known


def _row(known: _Known, face: _Embedded, distance: float, limit: float) -> Record:
    target = {f"target_{side}": known.area[side] for side in "xywh"}
    source = {f"source_{side}": face.area[side] for side in "xywh"}
    row = {"identity": known.path, "hash": known.sha256, "threshold": limit, "distance": distance}
    return row | target | source


def _embedded(picture: Picture, enforce_detection: bool, detector_backend: str) -> list[_Embedded]:
    """The faces of one picture, or of several."""
    if several(picture):
        return [face for p in picture for face in _embedded(p, enforce_detection, detector_backend)]
    found = faces_of(reader_of("identity"), picture, enforce_detection, detector_backend)
    return [
        _Embedded(
            embedding_of(face), area_of(face, found), float(face.score), pixels_of(face, found)[..., ::-1]
        )
        for face in found
    ]


def _given_embedding(given: Any, number: int, model_name: str) -> npt.NDArray[Any] | None:
    """An embedding that was computed before, from a list of numbers or an array (D,); None for pictures.

    Raises:
        UsageError: (a ValueError) a list that is neither an embedding nor one of pictures, or one of another
            length; with DeepFace's own words.
    """
    is_list, is_flat = isinstance(given, (list, tuple)), isinstance(given, np.ndarray) and given.ndim == 1
    if not (is_list or is_flat):
        return None
    numeric = all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in given)
    if is_list and len(given) and not numeric and all(_is_picture(v) for v in given):
        return None
    if not len(given) or not numeric:
        raise UsageError(
            f"When passing img{number}_path as a list, ensure that all its items are of type float, or that"
            f" all are pictures; got {_described(given)}"
        )
    width = next(t.shape.d for t in reader_of("identity").model.tasks if isinstance(t.shape, Embedding))
    if len(given) != width:
        raise UsageError(
            f"embeddings of {model_name} should have {width} dimensions, but {number}-th image has"
            f" {len(given)} dimensions input; make it with represent"
        )
    numbers = np.asarray(given, np.float64)
    if not np.isfinite(numbers).all() or not numbers.any():
        raise UsageError(
            f"the embedding given as img{number}_path has numbers that are not finite, or only 0"
        )
    return numbers


def _is_picture(item: Any) -> bool:
    if isinstance(item, str):
        return item.startswith("data:image/") or os.path.lexists(item)
    if getattr(item, "ndim", 0) in (2, 3):
        return True
    return isinstance(item, (os.PathLike, bytes, bytearray)) or hasattr(item, "read") or hasattr(item, "mode")


def _described(given: Any) -> str:
    """What is in a list that is neither an embedding nor one of pictures."""
    if not len(given):
        return "an empty list"
    wrong = next((v for v in given if not isinstance(v, (int, float, np.number))), given[0])
    if isinstance(wrong, (list, tuple)):
        return "a list of lists: pass embeddings one by one"
    return f"{type(wrong).__name__} {str(wrong)[:40]!r}"


def _check_metric(distance_metric: str) -> None:
    if distance_metric not in METRICS:
        raise UsageError(f"distance_metric is one of {', '.join(METRICS)}, not {distance_metric!r}")


def _distance(a: npt.ArrayLike, b: npt.ArrayLike, metric: str) -> float:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if metric == "euclidean":
        return float(np.linalg.norm(x - y))
    return _of_cosine(float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1)), metric)


def _of_cosine(cosine: float, metric: str) -> float:
    """The distance of two embeddings of length 1 with that cosine."""
    if metric == "cosine":
        return 1 - cosine
    if metric == "angular":
        return float(np.arccos(np.clip(cosine, -1, 1)) / np.pi)
    return float(np.sqrt(max(0.0, 2 - 2 * cosine)))


def _limit(metric: str) -> float:
    return _of_cosine(match_threshold(reader_of("identity").model).similarity, metric)


def _confidence(distance: float, limit: float) -> float:
    """How far from the threshold, in percent: 51 to 100 for the same person, 0 to 49 for two; no measured
    probability.
    """
    if distance <= limit:
        return round(100 - 49 * distance / limit, 2) if limit > 0 else 100.0
    return round(max(0.0, 49 - 49 * (distance - limit) / max(limit, 1e-9)), 2)

"""How much small changes of a photo move its answers."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from bench.real_photos.answers import central, crops_answers
from mien import geometry
from mien.data.occlusion import recompressed
from mien.evaluation.scoring import face_at
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.tasks.attributes import CELEBA40

MALE = CELEBA40.index("Male")


def changed(pixels: np.ndarray, kind: int, rng: np.random.Generator) -> np.ndarray:
    """The photo (H, W, 3) shifted by up to 3 px, scaled by up to 5 %, as a JPEG of quality 60 to 95, or with
    its brightness changed by up to 10 %.
    """
    h, w = pixels.shape[:2]
    if kind == 0:
        x, y = rng.uniform(-3, 3, 2)
        return cv2.warpAffine(pixels, np.array([[1, 0, x], [0, 1, y]]), (w, h), borderMode=cv2.BORDER_REFLECT)
    if kind == 1:
        factor = rng.uniform(0.95, 1.05)
        return cv2.resize(pixels, (round(w * factor), round(h * factor)), interpolation=cv2.INTER_LINEAR)
    if kind == 2:
        return np.ascontiguousarray(recompressed(pixels[..., ::-1], int(rng.integers(60, 96)))[..., ::-1])
    return np.clip(pixels * rng.uniform(0.9, 1.1), 0, 255).round().astype(np.uint8)


def stability(
    face: OnnxModel, detector: Detector, photos: list[np.ndarray], *, changes: int = 24, seed: int = 1
) -> dict[str, Any]:
    """Standard deviation of the age over the changes of a photo, mean over the photos, and the share of
    changes whose gender differs from the photo's own. The face is the one nearest to the center.
    """
    spread, flips, lost, read = list[float](), list[bool](), 0, 0
    for number, pixels in enumerate(photos):
        rng = np.random.default_rng((seed, number))
        h, w = pixels.shape[:2]
        own = central(detector(pixels), w, h)
        if own is None:
            continue
        read += 1
        middle = (np.asarray(own.box[:2]) + own.box[2:]) / 2
        crops = [geometry.align(pixels, own.points, face.view)]
        for i in range(changes):
            other = changed(pixels, i % 4, rng)
            faces = detector(other)
            place = middle * (other.shape[1] / w, other.shape[0] / h)
            which = face_at(place[None], [f.box for f in faces])
            if which is None:
                lost += 1
                continue
            crops.append(geometry.align(other, faces[which].points, face.view))
        answers = crops_answers(face, crops)
        years, male = answers["age"] @ np.arange(101), answers["attributes"][:, MALE] > 0.5
        spread.append(float(years[1:].std()))
        flips += (male[1:] != male[0]).tolist()
    return {
        "photos": read,
        "changes": changes,
        "standard deviation of age, years": round(float(np.mean(spread)), 2),
        "gender flips, %": round(100 * float(np.mean(flips)), 2),
        "faces not found again, %": round(100 * lost / (read * changes), 2),
    }

"""How much small changes of a photo move its answers."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from bench.real_photos.answers import central, crops_answers
from mien import geometry
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.tasks.attributes import CELEBA40
from mien.types import Detection

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
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        data = cv2.imencode(".jpg", pixels[..., ::-1], quality)[1]
        return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return np.clip(pixels * rng.uniform(0.9, 1.1), 0, 255).round().astype(np.uint8)


def nearest(found: list[Detection], center: np.ndarray) -> Detection | None:
    """The face whose center is nearest to a point, if that lies inside it."""
    inside = [d for d in found if (np.asarray(d.box[:2]) <= center).all() and (center <= d.box[2:]).all()]
    return min(
        inside,
        key=lambda d: float(np.hypot(*((np.asarray(d.box[:2]) + d.box[2:]) / 2 - center))),
        default=None,
    )


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
            found = nearest(detector(other), middle * (other.shape[1] / w, other.shape[0] / h))
            if found is None:
                lost += 1
                continue
            crops.append(geometry.align(other, found.points, face.view))
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

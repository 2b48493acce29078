"""Landmarks: n named places on a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.tasks.contract import Criterion, Points, Task, over_known, softmax
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Places on a face.

    Attributes:
        points: (n, 2) float, photo pixels, in the order of the label set (picture order, left to right).
        labels: the label set's id.
    """

    points: Floats
    labels: str

    def to_dict(self) -> dict[str, Any]:
        """{"set": id, "points": [[x, y], ...]}."""
        return {"set": self.labels, "points": [[round(float(x), 2), round(float(y), 2)] for x, y in self.points]}


def _mirror68() -> tuple[int, ...]:
    pairs = {i: 16 - i for i in range(17)}
    for a, b in [(17, 26), (18, 25), (19, 24), (20, 23), (21, 22), (31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42)]:
        pairs |= {a: b, b: a}
    for a, b in [(40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]:
        pairs |= {a: b, b: a}
    return tuple(pairs.get(i, i) for i in range(68))


class LandmarkTask(Task[Landmarks]):
    """n places by heat maps, read as the expectation over the map.

    Loss: KL from a Gaussian around the true place to the softmax of the map, plus the distance between the expected
    and the true place. Faceptor (section "landmarks") uses a sigmoid map, BCE and the same distance.
    Ours: softmax. On maps of 32 x 32 the tail of a sigmoid map pulls the expectation to the centre.

    Args:
        mirror: for each point, the point it becomes when the picture is mirrored.
        eyes: the two points whose distance is the unit of NME.
        sigma: spread of the Gaussian in cells of the map.
        distance_weight: of the distance (in fractions of the crop) beside the KL.
    """

    def __init__(
        self, name: str, labels: str, mirror: tuple[int, ...], eyes: tuple[int, int], *, sigma: float = 1.0, distance_weight: float = 20.0
    ):
        self.name, self.labels, self.shape = name, labels, Points(len(mirror))
        self.mirror, self.eyes, self.sigma, self.distance_weight = mirror, eyes, sigma, distance_weight

    def criterion(self) -> Criterion:
        import torch

        def distance(xy: Tensor, target: Tensor) -> Tensor:
            return ((xy - target).square().sum(-1) + 1e-8).sqrt().mean()

        def loss(raw: Tensor, target: Tensor) -> Tensor:
            if raw.ndim == 3:
                return self.distance_weight * distance(raw, target)
            h, w = raw.shape[-2:]
            x = (raw.new_ones(w).cumsum(0) - 0.5) / w
            y = (raw.new_ones(h).cumsum(0) - 0.5) / h
            dx = ((x - target[..., :1]) * (w / self.sigma)).square()  # (k, n, w)
            dy = ((y - target[..., 1:]) * (h / self.sigma)).square()  # (k, n, h)
            goal = (-0.5 * (dy[..., :, None] + dx[..., None, :])).flatten(2)
            goal = goal.exp() / goal.exp().sum(-1, keepdim=True).clamp_min(1e-4)
            log_p = raw.flatten(2).log_softmax(-1)
            kl = (goal * (goal.clamp_min(1e-12).log() - log_p)).sum(-1).mean()
            p = log_p.exp().view_as(raw)
            expected = torch.stack([(p.sum(-2) * x).sum(-1), (p.sum(-1) * y).sum(-1)], -1)
            return kl + self.distance_weight * distance(expected, target)

        return over_known(loss)

    def read(self, raw: Floats, crop: Crop) -> Landmarks:
        fractions = expected_place(raw) if raw.ndim == 3 else np.asarray(raw, np.float64)
        h, w = crop.pixels.shape[:2]
        points = fractions * (w, h) - 0.5
        return Landmarks(geometry.move_points(points, geometry.invert(crop.from_photo)).astype(np.float32), self.labels)

    def metrics(self) -> NME:
        return NME(self.eyes)

    def move(self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]) -> tuple[Any, Any]:
        points = geometry.move_points(label, affine)
        if mirrored:
            points = points[list(self.mirror)]
        return ((points + 0.5) / size).astype(np.float32), np.True_

    def blank(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((len(self.mirror), 2), 0.5, np.float32), np.False_


def expected_place(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Heat maps (n, h, w), logits -> expected places (n, 2) as fractions of the crop: softmax, then the mean."""
    maps = np.asarray(logits, np.float64)
    n, h, w = maps.shape
    p = softmax(maps.reshape(n, -1)).reshape(n, h, w)
    return np.stack([p.sum(1) @ ((np.arange(w) + 0.5) / w), p.sum(2) @ ((np.arange(h) + 0.5) / h)], -1)


class NME:
    """Normalised mean error: mean over points of the distance, divided by the distance of the eyes; x 100."""

    headline = "nme"

    def __init__(self, eyes: tuple[int, int]):
        self.eyes, self.values = eyes, list[float]()

    def update(self, answer: Landmarks, label: Any) -> None:
        truth = np.asarray(label, np.float64)
        unit = np.linalg.norm(truth[self.eyes[0]] - truth[self.eyes[1]])
        self.values.append(float(np.linalg.norm(answer.points - truth, axis=1).mean() / unit))

    def compute(self) -> dict[str, float]:
        v = np.asarray(self.values)
        return {"nme": 100 * float(v.mean()), "median": 100 * float(np.median(v)), "fr@0.1": 100 * float((v > 0.1).mean()), "n": len(v)}


LANDMARKS = LandmarkTask("landmarks", "ibug68", _mirror68(), (36, 45))
POINTS5 = LandmarkTask("points5", "mtfl5", (1, 0, 2, 4, 3), (0, 1))

"""Landmarks: n named places on a face."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.errors import UsageError
from mien.tasks.base import Answer, Criterion, Points, Task, over_labeled, sigmoid
from mien.tasks.columns import Column, point_column
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks(Answer):
    """Places on a face.

    Attributes:
        points: (n, 2) float, photo pixels, in the order of the label set (picture order, left to right).
        labels: the label set's id.
        names: of the points; empty for the known sets, whose order says what they are.
    """

    points: Floats
    labels: str
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """{"set": id, "points": [[x, y], ...]}, and "names" where the points have names of their own."""
        return {
            "set": self.labels,
            "points": [[round(float(x), 2), round(float(y), 2)] for x, y in self.points],
            **({"names": list(self.names)} if self.names else {}),
        }

    def own_columns(self, name: str) -> list[Column]:
        return [point_column(name, len(self.points), "points")]

    def value(self) -> Floats:
        """The points."""
        return self.points

    def photo_points(self) -> Floats:
        return self.points

    def with_photo_points(self, points: Floats) -> Landmarks:
        return replace(self, points=points)


def _mirror(n: int, *pairs: tuple[int, int]) -> tuple[int, ...]:
    """For each of n points the one it becomes in a mirror; a point without a partner is its own."""
    both = dict(pairs) | {b: a for a, b in pairs}
    return tuple(both.get(i, i) for i in range(n))


def _facing(a: range, b: range) -> list[tuple[int, int]]:
    """Two runs of points, the second walked from its end: the partners in a mirror."""
    return list(zip(a, reversed(b), strict=True))


# Each set's order is its own; the comments say what the runs are. "left" is the picture's left.
_MIRROR68 = _mirror(
    68,
    *_facing(range(8), range(9, 17)),  # jaw
    *_facing(range(17, 22), range(22, 27)),  # brows
    *_facing(range(31, 33), range(34, 36)),  # nose
    *_facing(range(36, 40), range(42, 46)),  # upper lids with both corners
    *_facing(range(40, 42), range(46, 48)),  # lower lids
    *_facing(range(48, 51), range(52, 55)),  # outer lips, above
    *_facing(range(55, 57), range(58, 60)),  # outer lips, below
    *_facing(range(60, 62), range(63, 65)),  # inner lips, above
    (65, 67),
)
_MIRROR98 = _mirror(
    98,
    *_facing(range(16), range(17, 33)),  # contour
    *_facing(range(33, 38), range(42, 47)),  # brows' upper edges
    *_facing(range(38, 42), range(47, 51)),  # brows' lower edges
    *_facing(range(55, 57), range(58, 60)),  # nose
    *_facing(range(60, 65), range(68, 73)),  # upper lids with both corners
    *_facing(range(65, 68), range(73, 76)),  # lower lids
    *_facing(range(76, 79), range(80, 83)),  # outer lips, above
    *_facing(range(83, 85), range(86, 88)),  # outer lips, below
    *_facing(range(88, 90), range(91, 93)),  # inner lips, above
    (93, 95),
    (96, 97),  # pupils
)
# COFW (Burgos-Artizzu et al. 2013), left and right in turn: brows' outer ends 0 1 and inner ends 2 3, brows'
# edges (left: upper 4, lower 5; right: 6, 7), eyes' outer corners 8 9 and inner ones 10 11, lids (12, 13; 14,
# 15), pupils 16 17, nostrils 18 19, nose tip 20 and base 21, mouth corners 22 23, lips 24 to 27 from above,
# chin 28.
_MIRROR29 = _mirror(
    29, (0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23)
)
# AFLW's 21 without the ears: brows 0 to 5, eyes 6 to 11, nose 12 to 14, mouth 15 to 17, each from left to
# right; chin 18.
_MIRROR19 = _mirror(
    19, *_facing(range(3), range(3, 6)), *_facing(range(6, 9), range(9, 12)), (12, 14), (15, 17)
)


@dataclass(frozen=True)
class LandmarkTask(Task[Landmarks]):
    """n places by heat maps, read as the expectation over the map.

    A label is (n, 2) pixels, or a mapping with these as "points" and the data set's face "box" (x1, y1, x2,
    y2), which only the metric needs. NaN is an unlabeled point; the mask has one element per point.

    Loss: KL from a Gaussian around the true place to the softmax of the map, plus the distance between the
        expected
    and the true place. Faceptor (section "landmarks") uses a sigmoid map, BCE and the same distance.
    Ours: softmax. On maps of 32 x 32 the tail of a sigmoid map pulls the expectation to the center.

    Loss of `decoding` "sigmoid", as in Faceptor's code: the same distance, with weight 1, plus the mean BCE
    of the map against a Gaussian of `SIGMOID_SIGMA` cells whose peak is 1 and which is 0 beyond
    `SIGMOID_RADIUS` cells.

    Attributes:
        mirror: for each point, the point it becomes when the picture is mirrored.
        eyes: the two points whose distance is the unit of NME; None: the diagonal of the data set's box is.
        sigma: spread of the Gaussian in cells of the map. Ours: 1; Faceptor has 1.25.
        distance_weight: of the distance (in fractions of the crop) next to the KL.
        decoding: how logits become a distribution over the map. "softmax", or "sigmoid": sigmoids divided by
            their sum.
        names: of the points; empty for the known sets.
    """

    answer: ClassVar[type[Answer]] = Landmarks
    mirror: tuple[int, ...]
    eyes: tuple[int, int] | None
    _: KW_ONLY
    sigma: float = 1.0
    distance_weight: float = 20.0
    decoding: str = "softmax"
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> Points:
        return Points(len(self.mirror))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.names

    def criterion(self) -> Criterion:
        import torch

        if self.decoding == "sigmoid":
            return self._over_points(sigmoid_map_loss)

        def loss(raw: Tensor, target: Tensor) -> Tensor:
            """Over k known points: maps (k, h, w) or places (k, 2), and the true places (k, 2)."""
            if raw.ndim == 2:
                return self.distance_weight * ((raw - target).square().sum(-1) + 1e-8).sqrt().mean()
            h, w = raw.shape[-2:]
            x = (raw.new_ones(w).cumsum(0) - 0.5) / w
            y = (raw.new_ones(h).cumsum(0) - 0.5) / h
            dx = ((x - target[:, :1]) * (w / self.sigma)).square()  # (k, w)
            dy = ((y - target[:, 1:]) * (h / self.sigma)).square()  # (k, h)
            goal = (-0.5 * (dy[:, :, None] + dx[:, None, :])).flatten(1)
            goal = goal.exp() / goal.exp().sum(-1, keepdim=True).clamp_min(1e-4)
            log_p = raw.flatten(1).log_softmax(-1)
            kl = (goal * (goal.clamp_min(1e-12).log() - log_p)).sum(-1).mean()
            p = log_p.exp().view_as(raw)
            expected = torch.stack([(p.sum(-2) * x).sum(-1), (p.sum(-1) * y).sum(-1)], -1)
            return kl + loss(expected, target)

        return self._over_points(loss)

    def _over_points(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Criterion:
        known_points = over_labeled(loss)

        def each(raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
            # a picture that is known as a whole, (B,), knows all its points
            return known_points(raw, target, mask.expand(target.shape[1], -1).T if mask.ndim == 1 else mask)

        return each

    def undo_hflip(self, raw: Floats) -> Floats:
        partners = raw[:, list(self.mirror)]
        return (
            partners[..., ::-1]
            if raw.ndim == 4
            else partners * np.array([-1, 1], np.float32) + np.array([1, 0], np.float32)
        )

    def read(self, raw: Floats, crop: Crop) -> Landmarks:
        fractions = expected_place(raw, self.decoding) if raw.ndim == 3 else np.asarray(raw, np.float64)
        h, w = crop.pixels.shape[:2]
        points = fractions * (w, h) - 0.5
        return Landmarks(
            geometry.move_points(points, geometry.invert(crop.from_photo)).astype(np.float32),
            self.labels,
            self.names,
        )

    def columns(self) -> list[Column]:
        return [point_column(self.name, len(self.mirror), "points")]

    def decoder(self) -> dict[str, Any] | None:
        names = {"names": list(self.names)} if self.names else {}
        return {"kind": "points", **names} if self.decoding == "softmax" else None

    def metrics(self) -> NME:
        return NME(self.eyes)

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        points = geometry.move_points(_points_of(label), affine)
        if mirrored:
            points = points[list(self.mirror)]
        mask = np.asarray(np.isfinite(points).all(1))
        return np.where(mask[:, None], (points + 0.5) / size, 0.5).astype(np.float32), mask

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((len(self.mirror), 2), 0.5, np.float32), np.zeros(len(self.mirror), bool)


def _points_of(label: Any) -> npt.NDArray[np.float64]:
    return np.asarray(label["points"] if isinstance(label, Mapping) else label, np.float64)


SIGMOID_RADIUS = 5.0  # cells
SIGMOID_SIGMA = SIGMOID_RADIUS / 4


def sigmoid_map_loss(raw: Tensor, target: Tensor) -> Tensor:
    """Faceptor's loss of heat maps: distance of the normalized sigmoids' expectation, plus BCE.

    Args:
        raw: (k, h, w) logits of k labeled points.
        target: (k, 2) true places, fractions of the crop.
    """
    from torch.nn import functional as F

    if raw.ndim == 2:
        raise UsageError(
            'decoding "sigmoid" is of heat maps; this model gives coordinates, use decoding "softmax"'
        )
    h, w = raw.shape[-2:]
    x, y = raw.new_ones(w).cumsum(0) - 0.5, raw.new_ones(h).cumsum(0) - 0.5  # centers of cells
    far = (y - target[:, 1:] * h).square()[:, :, None] + (x - target[:, :1] * w).square()[:, None, :]
    goal = (far * (-0.5 / SIGMOID_SIGMA**2)).exp() * (far <= SIGMOID_RADIUS**2)
    p = raw.sigmoid()
    total = p.sum((1, 2)).clamp_min(1e-6)
    expected = (p.sum(1) @ x / (w * total), p.sum(2) @ y / (h * total))
    # the small number keeps the gradient finite where a point is exact
    distance = (
        ((expected[0] - target[:, 0]).square() + (expected[1] - target[:, 1]).square() + 1e-12).sqrt().mean()
    )
    return distance + F.binary_cross_entropy_with_logits(raw, goal)


def expected_place(logits: npt.ArrayLike, decoding: str = "softmax") -> npt.NDArray[np.float64]:
    """Heat maps (n, h, w), logits -> expected places (n, 2) as fractions of the crop: probabilities, then the
    mean.

    Args:
        decoding: "softmax", or "sigmoid" for sigmoids divided by their sum.
    """
    maps = np.asarray(logits, np.float32)
    _, h, w = maps.shape
    e = np.exp(maps - maps.max((1, 2), keepdims=True)) if decoding == "softmax" else sigmoid(maps)
    columns, rows = e.sum(1, dtype=np.float64), e.sum(2, dtype=np.float64)
    x, y = columns @ ((np.arange(w) + 0.5) / w), rows @ ((np.arange(h) + 0.5) / h)
    means: npt.NDArray[np.float64] = np.stack([x, y], -1) / np.maximum(rows.sum(1, keepdims=True), 1e-6)
    return means


class NME:
    """Normalized mean error: the distance from the truth, mean over a picture's labeled points, in units of
    its face; x 100.

    The unit is the distance of two points, or for `eyes` None the diagonal of the data set's box. With it
    come the share of failures, NME > 0.1 ("fr@0.1", x 100), and the area under the cumulative error curve up
    to 0.1 ("auc@0.1", 0..1). A picture with no labeled point, without its two eye points, or with a box
    without area has no NME; `n` does not count it.

    For `eyes` None also "nme_box" and "auc_box@0.07" (unit: the square root of the box's area), and "boxed":
    the percentage of pictures that had a box. Ours: others are measured by the tight box of their labeled
    points, which is
        smaller than a
    data set's box, so that the number is larger; compare with published ones only where "boxed" is 100.
    """

    headline = "nme"

    def __init__(self, eyes: tuple[int, int] | None):
        self.eyes, self.rows = eyes, list[tuple[float, float, bool]]()

    def update(self, answer: Landmarks, label: Any) -> None:
        truth, box = _points_of(label), label.get("box") if isinstance(label, Mapping) else None
        mask = np.asarray(np.isfinite(truth).all(1))
        if not mask.any() or (self.eyes and not mask[list(self.eyes)].all()):
            return
        error = float(np.linalg.norm(answer.points - truth, axis=1)[mask].mean())
        if self.eyes:
            unit = float(np.linalg.norm(truth[self.eyes[0]] - truth[self.eyes[1]]))
            self.rows.append((error / unit, 0.0, False))
            return
        corners = (
            np.stack([truth[mask].min(0), truth[mask].max(0)])
            if box is None
            else np.asarray(box, np.float64).reshape(2, 2)
        )
        w, h = corners[1] - corners[0]
        if min(w, h) <= 0:
            return
        self.rows.append((error / np.hypot(w, h), error / np.sqrt(w * h), box is not None))

    def compute(self) -> dict[str, float]:
        v = np.array([r[0] for r in self.rows])
        values = {
            "nme": 100 * float(v.mean()),
            "median": 100 * float(np.median(v)),
            "fr@0.1": 100 * float((v > 0.1).mean()),
            "auc@0.1": error_curve_area(v, 0.1),
            "n": len(v),
        }
        if self.eyes is None:
            by_side = np.array([r[1] for r in self.rows])
            values |= {
                "nme_box": 100 * float(by_side.mean()),
                "auc_box@0.07": error_curve_area(by_side, 0.07),
            }
            values["boxed"] = 100 * float(np.mean([r[2] for r in self.rows]))
        return values


def error_curve_area(errors: npt.ArrayLike, limit: float, step: float = 1e-4) -> float:
    """Area under the share of errors <= t, for t in 0..limit, divided by limit: 0..1, by trapezes of width
    `step`.

    Official Faceptor has Simpson's rule, which differs by 1e-5 at most, and integrates AFLW-19 to 0.0701 in
    place of 0.07: 0.001 more.
    """
    at = np.linspace(0, limit, round(limit / step) + 1)
    e = np.sort(np.asarray(errors, np.float64))
    share = np.searchsorted(e, at, side="right") / len(e)
    return float((share[1:] + share[:-1]).mean() / 2)


LANDMARKS = LandmarkTask("landmarks", "ibug68", _MIRROR68, (36, 45))
POINTS5 = LandmarkTask("points5", "mtfl5", (1, 0, 2, 4, 3), (0, 1))
WFLW98 = LandmarkTask("wflw98", "wflw98", _MIRROR98, (60, 72))
COFW29 = LandmarkTask("cofw29", "cofw29", _MIRROR29, (8, 9))
AFLW19 = LandmarkTask("aflw19", "aflw19", _MIRROR19, None)

"""Faces in a photo: a box, a score and five points each.

Raw outputs are (B, cells, 15), one row per cell; cells in row-major order, stride 8 first, then 16, then 32:

    0      score, a logit
    1:3    center of the box: offset from the cell's center, in strides
    3:5    log of the box's width and height, in strides
    5:15   five points: offsets from the cell's center, in strides

Labels, as a data set gives them, are (n, 15): x, y, w, h, five points, score, in pixels. In a batch they are
rows of 16: x1, y1, x2, y2, five points, score, valid; padded to `ROWS`. A row with a score below `CONFIDENT`
is uncertain: the cells on it are neither face nor background, and have no score loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.tasks.base import Boxes, Criterion, Task, over_labeled, sigmoid
from mien.types import Crop, Detection, Floats

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]

STRIDES = (8, 16, 32)
ROWS = 160  # maximum faces per training picture; the largest are kept
CONFIDENT = 0.6  # minimum teacher score at which a row counts as a face
SMALL = 8.0  # pixels; faces with a smaller side are uncertain
HFLIP_ORDER = (1, 0, 2, 4, 3)


@lru_cache(maxsize=32)
def cells(size: tuple[int, int]) -> tuple[Array, Array]:
    """(width, height), multiples of 32 -> cell centers (cells, 2) in pixels, and their strides (cells,)."""
    centers, strides = [], []
    for s in STRIDES:
        x, y = np.meshgrid(np.arange(size[0] // s), np.arange(size[1] // s))
        centers.append((np.stack([x.ravel(), y.ravel()], 1) + 0.5) * s - 0.5)
        strides.append(np.full(x.size, float(s)))
    out = np.concatenate(centers), np.concatenate(strides)
    for a in out:
        a.flags.writeable = False  # shared by all callers
    return out


def decode(raw: Floats, size: tuple[int, int], threshold: float) -> tuple[Array, Array, Array]:
    """Rows above a score -> boxes (n, 4) xyxy, scores (n,), points (n, 5, 2), in pixels of the input.

    Args:
        raw: (cells, 15).
        size: (width, height) of the network's input, pixels.
        threshold: minimum score, 0..1.
    """
    logit = float(np.log(threshold / (1 - threshold)))
    index = np.flatnonzero(raw[:, 0] >= logit)
    rows = raw[index].astype(np.float64)
    centers, strides = cells(size)
    if len(centers) != len(raw):
        raise ValueError(f"{len(raw)} cells do not fit a picture of {size[0]} x {size[1]}")
    c, s = centers[index], strides[index, None]
    center, half = c + rows[:, 1:3] * s, np.exp(rows[:, 3:5].clip(-4, 5)) * s / 2
    points = c[:, None] + rows[:, 5:].reshape(-1, 5, 2) * s[..., None]
    return np.hstack([center - half, center + half]), sigmoid(rows[:, 0]), points


def weighted_nms(boxes: Array, scores: Array, points: Array, overlap: float) -> list[Detection]:
    """Weighted non-maximum suppression: one detection per face, best score first.

    The box and points of a detection are the score-weighted mean over the rows that agree well with it (IoU
    above 0.7): the errors of neighboring cells differ.

    Args:
        boxes: (n, 4) xyxy.
        scores: (n,), 0..1.
        points: (n, 5, 2).
        overlap: rows with an IoU above this to a better one are suppressed, 0..1.
    """
    kept = []
    order = np.argsort(-scores, kind="stable")
    while len(order):
        best, iou = order[0], geometry.iou(boxes[order[0]], boxes[order])[0]
        same = order[iou > 0.7] if len(order) > 1 else order
        weight = scores[same] / scores[same].sum()
        box, five = weight @ boxes[same], np.tensordot(weight, points[same], 1)
        kept.append(Detection(box.astype(np.float32), float(scores[best]), five.astype(np.float32)))
        order = order[iou <= overlap]
        order = order[order != best]
    return kept


def transform_faces(faces: npt.ArrayLike, affine: npt.ArrayLike, mirrored: bool) -> Array:
    """Labels (n, 15) through an affine -> rows (n, 16).

    A rotated box becomes the box around its rotated inscribed ellipse: a face is rounder than a box.
    """
    f, a = np.asarray(faces, np.float64).reshape(-1, 15), np.asarray(affine, np.float64)
    center = geometry.move_points(f[:, :2] + f[:, 2:4] / 2, a)
    half = np.sqrt((f[:, 2:4] / 2) ** 2 @ (a[:, :2] ** 2).T)
    points = geometry.move_points(f[:, 4:14].reshape(-1, 5, 2), a)
    if mirrored:
        points = points[:, HFLIP_ORDER]
    return np.hstack(
        [center - half, center + half, points.reshape(-1, 10), f[:, 14:15], np.ones((len(f), 1))]
    )


def clip_to_window(rows: Array, window: tuple[float, float, float, float]) -> Array:
    """Drop the rows outside a window (x1, y1, x2, y2) and mark poorly visible ones as uncertain.

    A face is uncertain (score 0) if less than half of it is inside, if its center is outside, or if it is
    smaller than `SMALL`. Uncertain boxes are clipped to the window, because another picture may lie beyond
    it.
    """
    lo, hi = np.asarray(window[:2]), np.asarray(window[2:])
    cut = np.hstack([np.maximum(rows[:, :2], lo), np.minimum(rows[:, 2:4], hi)])
    seen, size = (cut[:, 2:] - cut[:, :2]).clip(0), rows[:, 2:4] - rows[:, :2]
    fraction = seen.prod(1) / np.maximum(size.prod(1), 1e-9)
    center = (rows[:, :2] + rows[:, 2:4]) / 2
    good = (fraction >= 0.5) & ((center >= lo) & (center <= hi)).all(1) & (np.sqrt(size.prod(1)) >= SMALL)
    out = rows.copy()
    out[~good, :4], out[~good, 14] = cut[~good], 0.0
    kept: Array = out[fraction > 0]
    return kept


def pad_rows(rows: Array) -> Floats:
    """(n, 16) -> (`ROWS`, 16) float32, the largest faces first, zeros after them."""
    out = np.zeros((ROWS, 16), np.float32)
    order = np.argsort(-(rows[:, 2:4] - rows[:, :2]).prod(1), kind="stable")[:ROWS]
    out[: len(order)] = rows[order]
    return out


@dataclass(frozen=True, kw_only=True)
class FaceTask(Task[list[Detection]]):
    """Every face in a photo. The answer is a list of `Detection`, best score first.

    Loss: quality focal (Li et al. 2020) for the score, CIoU for the box, smooth L1 in fractions of the face's
    side for the points. Cells are assigned as in SimOTA (YOLOX, Ge et al. 2021), among the 3 x 3 cells around
    a face's center on each stride. Ours: a mild prior on the face size of each stride, and a target score of
    0.5 + IoU / 2, which separates a small face, whose box is never exact, clearly from background.

    Attributes:
        threshold: minimum score that `read` returns, 0..1.
        overlap: IoU above which two boxes are one face, 0..1.
        box_weight: weight of the box loss; the score loss has weight 1.
        point_weight: weight of the point loss.
    """

    name: str = "faces"
    labels: str = "photo5"
    threshold: float = 0.54
    overlap: float = 0.4
    box_weight: float = 1.5
    point_weight: float = 0.7

    @property
    def shape(self) -> Boxes:
        return Boxes(STRIDES)

    def criterion(self) -> Criterion:
        """Training pictures are square: the grid follows from the number of cells."""
        import torch
        from torch.nn import functional as F

        def loss(raw: Tensor, target: Tensor) -> Tensor:
            side = 8 * round((raw.shape[1] * 16 / 21) ** 0.5)
            centers, strides = (torch.tensor(v, dtype=raw.dtype) for v in cells((side, side)))
            picture, row = (target[..., 15].gt(0) & target[..., 14].ge(CONFIDENT)).nonzero(as_tuple=True)
            truth = target[picture, row]
            face, cell = assign(raw.detach(), truth, picture, centers, strides, side)
            counted = background(target, centers, strides)
            goal = torch.zeros_like(raw[..., 0])
            extra = raw.sum() * 0.0
            if len(face):
                got, expected = raw[picture[face], cell], truth[face]
                boxes, points = unpack(got, centers[cell], strides[cell])
                iou, box_loss = ciou(boxes, expected[:, :4])
                goal[picture[face], cell] = 0.5 + 0.5 * iou.detach().clamp(0, 1)
                counted[picture[face], cell] = 1.0
                extent = (
                    ((expected[:, 2] - expected[:, 0]) * (expected[:, 3] - expected[:, 1]))
                    .clamp_min(1)
                    .sqrt()
                )
                off = (points - expected[:, 4:14]) / extent[:, None]
                point_loss = F.smooth_l1_loss(off, torch.zeros_like(off), beta=0.03, reduction="none").sum(1)
                extra = (self.box_weight * box_loss + self.point_weight * point_loss).mean()
            gap = (raw[..., 0].sigmoid() - goal).detach().square()
            score = F.binary_cross_entropy_with_logits(raw[..., 0], goal, reduction="none")
            return (gap * score * counted).sum() / max(1, len(face)) + extra

        return over_labeled(loss)

    def read(self, raw: Floats, crop: Crop) -> list[Detection]:
        """(cells, 15) and the network's input -> faces in photo pixels."""
        h, w = crop.pixels.shape[:2]
        to_photo = geometry.invert(crop.from_photo)
        boxes, scores, points = decode(raw, (w, h), self.threshold)
        corners = geometry.move_points(boxes.reshape(-1, 2, 2), to_photo).reshape(-1, 4)
        return weighted_nms(corners, scores, geometry.move_points(points, to_photo), self.overlap)

    def loss_weight(self, target: Tensor, mask: Tensor) -> float:
        """The known photos. Not exact for the boxes, whose loss is a mean over assigned cells."""
        return super().loss_weight(target, mask)

    def metrics(self) -> DetectionMetrics:
        return DetectionMetrics()

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        rows = clip_to_window(
            transform_faces(label, affine, mirrored), (-0.5, -0.5, size[0] - 0.5, size[1] - 0.5)
        )
        return pad_rows(rows), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros((ROWS, 16), np.float32), np.False_


def unpack(rows: Tensor, centers: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Raw rows (..., 15) at cells -> boxes (..., 4) xyxy and points (..., 10) pixels; `decode` in torch."""
    import torch

    s = strides[..., None]
    center, half = centers + rows[..., 1:3] * s, rows[..., 3:5].clamp(-4, 5).exp() * s / 2
    points = centers.repeat(*([1] * (centers.ndim - 1)), 5) + rows[..., 5:] * s
    return torch.cat([center - half, center + half], -1), points


def ciou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (..., 4) pairwise -> IoU, and the loss 1 - CIoU (Zheng et al. 2020)."""
    import torch

    wa, ha, wb, hb = (
        a[..., 2] - a[..., 0],
        a[..., 3] - a[..., 1],
        b[..., 2] - b[..., 0],
        b[..., 3] - b[..., 1],
    )
    inter = (
        (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    )
    iou = inter / (wa * ha + wb * hb - inter).clamp_min(1e-6)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    shift = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    separation = shift.square().sum(-1) / hull.square().sum(-1).clamp_min(1e-6)
    shape = (
        4 / torch.pi**2 * (torch.atan(wb / hb.clamp_min(1e-6)) - torch.atan(wa / ha.clamp_min(1e-6))).square()
    )
    with torch.no_grad():
        alpha = shape / (1 - iou + shape).clamp_min(1e-6)
    return iou, 1 - iou + separation + alpha * shape


def background(target: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
    """(B, cells) of 1 where the score may be learned, 0 on uncertain rows (and half a stride around them)."""
    import torch

    uncertain = target.new_zeros(len(target), len(centers))
    picture, row = (target[..., 15].gt(0) & target[..., 14].lt(CONFIDENT)).nonzero(as_tuple=True)
    box, reach = target[picture, row, :4, None], strides / 2
    x, y = centers.T
    inside = (
        (x > box[:, 0] - reach) & (x < box[:, 2] + reach) & (y > box[:, 1] - reach) & (y < box[:, 3] + reach)
    )
    return (uncertain.index_add_(0, picture, inside.to(uncertain.dtype)) == 0).to(torch.float32)


def assign(
    raw: Tensor, truth: Tensor, picture: Tensor, centers: Tensor, strides: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Assign cells to faces: (index of the face, cell), pairs.

    Candidates are the 3 x 3 cells around a face's center on each stride. The number of cells of a face is the
    rounded sum of their IoUs, lowest cost first; a cell assigned to two faces goes to the one with the lower
    cost.

    Args:
        raw: (B, cells, 15), detached.
        truth: (N, 16), confident rows.
        picture: (N,), index of the picture of each row.
        centers: (cells, 2) of the cells, pixels.
        strides: (cells,) of the cells, pixels.
        side: of the square pictures, pixels.
    """
    import torch
    from torch.nn.functional import logsigmoid

    if not len(truth):
        return picture, picture
    lo, hi = truth[:, :2], truth[:, 2:4]
    center, extent = (lo + hi) / 2, (hi - lo).clamp_min(1).prod(-1).sqrt()
    step = torch.stack(torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="xy"), -1).view(
        -1, 2
    )
    found, exists, start = [], [], 0
    for stride in STRIDES:
        n = side // stride
        ij = ((center + 0.5) / stride).floor().long()[:, None] + step
        exists.append(((ij >= 0) & (ij < n)).all(-1))
        ij = ij.clamp(0, n - 1)
        found.append(start + ij[..., 1] * n + ij[..., 0])
        start += n * n
    cell, real = torch.cat(found, 1), torch.cat(exists, 1)  # (N, 27)
    c, s = centers[cell], strides[cell]
    rows = raw[picture[:, None], cell]
    iou = ciou(unpack(rows, c, s)[0], truth[:, None, :4])[0]
    octaves = (extent[:, None] / (4 * s)).log2()
    # the extreme sizes belong to the first and the last stride
    end = (s == STRIDES[0]) & (octaves < 0) | (s == STRIDES[-1]) & (octaves > 0)
    octaves = octaves.abs() * ~end
    inside = ((c > lo[:, None]) & (c < hi[:, None])).all(-1)
    far = ((c - center[:, None]) / s[..., None]).square().sum(-1)
    cost = (
        -0.5 * logsigmoid(rows[..., 0])
        - 3 * (iou + 1e-3).log()
        + 4 * (octaves - 0.7).clamp_min(0)
        + 0.5 * far
    )
    fit = real & inside & (octaves < 1.5)
    cost = cost + 50.0 * ~(real & inside) + 20.0 * ~fit + 1e4 * ~real
    k = (iou * fit).sum(1).round().long().clamp_min(1)
    k = torch.minimum(k, fit.sum(1).clamp_min(1))
    taken = cost.argsort(1).argsort(1) < k[:, None]
    face, which = (taken & real).nonzero(as_tuple=True)
    key, price = picture[face] * raw.shape[1] + cell[face, which], cost[face, which]
    cheapest = price.new_full((raw.shape[0] * raw.shape[1],), torch.inf).scatter_reduce(0, key, price, "amin")
    won = price <= cheapest[key]
    return face[won], cell[face, which][won]


class DetectionMetrics:
    """Recall and precision at an IoU, and the median error of the points.

    Faces are labels (n, 15) with a score of at least `CONFIDENT`. A detection that matches no face but
    overlaps an uncertain label by 0.3 or more is neither right nor wrong. The error of a face is the mean
    distance of its points, in percent of the side sqrt(w h) of its box.

    Args:
        overlap: minimum IoU between a face and a detection that matches it, 0..1.
    """

    headline = "recall"

    def __init__(self, overlap: float = 0.5) -> None:
        self.overlap = overlap
        self.faces = self.hits = self.wrong = 0
        self.errors: list[float] = []

    def update(self, answer: list[Detection], label: Any) -> None:
        f = np.asarray(label, np.float64).reshape(-1, 15)
        boxes = geometry.corners(f)
        confident = f[:, 14] >= CONFIDENT
        unmatched = set(np.flatnonzero(confident).tolist())
        self.faces += len(unmatched)
        for d in sorted(answer, key=lambda d: -d.score):
            iou = geometry.iou(d.box, boxes)[0]
            best = max(unmatched, key=lambda i: float(iou[i]), default=-1)
            if best >= 0 and iou[best] >= self.overlap:
                unmatched.remove(best)
                self.hits += 1
                distance = np.linalg.norm(d.points - f[best, 4:14].reshape(5, 2), axis=1).mean()
                self.errors.append(100 * float(distance / np.sqrt(f[best, 2] * f[best, 3])))
            elif not (iou[~confident] >= 0.3).any():
                self.wrong += 1

    def compute(self) -> dict[str, float]:
        return {
            "recall": self.hits / max(1, self.faces),
            "precision": self.hits / max(1, self.hits + self.wrong),
            "point_error": float(np.median(self.errors)) if self.errors else float("nan"),
            "n": self.faces,
        }


class PointInBoxMetrics:
    """Fraction of pictures in which a box contains the labeled point (x, y); for labels without a box."""

    headline = "recall"

    def __init__(self) -> None:
        self.hits = self.pictures = 0

    def update(self, answer: list[Detection], label: Any) -> None:
        x, y = (float(v) for v in label)
        self.pictures += 1
        self.hits += any(d.box[0] <= x <= d.box[2] and d.box[1] <= y <= d.box[3] for d in answer)

    def compute(self) -> dict[str, float]:
        return {"recall": self.hits / max(1, self.pictures), "n": self.pictures}


FACES = FaceTask()

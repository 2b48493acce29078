"""A photo of any size -> its faces. Torch-free: numpy, OpenCV and an `Answerer` (see `mien.runtime`).

One network, shown the same photo at two or three sizes:

- main: the longer side brought to 640 pixels (a small photo is enlarged, at most twice): faces of 10 to 400 pixels.
- far: a thumbnail with black around it, so that a face that fills the photo, or reaches beyond it, is a middling one.
- near: only when the photo is larger than 640; at up to 1,280, in two or four tiles, for faces that main saw too small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.tasks.faces import FACES, decode, merge
from mien.types import Answerer, Detection, Floats, Pixels, View

Array = npt.NDArray[np.float64]
STEP = 32  # the network's coarsest stride


@dataclass(frozen=True, slots=True)
class Showing:
    """One look at the photo.

    Attributes:
        scale: photo pixels -> shown pixels. window: (x1, y1, x2, y2) of the scaled photo that is shown.
        canvas: (width, height) given to the network; the window stands in it at `corner`, black around.
        smallest, largest: sides of the boxes believed, in shown pixels; other looks see the rest better.
    """

    scale: float
    window: tuple[int, int, int, int]
    canvas: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    smallest: float = 0.0
    largest: float = np.inf


def up(length: float) -> int:
    """The next multiple of the network's coarsest stride."""
    return max(STEP, -(-round(length) // STEP) * STEP)


class Detector:
    """Finds faces: photo pixels (H, W, 3) uint8 RGB -> list of `Detection`, largest first.

    Args:
        model: a detector at work; its answer "faces" is (B, cells, 15).
        threshold: least score, 0..1. overlap: IoU above which two boxes are one face.
        main, far, near: longer side of the photo in each look, pixels; near = 0 switches it off.
        enlarge: most that a small photo is enlarged for the main look.

    Raises:
        UsageError: the model finds no faces, or a value is out of range.
    """

    def __init__(
        self, model: Answerer, *, threshold: float = FACES.threshold, overlap: float = FACES.overlap,
        main: int = 640, far: int = 128, near: int = 1280, enlarge: float = 2.0,
    ):  # fmt: skip
        if FACES.name not in [t.name for t in model.tasks]:
            raise UsageError(f"the detector's network answers {[t.name for t in model.tasks]}, not {FACES.name!r}")
        if not 0 < threshold < 1:
            raise UsageError(f"threshold must lie between 0 and 1, not {threshold}")
        if min(main, far) < STEP:
            raise UsageError(f"main and far must be at least {STEP} pixels, not {main} and {far}")
        self.model, self.threshold, self.overlap = model, threshold, overlap
        self.main, self.far, self.near, self.enlarge = main, far, near, enlarge

    def __call__(self, pixels: Pixels) -> list[Detection]:
        """Faces in photo pixels; boxes may reach beyond the photo."""
        boxes, scores, points = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros((0, 5, 2))]
        scaled: dict[float, Pixels] = {}
        for look in self.plan(pixels.shape[1], pixels.shape[0]):
            if look.scale not in scaled:
                scaled[look.scale] = resized(pixels, look.scale)
            b, s, p = self.look(scaled[look.scale], look)
            # home, an axis at a time; pixel centres are whole numbers, so half a pixel moves with the scale
            home = np.array(pixels.shape[1::-1]) / scaled[look.scale].shape[1::-1]
            boxes.append((b + 0.5) * np.tile(home, 2) - 0.5)
            scores.append(s)
            points.append((p + 0.5) * home - 0.5)
        found = merge(np.concatenate(boxes), np.concatenate(scores), np.concatenate(points), self.overlap)
        return alone(sorted(found, key=lambda d: -d.area))

    def plan(self, width: int, height: int) -> Iterator[Showing]:
        """The looks at a photo of that size; few shapes, so that the runtime's memory stays small."""
        longer = max(width, height)
        scale = min(self.main / longer, self.enlarge)
        w, h = scaled_size(width, height, scale)
        yield Showing(scale, (0, 0, w, h), (up(w), up(h)), largest=0.7 * self.main)
        scale = self.far / longer
        w, h = scaled_size(width, height, scale)
        side = up(1.5 * self.far)
        yield Showing(scale, (0, 0, w, h), (side, side), ((side - w) // 2, (side - h) // 2), smallest=24)
        if self.near and longer > 1.2 * self.main:
            yield from self._tiles(width, height, min(1.0, self.near / longer))

    def _tiles(self, width: int, height: int, scale: float, share: int = 64) -> Iterator[Showing]:
        """Tiles that share a strip as wide as the largest face believed in them: each such face is whole in one."""
        w, h = scaled_size(width, height, scale)
        spans = []
        for length in (w, h):
            side = length if length <= self.main + share else up(length / 2 + share / 2)
            spans.append([(0, length)] if side >= length else [(0, side), (length - side, length)])
        for y1, y2 in spans[1]:
            for x1, x2 in spans[0]:
                yield Showing(scale, (x1, y1, x2, y2), (up(x2 - x1), up(y2 - y1)), largest=share)

    def look(self, photo: Pixels, look: Showing) -> tuple[Array, Array, Array]:
        """Faces of one look: boxes (n, 4), scores (n,), points (n, 5, 2), in pixels of the scaled photo given."""
        x1, y1, x2, y2 = look.window
        part = photo[y1:y2, x1:x2]
        left, top = look.corner
        right, bottom = look.canvas[0] - left - (x2 - x1), look.canvas[1] - top - (y2 - y1)
        if left or top or right or bottom:
            part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT)  # type: ignore[assignment]
        raw = self.model(tensor(part, self.model.view))[FACES.name][0]
        boxes, scores, points = decode(raw, look.canvas, self.threshold)
        offset = np.array([x1 - left, y1 - top], np.float64)
        boxes, points = boxes + np.tile(offset, 2), points + offset
        side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        keep = (side >= look.smallest) & (side <= look.largest)
        keep &= ~cut(boxes, look.window, photo.shape[1], photo.shape[0])
        return boxes[keep], scores[keep], points[keep]


def cut(boxes: Array, window: tuple[int, int, int, int], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Boxes that reach over an inner edge of a window of the photo: the neighbouring tile shows that face whole."""
    x1, y1, x2, y2 = window
    low = (boxes[:, :2] < (x1, y1)) & np.array([x1 > 0, y1 > 0])
    high = (boxes[:, 2:] > (x2, y2)) & np.array([x2 < width, y2 < height])
    return (low | high).any(1)


def alone(found: list[Detection]) -> list[Detection]:
    """Drop boxes that lie inside a larger, surer one: at a large scale a part of a face can look like a face.

    Args:
        found: largest first.
    """
    kept: list[Detection] = []
    for d in found:
        lo = [np.maximum(d.box[:2], k.box[:2]) for k in kept if k.score > d.score]
        hi = [np.minimum(d.box[2:], k.box[2:]) for k in kept if k.score > d.score]
        inside = max((float((b - a).clip(0).prod()) for a, b in zip(lo, hi, strict=True)), default=0.0)
        if inside < 0.9 * d.area:
            kept.append(d)
    return kept


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Whole pixels, at least one."""
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(pixels: Pixels, scale: float) -> Pixels:
    """The photo at another scale: by area when it shrinks, else bilinear."""
    h, w = pixels.shape[:2]
    size = scaled_size(w, h, scale)
    if size == (w, h):
        return pixels
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(pixels, size, interpolation=how)  # type: ignore[return-value]


def tensor(pixels: Pixels, view: View) -> Floats:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, normalised as the view says.

    Where all channels have one mean and one spread OpenCV does it in one pass, several times faster than numpy.
    """
    if len(set(view.mean)) == len(set(view.std)) == 1:
        return cv2.dnn.blobFromImage(pixels, 1 / (255 * view.std[0]), mean=(255 * view.mean[0],) * 3)  # type: ignore[return-value]
    return view.tensor(pixels[None])

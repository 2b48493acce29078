"""A photo of any size -> its faces. Torch-free: numpy, OpenCV and an `InferenceModel` (see
`mien.inference.onnx_model`).

One network, shown the same photo at one to three sizes:

- main: the longer side brought to 640 pixels (a small photo is enlarged, at most twice): faces of 10 to 400
  pixels.
- far: a thumbnail with black around it, so that a face that fills the photo, or reaches beyond it, is a
  middling one; where main is sure of no face, or suspects a large one.
- near: only when the photo is larger than 640, and only where main suspects a face too small for it: at up to
  1,280, in tiles of 256 around the suspects, or in two or four large ones where those are fewer pixels.

A suspect is a box that main scores too low to believe, or believes, of a size that another look shows better.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.errors import UsageError
from mien.tasks.detection import FACES, decode, merge
from mien.types import Detection, InferenceModel, Pixels

Array = npt.NDArray[np.float64]
STEP = 32  # the network's coarsest stride
TILE = 256  # pixels, side of a small tile
LARGE, LARGE_SCORE = (
    0.3,
    0.3,
)  # side of a box, as a fraction of the main look's, and score, from which a far look may show it better

TURNED = 0.05  # by how much a face must score higher in a turned copy of the photo than in the photo itself
INSIDE = 0.6  # share of a box inside another one from which a thorough search takes both for one face


@dataclass(frozen=True, slots=True)
class Showing:
    """One look at the photo.

    Attributes:
        scale: photo pixels -> shown pixels.
        window: (x1, y1, x2, y2) of the scaled photo that is shown.
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
        threshold: least score, 0..1.
        overlap: IoU above which two boxes are one face.
        main, far, near: longer side of the photo in each look, pixels; near = 0 switches it off.
        enlarge: most that a small photo is enlarged for the main look.
        suspect: score from which a small face in the main look is worth a nearer one, 0..1.

    Raises:
        UsageError: the model finds no faces, or a value is out of range.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        threshold: float = FACES.threshold,
        overlap: float = FACES.overlap,
        main: int = 640,
        far: int = 128,
        near: int = 1280,
        enlarge: float = 2.0,
        suspect: float = 0.15,
    ):
        if FACES.name not in [t.name for t in model.tasks]:
            raise UsageError(
                f"the detector's network answers {[t.name for t in model.tasks]}, not {FACES.name!r}"
            )
        for name, value in (("threshold", threshold), ("suspect", suspect)):
            if not 0 < value < 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {value}")
        if min(main, far) < STEP:
            raise UsageError(f"main and far must be at least {STEP} pixels, not {main} and {far}")
        self.model, self.threshold, self.overlap = model, threshold, overlap
        self.main, self.far, self.near, self.enlarge = main, far, near, enlarge
        self.suspect = min(suspect, threshold)

    def __call__(
        self, pixels: Pixels, *, score: float | None = None, thorough: bool = False
    ) -> list[Detection]:
        """Faces in photo pixels, largest first; boxes may reach beyond the photo.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            score: minimum detection score of this call, 0..1; None for `threshold`.
            thorough: search the whole photo at every scale, in tiles, and turned by 90, 180 and 270 degrees.
                It finds small faces of large photos and faces that are sideways or upside down, and takes
                from 5 to 100 times as long. See `Detection.roll`.

        Raises:
            UsageError: a score out of range.
        """
        if score is not None and not 0 < score < 1:
            raise UsageError(f"score must lie between 0 and 1, not {score}")
        threshold = self.threshold if score is None else score
        if thorough:
            return self._everywhere(pixels, threshold)
        suspect = min(self.suspect, threshold)
        shown = Shown(pixels)
        main, far = self.plan(shown.width, shown.height)
        boxes, scores, points = self.look(shown, main, suspect)
        looks, sure = self.nearer(shown.width, shown.height, boxes), scores >= threshold
        if (
            not sure.any()
            or ((sides(boxes) * main.scale > LARGE * self.main) & (scores >= LARGE_SCORE)).any()
        ):
            looks = [far, *looks]
        rows = [
            (boxes[sure], scores[sure], points[sure]),
            *(self.look(shown, look, threshold) for look in looks),
        ]
        boxes, scores, points = (np.concatenate(column) for column in zip(*rows, strict=True))
        found = merge(boxes, scores, points, self.overlap)
        return alone(sorted(found, key=lambda d: -d.area))

    def _everywhere(self, pixels: Pixels, threshold: float) -> list[Detection]:
        """Faces of the photo and of its turned copies.

        Where two copies show one face, the better score decides.
        """
        height, width = pixels.shape[:2]
        found = list[tuple[float, Detection]]()
        for quarters in range(4):
            shown = Shown(np.ascontiguousarray(np.rot90(pixels, quarters)))
            looks = [*self.plan(shown.width, shown.height), *self.pyramid(shown.width, shown.height)]
            lower = TURNED if quarters else 0.0
            rows = [self.look(shown, look, min(threshold + lower, 0.99)) for look in looks]
            boxes, scores, points = (np.concatenate(column) for column in zip(*rows, strict=True))
            for d in merge(boxes, scores, points, self.overlap):
                found.append((d.score - lower, turned_back(d, quarters, width, height)))
        kept = list[Detection]()
        for _, d in sorted(found, key=lambda pair: -pair[0]):
            if not any(same_face(d, k, self.overlap) for k in kept):
                kept.append(d)
        return alone(sorted(kept, key=lambda d: -d.area))

    def pyramid(self, width: int, height: int, share: int = 128) -> list[Showing]:
        """Tiles over the whole photo at its own size, half of it, and so on, down to the size of the main
        look.

        A tile is as large as the main look; neighbors share a strip that is as wide as the largest face
        believed in them.
        """
        longer, looks, scale = max(width, height), list[Showing](), 1.0
        while longer * scale > 1.2 * self.main:
            w, h = scaled_size(width, height, scale)
            tiles = [spans(length, max(self.main, 2 * share), share) for length in (w, h)]
            looks += [
                Showing(scale, (x1, y1, x2, y2), (up(x2 - x1), up(y2 - y1)), largest=share)
                for y1, y2 in tiles[1]
                for x1, x2 in tiles[0]
            ]
            scale /= 2
        return looks

    def plan(self, width: int, height: int) -> tuple[Showing, Showing]:
        """The main and the far look at a photo of that size; few shapes, so that the runtime's memory stays
        small.
        """
        longer = max(width, height)
        scale = min(self.main / longer, self.enlarge)
        w, h = scaled_size(width, height, scale)
        main = Showing(scale, (0, 0, w, h), (up(w), up(h)), largest=0.7 * self.main)
        scale = self.far / longer
        w, h = scaled_size(width, height, scale)
        side = up(1.5 * self.far)
        return main, Showing(
            scale, (0, 0, w, h), (side, side), ((side - w) // 2, (side - h) // 2), smallest=24
        )

    def nearer(self, width: int, height: int, boxes: Array, share: int = 64) -> list[Showing]:
        """Looks at the suspects among boxes (n, 4) of the photo, those that a nearer look would show at most
        `share` pixels large.

        Tiles share a strip as wide as the largest face believed in them, so that each such face is whole in
        one.
        """
        longer = max(width, height)
        if not self.near or longer <= 1.2 * self.main:
            return []
        scale = min(1.0, self.near / longer)
        w, h = scaled_size(width, height, scale)
        suspects = boxes[sides(boxes) * scale <= share]
        middles = (suspects[:, :2] + suspects[:, 2:]) / 2 * scale
        small = [spans(length, TILE, share) for length in (w, h)]
        held = {(most_inside(small[0], x), most_inside(small[1], y)) for x, y in middles}
        large = [
            spans(length, length if length <= self.main + share else up(length / 2 + share / 2), share)
            for length in (w, h)
        ]
        every = [(x, y) for y in large[1] for x in large[0]]
        if sum(map(_pixels, held)) < sum(map(_pixels, every)):
            every = sorted(held)
        return [
            Showing(scale, (x1, y1, x2, y2), (up(x2 - x1), up(y2 - y1)), largest=share)
            for (x1, x2), (y1, y2) in every
        ]

    def look(self, shown: Shown, look: Showing, least: float) -> tuple[Array, Array, Array]:
        """What one look believes, from a score on: boxes (n, 4), scores (n,), points (n, 5, 2), in photo
        pixels.
        """
        photo, (x1, y1, x2, y2) = shown.at(look.scale), look.window
        part = photo[y1:y2, x1:x2]
        left, top = look.corner
        right, bottom = look.canvas[0] - left - (x2 - x1), look.canvas[1] - top - (y2 - y1)
        if left or top or right or bottom:
            part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT)  # type: ignore[assignment]
        raw = self.model(self.model.view.tensor(part[None]))[FACES.name][0]
        boxes, scores, points = decode(raw, look.canvas, least)
        offset = np.array([x1 - left, y1 - top], np.float64)
        boxes, points = boxes + np.tile(offset, 2), points + offset
        keep = (sides(boxes) >= look.smallest) & (sides(boxes) <= look.largest)
        keep &= ~cut(boxes, look.window, photo.shape[1], photo.shape[0])
        # home, an axis at a time; pixel centres are whole numbers, so half a pixel moves with the scale
        home = np.array([shown.width, shown.height]) / photo.shape[1::-1]
        boxes, points = (boxes + 0.5) * np.tile(home, 2) - 0.5, (points + 0.5) * home - 0.5
        return boxes[keep], scores[keep], points[keep]


def same_face(a: Detection, b: Detection, overlap: float) -> bool:
    """Whether two boxes show one face: their IoU is above `overlap`, or most of the smaller one is inside the
    larger.

    At different scales and turns a part of a face, or a head, can look like a face.
    """
    lo, hi = np.maximum(a.box[:2], b.box[:2]), np.minimum(a.box[2:], b.box[2:])
    shared = float((hi - lo).clip(0).prod())
    return shared > overlap * (a.area + b.area - shared) or shared > INSIDE * min(a.area, b.area)


def turned_back(found: Detection, quarters: int, width: int, height: int) -> Detection:
    """A face of the photo's copy turned counterclockwise by quarters of a circle -> the same in pixels of the
    photo.

    Args:
        width: of the photo, not of its copy.
        height: the same.
    """
    home = (
        ((1, 0, 0), (0, 1, 0)),
        ((0, -1, width - 1), (1, 0, 0)),
        ((-1, 0, width - 1), (0, -1, height - 1)),
        ((0, 1, 0), (-1, 0, height - 1)),
    )[quarters]
    corners, points = (
        geometry.move_points(found.box.reshape(2, 2), home),
        geometry.move_points(found.points, home),
    )
    box = np.concatenate([corners.min(0), corners.max(0)])
    return Detection(box.astype(np.float32), found.score, points.astype(np.float32))


class Shown:
    """A photo (H, W, 3) and what it is at other scales, each made once."""

    def __init__(self, pixels: Pixels):
        self.height, self.width = pixels.shape[:2]
        self._scales = {1.0: pixels}

    def at(self, scale: float) -> Pixels:
        """The photo at that scale."""
        if scale not in self._scales:
            self._scales[scale] = resized(self._scales[1.0], scale)
        return self._scales[scale]


def sides(boxes: Array) -> Array:
    """Of squares as large as these boxes (n, 4)."""
    found: Array = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return found


def spans(length: int, side: int, share: int) -> list[tuple[int, int]]:
    """(from, to) of the fewest tiles of that side over a length, which share `share` or more; all of it where
    it is shorter.
    """
    if length <= side:
        return [(0, length)]
    n = -(-(length - share) // (side - share))
    starts = [(length - side) * i // (n - 1) for i in range(n)]
    return [(start, start + side) for start in starts]


def most_inside(tiles: list[tuple[int, int]], middle: float) -> tuple[int, int]:
    """The tile whose edges are farthest from a place; the first of equals."""
    return max(tiles, key=lambda t: min(middle - t[0], t[1] - middle))


def _pixels(tile: tuple[tuple[int, int], tuple[int, int]]) -> int:
    (x1, x2), (y1, y2) = tile
    return (x2 - x1) * (y2 - y1)


def cut(boxes: Array, window: tuple[int, int, int, int], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Boxes that reach over an inner edge of a window of the photo: the neighbouring tile shows that face
    whole.
    """
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
    """The photo at another scale: halved by area averaging while it is twice as large or more, then bilinear.

    Area averaging in one go costs up to ten times as much: 28 ms for 12 million pixels to 640.
    """
    size = scaled_size(pixels.shape[1], pixels.shape[0], scale)
    while pixels.shape[1] >= 2 * size[0] and pixels.shape[0] >= 2 * size[1]:
        pixels = geometry.halved(pixels)
    if size == pixels.shape[1::-1]:
        return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]

"""Find the faces of a photo of any size.

Torch-free: numpy, OpenCV and an `InferenceModel` (see `mien.inference.onnx_model`). One network sees the same
photo in one to three kinds of detection pass:

- base: the longer side resized to 640 pixels (a small photo is enlarged, at most twice). It finds faces of 10
  to 400 pixels.
- thumbnail: a small copy with a black border, so that a face that fills the photo, or reaches beyond it, has
  a medium size. It runs when the base pass has no confident face, or a candidate for a large one.
- tiles: only for a photo larger than 640 pixels, and only where the base pass has a candidate for a small
  face. The photo has at most 1,280 pixels there, in tiles of 256 around the candidates, or in two or four
  large tiles where those have fewer pixels.

A candidate is a box whose score in the base pass is below the threshold, or whose size another pass shows
better.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.errors import UsageError
from mien.tasks.detection import FACES, decode, weighted_nms
from mien.types import Detection, InferenceModel, Pixels

Array = npt.NDArray[np.float64]
STEP = 32  # the network's coarsest stride
TILE = 256  # pixels, side of a small tile
# A box with at least this side, as a fraction of the base pass, and this score calls for a thumbnail pass.
LARGE_SIDE, LARGE_SCORE = 0.3, 0.3
ROTATED_PENALTY = 0.05  # subtracted from the scores of faces in a rotated copy of the photo
CONTAINED = 0.6  # in a thorough search, two boxes are one face if this fraction of one is inside the other


@dataclass(frozen=True, slots=True)
class DetectionPass:
    """One detection pass: which part of the photo the network sees, and at which scale.

    Attributes:
        scale: scaled pixels per photo pixel.
        window: (x1, y1, x2, y2), the part of the scaled photo that the network sees.
        canvas: (width, height) of the network's input.
        corner: (x, y) of the window in the canvas; the rest of the canvas is black.
        min_side: smallest box kept, in scaled pixels; other passes see smaller ones better.
        max_side: largest box kept, in scaled pixels; other passes see larger ones better.
    """

    scale: float
    window: tuple[int, int, int, int]
    canvas: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    min_side: float = 0.0
    max_side: float = np.inf


def round_up(length: float) -> int:
    """The next multiple of the network's coarsest stride."""
    return max(STEP, -(-round(length) // STEP) * STEP)


class Detector:
    """Find faces: photo pixels (H, W, 3) uint8 RGB -> list of `Detection`, largest first.

    Args:
        model: a detection network; its output "faces" is (B, cells, 15).
        threshold: minimum detection score, 0..1.
        overlap: IoU above which two boxes are one face, 0..1.
        base: longer side of the photo in the base pass, pixels.
        thumbnail: longer side of the photo in the thumbnail pass, pixels.
        tiles: longer side of the photo in the tile passes, pixels; 0 disables them.
        max_upscale: maximum factor by which the base pass enlarges a small photo.
        candidate: minimum score at which a small face in the base pass gets a tile pass, 0..1.

    Raises:
        UsageError: the network does not detect faces, or a value is out of range.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        threshold: float = FACES.threshold,
        overlap: float = FACES.overlap,
        base: int = 640,
        thumbnail: int = 128,
        tiles: int = 1280,
        max_upscale: float = 2.0,
        candidate: float = 0.15,
    ):
        if FACES.name not in [t.name for t in model.tasks]:
            raise UsageError(
                f"the detector's network predicts {[t.name for t in model.tasks]}, not {FACES.name!r}"
            )
        for name, value in (("threshold", threshold), ("candidate", candidate)):
            if not 0 < value < 1:
                raise UsageError(f"{name} must lie between 0 and 1, not {value}")
        if min(base, thumbnail) < STEP:
            raise UsageError(f"base and thumbnail must be at least {STEP} pixels, not {base} and {thumbnail}")
        self.model, self.threshold, self.overlap = model, threshold, overlap
        self.base, self.thumbnail, self.tiles, self.max_upscale = base, thumbnail, tiles, max_upscale
        self.candidate = min(candidate, threshold)

    def __call__(
        self, pixels: Pixels, *, score: float | None = None, thorough: bool = False
    ) -> list[Detection]:
        """Faces in photo pixels, largest first; boxes may reach beyond the photo.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            score: minimum detection score of this call, 0..1; None for `threshold`.
            thorough: search the entire photo at every scale, in tiles, and rotated by 90, 180 and 270
                degrees. It finds small faces of large photos and faces that are sideways or upside down, and
                takes from 5 to 100 times as long. See `Detection.roll`.

        Raises:
            UsageError: a score out of range.
        """
        if score is not None and not 0 < score < 1:
            raise UsageError(f"score must lie between 0 and 1, not {score}")
        threshold = self.threshold if score is None else score
        if thorough:
            return self._thorough(pixels, threshold)
        candidate = min(self.candidate, threshold)
        photo = ScaledPhoto(pixels)
        base, thumbnail = self.plan(photo.width, photo.height)
        boxes, scores, points = self.detect_pass(photo, base, candidate)
        passes, confident = self.tile_passes(photo.width, photo.height, boxes), scores >= threshold
        if (
            not confident.any()
            or ((sides(boxes) * base.scale > LARGE_SIDE * self.base) & (scores >= LARGE_SCORE)).any()
        ):
            passes = [thumbnail, *passes]
        rows = [
            (boxes[confident], scores[confident], points[confident]),
            *(self.detect_pass(photo, spec, threshold) for spec in passes),
        ]
        boxes, scores, points = (np.concatenate(column) for column in zip(*rows, strict=True))
        found = weighted_nms(boxes, scores, points, self.overlap)
        return drop_contained(sorted(found, key=lambda d: -d.area))

    def _thorough(self, pixels: Pixels, threshold: float) -> list[Detection]:
        """Faces of the photo and of its rotated copies; of duplicates, the one with the better score."""
        height, width = pixels.shape[:2]
        found = list[tuple[float, Detection]]()
        for quarter_turns in range(4):
            photo = ScaledPhoto(np.ascontiguousarray(np.rot90(pixels, quarter_turns)))
            passes = [*self.plan(photo.width, photo.height), *self.pyramid(photo.width, photo.height)]
            penalty = ROTATED_PENALTY if quarter_turns else 0.0
            rows = [self.detect_pass(photo, spec, min(threshold + penalty, 0.99)) for spec in passes]
            boxes, scores, points = (np.concatenate(column) for column in zip(*rows, strict=True))
            for d in weighted_nms(boxes, scores, points, self.overlap):
                found.append((d.score - penalty, rotate_back(d, quarter_turns, width, height)))
        kept = list[Detection]()
        for _, d in sorted(found, key=lambda pair: -pair[0]):
            if not any(same_face(d, k, self.overlap) for k in kept):
                kept.append(d)
        return drop_contained(sorted(kept, key=lambda d: -d.area))

    def pyramid(self, width: int, height: int, overlap: int = 128) -> list[DetectionPass]:
        """Tiles over the entire photo at its own size, at half of it, and so on, down to the base pass.

        Args:
            width: of the photo, pixels.
            height: of the photo, pixels.
            overlap: minimum overlap of neighboring tiles, and the largest face kept in them, pixels.
        """
        longer, passes, scale = max(width, height), list[DetectionPass](), 1.0
        while longer * scale > 1.2 * self.base:
            w, h = scaled_size(width, height, scale)
            tiles = [spans(length, max(self.base, 2 * overlap), overlap) for length in (w, h)]
            passes += [
                DetectionPass(
                    scale, (x1, y1, x2, y2), (round_up(x2 - x1), round_up(y2 - y1)), max_side=overlap
                )
                for y1, y2 in tiles[1]
                for x1, x2 in tiles[0]
            ]
            scale /= 2
        return passes

    def plan(self, width: int, height: int) -> tuple[DetectionPass, DetectionPass]:
        """The base and the thumbnail pass of a photo. Few input shapes keep the runtime's memory small."""
        longer = max(width, height)
        scale = min(self.base / longer, self.max_upscale)
        w, h = scaled_size(width, height, scale)
        base = DetectionPass(scale, (0, 0, w, h), (round_up(w), round_up(h)), max_side=0.7 * self.base)
        scale = self.thumbnail / longer
        w, h = scaled_size(width, height, scale)
        side = round_up(1.5 * self.thumbnail)
        return base, DetectionPass(
            scale, (0, 0, w, h), (side, side), ((side - w) // 2, (side - h) // 2), min_side=24
        )

    def tile_passes(self, width: int, height: int, boxes: Array, overlap: int = 64) -> list[DetectionPass]:
        """Tile passes for the candidates among the boxes of the base pass.

        A face that is as large as the overlap lies entirely inside at least one tile.

        Args:
            width: of the photo, pixels.
            height: of the photo, pixels.
            boxes: (n, 4) in photo pixels.
            overlap: minimum overlap of neighboring tiles, and the largest face kept in them, pixels.
        """
        longer = max(width, height)
        if not self.tiles or longer <= 1.2 * self.base:
            return []
        scale = min(1.0, self.tiles / longer)
        w, h = scaled_size(width, height, scale)
        candidates = boxes[sides(boxes) * scale <= overlap]
        centers = (candidates[:, :2] + candidates[:, 2:]) / 2 * scale
        small = [spans(length, TILE, overlap) for length in (w, h)]
        chosen = {(best_tile(small[0], x), best_tile(small[1], y)) for x, y in centers}
        large = [
            spans(
                length,
                length if length <= self.base + overlap else round_up(length / 2 + overlap / 2),
                overlap,
            )
            for length in (w, h)
        ]
        tiles = [(x, y) for y in large[1] for x in large[0]]
        if sum(map(_pixels, chosen)) < sum(map(_pixels, tiles)):
            tiles = sorted(chosen)
        return [
            DetectionPass(scale, (x1, y1, x2, y2), (round_up(x2 - x1), round_up(y2 - y1)), max_side=overlap)
            for (x1, x2), (y1, y2) in tiles
        ]

    def detect_pass(
        self, photo: ScaledPhoto, spec: DetectionPass, threshold: float
    ) -> tuple[Array, Array, Array]:
        """The faces that one pass finds: boxes (n, 4), scores (n,), points (n, 5, 2), in photo pixels."""
        scaled, (x1, y1, x2, y2) = photo.at(spec.scale), spec.window
        part = scaled[y1:y2, x1:x2]
        left, top = spec.corner
        right, bottom = spec.canvas[0] - left - (x2 - x1), spec.canvas[1] - top - (y2 - y1)
        if left or top or right or bottom:
            part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_CONSTANT)  # type: ignore[assignment]
        raw = self.model(self.model.view.tensor(part[None]))[FACES.name][0]
        boxes, scores, points = decode(raw, spec.canvas, threshold)
        offset = np.array([x1 - left, y1 - top], np.float64)
        boxes, points = boxes + np.tile(offset, 2), points + offset
        keep = (sides(boxes) >= spec.min_side) & (sides(boxes) <= spec.max_side)
        keep &= ~crosses_window(boxes, spec.window, scaled.shape[1], scaled.shape[0])
        # Back to photo pixels, per axis. Pixel centers are integers, so half a pixel is scaled too.
        to_photo = np.array([photo.width, photo.height]) / scaled.shape[1::-1]
        boxes, points = (boxes + 0.5) * np.tile(to_photo, 2) - 0.5, (points + 0.5) * to_photo - 0.5
        return boxes[keep], scores[keep], points[keep]


def same_face(a: Detection, b: Detection, overlap: float) -> bool:
    """Whether two boxes show one face: IoU above `overlap`, or most of the smaller one in the larger one.

    At other scales and rotations, a part of a face or an entire head can look like a face.
    """
    lo, hi = np.maximum(a.box[:2], b.box[:2]), np.minimum(a.box[2:], b.box[2:])
    shared = float((hi - lo).clip(0).prod())
    return shared > overlap * (a.area + b.area - shared) or shared > CONTAINED * min(a.area, b.area)


def rotate_back(found: Detection, quarter_turns: int, width: int, height: int) -> Detection:
    """A face in a rotated copy of the photo -> the same face in photo pixels.

    Args:
        found: the face in the copy.
        quarter_turns: by which the copy is rotated counterclockwise, 0..3.
        width: of the photo, not of its copy, pixels.
        height: of the photo, not of its copy, pixels.
    """
    to_photo = (
        ((1, 0, 0), (0, 1, 0)),
        ((0, -1, width - 1), (1, 0, 0)),
        ((-1, 0, width - 1), (0, -1, height - 1)),
        ((0, 1, 0), (-1, 0, height - 1)),
    )[quarter_turns]
    corners, points = (
        geometry.move_points(found.box.reshape(2, 2), to_photo),
        geometry.move_points(found.points, to_photo),
    )
    box = np.concatenate([corners.min(0), corners.max(0)])
    return Detection(box.astype(np.float32), found.score, points.astype(np.float32))


class ScaledPhoto:
    """A photo (H, W, 3) and its resized copies, each made once."""

    def __init__(self, pixels: Pixels):
        self.height, self.width = pixels.shape[:2]
        self._scales = {1.0: pixels}

    def at(self, scale: float) -> Pixels:
        """The photo at a scale, as a fraction of its size."""
        if scale not in self._scales:
            self._scales[scale] = resized(self._scales[1.0], scale)
        return self._scales[scale]


def sides(boxes: Array) -> Array:
    """Sides (n,) of the squares with the same area as the boxes (n, 4)."""
    found: Array = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return found


def spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of the fewest tiles that cover a length and overlap enough; one tile if it is shorter.

    Args:
        length: to cover, pixels.
        side: of a tile, pixels.
        overlap: minimum overlap of neighboring tiles, pixels.
    """
    if length <= side:
        return [(0, length)]
    n = -(-(length - overlap) // (side - overlap))
    starts = [(length - side) * i // (n - 1) for i in range(n)]
    return [(start, start + side) for start in starts]


def best_tile(tiles: list[tuple[int, int]], center: float) -> tuple[int, int]:
    """The tile whose edges are farthest from a coordinate; the first of equals."""
    return max(tiles, key=lambda t: min(center - t[0], t[1] - center))


def _pixels(tile: tuple[tuple[int, int], tuple[int, int]]) -> int:
    (x1, x2), (y1, y2) = tile
    return (x2 - x1) * (y2 - y1)


def crosses_window(
    boxes: Array, window: tuple[int, int, int, int], width: int, height: int
) -> npt.NDArray[np.bool_]:
    """Boxes (n,) that cross an inner edge of a window: the neighboring tile shows the entire face."""
    x1, y1, x2, y2 = window
    low = (boxes[:, :2] < (x1, y1)) & np.array([x1 > 0, y1 > 0])
    high = (boxes[:, 2:] > (x2, y2)) & np.array([x2 < width, y2 < height])
    crosses: npt.NDArray[np.bool_] = (low | high).any(1)
    return crosses


def drop_contained(found: list[Detection]) -> list[Detection]:
    """Drop boxes inside a larger one with a higher score: parts of an enlarged face can look like faces.

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
    """(width, height) of a resized photo, integers of at least 1 pixel."""
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(pixels: Pixels, scale: float) -> Pixels:
    """Resize a photo: halve it by area averaging while possible, then resize bilinearly.

    Area averaging in one step costs up to ten times as much: 28 ms from 12 million pixels to 640.
    """
    size = scaled_size(pixels.shape[1], pixels.shape[0], scale)
    while pixels.shape[1] >= 2 * size[0] and pixels.shape[0] >= 2 * size[1]:
        pixels = geometry.halved(pixels)
    if size == pixels.shape[1::-1]:
        return pixels
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]

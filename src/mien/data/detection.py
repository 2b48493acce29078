"""Photos in which every face is labeled, and the augmented training pictures of the detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mien import geometry
from mien.data.augment import Augment, photometric
from mien.data.occlusion import degrade, draw_letters, occlude
from mien.errors import MissingData
from mien.tasks import Task
from mien.tasks.detection import CONFIDENT, FACES, clip_to_window, pad_rows, transform_faces
from mien.types import Example, Floats, Pixels

PHOTOMETRIC = Augment(photometric=0.6, gray=0.1, blur=0.2, noise=0.1, erase=0.0)
FINE = Augment(photometric=0.6, gray=0.1, blur=0.0, noise=0.06, erase=0.0)  # small faces do not survive blur
TILES = (1, 2, 3, 4, 5, 6, 8, 10)
TILE_ODDS = (0.48, 0.19, 0.11, 0.08, 0.05, 0.04, 0.03, 0.02)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and its faces.

    Attributes:
        name: unique in its table.
        pixels: (H, W, 3) uint8 RGB.
        faces: (n, 15) float32: x, y, w, h, five points in picture order, score; see `mien.tasks.detection`.
        false_faces: (k, 4) float32 x1, y1, x2, y2 that an earlier detector took for faces.
    """

    name: str
    pixels: Pixels
    faces: Floats
    false_faces: Floats = field(default_factory=lambda: np.zeros((0, 4), np.float32))


def decoded(row: Mapping[str, Any], table: Path) -> Pixels:
    """The picture in a row of a table: (H, W, 3) uint8 RGB.

    Args:
        row: with the columns name and image.
        table: path, for the error message.

    Raises:
        MissingData: it cannot be decoded.
    """
    bgr = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise MissingData(f"{table}: the picture of {row['name']!r} cannot be decoded")
    return np.ascontiguousarray(bgr[..., ::-1])  # type: ignore[return-value]


def read_photos(root: Path, split: str) -> list[Photo]:
    """All photos of a split ("train", "val"), decoded: about 350 MB for 1,687 of them.

    Raises:
        MissingData: the table is not there, or a picture in it cannot be decoded.
    """
    path = root / "photos" / f"{split}.parquet"
    if not path.is_file():
        raise MissingData(f"no table {path}; set MIEN_DATA to the folder that holds photos/")
    photos = []
    for row in pq.read_table(path).to_pylist():
        photos.append(
            Photo(row["name"], decoded(row, path), np.asarray(row["faces"], np.float32).reshape(-1, 15))
        )
    return photos


def read_labeled(table: Path, labels: Path, *, longer: int = 400) -> list[Photo]:
    """Photos of a table with the faces that `recipes/detector_labels.py` wrote for them, decoded.

    Args:
        table: Parquet with the columns name and image.
        labels: Parquet with the columns name and faces.
        longer: maximum longer side; larger photos are reduced to it, pixels.

    Raises:
        MissingData: a table is not there, or a picture cannot be decoded.
    """
    for path in (table, labels):
        if not path.is_file():
            raise MissingData(
                f"no table {path}; labels are made by: python -m recipes.detector_labels --help"
            )
    faces = {
        r["name"]: np.asarray(r["faces"], np.float32).reshape(-1, 15)
        for r in pq.read_table(labels).to_pylist()
    }
    photos = []
    for batch in pq.ParquetFile(table).iter_batches(256, columns=["name", "image"]):
        for row in batch.to_pylist():
            if row["name"] not in faces:
                continue
            pixels = decoded(row, table)
            scale = min(1.0, longer / max(pixels.shape[:2]))
            if scale < 1:
                pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
            rows = faces[row["name"]].copy()
            rows[:, :14] *= scale
            photos.append(Photo(row["name"], pixels, rows))
    return photos


class PhotosDataset:
    """Photos without augmentation, for evaluation. Iterating yields (pixels, faces (n, 15))."""

    def __init__(self, root: Path, split: str):
        self.photos = read_photos(root, split)

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[tuple[Pixels, Floats]]:
        return ((p.pixels, p.faces) for p in self.photos)


class MosaicSource:
    """Training pictures from photos: one photo, scaled and rotated, or 2 x 2 to 6 x 6 photos in tiles.

    One photo shows a face of any size, from small to larger than the picture; tiles show many small faces. A
    few pictures are background only.

    Args:
        photos: decoded photos and their faces.
        size: side of the square pictures, pixels.
        empty: probability of a picture without faces.
        groups: probability of drawing a photo by the square root of its number of faces, instead of the next
            one: most photos hold one large face, and groups have more to teach.
        occluded: probability, per face, of a drawn occlusion: a mask, dark glasses, a hand or a block.
        degraded: probability that a picture is darkened, backlit or compressed.
        lettered: probability that letters are drawn next to the faces of a picture.
        hard: probability of a picture around something that an earlier detector took for a face, where the
            photos have such places (`Photo.false_faces`).
    """

    name = "photos"

    def __init__(
        self,
        photos: list[Photo],
        *,
        size: int = 320,
        empty: float = 0.04,
        groups: float = 0.6,
        occluded: float = 0.0,
        degraded: float = 0.0,
        lettered: float = 0.0,
        hard: float = 0.0,
    ):
        self.photos, self.size, self.empty, self.groups = photos, size, empty, groups
        self.hard, self._with_false_faces = hard, [i for i, p in enumerate(photos) if len(p.false_faces)]
        self.occluded, self.degraded, self.lettered = occluded, degraded, lettered
        weights = np.sqrt([float((p.faces[:, 14] >= CONFIDENT).sum()) for p in photos])
        self._odds = np.cumsum(weights) / max(weights.sum(), 1.0)

    def __len__(self) -> int:
        return len(self.photos)

    def example(
        self, index: int, rng: np.random.Generator, tasks: Sequence[Task[Any]] | None = None
    ) -> Example:
        """The i-th training picture; all randomness comes from `rng`.

        `tasks` change nothing: faces have one encoding.
        """
        if rng.random() < self.empty:
            made = background(self.photos[index], self.size, rng)
            if made is not None:
                return self._example(made, np.zeros((0, 16)), PHOTOMETRIC, rng)
        if self.hard and self._with_false_faces and rng.random() < self.hard:
            photo = self._photo(int(rng.choice(self._with_false_faces)), rng)
            affine, mirrored = around_face(photo, self.size, rng, photo.false_faces)
            pixels, rows = show(photo, affine, mirrored, (0, 0, self.size, self.size), border(rng))
            return self._example(pixels, rows, PHOTOMETRIC, rng)
        tiles = int(rng.choice(TILES, p=TILE_ODDS))
        index = self._draw(index, rng)
        if tiles == 1:
            photo = self._photo(index, rng)
            affine, mirrored = around_face(photo, self.size, rng)
            pixels, rows = show(photo, affine, mirrored, (0, 0, self.size, self.size), border(rng))
            return self._example(pixels, rows, PHOTOMETRIC, rng)
        canvas, rows = self._mosaic(index, tiles, rng)
        return self._example(canvas, rows, PHOTOMETRIC if tiles == 2 else FINE, rng)

    def _draw(self, index: int, rng: np.random.Generator) -> int:
        if rng.random() < self.groups:
            return min(int(np.searchsorted(self._odds, rng.random(), side="right")), len(self.photos) - 1)
        return index

    def _mosaic(
        self, index: int, tiles: int, rng: np.random.Generator
    ) -> tuple[Pixels, npt.NDArray[np.float64]]:
        edges = np.linspace(0, self.size, tiles + 1).round().astype(int)
        canvas, rows, own = (
            np.empty((self.size, self.size, 3), np.uint8),
            [],
            int(rng.integers(tiles * tiles)),
        )
        for t in range(tiles * tiles):
            other = int(rng.integers(len(self.photos)))
            photo = self._photo(index if t == own else self._draw(other, rng) if tiles < 4 else other, rng)
            (x1, x2), (y1, y2) = edges[t % tiles : t % tiles + 2], edges[t // tiles : t // tiles + 2]
            affine, mirrored = tiled(photo, (x1, y1, x2, y2), rng)
            canvas[y1:y2, x1:x2], found = show(photo, affine, mirrored, (x1, y1, x2, y2), border(rng))
            rows.append(found)
        return canvas, np.concatenate(rows)

    def _photo(self, index: int, rng: np.random.Generator) -> Photo:
        photo = self.photos[index]
        if not self.occluded:
            return photo
        return replace(photo, pixels=occlude(photo.pixels, photo.faces, self.occluded, rng))

    def _example(
        self, pixels: Pixels, rows: npt.NDArray[np.float64], augment: Augment, rng: np.random.Generator
    ) -> Example:
        if self.lettered and rng.random() < self.lettered:
            pixels = draw_letters(pixels, rows[:, :4], rng)
        if self.degraded and rng.random() < self.degraded:
            pixels = degrade(pixels, rng)
        return Example(photometric(pixels, augment, rng), {FACES.name: (pad_rows(rows), np.True_)})


def turn(rng: np.random.Generator) -> float:
    """A random rotation in degrees: mostly nearly upright, one in seven up to 45."""
    return float(rng.uniform(-45, 45) if rng.random() < 0.15 else rng.normal(0, 8))


def border(rng: np.random.Generator) -> tuple[int, int, int]:
    """The color beyond a photo's edge: black, as in inference, or gray, or any color."""
    kind = rng.random()
    if kind < 0.5:
        return (0, 0, 0)
    if kind < 0.7:
        return (128, 128, 128)
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return (r, g, b)


def around_face(
    photo: Photo, size: int, rng: np.random.Generator, boxes: npt.NDArray[Any] | None = None
) -> tuple[geometry.Array, bool]:
    """A random affine around one face of the photo, or one of the boxes (k, 4), and whether it flips the
    photo.

    With probability 0.4 the face's side becomes 24 pixels to 1.25 times the picture's, log-uniform. Otherwise
    the photo becomes one to 2.4 times as large as the picture, whatever the size of its faces: enlarged and
    slightly blurred, as in inference.
    """
    mirrored = bool(rng.random() < 0.5)
    h, w = photo.pixels.shape[:2]
    if boxes is None:
        boxes = geometry.corners(photo.faces[photo.faces[:, 14] >= CONFIDENT])
    if len(boxes):
        x1, y1, x2, y2 = boxes[rng.choice(len(boxes))].astype(float)
        x, y, fw, fh = x1, y1, x2 - x1, y2 - y1
        center, side = (x + fw / 2, y + fh / 2), max(4.0, float(np.sqrt(fw * fh)))
    else:
        center, side = (rng.uniform(0, w), rng.uniform(0, h)), max(h, w) * 0.4
    fit = size / max(h, w)
    if rng.random() < 0.4:
        scale = float(
            np.clip(np.exp(rng.uniform(np.log(24), np.log(1.25 * size))) / side, 0.7 * fit, 4.5 * fit)
        )
    else:
        scale = fit * float(np.exp(rng.uniform(0, np.log(2.4))))
    move = geometry.about(center, degrees=turn(rng), scale=scale, mirror=mirrored)
    # The face's center lands where the photo fills the picture, or lies inside it if smaller, with some
    # slack.
    place = []
    for before, length in ((w - 1 - center[0] if mirrored else center[0], w), (center[1], h)):
        lo, hi = sorted((size - (length - before) * scale, before * scale))
        slack = 0.2 * side * scale
        keep = min(size / 2, 0.25 * side * scale)  # most of the face stays inside
        place.append(float(np.clip(rng.uniform(lo - slack, hi + slack), keep, size - keep)))
    move[:, 2] += np.asarray(place) - center
    return move, mirrored


def tiled(
    photo: Photo, tile: tuple[int, int, int, int], rng: np.random.Generator
) -> tuple[geometry.Array, bool]:
    """A random affine that fills a tile (x1, y1, x2, y2) with the photo, and whether it flips the photo."""
    h, w = photo.pixels.shape[:2]
    x1, y1, x2, y2 = tile
    scale = max(x2 - x1, y2 - y1) / max(h, w) * float(np.exp(rng.uniform(np.log(0.65), np.log(1.8))))
    mirrored = bool(rng.random() < 0.5)
    spare = [max(0.0, length * scale - extent) / 2 for length, extent in ((w, x2 - x1), (h, y2 - y1))]
    shift = [rng.uniform(-1, 1) * (s + 0.05 * (x2 - x1)) for s in spare]
    center = ((w - 1) / 2, (h - 1) / 2)
    move = geometry.about(center, degrees=turn(rng), scale=scale, mirror=mirrored)
    move[:, 2] += np.array([(x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2]) + shift - center
    return move, mirrored


def show(
    photo: Photo,
    affine: geometry.Array,
    mirrored: bool,
    tile: tuple[int, int, int, int],
    outside: tuple[int, int, int],
) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """Warp a photo into a tile of the canvas: the tile's pixels, and rows in canvas pixels.

    Args:
        photo: to warp.
        affine: photo -> canvas.
        mirrored: whether the affine flips the photo.
        tile: (x1, y1, x2, y2) in the canvas.
        outside: RGB beyond the photo's edge.
    """
    x1, y1, x2, y2 = tile
    inner = geometry.compose([[1, 0, -x1], [0, 1, -y1]], affine)
    made = geometry.warp(photo.pixels, inner, (x2 - x1, y2 - y1), outside)
    rows = clip_to_window(
        transform_faces(photo.faces, affine, mirrored), (x1 - 0.5, y1 - 0.5, x2 - 0.5, y2 - 0.5)
    )
    return made, rows


def background(photo: Photo, size: int, rng: np.random.Generator) -> Pixels | None:
    """A square of the photo without a labeled face, enlarged to the picture's size; None if none is found."""
    h, w = photo.pixels.shape[:2]
    boxes = geometry.corners(photo.faces)
    for _ in range(8):
        side = int(rng.integers(40, 161))
        if side > min(h, w):
            continue
        x, y = int(rng.integers(0, w - side + 1)), int(rng.integers(0, h - side + 1))
        clear = (boxes[:, 0] > x + side) | (boxes[:, 2] < x) | (boxes[:, 1] > y + side) | (boxes[:, 3] < y)
        if clear.all():
            return cv2.resize(
                photo.pixels[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_LINEAR
            )  # type: ignore[return-value]
    return None

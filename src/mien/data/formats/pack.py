"""Parquet packs: one row per picture, with its encoded bytes in `image` and its labels in other columns.

A pack's pictures are decoded once, into one flat memory-mapped file in the cache folder; labels stay in
memory. Five points align each picture to a model's view. Sets without points have those of a detector
(`*_points5.parquet`), or, where the detector found no face or is uncertain, the median of the set, whose
pictures are registered.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mien import geometry, settings
from mien.errors import MissingData
from mien.tasks.attributes import CELEBA40
from mien.types import Pixels, Sample

Row = Mapping[str, Any]
# Pixels of the stored pictures, see `Sample.label_offset_x`: measured on training pictures, as half the
# difference between the outputs of a network for a picture and for its mirror image (dev/LOG.md, entry 13)
LABEL_OFFSET_X = {"mtfl": 0.70, "helen68": 0.80, "afw68": 1.25}

DESCRIBED = (
    "celeba",
    "utkface",
    "mtfl",
)  # sets with a teacher's face descriptors of their training pictures


class Pictures:
    """Decoded pictures of one table, (H, W, channels) uint8 each, in one memory-mapped file."""

    def __init__(self, table: Path, column: str = "image", mode: str = "RGB"):
        stamp = hashlib.sha256(
            f"{table.resolve()}:{table.stat().st_size}:{column}:{mode}:1".encode()
        ).hexdigest()[:12]
        base = settings.cache_root() / f"{table.parent.name}-{table.stem}-{column}-{stamp}"
        flat, index = base.with_suffix(".npy"), base.with_suffix(".json")
        if not index.exists():
            shapes = self._decode(table, column, mode, flat)
            index.write_text(json.dumps(shapes))
        self.shapes = [tuple(s) for s in json.loads(index.read_text())]
        self.offsets = np.concatenate([[0], np.cumsum([int(np.prod(s)) for s in self.shapes])])
        self.flat = np.load(flat, mmap_mode="r")

    @staticmethod
    def _decode(table: Path, column: str, mode: str, flat: Path) -> list[list[int]]:
        parts = []
        for data in pq.read_table(table, columns=[column])[column].to_pylist():
            with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
                # a mask is stored as palette or gray; its numbers are the labels, so it must not be converted
                parts.append(np.asarray(image.convert("RGB") if mode == "RGB" else image, np.uint8))
        np.save(flat, np.concatenate([p.reshape(-1) for p in parts]))
        return [list(p.shape) for p in parts]

    def __getitem__(self, i: int) -> Pixels:
        return np.asarray(self.flat[self.offsets[i] : self.offsets[i + 1]]).reshape(self.shapes[i])


class PackDataset:
    """A labeled table: `dataset[i]` is a Sample in pixels of the stored picture.

    Args:
        folder, split: `folder/split.parquet` below the data root.
        labels: row -> task name -> label.
        points: row -> (5, 2), or None to use the points table next to it.
        select: whether a row is used; None: all rows.
        masks: task name -> column of pictures that are label maps.
        label_offset_x: see `Sample`.
    """

    def __init__(
        self,
        folder: str,
        split: str,
        labels: Callable[[Row], dict[str, Any]],
        *,
        points: Callable[[Row], Any] | None = None,
        select: Callable[[Row], bool] | None = None,
        masks: Mapping[str, str] | None = None,
        root: Path | None = None,
        label_offset_x: float = 0.0,
    ):
        self.name, self.label_offset_x, root = (
            f"{folder}/{split}",
            label_offset_x,
            root or settings.data_root(),
        )
        path = root / folder / f"{split}.parquet"
        if not path.is_file():
            raise MissingData(f"expected {path}; it is missing")
        self.pictures = Pictures(path)
        self.masks = {task: Pictures(path, column, "L") for task, column in (masks or {}).items()}
        heavy = {"image", *(masks or {}).values()}
        columns = [c for c in pq.read_schema(path).names if c not in heavy]
        rows = pq.read_table(path, columns=columns).to_pylist()
        self.rows = [i for i, row in enumerate(rows) if select is None or select(row)]
        self.names = [rows[i]["name"] for i in self.rows]
        self.labels = [labels(rows[i]) for i in self.rows]
        if points:
            self.points = np.stack([np.asarray(points(rows[i]), np.float64).reshape(5, 2) for i in self.rows])
        else:
            self.points = self._found_points(path.with_name(f"{split}_points5.parquet"))

    def _found_points(self, path: Path, minimum: float = 0.6) -> np.ndarray:
        table = pq.read_table(path).to_pylist()
        found = {
            r["name"]: np.asarray(r["points5"], np.float64).reshape(5, 2)
            for r in table
            if r["score"] >= minimum
        }
        median = np.median(np.stack(list(found.values())), 0)
        return np.stack([found.get(name, median) for name in self.names])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        masks = {task: pictures[self.rows[i]] for task, pictures in self.masks.items()}
        return Sample(
            self.pictures[self.rows[i]],
            {**self.labels[i], **masks},
            self.points[i],
            self.names[i],
            self.label_offset_x,
        )


def _described(folder: str, root: Path | None = None) -> tuple[list[str], np.ndarray]:
    """Names, and the teacher's original descriptors, (n, 128) float32."""
    found = pq.read_table((root or settings.data_root()) / folder / "train_descriptors.parquet")
    return found["name"].to_pylist(), np.asarray(found["descriptor"].to_pylist(), np.float32)


def centered(values: np.ndarray, mean_fraction: float = 0.0, *, root: Path | None = None) -> np.ndarray:
    """A teacher's descriptors (n, 128) minus the mean over the training sets, the numbers scaled to unit
    variance there (one factor for all 128, so that angles and order of distances stay).

    Args:
        mean_fraction: fraction of the mean that stays, 0..1. At 0, faces near the mean, which an uncertain
            network predicts, have no direction; at 1, angles between people are small.
    """
    return _centered(
        values, np.concatenate([_described(folder, root)[1] for folder in DESCRIBED]), mean_fraction
    )


def _centered(values: np.ndarray, everything: np.ndarray, mean_fraction: float) -> np.ndarray:
    mean = everything.mean(0)
    return (values - (1 - mean_fraction) * mean) * (1 / (everything - mean).std())


def descriptors(*, mean_fraction: float = 0.0, root: Path | None = None) -> dict[str, np.ndarray]:
    """The teacher's descriptors of training pictures by "set/name", (128,) float32 each; centered, see
    `centered` for `mean_fraction`.
    """
    found = {folder: _described(folder, root) for folder in DESCRIBED}
    everything = np.concatenate([v for _, v in found.values()])
    values = _centered(everything, everything, mean_fraction)
    return dict(
        zip((f"{folder}/{n}" for folder, (names, _) in found.items() for n in names), values, strict=True)
    )


def with_identity(
    folder: str, labels: Callable[[Row], dict[str, Any]], teacher: Mapping[str, np.ndarray] | None
) -> Callable[[Row], dict[str, Any]]:
    """The labels of a row, and as identity the teacher's descriptor "folder/NAME" if there is one."""

    def both(row: Row) -> dict[str, Any]:
        known = teacher.get(f"{folder}/{row['name']}") if teacher else None
        return labels(row) | ({} if known is None else {"identity": known})

    return both


def mtfl(split: str, *, teacher: Mapping[str, np.ndarray] | None = None, turned: bool = False) -> PackDataset:
    """MTFL: five points, and three of the forty attributes. Its `lfw_5590` pictures have no descriptor, on
    purpose.

    Args:
        turned: only the faces that do not look into the camera, a quarter of the training pictures.
    """

    def labels(row: Row) -> dict[str, Any]:
        facts = {"Male": row["male"], "Smiling": row["smile"], "Eyeglasses": row["glasses"]}
        return {"points5": np.asarray(row["points"], np.float64).reshape(5, 2), "attributes": facts}

    named, select = with_identity("mtfl", labels, teacher), (lambda r: r["pose"] != 2) if turned else None
    return PackDataset(
        "mtfl",
        split,
        named,
        points=lambda r: r["points"],
        select=select,
        label_offset_x=LABEL_OFFSET_X["mtfl"],
    )


def _sixty_eight(folder: str, split: str) -> PackDataset:
    def points(row: Row) -> np.ndarray:
        return np.asarray(row["points"], np.float64).reshape(68, 2)

    return PackDataset(
        folder,
        split,
        lambda r: {"landmarks": points(r), "points5": geometry.five_of_68(points(r))},
        points=lambda r: geometry.five_of_68(points(r)),
        label_offset_x=LABEL_OFFSET_X[folder],
    )


def helen68(split: str) -> PackDataset:
    """Helen with 68 points; five of them follow (eye centers, nose tip, mouth corners)."""
    return _sixty_eight("helen68", split)


def afw68(split: str) -> PackDataset:
    """AFW with 68 points."""
    return _sixty_eight("afw68", split)


def celebamask(split: str) -> PackDataset:
    """A sample of CelebAMask-HQ: one of 19 classes per pixel."""
    return PackDataset("celebamask", split, lambda r: {}, masks={"parsing": "mask"})


def celeba(split: str, *, teacher: Mapping[str, np.ndarray] | None = None) -> PackDataset:
    """CelebA, aligned pictures at half size: 40 attributes."""

    def labels(row: Row) -> dict[str, Any]:
        return {"attributes": dict(zip(CELEBA40, row["attributes"], strict=True))}

    return PackDataset("celeba", split, with_identity("celeba", labels, teacher))


def utkface(split: str, *, teacher: Mapping[str, np.ndarray] | None = None) -> PackDataset:
    """UTKFace, tight aligned crops: age and one of the forty attributes."""

    def labels(row: Row) -> dict[str, Any]:
        return {"age": float(row["age"]), "attributes": {"Male": row["male"]}}

    return PackDataset("utkface", split, with_identity("utkface", labels, teacher))


def majority(votes: Sequence[int]) -> int | None:
    """FER+'s majority protocol (Barsoum et al. 2016): single votes are dropped, then the top emotion must
    have more than half of the rest and be one of the eight; else None. votes: ten counts, unknown and
    not-a-face last.
    """
    v = np.asarray(votes)
    v = np.where(v > 1, v, 0)
    top = int(v.argmax())
    return top if top < 8 and 2 * v[top] > v.sum() else None


def ferplus(split: str, *, soft: bool = False) -> PackDataset:
    """FER+, 48 px gray.

    Majority labels, or with `soft` the distribution of votes of every picture that is a face.
    """

    def distribution(row: Row) -> np.ndarray:
        votes = np.asarray(row["votes"], np.float64)
        return np.where(votes > 1, votes, 0)

    def mostly_emotion(row: Row) -> bool:
        v = distribution(row)
        return bool(v[:8].sum() > v[8:].sum())

    if soft:
        return PackDataset(
            "ferplus", split, lambda r: {"expression": distribution(r)[:8]}, select=mostly_emotion
        )
    return PackDataset(
        "ferplus",
        split,
        lambda r: {"expression": majority(r["votes"])},
        select=lambda r: majority(r["votes"]) is not None,
    )


def lfw_pairs() -> PackDataset:
    """LFW View 1 development test: each picture's label lists its pairs as (pair number, same?)."""
    takes_part: dict[str, list[tuple[int, bool]]] = {}
    for number, pair in enumerate(
        pq.read_table(settings.data_root() / "lfw_dev" / "pairs.parquet").to_pylist()
    ):
        for name in (pair["a"], pair["b"]):
            takes_part.setdefault(name, []).append((number, pair["same"]))
    return PackDataset("lfw_dev", "images", lambda r: {"identity": takes_part.get(r["name"], [])})

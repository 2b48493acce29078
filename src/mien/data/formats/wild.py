"""The second data pack: faces in the wild at their published size, one Parquet table per set
(`settings.data_more_root`).

Its pictures have no five points. Those of a teacher detector stand in the cache folder, as
`recipes.teacher_labels` writes them: `teacher_labels/SET-SPLIT.parquet`. Pictures are kept decoded around the
face, at no more than `HEAD` pixels per head crop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mien import geometry, settings
from mien.data import set_aside
from mien.data.formats.pack import with_identity
from mien.errors import MissingData
from mien.tasks.age import AgeClass, AgeRange
from mien.tasks.attributes import CELEBA40
from mien.tasks.choice import EXPRESSION8
from mien.types import Floats, Pixels, Sample, View

Row = Mapping[str, Any]
HEAD = 144  # side in pixels of the aligned head crop at which pictures are stored
# half the side of the stored area around it, as a fraction of its side: room for rotation, shift and scale
REACH = 0.78
CONFIDENT = 0.6  # minimum teacher score of a training picture
_VIEW = View((HEAD, HEAD), "head", (0, 0, 0), (1, 1, 1))

# FairFace's age classes by name: first and last year
AGE_BINS = {
    "0-2": AgeRange(0, 2), "3-9": AgeRange(3, 9), "10-19": AgeRange(10, 19), "20-29": AgeRange(20, 29),
    "30-39": AgeRange(30, 39),
    "40-49": AgeRange(40, 49), "50-59": AgeRange(50, 59), "60-69": AgeRange(60, 69), "70+": AgeRange(70, 100),
}  # fmt: skip
RACES = ("White", "Black", "East Asian", "Southeast Asian", "Indian", "Latino_Hispanic", "Middle Eastern")
# All-Age-Faces' 49 points: the index of each among iBUG's 68
AAF49 = (*range(17, 48), *range(48, 60), 61, 62, 63, 65, 66, 67)


def fairface_classes() -> AgeClass:
    """A new metric for FairFace's nine age classes."""
    return AgeClass(tuple(int(r.low) for r in AGE_BINS.values()))


def around_face(pixels: Pixels, points: npt.NDArray[np.float64]) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """Crop a photo (H, W, 3) to the area that an augmented head crop can show, and shrink it to `HEAD`.

    Returns:
        The cut picture, and the affine (2, 3) photo -> cut picture.
    """
    fit = geometry.fit_similarity(points, geometry.template_points(_VIEW))
    x, y = geometry.move_points(np.array([[(HEAD - 1) / 2, (HEAD - 1) / 2]]), geometry.invert(fit))[0]
    side, (h, w) = HEAD / geometry.scale_of(fit), pixels.shape[:2]
    x1, y1 = max(0, int(x - REACH * side)), max(0, int(y - REACH * side))
    x2, y2 = min(w, int(np.ceil(x + REACH * side)) + 1), min(h, int(np.ceil(y + REACH * side)) + 1)
    if x2 - x1 < 8 or y2 - y1 < 8:  # a face beyond the border: keep the entire picture
        x1, y1, x2, y2 = 0, 0, w, h
    cropped = pixels[y1:y2, x1:x2]
    f = min(1.0, HEAD / side)
    size = (max(8, round(f * (x2 - x1))), max(8, round(f * (y2 - y1))))
    sx, sy = size[0] / (x2 - x1), size[1] / (y2 - y1)
    affine = np.array([[sx, 0, (sx - 1) / 2 - sx * x1], [0, sy, (sy - 1) / 2 - sy * y1]])
    return cv2.resize(cropped, size, interpolation=cv2.INTER_AREA) if f < 1 else cropped.copy(), affine  # type: ignore[return-value]


class FaceCuts:
    """Decoded pictures of one table, cut around their faces, in one memory-mapped file; with the affines
    photo -> cut picture.
    """

    def __init__(self, table: Path, points: npt.NDArray[np.float64]):
        stamp = hashlib.sha256(
            f"{table.resolve()}:{table.stat().st_size}:{HEAD}:{REACH}:1".encode() + points.tobytes()
        ).hexdigest()[:12]
        base = settings.cache_root() / f"{table.parent.name}-{table.stem}-faces-{stamp}"
        flat, index = base.with_suffix(".bin"), base.with_suffix(".json")
        if not index.exists():
            shapes, affines = self._decode(table, points, flat)
            index.write_text(json.dumps({"shapes": shapes, "affines": affines}))
        found = json.loads(index.read_text())
        self.shapes, self.affines = (
            [tuple(s) for s in found["shapes"]],
            np.asarray(found["affines"], np.float64),
        )
        self.offsets = np.concatenate([[0], np.cumsum([int(np.prod(s)) for s in self.shapes])])
        self.flat = np.memmap(flat, np.uint8, "r")

    @staticmethod
    def _decode(
        table: Path, points: npt.NDArray[np.float64], flat: Path
    ) -> tuple[list[list[int]], list[Any]]:
        shapes, affines, at = [], [], 0
        with flat.open("wb") as out:
            for batch in pq.ParquetFile(table).iter_batches(256, columns=["image"]):
                for data in batch.column(0).to_pylist():
                    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                    if bgr is None:
                        raise MissingData(
                            f"picture {at} of {table} is not a readable JPEG or PNG; build the table again"
                        )
                    cropped, affine = around_face(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), points[at])  # type: ignore[arg-type]
                    out.write(np.ascontiguousarray(cropped).tobytes())
                    shapes.append(list(cropped.shape))
                    affines.append(affine.tolist())
                    at += 1
        return shapes, affines

    def __getitem__(self, i: int) -> Pixels:
        return np.asarray(self.flat[self.offsets[i] : self.offsets[i + 1]]).reshape(self.shapes[i])


class WildDataset:
    """A labeled table of the second pack: `dataset[i]` is a Sample in pixels of the cut picture.

    Args:
        folder, split: `folder/split.parquet` below the second pack's root.
        labels: row -> task name -> label; places in pixels of the photo.
        select: whether a row is used; None: all rows.
        aside: names that stay out, or with `only_aside` the only ones that take part.
        confident: minimum teacher score; 0 keeps pictures without a found face too, placed by the median of
            the set.
    """

    def __init__(
        self,
        folder: str,
        split: str,
        labels: Callable[[Row], dict[str, Any]],
        *,
        select: Callable[[Row], bool] | None = None,
        aside: Collection[str] = (),
        only_aside: bool = False,
        confident: float = 0.0,
    ):
        self.name = f"{folder}/{split}"
        path, points = settings.data_more_root() / folder / f"{split}.parquet", _points_file(folder, split)
        if not path.is_file():
            raise MissingData(f"expected {path}; it is missing")
        columns = [c for c in pq.read_schema(path).names if c != "image"]
        rows = pq.read_table(path, columns=columns).to_pylist()
        found = {
            r["name"]: r for r in pq.read_table(points, columns=["name", "points5", "score"]).to_pylist()
        }
        if missing := [r["name"] for r in rows if r["name"] not in found]:
            raise MissingData(
                f"{points} has no row for {missing[0]}; write it again by recipes.teacher_labels"
            )
        every, scores = (np.array([found[r["name"]][c] for r in rows]) for c in ("points5", "score"))
        every = every.reshape(-1, 5, 2)
        every[scores == 0] = np.median(every[scores > 0], 0)
        self.cuts = FaceCuts(path, every)
        self.rows = [
            i for i, r in enumerate(rows)
            if (r["name"] in aside) == only_aside and scores[i] >= confident and (select is None or select(r))
        ]  # fmt: skip
        self.facts = [rows[i] for i in self.rows]
        self.names, self.labels = [r["name"] for r in self.facts], [labels(r) for r in self.facts]
        self.points = np.stack([geometry.move_points(every[i], self.cuts.affines[i]) for i in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        affine = self.cuts.affines[self.rows[i]]
        labels = {
            n: geometry.move_points(v, affine) if n == "landmarks" else v for n, v in self.labels[i].items()
        }
        return Sample(self.cuts[self.rows[i]], labels, self.points[i], self.names[i])


def _points_file(folder: str, split: str) -> Path:
    path = settings.cache_root() / "teacher_labels" / f"{folder}-{split}.parquet"
    if not path.is_file():
        raise MissingData(
            f"expected {path}, the five points of {folder}/{split}; write it by: python -m"
            " recipes.teacher_labels points"
        )
    return path


def _confident(split: str) -> float:
    return CONFIDENT if split == "train" else 0.0


def identity_descriptors(d: int = 128) -> dict[str, Floats]:
    """The second identity teacher's embeddings by "set/name", (d,) float32 each, as
    `recipes.teacher_labels identity` writes them to the cache folder `teacher_labels/identity`.

    They are turned to their `d` principal directions, and scaled to unit variance by one factor. The mean
    stays, so that cosines stay what they are, but for what the left out directions say.

    Raises:
        MissingData: there are none.
    """
    folder_of_labels = settings.cache_root() / "teacher_labels" / "identity"
    files = sorted(folder_of_labels.glob("*-train.parquet"))
    if not files:
        raise MissingData(
            f"no embeddings in {folder_of_labels}; write them by: python -m recipes.teacher_labels identity"
        )
    names, parts = list[str](), []
    for file in files:
        table, folder = pq.read_table(file), file.stem.removesuffix("-train")
        names += [f"{folder}/{n}" for n in table["name"].to_pylist()]
        parts.append(np.asarray(table["descriptor"].to_pylist(), np.float64))
    values = np.concatenate(parts)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    spread = values - values.mean(0)
    directions = np.linalg.eigh(spread.T @ spread)[1][:, ::-1][:, :d]
    turned = values @ directions
    turned /= turned.std()
    return dict(zip(names, turned.astype(np.float32), strict=True))


def fairface(split: str, *, race: str = "", teacher: Mapping[str, Floats] | None = None) -> WildDataset:
    """FairFace: age class and gender.

    Split "aside" is what is set aside of the training part; race: only its pictures, to measure.

    Args:
        split: "train", "val" or "aside".
        race: see above.
        teacher: identity descriptors by "fairface/NAME", see `identity_descriptors`.
    """

    def labels(row: Row) -> dict[str, Any]:
        return {"age": AGE_BINS[row["age_bin"]], "attributes": {"Male": row["male"]}}

    aside, only = set_aside.names("fairface"), split == "aside"
    return WildDataset(
        "fairface",
        "train" if only else split,
        with_identity("fairface", labels, teacher),
        select=(lambda r: r["race"] == race) if race else None,
        aside=aside if only or split == "train" else (),
        only_aside=only,
        confident=_confident(split),
    )


def utkface(split: str, *, teacher: Mapping[str, np.ndarray] | None = None) -> WildDataset:
    """UTKFace at full size, tight aligned crops: age and gender. Below 12 years gender is not used in
    training: its labels are noisy.

    Args:
        teacher: identity descriptors by "utkface/NAME", see `pack.descriptors`.
    """

    def labels(row: Row) -> dict[str, Any]:
        known = split != "train" or row["age"] >= 12
        found: dict[str, Any] = {"age": float(row["age"])} | (
            {"attributes": {"Male": row["male"]}} if known else {}
        )
        return found

    return WildDataset(
        "utkface", split, with_identity("utkface", labels, teacher), confident=_confident(split)
    )


def aaf(split: str, *, landmarks: bool = True, teacher: Mapping[str, Floats] | None = None) -> WildDataset:
    """All-Age-Faces: age, gender, and on request 49 of the 68 points (machine-made) if there are any.

    Args:
        split: "train" or "val".
        landmarks: see above.
        teacher: identity descriptors by "aaf/NAME", see `identity_descriptors`.
    """

    def labels(row: Row) -> dict[str, Any]:
        found: dict[str, Any] = {"age": float(row["age"]), "attributes": {"Male": row["male"]}}
        if landmarks and row["points49"] is not None:
            found["landmarks"] = np.full((68, 2), np.nan)
            found["landmarks"][list(AAF49)] = np.asarray(row["points49"], np.float64).reshape(49, 2)
        return found

    return WildDataset("aaf", split, with_identity("aaf", labels, teacher), confident=_confident(split))


def celeba_wild(split: str, *, teacher: Mapping[str, Floats] | None = None) -> WildDataset:
    """Uncropped CelebA photos: 40 attributes.

    Split "aside" is what is set aside of the training part, by identity.

    Args:
        split: "train" or "aside".
        teacher: identity descriptors by "celeba_wild/NAME", see `identity_descriptors`.
    """

    def labels(row: Row) -> dict[str, Any]:
        return {"attributes": dict(zip(CELEBA40, row["attributes"], strict=True))}

    only = split == "aside"
    return WildDataset(
        "celeba_wild",
        "train",
        with_identity("celeba_wild", labels, teacher),
        aside=set_aside.names("celeba_wild"),
        only_aside=only,
        confident=_confident(split),
    )


def london(only: str = "") -> WildDataset:
    """Face Research Lab London Set, test only: gender, expression, and age where it is known; only: a task
    that must be labeled.
    """

    def labels(row: Row) -> dict[str, Any]:
        expression = {"neutral": "neutral", "smiling": "happiness"}.get(row["expression"])
        found: dict[str, Any] = {"attributes": {"Male": row["male"]}}
        if row["age"] is not None:
            found["age"] = float(row["age"])
        if expression is not None:
            found["expression"] = EXPRESSION8.index(expression)
        return found

    return WildDataset("london", "test", labels, select=(lambda r: only in labels(r)) if only else None)

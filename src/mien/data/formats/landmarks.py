"""Landmark sets in the layouts of their publishers: 300-W, WFLW, COFW, AFLW-19 and MTFL.

Each reader is `name(root, split)`: `root` is the folder that holds the publisher's files, named in the
reader's docstring. Pictures are read on access. Points are in pixels of the stored picture, in the set's own
order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from mien import geometry
from mien.data.formats.common import need, one_of, optional, picture
from mien.errors import MissingData
from mien.geometry import Array
from mien.types import Sample

T = TypeVar("T")


class Listed(Generic[T]):
    """A data set made of a list of items and a function that reads one.

    Attributes:
        name: "set/split".
        items: inputs of `read`, one per picture.
    """

    def __init__(self, name: str, items: Sequence[T], read: Callable[[T], Sample]):
        self.name, self.items, self.read = name, items, read

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int, /) -> Sample:
        if not 0 <= i < len(self.items):
            raise IndexError(f"{self.name} has {len(self.items)} pictures; there is no number {i}")
        return self.read(self.items[i])


@dataclass(frozen=True, slots=True)
class Marked:
    """A picture's file, labels by task name, five points (5, 2), and a name that is unique in its set."""

    path: Path
    labels: Mapping[str, Any]
    points: Array
    name: str

    def sample(self) -> Sample:
        """Read the picture."""
        return Sample(picture(self.path), self.labels, self.points, self.name)


# Shared by all readers


def lines(path: Path) -> list[str]:
    """The lines of a list that are not blank.

    Raises:
        MissingData: no such file.
    """
    return [line for line in need(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def pairs(numbers: Sequence[str], n: int, where: object) -> Array:
    """2 n numbers in the order x, y, x, y ... -> (n, 2).

    Raises:
        MissingData: there are more, or fewer.
    """
    if len(numbers) != 2 * n:
        raise MissingData(f"expected {n} points in {where}; it has {len(numbers)} numbers, not {2 * n}")
    return np.asarray(numbers, np.float64).reshape(n, 2)


def completed(five: Array, where: object) -> Array:
    """Complete five points (5, 2) of which some are NaN, with the template aligned to the known ones.

    Raises:
        MissingData: fewer than two are known, so that the face's size and rotation are open.
    """
    known = np.asarray(np.isfinite(five).all(1))
    if known.all():
        return five
    if known.sum() < 2:
        raise MissingData(f"expected two or more of {where}'s five points; it has {int(known.sum())}")
    template = geometry.TEMPLATES["head"]
    guess = geometry.move_points(template, geometry.fit_similarity(template[known], five[known]))
    return np.where(known[:, None], five, guess)


# 300-W (Sagonas et al., ICCV-W 2013), in the split that everyone reports since Ren et al. (CVPR 2014)

IBUG300W = {
    "train": ("lfpw/trainset", "helen/trainset", "afw"),
    "common": ("lfpw/testset", "helen/testset"),
    "challenging": ("ibug",),
    "full": ("lfpw/testset", "helen/testset", "ibug"),
}


def ibug300w(root: Path, split: str) -> Listed[Marked]:
    """300-W: `landmarks` (68) and `points5`, from ROOT/{lfpw,helen}/{trainset,testset}, ROOT/afw and
    ROOT/ibug.

    Splits: train (3,148 pictures), common (554), challenging (135), full = common + challenging (689).

    Raises:
        UsageError: no such split. MissingData: a folder or a picture is missing, or a .pts file is not as it
            should be.
    """
    items = []
    for folder in IBUG300W[one_of("300-W", split, IBUG300W)]:
        files = sorted(need(root / folder).glob("*.pts"))
        if not files:
            raise MissingData(f"expected *.pts in {root / folder}; there is none")
        for file in files:
            points = read_pts(file, 68)
            five = geometry.five_of_68(points)
            name = file.relative_to(root).with_suffix("").as_posix()
            items.append(Marked(_picture_of(file), {"landmarks": points, "points5": five}, five, name))
    return Listed(f"300w/{split}", items, Marked.sample)


def read_pts(path: Path, n: int) -> Array:
    """A .pts file of n points -> (n, 2) in pixels, where the first pixel's center is (0, 0): the file counts
    from 1.
    """
    head, _, rest = need(path).read_text(encoding="utf-8").partition("{")
    if "n_points" not in head or "}" not in rest:
        raise MissingData(f"expected n_points and a list in braces in {path}; it has none")
    return pairs(rest.partition("}")[0].split(), n, path) - 1.0


def _picture_of(file: Path) -> Path:
    for suffix in (".jpg", ".png"):
        if (path := file.with_suffix(suffix)).is_file():
            return path
    raise MissingData(f"expected {file.with_suffix('.jpg')} (or .png) next to {file.name}; it is missing")


# WFLW (Wu et al., CVPR 2018)

WFLW_SUBSETS = (
    "largepose",
    "expression",
    "illumination",
    "makeup",
    "occlusion",
    "blur",
)  # the file's columns, in order
WFLW_FIVE = (96, 97, 54, 76, 82)  # pupils, nose tip, mouth corners


def wflw(root: Path, split: str) -> Listed[Marked]:
    """WFLW: `wflw98`, from ROOT/WFLW_annotations/list_98pt_rect_attr_train_test and ROOT/WFLW_images.

    Splits: train (7,500 faces), test (2,500), and six parts of the test: test_largepose (326),
    test_expression (314), test_illumination (698), test_makeup (206), test_occlusion (736), test_blur (773).
    A picture may show several faces.

    Raises:
        UsageError: no such split. MissingData: a file is missing, or a line of the list is not as it should
            be.
    """
    one_of("WFLW", split, ("train", "test", *(f"test_{s}" for s in WFLW_SUBSETS)))
    base, _, subset = split.partition("_")
    file = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{base}.txt"
    rows, images, items = lines(file), need(root / "WFLW_images"), []
    for number, row in enumerate(rows, 1):
        cells = row.split(maxsplit=206)
        if len(cells) != 207:
            raise MissingData(f"expected 207 columns in line {number} of {file}; it has {len(cells)}")
        if subset and cells[200 + WFLW_SUBSETS.index(subset)] != "1":
            continue
        points = pairs(cells[:196], 98, f"line {number} of {file}")
        shown = cells[206].strip()
        items.append(Marked(images / shown, {"wflw98": points}, points[list(WFLW_FIVE)], f"{shown}#{number}"))
    return Listed(f"wflw/{split}", items, Marked.sample)


# COFW (Burgos-Artizzu et al., ICCV 2013)

COFW_FIVE = (16, 17, 20, 22, 23)  # pupils, nose tip, mouth corners


def cofw(root: Path, split: str) -> Listed[int]:
    """COFW: `cofw29`, from ROOT/COFW_train_color.mat and ROOT/COFW_test_color.mat. Points as stored, as in
    published results.

    The pictures are inside the files (MATLAB 7.3, which is HDF5), some of them gray. Splits: train (1,345),
    test (507).

    Raises:
        UsageError: no such split. MissingData: a file is missing, has not its tables, or h5py is not
            installed.
    """
    path = need(root / f"COFW_{one_of('COFW', split, ('train', 'test'))}_color.mat")
    h5py, end = optional("h5py", path), "Tr" if split == "train" else "T"
    if not h5py.is_hdf5(path):
        raise MissingData(f"expected HDF5 in {path}; it is something else: download it again")
    with h5py.File(path, "r") as file:
        for table in (f"Is{end}", f"phis{end}"):
            if table not in file:
                raise MissingData(f"expected the table {table} in {path}; it is missing")
        # x of 29 points, then y, then whether something hides each; HDF5 has MATLAB's axes the other way
        # round
        rows = np.asarray(file[f"phis{end}"], np.float64).T
        count = file[f"Is{end}"].size
    if rows.shape != (count, 87):
        raise MissingData(
            f"expected 87 numbers for each of {count} pictures in phis{end} of {path}; its shape is"
            f" {rows.shape}"
        )
    points = rows[:, :58].reshape(count, 2, 29).transpose(0, 2, 1)
    return Listed(f"cofw/{split}", range(count), partial(_cofw, h5py, path, f"Is{end}", points))


def _cofw(h5py: Any, path: Path, table: str, points: Array, i: int) -> Sample:
    with h5py.File(path, "r") as file:
        cells = file[table]
        stored = np.asarray(
            file[cells[np.unravel_index(i, cells.shape)]]
        ).T  # (H, W, 3), or (H, W) where gray
    if stored.dtype != np.uint8:
        raise MissingData(f"expected pictures of uint8 in {path}; number {i} is {stored.dtype}")
    pixels = np.ascontiguousarray(stored) if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=2)
    return Sample(pixels, {"cofw29": points[i]}, points[i][list(COFW_FIVE)], f"{path.stem}-{i}")


# AFLW-19 (Koestinger et al., ICCV-W 2011; points revised by Zhu et al., CVPR 2016)

AFLW19_FIVE = (7, 10, 13, 15, 17)  # eye centers, nose tip, mouth corners


def aflw19(root: Path, split: str, *, train_faces: int = 20_000) -> Listed[Marked]:
    """AFLW with 19 points: `aflw19`, from ROOT/AFLWinfo_release.mat and the pictures in ROOT/data/flickr or
    ROOT/flickr.

    A label is {"points": (19, 2), "box": (4,) xyxy}: NME_diag divides by the box's diagonal. Points as
    stored, as in published results; they mark hidden places too. Where the file has no number, or (0, 0), the
    point is NaN: unmarked.

    Splits by the file's permutation: train (its first 20,000 faces), test (the other 4,386), test_frontal
    (1,314 of these, of which all 19 are visible).

    Raises:
        UsageError: no such split. MissingData: a file or table is missing, or scipy is not installed.
    """
    one_of("AFLW-19", split, ("train", "test", "test_frontal"))
    path = need(root / "AFLWinfo_release.mat")
    info = optional("scipy.io", path).loadmat(path)
    for table in ("nameList", "data", "bbox", "mask_new", "ra"):
        if table not in info:
            raise MissingData(f"expected the table {table} in {path}; it is missing")
    order = np.asarray(info["ra"], np.int64).ravel() - 1
    count = len(info["nameList"])
    if not np.array_equal(np.sort(order), np.arange(count)):
        raise MissingData(f"expected ra in {path} to number its {count} faces from 1; it does not")
    points = np.asarray(info["data"], np.float64).reshape(count, 2, 19).transpose(0, 2, 1)
    marked = np.isfinite(points).all(-1) & (points != 0).any(-1)
    points = np.where(marked[..., None], points, np.nan)
    boxes = np.asarray(info["bbox"], np.float64)[:, [0, 2, 1, 3]]  # stored as left, right, top, bottom
    chosen = order[:train_faces] if split == "train" else order[train_faces:]
    if split == "test_frontal":
        chosen = chosen[(np.asarray(info["mask_new"])[chosen] == 1).all(1)]
    folder = root / "flickr" if (root / "flickr").is_dir() else need(root / "data" / "flickr")
    items = []
    for i in chosen:
        shown = str(np.ravel(info["nameList"][i][0])[0])
        name = f"{shown}#{i + 1}"  # a picture may show several faces
        five = completed(points[i][list(AFLW19_FIVE)], name)
        items.append(Marked(folder / shown, {"aflw19": {"points": points[i], "box": boxes[i]}}, five, name))
    return Listed(f"aflw19/{split}", items, Marked.sample)


# MTFL (Zhang et al., ECCV 2014)


def mtfl(root: Path, split: str) -> Listed[Marked]:
    """MTFL: `points5`, three of `attributes`, and `pose5` (0 left profile ... 4 right profile).

    From ROOT/training.txt and ROOT/testing.txt, whose lines name the pictures below ROOT. Points as stored.
    Splits: train (10,000), test (2,995 pictures of AFLW).

    Raises:
        UsageError: no such split.
        MissingData: a list is missing, or one of its lines is not as it should be.
    """
    file = root / {"train": "training.txt", "test": "testing.txt"}[one_of("MTFL", split, ("train", "test"))]
    items = []
    for number, row in enumerate(lines(file), 1):
        cells = row.split()
        if len(cells) != 15:
            raise MissingData(f"expected 15 columns in line {number} of {file}; it has {len(cells)}")
        points = np.asarray(cells[1:11], np.float64).reshape(2, 5).T
        gender, smile, glasses, pose = (int(c) for c in cells[11:])
        facts = {
            "Male": int(gender == 1),
            "Smiling": int(smile == 1),
            "Eyeglasses": int(glasses == 1),
        }  # 2 says no
        name = cells[0].replace("\\", "/")  # written on Windows
        items.append(
            Marked(root / name, {"points5": points, "attributes": facts, "pose5": pose - 1}, points, name)
        )
    return Listed(f"mtfl/{split}", items, Marked.sample)

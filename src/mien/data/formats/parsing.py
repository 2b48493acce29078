"""Parsing sets in the layouts of their publishers: CelebAMask-HQ, LaPa and Helen.

Each reader is `name(root, split)`, as in `mien.data.formats.landmarks`. A label is a map (H, W) uint8 of
class indices in pixels of the sample's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.data.formats.common import need, one_of, picture
from mien.data.formats.landmarks import Listed, completed, lines, pairs
from mien.errors import MissingData, UsageError
from mien.geometry import TEMPLATES, Array
from mien.tasks.parsing import CELEBAMASK19
from mien.types import Pixels, Sample


def unpacked(root: Path, *names: str) -> Path:
    """The folder of the publisher's archive if `root` contains it; otherwise `root`."""
    return next((root / n for n in names if (root / n).is_dir()), root)


def numbers(path: Path) -> Pixels:
    """The numbers of a gray or palette PNG, as they are: (H, W) uint8.

    A photo's reader would turn a palette's numbers into colors.

    Raises:
        MissingData: no such file, or a picture of another kind.
    """
    with Image.open(need(path), formats=["PNG"]) as image:
        if image.mode not in ("L", "P"):
            raise MissingData(f"expected one number per pixel in {path}; its mode is {image.mode}")
        return np.asarray(image, np.uint8)


def _fitting(mask: Pixels, image: Pixels, path: Path) -> Pixels:
    if mask.shape != image.shape[:2]:
        raise MissingData(
            f"expected {path} to be of its picture's size {image.shape[:2]}; it is {mask.shape}"
        )
    return mask


# CelebAMask-HQ (Lee et al., CVPR 2020)

# The files' names for the classes 1..18 of CELEBAMASK19, where they differ.
_FILE_NAMES = {"eyeglass": "eye_g", "earring": "ear_r", "necklace": "neck_l"}
# Ours: fractions of the picture's side; the median of what a detector found in 720 of the set's pictures,
# made symmetric.
CELEBAMASK_FIVE = np.array(
    [(0.3788, 0.4808), (0.6212, 0.4808), (0.5, 0.6326), (0.3933, 0.7353), (0.6067, 0.7353)]
)
CELEBAMASK_SPLITS = ("train", "val", "test")  # 0, 1, 2 in CelebA's list


# From bottom to top, by class names: how the evaluation code of FaRL and Faceptor paints the parts.
CELEBAMASK_PAINTED = (
    "neck",
    "skin",
    "cloth",
    "l_ear",
    "r_ear",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "nose",
    "mouth",
    "l_lip",
    "u_lip",
    "hair",
    "eyeglass",
    "hat",
    "earring",
    "necklace",
)


def celebamask_hq(root: Path, split: str, *, order: str = "farl", full_picture: bool = False) -> Listed[int]:
    """CelebAMask-HQ: `parsing`, 19 classes in the official order, at 512 x 512; the pictures (1024) shrink to
    the masks.

    From ROOT/CelebA-HQ-img, ROOT/CelebAMask-HQ-mask-anno, ROOT/CelebA-HQ-to-CelebA-mapping.txt and CelebA's
    own ROOT/list_eval_partition.txt, which says the split: train (24,183), val (2,993), test (2,824).

    The set has no points. All its pictures have the same alignment, so all of them get the same five,
    `CELEBAMASK_FIVE`.

    Args:
        order: which part is on top where parts overlap. "farl": as in the evaluation code that published
            numbers come from (`CELEBAMASK_PAINTED`); "list": the later one in the set's own list of classes.
        full_picture: the five points are those of the "head" template, so that a "head" crop is the
            entire picture.

    Raises:
        UsageError: no such split or order. MissingData: a file is missing, or a picture has no mask.
    """
    if order not in ("farl", "list"):
        raise UsageError(f"no order {order!r}; use one of: farl, list")
    parts = CELEBAMASK_PAINTED if order == "farl" else CELEBAMASK19[1:]
    points = TEMPLATES["head"] if full_picture else CELEBAMASK_FIVE
    part_number = CELEBAMASK_SPLITS.index(one_of("CelebAMask-HQ", split, CELEBAMASK_SPLITS))
    root = unpacked(root, "CelebAMask-HQ")
    images, masks = need(root / "CelebA-HQ-img"), need(root / "CelebAMask-HQ-mask-anno")
    mapping, partition = root / "CelebA-HQ-to-CelebA-mapping.txt", root / "list_eval_partition.txt"
    part = {name: int(number) for name, number in (row.split() for row in lines(partition))}
    chosen = []
    for row in lines(mapping)[1:]:  # idx, orig_idx, orig_file
        idx, _, original = row.split()
        if original not in part:
            raise MissingData(f"expected {original} in {partition}; it is missing")
        if part[original] == part_number:
            chosen.append(int(idx))
    return Listed(f"celebamask-hq/{split}", chosen, partial(_celebamask, images, masks, parts, points))


def _celebamask(images: Path, masks: Path, parts: Sequence[str], points: Array, idx: int) -> Sample:
    image, mask = picture(images / f"{idx}.jpg"), composed(masks / f"{idx // 2000}", idx, parts)
    h, w = mask.shape
    if image.shape[:2] != mask.shape:
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return Sample(image, {"parsing": mask}, points * (w, h) - 0.5, str(idx))


def composed(folder: Path, idx: int, parts: Sequence[str] = CELEBAMASK_PAINTED) -> Pixels:
    """The masks of a picture's parts -> (H, W) uint8, `CELEBAMASK19`.

    Args:
        parts: class names from the bottom to the top: where parts overlap, the later one is seen.

    Raises:
        MissingData: no part has a mask, or two differ in size.
    """
    mask: Pixels | None = None
    for part in parts:
        path = folder / f"{idx:05d}_{_FILE_NAMES.get(part, part)}.png"
        if not path.is_file():  # only what the picture shows has a file
            continue
        seen = picture(path)[..., 0] > 0
        if mask is None:
            mask = np.zeros(seen.shape, np.uint8)
        if seen.shape != mask.shape:
            raise MissingData(
                f"expected {path} to be of the other parts' size {mask.shape}; it is {seen.shape}"
            )
        mask[seen] = CELEBAMASK19.index(part)
    if mask is None:
        raise MissingData(f"expected {folder / f'{idx:05d}_skin.png'}, or another part; all are missing")
    return mask


# LaPa (Liu et al., AAAI 2020)

LAPA_FIVE = (104, 105, 54, 84, 90)  # pupils, nose tip, mouth corners of the 106


def lapa(root: Path, split: str) -> Listed[str]:
    """LaPa: `lapa11`, from ROOT/{train,val,test}/{images,labels,landmarks}. Splits: train (18,176), val
    (2,000), test (2,000).

    Raises:
        UsageError: no such split. MissingData: a folder or file is missing, or not as it should be.
    """
    folder = need(unpacked(root, "LaPa") / one_of("LaPa", split, ("train", "val", "test")))
    names = sorted(p.stem for p in need(folder / "images").glob("*.jpg"))
    if not names:
        raise MissingData(f"expected *.jpg in {folder / 'images'}; there is none")
    for other in ("labels", "landmarks"):
        need(folder / other)
    return Listed(f"lapa/{split}", names, partial(_lapa, folder))


def _lapa(folder: Path, name: str) -> Sample:
    image, path = picture(folder / "images" / f"{name}.jpg"), folder / "labels" / f"{name}.png"
    file = folder / "landmarks" / f"{name}.txt"
    count, *rest = need(file).read_text(encoding="utf-8").split()
    points = pairs(rest, int(count), file)
    if len(points) != 106:
        raise MissingData(f"expected 106 points in {file}; it has {len(points)}")
    return Sample(image, {"lapa11": _fitting(numbers(path), image, path)}, points[list(LAPA_FIVE)], name)


# Helen with parsing labels (Le et al., ECCV 2012; labels by Smith et al., CVPR 2013)

HELEN_LISTS = {"train": "exemplars.txt", "val": "tuning.txt", "test": "testing.txt"}
# background, skin, brow (2), eye (2), nose, upper lip, inner mouth, lower lip, hair: 11 maps -> 9 classes
HELEN_MERGED = np.array([0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8], np.uint8)
_HELEN_EYES, _HELEN_MOUTH = (4, 5), (7, 8, 9)


def helen(root: Path, split: str) -> Listed[str]:
    """Helen: `helen9`, from ROOT/images/NAME.jpg and ROOT/labels/NAME/NAME_lbl00.png ... lbl10.png, a map a
    class.

    Splits: train (ROOT/exemplars.txt), val (tuning.txt), test (testing.txt), lines "number , name". A pixel
    is of the likeliest of the 11 classes; then left and right brows, and eyes, become one.

    Raises:
        UsageError: no such split. MissingData: a file is missing, or not as it should be.
    """
    root = unpacked(root, "SmithCVPR2013_dataset_original", "SmithCVPR2013_dataset_resized")
    file = root / HELEN_LISTS[one_of("Helen", split, HELEN_LISTS)]
    names = []
    for number, row in enumerate(lines(file), 1):
        _, comma, name = row.partition(",")
        if not comma:
            raise MissingData(f'expected "number , name" in line {number} of {file}; it is {row!r}')
        names.append(name.strip())
    for folder in ("images", "labels"):
        need(root / folder)
    return Listed(f"helen/{split}", names, partial(_helen, root))


def _helen(root: Path, name: str) -> Sample:
    image, folder = picture(root / "images" / f"{name}.jpg"), root / "labels" / name
    paths = [folder / f"{name}_lbl{k:02d}.png" for k in range(len(HELEN_MERGED))]
    classes = np.stack([_fitting(numbers(path), image, path) for path in paths]).argmax(0)
    return Sample(image, {"helen9": HELEN_MERGED[classes]}, five_of_parts(classes, name), name)


def five_of_parts(classes: npt.NDArray[np.intp], name: str) -> Array:
    """A map of Helen's 11 classes -> five points (5, 2).

    Ours: the set has no points, so they follow from the parts: the middle of each eye, and of lips and inner
    mouth the ends along the line of the eyes. The nose tip is the template's, brought to the other four.

    Raises:
        MissingData: the picture has neither both eyes nor the mouth.
    """
    five = np.full((5, 2), np.nan)
    eyes = [_places(classes, (k,)).mean(0) for k in _HELEN_EYES if (classes == k).any()]
    if len(eyes) == 2:
        five[:2] = sorted(eyes, key=lambda p: float(p[0]))
    across = five[1] - five[0] if len(eyes) == 2 else np.array([1.0, 0.0])
    mouth = _places(classes, _HELEN_MOUTH)
    if len(mouth):
        along = mouth @ across
        five[3], five[4] = mouth[along.argmin()], mouth[along.argmax()]
        if len(eyes) == 1:  # whose eye it is shows from the side of the mouth's middle
            five[int(eyes[0][0] > five[3:, 0].mean())] = eyes[0]
    return completed(five, name)


def _places(classes: npt.NDArray[np.intp], which: tuple[int, ...]) -> Array:
    """The pixels of these classes, (n, 2), x then y."""
    return np.argwhere(np.isin(classes, which))[:, ::-1].astype(np.float64)

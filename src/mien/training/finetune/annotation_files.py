"""Points and masks of annotation tools: COCO JSON, CVAT for images XML, and folders of PNG masks.

Coordinates are pixels of the upright picture, from its top left corner: the center of the first pixel is at
0.5, 0.5 in a COCO or CVAT file, and at 0, 0 inside of mien. Tables with columns x1, y1, ... are taken as
they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.errors import UsageError
from mien.io.paths import EXTENSIONS
from mien.types import Array, Pixels

KINDS = ("points", "masks")
UNKNOWN = 255  # of a mask: a pixel that nobody labeled
MAX_CLASSES = 255
MAX_SIDE = 30_000  # pixels of a mask's side
BACKGROUND = "background"
CLASS_NAMES = "classes.txt"


@dataclass(frozen=True)
class MaskLabel:
    """Where the mask of a picture is.

    Attributes:
        path: a PNG with one class number per pixel; empty where there are shapes.
        shapes: (class number, polygon of (n, 2) or runs) each, drawn in this order.
        size: (width, height) that the shapes are for; (0, 0) for a PNG.
        white: the class that 255 stands for in the PNG; `UNKNOWN` where it is unknown.
    """

    path: str = ""
    shapes: tuple[tuple[int, Any], ...] = ()
    size: tuple[int, int] = (0, 0)
    white: int = UNKNOWN

    def array(self, size: tuple[int, int], classes: int) -> Pixels:
        """(height, width) uint8 class numbers; 255 is unknown.

        Args:
            size: (width, height) of the picture.
            classes: number of classes.

        Raises:
            UsageError: the mask cannot be read, has another size, or an unknown class.
        """
        if self.path:
            mask = read_png(Path(self.path))
            if self.white != UNKNOWN:
                mask = np.where(mask == UNKNOWN, np.uint8(self.white), mask)
        else:
            w, h = self.size if self.size != (0, 0) else size
            mask = np.zeros((h, w), np.uint8)
            for number, shape in self.shapes:
                if isinstance(shape, Runs):
                    shape.paint(mask, number)
                else:
                    fill(mask, np.asarray(shape, np.float64), number)
        if mask.shape != (size[1], size[0]):
            raise UsageError(
                f"the mask {self.path or 'of the annotations'} is {mask.shape[1]} x {mask.shape[0]} and its"
                f" picture {size[0]} x {size[1]}; they must agree"
            )
        strange = mask[(mask >= classes) & (mask != UNKNOWN)]
        if strange.size:
            raise UsageError(
                f"{self.path} holds the class {int(strange[0])}; there are 0 to {classes - 1}, and {UNKNOWN}"
                f" for unknown. Name all classes in {CLASS_NAMES}, one per line"
            )
        return mask


@dataclass(frozen=True)
class Runs:
    """Run lengths of a binary mask: background, foreground, background, ...

    Attributes:
        counts: pixels of each run.
        size: (width, height).
        by_column: down the columns, as in COCO; else along the rows, as in CVAT.
        corner: (x, y) of the mask in the picture.
    """

    counts: tuple[int, ...]
    size: tuple[int, int]
    by_column: bool = True
    corner: tuple[int, int] = (0, 0)

    def array(self) -> npt.NDArray[np.bool_]:
        """(height, width)."""
        w, h = self.size
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return flat.reshape(w, h).T if self.by_column else flat.reshape(h, w)

    def paint(self, mask: Pixels, number: int) -> None:
        """Write a class number where the mask is set."""
        (x, y), (w, h) = self.corner, self.size
        place = mask[max(y, 0) : y + h, max(x, 0) : x + w]
        on = self.array()[max(-y, 0) :, max(-x, 0) :][: place.shape[0], : place.shape[1]]
        place[on] = number


def runs_of(counts: Sequence[int], size: tuple[int, int], where: str, **more: Any) -> Runs:
    """Checked run lengths.

    Raises:
        UsageError: they do not cover the mask.
    """
    w, h = size
    if not (0 < w <= MAX_SIDE and 0 < h <= MAX_SIDE):
        raise UsageError(f"{where}: a mask of {w} x {h} pixels; its size is 1 to {MAX_SIDE} each way")
    if any(n < 0 for n in counts) or sum(counts) != w * h:
        raise UsageError(
            f"{where}: the runs cover {sum(counts)} pixels, and the mask has {w} x {h}; export the"
            " annotations again"
        )
    return Runs(tuple(counts), size, **more)


def decode_counts(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits per character, lowest first, from the fourth on as differences
    from the run before the last one.

    Raises:
        ValueError: characters that are none of the format.
    """
    counts, at = list[int](), 0
    while at < len(text):
        value = shift = 0
        while True:
            if at >= len(text) or not 0 <= (c := ord(text[at]) - 48) < 64:
                raise ValueError("the text of the runs is cut off, or not COCO's")
            value |= (c & 31) << shift
            at, shift = at + 1, shift + 5
            if not c & 32:
                break
        if c & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def fill(mask: Pixels, polygon: Array, number: int) -> None:
    """Write a class number where a pixel's center is inside of a polygon (n, 2), by the even-odd rule.

    Coordinates count from the picture's corner.
    """
    (x, y), (x2, y2) = polygon.T, np.roll(polygon, -1, 0).T
    h, w = mask.shape
    first, last = (int(np.clip(math.ceil(v - 0.5), 0, h)) for v in (y.min(), y.max()))
    for row in range(first, last):
        crosses = (y <= row + 0.5) != (y2 <= row + 0.5)
        at = np.sort(x[crosses] + (row + 0.5 - y[crosses]) * ((x2 - x)[crosses] / (y2 - y)[crosses]))
        for a, b in np.clip(np.ceil(at - 0.5), 0, w).astype(int).reshape(-1, 2):
            mask[row, a:b] = number


def read_png(path: Path) -> Pixels:
    """A label map (H, W) uint8: the numbers as they are stored, palette or gray.

    Raises:
        UsageError: it cannot be read, or has colors.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, mask = image.mode, np.asarray(image)
    except OSError as e:
        raise UsageError(f"{path} is no PNG that can be read ({e}); save the mask again") from e
    if mode == "1":
        return np.where(mask, np.uint8(UNKNOWN), np.uint8(0))
    if mode not in ("L", "P"):
        raise UsageError(
            f"{path} has the mode {mode}; a mask is an 8-bit gray or palette PNG with one class number per"
            " pixel"
        )
    return np.asarray(mask, np.uint8)


# --- What a file says


@dataclass(frozen=True)
class Item:
    """A labeled picture of an annotation file.

    Attributes:
        path: of the picture.
        name: for people.
        label: (n, 2) points or a `MaskLabel`.
        split: "train", "val", "test", or another word of the file, or empty.
        person: who is shown, or empty.
    """

    path: str
    name: str
    label: Any
    split: str = ""
    person: str = ""


@dataclass
class Annotations:
    """What an annotation file says.

    Attributes:
        kind: "points" or "masks".
        items: the labeled pictures.
        names: points or mask classes, in order.
        why: how the kind was found, for people.
        problems: what was left out, each with its fix.
    """

    kind: str
    items: list[Item]
    names: tuple[str, ...]
    why: str
    problems: list[str]


def read_coco(path: Path, kind: str | None, columns: Sequence[str] = ()) -> Annotations:
    """Keypoints, or polygons and runs, of a COCO file.

    Args:
        kind: "points" or "masks"; None: points where annotations have keypoints.
        columns: names of the categories that are used; none: all.

    Raises:
        UsageError: the file is damaged, or no task can be made of it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images = {i["id"]: i for i in content["images"]}
        notes, categories = list(content["annotations"]), {c["id"]: c for c in content["categories"]}
        known = [str(c["name"]) for c in categories.values()]
        if unknown := [c for c in columns if c not in known]:
            raise UsageError(f"{path} has no category {unknown[0]!r}; it has: {', '.join(known)}")
        notes = [a for a in notes if not columns or str(categories[a["category_id"]]["name"]) in set(columns)]
        if any(a["image_id"] not in images for a in notes):
            raise UsageError(f"{path} has annotations of pictures that it does not list; export it again")
        has_points = any(a.get("keypoints") for a in notes)
        if kind == "points" or (kind is None and has_points):
            return _coco_points(path, images, notes, categories)
        return _coco_masks(path, images, notes, categories)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        raise UsageError(
            f"{path} is no COCO file that can be read ({type(e).__name__}: {e}); it has the lists images,"
            " annotations and categories"
        ) from e


Many = Mapping[Any, Mapping[str, Any]]


def _coco_points(
    path: Path, images: Many, notes: Sequence[Mapping[str, Any]], categories: Many
) -> Annotations:
    notes = [a for a in notes if a.get("keypoints")]
    used = sorted({a["category_id"] for a in notes}, key=str)
    if not used:
        raise UsageError(f"{path} has no annotations with keypoints; give --kind masks if it holds masks")
    if len(used) > 1:
        words = ", ".join(str(categories[c]["name"]) for c in used)
        raise UsageError(f"{path} has keypoints of several categories: {words}; name one by --columns")
    names = tuple(map(str, categories[used[0]].get("keypoints") or ()))
    count = len(notes[0]["keypoints"]) // 3
    names = names or tuple(map(str, range(1, count + 1)))
    found: dict[Any, list[Array]] = {}
    for a in notes:
        rows = np.asarray(a["keypoints"], np.float64).reshape(-1, 3)
        if len(rows) != len(names):
            raise UsageError(
                f"{path}: the annotation {a.get('id')} has {len(rows)} keypoints, and its category"
                f" {len(names)}; correct it"
            )
        found.setdefault(a["image_id"], []).append(np.where(rows[:, 2:] > 0, rows[:, :2] - 0.5, math.nan))
    items, problems = list[Item](), list[str]()
    _one_face(found, lambda i: str(images[i]["file_name"]), problems)
    for i, faces in found.items():
        items.append(_item(path, str(images[i]["file_name"]), faces[0]))
    return Annotations("points", items, names, "the file has keypoints", problems)


def _one_face(found: dict[Any, list[Any]], name: Callable[[Any], str], problems: list[str]) -> None:
    """Leave out pictures with points of several faces, and those with none that is visible."""
    many = [i for i, faces in found.items() if len(faces) > 1]
    empty = [i for i, faces in found.items() if len(faces) == 1 and not np.isfinite(faces[0]).all(1).any()]
    if many:
        problems.append(
            f"{len(many)} pictures have points of several faces, such as {name(many[0])}; they are left out,"
            " cut the faces out"
        )
    if empty:
        problems.append(f"{len(empty)} pictures have no visible point, such as {name(empty[0])}; left out")
    for i in (*many, *empty):
        del found[i]


def _coco_masks(
    path: Path, images: Many, notes: Sequence[Mapping[str, Any]], categories: Many
) -> Annotations:
    used = [c for c in categories if any(a["category_id"] == c and a.get("segmentation") for a in notes)]
    if not used:
        raise UsageError(f"{path} has neither keypoints nor segmentations; export one of them")
    names = (BACKGROUND, *(str(categories[c]["name"]) for c in used if categories[c]["name"] != BACKGROUND))
    shapes: dict[Any, list[tuple[int, Any]]] = {}
    for a in notes:
        if not (given := a.get("segmentation")):
            continue
        number, where = (
            names.index(str(categories[a["category_id"]]["name"])),
            f"{path}, annotation {a.get('id')}",
        )
        here = shapes.setdefault(a["image_id"], [])
        if isinstance(given, Mapping):
            h, w = (int(n) for n in given["size"])
            counts = given["counts"]
            counts = decode_counts(counts) if isinstance(counts, str) else [int(n) for n in counts]
            here.append((number, runs_of(counts, (w, h), where)))
        else:
            here += [(number, _polygon(p, where)) for p in given]
    items = list[Item]()
    for i, drawn in shapes.items():
        size = int(images[i].get("width", 0)), int(images[i].get("height", 0))
        items.append(_item(path, str(images[i]["file_name"]), MaskLabel(shapes=tuple(drawn), size=size)))
    return Annotations("masks", items, names, "the file has segmentations", [])


def _polygon(numbers: Any, where: str) -> tuple[tuple[float, float], ...]:
    points = np.asarray(numbers, np.float64).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise UsageError(f"{where}: a polygon needs three points or more; correct or remove it")
    return tuple((float(x), float(y)) for x, y in points)


def _item(path: Path, name: str, label: Any, split: str = "") -> Item:
    """The picture next to the file, or in a folder `images` next to it."""
    places = [path.parent / name, path.parent / "images" / name]
    found = next((p for p in places if p.is_file()), places[0])
    return Item(str(found), name, label, split)


def read_cvat(path: Path, kind: str | None, columns: Sequence[str] = ()) -> Annotations:
    """Points, skeletons, polygons or masks of a file in the format "CVAT for images".

    Args:
        kind: "points" or "masks"; None: points where there are any.
        columns: labels that are used; none: all.

    Raises:
        UsageError: the file is damaged, or no task can be made of it.
    """
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise UsageError(f"{path} declares a document type or entities; export it from CVAT again")
    try:
        root = ElementTree.fromstring(text)
        pictures = list(root.iter("image"))
        labels = {str(e.get("label")) for p in pictures for e in p}
        if unknown := [c for c in columns if c not in labels]:
            raise UsageError(f"{path} has no label {unknown[0]!r}; it has: {', '.join(sorted(labels))}")
        wanted = set(columns) or labels
        has_points = any(p.find("points") is not None or p.find("skeleton") is not None for p in pictures)
        if kind == "points" or (kind is None and has_points):
            return _cvat_points(path, pictures, wanted)
        return _cvat_masks(path, pictures, wanted)
    except (ElementTree.ParseError, KeyError, TypeError, ValueError) as e:
        raise UsageError(
            f"{path} is no file of the format 'CVAT for images' ({type(e).__name__}: {e}); export it again"
        ) from e


def _pairs(text: str | None) -> Array:
    return np.array(
        [[float(v) for v in pair.split(",")] for pair in (text or "").split(";") if pair], np.float64
    )


def _cvat_points(path: Path, pictures: Sequence[ElementTree.Element], wanted: set[str]) -> Annotations:
    order: dict[str, None] = {}
    faces: dict[int, list[dict[str, Array]]] = {}
    for i, picture in enumerate(pictures):
        single: dict[str, Array] = {}
        for element in picture:
            if element.get("label") not in wanted:
                continue
            if element.tag == "skeleton":
                parts = {str(p.get("label")): _pairs(p.get("points"))[0] for p in element.iter("points")
                    if p.get("outside") != "1"}  # fmt: skip
                order |= dict.fromkeys(str(p.get("label")) for p in element.iter("points"))
                faces.setdefault(i, []).append(parts)
            elif element.tag == "points":
                places = _pairs(element.get("points"))
                if len(places) == 1:
                    label = str(element.get("label"))
                    if label in single:
                        faces.setdefault(i, []).append({label: places[0]})  # a second face
                    single.setdefault(label, places[0])
                else:
                    faces.setdefault(i, []).append({str(k): p for k, p in enumerate(places, 1)})
                    order |= dict.fromkeys(str(k) for k in range(1, len(places) + 1))
        if single:
            faces.setdefault(i, []).insert(0, single)
            order |= dict.fromkeys(single)
    if not order:
        raise UsageError(f"{path} has no points; give --kind masks if it holds polygons or masks")
    names = tuple(order) if not all(n.isdigit() for n in order) else tuple(sorted(order, key=int))
    blank = np.full(2, math.nan)
    found = {
        i: [np.stack([f.get(n, blank + 0.5) - 0.5 for n in names]) for f in some] for i, some in faces.items()
    }
    problems = list[str]()
    _one_face(found, lambda i: str(pictures[i].get("name")), problems)
    items = [
        _item(path, str(pictures[i].get("name")), some[0], str(pictures[i].get("subset") or ""))
        for i, some in found.items()
    ]
    return Annotations("points", items, names, "the file has points", problems)


def _cvat_masks(path: Path, pictures: Sequence[ElementTree.Element], wanted: set[str]) -> Annotations:
    shapes = [
        (p, e) for p in pictures for e in p if e.tag in ("polygon", "mask") and e.get("label") in wanted
    ]
    if not shapes:
        raise UsageError(
            f"{path} has no points, polygons or masks of these labels; draw some, or export again"
        )
    used = dict.fromkeys(str(e.get("label")) for _, e in shapes)
    names = (BACKGROUND, *(n for n in used if n != BACKGROUND))
    items = list[Item]()
    for picture in pictures:
        drawn, where = list[tuple[int, Any]](), f"{path}, picture {picture.get('name')}"
        here = [e for p, e in shapes if p is picture]
        for e in sorted(here, key=lambda e: int(e.get("z_order", "0"))):
            number = names.index(str(e.get("label")))
            if e.tag == "polygon":
                drawn.append((number, _polygon(_pairs(e.get("points")), where)))
            else:
                counts = [int(n) for n in str(e.get("rle")).split(",")]
                size, corner = (
                    (int(e.attrib["width"]), int(e.attrib["height"])),
                    (
                        int(e.attrib["left"]),
                        int(e.attrib["top"]),
                    ),
                )
                drawn.append((number, runs_of(counts, size, where, by_column=False, corner=corner)))
        if drawn:
            size = int(picture.get("width", "0")), int(picture.get("height", "0"))
            label = MaskLabel(shapes=tuple(drawn), size=size)
            items.append(_item(path, str(picture.get("name")), label, str(picture.get("subset") or "")))
    return Annotations("masks", items, names, "the file has polygons or masks", [])


def is_mask_folder(folder: Path) -> bool:
    """Whether there are folders `images` and `masks` inside, with PNG masks."""
    return (folder / "images").is_dir() and any((folder / "masks").glob("**/*.png"))


def read_mask_folder(folder: Path) -> Annotations:
    """FOLDER/images/a.jpg with FOLDER/masks/a.png; the class names are in FOLDER/classes.txt, one per line.

    Raises:
        UsageError: no pairs, or a mask that is no mask.
    """
    pictures = {
        p.relative_to(folder / "images").with_suffix("").as_posix(): p
        for p in sorted((folder / "images").rglob("*"))
        if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
    }
    masks = {
        p.relative_to(folder / "masks").with_suffix("").as_posix(): p
        for p in sorted((folder / "masks").rglob("*.png"))
    }
    both = sorted(pictures.keys() & masks.keys())
    if not both:
        raise UsageError(
            f"{folder}: no picture of images/ has a mask of its name in masks/, such as a.png for a.jpg"
        )
    problems = list[str]()
    for what, left in (("pictures have no mask", pictures.keys() - masks.keys()),
            ("masks have no picture", masks.keys() - pictures.keys())):  # fmt: skip
        if left:
            problems.append(f"{len(left)} {what}, such as {min(left)}; they are left out")
    items = [
        Item(str(pictures[n]), str(pictures[n].relative_to(folder)), MaskLabel(path=str(masks[n])))
        for n in both
    ]
    found = Annotations("masks", items, (), "the folder has images and masks", problems)
    name_classes(found, folder)
    found.items = [i for i in found.items if i.label is not None]
    return found


def name_classes(found: Annotations, folder: Path) -> None:
    """Names of the classes of PNG masks: from `classes.txt` in the folder, else by number.

    Masks of 0 and 255 alone have two classes. Masks that cannot be read lose their label.

    Raises:
        UsageError: no mask can be read, or the classes and their names do not fit.
    """
    classes, wrong, items = set[int](), list[UsageError](), list[Item]()
    for item in found.items:
        try:
            classes.update(np.unique(read_png(Path(item.label.path))).tolist())
            items.append(item)
        except UsageError as e:
            wrong.append(e)
            items.append(replace(item, label=None))
    if len(wrong) == len(items):
        raise wrong[0]
    if wrong:
        found.problems.append(f"{len(wrong)} masks cannot be used and are left out: {wrong[0]}")
    found.items, used = items, sorted(classes)
    listed = folder / CLASS_NAMES
    if listed.is_file():
        names = tuple(n.strip() for n in listed.read_text(encoding="utf-8-sig").splitlines() if n.strip())
    elif set(used) == {0, UNKNOWN}:
        names = (BACKGROUND, "inside")
    else:
        highest = max((u for u in used if u != UNKNOWN), default=0)
        names = (BACKGROUND, *(f"class{i}" for i in range(1, highest + 1)))
    if len(set(names)) < len(names) or not 2 <= len(names) <= MAX_CLASSES:
        raise UsageError(
            f"the masks have the classes {', '.join(map(str, used))}, and the names are {', '.join(names)};"
            f" masks have 2 to {MAX_CLASSES} classes with different names, and a class number per pixel"
        )
    if set(used) == {0, UNKNOWN} and len(names) == 2:
        found.items = [i if i.label is None else replace(i, label=replace(i.label, white=1)) for i in items]
    found.names = names

"""A user's own labels: a table with one row per picture, or one folder per class.

Columns of a table (CSV or Parquet): all but the picture are optional, and an empty cell is an unknown label.

| column | content |
|---|---|
| `path`, or `image` | the picture's path from the table's folder; in Parquet also the bytes of its file |
| `name`, `split` | the picture's name (default: the path), and the split of the row |
| `points5`, or `px1`, `py1` ... `py5` | eye, eye, nose, mouth corner, mouth corner, left to right, pixels |
| `age` | years, 0..120 |
| `expression`, `expression7` | a class by name ("happiness") or by its number in the task's order |
| `identity512` | a person's number, from 0 |
| `Male`, `Smiling` ... | any of CelebA's forty attributes: 1 or 0, yes or no, true or false |
| `parsing` | the path of a PNG with one class number per pixel (255 is unknown), of the picture's size |
| `x1`, `y1` ... `x68`, `y68` | 68 landmarks in iBUG's order, in pixels |

Faces are aligned by their five points. If the table has none, they come from the 68 landmarks or from a
points table (`points=`, see `mien.data.formats.attributes`). Pictures that are crops of a known template need
none (`template=`).
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mien import geometry
from mien.data.formats.attributes import Array, Table, bad, found_points, number
from mien.data.formats.common import need
from mien.errors import UsageError
from mien.io.image import load_photo
from mien.io.paths import EXTENSIONS
from mien.tasks.attributes import CELEBA40
from mien.tasks.choice import EXPRESSION, EXPRESSION7, ChoiceTask
from mien.tasks.parsing import CELEBAMASK19, UNKNOWN
from mien.types import Pixels, Sample

_CHOICES: dict[str, ChoiceTask] = {t.name: t for t in (EXPRESSION, EXPRESSION7)}
_YES_NO = {"1": 1, "1.0": 1, "yes": 1, "true": 1, "0": 0, "0.0": 0, "no": 0, "false": 0}
_FIVE = [f"p{axis}{i}" for i in range(1, 6) for axis in "xy"]
_MARKS = [f"{axis}{i}" for i in range(1, 69) for axis in "xy"]
_COLUMNS = (
    "path",
    "image",
    "name",
    "split",
    "points5",
    "age",
    *_CHOICES,
    "identity512",
    "parsing",
    *_FIVE,
    *_MARKS,
    *CELEBA40,
)

Cells = Mapping[str, str]


class CustomTable(Table):
    """Pictures with a user's labels.

    Attributes:
        classes: names of a folder's classes, by number.
        masks: paths of the label maps.
    """

    classes: tuple[str, ...] = ()
    masks: Sequence[Path | None] = ()

    def __getitem__(self, i: int) -> Sample:
        sample = super().__getitem__(i)
        mask = self.masks[i] if self.masks else None
        if mask is None:
            return sample
        return dataclasses.replace(
            sample, labels={**sample.labels, "parsing": _mask(mask, sample.image.shape[:2])}
        )


def _mask(path: Path, shape: tuple[int, ...]) -> Pixels:
    """A label map (H, W) uint8: the numbers as they are stored, palette or gray."""
    try:
        with Image.open(need(path), formats=["PNG"]) as image:
            mode, mask = image.mode, np.asarray(image)
    except OSError as e:
        raise UsageError(f"{path} is not a PNG that can be read ({e}); save the mask again") from e
    if mode not in ("L", "P"):
        raise UsageError(
            f"{path} has the mode {mode}; a mask is an 8-bit gray or palette PNG with one class per pixel"
        )
    if mask.shape != shape:
        raise UsageError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} and its picture {shape[1]} x {shape[0]}; they must"
            " agree"
        )
    strange = mask[(mask >= len(CELEBAMASK19)) & (mask != UNKNOWN)]
    if strange.size:
        raise UsageError(
            f"{path} holds the class {int(strange[0])}; there are 0..{len(CELEBAMASK19) - 1}, and {UNKNOWN}"
            " for unknown"
        )
    return mask


def _cell(value: object) -> str:
    """A cell as text; "" for an empty value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return " ".join(map(str, np.asarray(value).reshape(-1).tolist()))
    return str(value).strip()


def _read(path: Path) -> tuple[list[str], list[dict[str, str]], Any]:
    """(columns, rows as text, the column `image` of a Parquet file or None)."""
    if need(path).suffix == ".parquet":
        columns = list(pq.read_schema(path).names)
        rows = (
            pq.read_table(path, columns=[c for c in columns if c != "image"]).to_pylist()
            if columns != ["image"]
            else []
        )
        images = pq.read_table(path, columns=["image"])["image"] if "image" in columns else None
        if images is not None and not rows:
            rows = [{} for _ in range(len(images))]
        return columns, [{k: _cell(v) for k, v in row.items()} for row in rows], images
    if path.suffix != ".csv":
        raise UsageError(f"{path} has the extension {path.suffix!r}; a table is .csv or .parquet")
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
    columns = [c.strip() for c in lines[0]] if lines else []
    for i, line in enumerate(lines[1:], 1):
        if len(line) != len(columns):
            raise bad(path, i, line[0], f"begins a row of {len(line)} cells; the header has {len(columns)}")
    return columns, [dict(zip(columns, map(str.strip, line), strict=True)) for line in lines[1:]], None


def _check_columns(path: Path, columns: Sequence[str], ignore: Sequence[str]) -> None:
    for column in columns:
        if column not in _COLUMNS and column not in ignore:
            close = difflib.get_close_matches(column, _COLUMNS, 1)
            guess = f"; is it {close[0]!r}?" if close else ";"
            raise UsageError(
                f"{path} has a column {column!r} that is not a label{guess} Rename it, or leave it out with"
                f" ignore=[{column!r}]"
            )
    if len(set(columns)) != len(columns):
        raise UsageError(f"{path} has a column twice: {next(c for c in columns if columns.count(c) > 1)!r}")
    if ("path" in columns) == ("image" in columns):
        raise UsageError(f"{path} needs one of the columns 'path' and 'image'; it has: {', '.join(columns)}")
    for group in (_FIVE, _MARKS):
        have = [c for c in group if c in columns]
        if have and len(have) != len(group):
            lacks = next(c for c in group if c not in columns)
            raise UsageError(
                f"{path} has {have[0]!r} and lacks {lacks!r}; {group[0]!r} to {group[-1]!r} go together"
            )


def _integer(path: Path, row: int, column: str, text: str, high: float) -> int:
    value = number(path, row, text, 0, high)
    if not value.is_integer():
        raise bad(path, row, text, f"in column {column} is not a whole number")
    return int(value)


def _places(path: Path, row: int, cells: Cells, columns: list[str]) -> Array | None:
    """(n, 2) from the columns of a group, all filled or none."""
    texts = [cells.get(c, "") for c in columns]
    if not any(texts):
        return None
    if not all(texts):
        raise bad(
            path,
            row,
            "",
            f"in column {columns[texts.index('')]} lacks a number that the other points of the row have",
        )
    return np.array([number(path, row, t, -1e6, 1e6) for t in texts]).reshape(-1, 2)


def _five(path: Path, row: int, cells: Cells) -> Array | None:
    """(5, 2) from `points5` or its ten columns or the 68 points, in that order, or None."""
    if text := cells.get("points5", ""):
        texts = text.replace(";", " ").split()
        if len(texts) != 10:
            raise bad(
                path, row, text, f"in column points5 holds {len(texts)} numbers; x y of five points are 10"
            )
        return np.array([number(path, row, t, -1e6, 1e6) for t in texts]).reshape(5, 2)
    five = _places(path, row, cells, _FIVE)
    marks = _places(path, row, cells, _MARKS) if five is None else None
    return five if marks is None else geometry.five_of_68(marks)


def _labels(path: Path, row: int, cells: Cells) -> dict[str, Any]:
    """Labels of a row by task, without `parsing`, whose picture is read on access."""
    labels: dict[str, Any] = {}
    if text := cells.get("age", ""):
        labels["age"] = number(path, row, text, 0, 120)
    for name, task in _CHOICES.items():
        if text := cells.get(name, ""):
            if text in task.names:
                labels[name] = task.names.index(text)
            elif text[0].isalpha():
                raise bad(
                    path, row, text, f"in column {name} is not a class; there are: {', '.join(task.names)}"
                )
            else:
                labels[name] = _integer(path, row, name, text, len(task.names) - 1)
    if text := cells.get("identity512", ""):
        labels["identity512"] = _integer(path, row, "identity512", text, 2**31)
    facts = {c: cells[c] for c in CELEBA40 if cells.get(c, "")}
    for column, text in facts.items():
        if text.casefold() not in _YES_NO:
            raise bad(
                path, row, text, f"in column {column} is neither 1 nor 0; leave it empty where it is unknown"
            )
    if facts:
        labels["attributes"] = {c: _YES_NO[t.casefold()] for c, t in facts.items()}
    marks = _places(path, row, cells, _MARKS)
    return labels if marks is None else labels | {"landmarks": marks}


def _template(name: str | None) -> Array | None:
    if name is not None and name not in geometry.TEMPLATES:
        raise UsageError(f"no template {name!r}; there are: {', '.join(geometry.TEMPLATES)}")
    return None if name is None else geometry.TEMPLATES[name]


def table(
    path: Path,
    split: str = "",
    *,
    template: str | None = None,
    points: Path | None = None,
    ignore: Sequence[str] = (),
) -> CustomTable:
    """A CSV or Parquet file of a user's labels; the module's docstring lists the columns.

    Args:
        path: FILE.csv or FILE.parquet.
        split: only rows with this value in the column `split`; "" for all rows.
        template: pictures without points are crops of this template ("head", "arcface").
        points: a points table by the pictures' names.
        ignore: columns that are no labels.

    Raises:
        MissingData: the table, a picture or a mask is missing.
        UsageError: an unknown column or a wrong value, with file, row (from 1, without the header) and value.
    """
    path = Path(path)
    columns, rows, images = _read(path)
    _check_columns(path, columns, ignore)
    if split and "split" not in columns:
        raise UsageError(f"{path} has no column 'split' to choose {split!r} by")
    chosen = [(i, cells) for i, cells in enumerate(rows, 1) if not split or cells["split"] == split]
    if split and not chosen:
        raise UsageError(
            f"{path} has no split {split!r}; there are: {', '.join(sorted({c['split'] for c in rows}))}"
        )
    labels, five, names = list[dict[str, Any]](), list[Array | None](), list[str]()
    for row, cells in chosen:
        if images is None:
            if not cells["path"]:
                raise bad(path, row, "", "in column path names no picture")
            need(path.parent / cells["path"])
        names.append(cells.get("name") or cells.get("path") or f"{row}")
        labels.append(_labels(path, row, cells))
        five.append(_five(path, row, cells))
    if len(set(names)) != len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise bad(
            path,
            chosen[len(names) - 1 - names[::-1].index(twice)][0],
            twice,
            "is the name of an earlier row too",
        )

    def picture(i: int) -> Pixels:
        row, cells = chosen[i]
        return load_photo(path.parent / cells["path"] if images is None else images[row - 1].as_py()).pixels

    dataset = CustomTable(
        path.stem,
        names,
        picture,
        lambda i: labels[i],
        points=_all_points(path, names, five, points, template),
        fixed=_template(template),
    )
    dataset.masks = [need(path.parent / c["parsing"]) if c.get("parsing") else None for _, c in chosen]
    return dataset


def _all_points(
    path: Path, names: Sequence[str], five: Sequence[Array | None], points: Path | None, template: str | None
) -> Array:
    """(n, 5, 2): the row's own points, or those of the points table; NaN if the template is used."""
    nowhere = np.full((5, 2), np.nan)
    other = dict[str, Array]()
    bare = [n for n, p in zip(names, five, strict=True) if p is None]
    if bare and points is not None:
        found = found_points(str(path), bare, points, _template(template))
        other = dict(zip(bare, found, strict=True)) if found is not None else {}
    elif bare and _template(template) is None:
        raise UsageError(
            f"{path}: {bare[0]!r} has no points, and {len(bare) - 1} more; add a column points5, give"
            " points=PATH.parquet, or say template='head' if the pictures are crops of that template already"
        )
    return (
        np.stack([other.get(n, nowhere) if p is None else p for n, p in zip(names, five, strict=True)])
        if names
        else np.zeros((0, 5, 2))
    )


def folder(
    path: Path, task: str = "expression", *, template: str | None = None, points: Path | None = None
) -> CustomTable:
    """One folder per class with its pictures: `path/happiness/a.jpg`.

    Args:
        path: the folder of the folders.
        task: "expression" or "expression7", whose class names are the folders' names; or "identity512": the
            folders are people, numbered by sorted names (`dataset.classes`).
        template: see `table`.
        points: see `table`; a picture's name is FOLDER/FILE.
    """
    path = Path(path)
    if task not in (*_CHOICES, "identity512"):
        raise UsageError(
            f"a folder cannot be a class of {task!r}; there are: {', '.join((*_CHOICES, 'identity512'))}"
        )
    classes = sorted(p.name for p in need(path).iterdir() if p.is_dir() and not p.name.startswith("."))
    if task in _CHOICES:
        order = _CHOICES[task].names
        if strange := [c for c in classes if c not in order]:
            raise UsageError(
                f"{path}: the folder {strange[0]!r} is not a class of {task}; there are: {', '.join(order)}"
            )
    else:
        order = tuple(classes)
    names = list[str]()
    for name in classes:
        found = sorted(
            p.name
            for p in (path / name).iterdir()
            if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
        )
        if not found:
            raise UsageError(f"{path / name} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
        names += [f"{name}/{f}" for f in found]
    dataset = CustomTable(
        path.name,
        names,
        lambda i: load_photo(path / names[i]).pixels,
        lambda i: {task: order.index(names[i].split("/")[0])},
        points=_all_points(path, names, [None] * len(names), points, template),
        fixed=_template(template),
    )
    dataset.classes = order
    return dataset

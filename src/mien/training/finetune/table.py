"""Labels of a user's pictures: a folder of class folders, a CSV or Parquet table, or annotations.

A table has a column `path` (relative to the table's folder; `image`, with encoded bytes, in Parquet),
label columns, and if there are any: `person` (who stays on one side of a split) and `split` (train, val or
test). Annotations are COCO's JSON, CVAT's XML, or a folder with `images` and `masks`, see
`mien.training.finetune.annotation_files`.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import UsageError
from mien.io.paths import EXTENSIONS
from mien.training.finetune import annotation_files
from mien.training.finetune.annotation_files import Annotations, MaskLabel

Source = str | bytes
KINDS = ("choice", "attributes", "number", "points", "masks")
SPLITS = ("train", "val", "test")
NO_LABEL = ("path", "image", "name", "person", "split", "points5")
CHOICE_NUMBERS = 10  # so many different whole numbers are classes; more are a quantity
MIN_PICTURES = 3  # of a class: one to learn from, one to choose by, one to measure on
_YES = {"1": 1.0, "1.0": 1.0, "yes": 1.0, "true": 1.0, "0": 0.0, "0.0": 0.0, "no": 0.0, "false": 0.0}
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One labeled picture.

    Attributes:
        name: for people: the path as the table or the folder has it.
        source: a path, or encoded bytes.
        label: of the task's kind: class name, {attribute: 0 or 1}, number, (n, 2) points, or `MaskLabel`.
        person: who is shown; empty where nobody says.
        split: "train", "val", "test", or empty.
    """

    name: str
    source: Source
    label: Any
    person: str = ""
    split: str = ""


@dataclass
class Labels:
    """What a user's data say.

    Attributes:
        kind: of `KINDS`.
        rows: the labeled pictures.
        names: classes, attributes, points or mask classes, in order; empty for a number.
        why: how the kind was found, for people.
        problems: what was left out or joined, each with its fix.
    """

    kind: str
    rows: list[Row]
    names: tuple[str, ...]
    why: str
    problems: list[str] = field(default_factory=list)


def read(
    data: Path,
    *,
    kind: str | None = None,
    columns: Sequence[str] = (),
) -> Labels:
    """The labeled pictures of a folder or a table.

    Args:
        data: a folder of class folders, or with `images` and `masks`; FILE.csv, .parquet, .json or .xml.
        kind: of `KINDS`; None: it follows from the labels.
        columns: label columns, or names of categories; none: all that have no other meaning.

    Raises:
        UsageError: no such data, columns that do not fit, or labels that no task can be made of.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"no kind of task {kind!r}; choose from: {', '.join(KINDS)}")
    if not data.exists():
        raise UsageError(
            f"there is no {str(data)!r}; name a folder of class folders, a table (.csv, .parquet), or"
            " annotations (COCO .json, CVAT .xml, a folder with images and masks)"
        )
    suffix = data.suffix.lower()
    if suffix in (".json", ".xml") or (data.is_dir() and annotation_files.is_mask_folder(data)):
        return _annotated(data, kind, columns)
    if data.is_dir():
        if kind not in (None, "choice"):
            raise UsageError(
                f"a folder of class folders is a choice; for {kind} give a .csv or .parquet table"
                + (", or a COCO .json or CVAT .xml" if kind in annotation_files.KINDS else "")
                + (", or a folder with the folders images and masks" if kind == "masks" else "")
            )
        return _folder(data)
    head, cells = _table(data)
    labels = _of_columns(data, head, cells, kind, columns)
    if labels.kind == "choice":
        _join_spellings(labels)
        _check_classes(labels)
    return labels


# --- A folder


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
    )


def _folder(data: Path) -> Labels:
    """`DATA/curly/a.jpg`, or `DATA/train/curly/a.jpg`."""
    inside = sorted(p for p in data.iterdir() if p.is_dir() and not p.name.startswith("."))
    splits = [p for p in inside if p.name.lower() in _SPLIT_NAMES]
    parts = (
        [(p, _SPLIT_NAMES[p.name.lower()]) for p in splits] if len(splits) == len(inside) else [(data, "")]
    )
    rows, problems = list[Row](), list[str]()
    for top, split in parts if inside else ():
        for folder in sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")):
            found = _pictures(folder)
            if not found:
                problems.append(
                    f"the folder {folder} holds no pictures ({' '.join(sorted(EXTENSIONS))}); it is left out"
                )
            name = folder.name.strip()
            rows += [Row(str(p.relative_to(data)), str(p), name, split=split) for p in found]
    if loose := [p for p in data.iterdir() if p.suffix.lower() in EXTENSIONS]:
        problems.append(
            f"{len(loose)} pictures lie in {data} itself, in no class folder ({loose[0].name}"
            f"{', ...' if len(loose) > 1 else ''}); move each into the folder of its class"
        )
    if not rows:
        raise UsageError(
            f"{data} holds no class folders with pictures; put the pictures of each class into a folder of"
            " its"
            " name, such as hair/curly/a.jpg"
        )
    labels = Labels("choice", rows, (), "a folder of class folders", problems)
    _join_spellings(labels)
    _check_classes(labels)
    return labels


# --- Annotations


def _annotated(data: Path, kind: str | None, columns: Sequence[str]) -> Labels:
    """COCO's JSON, CVAT's XML, or a folder with images and masks."""
    if kind not in (None, *annotation_files.KINDS):
        raise UsageError(f"{data} holds points or masks; for {kind} give a .csv or .parquet table")
    if data.is_dir():
        if kind == "points":
            raise UsageError(
                f"{data} has a folder masks; for points give a COCO .json, a CVAT .xml or a table"
            )
        found = annotation_files.read_mask_folder(data)
    else:
        reader = annotation_files.read_cvat if data.suffix.lower() == ".xml" else annotation_files.read_coco
        found = reader(data, kind, columns)
    if not found.items:
        raise UsageError(f"{data} has no picture with {found.kind}; " + " ".join(found.problems))
    rows = [
        Row(i.name, i.path, i.label, i.person, _SPLIT_NAMES.get(i.split.lower(), "")) for i in found.items
    ]
    return Labels(found.kind, rows, found.names, found.why if kind is None else "as given", found.problems)


# --- A table


def _table(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows as text; `image` as bytes."""
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet as pq
        except ImportError as e:
            raise UsageError(
                "a Parquet table needs pyarrow: pip install 'mien[train]', or give a .csv"
            ) from e
        table = pq.read_table(path)
        return list(table.column_names), [
            {k: _image(v) if k == "image" else _cell(v) for k, v in row.items()} for row in table.to_pylist()
        ]
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path} has the extension {path.suffix!r}; a table is .csv or .parquet")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 ({e.reason} at byte {e.start}); save it as UTF-8") from e
    head = [c.strip() for c in lines[0]] if lines else []
    if len(head) == 1 and ";" in head[0]:
        raise UsageError(f"{path} has semicolons between its columns; save it with commas")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(head):
            raise UsageError(
                f"{path}, line {number}: {len(line)} cells, and the first line has {len(head)}; put texts"
                " with"
                " commas between quotes"
            )
    return head, [dict(zip(head, map(str.strip, line), strict=True)) for line in lines[1:]]


def _image(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return data if isinstance(data, bytes) else b""


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | np.ndarray):
        return " ".join(str(v) for v in np.asarray(value, object).reshape(-1))
    return str(value).strip()


def _label_columns(path: Path, head: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns that hold labels.

    Raises:
        UsageError: columns are missing, or named twice.
    """
    if len(set(head)) < len(head):
        raise UsageError(f"{path} has a column twice: {next(c for c in head if head.count(c) > 1)!r}")
    if "path" not in head and "image" not in head:
        usual = ("file", "filename", "file_name", "filepath", "img", "photo", "picture")
        near = difflib.get_close_matches("path", head, 1, 0.5) or [c for c in head if c.lower() in usual]
        fix = f"Rename {near[0]!r} to 'path'" if near else "Add the paths of the pictures"
        raise UsageError(f"{path} has no column 'path'; it has: {', '.join(head) or 'none'}. {fix}")
    chosen = list(columns) or [c for c in head if c not in NO_LABEL]
    for column in chosen:
        if column not in head:
            near = difflib.get_close_matches(column, head, 1)
            hint = f"is it {near[0]!r}? " if near else ""
            raise UsageError(f"{path} has no column {column!r}; {hint}it has: {', '.join(head)}")
    if not chosen:
        raise UsageError(f"{path} has no label column; it has: {', '.join(head)}. Add one, such as 'label'")
    return chosen


def _of_columns(
    path: Path,
    head: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
    kind: str | None,
    columns: Sequence[str],
) -> Labels:
    chosen = _label_columns(path, head, columns)
    if not cells:
        raise UsageError(f"{path} has no rows below its first line; add one per picture")
    found, why = _kind_of(path, chosen, cells) if kind is None else (kind, "as given")
    problems = list[str]()
    values, order = _READ[found](path, chosen, cells)
    rows, unlabeled, nowhere = list[Row](), 0, 0
    for number, (row, value) in enumerate(zip(cells, values, strict=True), 2):
        source, name = _source(path, row, number)
        unlabeled += value is None
        nowhere += value is not None and source is None
        if value is None or source is None:
            continue
        split = row.get("split", "").lower()
        if split and split not in _SPLIT_NAMES:
            raise UsageError(
                f"{path}, line {number}: split {row['split']!r} is none of train, val, test; correct or empty"
                " it"
            )
        rows.append(Row(name, source, value, row.get("person", ""), _SPLIT_NAMES.get(split, "")))
    if unlabeled:
        problems.append(f"{unlabeled} rows have no label; they are left out")
    if nowhere:
        problems.append(f"{nowhere} rows name no picture; they are left out, fill the column 'path'")
    if not rows:
        raise UsageError(f"{path} has no row with a picture and a label in {', '.join(map(repr, chosen))}")
    return Labels(found, rows, order, why, problems)


def _source(path: Path, row: Mapping[str, Any], number: int) -> tuple[Source | None, str]:
    if row.get("path"):
        return str(path.parent / row["path"]), row["path"]
    if row.get("image"):
        return row["image"], str(row.get("name") or f"row {number - 1}")
    return None, ""


def _kind_of(path: Path, columns: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The kind that label columns look like, and why."""
    values = {c: [str(r[c]) for r in cells if r[c] != ""] for c in columns}
    if empty := [c for c in columns if not values[c]]:
        raise UsageError(f"the column {empty[0]!r} of {path} is empty; name another one by --columns")
    if all(v.lower() in _YES for c in columns for v in values[c]):
        return "attributes", "every label is yes or no"
    if {"x1", "y1"} <= set(columns) and all(re.fullmatch(r"[xy]\d+", c) for c in columns):
        return "points", "the columns are x1, y1, x2, y2, ..."
    if len(columns) > 1:
        raise UsageError(
            f"{path} has several label columns: {', '.join(columns)}; name the one to learn by --columns, or"
            " all"
            " yes/no columns by --columns A,B"
        )
    [column] = columns
    if all(v.lower().endswith(".png") for v in values[column]):
        return "masks", f"the column {column!r} names PNG files"
    numbers = [_float(v) for v in values[column]]
    if any(n is None for n in numbers):
        if sum(n is not None for n in numbers) > 0.9 * len(numbers):
            odd = next(v for v, n in zip(values[column], numbers, strict=True) if n is None)
            raise UsageError(
                f"the column {column!r} of {path} holds numbers, and {odd!r}; correct it, or say --kind"
                " choice"
            )
        return "choice", f"the column {column!r} holds words"
    different = set(numbers)
    if len(different) <= CHOICE_NUMBERS and all(n is not None and n.is_integer() for n in different):
        return "choice", f"the column {column!r} holds {len(different)} different whole numbers"
    return "number", f"the column {column!r} holds {len(different)} different numbers"


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


Cells = Sequence[Mapping[str, Any]]
Read = tuple[list[Any], tuple[str, ...]]


def _one(path: Path, columns: Sequence[str], kind: str) -> str:
    if len(columns) > 1:
        raise UsageError(
            f"a {kind} has one label column; {path} has: {', '.join(columns)}; name one by --columns"
        )
    return columns[0]


def _choices(path: Path, columns: Sequence[str], cells: Cells) -> Read:
    column = _one(path, columns, "choice")
    return [str(r[column]) or None for r in cells], ()


def _attributes(path: Path, columns: Sequence[str], cells: Cells) -> Read:
    values = list[Any]()
    for number, row in enumerate(cells, 2):
        known = {c: str(row[c]) for c in columns if row[c] != ""}
        if wrong := [c for c, v in known.items() if v.lower() not in _YES]:
            raise UsageError(
                f"{path}, line {number}: {known[wrong[0]]!r} in column {wrong[0]!r} is neither yes nor no;"
                " write"
                " 1 or 0, and leave it empty where it is unknown"
            )
        values.append({c: _YES[v.lower()] for c, v in known.items()} or None)
    for column in columns:
        given = [v[column] for v in values if v and column in v]
        if len(set(given)) < 2:
            raise UsageError(
                f"the column {column!r} of {path} always says {'yes' if given and given[0] else 'no'}; add"
                " pictures"
                " of the other answer, or leave it out by --columns"
            )
    return values, tuple(columns)


def _numbers(path: Path, columns: Sequence[str], cells: Cells) -> Read:
    column = _one(path, columns, "number")
    values = list[Any]()
    for number, row in enumerate(cells, 2):
        value = _float(str(row[column])) if row[column] != "" else None
        if row[column] != "" and value is None:
            raise UsageError(
                f"{path}, line {number}: {row[column]!r} in column {column!r} is no number; correct or"
                " empty it"
            )
        values.append(value)
    if len({v for v in values if v is not None}) < 3:
        raise UsageError(
            f"the column {column!r} of {path} has fewer than 3 different numbers; say --kind choice"
        )
    return values, ()


def _points(path: Path, columns: Sequence[str], cells: Cells) -> Read:
    count = max((int(c[1:]) for c in columns if re.fullmatch(r"[xy]\d+", c)), default=0)
    wanted = [f"{axis}{i}" for i in range(1, count + 1) for axis in "xy"]
    if not count or set(wanted) != set(columns):
        lacks = next((c for c in wanted if c not in columns), "x1")
        raise UsageError(f"points are columns x1, y1, x2, y2, ...; {path} lacks {lacks!r}")
    values = list[Any]()
    for number, row in enumerate(cells, 2):
        texts = [str(row[c]) for c in wanted]
        places = [math.nan if t == "" else _float(t) for t in texts]
        if any(p is None for p in places):
            wrong = texts[places.index(None)]
            raise UsageError(f"{path}, line {number}: {wrong!r} is no number of pixels; correct or empty it")
        points = np.array(places, np.float64).reshape(-1, 2)
        values.append(points if np.isfinite(points).all(1).any() else None)
    return values, tuple(map(str, range(1, count + 1)))


def _masks(path: Path, columns: Sequence[str], cells: Cells) -> Read:
    column = _one(path, columns, "masks")
    labels = [MaskLabel(path=str(path.parent / row[column])) if row[column] else None for row in cells]
    items = [annotation_files.Item("", "", label) for label in labels if label is not None]
    found = Annotations("masks", items, (), "", [])
    if items:
        annotation_files.name_classes(found, path.parent)
    named = iter(found.items)
    # what cannot be read keeps its label, and is reported with its picture
    return [None if label is None else next(named).label or label for label in labels], found.names


_READ = {
    "choice": _choices,
    "attributes": _attributes,
    "number": _numbers,
    "points": _points,
    "masks": _masks,
}


# --- Classes


def _spelling(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name.strip()).casefold()


def _join_spellings(labels: Labels) -> None:
    """One class for names that differ in case, spaces, _ and - only; a warning for names nearly equal."""
    counts = Counter(r.label for r in labels.rows)
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_spelling(name), []).append(name)
    joined = {n: max(sorted(g), key=lambda n: counts[n]) for g in groups.values() for n in g}
    for group in groups.values():
        if len(group) > 1:
            first, *others = sorted(group, key=lambda n: (-counts[n], n))
            labels.problems.append(
                f"the classes {', '.join(map(repr, others))} and {first!r} differ in spelling only; they are"
                f" taken as {first!r}. Rename them where they are different"
            )
    labels.rows = [replace(r, label=joined[r.label]) for r in labels.rows]
    counts = Counter(r.label for r in labels.rows)
    names = natural(counts)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            rare, often = sorted((a, b), key=lambda n: counts[n])
            if _nearly(a, b) and counts[rare] <= max(2, 0.1 * counts[often]):
                labels.problems.append(
                    f"the class {rare!r} ({_pictures_word(counts[rare])}) is nearly spelled as {often!r}"
                    f" ({counts[often]}); if it is a typing error, rename {rare!r}"
                )
    labels.names = tuple(names)


def _nearly(a: str, b: str) -> bool:
    """Whether two names are a typing error apart; numbers are different words."""
    if min(len(a), len(b)) < 4 or re.sub(r"\D", "", a) != re.sub(r"\D", "", b):
        return False
    ratio = difflib.SequenceMatcher(None, _spelling(a), _spelling(b)).ratio()
    return ratio >= 1 - 1.5 / max(len(a), len(b)) and abs(len(a) - len(b)) <= 1


def _pictures_word(n: int) -> str:
    return f"{n} picture{'' if n == 1 else 's'}"


def _check_classes(labels: Labels) -> None:
    """Leave out classes with too few pictures."""
    counts = Counter(r.label for r in labels.rows)
    if len(counts) < 2:
        raise UsageError(
            f"there is one class, {next(iter(counts))!r}; a choice needs two or more, so add a class of"
            " the others"
        )
    keep_classes(labels, counts)


def keep_classes(labels: Labels, counts: Mapping[str, int]) -> None:
    """Leave out classes with fewer pictures than `MIN_PICTURES`, with a warning each.

    Raises:
        UsageError: fewer than two classes are left.
    """
    for name in sorted(counts):
        if counts[name] < MIN_PICTURES:
            labels.problems.append(
                f"the class {name!r} has {_pictures_word(counts[name])}; {MIN_PICTURES} are needed, better"
                " 20. It"
                " is left out"
            )
    kept = {n for n in counts if counts[n] >= MIN_PICTURES}
    if len(kept) < 2:
        raise UsageError(
            f"{len(kept)} class has {MIN_PICTURES} pictures or more, and a choice needs two:"
            f" {', '.join(f'{n} {c}' for n, c in sorted(counts.items()))}; add pictures"
        )
    labels.rows = [r for r in labels.rows if r.label in kept]
    labels.names = tuple(n for n in labels.names if n in kept)


def natural(names: Iterable[str]) -> list[str]:
    """Names in the order people expect: 3-9 before 10-19."""
    return sorted(
        names, key=lambda n: [int(t) if t.isdigit() else t.casefold() for t in re.split(r"(\d+)", n)]
    )

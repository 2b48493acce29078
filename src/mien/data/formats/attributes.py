"""Data sets of ages, expressions and attributes in the layouts of their publishers.

Every reader is `name(root, split, ...)`: `root` is the folder that the publisher's archive was unpacked into.
Tables are read at once, pictures on access. If a set has aligned crops without points, one set of five points
is used for all of its pictures; a points table (`points=PATH.parquet`, columns `name`, `points5` and
optionally `score`, as in `mien.data.formats.pack`) is better, and sets that are not aligned need one.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mien import geometry
from mien.data.formats.common import need, pick, picture
from mien.data.formats.pack import majority
from mien.errors import MissingData, UsageError
from mien.tasks.attributes import CELEBA40
from mien.tasks.choice import EXPRESSION, EXPRESSION7
from mien.types import Pixels, Sample

Array = npt.NDArray[np.float64]
T = TypeVar("T")
_log = logging.getLogger(__name__)

# Five points as fractions of the picture's sides, in picture order, for aligned sets without points: medians
# of a detector's points over 9,490 UTKFace crops and 25,720 FER pictures.
UTKFACE_POINTS = np.array([(0.308, 0.293), (0.681, 0.290), (0.499, 0.509), (0.339, 0.678), (0.659, 0.677)])
FER_POINTS = np.array([(0.343, 0.409), (0.686, 0.401), (0.513, 0.599), (0.376, 0.751), (0.665, 0.745)])
# Ours: an estimate. RAF-DB aligned eyes and mouth to fixed places, which are not published.
RAFDB_POINTS = np.array([(0.32, 0.38), (0.67, 0.38), (0.50, 0.57), (0.35, 0.75), (0.65, 0.75)])

# Native label orders; labels are passed on by name, so that a mapping cannot be off by one class.
AFFECTNET8 = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
AFFECTNET_OTHER = ("none", "uncertain", "no face")  # 8, 9, 10: no expression
RAFDB7 = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # numbered from 1
FERPLUS8 = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")


class Table:
    """Labeled pictures by number.

    Args:
        picture: number -> (H, W, 3) uint8 pixels.
        labels: number -> task name -> label.
        points: (n, 5, 2) pixels, picture order; NaN, or None for all, to use `fixed`.
        fixed: (5, 2) fractions of the picture's width and height.
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        picture: Callable[[int], Pixels],
        labels: Callable[[int], dict[str, Any]],
        *,
        points: Array | None = None,
        fixed: Array | None = None,
    ):
        if not names:
            raise MissingData(
                f"{name} holds no labeled picture; check that its archive was unpacked completely"
            )
        self.name, self.names, self._picture, self._labels = name, names, picture, labels
        self._points, self._fixed = points, fixed

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of the {len(self)} in {self.name}")
        pixels = self._picture(i)
        points = None if self._points is None else self._points[i]
        if points is None or not np.isfinite(points).all():
            assert self._fixed is not None
            points = self._fixed * (pixels.shape[1], pixels.shape[0]) - 0.5
        return Sample(pixels, self._labels(i), points, self.names[i])


# Shared by the readers


def bad(path: Path, row: int | str, value: object, fix: str) -> UsageError:
    """The error about one value in a table; rows are counted from 1, without the header."""
    return UsageError(f"{path}, row {row}: {value!r} {fix}")


def number(path: Path, row: int | str, text: object, low: float, high: float) -> float:
    """A cell as a number within low..high."""
    try:
        value = float(str(text))
    except ValueError as e:
        raise bad(path, row, text, "is not a number") from e
    if not low <= value <= high:
        raise bad(path, row, text, f"is not within {low:g}..{high:g}")
    return value


def random_80_20(n: int, what: str, split: str, seed: int) -> list[int]:
    """Rows of "train" (four fifths, rounded down) or "test" of a seeded random split, in table order."""
    order, cut = np.random.default_rng(seed).permutation(n), n * 4 // 5
    return sorted(int(i) for i in pick(what, split, {"train": order[:cut], "test": order[cut:]}))


def found_points(
    what: str, names: Sequence[str], points: Path | None, fixed: Array | None, minimum: float = 0.6
) -> Array | None:
    """A points table's rows for these names, (n, 5, 2): NaN for missing or uncertain rows, to use `fixed`.

    Raises:
        UsageError: neither a table nor fixed points.
        MissingData: no table, or a name is not in it and there are no fixed points.
    """
    if points is None:
        if fixed is None:
            raise UsageError(
                f"{what} comes without points: give points=PATH.parquet with columns name and points5 (10"
                " numbers)"
            )
        return None
    found = {
        r["name"]: np.asarray(r["points5"], np.float64).reshape(5, 2)
        for r in pq.read_table(need(points)).to_pylist()
        if r.get("score", 1.0) >= minimum
    }
    missing = [n for n in names if n not in found]
    if missing and fixed is None:
        raise MissingData(
            f"{points} lacks points of a sufficient score for {len(missing)} of {len(names)} pictures of"
            f" {what}; the first is"
            f" {missing[0]!r}"
        )
    return np.stack([found.get(n, np.full((5, 2), np.nan)) for n in names]) if names else np.zeros((0, 5, 2))


def expression(name: str, classes: int) -> dict[str, int] | None:
    """A label by class name: 8 classes are the task "expression", 7 (without contempt) "expression7".

    Returns:
        {task name: index}, or None for a name that the task does not have.
    """
    if classes not in (7, 8):
        raise UsageError(f"classes={classes!r}; 7 (without contempt) or 8")
    task = EXPRESSION7 if classes == 7 else EXPRESSION
    return {task.name: task.names.index(name)} if name in task.names else None


def rows_of(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row from 1, cells by column) of a CSV file with a header that has these columns."""
    with need(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = [c for c in columns if c not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(
                f"{path} has no column {missing[0]!r}; it has: {', '.join(reader.fieldnames or ())}"
            )
        for i, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise bad(
                    path,
                    i,
                    next(iter(row.values())),
                    f"begins a row that has not {len(reader.fieldnames or ())} cells",
                )
            yield i, row


def files_below(
    name: str,
    root: Path,
    files: Sequence[str],
    labels: Sequence[dict[str, Any]],
    points: Array | None,
    fixed: Array | None,
) -> Table:
    """A data set of picture files below a folder, named by their relative paths."""
    return Table(
        name, files, lambda i: picture(root / files[i]), lambda i: labels[i], points=points, fixed=fixed
    )


# Ages


def morph2(
    root: Path,
    split: str,
    *,
    points: Path | None = None,
    seed: int = 0,
    table: str = "morph_2008_nonCommercial.csv",
) -> Table:
    """MORPH II (Ricanek and Tesfaye 2006), the non-commercial release: the age of 55,134 police photographs.

    Protocol RANDOM_80_20: a seeded random split of the pictures, 80 % "train" and 20 % "test", as in
    Faceptor. There is no official split; in this one the same people are in both parts, and the papers'
    splits are not published.

    Labels: age. Names: the column `photo`, a path below root. Needs a points table: the pictures are not
    aligned.
    """
    path, files, ages = root / table, list[str](), list[dict[str, Any]]()
    for row, cells in rows_of(path, ("photo", "age")):
        files.append(cells["photo"].strip().replace("\\", "/"))
        ages.append({"age": number(path, row, cells["age"], 0, 120)})
    chosen = random_80_20(len(files), "MORPH II", split, seed)
    files = [files[i] for i in chosen]
    return files_below(
        f"morph2/{split}",
        root,
        files,
        [ages[i] for i in chosen],
        found_points("MORPH II", files, points, None),
        None,
    )


def utkface(
    root: Path, split: str, *, points: Path | None = None, seed: int = 0, skip_broken: bool = False
) -> Table:
    """UTKFace (Zhang et al. 2017), aligned crops: `root/UTKFace/AGE_GENDER_RACE_DATE.jpg.chip.jpg`.

    Protocol RANDOM_80_20: a seeded random split, 80 % "train" and 20 % "test", of the sorted file names.

    Labels: age; attributes with Male (gender 0). A few published names lack a field: `skip_broken` leaves
    them out, and their number goes to the log.
    """
    folder = need(root / "UTKFace")
    known, broken = list[tuple[str, dict[str, Any]]](), list[str]()
    for path in sorted(folder.glob("*.jpg.chip.jpg")):
        fields = path.name.removesuffix(".jpg.chip.jpg").split("_")
        if (
            len(fields) == 4
            and all(f.isdigit() for f in fields[:3])
            and fields[1] in {"0", "1"}
            and fields[2] in {"0", "1", "2", "3", "4"}
        ):
            known.append((path.name, {"age": float(fields[0]), "attributes": {"Male": 1 - int(fields[1])}}))
        else:
            broken.append(path.name)
    if broken and not skip_broken:
        raise UsageError(
            f"{folder}: {len(broken)} names are not AGE_GENDER_RACE_DATE.jpg.chip.jpg, the first is"
            f" {broken[0]!r}; fix them, or leave them out with skip_broken=True"
        )
    if broken:
        _log.warning(
            "%s: %d pictures with broken names are left out, the first is %r", folder, len(broken), broken[0]
        )
    chosen = [known[i] for i in random_80_20(len(known), "UTKFace", split, seed)]
    files = [f for f, _ in chosen]
    at = found_points("UTKFace", files, points, UTKFACE_POINTS)
    return files_below(f"utkface/{split}", folder, files, [label for _, label in chosen], at, UTKFACE_POINTS)


CORAL_YEARS = (21, 60)


def utkface_coral(root: Path, split: str, *, points: Path | None = None) -> Table:
    """UTKFace in CORAL's split (Cao et al. 2020), ages 21 to 60, as used by Faceptor and others.

    From `root/UTKFace` and the two lists of the authors, `root/utk_train.csv` and `root/utk_test.csv`,
    columns `file` and `age`, where an age is stored less 21.

    Labels: age, in years; attributes with Male (gender 0).

    Raises:
        MissingData: a list or the folder is missing. UsageError: an age is not that of the file's name less
            21, or out of range.
    """
    path = root / f"utk_{pick('UTKFace', split, {'train': 'train', 'test': 'test'})}.csv"
    folder, files, labels = need(root / "UTKFace"), list[str](), list[dict[str, Any]]()
    first, last = CORAL_YEARS
    for row, cells in rows_of(path, ("file", "age")):
        years, name = first + number(path, row, cells["age"], 0, last - first), cells["file"].strip()
        fields = name.split("_")
        if len(fields) != 4 or fields[0] != f"{years:g}" or fields[1] not in {"0", "1"}:
            raise bad(
                path,
                row,
                name,
                f"is not AGE_GENDER_RACE_DATE.jpg.chip.jpg of {years:g} years: ages are stored less {first}",
            )
        files.append(name)
        labels.append({"age": years, "attributes": {"Male": 1 - int(fields[1])}})
    at = found_points("UTKFace", files, points, UTKFACE_POINTS)
    return files_below(f"utkface-coral/{split}", folder, files, labels, at, UTKFACE_POINTS)


# Expressions


def affectnet(
    root: Path, split: str, *, classes: int = 8, pictures: str = "Manually_Annotated_Images"
) -> Table:
    """AffectNet (Mollahosseini et al. 2019), the manually labeled part; "train" and "val" (papers report
    "val").

    Labels: expression (8 classes, in mien's order) or expression7. Rows of other kinds (none, uncertain, no
    face) are left out, and contempt of the seven. Points: five of the 68 in the list. Names:
    subDirectory_filePath.
    """
    word = pick("AffectNet", split, {"train": "training", "val": "validation"})
    path = root / "Manually_Annotated_file_lists" / f"{word}.csv"
    kinds, files, labels, points = (
        AFFECTNET8 + AFFECTNET_OTHER,
        list[str](),
        list[dict[str, Any]](),
        list[Array](),
    )
    with need(path).open(encoding="utf-8-sig", newline="") as file:
        row = 0
        for cells in csv.reader(file):
            if cells[:1] == [
                "subDirectory_filePath"
            ]:  # the published validation list has no header, the training list has
                continue
            row += 1
            if len(cells) != 9:
                raise bad(path, row, ",".join(cells)[:60], f"has {len(cells)} cells; 9 are needed")
            kind = number(path, row, cells[6], 0, 10)
            label = expression(kinds[int(kind)], classes)
            if label is None:
                continue
            marks = cells[5].split(";")
            if len(marks) != 136:
                raise bad(path, row, cells[5][:40], f"holds {len(marks)} numbers; 68 points are needed")
            files.append(cells[0])
            labels.append(label)
            points.append(geometry.five_of_68(np.asarray(marks, np.float64).reshape(68, 2)))
    return files_below(
        f"affectnet/{split}", need(root / pictures), files, labels, np.stack(points) if points else None, None
    )


def rafdb(
    root: Path, split: str, *, classes: int = 7, aligned: bool = True, points: Path | None = None
) -> Table:
    """RAF-DB (Li et al. 2017), single-label part: `root/basic`; "train" 12,271 and "test" 3,068 pictures.

    Args:
        classes: 7 for the task expression7, 8 for expression (contempt never occurs).
        aligned: the 100 px crops, at fixed places (an estimate, see RAFDB_POINTS) or those of `points`; else
            the original pictures, at the five points that people marked (`Annotation/manual`).
    """
    pick("RAF-DB", split, {"train": 0, "test": 1})
    path, names, labels = (
        root / "basic" / "EmoLabel" / "list_patition_label.txt",
        list[str](),
        list[dict[str, Any]](),
    )
    for row, line in enumerate(need(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        name, _, kind = line.strip().rpartition(" ")
        label = expression(RAFDB7[int(number(path, row, kind, 1, 7)) - 1], classes)
        assert label is not None
        if name.startswith(f"{split}_"):
            names.append(name)
            labels.append(label)
    if not aligned:
        marks = np.stack(
            [
                _rafdb_marks(root / "basic" / "Annotation" / "manual" / f"{Path(n).stem}_manu_attri.txt")
                for n in names
            ]
        )
        return files_below(
            f"rafdb/{split}", need(root / "basic" / "Image" / "original"), names, labels, marks, None
        )
    files = [f"{Path(n).stem}_aligned.jpg" for n in names]
    at = found_points("RAF-DB", files, points, RAFDB_POINTS)
    return files_below(
        f"rafdb/{split}", need(root / "basic" / "Image" / "aligned"), files, labels, at, RAFDB_POINTS
    )


def _rafdb_marks(path: Path) -> Array:
    """(5, 2): the first five lines of a picture's annotation; gender, race and age group follow them."""
    lines = need(path).read_text(encoding="utf-8").split("\n")
    cells = [line.split() for line in lines[:5]]
    if len(cells) < 5 or any(len(c) != 2 for c in cells):
        raise bad(path, "1 to 5", "\n".join(lines[:5]), "are not five points")
    return np.asarray(cells, np.float64)


def ferplus(root: Path, split: str, *, classes: int = 8, points: Path | None = None) -> Table:
    """FER+ (Barsoum et al. 2016): `fer2013.csv` has the 48 px pictures, `fer2013new.csv` ten people's votes.

    Official majority protocol, see `mien.data.formats.pack.majority`. "train", "val" and "test" are the
    lists' Training, PublicTest and PrivateTest. Labels: expression, or expression7 without the pictures of
    contempt.
    """
    usage = pick("FER+", split, {"train": "Training", "val": "PublicTest", "test": "PrivateTest"})
    votes_path, path = root / "fer2013new.csv", root / "fer2013.csv"
    columns = (*FERPLUS8, "unknown", "NF")
    votes = list(rows_of(votes_path, ("Usage", "Image name", *columns)))
    names, labels, pictures, rows = list[str](), list[dict[str, Any]](), list[Pixels](), 0
    for row, cells in rows_of(path, ("pixels", "Usage")):
        rows = row
        if row > len(votes) or votes[row - 1][1]["Usage"] != cells["Usage"]:
            other = votes[row - 1][1]["Usage"] if row <= len(votes) else "no row"
            raise bad(
                path,
                row,
                cells["Usage"],
                f"does not go with {votes_path}, which has {other}: both files must list the same pictures",
            )
        vote = votes[row - 1][1]
        if cells["Usage"] != usage or not vote["Image name"]:  # no name: the picture shows no face
            continue
        top = majority([int(number(votes_path, row, vote[c], 0, 10)) for c in columns])
        label = None if top is None else expression(FERPLUS8[top], classes)
        if label is None:
            continue
        gray = np.array(cells["pixels"].split(), np.uint8)
        if gray.size != 48 * 48:
            raise bad(path, row, cells["pixels"][:20], f"begins {gray.size} pixels; 48 x 48 are needed")
        names.append(vote["Image name"])
        labels.append(label)
        pictures.append(gray.reshape(48, 48))
    if rows != len(votes):
        raise UsageError(
            f"{path} has {rows} rows and {votes_path} has {len(votes)}: both files must list the same"
            " pictures"
        )
    at = found_points("FER+", names, points, FER_POINTS)
    return Table(
        f"ferplus/{split}",
        names,
        lambda i: np.repeat(pictures[i][..., None], 3, 2),
        lambda i: labels[i],
        points=at,
        fixed=FER_POINTS,
    )


# Attributes


def _named_rows(path: Path) -> tuple[list[str], dict[str, int], npt.NDArray[np.int32]]:
    """A CelebA list (count, column names, then name and whole numbers) -> columns, name -> row, (rows,
    columns).
    """
    lines = need(path).read_text(encoding="utf-8").split("\n")
    header, body = lines[1].split(), [line.split() for line in lines[2:] if line.strip()]
    if not lines[0].strip().isdigit() or int(lines[0]) != len(body):
        raise UsageError(f"{path} says {lines[0]!r} pictures and lists {len(body)}; download it again")
    for row, cells in enumerate(body, 1):
        if len(cells) != len(header) + 1:
            raise bad(path, row, cells[0], f"has {len(cells) - 1} values; {len(header)} are needed")
    return (
        header,
        {cells[0]: i for i, cells in enumerate(body)},
        np.array([cells[1:] for cells in body], np.int32),
    )


def celeba(root: Path, split: str, *, identity: bool = False) -> Table:
    """CelebA (Liu et al. 2015), aligned 178 x 218 pictures: "train" 162,770, "val" 19,867, "test" 19,962.

    Labels: attributes (the list's -1 means no), points5, and with `identity` the person's number as
    identity512. Points: `Anno/list_landmarks_align_celeba.txt`.
    """
    code = pick("CelebA", split, {"train": "0", "val": "1", "test": "2"})
    lines = need(root / "Eval" / "list_eval_partition.txt").read_text(encoding="utf-8").split("\n")
    names = [line.split()[0] for line in lines if line.split()[1:] == [code]]
    attributes, points = (
        root / "Anno" / "list_attr_celeba.txt",
        root / "Anno" / "list_landmarks_align_celeba.txt",
    )
    columns, row_of, values = _named_rows(attributes)
    if tuple(columns) != CELEBA40:
        raise UsageError(f"{attributes} names other columns than CelebA's forty; the first is {columns[:1]}")
    wrong = np.argwhere(np.abs(values) != 1)
    if len(wrong):
        row, column = wrong[0]
        raise bad(
            attributes,
            int(row) + 1,
            int(values[row, column]),
            f"in column {columns[column]} is neither 1 nor -1",
        )
    _, point_row, places = _named_rows(points)
    people = dict[str, str]()
    if identity:
        text = need(root / "Anno" / "identity_CelebA.txt").read_text(encoding="utf-8")
        people = {line.split()[0]: line.split()[1] for line in text.split("\n") if line.strip()}
    for path, known in (
        (attributes, row_of),
        (points, point_row),
        (root / "Anno" / "identity_CelebA.txt", people if identity else row_of),
    ):
        if missing := [n for n in names if n not in known]:
            raise MissingData(
                f"{path} lacks {len(missing)} of the {len(names)} pictures of {split!r}; the first is"
                f" {missing[0]!r}"
            )
    yes = values[[row_of[n] for n in names]] == 1
    five = places[[point_row[n] for n in names]].reshape(-1, 5, 2).astype(np.float64)

    def labels(i: int) -> dict[str, Any]:
        facts = {"attributes": dict(zip(CELEBA40, yes[i].tolist(), strict=True)), "points5": five[i]}
        return facts | ({"identity512": int(people[names[i]])} if identity else {})

    folder = need(root / "Img" / "img_align_celeba")
    return Table(f"celeba/{split}", names, lambda i: picture(folder / names[i]), labels, points=five)

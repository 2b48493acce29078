"""Where labels come from. A data set gives Samples; `DATASETS` lists the ones that read themselves by a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from mien import geometry, settings
from mien.data import masks, pack, people, points, tables, toy
from mien.data.augment import Augment, crop_example
from mien.errors import MissingData, UsageError
from mien.types import Example, Pixels, Sample, View


class Dataset(Protocol):
    """Labelled pictures by number."""

    name: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Sample: ...


class FaceSource:
    """A data set as the trainer wants it: each sample brought to a view, moved at random, with its labels.

    Args:
        at: where given, the labels answer "task@at" instead of "task"; see `mien.tasks.task`.
        only: tasks whose labels are handed on; all when empty. A set made for one task may know a little of others.
        others: faces whose surroundings a tightly cut picture may borrow, see `Augment.borrow`.
    """

    def __init__(
        self, dataset: Dataset, view: View, augment: Augment, *, at: str = "", only: Sequence[str] = (), others: Dataset | None = None
    ):
        self.dataset, self.view, self.augment, self.at, self.only = dataset, view, augment, at, tuple(only)
        self.others = others
        self.name = dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """The index-th sample, moved by draws from `rng`."""
        sample = self.dataset[index]
        if self.only:
            labels = {name: label for name, label in sample.labels.items() if name in self.only}
            sample = replace(sample, labels=labels)
        example = crop_example(sample, self.view, self.augment, rng, self._other if self.others is not None else None)
        if not self.at:
            return example
        return Example(example.pixels, {f"{name}@{self.at}": label for name, label in example.labels.items()})

    def _other(self, rng: np.random.Generator) -> Pixels:
        assert self.others is not None
        other = self.others[int(rng.integers(len(self.others)))]
        return geometry.align(other.image, other.points, self.view).pixels


class Joined:
    """Several data sets one after the other, such as training and validation pictures of one."""

    def __init__(self, parts: Sequence[Dataset]):
        self.parts, self.name = tuple(parts), "+".join(p.name for p in parts)
        self._ends = np.cumsum([len(p) for p in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int, /) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of the {len(self)} in {self.name}")
        part = int(np.searchsorted(self._ends, i, side="right"))
        return self.parts[part][i - (int(self._ends[part - 1]) if part else 0)]


@dataclass(frozen=True, slots=True)
class Official:
    """A set in its publisher's layout, below the data root; called with a split, or with several: "train+val".

    Nothing is opened, and no library for it imported, before the call. What the folder holds stands in the reader's docstring.

    Attributes:
        folder: below `settings.data_root()`. read: (root, split, **options) -> Dataset.
        splits: our word -> the reader's. options: of the reader; a call may give others.
        points: whether `points5.parquet` in the folder, a points table as in `mien.data.tables`, says where faces are:
            the set has points of its own, or it may (places of the whole set stand in), or it must.
    """

    folder: str
    read: Callable[..., Any]
    splits: Mapping[str, str]
    points: Literal["own", "may", "must"] = "own"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, split: str, **options: Any) -> Any:
        """The data set.

        Raises:
            UsageError: no such split. MissingData: the folder, or a file in it, is not there; the message names it.
        """
        words = split.split("+")
        if unknown := [w for w in words if w not in self.splits]:
            raise UsageError(f"{self.folder} has no split {unknown[0]!r}; there are: {', '.join(self.splits)}")
        root = settings.data_root() / self.folder
        if not root.is_dir():
            raise MissingData(f"expected {root}, laid out as {self.read.__module__}.{self.read.__name__} says; it is missing")
        table = root / "points5.parquet"
        found = {"points": table} if self.points == "must" or (self.points == "may" and table.is_file()) else {}
        parts = [self.read(root, self.splits[w], **{**self.options, **found, **options}) for w in words]
        return parts[0] if len(parts) == 1 else Joined(parts)


def _same(*splits: str) -> dict[str, str]:
    return dict(zip(splits, splits, strict=True))


_THREE, _TWO = _same("train", "val", "test"), _same("train", "test")
OFFICIAL: dict[str, Official] = {
    "300w": Official("300w", points.ibug300w, _same("train", "common", "full") | {"challenge": "challenging"}),
    "wflw": Official("wflw", points.wflw, _TWO | {s: f"test_{s}" for s in points.WFLW_SUBSETS}),
    "cofw": Official("cofw", points.cofw, _TWO),
    "aflw19": Official("aflw19", points.aflw19, _TWO | {"frontal": "test_frontal"}),
    "mtfl-official": Official("mtfl-official", points.mtfl, _TWO),
    "celebamask-hq": Official("celebamask-hq", masks.celebamask_hq, _THREE),
    "lapa": Official("lapa", masks.lapa, _THREE),
    "helen": Official("helen", masks.helen, _THREE),
    "morph2": Official("morph2", tables.morph2, _TWO, "must"),
    # the published archive has a few names that lack a field; the reader counts them in the log
    "utkface-official": Official("utkface-official", tables.utkface, _TWO, "may", {"skip_broken": True}),
    "affectnet": Official("affectnet", tables.affectnet, _same("train", "val")),
    "rafdb": Official("rafdb", tables.rafdb, _TWO, "may"),
    "ferplus-official": Official("ferplus-official", tables.ferplus, _THREE, "may"),
    "celeba-official": Official("celeba-official", tables.celeba, _THREE),
    "lfwa": Official("lfwa", people.lfwa, _TWO, "may"),
    "ms1mv3": Official("ms1mv3", people.ms1mv3, _same("train")),
    "lfw-official": Official("lfw-official", people.lfw, _THREE, "may"),
    "lfw.bin": Official("verification", people.verification, {"test": "lfw"}),
    **{n: Official("verification", people.verification, {"test": n}) for n in ("cfp_fp", "agedb_30", "calfw", "cplfw")},
}

# name -> split -> data set
DATASETS: dict[str, Callable[..., Any]] = {
    "mtfl": pack.mtfl,
    "helen68": pack.helen68,
    "afw68": pack.afw68,
    "celebamask": pack.celebamask,
    "celeba": pack.celeba,
    "utkface": pack.utkface,
    "ferplus": pack.ferplus,
    "toy": toy.toy,
    **OFFICIAL,
}


# Sets in a recipe


class Crowd:
    """Drawn faces whose label is a person's number in 0..classes-1: it stands in for a recognition set."""

    def __init__(self, classes: int = 8):
        self.name, self.classes, self._faces = "crowd", classes, toy.toy(tasks=())

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, i: int, /) -> Sample:
        face = self._faces[i]
        return Sample(face.image, {"identity512": i % self.classes}, face.points, face.name)


@dataclass(frozen=True, slots=True)
class Part:
    """What one set gives to every batch.

    Attributes:
        dataset: in `DATASETS`. split: such as "train", or "train+val". task: that it teaches, "name" or "name@set".
        n: pictures a batch. augment: how far they are moved. options: of the set's reader.
    """

    dataset: str
    split: str
    task: str
    n: int
    augment: Augment = field(default_factory=Augment)
    options: Mapping[str, Any] = field(default_factory=dict)


def open_parts(parts: Sequence[Part], view: View, *, drawn: bool = False) -> list[tuple[FaceSource, int]]:
    """Parts as a `Mixture` takes them: (source, pictures a batch), each source with the labels of its task alone.

    Args:
        drawn: drawn faces with that label in place of each set, so that a recipe can be tried without data.

    Raises:
        UsageError, MissingData: as the sets.
    """
    opened = []
    for p in parts:
        name, _, at = p.task.partition("@")
        faces: Dataset = Crowd() if name == "identity512" else toy.toy(tasks=(name,))
        dataset = faces if drawn else DATASETS[p.dataset](p.split, **p.options)
        opened.append((FaceSource(dataset, view, p.augment, at=at, only=(name,)), p.n))
    return opened

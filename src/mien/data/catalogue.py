"""All data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mien import settings
from mien.data.augment import Augment
from mien.data.dataset import ConcatDataset, Dataset, FaceSource
from mien.data.formats import attributes, pack, parsing, recognition
from mien.data.formats import landmarks as points
from mien.data.synthetic import toy
from mien.errors import MissingData, UsageError
from mien.tasks.plugins import Catalogue, check_callable
from mien.types import Sample, View


@dataclass(frozen=True, slots=True)
class Official:
    """A set in its publisher's layout, below the data root; called with a split, or with several:
    "train+val".

    Nothing is opened, and no library for it imported, before the call. What the folder holds stands in the
    reader's docstring.

    Attributes:
        folder: below `settings.data_root()`.
        read: (root, split, **options) -> Dataset.
        splits: our word -> the reader's.
        options: of the reader; a call may give others.
        points: whether `points5.parquet` in the folder, a points table as in `mien.data.formats.attributes`,
            says where faces are: the set has points of its own, or it may (places of the whole set stand in),
            or it must.
    """

    folder: str
    read: Callable[..., Any]
    splits: Mapping[str, str]
    points: Literal["own", "may", "must"] = "own"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, split: str, **options: Any) -> Any:
        """The data set.

        Raises:
            UsageError: no such split. MissingData: the folder, or a file in it, is not there; the message
                names it.
        """
        words = split.split("+")
        if unknown := [w for w in words if w not in self.splits]:
            raise UsageError(
                f"{self.folder} has no split {unknown[0]!r}; there are: {', '.join(self.splits)}"
            )
        root = settings.data_root() / self.folder
        if not root.is_dir():
            raise MissingData(
                f"expected {root}, laid out as {self.read.__module__}.{self.read.__name__} says; it is"
                " missing"
            )
        table = root / "points5.parquet"
        found = (
            {"points": table} if self.points == "must" or (self.points == "may" and table.is_file()) else {}
        )
        parts = [self.read(root, self.splits[w], **{**self.options, **found, **options}) for w in words]
        return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def _same(*splits: str) -> dict[str, str]:
    return dict(zip(splits, splits, strict=True))


_THREE, _TWO = _same("train", "val", "test"), _same("train", "test")


OFFICIAL: dict[str, Official] = {
    "300w": Official(
        "300w", points.ibug300w, _same("train", "common", "full") | {"challenge": "challenging"}
    ),
    "wflw": Official("wflw", points.wflw, _TWO | {s: f"test_{s}" for s in points.WFLW_SUBSETS}),
    "cofw": Official("cofw", points.cofw, _TWO),
    "aflw19": Official("aflw19", points.aflw19, _TWO | {"frontal": "test_frontal"}),
    "mtfl-official": Official("mtfl-official", points.mtfl, _TWO),
    "celebamask-hq": Official("celebamask-hq", parsing.celebamask_hq, _THREE),
    "lapa": Official("lapa", parsing.lapa, _THREE),
    "helen": Official("helen", parsing.helen, _THREE),
    "morph2": Official("morph2", attributes.morph2, _TWO, "must"),
    # the published archive has a few names that lack a field; the reader counts them in the log
    "utkface-official": Official("utkface-official", attributes.utkface, _TWO, "may", {"skip_broken": True}),
    "utkface-coral": Official("utkface-official", attributes.utkface_coral, _TWO, "may"),
    "affectnet": Official("affectnet", attributes.affectnet, _same("train", "val")),
    "rafdb": Official("rafdb", attributes.rafdb, _TWO, "may"),
    "ferplus-official": Official("ferplus-official", attributes.ferplus, _THREE, "may"),
    "celeba-official": Official("celeba-official", attributes.celeba, _THREE),
    "lfwa": Official("lfwa", recognition.lfwa, _TWO, "may"),
    "ms1mv3": Official("ms1mv3", recognition.ms1mv3, _same("train")),
    "lfw-official": Official("lfw-official", recognition.lfw, _THREE, "may"),
    "lfw.bin": Official("verification", recognition.verification, {"test": "lfw"}),
    **{
        n: Official("verification", recognition.verification, {"test": n})
        for n in ("cfp_fp", "agedb_30", "calfw", "cplfw")
    },
}


# name -> split -> data set
_ALL: dict[str, Callable[..., Any]] = {
    "mtfl": pack.mtfl,
    "helen68": pack.helen68,
    "afw68": pack.afw68,
    "celebamask": pack.celebamask,
    "celeba": pack.celeba,
    "utkface": pack.utkface,
    "ferplus": pack.ferplus,
    "toy": toy,
    **OFFICIAL,
}


DATASETS: Catalogue[Callable[..., Any]] = Catalogue("mien.datasets", _ALL, check_callable)


class SyntheticIdentities:
    """Drawn faces whose label is a person's number in 0..classes-1: it stands in for a recognition set."""

    def __init__(self, classes: int = 8):
        self.name, self.classes, self._faces = "crowd", classes, toy(tasks=())

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, i: int, /) -> Sample:
        face = self._faces[i]
        return Sample(face.image, {"identity512": i % self.classes}, face.points, face.name)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What one set gives to every batch.

    Attributes:
        dataset: in `DATASETS`.
        split: such as "train", or "train+val".
        task: that it teaches, "name" or "name@set".
        n: pictures a batch.
        augment: how far they are moved.
        options: of the set's reader.
    """

    dataset: str
    split: str
    task: str
    n: int
    augment: Augment = field(default_factory=Augment)
    options: Mapping[str, Any] = field(default_factory=dict)


def open_parts(
    parts: Sequence[SourceSpec], view: View, *, synthetic: bool = False
) -> list[tuple[FaceSource, int]]:
    """Parts as a `Mixture` takes them: (source, pictures a batch), each source with the labels of its task
    alone.

    Args:
        synthetic: use synthetic faces with the same label instead of each set, to try a recipe without data.

    Raises:
        UsageError, MissingData: as the sets.
    """
    opened = []
    for p in parts:
        name, _, at = p.task.partition("@")
        faces: Dataset = SyntheticIdentities() if name == "identity512" else toy(tasks=(name,))
        dataset = faces if synthetic else DATASETS[p.dataset](p.split, **p.options)
        opened.append((FaceSource(dataset, view, p.augment, at=at, only=(name,)), p.n))
    return opened

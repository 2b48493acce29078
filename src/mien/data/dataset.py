"""The data set contract, and wrappers that join, filter and crop data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from mien import geometry
from mien.data.augment import Augment, crop_example
from mien.tasks import Task
from mien.types import Example, Pixels, Sample, View


class Dataset(Protocol):
    """Labeled pictures by number."""

    name: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Sample: ...


class FaceSource:
    """A data set for training: each sample is aligned to a view and augmented, with its labels.

    Args:
        at: labels of "task" become labels of "task@at", see `mien.tasks.catalogue.task`; "" for no change.
        only: tasks whose labels are used; all when empty.
        others: faces that are pasted around tightly cropped pictures, see `Augment.paste_background`.
    """

    def __init__(
        self,
        dataset: Dataset,
        view: View,
        augment: Augment,
        *,
        at: str = "",
        only: Sequence[str] = (),
        others: Dataset | None = None,
    ):
        self.dataset, self.view, self.augment, self.at, self.only = dataset, view, augment, at, tuple(only)
        self.others = others
        self.name = dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def example(
        self, index: int, rng: np.random.Generator, tasks: Sequence[Task[Any]] | None = None
    ) -> Example:
        """The index-th sample, moved by draws from `rng`; tasks: see `mien.types.Source`."""
        sample = self.dataset[index]
        if self.only:
            labels = {name: label for name, label in sample.labels.items() if name in self.only}
            sample = replace(sample, labels=labels)
        end = f"@{self.at}" if self.at else ""
        own = None
        if tasks is not None:
            own = {t.name.removesuffix(end): t for t in tasks if t.name.endswith(end)}
        example = crop_example(
            sample,
            self.view,
            self.augment,
            rng,
            self._other if self.others is not None else None,
            tasks=own,
        )
        return Example(example.pixels, {f"{name}{end}": label for name, label in example.labels.items()})

    def _other(self, rng: np.random.Generator) -> Pixels:
        assert self.others is not None
        other = self.others[int(rng.integers(len(self.others)))]
        return geometry.align(other.image, other.points, self.view).pixels


class ConcatDataset:
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


class Subset:
    """These pictures of a data set."""

    def __init__(self, dataset: Dataset, rows: Sequence[int]):
        self.name, self.dataset, self.rows = dataset.name, dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int, /) -> Sample:
        return self.dataset[self.rows[i]]


class RandomSubset(Subset):
    """A part of a data set, drawn once: the first `n` of an order that never changes."""

    def __init__(self, dataset: Dataset, n: int):
        super().__init__(dataset, np.random.default_rng(0).permutation(len(dataset))[:n].tolist())


class LabeledSubset(Subset):
    """The pictures of a data set that a task has a label for."""

    def __init__(self, dataset: Dataset, task: str):
        labels = getattr(
            dataset, "labels", None
        )  # without opening every picture, where a set keeps them apart
        known = (task in (dataset[i].labels if labels is None else labels[i]) for i in range(len(dataset)))
        super().__init__(dataset, [i for i, there in enumerate(known) if there])

"""Where labels come from. A data set gives Samples; `DATASETS` lists the ones that read themselves by a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mien.data import pack, toy
from mien.data.augment import Augment, crop_example
from mien.types import Example, Sample, View


class Dataset(Protocol):
    """Labelled pictures by number."""

    name: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Sample: ...


class FaceSource:
    """A data set as the trainer wants it: each sample brought to a view, moved at random, with its labels.

    Args:
        at: where given, the labels answer "task@at" instead of "task"; see `mien.tasks.task`.
    """

    def __init__(self, dataset: Dataset, view: View, augment: Augment, *, at: str = ""):
        self.dataset, self.view, self.augment, self.at = dataset, view, augment, at
        self.name = dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """The index-th sample, moved by draws from `rng`."""
        example = crop_example(self.dataset[index], self.view, self.augment, rng)
        if not self.at:
            return example
        return Example(example.pixels, {f"{name}@{self.at}": label for name, label in example.labels.items()})


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
}

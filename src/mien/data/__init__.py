"""Labeled pictures for training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.data.augment import Augment
    from mien.data.catalogue import DATASETS, OFFICIAL
    from mien.data.dataset import Dataset
    from mien.data.mixture import Mixture

__all__ = ["DATASETS", "OFFICIAL", "Augment", "Dataset", "Mixture"]

__getattr__ = attach(
    __name__,
    {
        "Augment": "augment",
        "DATASETS": "catalogue",
        "OFFICIAL": "catalogue",
        "Dataset": "dataset",
        "Mixture": "mixture",
    },
)

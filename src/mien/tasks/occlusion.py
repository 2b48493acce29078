"""Occlusion: what covers a face, and how much of its eyes, nose and mouth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mien.tasks.base import Answer, LogitsTask
from mien.tasks.columns import Column, number_columns
from mien.types import Array, Crop, Floats

NAMES = ("mask", "sunglasses", "left_eye", "right_eye", "nose", "mouth")


@dataclass(frozen=True, slots=True)
class Occlusion(Answer):
    """What covers a face.

    Attributes:
        mask: probability, 0..1, of a face mask, worn correctly or not.
        sunglasses: probability, 0..1, of dark glasses.
        left_eye, right_eye, nose, mouth: share, 0..1, that is covered by anything; left and right are the
            subject's own.
    """

    mask: float
    sunglasses: float
    left_eye: float
    right_eye: float
    nose: float
    mouth: float

    averaged: ClassVar[bool] = True

    @property
    def covered(self) -> float:
        """Mean covered share of eyes, nose and mouth, 0..1."""
        return ((self.left_eye + self.right_eye) / 2 + self.nose + self.mouth) / 3

    def to_dict(self) -> dict[str, Any]:
        """{"mask", "sunglasses", "left_eye", "right_eye", "nose", "mouth"}."""
        return {n: round(getattr(self, n), 4) for n in NAMES}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return number_columns(name, NAMES)

    def summary(self) -> str:
        """`mask`, `sunglasses`, or what is covered by more than half; empty where nothing is."""
        found = [n for n in ("mask", "sunglasses") if getattr(self, n) >= 0.5]
        if not found and self.covered >= 0.25:
            found = [f"{n.replace('_', ' ')} covered" for n in NAMES[2:] if getattr(self, n) >= 0.5]
        return ", ".join(found)

    def value(self) -> float:
        """`covered`."""
        return self.covered

    def mean_terms(self) -> Array:
        return np.array([getattr(self, n) for n in NAMES])

    def from_mean(self, terms: Array) -> Occlusion:
        return Occlusion(*terms.tolist())


@dataclass(frozen=True, kw_only=True)
class OcclusionTask(LogitsTask[Occlusion]):
    """Mask and sunglasses as probabilities, and four covered shares; labels map some of the six names."""

    answer: ClassVar[type[Answer]] = Occlusion
    name: str = "occlusion"
    labels: str = "occlusion6"
    # the subject's right eye is the left one in the picture
    raw_names = ("mask", "sunglasses", "right_eye", "left_eye", "nose", "mouth")
    flipped = (0, 1, 3, 2, 4, 5)

    def read(self, raw: Floats, crop: Crop) -> Occlusion:
        return Occlusion(**self.probabilities(raw))

    def metrics(self) -> OcclusionError:
        return OcclusionError()


class OcclusionError:
    """Balanced accuracy in percent of mask and of sunglasses, and mean absolute error of the shares."""

    headline = "balanced_accuracy"

    def __init__(self) -> None:
        self.hits: dict[tuple[str, bool], list[bool]] = {}
        self.errors: dict[str, list[float]] = {}
        self.n = 0

    def update(self, answer: Occlusion, label: Mapping[str, Any]) -> None:
        self.n += 1
        for name in NAMES:
            if (value := label.get(name)) is None:
                continue
            guess = getattr(answer, name)
            if name in NAMES[:2]:
                truth = float(value) >= 0.5
                self.hits.setdefault((name, truth), []).append((guess >= 0.5) == truth)
            else:
                self.errors.setdefault(name, []).append(abs(guess - float(value)))

    def compute(self) -> dict[str, float]:
        each = {
            name: float(np.mean([100 * np.mean(h) for (n, _), h in self.hits.items() if n == name]))
            for name in dict.fromkeys(n for n, _ in self.hits)
        }
        found = {f"balanced_accuracy:{n}": v for n, v in each.items()}
        found |= {f"mae:{n}": float(np.mean(v)) for n, v in self.errors.items()}
        return {
            "balanced_accuracy": float(np.mean(list(each.values()))) if each else 0.0,
            "n": self.n,
            **found,
        }


OCCLUSION = OcclusionTask()

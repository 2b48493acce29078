"""Eyes: whether each of them is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mien.tasks.base import Answer, LogitsTask
from mien.tasks.columns import Column, number_columns
from mien.types import Array, Crop, Floats

SIDES = ("left", "right")  # the subject's own


@dataclass(frozen=True, slots=True)
class Eyes(Answer):
    """Whether the eyes are open.

    Attributes:
        left, right: probability, 0..1, that the subject's own left or right eye is open.
    """

    left: float
    right: float

    averaged: ClassVar[bool] = True

    @property
    def both_open(self) -> float:
        """The lower of the two probabilities, 0..1."""
        return min(self.left, self.right)

    def to_dict(self) -> dict[str, Any]:
        """{"left", "right"}."""
        return {"left": round(self.left, 4), "right": round(self.right, 4)}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return number_columns(name, SIDES)

    def summary(self) -> str:
        """`eyes closed` or `one eye closed`; empty where both are open."""
        closed = (self.left < 0.5) + (self.right < 0.5)
        return ("", "one eye closed", "eyes closed")[closed]

    def value(self) -> float:
        """`both_open`."""
        return self.both_open

    def mean_terms(self) -> Array:
        return np.array([self.left, self.right])

    def from_mean(self, terms: Array) -> Eyes:
        return Eyes(float(terms[0]), float(terms[1]))


@dataclass(frozen=True, kw_only=True)
class EyesTask(LogitsTask[Eyes]):
    """Open or closed, of each eye; raw answers are logits of "open" in picture order.

    A label maps "left" and "right", the subject's own, to 0..1, or to None where it is not known.

    Attributes:
        temperature: what logits are divided by; weights may bring theirs.
    """

    answer: ClassVar[type[Answer]] = Eyes
    name: str = "eyes"
    labels: str = "open2"
    raw_names = ("right", "left")  # the subject's right eye is the left one in the picture
    flipped = (1, 0)
    temperature: float = 1.0

    def read(self, raw: Floats, crop: Crop) -> Eyes:
        return Eyes(**self.probabilities(np.asarray(raw, np.float64) / self.temperature))

    def metrics(self) -> EyesAccuracy:
        return EyesAccuracy()


class EyesAccuracy:
    """Accuracy in percent of single eyes at 0.5, of the open and of the closed ones, and their mean."""

    headline = "balanced_accuracy"

    def __init__(self) -> None:
        self.hits: dict[bool, list[bool]] = {True: [], False: []}
        self.n = 0

    def update(self, answer: Eyes, label: Mapping[str, Any]) -> None:
        self.n += 1
        for side in SIDES:
            if (value := label.get(side)) is not None:
                truth = float(value) >= 0.5
                self.hits[truth].append((getattr(answer, side) >= 0.5) == truth)

    def compute(self) -> dict[str, float]:
        known = {truth: 100 * float(np.mean(h)) for truth, h in self.hits.items() if h}
        every = [hit for h in self.hits.values() for hit in h]
        return {
            "balanced_accuracy": float(np.mean(list(known.values()))),
            "accuracy": 100 * float(np.mean(every)),
            **({"open": known[True]} if True in known else {}),
            **({"closed": known[False]} if False in known else {}),
            "n": self.n,
        }


EYES = EyesTask()

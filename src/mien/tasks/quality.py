"""Quality: whether a face can be recognized, as one score, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mien.geometry import scale_of
from mien.tasks.base import Answer, LogitsTask
from mien.tasks.columns import Column, number_columns
from mien.types import Array, Crop, Floats

PARTS = ("sharpness", "light", "size", "pose", "occlusion")
_EYES = 0.25  # distance of the eyes, in sides of the crop
FULL_SIZE = 40.0  # pixels between the eyes from which on more pixels do not help


@dataclass(frozen=True, slots=True)
class Quality(Answer):
    """How well a face can be recognized. All numbers are 0..1, and 1 is best.

    Attributes:
        score: predicts whether verification will work.
        sharpness: detail.
        light: brightness and evenness.
        size: pixels between the eyes in the photo, by `FULL_SIZE`.
        pose: 1 faces the camera.
        occlusion: 1 is free of anything that covers it.
    """

    score: float
    sharpness: float
    light: float
    size: float
    pose: float
    occlusion: float

    averaged: ClassVar[bool] = True

    @property
    def weakest(self) -> str:
        """The name of the part with the lowest number."""
        return min(PARTS, key=lambda part: float(getattr(self, part)))

    def to_dict(self) -> dict[str, Any]:
        """{"score", "sharpness", "light", "size", "pose", "occlusion"}."""
        return {n: round(getattr(self, n), 4) for n in ("score", *PARTS)}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return number_columns(name, ("score", *PARTS))

    def summary(self) -> str:
        """`quality 0.83`."""
        return f"quality {self.score:.2f}"

    def value(self) -> float:
        """The score."""
        return self.score

    def mean_terms(self) -> Array:
        return np.array([self.score, *(getattr(self, n) for n in PARTS)])

    def from_mean(self, terms: Array) -> Quality:
        return Quality(*terms.tolist())


@dataclass(frozen=True, kw_only=True)
class QualityTask(LogitsTask[Quality]):
    """A score and four parts; raw answers are logits. The size follows from the crop.

    A label maps some of "score", "sharpness", "light", "pose" and "occlusion" to 0..1; what it leaves out is
    not known. The score's label is the similarity of the face's embedding to that of a good picture.
    """

    answer: ClassVar[type[Answer]] = Quality
    name: str = "quality"
    labels: str = "quality5"
    raw_names = ("score", "sharpness", "light", "pose", "occlusion")

    def read(self, raw: Floats, crop: Crop) -> Quality:
        eyes = _EYES * crop.pixels.shape[1] / scale_of(crop.from_photo)
        return Quality(size=min(1.0, eyes / FULL_SIZE), **self.probabilities(raw))

    def metrics(self) -> QualityError:
        return QualityError()


class QualityError:
    """Mean absolute error of the score, and its rank correlation with the labels."""

    headline = "mae"

    def __init__(self) -> None:
        self.rows = list[tuple[float, float]]()

    def update(self, answer: Quality, label: Mapping[str, Any]) -> None:
        if (value := label.get("score")) is not None:
            self.rows.append((answer.score, float(value)))

    def compute(self) -> dict[str, float]:
        guess, truth = np.asarray(self.rows, np.float64).reshape(-1, 2).T
        one, other = (np.argsort(np.argsort(v)).astype(np.float64) for v in (guess, truth))
        varied = len(guess) > 1 and guess.std() > 0 and truth.std() > 0
        return {
            "mae": float(np.abs(guess - truth).mean()),
            **({"rank_correlation": float(np.corrcoef(one, other)[0, 1])} if varied else {}),
            "n": len(guess),
        }


QUALITY = QualityTask()

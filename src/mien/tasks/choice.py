"""Choice: one of k, such as the expression of a face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien.tasks.base import Answer, Criterion, Task, Vector, over_labeled, rounded, softmax
from mien.tasks.columns import Column, number_columns, value_at
from mien.types import Array, Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Choice(Answer):
    """One of k.

    Attributes:
        label: the likeliest.
        probabilities: name -> 0..1, summing to 1, in the label set's display order.
        labels: the label set's id.
    """

    label: str
    probabilities: Mapping[str, float] = field(hash=False)
    labels: str

    averaged: ClassVar[bool] = True

    def confident(self, threshold: float) -> str | None:
        """The label if its probability is at least `threshold`, else None."""
        return self.label if self.probabilities[self.label] >= threshold else None

    def to_dict(self) -> dict[str, Any]:
        """{"set", "label", "probabilities"}."""
        return {"set": self.labels, "label": self.label, "probabilities": rounded(self.probabilities)}

    def own_columns(self, name: str) -> list[Column]:
        return _columns(name, self.probabilities)

    def summary(self) -> str:
        """The label and its probability, such as `happiness  97%`."""
        return f"{self.label:<{max(map(len, self.probabilities))}} {self.probabilities[self.label]:4.0%}"

    def tag(self) -> str:
        """The label."""
        return self.label

    def value(self) -> str:
        """The label."""
        return self.label

    def mean_terms(self) -> Array:
        return np.array(list(self.probabilities.values()))

    def from_mean(self, terms: Array) -> Choice:
        probabilities = dict(zip(self.probabilities, terms.tolist(), strict=True))
        return Choice(max(probabilities, key=lambda n: probabilities[n]), probabilities, self.labels)


def _columns(name: str, shown: Iterable[str]) -> list[Column]:
    return [Column(name, str, value_at(name, "label")), *number_columns(name, shown, "probabilities")]


@dataclass(frozen=True)
class ChoiceTask(Task[Choice]):
    """One of k, trained by cross-entropy; a label is an index or a distribution over the k (votes).

    Attributes:
        names: in index order.
        display: the same names in the order in which people are shown them; by default `names`.
        mirror: for each index, the one it becomes when the picture is mirrored; by default itself.
        temperature: what logits are divided by when they are read; weights may bring theirs, see
            docs/model-card.md.
    """

    answer: ClassVar[type[Answer]] = Choice
    activation = "softmax"
    names: tuple[str, ...]
    _: KW_ONLY
    sensitive: bool = True
    display: tuple[str, ...] = ()
    mirror: tuple[int, ...] = ()
    temperature: float = 1.0

    @property
    def shape(self) -> Vector:
        return Vector(len(self.names))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.names

    @property
    def _shown(self) -> tuple[str, ...]:
        return self.display or self.names

    @property
    def _partners(self) -> list[int]:
        return list(self.mirror or range(len(self.names)))

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            return -(target * raw.log_softmax(-1)).sum(-1).mean()

        return over_labeled(loss)

    def undo_hflip(self, raw: Floats) -> Floats:
        return raw[:, self._partners]

    def read(self, raw: Floats, crop: Crop) -> Choice:
        by_name = dict(
            zip(self.names, softmax(np.asarray(raw, np.float64) / self.temperature).tolist(), strict=True)
        )
        shown = {n: by_name[n] for n in self._shown}
        return Choice(max(shown, key=lambda n: shown[n]), shown, self.labels)

    def columns(self) -> list[Column]:
        return _columns(self.name, self._shown)

    def decoder(self) -> dict[str, Any]:
        return {
            "kind": "choice",
            "names": self.names,
            "display": self._shown,
            "temperature": self.temperature,
        }

    def metrics(self) -> Accuracy:
        return Accuracy(self.names)

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        votes = (
            np.asarray(label, np.float32)
            if np.ndim(label)
            else np.eye(len(self.names), dtype=np.float32)[int(label)]
        )
        return (votes[self._partners] if mirrored else votes) / votes.sum(), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.full(len(self.names), 1 / len(self.names), np.float32), np.False_


class Accuracy:
    """Percentage of right answers, the recall of each class that occurs in the truth, and the mean of these
    recalls.
    """

    headline = "accuracy"

    def __init__(self, names: tuple[str, ...]):
        self.names, self.rows = names, list[tuple[int, int]]()

    def update(self, answer: Choice, label: Any) -> None:
        truth = int(label) if np.ndim(label) == 0 else int(np.argmax(label))
        self.rows.append((truth, self.names.index(answer.label)))

    def compute(self) -> dict[str, float]:
        truth, guess = np.asarray(self.rows).T
        recall = {
            f"recall:{n}": 100 * float((guess[truth == i] == i).mean())
            for i, n in enumerate(self.names)
            if (truth == i).any()
        }
        return {
            "accuracy": 100 * float((truth == guess).mean()),
            "mean_class_accuracy": float(np.mean(list(recall.values()))),
            "n": len(truth),
            **recall,
        }


# FER+ index order inside the weights; people are shown neutral first, then the other seven.
EXPRESSION8 = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
EXPRESSION = ChoiceTask(
    "expression",
    "expression8",
    EXPRESSION8,
    display=("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
)
# The order of AffectNet's first seven, which Faceptor gives RAF-DB and FER+ too.
EXPRESSION7 = ChoiceTask(
    "expression7", "expression7", ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
)
# How closely somebody follows a lesson (BNU-LSVED; iFAN's third task).
EMOTION7 = ChoiceTask(
    "emotion7",
    "emotion7",
    ("concentrated", "disgust", "distracted", "happy", "puzzled", "surprised", "tired"),
)
# MTFL numbers its five poses 1 to 5; a mirror turns left into right.
POSE5 = ChoiceTask(
    "pose5",
    "pose5",
    ("left_profile", "left", "front", "right", "right_profile"),
    mirror=(4, 3, 2, 1, 0),
    sensitive=False,
)

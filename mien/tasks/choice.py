"""Choice: one of k, such as the expression of a face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.tasks.contract import Criterion, Task, Vector, over_known, rounded, softmax
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """One of k.

    Attributes:
        label: the likeliest. probabilities: name -> 0..1, summing to 1, in the label set's display order.
        labels: the label set's id.
    """

    label: str
    probabilities: Mapping[str, float]
    labels: str

    def to_dict(self) -> dict[str, Any]:
        """{"set", "label", "probabilities"}."""
        return {"set": self.labels, "label": self.label, "probabilities": rounded(self.probabilities)}


class ChoiceTask(Task[Choice]):
    """One of k, trained by cross-entropy; a label is an index or a distribution over the k (votes).

    Args:
        names: in index order. display: the same names in the order in which people are shown them.
    """

    def __init__(self, name: str, labels: str, names: tuple[str, ...], *, display: tuple[str, ...] | None = None, sensitive: bool = True):
        self.name, self.labels, self.names, self.sensitive = name, labels, names, sensitive
        self.display = display or names
        self.shape = Vector(len(names))

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            return -(target * raw.log_softmax(-1)).sum(-1).mean()

        return over_known(loss)

    def read(self, raw: Floats, crop: Crop) -> Choice:
        by_name = dict(zip(self.names, softmax(raw).tolist(), strict=True))
        shown = {n: by_name[n] for n in self.display}
        return Choice(max(shown, key=lambda n: shown[n]), shown, self.labels)

    def metrics(self) -> Accuracy:
        return Accuracy(self.names)

    def move(self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]) -> tuple[Any, Any]:
        if np.ndim(label) == 0:
            return np.eye(len(self.names), dtype=np.float32)[int(label)], np.True_
        votes = np.asarray(label, np.float32)
        return votes / votes.sum(), np.True_

    def blank(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.full(len(self.names), 1 / len(self.names), np.float32), np.False_


class Accuracy:
    """Share of right answers, and the recall of each class."""

    headline = "accuracy"

    def __init__(self, names: tuple[str, ...]):
        self.names, self.rows = names, list[tuple[int, int]]()

    def update(self, answer: Choice, label: Any) -> None:
        truth = int(label) if np.ndim(label) == 0 else int(np.argmax(label))
        self.rows.append((truth, self.names.index(answer.label)))

    def compute(self) -> dict[str, float]:
        truth, guess = np.asarray(self.rows).T
        recall = {f"recall:{n}": 100 * float((guess[truth == i] == i).mean()) for i, n in enumerate(self.names) if (truth == i).any()}
        return {"accuracy": 100 * float((truth == guess).mean()), "n": len(truth), **recall}


# FER+ index order inside the weights; people are shown neutral first, then the other seven.
EXPRESSION8 = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
EXPRESSION = ChoiceTask(
    "expression",
    "expression8",
    EXPRESSION8,
    display=("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"),
)
# The order of AffectNet's first seven, which Faceptor gives RAF-DB and FER+ too.
EXPRESSION7 = ChoiceTask("expression7", "expression7", ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"))

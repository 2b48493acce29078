"""Attributes: many yes/no questions, each known or not by itself. Gender is read from one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.tasks.contract import Criterion, Derived, Task, Vector, rounded, sigmoid, silent
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor

CELEBA40 = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose", "Black_Hair",
    "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair",
    "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face",
    "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair",
    "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attributes:
    """Many yes/no answers.

    Attributes:
        probabilities: name -> 0..1 of "yes", in the label set's order.
        labels: the label set's id.
    """

    probabilities: Mapping[str, float]
    labels: str

    def __getitem__(self, name: str) -> float:
        return self.probabilities[name]

    def to_dict(self) -> dict[str, Any]:
        """{name: probability}."""
        return rounded(self.probabilities)


@dataclass(frozen=True, slots=True)
class Gender:
    """Gender as it is perceived from the picture.

    Attributes:
        label: "female" or "male". probability: of that label, 0.5..1.
    """

    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """{"label", "probability"}."""
        return {"label": self.label, "probability": round(self.probability, 4)}


class AttributesTask(Task[Attributes]):
    """n yes/no questions by binary cross-entropy.

    A label is a mapping name -> 0/1 of whatever the data set knows. Loss: the mean over known elements, where those of
    a picture that knows k of them weigh 1/sqrt(k). With equal weights a set that knows one of forty is not heard
    beside one that knows all; with equal weights a picture, the forty are not.
    """

    sensitive = True

    def __init__(self, name: str, labels: str, names: tuple[str, ...]):
        self.name, self.labels, self.names, self.shape = name, labels, names, Vector(len(names))
        self.index = {n: i for i, n in enumerate(names)}

    def criterion(self) -> Criterion:
        from torch.nn import functional as F

        def loss(raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
            if not bool(known.any()):
                return silent(raw)
            bce = F.binary_cross_entropy_with_logits(raw, target, reduction="none")
            weight = known.to(raw.dtype)
            weight = weight * weight.sum(1, keepdim=True).clamp_min(1).rsqrt()
            return (bce * weight).sum() / weight.sum()

        return loss

    def read(self, raw: Floats, crop: Crop) -> Attributes:
        return Attributes(dict(zip(self.names, sigmoid(raw).tolist(), strict=True)), self.labels)

    def metrics(self) -> MeanAccuracy:
        return MeanAccuracy()

    def move(self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]) -> tuple[Any, Any]:
        target, known = self.blank(size)
        for name, value in label.items():
            target[self.index[name]], known[self.index[name]] = value, True
        return target, known

    def blank(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(len(self.names), np.float32), np.zeros(len(self.names), bool)


class MeanAccuracy:
    """Accuracy at 0.5 of each attribute over the pictures that know it; mean over attributes."""

    headline = "mean_accuracy"

    def __init__(self) -> None:
        self.hits: dict[str, list[bool]] = {}
        self.n = 0

    def update(self, answer: Attributes, label: Any) -> None:
        self.n += 1
        for name, value in label.items():
            self.hits.setdefault(name, []).append((answer[name] >= 0.5) == bool(value))

    def compute(self) -> dict[str, float]:
        each = {n: 100 * float(np.mean(v)) for n, v in self.hits.items()}
        return {"mean_accuracy": float(np.mean(list(each.values()))), "n": self.n, **{f"accuracy:{k}": v for k, v in each.items()}}


def _gender(answer: Attributes) -> Gender:
    p = answer["Male"]
    return Gender("male" if p >= 0.5 else "female", max(p, 1 - p))


ATTRIBUTES = AttributesTask("attributes", "celeba40", CELEBA40)
GENDER: Derived[Gender] = Derived("gender", "attributes", _gender, sensitive=True)

"""Attributes: many yes/no questions, each known or not by itself, such as CelebA's forty or facial action
units.

Gender is read from one of the forty.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien.errors import UnknownLabel
from mien.tasks.base import Answer, Criterion, Derived, Metrics, Task, Vector, rounded, sigmoid, zero_loss
from mien.tasks.columns import Column, number_columns, value_at
from mien.types import Array, Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor

CELEBA40 = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)


_NOT_SUMMARIZED = frozenset(("Male", "Young", "Attractive"))


@dataclass(frozen=True, slots=True)
class Attributes(Answer):
    """Many yes/no answers.

    Attributes:
        probabilities: name -> 0..1 of "yes", in the label set's order.
        labels: the label set's id.
    """

    probabilities: Mapping[str, float] = field(hash=False)
    labels: str

    averaged: ClassVar[bool] = True

    def __getitem__(self, name: str) -> float:
        """The probability of an attribute.

        Raises:
            UnknownLabel: (a KeyError) with the names that there are.
        """
        if name not in self.probabilities:
            near = [n for n in self.probabilities if str(name).casefold() in n.casefold()]
            near = near or difflib.get_close_matches(str(name), self.probabilities, 3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
            raise UnknownLabel(
                f"there is no attribute {name!r}{hint} there are: {', '.join(self.probabilities)}"
            )
        return self.probabilities[name]

    def to_dict(self) -> dict[str, Any]:
        """{name: probability}."""
        return rounded(self.probabilities)

    def own_columns(self, name: str) -> list[Column]:
        return number_columns(name, self.probabilities)

    def summary(self) -> str:
        """The likeliest of those above one half, at most four; gender and age have words of their own."""
        likely = [n for n, p in self.probabilities.items() if p >= 0.5 and n not in _NOT_SUMMARIZED]
        return ", ".join(sorted(likely, key=lambda n: -self.probabilities[n])[:4])

    def tag(self) -> str:
        """The likeliest of those above one half."""
        best = max(self.probabilities, key=lambda n: self.probabilities[n])
        return best if self.probabilities[best] >= 0.5 else ""

    def mean_terms(self) -> Array:
        return np.array(list(self.probabilities.values()))

    def from_mean(self, terms: Array) -> Attributes:
        return Attributes(dict(zip(self.probabilities, terms.tolist(), strict=True)), self.labels)


@dataclass(frozen=True, slots=True)
class Gender(Answer):
    """Gender as it is perceived from the picture.

    Attributes:
        label: "female" or "male".
        probability: of that label, 0.5..1.
    """

    label: str
    probability: float

    averaged: ClassVar[bool] = True

    def confident(self, threshold: float) -> str | None:
        """The label if its probability is at least `threshold`, else None."""
        return self.label if self.probability >= threshold else None

    def to_dict(self) -> dict[str, Any]:
        """{"label", "probability"}."""
        return {"label": self.label, "probability": round(self.probability, 4)}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        label = Column(name, str, value_at(name, "label"))
        return [label, *number_columns(name, ("probability",))]

    def summary(self) -> str:
        """The label and its probability, such as `female  98%`."""
        return f"{self.label:<6} {self.probability:4.0%}"

    def tag(self) -> str:
        """`F` or `M`."""
        return self.label[:1].upper()

    def value(self) -> str:
        """The label."""
        return self.label

    def mean_terms(self) -> Array:
        return np.array([self.probability if self.label == "female" else 1 - self.probability])

    def from_mean(self, terms: Array) -> Gender:
        female = float(terms[0])
        return Gender("female", female) if female >= 0.5 else Gender("male", 1 - female)


@dataclass(frozen=True)
class AttributesTask(Task[Attributes]):
    """n yes/no questions by binary cross-entropy.

    A label is a mapping name -> 0/1 of whatever the data set knows; None, NaN and -1 are unknown too. Loss:
    the mean over known elements, where those of a picture that knows k of them weigh 1/sqrt(k). With equal
    weights a set that knows one of forty is not heard next to one that knows all; with equal weights a
    picture, the forty are not.

    Attributes:
        names: of the questions, in the order of the raw numbers.
        temperature: what logits are divided by when they are read; weights may bring theirs, see
            docs/model-card.md.
    """

    answer: ClassVar[type[Answer]] = Attributes
    activation = "sigmoid"
    names: tuple[str, ...]
    _: KW_ONLY
    sensitive: bool = True
    temperature: float = 1.0

    @property
    def shape(self) -> Vector:
        return Vector(len(self.names))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.names

    @cached_property
    def index(self) -> dict[str, int]:
        """Name -> its place in the raw numbers."""
        return {n: i for i, n in enumerate(self.names)}

    def criterion(self) -> Criterion:
        from torch.nn import functional as F

        def loss(raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
            if not bool(mask.any()):
                return zero_loss(raw)
            bce = F.binary_cross_entropy_with_logits(raw, target, reduction="none")
            weight = mask.to(raw.dtype)
            weight = weight * weight.sum(1, keepdim=True).clamp_min(1).rsqrt()
            return (bce * weight).sum() / weight.sum()

        return loss

    def read(self, raw: Floats, crop: Crop) -> Attributes:
        return Attributes(
            dict(
                zip(self.names, sigmoid(np.asarray(raw, np.float64) / self.temperature).tolist(), strict=True)
            ),
            self.labels,
        )

    def columns(self) -> list[Column]:
        return number_columns(self.name, self.names)

    def loss_weight(self, target: Tensor, mask: Tensor) -> float:
        """The sum of the elements' weights: 1/sqrt(k) each in a picture that knows k of them."""
        return float(mask.double().sum(1).sqrt().sum())

    def decoder(self) -> dict[str, Any]:
        return {"kind": "attributes", "names": self.names, "temperature": self.temperature}

    def metrics(self) -> Metrics:
        return MeanAccuracy()

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        target, mask = self.missing_target(size)
        for name, value in _known(label).items():
            target[self.index[name]], mask[self.index[name]] = value, True
        return target, mask

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(len(self.names), np.float32), np.zeros(len(self.names), bool)


def _known(label: Mapping[str, Any]) -> dict[str, float]:
    """What a label says: unknown is None, NaN or -1 (a reader of a set that writes -1 for "no" gives 0
    instead).
    """
    return {n: float(v) for n, v in label.items() if v is not None and v == v and v != -1}


class MeanAccuracy:
    """Accuracy at 0.5 of each attribute over the pictures that know it; mean over attributes."""

    headline = "mean_accuracy"

    def __init__(self) -> None:
        self.hits: dict[str, list[bool]] = {}
        self.n = 0

    def update(self, answer: Attributes, label: Any) -> None:
        self.n += 1
        for name, value in _known(label).items():
            self.hits.setdefault(name, []).append((answer[name] >= 0.5) == (value >= 0.5))

    def compute(self) -> dict[str, float]:
        each = {n: 100 * float(np.mean(v)) for n, v in self.hits.items()}
        return {
            "mean_accuracy": float(np.mean(list(each.values()))),
            "n": self.n,
            **{f"accuracy:{k}": v for k, v in each.items()},
        }


@dataclass(frozen=True)
class UnitsTask(AttributesTask):
    """Facial action units: AttributesTask in all, but scored by F1, since most units are absent most of the
    time.
    """

    def metrics(self) -> UnitsF1:
        return UnitsF1()


class UnitsF1:
    """F1 of "yes" at 0.5 of each unit over the pictures that know it, 0..1; mean over units.

    A unit that is absent in both truth and answer everywhere has no F1 (0/0) and is left out of the mean.
    """

    headline = "mean_f1"

    def __init__(self) -> None:
        self.counts: dict[str, np.ndarray] = {}  # hits, yes in the truth, yes in the answer
        self.n = 0

    def update(self, answer: Attributes, label: Any) -> None:
        self.n += 1
        for name, value in _known(label).items():
            truth, guess = value >= 0.5, answer[name] >= 0.5
            self.counts[name] = self.counts.get(name, np.zeros(3, int)) + (truth and guess, truth, guess)

    def compute(self) -> dict[str, float]:
        each = {
            n: 2 * float(hit) / float(truth + guess)
            for n, (hit, truth, guess) in self.counts.items()
            if truth + guess
        }
        return {
            "mean_f1": float(np.mean(list(each.values()))) if each else 0.0,
            "n": self.n,
            **{f"f1:{k}": v for k, v in each.items()},
        }


def _units(*numbers: int) -> tuple[str, ...]:
    """Names of facial action units."""
    return tuple(f"AU{n}" for n in numbers)


def _gender(answer: Attributes) -> Gender:
    p = answer["Male"]
    return Gender("male" if p >= 0.5 else "female", max(p, 1 - p))


ATTRIBUTES = AttributesTask("attributes", "celeba40", CELEBA40)
GENDER: Derived[Gender] = Derived("gender", "attributes", _gender, Gender, sensitive=True)
UNITS12 = UnitsTask("units12", "bp4d12", _units(1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24))
UNITS8 = UnitsTask("units8", "disfa8", _units(1, 2, 4, 6, 9, 12, 25, 26))

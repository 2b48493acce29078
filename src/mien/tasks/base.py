"""The contract of a task: encoding of labels, loss, decoding into an answer, metrics.

Only `criterion` needs torch and imports it; decoding never does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.tasks.columns import Column, json_column
from mien.types import Array, Crop, Floats, Pixels

if TYPE_CHECKING:
    from torch import Tensor

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Vector:
    """n numbers: raw answers are (B, n)."""

    n: int


@dataclass(frozen=True, slots=True)
class Points:
    """n places: raw answers are heat maps (B, n, h, w), logits, or coordinates (B, n, 2) as fractions of the
    crop.
    """

    n: int


@dataclass(frozen=True, slots=True)
class Map:
    """n classes per place: raw answers are (B, n, h, w), logits at any resolution."""

    n: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector of d numbers whose direction represents a person: raw answers are (B, d)."""

    d: int


@dataclass(frozen=True, slots=True)
class Boxes:
    """Faces in an entire photo: raw answers are (B, cells, 15), see `mien.tasks.detection`."""

    strides: tuple[int, ...]


Shape = Vector | Points | Map | Embedding | Boxes
Criterion = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


class Metrics(Protocol):
    """Collects answers against labels, both in pixels of the original picture."""

    headline: str

    def update(self, answer: Any, label: Any) -> None: ...
    def compute(self) -> dict[str, float]: ...


class Answer(ABC):
    """A task's prediction for one face: the base of frozen dataclasses, with the defaults of most answers.

    Attributes:
        averaged: whether the mean over the frames of a track is meaningful. Points, masks and poses belong to
            their frame.
    """

    __slots__ = ()

    averaged: ClassVar[bool] = False

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as they stand in the record of a face."""

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        """Columns of the flat record for a task of that name; by default one text column of JSON."""
        return [json_column(name)]

    def own_columns(self, name: str) -> list[Column]:
        """Columns of this answer without its task; the same as `Task.columns`."""
        return type(self).columns(name)

    def summary(self) -> str:
        """A few words for one line of text about a face; empty where there is nothing to say in a line."""
        return ""

    def tag(self) -> str:
        """One word or number for the label of a face in a picture; empty where there is none."""
        return ""

    def value(self) -> Any:
        """The answer as one number, word or array, for tables of other libraries; None where it has none."""
        return None

    def photo_points(self) -> Floats | None:
        """(n, 2) points in photo pixels that move with the face in a video; None if the answer has none."""
        return None

    def with_photo_points(self, points: Floats) -> Self:
        """This answer with other `photo_points`."""
        raise TypeError(f"{type(self).__name__} has no points")

    def photo_mask(self, width: int, height: int) -> Pixels | None:
        """(height, width) uint8 classes in photo geometry, 255 where unknown; None if there is no mask."""
        return None

    def direction(self) -> Floats | None:
        """(d,) unit vector of identity, compared by dot product; None if the answer has none."""
        return None

    def detail(self) -> dict[str, Any]:
        """Members that the record of a face has only on request, such as a mask; empty for most answers."""
        return {}

    def mean_terms(self) -> Array:
        """The numbers whose weighted mean over frames is meaningful, (n,) float64; see `averaged`."""
        raise TypeError(f"{type(self).__name__} belongs to one frame and has no mean")

    def from_mean(self, terms: Array) -> Self:
        """An answer like this one from the mean of `mean_terms`."""
        raise TypeError(f"{type(self).__name__} belongs to one frame and has no mean")


A = TypeVar("A", bound=Answer)


class WeightedMean(Generic[A]):
    """Running weighted mean of answers to one task, such as those to the frames of a track.

    Attributes:
        latest: the answer that was added last; None before the first.
    """

    def __init__(self) -> None:
        self._total: Array | float = 0.0
        self._weight = 0.0
        self.latest: A | None = None

    def add(self, answer: A, weight: float) -> None:
        """One more answer. weight: 0 or more."""
        self._total = self._total + weight * answer.mean_terms()
        self._weight += weight
        self.latest = answer

    def answer(self) -> A:
        """The mean so far.

        Raises:
            UsageError: nothing was added.
        """
        if self.latest is None:
            raise UsageError("a mean of no answers; add one first")
        return self.latest.from_mean(np.asarray(self._total / max(self._weight, 1e-12)))


@dataclass(frozen=True)
class Task(ABC, Generic[R]):
    """One task. R is the class of the answers; its docstring states units and ranges.

    A kind of task is a frozen dataclass; `dataclasses.replace` makes a task with other settings.

    Attributes:
        name: the key in `Face`, in batches and in JSON.
        labels: the label set's id, such as "ibug68"; two orders of 19 classes exist, so it travels with the
            weights.
        sensitive: whether a policy may want to switch it off (identity, gender, expression ...).
        answer: the class of the answers, for what is the same for all of them.
        activation: how raw numbers become probabilities: one of n ("softmax"), each by itself ("sigmoid"), or
            not at all ("none"), as coordinates, angles and embeddings.
    """

    answer: ClassVar[type[Answer]] = Answer  # type: ignore[type-abstract]
    activation: ClassVar[Literal["softmax", "sigmoid", "none"]] = "none"
    name: str
    labels: str
    sensitive: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """All that a model needs to know to answer it."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the raw numbers stand for, in their order; empty where they have no names."""
        return ()

    @abstractmethod
    def criterion(self) -> Criterion:
        """A callable (raw, target, known) -> scalar tensor: the mean over known items; zero, with zero
        gradient, when none is.
        """

    @abstractmethod
    def read(self, raw: Floats, crop: Crop) -> R:
        """One face's raw answer (no batch axis) -> the answer in photo coordinates."""

    @abstractmethod
    def metrics(self) -> Metrics:
        """A fresh metric for this task's answers."""

    @abstractmethod
    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        """Follow a picture into a crop: label -> (target, known), as they stand in a batch.

        Args:
            label: as a data set gives it, in pixels of the stored picture.
            affine: (2, 3) stored picture -> crop; it contains the mirroring, if any.
            mirrored: whether left and right were exchanged.
            size: (width, height) of the crop.
        """

    @abstractmethod
    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        """A finite (target, known = all False) of the right shapes, for a picture that has no label."""

    def columns(self) -> list[Column]:
        """Columns of the flat record: those of the answer's class, unless the label set decides them."""
        return self.answer.columns(self.name)

    def loss_weight(self, target: Tensor, mask: Tensor) -> float:
        """What the criterion divides its sum by: the number of known items.

        Means of the parts of a batch, weighted by it, add up to the mean of the entire batch.
        """
        return float(mask.sum())

    def decoder(self) -> dict[str, Any] | None:
        """How the browser page reads raw outputs: {"kind": ...} and settings as plain JSON values.

        None for a task that the page does not read.
        """
        return None

    def undo_hflip(self, raw: Floats) -> Floats:
        """Convert raw outputs (B, ...) for flipped crops to those for the unflipped crops.

        Most outputs do not change.
        """
        return raw

    def has_setting(self, name: str) -> bool:
        """Whether `dataclasses.replace` can change that field of the task."""
        return any(f.name == name for f in fields(self))

    def header(self) -> dict[str, Any]:
        """The task's entry in the weights' header.

        Settings at their defaults are left out, see `configured`.
        """
        own = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        changed = {k: own[k][0] for k in _SETTINGS if k in own and own[k][0] != own[k][1]}
        return {"name": self.name, "labels": self.labels, **changed}


@dataclass(frozen=True)
class LogitsTask(Task[R]):
    """A task of numbers 0..1 with names, each by a logit of its own.

    A label maps some of the names to 0..1; what it leaves out, or maps to None, is not known.

    Attributes:
        raw_names: names in the order of the raw numbers.
        flipped: the place of each number in a mirrored picture; empty: all keep theirs.
    """

    activation = "sigmoid"
    raw_names: ClassVar[tuple[str, ...]]
    flipped: ClassVar[tuple[int, ...]] = ()

    @property
    def shape(self) -> Vector:
        return Vector(len(self.raw_names))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.raw_names

    def criterion(self) -> Criterion:
        from torch.nn import functional as F

        def loss(raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
            if not bool(mask.any()):
                return zero_loss(raw)
            return F.binary_cross_entropy_with_logits(raw[mask], target[mask])

        return loss

    def undo_hflip(self, raw: Floats) -> Floats:
        return raw[:, list(self.flipped)] if self.flipped else raw

    def probabilities(self, raw: npt.ArrayLike) -> dict[str, float]:
        """Name -> number, 0..1, of one face's logits."""
        return dict(zip(self.raw_names, sigmoid(raw).tolist(), strict=True))

    def encode_target(
        self, label: Mapping[str, Any], affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        target, mask = self.missing_target(size)
        for i, name in enumerate(self.raw_names):
            if (value := label.get(name)) is not None:
                place = self.flipped[i] if mirrored and self.flipped else i
                target[place], mask[place] = float(value), True
        return target, mask

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(len(self.raw_names), np.float32), np.zeros(len(self.raw_names), bool)


# Settings of a task that weights are trained for. They stand in the weights' header where they are not the
# default.
_SETTINGS = ("decoding", "year_offset")
DECODINGS = ("softmax", "sigmoid")
T = TypeVar("T", bound=Task[Any])


def configured(task: T, settings: Mapping[str, Any]) -> T:
    """The task with the settings that are named; the task itself where none is.

    Args:
        settings: an entry of a header's tasks; its keys "decoding" and "year_offset" are used, others are
            ignored.

    Raises:
        UsageError: a setting that the task does not have, or an unknown value.
    """
    named = {k: settings[k] for k in _SETTINGS if k in settings}
    if not named:
        return task
    if missing := [k for k in named if not task.has_setting(k)]:
        raise UsageError(f"{task.name} has no setting {missing[0]!r}; remove it")
    if named.get("decoding", "softmax") not in DECODINGS:
        raise UsageError(
            f"{task.name} has no decoding {named['decoding']!r}; use one of: {', '.join(DECODINGS)}"
        )
    offset = named.get("year_offset", 0)
    if type(offset) is not int or not 0 <= offset <= 100:
        raise UsageError(
            f"the year_offset of {task.name} is {offset!r}; use a whole number of years, 0 to 100"
        )
    return replace(task, **named)


@dataclass(frozen=True)
class Derived(Generic[A]):
    """An answer that follows from another task's answer; no head, no training.

    Attributes:
        name: the key in `Face` and JSON.
        source: the task whose answer is used.
        derive: that answer -> this answer.
        answer: the class of the answers.
        sensitive: whether a policy may want to switch it off.
    """

    name: str
    source: str
    derive: Callable[[Any], A]
    answer: type[A]
    sensitive: bool = False

    def columns(self) -> list[Column]:
        """Columns of the flat record."""
        return self.answer.columns(self.name)

    def read(self, raw: Floats, crop: Crop) -> A:
        """Not from raw numbers: `mien.inference.reader` calls `derive`.

        Present so that `face[mien.POSE]` is typed.
        """
        raise TypeError(f"{self.name} is derived from {self.source}; call derive(answer)")


def over_labeled(loss: Callable[[Tensor, Tensor], Tensor]) -> Criterion:
    """A criterion from a loss over rows: it sees the rows whose label is known, and is silent when there is
    none.
    """

    def over(raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return loss(raw[mask], target[mask]) if bool(mask.any()) else zero_loss(raw)

    return over


def zero_loss(raw: Tensor) -> Tensor:
    """Zero loss that still reaches the parameters, so that an absent task has zero gradients, not none."""
    return raw.sum() * 0.0


def sigmoid(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Logistic function that does not overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))


def softmax(x: npt.ArrayLike, axis: int = -1) -> npt.NDArray[np.float64]:
    """Normalized exponential along an axis."""
    e = np.exp(np.asarray(x, np.float64) - np.max(x, axis=axis, keepdims=True))
    out: npt.NDArray[np.float64] = e / e.sum(axis=axis, keepdims=True)
    return out


def rounded(values: Mapping[str, float], digits: int = 4) -> dict[str, float]:
    """Plain JSON numbers by name."""
    return {k: round(float(v), digits) for k, v in values.items()}

"""The types that all packages share. Needs only numpy.

Conventions: pictures are RGB uint8 (H, W, 3) and upright (EXIF applied on decoding); boxes are float xyxy in
pixels of the upright photo; points are float (n, 2), x then y, where the center of the top-left pixel is (0,
0).
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from mien.errors import UnknownTask

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Parameter

    from mien.tasks.base import Task

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
REPORTED_ROLL = 60.0  # degrees: a face that is turned further says so in its record


@dataclass(frozen=True, slots=True)
class View:
    """The preprocessing of a model. It is stored in the weights.

    Attributes:
        size: (width, height) of the crop in pixels.
        template: name of the five-point template in `geometry.TEMPLATES`; "photo" means no alignment.
        mean, std: per channel, RGB, on the 0..1 scale.
    """

    size: tuple[int, int]
    template: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `View.from_dict` is the way back."""
        return {
            "size": list(self.size),
            "template": self.template,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @staticmethod
    def from_dict(d: Mapping[str, Any]) -> View:
        """Inverse of `to_dict`."""
        size, mean, std = (tuple(d[k]) for k in ("size", "mean", "std"))
        return View(size, d["template"], mean, std)  # type: ignore[arg-type]

    def tensor(self, pixels: Pixels) -> Floats:
        """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, normalized."""
        scale = 1 / (255 * np.asarray(self.std, np.float32))
        offset = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        out = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
        for channel in range(
            3
        ):  # each to its place at once: a transposed copy of floats costs several times as much
            np.multiply(pixels[..., channel], scale[channel], out=out[:, channel])
            out[:, channel] -= offset[channel]
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """Pixels and the way home, never apart.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        from_photo: (2, 3) affine, photo pixels -> crop pixels.
        photo_size: (width, height) of the photo, where the crop may reach beyond it; None: unknown.
    """

    pixels: Pixels
    from_photo: npt.NDArray[np.float64]
    photo_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face found in a photo.

    Attributes:
        box: (4,) float xyxy, photo pixels. It may reach beyond the photo where the face does.
        score: 0..1.
        points: (5, 2) photo pixels, picture order: left eye in the picture, right eye, nose, mouth corners.
    """

    box: Floats
    score: float
    points: Floats

    @property
    def area(self) -> float:
        """Pixels squared."""
        x1, y1, x2, y2 = (float(v) for v in self.box)
        return max(0.0, x2 - x1) * max(0.0, y2 - y1)

    @property
    def roll(self) -> float:
        """Degrees by which the face is turned in the photo, clockwise, -180..180; 0 is upright. From the five
        points.

        The axis from the middle of the eyes to the middle of the mouth decides: it is long in profiles too,
        where the eyes are close.
        """
        return roll_of(self.points)

    @property
    def upright(self) -> bool:
        """Whether the face is turned by 45 degrees at most."""
        return abs(self.roll) <= 45


def roll_of(points: Floats) -> float:
    """Five points (5, 2) -> degrees, see `Detection.roll`."""
    x, y = (float(v) for v in points[3:].mean(0) - points[:2].mean(0))
    return math.degrees(math.atan2(-x, y))


class Named(Protocol[R_co]):
    """Whatever has a task's name and gives answers of type R."""

    @property
    def name(self) -> str: ...

    def read(self, raw: Floats, crop: Crop) -> R_co: ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Face:
    """What a caller receives: one face and the answers about it, in photo pixels.

    Two faces are equal only if they are the same object, so that `in` and `index` find a face. In a notebook,
    a face shows its crop.

    Attributes:
        box: (4,) float xyxy.
        score: 0..1.
        points: (5, 2), see `Detection.points`; always the detector's.
        answers: task name -> the answer's own frozen dataclass.
        crop: the pixels that the network saw and the affine that made them.
    """

    box: Floats
    score: float
    points: Floats
    answers: Mapping[str, Any] = field(default_factory=dict)
    crop: Crop | None = field(default=None, repr=False)

    @overload
    def __getitem__(self, task: Named[R]) -> R: ...
    @overload
    def __getitem__(self, task: str) -> Any: ...
    def __getitem__(self, task: Any) -> Any:
        """`face["age"]` or `face[mien.AGE]`.

        Raises:
            UnknownTask: (a KeyError) naming what was answered.
        """
        name = task if isinstance(task, str) else task.name
        if name not in self.answers:
            have = ", ".join(self.answers) or "nothing"
            raise UnknownTask(
                f"this face has no answer {name!r}; it has: {have}. Ask for it with tasks=[...]"
            )
        return self.answers[name]

    @property
    def roll(self) -> float:
        """Degrees by which the face is turned in the photo, see `Detection.roll`."""
        return roll_of(self.points)

    def __contains__(self, task: object) -> bool:
        return getattr(task, "name", task) in self.answers

    def __iter__(self) -> Iterator[str]:
        return iter(self.answers)

    def __repr__(self) -> str:
        box = ", ".join(f"{float(v):.0f}" for v in self.box)
        brief = f", {self.brief()}" if self.answers else ""
        return f"{type(self).__name__}(box=[{box}], score={float(self.score):.2f}{brief})"

    def brief(self) -> str:
        """The answers in one line: labels and ages as values, the others by name."""
        shown, named = [], []
        for name, answer in self.answers.items():
            value = getattr(answer, "label", None)
            if (years := getattr(answer, "years", None)) is not None:
                value = f"{years:.0f}"
            elif (estimate := getattr(answer, "estimate", None)) is not None:
                value = f"{estimate:.4g}"
            if value is None:
                named.append(name)
            else:
                shown.append(f"{name}={value}")
        return ", ".join(shown + named)

    def _repr_png_(self) -> bytes | None:
        """For notebooks: the crop that the network saw; None without a crop."""
        if self.crop is None:
            return None
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.crop.pixels).save(buffer, "PNG")
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The face as plain JSON values; the schema is in docs/schema.md.

        `points5` is `points`, the detector's, whatever the tasks are; the prediction of the task `points5` is
        `points5_network`.
        """
        out: dict[str, Any] = {
            "box": [round(float(v), 2) for v in self.box],
            "score": round(float(self.score), 4),
            "points5": _pairs(self.points),
        }
        if abs(self.roll) > REPORTED_ROLL:
            out["roll"] = round(self.roll, 1)
        for name, answer in self.answers.items():
            if name == "points5":
                out["points5_network"] = _pairs(answer.points)
            else:
                out[name] = answer.to_dict()
        return out


def _pairs(points: Floats) -> list[list[float]]:
    """[x, y] of each point, to a hundredth of a pixel."""
    return [[round(float(x), 2), round(float(y), 2)] for x, y in points]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One labeled picture, as its data set gives it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: task name -> label in pixels of this picture; a missing key was never annotated.
        points: (5, 2) float, where the face is; a template fit brings it to a model's view.
        name: unique within its data set.
        label_offset_x: systematic horizontal offset of this data set's labels in pixels, for example from
            1-based coordinates. Labels of a flipped picture keep it, so that a network learns the set's
            convention.
    """

    image: Pixels
    labels: Mapping[str, Any]
    points: npt.NDArray[np.float64]
    name: str = ""
    label_offset_x: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One training picture in a model's view, labels moved along.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        labels: task name -> (target, mask); see `Task.encode_target`.
    """

    pixels: Pixels
    labels: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A training batch, as numpy arrays.

    Attributes:
        images: (B, H, W, 3) uint8 RGB.
        targets: task name -> (B, ...) array, finite everywhere.
        known: task name -> bool (B,) or (B, K): which targets were really annotated.
    """

    images: Pixels
    targets: Mapping[str, np.ndarray]
    mask: Mapping[str, np.ndarray]


class Source(Protocol):
    """Where training pictures come from.

    `example` gives the index-th picture, moved by draws from `rng` alone. Its labels are encoded by `tasks`,
    the model's own, and labels of no task among them are left out; None encodes all labels by the catalogue.
    """

    @property
    def name(self) -> str: ...
    def __len__(self) -> int: ...
    def example(
        self, index: int, rng: np.random.Generator, tasks: Sequence[Task[Any]] | None = None
    ) -> Example: ...


# --- Models


class InferenceModel(Protocol):
    """A torch or ONNX model for inference: (B, 3, H, W) float32 -> task name -> raw outputs (B, ...)."""

    @property
    def view(self) -> View: ...
    @property
    def tasks(self) -> tuple[Task[Any], ...]: ...
    def __call__(self, images: Floats) -> Mapping[str, Floats]: ...


@runtime_checkable
class HasName(Protocol):
    """A model with a name for people."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class HasSha256(Protocol):
    """A model whose weights are a file with this sha256."""

    @property
    def sha256(self) -> str: ...


@runtime_checkable
class HasParts(Protocol):
    """A model of a file whose tasks can be compared with those of other files."""

    def part_sha256(self, task: str) -> str:
        """Identifies what computes one task; empty where that cannot be told."""
        ...


@runtime_checkable
class HasPath(Protocol):
    """A model of a file."""

    @property
    def path(self) -> Path: ...


@runtime_checkable
class KnowsTasks(Protocol):
    """A model that was loaded for some of its tasks and knows the others by name."""

    @property
    def known_tasks(self) -> tuple[Task[Any], ...]: ...


class FaceModel(Protocol):
    """A torch network: a `torch.nn.Module` that predicts tasks for faces in its view.

    Attributes:
        tasks: predicted tasks.
        view: crop, template and normalization of its input.
        builder: a name in `mien.models.MODELS`, and the keyword arguments that build the network again.
    """

    @property
    def tasks(self) -> tuple[Task[Any], ...]: ...
    @property
    def view(self) -> View: ...
    @property
    def builder(self) -> tuple[str, dict[str, Any]]: ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) float32 in its view -> task name -> raw answers (B, ...)."""
        ...

    # the parts of `torch.nn.Module` that are used through this type
    def parameters(self) -> Iterator[Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
    def eval(self) -> Self: ...


class LoadedModel(FaceModel, Protocol):
    """A torch network that was built from a weights file.

    Attributes:
        tasks: with the settings of the file.
        header: of the file.
    """

    tasks: tuple[Task[Any], ...]
    header: Mapping[str, Any]


@runtime_checkable
class HasOwnLosses(Protocol):
    """A model that computes its losses itself, instead of `forward` and the tasks' criteria."""

    def learn(
        self,
        images: Tensor,
        targets: dict[str, Tensor],
        mask: dict[str, Tensor],
        criteria: Mapping[str, Any],
        /,
    ) -> dict[str, Tensor]:
        """Losses by name."""
        ...


@runtime_checkable
class HasForwardTasks(Protocol):
    """A model that can compute some of its tasks alone."""

    def forward_tasks(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """As `forward`, for the named tasks."""
        ...


@runtime_checkable
class HasAttention(Protocol):
    """A model whose queries have attention maps.

    Attributes:
        tasks, view: see `FaceModel`.
        training: see `torch.nn.Module`.
    """

    training: bool

    @property
    def tasks(self) -> tuple[Task[Any], ...]: ...
    @property
    def view(self) -> View: ...

    def attention(self, images: Tensor) -> Mapping[str, Tensor]:
        """Task name -> (B, queries, heads, N), which sums to 1 over the N cells of all grids."""
        ...

    def grids(self, images: Tensor) -> tuple[tuple[int, int], ...]:
        """(h, w) of each grid for these images."""
        ...

    def parameters(self) -> Iterator[Parameter]: ...


@runtime_checkable
class HasQueries(Protocol):
    """A model that predicts only some of its tasks by queries."""

    @property
    def query_tasks(self) -> Collection[str]:
        """Names of these tasks."""
        ...


@runtime_checkable
class HoldsModel(Protocol):
    """An object that holds a model, such as a reader."""

    @property
    def model(self) -> object: ...

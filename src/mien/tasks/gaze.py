"""Gaze: where the eyes look, in degrees, and whether that is the camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.tasks.base import Answer, Criterion, Task, Vector, over_labeled
from mien.tasks.columns import Column, number_columns, value_at
from mien.tasks.pose import turn_pose
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor

AT_CAMERA = 12.0  # degrees; ours: twice the teacher's median error on people who look at the camera


@dataclass(frozen=True, slots=True)
class Gaze(Answer):
    """Where a person looks, in degrees; signs as in `Pose`.

    Attributes:
        yaw: > 0 looks to the picture's right; 0 at the camera.
        pitch: > 0 looks up.
    """

    yaw: float
    pitch: float

    @property
    def angle(self) -> float:
        """Degrees between the gaze and the direction to the camera, 0..180."""
        cosine = math.cos(math.radians(self.yaw)) * math.cos(math.radians(self.pitch))
        return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))

    @property
    def at_camera(self) -> bool:
        """Whether the person looks at the camera: `angle` is at most `AT_CAMERA`."""
        return self.angle <= AT_CAMERA

    def to_dict(self) -> dict[str, Any]:
        """{"yaw", "pitch", "angle", "at_camera"}."""
        return {
            "yaw": round(self.yaw, 1),
            "pitch": round(self.pitch, 1),
            "angle": round(self.angle, 1),
            "at_camera": self.at_camera,
        }

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        seen = value_at(name, "at_camera")

        def at_camera(face: Any) -> int | None:
            return None if (found := seen(face)) is None else int(found)

        return [
            *number_columns(name, ("yaw", "pitch", "angle")),
            Column(f"{name}_at_camera", int, at_camera),
        ]

    def summary(self) -> str:
        """`looks at the camera`, or empty."""
        return "looks at the camera" if self.at_camera else ""

    def value(self) -> tuple[float, float]:
        """(yaw, pitch)."""
        return self.yaw, self.pitch


@dataclass(frozen=True, kw_only=True)
class GazeTask(Task[Gaze]):
    """Yaw and pitch of the gaze as two numbers; raw answers are degrees / `unit`, as seen in the crop.

    A label is (yaw, pitch) in degrees in the stored picture. A crop that is turned turns the gaze with it;
    reading turns it back. Loss: the mean absolute difference, in units.

    Attributes:
        unit: degrees. Ours: 20, so that the loss of a network that knows nothing is near 1.
    """

    answer: ClassVar[type[Answer]] = Gaze
    name: str = "gaze"
    labels: str = "yaw_pitch"
    unit: float = 20.0

    @property
    def shape(self) -> Vector:
        return Vector(2)

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            return (raw - target).abs().mean()

        return over_labeled(loss)

    def undo_hflip(self, raw: Floats) -> Floats:
        return raw * np.array([-1, 1], np.float32)

    def read(self, raw: Floats, crop: Crop) -> Gaze:
        yaw, pitch = np.asarray(raw, np.float64) * self.unit
        pitch = min(max(pitch, -90.0), 90.0)
        return Gaze(*turn_pose((yaw, pitch, 0.0), geometry.invert(crop.from_photo))[:2])

    def metrics(self) -> GazeError:
        return GazeError()

    def encode_target(
        self, label: Sequence[float], affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        yaw, pitch = label
        turned = turn_pose((float(yaw), float(pitch), 0.0), affine)[:2]
        return np.asarray(turned, np.float32) / np.float32(self.unit), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(2, np.float32), np.False_


class GazeError:
    """Mean angle in degrees between prediction and label; mean absolute errors of yaw and pitch."""

    headline = "mae"

    def __init__(self) -> None:
        self.rows = list[tuple[float, float, float]]()

    def update(self, answer: Gaze, label: Any) -> None:
        one, other = (_direction(*v) for v in ((answer.yaw, answer.pitch), label))
        angle = math.degrees(math.acos(max(-1.0, min(1.0, float(one @ other)))))
        self.rows.append((angle, abs(answer.yaw - label[0]), abs(answer.pitch - label[1])))

    def compute(self) -> dict[str, float]:
        angle, yaw, pitch = np.asarray(self.rows, np.float64).T
        return {
            "mae": float(angle.mean()),
            "median": float(np.median(angle)),
            "yaw": float(yaw.mean()),
            "pitch": float(pitch.mean()),
            "n": len(angle),
        }


def _direction(yaw: float, pitch: float) -> npt.NDArray[np.float64]:
    """Degrees -> unit vector."""
    a, b = math.radians(yaw), math.radians(pitch)
    return np.array([math.sin(a) * math.cos(b), math.sin(b), math.cos(a) * math.cos(b)])


GAZE = GazeTask()

"""Head pose in degrees: derived from the 68 points by PnP on a generic 3-D face, or answered by a head of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.tasks.contract import Criterion, Derived, Task, Vector, over_known
from mien.tasks.landmarks import Landmarks
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a head is turned, in degrees.

    Attributes:
        yaw: > 0 turns to the picture's right. pitch: > 0 looks up. roll: > 0 is tilted clockwise on screen.
    """

    yaw: float
    pitch: float
    roll: float

    def to_dict(self) -> dict[str, Any]:
        """{"yaw", "pitch", "roll"}."""
        return {"yaw": round(self.yaw, 1), "pitch": round(self.pitch, 1), "roll": round(self.roll, 1)}


def _pose(answer: Landmarks) -> Pose:
    return Pose(*geometry.pose_from_68(answer.points))


POSE: Derived[Pose] = Derived("pose", "landmarks", _pose)


class EulerTask(Task[Pose]):
    """Yaw, pitch and roll as three numbers; raw answers are degrees / `unit`, of the head as it stands in the crop.

    A label is (yaw, pitch, roll) in degrees, as `Pose` counts them, in the stored picture. A crop that is turned turns the
    head with it; reading turns it back. Loss: the mean absolute difference, in units.

    Args:
        unit: degrees. Ours: 30, so that the loss of a network that knows nothing is near 1.
    """

    name, labels, shape = "euler", "yaw_pitch_roll", Vector(3)

    def __init__(self, *, unit: float = 30.0):
        self.unit = unit

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            return (raw - target).abs().mean()

        return over_known(loss)

    def unmirror(self, raw: Floats) -> Floats:
        return raw * np.array([-1, 1, -1], np.float32)

    def read(self, raw: Floats, crop: Crop) -> Pose:
        yaw, pitch, roll = np.asarray(raw, np.float64) * self.unit
        # a head cannot look more than straight up or down, but a network can say so
        pitch = min(max(pitch, -90.0), 90.0)
        return Pose(*geometry.turn_pose((yaw, pitch, roll), geometry.invert(crop.from_photo)))

    def metrics(self) -> PoseError:
        return PoseError()

    def move(self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.asarray(geometry.turn_pose(label, affine), np.float32) / np.float32(self.unit), np.True_

    def blank(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(3, np.float32), np.False_


class PoseError:
    """MAE in degrees: of yaw, of pitch, of roll, and the mean of the three."""

    headline = "mae"

    def __init__(self) -> None:
        self.rows = list[npt.NDArray[np.float64]]()

    def update(self, answer: Pose, label: Any) -> None:
        difference = np.array([answer.yaw, answer.pitch, answer.roll]) - np.asarray(label, np.float64)
        self.rows.append(np.abs((difference + 180) % 360 - 180))

    def compute(self) -> dict[str, float]:
        yaw, pitch, roll = (float(v) for v in np.mean(self.rows, axis=0))
        return {"mae": (yaw + pitch + roll) / 3, "yaw": yaw, "pitch": pitch, "roll": roll, "n": len(self.rows)}


EULER = EulerTask()

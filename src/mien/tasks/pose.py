"""Head pose in degrees: derived from the 68 points by PnP on a generic 3-D face, or answered by a head of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.errors import UsageError
from mien.geometry import Array, scale_of
from mien.tasks.base import Answer, Criterion, Derived, Task, Vector, over_labeled
from mien.tasks.columns import Column, number_columns
from mien.tasks.landmarks import Landmarks
from mien.types import Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pose(Answer):
    """Where a head is turned, in degrees.

    Attributes:
        yaw: > 0 turns to the picture's right.
        pitch: > 0 looks up.
        roll: > 0 is tilted clockwise on screen.
    """

    yaw: float
    pitch: float
    roll: float

    def to_dict(self) -> dict[str, Any]:
        """{"yaw", "pitch", "roll"}."""
        return {"yaw": round(self.yaw, 1), "pitch": round(self.pitch, 1), "roll": round(self.roll, 1)}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return number_columns(name, ("yaw", "pitch", "roll"))

    def summary(self) -> str:
        """The three angles, such as `yaw   +3 pitch   -4 roll   -2`."""
        return f"yaw {self.yaw:+4.0f} pitch {self.pitch:+4.0f} roll {self.roll:+4.0f}"

    def value(self) -> tuple[float, float, float]:
        """(yaw, pitch, roll)."""
        return self.yaw, self.pitch, self.roll


def _pose(answer: Landmarks) -> Pose:
    return Pose(*pose_from_68(answer.points))


POSE: Derived[Pose] = Derived("pose", "landmarks", _pose, Pose)


@dataclass(frozen=True, kw_only=True)
class EulerTask(Task[Pose]):
    """Yaw, pitch and roll as three numbers; raw answers are degrees / `unit`, of the head as it stands in the
    crop.

    A label is (yaw, pitch, roll) in degrees, as `Pose` counts them, in the stored picture. A crop that is
    turned turns the head with it; reading turns it back. Loss: the mean absolute difference, in units.

    Attributes:
        unit: degrees. Ours: 30, so that the loss of a network that knows nothing is near 1.
    """

    answer: ClassVar[type[Answer]] = Pose
    name: str = "euler"
    labels: str = "yaw_pitch_roll"
    unit: float = 30.0

    @property
    def shape(self) -> Vector:
        return Vector(3)

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            return (raw - target).abs().mean()

        return over_labeled(loss)

    def undo_hflip(self, raw: Floats) -> Floats:
        return raw * np.array([-1, 1, -1], np.float32)

    def read(self, raw: Floats, crop: Crop) -> Pose:
        yaw, pitch, roll = np.asarray(raw, np.float64) * self.unit
        # a head cannot look more than straight up or down, but a network can say so
        pitch = min(max(pitch, -90.0), 90.0)
        return Pose(*turn_pose((yaw, pitch, roll), geometry.invert(crop.from_photo)))

    def metrics(self) -> PoseError:
        return PoseError()

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        return np.asarray(turn_pose(label, affine), np.float32) / np.float32(self.unit), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
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
        return {
            "mae": (yaw + pitch + roll) / 3,
            "yaw": yaw,
            "pitch": pitch,
            "roll": roll,
            "n": len(self.rows),
        }


EULER = EulerTask()


# A generic 3-D face: eye corners, nose, mouth corners, chin, in millimeters; x to the picture's right, y
# down, z away from the camera. Rounded averages of adult heads; good for degrees, not for measuring people.
_MODEL_INDEX = (8, 30, 33, 36, 39, 42, 45, 48, 54, 27)


_MODEL = np.array(
    [
        (0, 68, 11),
        (0, 0, -15),
        (0, 12, -4),
        (-45, -35, 21),
        (-17, -33, 16),
        (17, -33, 16),
        (45, -35, 21),
        (-27, 34, 8),
        (27, 34, 8),
        (0, -35, 5),
    ],
    np.float64,
)


def pose_from_68(points: npt.ArrayLike) -> tuple[float, float, float]:
    """(68, 2) iBUG points in pixels -> (yaw, pitch, roll) in degrees, by PnP on a generic 3-D face.

    yaw > 0: the face turns to the picture's right. pitch > 0: it looks up. roll > 0: clockwise on screen.
    The camera is taken as far away (focal length of four face sizes), since a crop does not tell its lens.
    """
    p = np.asarray(points, np.float64)[list(_MODEL_INDEX)]
    center, size = p.mean(0), max(float(np.ptp(p, axis=0).max()), 1e-3)
    p = (p - center) / size
    camera = np.array([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 1]])
    # start: upright, facing the camera, at the distance that the focal length implies
    span = float(np.ptp(_MODEL, axis=0).max())
    ok, rvec, _ = cv2.solvePnP(
        _MODEL,
        p,
        camera,
        np.zeros(4),
        np.zeros((3, 1)),
        np.array([[0.0], [0.0], [4.0 * span]]),
        True,
        cv2.SOLVEPNP_ITERATIVE,
    )
    if not ok:
        raise UsageError(f"no head pose fits the points {p.tolist()}")
    r, _ = cv2.Rodrigues(rvec)
    forward = -r[:, 2]  # where the nose points: the model looks along -z
    yaw = float(np.degrees(np.arctan2(forward[0], -forward[2])))
    pitch = float(np.degrees(np.arcsin(np.clip(-forward[1], -1, 1))))
    # roll: what in-plane turn is left once yaw and pitch are undone
    cy, sy, cp, sp = (
        np.cos(np.radians(yaw)),
        np.sin(np.radians(yaw)),
        np.cos(np.radians(pitch)),
        np.sin(np.radians(pitch)),
    )
    ry = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    rx = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    left = (ry @ rx).T @ r
    return yaw, pitch, float(np.degrees(np.arctan2(left[1, 0], left[0, 0])))


def pose_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """Degrees, as `pose_from_68` counts them -> the (3, 3) rotation of the head: roll first, then pitch, then
    yaw.
    """
    (cy, cp, cr), (sy, sp, sr) = (
        np.cos(np.radians([yaw, pitch, roll])),
        np.sin(np.radians([yaw, pitch, roll])),
    )
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turned: npt.NDArray[np.float64] = about_y @ about_x @ about_z
    return turned


def pose_angles(rotation: npt.ArrayLike) -> tuple[float, float, float]:
    """Inverse of `pose_matrix`; (yaw, pitch, roll) in degrees, pitch in -90..90."""
    r = np.asarray(rotation, np.float64)
    yaw, pitch = np.arctan2(-r[0, 2], r[2, 2]), np.arcsin(np.clip(r[1, 2], -1, 1))
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(np.arctan2(r[1, 0], r[1, 1])))


def turn_pose(pose: Sequence[float], affine: npt.ArrayLike) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees of a head whose picture goes through an affine, which may mirror it.

    A picture that is turned turns a head that looks aside in more than its roll.
    """
    a = np.asarray(affine, np.float64)[:, :2]
    yaw, pitch, roll = pose
    if np.linalg.det(a) < 0:
        a, yaw, roll = a * (-1.0, 1.0), -yaw, -roll
    turn = np.eye(3)
    turn[:2, :2] = a / scale_of(a)
    return pose_angles(turn @ pose_matrix(yaw, pitch, roll))

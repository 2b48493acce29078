"""Head pose: degrees, from the 68 points by PnP on a generic 3-D face. No head of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mien import geometry
from mien.tasks.contract import Derived
from mien.tasks.landmarks import Landmarks


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

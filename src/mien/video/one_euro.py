"""The 1-Euro filter: steady points without lag."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.types import Array


class OneEuro:
    """The 1-Euro filter (Casiez, Roussel and Vogel, CHI 2012) over points: still ones are smoothed, fast ones
    followed.

    Args:
        cutoff: Hz of the low-pass on a point at rest.
        speed_cutoff: Hz of the low-pass on the speed.
        beta: Hz more for each unit of speed per second. The unit is the caller's; here the side of the face's
            box, so that near and far faces are smoothed alike. Ours: the speed is that of the point, not of
            each coordinate.
    """

    def __init__(self, *, cutoff: float = 1.0, beta: float = 15.0, speed_cutoff: float = 1.0):
        self.cutoff, self.beta, self.speed_cutoff = cutoff, beta, speed_cutoff
        self.time: float | None = None
        self.raw = self.value = self.speed = np.zeros((0, 2))

    def __call__(self, points: npt.ArrayLike, time: float, unit: float = 1.0) -> Array:
        """(n, 2) points seen at `time` seconds -> (n, 2) smoothed; `unit` is one unit of length in pixels."""
        now = np.asarray(points, np.float64)
        if self.time is None or now.shape != self.value.shape:
            self.raw = self.value = now
            self.speed = np.zeros_like(now)
        elif time > self.time:
            dt = time - self.time
            share = _share(np.array(self.speed_cutoff), dt)
            self.speed = self.speed + share * ((now - self.raw) / (dt * max(unit, 1e-6)) - self.speed)
            fast = np.linalg.norm(self.speed, axis=1, keepdims=True)
            self.value = self.value + _share(self.cutoff + self.beta * fast, dt) * (now - self.value)
            self.raw = now
        self.time = time
        return self.value


def _share(cutoff: Array, dt: float) -> Array:
    """How much of a new value a low-pass of `cutoff` Hz takes after dt seconds, 0..1."""
    turn = 2 * np.pi * cutoff * dt
    return turn / (turn + 1)

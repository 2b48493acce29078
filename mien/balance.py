"""How several losses become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Fixed:
    """A weight a task, set beforehand. Tasks that are not named weigh 1."""

    def __init__(self, weights: Mapping[str, float] | None = None):
        self.weights = dict(weights or {})

    def __call__(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses of one step -> weights of that step."""
        return {name: self.weights.get(name, 1.0) for name in losses}

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps; nothing changes while training."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Inverse of `state_dict`."""

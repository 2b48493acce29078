"""Weights of a smaller network inside those of a larger one."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy.typing as npt
from torch import Tensor

Weights = TypeVar("Weights", Tensor, npt.NDArray[Any])


def place_within(large: Weights, small: Weights) -> None:
    """Copy a weight, a tensor or an array, into the corner of a larger one, in place, so that old outputs
    stay as they were.

    Old outputs (rows) get zeros where they would read new inputs; rows that are new keep what they had.
    """
    if large.ndim > 1:
        large[: small.shape[0]] = 0.0
    large[tuple(slice(n) for n in small.shape)] = small

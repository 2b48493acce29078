"""Weights of a smaller network inside those of a larger one."""

from __future__ import annotations

from torch import Tensor


def place_within(large: Tensor, small: Tensor) -> None:
    """Copy a weight into the corner of a larger one, in place, so that old outputs stay as they were.

    Old outputs (rows) get zeros where they would read new inputs; rows that are new keep what they had.
    """
    if large.ndim > 1:
        large[: small.shape[0]] = 0.0
    large[tuple(slice(n) for n in small.shape)] = small

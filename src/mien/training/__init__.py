"""Recipes and the training loop. Needs the extra `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.training.loop import fit
    from mien.training.recipe import Recipe

__all__ = ["Recipe", "fit"]

__getattr__ = attach(__name__, {"fit": "loop", "Recipe": "recipe"})

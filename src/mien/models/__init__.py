"""Networks, one paper per file. `MODELS` lists every builder by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.models.catalogue import MODELS

__all__ = ["MODELS"]

__getattr__ = attach(__name__, {"MODELS": "catalogue"})

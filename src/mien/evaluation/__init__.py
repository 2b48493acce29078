"""Protocols, scores and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.evaluation.evaluate import evaluate
    from mien.evaluation.protocols import PROTOCOLS

__all__ = ["PROTOCOLS", "evaluate"]

__getattr__ = attach(__name__, {"evaluate": "evaluate", "PROTOCOLS": "protocols"})

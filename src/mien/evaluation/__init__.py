"""Protocols, scores and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.evaluation.protocols import PROTOCOLS
    from mien.evaluation.scoring import evaluate

__all__ = ["PROTOCOLS", "evaluate"]

__getattr__ = attach(__name__, {"PROTOCOLS": "protocols", "evaluate": "scoring"})

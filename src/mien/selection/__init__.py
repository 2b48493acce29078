"""Which photos are good enough: one photo against a list of rules, and the best shot of each burst."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.selection.best import Selection, best
    from mien.selection.check import Checked, check
    from mien.selection.rules import Rules

__all__ = ["Checked", "Rules", "Selection", "best", "check"]

__getattr__ = attach(
    __name__, {"best": "best", "Selection": "best", "check": "check", "Checked": "check", "Rules": "rules"}
)

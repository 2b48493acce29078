"""Which photos are good enough: one photo against a list of rules, and the best shot of each burst."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.selection.best_shots import Selection, best
    from mien.selection.checking import Checked, check
    from mien.selection.rules import Rules

__all__ = ["Checked", "Rules", "Selection", "best", "check"]

__getattr__ = attach(
    __name__,
    {
        "best": "best_shots",
        "Selection": "best_shots",
        "check": "checking",
        "Checked": "checking",
        "Rules": "rules",
    },
)

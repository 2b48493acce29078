"""A new task on a frozen network: from labeled pictures to one ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.training.finetune.run import Finetuned, finetune, merge

__all__ = ["Finetuned", "finetune", "merge"]

__getattr__ = attach(__name__, {"Finetuned": "run", "finetune": "run", "merge": "run"})

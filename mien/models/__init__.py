"""Who answers. `MODELS` lists every named builder: name -> function -> model.

The contract: `tasks`, `view`, `builder` (name, arguments), and forward(images) -> dict of raw answers by task name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mien.models.detector import detector
from mien.models.faceptor import faceptor_base, faceptor_tiny

MODELS: dict[str, Callable[..., Any]] = {
    "detector": detector,
    "faceptor_base": faceptor_base,
    "faceptor_tiny": faceptor_tiny,
}

"""The weights file format: ONNX bytes and the JSON provenance file next to them.

The only module that reads that JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mien.errors import BadWeights
from mien.tasks import Task

FORMAT = "mien-1"


WEIGHTS = Path(__file__).parents[1] / "weights"


def provenance_of(path: Path) -> dict[str, Any]:
    """The provenance file beside a weights file, FILE.json beside FILE.onnx; empty where there is none.

    Raises:
        BadWeights: it cannot be read, or is no JSON object.
    """
    beside = path.with_suffix(".json")
    return _json(_bytes(beside), f"the provenance {beside}") if beside.is_file() else {}


def read_weights(path: Path) -> tuple[bytes, str]:
    """The bytes of a weights file and their sha256, checked against the provenance file beside it, if there
    is one.

    Raises:
        BadWeights: missing, empty, or not the bytes that the provenance file promises.
    """
    data = _bytes(path)
    if not data:
        raise BadWeights(f"the weights {path} are empty; copy or install them again")
    found = hashlib.sha256(data).hexdigest()
    if path.with_suffix(".json").is_file():
        promised = provenance_of(path).get("sha256")
        if promised != found:
            raise BadWeights(
                f"the weights {path} were truncated or altered: sha256 is {found[:16]}..., {path.stem}.json"
                f" promises {str(promised)[:16]}...; install mien again, or copy the file again"
            )
    return data, found


def calibrated(asked: Task[Any], temperatures: Mapping[str, float]) -> Task[Any]:
    """The task, reading at the temperature that the weights bring for it; the task itself where they bring
    none.

    Raises:
        BadWeights: a temperature that is no number above 0, or of a task that has none.
    """
    if asked.name not in temperatures:
        return asked
    value = temperatures[asked.name]
    if (
        not asked.has_setting("temperature")
        or not isinstance(value, (int, float))
        or not 0 < value < float("inf")
    ):
        raise BadWeights(
            f"{asked.name} cannot be read at temperature {value!r}; mend `calibration` in the weights'"
            " provenance file"
        )
    return replace(asked, temperature=float(value))  # type: ignore[call-arg]


def _temperatures(path: Path) -> dict[str, float]:
    """What the provenance file says under calibration, temperatures: task -> temperature."""
    found: Any = provenance_of(path)
    for key in ("calibration", "temperatures"):
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise BadWeights(
                f"`{key}` in {path.with_suffix('.json')} is no JSON object; mend it, or copy the file again"
            )
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as e:  # ValueError: a zero byte in the name
        why = getattr(e, "strerror", None) or e or "too large for the memory there is"
        raise BadWeights(
            f"cannot read the weights {str(path)!r}: {why}; install mien again, or name another file"
        ) from e


def _json(text: bytes | str, whose: object) -> dict[str, Any]:
    """A JSON object; BadWeights where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadWeights(
            f"{whose} is damaged: it should hold JSON ({e}); install mien again, or copy the file again"
        ) from e
    if not isinstance(found, dict):
        raise BadWeights(
            f"{whose} is damaged: it should hold a JSON object, not {type(found).__name__}; install mien"
            " again"
        )
    return found

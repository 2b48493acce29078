"""Convert readings to objects of other libraries, which are imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.errors import UsageError
from mien.io.writers import columns, rows
from mien.tasks import described


def to_dataframe(readings: Any) -> Any:
    """Convert readings to a pandas DataFrame: one row per face, with the columns of the CSV (docs/cli.md).

    Lists become list columns.

    Args:
        readings: a `Reading`, or a sequence of them. Photos without faces have a row whose `face` is missing.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        pandas: Any = importlib.import_module("pandas")
    except ImportError as e:
        raise UsageError(
            "to_dataframe needs pandas: pip install pandas; or use mien analyze --out faces.csv"
        ) from e
    many = [readings] if hasattr(readings, "to_dict") else list(readings)
    first = {name: face[name] for reading in reversed(many) for face in reversed(reading) for name in face}
    requested = _requested(many)
    of_face = columns(n for n in requested if described(n))
    for name in requested:
        if not described(name):
            of_face += first[name].own_columns(name)
    table = pandas.DataFrame([row for r in many for row in rows(r.to_dict(), of_face)])
    return table.astype({n: "Int64" for n in ("width", "height", "faces", "face") if n in table})


def _requested(readings: Sequence[Any]) -> list[str]:
    """Names of the answers that at least one face has, in the order of the first face."""
    return list(dict.fromkeys(name for reading in readings for face in reading for name in face))


def to_supervision(reading: Any) -> Any:
    """A `Reading` -> supervision's `Detections`: `xyxy`, `confidence`, and answers as arrays in `data`.

    `data` has `points5` (n, 5, 2) of the detector, `points5_network` of the network if it was requested, and
    the answers that are one number, word or array each, such as `age`,
    `gender`, `expression`, `landmarks` (n, k, 2), `pose` (n, 3: yaw, pitch, roll) and `identity` (n, d).

    Raises:
        UsageError: supervision is not installed.
    """
    try:
        detections: Any = importlib.import_module("supervision").Detections
    except ImportError as e:
        raise UsageError("to_supervision needs supervision: pip install supervision") from e
    if not reading:
        return detections.empty()
    data = {}
    for name in _requested([reading]):
        values = [face[name].value() for face in reading if name in face]
        if len(values) == len(reading) and all(v is not None for v in values):
            data["points5_network" if name == "points5" else name] = np.array(values)
    return detections(
        xyxy=np.array([face.box for face in reading], np.float32),
        confidence=np.array([face.score for face in reading], np.float32),
        data=data | {"points5": np.array([face.points for face in reading])},
    )

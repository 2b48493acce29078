"""Raw answers of the networks on whole photos: one labeled face of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien import geometry, settings
from mien.data.detection import decoded
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.tasks.base import sigmoid, softmax
from mien.tasks.choice import EXPRESSION8
from mien.types import Crop, Detection

Row = dict[str, Any]
BATCH = 16
KEPT = ("age", "attributes", "expression", "identity")
HAT_SHARE = 0.02  # of the crop's pixels, at least, for a hat


@dataclass
class Answers:
    """What the network answered for the faces that were found, n of them.

    Attributes:
        rows: (n,) labels of the found faces.
        found: (all photos,) whether the labeled face was found.
        age: (n, 101) probabilities of the years 0..100.
        attributes: (n, 40) probabilities.
        expression: (n, 8) probabilities.
        identity: (n, d) embeddings.
        hat: (n,) whether the parsing has a hat.
    """

    rows: list[Row]
    found: np.ndarray
    age: np.ndarray
    attributes: np.ndarray
    expression: np.ndarray
    identity: np.ndarray
    hat: np.ndarray

    @property
    def years(self) -> np.ndarray:
        """(n,) expectation of the age."""
        return self.age @ np.arange(101)

    @property
    def expressions(self) -> np.ndarray:
        """(n,) names of the likeliest expressions."""
        return np.array(EXPRESSION8)[self.expression.argmax(1)]

    @property
    def sureness(self) -> np.ndarray:
        """(n,) probability of the likeliest expression."""
        return self.expression.max(1)

    def label(self, column: str) -> np.ndarray:
        """(n,) a column of the set's table."""
        values = np.empty(len(self.rows), object)
        values[:] = [r[column] for r in self.rows]
        kinds = {type(v) for v in values}
        return np.array(values.tolist()) if kinds <= {bool, int, float, str} else values

    def interval(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """The years between which the middle `share` of each age's distribution lies, (n,) and (n,)."""
        edges = np.concatenate([np.zeros((len(self.age), 1)), self.age.cumsum(1)], axis=1)
        tail, at = (1 - share) / 2, np.arange(102) - 0.5
        low, high = np.array([np.interp([tail, 1 - tail], e, at) for e in edges]).T
        return low, high


def central(found: Sequence[Detection], width: int, height: int) -> Detection | None:
    """The face nearest to the photo's center, in units of its own size; None without faces."""
    middle = np.array([width, height]) / 2

    def distance(d: Detection) -> float:
        box = np.asarray(d.box, float)
        return float(np.hypot(*((box[:2] + box[2:]) / 2 - middle)) / np.sqrt(d.area))

    return min(found, key=distance, default=None)


def crops_answers(face: OnnxModel, crops: list[Crop]) -> dict[str, np.ndarray]:
    """Answers on aligned crops: probabilities, embeddings, and whether there is a hat."""
    raw = face(face.view.tensor(np.stack([c.pixels for c in crops])))
    tasks = {t.name: t for t in face.tasks}
    hat = [
        tasks["parsing"].read(z, c).fractions.get("hat", 0.0)
        for z, c in zip(raw["parsing"], crops, strict=True)
    ]
    expression = np.asarray(raw["expression"], float) / tasks["expression"].temperature  # type: ignore[attr-defined]
    attributes = np.asarray(raw["attributes"], float) / tasks["attributes"].temperature  # type: ignore[attr-defined]
    return {
        "age": np.stack([softmax(z) for z in raw["age"]]),
        "attributes": sigmoid(attributes),
        "expression": np.stack([softmax(z) for z in expression]),
        "identity": raw["identity"],
        "hat": np.array(hat) >= HAT_SHARE,
    }


def read_set(name: str, rows: list[Row], face: OnnxModel, detector: Detector) -> Answers:
    """Detect, align and read the labeled face of each photo; kept in the cache folder."""
    networks = f"{face.sha256}{detector.model.sha256}{len(rows)}"  # type: ignore[attr-defined]
    stamp = hashlib.sha256(networks.encode()).hexdigest()[:12]
    path = settings.cache_root() / f"real-photos-{name}-{stamp}.npz"
    if not path.is_file():
        parts, found, waiting = list[dict[str, np.ndarray]](), np.zeros(len(rows), bool), list[Crop]()
        for i, row in enumerate(rows):
            pixels = decoded(row, Path(name))
            one = central(detector(pixels), pixels.shape[1], pixels.shape[0])
            if one is not None:
                found[i] = True
                waiting.append(geometry.align(pixels, one.points, face.view))
            if waiting and (len(waiting) == BATCH or i == len(rows) - 1):
                parts.append(crops_answers(face, waiting))
                waiting = []
        part = path.with_suffix(".part.npz")
        joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        np.savez_compressed(part, found=found, **joined)  # type: ignore[arg-type]
        os.replace(part, path)
        print(f"{name}: {int(found.sum()):,} of {len(rows):,} faces found", flush=True)
    with np.load(path) as file:
        kept = {k: file[k] for k in file.files}
    return Answers([r for r, f in zip(rows, kept["found"], strict=True) if f], **kept)

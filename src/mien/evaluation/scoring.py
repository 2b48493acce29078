"""Running protocols: which pictures, which question, which number.

Torch weights and ONNX are evaluated in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from mien import geometry, settings
from mien.data.dataset import Dataset
from mien.errors import MissingData, UsageError
from mien.evaluation.protocols import PROTOCOLS, Protocol
from mien.inference.detector import Detector
from mien.tasks import Task
from mien.tasks.parsing import Parsing
from mien.types import Crop, Detection, Floats, InferenceModel, Pixels, Sample, View

Find = Callable[[Pixels], list[Detection]]
DETECTED = "cropped by a detector's points; of the faces that it found"


@dataclass(frozen=True)
class Score:
    """What a protocol gave.

    Attributes:
        protocol: its name.
        values: every number that the task's metrics compute.
        headline: the first of the keys.
    """

    protocol: str
    values: dict[str, float]
    headline: float
    keys: tuple[str, ...] = field(default=())


def evaluate(
    model: InferenceModel,
    protocol: Protocol,
    *,
    batch: int = 32,
    limit: int | None = None,
    dataset: Any = None,
    find: Find | None = None,
) -> Score:
    """Run a protocol: align by the set's points, predict, decode, and score in pixels of the stored picture.

    Args:
        model: the network.
        protocol: data set, split, task and metrics.
        batch: faces per forward pass.
        limit: use only the first so many pictures (for tests; the score contains the number).
        dataset: the protocol's data set, if it is open already.
        find: a detector, whose points replace the data set's points. Faces that it does not find are left
            out: the score has the percentage of found faces as "found", and its other numbers cover only
            these.

    Raises:
        UsageError: the model does not answer the protocol's task.
        MissingData: the set is not there, or empty.
    """
    names = [t.name for t in model.tasks]
    answer = protocol.answer(names)
    if answer is None:
        expected = " or ".join(map(repr, reversed(protocol.task_names)))
        raise UsageError(
            f"this model does not predict {expected}, which {protocol.name} scores; its tasks:"
            f" {', '.join(names)}"
        )
    dataset = protocol.dataset() if dataset is None else dataset
    if protocol.task == "faces":
        values = _score_photos(model, protocol, answer, dataset, limit)
    else:
        values = _score_faces(model, protocol, answer, dataset, batch, limit, find)
    keys = (*protocol.keys, "found") if "found" in values else protocol.keys
    return Score(protocol.name, values, values[keys[0]], keys)


def _score_photos(
    model: InferenceModel, protocol: Protocol, answer: str, dataset: Any, limit: int | None
) -> dict[str, float]:
    """Score a detector on entire photos, with all its detection passes."""
    task = next(t for t in model.tasks if t.name == answer)
    metrics, find = (
        protocol.metrics() if protocol.metrics else task.metrics(),
        Detector(model),
    )
    for pixels, faces in islice(dataset, limit):
        metrics.update(find(pixels), faces)
    return metrics.compute()


def _score_faces(
    model: InferenceModel,
    protocol: Protocol,
    answer: str,
    dataset: Dataset,
    batch: int,
    limit: int | None,
    find: Find | None,
) -> dict[str, float]:
    """Score a face network on aligned crops."""
    task = next(t for t in model.tasks if t.name == answer)
    metrics, n = (
        protocol.metrics() if protocol.metrics else task.metrics(),
        min(len(dataset), limit or len(dataset)),
    )
    if n == 0:
        raise MissingData(
            f"{dataset.name} holds no pictures, so that {protocol.name} has no number; check that its files"
            " are whole"
        )
    found = 0
    for start in range(0, n, batch):
        samples = [dataset[i] for i in range(start, min(start + batch, n))]
        full_picture = protocol.full_picture and find is None
        placed = [(s, points) for s in samples if (points := _points(s, find)) is not None]
        found += len(placed)
        crops = [_crop(s.image, points, model.view, full_picture, protocol.tanh) for s, points in placed]
        for (sample, _), crop, numbers in zip(
            placed, crops, _raw(model, crops, answer, protocol.flip_tta) if crops else (), strict=True
        ):
            read = (
                _read_tanh(task, numbers, crop, sample.image, protocol.tanh)
                if protocol.tanh
                else task.read(numbers, crop)
            )
            metrics.update(read, sample.labels[protocol.task])
    if found == 0:
        raise MissingData(
            f"the detector found none of the {n:,} faces of {protocol.name}, so that it has no number"
        )
    return metrics.compute() | ({"found": 100 * found / n} if find else {})


def _crop(pixels: Pixels, points: Any, view: View, full_picture: bool, tanh: float) -> Crop:
    if full_picture:
        return full_picture_crop(pixels, view)
    return (
        geometry.tanh_align(pixels, points, view.size, tanh) if tanh else geometry.align(pixels, points, view)
    )


def _read_tanh(task: Task[Any], raw: Floats, crop: Crop, pixels: Pixels, factor: float) -> Parsing:
    """Logits are brought back to the picture before the likeliest class is taken, as published."""
    h, w = pixels.shape[:2]
    mask = geometry.unwarp_mask(raw, crop, (w, h), factor)
    return Parsing(mask, np.eye(2, 3), task.label_names, task.labels, {})


def full_picture_crop(pixels: Pixels, view: View) -> Crop:
    """A picture (H, W, 3) resized to a view, edge to edge; a picture of the view's size stays as it is."""
    (h, w), (width, height) = pixels.shape[:2], view.size
    x, y = width / w, height / h
    affine = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])  # pixels are counted from their centers
    return Crop(geometry.warp(pixels, affine, view.size), affine)


def _points(sample: Sample, find: Find | None) -> Any:
    """The five points to align by; None where the detector does not find the labeled face."""
    if find is None:
        return sample.points
    found = find(sample.image)
    which = face_at(sample.points, [f.box for f in found])
    return None if which is None else found[which].points


def face_at(points: Any, boxes: Sequence[Any]) -> int | None:
    """Which of the boxes (x1, y1, x2, y2) that hold the middle of these points (n, 2) has its own nearest to
    it; None: none holds it.
    """
    x, y = np.asarray(points, np.float64).mean(0)
    away = {
        i: float(np.hypot((x1 + x2) / 2 - x, (y1 + y2) / 2 - y))
        for i, (x1, y1, x2, y2) in enumerate(boxes)
        if x1 <= x <= x2 and y1 <= y <= y2
    }
    return min(away, key=away.__getitem__, default=None)


def _raw(model: InferenceModel, crops: Sequence[Crop], answer: str, flip_tta: bool) -> Floats:
    """Raw answers on these crops, plus, with `flip_tta`, those on their mirror images."""
    pixels = np.stack([c.pixels for c in crops])
    raw = model(model.view.tensor(pixels))[answer]
    return raw + model(model.view.tensor(pixels[:, :, ::-1]))[answer] if flip_tta else raw


def run(
    model: InferenceModel, names: Sequence[str] | None = None, *, find: Find | None = None
) -> list[Score]:
    """Run protocols by name; when none is named, all that the model answers and whose data is on this
    machine.

    What is left out then is said on stderr, with the reason.

    Raises:
        MissingData: the data of a named protocol is missing, or that of every one. UsageError: see
            `evaluate`.
    """
    if names:
        return [evaluate(model, PROTOCOLS[n], find=find) for n in names]
    settings.data_root()  # without it there is nothing to look for
    answered = {t.name for t in model.tasks}
    scores, absent = list[Score](), dict[str, list[str]]()
    every = _all_protocols()
    for p in every:
        if p.answer(answered) is None:
            continue
        try:
            dataset = p.dataset()
        except MissingData as e:
            absent.setdefault(str(e), []).append(p.name)
            continue
        scores.append(evaluate(model, p, dataset=dataset, find=find))
    _report_skipped(absent, [f"{p.name} ({p.task})" for p in every if p.answer(answered) is None])
    if not scores:
        raise MissingData(
            "no protocol was run: the model predicts no task whose data is available;"
            " see above, or name a protocol for a full message"
        )
    return scores


def _all_protocols() -> list[Protocol]:
    """Those of mien and of plug-ins; a plug-in that cannot be loaded is said on stderr."""
    every = list[Protocol]()
    for entry in PROTOCOLS.listing():
        if entry.error is not None:
            print(f"mien: skipped {entry.name}: {entry.error}", file=sys.stderr)
        else:
            every.append(entry.value)
    return every


def _report_skipped(absent: dict[str, list[str]], unanswered: list[str]) -> None:
    for why, skipped in absent.items():
        print(f"mien: skipped {', '.join(skipped)}: {why}", file=sys.stderr)
    if unanswered:
        print(
            f"mien: skipped, because the model does not predict them: {', '.join(unanswered)}",
            file=sys.stderr,
        )


def as_table(scores: Sequence[Score]) -> str:
    """Scores as a Markdown table: protocol, set, pictures, numbers, and what to know."""
    lines = ["| protocol | set | n | result | note |", "|---|---|---|---|---|"]
    for s in scores:
        p = PROTOCOLS[s.protocol]
        numbers = ", ".join(
            f"{k} {s.values[k]:.4f}" if s.values[k] < 1 else f"{k} {s.values[k]:.2f}" for k in s.keys
        )
        note = "; ".join(filter(None, (p.note, DETECTED if "found" in s.keys else p.crop)))
        lines.append(f"| {s.protocol} | {p.split} | {int(s.values['n']):,} | {numbers} | {note} |")
    return "\n".join(lines)

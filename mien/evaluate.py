"""Protocols: which pictures, which question, which number. Torch weights and ONNX are evaluated alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from mien import geometry, settings
from mien.data import Dataset, pack
from mien.data.photos import PhotosDataset
from mien.detect import Detector
from mien.errors import UsageError
from mien.tasks import TASKS, Metrics, Task
from mien.types import Answerer, Floats


@dataclass(frozen=True)
class Protocol:
    """A published way of measuring.

    Attributes:
        name: on the command line. dataset: called to open it. task: whose answers are scored.
        split: for people. keys: the numbers that the table shows, of those that the task's metrics compute.
        note: what a reader must know to compare the number.
    """

    name: str
    dataset: Callable[[], Any]
    task: str
    split: str
    keys: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Score:
    """What a protocol gave.

    Attributes:
        protocol: its name. values: every number that the task's metrics compute. headline: the first of the keys.
    """

    protocol: str
    values: dict[str, float]
    headline: float
    keys: tuple[str, ...] = field(default=())


CROP = "cropped by the set's points (labels or a detector's), not by our detector"
PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("mtfl", lambda: pack.mtfl("test"), "points5", "MTFL test (AFLW)", ("nme", "fr@0.1"), f"NME by eye distance; {CROP}"),
        Protocol("helen68", lambda: pack.helen68("val"), "landmarks", "Helen val", ("nme", "fr@0.1"), f"NME by outer eye corners; {CROP}"),
        Protocol("celebamask", lambda: pack.celebamask("val"), "parsing", "CelebAMask val", ("mean_f1",), f"18 classes at 256 px; {CROP}"),
        Protocol("celeba", lambda: pack.celeba("val"), "attributes", "CelebA val", ("mean_accuracy",), f"40 attributes, 89x109 px; {CROP}"),
        Protocol("utkface-age", lambda: pack.utkface("val"), "age", "UTKFace val", ("mae", "cs5", "coverage"), f"own split; {CROP}"),
        Protocol("utkface-gender", lambda: pack.utkface("val"), "attributes", "UTKFace val", ("accuracy:Male",), f"own split; {CROP}"),
        Protocol("ferplus-val", lambda: pack.ferplus("val"), "expression", "FER+ val", ("accuracy",), f"majority, 8 classes; {CROP}"),
        Protocol("ferplus-test", lambda: pack.ferplus("test"), "expression", "FER+ test", ("accuracy",), f"majority, 8 classes; {CROP}"),
        Protocol(
            "photos",
            lambda: PhotosDataset(settings.data_root(), "val"),
            "faces",
            "photos val",
            ("recall", "precision", "point_error"),
            "whole photos through our detector against a teacher's boxes (score >= 0.6; the others are ignored), IoU 0.5; median point "
            "error in % of the box side; n counts faces",
        ),
        Protocol("lfw", pack.lfw_pairs, "identity", "LFW View 1", ("accuracy", "threshold"), f"10-fold over 1,000 pairs; {CROP}"),
    )
}


class TorchAnswerer:
    """A torch model behind the face of an ONNX one: numpy in, numpy out."""

    def __init__(self, model: Any):
        self.model, self.view, self.tasks = model.eval(), model.view, model.tasks

    def __call__(self, images: Floats) -> dict[str, Floats]:
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            return {k: v.float().numpy() for k, v in self.model(x).items()}


def evaluate(model: Answerer, protocol: Protocol, *, batch: int = 32, limit: int | None = None) -> Score:
    """Run a protocol: align by the set's points, one forward a batch, read, score in pixels of the stored picture.

    Args:
        limit: use the first so many pictures only (for tests; the score says its count).

    Raises:
        UsageError: the model does not answer the protocol's task.
    """
    names = [t.name for t in model.tasks]
    if protocol.task not in names:
        raise UsageError(f"this model does not answer {protocol.task!r}, which {protocol.name} scores; it answers: {', '.join(names)}")
    metrics = _score_photos(model, protocol, limit) if protocol.task == "faces" else _score_faces(model, protocol, batch, limit)
    values = metrics.compute()
    return Score(protocol.name, values, values[protocol.keys[0]], protocol.keys)


def _score_photos(model: Answerer, protocol: Protocol, limit: int | None) -> Metrics:
    """A detector on whole photos, with all its looks."""
    metrics, find = TASKS[protocol.task].metrics(), Detector(model)
    for pixels, faces in islice(protocol.dataset(), limit):
        metrics.update(find(pixels), faces)
    return metrics


def _score_faces(model: Answerer, protocol: Protocol, batch: int, limit: int | None) -> Metrics:
    """A face network on aligned crops."""
    task: Task[Any] = TASKS[protocol.task]
    dataset: Dataset = protocol.dataset()
    metrics, n = task.metrics(), min(len(dataset), limit or len(dataset))
    for start in range(0, n, batch):
        samples = [dataset[i] for i in range(start, min(start + batch, n))]
        crops = [geometry.align(s.image, s.points, model.view) for s in samples]
        raw = model(model.view.tensor(np.stack([c.pixels for c in crops])))[task.name]
        for sample, crop, numbers in zip(samples, crops, raw, strict=True):
            metrics.update(task.read(numbers, crop), sample.labels[task.name])
    return metrics


def run(model: Answerer, names: Sequence[str] | None = None) -> list[Score]:
    """Run protocols by name; all that the model can answer when none is named."""
    answered = {t.name for t in model.tasks}
    chosen = names or [p.name for p in PROTOCOLS.values() if p.task in answered]
    return [evaluate(model, PROTOCOLS[n]) for n in chosen]


def as_table(scores: Sequence[Score]) -> str:
    """Scores as a Markdown table: protocol, set, pictures, numbers, and what to know."""
    lines = ["| protocol | set | n | result | note |", "|---|---|---|---|---|"]
    for s in scores:
        p = PROTOCOLS[s.protocol]
        numbers = ", ".join(f"{k} {s.values[k]:.4f}" if s.values[k] < 1 else f"{k} {s.values[k]:.2f}" for k in s.keys)
        lines.append(f"| {s.protocol} | {p.split} | {int(s.values['n']):,} | {numbers} | {p.note} |")
    return "\n".join(lines)

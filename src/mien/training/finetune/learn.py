"""What learns: a head on kept features, a head on maps, or more of the network; and the resulting graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.tasks import Task
from mien.tasks.attributes import AttributesTask
from mien.tasks.choice import ChoiceTask
from mien.tasks.kinds import entry_of
from mien.tasks.number import COVERAGE, NumberTask
from mien.training.finetune import report
from mien.training.finetune.faces import Faces
from mien.training.finetune.graph import Graph
from mien.training.finetune.heads import Head, Trainer, targets_of
from mien.training.finetune.pictures import Near
from mien.training.finetune.splits import Split
from mien.types import Crop, Floats

POOLED = 2  # the last maps of the encoder, whose means are features
Indices = npt.NDArray[np.int64]
Inputs = list[tuple[str, str]]


@dataclass
class Lesson:
    """What a training is given.

    Attributes:
        base: the weights file.
        graph: of that file.
        task: the new task.
        faces: pictures with one face each.
        targets: their labels, as the task encodes them.
        near: the faces with their surroundings, by picture; empty where only kept features are needed.
        parts: the split.
        folder: of stopped trainings.
        depth: what learns.
        seed, threads: see `finetune`.
        mirror: whether pictures may be mirrored.
        log: takes lines about the progress.
    """

    base: Path
    graph: Graph
    task: Task[Any]
    faces: Faces
    targets: Sequence[Any]
    near: Sequence[Near | None]
    parts: Split
    folder: Path
    depth: str
    seed: int
    threads: int | None
    mirror: bool
    log: Callable[[str], None]


@dataclass
class Learned:
    """What a training gave.

    Attributes:
        task: calibrated on the validation part.
        graph: with the new head.
        raw: numbers of pictures -> raw numbers of the new task, (n, ...).
        crops: numbers of pictures -> the crops that answers refer to; None where any crop will do.
        labels: of all pictures, as the answers refer to them.
        half: validation scores with half of the training pictures and with all; None where not measured.
        facts: about the head, for the report.
    """

    task: Task[Any]
    graph: Graph
    raw: Callable[[Indices], Floats]
    crops: Callable[[Indices], list[Crop]] | None
    labels: Sequence[Any]
    half: tuple[float, float] | None
    facts: dict[str, Any] = field(default_factory=dict)

    def answers(self, which: Indices, raw: Floats) -> list[Any]:
        """Answers for these pictures."""
        return report.answers_of(self.task, raw, self.crops(which) if self.crops else None)


def inputs_of(graph: Graph) -> Inputs:
    """The tensors that a head for classes, attributes or numbers reads, and how."""
    found = graph.features()
    return [(v, "vector") for v in found.vectors] + [(m, "mean") for m in found.maps[:POOLED]]


def learn(lesson: Lesson, dense: bool) -> Learned:
    """Train, calibrate, and append the head to the network's graph."""
    if lesson.depth == "head":
        return _map_head(lesson) if dense else _vector_head(lesson)
    return _deeper(lesson, dense)


# --- A head on kept features


def _vector_head(lesson: Lesson) -> Learned:
    train, val = (lesson.parts.index(n) for n in ("train", "val"))
    features = lesson.faces.features
    trainer = Trainer(
        lesson.task, features, lesson.targets, seed=lesson.seed, folder=lesson.folder / "stages"
    )
    head = trainer.best(train, val, lesson.log)
    task = calibrated(lesson.task, head(features[val, 0]), [lesson.targets[i] for i in val])
    half = None
    if lesson.depth == "head":
        half = _half(trainer, head, train, val, lesson.parts.group, lesson.seed)
    graph = lesson.graph
    graph.append_vector_head(entry_of(task), inputs_of(graph), head.layers)
    facts = {"hidden": head.hidden, "l2": head.l2, "layers": head.layers}
    return Learned(task, graph, lambda i: head(features[i, 0]), None, lesson.targets, half, facts)


def _half(
    trainer: Trainer, head: Head, train: Indices, val: Indices, group: Indices, seed: int
) -> tuple[float, float] | None:
    """Validation scores with half of the training people and with all; None for a handful of pictures."""
    if len(train) < 20:
        return None
    groups = np.random.default_rng([seed, 1]).permutation(np.unique(group[train]))
    some = train[np.isin(group[train], groups[: len(groups) // 2])]
    if isinstance(trainer.task, ChoiceTask) and len({trainer.labels[i] for i in some}) < 2:
        return None
    return trainer.again(head, some, val).score, head.score


def calibrated(task: Task[Any], raw: Floats, labels: Sequence[Any]) -> Task[Any]:
    """The task, reading at the temperature or interval that fits the validation part."""
    from dataclasses import replace

    if isinstance(task, NumberTask):
        answers = [task.read(r, report.CROP) for r in raw]
        error = np.array([abs(a.estimate - y) for a, y in zip(answers, labels, strict=True)])
        spread = task.scale * np.exp(np.clip(raw[:, 1], -5, 5))
        n = len(error)
        level = min(1.0, np.ceil((n + 1) * COVERAGE) / n)
        return replace(task, interval=max(float(np.quantile(error / spread, level)), 1e-3))
    if isinstance(task, ChoiceTask | AttributesTask):
        import torch

        target, mask = (torch.from_numpy(part) for part in targets_of(task, labels, mirror=False))
        criterion, scores = task.criterion(), torch.from_numpy(np.asarray(raw, np.float32))
        grid = np.exp(np.linspace(np.log(0.25), np.log(4), 121))
        losses = [float(criterion(scores / float(t), target, mask)) for t in grid]
        return replace(task, temperature=round(float(grid[int(np.argmin(losses))]), 4))
    return task


def calibration_words(task: Task[Any]) -> str:
    """What was calibrated, for people."""
    if isinstance(task, NumberTask):
        return (
            f"intervals of {task.interval:.3g} predicted spreads each way, for {COVERAGE:.0%} of the truths"
        )
    if isinstance(task, ChoiceTask | AttributesTask):
        return f"temperature {task.temperature:g}, from the validation part"
    return "none: points and masks have no confidence"


# --- A head on maps


def _pictures(lesson: Lesson) -> Any:
    from mien.training.finetune.dense import Pictures

    train, val = (
        [n for n in (lesson.near[i] for i in lesson.parts.index(part)) if n is not None]
        for part in ("train", "val")
    )
    facts = [
        f"{lesson.faces.kept[i].pixels} {lesson.parts.part[i]}"
        f" {hashlib.sha256(repr(lesson.targets[i]).encode()).hexdigest()}"
        for i in range(len(lesson.near))
    ]
    return Pictures([(n.pixels, n.points, n.label) for n in train], [n.crop for n in val],
        [n.label for n in val], facts)  # fmt: skip


def _sources(graph: Graph, fine: bool, threads: int | None) -> tuple[list[Any], Any]:
    """(the maps that a head reads, the network that computes them): the pyramid first, if there is one."""
    from mien.training.finetune.dense import GRID, Source

    pyramid = graph.pyramid()
    names = ([pyramid] if pyramid else []) + list(graph.features().maps)
    w, h = graph.header["view"]["size"]
    maps = graph.reading(names, threads)(np.zeros((1, 3, h, w), np.float32))
    found = [Source(n, m.shape[1], w // m.shape[3]) for n, m in zip(names, maps, strict=True)]
    minimum = GRID // 2 if fine else GRID
    kept = [s for s in found if s.stride >= minimum]
    if not any(s.stride == GRID for s in kept):
        raise UsageError(f"{graph.path} has no map of stride {GRID}; take a network of mien_tiny")
    return kept, graph.reading([s.tensor for s in kept], threads)


def _append_map_head(graph: Graph, task: Task[Any], head: Any) -> None:
    from mien.training.finetune.dense import GRID

    w, h = graph.header["view"]["size"]
    grid = GRID // 2 if head.fine else GRID
    graph.append_map_head(
        entry_of(task),
        [(s.tensor, s.stride // GRID) for s in head.sources],
        head.arrays(),
        (-(-w // grid), -(-h // grid)),
    )


def _map_head(lesson: Lesson, append: bool = True) -> Learned:
    from mien.tasks import Map
    from mien.training.finetune.dense import FrozenMaps, predict, train_head

    graph, task = lesson.graph, lesson.task
    sources, network = _sources(graph, isinstance(task.shape, Map), lesson.threads)
    view = _near_view(graph)
    head = train_head(
        task, _pictures(lesson), sources, network, view, lesson.folder / "stages",
        seed=lesson.seed, mirror=lesson.mirror, log=lesson.log,
    )  # fmt: skip
    if append:
        _append_map_head(graph, task, head)
    maps = FrozenMaps(network)

    def raw(which: Indices) -> Floats:
        return predict(lambda images: {task.name: head(maps(images))}, task.name, _crops(lesson, which), view)

    facts = {"hidden": 0, "l2": 0.0, "module": head}
    return Learned(task, graph, raw, lambda i: _crops(lesson, i), _near_labels(lesson), None, facts)


def _near_view(graph: Graph) -> Any:
    from mien.types import View

    return View.from_dict(graph.header["view"])


def _crops(lesson: Lesson, which: Indices) -> list[Crop]:
    return [n.crop for n in (lesson.near[i] for i in which) if n is not None]


def _near_labels(lesson: Lesson) -> list[Any]:
    return [None if n is None else n.label for n in lesson.near]


# --- More than the head


def _deeper(lesson: Lesson, dense: bool) -> Learned:
    """The head on the frozen network first; then both learn."""
    from mien.training.finetune import deeper

    if heads := lesson.graph.heads():
        raise UsageError(
            f"{lesson.base} has the fine-tuned task {heads[0]!r}, whose head would no longer fit; use --depth"
            f" {lesson.depth} on the network without it, or leave --depth out"
        )
    if dense:
        module = _map_head(lesson, append=False).facts["module"]
    else:
        module = deeper.VectorHead(_vector_head(lesson).facts["layers"])
    lesson.log(f"depth {lesson.depth}: the network learns too")
    done = deeper.deepen(
        lesson.base, module, lesson.task, _pictures(lesson), lesson.folder / "stages",
        pooled=POOLED, depth=lesson.depth, seed=lesson.seed, mirror=lesson.mirror, log=lesson.log,
    )  # fmt: skip
    header = Graph(lesson.base).header
    part = lesson.folder / "network.onnx"
    deeper.write(done.body, part, **{k: header[k] for k in ("recipe", "step", "seed", "data") if k in header})
    graph = Graph(part)
    part.unlink()

    def raw(which: Indices) -> Floats:
        crops = _crops(lesson, which)
        return deeper.raw_of(done.body, done.head, lesson.task, POOLED, lesson.depth, crops)

    val, labels = lesson.parts.index("val"), _near_labels(lesson)
    task = calibrated(lesson.task, raw(val), [labels[i] for i in val])
    if dense:
        sources, _ = _sources(graph, done.head.fine, lesson.threads)  # type: ignore[arg-type]
        done.head.sources = tuple(sources)  # type: ignore[assignment]  # the new file has other names
        _append_map_head(graph, task, done.head)
    else:
        assert isinstance(done.head, deeper.VectorHead)
        graph.append_vector_head(entry_of(task), inputs_of(graph), done.head.layers())
    facts = {"depth": lesson.depth, "val_loss": round(done.loss, 5),
        "val_loss_of_the_head_alone": round(done.frozen_loss, 5)}  # fmt: skip
    return Learned(task, graph, raw, lambda i: _crops(lesson, i), labels, None, facts)

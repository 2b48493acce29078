"""What every data set and every protocol must keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mien.data.augment import Augment
from mien.data.dataset import Dataset, FaceSource
from mien.errors import MissingData
from mien.evaluation.protocols import Protocol
from mien.evaluation.scoring import evaluate
from mien.tasks import TASKS, Boxes, Task
from mien.testing.examples import ensure, raw_outputs
from mien.types import Floats, View

VIEW = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PICTURES = 32  # of a protocol that are scored


def check_dataset(dataset: Dataset, *, tasks: Sequence[Task[Any]] = ()) -> None:
    """Check that a data set keeps the contract: pictures, points, labels that their tasks can encode.

    Args:
        dataset: opened.
        tasks: of the labels, where neither mien nor an installed plug-in has them.

    Raises:
        AssertionError: it does not; the message says what is wrong.
    """
    known = {t.name: t for t in tasks}
    name, n = dataset.name, len(dataset)
    ensure(name and isinstance(name, str), f"the name of the data set is {name!r}; give it a name")
    ensure(n > 0, f"{name} holds no pictures")
    sample, again = dataset[n // 2], dataset[n // 2]
    image, points = sample.image, sample.points
    ensure(
        image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3,
        f"{name}: a picture is {image.dtype}{image.shape}; it must be uint8 (H, W, 3), RGB",
    )
    ensure(
        points.shape == (5, 2) and np.isfinite(points).all(),
        f"{name}: `points` must be five finite places (5, 2) that say where the face is",
    )
    ensure(
        np.array_equal(image, again.image) and np.array_equal(points, again.points),
        f"{name}: picture {n // 2} differs when it is opened twice; draw at random in `Augment` only",
    )
    ensure(sample.labels, f"{name}: picture {n // 2} has no label")
    unknown = [t for t in sample.labels if t not in known and t not in TASKS]
    ensure(not unknown, f"{name}: labels of no known task: {', '.join(unknown)}; pass tasks=[...]")
    try:
        dataset[n]
    except IndexError:
        pass
    else:
        raise AssertionError(f"{name}: [{n}] of {n} pictures gives one; raise IndexError")
    of = [known.get(t) or TASKS[t] for t in sample.labels]
    example = FaceSource(dataset, VIEW, Augment()).example(n // 2, np.random.default_rng(0), of)
    for task in of:
        target, mask = example.labels[task.name]
        blank, unlabeled = task.missing_target(VIEW.size)
        ensure(
            np.shape(target) == np.shape(blank) and np.shape(mask) == np.shape(unlabeled),
            f"{name}: a label of {task.name} becomes a target {np.shape(target)}, not {np.shape(blank)}",
        )


class RandomNetwork:
    """Random outputs for one task, the same for every run."""

    view = VIEW

    def __init__(self, task: Task[Any]):
        self.tasks, self._rng = (task,), np.random.default_rng(0)

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        return {t.name: raw_outputs(t, len(images), self._rng) for t in self.tasks}


def check_protocol(protocol: Protocol, *, data: bool = True) -> None:
    """Check that a protocol keeps the contract; a few of its pictures are scored with random outputs.

    Args:
        data: open the data set. Where it is not on this machine, only the protocol itself is checked.

    Raises:
        AssertionError: it does not; the message says what is wrong.
    """
    name = protocol.name
    ensure(name and name == name.strip(), f"the name of the protocol is {name!r}; give it a name")
    ensure(protocol.keys, f"{name}: `keys` is empty; name the numbers that the table shows")
    ensure(protocol.note, f"{name}: `note` is empty; say what a reader must know to compare the number")
    ensure(
        protocol.task in TASKS,
        f"{name} scores {protocol.task!r}, no known task; install the package with its entry point in"
        " mien.tasks, or set mien.tasks.TASKS[...] in the test",
    )
    scored = TASKS[protocol.task]
    if not data or isinstance(scored.shape, Boxes):
        return
    try:
        dataset = protocol.dataset()
    except MissingData:
        return
    values = evaluate(RandomNetwork(scored), protocol, limit=PICTURES, dataset=dataset).values
    missing = [k for k in (*protocol.keys, "n") if k not in values]
    ensure(not missing, f"{name}: the metrics do not compute {', '.join(missing)}, but: {', '.join(values)}")

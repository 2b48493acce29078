"""What the checks work on: drawn faces, example labels and random network outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mien.data import synthetic
from mien.tasks import Derived, Embedding, Map, Points, Task, Vector
from mien.types import Floats, Sample

_REFUSALS = (TypeError, ValueError, LookupError, AttributeError)  # of a label that is not of a task's kind


def ensure(condition: object, message: str) -> None:
    """Raise an `AssertionError` with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def raw_outputs(task: Task[Any], batch: int, rng: np.random.Generator) -> Floats:
    """Random raw outputs of a network for a task of a face, (batch, ...) float32."""
    shape = task.shape
    if isinstance(shape, (Points, Map)):
        tail: tuple[int, ...] = (shape.n, 16, 16)
    else:
        assert isinstance(shape, (Vector, Embedding))
        tail = (shape.n,) if isinstance(shape, Vector) else (shape.d,)
    return rng.standard_normal((batch, *tail)).astype(np.float32)


def example_labels(task: Task[Any], n: int) -> list[Any]:
    """Labels for the first n drawn faces, in pixels of these pictures.

    A task of mien has the label that is drawn. Another gets one that suits its shape: a number, the number of
    a class, yes or no for each of its names, points, or a mask.

    Raises:
        AssertionError: the task takes none of these.
    """
    drawn = [synthetic.draw(np.random.default_rng(i))[1] for i in range(n)]
    if all(task.name in labels for labels in drawn):
        return [labels[task.name] for labels in drawn]
    for made in zip(*(_candidates(task, i, labels) for i, labels in enumerate(drawn)), strict=True):
        if all(_takes(task, label) for label in made):
            return list(made)
    raise AssertionError(
        f"no example label is known for the task {task.name!r}; pass some, as a data set gives them:"
        " labels=[...]"
    )


def _candidates(task: Task[Any], i: int, drawn: dict[str, Any]) -> tuple[Any, ...]:
    """Labels that the i-th drawn face may have, the likeliest first."""
    shape = task.shape
    if isinstance(shape, Points):
        around = drawn["landmarks"]
        return (around[np.arange(shape.n) * 7 % len(around)] + 0.5 * np.arange(shape.n)[:, None],)
    if isinstance(shape, Map):
        return (np.minimum(drawn["parsing"], shape.n - 1).astype(np.uint8),)
    if isinstance(shape, Embedding):
        return (np.resize(drawn["identity"], shape.d),)
    assert isinstance(shape, Vector)
    share = (i + 1) / 5 % 1
    one_of = share if shape.n == 1 else i % shape.n
    each = {name: (i + k) % 2 == 0 for k, name in enumerate(task.label_names)}
    return (one_of, each or None, share, np.full(shape.n, share))


def _takes(task: Task[Any], label: Any) -> bool:
    """Whether a task encodes that label."""
    try:
        target, mask = task.encode_target(label, np.eye(2, 3), False, (64, 64))
        blank, _ = task.missing_target((64, 64))
    except _REFUSALS:
        return False
    fits = np.shape(target) == np.shape(blank) and bool(np.any(mask))
    return fits and bool(np.isfinite(np.asarray(target, np.float64)).all())


class DrawnFaces:
    """n drawn faces with a label for each of these tasks."""

    def __init__(self, tasks: Sequence[Task[Any]], n: int):
        self.name, self._faces = "drawn", synthetic.toy(n=n, tasks=tuple(t.name for t in tasks))
        known = set(self._faces[0].labels)
        self._more = {t.name: example_labels(t, n) for t in tasks if t.name not in known}

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, i: int, /) -> Sample:
        face = self._faces[i]
        more = {name: labels[i] for name, labels in self._more.items()}
        return replace(face, labels={**face.labels, **more})


def derived_from(task: Task[Any]) -> list[Derived[Any]]:
    """What derives from the answers to a task."""
    from mien.tasks import DERIVED

    return [d for d in DERIVED.values() if d.source == task.name]

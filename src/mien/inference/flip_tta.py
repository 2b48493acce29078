"""Test-time augmentation: the mean over each face and its horizontal flip, more accurate at twice the cost.

Pictures and flipped pictures are one batch, so the network is called once. Each task flips its output back.

Points are the exception, and are answered from the picture alone. Sets label them half a pixel or more to the
right of what a mirror leaves in place (`Sample.lean`), and a network learns that; the mean of both would be
nobody's labels: measured on MTFL's test, 6.98 against 6.03 (log, entry 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mien.errors import UsageError
from mien.inference.weights_file import weights_id
from mien.tasks import Boxes, Points, Task
from mien.types import Floats, HasPath, InferenceModel, KnowsTasks, View


class FlipTTA:
    """An `InferenceModel` around another one.

    Raises:
        UsageError: the network finds faces in photos; what it sees in a mirror has other rows.
    """

    def __init__(self, model: InferenceModel):
        if found := [t.name for t in model.tasks if isinstance(t.shape, Boxes)]:
            raise UsageError(
                f"{found[0]!r} cannot be answered from a mirror; mirror=True is for networks that read"
                " aligned faces"
            )
        self.model = model
        # a name of its own: records of one forward and of two do not belong in one table
        name, self.sha256 = weights_id(model)
        self.name = f"{name}+mirror"
        if isinstance(model, HasPath):
            self.path = model.path

    @property
    def view(self) -> View:
        """The network's own."""
        return self.model.view

    @property
    def tasks(self) -> tuple[Task[Any], ...]:
        """The network's own."""
        return self.model.tasks

    @property
    def known_tasks(self) -> tuple[Task[Any], ...]:
        """The network's own, with those that it was loaded without."""
        return self.model.known_tasks if isinstance(self.model, KnowsTasks) else self.model.tasks

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        """(B, 3, H, W), normalized -> task name -> the mean of the raw answers to both (B, ...); of points,
        those to the first.
        """
        n = len(images)
        raw = self.model(np.concatenate([images, images[..., ::-1]]))
        return {t.name: self._joined(t, raw[t.name][:n], raw[t.name][n:]) for t in self.tasks}

    @staticmethod
    def _joined(task: Task[Any], plain: Floats, mirrored: Floats) -> Floats:
        return (
            plain if isinstance(task.shape, Points) else np.float32(0.5) * (plain + task.undo_hflip(mirrored))
        )

"""Test-time augmentation: the mean over each face and its horizontal flip, more accurate at twice the cost.

Pictures and flipped pictures are one batch, so the network is called once. Each task flips its output back.

Points are the exception: they come from the unflipped picture alone. Data sets label them half a pixel or
more to the right (`Sample.label_offset_x`), and a network learns that offset; the mean of both would remove
it: on MTFL's test, 6.98 against 6.03 (dev/LOG.md, entry 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mien.errors import UsageError
from mien.inference.weights_file import weights_id
from mien.tasks import Boxes, Points, Task
from mien.types import Floats, HasParts, HasPath, InferenceModel, KnowsTasks, View


class FlipTTA:
    """An `InferenceModel` around another one.

    Raises:
        UsageError: the network is a detector, whose output has other rows for a flipped photo.
    """

    def __init__(self, model: InferenceModel):
        if found := [t.name for t in model.tasks if isinstance(t.shape, Boxes)]:
            raise UsageError(
                f"{found[0]!r} cannot be predicted from flipped photos; flip_tta=True is for networks of"
                " aligned faces"
            )
        self.model = model
        # another name, since records with and without flips do not belong in one table
        name, self.sha256 = weights_id(model)
        self.name = f"{name}+flip_tta"
        if isinstance(model, HasPath):
            self.path = model.path
        if isinstance(model, HasParts):
            self.part_sha256 = model.part_sha256

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
        """(B, 3, H, W), normalized -> task name -> mean of the raw outputs for both (B, ...).

        Points: the outputs for the unflipped picture.
        """
        n = len(images)
        raw = self.model(np.concatenate([images, images[..., ::-1]]))
        return {t.name: self._joined(t, raw[t.name][:n], raw[t.name][n:]) for t in self.tasks}

    @staticmethod
    def _joined(task: Task[Any], plain: Floats, mirrored: Floats) -> Floats:
        return (
            plain if isinstance(task.shape, Points) else np.float32(0.5) * (plain + task.undo_hflip(mirrored))
        )

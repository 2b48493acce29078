"""The face detector: boxes, scores and five points, learned from a teacher's on whole photos.

    mien train recipes/detector.py --out RUN
"""

from __future__ import annotations

import torch

from mien.data.mix import Mixture
from mien.data.photos import MosaicSource, read_photos
from mien.models.detector import detector
from mien.settings import data_root
from mien.train import Recipe, cosine


def recipe(*, steps: int = 6000, seed: int = 1, batch: int = 16, lr: float = 2e-3) -> Recipe:
    """See the module's text.

    Args:
        batch: pictures a step. lr: of AdamW, after 300 steps of warm-up, before the cosine.
    """
    model = detector()
    size = model.view.size
    source = MosaicSource(read_photos(data_root(), "train"), size=size[0])
    mixture = Mixture([(source, batch)], model.tasks, seed=seed, size=size)
    plain = [p for p in model.parameters() if p.ndim == 1]  # biases and norms are not decayed
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=lr
    )
    return Recipe(
        name="detector", model=model, mixture=mixture, optimizer=optimizer, schedule=cosine(300), steps=steps, seed=seed,
        ema=0.998, clip=5.0, data=("photos",),
    )  # fmt: skip

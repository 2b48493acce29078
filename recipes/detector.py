"""The face detector: boxes, scores and five points, learned from a teacher's on whole photos.

mien train recipes/detector.py --out RUN
"""

from __future__ import annotations

from pathlib import Path

import torch

from mien.checkpoint import load
from mien.data.mix import Mixture
from mien.data.photos import MosaicSource, read_photos
from mien.models.detector import detector
from mien.settings import data_root
from mien.train import Recipe, cosine


def recipe(*, steps: int = 6000, seed: int = 1, batch: int = 16, lr: float = 2e-3, start: str = "") -> Recipe:
    """See the module's text.

    About 45 pictures a second on one core: 6,000 steps of 16 take 36 minutes, and are not enough: the loss on training
    photos and on unseen ones is still the same and still falling. Start again from the weights of a run for more.
    After 7,500 steps, photos/val (200 photos, 357 faces, whole photos through `mien.detect`, in ONNX) gave recall 0.908
    and precision 0.942 at IoU 0.5 and a score of 0.57, with a median point error of 3.2 % of the box's side. Of those
    steps the first 2,500 drew photos uniformly, with more turning and more change of light, and weighed boxes 2 and
    points 1.

    Args:
        start: a checkpoint of an earlier run to begin from, instead of random weights.
        batch: pictures a step. lr: of AdamW, after 300 steps of warm-up, before the cosine.
    """
    model = load(Path(start)).train() if start else detector()
    size = model.view.size
    source = MosaicSource(read_photos(data_root(), "train"), size=size[0])
    mixture = Mixture([(source, batch)], model.tasks, seed=seed, size=size)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]  # biases and norms are not decayed
    groups = [{"params": kernels, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    return Recipe(
        name="detector", model=model, mixture=mixture, optimizer=optimizer, schedule=cosine(300), steps=steps,
        seed=seed, ema=0.998, clip=5.0, data=("photos",),
    )  # fmt: skip

"""The face detector: boxes, scores and five points, learned from a teacher's on whole photos.

mien train recipes/detector.py --out RUN
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mien.data.detection import MosaicSource, read_photos
from mien.data.mixture import Mixture
from mien.models.detector import detector
from mien.models.widen import place_within
from mien.settings import data_root
from mien.training.checkpoint import load
from mien.training.recipe import Recipe, cosine


def grow(small: nn.Module, large: nn.Module) -> None:
    """Start a network from a narrower or shallower one's weights so that it computes the same at first.

    Old channels keep their weights and see nothing of the new ones; the new ones start at random; an added block, which
    must have a shortcut, adds nothing.
    """
    old = small.state_dict()
    for name, value in large.state_dict().items():  # these share memory with the network
        if name in old:
            place_within(value, old[name])
        elif name.endswith("mix.1.weight"):  # the last norm of an added block
            value.zero_()


def recipe(*, steps: int = 6000, seed: int = 1, batch: int = 16, lr: float = 2e-3, start: str = "") -> Recipe:
    """See the module's text.

    About 55 pictures a second on two cores: 12,000 steps of 16 take an hour. The embedded weights took 7,500 steps of a
    narrower network (widths 32, 48, 96, 160; depths 1, 2, 4, 3; dim 48), grown into this one with `start`, and 12,000
    more with seed 2. On photos/val (200 photos, 357 faces, whole photos through `mien.inference.detector`, in ONNX) they give
    recall 0.941 and precision 0.971 at IoU 0.5 and a score of 0.56, with a median point error of 3.0 % of the box's
    side. The loss is still the same on training photos and on unseen ones: more steps help.

    Args:
        start: a checkpoint of an earlier run to begin from, instead of random weights.
        batch: pictures a step. lr: of AdamW, after 300 steps of warm-up, before the cosine.
    """
    torch.manual_seed(seed)
    model = detector()
    if start:
        grow(load(Path(start)), model)
    size = model.view.size
    source = MosaicSource(read_photos(data_root(), "train"), size=size[0], groups=0.7)
    mixture = Mixture([(source, batch)], model.tasks, seed=seed, size=size)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]  # biases and norms are not decayed
    groups = [{"params": kernels, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    return Recipe(
        name="detector", model=model, mixture=mixture, optimizer=optimizer, schedule=cosine(300), steps=steps,
        seed=seed, ema=0.998, clip=5.0, data=("photos",),
    )  # fmt: skip

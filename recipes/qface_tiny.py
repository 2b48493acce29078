"""Q-Face, tiny: expression, 40 attributes and age, on the data pack.

    mien train recipes/qface_tiny.py --out runs/qface_tiny

2,500 steps of 20 pictures: about 10 minutes on two idle cores. What to expect is in docs/comparison.md.
"""

from __future__ import annotations

import torch

from mien.data.pack_mixture import LOSS_WEIGHTS, allocate_batch, pack_mixture, validation_protocols
from mien.models.qface import qface_tiny
from mien.tasks import task
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine


def recipe(
    *,
    steps: int = 2500,
    seed: int = 1,
    batch: int = 20,
    size: int = 112,
    tasks: str = "expression,attributes,age",
    fusion: str = "concat",
    taps: str = "0,1,2,3",
    frozen: int = 2,
    lr: float = 5e-4,
    imagenet: bool = True,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        batch: Batch size in pictures.
        size: Side of the crop in pixels.
        tasks: Task names, comma-separated.
        fusion: How levels are fused: concat, sum, gated or tokens.
        taps: Encoder levels that are fused; "3" is the last one alone.
        frozen: Number of encoder stages that do not learn, besides the stem.
        lr: Base learning rate of the optimizer.
        imagenet: Start the encoder from its ImageNet weights.
        synthetic: Train on synthetic faces, to try the recipe without data.
    """
    torch.manual_seed(seed)
    requested = [task(n) for n in tasks.split(",")]
    model = qface_tiny(
        tasks=requested, size=size, imagenet=imagenet, fusion=fusion, taps=[int(i) for i in taps.split(",")]
    )
    model.encoder.freeze(frozen)
    mixture = pack_mixture(
        allocate_batch(requested, batch), model.view, requested, seed=seed, synthetic=synthetic
    )
    return Recipe(
        name="qface_tiny",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, lr),
        schedule=cosine(150),
        steps=steps,
        loss_weighting=Fixed(LOSS_WEIGHTS),
        seed=seed,
        ema=0.998,
        data=tuple(allocate_batch(requested, batch)),
        protocols=() if synthetic else validation_protocols(requested),
        every=500,
        limit=300,
    )

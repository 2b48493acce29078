"""Naive Faceptor, tiny: every task of the data pack, or some of them; one task alone is a plain single-task
network.

    mien train recipes/naive_faceptor_tiny.py --out runs/naive_faceptor_tiny
    mien train recipes/naive_faceptor_tiny.py --out runs/age --tasks age

2,500 steps of 20 pictures: about 25 minutes on two idle cores with all tasks. What to expect is in
docs/comparison.md.
"""

from __future__ import annotations

import torch

from mien.data.pack_mixture import LOSS_WEIGHTS, allocate_batch, pack_mixture, validation_protocols
from mien.models.naive_faceptor import naive_faceptor_tiny
from mien.tasks import DEFAULT_TASKS, task
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine


def recipe(
    *,
    steps: int = 2500,
    seed: int = 1,
    batch: int = 20,
    size: int = 112,
    tasks: str = "",
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
        tasks: Task names, comma-separated; empty for all that the data pack has.
        frozen: Number of encoder stages that do not learn, besides the stem.
        lr: Base learning rate of the optimizer.
        imagenet: Start the encoder from its ImageNet weights.
        synthetic: Train on synthetic faces, to try the recipe without data.
    """
    torch.manual_seed(seed)
    requested = [task(n) for n in tasks.split(",")] if tasks else list(DEFAULT_TASKS)
    model = naive_faceptor_tiny(tasks=requested, size=size, imagenet=imagenet)
    model.encoder.freeze(frozen)
    mixture = pack_mixture(
        allocate_batch(requested, batch), model.view, requested, seed=seed, synthetic=synthetic
    )
    return Recipe(
        name="naive_faceptor_tiny",
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

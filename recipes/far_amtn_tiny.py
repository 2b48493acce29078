"""FAR-AMTN, tiny: 40 attributes in groups, on CelebA.

    mien train recipes/far_amtn_tiny.py --out runs/far_amtn_tiny

2,500 steps of 20 pictures: about 6 minutes on two idle cores. What to expect is in docs/comparison.md.
"""

from __future__ import annotations

import torch

from mien.data.pack_mixture import allocate_batch, pack_mixture, validation_protocols
from mien.models.far_amtn import far_amtn_tiny
from mien.training.loss_weighting import Dynamic, Fixed
from mien.training.recipe import Recipe, adamw, cosine


def recipe(
    *,
    steps: int = 2500,
    seed: int = 1,
    batch: int = 20,
    size: int = 112,
    groups: str = "mgmtn8",
    fusion: str = "attention",
    shared: bool = True,
    gates: bool = True,
    dynamic: bool = True,
    window: int = 100,
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
        groups: Table of `mien.tasks.attribute_groups`.
        fusion: How group features are fused: attention, concat or off.
        shared: One block of group attention for all groups (WSGSA), not one per group.
        gates: Use the gates of WSGSA.
        dynamic: Weight each group by its progress over `window` steps; otherwise equally.
        window: Number of steps over which progress is measured.
        frozen: Number of encoder stages that do not learn, besides the stem.
        lr: Base learning rate of the optimizer.
        imagenet: Start the encoder from its ImageNet weights.
        synthetic: Train on synthetic faces, to try the recipe without data.
    """
    torch.manual_seed(seed)
    model = far_amtn_tiny(
        groups=groups, size=size, imagenet=imagenet, fusion=fusion, shared=shared, gates=gates
    )
    model.encoder.freeze(frozen)
    mixture = pack_mixture(
        allocate_batch(model.tasks, batch), model.view, model.tasks, seed=seed, synthetic=synthetic
    )
    return Recipe(
        name="far_amtn_tiny",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, lr),
        schedule=cosine(150),
        steps=steps,
        loss_weighting=Dynamic(window) if dynamic else Fixed(),
        seed=seed,
        ema=0.998,
        data=tuple(allocate_batch(model.tasks, batch)),
        protocols=() if synthetic else validation_protocols(model.tasks),
        every=500,
        limit=300,
    )

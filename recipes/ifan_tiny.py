"""iFAN, tiny: parsing, five points and expression by cross-dataset hybrid training: each set labels one task.

    mien train recipes/ifan_tiny.py --out runs/ifan_start --laps 1
    mien train recipes/ifan_tiny.py --out runs/ifan_tiny --start runs/ifan_start/model.safetensors

Its trunk has no ImageNet weights to start from; the first run, with one lap, is its pretraining. 2,500 steps
of 20 pictures: about 15 minutes with one lap and 35 with three on two idle cores. What to expect is in
docs/comparison.md.
"""

from __future__ import annotations

import torch

from mien.data.augment import NONE
from mien.data.pack_mixture import LOSS_WEIGHTS, allocate_batch, pack_mixture, validation_protocols
from mien.models.ifan import ifan_tiny
from mien.tasks import task
from mien.training import checkpoint
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine


def recipe(
    *,
    steps: int = 2500,
    seed: int = 1,
    batch: int = 20,
    size: int = 112,
    tasks: str = "parsing,points5,expression",
    laps: int = 3,
    norms: str = "task",
    start: str = "",
    lr: float = 2e-3,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        batch: Batch size in pictures.
        size: Side of the crop in pixels.
        tasks: Task names, comma-separated.
        laps: Passes of the feedback loop.
        norms: Batch normalization: "task" for one set per task, or "shared".
        start: Run to start from; its number of passes can differ.
        lr: Base learning rate of the optimizer.
        synthetic: Train on synthetic faces, to try the recipe without data.
    """
    torch.manual_seed(seed)
    requested = [task(n) for n in tasks.split(",")]
    model = ifan_tiny(tasks=requested, size=size, laps=laps, norms=norms)
    mixture = pack_mixture(
        allocate_batch(requested, batch), model.view, requested, seed=seed, synthetic=synthetic
    )
    if start:
        model.load_state_dict(checkpoint.load(start).state_dict())  # the mean answers come along
    else:
        plain = pack_mixture(
            allocate_batch(requested, batch),
            model.view,
            requested,
            seed=seed,
            augment=NONE,
            synthetic=synthetic,
        )
        model.set_means(model.mean_answers(plain.batch(i) for i in range(1 if synthetic else 50)))
        model.begin_at_means()
    # a dense head on a flattened map has a large gradient (norm 120 of all at this weight; they are clipped
    # at 5)
    weights = {**LOSS_WEIGHTS, "points5": 0.2}
    return Recipe(
        name="ifan_tiny",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, lr, rates=model.rates()),
        schedule=cosine(150),
        steps=steps,
        loss_weighting=Fixed(weights),
        seed=seed,
        ema=0.998,
        data=tuple(allocate_batch(requested, batch)),
        protocols=() if synthetic else validation_protocols(requested),
        every=500,
        limit=300,
    )

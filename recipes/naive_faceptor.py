"""Naive Faceptor at the paper's size (Qin et al., ECCV 2024): ViT-B/16 with a head a kind of task, seven
sets, two views a step.

    mien train recipes/naive_faceptor.py --out runs/naive_faceptor \
        --farl FaRL-Base-Patch16-LAIONFace20M-ep64.pth

Sets, batches, schedule, views and learning rates are those of recipes/faceptor.py: 5e-5 for the encoder and
5e-4 for the heads. The loss weights differ: each of the six kinds of task has weight 1/6, which the sets of
one kind share in proportion to their batches.

Not run by us; the authors took 2 GPUs and do not publish the hours. 50,000 steps of 472 pictures are too many
for the CPUs that mien's trainer works on.

Published: 300-W NME 3.16 (full), CelebAMask-HQ F1 88.04, MORPH II MAE 1.873, RAF-DB 87.58, CelebA 91.40,
verification 95.57.
"""

from __future__ import annotations

from pathlib import Path

from mien.cli import load_recipe
from mien.training.recipe import Recipe


def recipe(
    *,
    steps: int = 50_000,
    seed: int = 2048,
    farl: str = "",
    size: int = 512,
    small: int = 112,
    lr: float = 5e-5,
    ema: float = 0.0,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        farl: File with the weights of FaRL or CLIP for the encoder.
        size: Side of the crops for maps, in pixels.
        small: Side of the crops for values and identity, in pixels.
        lr: Learning rate of the encoder; the rest learns ten times as fast.
        ema: Decay of the averaged weights; the paper does not average.
        synthetic: Use synthetic faces instead of the data sets, to try the recipe without data.
    """
    faceptor = load_recipe(Path(__file__).with_name("faceptor.py"))
    return faceptor(  # type: ignore[no-any-return]
        naive=True,
        steps=steps,
        seed=seed,
        farl=farl,
        size=size,
        small=small,
        lr=lr,
        ema=ema,
        synthetic=synthetic,
    )

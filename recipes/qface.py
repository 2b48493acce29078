"""Q-Face on ViT-B/16 (Sun et al., 2024, arXiv 2405.09059): three of its five tasks, without action units and
head pose.

    mien train recipes/qface.py --out runs/qface --encoder FaRL-Base-Patch16-LAIONFace20M-ep16.pth

Not run by us. The paper trains on RAF-DB, CelebA and other sets whose list, like the hours and the whole
setting, is not public: every number below is ours. 50,000 steps of 128 pictures of 224 px are too many for
the CPUs that mien's trainer works on.

Data, in the publishers' layouts below the data root (`mien.data.catalogue.OFFICIAL`): rafdb, celeba-official,
utkface-official. Published: RAF-DB 92.86, CelebA 91.56.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mien.data.augment import Augment
from mien.data.catalogue import SourceSpec, open_parts
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.backbones.vit import load_clip
from mien.models.qface import qface_base
from mien.tasks import task
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine

# Ours: sets next to RAF-DB and CelebA, and how many pictures of each. No reader knows BP4D or DISFA, so
# action units stay out.
PARTS = (
    SourceSpec("rafdb", "train", "expression7", 32),
    SourceSpec("celeba-official", "train", "attributes", 64),
    SourceSpec("utkface-official", "train", "age", 32),
)
SCORED = {"expression7": "rafdb", "attributes": "celeba-official", "age": "utkface-official"}
# Ours: found on a small network, where at equal weights attributes hardly learned
WEIGHTS = {"expression7": 1.5, "attributes": 7.0, "age": 0.5}


def recipe(
    *,
    steps: int = 50_000,
    seed: int = 1,
    tasks: str = "expression7,attributes,age",
    encoder: str = "",
    size: int = 224,
    fusion: str = "concat",
    lr: float = 5e-5,
    drop_path: float = 0.1,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        tasks: Task names, comma-separated.
        encoder: File with the weights of FaRL or CLIP for the encoder.
        size: Side of the crop in pixels.
        fusion: How levels are fused: concat, sum, gated or tokens.
        lr: Learning rate of the encoder; the rest learns ten times as fast.
        drop_path: Probability of stochastic depth, 0..1.
        synthetic: Use synthetic faces instead of the data sets, to try the recipe without data.
    """
    torch.manual_seed(seed)
    requested = tasks.split(",")
    if unknown := [n for n in requested if n not in SCORED]:
        raise UsageError(f"no set here teaches {unknown[0]!r}; there are sets for: {', '.join(SCORED)}")
    model = qface_base(tasks=[task(n) for n in requested], size=size, fusion=fusion, drop_path=drop_path)
    if encoder:
        load_clip(model.encoder, torch.load(encoder, map_location="cpu", weights_only=True))  # type: ignore[arg-type]
    # these sets' crops end near the face; no color is made up around it, since protocols crop alike
    parts = [replace(p, augment=Augment(fill_border=0)) for p in PARTS if p.task in requested]
    mixture = Mixture(
        open_parts(parts, model.view, synthetic=synthetic), model.tasks, seed=seed, size=model.view.size
    )
    return Recipe(
        name="qface",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, lr, head_lr_multiplier=10, weight_decay=0.05),
        schedule=cosine(1000),
        steps=steps,
        loss_weighting=Fixed(WEIGHTS),
        seed=seed,
        data=[p.dataset for p in parts],
        every=steps,
        protocols=() if synthetic else [SCORED[n] for n in requested],
    )

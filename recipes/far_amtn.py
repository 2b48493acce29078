"""FAR-AMTN at the paper's size (Gao et al., CVIU 2025): ResNet-50, 224 px, 40 attributes in groups with
dynamic weights.

    mien train recipes/far_amtn.py --out runs/far_amtn --imagenet resnet50.pth
    mien train recipes/far_amtn.py --out runs/far_amtn_lfwa --data lfwa --imagenet resnet50.pth --steps 3000

Data, in the publishers' layouts below the data root (`mien.data.catalogue.OFFICIAL`): celeba-official, or
lfwa.

Not run by us, and setting, GPUs and hours of the paper are not public. 38,000 steps of 128 pictures are
thirty epochs of CelebA, too many for the CPUs that mien's trainer works on. No number of the paper is known
with a source; compare with those of the same authors' MGMTN, 92.30 on CelebA and 87.01 on LFWA.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mien.data.augment import NONE
from mien.data.catalogue import SourceSpec, open_parts
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.backbones.resnet import ResNet50
from mien.models.far_amtn import Wsgsa, far_amtn
from mien.training.loss_weighting import Dynamic, Fixed
from mien.training.recipe import Recipe, adamw, cosine

LAST = "layer4.2."  # the block of a published ResNet-50 whose place WSGSA takes


def recipe(
    *,
    steps: int = 38_000,
    seed: int = 1,
    batch: int = 128,
    data: str = "celeba-official",
    imagenet: str = "",
    groups: str = "mgmtn8",
    size: int = 224,
    fusion: str = "attention",
    dynamic: bool = True,
    lr: float = 1e-4,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text. Ours: batch, steps, optimizer and augmentation.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        batch: Batch size in pictures.
        data: Data set: celeba-official or lfwa.
        imagenet: File with the published state dict of a ResNet-50 (.pth).
        groups: Table of `mien.tasks.attribute_groups`.
        size: Side of the crop in pixels.
        fusion: How group features are fused: attention, concat or off.
        dynamic: Weight each group by the progress of its loss from epoch to epoch; otherwise equally.
        lr: Base learning rate of the optimizer.
        synthetic: Use synthetic faces instead of the data sets, to try the recipe without data.
    """
    if data not in ("celeba-official", "lfwa"):
        raise UsageError(f"no recipe for {data!r}; choose one of: celeba-official, lfwa")
    torch.manual_seed(seed)
    model = far_amtn(groups=groups, size=size, fusion=fusion)
    if imagenet:
        state = torch.load(imagenet, map_location="cpu", weights_only=True)
        assert isinstance(model.encoder, ResNet50) and isinstance(model.split, Wsgsa)
        model.encoder.load_imagenet(state, leave=("fc.", LAST))
        model.split.block.load_state_dict(
            {k.removeprefix(LAST): v for k, v in state.items() if k.startswith(LAST)}
        )
    sources = open_parts(
        [SourceSpec(data, "train", "attributes", batch, replace(NONE, mirror=0.5, photometric=0.5))],
        model.view,
        synthetic=synthetic,
    )
    epoch = max(1, len(sources[0][0]) // batch)
    return Recipe(
        name="far_amtn",
        model=model,
        mixture=Mixture(sources, model.tasks, seed=seed, size=model.view.size),
        optimizer=adamw(model, lr, head_lr_multiplier=10, weight_decay=0.05),
        schedule=cosine(1000),
        steps=steps,
        loss_weighting=Dynamic(epoch) if dynamic else Fixed(),
        seed=seed,
        data=[data],
        every=steps,
        protocols=() if synthetic else [data],
    )

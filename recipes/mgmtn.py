"""MGMTN at the paper's size (Gao et al., 2026): ResNeSt-50 and a U-Net of masks, 227 px, in the paper's two
parts.

    mien train recipes/mgmtn.py --out runs/mgmtn_masks --part masks --steps 20000
    mien train recipes/mgmtn.py --out runs/mgmtn --start runs/mgmtn_masks/model.safetensors \
        --imagenet resnest50.pth

Data, in the publishers' layouts below the data root (`mien.data.catalogue.OFFICIAL`): wflw for the masks;
celeba-official, or lfwa. The paper's masks come from 98 points that a network found; Ours: from WFLW's own,
which that network had learned from.

Not run by us, and setting, GPUs and hours of the paper are not public. 38,000 steps of 128 pictures are
thirty epochs of CelebA, too many for the CPUs that mien's trainer works on. Published: CelebA 92.30, LFWA
87.01.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mien.data.augment import NONE, Augment
from mien.data.catalogue import SourceSpec, open_parts
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.mgmtn import mgmtn
from mien.tasks import WFLW98, Task
from mien.training import checkpoint
from mien.training.recipe import Recipe, adamw, cosine


def recipe(
    *,
    part: str = "attributes",
    steps: int = 38_000,
    seed: int = 1,
    batch: int = 128,
    data: str = "celeba-official",
    start: str = "",
    imagenet: str = "",
    size: int = 227,
    masks: bool = True,
    hard: bool = False,
    inside: bool = False,
    lr: float = 1e-4,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text. Ours: batch, steps, optimizer and augmentation.

    Args:
        part: Part of the training: "masks" or "attributes".
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        batch: Batch size in pictures.
        data: Data set of part attributes: celeba-official or lfwa.
        start: Checkpoint of part masks, whose U-Net is loaded.
        imagenet: File with the published state dict of a ResNeSt-50.
        size: Side of the crop in pixels.
        masks: Use the masks of a U-Net; without them, no U-Net is built (ablation).
        hard: See `mien.models.mgmtn.Mgmtn`.
        inside: See `mien.models.mgmtn.Mgmtn`.
        lr: Learning rate of the encoder; the rest learns ten times as fast.
        synthetic: Use synthetic faces instead of the data sets, to try the recipe without data.

    Raises:
        UsageError: no such part or set, or a start that does not fit the part.
    """
    if part not in ("masks", "attributes") or data not in ("celeba-official", "lfwa"):
        raise UsageError(
            f"no part {part!r} on {data!r}; parts are masks and attributes, sets celeba-official and lfwa"
        )
    if part == "attributes" and masks != bool(start) and not synthetic:
        raise UsageError(
            "part attributes needs --start, the checkpoint of part masks; or --masks no and no --start to do"
            " without masks"
        )
    torch.manual_seed(seed)
    model = mgmtn(size=size, masks=masks, hard=hard, inside=inside)
    if imagenet:
        state = torch.load(imagenet, map_location="cpu", weights_only=True)
        model.encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    if start:
        model.load_masks(checkpoint.load(start))
    tasks: list[Task[Any]] = [*model.tasks]
    if part == "masks":
        model.learn_masks()
        # the batch carries the points, of which the masks are made; the model does not answer them
        parts, tasks = (
            [SourceSpec("wflw", "train", "wflw98", batch, Augment(fill_border=0))],
            [*tasks, WFLW98],
        )
        optimizer = adamw(model, 10 * lr)  # the U-Net starts from nothing
    else:
        model.learn_attributes()
        parts = [SourceSpec(data, "train", "attributes", batch, replace(NONE, mirror=0.5, photometric=0.5))]
        optimizer = adamw(model, lr, head_lr_multiplier=10, weight_decay=0.05)
    mixture = Mixture(
        open_parts(parts, model.view, synthetic=synthetic), tasks, seed=seed, size=model.view.size
    )
    return Recipe(
        name=f"mgmtn/{part}",
        model=model,
        mixture=mixture,
        optimizer=optimizer,
        schedule=cosine(1000),
        steps=steps,
        seed=seed,
        every=steps,
        data=[p.dataset for p in parts] + (["wflw"] if start else []),
        protocols=() if synthetic or part == "masks" else [data],
    )

"""MGMTN, tiny: forty attributes from masked maps, trained on the data pack in the paper's two parts.

    mien train recipes/mgmtn_tiny.py --out runs/masks --part masks --steps 1000
    mien train recipes/mgmtn_tiny.py --out runs/attributes --start runs/masks/model.safetensors

The first trains the U-Net on pictures with 68 points; the second everything else on CelebA, with the U-Net
frozen. The ablation, masks of ones and no U-Net, has no first part: --masks no, and no --start.
"""

from __future__ import annotations

import torch

from mien.data.pack_mixture import allocate_batch, pack_mixture, validation_protocols
from mien.errors import UsageError
from mien.models.mgmtn import mgmtn_tiny
from mien.tasks import LANDMARKS
from mien.training import checkpoint
from mien.training.recipe import Recipe, adamw, cosine


def recipe(
    *,
    part: str = "attributes",
    steps: int = 2500,
    seed: int = 1,
    batch: int = 20,
    size: int = 112,
    start: str = "",
    masks: bool = True,
    hard: bool = False,
    inside: bool = False,
    frozen: int = 2,
    lr: float = 5e-4,
    imagenet: bool = True,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        part: Part of the training: "masks" or "attributes".
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        batch: Batch size in pictures.
        size: Side of the crop in pixels.
        start: Checkpoint of part masks, whose U-Net is loaded; the rest starts from ImageNet and the seed.
        masks: Use the masks of a U-Net; without them, no U-Net is built.
        hard: See `mien.models.mgmtn.Mgmtn`; used in part attributes.
        inside: See `mien.models.mgmtn.Mgmtn`; used in part attributes.
        frozen: Number of encoder stages that do not learn, besides the stem.
        lr: Learning rate of the encoder; the heads learn twice and the U-Net ten times as fast.
        imagenet: Start the encoder from its ImageNet weights.
        synthetic: Train on synthetic faces, to try the recipe without data.

    Raises:
        UsageError: no such part, or a start that does not fit it.
    """
    if part not in ("masks", "attributes"):
        raise UsageError(f"no part {part!r}; choose one of: masks, attributes")
    if part == "attributes" and masks != bool(start):
        raise UsageError(
            "part attributes needs --start, the checkpoint of part masks; or --masks no and no --start to do"
            " without masks"
        )
    torch.manual_seed(seed)
    model = mgmtn_tiny(size=size, imagenet=imagenet, masks=masks, hard=hard, inside=inside)
    if start:
        model.load_masks(checkpoint.load(start))
    if part == "masks":
        model.learn_masks()
        afw = max(1, batch // 8)  # the smaller set
        # the batch carries landmarks, of which the masks are made; the model does not answer them
        counts, tasks = {"helen68": batch - afw, "afw68": afw}, (*model.tasks, LANDMARKS)
        optimizer, warmup, protocols = adamw(model, 10 * lr), 50, ()
    else:
        model.learn_attributes()
        model.encoder.freeze(frozen)
        counts, tasks = allocate_batch(model.tasks, batch), model.tasks
        optimizer, warmup, protocols = adamw(model, lr), 150, validation_protocols(model.tasks)
    learned_from = counts if part == "masks" or not masks else [*counts, "helen68", "afw68"]
    return Recipe(
        name=f"mgmtn_tiny/{part}",
        model=model,
        mixture=pack_mixture(counts, model.view, tasks, seed=seed, synthetic=synthetic),
        optimizer=optimizer,
        schedule=cosine(warmup),
        steps=steps,
        seed=seed,
        ema=0.998,
        data=tuple(learned_from),
        protocols=() if synthetic else protocols,
        every=500,
        limit=300,
    )

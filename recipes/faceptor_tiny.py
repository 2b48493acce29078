"""Faceptor, tiny: every task of the data pack, or some of them; with `--levels` the paper's two stages of
Layer-Attention.

    mien train recipes/faceptor_tiny.py --out runs/faceptor_tiny
    mien train recipes/faceptor_tiny.py --out runs/stage1 --levels 2
    mien train recipes/faceptor_tiny.py --out runs/stage2 --levels 2,3,1,0 \
        --start runs/stage1/model.safetensors --steps 800

2,500 steps of 20 pictures: about 12 minutes on two idle cores. What to expect is in docs/comparison.md. The
network that the package ships is trained longer: recipes/mien.py.
"""

from __future__ import annotations

import torch

from mien.data.pack_mixture import LOSS_WEIGHTS, allocate_batch, pack_mixture, validation_protocols
from mien.models.faceptor import faceptor_tiny
from mien.tasks import DEFAULT_TASKS, task
from mien.training import checkpoint
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine


def parse_counts(text: str) -> dict[str, int]:
    """Read "utkface=1500,ferplus=2000" as {"utkface": 1500, "ferplus": 2000}."""
    return {name: int(n) for name, _, n in (part.partition("=") for part in text.split(",") if part)}


def recipe(
    *,
    steps: int = 2500,
    seed: int = 1,
    batch: int = 20,
    size: int = 112,
    tasks: str = "",
    levels: str = "2,3",
    start: str = "",
    max_samples: str = "",
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
        levels: Encoder levels that the queries read; the pixel decoder starts from the first.
        start: Run with the first of the levels only: its weights are loaded, and a second stage trains the
            other levels alone.
        max_samples: Limit a data set: "utkface=1500" uses only 1500 of its pictures.
        frozen: Number of encoder stages that do not learn, besides the stem.
        lr: Base learning rate of the optimizer.
        imagenet: Start the encoder from its ImageNet weights.
        synthetic: Train on synthetic faces, to try the recipe without data.
    """
    torch.manual_seed(seed)
    requested = [task(n) for n in tasks.split(",")] if tasks else list(DEFAULT_TASKS)
    model = faceptor_tiny(
        tasks=requested,
        size=size,
        imagenet=imagenet and not start,
        levels=[int(i) for i in levels.split(",")],
    )
    model.encoder.freeze(frozen)
    if start:
        result = model.load_state_dict(checkpoint.load(start).state_dict(), strict=False)
        assert all(n.startswith(("decoder.project.", "decoder.level.")) for n in result.missing_keys), result
        model.second_stage()
    mixture = pack_mixture(
        allocate_batch(requested, batch),
        model.view,
        requested,
        seed=seed,
        synthetic=synthetic,
        max_samples=parse_counts(max_samples),
    )
    rate = (
        2 * lr if start else lr
    )  # the decoder's rate in a first stage, where `adamw` doubles it outside the encoder
    warmup = min(150, steps // 4) if start else 150  # a second stage is short, and must not be all warm-up
    return Recipe(
        name="faceptor_tiny",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, rate),
        schedule=cosine(warmup),
        steps=steps,
        loss_weighting=Fixed(LOSS_WEIGHTS),
        seed=seed,
        ema=0.998,
        data=tuple(allocate_batch(requested, batch)),
        protocols=() if synthetic else validation_protocols(requested),
        every=500,
        limit=300,
    )

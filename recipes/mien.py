"""The embedded network: every task of the data pack, raised longer than the comparison's networks.

    mien train recipes/mien.py --out runs/mien

14,000 steps of 34 pictures, about 100 minutes on two idle cores (80 images/s). What to expect on the validation sets is in the
README and docs/benchmark.md; the way there in dev/LOG.md.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from mien import checkpoint
from mien.balance import Fixed
from mien.data.blend import LOSS_WEIGHTS, blend, watched
from mien.models.mien import mien_tiny
from mien.tasks import DEFAULT_TASKS
from mien.train import Recipe, adamw, cosine

# pictures of each set a step: FER+ and points are what the first network lacked most, and masks need company (log, entry 7)
SHARES = {"ferplus": 9, "utkface": 6, "celeba": 6, "mtfl": 4, "helen68": 3, "afw68": 1, "celebamask": 5}


def recipe(
    *, steps: int = 14000, seed: int = 1, size: int = 128, frozen: int = 2, encoder: str = "", start: str = "", lr: float = 5e-4,
    ema: float = 0.999, drawn: bool = False,
) -> Recipe:  # fmt: skip
    """See the module's text.

    Args:
        size: side of the crop. frozen: stages of the encoder, besides the stem, that do not learn.
        encoder: a checkpoint of any system on EfficientNet-Lite0 whose encoder to begin from, instead of ImageNet's.
        start: a checkpoint of this network to begin from. lr: of the encoder; the heads learn twice as fast.
        ema: decay of the averaged weights. drawn: learn drawn faces, to try the recipe without data.
    """
    torch.manual_seed(seed)
    model = checkpoint.load(start) if start else mien_tiny(size=size, imagenet=not (encoder or drawn))
    if encoder:
        theirs = load_file(encoder)
        model.encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in theirs.items() if k.startswith("encoder.")})
    model.encoder.freeze(frozen)
    mixture = blend(SHARES, model.view, model.tasks, seed=seed, drawn=drawn)
    return Recipe(
        name="mien", model=model, mixture=mixture, optimizer=adamw(model, lr), schedule=cosine(300), steps=steps,
        balance=Fixed({**LOSS_WEIGHTS, "parsing": 1.5}), seed=seed, ema=ema, data=(*SHARES, "imagenet", "descriptors"),
        protocols=() if drawn else (*watched(DEFAULT_TASKS), "utkface-gender"), every=2000, limit=600,
    )  # fmt: skip

"""The embedded network: Faceptor, tiny, for every task, raised on the data pack, in two parts.

    mien train recipes/mien.py --out runs/first
    mien train recipes/mien.py --out runs/masks --start runs/first/model.safetensors --steps 500 --seed 2 \\
        --lr 1.5e-4 --ema 0.99 --masks 12 --parsing 2.0

The first part takes 8,000 steps of 32 pictures, about 75 minutes on two idle cores (60 images/s); the second, which
gives parsing its share, 500 steps of 42 in 7 minutes. What to expect on the validation sets is in the README; the way
there, and what was changed during the run that made the embedded weights, in dev/LOG.md (entries 7 and 8).
"""

from __future__ import annotations

import torch

from mien import checkpoint
from mien.balance import Fixed
from mien.data import FaceSource, pack
from mien.data.augment import Augment
from mien.data.mix import Mixture
from mien.models.faceptor import faceptor_tiny
from mien.train import Recipe, cosine


def recipe(
    *,
    steps: int = 8000,
    seed: int = 1,
    size: int = 128,
    frozen: int = 2,
    start: str = "",
    lr: float = 5e-4,
    ema: float = 0.999,
    masks: int = 2,
    parsing: float = 1.0,
) -> Recipe:
    """See the module's text.

    Args:
        size: side of the crop. frozen: stages of the ImageNet encoder, besides the stem, that do not learn.
        start: a checkpoint to begin from, instead of an ImageNet encoder and random decoders.
        lr: of the encoder; the decoders learn twice as fast. ema: decay of the averaged weights.
        masks: pictures with parsing masks a step. parsing: weight of that loss.
    """
    torch.manual_seed(seed)
    model = checkpoint.load(start) if start else faceptor_tiny(size=size, imagenet=True)
    model.encoder.freeze(frozen)
    teacher = pack.descriptors()
    parts = [
        (pack.ferplus("train", soft=True), 9),
        (pack.utkface("train", teacher=teacher), 7),
        (pack.celeba("train", teacher=teacher), 6),
        (pack.mtfl("train", teacher=teacher), 5),
        (pack.helen68("train"), 2),
        (pack.afw68("train"), 1),
        (pack.celebamask("train"), masks),
    ]
    sources = [(FaceSource(dataset, model.view, Augment()), n) for dataset, n in parts]
    mixture = Mixture(sources, model.tasks, seed=seed, size=model.view.size)
    encoder = [p for p in model.encoder.parameters() if p.requires_grad]
    heads = [p for n, p in model.named_parameters() if not n.startswith("encoder.")]
    optimizer = torch.optim.AdamW([{"params": encoder, "lr": lr}, {"params": heads, "lr": 2 * lr}], weight_decay=0.02)
    balance = Fixed(
        {"landmarks": 0.5, "points5": 0.5, "parsing": parsing, "age": 0.5, "expression": 1.5, "attributes": 7.0, "identity": 2.0}
    )
    return Recipe(
        name="mien", model=model, mixture=mixture, optimizer=optimizer, schedule=cosine(300), steps=steps, balance=balance,
        seed=seed, ema=ema, protocols=("helen68", "celebamask", "celeba", "utkface-age", "utkface-gender", "ferplus-val", "lfw"),
        every=1500, data=("mtfl", "helen68", "afw68", "celebamask", "celeba", "utkface", "ferplus"),
    )  # fmt: skip

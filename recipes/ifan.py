"""iFAN at the paper's size (Li et al., ACM MM 2017): 128 px, three laps, hybrid training of sets that label
one task each.

    mien train recipes/ifan.py --out runs/ifan
    mien train recipes/ifan.py --out runs/ifan --emotion DATA/bnu-lsved

Helen (9 classes) and MTFL (5 points) are read in their publishers' layouts below the data root
(`mien.data.catalogue.OFFICIAL`: helen, mtfl-official). BNU-LSVED, the third task's set, is given by its
authors on request: --emotion names a folder of face crops, with a sub-folder for each of concentrated,
disgust, distracted, happy, puzzled, surprised, tired. Without it this is the two-task net.

Not run by us. The paper's training is known in outline only, its GPUs and hours are not public, and how long
40,000 steps of 24 pictures with three laps take on the CPUs that mien's trainer works on is not measured.

Published: Helen overall F 91.15, MTFL NME 5.81, BNU-LSVED 45.73.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mien import geometry
from mien.data.augment import NONE, Augment
from mien.data.catalogue import SourceSpec, open_parts
from mien.data.dataset import FaceSource
from mien.data.formats.attributes import Table, need
from mien.data.mixture import Mixture
from mien.data.synthetic import toy
from mien.io.image import load_photo
from mien.io.paths import EXTENSIONS
from mien.models.ifan import ifan
from mien.tasks import EMOTION7, HELEN9
from mien.training.recipe import Recipe, adamw, cosine

# Ours: how many of each; the paper takes turns between the sets
HELEN, MTFL, BNU = 8, 16, 16


def lessons(root: Path) -> Table:
    """Face crops in a folder a class -> `emotion7`.

    Ours: the crops are taken for crops of the "head" template, since the set has no points; the official code
    resizes them.
    """
    files = [
        (path, kind)
        for kind, name in enumerate(EMOTION7.names)
        for path in sorted(need(root / name).iterdir())
        if path.suffix.lower() in EXTENSIONS
    ]
    return Table(
        "bnu-lsved",
        [str(p.relative_to(root)) for p, _ in files],
        lambda i: load_photo(files[i][0]).pixels,
        lambda i: {"emotion7": files[i][1]},
        fixed=geometry.TEMPLATES["head"],
    )


def recipe(
    *,
    steps: int = 40_000,
    seed: int = 1,
    emotion: str = "",
    laps: int = 3,
    disks: str = "hard",
    lr: float = 1e-3,
    means: int = 20,
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        emotion: Folder of the data set BNU-LSVED; empty to train without it.
        laps: Passes of the feedback loop.
        disks: How points are fed back: hard (the paper) or gauss.
        lr: Base learning rate of the optimizer.
        means: Batches over which the mean prediction, the first feedback, is computed.
        synthetic: Use synthetic faces instead of the data sets, to try the recipe without data.
    """
    torch.manual_seed(seed)
    model = ifan(emotion=bool(emotion), laps=laps, disks=disks)

    def mixture(augment: Augment) -> Mixture:
        parts = [
            SourceSpec("helen", "train", "helen9", HELEN, augment),
            SourceSpec("mtfl-official", "train", "points5", MTFL, augment),
        ]
        sources = open_parts(parts, model.view, synthetic=synthetic)
        if emotion:
            faces = toy(tasks=("emotion7",)) if synthetic else lessons(Path(emotion))
            sources.append((FaceSource(faces, model.view, augment), BNU))
        return Mixture(sources, model.tasks, seed=seed, size=model.view.size)

    plain = mixture(NONE)
    if means:
        model.set_means(model.mean_answers(plain.batch(i) for i in range(means)))
    model.begin_at_means()
    parsing = replace(HELEN9, dice_weight=0.0)  # the paper's loss has no Dice
    # Ours: all but the weight decay, which is the official code's L2, in number; and equal weights
    return Recipe(
        name="ifan",
        model=model,
        mixture=mixture(Augment(fill_border=0)),
        schedule=cosine(1000),
        steps=steps,
        seed=seed,
        every=steps,
        optimizer=adamw(model, lr, weight_decay=1e-4, rates=model.rates()),
        data=["helen", "mtfl-official", *(["bnu-lsved"] if emotion else [])],
        protocols=() if synthetic else ("helen", "mtfl-official"),
        criteria={HELEN9.name: parsing.criterion()},
    )

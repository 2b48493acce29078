"""Faceptor at the paper's size (Qin et al., ECCV 2024): ViT-B/16, seven sets ("Base") or thirteen ("Full"),
two views a step.

    mien train recipes/faceptor.py --out runs/faceptor --farl FaRL-Base-Patch16-LAIONFace20M-ep64.pth
    mien train recipes/faceptor.py --out runs/faceptor_full --full yes \
        --farl FaRL-Base-Patch16-LAIONFace20M-ep64.pth
    mien train recipes/faceptor.py --out runs/rafdb --second expression7@rafdb \
        --start runs/faceptor/model.safetensors --steps 20000

Not run by us. The authors took 2 GPUs for Base and 4 for Full; their hours are not published. A step is 464
faces of 112 px and 8 of 512 px (Full: 496 and 24), and there are 50,000: too many for the CPUs that mien's
trainer works on. Tests check the number of parameters, losses, weights and that every set reaches its task.
As in the official code, a view passes through the heads of its own tasks only, so that the batch norms of the
identity head see 112 px alone.

Data, in the publishers' layouts below the data root (`mien.data.catalogue.OFFICIAL`): 300w, celebamask-hq,
morph2, affectnet, rafdb, celeba-official, ms1mv3; Full also wflw, cofw, aflw19, lapa, utkface-coral,
ferplus-official.

Published, Base: 300-W NME 3.00 (full), CelebAMask-HQ F1 88.22, MORPH II MAE 1.869, RAF-DB 90.38, CelebA
91.43, verification 95.10. Full: 2.86, 88.2, 1.96, 91.26, 91.39, 95.28; WFLW 4.03, COFW 3.01, AFLW-19 0.95,
LaPa 91.5, UTKFace 4.10, FER+ 90.40. Protocols of maps run at the end, in the model's own view of 512 px.
Values and identity are trained at 112 px: `evaluate(TorchModel(model, view=values_view()),
PROTOCOLS["morph2"])`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mien.data.augment import NONE, Augment
from mien.data.catalogue import SourceSpec, open_parts
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.backbones.vit import load_clip
from mien.models.faceptor import faceptor_base
from mien.models.faceptor_official import official_decoding
from mien.models.naive_faceptor import naive_faceptor_base
from mien.tasks import Embedding, Map, Points, Task, task
from mien.tasks.identity import MarginTask
from mien.training import checkpoint
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine
from mien.types import View

# Ours: the nearest that `Augment` has to the official moves. No mirror for maps, as in the official code.
# Turn and size of parsing
# crops are normally distributed there too; landmark crops always have a black rectangle and up to half of
# another picture as noise.
FLIP = replace(NONE, mirror=0.5)
VALUES = replace(NONE, mirror=0.5, photometric=0.8, gray=0.1, blur=0.1, erase=0.25)
MASKS = Augment(
    degrees=18,
    scale=0.1,
    shift=0.01,
    mirror=0,
    photometric=0.5,
    gray=0.1,
    blur=0.1,
    erase=0,
    noise=0,
    fill_border=0,
    normal=True,
)
MARKS = Augment(
    degrees=10,
    scale=0.1,
    shift=0.05,
    mirror=0,
    photometric=0.5,
    gray=0.1,
    blur=0.1,
    erase=0.5,
    noise=0.5,
    fill_border=0,
)

SEVEN, FULL_PICTURE = {"classes": 7}, {"full_picture": True}
# (what a set gives to every batch, over all GPUs; what its loss weighs)
BASE: tuple[tuple[SourceSpec, float], ...] = (
    (SourceSpec("ms1mv3", "train", "identity512@ms1mv3", 256, FLIP), 5.0),
    (SourceSpec("morph2", "train", "age@morph2", 64, VALUES), 6.0),
    (SourceSpec("celeba-official", "train+val", "attributes@celeba", 64, VALUES), 2.0),
    (SourceSpec("affectnet", "train", "expression7@affectnet", 64, VALUES, SEVEN), 4.0),
    (SourceSpec("rafdb", "train", "expression7@rafdb", 16, VALUES), 1.0),
    (SourceSpec("celebamask-hq", "train+val", "parsing@celebamask", 4, MASKS, FULL_PICTURE), 100.0),
    (SourceSpec("300w", "train", "landmarks@300w", 4, MARKS), 1000.0),
)
FULL: tuple[tuple[SourceSpec, float], ...] = (
    (SourceSpec("ms1mv3", "train", "identity512@ms1mv3", 256, FLIP), 5.0),
    (SourceSpec("morph2", "train", "age@morph2", 64, VALUES), 4.0),
    (SourceSpec("utkface-coral", "train", "age@utkface", 16, VALUES), 1.0),
    (SourceSpec("celeba-official", "train+val", "attributes@celeba", 64, VALUES), 2.0),
    (SourceSpec("affectnet", "train", "expression7@affectnet", 64, VALUES, SEVEN), 6.66),
    (SourceSpec("rafdb", "train", "expression7@rafdb", 16, VALUES), 1.67),
    (SourceSpec("ferplus-official", "train+val", "expression7@ferplus", 16, VALUES, SEVEN), 1.67),
    (SourceSpec("celebamask-hq", "train+val", "parsing@celebamask", 4, MASKS, FULL_PICTURE), 100.0),
    (SourceSpec("lapa", "train+val", "lapa11", 4, MASKS), 100.0),
    (SourceSpec("300w", "train", "landmarks@300w", 4, MARKS), 250.0),
    (SourceSpec("wflw", "train", "wflw98", 4, MARKS), 250.0),
    (SourceSpec("cofw", "train", "cofw29", 4, MARKS), 250.0),
    (SourceSpec("aflw19", "train", "aflw19", 4, MARKS), 250.0),
)
SCORED = ("300w-full", "celebamask-hq", "wflw", "cofw", "aflw19", "lapa")


def values_view(size: int = 112) -> View:
    """What the released weights saw of values and identity.

    Ours: the template; the official code takes crops as they come.
    """
    return View((size, size), "arcface", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def weights_of(rows: Sequence[tuple[SourceSpec, float]]) -> dict[str, float]:
    """The paper's alpha / sum of alphas, brought to our losses: see `summed`."""
    total = sum(alpha for _, alpha in rows)
    return {part.task: alpha * summed(part.task) / total for part, alpha in rows}


def summed(name: str) -> int:
    """Attributes: the paper sums the cross-entropy over 40, ours is the mean.

    How many are summed; 1 for other tasks.
    """
    t = task(name)
    return len(t.label_names) if t.activation == "sigmoid" else 1


def naive_weights_of(rows: Sequence[tuple[SourceSpec, float]]) -> dict[str, float]:
    """Naive Faceptor's: the same for every kind of task, shared by the sets of a kind in proportion to their
    batches.
    """
    kinds = {part.task: kind_of(part.task) for part, _ in rows}
    totals = {kind: sum(part.n for part, _ in rows if kinds[part.task] == kind) for kind in kinds.values()}
    return {
        part.task: summed(part.task) * part.n / totals[kinds[part.task]] / len(totals) for part, _ in rows
    }


def kind_of(name: str) -> str:
    """The official kind of a task: landmarks and parsing are one kind each, whatever the label set."""
    shape = task(name).shape
    return (
        "landmarks"
        if isinstance(shape, Points)
        else "parsing"
        if isinstance(shape, Map)
        else name.partition("@")[0]
    )


def criterion_of(t: Task[Any]) -> Any:
    """The official loss of a task: ages and landmarks by sigmoids, no Dice in parsing, and a weight of 1 of
    the L1 of ages.
    """
    plain = official_decoding([t], {})[0]
    settings = {"dice_weight": 0.0, "l1_weight": 1.0}
    return replace(plain, **{k: v for k, v in settings.items() if plain.has_setting(k)}).criterion()


def second_stage(
    rows: Sequence[tuple[SourceSpec, float]],
    name: str,
    start: str,
    *,
    steps: int,
    seed: int,
    size: int,
    small: int,
    lr: float,
    synthetic: bool,
) -> Recipe:
    """Layer-Attention: five levels more, whose projections and embeddings alone learn, on one of the sets (64
    a batch).
    """
    tasks = official_decoding([task(p.task) for p, _ in rows], {})
    parts = {
        p.task: replace(p, n=64)
        for (p, _), t in zip(rows, tasks, strict=True)
        if not isinstance(t.shape, Embedding)
    }  # no queries
    if name not in parts or not (start or synthetic):
        raise UsageError(
            "a second stage is of one task and goes on from a first: --second TASK --start RUN; tasks:"
            f" {', '.join(parts)}"
        )
    model = faceptor_base(tasks=tasks, size=size, levels=(11, 1, 3, 5, 7, 9))
    if start:
        result = model.load_state_dict(checkpoint.load(start).state_dict(), strict=False)
        assert all(n.startswith(("decoder.project.", "decoder.level.")) for n in result.missing_keys), result
    view = model.view if isinstance(task(name).shape, Points | Map) else values_view(small)
    # the others stay in the mixture, unlabeled: their queries are in the weights
    mixture = Mixture(open_parts([parts[name]], view, synthetic=synthetic), tasks, seed=seed, view=view)
    return Recipe(
        name="faceptor/second",
        model=model.second_stage(),
        mixture=mixture,
        optimizer=adamw(model, 10 * lr, weight_decay=0.05),
        schedule=cosine(2000),
        steps=steps,
        loss_weighting=Fixed({name: float(summed(name))}),
        seed=seed,
        ema=0.0,
        data=[parts[name].dataset],
        criteria={name: criterion_of(task(name))},
    )


def recipe(
    *,
    steps: int = 50_000,
    seed: int = 2048,
    full: bool = False,
    naive: bool = False,
    farl: str = "",
    second: str = "",
    start: str = "",
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
        full: Train on thirteen data sets, not seven.
        naive: Train Naive Faceptor, see recipes/naive_faceptor.py.
        farl: File with the weights of FaRL or CLIP for the encoder.
        second: Task of a second training stage.
        start: Weights of the first stage, for the second one.
        size: Side of the crops for maps, in pixels.
        small: Side of the crops for values and identity, in pixels.
        lr: Learning rate of the encoder; the rest learns ten times as fast.
        ema: Decay of the averaged weights; the paper does not average.
        synthetic: Use synthetic faces instead of the data sets, to try the recipe without data.
    """
    torch.manual_seed(seed)
    rows = FULL if full else BASE
    if second:
        return second_stage(
            rows, second, start, steps=steps, seed=seed, size=size, small=small, lr=lr, synthetic=synthetic
        )
    tasks, build = (
        official_decoding([task(p.task) for p, _ in rows], {}),
        naive_faceptor_base if naive else faceptor_base,
    )
    model: Any = build(tasks=tasks, size=size)
    if farl:
        load_clip(model.encoder, torch.load(farl, map_location="cpu", weights_only=True))
    dense = [isinstance(t.shape, Points | Map) for t in tasks]
    wide = open_parts(
        [p for (p, _), d in zip(rows, dense, strict=True) if d], model.view, synthetic=synthetic
    )
    view = values_view(small)
    tight = open_parts([p for (p, _), d in zip(rows, dense, strict=True) if not d], view, synthetic=synthetic)
    people: Any = tight[0][0].dataset
    margin = MarginTask("identity512@ms1mv3", classes=people.classes)
    cosface: Any = margin.criterion()
    values = [margin if t.name == margin.name else t for t, d in zip(tasks, dense, strict=True) if not d]
    mixtures = [
        Mixture(tight, values, seed=seed, view=view),
        Mixture(wide, [t for t, d in zip(tasks, dense, strict=True) if d], seed=seed + 1, view=model.view),
    ]
    weights = naive_weights_of(rows) if naive else weights_of(rows)
    optimizer = adamw(
        model, lr, head_lr_multiplier=10, weight_decay=0.05
    )  # of biases and norms too, as in the official code
    optimizer.add_param_group({"params": cosface.parameters(), "lr": 10 * lr})
    return Recipe(
        name="naive_faceptor" if naive else "faceptor",
        model=model,
        mixture=mixtures,
        optimizer=optimizer,
        schedule=cosine(2000),
        steps=steps,
        loss_weighting=Fixed(weights),
        seed=seed,
        ema=ema,
        clip=5.0,
        data=[p.dataset for p, _ in rows],
        protocols=() if synthetic else [n for n in SCORED if full or n in SCORED[:2]],
        every=steps,
        criteria={t.name: criterion_of(t) for t in tasks if t.name != margin.name} | {margin.name: cosface},
    )

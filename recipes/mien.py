"""The embedded network: every task of the data pack, raised longer than the comparison's networks.

    mien train recipes/mien.py --out runs/mien
    mien train recipes/mien.py --out runs/mien-finish --part finish --start runs/mien/model.safetensors
    mien train recipes/mien.py --out runs/mien-masks --part masks --start runs/mien-finish/model.safetensors
    python -m recipes.dlib_descriptors     # blended faces for identity, see there
    mien train recipes/mien.py --out runs/mien-identity --part identity --start
    runs/mien-masks/model.safetensors
    mien train recipes/mien.py --out runs/further --part finish --start src/mien/weights/mien.onnx
    python -m recipes.teacher_labels points ...    # five points of the second data pack, see there
    mien train recipes/mien.py --out runs/photos --part photos --start src/mien/weights/mien.onnx
    mien train recipes/mien.py --out runs/photos-finish --part photos-finish --start
    runs/photos/model.safetensors \
        --keep src/mien/weights/mien.onnx

9,000 steps of 34 pictures, about 80 minutes on two idle cores (65 to 80 images/s), then 3,000 of 39; or on
from the network in the
package. What to expect on the validation sets is in the README and docs/benchmark.md; the way there in
dev/LOG.md. The weights in the
package were raised without borrowed surroundings, had a shorter finish in between, and rare classes weighed
more in the last 1,000 of
4,000 steps of masks only; identity kept nothing of its descriptors' mean until its own part, of which 3,500
steps came without blends and
6,500 and 8,000 (40 and 55 minutes) with them: their provenance file tells the steps, the log (entries 12 to
    14, 18, 22, 26) the shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from safetensors.torch import load_file

from mien.data.augment import Augment
from mien.data.pack_mixture import LOSS_WEIGHTS, blend, validation_protocols
from mien.errors import UsageError
from mien.export import onnx_import
from mien.models.mien import Mien, mien_tiny
from mien.tasks import DEFAULT_TASKS, PARSING
from mien.training.loop import to_tensors
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine

# pictures of each set a step: FER+ and points are what the first network lacked most, and masks need company
# (log, entry 7)
RAISE = {"ferplus": 9, "utkface": 6, "celeba": 6, "mtfl": 4, "helen68": 3, "afw68": 1, "celebamask": 5}
# more of what was still short then, and faces that look aside a second time (log, entry 14)
FINISH = {
    "ferplus": 9,
    "utkface": 7,
    "celeba": 5,
    "mtfl": 4,
    "mtfl-turned": 3,
    "helen68": 4,
    "afw68": 1,
    "celebamask": 6,
}
AUGMENT = Augment(fill_border=0.75, paste_background=0.7)
# Faces in the wild, and enough of every earlier set that its tasks do not fall. Turns, shifts and scales are
# also what a detector's
# points are wrong by; the pictures are cut at the teacher detector's points.
PHOTOS = {
    "fairface": 14, "utkface-full": 5, "aaf": 4, "celeba_wild": 2, "celeba": 3, "ferplus": 5, "mtfl": 2,
    "helen68": 2, "afw68": 1,
    "celebamask": 2,
}  # fmt: skip
# More of what fell a little in it: expressions and landmarks. All-Age-Faces' machine-made points stay out:
# they lie elsewhere than Helen's.
PHOTOS_FINISH = {
    "fairface": 12, "utkface-full": 4, "aaf-faces": 3, "celeba_wild": 2, "celeba": 4, "ferplus": 9, "mtfl": 2,
    "helen68": 4, "afw68": 1,
    "celebamask": 3,
}  # fmt: skip
WILD = Augment(
    degrees=15,
    scale=0.12,
    shift=0.04,
    blur=0.3,
    gray=0.15,
    fill_border=0.75,
    paste_background=0.5,
    recompress=0.4,
)


FINER = 16  # width of the finer look at masks
OWN = 192  # of identity's own last stages
# how much of their mean the descriptors keep, see `pack.centred`; found on LFW's View 1, which is there for
# such choices
LEFT = 0.3
RARE = {
    "necklace": 10.0,
    "earring": 3.0,
    "hat": 2.0,
    "cloth": 1.5,
}  # what their pixels weigh in it: few, and missed more than invented
WATCHED = (*validation_protocols(DEFAULT_TASKS), "utkface-gender")


@dataclass(frozen=True)
class Part:
    """What differs between the parts of the training.

    Attributes:
        shares: pictures of each set a step. steps, lr, ema, warmup, seed: see `Recipe`.
        rates: see `adamw`. class_weights: class -> what its pixels weigh.
        validation_protocols: names of protocols, run every so many steps.
    """

    shares: Mapping[str, int]
    steps: int
    lr: float
    ema: float
    warmup: int
    seed: int
    rates: Mapping[str, float] = field(default_factory=dict)
    class_weights: Mapping[str, float] = field(default_factory=dict)
    validation_protocols: tuple[str, ...] = WATCHED
    every: int = 1000
    augment: Augment = AUGMENT
    bf16: bool = False
    frozen: int = 2


PARTS = {
    "raise": Part(RAISE, 9000, 5e-4, 0.999, 300, 1),
    "finish": Part(FINISH, 3000, 4e-4, 0.998, 100, 3),
    # a finer look at masks, when all else stands still (log, entry 18); their branch knows much already and
    # learns slower
    "masks": Part(
        {"celebamask": 16}, 3000, 1e-3, 0.998, 100, 1, rates={"dense.branch.maps.": 0.4}, class_weights=RARE,
        validation_protocols=("celebamask",), every=500,
    ),
    # faces in the wild, for the encoder's last two stages and all heads; identity is kept, see
    # `Mien.keep_identity`
    "photos": Part(PHOTOS, 800, 4e-4, 0.995, 50, 5, augment=WILD, every=10000, frozen=5),
    "photos-finish": Part(PHOTOS_FINISH, 550, 3e-4, 0.995, 30, 6, augment=WILD, every=10000, frozen=5),
    # stages of identity's own, when all else stands still
    "identity": Part(
        {"celeba": 13, "utkface": 13, "mtfl": 6, "blends": 32}, 8000, 2e-3, 0.998, 100, 1,
        validation_protocols=("lfw",), every=1000,
        augment=Augment(degrees=10, scale=0.08, shift=0.03, erase=0.05, fill_border=0.75,
        paste_background=0.3), bf16=True,
    ),
}  # fmt: skip


KEEPS = ("photos", "photos-finish")  # parts that keep the identity of a released network
# part -> what it adds to the network, and how the names begin of what learns; all else stands still
ADDS = {
    "masks": ({"finer": FINER}, ("dense.finer.", "dense.branch.maps.")),
    "identity": ({"own": OWN}, ("own.", "who.")),
}


def grown(start: str, part: str) -> Mien:
    """The network of a checkpoint with what a part adds, if it has none; only that, and what answers with it,
    learns.

    Raises:
        UsageError: the checkpoint is another system's.
    """
    old, (more, learns) = onnx_import.load(start), ADDS[part]
    if not isinstance(old, Mien):
        raise UsageError(f"{start} holds a {type(old).__name__}; the part {part} adds to a Mien")
    model = mien_tiny(**{**old.builder[1], "tasks": old.tasks, **more})
    fresh, theirs = model.state_dict(), old.state_dict()
    kept = {n: t for n, t in theirs.items() if n in fresh and t.shape == fresh[n].shape}
    left = model.load_state_dict(kept, strict=False)
    assert all(n.startswith(learns) for n in {*left.missing_keys, *theirs} - {*kept}), left
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(learns))
    return model


def recipe(
    *,
    part: str = "raise",
    steps: int = 0,
    seed: int = 0,
    size: int = 128,
    frozen: int = 0,
    encoder: str = "",
    start: str = "",
    lr: float = 0.0,
    keep: str = "",
    drawn: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        part: "raise", or "finish", "masks", "identity", "photos" and "photos-finish" for what follows it,
            each from
            the weights of the one before.
        steps, seed, lr: instead of the part's own; `lr` is the encoder's, the heads learn twice as fast.
        size: side of the crop. frozen: stages of the encoder, besides the stem, that do not learn, instead of
            the part's own.
        encoder: a checkpoint of any system on EfficientNet-Lite0 whose encoder to begin from, instead of
            ImageNet's.
        start: a checkpoint of this network to begin from, or its .onnx.
        keep: for the parts photos and photos-finish, the released .onnx whose identity is kept; by default
            `start`.
        drawn: learn drawn faces, to try the recipe without data.

    Raises:
        UsageError: no such part, or one that adds to a network without a start.
    """
    if part not in PARTS:
        raise UsageError(f"no part {part!r}; there are: {', '.join(PARTS)}")
    if part in ADDS and not start:
        raise UsageError(f"the part {part} adds to a network that is raised; name it by start=")
    now = PARTS[part]
    seed = seed or now.seed
    torch.manual_seed(seed)
    if part in ADDS:
        model = grown(start, part)
    else:
        model = onnx_import.load(start) if start else mien_tiny(size=size, imagenet=not (encoder or drawn))
    if encoder:
        theirs = load_file(encoder)
        model.encoder.load_state_dict(
            {k.removeprefix("encoder."): v for k, v in theirs.items() if k.startswith("encoder.")}
        )
    model.encoder.freeze(frozen or now.frozen)
    mixture = blend(
        now.shares,
        model.view,
        model.tasks,
        seed=seed,
        augment=now.augment,
        drawn=drawn,
        paste_background=True,
        left=LEFT,
        only="identity" if part == "identity" else "",
    )
    if start.endswith(".onnx") and part != "identity":  # what it brings stands still there
        onnx_import.recompute_batchnorm_stats(
            model, (to_tensors(mixture.batch(i), model.view)[0] for i in range(16))
        )
    if part in KEEPS:  # after the statistics, which identity's frozen layers keep
        keep = keep or start
        if not keep.endswith(".onnx"):
            raise UsageError(
                f"the part {part} keeps the identity of a released network; name its .onnx by keep=, not"
                f" {keep!r}"
            )
        model.keep_identity(onnx_import.load(keep), frozen or now.frozen)
    before = (
        p for name, p in PARTS.items() if (part in ADDS and name not in KEEPS) or name == part
    )  # what stands still was learned from all of them
    sets = dict.fromkeys(
        name.split("-")[0] for p in before for name in p.shares if name != "blends"
    )  # those are of the others' pictures
    taught = ("imagenet", "descriptors", *(("yunet",) if part in KEEPS else ()))
    parsing = replace(PARSING, class_weights=now.class_weights)
    return Recipe(
        name="mien",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, lr or now.lr, rates=now.rates),
        schedule=cosine(now.warmup),
        steps=steps or now.steps,
        bf16=now.bf16,
        balance=Fixed({**LOSS_WEIGHTS, "parsing": 1.5}),
        seed=seed,
        ema=now.ema,
        criteria={"parsing": parsing.criterion()} if now.class_weights else {},
        data=(*sets, *taught),
        protocols=() if drawn else now.validation_protocols,
        every=now.every,
        limit=600,
    )

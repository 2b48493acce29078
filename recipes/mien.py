r"""The embedded network: every task of the data pack, trained longer than the networks of the comparison.

    mien train recipes/mien.py --out runs/mien
    mien train recipes/mien.py --out runs/mien-finish --part finish --start runs/mien/model.safetensors
    mien train recipes/mien.py --out runs/mien-masks --part masks --start runs/mien-finish/model.safetensors
    python -m recipes.dlib_descriptors     # face morphs for identity
    mien train recipes/mien.py --out runs/mien-identity --part identity \
        --start runs/mien-masks/model.safetensors
    mien train recipes/mien.py --out runs/further --part finish --start src/mien/weights/mien.onnx
    python -m recipes.teacher_labels points ...    # five points of the second data pack
    mien train recipes/mien.py --out runs/wild --part wild --start src/mien/weights/mien.onnx
    mien export runs/wild --out runs/wild.onnx
    python -m recipes.average_weights src/mien/weights/mien.onnx runs/wild.onnx --share 0.85 \
        --out runs/mien.onnx
    python -m recipes.teacher_labels identity ...  # embeddings of the second data pack, by a second teacher
    mien train recipes/mien.py --out runs/identity-wild --part identity-wild --start runs/mien.onnx
    mien export runs/identity-wild --out runs/identity.onnx
    mien train recipes/mien.py --out runs/wild-finish --part wild-finish --start runs/identity.onnx
    mien export runs/wild-finish --out runs/wild-finish.onnx
    python -m recipes.average_weights runs/identity.onnx runs/wild-finish.onnx --share 0.85 \
        --out runs/mien.onnx

The first part takes 9,000 steps of 34 pictures, about 80 minutes on two idle cores (65 to 80 images/s), the
second 3,000 of 39. Training can also start from the network in the package. Expected results on the
validation sets are in the README and in docs/benchmark.md, their history in dev/LOG.md.

The weights in the package differ from this recipe: they were trained without pasted backgrounds, with a
shorter second part in between, and with class weights only in the last 1,000 of 4,000 steps of masks.
The mean of descriptors was removed entirely until the part identity, which had 3,500 steps without morphs,
and 6,500 and 8,000 with them (40 and 55 minutes). The provenance file lists the steps; the log (entries 12
to 14, 18, 22, 26) lists the batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from safetensors.torch import load_file

from mien.data.augment import Augment
from mien.data.formats import wild
from mien.data.pack_mixture import LOSS_WEIGHTS, pack_mixture, validation_protocols
from mien.errors import UsageError
from mien.export import onnx_import
from mien.models.mien import Mien, mien_tiny
from mien.tasks import DEFAULT_TASKS, PARSING
from mien.training.loop import to_tensors
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine

# pictures of each set per step: the first network needed FER+ and points most; masks need other sets
# (log, entry 7)
TRAIN = {"ferplus": 9, "utkface": 6, "celeba": 6, "mtfl": 4, "helen68": 3, "afw68": 1, "celebamask": 5}
# more of the weakest sets, and turned faces a second time (log, entry 14)
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
# Faces in the wild, mostly with an age and a gender; the released network's outputs are the targets of the
# other tasks. The machine-made points of All-Age-Faces are left out: their positions differ from Helen's.
WILD = {
    "fairface": 18, "utkface-full": 8, "aaf-faces": 4, "celeba_wild": 2, "celeba": 2, "ferplus": 5, "mtfl": 1,
    "helen68": 2,
    "celebamask": 2,
}  # fmt: skip
# More of the sets with an age and a gender, and of the five points, which had become a little worse.
WILD_FINISH = {
    "fairface": 20, "utkface-full": 8, "aaf-faces": 3, "celeba_wild": 2, "celeba": 3, "ferplus": 5, "mtfl": 2,
    "helen68": 2,
    "celebamask": 4,
}  # fmt: skip
MILD = Augment(
    degrees=12,
    scale=0.1,
    shift=0.035,
    photometric=0.6,
    gray=0.1,
    blur=0.25,
    erase=0.08,
    noise=0.08,
    fill_border=0.75,
    paste_background=0.4,
    recompress=0.35,
)


REFINEMENT_WIDTH = 16  # width of the parsing refinement
IDENTITY_WIDTH = 192  # width of the last stages of the identity branch
# fraction of the mean that descriptors keep, see `pack.centered`; chosen on LFW's View 1
MEAN_FRACTION = 0.3
CLASS_WEIGHTS = {
    "necklace": 10.0,
    "earring": 3.0,
    "hat": 2.0,
    "cloth": 1.5,
}  # loss weight per pixel: small classes, more often missed than predicted wrongly
VALIDATION_PROTOCOLS = (*validation_protocols(DEFAULT_TASKS), "utkface-gender")


@dataclass(frozen=True)
class Part:
    """What differs between the parts of the training.

    Attributes:
        batch: pictures of each set per step.
        steps: see `Recipe`.
        lr: learning rate of the encoder.
        ema: see `Recipe`.
        warmup: steps of linear warm-up.
        seed: see `Recipe`.
        rates: see `adamw`.
        class_weights: parsing class -> loss weight of its pixels.
        validation_protocols: names of protocols.
        every: steps between two validations.
        augment: of the training pictures.
        bf16: see `Recipe`.
        frozen: stages of the encoder, after the stem, that are not trained.
        relative: whether `lr` is a fraction of the weights' size, see `adamw`.
        fixed_norms: whether batch norms keep their statistics and scales, so that the network's outputs do
            not change at the start.
        loss_weights: task -> weight, where it differs from the default.
    """

    batch: Mapping[str, int]
    steps: int
    lr: float
    ema: float
    warmup: int
    seed: int
    rates: Mapping[str, float] = field(default_factory=dict)
    class_weights: Mapping[str, float] = field(default_factory=dict)
    validation_protocols: tuple[str, ...] = VALIDATION_PROTOCOLS
    every: int = 1000
    augment: Augment = AUGMENT
    bf16: bool = False
    frozen: int = 2
    relative: bool = False
    fixed_norms: bool = False
    loss_weights: Mapping[str, float] = field(default_factory=dict)


PARTS = {
    "train": Part(TRAIN, 9000, 5e-4, 0.999, 300, 1),
    "finish": Part(FINISH, 3000, 4e-4, 0.998, 100, 3),
    # parsing refinement, with all else frozen (log, entry 18); the parsing branch is trained already and has
    # a lower learning rate
    "masks": Part(
        {"celebamask": 16}, 3000, 1e-3, 0.998, 100, 1, rates={"dense.branch.maps.": 0.4},
        class_weights=CLASS_WEIGHTS, validation_protocols=("celebamask",), every=500,
    ),
    # the identity branch, with all else frozen
    "identity": Part(
        {"celeba": 13, "utkface": 13, "mtfl": 6, "face_morphs": 32}, 8000, 2e-3, 0.998, 100, 1,
        validation_protocols=("lfw",), every=1000,
        augment=Augment(degrees=10, scale=0.08, shift=0.03, erase=0.05, fill_border=0.75,
        paste_background=0.3), bf16=True,
    ),
    # faces in the wild, for all but the encoder's first two stages
    "wild": Part(WILD, 2600, 1.5e-4, 0.998, 200, 8, augment=MILD, every=10000, fixed_norms=True,
        loss_weights={"age": 1.0}),
    # the same branch, from the second teacher's embeddings of faces in the wild
    "identity-wild": Part(
        {"fairface": 28, "utkface-full": 14, "aaf-faces": 7, "celeba_wild": 4, "celeba": 11}, 3000, 1.5e-3,
        0.998, 100, 9, validation_protocols=("lfw",), every=1000,
        augment=Augment(degrees=10, scale=0.08, shift=0.03, blur=0.3, erase=0.05, fill_border=0.75,
        paste_background=0.3, recompress=0.3), bf16=True,
    ),
    # all tasks once more, identity from the second teacher's embeddings; some pictures are cut as tightly as
    # photos often are
    "wild-finish": Part(WILD_FINISH, 1900, 2e-3, 0.998, 200, 10, relative=True,
        class_weights={"necklace": 10.0, "earring": 3.0}, augment=replace(MILD, tighten=0.4), every=10000,
        fixed_norms=True, loss_weights={"age": 1.0, "identity": 1.0}),
}  # fmt: skip


IDENTITY = ("identity", "identity-wild")
SECOND_TEACHER = ("identity-wild", "wild-finish")  # parts whose identity labels are its embeddings
WITH_REFERENCE = ("wild", "wild-finish")  # parts that use a released network's outputs for missing labels
# part -> what it adds to the network, and prefixes of the weights that it trains; all others are frozen
ADDS = {
    "masks": ({"finer": REFINEMENT_WIDTH}, ("dense.finer.", "dense.branch.maps.")),
    "identity": ({"own": IDENTITY_WIDTH}, ("own.", "who.")),
    "identity-wild": ({}, ("own.", "who.")),
}


def extended(start: str, part: str) -> Mien:
    """The network of a checkpoint, extended by what a part adds; only the weights of that part are trained.

    Raises:
        UsageError: the checkpoint is of another architecture.
    """
    old, (added, learns) = onnx_import.load(start), ADDS[part]
    if not isinstance(old, Mien):
        raise UsageError(f"{start} holds a {type(old).__name__}; the part {part} adds to a Mien")
    model = mien_tiny(**{**old.builder[1], "tasks": old.tasks, **added})
    fresh, loaded = model.state_dict(), old.state_dict()
    matching = {n: t for n, t in loaded.items() if n in fresh and t.shape == fresh[n].shape}
    result = model.load_state_dict(matching, strict=False)
    assert all(n.startswith(learns) for n in {*result.missing_keys, *loaded} - {*matching}), result
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(learns))
    return model


def recipe(
    *,
    part: str = "train",
    steps: int = 0,
    seed: int = 0,
    size: int = 128,
    frozen: int = 0,
    encoder: str = "",
    start: str = "",
    lr: float = 0.0,
    reference: str = "",
    synthetic: bool = False,
) -> Recipe:
    """See the module's text.

    Args:
        part: Part of the training: "train" first; "finish", "masks", "identity", "wild" and "identity-wild"
            each continue from the weights of the one before.
        steps: Number of training steps; 0 for the default of the part.
        seed: Seed of the weights, the batches and the augmentation; 0 for the default of the part.
        size: Side of the crop in pixels.
        frozen: Number of encoder stages that do not learn, besides the stem; 0 for the default of the part.
        encoder: Checkpoint of any network on EfficientNet-Lite0 whose encoder is loaded, instead of the
            ImageNet weights.
        start: Checkpoint or .onnx file of this network to start from.
        lr: Learning rate of the encoder, the heads learn twice as fast; 0 for the default of the part.
        reference: For wild: the .onnx file whose outputs replace missing labels; `start` if empty.
        synthetic: Train on synthetic faces, to try the recipe without data.

    Raises:
        UsageError: no such part, or a part that needs `start` without it.
    """
    if part not in PARTS:
        raise UsageError(f"no part {part!r}; there are: {', '.join(PARTS)}")
    if part in ADDS and not start:
        raise UsageError(f"the part {part} needs a trained network; name it with start=")
    settings = PARTS[part]
    seed = seed or settings.seed
    torch.manual_seed(seed)
    if part in ADDS:
        model = extended(start, part)
    else:
        model = (
            onnx_import.load(start) if start else mien_tiny(size=size, imagenet=not (encoder or synthetic))
        )
    if encoder:
        loaded = load_file(encoder)
        model.encoder.load_state_dict(
            {k.removeprefix("encoder."): v for k, v in loaded.items() if k.startswith("encoder.")}
        )
    model.encoder.freeze(frozen or settings.frozen)
    mixture = pack_mixture(
        settings.batch,
        model.view,
        model.tasks,
        seed=seed,
        augment=settings.augment,
        synthetic=synthetic,
        paste_background=True,
        mean_fraction=MEAN_FRACTION,
        only="identity" if part in IDENTITY else "",
        teacher=wild.identity_descriptors() if part in SECOND_TEACHER and not synthetic else None,
    )
    if settings.fixed_norms:
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.weight.requires_grad_(False)
    elif part == "identity-wild" or (
        start.endswith(".onnx") and part != "identity"
    ):  # batch norms are frozen there
        onnx_import.recompute_batchnorm_stats(
            model, (to_tensors(mixture.batch(i), model.view)[0] for i in range(16))
        )
    if part in WITH_REFERENCE:  # after the statistics, which identity's frozen layers keep
        reference = reference or start
        if not reference.endswith(".onnx"):
            raise UsageError(
                f"the part {part} learns from the outputs of a released network; name its .onnx by"
                f" reference=, not {reference!r}"
            )
        # the released network takes the edges of tight photos for hats
        skip = ("age", "parsing") if part == "wild-finish" else ("age",)
        model.learn_from(
            onnx_import.load(reference),
            frozen or settings.frozen,
            reference_only=() if part in SECOND_TEACHER else ("identity",),
            skip=skip,
        )
    # frozen weights were trained on the sets of all parts before
    before = (PARTS[n] for n in ([*PARTS][: [*PARTS].index(part) + 1] if part in ADDS else [part]))
    sets = dict.fromkeys(
        name.split("-")[0] for p in before for name in p.batch if name != "face_morphs"
    )  # morphs are made of the other sets' pictures
    taught = ("imagenet", "descriptors", *(("yunet",) if part in WITH_REFERENCE else ()))
    parsing = replace(PARSING, class_weights=settings.class_weights)
    return Recipe(
        name="mien",
        model=model,
        mixture=mixture,
        optimizer=adamw(model, lr or settings.lr, rates=settings.rates, relative=settings.relative),
        schedule=cosine(settings.warmup),
        steps=steps or settings.steps,
        bf16=settings.bf16,
        loss_weighting=Fixed({**LOSS_WEIGHTS, "parsing": 1.5, **settings.loss_weights}),
        seed=seed,
        ema=settings.ema,
        criteria={"parsing": parsing.criterion()} if settings.class_weights else {},
        data=(*sets, *taught),
        protocols=() if synthetic else settings.validation_protocols,
        every=settings.every,
        limit=600,
    )

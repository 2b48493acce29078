"""Import Faceptor's official checkpoints (Qin et al., ECCV 2024; MIT license) as `faceptor_base`.

A file is {"step", "state_dict", "optimizer"}, its keys below `module.`:

    backbone_module.visual.*                    CLIP's image tower, positions on a 32 x 32 grid
    heads_module.decoder.*                      queries by data set, level embeddings, projections, nine
                                                layers
    heads_module.interpreters.{feature_v2,value,map_v2}.*
    losses_module.losses.<identity set>.classifier      weights of the identity loss, not ours to keep

Only the tensors come from the file. What the released weights saw is not in it: mean = std = 0.5 at 112 px
for values and identity, CLIP's values at 512 px for maps. Their ages and landmarks are decoded by normalized
sigmoids, so the tasks of a converted model have `decoding` "sigmoid"; weights that are saved or exported keep
that in their header.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mien.errors import BadWeights, UsageError
from mien.models.backbones.vit import VisionTransformer
from mien.models.faceptor import BASE_TASKS, Faceptor, PixelDecoder, faceptor_base
from mien.tasks import Embedding, Task, task
from mien.tasks.base import configured

# our task -> the official name of the data set with its labels
SETS: dict[str, str] = {
    "age@morph2": "age_morph2",
    "age@utkface": "age_utkface",
    "attributes@celeba": "biattr_celeba",
    "expression7@affectnet": "affect_affectnet",
    "expression7@rafdb": "affect_rafdb",
    "expression7@ferplus": "affect_ferplus",
    "parsing@celebamask": "parsing_celebam",
    "lapa11": "parsing_lapa",
    "landmarks@300w": "align_300w",
    "cofw29": "align_cofw",
    "wflw98": "align_wflw",
    "aflw19": "align_aflw",
    "identity512@ms1mv3": "recog_ms1mv3",
}
FULL_TASKS: tuple[Task, ...] = tuple(
    task(name) for name in SETS
)  # the thirteen sets; seven of them are BASE_TASKS

# Official queries in another order than our classes, by our names. FaRL, whose labels Faceptor uses, calls
# CelebAMask's file `l_eye` "re"; the names here are those of the files.
ORDERS: dict[str, tuple[str, ...]] = {
    "parsing_celebam": (
        "background", "neck", "skin", "cloth", "l_ear", "r_ear", "l_brow", "r_brow", "l_eye", "r_eye", "nose",
        "mouth", "l_lip",
        "u_lip", "hair", "eyeglass", "hat", "earring", "necklace",
    ),
}  # fmt: skip

# Years of the first query. The official UTKFace list has the columns, and about the number of rows, of
# CORAL's split (Cao et al.
# 2020), which has ages of 21 to 60 years, less 21. Unknown: nobody has compared this with answers of the
# released weights.
YEAR_OFFSETS: dict[str, int] = {"age@utkface": 21}

FIRST_STAGE, SECOND_STAGE = (11,), (11, 1, 3, 5, 7, 9)

# An official tensor is the concatenation, by rows, of these views of our tensors.
Places = dict[str, list[Tensor]]

_DECODER, _READ = "heads_module.decoder", "heads_module.interpreters"
_PIXEL_NORM = f"{_READ}.map_v2.mask_map.1"


def faceptor_from_official(
    state: Mapping[str, Any],
    *,
    tasks: Sequence[Task] = BASE_TASKS,
    sets: Mapping[str, str] = SETS,
    size: int = 512,
    leave: Collection[str] = (),
    year_offsets: Mapping[str, int] = YEAR_OFFSETS,
) -> Faceptor:
    """A `faceptor_base` filled from an official checkpoint of the first or second stage, in evaluation mode.

    Args:
        state: the file as `torch.load(path, map_location="cpu", weights_only=True)` gives it, or its state
            dict.
        tasks: what to answer, in output order; `FULL_TASKS` for a file of thirteen sets.
        sets: task name -> official data set, where `SETS` does not know it.
        size: side of the crop in pixels.
        leave: official data sets in the file that are not wanted.
        year_offsets: task name -> years of its first age query.

    Raises:
        BadWeights, UsageError: as `load_faceptor`.
    """
    second = any(k.endswith(f"{_DECODER}.new_level_embed.weight") for k in state.get("state_dict", state))
    model = faceptor_base(tasks=tasks, size=size, levels=SECOND_STAGE if second else FIRST_STAGE)
    model.tasks = official_decoding(model.tasks, year_offsets)
    return load_faceptor(model, state, sets=sets, leave=leave).eval()


def official_decoding(
    tasks: Sequence[Task], year_offsets: Mapping[str, int] = YEAR_OFFSETS
) -> tuple[Task, ...]:
    """The tasks as the official code reads and trains them: ages and landmarks by normalized sigmoids.

    Args:
        year_offsets: task name -> years of its first age query.
    """
    settings: dict[str, dict[str, Any]] = {
        t.name: {"decoding": "sigmoid"} for t in tasks if t.has_setting("decoding")
    }
    for name in settings:
        if name in year_offsets:
            settings[name]["year_offset"] = year_offsets[name]
    return tuple(configured(t, settings.get(t.name, {})) for t in tasks)


def load_faceptor(
    model: Faceptor, state: Mapping[str, Any], *, sets: Mapping[str, str] = SETS, leave: Collection[str] = ()
) -> Faceptor:
    """Fill a Faceptor with a ViT and the plain pixel decoder from a state dict in the official layout.

    Every tensor of the model is filled, and every tensor of the file is used, but for: the identity loss's
    classifier; `mask_map.1.ln`, a second name of `mask_map.1`, which must be equal; and the data sets in
    `leave`.

    Args:
        model: its levels are the file's: the first stage's one, then the new ones in the file's order.
        state: flat, or {"state_dict": flat}; keys with or without `module.`.
        sets: task name -> official data set.
        leave: official data sets whose queries, or identity head, to leave out. Tasks do not see each other,
            so the others answer the same.

    Raises:
        BadWeights: tensors are missing, unknown or of another shape, the first few are named; the model is
            then unchanged.
        UsageError: the model has another layout, or a task has no official data set.
    """
    official = flat_state(state)
    places = dict(_places(model, _names(model, sets)))
    left = [prefix for name in leave for prefix in _left(name, official)]
    identity = [name for name in {*sets.values(), *leave} if name.startswith("recog_")]
    ignored = {f"losses_module.losses.{name}.classifier" for name in identity} | {
        k for k in official if k.startswith(tuple(left))
    }
    aliases = {f"{_PIXEL_NORM}.ln.{p}": f"{_PIXEL_NORM}.{p}" for p in ("weight", "bias")}
    check_state(official, places, ignored | aliases.keys())
    for alias, key in aliases.items():
        if (
            alias in official
            and official[alias] is not official[key]
            and not torch.equal(official[alias], official[key])
        ):
            raise BadWeights(
                f"{alias} is a second name of {key}, but their values differ; the file was altered"
            )
    with torch.no_grad():
        for key, parts in places.items():
            sizes = [len(p) for p in parts] if len(parts) > 1 else []
            for part, rows in zip(
                parts, official[key].split(sizes) if sizes else [official[key]], strict=True
            ):
                part.copy_(rows)
    return model


def flat_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Key -> tensor, without the `module.` that distributed training puts before each key."""
    flat = state.get("state_dict", state)
    wrapped = all(k.startswith("module.") for k in flat)
    if alien := [k for k, v in flat.items() if not isinstance(v, Tensor)]:
        raise BadWeights(
            f"a state dict holds tensors only, this one also: {', '.join(alien[:5])}; give the file's"
            " state_dict"
        )
    return {k.removeprefix("module.") if wrapped else k: v for k, v in flat.items()}


def _names(model: Faceptor, sets: Mapping[str, str]) -> dict[str, str]:
    """Our task name -> official name, for the model's tasks."""
    if not isinstance(model.pixel, PixelDecoder) or not isinstance(model.encoder, VisionTransformer):
        raise UsageError(
            "official weights fit a ViT with the plain pixel decoder; build the model with faceptor_base"
        )
    if unknown := [t.name for t in model.tasks if t.name not in sets]:
        raise UsageError(
            f"no official data set is known for: {', '.join(unknown)}; name it in `sets`, such as age@morph2:"
            " age_morph2"
        )
    names = {t.name: sets[t.name] for t in model.tasks}
    if twice := sorted({n for n in names.values() if list(names.values()).count(n) > 1}):
        raise UsageError(f"two tasks share the official data set {twice[0]}; give each its own")
    if len(model.feature) > 1:
        raise UsageError(
            f"official files have one identity head, the model has {len(model.feature)}:"
            f" {', '.join(model.feature)}"
        )
    return names


def _left(name: str, official: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of the keys that belong to one official data set alone."""
    if name.startswith("recog_"):
        prefixes = [f"{_READ}.feature_v2."]
    else:
        prefixes = [f"{_DECODER}.{kind}.{name}." for kind in ("query_feat", "query_embed")]
    if not any(k.startswith(tuple(prefixes)) for k in official):
        raise UsageError(f"nothing to leave out: the file has no {name}")
    return prefixes


def _places(model: Faceptor, names: Mapping[str, str]) -> Iterator[tuple[str, list[Tensor]]]:
    """Official key -> where its rows go in the model."""
    ours = model.state_dict()

    def renamed(official: str, mine: str) -> Iterator[tuple[str, list[Tensor]]]:
        """All tensors of one of our modules, under its official name."""
        yield from (
            (official + k.removeprefix(mine), [v]) for k, v in ours.items() if k.startswith(f"{mine}.")
        )

    yield from renamed("backbone_module.visual", "encoder")
    yield from _query_places(model, names, ours)
    yield f"{_DECODER}.level_embed.weight", [ours["decoder.level.0"][None]]
    yield from renamed(f"{_DECODER}.input_proj.0", "decoder.project.0")
    new = range(1, len(model.levels))
    if new:
        yield f"{_DECODER}.new_level_embed.weight", [ours[f"decoder.level.{i}"][None] for i in new]
    for i in new:
        yield from renamed(f"{_DECODER}.new_input_proj.{i - 1}", f"decoder.project.{i}")
    yield from renamed(f"{_DECODER}.adapt_pos2d", "decoder.adapt")
    for i in range(len(model.decoder.layers)):
        mine = f"decoder.layers.{i}"
        kinds = (
            ("cross_attention", "multihead_attn", "cross"),
            ("self_attention", "self_attn", "self_"),
            ("ffn", "", ""),
        )
        for n, (kind, attention, part) in enumerate(kinds):
            at = f"{_DECODER}.transformer_{kind}_layers.{i}"
            yield from renamed(f"{at}.norm", f"{mine}.norms.{n}")
            if attention:
                for p in ("weight", "bias"):
                    yield f"{at}.{attention}.in_proj_{p}", [ours[f"{mine}.{part}.{x}.{p}"] for x in "qkv"]
                yield from renamed(f"{at}.{attention}.out_proj", f"{mine}.{part}.out")
            else:
                yield from renamed(f"{at}.linear1", f"{mine}.ffn.0")
                yield from renamed(f"{at}.linear2", f"{mine}.ffn.2")
    for name in model.feature:
        yield from renamed(f"{_READ}.feature_v2", f"feature.{name}")
    yield from renamed(f"{_READ}.value.fc", "value")
    for official, part in (("0", "up1"), ("1", "norm"), ("3", "up2")):
        yield from renamed(f"{_READ}.map_v2.mask_map.{official}", f"pixel.{part}")
    for i in range(3):
        yield from renamed(f"{_READ}.map_v2.mask_embed.layers.{i}", f"map_query.{2 * i}")


def _query_places(
    model: Faceptor, names: Mapping[str, str], ours: Mapping[str, Tensor]
) -> Iterator[tuple[str, list[Tensor]]]:
    """Official queries are one table per data set; ours are one table, data sets in the model's order."""
    start = 0
    for t in model.tasks:
        if isinstance(t.shape, Embedding):
            continue
        name, n = names[t.name], model.query_tasks[t.name]
        for kind in ("query_feat", "query_embed"):
            rows = ours[kind][start : start + n]
            yield (
                f"{_DECODER}.{kind}.{name}.weight",
                [rows] if name not in ORDERS else [rows[i][None] for i in class_order(name, t)],
            )
        start += n


def class_order(name: str, t: Task) -> list[int]:
    """The index of our class for each official query."""
    classes = list(t.label_names)
    if sorted(classes) != sorted(ORDERS[name]):
        raise UsageError(
            f"{t.name} has other classes than {name}: {', '.join(sorted({*classes} ^ {*ORDERS[name]}))}"
        )
    return [classes.index(c) for c in ORDERS[name]]


def _shape(parts: Sequence[Tensor]) -> tuple[int, ...]:
    """Of the rows together; a single part may be a scalar."""
    return tuple(parts[0].shape) if len(parts) == 1 else (sum(len(p) for p in parts), *parts[0].shape[1:])


def check_state(official: Mapping[str, Tensor], places: Places, ignored: Collection[str]) -> None:
    """Refuse a state dict that is not what `places` reads, with the first keys of each kind of problem."""
    wrong = [
        f"{k} {tuple(official[k].shape)} for {_shape(parts)}"
        for k, parts in places.items()
        if k in official and tuple(official[k].shape) != _shape(parts)
    ]
    problems = {
        "missing": [k for k in places if k not in official],
        "unknown": [k for k in official if k not in places and k not in ignored],
        "of another shape (file for model)": wrong,
    }
    messages = [
        f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' * (len(keys) > 5)}"
        for what, keys in problems.items()
        if keys
    ]
    if messages:
        fix = "check that tasks and levels are the file's, and put data sets you do not want in `leave`"
        raise BadWeights(f"these are not official weights of this model. {'; '.join(messages)}. Fix: {fix}")

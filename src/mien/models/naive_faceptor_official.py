"""Import Naive Faceptor's official checkpoint (Qin et al., ECCV 2024; MIT license) as `naive_faceptor_base`.

The file is as Faceptor's, see `mien.models.faceptor_official`, with a head for every kind of task in place of
decoder and read-outs:

    backbone_module.visual.*                    CLIP's image tower, positions on a 32 x 32 grid
    heads_module.heads.recog.*                  identity: norm, head
    heads_module.heads.{age,biattr,affect}.*    conv, channel_attention.mlp, norm, feature, fcs by data set
    heads_module.heads.{parsing,align}.*        fpns, and head: mmseg's UPerHead; conv_seg: all sets' classes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mien.errors import UsageError
from mien.models.backbones.vit import VisionTransformer
from mien.models.faceptor_official import (
    ORDERS,
    SETS,
    YEAR_OFFSETS,
    check_state,
    class_order,
    flat_state,
    official_decoding,
)
from mien.models.naive_faceptor import DenseHead, NaiveFaceptor, naive_faceptor_base
from mien.tasks import Task, task

BASE_TASKS: tuple[Task, ...] = tuple(
    task(n)
    for n in (
        "identity512@ms1mv3",
        "age@morph2",
        "attributes@celeba",
        "expression7@affectnet",
        "expression7@rafdb",
        "parsing@celebamask",
        "landmarks@300w",
    )
)

_HEADS = "heads_module.heads"


def naive_faceptor_from_official(
    state: Mapping[str, Any],
    *,
    tasks: Sequence[Task] = BASE_TASKS,
    sets: Mapping[str, str] = SETS,
    size: int = 512,
    year_offsets: Mapping[str, int] = YEAR_OFFSETS,
) -> NaiveFaceptor:
    """A `naive_faceptor_base` filled from an official checkpoint, in evaluation mode.

    Args:
        state: the file as `torch.load(path, map_location="cpu", weights_only=True)` gives it, or its state
            dict.
        tasks: what to answer, in output order; of one kind of maps, in the file's order.
        sets: task name -> official data set.
        size: side of the crop in pixels.
        year_offsets: task name -> years of its first age output.

    Raises:
        BadWeights, UsageError: as `load_naive_faceptor`.
    """
    model = naive_faceptor_base(tasks=tasks, size=size)
    model.tasks = official_decoding(model.tasks, year_offsets)
    return load_naive_faceptor(model, state, sets=sets).eval()


def load_naive_faceptor(
    model: NaiveFaceptor, state: Mapping[str, Any], *, sets: Mapping[str, str] = SETS
) -> NaiveFaceptor:
    """Fill a Naive Faceptor with a ViT from a state dict in the official layout.

    Every tensor of the model is filled, and every tensor of the file is used, but for the identity loss's
    classifier.

    Raises:
        BadWeights: tensors are missing, unknown or of another shape, the first few are named; the model is
            then unchanged.
        UsageError: the model has another encoder, or a task has no official data set.
    """
    if not isinstance(model.encoder, VisionTransformer):
        raise UsageError("official weights fit a ViT; build the model with naive_faceptor_base")
    if unknown := [t.name for t in model.tasks if t.name not in sets]:
        raise UsageError(
            f"no official data set is known for: {', '.join(unknown)}; name it in `sets`, such as age@morph2:"
            " age_morph2"
        )
    official = flat_state(state)
    places = dict(_places(model, sets))
    check_state(
        official,
        places,
        {f"losses_module.losses.{n}.classifier" for n in sets.values() if n.startswith("recog_")},
    )
    with torch.no_grad():
        for key, parts in places.items():
            rows = official[key].split([len(p) for p in parts]) if len(parts) > 1 else [official[key]]
            for part, row in zip(parts, rows, strict=True):
                part.copy_(row)
    return model


def _places(model: NaiveFaceptor, sets: Mapping[str, str]) -> Iterator[tuple[str, list[Tensor]]]:
    """Official key -> where its rows go in the model."""
    ours, by_name = model.state_dict(), {t.name: t for t in model.tasks}

    def renamed(official: str, mine: str) -> Iterator[tuple[str, list[Tensor]]]:
        """All tensors of one of our modules, under its official name."""
        yield from (
            (official + k.removeprefix(mine), [v]) for k, v in ours.items() if k.startswith(f"{mine}.")
        )

    def kind_of(names: Sequence[str]) -> str:
        """The official name of a head: what stands before the data set's."""
        kinds = {sets[n].partition("_")[0] for n in names}
        if len(kinds) > 1:
            raise UsageError(
                f"one head answers {', '.join(names)}, but the official sets have {', '.join(sorted(kinds))}"
            )
        return kinds.pop()

    yield from renamed("backbone_module.visual", "encoder")
    for name in model.identity:
        yield from renamed(f"{_HEADS}.recog", f"identity.{name}")
    attributes: dict[str, Any] = dict(model.attribute.items())
    for kind, attribute in attributes.items():
        mine, at = f"attribute.{kind}", f"{_HEADS}.{kind_of(list(attribute.last))}"
        yield from renamed(f"{at}.conv", f"{mine}.project")
        for i, j in ((0, 1), (2, 3)):
            yield from renamed(f"{at}.channel_attention.mlp.{j}", f"{mine}.gate.mlp.{i}")
        yield from renamed(f"{at}.norm", f"{mine}.norm")
        yield from renamed(f"{at}.feature", f"{mine}.hidden")
        for name in attribute.last:
            yield from renamed(f"{at}.fcs.{sets[name]}", f"{mine}.last.{name}")
    denses: dict[str, Any] = dict(model.dense.items())
    for kind, dense in denses.items():
        mine, at = f"dense.{kind}", f"{_HEADS}.{kind_of(list(dense.answers))}"
        yield from renamed(f"{at}.fpns.0", f"{mine}.pyramid.up4")
        yield from renamed(f"{at}.fpns.1", f"{mine}.pyramid.up2")
        uper, head = f"{mine}.uper", f"{at}.head"
        convs = {"top": "bottleneck", "fuse": "fpn_bottleneck"}
        convs |= {f"contexts.{i}": f"psp_modules.{i}.1" for i in range(len(dense.uper.contexts))}
        convs |= {f"laterals.{i}": f"lateral_convs.{i}" for i in range(len(dense.uper.laterals))}
        convs |= {f"smooth.{i}": f"fpn_convs.{i}" for i in range(len(dense.uper.smooth))}
        for part, official in convs.items():
            yield from renamed(f"{head}.{official}.conv", f"{uper}.{part}.0")
            yield from renamed(f"{head}.{official}.bn", f"{uper}.{part}.1")
        for p in ("weight", "bias"):
            yield f"{head}.conv_seg.{p}", _class_rows(dense, ours[f"{mine}.last.{p}"], by_name, sets)


def _class_rows(
    dense: DenseHead, rows: Tensor, by_name: Mapping[str, Task], sets: Mapping[str, str]
) -> list[Tensor]:
    """Our rows of the last convolution in official order: a data set after the other, classes as `ORDERS` has
    them.
    """
    parts, start = list[Tensor](), 0
    for name, n in dense.answers.items():
        mine = rows[start : start + n]
        parts += (
            [mine]
            if sets[name] not in ORDERS
            else [mine[i][None] for i in class_order(sets[name], by_name[name])]
        )
        start += n
    return parts

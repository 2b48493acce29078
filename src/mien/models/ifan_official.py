"""iFAN's official Keras 1 weights (Li et al., ACM MM 2017) -> our `ifan`.

There is a file for every task. Each holds the layers that its answer needs: all convolutions are the same in
the files, batch norms are the task's own. Layers are numbered by Keras in the order in which the official
code makes them, which is how they are found here: re-encoders, first convolution, dense blocks and
transitions, heads. Reading `.h5` needs h5py:

    with h5py.File("model_seg.h5") as f:
        layers = {name: [f[name][w][()] for w in f[name].attrs["weight_names"]] for name in
        f.attrs["layer_names"]}

Names in those attributes may be bytes; decode them first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien.errors import BadWeights, UsageError
from mien.models.backbones.fc_densenet import SHARED, TaskNorm
from mien.models.ifan import IFAN, ifan
from mien.types import Array

Layers = Mapping[str, Sequence[Array]]


def ifan_from_keras(files: Mapping[str, Layers], means: Mapping[str, Array] | None = None) -> IFAN:
    """An `ifan` filled from the official weights, in evaluation mode.

    Args:
        files: our task name -> layer name -> its arrays, in Keras' order: "helen9" and "points5", and
            "emotion7" for the 3-task net. Shared convolutions are those of "helen9", which the official code
            loads last.
        means: our task name -> mean output of the training set, the first lap's feedback: (128, 128, 9),
            (10,), (7,).

    Raises:
        BadWeights: a layer is missing, left over, or of another shape. UsageError: the tasks are not those of
            an official net.
    """
    model = ifan(emotion="emotion7" in files)
    names = [t.name for t in model.tasks]
    if sorted(files) != sorted(names):
        raise UsageError(
            f"files are of {', '.join(sorted(files))}; give those of {', '.join(names)}, or without emotion7"
        )
    with torch.no_grad():
        for name in names:
            _fill(model, name, files[name])
        if means is not None:
            model.set_means(
                {n: _mean(n, torch.as_tensor(np.asarray(m), dtype=torch.float32)) for n, m in means.items()}
            )
    return model.eval()


def _mean(name: str, mean: Tensor) -> Tensor:
    if name == "points5":  # x1..x5, y1..y5 in -0.5..0.5
        return mean.reshape(2, 5).T + 0.5
    return mean.permute(2, 0, 1) if mean.ndim == 3 else mean


def _numbered(layers: Layers, kind: str) -> list[tuple[str, Sequence[Array]]]:
    """Layers of a kind in the order in which they were made; the first convolution has a name of its own."""
    found = [(int(m[1]), n) for n in layers if len(layers[n]) and (m := re.fullmatch(rf"{kind}_(\d+)", n))]
    return [(n, layers[n]) for _, n in sorted(found)]


def _fill(model: IFAN, name: str, layers: Layers) -> None:
    convs = _numbered(layers, "convolution2d")
    trunk, encoders = model.trunk, [e for e in model.encoders.values() if isinstance(e, nn.Module)]
    coded: list[Any] = [c for e in encoders for c in e.convs]  # type: ignore[union-attr]
    norms: list[Any] = [n for e in encoders for n in e.norms if isinstance(n, TaskNorm)]  # type: ignore[union-attr]
    down: list[
        tuple[Any, Any]
    ] = []  # (batch norm, convolution) in the order of making, as far as a task's answer needs them
    for i, (block, step) in enumerate(zip(trunk.blocks, trunk.downs, strict=True)):
        down += zip(block.norms, block.convs, strict=True)  # type: ignore[arg-type]
        if not (name == "points5" and i == len(trunk.downs) - 1):
            down.append((step.norm, step.conv))
    head: Any = model.heads[name].out
    if name != "points5":
        down += zip(trunk.bottom.norms, trunk.bottom.convs, strict=True)
    up: list[tuple[Any, Any]] = []
    if name == "helen9":
        for rise, block in zip(trunk.ups, trunk.up_blocks, strict=True):
            up += [(None, rise.conv), (None, rise.fine), *zip(block.norms, block.convs, strict=True)]  # type: ignore[arg-type, list-item]
        up.append((None, head))
    ours = [*coded, *(c for _, c in (*down, *up))]
    _count(name, "convolutions", len(ours), len(convs))
    mixed = {id(rise.conv) for rise in trunk.ups}
    if name == "helen9":
        if "initial_conv2D" not in layers:
            raise BadWeights(f"the file of {name} has no layer initial_conv2D; give the official file")
        first = _kernel("initial_conv2D", layers["initial_conv2D"][0], trunk.first)
        trunk.first.weight.copy_(torch.cat([first[:, :3].flip(1), first[:, 3:]], 1))  # pictures were BGR
        for (key, (kernel, *_)), conv in zip(convs, ours, strict=True):
            weight = _kernel(key, kernel, conv)
            if id(conv) in mixed:  # sub-pixels: their 2 x 2 is the transpose of torch's
                weight = weight.unflatten(0, (-1, 2, 2)).transpose(1, 2).flatten(0, 2)
            conv.weight.copy_(weight)
    layers_of_norms, path = (
        _numbered(layers, "batchnormalization"),
        [*norms, *(n for n, _ in (*down, *up) if n is not None)],
    )
    _count(name, "batch norms", len(path), len(layers_of_norms))
    for (key, arrays), norm in zip(layers_of_norms, path, strict=True):
        mine = norm.norms[SHARED if SHARED in norm.norms else name]
        for part, array in zip(("weight", "bias", "running_mean", "running_var"), arrays, strict=True):
            _copy(key, getattr(mine, part), torch.as_tensor(np.asarray(array)))
    if name != "helen9":
        dense = [layers[n] for n in layers if n == "pred_pts" or re.fullmatch(r"dense_\d+", n)]
        _count(name, "dense layers", 1, len(dense))
        weight, bias = (torch.as_tensor(np.asarray(a)) for a in dense[0])
        channels = trunk.last if name == "points5" else trunk.bottom_width
        side = int((head.in_features // channels) ** 0.5)
        if weight.shape != head.weight.T.shape:
            raise BadWeights(
                f"the dense layer of {name} is {tuple(weight.shape)}, not {tuple(head.weight.T.shape)}"
            )
        # flattened maps are rows, columns, channels there, channels first here
        head.weight.copy_(weight.reshape(side, side, channels, -1).permute(3, 2, 0, 1).flatten(1))
        _copy(name, head.bias, bias)


def _count(name: str, what: str, ours: int, found: int) -> None:
    if ours != found:
        raise BadWeights(f"the file of {name} has {found} {what}; the official one has {ours}")


def _kernel(key: str, array: Array, conv: Any) -> Tensor:
    """(rows, columns, in, out) -> (out, in, rows, columns)."""
    weight = torch.as_tensor(np.asarray(array)).permute(3, 2, 0, 1)
    if weight.shape != conv.weight.shape:
        raise BadWeights(
            f"{key} is {tuple(np.shape(array))}; (rows, columns, in, out) of {tuple(conv.weight.shape)} is"
            " needed"
        )
    return weight


def _copy(key: str, mine: Tensor, found: Tensor) -> None:
    if mine.shape != found.shape:
        raise BadWeights(f"{key} has an array of {tuple(found.shape)}, not {tuple(mine.shape)}")
    mine.copy_(found)

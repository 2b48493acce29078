"""An exported network's tensors as the torch model's own again, so that learning can go on from an .onnx.

The exporter folds each batch norm into the convolution before it and turns the weights of linear layers over;
both are undone here by name. The statistics of a norm are lost: it comes back as an identity, and
`recompute_batchnorm_stats` gives it statistics again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mien.errors import BadWeights
from mien.inference.weights_file import FORMAT, read_weights
from mien.models.torch_model import as_module
from mien.training import checkpoint
from mien.types import FaceModel, LoadedModel

_log = logging.getLogger(__name__)
_ROOT = "model."  # the exporter's own wrapper
_SHIFT = "folded_shift"  # what a layer adds in the file: its own bias, or that of the norm after it


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by the names in the file, linear layers' weights by their layer's name, and the header.

    Raises:
        BadWeights: no readable ONNX file, not the bytes that its provenance promises, or no header of ours.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    data, _ = read_weights(path)  # checked against its provenance, as when it answers
    try:
        proto = onnx.load_from_string(data)
        header = json.loads({p.key: p.value for p in proto.metadata_props}.get("mien", "{}"))
    except (ValueError, DecodeError) as e:
        raise BadWeights(f"{path} is not a readable ONNX file ({e}); export or copy it again") from e
    if header.get("format") != FORMAT:
        raise BadWeights(f"{path} has no header of mien; it was not written by `mien export`")
    if any(i.data_location == onnx.TensorProto.EXTERNAL for i in proto.graph.initializer):
        raise BadWeights(f"{path} keeps weights in other files, which no sha256 covers; export it again")
    found = {
        i.name.removeprefix(_ROOT): torch.from_numpy(onnx.numpy_helper.to_array(i).copy())
        for i in proto.graph.initializer
    }
    multiplied = {
        n.output[0]: n.input[1].removeprefix(_ROOT) for n in proto.graph.node if n.op_type == "MatMul"
    }
    for node in proto.graph.node:
        given = [n.removeprefix(_ROOT) for n in node.input]
        if node.op_type in ("Conv", "Gemm") and given[1] in found:
            shift = (
                found[given[2]] if len(given) > 2 else torch.zeros(len(found[given[1]]))
            )  # a shift of zeros is left out
            found[given[1].removesuffix("weight") + _SHIFT] = shift
        elif node.op_type == "Add":
            for product, bias in (given, given[::-1]):
                if multiplied.get(product) in found and bias.endswith(".bias"):
                    found[bias.removesuffix("bias") + "weight"] = found[multiplied[product]].T.contiguous()
    return found, header


def load_onnx(path: Path | str) -> LoadedModel:
    """The torch model of an exported file, in evaluation mode. Call `recompute_batchnorm_stats` before it is
    trained further.

    Raises:
        BadWeights: unreadable, unknown builder, or tensors that do not fit; the message names the first of
            them.
    """
    tensors, header = read(Path(path))
    if own := [str(t["name"]) for t in header.get("tasks", ()) if "kind" in t]:
        _log.warning(
            "%s: the torch model has no head for the fine-tuned %s; fine-tune again after training",
            path,
            own[0],
        )
    model = checkpoint.build(header, path)
    fill(model, tensors, Path(path))
    return model.eval()


def load(path: Path | str) -> LoadedModel:
    """The torch model of a weights file of either kind: an exported .onnx, or a .safetensors of a run.

    Raises:
        BadWeights: see `load_onnx` and `mien.training.checkpoint.load`.
    """
    return load_onnx(path) if Path(path).suffix == ".onnx" else checkpoint.load(path)


def fill(model: FaceModel, found: dict[str, Tensor], path: Path) -> None:
    """Give a fresh model the tensors of its exported self: the same answers in evaluation mode, to rounding.

    Raises:
        BadWeights: a tensor is missing or does not fit (an 8-bit file, or one by another exporter); the
            message names the first.
    """
    own, network = model.state_dict(), as_module(model)
    for norm, before in _folded(model).items():
        if f"{norm}.running_var" not in found and (bias := found.get(f"{before}.{_SHIFT}")) is not None:
            ones, eps = torch.ones_like(bias), float(network.get_submodule(norm).eps)  # type: ignore[arg-type]
            found |= {
                f"{norm}.weight": ones,
                f"{norm}.bias": bias,
                f"{norm}.running_mean": 0 * ones,
                f"{norm}.running_var": ones - eps,
            }
    found |= {n: own[n] for n in own if n.endswith("num_batches_tracked")}
    if bad := [n for n, t in own.items() if n not in found or found[n].shape != t.shape]:
        problem = (
            "is not in it"
            if bad[0] not in found
            else f"has the shape {tuple(found[bad[0]].shape)} in it, not {tuple(own[bad[0]].shape)}"
        )
        raise BadWeights(
            f"{path}: {bad[0]} {problem}; only the float file of `mien export` can be trained further"
        )
    model.load_state_dict({n: found[n] for n in own})


@torch.no_grad()
def _folded(model: FaceModel) -> dict[str, str]:
    """Batch norm -> the convolution or linear layer whose answer it takes, as one forward shows."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    pairs: dict[str, str] = {}

    def layer(name: str) -> Any:
        return lambda module, given, out: made.update({id(out): (name, out)})

    def norm(name: str) -> Any:
        return lambda module, given: pairs.update(
            {name: made[id(given[0])][0]} if id(given[0]) in made else {}
        )

    network = as_module(model)
    hooks = [
        m.register_forward_hook(layer(n))
        for n, m in network.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    hooks += [
        m.register_forward_pre_hook(norm(n)) for n, m in network.named_modules() if isinstance(m, _BatchNorm)
    ]
    w, h = model.view.size
    model.eval()(torch.zeros(1, 3, h, w))
    for hook in hooks:
        hook.remove()
    return pairs


@torch.no_grad()
def recompute_batchnorm_stats(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of what reaches it, and scale and shift with which its
    answers stay the same.

    Until then a norm of `fill` would change its answers as soon as it trained, for it would divide by a
    spread that it never had.

    Args:
        batches: pictures as the network takes them, (B, 3, H, W) each; some hundred in all.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    sums: dict[int, tuple[Tensor, Tensor, int]] = {}

    def count(module: nn.Module, given: tuple[Tensor]) -> None:
        x = given[0].double()
        dims = [d for d in range(x.ndim) if d != 1]
        total, squares, n = sums.get(id(module), (torch.zeros(()), torch.zeros(()), 0))
        sums[id(module)] = (total + x.sum(dims), squares + (x * x).sum(dims), n + x.numel() // x.shape[1])

    hooks = [m.register_forward_pre_hook(count) for m in norms]
    was = model.training
    model.eval()
    for images in batches:
        model(images)
    model.train(was)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        if id(norm) not in sums:
            continue  # no picture passes it
        total, squares, n = sums[id(norm)]
        mean = total / n
        var = (squares / n - mean * mean).clamp_min(0)
        assert norm.running_mean is not None and norm.running_var is not None
        slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() + slope * (mean - norm.running_mean.double())
        norm.weight.copy_(slope * (var + norm.eps).sqrt())
        norm.bias.copy_(shift)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)

"""Add state heads (eyes, gaze, occlusion, quality) to a weights file: its old nodes and weights stay as they
are, so that its old outputs stay bit for bit the same.

The nodes have the names that `mien export` gives them, so that `onnx_import` reads the file back as a network
with these heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import BadWeights, UsageError
from mien.export.onnx_export import commit
from mien.inference import onnx_prune
from mien.inference.provenance import provenance_of, write_provenance
from mien.inference.weights_file import measured_sha256
from mien.models.mien import StateHead
from mien.tasks import Task
from mien.training.finetune.graph import Graph

ROOT = "model.state."  # of the heads' names


def add_state_heads(
    base: Path, heads: Mapping[str, StateHead], tasks: Mapping[str, Task[Any]], out: Path, **facts: Any
) -> None:
    """Write a weights file with more heads, or with others in place of those that it has by these names.

    Args:
        base: an .onnx file of the builder `mien_tiny`.
        heads: task name -> trained head.
        tasks: task name -> the task, with its settings.
        out: FILE.onnx; may be `base`.
        facts: for the provenance file, besides what that of `base` says.

    Raises:
        BadWeights: another network. UsageError: a task that the network has with another head.
    """
    graph = Graph(base)
    if graph.header.get("builder") != "mien_tiny":
        raise BadWeights(
            f"{base} is of the builder {graph.header.get('builder')!r}; state heads need mien_tiny"
        )
    known, origin = provenance_of(base), measured_sha256(graph)
    for name in heads:
        _remove(graph, name)
        if name in {t["name"] for t in graph.header["tasks"]}:
            raise UsageError(f"{base} has a task {name!r} with another head; leave it out")
    maps = onnx_prune.encoder_maps(graph.proto.SerializeToString())[-3:]
    for name, head in heads.items():
        _append(graph, name, head, maps)
        graph.header["tasks"].append(tasks[name].header())
    arguments = graph.header["arguments"]
    every = [t["name"] for t in graph.header["tasks"]]
    arguments["tasks"] = every
    arguments["state"] = [n for n in every if n in heads or n in arguments.get("state", ())]
    # What was measured with the old outputs holds for them still.
    graph.header["frozen"] = {"sha256": graph.frozen_sha256(), "weights": origin}
    graph.save(out)
    kept = {k: v for k, v in known.items() if k not in ("file", "sha256", "bytes", "header", "commit")}
    write_provenance(out, **_joined(kept, facts), commit=commit(), header=graph.header)


def _joined(known: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Both, where sets and other mappings are joined."""
    found = dict(known)
    for key, value in facts.items():
        old = found.get(key)
        found[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
    return found


def _remove(graph: Graph, name: str) -> None:
    """Take a state head out of a file, if it has one by that name."""
    if name not in graph.header["arguments"].get("state", ()):
        return
    proto, prefix = graph.proto.graph, f"{ROOT}{name}."
    for field in (proto.node, proto.initializer):
        kept = [item for item in field if not item.name.startswith(prefix)]
        del field[:]
        field.extend(kept)
    outputs = [o for o in proto.output if o.name != name]
    del proto.output[:]
    proto.output.extend(outputs)
    graph.header["tasks"] = [t for t in graph.header["tasks"] if t["name"] != name]
    graph.header["arguments"]["state"] = [n for n in graph.header["arguments"]["state"] if n != name]


def _append(graph: Graph, name: str, head: StateHead, maps: list[str]) -> None:
    """Nodes and weights of one head."""
    import onnx

    proto, prefix = graph.proto.graph, f"{ROOT}{name}."

    def weight(part: str, value: Any) -> str:
        array = np.ascontiguousarray(value)
        proto.initializer.append(onnx.numpy_helper.from_array(array, prefix + part))
        return prefix + part

    def node(kind: str, given: list[str], out: str, **more: Any) -> str:
        made = out if out == name else prefix + out
        proto.node.append(onnx.helper.make_node(kind, given, [made], name=f"{prefix}{out}.{kind}", **more))
        return made

    layers = {n: t.detach().numpy() for n, t in head.state_dict().items()}
    parts = list[str]()
    for which, tensor, ((top, bottom), (left, right)) in zip(
        ("near", "far"), maps, head.places, strict=False
    ):
        edges = [np.array(v, np.int64) for v in ([top, left], [bottom, right], [2, 3])]
        limits = [weight(f"{which}.{n}", v) for n, v in zip(("starts", "ends", "axes"), edges, strict=True)]
        cut = node("Slice", [tensor, *limits], f"{which}_cut")
        own = [weight(f"{which}.{n}", layers[f"{which}.{n}"]) for n in ("weight", "bias")]
        active = node("Relu", [node("Conv", [cut, *own], f"{which}_conv")], f"{which}_relu")
        parts.append(node("Flatten", [active], f"{which}_flat"))
    parts.append(node("Flatten", [node("GlobalAveragePool", [maps[2]], "mean")], "mean_flat"))
    x = node("Concat", parts, "features", axis=1)
    for layer in ("hidden", "out"):
        own = [weight(f"{layer}.{n}", layers[f"{layer}.{n}"]) for n in ("weight", "bias")]
        x = node("Gemm", [x, *own], name if layer == "out" else "hidden_gemm", transB=1)
        if layer == "hidden":
            x = node("Relu", [x], "hidden_relu")
    batch = proto.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    proto.output.append(onnx.helper.make_tensor_value_info(name, 1, [batch, len(layers["out.bias"])]))

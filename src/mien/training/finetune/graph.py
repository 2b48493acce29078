"""The ONNX side of a new task: where a network's features are, and heads that are appended to its graph.

The nodes and weights of the network stay as they are, byte for byte. What belongs to a head has a name that
begins with `head.`; the rest is the frozen part, which `frozen_sha256` identifies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import BadWeights, UsageError
from mien.inference import onnx_prune
from mien.inference.provenance import remove_provenance
from mien.inference.weights_file import FORMAT, read_weights
from mien.types import Floats

PREFIX = "head."
_SUMMARY = "model.values.whole."  # what reads the summary of the face
_BRANCH = "model.dense.branch."  # what reads the pyramid

Layers = Sequence[tuple[Floats, Floats]]  # weight (out, in) and bias (out,) of each


@dataclass(frozen=True)
class Features:
    """Tensors of a network that a new head reads.

    Attributes:
        maps: maps of the encoder that other heads read too, (B, c, h, w) each, coarsest first.
        vectors: (B, c) each: the summary of the face, where there is one.
    """

    maps: tuple[str, ...]
    vectors: tuple[str, ...]


class Graph:
    """A weights file whose graph can be extended.

    Args:
        path: an .onnx file that mien exported.

    Attributes:
        path: the file.
        sha256: of its bytes.
        proto: the ONNX model.
        header: of mien.

    Raises:
        BadWeights: unreadable, altered, or without a header of mien.
    """

    def __init__(self, path: Path):
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        self.path = path
        data, self.sha256 = read_weights(path)
        try:
            self.proto = onnx.load_from_string(data)
            self.header = json.loads({p.key: p.value for p in self.proto.metadata_props}.get("mien", "{}"))
        except (ValueError, DecodeError) as e:
            raise BadWeights(f"{path} is no readable ONNX file ({e}); export or copy it again") from e
        if not isinstance(self.header, dict) or self.header.get("format") != FORMAT:
            raise BadWeights(f"{path} has no header of mien; it was not written by `mien export`")

    @property
    def tensors(self) -> set[str]:
        """Names of all tensors."""
        graph = self.proto.graph
        made = {o for n in graph.node for o in n.output}
        return made | {i.name for i in graph.initializer} | {i.name for i in graph.input}

    def features(self) -> Features:
        """Where the features are.

        Raises:
            BadWeights: the network has no encoder by the names of mien's export, or it is an 8-bit file.
        """
        graph = self.proto.graph
        maps = onnx_prune.encoder_maps(self.proto.SerializeToString())
        if not maps or any(n.op_type == "QuantizeLinear" for n in graph.node):
            raise BadWeights(
                f"{self.path} has no encoder that a new head can read: take a float file of the builder"
                " mien_tiny or mien, such as the embedded one, not an 8-bit file"
            )
        readers = (n for n in graph.node if n.op_type == "Gemm" and n.input[1].startswith(_SUMMARY))
        return Features(tuple(reversed(maps)), tuple(n.input[0] for n in readers)[:1])

    def pyramid(self) -> str | None:
        """The map that the heads of points and parsing read, (B, c, h, w); None where there is none."""
        for node in self.proto.graph.node:
            weight = node.input[1] if len(node.input) > 1 else ""
            if node.op_type == "Conv" and weight.startswith(_BRANCH) and weight.endswith(".0.0.weight"):
                return str(node.input[0])
        return None

    def frozen_sha256(self) -> str:
        """Identifies the frozen part: nodes and weights without the appended heads, input, and view."""
        graph, digest = self.proto.graph, hashlib.sha256()
        for node in graph.node:
            if not node.name.startswith(PREFIX):
                digest.update(node.SerializeToString(deterministic=True))
        for weight in graph.initializer:
            if not weight.name.startswith(PREFIX):
                digest.update(weight.SerializeToString(deterministic=True))
        for given in graph.input:
            digest.update(given.SerializeToString(deterministic=True))
        digest.update(json.dumps(self.header.get("view"), sort_keys=True).encode())
        return digest.hexdigest()

    def reading(self, tensors: Sequence[str], threads: int | None) -> FeatureNetwork:
        """A network that computes these tensors and nothing else."""
        data = onnx_prune.expose(self.proto.SerializeToString(), tensors)
        return FeatureNetwork(data, tensors, threads)

    # --- Heads

    def append_vector_head(
        self, entry: Mapping[str, Any], inputs: Sequence[tuple[str, str]], layers: Layers
    ) -> None:
        """Linear layers with ReLU between them on features next to each other, as a new output.

        Args:
            entry: of the task, as `mien.tasks.kinds.entry_of` makes it.
            inputs: (tensor, how it is read): "vector" for (B, c); "mean" for a map's mean.
            layers: from the features to the task's raw numbers.
        """
        helper, name = self._begin(entry)
        flat = []
        for i, (tensor, how) in enumerate(inputs):
            part = tensor
            if how == "mean":
                pooled = self._node("GlobalAveragePool", [tensor], f"{name}.mean{i}")
                part = self._node("Flatten", [pooled], f"{name}.flat{i}")
            flat.append(part)
        x = self._node("Concat", flat, f"{name}.features", axis=1)
        for i, (weight, bias) in enumerate(layers):
            last = i == len(layers) - 1
            given = [x, self._weight(f"{name}.{i}.weight", weight), self._weight(f"{name}.{i}.bias", bias)]
            x = self._node("Gemm", given, name.removeprefix(PREFIX) if last else f"{name}.{i}", transB=1)
            if not last:
                x = self._node("Relu", [x], f"{name}.{i}.relu")
        self._end(entry, helper, (len(layers[-1][1]),))

    def append_map_head(
        self,
        entry: Mapping[str, Any],
        inputs: Sequence[tuple[str, int]],
        arrays: Mapping[str, tuple[Floats, Floats]],
        size: tuple[int, int],
    ) -> None:
        """Convolutions of the network's maps that give a map per point or class, as a new output.

        Args:
            entry: of the task, as `mien.tasks.kinds.entry_of` makes it.
            inputs: (tensor, how many times its grid is enlarged) of the maps that are added up; 0 for the map
                of twice the resolution, which corrects the sum.
            arrays: weights and biases by name, as `mien.training.finetune.dense.DenseHead.arrays` gives them.
            size: (width, height) of the output.
        """
        helper, name = self._begin(entry)
        task = name.removeprefix(PREFIX)
        fine = [t for t, k in inputs if k == 0]

        def conv(x: str, part: str, output: str = "", groups: int = 1) -> str:
            weight, bias = arrays[part]
            given = [
                x,
                self._weight(f"{name}.{part}.weight", weight),
                self._weight(f"{name}.{part}.bias", bias),
            ]
            pad, side = weight.shape[2] // 2, weight.shape[2]
            return self._node(
                "Conv",
                given,
                output or f"{name}.{part}",
                kernel_shape=[side, side],
                pads=[pad] * 4,
                group=groups,
            )

        def enlarged(x: str, k: int, mode: str) -> str:
            scales = f"{name}.scales{k}"
            if scales not in {i.name for i in self.proto.graph.initializer}:
                self._weight(scales, np.array([1, 1, k, k], np.float32))
            how = {"coordinate_transformation_mode": "half_pixel" if mode == "linear" else "asymmetric"}
            how |= {"nearest_mode": "floor"} if mode == "nearest" else {}
            return self._node("Resize", [x, "", scales], f"{x}.x{k}", mode=mode, **how)

        parts = list[str]()
        for i, (tensor, k) in enumerate((t, k) for t, k in inputs if k):
            part = conv(tensor, f"lateral{i}")
            parts.append(enlarged(part, k, "nearest") if k > 1 else part)
        total = self._node("Relu", [self._node("Sum", parts, f"{name}.sum")], f"{name}.sum.relu")
        x = self._node("Relu", [conv(total, "mix")], f"{name}.mix.relu")
        if not fine:
            conv(x, "out", task)
        else:
            context = self._node("Relu", [enlarged(conv(x, "context"), 2, "linear")], f"{name}.context.relu")
            plain = conv(fine[0], "early.scale", groups=len(arrays["early.scale"][1]))
            early = self._node("Relu", [conv(plain, "early")], f"{name}.early.relu")
            both = self._node("Concat", [early, context], f"{name}.both", axis=1)
            joined = self._node("Relu", [conv(both, "join")], f"{name}.join.relu")
            logits = enlarged(conv(x, "out"), 2, "linear")
            self._node("Add", [logits, conv(joined, "correct")], task)
        n = len(arrays["out"][1])
        self._end(entry, helper, (n, size[1], size[0]))

    def _begin(self, entry: Mapping[str, Any]) -> tuple[Any, str]:
        import onnx

        task = str(entry["name"])
        if task in {t["name"] for t in self.header["tasks"]}:
            raise UsageError(f"{self.path} has a task {task!r} already; choose another name")
        if task in self.tensors:
            raise UsageError(f"{task!r} is the name of a tensor inside of {self.path}; choose another name")
        return onnx.helper, PREFIX + task

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        import onnx

        name = output if output.startswith(PREFIX) else PREFIX + output
        node = onnx.helper.make_node(kind, list(inputs), [output], name=f"{name}.{kind}", **attributes)
        self.proto.graph.node.append(node)
        return output

    def _weight(self, name: str, value: Floats) -> str:
        import onnx

        value = np.ascontiguousarray(value, np.float32)
        self.proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def _end(self, entry: Mapping[str, Any], helper: Any, shape: Sequence[int]) -> None:
        batch = self.proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
        info = helper.make_tensor_value_info(str(entry["name"]), 1, [batch, *shape])
        self.proto.graph.output.append(info)
        self.header["tasks"].append(dict(entry))

    def heads(self) -> list[str]:
        """Names of the tasks that were appended."""
        prefixes = {n.name.removeprefix(PREFIX) for n in self.proto.graph.node if n.name.startswith(PREFIX)}
        tasks = [str(t["name"]) for t in self.header["tasks"]]
        return [t for t in tasks if any(p.startswith(f"{t}.") for p in prefixes)]

    def take_heads(self, other: Graph) -> list[str]:
        """Append the heads of another file of the same frozen network; their names.

        Raises:
            UsageError: another network, nothing to take, or a task that both have.
        """
        if self.frozen_sha256() != other.frozen_sha256():
            raise UsageError(
                f"{self.path} and {other.path} do not share one frozen network"
                f" ({self.frozen_sha256()[:12]} and {other.frozen_sha256()[:12]}); fine-tune both with the"
                " same"
                " --weights"
            )
        names = other.heads()
        if not names:
            raise UsageError(f"{other.path} has no fine-tuned task to take")
        if twice := set(names) & {t["name"] for t in self.header["tasks"]}:
            task = sorted(twice)[0]
            raise UsageError(f"{self.path} and {other.path} both have a task {task!r}; rename one")
        graph, other_graph = self.proto.graph, other.proto.graph
        if clash := set(names) & self.tensors:
            raise UsageError(f"{sorted(clash)[0]!r} is the name of a tensor inside of {self.path}; rename it")
        graph.node.extend(n for n in other_graph.node if n.name.startswith(PREFIX))
        graph.initializer.extend(i for i in other_graph.initializer if i.name.startswith(PREFIX))
        graph.output.extend(o for o in other_graph.output if o.name in names)
        self.header["tasks"] += [t for t in other.header["tasks"] if t["name"] in names]
        return names

    def save(self, path: Path) -> None:
        """Write the file under another name first, so that a half one never stands there."""
        import onnx

        for entry in self.proto.metadata_props:
            if entry.key == "mien":
                entry.value = json.dumps(self.header)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        onnx.save(self.proto, part)
        remove_provenance(path)
        os.replace(part, path)


class FeatureNetwork:
    """Pictures (B, 3, H, W) float32 -> the tensors named, in order.

    Args:
        data: an ONNX file.
        tensors: its outputs.
        threads: of a forward; None for all cores.

    Attributes:
        sha256: of the file.
    """

    def __init__(self, data: bytes, tensors: Sequence[str], threads: int | None):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        self.tensors, self.sha256 = list(tensors), hashlib.sha256(data).hexdigest()
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Floats) -> list[Floats]:
        return list(self._session.run(self.tensors, {"images": np.ascontiguousarray(images, np.float32)}))

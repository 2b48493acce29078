"""A network in 8-bit integers: smaller, and on some machines faster. Whether it pays is measured, not
believed.

Static quantization by ONNX Runtime: convolutions (depthwise ones too) get integer weights, a scale a channel,
and integer activations whose ranges were seen on real faces. What lies behind the last shared node of a task
that is kept stays float.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mien.errors import UsageError
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import provenance_of, write_provenance
from mien.types import Floats

MINIMUM = 32  # faces; with fewer, ranges are those of a few people


def only_for(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[str]:
    """Names of the nodes that no other output of the graph needs than those given."""
    makers = {name: node for node in graph.node for name in node.output}

    def needed(wanted: Sequence[str]) -> set[str]:
        seen, rest = set[str](), list(wanted)
        while rest:
            node = makers.get(rest.pop())
            if node is not None and node.name not in seen:
                seen.add(node.name)
                rest += node.input
        return seen

    others = needed([o.name for o in graph.output if o.name not in outputs])
    return sorted(needed(list(outputs)) - others)


def quantize(
    weights: Path, out: Path, images: Floats, *, keep: Sequence[str] = (), batch: int = 16
) -> dict[str, Any]:
    """Float .onnx -> 8-bit .onnx, with its header inside and its provenance next to it; returns the
    provenance.

    Args:
        images: (n, 3, H, W) float32 faces, normalized by the network's view, of all kinds that it will see.
        keep: tasks whose own part stays float.

    Raises:
        UsageError: too few faces, or a task that the network does not answer.
        BadWeights: see `OnnxModel`.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    own = [t.name for t in OnnxModel(weights).tasks]
    if unknown := [n for n in keep if n not in own]:
        raise UsageError(f"keep={unknown[0]!r} is not a task of {weights}; its tasks: {', '.join(own)}")
    if len(images) < MINIMUM:
        raise UsageError(
            f"{len(images)} faces are too few to see the network's ranges; give photos with {MINIMUM} or more"
        )

    class Faces(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts: Iterator[Floats] = iter(np.array_split(images, -(-len(images) // batch)))

        def get_next(self) -> dict[str, Floats] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": np.ascontiguousarray(part)}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the quantizer warns of its own deprecated parts
        plain, part = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(weights), str(plain), skip_symbolic_shape=True)
        floats = only_for(onnx.load(plain).graph, list(keep))
        quantize_static(
            str(plain),
            str(part),
            Faces(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            nodes_to_exclude=floats,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        proto = onnx.load(part)
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = "mien", json.dumps(OnnxModel(weights).header)
    onnx.save(proto, out)
    details = {
        k: v
        for k, v in provenance_of(weights).items()
        if k not in ("file", "sha256", "bytes", "scores", "parity")
    }
    made = {"of": OnnxModel(weights).sha256, "faces": len(images), "float": list(keep)}
    return write_provenance(out, **details, int8=made)


def shift(before: Path, after: Path, images: Floats) -> dict[str, float]:
    """By task: mean distance between two networks' raw answers, in standard deviations of the first's."""
    a, b = OnnxModel(before)(images), OnnxModel(after)(images)
    return {k: float(np.abs(a[k] - b[k]).mean() / max(float(a[k].std()), 1e-12)) for k in a}


def milliseconds(weights: Path, images: Floats, threads: int, runs: int = 30) -> float:
    """Median time of a forward on these images, after five to warm up."""
    model, times = OnnxModel(weights, threads=threads), list[float]()
    for _ in range(runs + 5):
        start = time.perf_counter()
        model(images)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[5:]))

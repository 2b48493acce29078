"""Roofline of the networks on this machine; writes docs/benchmark.md and bench/results/operations.csv.

python -m bench.speed.roofline [--threads 1] [--runs 30] [--dry]      # needs mien[train] (onnx), no data

The floor is the time for the multiply-adds (MAC) at the rate of a float32 matrix product, or for the bytes at
the rate of a copy, whichever is larger. The ratio of the measured time to it shows what is left to gain.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from mien.diagnostics.benchmark import table as report
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS

PAGE = Path("docs/benchmark.md")
KINDS = Path("bench/results/operations.csv")
KINDS_HEAD = ("operation", "count", "mac_m", "mac_pct", "mb_moved", "mb_moved_pct")
MARK = ("<!-- floor: begin -->", "<!-- floor: end -->")
# operations that only change shapes and names, and move no bytes
FREE = frozenset(
    {
        "Shape",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Constant",
        "Slice",
        "Split",
        "Expand",
    }
)


@dataclass(frozen=True, slots=True)
class Node:
    """One executed operation.

    Attributes:
        kind: its name in the table.
        macs: number of multiply-adds.
        bytes: size of its inputs and outputs.
        weights: size of its constants, in bytes.
    """

    kind: str
    macs: int
    bytes: int
    weights: int


def nodes(path: Path, shape: Sequence[int]) -> list[Node]:
    """A network's operations on an input of that shape; shapes come from one run without fusion."""
    model = onnx.load(path)
    for i, node in enumerate(model.graph.node):
        node.name = f"op{i}"
    constants = {t.name for t in model.graph.initializer}
    by_name = {n.name: n for n in model.graph.node}
    out = []
    for event in _profile(model, shape):
        name = event["name"].removesuffix("_kernel_time")
        if not event["name"].endswith("_kernel_time") or name not in by_name:
            continue
        node, args = by_name[name], event["args"]
        ins, outs = ([_shape(d) for d in args[k]] for k in ("input_type_shape", "output_type_shape"))
        sizes = [b for _, b in ins]
        held = sum(
            b for b, label in zip(sizes, [n for n in node.input if n], strict=False) if label in constants
        )
        kind, macs = multiply_adds(node, [s for s, _ in ins], [s for s, _ in outs])
        moved = 0 if node.op_type in FREE else sum(sizes) + sum(b for _, b in outs)
        out.append(Node(kind, macs, moved, held))
    return out


def _profile(model: onnx.ModelProto, shape: Sequence[int]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling, options.intra_op_num_threads, options.log_severity_level = True, 1, 3
        options.add_session_config_entry(
            "session.disable_prepacking", "1"
        )  # a kernel's packed weights are no longer in its inputs
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"images": np.zeros(shape, np.float32)})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return events


def _shape(entry: dict[str, list[int]]) -> tuple[list[int], int]:
    """{"float": [1, 3]} -> shape, bytes."""
    ((kind, shape),) = entry.items()
    size = {"float": 4, "int64": 8, "int32": 4, "bool": 1, "uint8": 1, "double": 8}[kind]
    return shape, size * math.prod(shape)


def multiply_adds(node: Any, ins: Sequence[Sequence[int]], outs: Sequence[Sequence[int]]) -> tuple[str, int]:
    """A node's name in the table, and its multiply-adds; element-wise operations count as none."""
    op = node.op_type
    if op == "Conv":
        w = ins[1]  # (out, in / groups, *kernel)
        kind = (
            "convolution 1x1"
            if math.prod(w[2:]) == 1
            else "convolution, depthwise"
            if w[1] == 1
            else "convolution, k x k"
        )
        return kind, math.prod(outs[0]) * math.prod(w[1:])
    if op == "ConvTranspose":
        return "convolution, transposed", math.prod(ins[0]) * math.prod(
            ins[1][1:]
        )  # weights: (in, out / groups, *kernel)
    if op == "MatMul":
        return "matrix product", math.prod(outs[0]) * ins[0][-1]
    if op == "Gemm":
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return "matrix product", math.prod(outs[0]) * ins[0][0 if turned else 1]
    if op == "Einsum":
        (equation,) = (a.s.decode() for a in node.attribute if a.name == "equation")
        sides: dict[str, int] = {}
        for letters, shape in zip(equation.replace(" ", "").split("->")[0].split(","), ins, strict=True):
            sides |= dict(zip(letters, shape, strict=True))
        return "matrix product", math.prod(sides.values())
    return "element by element", 0


def minimum_ms(call: Callable[[], Any], runs: int, threads: int, warm: int = 3) -> float:
    """The minimum over several calls; with one thread, processor time, which other work affects less."""
    clock = time.process_time if threads == 1 else time.perf_counter
    taken = []
    for _ in range(runs + warm):
        began = clock()
        call()
        taken.append(1e3 * (clock() - began))
    return min(taken[warm:])


def matmul_rate(threads: int, n: int = 1024, runs: int = 20) -> float:
    """Multiply-adds per second of a float32 (n, n) product in ONNX Runtime, whose kernels networks use."""
    import onnx.helper as h

    kind = onnx.TensorProto.FLOAT
    a, b, c = (h.make_tensor_value_info(k, kind, [n, n]) for k in "abc")
    graph = h.make_graph([h.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((n, n), np.float32)
    return n**3 / (1e-3 * minimum_ms(lambda: session.run(None, {"a": x, "b": x}), runs, threads))


def copy_rate(megabytes: int = 128, runs: int = 10) -> float:
    """Bytes per second, read and written, of copying more than any cache holds; one thread."""
    source = np.ones(megabytes * 2**20, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / (1e-3 * minimum_ms(lambda: np.copyto(target, source), runs, 1))


# --- The page


@dataclass(frozen=True, slots=True)
class Case:
    """A network at a size."""

    name: str
    path: Path
    shape: tuple[int, int, int, int]


def cases() -> list[Case]:
    """The embedded networks: on 1 and 8 faces, on a 4:3 photo and on its thumbnail."""
    w, h = OnnxModel(WEIGHTS / "mien.onnx", threads=1).view.size
    face, find = WEIGHTS / "mien.onnx", WEIGHTS / "detector.onnx"
    return [
        Case("face network, 1 face", face, (1, 3, h, w)), Case("face network, 8 faces", face, (8, 3, h, w)),
        Case("detector, 640x480", find, (1, 3, 480, 640)), Case("detector, 128x128", find, (1, 3, 128, 128)),
    ]  # fmt: skip


def timer(case: Case, threads: int, runs: int) -> Callable[[], float]:
    """Measures one forward pass per call, in milliseconds."""
    model, images = OnnxModel(case.path, threads=threads), np.zeros(case.shape, np.float32)
    return lambda: minimum_ms(lambda: model(images), runs, threads)


def row(
    case: Case, ops: Sequence[Node], took: float, macs_a_second: float, bytes_a_second: float
) -> list[str]:
    """A line of the table."""
    macs, weights = sum(n.macs for n in ops), sum(n.weights for n in ops)
    ends = 4 * math.prod(case.shape)
    compute, memory_ms = 1e3 * macs / macs_a_second, 1e3 * (weights + ends) / bytes_a_second
    layers = 1e3 * sum(n.bytes for n in ops) / bytes_a_second
    floor, moved = max(compute, memory_ms), sum(n.bytes for n in ops)
    return [
        case.name, f"{macs / 1e6:,.1f}", f"{weights / 1e6:.2f}", f"{moved / 1e6:,.1f}", f"{compute:.2f}",
        f"{memory_ms:.2f}",
        f"{layers:.2f}", f"{took:.2f}", f"**{took / floor:.1f}**", f"{took / max(compute, layers):.1f}",
    ]  # fmt: skip


def kinds(ops: Sequence[Node]) -> Iterator[list[str]]:
    """Operations grouped by kind, sorted by multiply-adds."""
    macs, moved = sum(n.macs for n in ops), sum(n.bytes for n in ops)
    for kind in sorted({n.kind for n in ops}, key=lambda k: -sum(n.macs for n in ops if n.kind == k)):
        mine = [n for n in ops if n.kind == kind]
        m, b = sum(n.macs for n in mine), sum(n.bytes for n in mine)
        yield [
            kind,
            str(len(mine)),
            f"{m / 1e6:,.1f}",
            f"{100 * m / macs:.1f}",
            f"{b / 1e6:,.1f}",
            f"{100 * b / moved:.1f}",
        ]


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


ROUNDS = 3  # everything is measured in turn, so that a busy minute does not affect one measurement alone
HEAD = (
    "network",
    "MAC, M",
    "weights, MB",
    "bytes layer by layer, MB",
    "MAC, ms",
    "weights and picture, ms",
    "layer by layer, ms",
    "measured, ms",
    "ratio",
    "ratio, layer by layer",
)


def section(threads: int, runs: int) -> tuple[str, list[list[str]]]:
    """What is measured, as text; and the operations of the face network by kind."""
    found = [(case, nodes(case.path, case.shape), timer(case, threads, runs)) for case in cases()]
    rounds = [(matmul_rate(threads), copy_rate(), [take() for _, _, take in found]) for _ in range(ROUNDS)]
    macs_a_second, bytes_a_second = (max(r[i] for r in rounds) for i in (0, 1))
    took = np.min([r[2] for r in rounds], axis=0)
    lines = [
        row(case, ops, float(ms), macs_a_second, bytes_a_second)
        for (case, ops, _), ms in zip(found, took, strict=True)
    ]
    command = [
        sys.executable,
        "-m",
        "mien",
        "bench",
        "--json",
        "--threads",
        str(threads),
        "--runs",
        str(runs),
    ]
    whole = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )  # in a separate process, for its memory
    load, cores = whole["machine"]["load"], whole["machine"]["cores"]
    busy = bool(load) and load[0] > 0.75 * cores
    clock = "CPU time of one thread" if threads == 1 else "wall time"
    text = "\n".join([
        f"Float32 matrix product of 1,024 x 1,024 by ONNX Runtime, {threads} thread(s): "
        f"**{macs_a_second / 1e9:.1f} billion MAC/s**.",
        f"Copy of 128 MB, one thread: **{bytes_a_second / 1e9:.1f} GB/s**, read and written.",
        f"Best of {ROUNDS} rounds, {clock}. "
        f"Load: {' '.join(map(str, load)) or 'unknown'} on {cores} cores"
        + (". **It was busy**: the ratios are rough, and wall times too long.\n" if busy else ".\n"),
        markdown(HEAD, lines), "",
        f"Operations of the face network by kind: `{KINDS}`.\n",
        f"`mien bench --threads {threads}` on synthetic pictures, wall time:\n",
        "```text", *report(whole), "```",
    ])  # fmt: skip
    return text, list(kinds(found[0][1]))


def main() -> None:
    """Measure, and write the result between the marks in the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--dry", action="store_true", help="print instead of writing the page")
    given = parser.parse_args()
    text, operations = section(given.threads, given.runs)
    if given.dry:
        print(text)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK[0])
    after = rest.partition(MARK[1])[2]
    with KINDS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([KINDS_HEAD, *operations])
    PAGE.write_text(f"{before}{MARK[0]}\n{text}\n{MARK[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The process in which mutants run: python -m tests.support.hard_worker KIND FIRST END.

It prints a line before and after each.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import mien
from mien.data.synthetic import draw
from mien.errors import MienError
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import Reader
from mien.inference.weights_file import WEIGHTS, read_weights
from tests.support.fuzz import MEMORY, SECONDS, mutate

Try = Callable[[bytes], object]


def faces(n: int, side: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [cv2.resize(draw(rng)[0], (side, side), interpolation=cv2.INTER_AREA) for _ in range(n)]


def encoded(picture: np.ndarray, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(out, kind, **options)
    return out.getvalue()


def pictures() -> list[bytes]:
    """Valid small pictures: each format in the kinds that have a decoder path of their own."""
    a, b, c = faces(3)
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "software"
    more = {"save_all": True, "append_images": [Image.fromarray(b), Image.fromarray(c)]}
    deep = io.BytesIO()
    Image.fromarray(a[..., 0].astype(np.uint16) * 257).save(deep, "TIFF")
    lossy = [
        encoded(a, "JPEG", exif=exif),
        encoded(b, "JPEG", progressive=True),
        encoded(c, "JPEG", "CMYK"),
        encoded(a, "JPEG", "L"),
    ]
    png = [
        encoded(a, "PNG", exif=exif),
        encoded(b, "PNG", "RGBA"),
        encoded(c, "PNG", "P", transparency=3),
        encoded(a, "PNG", **more),
    ]
    webp = [encoded(a, "WEBP", exif=exif), encoded(b, "WEBP", lossless=True), encoded(c, "WEBP", **more)]
    tiff = [
        encoded(a, "TIFF", compression=k) for k in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    ]
    tiff += [encoded(b, "TIFF", "F"), encoded(b, "TIFF", "1", compression="group4"), deep.getvalue()]
    plain = [
        encoded(a, "GIF"),
        encoded(b, "GIF", **more),
        encoded(a, "BMP"),
        encoded(b, "BMP", "P"),
        encoded(c, "BMP", "1"),
    ]
    return lossy + png + webp + tiff + plain


def try_pictures() -> tuple[list[bytes], Try]:
    reader = mien.load(threads=1)
    return pictures(), lambda data: json.dumps(reader(data).to_dict(), allow_nan=False)


def small_network(tasks: dict[str, tuple[str, int]], view: dict[str, Any]) -> bytes:
    """A valid network of a few nodes: task -> (label set, channels); "faces" looks in three strides, others
    answer by one layer.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, weights, outputs = np.random.default_rng(3), [], [], []
    for name, (_, n) in tasks.items():
        w = rng.standard_normal((n, 3, 1, 1)).astype(np.float32)
        weights += [
            numpy_helper.from_array(w, f"{name}_w"),
            numpy_helper.from_array(np.array([0, n, -1]), f"{name}_s"),
        ]
        strides = (8, 16, 32) if name == "faces" else (32,)
        for s in strides:
            nodes.append(
                helper.make_node(
                    "AveragePool", ["images"], [f"{name}_p{s}"], kernel_shape=[s, s], strides=[s, s]
                )
            )
            nodes.append(helper.make_node("Conv", [f"{name}_p{s}", f"{name}_w"], [f"{name}_c{s}"]))
            nodes.append(helper.make_node("Reshape", [f"{name}_c{s}", f"{name}_s"], [f"{name}_r{s}"]))
        if name == "faces":
            nodes.append(
                helper.make_node("Concat", [f"{name}_r{s}" for s in strides], [f"{name}_all"], axis=2)
            )
            nodes.append(helper.make_node("Transpose", [f"{name}_all"], [name], perm=[0, 2, 1]))
        else:
            nodes.append(helper.make_node("ReduceMean", [f"{name}_r32"], [name], axes=[2], keepdims=0))
        outputs.append(
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["batch", "cells", 15] if name == "faces" else ["batch", n]
            )
        )
    side = "side" if "faces" in tasks else view["size"][0]
    into = helper.make_tensor_value_info(
        "images", TensorProto.FLOAT, ["batch", 3, side, "across" if side == "side" else side]
    )
    graph = helper.make_graph(nodes, "small", [into], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    header = {"format": "mien-1", "builder": "small", "arguments": {}, "view": view}
    header["tasks"] = [{"name": k, "labels": labels} for k, (labels, _) in tasks.items()]
    helper.set_model_props(model, {"mien": json.dumps(header)})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def small_pair() -> tuple[bytes, bytes]:
    """A detector and a face network, 2 to 6 KB each, that mien takes."""
    even = {"mean": [0.5] * 3, "std": [0.5] * 3}
    finder = small_network({"faces": ("photo5", 15)}, {"size": [64, 64], "template": "photo", **even})
    tasks = {
        "age": ("years101", 101),
        "expression": ("expression8", 8),
        "attributes": ("celeba40", 40),
        "identity": ("embedding128", 128),
    }
    return finder, small_network(tasks, {"size": [64, 64], "template": "head", **even})


def try_networks() -> tuple[list[bytes], Try]:
    """Mutated networks without a promise beside them, loaded and set to work: what a user's own damaged file
    would do.
    """
    folder = Path(tempfile.mkdtemp(dir=sys.argv[4]))
    finder, answerer = small_pair()
    (folder / "finder.onnx").write_bytes(finder)
    (folder / "answerer.onnx").write_bytes(answerer)
    photo = faces(1)[0]

    def attempt(data: bytes) -> object:
        finds = b"faces_w" in data
        (folder / "mutant.onnx").write_bytes(data)
        model, other = (
            OnnxModel(folder / "mutant.onnx", threads=1),
            OnnxModel(folder / f"{'answerer' if finds else 'finder'}.onnx", threads=1),
        )
        find, answer = (model, other) if finds else (other, model)
        return json.dumps(Reader(Detector(find), answer)(photo).to_dict(), allow_nan=False)

    return [finder, answerer], attempt


def with_header(model: bytes, header: bytes) -> bytes:
    """An ONNX file with these bytes as its header: by hand, since a library writes valid text only."""

    def field(number: int, data: bytes) -> bytes:
        size, out = len(data), bytearray([number << 3 | 2])
        while size > 127:
            out.append(size & 127 | 128)
            size >>= 7
        return bytes(out) + bytes([size]) + data

    return model + field(14, field(1, b"mien") + field(2, header))  # metadata_props: key, value


def try_headers() -> tuple[list[bytes], Try]:
    """Mutated JSON headers in ONNX files that are whole but for them, loaded and set to work."""
    import onnx

    folder = Path(tempfile.mkdtemp(dir=sys.argv[4]))
    finder, answerer = small_pair()
    (folder / "finder.onnx").write_bytes(finder)
    detector = Detector(OnnxModel(folder / "finder.onnx", threads=1))
    proto, photo = onnx.load_from_string(answerer), faces(1)[0]
    header = proto.metadata_props[0].value.encode()
    del proto.metadata_props[:]
    bare = proto.SerializeToString()

    def attempt(data: bytes) -> object:
        (folder / "mutant.onnx").write_bytes(with_header(bare, data))
        reader = Reader(detector, OnnxModel(folder / "mutant.onnx", threads=1))
        return json.dumps(reader(photo).to_dict(), allow_nan=False)

    return [header, json.dumps(json.loads(header), indent=1).encode()], attempt


def try_promises() -> tuple[list[bytes], Try]:
    """Mutated provenance files beside whole weights."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[4]))
    data = (WEIGHTS / "detector.onnx").read_bytes()
    (folder / "w.onnx").write_bytes(data)

    def attempt(promise: bytes) -> object:
        (folder / "w.json").write_bytes(promise)
        return read_weights(folder / "w.onnx")

    return [(WEIGHTS / f"{n}.json").read_bytes() for n in ("detector", "detector", "mien")], attempt


KINDS = {"pictures": try_pictures, "networks": try_networks, "headers": try_headers, "promises": try_promises}


def largest(name: str, side: int) -> bytes:
    """A valid picture of side x side black pixels: a small file that asks for much."""
    mode, kind, more = LARGEST[name]
    size = (2 * side, side // 2) if kind == "WEBP" else (side, side)  # WebP ends at 16,383 pixels
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **more)
    return out.getvalue()


LARGEST: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("RGB", "PNG", {}), "png with alpha": ("RGBA", "PNG", {}), "png of 16 bits": ("I;16", "PNG", {}),
    "png with a palette": ("P", "PNG", {"transparency": 0}), "tiff of floats": ("F", "TIFF",
    {"compression": "tiff_deflate"}),
    "jpeg": ("RGB", "JPEG", {}), "progressive jpeg": ("RGB", "JPEG", {"progressive": True}),
    "cmyk jpeg": ("CMYK", "JPEG", {}),
    "webp": ("RGB", "WEBP", {"method": 0}), "gif": ("P", "GIF", {}),
}  # fmt: skip


def weigh(name: str) -> None:
    """Print what the largest picture that is allowed takes: MiB of memory, seconds of processor time."""
    data, reader = largest(name, 7990), mien.load(threads=1)
    reader(faces(1)[0])
    rest, began = peak(reset=True), time.process_time()
    reader(data)
    print((peak() - rest) // 2**20, round(time.process_time() - began, 1))


def run(attempt: Try, data: bytes) -> str:
    try:
        attempt(data)
    except MienError as e:
        return type(e).__name__
    return "answer"


def peak(reset: bool = False) -> int:
    """The most resident memory since the last reset, bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return 1024 * int(line.split()[1])


def main() -> None:
    kind, first, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    logging.disable(logging.CRITICAL)
    originals, attempt = KINDS[kind]()
    for data in originals:  # a warm-up; and a mutant of what is refused anyway would test nothing
        got = run(attempt, data)
        if kind != "promises" and got != "answer":
            raise AssertionError(f"an original was refused: {got}")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    rest = peak(reset=True)
    for seed in range(first, end):
        print("seed", seed, flush=True)
        data = mutate(seed, originals)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # no handler: the process ends, even inside native code
        signal.alarm(120)
        began = time.process_time()
        try:
            got = run(attempt, data)
        except Exception as e:  # noqa: BLE001 - that is what we hunt
            where = " < ".join(
                f"{Path(f.filename).name}:{f.lineno}"
                for f in reversed(traceback.extract_tb(e.__traceback__)[-4:])
            )
            print("bad", repr(e)[:300].replace("\n", " "), where)
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        print("got", got, peak() - rest, round(time.process_time() - began, 3))


if __name__ == "__main__":
    main()

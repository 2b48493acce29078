"""The embedded network next to its variants, 8-bit and flip TTA: accuracy, bytes and time, into
docs/benchmark.md.

python -m bench.speed.variants [--threads 1] [--runs 60]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.roofline import markdown
from mien.data.augment import NONE
from mien.data.dataset import FaceSource
from mien.data.formats import pack
from mien.evaluation.scoring import PROTOCOLS, evaluate
from mien.export.quantization import quantize
from mien.inference.flip_tta import FlipTTA
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.types import Floats

PAGE, MARK = Path("docs/benchmark.md"), ("<!-- variants: begin -->", "<!-- variants: end -->")
OUT = Path("out/variants")
# protocol -> what its number is, and its digits
ROWS = {
    "mtfl": ("5 points, MTFL test, NME %", 2), "helen68": ("68 points, Helen val, NME %", 2),
    "celebamask": ("parsing, CelebAMask val, mean F1", 3), "celeba": ("attributes, CelebA val, %", 2),
    "utkface-age": ("age, UTKFace val, MAE years", 2), "utkface-gender": ("gender, UTKFace val, %", 2),
    "ferplus-val": ("expression, FER+ val, %", 2), "ferplus-test": ("expression, FER+ test, %", 2),
    "lfw": ("identity, LFW View 1, %", 2),
}  # fmt: skip
EACH = 40  # training pictures of each set, whose ranges the integers get


def calibration(model: OnnxModel) -> Floats:
    """Training faces of every set, as the network's input: (n, 3, H, W)."""
    sets = (pack.mtfl, pack.helen68, pack.celebamask, pack.celeba, pack.utkface, pack.ferplus)
    rng, crops = np.random.default_rng(0), []
    for make in sets:
        source = FaceSource(make("train"), model.view, NONE)
        crops += [source.example(int(i), rng).pixels for i in rng.permutation(len(source))[:EACH]]
    return model.view.tensor(np.stack(crops))


def times(models: dict[str, Any], images: Floats, runs: int) -> dict[str, float]:
    """Median milliseconds of a forward pass; the models take turns."""
    took: dict[str, list[float]] = {name: [] for name in models}
    for i in range(runs + 3):
        for name, model in models.items():
            start = time.perf_counter()
            model(images)
            if i >= 3:
                took[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(v)) for name, v in took.items()}


def section(threads: int, runs: int) -> str:
    """The table and its conditions."""
    OUT.mkdir(parents=True, exist_ok=True)
    float32 = OnnxModel(WEIGHTS / "mien.onnx", threads=threads)
    images = calibration(float32)
    made = {"int8": (), "int8, identity float": ("identity",)}
    files = {"float32": float32.path}
    for i, (name, keep) in enumerate(made.items()):
        files[name] = OUT / f"int8_{i}.onnx"
        quantize(float32.path, files[name], images, keep=keep)
    models: dict[str, Any] = {name: OnnxModel(f, threads=threads) for name, f in files.items()}
    models["float32, flip TTA"] = FlipTTA(float32)
    scores = {name: {p: evaluate(m, PROTOCOLS[p]) for p in ROWS} for name, m in models.items()}
    body = [
        [title, *(f"{scores[m][p].headline:.{digits}f}" for m in models)]
        for p, (title, digits) in ROWS.items()
    ]
    body += [["bytes, MB", *(f"{os.path.getsize(files.get(m, float32.path)) / 1e6:.1f}" for m in models)]]
    for n in (1, 5):
        took = times(models, images[:n], runs)
        body += [[f"{n} face{'s' * (n > 1)}, ms", *(f"{took[m]:.1f}" for m in models)]]
    load = " ".join(f"{v:.2f}" for v in os.getloadavg())
    note = f"Median of {runs} forward passes, {threads} thread(s), load {load} on {os.cpu_count()} cores."
    note += (
        f" Calibrated on {len(images)} training faces, {EACH} per set. All pictures of each set; weights"
        f" {float32.sha256[:12]}."
    )
    return markdown(["", *models], body) + "\n\n" + note


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK[0])
    after = rest.partition(MARK[1])[2]
    PAGE.write_text(
        f"{before}{MARK[0]}\n{section(args.threads, args.runs)}\n{MARK[1]}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

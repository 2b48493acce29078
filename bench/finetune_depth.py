"""How far the old tasks move when more than the head learns: --depth decoder and --depth all.

Run from the checkout, with MIEN_DATA and MIEN_DATA_MORE set; it writes bench/results/finetune_depth.json:

    python -m bench.finetune_depth [DEPTH ...]
    python -m bench.finetune_depth stopped DEPTH   # the best round of a run that was stopped

The user's pictures are the first of FairFace's validation part by their order there, with a task that has no
head yet: whether somebody is over 39, by the age class. Old tasks are measured on the validation sets of the
data pack, whose pictures the training never sees.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.torch import load_file

from mien import settings
from mien.evaluation.protocols import PROTOCOLS
from mien.evaluation.scoring import evaluate
from mien.export import onnx_import
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import WEIGHTS
from mien.models.torch_model import TorchModel, as_module
from mien.training.finetune import dense, finetune
from mien.types import InferenceModel

RESULTS = Path("bench/results/finetune_depth.json")
PICTURES = 150
STEPS = 100  # of 16 pictures
CHECKED = {"helen68": 60, "celeba": 120, "ferplus-val": 120, "utkface-age": 120}  # protocol -> pictures
DEPTHS = ("decoder", "all")


def _folder(root: Path) -> Path:
    """The user's pictures in class folders."""
    path = settings.data_more_root() / "fairface" / "val.parquet"
    table = pq.read_table(path, columns=["age_bin", "image"]).slice(0, PICTURES).to_pylist()
    for i, row in enumerate(table):
        older = row["age_bin"] in ("40-49", "50-59", "60-69", "70+")
        folder = root / ("older" if older else "younger")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04d}.jpg").write_bytes(row["image"])
    return root


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def scores(model: InferenceModel) -> dict[str, float]:
    """Headline number of each protocol."""
    return {n: float(evaluate(model, PROTOCOLS[n], limit=k).headline) for n, k in CHECKED.items()}


def main(depths: tuple[str, ...]) -> None:
    """Fine-tune at each depth and measure the old tasks before and after."""
    dense.STEPS = (STEPS, STEPS)
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    root = Path(tempfile.gettempdir()) / "mien-finetune-depth"
    pictures = _folder(root / "pictures")
    before = scores(OnnxModel(WEIGHTS / "mien.onnx", threads=1))
    print("before", before, flush=True)
    for depth in depths:
        start = time.perf_counter()
        made = finetune(pictures, "over39", root / f"{depth}.onnx", depth=depth, threads=1, log=say)
        after = scores(OnnxModel(made.path, threads=1))
        train = made.record["pictures"]["train"]
        found[depth] = {
            "weights": OnnxModel(WEIGHTS / "mien.onnx").sha256,
            "pictures": made.record["pictures"],
            "steps": dense.steps_for(train),
            "batch": dense.BATCH,
            "new_task": made.record["test"],
            "checked": CHECKED,
            "before": {k: round(v, 3) for k, v in before.items()},
            "after": {k: round(v, 3) for k, v in after.items()},
            "seconds": round(time.perf_counter() - start),
        }
        print(depth, {k: round(after[k] - before[k], 3) for k in before}, flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def stopped(depth: str) -> None:
    """Measure the old tasks on the best round so far of a run that was stopped."""
    root = Path(tempfile.gettempdir()) / "mien-finetune-depth"
    [run] = (root / f"{depth}-report" / "stages").glob("run-*/best.safetensors")
    rounds = json.loads((run.parent / "rounds.json").read_text("utf-8"))
    body = onnx_import.load(WEIGHTS / "mien.onnx")
    before = scores(TorchModel(body))
    state = {k.removeprefix("body."): v for k, v in load_file(run).items() if k.startswith("body.")}
    as_module(body).load_state_dict(state)
    after = scores(TorchModel(body.eval()))
    best = min(rounds, key=lambda r: r["loss"])
    found = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    found[depth] = {
        "weights": OnnxModel(WEIGHTS / "mien.onnx").sha256,
        "pictures": PICTURES,
        "steps": best["step"],
        "of_steps": STEPS,
        "batch": dense.BATCH,
        "validation": rounds,
        "checked": CHECKED,
        "before": {k: round(v, 3) for k, v in before.items()},
        "after": {k: round(v, 3) for k, v in after.items()},
    }
    print(depth, best["step"], {k: round(after[k] - before[k], 3) for k in before}, flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["stopped"]:
        stopped(sys.argv[2])
    else:
        main(tuple(sys.argv[1:]) or DEPTHS)

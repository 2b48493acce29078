"""How many pictures a new task needs: nine age classes of FairFace on the frozen network, head only.

Run from the checkout, with MIEN_DATA_MORE set:

    python -m bench.finetune features   # once: faces are found, aligned and read; minutes to an hour
    python -m bench.finetune table      # trains the heads, writes bench/results/finetune.json

The network must not have been trained on FairFace; its own age task was trained on other sets, so that its
features know about ages. Training pictures are drawn from FairFace's training part, a fifth of them chooses
the regularization. All heads are measured on the same pictures: 1,000 of the official training part that are
set aside, as far as the detector finds their faces.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from mien import geometry, settings
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import WEIGHTS
from mien.tasks.choice import ChoiceTask
from mien.training.finetune.faces import flat
from mien.training.finetune.graph import Graph
from mien.training.finetune.heads import Trainer, score_of
from mien.training.finetune.run import calibrated
from mien.training.finetune.table import natural

RESULTS = Path("bench/results/finetune.json")
PER_CLASS = 400  # pictures whose features are computed
COUNTS = (5, 20, 100, 350)  # pictures per class that heads are trained with
SEEDS = (0, 1, 2)


def features(split: str, limit: int, seed: int) -> None:
    """Features of up to `limit` pictures per class, as they are and mirrored, into the cache folder."""
    graph = Graph(WEIGHTS / "mien.onnx")
    found = graph.features()
    inputs = [(v, "vector") for v in found.vectors] + [(m, "mean") for m in found.maps[:2]]
    network = graph.reading([t for t, _ in inputs], 1)
    view = OnnxModel(WEIGHTS / "mien.onnx", threads=1, tasks=["age"]).view
    detect = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=1))
    path = settings.data_more_root() / "fairface" / f"{split}.parquet"
    table = pq.read_table(path, columns=["age_bin", "image"])
    bins, rng = np.array(table["age_bin"].to_pylist()), np.random.default_rng(seed)
    chosen = [i for b in sorted(set(bins)) for i in rng.permutation(np.flatnonzero(bins == b))[:limit]]
    rows, labels = list[np.ndarray](), list[str]()
    for i in chosen:
        data = np.frombuffer(table["image"][int(i)].as_py(), np.uint8)
        pixels = np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)
        if not (faces := detect(pixels)):
            continue
        crop = geometry.align(pixels, faces[0].points, view).pixels
        tensors = network(view.tensor(np.stack([crop, crop[:, ::-1]])))
        rows.append(np.concatenate([flat(t, h) for t, (_, h) in zip(tensors, inputs, strict=True)], 1))
        labels.append(str(bins[i]))
    np.savez(_file(split), x=np.stack(rows).astype(np.float16), y=np.array(labels))
    print(f"{split}: {len(rows)} of {len(chosen)} faces found")


def _file(split: str) -> Path:
    return settings.cache_root() / f"bench-finetune-{split}.npz"


def table() -> None:
    """Heads for each number of pictures and seed; writes `RESULTS`."""
    train, test = (np.load(_file(s)) for s in ("train", "val"))
    names = tuple(natural(set(train["y"].tolist())))
    task = ChoiceTask("age_class", "fairface9", names)
    x = np.concatenate([train["x"], test["x"]])
    y = [names.index(v) for v in (*train["y"].tolist(), *test["y"].tolist())]
    first = len(train["y"])
    known, held = np.array(y[:first]), np.arange(first, len(y))
    results = list[dict[str, float]]()
    for count in COUNTS:
        for seed in SEEDS:
            rng = np.random.default_rng([seed, count])
            some = np.concatenate([rng.permutation(np.flatnonzero(known == k))[:count] for k in range(9)])
            aside = max(1, count // 5)
            val = np.concatenate([some[known[some] == k][:aside] for k in range(9)])
            fit = np.setdiff1d(some, val)
            start = time.perf_counter()
            head = Trainer(task, x, y, seed=seed).best(fit, val)
            seconds = time.perf_counter() - start
            raw = head(x[val, 0])
            read = calibrated(task, raw, [y[i] for i in val])
            score = score_of(read, head(x[held, 0]), [y[i] for i in held])
            line = {
                "per_class": count,
                "seed": seed,
                "accuracy": round(score["accuracy"], 2),
                "mean_class_accuracy": round(score["mean_class_accuracy"], 2),
                "hidden": head.hidden,
                "l2": head.l2,
                "seconds": round(seconds, 1),
            }
            results.append(line)
            print(line, flush=True)
    about = {
        "command": "python -m bench.finetune features && python -m bench.finetune table",
        "weights": Graph(WEIGHTS / "mien.onnx").sha256,
        "test": f"FairFace, {len(held)} of the 1,000 pictures set aside of the training part, own detector",
        "largest_class": round(100 * float(np.bincount(np.array(y)[held]).max() / len(held)), 2),
        "results": results,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["features"]:
        features("train", PER_CLASS, 0)
        features("val", 1000, 0)
    elif sys.argv[1:] == ["table"]:
        table()
    else:
        sys.exit("python -m bench.finetune features|table")

"""How many pictures a new task needs: heads on frozen features against ImageNet features and full training.

One command from the checkout, with MIEN_DATA and MIEN_DATA_MORE set:

    python -m bench.finetune

It writes bench/results/finetune.json, docs/finetune-curve.svg and the table of docs/finetune.md. Everything
that does not depend on the weights in the package (faces, ImageNet features, full training, and the network
that never saw FairFace) stays in the cache folder, so that a run with new weights takes minutes.

Three tasks that the frozen network had no labels of:

- ages: nine age classes of FairFace. The weights in the package were trained on FairFace, so this task has
  the older network of commit `BEFORE_FAIRFACE`. Tested on up to 60 per class of the 1,000 pictures
  that the data pack sets aside.
- turned: the head is turned left, to the front or right, by the labels of MTFL's training part.
- mask: with or without a mask, on the faces of `face_boxes` of 24 pixels and more that the detector finds.

Training pictures are drawn for each seed; a fifth of them chooses the regularization.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from mien.types import View

RESULTS, CURVE, PAGE = (
    Path("bench/results/finetune.json"),
    Path("docs/finetune-curve.svg"),
    Path("docs/finetune.md"),
)
BEFORE_FAIRFACE = "784fd70"
COUNTS = (5, 20, 100, 500)  # pictures per class that train
SEEDS = {5: (0, 1, 2), 20: (0, 1, 2), 100: (0,), 500: (0,)}  # of heads; full training has the first only
FULL_STEPS = {5: 30, 20: 50, 100: 80, 500: 110}  # of 24 pictures
SMALLEST = 24  # pixels of the shorter side of a face
SYSTEMS = {
    "frozen": "head on mien's frozen features",
    "imagenet": "the same head on ImageNet features",
    "full": "everything trained, from ImageNet",
}
BEGIN, END = "<!-- few: made by python -m bench.finetune -->\n", "<!-- few: end -->\n"


@dataclass(frozen=True)
class Bench:
    """A task with its aligned faces.

    Attributes:
        task: classes.
        crops: (n, 128, 128, 3) uint8.
        y: (n,) class of each.
        test: (n,) whether it is measured on.
        about: the test pictures, for people.
    """

    task: ChoiceTask
    crops: np.ndarray
    y: np.ndarray
    test: np.ndarray
    about: str


# --- Faces


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(
        cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB), np.uint8
    )


Found = tuple[np.ndarray, np.ndarray, str, bool]  # picture, five points, class, whether it is a test picture


def _ages(detect: Detector) -> Iterator[Found]:
    root = settings.data_more_root() / "fairface"
    for split, limit in (("train", max(COUNTS)), ("val", 60)):
        table = pq.read_table(root / f"{split}.parquet", columns=["age_bin", "image"])
        yield from _by_class(table, table["age_bin"].to_pylist(), limit, detect, test=split == "val")


def _turned(detect: Detector) -> Iterator[Found]:
    table = pq.read_table(settings.data_root() / "mtfl" / "train.parquet", columns=["pose", "image"])
    words = ["left", "left", "front", "right", "right"]
    labels = [words[p] for p in table["pose"].to_pylist()]
    seen = Counter[str]()
    for picture, points, label, _ in _by_class(table, labels, max(COUNTS) + 160, detect, test=False):
        seen[label] += 1
        yield picture, points, label, seen[label] <= 150


def _by_class(table: Any, labels: list[str], limit: int, detect: Detector, *, test: bool) -> Iterator[Found]:
    rng, names = np.random.default_rng(0), np.array(labels)
    for name in sorted(set(labels)):
        for i in rng.permutation(np.flatnonzero(names == name))[:limit]:
            picture = _decoded(table["image"][int(i)].as_py())
            if faces := detect(picture):
                yield picture, faces[0].points, name, test


def _masked(detect: Detector) -> Iterator[Found]:
    """Faces by their boxes; every third photo is for the test."""
    words = {"with_mask": "with", "without_mask": "without"}
    rows = pq.read_table(settings.data_more_root() / "face_boxes" / "train.parquet").to_pylist()
    order = np.random.default_rng(0).permutation(len(rows))
    for place, i in enumerate(order):
        picture = _decoded(rows[i]["image"])
        found = detect(picture)
        for face in rows[i]["faces"]:
            box = np.asarray(face["box"], np.float32)
            if face["label"] not in words or min(box[2:] - box[:2]) < SMALLEST or not found:
                continue
            best = max(found, key=lambda d: geometry.iou(d.box[None], box[None])[0, 0])
            if geometry.iou(best.box[None], box[None])[0, 0] > 0.4:
                yield picture, best.points, words[face["label"]], place % 3 == 0


TASKS: dict[str, tuple[Callable[[Detector], Iterator[Found]], tuple[str, ...], tuple[int, ...], str]] = {
    "ages": (
        _ages,
        ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+"),
        (),
        "FairFace, up to 60 per class of the pictures set aside of its training part",
    ),
    "turned": (_turned, ("left", "front", "right"), (2, 1, 0), "MTFL, 150 per class of its training part"),
    "mask": (_masked, ("with", "without"), (), "face_boxes, every third photo"),
}


def _bench(name: str) -> Bench:
    """The faces of a task, found once."""
    find, names, mirror, about = TASKS[name]
    path = _cache() / f"{name}-crops.npz"
    if not path.is_file():
        detect = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=1))
        view = OnnxModel(WEIGHTS / "mien.onnx", threads=1, tasks=["age"]).view
        crops, y, test = list[np.ndarray](), list[int](), list[bool]()
        for picture, points, label, held in find(detect):
            crops.append(geometry.align(picture, points, view).pixels)
            y.append(names.index(label))
            test.append(held)
        np.savez(path, crops=np.stack(crops), y=np.array(y), test=np.array(test))
    with np.load(path) as kept:
        crops, y, test = kept["crops"], kept["y"], kept["test"]
    task = ChoiceTask(name, name, names, mirror=mirror)
    return Bench(task, crops, y, test, f"{about}: {int(test.sum())} faces found")


def _cache() -> Path:
    folder = settings.cache_root() / "bench-finetune"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- Features


def _frozen_weights(name: str) -> Path:
    """The network that a task's frozen features come from."""
    if name != "ages":
        return WEIGHTS / "mien.onnx"
    path = _cache() / f"mien-{BEFORE_FAIRFACE}.onnx"
    if not path.is_file():
        shown = subprocess.run(
            ["git", "show", f"{BEFORE_FAIRFACE}:mien/weights/mien.onnx"], capture_output=True, check=True
        )
        path.write_bytes(shown.stdout)
    return path


def _frozen(weights: Path) -> tuple[Callable[[np.ndarray], np.ndarray], View]:
    graph = Graph(weights)
    found = graph.features()
    inputs = [(v, "vector") for v in found.vectors] + [(m, "mean") for m in found.maps[:2]]
    network = graph.reading([t for t, _ in inputs], 1)

    def run(images: np.ndarray) -> np.ndarray:
        return np.concatenate([flat(t, h) for t, (_, h) in zip(network(images), inputs, strict=True)], 1)

    return run, OnnxModel(weights, threads=1, tasks=["age"]).view


def _imagenet() -> tuple[Callable[[np.ndarray], np.ndarray], View]:
    import torch

    from mien.models.backbones.efficientnet_lite import efficientnet_lite

    encoder, view = efficientnet_lite(128, imagenet=True)
    encoder.eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            maps = encoder(torch.from_numpy(images))
        return np.concatenate([m.mean((2, 3)).numpy() for m in reversed(maps[-2:])], 1)

    return run, view


def _features(bench: Bench, run: Callable[[np.ndarray], np.ndarray], view: View) -> np.ndarray:
    """(n, 2, d) float16: of each face and of its mirror image."""
    out = list[np.ndarray]()
    for i in range(0, len(bench.crops), 16):
        some = bench.crops[i : i + 16]
        both = [run(view.tensor(np.ascontiguousarray(c))) for c in (some, some[:, :, ::-1])]
        out.append(np.stack(both, 1).astype(np.float16))
    return np.concatenate(out)


# --- Training


def _drawn(bench: Bench, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, val): up to `count` pictures per class, a fifth of them for validation."""
    rng, train, val = np.random.default_rng([seed, count]), list[np.ndarray](), list[np.ndarray]()
    for k in range(len(bench.task.names)):
        some = rng.permutation(np.flatnonzero((bench.y == k) & ~bench.test))[:count]
        aside = max(1, len(some) // 5)
        val.append(some[:aside])
        train.append(some[aside:])
    return np.concatenate(train), np.concatenate(val)


def _head(bench: Bench, x: np.ndarray, count: int, seed: int) -> dict[str, float]:
    train, val = _drawn(bench, count, seed)
    labels = bench.y.tolist()
    head = Trainer(bench.task, x, labels, seed=seed).best(train, val)
    held = np.flatnonzero(bench.test)
    return score_of(bench.task, head(x[held, 0]), [labels[i] for i in held])


def _full(bench: Bench, count: int, seed: int) -> dict[str, float]:
    """All weights of an ImageNet encoder; the validation pictures train too, since nothing is chosen."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from mien.data.augment import Augment, photometric
    from mien.models.backbones.efficientnet_lite import efficientnet_lite

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    train = np.concatenate(_drawn(bench, count, seed))
    encoder, view = efficientnet_lite(128, imagenet=True)
    last = nn.Linear(encoder.channels[-1], len(bench.task.names))
    groups = [{"params": encoder.parameters(), "lr": 5e-4}, {"params": last.parameters(), "lr": 2e-3}]
    optimizer, steps = torch.optim.AdamW(groups, weight_decay=0.02), FULL_STEPS[count]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [5e-4, 2e-3], steps)
    rng, augment = np.random.default_rng([seed, count]), Augment()
    encoder.train()
    for _ in range(steps):
        which, images, y = rng.choice(train, 24), list[np.ndarray](), list[int]()
        for i in which:
            flip = bool(rng.random() < 0.5)
            move = geometry.about(
                (63.5, 63.5), degrees=float(rng.uniform(-12, 12)), scale=float(rng.uniform(0.92, 1.08)),
                shift=rng.uniform(-6, 6, 2), mirror=flip,
            )  # fmt: skip
            images.append(photometric(geometry.warp(bench.crops[i], move, (128, 128)), augment, rng))
            y.append(bench.task.mirror[bench.y[i]] if flip and bench.task.mirror else int(bench.y[i]))
        raw = last(encoder(torch.from_numpy(view.tensor(np.stack(images))))[-1].mean((2, 3)))
        optimizer.zero_grad()
        F.cross_entropy(raw, torch.tensor(y)).backward()
        optimizer.step()
        schedule.step()
    encoder.eval()
    held = np.flatnonzero(bench.test)
    with torch.inference_mode():
        parts = [
            last(encoder(torch.from_numpy(view.tensor(bench.crops[held[i : i + 16]])))[-1].mean((2, 3)))
            for i in range(0, len(held), 16)
        ]
    return score_of(bench.task, torch.cat(parts).numpy(), bench.y[held].tolist())


# --- Results


def main() -> None:
    """All numbers, from the cache where they are known."""
    start, store = time.perf_counter(), _cache() / "results.json"
    known: dict[str, dict[str, float]] = json.loads(store.read_text("utf-8")) if store.is_file() else {}
    lines, tests = list[dict[str, Any]](), dict[str, Any]()
    for system in SYSTEMS:
        for name in TASKS:
            bench = _bench(name)
            held = Counter(bench.y[bench.test].tolist())
            tests[name] = {
                "pictures": bench.about,
                "largest_class": round(100 * max(held.values()) / sum(held.values()), 1),
            }
            of = (
                hashlib.sha256(_frozen_weights(name).read_bytes()).hexdigest()[:12]
                if system == "frozen"
                else ""
            )
            x: np.ndarray | None = None
            for count in COUNTS:
                smallest = min(Counter(bench.y[~bench.test].tolist()).values())
                if count > COUNTS[0] and smallest <= COUNTS[COUNTS.index(count) - 1]:
                    continue  # no class would have more pictures than in the row before
                for seed in SEEDS[count] if system != "full" else SEEDS[count][:1]:
                    key = f"{system} {of} {name} {count} {seed}"
                    if key not in known:
                        if system != "full" and x is None:
                            run, view = (
                                _imagenet() if system == "imagenet" else _frozen(_frozen_weights(name))
                            )
                            x = _features(bench, run, view)
                        score = _full(bench, count, seed) if x is None else _head(bench, x, count, seed)
                        known[key] = {k: round(score[k], 2) for k in ("accuracy", "mean_class_accuracy")}
                        store.write_text(json.dumps(known, indent=1), "utf-8")
                    train, val = _drawn(bench, count, seed)
                    used = round((len(train) + len(val)) / len(bench.task.names))
                    line = {
                        "system": system,
                        "task": name,
                        "per_class": count,
                        "used": used,
                        "seed": seed,
                        **known[key],
                    }
                    lines.append(line)
                    print(f"{time.perf_counter() - start:5.0f} s", line, flush=True)
    about = {
        "command": "python -m bench.finetune",
        "weights": {n: hashlib.sha256(_frozen_weights(n).read_bytes()).hexdigest() for n in TASKS},
        "tests": tests,
        "full_training": f"128 pixels, {FULL_STEPS[5]} to {FULL_STEPS[500]} steps of 24 pictures, one seed",
        "results": lines,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write(about)


def means(about: dict[str, Any]) -> dict[tuple[str, str], dict[int, float]]:
    """(task, system) -> pictures per class -> mean class accuracy over the seeds."""
    out: dict[tuple[str, str], dict[int, list[float]]] = {}
    for line in about["results"]:
        out.setdefault((line["task"], line["system"]), {}).setdefault(line["per_class"], []).append(
            line["mean_class_accuracy"]
        )
    return {k: {n: float(np.mean(v)) for n, v in by.items()} for k, by in out.items()}


def write(about: dict[str, Any]) -> None:
    """The table of the page and the curve."""
    scores = means(about)
    lines = [
        *WORDS,
        "| task | features | " + " | ".join(map(str, COUNTS)) + " |",
        "|---|---|" + "---|" * len(COUNTS),
    ]
    for name in TASKS:
        for system in SYSTEMS:
            row = scores[name, system]
            cells = [f"{row[n]:.1f}" if n in row else "" for n in COUNTS]
            lines.append(f"| {name} | {system} | " + " | ".join(cells) + " |")
    lines += ["", f"![accuracy over pictures per class]({CURVE.name})"]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    CURVE.write_text(_curve(scores), encoding="utf-8")


# of the page, above the table
WORDS = (
    "## How many pictures",
    "",
    "Mean accuracy over the classes, percent, by training pictures per class: a head on mien's features, the",
    "same on ImageNet's, and full training from ImageNet (128 pixels, at most 110 steps, one seed).",
    "`ages`: FairFace, with an older network that never saw it. `turned`: left, front, right (MTFL). `mask`:",
    "worn or not. `python -m bench.finetune` repeats it.",
    "",
)
COLORS = {"frozen": "#2868c8", "imagenet": "#d08020", "full": "#6a7a5a"}


def _curve(scores: dict[tuple[str, str], dict[int, float]]) -> str:
    """A panel for each task: mean class accuracy over pictures per class, on a logarithmic axis."""
    size, pad = 200, 46
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(TASKS) * (size + pad) + 20}"'
        f' height="{size + 110}" font-family="sans-serif" font-size="12">'
    ]
    low, high = np.log(COUNTS[0]), np.log(COUNTS[-1])
    for p, name in enumerate(TASKS):
        left, top = pad + p * (size + pad), 28
        out.append(f'<text x="{left}" y="18" font-weight="bold">{name}</text>')
        for v in range(0, 101, 25):
            y = top + size * (1 - v / 100)
            out.append(f'<path d="M{left} {y:.0f}h{size}" stroke="#ddd"/>')
            out.append(f'<text x="{left - 30}" y="{y + 4:.0f}">{v}</text>')
        for n in COUNTS:
            x = left + size * (np.log(n) - low) / (high - low)
            out.append(f'<text x="{x:.0f}" y="{top + size + 16}" text-anchor="middle">{n}</text>')
        for system, color in COLORS.items():
            places = [
                (left + size * (np.log(n) - low) / (high - low), top + size * (1 - v / 100))
                for n, v in scores[name, system].items()
            ]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    for i, (system, words) in enumerate(SYSTEMS.items()):
        x = pad + i * 240
        out.append(f'<path d="M{x} {size + 76}h24" stroke="{COLORS[system]}" stroke-width="2"/>')
        out.append(f'<text x="{x + 30}" y="{size + 80}">{words}</text>')
    caption = "mean accuracy over the classes, percent; across: training pictures per class"
    out.append(f'<text x="{pad}" y="{size + 102}" fill="#666">{caption}</text></svg>')
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()

r"""Heads of eyes, gaze, occlusion and quality on a frozen network, from the labels of `face_state_labels`.

    python -m recipes.face_state --weights src/mien/weights/mien.onnx --out src/mien/weights/mien.onnx

One command for a new network: features of all labeled crops (about 15 ms per crop and core), a few minutes of
training, and the file with its heads. The old outputs stay bit for bit as they are. `--tasks eyes,occlusion`
trains some of them; a label file that is missing leaves out what it is for.

A label of an eye counts where the teacher and the distance of the lids agree. Sunglasses of real faces are
faces with glasses around which it is dark; others are drawn. Names that are set aside
(`mien.data.set_aside`) are used to measure only: what is printed at the end is measured on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from mien import settings
from mien.errors import MissingData
from mien.export.state_heads import add_state_heads
from mien.inference import onnx_prune
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.models.mien import EYE_REGION, FACE_REGION, StateHead
from mien.tasks import EYES, GAZE, OCCLUSION, QUALITY, Task
from mien.training.finetune.graph import Graph
from mien.types import Crop

TASKS: dict[str, Task[Any]] = {t.name: t for t in (EYES, GAZE, OCCLUSION, QUALITY)}
REGIONS = {"eyes": EYE_REGION, "gaze": EYE_REGION, "occlusion": FACE_REGION, "quality": FACE_REGION}
OPEN, CLOSED = 0.75, 0.25  # the teacher's probability of "open"
LID_OPEN, LID_CLOSED = 0.24, 0.27  # least and largest distance of the lids by the eye's width
TURNED = 40.0  # degrees of yaw from which on eyes have no label
GAZE_GAP = 12.0  # degrees between the teacher's answers for a face and for its mirror image
DARK, LIGHT = 0.4, 0.55  # brightness around the eyes by that of the cheeks
STEPS, BATCH, RATE = 1500, 128, 2e-3
TEACHERS = {
    "open-closed-eye-0001": "eyes were taught by this network (Open Model Zoo): Apache-2.0",
    "gaze-estimation-adas-0002": (
        "gaze was taught by this network with head-pose-estimation-adas-0001 (Open Model Zoo): Apache-2.0"
    ),
}
NO_CROP = Crop(np.zeros((128, 128, 3), np.uint8), np.eye(2, 3))
app = typer.Typer(add_completion=False)


@dataclass
class Faces:
    """Labeled crops.

    Attributes:
        crops: (n, 128, 128, 3) uint8 RGB.
        labels: one mapping per crop: task -> label, as the task takes it.
        aside: (n,) whether it only measures.
        group: (n,) crops of one face have one number.
        facts: more about each crop.
    """

    crops: np.ndarray
    labels: list[dict[str, Any]]
    aside: np.ndarray
    group: np.ndarray
    facts: list[dict[str, Any]]


def read(name: str) -> Mapping[str, np.ndarray] | None:
    """A file of `face_state_labels`; None where there is none."""
    path = settings.cache_root() / "face_state" / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


def eye_label(open_by_teacher: float, lid: float, yaw: float, shaded: bool) -> float | None:
    """1 open, 0 closed; None where the sources disagree, or the eye cannot be seen."""
    if shaded or abs(yaw) > TURNED:
        return None
    if open_by_teacher >= OPEN and lid >= LID_OPEN:
        return 1.0
    return 0.0 if open_by_teacher <= CLOSED and lid <= LID_CLOSED else None


def of_faces(f: Mapping[str, np.ndarray]) -> Faces:
    """Real faces: eyes, gaze, glasses, pose."""
    labels, facts = list[dict[str, Any]](), list[dict[str, Any]]()
    for i in range(len(f["crop"])):
        glasses, dark, yaw, pitch = (float(f[k][i]) for k in ("glasses", "dark", "yaw", "pitch"))
        shaded = glasses > 0.5 and dark < LIGHT
        left, right = (  # picture order; the subject's own right eye is on the left
            eye_label(float(f["eyes"][i, k]), float(f["lids"][i, k]), yaw, shaded) for k in (0, 1)
        )
        found: dict[str, Any] = {"eyes": {"right": left, "left": right}}
        visible = not shaded and abs(yaw) <= TURNED and min(f["eyes"][i]) > 0.3
        if visible and float(f["gaze_gap"][i]) <= GAZE_GAP:
            found["gaze"] = tuple(float(v) for v in f["gaze"][i])
        sun = 1.0 if glasses > 0.8 and dark < DARK else 0.0 if glasses < 0.2 or dark > LIGHT + 0.1 else None
        shares = dict.fromkeys(("left_eye", "right_eye"), 0.0 if sun == 0 else sun)
        found["occlusion"] = {"mask": 0.0, "sunglasses": sun, **shares, "nose": 0.0, "mouth": 0.0}
        found["quality"] = {"pose": max(0.0, 1 - float(np.hypot(yaw, pitch)) / 70)}
        labels.append(found)
        facts.append({"from": "faces", "set": str(f["set"][i]), "sun": sun})
    aside = np.array([s.endswith("aside") for s in f["set"].tolist()])
    return Faces(f["crop"], labels, aside, np.arange(len(labels)), facts)


_UNKNOWN: dict[str, Any] = {
    "eyes": {"left": None, "right": None},
    "occlusion": {"sunglasses": 0.0, "left_eye": 0.0, "right_eye": 0.0},
}


def of_occluded(f: Mapping[str, np.ndarray], real: Faces | None) -> Faces:
    """Drawn occluders on real faces; eyes and gaze keep their labels where they are seen."""
    labels, facts = list[dict[str, Any]](), list[dict[str, Any]]()
    for i, kind in enumerate(f["kind"].tolist()):
        number = int(f["source"][i])
        source = real.labels[number] if real is not None and number >= 0 else _UNKNOWN
        left, right, nose, mouth = (float(v) for v in f["shares"][i])
        old = source["occlusion"]
        shares = {
            "right_eye": max(left, old["right_eye"] or 0.0),
            "left_eye": max(right, old["left_eye"] or 0.0),
        }
        sun = 1.0 if kind == "sunglasses" else old["sunglasses"]
        found: dict[str, Any] = {
            "occlusion": {
                "mask": float(kind == "mask"), "sunglasses": sun, **shares, "nose": nose, "mouth": mouth,
            },
            "eyes": {
                "right": source["eyes"]["right"] if left < 0.1 else None,
                "left": source["eyes"]["left"] if right < 0.1 else None,
            },
        }  # fmt: skip
        if max(left, right) < 0.1 and "gaze" in source:
            found["gaze"] = source["gaze"]
        labels.append(found)
        facts.append({"from": "occluded", "kind": kind})
    group = np.where(f["source"] >= 0, f["source"], 2_000_000 + np.arange(len(labels)))
    return Faces(f["crop"], labels, f["aside"].astype(bool), group.astype(int), facts)


def of_photos(f: Mapping[str, np.ndarray]) -> Faces:
    """Faces of photographs with and without masks."""
    labels = [{"occlusion": {"mask": float(v != "without_mask")}} for v in f["label"].tolist()]
    facts = [
        {"from": "photos", "width": float(w), "found": bool(s)}
        for w, s in zip(f["width"], f["found"], strict=True)
    ]
    _, group = np.unique(f["name"], return_inverse=True)
    return Faces(f["crop"], labels, f["aside"].astype(bool), group + 1_000_000, facts)


def of_degraded(f: Mapping[str, np.ndarray]) -> Faces:
    """Faces that were made worse, with the similarity to their plain selves."""
    labels = [
        {
            "quality": {
                "score": float(np.clip(c, 0, 1)), "sharpness": float(s), "light": float(light),
                "occlusion": 1 - float(o),
            }
        }
        for c, s, light, o in zip(f["cosine"], f["sharpness"], f["light"], f["occlusion"], strict=True)
    ]  # fmt: skip
    facts = [{"from": "degraded"}] * len(labels)
    return Faces(f["crop"], labels, f["aside"].astype(bool), f["source"].astype(int), facts)


def gathered() -> Faces:
    """All label files that there are.

    Raises:
        MissingData: there is none.
    """
    parts = list[Faces]()
    if (f := read("faces")) is not None:
        parts.append(of_faces(f))
    if (f := read("occluded")) is not None:
        parts.append(of_occluded(f, parts[0] if parts else None))
    if (f := read("degraded")) is not None:
        parts.append(of_degraded(f))
    if (f := read("photos")) is not None:
        parts.append(of_photos(f))
    if not parts:
        raise MissingData(
            f"no labels in {settings.cache_root() / 'face_state'}; write them by: python -m"
            " recipes.face_state_labels"
        )
    return Faces(
        np.concatenate([p.crops for p in parts]),
        [label for p in parts for label in p.labels],
        np.concatenate([p.aside for p in parts]),
        np.concatenate([p.group for p in parts]),
        [fact for p in parts for fact in p.facts],
    )


# --- Features


def features(weights: Path, crops: np.ndarray, mirrored: np.ndarray) -> list[np.ndarray]:
    """The three coarsest maps of the encoder for each crop, float16; kept in the cache folder.

    Args:
        weights: the network.
        crops: (n, 128, 128, 3) uint8.
        mirrored: (n,) which of them are mirrored first.
    """
    graph = Graph(weights)
    names = onnx_prune.encoder_maps(graph.proto.SerializeToString())[-3:]
    network, view = graph.reading(names, 1), OnnxModel(weights, threads=1, tasks=["age"]).view
    maps: list[list[np.ndarray]] = [[], [], []]
    for start in range(0, len(crops), 32):
        part = crops[start : start + 32].copy()
        flip = mirrored[start : start + 32]
        part[flip] = part[flip][:, :, ::-1]
        for kept, found in zip(maps, network(view.tensor(part)), strict=True):
            kept.append(found.astype(np.float16))
    return [np.concatenate(m) for m in maps]


# --- Training


def encoded(task: Task[Any], faces: Faces, mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets and masks of a task, (n, k) each."""
    targets, masks = [], []
    for label, flip in zip(faces.labels, mirrored, strict=True):
        value = label.get(task.name)
        affine = [[-1.0, 0, 127], [0, 1, 0]] if flip else np.eye(2, 3)
        pair = (
            task.missing_target((128, 128))
            if value is None
            else task.encode_target(value, affine, bool(flip), (128, 128))
        )
        targets.append(pair[0])
        masks.append(pair[1])
    return np.stack(targets).astype(np.float32), np.stack(masks)


def odds(task: str, faces: Faces, rows: np.ndarray) -> np.ndarray:
    """How often each of these crops is drawn: rare classes as often as frequent ones."""

    def kind(i: int) -> str:
        label = faces.labels[i].get(task, {})
        if task == "eyes":
            return "closed" if 0.0 in label.values() else "open"
        if task == "occlusion":
            return f"{label.get('mask')}-{label.get('sunglasses')}-{faces.facts[i]['from']}"
        if task == "quality":
            return str("score" in label)
        return ""

    kinds = [kind(int(i)) for i in rows]
    counts = {k: kinds.count(k) for k in set(kinds)}
    weights = np.array([counts[k] ** -0.7 for k in kinds])
    return weights / weights.sum()


def train(
    task: Task[Any], faces: Faces, maps: list[np.ndarray], mirrored: np.ndarray, seed: int
) -> StateHead:
    """One head, by Adam on the crops that are not set aside."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n = int(task.shape.n)  # type: ignore[union-attr]
    channels = tuple(m.shape[1] for m in maps)
    head = StateHead(channels, n, REGIONS[task.name], maps[0].shape[2:])
    target, mask = encoded(task, faces, mirrored)
    known = mask.reshape(len(mask), -1).any(1)
    rows = np.flatnonzero(known & ~faces.aside)
    parts = [np.asarray(p) for p in head.cut([torch.from_numpy(m.astype(np.float32)) for m in maps])]
    scale = [max(float(p[rows].std()), 1e-6) for p in parts]
    steps = int(np.clip(STEPS * len(rows) / 5000, 300, STEPS))
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, RATE / 50)
    criterion, weights = task.criterion(), odds(task.name, faces, rows)
    draws = rng.choice(rows, (steps, BATCH), p=weights)
    for which in draws:
        given = [torch.from_numpy(p[which] / s) for p, s in zip(parts, scale, strict=True)]
        raw = head.read(given, dropout=0.3)
        loss = criterion(raw, torch.from_numpy(target[which]), torch.from_numpy(mask[which]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # features come as they are
        head.near.weight /= scale[0]
        head.far.weight /= scale[1]
        wide = head.hidden.weight.shape[1] - channels[2]
        head.hidden.weight[:, wide:] /= scale[2]
    return head.eval()


def measured(task: Task[Any], faces: Faces, raw: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """The task's metrics on these crops, which are not mirrored."""
    metrics = task.metrics()
    for i in rows:
        metrics.update(task.read(raw[i], NO_CROP), faces.labels[i][task.name])
    return {k: round(v, 4) for k, v in metrics.compute().items()}


def report(task: Task[Any], faces: Faces, raw: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """Metrics on what is set aside, by where it comes from."""
    known = mask.reshape(len(mask), -1).any(1) & faces.aside
    found = dict[str, Any]()
    for name in dict.fromkeys(f["from"] for f in faces.facts):
        rows = np.array([i for i in np.flatnonzero(known) if faces.facts[i]["from"] == name], int)
        if name == "photos":
            rows = np.array([i for i in rows if faces.facts[i]["width"] >= 24], int)
            seen = np.array([i for i in rows if faces.facts[i]["found"]], int)
            if len(seen):
                found["photos, 24 pixels and more, found by the detector"] = measured(task, faces, raw, seen)
        if name == "degraded" and task.name != "quality":
            continue
        if name == "faces" and task.name == "quality":
            continue
        if len(rows):
            found[name] = measured(task, faces, raw, rows)
    return found


@app.command()
def main(
    weights: Annotated[Path, typer.Option(help="The network, FILE.onnx.")] = WEIGHTS / "mien.onnx",
    out: Annotated[Path, typer.Option(help="File to write; may be the network itself.")] = Path(
        "out/mien.onnx"
    ),
    tasks: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(TASKS),
    limit: Annotated[int, typer.Option(help="Use so many crops only, to try it; 0 for all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 1,
) -> None:
    """Train the heads and add them to the network."""
    torch.set_num_threads(1)
    since, faces = time.perf_counter(), gathered()
    if limit and limit < len(faces.labels):
        keep = np.sort(np.random.default_rng(0).permutation(len(faces.labels))[:limit])
        faces = Faces(
            faces.crops[keep], [faces.labels[i] for i in keep], faces.aside[keep], faces.group[keep],
            [faces.facts[i] for i in keep],
        )  # fmt: skip
    mirrored = (np.random.default_rng(seed).random(len(faces.labels)) < 0.5) & ~faces.aside
    maps = features(weights, faces.crops, mirrored)
    typer.echo(f"{len(faces.labels)} crops, features after {time.perf_counter() - since:.0f} s")
    heads, results = dict[str, StateHead](), dict[str, Any]()
    for name in [n.strip() for n in tasks.split(",")]:
        task = TASKS[name]
        _, mask = encoded(task, faces, mirrored)
        if not mask.any():
            typer.echo(f"{name}: no labels; left out")
            continue
        heads[name] = train(task, faces, maps, mirrored, seed)
        with torch.inference_mode():
            raw = heads[name]([torch.from_numpy(m.astype(np.float32)) for m in maps]).numpy()
        results[name] = report(task, faces, raw, mask)
        np.savez(settings.cache_root() / "face_state" / f"raw-{name}.npz", raw=raw)
        typer.echo(f"{name}, after {time.perf_counter() - since:.0f} s: {json.dumps(results[name])}")
    add_state_heads(weights, heads, TASKS, out, sets=TEACHERS, state_heads=results)
    typer.echo(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    app()

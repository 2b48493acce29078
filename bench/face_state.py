"""What a network's answers about the state of a face are worth and cost.

    python -m bench.face_state quality --weights out/mien.onnx
    python -m bench.face_state speed --weights out/mien.onnx
    python -m bench.face_state sheet --weights out/mien.onnx --task eyes --out out/sheets

quality: error-versus-discard on people who are set aside, half of their pictures made worse. The threshold is
that of a false match rate of 1 %, and stays; then the pairs with the worst pictures are dropped.
speed: time per face with and without the four tasks, in turn.
sheet: pictures of 50 faces that are set aside, with the answers, to check by eye.
Eyes, gaze and occlusion are measured by `recipes.face_state`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from mien import geometry
from mien.data.formats import wild
from mien.data.occlusion import degrade_for_identity
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.types import Crop
from mien.visualize.drawing import save_png

app = typer.Typer(add_completion=False)
STATE = ("eyes", "gaze", "occlusion", "quality")
FMR, DROPPED = 0.01, 0.1
NO_CROP = Crop(np.zeros((128, 128, 3), np.uint8), np.eye(2, 3))
Weights = Annotated[Path, typer.Option(help="The network, FILE.onnx.")]


def discard(
    similarity: np.ndarray, same: np.ndarray, quality: np.ndarray, dropped: float, cut: float
) -> tuple[float, float]:
    """False non-match rates at a threshold: of all pairs, and without those of the lowest quality.

    Args:
        similarity: (n,) of pairs of one person and of strangers.
        same: (n,) whether they are one person.
        quality: (n,) of the worse picture of each pair.
        dropped: share of the pairs of one person that is left out.
        cut: threshold.
    """
    missed, worth = similarity[same] < cut, quality[same]
    kept = np.argsort(worth, kind="stable")[int(dropped * len(worth)) :]
    return float(missed.mean()), float(missed[kept].mean())


def threshold(strangers: np.ndarray, fmr: float) -> float:
    """The smallest similarity that at most this share of strangers reaches."""
    order = np.sort(strangers)[::-1]
    return float(np.nextafter(order[int(fmr * len(order))], np.inf))


def bootstrapped(
    similarity: np.ndarray, same: np.ndarray, quality: np.ndarray, people: np.ndarray, draws: int = 500
) -> dict[str, float]:
    """The cut of false non-matches by dropping, with a 95 % interval over resampled people.

    Args:
        similarity, same, quality: see `discard`.
        people: (n,) the person of the first picture of each pair.
    """
    cut = threshold(similarity[~same], FMR)
    before, after = discard(similarity, same, quality, DROPPED, cut)
    rng, gains = np.random.default_rng(0), list[float]()
    names = np.unique(people[same])
    rows = {p: np.flatnonzero(same & (people == p)) for p in names}
    for _ in range(draws):
        chosen = np.concatenate([rows[p] for p in rng.choice(names, len(names))])
        one, other = discard(similarity[chosen], same[chosen], quality[chosen], DROPPED, cut)
        if one > 0:
            gains.append(100 * (1 - other / one))
    low, high = np.percentile(gains, [2.5, 97.5]) if gains else (float("nan"), float("nan"))
    return {
        "threshold": round(cut, 4),
        "fnmr_all": round(100 * before, 2),
        "fnmr_kept": round(100 * after, 2),
        "cut_percent": round(100 * (1 - after / before), 1) if before else 0.0,
        "low": round(float(low), 1),
        "high": round(float(high), 1),
        "pairs": int(same.sum()),
        "strangers": int((~same).sum()),
    }


@app.callback()
def main() -> None:
    """Measurements of eyes, gaze, occlusion and quality."""


@app.command()
def quality(weights: Weights = WEIGHTS / "mien.onnx") -> None:
    """Error-versus-discard on CelebA's people that are set aside."""
    network = OnnxModel(weights, threads=1, tasks=["identity", "quality"])
    judge = next(t for t in network.tasks if t.name == "quality")
    data, rng = wild.celeba_wild("aside"), np.random.default_rng(11)
    vectors, worth, people = list[np.ndarray](), list[float](), list[int]()
    for i in range(len(data)):
        sample = data[i]
        crop = geometry.align(sample.image, sample.points, network.view)
        pixels = crop.pixels
        if i % 2:
            five = geometry.move_points(sample.points, crop.from_photo)
            pixels = degrade_for_identity(pixels, five, rng).pixels
        raw = network(network.view.tensor(pixels[None]))
        vectors.append(raw["identity"][0] / np.linalg.norm(raw["identity"][0]))
        worth.append(judge.read(raw["quality"][0], crop).score)
        people.append(int(data.facts[i]["identity"]))
    e, q, who = np.stack(vectors), np.array(worth), np.array(people)
    a, b = np.triu_indices(len(e), 1)
    found = bootstrapped((e[a] * e[b]).sum(1), who[a] == who[b], np.minimum(q[a], q[b]), who[a])
    typer.echo(json.dumps(found, indent=1))


@app.command()
def speed(weights: Weights = WEIGHTS / "mien.onnx", runs: int = 15, batch: int = 8) -> None:
    """Median milliseconds per face with and without the four tasks."""
    all_tasks = [t.name for t in OnnxModel(weights, threads=1).tasks]
    plain = [n for n in all_tasks if n not in STATE]
    networks = {
        n: OnnxModel(weights, threads=1, tasks=t) for n, t in (("with", all_tasks), ("without", plain))
    }
    images = np.random.default_rng(0).standard_normal((batch, 3, 128, 128)).astype(np.float32)
    times: dict[str, list[float]] = {n: [] for n in networks}
    for _ in range(runs + 2):
        for name, network in networks.items():
            start = time.process_time()  # of this process: others do not count
            network(images)
            times[name].append(1e3 * (time.process_time() - start) / batch)
    found: dict[str, Any] = {n: round(float(np.median(v[2:])), 3) for n, v in times.items()}
    found["more_percent"] = round(100 * (found["with"] / found["without"] - 1), 1)
    typer.echo(json.dumps(found, indent=1))


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    task: Annotated[str, typer.Option(help="One of the four.")] = "eyes",
    weights: Weights = WEIGHTS / "mien.onnx",
    sheets: Annotated[int, typer.Option(help="Number of pictures, of 50 faces each.")] = 4,
) -> None:
    """Faces that are set aside, with what the network answers; half of them are the least usual answers."""
    network = OnnxModel(weights, threads=1, tasks=[task])
    chosen_task = next(t for t in network.tasks if t.name == task)
    rng, cells = np.random.default_rng(12), list[tuple[float, np.ndarray]]()
    for data in (wild.fairface("aside"), wild.celeba_wild("aside")):
        for i in rng.permutation(len(data))[: 100 * sheets]:
            sample = data[int(i)]
            crop = geometry.align(sample.image, sample.points, network.view)
            answer = chosen_task.read(network(network.view.tensor(crop.pixels[None]))[task][0], NO_CROP)
            words = " ".join(
                f"{v:.2f}" if isinstance(v, float) else str(v) for v in answer.to_dict().values()
            )
            value = np.asarray(answer.value(), float).ravel()
            cell = np.asarray(cv2.resize(crop.pixels, (160, 160)), np.uint8).copy()
            cv2.putText(cell, words, (2, 154), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 0), 1, cv2.LINE_AA)
            cells.append((float(value[0]), cell))
    cells.sort(key=lambda c: c[0])
    half = 25 * sheets
    chosen = cells[: half // 2] + cells[-(half - half // 2) :]
    rest = cells[half // 2 : -(half - half // 2)]
    chosen += [rest[int(i)] for i in rng.permutation(len(rest))[:half]]
    out.mkdir(parents=True, exist_ok=True)
    for number in range(sheets):
        part = [c for _, c in chosen[50 * number : 50 * number + 50]]
        part += [np.zeros((160, 160, 3), np.uint8)] * (50 - len(part))
        rows = [np.hstack(part[r : r + 10]) for r in range(0, 50, 10)]
        save_png(out / f"{task}-{number + 1}.png", np.vstack(rows))


if __name__ == "__main__":
    app()

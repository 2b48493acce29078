"""Times: everybody in turn, picture by picture, on the same pixels, so that a busy minute falls on all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.install import ROOT
from bench.peers.roster import JOBS, Peer
from bench.peers.wire import PeerFailed, Worker
from mien import geometry
from mien.io.image import load_photo
from mien.types import Pixels

# the two portraits of examples/: where the face is in each (x, y between eyes and mouth) and its width,
# pixels
PORTRAITS = (
    ("examples/astronaut.jpg", (223.0, 124.0), 88.0),
    ("examples/grace_hopper.jpg", (270.0, 210.0), 166.0),
)
STAGES = {
    1: (640, 640, 1, 1),
    5: (1280, 860, 3, 2),
    20: (1600, 1280, 5, 4),
}  # faces: width, height, columns, rows
FACE = 110.0  # width in every picture: near enough for all of these detectors
WARM, STARTS = 2, 3


def photograph(faces: int) -> Pixels:
    """(H, W, 3): so many heads in a grid on gray, the two portraits in turn, every other pair mirrored."""
    width, height, columns, rows = STAGES[faces]
    canvas = np.full((height, width, 3), 128, np.uint8)
    w, h = min(width // columns, 320), min(height // rows, 320)
    for i in range(faces):
        path, center, size = PORTRAITS[i % 2]
        scale = FACE / size * (-1 if i % 4 > 1 else 1)
        affine = np.array(
            [[scale, 0, w / 2 - scale * center[0]], [0, abs(scale), h / 2 - abs(scale) * center[1]]]
        )
        x = (i % columns) * (width // columns) + (width // columns - w) // 2
        y = (i // columns) * (height // rows) + (height // rows - h) // 2
        canvas[y : y + h, x : x + w] = geometry.warp(load_photo(path).pixels, affine, (w, h), (128, 128, 128))
    return canvas


def photographs(root: Path = ROOT) -> dict[int, Path]:
    """Number of faces -> a .npy of its picture."""
    folder, out = root / "photos", {}
    folder.mkdir(parents=True, exist_ok=True)
    for faces in STAGES:
        out[faces] = (folder / f"{faces}.npy").absolute()
        np.save(out[faces], photograph(faces))
    return out


def measure(peers: Sequence[Peer], rounds: int, threads: int, root: Path = ROOT) -> dict[str, Any]:
    """Peer -> {"start_ms", "versions", "weights", "memory_mb", "jobs": {job: {faces: ...}}}, or {"reason":
    ...}.
    """
    photos, out = photographs(root), dict[str, Any]()
    with ExitStack() as stack:
        workers = dict[str, Worker]()
        for p in peers:
            try:
                out[p.name], workers[p.name] = _started(p, threads, root)
            except PeerFailed as e:
                out[p.name] = {"reason": str(e)}
                continue
            stack.enter_context(workers[p.name])
        times = _rounds(peers, workers, photos, rounds, out)
        for name, worker in workers.items():
            if "reason" not in out[name]:
                out[name]["memory_mb"] = worker.memory_mb()
                out[name]["jobs"] = {
                    job: _summaries(times, name, job) for job in JOBS if (name, job, 1) in times
                }
    return out


def _started(p: Peer, threads: int, root: Path) -> tuple[dict[str, Any], Worker]:
    """The last of a few fresh processes, and the minimum time to be ready."""
    starts = []
    for _ in range(STARTS - 1):
        with Worker(
            p.name, p.words(threads, root), threads=threads, log=root / "logs" / f"{p.name}.log"
        ) as worker:
            starts.append(worker.start_ms)
    worker = Worker(p.name, p.words(threads, root), threads=threads, log=root / "logs" / f"{p.name}.log")
    ready = worker.ready
    return {
        "start_ms": min(*starts, worker.start_ms),
        "versions": ready["versions"],
        "weights": ready["weights"],
    }, worker


Times = dict[tuple[str, str, int], list[tuple[float, float, int]]]


def _rounds(
    peers: Sequence[Peer],
    workers: Mapping[str, Worker],
    photos: Mapping[int, Path],
    rounds: int,
    out: dict[str, Any],
) -> Times:
    """(peer, job, faces) -> (ms, processor ms, faces found) of each round; the warm-up is left out."""
    times: Times = {}
    for r in range(-1, rounds):
        for faces, path in photos.items():
            for job in JOBS:
                for p in peers:
                    if job not in p.jobs or "reason" in out[p.name]:
                        continue
                    try:
                        reply = workers[p.name].ask(path, job, times=WARM if r < 0 else 1, tell=False)
                    except PeerFailed as e:
                        out[p.name] = {"reason": str(e)}
                        continue
                    if r >= 0:
                        times.setdefault((p.name, job, faces), []).append(
                            (reply["ms"][0], reply["cpu_ms"][0], reply["found"])
                        )
        print(f"round {r + 1} of {rounds}", flush=True)
    return times


def _summaries(times: Times, name: str, job: str) -> dict[str, dict[str, float]]:
    return {str(faces): summary(times[name, job, faces]) for faces in STAGES}


def summary(rows: Sequence[tuple[float, float, int]]) -> dict[str, float]:
    """p50 and p95 of the clock, median of processor time, and of faces found."""
    ms, cpu, found = np.asarray(rows, np.float64).T
    return {
        "p50": float(np.median(ms)), "p95": float(np.percentile(ms, 95)), "cpu": float(np.median(cpu)),
        "found": float(np.median(found)), "n": len(ms),
    }  # fmt: skip

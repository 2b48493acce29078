"""How many face boxes `mien anonymize` covers in a video made of stills.

python -m bench.video_anonymize [--stills 200] [--seed 1] [--seconds 2] [--stride 1] [--out FILE.json]

Each still of `photos/val` becomes one shot of 640 x 360 at 25 frames per second: it is moved, zoomed and
slightly turned, in half of the shots a patch crosses the picture in front of it, and shots are cut without a
transition. The boxes are those of the stills (a teacher detector's, score 0.6 or more), moved along. A box
counts in each frame where at least half of it is in the picture and its shorter side has 16 pixels or more,
occluded or not. It is covered if 90 % of its pixels are gray in the written video, which is decoded again.
Needs MIEN_DATA.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import mien
from mien import geometry
from mien.types import Pixels
from mien.video.anonymization import AnonymizationReport, anonymize_video
from mien.video.container import VideoContainer, Writer
from mien.visualize.anonymization import GRAY

WIDTH, HEIGHT, RATE = 640, 360, 25
CONFIDENT = 0.6  # score of the teacher from which a box counts
SMALLEST = 16  # pixels, shorter side of a box that counts
COVERED = 0.9
TOLERANCE = 16  # of 255, between the fill and what the video codec makes of it


@dataclass(frozen=True)
class Truth:
    """A box of one frame.

    Attributes:
        frame: its number.
        box: xyxy, within the picture.
        occluded: share of it behind the patch.
        shot: its number.
    """

    frame: int
    box: tuple[float, float, float, float]
    occluded: float
    shot: int


def stills(count: int) -> list[tuple[Pixels, np.ndarray]]:
    """Pictures of photos/val that have a sure face, and the boxes of these (n, 4)."""
    out = []
    table = Path(os.environ["MIEN_DATA"]) / "photos" / "val.parquet"
    for row in pq.read_table(table).to_pylist():
        faces = np.array(row["faces"], float).reshape(-1, 15)
        faces = faces[faces[:, 14] >= CONFIDENT]
        if len(faces):
            picture = Image.open(io.BytesIO(row["image"])).convert("RGB")
            out.append((np.asarray(picture), geometry.corners(faces)))
    return out[:count]


def shot(
    still: Pixels, boxes: np.ndarray, frames: int, rng: np.random.Generator
) -> Iterator[tuple[Pixels, np.ndarray, tuple[int, int, int, int] | None]]:
    """Frames with the boxes (n, 4) in them and the patch in front, if there is one."""
    height, width = still.shape[:2]
    fit = min(WIDTH / width, HEIGHT / height)
    zoom = fit * np.exp(rng.uniform(np.log(0.7), np.log(2.0), 2))
    turn = rng.uniform(-8, 8, 2)
    center = rng.integers(0, len(boxes))
    face = (boxes[center, :2] + boxes[center, 2:]) / 2  # stays in the picture
    start, end = (rng.uniform((0.3, 0.3), (0.7, 0.7)) * (WIDTH, HEIGHT) for _ in range(2))
    shake = rng.uniform(0, 0.04) * WIDTH
    speed, phase = rng.uniform(0.5, 2.0, 2), rng.uniform(0, 2 * np.pi, 2)
    patch = cv2.resize(
        rng.integers(0, 256, (5, 3, 3), np.uint8),
        (int(rng.uniform(0.15, 0.4) * WIDTH), int(rng.uniform(0.5, 1.0) * HEIGHT)),
        interpolation=cv2.INTER_CUBIC,
    )
    crossing = bool(rng.random() < 0.5)
    entered, took = rng.uniform(0.0, 0.5) * frames, rng.uniform(0.3, 0.6) * frames
    fill = np.array(still.reshape(-1, 3).mean(0), float)
    for i in range(frames):
        t = i / max(frames - 1, 1)
        scale = float(np.exp(np.log(zoom[0]) * (1 - t) + np.log(zoom[1]) * t))
        place = start * (1 - t) + end * t + shake * np.sin(2 * np.pi * speed * i / RATE + phase)
        affine = geometry.about((0, 0), degrees=float(turn[0] * (1 - t) + turn[1] * t), scale=scale)
        affine[:, 2] = place - affine[:, :2] @ face
        picture = cv2.warpAffine(
            still, affine, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderValue=fill.tolist()
        )
        corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [2, 3]], boxes[:, [0, 3]]], 1)
        moved = geometry.move_points(corners, affine)
        # a turned box is not the box of the turned face: the middle and the scaled sides are
        middle, sides = moved.mean(1), (boxes[:, 2:] - boxes[:, :2]) * scale
        window = None
        if crossing and entered <= i < entered + took:
            x = round((i - entered) / took * (WIDTH + patch.shape[1])) - patch.shape[1]
            y = (HEIGHT - patch.shape[0]) // 2
            x1, x2 = max(0, x), min(WIDTH, x + patch.shape[1])
            if x2 > x1:
                picture[y : y + patch.shape[0], x1:x2] = patch[:, x1 - x : x2 - x]
                window = (x1, y, x2, y + patch.shape[0])
        yield picture, np.hstack([middle - sides / 2, middle + sides / 2]), window


def write_video(path: Path, count: int, seconds: float, seed: int) -> tuple[int, int, list[Truth]]:
    """Write the video; its shots, its frames and the boxes that count."""
    rng, pictures, truth, number = np.random.default_rng(seed), stills(count), list[Truth](), 0
    order = rng.permutation(len(pictures))
    with Writer(path, rate=RATE) as out:
        for k, index in enumerate(order):
            for picture, boxes, window in shot(*pictures[index], round(seconds * RATE), rng):
                out.add(picture, number / RATE)
                for box in boxes:
                    seen = np.clip(box, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
                    inside = float((seen[2:] - seen[:2]).prod() / (box[2:] - box[:2]).prod())
                    if inside >= 0.5 and min(box[2:] - box[:2]) >= SMALLEST:
                        truth.append(Truth(number, tuple(seen.tolist()), _shared(seen, window), k))
                number += 1
    return len(order), number, truth


def _shared(box: np.ndarray, window: tuple[int, int, int, int] | None) -> float:
    if window is None:
        return 0.0
    lo, hi = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
    return float((hi - lo).clip(0).prod() / (box[2:] - box[:2]).prod())


def covered(path: Path, truth: list[Truth]) -> tuple[np.ndarray, float]:
    """Share of each box's pixels that are gray in the video, and of what is outside of all boxes."""
    by_frame: dict[int, list[int]] = {}
    for i, t in enumerate(truth):
        by_frame.setdefault(t.frame, []).append(i)
    shares, outside, rest = np.zeros(len(truth)), 0, 0
    with VideoContainer(path) as written:
        for number, (_, raw) in enumerate(written.frames()):
            gray = (np.abs(written.pixels(raw).astype(np.int16) - GRAY) <= TOLERANCE).all(2)
            free = np.ones(gray.shape, bool)
            for i in by_frame.get(number, ()):
                x1, y1, x2, y2 = (round(v) for v in truth[i].box)
                shares[i] = gray[y1:y2, x1:x2].mean()
                free[y1:y2, x1:x2] = False
            outside, rest = outside + int(gray[free].sum()), rest + int(free.sum())
    return shares, outside / max(rest, 1)


def _percent(shares: np.ndarray) -> float | None:
    """Covered boxes among these; None where there are none."""
    return round(100 * float((shares >= COVERED).mean()), 3) if len(shares) else None


def summary(
    shares: np.ndarray, truth: list[Truth], report: AnonymizationReport
) -> dict[str, float | int | None]:
    """The numbers, in percent."""
    behind = np.array([t.occluded for t in truth])
    sides = np.array([min(t.box[2] - t.box[0], t.box[3] - t.box[1]) for t in truth])
    open_ = np.array([t.frame for t in truth])[shares < COVERED]
    listed = [(c.first_frame, c.last_frame) for c in report.check]
    known = [any(a <= f <= b for a, b in listed) for f in open_]
    return {
        "boxes": len(truth),
        "covered": round(100 * float((shares >= COVERED).mean()), 3),
        "covered_95": round(100 * float((shares >= 0.95).mean()), 3),
        "covered_80": round(100 * float((shares >= 0.8).mean()), 3),
        "boxes_half_visible": int((behind <= 0.5).sum()),
        "covered_half_visible": _percent(shares[behind <= 0.5]),
        "boxes_occluded": int((behind > 0.5).sum()),
        "covered_occluded": _percent(shares[behind > 0.5]),
        "covered_under_32_px": _percent(shares[sides < 32]),
        "uncovered": len(open_),
        "uncovered_in_listed_frames": int(sum(known)),
        "frames": report.frames,
        "frames_listed": sum(any(a <= f <= b for a, b in listed) for f in range(report.frames)),
        "tracks": len(report.tracks),
    }


def main() -> None:
    """Make the video, cover it, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--score", type=float, default=0.4)
    parser.add_argument("--hold", type=float, default=1.0)
    parser.add_argument("--keep", type=Path, help="Folder that keeps both videos and the boxes.")
    parser.add_argument("--out", type=Path, help="FILE.json for the numbers.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        shots, frames, truth = write_video(folder / "stills.mp4", args.stills, args.seconds, args.seed)
        print(f"{shots} shots, {frames} frames, {len(truth)} boxes", flush=True)
        reader = mien.load(tasks=[], threads=1)
        start, used = time.perf_counter(), time.process_time()
        report = anonymize_video(
            folder / "stills.mp4", folder / "covered.mp4", reader, how="fill", stride=args.stride,
            score=args.score, hold=args.hold,
        )  # fmt: skip
        wall, cpu = time.perf_counter() - start, time.process_time() - used
        shares, outside = covered(folder / "covered.mp4", truth)
        before, plain = covered(folder / "stills.mp4", truth)
        numbers = {"shots": shots, "seed": args.seed, "stride": args.stride}
        numbers |= summary(shares, truth, report)
        numbers |= {
            "gray_before": round(100 * float((before >= COVERED).mean()), 3),
            "covered_outside_of_boxes": round(100 * (outside - plain), 2),
            "frames_per_second": round(frames / wall, 1),
            "cpu_ms_per_frame": round(1e3 * cpu / frames, 1),
        }
        print(json.dumps(numbers, indent=2))
        if args.out:
            args.out.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        if args.keep:
            lost = [
                {"frame": t.frame, "shot": t.shot, "box": t.box, "occluded": t.occluded, "share": float(s)}
                for t, s in zip(truth, shares, strict=True)
                if s < COVERED
            ]
            (folder / "uncovered.json").write_text(json.dumps(lost) + "\n", encoding="utf-8")
            (folder / "report.json").write_text(json.dumps(report.to_dict()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

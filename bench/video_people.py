"""How many tracks and people `mien video --tasks identity` finds in a video of a few people.

python -m bench.video_people [--people 2] [--shots 240] [--seconds 3] [--seed 1] [--videos 1] [--out FILE]

Each shot shows one still of one person, or of two side by side, 320 x 180 at 5 frames per second: moved,
zoomed, slightly turned, brighter or darker, in half of the shots with a patch that crosses the picture, and
cut without a transition. Every second shot continues with the same people, as after a cut to another camera.
The people are drawn with the seed from those of `celeba_wild` that are set aside, 10 photos or more each; the
still is the photo around its largest face. 240 shots have as many cuts as an hour of interviews. Counted are
tracks, people that the tracks were joined to, and pairs of sightings: precision is the share of the pairs of
one found person that show one person, recall the share of one person's pairs that were found. Needs
MIEN_DATA_MORE, pyarrow and the extra `video`.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import mien
from mien import geometry, settings
from mien.data import set_aside
from mien.types import Pixels
from mien.video.container import Writer
from mien.video.people import join_tracks
from mien.video.reader import read_video

WIDTH, HEIGHT, RATE = 320, 180, 5
PHOTOS = 10  # minimum number of a person's photos
AROUND = 2.6  # side of a still, in sides of the face's box


@dataclass(frozen=True)
class Shown:
    """One person in one frame: who, and where the face is, xyxy."""

    frame: int
    person: str
    box: tuple[float, float, float, float]


def stills(reader: mien.Reader, people: int, seed: int) -> dict[str, list[tuple[Pixels, np.ndarray]]]:
    """Person -> (picture around the largest face, box of the face in it) of each photo."""
    aside = sorted(set_aside.names("celeba_wild"))
    table = settings.data_more_root() / "celeba_wild" / "train.parquet"
    rows = pq.read_table(
        table, columns=["name", "image", "identity"], filters=[("name", "in", aside)]
    ).to_pylist()
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(str(row["identity"]), []).append(row)
    enough = sorted(p for p, some in by.items() if len(some) >= PHOTOS)
    chosen = np.random.default_rng(seed).permutation(enough)[:people]
    return {str(p): [_around(reader, row["image"]) for row in by[str(p)]] for p in chosen}


def _around(reader: mien.Reader, data: bytes) -> tuple[Pixels, np.ndarray]:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    box = np.asarray(reader.detector(pixels)[0].box, float)
    side = AROUND * float((box[2:] - box[:2]).max())
    affine = geometry.about((0, 0), degrees=0.0, scale=180 / side)
    affine[:, 2] = 90 - affine[:, :2] @ ((box[:2] + box[2:]) / 2)
    still = cv2.warpAffine(pixels, affine, (180, 180), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    return still, geometry.move_points(box.reshape(2, 2), affine).ravel()


def shot(
    pictures: list[tuple[Pixels, np.ndarray]], frames: int, rng: np.random.Generator
) -> Iterator[tuple[Pixels, list[np.ndarray]]]:
    """Frames of one shot, and the box of each person's face in them."""
    slots = np.linspace(0, WIDTH, len(pictures) + 1)
    background = rng.integers(40, 200, 3).tolist()
    zoom = rng.uniform(0.5, 1.0, 2) if len(pictures) == 1 else rng.uniform(0.45, 0.7, 2)
    turns, gain = rng.uniform(-10, 10, (len(pictures), 2)), rng.uniform(0.7, 1.3)
    places = rng.uniform(-0.12, 0.12, (len(pictures), 2, 2)) * (WIDTH, HEIGHT)
    crossing, width = bool(rng.random() < 0.5), int(rng.uniform(0.15, 0.4) * WIDTH)
    patch = rng.integers(0, 256, 3)
    for i in range(frames):
        t = i / max(frames - 1, 1)
        picture, boxes = np.full((HEIGHT, WIDTH, 3), background, np.uint8), []
        for k, (still, box) in enumerate(pictures):
            scale = float(zoom[0] * (1 - t) + zoom[1] * t)
            affine = geometry.about(
                (0, 0), degrees=float(turns[k, 0] * (1 - t) + turns[k, 1] * t), scale=scale
            )
            place = places[k, 0] * (1 - t) + places[k, 1] * t
            middle = np.array([(slots[k] + slots[k + 1]) / 2, HEIGHT / 2]) + place
            affine[:, 2] = middle - affine[:, :2] @ (90, 90)
            cv2.warpAffine(
                still, affine, (WIDTH, HEIGHT), dst=picture, borderMode=cv2.BORDER_TRANSPARENT,
                flags=cv2.INTER_AREA,
            )  # fmt: skip
            half = (box[2:] - box[:2]) * scale / 2
            center = geometry.move_points(box.reshape(2, 2).mean(0, keepdims=True), affine)[0]
            boxes.append(np.concatenate([center - half, center + half]))
        picture = (picture * gain).clip(0, 255).astype(np.uint8)
        if crossing:
            x = round(t * (WIDTH + width)) - width
            picture[:, max(0, x) : max(0, x + width)] = patch
        yield picture, boxes


def write_video(
    path: Path, people: dict[str, list[tuple[Pixels, np.ndarray]]], shots: int, seconds: float, seed: int
) -> tuple[int, list[Shown]]:
    """Write the video; return its frames and who is where."""
    rng, shown, number, names = np.random.default_rng(seed), list[Shown](), 0, list(people)
    now: list[str] = []
    with Writer(path, rate=RATE) as out:
        for k in range(shots):
            if k % 2 == 0 or not now:
                count = min(len(names), 2 if rng.random() < 0.4 else 1)
                now = [str(n) for n in rng.permutation(names)[:count]]
            pictures = [people[n][rng.integers(len(people[n]))] for n in now]
            for picture, boxes in shot(pictures, round(seconds * RATE), rng):
                out.add(picture, number / RATE)
                shown += [Shown(number, n, tuple(b.tolist())) for n, b in zip(now, boxes, strict=True)]
                number += 1
    return number, shown


Sighting = tuple[int, np.ndarray, int]  # frame, box, track


def counted(shown: list[Shown], seen: list[Sighting], people: dict[int, int]) -> dict[str, Any]:
    """Sightings (frame, box, track) matched to the truth, and the pairs of them."""
    by: dict[int, list[Shown]] = {}
    for s in shown:
        by.setdefault(s.frame, []).append(s)
    truth, found, tracks = list[str](), list[int](), list[int]()
    other = 0
    for frame, box, track in seen:
        overlaps = [float(geometry.iou(box, np.array(s.box))[0, 0]) for s in by.get(frame, [])]
        if not overlaps or max(overlaps) < 0.3:
            other += 1
            continue
        truth.append(by[frame][int(np.argmax(overlaps))].person)
        found.append(people.get(track, -track))
        tracks.append(track)

    def pairs(*labels: list[Any]) -> int:
        _, counts = np.unique(np.array([str(x) for x in zip(*labels, strict=True)]), return_counts=True)
        return int((counts * (counts - 1) // 2).sum())

    both, joined, same = pairs(truth, found), pairs(found), pairs(truth)
    sizes = sorted(np.unique(found, return_counts=True)[1].tolist(), reverse=True)
    return {
        "sightings": len(truth),
        "not_in_truth": other,
        "sightings_by_found_person": sizes[:8],
        "pair_precision": round(both / max(joined, 1), 4),
        "pair_recall": round(both / max(same, 1), 4),
        "pair_precision_of_tracks": round(pairs(truth, tracks) / max(pairs(tracks), 1), 4),
    }


def measured(reader: mien.Reader, people: int, shots: int, seconds: float, seed: int) -> dict[str, Any]:
    """One video."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "video.mp4"
        frames, shown = write_video(path, stills(reader, people, seed), shots, seconds, seed)
        start, seen = time.perf_counter(), []
        reading = read_video(path, reader)
        for frame in reading:
            seen += [(frame.number, np.asarray(f.box), f.track) for f in frame.faces]
    joined = join_tracks(reading.tracks)
    return {
        "seed": seed,
        "people": people,
        "shots": shots,
        "frames": frames,
        "tracks": len(reading.tracks),
        "found_people": len(set(joined.values())),
        **counted(shown, seen, joined),
        "frames_per_second": round(frames / (time.perf_counter() - start), 1),
    }


def main() -> None:
    """Make the videos, read them, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--shots", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--videos", type=int, default=1, help="Number of videos, with seeds from --seed up.")
    parser.add_argument("--out", type=Path, help="FILE.json for the numbers.")
    args = parser.parse_args()
    reader = mien.load(tasks=["identity"], threads=1)
    numbers = []
    for seed in range(args.seed, args.seed + args.videos):
        numbers.append(measured(reader, args.people, args.shots, args.seconds, seed))
        print(json.dumps(numbers[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

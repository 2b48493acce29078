"""Speed of videos: frames per second, and memory over a long video. The videos are made of the examples.

python bench/speed/video.py speed [--threads N]      640 x 360, one face and two
python bench/speed/video.py long [--minutes 60]  320 x 180, 25 fps, annotated; resident size at every tenth
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

import mien
from mien.diagnostics.memory import resident
from mien.io.image import load_photo
from mien.types import Pixels
from mien.video import reader as video
from mien.video.container import VideoContainer, Writer


def frames(count: int, width: int, height: int, faces: int) -> Iterator[Pixels]:
    """Heads of half the frame's height that move left and right."""
    one, two = (
        load_photo("examples/astronaut.jpg").pixels[20:270, 100:350],
        load_photo("examples/grace_hopper.jpg").pixels[:360, 80:440],
    )
    side = height // 2 - 4
    heads = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in (one, two)[:faces]]
    way = width - side
    for i in range(count):
        out = np.full((height, width, 3), (90, 110, 130), np.uint8)
        for k, head in enumerate(heads):
            at = (2 * i * width // 640 + k * way) % (2 * way)
            x, y = min(at, 2 * way - at), k * (height // 2)
            out[y : y + side, x : x + side] = head
        yield out


def make_video(path: Path, count: int, width: int, height: int, faces: int) -> Path:
    """Write such a video at 25 frames per second."""
    with Writer(path, rate=25) as out:
        for i, pixels in enumerate(frames(count, width, height, faces)):
            out.add(pixels, float(Fraction(i, 25)))
    return path


def speed(folder: Path, threads: int, count: int) -> None:
    """Decoding, reading and tracking, the same with an annotated video, and with every fifth frame read.

    Frames a second by the clock, and processor time a frame, which says more on a machine that does other
    things as well.
    """
    reader = mien.load(threads=threads)
    print(
        f"640 x 360, {count} frames, threads {threads}; frames per second, processor milliseconds per frame"
    )
    for faces in (1, 2):
        path = make_video(folder / f"{faces}.mp4", count, 640, 360, faces)
        row = [f"{faces} face{'s' * (faces > 1)}"]
        for name, stride, every, write in (("decode", 0, False, False), ("read", 1, False, False), ("write",
        1, True, True),
                                           ("write, stride 5", 5, True, True)):  # fmt: skip
            start, used = time.perf_counter(), time.process_time()
            if stride == 0:
                with VideoContainer(path) as source:
                    n = sum(source.pixels(raw).size > 0 for _, raw in source.frames())
            else:
                reading = video.read_video(path, reader, stride=stride, every=every)
                writer = Writer(folder / "out.mp4", rate=25) if write else None
                for frame in reading:
                    if writer:
                        writer.add(frame.drawn(), frame.time)
                if writer:
                    writer.close()
                n = reading.count
                assert len(reading.tracks) == faces, [t.to_dict() for t in reading.tracks]
            row.append(
                f"{name} {n / (time.perf_counter() - start):.1f}"
                f" ({1e3 * (time.process_time() - used) / n:.1f} ms)"
            )
        print("  ".join(row), flush=True)


def long(folder: Path, threads: int, minutes: float) -> None:
    """Resident size while an annotated video of that length is written, with one frame per second read."""
    count = round(minutes * 60 * 25)
    path = make_video(folder / "long.mp4", count, 320, 180, 2)
    reading = video.read_video(path, mien.load(threads=threads), stride=25, every=True)
    start = time.perf_counter()
    with Writer(folder / "out.mp4", rate=25, sound_of=reading.container) as out:
        for frame in reading:
            out.add(frame.drawn(), frame.time)
            if frame.number in (250, 2500) or frame.number % (count // 10) == 0:
                took = time.perf_counter() - start
                print(
                    f"{frame.time / 60:5.1f} min of video, {took / 60:5.1f} min of work:"
                    f" {resident()['now']:.0f} MB",
                    flush=True,
                )
    print(
        f"{len(reading.tracks)} tracks, {reading.count / (time.perf_counter() - start):.0f} frames per second"
    )


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "long"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--minutes", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "speed":
            speed(Path(folder), given.threads, given.frames)
        else:
            long(Path(folder), given.threads, given.minutes)


if __name__ == "__main__":
    main()

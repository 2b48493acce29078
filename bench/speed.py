"""What reading costs on this machine: detection, and one forward, median and 95th percentile.

python bench/speed.py [--threads N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import mien
from mien.memory import resident
from mien.photo import load_photo


def milliseconds(call, runs: int = 40) -> list[float]:
    """Of each of `runs` calls, after five to warm up."""
    times = []
    for _ in range(runs + 5):
        t = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - t))
    return times[5:]


def clock(call) -> str:
    """Median and 95th percentile of a call in milliseconds."""
    times = milliseconds(call)
    return f"{np.median(times):6.1f} {np.percentile(times, 95):6.1f}"


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    reader = mien.load(threads=threads)
    w, h = reader.model.view.size
    print(f"threads {threads}; milliseconds: median, 95th percentile")
    for name in ("astronaut", "collage"):
        pixels = load_photo(f"examples/{name}.jpg").pixels
        faces = reader(pixels)
        crops = [f.crop for f in faces]
        print(f"{name} {pixels.shape[1]}x{pixels.shape[0]} detect  {clock(lambda p=pixels: reader.detector(p))}")
        print(f"{name} read {len(crops)} aligned face(s)  {clock(lambda c=crops: reader.read_crops(c))}")
        print(f"{name} detect + align + read  {clock(lambda p=pixels: reader(p))}")
    one = np.zeros((1, 3, h, w), np.float32)
    print(f"network alone, one face  {clock(lambda: reader.model(one))}")
    print(f"largest resident size {resident().get('peak', 0):.0f} MB")


if __name__ == "__main__":
    main()

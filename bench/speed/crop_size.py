"""Accuracy limit and time by crop size. Needs the data pack and torch.

    python bench/speed/crop_size.py

For each side: the mean F1 of parsing if the network's maps (a quarter of the side) were perfect, and the time
of one forward pass on one thread.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from mien import geometry
from mien.data.formats import pack
from mien.models.faceptor import faceptor_tiny
from mien.tasks import PARSING
from mien.types import View


def best_f1(view: View) -> float:
    """Mean F1 of the true masks after resampling to a quarter of the view and back."""
    dataset, metrics, cells = pack.celebamask("val"), PARSING.metrics(), view.size[0] // 4
    for i in range(len(dataset)):
        sample = dataset[i]
        crop = geometry.align(sample.image, sample.points, view)
        mask, _ = PARSING.move(sample.labels["parsing"], crop.from_photo, False, view.size)
        hot = (mask[None] == np.arange(19)[:, None, None]).astype(np.float32)
        shares = hot.reshape(19, cells, 4, cells, 4).mean((2, 4))
        metrics.update(PARSING.read(shares, crop), sample.labels["parsing"])
    return metrics.compute()["mean_f1"]


def milliseconds(size: int) -> float:
    """Median time of one face, torch, one thread."""
    model, x, times = faceptor_tiny(size=size).eval(), torch.zeros(1, 3, size, size), []
    with torch.inference_mode():
        for _ in range(25):
            t = time.perf_counter()
            model(x)
            times.append(1e3 * (time.perf_counter() - t))
    return float(np.median(times[5:]))


def main() -> None:
    """Print one line per size."""
    torch.set_num_threads(1)
    print("| side | distance of the eyes, px | best mean F1 | ms per face |\n|---|---|---|---|")
    for size in (96, 112, 128, 160, 192):
        view = View((size, size), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        eyes = geometry.template_points(view)
        print(
            f"| {size} | {eyes[1, 0] - eyes[0, 0]:.1f} | {best_f1(view):.3f} | {milliseconds(size):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

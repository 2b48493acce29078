"""The face detector: boxes, scores and five points, learned from a teacher's labels of photos.

mien train recipes/detector.py --out RUN
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mien.data.detection import MosaicSource, Photo, read_labeled, read_photos
from mien.data.mixture import Mixture
from mien.export.onnx_import import load, recompute_batchnorm_stats
from mien.models.detector import detector
from mien.models.widen import place_within
from mien.settings import cache_root, data_more_root, data_root
from mien.training.loop import to_tensors
from mien.training.recipe import Recipe, cosine


def grow(small: nn.Module, large: nn.Module) -> None:
    """Start a network from the weights of a narrower or shallower one, with the same outputs.

    Old channels keep their weights and ignore the new ones, which start at random. An added block, which must
    have a shortcut, adds zero.
    """
    old = small.state_dict()
    for name, value in large.state_dict().items():  # these share memory with the network
        if name in old:
            place_within(value, old[name])
        elif name.endswith("mix.1.weight"):  # the last norm of an added block
            value.zero_()


# Wider than the first detector where maps are coarse and cost little.
WIDTHS = (32, 64, 112, 192)
# Pictures of each source per step of 24. Photos of crowds and masked faces help most; the others add faces of
# all ages, poses and lighting.
PICTURES = {"photos": 11, "face_boxes": 6, "fairface": 3, "celeba_wild": 4}
# Options of each source: photos with many faces are drawn more often where they exist.
OPTIONS = {
    "photos": {"groups": 0.7, "empty": 0.1},
    "face_boxes": {"groups": 0.6, "empty": 0.1},
    "fairface": {"groups": 0.0, "empty": 0.0},
    "celeba_wild": {"groups": 0.0, "empty": 0.1},
}


def with_false_faces(photos: list[Photo], path: Path) -> list[Photo]:
    """Photos with the places that an earlier detector took for faces, if `recipes/false_faces.py` wrote any.

    Args:
        photos: of one table.
        path: JSON, name of a photo -> boxes.
    """
    if not path.is_file():
        return photos
    boxes = json.loads(path.read_text(encoding="utf-8"))
    return [
        replace(p, false_faces=np.asarray(boxes[p.name], np.float32)[:, :4]) if p.name in boxes else p
        for p in photos
    ]


def sources(
    size: int, occluded: float, degraded: float, lettered: float, hard: float
) -> list[tuple[MosaicSource, int]]:
    """Sources and their pictures per step; labels come from `recipes/detector_labels.py`, in the cache folder
    `detector`.
    """
    tables = {"photos": read_photos(data_root(), "train")}
    for name in ("face_boxes", "fairface", "celeba_wild"):
        labels = cache_root() / "detector" / f"{name}.parquet"
        tables[name] = read_labeled(data_more_root() / name / "train.parquet", labels)
    for name, photos in tables.items():
        tables[name] = with_false_faces(photos, cache_root() / "detector" / f"false-{name}.json")
    options = {"occluded": occluded, "degraded": degraded, "lettered": lettered, "hard": hard}
    return [(MosaicSource(tables[n], size=size, **OPTIONS[n], **options), k) for n, k in PICTURES.items()]


def recipe(
    *,
    steps: int = 10000,
    seed: int = 1,
    lr: float = 1e-3,
    start: str = "",
    occluded: float = 0.33,
    degraded: float = 0.25,
    lettered: float = 0.4,
    hard: float = 0.15,
) -> Recipe:
    """See the module's text.

    Args:
        steps: Number of training steps.
        seed: Seed of the weights, the batches and the augmentation.
        lr: Learning rate of AdamW, after 300 steps of warm-up, before the cosine decay.
        start: Checkpoint or exported file of an earlier run to start from, instead of random weights.
        occluded: Probability that a face is covered in part, 0..1.
        degraded: Probability that a picture is dark, backlit or compressed, 0..1.
        lettered: Probability that letters are drawn next to the faces of a picture, 0..1.
        hard: Probability of a picture around something that an earlier detector took for a face, 0..1.
    """
    torch.manual_seed(seed)
    model = detector(widths=WIDTHS)
    if start:
        grow(load(Path(start)), model)
    size = model.view.size
    parts = sources(size[0], occluded, degraded, lettered, hard)
    mixture = Mixture(parts, model.tasks, seed=seed, size=size)
    if start.endswith(".onnx"):
        recompute_batchnorm_stats(model, (to_tensors(mixture.batch(i), model.view)[0] for i in range(16)))
    kernels = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]  # biases and norms are not decayed
    groups = [{"params": kernels, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    return Recipe(
        name="detector",
        model=model,
        mixture=mixture,
        optimizer=optimizer,
        schedule=cosine(300),
        steps=steps,
        seed=seed,
        ema=0.998,
        clip=5.0,
        data=("photos", "face_boxes", "fairface", "celeba_wild"),
    )

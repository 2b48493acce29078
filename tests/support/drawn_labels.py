"""Drawn faces that the detector finds, with labels of a new task: whether, and how high, a mask is worn."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mien.data import synthetic
from mien.types import Pixels

CLASSES = ("none", "worn")


def faces(reader: Any, count: int, seed: int = 0) -> Iterator[tuple[Pixels, int]]:
    """(picture, 0 without or 1 with a mask), in turns; only pictures in which one face is found."""
    made, i = 0, 0
    while made < count:
        picture, labels, _ = synthetic.draw(np.random.default_rng([seed, i]))
        i += 1
        kind = made % 2
        if kind:
            marks = labels["landmarks"]
            cv2.fillPoly(picture, [np.vstack([marks[2:15], marks[29]]).astype(np.int32)], (90, 160, 220))
        if len(reader.detector(picture)) == 1:
            made += 1
            yield picture, kind


def class_folders(root: Path, reader: Any, count: int, seed: int = 0) -> Path:
    """ROOT/none/0000.png and ROOT/worn/0001.png, ..."""
    for i, (picture, kind) in enumerate(faces(reader, count, seed)):
        folder = root / CLASSES[kind]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i:04d}.png")
    return root


def table(root: Path, pictures: Path, columns: dict[str, Any], name: str = "labels.csv") -> Path:
    """A CSV of the pictures of class folders; columns: name -> a function of (class, number)."""
    found = sorted(pictures.rglob("*.png"))
    path = root / name
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["path", *columns])
        for p in found:
            kind, number = CLASSES.index(p.parent.name), int(p.stem)
            lines.writerow([str(p), *(f(kind, number) for f in columns.values())])
    return path

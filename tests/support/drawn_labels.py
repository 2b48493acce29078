"""Drawn faces that the detector finds, with labels of a new task: whether, and how high, a mask is worn."""

from __future__ import annotations

import csv
import json
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


POINTS = {"left_eye": 36, "right_eye": 45, "nose": 30, "chin": 8}  # names -> numbers among the 68
MASKS = ("background", "skin", "hair")


def annotated(root: Path, reader: Any, count: int, seed: int = 0) -> tuple[Path, Path]:
    """(a COCO file with the keypoints `POINTS`, a folder with images and masks of `MASKS`)."""
    home, images, notes = root / "masks", list[dict[str, Any]](), list[dict[str, Any]]()
    for folder in ("images", "masks"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    i = 0
    while len(images) < count:
        picture, labels, _ = synthetic.draw(np.random.default_rng([seed, i]))
        i += 1
        if len(reader.detector(picture)) != 1:
            continue
        name = f"{len(images):04d}.png"
        Image.fromarray(picture).save(home / "images" / name)
        skin, hair = (np.isin(labels["parsing"], part) for part in (range(1, 13), (13, 14)))
        Image.fromarray((skin + 2 * hair).astype(np.uint8)).save(home / "masks" / name)
        h, w = picture.shape[:2]
        images.append({"id": len(images), "file_name": name, "width": w, "height": h})
        places = labels["landmarks"][list(POINTS.values())] + 0.5
        flat = np.hstack([places, np.full((len(places), 1), 2)]).reshape(-1).tolist()
        notes.append({"id": len(notes), "image_id": images[-1]["id"], "category_id": 1, "keypoints": flat})
    (home / "classes.txt").write_text("\n".join(MASKS) + "\n", encoding="utf-8")
    coco = home / "points.json"
    categories = [{"id": 1, "name": "face", "keypoints": list(POINTS)}]
    content = {"images": images, "annotations": notes, "categories": categories}
    coco.write_text(json.dumps(content), encoding="utf-8")
    return coco, home

r"""Places in training photos that a trained detector takes for faces, for the detector's next training.

    python -m recipes.false_faces --weights RUN/detector.onnx --teacher yunet_n_640.onnx \
        --table photos/train.parquet --out .cache/detector/false-photos.json
    python -m recipes.false_faces ... --table face_boxes/train.parquet \
        --labels .cache/detector/face_boxes.parquet --out .cache/detector/false-face_boxes.json

A place counts where no labeled face is, not even an uncertain one, and where the teacher, which reads it
enlarged, finds none at a low score. `recipes/detector.py` reads the files: name of a photo -> rows of x1, y1,
x2, y2, score, in pixels of the photo as it is trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from mien import geometry
from mien.data.detection import read_labeled, read_photos
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.types import Pixels

FLOOR = 0.35  # minimum score of the trained detector
TEACHER_FLOOR = 0.15  # the teacher must find nothing at this score
SIDE = 320  # pixels, of the surroundings as the teacher reads them


def shows_no_face(teacher: Any, pixels: Pixels, box: np.ndarray) -> bool:
    """Whether the teacher finds nothing at a box, in surroundings of 2.5 times its size.

    Args:
        teacher: YuNet, with a low score threshold.
        pixels: (H, W, 3) RGB.
        box: (4,) x1, y1, x2, y2.
    """
    center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * 2.5
    x, y = (int(v) for v in np.maximum(center - side / 2, 0))
    around = pixels[y : int(center[1] + side / 2), x : int(center[0] + side / 2), ::-1]
    if min(around.shape[:2]) < 6:
        return False
    scale = SIDE / max(around.shape[:2])
    shown = cv2.resize(np.ascontiguousarray(around), None, fx=scale, fy=scale)
    shown = cv2.copyMakeBorder(
        shown, 0, 2 * SIDE - shown.shape[0], 0, 2 * SIDE - shown.shape[1], cv2.BORDER_CONSTANT
    )
    found = teacher.detect(shown)[1]
    if found is None:
        return True
    boxes = geometry.corners(found) / scale + [x, y, x, y]
    return bool(geometry.iou(box, boxes)[0].max() < 0.15)


def main(
    weights: Annotated[Path, typer.Option(help="Trained detector, an ONNX file.")],
    teacher: Annotated[Path, typer.Option(help="YuNet's ONNX file with an input of 640 x 640.")],
    table: Annotated[Path, typer.Option(help="Parquet table with the columns name and image.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels by recipes/detector_labels.py; without them, those of the table."),
    ] = None,
) -> None:
    """Write the false faces of a table."""
    detector = Detector(OnnxModel(weights, threads=1), threshold=FLOOR)
    judge = cv2.FaceDetectorYN.create(str(teacher), "", (2 * SIDE, 2 * SIDE), TEACHER_FLOOR, 0.3, 100)
    photos = read_labeled(table, labels) if labels else read_photos(table.parent.parent, table.stem)
    rows: dict[str, list[list[float]]] = {}
    for photo in photos:
        known = geometry.corners(photo.faces)
        for face in detector(photo.pixels):
            box = np.asarray(face.box, float)
            if len(known) and geometry.iou(box, known)[0].max() > 0.05:
                continue
            if shows_no_face(judge, photo.pixels, box):
                rows.setdefault(photo.name, []).append(
                    [*(round(float(v), 1) for v in box), round(face.score, 3)]
                )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows), encoding="utf-8")
    typer.echo(f"{out}: {sum(map(len, rows.values()))} places in {len(rows)} of {len(photos)} photos")


if __name__ == "__main__":
    typer.run(main)

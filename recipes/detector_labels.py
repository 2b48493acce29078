r"""Label photos for the detector with a teacher: boxes, five points and scores.

    python -m recipes.detector_labels --teacher yunet_n_640.onnx --table fairface/train.parquet \
        --out fairface.parquet --limit 9000

The teacher is YuNet (Apache-2.0, trained on WIDER FACE), run by OpenCV at two sizes. A face found at one size
only gets a lower score, so that training ignores it instead of using it as a face or as background. Rows are
as in `mien.tasks.detection`: x, y, w, h, five points in picture order, score. Hand-drawn boxes of a table
(`faces` with `box` and `label`) replace the teacher's boxes. They get score 1, and the teacher's points where
it agrees, else those of a mean face in the box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from mien.data import set_aside
from mien.geometry import corners, iou
from mien.tasks.detection import CONFIDENT

SIZES = (320, 640)
FLOOR = 0.3  # minimum teacher score of a label
# Five points of a mean face, as fractions of its box: the median over the teacher's confident faces.
MEAN_POINTS = np.array([[0.263, 0.395], [0.733, 0.392], [0.502, 0.601], [0.297, 0.739], [0.71, 0.736]])


def teacher_rows(teacher: Any, bgr: np.ndarray, sizes: tuple[int, ...] = SIZES) -> np.ndarray:
    """Faces (n, 15) of a picture (H, W, 3) BGR, from passes at several longer sides."""
    passes = []
    for size in sizes:
        scale = min(size / max(bgr.shape[:2]), 4.0)
        shown = cv2.resize(
            bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        teacher.setInputSize((shown.shape[1], shown.shape[0]))
        found = teacher.detect(shown)[1]
        rows = np.zeros((0, 15)) if found is None else found.astype(np.float64)
        rows[:, :14] /= scale
        # the teacher lists the subject's right eye first, which is the picture's left: already picture order
        passes.append(rows)
    return merge_passes(passes)


def merge_passes(passes: list[np.ndarray]) -> np.ndarray:
    """One row per face: the best of the passes; the score of a face that not all passes show is lowered by
    0.15.
    """
    rows = np.concatenate(passes)
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    merged: list[np.ndarray] = []
    for row in rows:
        if not merged or iou(corners(row)[0], corners(np.array(merged)))[0].max() < 0.45:
            seen = sum(bool(len(p)) and iou(corners(row)[0], corners(p))[0].max() >= 0.45 for p in passes)
            merged.append(np.append(row[:14], row[14] - (0.15 if seen < len(passes) else 0.0)))
    found = np.array(merged).reshape(-1, 15)
    return found[found[:, 14] >= FLOOR]


def hand_rows(boxes: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Hand-drawn boxes (n, 4) xyxy with points; a confident teacher face that nobody drew is kept as an
    uncertain one.
    """
    rows = []
    for x1, y1, x2, y2 in boxes:
        overlap = iou(np.array([x1, y1, x2, y2]), corners(teacher))[0] if len(teacher) else np.zeros(0)
        if len(overlap) and overlap.max() >= 0.5:
            points = teacher[overlap.argmax(), 4:14].reshape(5, 2)
        else:
            points = MEAN_POINTS * [x2 - x1, y2 - y1] + [x1, y1]
        rows.append([x1, y1, x2 - x1, y2 - y1, *points.ravel(), 1.0])
    drawn = np.array(rows).reshape(-1, 15)
    for row in teacher[teacher[:, 14] >= CONFIDENT]:
        if iou(corners(row)[0], corners(drawn))[0].max() < 0.2:
            drawn = np.vstack([drawn, np.append(row[:14], 0.5)])
    return drawn


def shows_center(rows: np.ndarray, width: int, height: int) -> bool:
    """Whether a confident face contains the picture's center."""
    boxes = corners(rows[rows[:, 14] >= CONFIDENT])
    x, y = width / 2, height / 2
    return bool(((boxes[:, 0] < x) & (boxes[:, 2] > x) & (boxes[:, 1] < y) & (boxes[:, 3] > y)).any())


def main(
    teacher: Annotated[Path, typer.Option(help="YuNet's ONNX file.")],
    table: Annotated[Path, typer.Option(help="Parquet table with the columns name and image.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write: name, faces.")],
    dataset: Annotated[
        str, typer.Option(help="Name of the data set in the list of pictures that are set aside.")
    ] = "",
    centered: Annotated[
        bool, typer.Option(help="Leave out pictures whose central face the teacher misses.")
    ] = False,
    limit: Annotated[
        int, typer.Option(help="Maximum number of pictures, evenly spread over the table; 0 for all.")
    ] = 0,
) -> None:
    """Label a table of pictures."""
    detector = cv2.FaceDetectorYN.create(str(teacher), "", (320, 320), FLOOR, 0.45, 200)
    listed = pq.read_table(table, columns=["name"])["name"].to_pylist()
    aside = set_aside.names(dataset)
    chosen = [i for i, n in enumerate(listed) if n not in aside]
    if limit and limit < len(chosen):
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, limit).astype(int)]
    selected, rows, at = set(chosen), [], 0
    for batch in pq.ParquetFile(table).iter_batches(256):
        for record in batch.to_pylist():
            if at in selected:
                bgr = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
                faces = teacher_rows(detector, bgr)
                if record.get("faces") and "box" in record["faces"][0]:
                    faces = hand_rows(np.array([f["box"] for f in record["faces"]], float), faces)
                elif centered and not shows_center(faces, bgr.shape[1], bgr.shape[0]):
                    at += 1
                    continue
                rows.append({"name": record["name"], "faces": faces.astype(np.float32).tolist()})
            at += 1
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out)
    typer.echo(f"{out}: {len(rows)} pictures, {sum(len(r['faces']) for r in rows)} faces")


if __name__ == "__main__":
    typer.run(main)

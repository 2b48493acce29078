"""Teacher labels of face pictures for the face network: five points, and identity embeddings.

    python -m recipes.teacher_labels points --teacher yunet_n_640.onnx --table fairface/train.parquet --out points/fairface-train.parquet
    python -m recipes.teacher_labels points --pad 0.3 ...    # tight crops such as UTKFace's

The teacher of points is YuNet (Apache-2.0, trained on WIDER FACE), read by OpenCV. Where a picture shows several faces, its labels are
taken to be those of the face nearest to the center, weighted by size. A picture in which the teacher finds no face has score 0.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

app = typer.Typer(add_completion=False)
FLOOR = 0.3  # minimum teacher score
CONFIDENT = 0.7  # below it the picture is read once more, larger


def central_face(rows: np.ndarray, size: tuple[int, int]) -> int:
    """Index of the face (n, 15: x, y, w, h, five points, score) nearest to the center of a picture (width, height), weighted by size."""
    middle = rows[:, :2] + rows[:, 2:4] / 2 - np.asarray(size) / 2
    sides = np.sqrt(np.maximum(rows[:, 2] * rows[:, 3], 0))
    return int((sides - np.linalg.norm(middle, axis=1)).argmax())


def find_face(teacher: Any, bgr: np.ndarray, *, side: int, pad: float) -> np.ndarray | None:
    """The central face (15,) of a picture (H, W, 3) BGR, in its pixels; None where the teacher finds none.

    Args:
        side: longer side in pixels at which the teacher reads the picture. pad: replicated border, as a fraction of the longer side.
    """
    h, w = bgr.shape[:2]
    border = round(pad * max(h, w))
    shown = cv2.copyMakeBorder(bgr, border, border, border, border, cv2.BORDER_REPLICATE) if border else bgr
    scale = side / max(shown.shape[:2])
    shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    teacher.setInputSize((shown.shape[1], shown.shape[0]))
    found = teacher.detect(shown)[1]
    if found is None or not len(found):
        return None
    rows = found.astype(np.float64)
    rows[:, :14] /= scale
    rows[:, :2] -= border
    rows[:, 4:14] -= border
    return rows[central_face(rows, (w, h))]


@app.callback()
def main() -> None:
    """Teacher labels of face pictures."""


@app.command()
def points(
    teacher: Annotated[Path, typer.Option(help="YuNet's ONNX file.")],
    table: Annotated[Path, typer.Option(help="Parquet table with the columns name and image.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write: name, points5, box, score.")],
    side: Annotated[int, typer.Option(help="Longer side in pixels of the first pass.")] = 224,
    pad: Annotated[float, typer.Option(help="Border added around tight crops, as a fraction of the longer side.")] = 0.0,
) -> None:
    """Five points of every picture of a table."""
    cv2.setNumThreads(1)
    detector = cv2.FaceDetectorYN.create(str(teacher), "", (320, 320), FLOOR, 0.45, 200)
    rows, since = [], time.perf_counter()
    for batch in pq.ParquetFile(table).iter_batches(256, columns=["name", "image"]):
        for record in batch.to_pylist():
            bgr = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
            face = find_face(detector, bgr, side=side, pad=pad)
            if face is None or face[14] < CONFIDENT:
                again = find_face(detector, bgr, side=2 * side, pad=max(pad, 0.25))
                face = again if face is None or (again is not None and again[14] > face[14]) else face
            row = np.zeros(15) if face is None else face
            rows.append({"name": record["name"], "points5": row[4:14].tolist(), "box": row[:4].tolist(), "score": float(row[14])})
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out)
    missed = sum(r["score"] == 0 for r in rows)
    typer.echo(f"{out}: {len(rows)} pictures, {missed} without a face, {len(rows) / (time.perf_counter() - since):.0f} pictures/s")


if __name__ == "__main__":
    app()

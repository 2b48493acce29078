r"""Teacher labels of face pictures for the face network: five points, and identity embeddings.

    python -m recipes.teacher_labels points --teacher yunet_n_640.onnx --table fairface/train.parquet \
        --out points/fairface-train.parquet
    python -m recipes.teacher_labels points --pad 0.3 ...    # tight crops such as UTKFace's
    python -m recipes.teacher_labels identity --teacher face-reidentification-retail-0095.xml \
        --table fairface/train.parquet \
        --points points/fairface-train.parquet --out identity/fairface-train.parquet

The teacher of points is YuNet (Apache-2.0, trained on WIDER FACE), read by OpenCV. Where a picture shows
several faces, its labels are taken to be those of the face nearest to the center, weighted by size. A picture
in which the teacher finds no face has score 0. The teacher of identity is `face-reidentification-retail-0095`
(Open Model Zoo, Apache-2.0), run by OpenVINO: pip install openvino.
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

from mien import geometry

app = typer.Typer(add_completion=False)
FLOOR = 0.3  # minimum teacher score
CONFIDENT = 0.7  # below it the picture is read once more, larger
# The five points of the identity teacher, in pixels of its 128 x 128 picture
IDENTITY_POINTS = 128 * np.array(
    [(0.3156, 0.4616), (0.6827, 0.4616), (0.5003, 0.6405), (0.3495, 0.8247), (0.6534, 0.8247)]
)


def central_face(rows: np.ndarray, size: tuple[int, int]) -> int:
    """Index of the face (n, 15: x, y, w, h, five points, score) nearest to the center of a picture (width,
    height), weighted by size.
    """
    middle = rows[:, :2] + rows[:, 2:4] / 2 - np.asarray(size) / 2
    sides = np.sqrt(np.maximum(rows[:, 2] * rows[:, 3], 0))
    return int((sides - np.linalg.norm(middle, axis=1)).argmax())


def find_face(teacher: Any, bgr: np.ndarray, *, side: int, pad: float) -> np.ndarray | None:
    """The central face (15,) of a picture (H, W, 3) BGR, in its pixels; None where the teacher finds none.

    Args:
        side: longer side in pixels at which the teacher reads the picture.
        pad: replicated border, as a fraction of the longer side.
    """
    h, w = bgr.shape[:2]
    border = round(pad * max(h, w))
    shown = cv2.copyMakeBorder(bgr, border, border, border, border, cv2.BORDER_REPLICATE) if border else bgr
    scale = side / max(shown.shape[:2])
    shown = cv2.resize(
        shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
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
    pad: Annotated[
        float, typer.Option(help="Border added around tight crops, as a fraction of the longer side.")
    ] = 0.0,
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
                second = find_face(detector, bgr, side=2 * side, pad=max(pad, 0.25))
                face = second if face is None or (second is not None and second[14] > face[14]) else face
            row = np.zeros(15) if face is None else face
            rows.append(
                {
                    "name": record["name"],
                    "points5": row[4:14].tolist(),
                    "box": row[:4].tolist(),
                    "score": float(row[14]),
                }
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out)
    missed = sum(r["score"] == 0 for r in rows)
    typer.echo(
        f"{out}: {len(rows)} pictures, {missed} without a face,"
        f" {len(rows) / (time.perf_counter() - since):.0f} pictures/s"
    )


def identity_crop(bgr: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) BGR brought to the identity teacher's template by its five points (5, 2): (128,
    128, 3).
    """
    return geometry.warp(bgr, geometry.fit_similarity(points, IDENTITY_POINTS), (128, 128))


@app.command()
def identity(
    teacher: Annotated[Path, typer.Option(help="The identity network's .xml, its .bin next to it.")],
    table: Annotated[Path, typer.Option(help="Parquet table with the columns name and image.")],
    points: Annotated[Path, typer.Option(help="Parquet table with name, points5 and score.")],
    out: Annotated[
        Path, typer.Option(help="Parquet file to write: name, descriptor (256 float16, length 1).")
    ],
    confident: Annotated[
        float, typer.Option(help="Minimum score of the points; other pictures get no row.")
    ] = 0.6,
    prefix: Annotated[
        str, typer.Option(help="Leave out names that begin so, such as LFW's pictures in MTFL.")
    ] = "",
) -> None:
    """Identity embeddings of every picture of a table whose points are confident."""
    import openvino

    cv2.setNumThreads(1)
    placed = {r["name"]: r["points5"] for r in pq.read_table(points).to_pylist() if r["score"] >= confident}
    core = openvino.Core()
    network = core.read_model(str(teacher))
    network.reshape([-1, 3, 128, 128])
    compiled = core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": 1})
    names, found = list[str](), list[np.ndarray]()
    for batch in pq.ParquetFile(table).iter_batches(32, columns=["name", "image"]):
        chosen = [
            r
            for r in batch.to_pylist()
            if r["name"] in placed and not (prefix and r["name"].startswith(prefix))
        ]
        if not chosen:
            continue
        decoded = [cv2.imdecode(np.frombuffer(r["image"], np.uint8), cv2.IMREAD_COLOR) for r in chosen]
        five = [np.asarray(placed[r["name"]], np.float64).reshape(5, 2) for r in chosen]
        crops = np.stack([identity_crop(b, p) for b, p in zip(decoded, five, strict=True)])
        raw = compiled(crops.transpose(0, 3, 1, 2).astype(np.float32))[0].reshape(len(crops), -1)
        names += [r["name"] for r in chosen]
        found.append(raw / np.linalg.norm(raw, axis=1, keepdims=True))
    out.parent.mkdir(parents=True, exist_ok=True)
    values = np.concatenate(found).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    pq.write_table(pa.table({"name": names, "descriptor": column}), out)
    typer.echo(f"{out}: {len(names)} pictures")


if __name__ == "__main__":
    app()

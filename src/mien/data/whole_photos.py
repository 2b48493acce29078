"""Whole photos of the second data pack that detectors are measured on: hand-drawn boxes, and pictures of one
centered face.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mien.data import set_aside
from mien.data.detection import decoded
from mien.errors import MissingData
from mien.types import Array, Pixels


class FaceBoxesDataset:
    """The photos of `face_boxes` that are set aside from training. Iterating gives (pixels, faces (n, 15)).

    Rows are as in `mien.tasks.detection`, with score 1 and no points (NaN): people drew boxes only.
    """

    def __init__(self, root: Path):
        """Args:
        root: folder of the second data pack.

        Raises:
            MissingData: the table is not there, or holds none of the photos.
        """
        self.path, aside = _table(root / "face_boxes" / "train.parquet"), set_aside.names("face_boxes")
        names = pq.read_table(self.path, columns=["name"])["name"].to_pylist()
        self.rows = [i for i, name in enumerate(names) if name in aside]
        if not self.rows:
            raise MissingData(
                f"{self.path} holds none of the {len(aside)} photos that are set aside; build the pack again"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Pixels, Array]]:
        wanted = set(self.rows)
        for i, row in enumerate(_records(self.path, ["name", "image", "faces"])):
            if i in wanted:
                yield decoded(row, self.path), box_rows([f["box"] for f in row["faces"]])


class CenteredFaceDataset:
    """Pictures with one face over the center. Iterating gives (pixels, center (x, y)).

    Args:
        table: Parquet with the columns name and image.

    Raises:
        MissingData: the table is not there.
    """

    def __init__(self, table: Path):
        self.path = _table(table)

    def __len__(self) -> int:
        return int(pq.ParquetFile(self.path).metadata.num_rows)

    def __iter__(self) -> Iterator[tuple[Pixels, tuple[float, float]]]:
        for row in _records(self.path, ["name", "image"]):
            pixels = decoded(row, self.path)
            yield pixels, ((pixels.shape[1] - 1) / 2, (pixels.shape[0] - 1) / 2)


def box_rows(boxes: npt.ArrayLike) -> Array:
    """Boxes (n, 4) xyxy -> rows (n, 15) with score 1 and points of NaN."""
    b = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.hstack([b[:, :2], b[:, 2:] - b[:, :2], np.full((len(b), 10), np.nan), np.ones((len(b), 1))])


def _table(path: Path) -> Path:
    if not path.is_file():
        raise MissingData(f"no table {path}; set MIEN_DATA_MORE to the folder of the second data pack")
    return path


def _records(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(path).iter_batches(64, columns=columns):
        yield from batch.to_pylist()

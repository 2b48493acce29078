"""Whole photos with hand-drawn boxes, and pictures of one centered face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien.data import set_aside
from mien.data.whole_photos import CenteredFaceDataset, FaceBoxesDataset
from mien.errors import MissingData
from mien.tasks.detection import DetectionMetrics, PointInBoxMetrics
from mien.types import Detection


def encoded(width: int, height: int) -> bytes:
    ok, data = cv2.imencode(".png", np.full((height, width, 3), (0, 0, 255), np.uint8))
    assert ok
    return data.tobytes()


def test_only_photos_that_are_set_aside_are_read(tmp_path: Path) -> None:
    aside = sorted(set_aside.names("face_boxes"))[0]
    faces = [{"box": [10.0, 20.0, 40.0, 60.0], "label": "with_mask"}]
    rows = [{"name": n, "image": encoded(80, 70), "faces": faces} for n in ("of training.png", aside)]
    (tmp_path / "face_boxes").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "face_boxes" / "train.parquet")
    dataset = FaceBoxesDataset(tmp_path)
    ((pixels, labels),) = dataset
    assert len(dataset) == 1 and pixels.shape == (70, 80, 3) and tuple(pixels[0, 0]) == (255, 0, 0)
    np.testing.assert_array_equal(labels[:, [0, 1, 2, 3, 14]], [[10, 20, 30, 40, 1]])


def test_a_missing_or_foreign_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="MIEN_DATA_MORE"):
        FaceBoxesDataset(tmp_path)
    (tmp_path / "face_boxes").mkdir()
    pq.write_table(pa.Table.from_pylist([{"name": "other.png"}]), tmp_path / "face_boxes" / "train.parquet")
    with pytest.raises(MissingData, match="none of the 100 photos"):
        FaceBoxesDataset(tmp_path)


def test_a_centered_face_is_found_where_a_box_contains_the_center(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"name": "a", "image": encoded(101, 61)}]), tmp_path / "val.parquet")
    dataset = CenteredFaceDataset(tmp_path / "val.parquet")
    ((_, center),) = dataset
    assert len(dataset) == 1 and center == (50, 30)
    metric, points = PointInBoxMetrics(), np.zeros((5, 2), np.float32)
    metric.update([Detection(np.array([40, 20, 60, 40], np.float32), 0.9, points)], center)
    metric.update([Detection(np.array([0, 0, 20, 40], np.float32), 0.9, points)], center)
    metric.update([], center)
    assert metric.compute() == {"recall": pytest.approx(1 / 3), "n": 3}


def test_the_overlap_of_a_found_face_is_a_choice() -> None:
    label = np.array([[0, 0, 10, 10, *[np.nan] * 10, 1]])
    answer = [Detection(np.array([0, 0, 10, 4.5], np.float32), 0.9, np.zeros((5, 2), np.float32))]
    for overlap, hits in ((0.4, 1.0), (0.5, 0.0)):
        metric = DetectionMetrics(overlap)
        metric.update(answer, label)
        assert metric.compute()["recall"] == metric.compute()["precision"] == hits

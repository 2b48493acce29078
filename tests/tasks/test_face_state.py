"""Eyes, gaze, occlusion and quality: sides, angles and what answers say."""

from __future__ import annotations

import numpy as np
import pytest

from mien import geometry
from mien.tasks import EYES, GAZE, OCCLUSION, QUALITY
from mien.tasks.gaze import Gaze
from mien.types import Crop

CROP = Crop(np.zeros((128, 128, 3), np.uint8), np.eye(2, 3))
FLIP = [[-1.0, 0, 127], [0, 1, 0]]


def test_the_left_eye_is_the_subjects_own() -> None:
    eyes = EYES.read(np.array([-5.0, 5.0], np.float32), CROP)  # picture order
    assert eyes.right < 0.01 and eyes.left > 0.99 and eyes.both_open == eyes.right
    assert eyes.summary() == "one eye closed"
    target, mask = EYES.encode_target({"left": 1, "right": None}, np.eye(2, 3), False, (128, 128))
    assert target.tolist() == [0, 1] and mask.tolist() == [False, True]
    target, mask = EYES.encode_target({"left": 1, "right": None}, FLIP, True, (128, 128))
    assert target.tolist() == [1, 0] and mask.tolist() == [True, False]


def test_accuracy_of_eyes_counts_open_and_closed_alike() -> None:
    metrics = EYES.metrics()
    open_eyes = EYES.read(np.array([3, 3], np.float32), CROP)
    for label in ({"left": 1, "right": 1}, {"left": 1, "right": None}, {"left": 0, "right": 1}):
        metrics.update(open_eyes, label)
    found = metrics.compute()
    assert (found["open"], found["closed"], found["balanced_accuracy"]) == (100, 0, 50)
    assert found["accuracy"] == pytest.approx(80)


def test_gaze_is_read_in_the_photo_and_not_in_the_crop() -> None:
    turned = geometry.about((64, 64), degrees=90)
    label = (20.0, 0.0)
    raw, known = GAZE.encode_target(label, turned, False, (128, 128))
    assert known and abs(raw[0]) < 0.01 and raw[1] == pytest.approx(-1, abs=0.01)  # in the crop: down
    again = GAZE.read(raw, Crop(CROP.pixels, turned))
    assert (again.yaw, again.pitch) == pytest.approx(label, abs=1e-4)
    mirrored, _ = GAZE.encode_target((20.0, 5.0), FLIP, True, (128, 128))
    assert mirrored.tolist() == pytest.approx([-1, 0.25], abs=1e-5)


def test_a_gaze_at_the_camera_is_a_small_angle() -> None:
    assert Gaze(0, 0).angle == 0 and Gaze(8, -8).at_camera and not Gaze(10, 10).at_camera
    assert Gaze(90, 0).angle == pytest.approx(90) and Gaze(0, -30).angle == pytest.approx(30)
    (cell,) = [c for c in GAZE.columns() if c.name == "gaze_at_camera"]
    assert cell.get({"gaze": Gaze(30, 0).to_dict()}) == 0 and cell.get({}) is None


def test_occlusion_says_the_thing_or_the_place() -> None:
    raw = np.array([4, -4, -4, -4, 4, 4], np.float32)
    assert OCCLUSION.read(raw, CROP).summary() == "mask"
    raw = np.array([-4, -4, 4, -4, 4, -4], np.float32)
    found = OCCLUSION.read(raw, CROP)
    assert found.right_eye > 0.9 > found.left_eye and found.summary() == "right eye covered, nose covered"
    assert found.covered == pytest.approx((0.5 + 1) / 3, abs=0.02)
    target, mask = OCCLUSION.encode_target({"mask": 1, "left_eye": 0.3}, FLIP, True, (128, 128))
    assert target.tolist() == pytest.approx([1, 0, 0.3, 0, 0, 0]) and mask.sum() == 2


def test_size_is_a_part_of_quality_that_the_crop_knows() -> None:
    raw = np.zeros(5, np.float32)
    small = QUALITY.read(raw, Crop(CROP.pixels, np.array([[4.0, 0, 0], [0, 4, 0]])))  # enlarged four times
    assert small.size == pytest.approx(8 / 40) and small.weakest == "size"
    assert QUALITY.read(raw, CROP).size == pytest.approx(32 / 40)

"""The tanh-warp of LaPa's crops (FaRL): points there and back, pictures and masks of a whole photo in one
crop.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import geometry
from mien.errors import UsageError
from mien.types import Crop

FACTORS = st.floats(0.05, 1.0)


@given(st.floats(-1, 1), FACTORS)
def test_there_and_back_is_nothing_inside_the_crop(c, w):
    assert float(geometry.tanh_unwarp(geometry.tanh_warp(c, w), w)) == pytest.approx(c, abs=1e-9)
    assert float(geometry.tanh_warp(-c, w)) == -float(geometry.tanh_warp(c, w))


@given(st.floats(-3, 3), st.floats(0.2, 1.0))
def test_everything_falls_inside(c, w):
    assert abs(float(geometry.tanh_warp(c, w))) < 1


@given(st.floats(-20, 20), st.floats(-20, 20), FACTORS)
def test_order_is_kept(a, b, w):
    low, high = geometry.tanh_warp(sorted((a, b)), w)
    assert low <= high
    back = geometry.tanh_unwarp((low, high), w)
    assert back[0] <= back[1]


@given(FACTORS)
def test_it_starts_at_one_minus_the_factor_with_slope_one(w):
    edge, step = 1 - w, 1e-5
    assert float(geometry.tanh_warp(edge, w)) == pytest.approx(edge, abs=1e-12)
    for side in (-step, step):
        assert float(geometry.tanh_warp(edge + side, w) - edge) / side == pytest.approx(1, abs=1e-4)


@given(st.floats(-1, 1), FACTORS)
def test_nothing_moves_in_the_middle(c, w):
    inside = c * (1 - w)
    assert float(geometry.tanh_warp(inside, w)) == inside


def test_values_by_hand():
    assert geometry.tanh_warp([0.1, 0.2, 1.0, -1.0], 0.8) == pytest.approx(
        [0.1, 0.2, 0.2 + 0.8 * np.tanh(1), -0.2 - 0.8 * np.tanh(1)]
    )
    assert geometry.tanh_unwarp(1.0, 0.8) == pytest.approx(
        0.2 + 0.8 * np.arctanh(0.999)
    )  # the border is as far as it goes
    assert geometry.tanh_warp([-3.0, 0.5], 0).tolist() == [-3.0, 0.5]
    assert geometry.tanh_unwarp([-3.0, 0.5], 0).tolist() == [-3.0, 0.5]
    for call in (geometry.tanh_warp, geometry.tanh_unwarp):
        with pytest.raises(UsageError, match=r"not 1\.5"):
            call(0.5, 1.5)


def scene() -> tuple[np.ndarray, np.ndarray, Crop]:
    """Classes of a photo of 120 x 90 (0, 1 in a disc, 2 at the right), a color for each, and a turned crop
    of its middle.
    """
    y, x = np.mgrid[:90, :120]
    classes = np.where((x - 60) ** 2 + (y - 45) ** 2 < 20**2, 1, np.where(x > 75, 2, 0)).astype(np.uint8)
    a = geometry.about((60, 45), degrees=12, scale=1.6, shift=(3.5, 18.5))
    return classes, 255 * np.eye(3, dtype=np.uint8)[classes], Crop(np.zeros((128, 128, 3), np.uint8), a)


@pytest.mark.parametrize("factor", [0.8, 1.0])
def test_a_mask_comes_back_from_the_warped_crop(factor):
    classes, pixels, crop = scene()
    warped = geometry.tanh_crop(pixels, crop.from_photo, (128, 128), factor)
    found = geometry.unwarp_mask(warped.transpose(2, 0, 1), crop, (120, 90), factor)
    assert found.shape == classes.shape
    assert found.dtype == np.uint8
    assert (found == classes).mean() > 0.985
    assert (found[:, 112:] == 2).mean() > 0.98  # beyond the plain crop, and still there


def test_factor_0_is_the_plain_crop_and_half_sized_logits_lie_right():
    classes, pixels, crop = scene()
    plain, same = (
        geometry.warp(pixels, crop.from_photo, (128, 128)),
        geometry.tanh_crop(pixels, crop.from_photo, (128, 128), 0),
    )
    assert np.abs(plain.astype(int) - same).max() <= 9  # OpenCV rounds places to 1/32 of a pixel
    small = same.astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
    found = geometry.unwarp_mask(small.transpose(2, 0, 1), crop, (120, 90), 0)
    y, x = np.mgrid[:90, :120]
    place = geometry.move_points(np.stack([x, y], -1), crop.from_photo)
    inside = ((place > 2) & (place < 125)).all(-1)
    assert (found == classes)[inside].mean() > 0.97
    # no shift: the disc's center of mass is where it was
    disc = [np.argwhere((m == 1) & inside).mean(0) for m in (found, classes)]
    assert disc[0] == pytest.approx(disc[1], abs=0.1)

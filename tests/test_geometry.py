"""Warps and fits: properties that hold for any face, and a few cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import geometry
from mien.errors import UsageError
from mien.tasks import pose
from mien.types import View

VIEW = View((128, 128), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
turns = st.floats(-180, 180)
scales = st.floats(0.05, 20)
shifts = st.tuples(st.floats(-500, 500), st.floats(-500, 500))


@given(turns, scales, shifts)
@settings(deadline=None)
def test_fit_recovers_any_similarity(degrees, scale, shift):
    truth = geometry.about((10, 20), degrees=degrees, scale=scale, shift=shift)
    points = np.array([(0, 0), (30, 5), (12, 40), (3, 22), (50, 61)], float)
    found = geometry.fit_similarity(points, geometry.move_points(points, truth))
    assert np.allclose(found, truth, atol=1e-6 * max(1, scale))


@given(turns, scales, shifts, st.booleans())
@settings(deadline=None)
def test_invert_undoes_and_compose_applies_inner_first(degrees, scale, shift, mirror):
    a = geometry.about((3, 4), degrees=degrees, scale=scale, shift=shift, mirror=mirror)
    points = np.array([(0.0, 0.0), (100.0, -30.0), (7.0, 9.0)])
    assert np.allclose(
        geometry.move_points(geometry.move_points(points, a), geometry.invert(a)), points, atol=1e-6
    )
    b = geometry.about((1, 1), degrees=30, scale=2)
    assert np.allclose(
        geometry.move_points(points, geometry.compose(b, a)),
        geometry.move_points(geometry.move_points(points, a), b),
    )
    assert geometry.scale_of(a) == pytest.approx(scale)


@given(st.floats(-40, 40), st.floats(0.7, 1.6))
@settings(deadline=None, max_examples=20)
def test_a_dot_lands_where_its_point_lands(degrees, scale):
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[39:42, 59:62] = 255  # centered on (60, 40)
    a = geometry.about((49.5, 49.5), degrees=degrees, scale=scale)
    out = geometry.warp(picture, a, (100, 100))[..., 0].astype(float)
    if out.sum() == 0:
        return
    y, x = np.indices(out.shape)
    center = np.array([(out * x).sum(), (out * y).sum()]) / out.sum()
    expected = geometry.move_points([(60.0, 40.0)], a)[0]
    if (expected > 5).all() and (expected < 94).all():
        assert np.abs(center - expected).max() < 0.2


def test_shrinking_does_not_move_the_picture():
    picture = np.zeros((800, 800, 3), np.uint8)
    picture[380:421, 580:621] = 255  # centered on (600, 400)
    out = geometry.warp(picture, geometry.about((0, 0), scale=0.1), (80, 80))[..., 0].astype(float)
    y, x = np.indices(out.shape)
    center = np.array([(out * x).sum(), (out * y).sum()]) / out.sum()
    assert np.abs(center - (60, 40)).max() < 0.1


def test_mask_has_its_own_value_outside():
    out = geometry.warp_mask(
        np.ones((10, 10), np.uint8), geometry.about((0, 0), shift=(5, 0)), (10, 10), outside=255
    )
    assert (out[:, :5] == 255).all()
    assert (out[:, 5:] == 1).all()


def test_align_brings_the_points_to_the_template():
    points = geometry.move_points(
        geometry.template_points(VIEW), geometry.about((0, 0), degrees=25, scale=3, shift=(40, 10))
    )
    crop = geometry.align(np.zeros((500, 500, 3), np.uint8), points, VIEW)
    assert crop.pixels.shape == (128, 128, 3)
    assert np.allclose(
        geometry.move_points(points, crop.from_photo), geometry.template_points(VIEW), atol=1e-6
    )


@given(turns, st.floats(0.2, 5), shifts)
@settings(deadline=None)
def test_pixels_outside_the_photo_are_those_that_a_warped_mask_leaves_empty(degrees, scale, shift):
    affine = geometry.about((30, 20), degrees=degrees, scale=scale, shift=shift)
    outside = geometry.outside_photo(affine, (60, 40), (48, 32))
    there = geometry.warp_mask(np.ones((40, 60), np.uint8), affine, (48, 32), outside=0) > 0
    if outside is None:
        assert there.all()
    else:
        assert outside.shape == (32, 48)
        # OpenCV rounds places to 1/32 of a pixel, so that a pixel on the very edge may differ
        assert (outside == there).mean() < 0.02


def test_a_crop_inside_the_photo_has_nothing_outside():
    assert geometry.outside_photo(np.eye(2, 3), (100, 100), (50, 50)) is None
    beyond = geometry.outside_photo(np.eye(2, 3), (40, 50), (50, 50))
    assert beyond is not None
    assert beyond[:, 40:].all()
    assert not beyond[:, :40].any()


def test_fit_refuses_what_has_no_size():
    with pytest.raises(UsageError, match="coincide"):
        geometry.fit_similarity(np.zeros((5, 2)), geometry.template_points(VIEW))
    with pytest.raises(UsageError, match="no template 'nose'"):
        geometry.template_points(View((64, 64), "nose", VIEW.mean, VIEW.std))


def test_corners_of_boxes_with_sizes():
    rows = [(1, 2, 10, 20, 0.9), (0, 0, 3, 4, 0.1)]
    assert geometry.corners(rows).tolist() == [[1, 2, 11, 22], [0, 0, 3, 4]]
    assert geometry.corners(rows[0]).tolist() == [[1, 2, 11, 22]]
    assert geometry.corners(np.zeros((0, 15))).shape == (0, 4)


def test_iou_by_hand():
    boxes = [(0, 0, 10, 10), (0, 0, 10, 5), (20, 20, 30, 30)]
    assert geometry.iou(boxes[:1], boxes)[0].tolist() == pytest.approx([1, 0.5, 0])


def _turned_head(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The generic head seen by a far camera after a turn; only the fit's points are meaningful."""
    y, p, r = np.radians([yaw, pitch, roll])
    # from the words of the docstring: roll on screen, then pitch, then yaw; the nose looks along -z
    rz = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])  # p > 0 lifts the nose
    ry = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    seen = pose._MODEL @ (ry @ rx @ rz).T
    depth = 4 * np.ptp(pose._MODEL, axis=0).max() + seen[:, 2:]
    out = np.zeros((68, 2))
    out[list(pose._MODEL_INDEX)] = seen[:, :2] / depth * 1000 + 300
    return out


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"),
    [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 25), (20, -10, 15)],
)
def test_pose_of_a_turned_head(yaw, pitch, roll):
    assert pose.pose_from_68(_turned_head(yaw, pitch, roll)) == pytest.approx((yaw, pitch, roll), abs=4)


def test_signs_of_pose_are_the_documented_ones():
    front = _turned_head(0, 0, 0)
    nose, left_eye, right_eye, chin = 30, 36, 45, 8
    to_right = _turned_head(30, 0, 0)
    middle = (to_right[left_eye] + to_right[right_eye]) / 2
    assert to_right[nose, 0] > middle[0]  # yaw > 0: the nose moves to the picture's right
    up = _turned_head(0, 25, 0)
    assert up[nose, 1] - up[left_eye, 1] < front[nose, 1] - front[left_eye, 1]  # pitch > 0: the nose rises
    tilted = _turned_head(0, 0, 25)
    assert tilted[right_eye, 1] > tilted[left_eye, 1]  # roll > 0: clockwise on screen
    assert front[chin, 1] > front[nose, 1]


def test_mirroring_a_face_flips_yaw_and_roll(rng):
    from mien.tasks import LANDMARKS

    points = _turned_head(25, 10, 12) + rng.normal(0, 0.01, (68, 2))
    mirrored = (points * (-1, 1))[list(LANDMARKS.mirror)]
    yaw, pitch, roll = pose.pose_from_68(points)
    assert pose.pose_from_68(mirrored) == pytest.approx((-yaw, pitch, -roll), abs=0.5)

"""Drawn occluders of one aligned face, with their labels."""

from __future__ import annotations

import numpy as np
import pytest

from mien import geometry
from mien.data.occlusion import OCCLUDERS, covered_shares, degrade_for_identity, draw_occluder

POINTS = geometry.TEMPLATES["head"] * 128 - 0.5


@pytest.fixture
def face(rng) -> np.ndarray:
    return rng.integers(90, 200, (128, 128, 3), np.uint8)


@pytest.mark.parametrize("kind", sorted(set(OCCLUDERS)))
def test_the_covered_area_is_what_changed(kind, face, rng) -> None:
    before = face.copy()
    drawn, covered = draw_occluder(face, POINTS, kind, rng)
    np.testing.assert_array_equal(face, before)
    changed = np.abs(drawn.astype(int) - face).max(2) > 6
    assert covered[changed].all() and covered.any() == (kind != "none")


def test_shares_say_what_is_covered(face) -> None:
    means = {}
    for kind in ("mask", "sunglasses", "none"):
        rng = np.random.default_rng(1)
        found = [covered_shares(draw_occluder(face, POINTS, kind, rng)[1], POINTS) for _ in range(20)]
        means[kind] = np.mean(found, 0)
    left, right, nose, mouth = means["mask"]
    assert mouth > 0.9 and nose > 0.4 and max(left, right) < 0.05
    left, right, nose, mouth = means["sunglasses"]
    assert min(left, right) > 0.9 and nose < 0.7 and mouth < 0.05
    assert not means["none"].any()


def test_shares_are_in_picture_order() -> None:
    covered = np.zeros((128, 128), bool)
    covered[:, :64] = True
    left, right, nose, mouth = covered_shares(covered, POINTS)
    assert (left, right) == (1, 0)
    assert 0.4 < nose < 0.6 and 0.4 < mouth < 0.6


def test_a_degraded_face_says_how(face) -> None:
    rng = np.random.default_rng(0)
    made = [degrade_for_identity(face, POINTS, rng) for _ in range(60)]
    for m in made:
        assert m.pixels.shape == face.shape and m.pixels.dtype == np.uint8
        assert all(0 <= v <= 1 for v in (m.sharpness, m.light, m.occlusion))
    assert {m.occlusion > 0 for m in made} == {True, False} == {m.light < 1 for m in made}
    fine = [
        np.abs(np.diff(m.pixels.astype(int), axis=0)).mean() for m in made if m.light == 1 and not m.occlusion
    ]
    sharp = [m.sharpness for m in made if m.light == 1 and not m.occlusion]
    assert np.corrcoef(fine, sharp)[0, 1] > 0.4

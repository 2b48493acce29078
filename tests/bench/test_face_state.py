"""Error-versus-discard: what dropping the worst pictures is worth."""

from __future__ import annotations

import numpy as np
import pytest

from bench.face_state import bootstrapped, discard, threshold


def test_the_threshold_is_the_smallest_that_keeps_the_rate() -> None:
    strangers = np.arange(1000) / 1000
    cut = threshold(strangers, 0.01)
    assert (strangers >= cut).sum() == 10
    assert (strangers >= np.nextafter(cut, 0)).sum() == 11


def test_dropping_by_a_perfect_quality_removes_the_misses() -> None:
    similarity = np.array([0.1] * 10 + [0.9] * 90)
    same = np.ones(100, bool)
    assert discard(similarity, same, similarity, 0.1, 0.5) == (0.1, 0.0)
    before, after = discard(similarity, same, -similarity, 0.1, 0.5)
    assert (before, after) == (0.1, pytest.approx(10 / 90))


def test_a_useless_quality_has_an_interval_around_zero(rng) -> None:
    n = 4000
    same = np.arange(n) < 2000
    similarity = np.where(same, rng.normal(0.7, 0.2, n), rng.normal(0.1, 0.15, n))
    people = np.arange(n) % 40
    useless = bootstrapped(similarity, same, rng.random(n), people)
    assert useless["low"] < 0 < useless["high"]
    good = bootstrapped(similarity, same, similarity + rng.normal(0, 0.1, n), people)
    assert good["low"] > 30 and good["fnmr_kept"] < good["fnmr_all"]

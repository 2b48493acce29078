"""Calibration in numbers that can be done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mien.errors import UsageError

pytest.importorskip("scipy")
from bench.model_card import calibration
from bench.model_card.calibration import Bin

# --- Reliability


def test_ece_by_hand() -> None:
    """Two of 0.9 of which one came true, two of 0.3 of which none did: (2 * 0.4 + 2 * 0.3) / 4."""
    assert calibration.ece([0.9, 0.9, 0.3, 0.3], [1, 0, 0, 0]) == pytest.approx(0.35)
    assert calibration.ece([1, 1, 0], [1, 1, 0]) == 0
    assert calibration.ece([0.75] * 4, [1, 1, 1, 0], bins=10) == pytest.approx(0)


def test_bins_and_their_edges() -> None:
    found = calibration.reliability([0.2, 0.39, 1.0, 0.0, 0.6], [1, 0, 1, 0, 1], bins=5)
    assert found == [
        Bin(0, 0.2, 1, 0, 0),
        Bin(0.2, 0.4, 2, pytest.approx(0.295), 0.5),
        Bin(0.6, 0.8, 1, 0.6, 1),
        Bin(0.8, 1, 1, 1, 1),
    ]


@pytest.mark.parametrize(("p", "y"), [([], []), ([0.5], [1, 0]), ([1.2], [1]), ([float("nan")], [1])])
def test_what_cannot_be_counted_is_refused(p, y) -> None:
    with pytest.raises(UsageError):
        calibration.ece(p, y)


# --- Temperatures


def test_losses_by_hand() -> None:
    assert calibration.choice_loss([[0, 0], [math.log(3), 0]], [0, 0], 1) == pytest.approx(
        (math.log(2) + math.log(4 / 3)) / 2
    )
    assert calibration.choice_loss([[2 * math.log(3), 0]], [1], 2) == pytest.approx(math.log(4))
    assert calibration.binary_loss([[math.log(3)], [0]], [[1], [0]], 1) == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )


def test_temperature_of_yes_and_no_by_hand() -> None:
    """Logit 2, right three times of four: best where sigmoid(2 / t) = 3/4, so t = 2 / ln 3."""
    assert calibration.binary_temperature([2.0, 2, 2, 2], [1, 1, 1, 0]) == pytest.approx(
        2 / math.log(3), rel=1e-4
    )
    assert calibration.binary_temperature([[2.0, -2], [-2, 2]], [[1, 0], [0, 0]]) == pytest.approx(
        2 / math.log(3), rel=1e-4
    )


def test_temperature_of_one_of_three_by_hand() -> None:
    """Logits (1, 0, 0), right half of the time: e^(1/t) / (e^(1/t) + 2) = 1/2, so t = 1 / ln 2."""
    assert calibration.choice_temperature([[1.0, 0, 0]] * 4, [0, 0, 1, 2]) == pytest.approx(
        1 / math.log(2), rel=1e-4
    )


def test_a_temperature_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="is at the edge"):
        calibration.choice_temperature([[1.0, 0]] * 3, [0, 0, 0])
    with pytest.raises(UsageError, match="is at the edge"):
        calibration.binary_temperature([1.0, 1], [0, 0])


def test_temperature_mends_what_was_spoilt(rng) -> None:
    z = rng.standard_normal((4000, 5)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    truth = (p.cumsum(1) > rng.random((4000, 1))).argmax(1)
    assert calibration.choice_temperature(z, truth) == pytest.approx(1, abs=0.05)
    assert calibration.choice_temperature(3 * z, truth) == pytest.approx(3, abs=0.15)


def test_reaching_is_the_first_that_does() -> None:
    assert calibration.reaching(lambda t: float(t >= 1.7), 1.0) == pytest.approx(1.7, rel=1e-3)
    for f in (lambda t: 0.0, lambda t: 1.0):
        with pytest.raises(UsageError, match="not reached"):
            calibration.reaching(f, 0.8)


def test_held_out_never_fits_on_the_picture_itself() -> None:
    seen = []
    found = calibration.held_out(11, 3, lambda rows: seen.append(set(rows.tolist())) or float(len(seen)))
    assert sorted(len(s) for s in seen) == [7, 7, 8]
    for i, number in enumerate(found):
        assert i not in seen[int(number) - 1]
    assert set.intersection(*seen) == set()


# --- Abstaining, intervals


def test_abstaining_by_hand() -> None:
    p, right = [0.95, 0.8, 0.6, 0.55], [True, True, False, True]
    rows = calibration.abstaining(p, right, (0.5, 0.6, 0.7, 0.99))
    assert [(r.cut, r.share, r.n) for r in rows] == [(0.5, 1, 4), (0.6, 0.75, 3), (0.7, 0.5, 2), (0.99, 0, 0)]
    assert [r.accuracy for r in rows[:3]] == [0.75, pytest.approx(2 / 3), 1]
    assert math.isnan(rows[3].accuracy)
    assert calibration.recommended(rows, right) == 0.7
    assert calibration.recommended(rows[:2], right) is None


def test_bootstrap_is_seeded_and_of_the_right_width(rng) -> None:
    values = (rng.random(400) < 0.3).astype(float)
    mean, low, high = calibration.bootstrap(values)
    assert (mean, low, high) == calibration.bootstrap(values)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(mean * (1 - mean) / 400), rel=0.15)
    assert calibration.bootstrap(np.ones(5)) == (1, 1, 1)


def test_pairs_are_resampled_by_picture() -> None:
    """One picture that matches all others: 9 of 45 pairs, but its being drawn or not decides, so that the
    interval is wide.
    """
    pairs = np.triu(np.ones((10, 10), bool), 1)
    hits = np.zeros((10, 10), bool)
    hits[0] = True
    share, low, high = calibration.bootstrap_pairs(hits, pairs)
    assert share == pytest.approx(0.2)
    assert low == 0
    assert high > 0.4
    assert calibration.bootstrap_pairs(pairs, pairs) == (1, 1, 1)
    with pytest.raises(UsageError, match="no pairs"):
        calibration.bootstrap_pairs(hits, ~np.ones((10, 10), bool))

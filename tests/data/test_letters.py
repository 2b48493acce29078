"""Letters drawn as hard negatives: next to faces, never on them, the same for the same seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mien.data.occlusion import draw_letters

GRAY = np.full((160, 200, 3), 118, np.uint8)


@given(seed=st.integers(0, 2**32 - 1))
def test_no_letter_touches_a_face_and_the_picture_is_not_changed(seed: int) -> None:
    boxes = np.array([(20, 30, 70, 90), (120.5, 60, 180, 140)])
    out = draw_letters(GRAY, boxes, np.random.default_rng(seed))
    assert (GRAY == 118).all() and out.shape == GRAY.shape and out.dtype == np.uint8
    for x1, y1, x2, y2 in boxes:
        assert (out[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] == 118).all()


def test_letters_are_drawn_and_follow_the_seed() -> None:
    none = np.zeros((0, 4))
    changed = [
        float((draw_letters(GRAY, none, np.random.default_rng(s)) != GRAY).any(-1).mean()) for s in range(50)
    ]
    assert np.mean(np.array(changed) > 0) > 0.9 and 0.01 < np.mean(changed) < 0.5
    again = [draw_letters(GRAY, none, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again)

"""Every builder in the catalogue keeps the contract; an empty catalogue fails."""

from __future__ import annotations

from functools import partial

import pytest

from mien.models import MODELS
from mien.testing.models import CHECKS, check_training

FACE_MODELS = [n for n in MODELS if n.endswith("_tiny")]  # the full sizes have tests of their own
# side of the crop, small to save time; cells of MGMTN's maps of 9, 5 and 3 do not divide 72 evenly
SIZES = dict.fromkeys(FACE_MODELS, 64) | {"mgmtn_tiny": 72}


def test_the_catalogue_is_whole():
    assert {
        "faceptor_tiny",
        "far_amtn_tiny",
        "ifan_tiny",
        "mgmtn_tiny",
        "naive_faceptor_tiny",
        "qface_tiny",
        "detector",
    } <= set(MODELS)
    assert len(FACE_MODELS) >= 6


@pytest.mark.parametrize("name", FACE_MODELS)
@pytest.mark.parametrize(
    "check",
    [c for c in CHECKS if c is not check_training],  # tests/recipes trains each of them by its recipe
    ids=lambda c: c.__name__.removeprefix("check_"),
)
def test_a_model_keeps_the_contract(check, name):
    check(partial(MODELS[name], size=SIZES[name]))

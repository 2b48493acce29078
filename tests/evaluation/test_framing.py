"""What a protocol of parsing shows to a model: a crop that does not reach the whole picture has a ceiling,
and says it.
"""

from __future__ import annotations

import numpy as np
import pytest

from mien import geometry
from mien.data.formats import pack
from mien.data.formats.parsing import CELEBAMASK_FIVE
from mien.evaluation.scoring import full_picture_crop
from mien.tasks import PARSING
from mien.tasks.parsing import Parsing
from mien.types import View
from tests.conftest import needs_pack


def test_a_picture_of_the_views_size_is_shown_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    crop = full_picture_crop(pixels, View((64, 64), "head", (0.5,) * 3, (0.5,) * 3))
    np.testing.assert_array_equal(crop.pixels, pixels)
    np.testing.assert_array_equal(crop.from_photo, np.eye(2, 3))


def test_a_larger_picture_is_shown_from_edge_to_edge():
    crop = full_picture_crop(np.zeros((40, 80, 3), np.uint8), View((20, 10), "head", (0.5,) * 3, (0.5,) * 3))
    assert crop.pixels.shape == (10, 20, 3)
    corners = geometry.move_points([(-0.5, -0.5), (79.5, 39.5)], crop.from_photo)
    np.testing.assert_allclose(corners, [(-0.5, -0.5), (19.5, 9.5)])


def test_pixels_that_a_crop_does_not_reach_lower_the_ceiling():
    """The crop is the left half; of the nose, three of four columns are in it: F1 = 2 * 3 / (3 + 4)."""
    truth = np.zeros((4, 8), np.uint8)
    nose = PARSING.names.index("nose")
    truth[:, 1:5] = nose
    metrics = PARSING.metrics()
    metrics.update(Parsing(truth[:, :4], np.eye(2, 3), PARSING.names, PARSING.labels, {}), truth)
    values = metrics.compute()
    assert values["ceiling"] == pytest.approx(6 / 7)
    assert values["mean_f1"] == values["ceiling"]


@needs_pack
@pytest.mark.parametrize(("whole", "ceiling"), [(False, 0.9820), (True, 1.0)])
def test_a_perfect_answer_on_celebamask(whole: bool, ceiling: float):
    """Crops by the set's five points, which the protocol had, reach 92.3 % of a picture; whole pictures lose
    nothing.
    """
    dataset, metrics = pack.celebamask("val"), PARSING.metrics()
    view = View((512, 512), "head", (0.5,) * 3, (0.5,) * 3)
    for i in range(len(dataset)):
        image, truth = dataset[i].image, dataset[i].labels["parsing"]
        h, w = truth.shape
        crop = (
            full_picture_crop(image, view)
            if whole
            else geometry.align(image, CELEBAMASK_FIVE * (w, h) - 0.5, view)
        )
        target, _ = PARSING.encode_target(truth, crop.from_photo, False, view.size)
        metrics.update(Parsing(target, crop.from_photo, PARSING.names, PARSING.labels, {}), truth)
    assert metrics.compute()["ceiling"] == pytest.approx(ceiling, abs=5e-4)

"""Places that an earlier detector took for faces: trained on as background, found by the recipe's script."""

from __future__ import annotations

import numpy as np
import pytest

from mien.data.detection import MosaicSource, Photo, around_face
from mien.geometry import Array
from recipes.false_faces import shows_no_face


def photo(name: str, places: list[tuple[float, float, float, float]]) -> Photo:
    """A gray photo with a red square where something was taken for a face, and a labeled face elsewhere."""
    pixels = np.full((200, 300, 3), 90, np.uint8)
    for x1, y1, x2, y2 in places:
        pixels[int(y1) : int(y2), int(x1) : int(x2)] = (255, 0, 0)
    face = np.array([[10, 10, 30, 40, *[20.0, 30.0] * 5, 0.9]], np.float32)
    return Photo(name, pixels, face, np.asarray(places, np.float32).reshape(-1, 4))


def reds(pixels: Array) -> float:
    return float((pixels[..., 0].astype(int) - pixels[..., 1] > 60).mean())


@pytest.mark.parametrize("seed", range(20))
def test_a_picture_around_a_place_shows_it(seed: int):
    rng, made = np.random.default_rng(seed), photo("a", [(200, 100, 240, 150)])
    affine, _ = around_face(made, 320, rng, made.false_faces)
    center = affine @ np.array([219.5, 124.5, 1])
    assert ((center >= 0) & (center <= 320)).all()
    assert np.linalg.det(affine[:, :2]) != 0


def test_places_are_drawn_as_often_as_asked():
    photos = [photo("a", [(200, 100, 240, 150)]), photo("b", [])]
    shown = {
        hard: np.mean(
            [
                reds(
                    MosaicSource(photos, size=96, empty=0, hard=hard)
                    .example(1, np.random.default_rng(s))
                    .pixels
                )
                > 0.01
                for s in range(60)
            ]
        )
        for hard in (0.0, 1.0)
    }
    assert shown[1.0] > 0.7 and shown[1.0] > shown[0.0] + 0.15
    nothing = MosaicSource(photos[1:], size=96, empty=0, hard=1.0).example(0, np.random.default_rng(0))
    assert nothing.pixels.shape == (96, 96, 3), "without places, pictures are as before"


class Teacher:
    """Finds what it is told to, in pixels of what it is shown."""

    def __init__(self, rows: list[list[float]]):
        self.rows = rows

    def detect(self, pixels: Array) -> tuple[int, Array | None]:
        assert pixels.shape == (640, 640, 3)
        return 1, np.array(self.rows) if self.rows else None


def test_a_place_counts_where_the_teacher_finds_nothing_at_it():
    pixels, box = photo("a", []).pixels, np.array([140.0, 80.0, 180.0, 120.0])
    assert shows_no_face(Teacher([]), pixels, box)
    scale = 320 / 100  # surroundings of 100 pixels, shown at 320
    same = [[30 * scale, 30 * scale, 40 * scale, 40 * scale]]
    assert not shows_no_face(Teacher(same), pixels, box)
    assert shows_no_face(Teacher([[0, 0, 20 * scale, 20 * scale]]), pixels, box)
    assert not shows_no_face(Teacher([]), pixels, np.array([298.0, 198.0, 300.0, 200.0])), "too small to tell"

"""From a photo to its faces, with a network that finds bright squares."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import geometry
from mien.errors import UsageError
from mien.inference.detector import (
    Detector,
    best_tile,
    crosses_window,
    drop_contained,
    resized,
    rotate_back,
    round_up,
    same_face,
    spans,
)
from mien.tasks import AGE, FACES
from mien.tasks.detection import cells
from mien.types import Detection, Floats, View

VIEW = View((320, 320), "photo", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Squares:
    """A network that detects every bright blob as a face, and records the shapes of its inputs.

    Like a real one it detects only some sizes: blobs outside `sees` (sides in input pixels) get a low score.
    """

    view, tasks = VIEW, (FACES,)

    def __init__(self, sees: tuple[float, float] = (9, 450), low_score: float = -1.5):
        self.sees, self.low_score, self.shapes = sees, low_score, list[tuple[int, int]]()

    def __call__(self, images: Floats) -> dict[str, Floats]:
        h, w = images.shape[2:]
        assert images.dtype == np.float32 and h % 32 == 0 and w % 32 == 0
        self.shapes.append((h, w))
        bright = (images[0].mean(0) > 0).astype(np.uint8)
        centers, strides = cells((w, h))
        raw = np.zeros((1, len(centers), 15), np.float32)
        raw[..., 0] = -9
        for x, y, bw, bh, _ in cv2.connectedComponentsWithStats(bright)[2][1:]:
            seen = self.sees[0] <= np.sqrt(bw * bh) <= self.sees[1]
            center = np.array([x + bw / 2 - 0.5, y + bh / 2 - 0.5])
            i = int(np.argmin(np.abs(centers - center).sum(1)))
            raw[0, i, 0] = 3 if seen else self.low_score
            raw[0, i, 1:3] = (center - centers[i]) / strides[i]
            raw[0, i, 3:5] = np.log(np.array([bw, bh]) / strides[i])
            raw[0, i, 5:] = np.tile(raw[0, i, 1:3], 5)
        return {"faces": raw}


def photo(width: int, height: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Black, with white boxes x, y, w, h."""
    out = np.zeros((height, width, 3), np.uint8)
    for x, y, w, h in boxes:
        out[y : y + h, x : x + w] = 255
    return out


@pytest.mark.parametrize("size", [(640, 480), (320, 320), (200, 333), (1280, 960), (2000, 1500), (45, 30)])
def test_boxes_come_back_in_photo_pixels(size: tuple[int, int]) -> None:
    w, h = size
    box = (w // 4, h // 3, w // 5, h // 4)
    (found,) = Detector(Squares())(photo(w, h, box))
    x, y, bw, bh = box
    tolerance = 3 * max(1.0, max(size) / 640)
    np.testing.assert_allclose(found.box, (x - 0.5, y - 0.5, x + bw - 0.5, y + bh - 0.5), atol=tolerance)
    np.testing.assert_allclose(
        found.points, np.tile((x + bw / 2 - 0.5, y + bh / 2 - 0.5), (5, 1)), atol=tolerance
    )
    assert found.score == pytest.approx(0.9526, abs=1e-3) and found.box.dtype == np.float32


def test_largest_comes_first() -> None:
    found = Detector(Squares())(photo(640, 480, (10, 10, 30, 30), (200, 100, 200, 220), (500, 300, 80, 80)))
    assert [round(float(d.box[2] - d.box[0]), -1) for d in found] == [200, 80, 30]


def test_the_thumbnail_pass_finds_a_face_that_fills_the_photo() -> None:
    assert len(Detector(Squares(sees=(9, 150)))(photo(640, 480, (0, 0, 640, 480)))) == 1


def test_small_faces_of_a_large_photo_are_found_once() -> None:
    places = [(x, y, 16, 16) for x in (5, 300, 610, 634, 660, 1250) for y in (7, 470, 500, 930)]
    network = Squares(sees=(12, 450))  # they are 8 pixels in the base pass
    assert len(Detector(network)(photo(1280, 960, *places))) == len(places)
    assert Detector(network, tiles=0)(photo(1280, 960, *places)) == []


def test_a_crowd_gets_large_tiles() -> None:
    places = [(x, y, 16, 16) for x in range(10, 1260, 60) for y in range(10, 940, 60)]
    network = Squares(sees=(12, 450))
    assert len(Detector(network)(photo(1280, 960, *places))) == len(places)
    assert network.shapes == [(480, 640), (192, 192)] + 4 * [(512, 672)]


def test_tile_passes_cover_only_candidates_for_small_faces() -> None:
    network = Squares(sees=(12, 450))
    find = Detector(network)
    large, small = (700, 100, 300, 300), (300, 800, 16, 16)
    assert len(find(photo(1280, 960, large))) == 1 and network.shapes == [(480, 640)]
    network.shapes.clear()
    assert len(find(photo(1280, 960, large, small))) == 2 and network.shapes == [(480, 640), (256, 256)]
    confident = Squares(sees=(12, 450), low_score=-2.5)  # 8 %, below the score of a candidate
    assert len(Detector(confident)(photo(1280, 960, large, small))) == 1
    assert len(Detector(confident, candidate=0.05)(photo(1280, 960, large, small))) == 2


@given(st.integers(1, 1300), st.floats(0, 1), st.floats(0.1, 64))
def test_a_face_as_large_as_the_overlap_lies_inside_the_best_tile(
    length: int, at: float, side: float
) -> None:
    center = side / 2 + at * max(0.0, length - side)
    tiles = spans(length, 256, 64)
    assert tiles[0][0] == 0 and tiles[-1][1] == length and all(a[1] - b[0] >= 64 for a, b in pairwise(tiles))
    lo, hi = best_tile(tiles, center)
    assert lo - 1e-6 <= center - side / 2 and center + side / 2 <= max(hi, side) + 1e-6


def test_the_thumbnail_pass_runs_without_a_confident_face_and_for_large_faces() -> None:
    network, thumbnail = (
        Squares(sees=(9, 150), low_score=-0.5),
        (192, 192),
    )  # 38 %: no face, but calls for a thumbnail pass
    find = Detector(network)
    small, large = (10, 10, 60, 60), (300, 100, 300, 300)
    for boxes, passes in (((small,), []), ((), [thumbnail]), ((small, large), [thumbnail])):
        network.shapes.clear()
        assert len(find(photo(640, 480, *boxes))) == len(boxes)
        assert network.shapes == [(480, 640), *passes]


def test_shapes_are_few_and_bounded() -> None:
    network = Squares(sees=(12, 450))
    find = Detector(network)
    crowd = [(x, y, 15, 15) for x in range(10, 1260, 60) for y in range(10, 940, 60)]
    for size in ((640, 480), (320, 240), (1280, 960), (4000, 3000)):
        find(photo(*size))
    find(photo(1280, 960, (10, 10, 16, 16), (900, 500, 16, 16)))
    find(photo(1280, 960, *crowd))
    assert set(network.shapes) == {(480, 640), (192, 192), (256, 256), (512, 672)}


def test_no_face_in_nothing() -> None:
    assert Detector(Squares())(photo(1, 1)) == []
    assert Detector(Squares())(photo(3000, 2)) == []


def test_boxes_across_an_inner_edge_belong_to_the_neighboring_tile() -> None:
    boxes = np.array([(-3, 5, 20, 20), (90, 5, 110, 20), (40, 40, 50, 50)], float)
    assert crosses_window(boxes, (0, 0, 100, 100), 200, 100).tolist() == [False, True, False]
    assert crosses_window(boxes, (0, 0, 100, 100), 100, 100).tolist() == [False, False, False]


def test_pictures_are_normalized_per_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    view = View((32, 32), "photo", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    found = view.tensor(pixels)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(
        found, ((pixels / 255 - view.mean) / view.std).transpose(0, 3, 1, 2), atol=1e-6
    )


def test_sizes() -> None:
    assert (round_up(1), round_up(32), round_up(33)) == (32, 32, 64)
    assert resized(photo(100, 50), 0.004).shape == (1, 1, 3)


def test_invalid_arguments_raise() -> None:
    class Other(Squares):
        tasks = (AGE,)  # type: ignore[assignment]

    with pytest.raises(UsageError, match="not 'faces'"):
        Detector(Other())
    with pytest.raises(UsageError, match="threshold"):
        Detector(Squares(), threshold=1.5)
    with pytest.raises(UsageError, match="candidate"):
        Detector(Squares(), candidate=0)
    with pytest.raises(UsageError, match="at least 32"):
        Detector(Squares(), thumbnail=8)


def test_detecting_needs_no_torch() -> None:
    code = (
        "import sys, mien.inference.detector; print({'torch', 'mien.data', 'mien.training.loop'} &"
        " set(sys.modules) or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "none", done


def test_a_box_inside_a_better_one_is_dropped() -> None:
    def found(box: tuple[float, ...], score: float) -> Detection:
        return Detection(np.array(box, np.float32), score, np.zeros((5, 2), np.float32))

    face, part = found((0, 0, 100, 100), 0.8), found((20, 40, 60, 80), 0.6)
    neighbor, better = found((90, 10, 130, 50), 0.6), found((10, 10, 30, 30), 0.9)
    assert drop_contained([face, part, neighbor, better]) == [face, neighbor, better]


@pytest.mark.heavy
def test_a_thorough_search_finds_small_faces_without_candidates() -> None:
    places = [(x, y, 30, 30) for x in (50, 620, 1500, 3000, 3900) for y in (40, 1230, 2900)]
    network = Squares(sees=(12, 450), low_score=-9)  # they are 5 pixels in the base pass, and invisible
    picture = photo(4000, 3000, *places)
    assert Detector(network)(picture) == []
    found = Detector(network)(picture, thorough=True)
    assert len(found) == len(places)
    assert set(network.shapes) == {(480, 640), (640, 480), (192, 192), (640, 640)}


@pytest.mark.parametrize("quarter_turns", range(4))
def test_a_face_of_a_rotated_copy_maps_to_the_photo(quarter_turns: int) -> None:
    marks = [(40, 30), (60, 31), (51, 40), (43, 52), (58, 53)]  # x, y in a photo of 100 x 80
    picture = np.zeros((80, 100), np.uint8)
    for i, (x, y) in enumerate(marks, 1):
        picture[y, x] = i
    turned = np.rot90(picture, quarter_turns)
    points = np.array([np.argwhere(turned == i)[0][::-1] for i in range(1, 6)], np.float32)
    box = np.concatenate([points.min(0), points.max(0)])
    found = rotate_back(Detection(box, 0.9, points), quarter_turns, 100, 80)
    np.testing.assert_allclose(found.points, marks)
    np.testing.assert_allclose(found.box, (40, 30, 60, 53))
    assert found.score == 0.9 and found.upright


@pytest.mark.parametrize(
    ("degrees", "upright"), [(0, True), (40, True), (50, False), (90, False), (-90, False), (179, False)]
)
def test_roll_is_clockwise(degrees: float, upright: bool) -> None:
    level = [(-10, -10), (10, -10), (0, 0), (-8, 10), (8, 10)]
    points = geometry.move_points(level, geometry.about((0, 0), degrees=degrees)).astype(np.float32)
    face = Detection(np.zeros(4, np.float32), 0.9, points)
    assert face.roll == pytest.approx(degrees, abs=1e-3) and face.upright == upright


class RotatedSquares(Squares):
    """Detects blobs only in copies with the bright corner pixel at the top left: the upright copy."""

    def __call__(self, images: Floats) -> dict[str, Floats]:
        out = super().__call__(images)
        if images[0, :, 2, 2].mean() < 0:
            out["faces"][..., 0] = -9
        return out


@pytest.mark.parametrize("quarter_turns", range(4))
def test_a_thorough_search_finds_faces_of_rotated_photos(quarter_turns: int) -> None:
    upright = photo(640, 640, (0, 0, 6, 6), (300, 200, 80, 80))
    turned = np.ascontiguousarray(np.rot90(upright, quarter_turns))
    find = Detector(RotatedSquares())
    (found,) = find(turned, thorough=True)
    x, y = {0: (340, 240), 1: (240, 300), 2: (300, 400), 3: (400, 340)}[quarter_turns]
    assert (found.box[:2] + found.box[2:]) / 2 == pytest.approx((x, y), abs=2)
    assert bool(find(turned)) == (quarter_turns == 0)


def test_boxes_of_one_face_at_different_scales() -> None:
    def face(*box: float) -> Detection:
        return Detection(np.array(box, np.float32), 0.9, np.zeros((5, 2), np.float32))

    head, part, neighbor = face(0, 0, 100, 100), face(60, 60, 105, 105), face(80, 0, 180, 100)
    assert same_face(head, part, 0.4) and same_face(part, head, 0.4)
    assert same_face(head, face(20, 0, 120, 100), 0.4)
    assert not same_face(head, neighbor, 0.4) and not same_face(head, face(200, 0, 210, 10), 0.4)

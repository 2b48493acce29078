"""Teacher labels of face pictures: which face, and how it is shown to the identity teacher."""

from __future__ import annotations

from typing import Any

import numpy as np

from mien import geometry
from recipes.teacher_labels import IDENTITY_POINTS, central_face, find_face, identity_crop


def face(x: float, y: float, side: float) -> np.ndarray:
    points = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]) * side + (x, y)
    return np.array([x, y, side, side, *points.ravel(), 0.9])


class Teacher:
    """Finds one face, in the middle half of whatever it is shown; remembers the sizes."""

    def __init__(self) -> None:
        self.size, self.sizes = (0, 0), list[tuple[int, int]]()

    def setInputSize(self, size: tuple[int, int]) -> None:  # OpenCV's name
        self.size = size
        self.sizes.append(size)

    def detect(self, shown: np.ndarray) -> tuple[int, Any]:
        assert shown.shape[1::-1] == self.size
        w = self.size[0]
        return 1, np.stack([face(w / 4, w / 4, w / 2)]).astype(np.float32)


def test_the_central_face_is_near_and_large():
    near, far, small = face(40, 40, 20), face(0, 0, 22), face(48, 48, 4)
    assert central_face(np.stack([far, near, small]), (100, 100)) == 1
    assert central_face(np.stack([small, face(20, 30, 60)]), (100, 100)) == 1, (
        "a large one a little aside is meant"
    )


def test_points_come_back_out_of_border_and_scale():
    picture, teacher = np.zeros((100, 100, 3), np.uint8), Teacher()
    plain = find_face(teacher, picture, side=200, pad=0.0)
    padded = find_face(teacher, picture, side=320, pad=0.3)
    assert teacher.sizes == [(200, 200), (320, 320)]
    assert plain is not None and np.allclose(plain[:4], [25, 25, 50, 50])
    assert padded is not None and np.allclose(padded[:4], [10, 10, 80, 80]), (
        "160 px wide with its border of 30"
    )
    assert np.allclose(padded[4:6], (10 + 0.3 * 80, 10 + 0.4 * 80))


def test_the_identity_teacher_sees_the_points_where_it_wants_them():
    move = geometry.invert(geometry.about((64, 64), degrees=20, scale=0.6, shift=(30, 10)))
    points = geometry.move_points(IDENTITY_POINTS, geometry.invert(move))
    picture = np.zeros((200, 200, 3), np.uint8)
    x, y = np.round(points[0]).astype(int)
    picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    crop = identity_crop(picture, points)
    rows, columns = np.nonzero(crop[..., 0] > 128)
    assert crop.shape == (128, 128, 3)
    assert np.allclose((columns.mean(), rows.mean()), IDENTITY_POINTS[0], atol=1)

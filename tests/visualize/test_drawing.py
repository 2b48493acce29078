"""What `mien.visualize.drawing` paints, and what it must never do: crash, touch its input, or leave the
photo.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.errors import BadArray, UsageError
from mien.types import Face
from mien.visualize import drawing

NAMES = tuple(drawing.COLORS)


def photo(width: int, height: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def answers(cx: float = 50, cy: float = 50, size: float = 40) -> dict[str, Any]:
    angle = np.linspace(0, 2 * np.pi, 68)
    points = np.stack([cx + 0.4 * size * np.cos(angle), cy + 0.5 * size * np.sin(angle)], axis=1).astype(
        np.float32
    )

    def mask_in(width: int, height: int) -> np.ndarray:
        mask = np.full((height, width), 255, np.uint8)
        y, x = np.mgrid[0:height, 0:width]
        mask[np.hypot(x - cx, y - cy) < size] = 0
        mask[np.hypot(x - cx, y - cy) < size / 3] = 1
        return mask

    return {
        "landmarks": SimpleNamespace(points=points),
        "parsing": SimpleNamespace(mask_in=mask_in, names=NAMES),
        "age": SimpleNamespace(years=34.4, low=28.1, high=40.9),
        "gender": SimpleNamespace(label="female", probability=0.97),
        "expression": SimpleNamespace(label="happiness", probabilities={"happiness": 0.9}),
        "pose": SimpleNamespace(yaw=20.0, pitch=-10.0, roll=3.0),
        "attributes": SimpleNamespace(probabilities={"smiling": 0.9}),
    }


def face(x1: float, y1: float, x2: float, y2: float, **given: Any) -> Face:
    box = np.array([x1, y1, x2, y2], np.float32)
    w, h = x2 - x1, y2 - y1
    where = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]) * [w, h] + [x1, y1]
    return Face(box, 0.9, where.astype(np.float32), given)


def full(x1: float, y1: float, x2: float, y2: float) -> Face:
    return face(x1, y1, x2, y2, **answers((x1 + x2) / 2, (y1 + y2) / 2, max(1.0, x2 - x1)))


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


@pytest.mark.parametrize(
    ("width", "height"), [(8, 8), (1, 1), (100, 100), (640, 480), (3, 900), (2000, 1500)]
)
def test_same_size_new_array_and_the_input_untouched(width: int, height: int) -> None:
    pixels = photo(width, height)
    before = pixels.copy()
    out = drawing.annotate(pixels, [full(0.2 * width, 0.3 * height, 0.8 * width, 0.9 * height)])
    assert out.shape == pixels.shape
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert not np.shares_memory(out, pixels)
    assert (pixels == before).all()


def test_a_read_only_and_strided_photo_is_fine() -> None:
    pixels = photo(100, 80)[::-1, ::-1]
    pixels.flags.writeable = False
    assert drawing.annotate(pixels, [full(20, 20, 60, 70)]).shape == pixels.shape


def test_no_faces_no_paint() -> None:
    assert (drawing.annotate(photo(30, 20), []) == photo(30, 20)).all()


@pytest.mark.parametrize("side", [100, 600, 3000])
def test_the_box_is_where_the_face_is(side: int) -> None:
    x1, y1, x2, y2 = (int(f * side) for f in (0.3, 0.4, 0.7, 0.8))
    out = drawing.annotate(photo(side, side), [face(x1, y1, x2, y2)])
    for x, y in ((x1, (y1 + y2) // 2), (x2, (y1 + y2) // 2), ((x1 + x2) // 2, y1), ((x1 + x2) // 2, y2)):
        assert tuple(out[y, x]) == drawing.BOX
    outside = changed(photo(side, side), out)
    assert not outside[: y1 - side // 50].any()
    assert not outside[:, : x1 - side // 50].any()


def test_lines_grow_with_the_picture_and_stay_thin_on_small_faces() -> None:
    def line(side: int, width: int) -> int:
        out = drawing.annotate(photo(side, side), [face(50, 50, 50 + width, 50 + width)])
        return int((out[50 + width // 4, 40 : 50 + width // 4] == drawing.BOX).all(axis=1).sum())

    assert line(200, 30) == 1
    assert line(4000, 30) == 1
    assert 1 <= line(500, 100) <= 2
    assert line(4000, 1000) >= 5


@pytest.mark.parametrize(
    "box",
    [
        (-20, -20, 30, 30),
        (80, 80, 150, 140),
        (-50, -50, 200, 200),
        (500, 500, 600, 600),
        (50, 50, 50, 50),
        (60, 60, 40, 40),
        (-1e9, -1e9, 1e9, 1e9),
        (-1e20, 0, 1e20, 50),
    ],
)
def test_faces_partly_or_wholly_outside(box: tuple[float, float, float, float]) -> None:
    out = drawing.annotate(photo(100, 90), [full(*box)])
    assert out.shape == (90, 100, 3)


def test_a_face_of_every_kind_of_partial_answer() -> None:
    given = answers()
    for name in given:
        drawing.annotate(photo(200, 200), [face(20, 20, 120, 140, **{name: given[name]})])
        rest = {n: a for n, a in given.items() if n != name}
        drawing.annotate(photo(200, 200), [face(20, 20, 120, 140, **rest)])


def test_numbers_that_are_not_finite() -> None:
    given = answers()
    given["landmarks"].points[3:9] = np.nan
    given["landmarks"].points[9] = np.inf
    given["age"] = SimpleNamespace(years=float("nan"), low=float("nan"), high=float("inf"))
    given["pose"] = SimpleNamespace(yaw=float("nan"), pitch=0.0, roll=0.0)
    drawing.annotate(photo(200, 200), [face(20, 20, 120, 140, **given)])
    with pytest.raises(UsageError, match="face 1 has the box"):
        drawing.annotate(photo(200, 200), [full(0, 0, 50, 50), face(float("nan"), 0, 1, 1)])


def test_points_are_drawn_at_their_place() -> None:
    points = np.array([[30, 40], [90, 100]], np.float32)
    big = face(0, 0, 300, 300, landmarks=SimpleNamespace(points=points))
    small = face(0, 0, 80, 80, landmarks=SimpleNamespace(points=points))
    for who in (big, small):
        out = drawing.annotate(photo(300, 300), [who])
        for x, y in points.astype(int):
            assert tuple(out[y, x]) == drawing.POINT


def test_sub_pixel_points_share_their_paint() -> None:
    who = face(0, 0, 60, 60, landmarks=SimpleNamespace(points=np.array([[30.5, 40.0]], np.float32)))
    out = drawing.annotate(photo(100, 100, 55), [who])
    assert tuple(out[40, 30]) == tuple(out[40, 31]) == (155, 155, 155)


def test_without_landmarks_the_five_points_show() -> None:
    out = drawing.annotate(photo(300, 300), [face(0, 0, 200, 200)])
    assert tuple(out[80, 60]) == drawing.POINT


def test_parsing_colours_inside_only() -> None:
    who = face(20, 20, 80, 80, parsing=answers(50, 50, 60)["parsing"])
    plain = drawing.annotate(photo(100, 100), [who], parsing=False)
    out = drawing.annotate(photo(100, 100), [who])
    assert changed(plain, out)[45, 45]
    assert not changed(plain, out)[5, 5]
    assert not changed(plain, out)[50, 73]
    expected = 100 + 0.38 * (np.array(drawing.COLORS["skin"]) - 100.0)
    assert np.abs(out[45, 45] - expected).max() <= 1


def test_other_label_sets_get_colours_by_name() -> None:
    def look(names: tuple[str, ...], label: int) -> np.ndarray:
        mask = np.full((60, 60), label, np.uint8)
        answer = SimpleNamespace(mask_in=lambda w, h: mask, names=names)
        return drawing.annotate(photo(60, 60), [face(-500, -500, 500, 500, parsing=answer)])[5, 5]

    assert (look(("background", "hair"), 1) == look(NAMES, NAMES.index("hair"))).all()
    look(("background", "tentacle"), 1)
    look(("background",), 40)  # a label beyond the names


def plates(shape: tuple[int, int], faces: list[Face]) -> np.ndarray:
    """(n, 2) rows, columns that the labels paint: what is there with age and gender, and not without."""
    canvas = photo(shape[1], shape[0])
    zero_loss = [Face(f.box, f.score, f.points) for f in faces]
    told = [Face(f.box, f.score, f.points, {k: f[k] for k in ("age", "gender")}) for f in faces]
    return np.argwhere(changed(drawing.annotate(canvas, zero_loss), drawing.annotate(canvas, told)))


@pytest.mark.parametrize("side", [60, 100, 320, 1500])
@pytest.mark.parametrize("place", ["top", "middle", "bottom", "right", "all", "left"])
def test_the_whole_label_stays_inside_the_photo(side: int, place: str) -> None:
    a, b = {
        "top": ((0.3, 0.0), (0.7, 0.4)), "middle": ((0.3, 0.3), (0.7, 0.7)), "bottom": ((0.3, 0.7), (0.7,
        1.0)),
        "right": ((0.8, 0.3), (1.1, 0.7)), "all": ((0.0, 0.0), (1.0, 1.0)), "left": ((-0.2, 0.3), (0.2, 0.7)),
    }[place]  # fmt: skip
    who = full(a[0] * side, a[1] * side, b[0] * side, b[1] * side)
    size = drawing._letter_size(who, (side, side))
    where = plates((side, side), [who])
    rows, columns = np.ptp(where, axis=0) + 1
    assert rows == size + 2 * max(2, round(size * 0.3))  # all of the plate's height is in the photo
    assert columns > 1.3 * rows  # at least the width of "F 34", less a box line that has the plate's colour


def test_label_texts() -> None:
    who = full(0, 0, 100, 100)
    assert drawing._texts(who) == ["F 34 (28-41) happiness", "F 34 happiness", "F 34"]
    assert drawing._texts(full(0, 0, 30, 30)) == ["F 34"]
    assert drawing._texts(face(0, 0, 100, 100)) == []
    assert drawing._texts(face(0, 0, 100, 100, expression=SimpleNamespace(label="anger"))) == ["anger"]
    assert drawing._texts(face(0, 0, 100, 100, age=SimpleNamespace(years=7.6, low=5.0, high=9.0))) == [
        "8 (5-9)",
        "8",
    ]


def test_labels_keep_apart_where_there_is_room() -> None:
    faces = [full(100, 100, 150, 160), full(155, 100, 205, 160)]
    rows = plates((400, 600), faces)[:, 0]
    assert rows.min() < 100
    assert rows.max() > 160


def test_a_photo_too_small_for_text_gets_none() -> None:
    assert not len(plates((8, 8), [full(1, 1, 7, 7)]))


def test_a_sequence_of_faces_is_not_reordered() -> None:
    faces = [full(0, 0, 20, 20), full(30, 30, 90, 90)]
    kept = list(faces)
    drawing.annotate(photo(100, 100), faces)
    assert faces[0] is kept[0]
    assert faces[1] is kept[1]


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), "photo.jpg"],
)
def test_bad_arrays(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(BadArray, match="the photo to draw on"):
        drawing.annotate(bad, [])
    for save in (drawing.save_png, drawing.save_jpeg):
        with pytest.raises(BadArray, match="the picture to save"):
            save(tmp_path / "x", bad)


def test_palette() -> None:
    assert len(drawing.PALETTE) == 19 == len(set(drawing.PALETTE))
    assert (0, 0, 0) not in drawing.PALETTE  # black is what lies outside the crop
    colors = np.array(drawing.PALETTE, float)
    far = np.linalg.norm(colors[:, None] - colors[None], axis=2)[~np.eye(19, dtype=bool)]
    assert far.min() > 40


def test_save_png_and_jpeg(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    drawing.save_png(tmp_path / "a.png", pixels)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == pixels).all()
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    drawing.save_jpeg(os.fspath(tmp_path / "a odd name"), red)
    with Image.open(tmp_path / "a odd name") as back:
        assert back.format == "JPEG"
        assert np.abs(np.asarray(back).astype(int) - red).max() <= 4
    with pytest.raises(OSError, match="nowhere"):
        drawing.save_png(tmp_path / "nowhere" / "a.png", pixels)


def test_save_mask_keeps_labels_and_colours(tmp_path: Path) -> None:
    mask = np.arange(20, dtype=np.uint8).reshape(4, 5)
    mask[3, 4] = 255
    drawing.save_mask(tmp_path / "m.png", mask[:, ::-1])
    with Image.open(tmp_path / "m.png") as back:
        assert back.mode == "P"
        assert (np.asarray(back) == mask[:, ::-1]).all()
        colors = np.asarray(back.convert("RGB"))[:, ::-1]
    assert [tuple(c) for c in colors.reshape(-1, 3)[:19].tolist()] == list(drawing.PALETTE)
    assert tuple(colors[3, 4]) == (0, 0, 0)
    for bad in (mask.astype(np.int64), mask[None], np.zeros((0, 3), np.uint8), [[1]]):
        with pytest.raises(BadArray, match="a mask to save"):
            drawing.save_mask(tmp_path / "bad.png", bad)  # type: ignore[arg-type]

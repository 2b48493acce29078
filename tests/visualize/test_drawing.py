"""What `mien.visualize.drawing` paints, and what it must never do: crash, touch its input, or leave the
photo.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mien.errors import BadArray, UsageError
from mien.tasks.parsing import HELEN9, LAPA11, PARSING, Parsing
from mien.types import Face
from mien.visualize import drawing, labels, overlay

NAMES = tuple(drawing.COLORS)


def photo(width: int, height: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def parsing(cx: float = 50, cy: float = 50, size: float = 40, side: int = 96) -> Parsing:
    """A head of skin with hair above, a neck and clothes, in a tilted crop three faces wide."""
    y, x = np.mgrid[0:side, 0:side] / (side - 1) * 2 - 1
    mask = np.zeros((side, side), np.uint8)
    mask[y > 0.5] = NAMES.index("cloth")
    mask[(np.abs(x) < 0.2) & (y > 0.2)] = NAMES.index("neck")
    mask[np.hypot(x, y + 0.2) < 0.55] = NAMES.index("hair")
    mask[np.hypot(x, y) < 0.4] = NAMES.index("skin")
    scale, angle = side / (3 * size), np.deg2rad(20)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (side - 1) / 2
    shift = np.array([middle, middle]) - turn @ [cx, cy]
    return Parsing(mask, np.column_stack([turn, shift]), NAMES, "celebamask19", {})


def answers(cx: float = 50, cy: float = 50, size: float = 40) -> dict[str, Any]:
    angle = np.linspace(0, 2 * np.pi, 68)
    points = np.stack([cx + 0.4 * size * np.cos(angle), cy + 0.5 * size * np.sin(angle)], axis=1).astype(
        np.float32
    )

    return {
        "landmarks": SimpleNamespace(points=points),
        "parsing": parsing(cx, cy, size),
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


@pytest.mark.parametrize("style", drawing.STYLES)
@pytest.mark.parametrize("side", [100, 600, 3000])
def test_the_box_is_where_the_face_is(side: int, style: str) -> None:
    x1, y1, x2, y2 = (int(f * side) for f in (0.3, 0.4, 0.7, 0.8))
    out = drawing.annotate(photo(side, side), [face(x1, y1, x2, y2)], style=style, overlay="none")
    near = (x2 - x1) // 8  # from a corner along an edge
    for x, y in ((x1, y1 + near), (x2, y2 - near), (x1 + near, y1), (x2 - near, y2)):
        assert np.abs(out[y, x].astype(int) - drawing.STYLES[style].color).max() < 30
    outside = changed(photo(side, side), out)
    margin = 2 + side // 50
    for part in (outside[: y1 - margin], outside[y2 + margin :], outside[:, : x1 - margin]):
        assert not part.any()
    middle = outside[(y1 + y2) // 2, x1 - margin : x1 + margin]
    assert middle.any() == drawing.STYLES[style].frame  # corners leave the middle of an edge free


def test_lines_grow_with_the_picture_and_stay_thin_on_small_faces() -> None:
    def line(side: int, width: int) -> float:
        who = face(50, 50, 50 + width, 50 + width)
        return drawing._line_width(who, (side, side))

    assert line(200, 30) == 1
    assert line(4000, 30) < 2
    assert 1 <= line(500, 100) < 1.5
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
    points = np.array([[80, 90], [140, 150]], np.float32)
    who = face(0, 0, 200, 200, landmarks=SimpleNamespace(points=points))
    out = drawing.annotate(photo(300, 300), [who], style="points")
    for x, y in points.astype(int):
        assert tuple(out[y, x]) == drawing.STYLES["points"].line


def test_without_landmarks_the_five_points_show() -> None:
    out = drawing.annotate(photo(300, 300), [face(0, 0, 200, 200)], style="points")
    assert tuple(out[80, 60]) == drawing.STYLES["points"].line


def test_landmarks_are_contours_and_not_dots() -> None:
    given = answers(150, 150, 200)
    who = face(50, 50, 250, 250, landmarks=given["landmarks"])
    free = drawing.annotate(photo(300, 300), [who], overlay="none")
    touched = changed(free, drawing.annotate(photo(300, 300), [who]))
    points = given["landmarks"].points
    between = np.rint((points[4:12] + points[5:13]) / 2).astype(int)  # along the jaw
    assert touched[between[:, 1], between[:, 0]].all()
    assert not changed(free, drawing.annotate(photo(300, 300), [face(50, 50, 250, 250)])).any()


def test_a_small_face_is_left_free() -> None:
    who = face(100, 100, 130, 135, **answers(115, 117, 30))
    out = drawing.annotate(photo(300, 300), [who])
    assert not changed(photo(300, 300), out)[110:125, 108:122].any()


def tinted(faces: list[Face], size: tuple[int, int] = (200, 200), value: int = 100) -> np.ndarray:
    """(H, W) bool: what the parsing overlay changes."""
    plain = drawing.annotate(photo(*size, value), faces, overlay="none")
    return changed(plain, drawing.annotate(photo(*size, value), faces, overlay="parsing"))


def test_the_parsing_overlay_is_clipped_to_the_head() -> None:
    who = face(80, 80, 120, 120, parsing=parsing(100, 100, 40))
    on = tinted([who])
    assert on[100, 100]
    assert on[80, 93]  # hair
    mask = who["parsing"].mask_in(200, 200)
    rest = np.isin(mask, [NAMES.index("neck"), NAMES.index("cloth"), 0, 255])
    head = (~rest).astype(np.uint8)
    far = cv2.dilate(head, np.ones((9, 9), np.uint8)) == 0  # soft edges reach a few pixels out
    assert far.sum() > 10_000
    assert not on[far].any()


def test_no_edge_of_the_crop_shows_in_the_parsing_overlay() -> None:
    answer = parsing(100, 100, 40)
    hair = replace(answer, mask=np.full_like(answer.mask, NAMES.index("hair")))
    who = face(80, 80, 120, 120, parsing=hair)
    out = photo(200, 200)
    overlay.tint(out, who, np.zeros((200, 200), np.uint8))
    change = np.abs(out.astype(int) - 100).max(2)
    crop = answer.mask_in(200, 200) != 255
    inside = cv2.erode(crop.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert change[100, 100] > 15
    assert not change[~inside].any()
    steps = np.maximum(np.abs(np.diff(change, axis=0))[:, 1:], np.abs(np.diff(change, axis=1))[1:])
    assert steps.max() <= 8  # it fades out


def test_another_head_in_the_crop_is_not_tinted() -> None:
    answer = parsing(100, 100, 40)
    mask = answer.mask.copy()
    mask[10:30, 76:94] = NAMES.index("skin")
    who = face(80, 80, 120, 120, parsing=replace(answer, mask=mask))
    assert (tinted([who]) == tinted([face(80, 80, 120, 120, parsing=answer)])).all()


def test_a_pixel_of_two_heads_is_tinted_once() -> None:
    who = face(80, 80, 120, 120, parsing=parsing(100, 100, 40))
    once = drawing.annotate(photo(200, 200), [who], overlay="parsing")
    painted = np.zeros((200, 200), np.uint8)
    out = photo(200, 200)
    overlay.tint(out, who, painted)
    again = out.copy()
    overlay.tint(again, who, painted)
    assert np.abs(again.astype(int) - out).max() <= 2
    assert changed(photo(200, 200), once).any()


def test_the_tint_keeps_light_and_shade() -> None:
    pixels = photo(200, 200, 60)
    pixels[:, 100:] = 180
    out = pixels.copy()
    overlay.tint(out, face(80, 80, 120, 120, parsing=parsing(100, 100, 40)), np.zeros((200, 200), np.uint8))
    assert out[100, 112].sum() - int(out[100, 88].sum()) > 0.6 * 3 * 120


def test_every_label_set_has_tints_for_its_head() -> None:
    for task in (PARSING, LAPA11, HELEN9):
        untinted = set(task.names) - set(overlay.TINTS)
        assert untinted <= {"background", "neck", "necklace", "cloth"}, task.name
    odd = replace(parsing(100, 100, 40), names=("background", "tentacle"))
    assert not tinted([face(80, 80, 120, 120, parsing=odd)]).any()


def test_a_parsing_without_a_head() -> None:
    empty = replace(parsing(100, 100, 40), mask=np.zeros((96, 96), np.uint8))
    assert not tinted([face(80, 80, 120, 120, parsing=empty)]).any()


def test_unknown_styles_and_overlays() -> None:
    with pytest.raises(UsageError, match="no drawing style 'neon'; choose from: corners, box"):
        drawing.annotate(photo(9, 9), [], style="neon")
    with pytest.raises(UsageError, match="no overlay 'mesh'; choose from: landmarks, parsing, none"):
        drawing.annotate(photo(9, 9), [], overlay="mesh")


def placed(faces: list[Face], shape: tuple[int, int], names: list[str | None] | None = None) -> list[Any]:
    return labels.place(faces, shape, names or [None] * len(faces))


@pytest.mark.parametrize("side", [60, 100, 320, 1500])
@pytest.mark.parametrize("place", ["top", "middle", "bottom", "right", "all", "left"])
def test_the_entire_label_stays_inside_the_photo(side: int, place: str) -> None:
    a, b = {
        "top": ((0.3, 0.0), (0.7, 0.4)), "middle": ((0.3, 0.3), (0.7, 0.7)), "bottom": ((0.3, 0.7), (0.7,
        1.0)),
        "right": ((0.8, 0.3), (1.1, 0.7)), "all": ((0.0, 0.0), (1.0, 1.0)), "left": ((-0.2, 0.3), (0.2, 0.7)),
    }[place]  # fmt: skip
    who = full(a[0] * side, a[1] * side, b[0] * side, b[1] * side)
    [plate] = placed([who], (side, side))
    assert plate.x >= 0
    assert plate.y >= 0
    assert plate.x + plate.width <= side
    assert plate.y + plate.height <= side
    assert plate.text.startswith("F 34")
    bare = Face(who.box, who.score, who.points, {k: who[k] for k in ("landmarks", "parsing")})
    where = np.argwhere(
        changed(drawing.annotate(photo(side, side), [bare]), drawing.annotate(photo(side, side), [who]))
    )
    assert (where.min(0) == [plate.y, plate.x]).all()
    assert (where.max(0) == [plate.y + plate.height - 1, plate.x + plate.width - 1]).all()


def crowd(seed: int, n: int = 14, side: int = 400) -> list[Face]:
    rng = np.random.default_rng(seed)
    corners, sizes = rng.uniform(-10, side, (n, 2)), rng.uniform(12, 120, n)
    return [full(x, y, x + s, y + 1.2 * s) for (x, y), s in zip(corners, sizes, strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_a_label_never_covers_another_face_or_label(seed: int) -> None:
    faces = crowd(seed)
    boxes = np.array([f.box for f in faces])
    plates = labels.place(faces, (400, 400), [f"n{i}" for i in range(len(faces))])
    assert plates
    for plate in plates:
        owner = int(plate.text.split()[0][1:])
        shared = labels._overlap(plate.rectangle, boxes)
        assert not np.delete(shared, owner).any()
        assert shared[owner] <= labels.ON_FACE * np.prod(boxes[owner, 2:] - boxes[owner, :2])
        far = labels._distance(plate.rectangle, boxes)
        assert (np.delete(far, owner) > far[owner]).all()
        others = np.array([p.rectangle for p in plates if p is not plate], float).reshape(-1, 4)
        assert not labels._overlap(plate.rectangle, others).any()


def test_a_lonely_face_has_its_label_above_or_next_to_it_where_there_is_room() -> None:
    who = full(150, 150, 250, 270)
    [plate] = placed([who], (400, 400))
    assert plate.text == "F 34 (28-41) happiness"
    assert plate.y + plate.height <= 150
    assert plate.x == 150
    [plate] = placed([full(150, 5, 250, 125)], (400, 400))
    assert plate.y >= 125  # below, where there is no room above


def test_labels_keep_apart_and_all_are_there_where_there_is_room() -> None:
    faces = [full(100, 100, 150, 160), full(155, 100, 205, 160)]
    assert len(placed(faces, (400, 600))) == 2


def test_no_label_where_it_would_have_to_cover_another_face() -> None:
    inner, around = full(50, 50, 80, 80), full(0, 0, 130, 130)
    plates = placed([inner, around], (130, 130), ["in", "out"])
    for plate in plates:
        assert not labels._overlap(plate.rectangle, np.array([inner.box])).any()
    assert [p.text.split()[0] for p in plates] == ["out"]


def test_label_texts() -> None:
    who = full(0, 0, 100, 100)
    assert labels.texts(who) == ["F 34 (28-41) happiness", "F 34 happiness", "F 34"]
    assert labels.texts(full(0, 0, 30, 30)) == ["F 34"]
    assert labels.texts(face(0, 0, 100, 100)) == []
    mood = SimpleNamespace(label="anger", probabilities={"anger": 0.9})
    assert labels.texts(face(0, 0, 100, 100, expression=mood)) == ["anger"]
    age = SimpleNamespace(years=7.6, low=5.0, high=9.0)
    assert labels.texts(face(0, 0, 100, 100, age=age)) == ["8 (5-9)", "8"]
    assert labels.texts(who, "Ann")[-2:] == ["Ann F 34", "Ann"]
    assert labels.texts(face(0, 0, 100, 100), "Ann") == ["Ann"]


@pytest.mark.parametrize(
    ("probability", "gender", "mood"),
    [
        (0.95, "F", "anger"),
        (0.8, "F", "anger"),
        (0.79, "F?", "anger?"),
        (0.6, "F?", "anger?"),
        (0.59, "", ""),
    ],
)
def test_a_doubtful_answer_is_marked_or_left_out(probability: float, gender: str, mood: str) -> None:
    who = face(
        0, 0, 100, 100,
        gender=SimpleNamespace(label="female", probability=probability),
        age=SimpleNamespace(years=40.0, low=30.0, high=50.0),
        expression=SimpleNamespace(label="anger", probabilities={"anger": probability}),
    )  # fmt: skip
    assert labels.texts(who)[0].split() == [t for t in (gender, "40", "(30-50)", mood) if t]


def test_names_are_drawn_and_must_be_one_per_face() -> None:
    faces = [face(20, 100, 80, 160), face(120, 100, 180, 160)]
    plain = drawing.annotate(photo(200, 200), faces)
    out = drawing.annotate(photo(200, 200), faces, names=["Ann", None])
    assert changed(plain, out)[70:100, :100].any()
    assert not changed(plain, out)[:, 110:].any()
    with pytest.raises(UsageError, match="names has 1 entries for 2 faces"):
        drawing.annotate(photo(200, 200), faces, names=["Ann"])


def test_letters_that_the_built_in_font_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(labels, "_SYSTEM_FONTS", ())
    assert labels.font_for("Zoë Núñez", 14)[1] == "Zoe Nunez"
    assert labels.font_for("山田 Ann", 14)[1] == "?? Ann"
    assert labels.font_for("Ann", 14)[1] == "Ann"
    (tmp_path / "x.ttf").write_bytes(b"no font")
    with pytest.raises(UsageError, match=r"x\.ttf' as a font .*; give a \.ttf or \.otf file"):
        labels.font_for("Ann", 14, tmp_path / "x.ttf")


def test_a_photo_too_small_for_text_gets_none() -> None:
    assert not placed([full(1, 1, 7, 7)], (8, 8))


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


def test_save_mask_keeps_labels_and_colors(tmp_path: Path) -> None:
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

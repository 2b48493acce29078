"""Points and masks of annotation files, and messages for what does not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mien.errors import UsageError
from mien.training.finetune import table
from mien.training.finetune.annotation_files import MaskLabel, Runs, decode_counts


def coco(root, notes, categories=None, images=("a.jpg", "b.jpg")):
    listed = [{"id": i, "file_name": n, "width": 6, "height": 4} for i, n in enumerate(images)]
    categories = categories or [{"id": 1, "name": "face", "keypoints": ["left_eye", "right_eye"]}]
    content = {"images": listed, "annotations": notes, "categories": categories}
    path = root / "labels.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def note(image, **more):
    return {"id": image, "image_id": image, "category_id": 1, **more}


def encoded(counts):
    """COCO's text of run lengths, by its definition: for the round trip only."""
    out = ""
    for i, n in enumerate(counts):
        x = n - counts[i - 2] if i > 2 else n
        while True:
            c, x = x & 31, x >> 5
            more = x != (-1 if c & 16 else 0)
            out += chr((c | 32 if more else c) + 48)
            if not more:
                break
    return out


def test_run_lengths_as_text():
    assert decode_counts("345") == [3, 4, 5]
    assert decode_counts("`0") == [16]  # five bits and a sign bit that needs a second character
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(0, 5000, 9).tolist()
        assert decode_counts(encoded(counts)) == counts
    with pytest.raises(ValueError, match="cut off"):
        decode_counts("`")
    with pytest.raises(ValueError, match="not COCO's"):
        decode_counts("3 4")


def test_runs_go_down_columns_or_along_rows():
    down = Runs((1, 2, 3), (3, 2)).array()
    assert down.tolist() == [[False, True, False], [True, False, False]]
    along = Runs((1, 2, 3), (3, 2), by_column=False).array()
    assert along.tolist() == [[False, True, True], [False, False, False]]
    mask = np.zeros((3, 4), np.uint8)
    Runs((0, 4), (2, 2), by_column=False, corner=(3, -1)).paint(mask, 7)  # beyond two edges
    assert mask.tolist() == [[0, 0, 0, 7], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_coco_keypoints(tmp_path):
    path = coco(tmp_path, [note(0, keypoints=[1.5, 2.5, 2, 0, 0, 0]), note(1, keypoints=[1, 1, 1, 4, 2, 2])])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.jpg").write_bytes(b"")
    found = table.read(path)
    assert (found.kind, found.names, found.why) == (
        "points",
        ("left_eye", "right_eye"),
        "the file has keypoints",
    )
    assert found.rows[0].label[0].tolist() == [1, 2]
    assert np.isnan(found.rows[0].label[1]).all()
    assert [r.source for r in found.rows] == [str(tmp_path / "a.jpg"), str(tmp_path / "images" / "b.jpg")]


def test_pictures_of_several_faces_are_left_out(tmp_path):
    twice = [note(0, keypoints=[1, 1, 2, 2, 2, 2]), note(0, keypoints=[3, 3, 2, 4, 4, 2])]
    found = table.read(coco(tmp_path, [*twice, note(1, keypoints=[1, 1, 2, 2, 2, 2])]))
    assert [r.name for r in found.rows] == ["b.jpg"]
    assert "points of several faces, such as a.jpg" in found.problems[0]


def test_coco_polygons_and_runs_are_one_mask(tmp_path):
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    names = [{"id": 1, "name": "beard"}, {"id": 2, "name": "scar"}]
    runs = {"size": [4, 6], "counts": encoded([20, 3, 1])}  # the three upper pixels of the last column
    notes = [note(0, segmentation=[square]), note(0, segmentation=runs) | {"category_id": 2}]
    found = table.read(coco(tmp_path, notes, names))
    assert (found.kind, found.names) == ("masks", ("background", "beard", "scar"))
    mask = found.rows[0].label.array((6, 4), 3)
    assert mask[:3, 5].tolist() == [2, 2, 2]
    assert mask[1:3, 1:4].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert mask[0, 0] == mask[3, 5] == 0
    only = table.read(coco(tmp_path, notes, names), columns=["scar"])
    assert only.names == ("background", "scar")
    with pytest.raises(UsageError, match="has no category 'hair'; it has: beard, scar"):
        table.read(tmp_path / "labels.json", columns=["hair"])


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version>
<image id="0" name="a.jpg" subset="Train" width="6" height="4">{0}</image>
<image id="1" name="b.jpg" width="6" height="4">{1}</image></annotations>"""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            '<points label="left" points="1.5,2.5"/><points label="right" points="4.5,2.5"/>',
            '<points label="right" points="4.5,1.5"/>',
        ),
        (
            '<skeleton label="f"><points label="left" points="1.5,2.5" outside="0"/>'
            '<points label="right" points="4.5,2.5" outside="0"/></skeleton>',
            '<skeleton label="f"><points label="left" points="0,0" outside="1"/>'
            '<points label="right" points="4.5,1.5" outside="0"/></skeleton>',
        ),
    ],
)
def test_cvat_points_by_label_or_skeleton(tmp_path, first, second):
    path = tmp_path / "a.xml"
    path.write_text(CVAT.format(first, second), encoding="utf-8")
    found = table.read(path)
    assert (found.kind, found.names) == ("points", ("left", "right"))
    assert found.rows[0].label.tolist() == [[1, 2], [4, 2]]
    assert np.isnan(found.rows[1].label[0]).all()
    assert [r.split for r in found.rows] == ["train", ""]


def test_cvat_points_without_names_and_masks(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(CVAT.format('<points label="f" points="1.5,2.5;4.5,2.5"/>', ""), encoding="utf-8")
    assert table.read(path).names == ("1", "2")
    polygon = '<polygon label="beard" points="1,1;4,1;4,3;1,3" z_order="0"/>'
    runs = '<mask label="scar" rle="0,2" left="4" top="0" width="2" height="1" z_order="1"/>'
    path.write_text(CVAT.format(polygon + runs, ""), encoding="utf-8")
    found = table.read(path)
    assert found.names == ("background", "beard", "scar")
    assert found.rows[0].label.array((6, 4), 3)[0].tolist() == [0, 0, 0, 0, 2, 2]


def mask_folder(root, values, names=None):
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i, value in enumerate(values):
        Image.new("RGB", (4, 4)).save(root / "images" / f"{i}.jpg")
        Image.fromarray(np.array(value, np.uint8).reshape(1, -1)).save(root / "masks" / f"{i}.png")
    if names:
        (root / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    return root


def test_a_folder_of_masks(tmp_path):
    found = table.read(mask_folder(tmp_path / "a", [[0, 1], [0, 2]], ["background", "skin", "hair"]))
    assert (found.kind, found.names) == ("masks", ("background", "skin", "hair"))
    assert table.read(mask_folder(tmp_path / "b", [[0, 2], [0, 255]])).names == (
        "background", "class1", "class2",
    )  # fmt: skip
    white = table.read(mask_folder(tmp_path / "c", [[0, 255]]))
    assert white.names == ("background", "inside")
    assert white.rows[0].label.array((2, 1), 2).tolist() == [[0, 1]]
    (tmp_path / "a" / "images" / "alone.jpg").write_bytes(b"")
    assert "1 pictures have no mask, such as alone" in table.read(tmp_path / "a").problems[0]


def test_masks_named_in_a_table(tmp_path):
    mask_folder(tmp_path, [[0, 1], [1, 0], [0, 0]])
    rows = "".join(f"images/{i}.jpg,masks/{i}.png\n" for i in range(3))
    (tmp_path / "m.csv").write_text("path,mask\n" + rows, encoding="utf-8")
    found = table.read(tmp_path / "m.csv")
    assert (found.kind, found.names) == ("masks", ("background", "class1"))
    assert found.rows[1].label.array((2, 1), 2).tolist() == [[1, 0]]


def test_a_mask_that_does_not_fit_is_named(tmp_path):
    mask_folder(tmp_path, [[0, 1]])
    label = MaskLabel(path=str(tmp_path / "masks" / "0.png"))
    with pytest.raises(UsageError, match="is 2 x 1 and its picture 4 x 4"):
        label.array((4, 4), 2)
    with pytest.raises(UsageError, match="holds the class 1; there are 0 to 0"):
        label.array((2, 1), 1)
    Image.new("RGB", (2, 1)).save(tmp_path / "masks" / "0.png")
    with pytest.raises(UsageError, match="mode RGB"):
        table.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is no COCO file that can be read"),
        ("a.json", "{}", "it has the lists images"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 3, "category_id": 1}],'
            ' "categories": [{"id": 1, "name": "x"}]}', "pictures that it does not list"),
        ("a.xml", "<annotations>", "is no file of the format 'CVAT for images'"),
        ("a.xml", "<!DOCTYPE a><annotations/>", "declares a document type"),
        ("a.xml", "<annotations/>", "has no points, polygons or masks"),
    ],
)  # fmt: skip
def test_damaged_files_say_the_fix(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as e:
        table.read(tmp_path / name)
    assert message in str(e.value)


def test_runs_that_do_not_cover_the_mask(tmp_path):
    runs = {"size": [4, 6], "counts": [20, 3]}
    with pytest.raises(UsageError, match="the runs cover 23 pixels, and the mask has 6 x 4"):
        table.read(coco(tmp_path, [note(0, segmentation=runs)], [{"id": 1, "name": "beard"}]))


def test_kinds_that_annotations_are_not(tmp_path):
    path = coco(tmp_path, [note(0, keypoints=[1, 1, 2, 2, 2, 2])])
    with pytest.raises(UsageError, match="holds points or masks; for number"):
        table.read(path, kind="number")
    with pytest.raises(UsageError, match="neither keypoints nor segmentations"):
        table.read(path, kind="masks")
    mask_folder(tmp_path / "m", [[0, 1]])
    with pytest.raises(UsageError, match="for points give a COCO"):
        table.read(tmp_path / "m", kind="points")


def test_points_find_their_mirror_partners():
    from mien.training.finetune.run import mirror_of_points

    places = np.array([[0.3, 0.4], [0.7, 0.41], [0.5, 0.6]])
    assert mirror_of_points((), places) == ((1, 0, 2), True)
    assert mirror_of_points(("right_brow", "left_brow", "chin"), places + 9) == ((1, 0, 2), True)
    assert mirror_of_points(("mole", "scar", "chin"), places + (0.2, 0)) == ((0, 1, 2), False)


def test_a_polygon_has_the_pixels_whose_centers_are_inside():
    label = MaskLabel(shapes=((1, ((0, 0), (2, 0), (2, 2), (0, 2))),), size=(3, 2))
    assert label == MaskLabel(shapes=((1, ((0, 0), (2, 0), (2, 2), (0, 2))),), size=(3, 2))
    assert label.array((3, 2), 2).tolist() == [[1, 1, 0], [1, 1, 0]]


def test_a_mask_that_cannot_be_read_is_left_out(tmp_path):
    mask_folder(tmp_path, [[0, 1], [1, 0]])
    (tmp_path / "masks" / "0.png").write_bytes(b"no picture")
    found = table.read(tmp_path)
    assert [r.name for r in found.rows] == ["images/1.jpg"]
    assert "1 masks cannot be used and are left out" in found.problems[0]


@pytest.mark.parametrize("names", [(), ("left", "right")])
def test_points_travel_in_a_header_with_and_without_names(names):
    from mien.tasks.kinds import entry_of, task_of
    from mien.tasks.landmarks import LandmarkTask

    task = LandmarkTask("marks", "marks-1", (1, 0), None, names=names)
    entry = json.loads(json.dumps(entry_of(task)))
    assert ("names" in entry) == bool(names)
    assert task_of(entry) == task
    with pytest.raises(ValueError, match="has 3 names for 2 points"):
        task_of(entry | {"names": ["a", "b", "c"]})

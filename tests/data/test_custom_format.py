"""A user's own labels: every kind of column, and every mistake with its file, row and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mien.data.formats import custom
from mien.errors import MissingData, UsageError
from mien.geometry import TEMPLATES
from tests.support import layouts_people as draw
from tests.support.layouts_people import FIVE, which

SOME = " ".join(str(v) for v in FIVE.reshape(-1))


def test_table_csv(tmp_path: Path):
    draw.own_pictures(tmp_path)
    path = draw.own_csv(
        tmp_path / "faces.csv",
        ["path", "points5", "age", "expression", "expression7", "identity512", "Male", "Smiling"],
        [
            ["pictures/0.png", SOME, "31.5", "happiness", "surprise", "7", "1", ""],
            ["pictures/1.png", SOME.replace(" ", ";"), "", "3", "", "", "no", "TRUE"],
            ["pictures/2.png", SOME, "", "", "", "", "", ""],
        ],
    )
    data = custom.table(path)
    assert (len(data), data.name) == (3, "faces")
    assert data[0].labels == {
        "age": 31.5,
        "expression": 1,
        "expression7": 3,
        "identity512": 7,
        "attributes": {"Male": 1},
    }
    assert data[1].labels == {"expression": 3, "attributes": {"Male": 0, "Smiling": 1}}
    assert data[2].labels == {}
    for i in range(3):
        assert (
            data[i].name == f"pictures/{i}.png"
            and which(data[i].image) == i
            and data[i].image.shape == (80, 60, 3)
        )
        np.testing.assert_array_equal(data[i].points, FIVE)


def test_table_parquet_with_pictures_inside(tmp_path: Path):
    columns: dict[str, Any] = {
        "image": [draw.encoded(i) for i in range(3)],
        "split": ["train", "test", "train"],
        "points5": [(FIVE + i).tolist() for i in range(3)],
        "age": [20, None, 40],
        "Male": [True, None, False],
        "note": ["a", "b", "c"],
    }
    pq.write_table(pa.table(columns), tmp_path / "faces.parquet")
    with pytest.raises(UsageError, match=r"faces\.parquet has a column 'note' that is not a label"):
        custom.table(tmp_path / "faces.parquet")
    train = custom.table(tmp_path / "faces.parquet", "train", ignore=["note"])
    assert [train[i].labels for i in range(len(train))] == [
        {"age": 20.0, "attributes": {"Male": 1}},
        {"age": 40.0, "attributes": {"Male": 0}},
    ]
    assert [which(train[i].image) for i in range(2)] == [0, 2]
    np.testing.assert_array_equal(train[1].points, FIVE + 2)
    assert custom.table(tmp_path / "faces.parquet", "test", ignore=["note"])[0].labels == {}
    with pytest.raises(UsageError, match="has no split 'val'; there are: test, train"):
        custom.table(tmp_path / "faces.parquet", "val", ignore=["note"])


def test_landmarks_give_the_five_points(tmp_path: Path):
    draw.own_pictures(tmp_path)
    marks = draw.marks68()
    numbers = [f"{v:g}" for v in marks.reshape(-1)]
    path = draw.own_csv(
        tmp_path / "a.csv",
        ["path", *(f"{a}{i}" for i in range(1, 69) for a in "xy")],
        [["pictures/0.png", *numbers]],
    )
    data = custom.table(path)
    np.testing.assert_array_equal(data[0].labels["landmarks"], marks)
    np.testing.assert_allclose(data[0].points, FIVE)
    draw.own_csv(
        path,
        ["path", *(f"{a}{i}" for i in range(1, 69) for a in "xy")],
        [["pictures/0.png", "", *numbers[1:]]],
    )
    with pytest.raises(UsageError, match=r"a\.csv, row 1: '' in column x1 lacks a number"):
        custom.table(path)


def test_where_the_face_is(tmp_path: Path):
    names = draw.own_pictures(tmp_path)
    ten = [f"p{a}{i}" for i in range(1, 6) for a in "xy"]
    path = draw.own_csv(
        tmp_path / "a.csv",
        ["path", *ten],
        [[names[0], *FIVE.reshape(-1)], [names[1], *[""] * 10], [names[2], *[""] * 10]],
    )
    with pytest.raises(
        UsageError, match=r"a\.csv: 'pictures/1\.png' has no points, and 1 more; add a column points5"
    ):
        custom.table(path)
    data = custom.table(path, template="head")
    np.testing.assert_array_equal(data[0].points, FIVE)
    np.testing.assert_allclose(data[1].points, TEMPLATES["head"] * (60, 80) - 0.5)
    points = draw.points_table(tmp_path / "points.parquet", names)
    np.testing.assert_array_equal(custom.table(path, points=points)[2].points, FIVE + 2)
    np.testing.assert_array_equal(custom.table(path, points=points)[0].points, FIVE)  # a row's own come first
    few = draw.points_table(tmp_path / "few.parquet", names[:2])
    with pytest.raises(MissingData, match=r"sufficient score for 1 of 2 pictures .* 'pictures/2\.png'"):
        custom.table(path, points=few)
    np.testing.assert_allclose(
        custom.table(path, points=few, template="arcface")[2].points, TEMPLATES["arcface"] * (60, 80) - 0.5
    )
    with pytest.raises(UsageError, match="no template 'face'; there are: head, arcface"):
        custom.table(path, template="face")


def test_parsing(tmp_path: Path):
    draw.own_pictures(tmp_path)
    mask = np.zeros((80, 60), np.uint8)
    mask[10:20] = 18
    mask[0] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    palette = Image.new("P", (60, 80), 3)
    palette.putpalette([9, 9, 9] * 256)  # the colors are nobody's affair, the numbers are the labels
    palette.save(tmp_path / "palette.png")
    rows = [
        ["pictures/0.png", SOME, "mask.png"],
        ["pictures/1.png", SOME, "palette.png"],
        ["pictures/2.png", SOME, ""],
    ]
    data = custom.table(draw.own_csv(tmp_path / "a.csv", ["path", "points5", "parsing"], rows))
    np.testing.assert_array_equal(data[0].labels["parsing"], mask)
    assert (data[1].labels["parsing"] == 3).all() and "parsing" not in data[2].labels
    mask[5, 5] = 19
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(UsageError, match=r"mask\.png holds the class 19; there are 0\.\.18, and 255"):
        data[0]
    Image.fromarray(mask[:40]).save(tmp_path / "mask.png")
    with pytest.raises(UsageError, match=r"mask\.png is 60 x 40 and its picture 60 x 80"):
        data[0]
    Image.new("RGB", (60, 80)).save(tmp_path / "mask.png")
    with pytest.raises(UsageError, match=r"mask\.png has the mode RGB"):
        data[0]
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"mask\.png is not a PNG"):
        data[0]
    (tmp_path / "mask.png").unlink()
    with pytest.raises(MissingData, match=r"expected .*mask\.png; it is missing"):
        custom.table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("age", "old", r"row 2: 'old' is not a number"),
        ("age", "-3", r"row 2: '-3' is not within 0\.\.120"),
        ("age", "nan", r"row 2: 'nan' is not within 0\.\.120"),
        (
            "expression",
            "joy",
            r"row 2: 'joy' in column expression is not a class; there are: neutral, happiness,",
        ),
        ("expression", "8", r"row 2: '8' is not within 0\.\.7"),
        ("expression7", "contempt", r"row 2: 'contempt' in column expression7 is not a class"),
        ("expression7", "2.5", r"row 2: '2\.5' in column expression7 is not a whole number"),
        ("identity512", "-1", r"row 2: '-1' is not within"),
        ("Male", "-1", r"row 2: '-1' in column Male is neither 1 nor 0; leave it empty"),
        ("points5", "1 2 3", r"row 2: '1 2 3' in column points5 holds 3 numbers; x y of five points are 10"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, column: str, value: str, why: str):
    names = draw.own_pictures(tmp_path)
    path = draw.own_csv(tmp_path / "a.csv", ["path", column], [[names[0], ""], [names[1], value]])
    with pytest.raises(UsageError, match=rf"a\.csv, {why}"):
        custom.table(path, template="head")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (["path", "Smilling"], r"has a column 'Smilling' that is not a label; is it 'Smiling'\? Rename it"),
        (["age"], "needs one of the columns 'path' and 'image'"),
        (["path", "age", "age"], "has a column twice: 'age'"),
        (["path", "px1", "py1"], "has 'px1' and lacks 'px2'; 'px1' to 'py5' go together"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, columns: list[str], why: str):
    path = draw.own_csv(tmp_path / "a.csv", columns, [["1"] * len(columns)])
    with pytest.raises(UsageError, match=why):
        custom.table(path)


def test_what_is_not_there(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*a\.csv; it is missing"):
        custom.table(tmp_path / "a.csv")
    path = draw.own_csv(tmp_path / "a.csv", ["path"], [["nowhere.png"]])
    with pytest.raises(MissingData, match=r"expected .*nowhere\.png; it is missing"):
        custom.table(path)
    names = draw.own_pictures(tmp_path)
    draw.own_csv(path, ["path", "age"], [[names[0], "1"], [names[0], "2"]])
    with pytest.raises(UsageError, match=r"row 2: 'pictures/0\.png' is the name of an earlier row too"):
        custom.table(path, template="head")
    path.write_text("path,age\npictures/0.png\n")
    with pytest.raises(
        UsageError, match=r"row 1: 'pictures/0\.png' begins a row of 1 cells; the header has 2"
    ):
        custom.table(path)
    with pytest.raises(UsageError, match="has no column 'split' to choose 'train' by"):
        custom.table(draw.own_csv(path, ["path"], [[names[0]]]), "train")
    with pytest.raises(UsageError, match=r"has the extension '\.txt'; a table is \.csv or \.parquet"):
        custom.table(draw.put(tmp_path / "a.txt", "path\n"))
    with pytest.raises(MissingData, match="holds no labeled picture"):
        custom.table(draw.own_csv(path, ["path"], []), template="head")


def test_folder_of_expressions(tmp_path: Path):
    for i, name in enumerate(("surprise", "anger", "surprise")):
        draw.put(tmp_path / "faces" / name / f"{i}.png", draw.encoded(i, form="PNG"))
    draw.put(tmp_path / "faces" / ".cache" / "x.png", b"")
    data = custom.folder(tmp_path / "faces", template="arcface")
    assert [(data[i].name, data[i].labels, which(data[i].image)) for i in range(len(data))] == [
        ("anger/1.png", {"expression": 4}, 1),
        ("surprise/0.png", {"expression": 2}, 0),
        ("surprise/2.png", {"expression": 2}, 2),
    ]
    assert custom.folder(tmp_path / "faces", "expression7", template="head")[1].labels == {"expression7": 3}
    np.testing.assert_allclose(data[0].points, TEMPLATES["arcface"] * 112 - 0.5)


def test_folder_of_people(tmp_path: Path):
    for i, name in enumerate(("Zoe", "Ada", "Bo")):
        draw.put(tmp_path / name / "1.jpg", draw.encoded(i))
    points = draw.points_table(tmp_path / "points.parquet", ["Ada/1.jpg", "Bo/1.jpg", "Zoe/1.jpg"])
    data = custom.folder(tmp_path, "identity512", points=points)
    assert data.classes == ("Ada", "Bo", "Zoe")
    assert [(which(data[i].image), data[i].labels["identity512"]) for i in range(3)] == [
        (1, 0),
        (2, 1),
        (0, 2),
    ]
    np.testing.assert_array_equal(data[2].points, FIVE + 2)


def test_folder_messages(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*faces; it is missing"):
        custom.folder(tmp_path / "faces")
    draw.put(tmp_path / "joy" / "1.jpg", draw.encoded(0))
    with pytest.raises(
        UsageError, match="the folder 'joy' is not a class of expression; there are: neutral, happiness"
    ):
        custom.folder(tmp_path)
    with pytest.raises(
        UsageError, match="cannot be a class of 'age'; there are: expression, expression7, identity512"
    ):
        custom.folder(tmp_path, "age")
    with pytest.raises(UsageError, match=r"'joy/1\.jpg' has no points, and 0 more"):
        custom.folder(tmp_path, "identity512")
    (tmp_path / "joy" / "1.jpg").rename(tmp_path / "joy" / "1.txt")
    with pytest.raises(UsageError, match="joy holds no pictures"):
        custom.folder(tmp_path, "identity512", template="head")

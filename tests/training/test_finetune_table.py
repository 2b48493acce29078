"""Labels of a user's pictures: kinds that are found, and messages for what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mien.errors import UsageError
from mien.training.finetune import table
from mien.training.finetune.faces import Kept
from mien.training.finetune.splits import duplicates, split


def folder(root, **classes):
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.jpg").write_bytes(b"")
    return root


def csv(root, text):
    path = root / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(column, values):
    return f"path,{column}\n" + "".join(f"{i}.jpg,{v}\n" for i, v in enumerate(values))


def test_class_folders(tmp_path):
    found = table.read(folder(tmp_path, curly=4, straight=5))
    assert (found.kind, found.names, len(found.rows)) == ("choice", ("curly", "straight"), 9)
    assert found.rows[0].label == "curly"
    assert not found.problems


def test_folders_of_splits(tmp_path):
    folder(tmp_path / "train", a=3, b=3)
    folder(tmp_path / "validation", a=1, b=1)
    found = table.read(tmp_path)
    assert sorted({r.split for r in found.rows}) == ["train", "val"]
    assert found.names == ("a", "b")


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("hair", ["curly", "straight"] * 3, "choice"),
        ("glasses", ["yes", "no"] * 3, "attributes"),
        ("grade", [1, 2, 3] * 3, "choice"),
        ("height", [1.5, 2.5, 3.25, 4.0], "number"),
        ("years", list(range(12)), "number"),
        ("mask", ["a.png", "b.png"], "masks"),
    ],
)
def test_kinds_are_found(tmp_path, column, values, kind):
    for value in values if kind == "masks" else ():
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / value)
    found = table.read(csv(tmp_path, rows(column, values)))
    assert found.kind == kind
    assert found.why


def test_attributes_in_several_columns_may_be_unknown(tmp_path):
    text = "path,glasses,beard,person\na.jpg,1,0,ann\nb.jpg,0,,ben\nc.jpg,,1,cy\nd.jpg,,,dan\n"
    found = table.read(csv(tmp_path, text))
    assert (found.kind, found.names) == ("attributes", ("glasses", "beard"))
    assert [r.label for r in found.rows] == [{"glasses": 1, "beard": 0}, {"glasses": 0}, {"beard": 1}]
    assert [r.person for r in found.rows] == ["ann", "ben", "cy"]
    assert found.problems == ["1 rows have no label; they are left out"]


def test_points_by_their_columns(tmp_path):
    found = table.read(csv(tmp_path, "path,x1,y1,x2,y2\na.jpg,1,2,3,4\nb.jpg,1,2,,\n"))
    assert found.kind == "points"
    assert found.rows[0].label.tolist() == [[1, 2], [3, 4]]
    assert np.isnan(found.rows[1].label[1]).all()


def test_parquet_with_pictures_inside(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"image": [b"x", b"y", b"z"] * 2, "hair": ["a", "b"] * 3, "name": list("abcdef")}),
        tmp_path / "t.parquet",
    )
    found = table.read(tmp_path / "t.parquet")
    assert [r.source for r in found.rows[:2]] == [b"x", b"y"]
    assert [r.name for r in found.rows[:2]] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,hair\na.jpg,x\n", "no column 'path'; it has: file, hair. Rename 'file' to 'path'"),
        ("path;hair\na.jpg;x\n", "semicolons"),
        ("path\na.jpg\n", "no label column"),
        ("path,hair\na.jpg,x,y\n", "line 2: 3 cells, and the first line has 2"),
        (
            "path,hair,skin\na.jpg,x,y\n",
            "several label columns: hair, skin; name the one to learn by --columns",
        ),
        ("path,glasses\na.jpg,1\nb.jpg,1\n", "always says yes"),
        ("path,hair\na.jpg,x\nb.jpg,x\nc.jpg,x\n", "one class, 'x'"),
        ("path,hair,split\na.jpg,x,tran\n", "split 'tran' is none of train, val, test"),
        ("path,hair,hair\na.jpg,x,y\n", "a column twice: 'hair'"),
    ],
)
def test_wrong_tables_say_the_fix(tmp_path, text, message):
    with pytest.raises(UsageError) as e:
        table.read(csv(tmp_path, text))
    assert message in str(e.value)


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no column 'hiar'; is it 'hair'"):
        table.read(csv(tmp_path, rows("hair", ["a", "b"])), columns=["hiar"])


def test_a_word_among_numbers_is_named(tmp_path):
    with pytest.raises(UsageError, match="holds numbers, and 'tall'"):
        table.read(csv(tmp_path, rows("height", [*np.arange(20) + 0.5, "tall"])))


def test_missing_data_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no"):
        table.read(tmp_path / "nothing")
    with pytest.raises(UsageError, match="holds no class folders"):
        table.read(tmp_path)


def test_spellings_are_joined_and_typing_errors_told(tmp_path):
    found = table.read(folder(tmp_path, Curly=3, curly=9, straight=30, straigt=3, wavy=1))
    assert found.names == ("curly", "straight", "straigt")
    told = " / ".join(found.problems)
    assert "'Curly' and 'curly' differ in spelling only; they are taken as 'curly'" in told
    assert "'straigt' (3 pictures) is nearly spelled as 'straight' (30)" in told
    assert "the class 'wavy' has 1 picture; 3 are needed" in told
    assert sum(r.label == "curly" for r in found.rows) == 12


def test_numbers_are_no_typing_errors(tmp_path):
    found = table.read(folder(tmp_path, **{"10-19 years": 30, "20-29 years": 3, "3-9 years": 3}))
    assert found.names == ("3-9 years", "10-19 years", "20-29 years")
    assert not found.problems


# --- Splits


def picture(rng, pixels=""):
    return Kept(
        "ok",
        pixels=pixels,
        bits=rng.random((2, 256)) > 0.5,
        thumb=rng.integers(0, 255, (2, 16, 16), np.uint8),
    )


def row(label, i, **more):
    return table.Row(f"{i}.jpg", f"{i}.jpg", label, **more)


def test_duplicates_are_found_mirrored_too(rng):
    first = picture(rng, "a")
    near = Kept("ok", pixels="b", bits=first.bits.copy(), thumb=first.thumb.copy())
    near.bits[0, :10] ^= True
    turned = Kept("ok", pixels="c", bits=first.bits[::-1].copy(), thumb=first.thumb[::-1].copy())
    pictures = [first, picture(rng, "d"), near, turned, picture(rng, "d")]
    found = duplicates(pictures)
    assert (0, 2, False) in found
    assert (0, 3, False) in found
    assert (1, 4, True) in found
    assert {(a, b) for a, b, _ in found} <= {(0, 2), (0, 3), (2, 3), (1, 4)}


def test_people_and_duplicates_stay_on_one_side(rng):
    labels = ["a", "b"] * 100
    rows = [row(v, i, person=f"p{i // 5}") for i, v in enumerate(labels)]
    kept = [picture(rng, str(i)) for i in range(200)]
    kept[7] = Kept("ok", pixels=kept[150].pixels, bits=kept[150].bits, thumb=kept[150].thumb)
    rows[7] = row(rows[150].label, 7)
    found = split(rows, kept, labels, seed=3)
    for person in {r.person for r in rows if r.person}:
        assert len({found.part[i] for i, r in enumerate(rows) if r.person == person}) == 1
    assert found.part[7] == found.part[150]
    assert [round(len(found.index(n)) / 200, 1) for n in table.SPLITS] == [0.7, 0.2, 0.2] or all(
        len(found.index(n)) >= 25 for n in table.SPLITS
    )
    assert split(rows, kept, labels, seed=3).part == found.part
    assert split(rows, kept, labels, seed=4).part != found.part


def test_one_picture_with_two_labels_is_left_out(rng):
    rows = [row("a" if i < 10 else "b", i) for i in range(20)]
    kept = [picture(rng, str(i)) for i in range(20)]
    kept[15] = kept[2]
    found = split(rows, kept, [r.label for r in rows])
    assert found.part[2] == found.part[15] == ""
    assert any("one picture with two labels, 'a' and 'b'" in p for p in found.problems)


def test_leaks_between_given_splits_are_left_out(rng):
    rows = [row("ab"[i % 2], i, split=("train", "val", "test")[i % 3]) for i in range(30)]
    kept = [picture(rng, str(i)) for i in range(30)]
    kept[0] = kept[2]  # train and test
    found = split(rows, kept, [r.label for r in rows])
    assert (found.part[0], found.part[2]) == ("", "test")
    assert any("1 pictures leak between the splits" in p for p in found.problems)
    assert [found.part[i] for i in range(3, 9)] == ["train", "val", "test"] * 2


def test_a_table_without_a_validation_part_gets_one(rng):
    rows = [row("ab"[i % 2], i, split="test" if i < 10 else "train") for i in range(50)]
    found = split(rows, [picture(rng, str(i)) for i in range(50)], [r.label for r in rows])
    assert len(found.index("test")) == 10
    assert 4 <= len(found.index("val")) <= 10
    assert any("no split 'val'" in p for p in found.problems)

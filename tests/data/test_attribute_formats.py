"""Readers of published layouts: splits, labels, points and messages, on three pictures each."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from mien.data.formats import attributes
from mien.errors import MissingData, UsageError
from mien.tasks import ATTRIBUTES, EXPRESSION, EXPRESSION7
from mien.tasks.attributes import CELEBA40
from tests.support import layouts_people as draw
from tests.support.layouts_people import FIVE, which


def named(label: dict) -> str:
    """The class name behind an expression label, whichever task it answers."""
    ((task, index),) = label.items()
    return {"expression": EXPRESSION, "expression7": EXPRESSION7}[task].names[index]


def test_random_split_is_four_fifths_by_seed_and_covers_all_once():
    train = attributes.random_80_20(55134, "MORPH II", "train", 0)
    test = attributes.random_80_20(55134, "MORPH II", "test", 0)
    assert (len(train), len(test)) == (44107, 11027)
    assert sorted(train + test) == list(range(55134))
    assert attributes.random_80_20(55134, "MORPH II", "test", 1) != test
    with pytest.raises(UsageError, match="MORPH II has no split 'val'; there are: train, test"):
        attributes.random_80_20(10, "MORPH II", "val", 0)


def test_morph2(tmp_path: Path):
    draw.morph2(tmp_path)
    files = [f"Album2/00905{i}_0M{a}.JPG" for i, a in enumerate((16, 34, 77))]
    points = draw.points_table(tmp_path / "points.parquet", files)
    train, test = (attributes.morph2(tmp_path, s, points=points) for s in ("train", "test"))
    assert (len(train), len(test), train.name) == (2, 1, "morph2/train")
    samples = [*(train[i] for i in range(2)), test[0]]
    for s in samples:
        i = files.index(s.name)
        assert s.labels == {"age": (16.0, 34.0, 77.0)[i]}
        assert which(s.image) == i and s.image.shape == (48, 40, 3) and s.image.dtype == np.uint8
        np.testing.assert_array_equal(s.points, FIVE + i)
    assert {s.name for s in samples} == set(files)


def test_morph2_says_what_is_missing(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*morph_2008_nonCommercial\.csv; it is missing"):
        attributes.morph2(tmp_path, "train")
    draw.morph2(tmp_path)
    with pytest.raises(UsageError, match=r"MORPH II comes without points: give points=PATH\.parquet"):
        attributes.morph2(tmp_path, "train")
    unsure = draw.points_table(tmp_path / "p.parquet", ["Album2/009050_0M16.JPG"], [0.2])
    with pytest.raises(
        MissingData, match="lacks points of a sufficient score for 2 of 2 pictures of MORPH II"
    ):
        attributes.morph2(tmp_path, "train", points=unsure)
    draw.morph2(tmp_path, (16, "old", 77))
    with pytest.raises(UsageError, match=r"nonCommercial\.csv, row 2: 'old' is not a number"):
        attributes.morph2(tmp_path, "train")
    draw.morph2(tmp_path, (16, 20, 770))
    with pytest.raises(UsageError, match=r"row 3: '770' is not within 0\.\.120"):
        attributes.morph2(tmp_path, "train")


def test_a_picture_that_is_gone_is_named(tmp_path: Path):
    draw.rafdb(tmp_path)
    (tmp_path / "basic/Image/aligned/test_0001_aligned.jpg").unlink()
    data = attributes.rafdb(tmp_path, "test")
    with pytest.raises(MissingData, match=r"expected .*test_0001_aligned\.jpg; it is missing"):
        data[0]
    with pytest.raises(IndexError, match="picture 1 of the 1 in rafdb/test"):
        data[1]


def test_utkface(tmp_path: Path):
    draw.utkface(tmp_path)
    train, test = attributes.utkface(tmp_path, "train"), attributes.utkface(tmp_path, "test")
    assert (len(train), len(test)) == (2, 1)
    found = {s.name.split("_")[0]: s for s in (train[0], train[1], test[0])}
    assert {a: s.labels["age"] for a, s in found.items()} == {"1": 1.0, "26": 26.0, "90": 90.0}
    assert {a: s.labels["attributes"] for a, s in found.items()} == {
        "1": {"Male": 1},
        "26": {"Male": 0},
        "90": {"Male": 1},
    }
    assert [which(found[a].image) for a in ("1", "26", "90")] == [0, 1, 2]
    np.testing.assert_allclose(train[0].points[0], (0.308 * 200 - 0.5, 0.293 * 200 - 0.5))


def test_utkface_points_table_and_what_it_leaves_to_the_fixed_places(tmp_path: Path):
    draw.utkface(tmp_path)
    names = [f"{s}.jpg.chip.jpg" for s in draw.UTKFACE]
    points = draw.points_table(tmp_path / "points.parquet", names[:2], [0.9, 0.3])
    both = [attributes.utkface(tmp_path, s, points=points) for s in ("train", "test")]
    at = {d[i].name: d[i].points for d in both for i in range(len(d))}
    np.testing.assert_array_equal(at[names[0]], FIVE)
    for name in names[1:]:  # unsure, and not there
        np.testing.assert_allclose(at[name], attributes.UTKFACE_POINTS * 200 - 0.5)


def test_utkface_in_corals_split_is_of_21_to_60_years(tmp_path: Path):
    draw.utkface_coral(tmp_path)
    test = attributes.utkface_coral(tmp_path, "test")
    assert [test[i].labels["age"] for i in range(len(test))] == [21.0, 40.0, 60.0]  # stored as 0, 19, 39
    assert [test[i].labels["attributes"] for i in range(len(test))] == [{"Male": 1}, {"Male": 0}, {"Male": 1}]
    assert [which(test[i].image) for i in range(len(test))] == [0, 1, 2]
    draw.utkface_coral(tmp_path, (30, 61))
    with pytest.raises(UsageError, match=r"utk_train\.csv, row 2: '40' is not within 0\.\.39"):
        attributes.utkface_coral(tmp_path, "train")
    draw.put(tmp_path / "utk_train.csv", ",file,age\n1,30_0_3_20170119165539693.jpg.chip.jpg,30\n")
    with pytest.raises(
        UsageError, match=r"row 1: '30_0_3_.*' is not AGE_.* of 51 years: ages are stored less 21"
    ):
        attributes.utkface_coral(tmp_path, "train")
    (tmp_path / "utk_test.csv").unlink()
    with pytest.raises(MissingData, match=r"expected .*utk_test\.csv; it is missing"):
        attributes.utkface_coral(tmp_path, "test")


def test_utkface_broken_names(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    draw.utkface(tmp_path, (*draw.UTKFACE, "61_1_20170109142408075"))
    with pytest.raises(
        UsageError,
        match=(
            r"UTKFace: 1 names are not AGE_.* the first is"
            r" '61_1_20170109142408075\.jpg\.chip\.jpg'.*skip_broken"
        ),
    ):
        attributes.utkface(tmp_path, "train")
    with caplog.at_level(logging.WARNING):
        assert len(attributes.utkface(tmp_path, "train", skip_broken=True)) == 2
    assert "1 pictures with broken names are left out" in caplog.text
    draw.utkface(tmp_path, ("30_01_2_20170109142408075",))  # "01" is neither gender
    with pytest.raises(UsageError, match="UTKFace: 2 names"):
        attributes.utkface(tmp_path, "train")


AFFECTNET_NAMES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")


def test_affectnet_by_class_name(tmp_path: Path):
    draw.affectnet(tmp_path, range(11))  # 8, 9, 10: none, uncertain, no face
    eight, seven = attributes.affectnet(tmp_path, "train"), attributes.affectnet(tmp_path, "train", classes=7)
    assert [named(dict(eight[i].labels)) for i in range(len(eight))] == list(AFFECTNET_NAMES)
    assert [named(dict(seven[i].labels)) for i in range(len(seven))] == list(AFFECTNET_NAMES[:7])
    # by number: surprise is 3 in AffectNet and 2 in mien's eight; in the seven both orders agree
    assert eight[3].labels == {"expression": 2} and seven[3].labels == {"expression7": 3}
    assert eight[4].name == "4/p4.jpg" and which(eight[5].image) == 1
    np.testing.assert_allclose(eight[0].points, FIVE)


def test_affectnet_validation_has_no_header(tmp_path: Path):
    draw.affectnet(tmp_path, (8, 6, 7))
    data = attributes.affectnet(tmp_path, "val")
    assert [named(dict(data[i].labels)) for i in range(len(data))] == ["anger", "contempt"]
    assert [data[i].name for i in range(2)] == ["1/p1.jpg", "2/p2.jpg"]


def test_affectnet_messages(tmp_path: Path):
    with pytest.raises(
        MissingData, match=r"expected .*Manually_Annotated_file_lists/validation\.csv; it is missing"
    ):
        attributes.affectnet(tmp_path, "val")
    draw.affectnet(tmp_path, (0, 11, 2))
    with pytest.raises(UsageError, match=r"training\.csv, row 2: '11' is not within 0\.\.10"):
        attributes.affectnet(tmp_path, "train")
    with pytest.raises(UsageError, match="AffectNet has no split 'test'; there are: train, val"):
        attributes.affectnet(tmp_path, "test")
    with pytest.raises(UsageError, match="classes=6; 7"):
        attributes.affectnet(tmp_path, "train", classes=6)


RAFDB_NAMES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


@pytest.mark.parametrize("classes", [7, 8])
def test_rafdb_by_class_name(tmp_path: Path, classes: int):
    draw.rafdb(tmp_path, (1, 2, 3, 4, 5, 6, 7))
    train, test = (attributes.rafdb(tmp_path, s, classes=classes) for s in ("train", "test"))
    assert (len(train), len(test)) == (6, 1)
    assert [named(dict(d[i].labels)) for d in (train, test) for i in range(len(d))] == list(RAFDB_NAMES)


def test_rafdb_numbers_and_points(tmp_path: Path):
    draw.rafdb(tmp_path, (5, 1, 4))  # sadness, surprise; test: happiness
    train, test = attributes.rafdb(tmp_path, "train"), attributes.rafdb(tmp_path, "test")
    assert [train[0].labels, train[1].labels, test[0].labels] == [
        {"expression7": 2},
        {"expression7": 3},
        {"expression7": 1},
    ]
    assert (
        train[1].name == "train_00002_aligned.jpg"
        and which(train[1].image) == 1
        and which(test[0].image) == 2
    )
    np.testing.assert_allclose(train[0].points[1], (66.5, 37.5))
    original = attributes.rafdb(tmp_path, "train", aligned=False)
    assert original[1].name == "train_00002.jpg" and original[1].image.shape == (218, 178, 3)
    np.testing.assert_array_equal(original[1].points, FIVE + 1)


def test_rafdb_messages(tmp_path: Path):
    with pytest.raises(
        MissingData, match=r"expected .*basic/EmoLabel/list_patition_label\.txt; it is missing"
    ):
        attributes.rafdb(tmp_path, "train")
    draw.rafdb(tmp_path, (5, 0, 4))
    with pytest.raises(UsageError, match=r"list_patition_label\.txt, row 2: '0' is not within 1\.\.7"):
        attributes.rafdb(tmp_path, "train")


def votes(**counts: int) -> list[int]:
    return [counts.get(n, 0) for n in (*EXPRESSION.names, "unknown", "NF")]


def test_ferplus_majority_by_class_name(tmp_path: Path):
    assert EXPRESSION.names == attributes.FERPLUS8
    rows = [
        ("Training", "fer0000000.png", votes(anger=6, neutral=4)),
        ("Training", "fer0000001.png", votes(anger=5, neutral=5)),  # no majority
        ("Training", "fer0000002.png", votes(unknown=6, fear=4)),  # the majority does not know
        ("Training", "", votes(NF=10)),  # no face, no name
        (
            "Training",
            "fer0000004.png",
            votes(contempt=4, fear=3, sadness=1, disgust=1, happiness=1),
        ),  # single votes do not count
        ("PublicTest", "fer0000005.png", votes(surprise=10)),
        ("PrivateTest", "fer0000006.png", votes(fear=9, sadness=1)),
    ]
    draw.ferplus(tmp_path, rows)
    train = attributes.ferplus(tmp_path, "train")
    assert [(train[i].name, named(dict(train[i].labels))) for i in range(len(train))] == [
        ("fer0000000.png", "anger"),
        ("fer0000004.png", "contempt"),
    ]
    assert train[1].image.shape == (48, 48, 3) and (train[1].image == 40).all()
    assert [named(dict(attributes.ferplus(tmp_path, s)[0].labels)) for s in ("val", "test")] == [
        "surprise",
        "fear",
    ]
    seven = attributes.ferplus(tmp_path, "train", classes=7)
    assert len(seven) == 1 and seven[0].labels == {"expression7": 6}
    np.testing.assert_allclose(train[0].points[2], (0.513 * 48 - 0.5, 0.599 * 48 - 0.5))


def test_ferplus_messages(tmp_path: Path):
    with pytest.raises(MissingData, match=r"expected .*fer2013new\.csv; it is missing"):
        attributes.ferplus(tmp_path, "train")
    draw.ferplus(tmp_path, [("Training", "a.png", votes(fear=10)), ("PublicTest", "b.png", votes(fear=10))])
    text = (tmp_path / "fer2013new.csv").read_text()
    (tmp_path / "fer2013new.csv").write_text(text.replace("PublicTest", "Training"))
    with pytest.raises(
        UsageError, match=r"fer2013\.csv, row 2: 'PublicTest' does not go with .* which has Training"
    ):
        attributes.ferplus(tmp_path, "train")
    (tmp_path / "fer2013new.csv").write_text(text + text.split("\n")[1] + "\n")
    with pytest.raises(UsageError, match=r"has 2 rows and .* has 3"):
        attributes.ferplus(tmp_path, "train")
    (tmp_path / "fer2013new.csv").write_text(text.replace("contempt", "scorn"))
    with pytest.raises(UsageError, match="has no column 'contempt'"):
        attributes.ferplus(tmp_path, "train")


def test_celeba(tmp_path: Path):
    draw.celeba(tmp_path)
    for i, split in enumerate(("train", "val", "test")):
        data = attributes.celeba(tmp_path, split)
        assert len(data) == 1 and data.name == f"celeba/{split}"
        sample = data[0]
        assert sample.name == f"00000{i + 1}.jpg" and which(sample.image) == i
        assert set(sample.labels) == {"attributes", "points5"}
        assert [n for n, yes in sample.labels["attributes"].items() if yes] == [
            CELEBA40[i]
        ]  # -1 is no, not unknown
        assert len(sample.labels["attributes"]) == 40
        target, mask = ATTRIBUTES.encode_target(sample.labels["attributes"], np.eye(2, 3), False, (8, 8))
        assert mask.all() and target.tolist() == [float(k == i) for k in range(40)]
        np.testing.assert_array_equal(sample.points, FIVE + i)
        np.testing.assert_array_equal(sample.labels["points5"], FIVE + i)
    assert attributes.celeba(tmp_path, "test", identity=True)[0].labels["identity512"] == 2882


def test_celeba_messages(tmp_path: Path):
    for gone in (
        "Eval/list_eval_partition.txt",
        "Anno/list_attr_celeba.txt",
        "Anno/list_landmarks_align_celeba.txt",
        "Img/img_align_celeba",
    ):
        root = draw.celeba(tmp_path / gone.replace("/", "-"))
        (root / gone).rename(root / "elsewhere")
        with pytest.raises(MissingData, match=f"expected .*{gone}; it is missing"):
            attributes.celeba(root, "train")
    root = draw.celeba(tmp_path / "values")
    path = root / "Anno/list_attr_celeba.txt"
    text = path.read_text()
    path.write_text(text.replace("000002.jpg -1", "000002.jpg 0"))
    with pytest.raises(
        UsageError, match=r"list_attr_celeba\.txt, row 2: 0 in column 5_o_Clock_Shadow is neither 1 nor -1"
    ):
        attributes.celeba(root, "train")
    path.write_text(text.replace("Bald Bangs", "Bangs Bald"))
    with pytest.raises(UsageError, match="names other columns than CelebA's forty"):
        attributes.celeba(root, "train")
    path.write_text(text.replace("3\n", "4\n", 1))
    with pytest.raises(UsageError, match="says '4' pictures and lists 3"):
        attributes.celeba(root, "train")
    path.write_text("2" + "\n".join(line for line in text[1:].split("\n") if not line.startswith("000001")))
    with pytest.raises(
        MissingData,
        match=r"list_attr_celeba\.txt lacks 1 of the 1 pictures of 'train'; the first is '000001\.jpg'",
    ):
        attributes.celeba(root, "train")

"""Landmark sets: each publisher's layout, written small, is read number by number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien import geometry
from mien.data.augment import NONE
from mien.data.dataset import FaceSource
from mien.data.formats import landmarks
from mien.data.formats.landmarks import Listed
from mien.errors import MissingData, UsageError
from mien.tasks import TASKS
from mien.types import Sample, View
from tests.support import layouts_points as layouts
from tests.support.layouts_points import POINT_SETS, Layout, color, places

VIEW = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FIVE = {"wflw98": (96, 97, 54, 76, 82), "cofw29": (16, 17, 20, 22, 23), "aflw19": (7, 10, 13, 15, 17)}


def made(layout: Layout, root: Path) -> Path:
    write, _, _, module = layout
    if module:
        pytest.importorskip(module)
    write(root)
    return root


@pytest.fixture(params=POINT_SETS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return POINT_SETS[request.param]


def flat(sample: Sample, face: int) -> bool:
    """Whether the picture has that face's color (JPEG may round), upright."""
    return (
        sample.image.shape == (48, 64, 3)
        and sample.image.dtype == np.uint8
        and abs(sample.image[20, 20] - np.float64(color(face))).max() <= 2
    )


def test_counts_by_split(layout: Layout, tmp_path: Path) -> None:
    _, reader, counts, _ = layout
    root = made(layout, tmp_path)
    sets = {split: reader(root, split) for split in counts}
    assert {split: len(s) for split, s in sets.items()} == counts
    for split, dataset in sets.items():
        assert dataset.name.endswith(f"/{split}")
        assert len({dataset[i].name for i in range(len(dataset))}) == len(dataset)
        with pytest.raises(IndexError, match=f"there is no number {len(dataset)}"):
            dataset[len(dataset)]


def test_an_unknown_split_names_the_known_ones(layout: Layout, tmp_path: Path) -> None:
    _, reader, counts, _ = layout
    with pytest.raises(UsageError, match=f"no split 'training'; there are: {', '.join(counts)}$"):
        reader(tmp_path, "training")


MISSING = [
    ("ibug300w", "challenging", "ibug"),
    ("ibug300w", "train", "afw"),
    ("wflw", "train", "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"),
    ("wflw", "train", "WFLW_images"),
    ("cofw", "test", "COFW_test_color.mat"),
    ("aflw19", "test", "AFLWinfo_release.mat"),
    ("aflw19", "test", "data/flickr"),
    ("mtfl", "train", "training.txt"),
]


@pytest.mark.parametrize(("name", "split", "gone"), MISSING)
def test_what_is_missing_is_named(name: str, split: str, gone: str, tmp_path: Path) -> None:
    root = made(POINT_SETS[name], tmp_path)
    (root / gone).rename(root / "elsewhere")
    with pytest.raises(MissingData, match=f"^expected {tmp_path}/{gone}; it is missing$"):
        POINT_SETS[name][1](root, split)


def test_a_missing_picture_is_named_on_access(tmp_path: Path) -> None:
    layouts.mtfl(tmp_path)
    (tmp_path / "AFLW/0001-image.jpg").unlink()
    with pytest.raises(MissingData, match=r"expected .*/AFLW/0001-image\.jpg; it is missing"):
        landmarks.mtfl(tmp_path, "test")[0]
    layouts.ibug300w(tmp_path)
    (tmp_path / "ibug/image_092 _01.jpg").unlink()
    with pytest.raises(MissingData, match=r"expected .*_01.jpg \(or .png\)"):
        landmarks.ibug300w(tmp_path, "challenging")


@pytest.mark.parametrize(("module", "file", "read"), [
    ("h5py", "COFW_train_color.mat", landmarks.cofw), ("scipy.io", "AFLWinfo_release.mat", landmarks.aflw19),
])  # fmt: skip
def test_a_missing_module_is_named(
    module: str, file: str, read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingData, match=f"{file} cannot be read without .*: pip install {module.split('.')[0]}$"
    ):
        read(tmp_path, "train")


def test_300w_counts_pixels_from_one(tmp_path: Path) -> None:
    layouts.ibug300w(tmp_path)
    train = landmarks.ibug300w(tmp_path, "train")
    assert [train[i].name for i in range(3)] == [
        "lfpw/trainset/image_0001",
        "helen/trainset/100_1",
        "afw/1_2",
    ]
    assert all(flat(train[i], i) for i in range(3))
    sample = landmarks.ibug300w(tmp_path, "full")[2]
    assert sample.name == "ibug/image_092 _01" and flat(sample, 5)
    # the first line of the file is x = 8 + 1.25 + 1, y = 6 + 2.5 + 1
    assert (tmp_path / "ibug/image_092 _01.pts").read_text().splitlines()[3] == "10.250000 9.500000"
    np.testing.assert_allclose(sample.labels["landmarks"], places(68, 5), atol=1e-6)
    np.testing.assert_allclose(sample.labels["landmarks"][0], (9.25, 8.5))
    np.testing.assert_allclose(sample.points[0], places(68, 5)[36:42].mean(0), atol=1e-6)
    np.testing.assert_allclose(sample.points[2:], places(68, 5)[[30, 48, 54]], atol=1e-6)
    assert sample.labels["points5"] is sample.points


def test_a_damaged_pts_file_is_named(tmp_path: Path) -> None:
    file = layouts.write(tmp_path / "a.pts", "version: 1\nn_points: 68\n{\n1 2\n3 4\n}\n")
    with pytest.raises(MissingData, match=f"expected 68 points in {file}; it has 4 numbers, not 136"):
        landmarks.read_pts(file, 68)
    np.testing.assert_array_equal(landmarks.read_pts(file, 2), [[0, 1], [2, 3]])
    with pytest.raises(MissingData, match="expected n_points"):
        landmarks.read_pts(layouts.write(tmp_path / "b.pts", "1 2\n"), 1)


def test_wflw_parts_follow_the_attribute_columns(tmp_path: Path) -> None:
    layouts.wflw(tmp_path)
    names = {
        s: [i.name for i in landmarks.wflw(tmp_path, s).items]
        for s in ("test", "test_largepose", "test_expression", "test_blur")
    }
    assert names["test"] == ["0--Parade/0_1.jpg#1", "0--Parade/0_1.jpg#2", "1--Car Race/1_7.jpg#3"]
    assert names["test_largepose"] == names["test_blur"] == names["test"][:1]
    assert names["test_expression"] == names["test"][1:2]
    sample = landmarks.wflw(tmp_path, "test")[2]
    assert flat(sample, 2)
    np.testing.assert_allclose(sample.labels["wflw98"], places(98, 2), atol=1e-6)
    np.testing.assert_allclose(sample.labels["wflw98"][1], (15.5, 18.0))
    file = tmp_path / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    file.write_text(file.read_text() + "1 2 3\n")
    with pytest.raises(MissingData, match=f"expected 207 columns in line 4 of {file}; it has 3"):
        landmarks.wflw(tmp_path, "test")


def test_cofw_pictures_come_out_of_the_file_upright(tmp_path: Path) -> None:
    made(POINT_SETS["cofw"], tmp_path)
    train = landmarks.cofw(tmp_path, "train")
    sample, gray, test = train[0], train[1], landmarks.cofw(tmp_path, "test")[0]
    assert flat(sample, 0) and flat(test, 2)
    np.testing.assert_array_equal(sample.image[5, 7], (1, 2, 3))  # row 5, column 7
    np.testing.assert_array_equal(gray.image[5, 7], (1, 1, 1))
    np.testing.assert_array_equal(gray.image[5, 8], (50, 50, 50))
    np.testing.assert_array_equal(gray.labels["cofw29"], places(29, 1))
    np.testing.assert_array_equal(test.labels["cofw29"][28], (8 + 32 + 0.5, 6 + 29 + 1))
    (tmp_path / "COFW_test_color.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(MissingData, match=r"expected HDF5 in .*COFW_test_color\.mat"):
        landmarks.cofw(tmp_path, "test")


def test_aflw19_follows_the_permutation_and_knows_what_is_unmarked(tmp_path: Path) -> None:
    made(POINT_SETS["aflw19"], tmp_path)
    train, test = (layouts.aflw19_of_four(tmp_path, s) for s in ("train", "test"))
    assert [i.name for i in train.items] == ["0/image00004.jpg#3", "0/image00002.jpg#1"]
    assert [i.name for i in test.items] == ["2/image00013.png#4", "0/image00004.jpg#2"]
    assert [i.name for i in layouts.aflw19_of_four(tmp_path, "test_frontal").items] == ["0/image00004.jpg#2"]
    assert flat(test[0], 3)
    np.testing.assert_array_equal(test[0].labels["aflw19"]["points"], places(19, 3))
    np.testing.assert_array_equal(test[0].labels["aflw19"]["box"], (10, 5, 43, 38))
    gaps = train[1].labels["aflw19"]["points"]
    assert np.flatnonzero(np.isnan(gaps).all(1)).tolist() == [13, 18] and np.isnan(gaps).sum() == 4
    # the nose tip of the five is the template's, brought to the other four
    five, rest = train[1].points, [0, 1, 3, 4]
    np.testing.assert_array_equal(five[rest], places(19, 0)[[7, 10, 15, 17]])
    fit = geometry.fit_similarity(geometry.TEMPLATES["head"][rest], five[rest])
    np.testing.assert_allclose(five[2], geometry.move_points(geometry.TEMPLATES["head"][2], fit))


def test_a_face_with_one_known_point_is_refused() -> None:
    five = np.full((5, 2), np.nan)
    five[0] = 3, 4
    with pytest.raises(MissingData, match=r"two or more of x\.jpg's five points; it has 1"):
        landmarks.completed(five, "x.jpg")


def test_mtfl_reads_a_line(tmp_path: Path) -> None:
    layouts.mtfl(tmp_path)
    train = landmarks.mtfl(tmp_path, "train")
    assert [s.name for s in (train[0], train[1])] == ["lfw_5590/A_1.jpg", "net_7876/B.jpg"]
    assert flat(train[1], 1)
    assert (
        train[0].labels["attributes"] == {"Male": 1, "Smiling": 0, "Eyeglasses": 1}
        and train[0].labels["pose5"] == 0
    )
    assert (
        train[1].labels["attributes"] == {"Male": 0, "Smiling": 1, "Eyeglasses": 0}
        and train[1].labels["pose5"] == 4
    )
    np.testing.assert_array_equal(
        train[1].labels["points5"], [(8.25, 6.5), (15.25, 17.5), (22.25, 28.5), (29.25, 8.5), (36.25, 19.5)]
    )
    np.testing.assert_array_equal(train[1].points, train[1].labels["points5"])


@pytest.mark.parametrize(("name", "task"), [("wflw", "wflw98"), ("cofw", "cofw29"), ("aflw19", "aflw19")])
def test_five_points_are_the_sets_own(name: str, task: str, tmp_path: Path) -> None:
    root = made(POINT_SETS[name], tmp_path)
    sample = POINT_SETS[name][1](root, "test")[0]
    label = sample.labels[task]
    np.testing.assert_array_equal(
        sample.points, (label["points"] if task == "aflw19" else label)[list(FIVE[task])]
    )


def test_the_trainer_can_walk_it(layout: Layout, tmp_path: Path, rng: np.random.Generator) -> None:
    _, reader, _, _ = layout
    dataset: Listed[Any] = reader(made(layout, tmp_path), "train")
    absent = set(dataset[0].labels) - set(TASKS)
    if absent:
        pytest.skip(f"no task {absent}")
    source = FaceSource(dataset, VIEW, NONE)
    for i in range(len(source)):
        sample, example = dataset[i], source.example(i, rng)
        assert example.pixels.shape == (64, 64, 3) and set(example.labels) == set(sample.labels)
        fit = geometry.fit_similarity(sample.points, geometry.template_points(VIEW))
        for name in set(sample.labels) & {"landmarks", "points5", "wflw98", "cofw29", "aflw19"}:
            target, mask = example.labels[name]
            label = sample.labels[name]["points"] if name == "aflw19" else sample.labels[name]
            mask = np.broadcast_to(mask, len(label))
            assert np.isfinite(target).all() and mask.tolist() == np.isfinite(label).all(1).tolist()
            np.testing.assert_allclose(
                target[mask] * 64 - 0.5, geometry.move_points(label, fit)[mask], rtol=1e-4, atol=1e-3
            )

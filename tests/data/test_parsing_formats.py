"""Parsing sets: each publisher's layout, written small, is read pixel by pixel."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien import geometry
from mien.data.augment import NONE
from mien.data.dataset import FaceSource
from mien.data.formats import parsing
from mien.errors import MissingData, UsageError
from mien.tasks import TASKS
from mien.tasks.parsing import CELEBAMASK19
from mien.types import View
from tests.support import layouts_points as layouts
from tests.support.layouts_points import MASK_SETS, Layout, color, places

VIEW = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TASK = {"celebamask_hq": "parsing", "lapa": "lapa11", "helen": "helen9"}


@pytest.fixture(params=MASK_SETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_counts_by_split(name: str, tmp_path: Path) -> None:
    write, reader, counts, _ = MASK_SETS[name]
    write(tmp_path)
    for face, (split, n) in enumerate(counts.items()):
        dataset = reader(tmp_path, split)
        assert len(dataset) == n and dataset.name.endswith(f"/{split}")
        sample = dataset[0]
        mask = sample.labels[TASK[name]]
        assert (
            mask.dtype == np.uint8 and mask.shape == sample.image.shape[:2] and sample.points.shape == (5, 2)
        )
        assert abs(sample.image[10, 10] - np.float64(color(face))).max() <= 2
        with pytest.raises(IndexError, match="there is no number 1"):
            dataset[1]


def test_the_archives_own_folder_may_be_the_root(tmp_path: Path) -> None:
    layouts.lapa(tmp_path)
    assert len(parsing.lapa(tmp_path / "LaPa", "val")) == 1


def test_an_unknown_split_names_the_known_ones(name: str, tmp_path: Path) -> None:
    layout: Layout = MASK_SETS[name]
    layout[0](tmp_path)
    with pytest.raises(UsageError, match=r"no split 'full'; there are: train, val, test$"):
        layout[1](tmp_path, "full")


MISSING = [
    ("celebamask_hq", "CelebAMask-HQ/CelebA-HQ-img"),
    ("celebamask_hq", "CelebAMask-HQ/CelebAMask-HQ-mask-anno"),
    ("celebamask_hq", "CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt"),
    ("celebamask_hq", "CelebAMask-HQ/list_eval_partition.txt"),
    ("lapa", "LaPa/train"),
    ("lapa", "LaPa/train/labels"),
    ("lapa", "LaPa/train/landmarks"),
    ("helen", "exemplars.txt"),
    ("helen", "labels"),
    # what is read with the picture
    ("celebamask_hq", "CelebAMask-HQ/CelebA-HQ-img/0.jpg"),
    ("lapa", "LaPa/train/labels/0_train.png"),
    ("helen", "labels/100_1/100_1_lbl07.png"),
]


@pytest.mark.parametrize(("name", "gone"), MISSING)
def test_what_is_missing_is_named(name: str, gone: str, tmp_path: Path) -> None:
    layout = MASK_SETS[name]
    layout[0](tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(MissingData, match=f"^expected {tmp_path}/{gone}; it is missing$"):
        layout[1](tmp_path, "train")[0]


def test_celebamask_parts_are_in_the_official_order() -> None:
    assert tuple(parsing._FILE_NAMES.get(name, name) for name in CELEBAMASK19[1:]) == (
        "skin",
        "nose",
        "eye_g",
        "l_eye",
        "r_eye",
        "l_brow",
        "r_brow",
        "l_ear",
        "r_ear",
        "mouth",
        "u_lip",
        "l_lip",
        "hair",
        "hat",
        "ear_r",
        "neck_l",
        "neck",
        "cloth",
    )


def test_celebamask_is_painted_in_the_order_of_the_evaluation_code() -> None:
    """Every part once; glasses over eyes and brows, hair over skin and ears, a necklace over the neck."""
    assert sorted(parsing.CELEBAMASK_PAINTED) == sorted(CELEBAMASK19[1:])
    place = parsing.CELEBAMASK_PAINTED.index
    over = (
        ("skin", "neck"),
        ("eyeglass", "l_eye"),
        ("eyeglass", "r_brow"),
        ("hair", "l_ear"),
        ("hat", "hair"),
        ("necklace", "neck"),
    )
    assert all(place(top) > place(below) for top, below in over)


@pytest.mark.parametrize(("order", "seen"), [("farl", "eyeglass"), ("list", "l_eye")])
def test_celebamask_parts_that_overlap(order: str, seen: str, tmp_path: Path) -> None:
    layouts.celebamask_hq(tmp_path)
    sample = parsing.celebamask_hq(tmp_path, "test", order=order)[0]
    mask = sample.labels["parsing"]
    assert sample.name == "2000" and sample.image.shape == (16, 16, 3)  # 32 x 32 shrunk to the mask
    at = {(0, 0): "hair", (4, 7): "hair", (13, 2): "skin", (5, 7): "eyeglass", (6, 7): "eyeglass", (11,
    8): "nose", (6, 9): seen,
          (15, 0): "background"}  # fmt: skip
    assert {place: CELEBAMASK19[mask[place]] for place in at} == at
    np.testing.assert_allclose(sample.points[2], (7.5, 0.6326 * 16 - 0.5))
    shutil.rmtree(tmp_path / "CelebAMask-HQ/CelebAMask-HQ-mask-anno/1")
    with pytest.raises(MissingData, match=r"02000_skin\.png, or another part; all are missing"):
        parsing.celebamask_hq(tmp_path, "test")[0]


def test_entire_celebamask_pictures_are_head_crops(tmp_path: Path) -> None:
    layouts.celebamask_hq(tmp_path)
    sample = parsing.celebamask_hq(tmp_path, "test", full_picture=True)[0]
    crop = geometry.align(sample.image, sample.points, View((16, 16), "head", VIEW.mean, VIEW.std))
    np.testing.assert_allclose(crop.from_photo, np.eye(2, 3), atol=1e-12)
    np.testing.assert_array_equal(crop.pixels, sample.image)
    with pytest.raises(UsageError, match="no order 'bisenet'; use one of: farl, list"):
        parsing.celebamask_hq(tmp_path, "test", order="bisenet")


def test_celebamask_wants_every_picture_in_the_list(tmp_path: Path) -> None:
    layouts.celebamask_hq(tmp_path)
    (tmp_path / "CelebAMask-HQ/list_eval_partition.txt").write_text("119613.jpg 0\n")
    with pytest.raises(MissingData, match=r"expected 099094\.jpg in .*list_eval_partition\.txt"):
        parsing.celebamask_hq(tmp_path, "train")


@pytest.mark.parametrize("face", [0, 1])
def test_lapa_numbers_are_kept_even_with_a_palette(face: int, tmp_path: Path) -> None:
    layouts.lapa(tmp_path)
    split = ("train", "val")[face]
    with Image.open(tmp_path / f"LaPa/{split}/labels/{face}_{split}.png") as image:
        assert image.mode == ("L", "P")[face]
    sample = parsing.lapa(tmp_path, split)[0]
    np.testing.assert_array_equal(sample.labels["lapa11"], layouts.lapa_mask(face))
    assert sample.labels["lapa11"][30, [24, 25, 34, 35]].tolist() == [1, 8, 8, 8 if face else 1]
    np.testing.assert_allclose(sample.points, places(106, face)[[104, 105, 54, 84, 90]])


def test_lapa_says_what_does_not_fit(tmp_path: Path) -> None:
    layouts.lapa(tmp_path)
    label, marks = tmp_path / "LaPa/train/labels/0_train.png", tmp_path / "LaPa/train/landmarks/0_train.txt"
    layouts.gray(label, np.zeros((8, 9)))
    with pytest.raises(
        MissingData, match=r"0_train.png to be of its picture's size \(48, 64\); it is \(8, 9\)"
    ):
        parsing.lapa(tmp_path, "train")[0]
    layouts.gray(label, np.zeros((48, 64, 3)))
    with pytest.raises(MissingData, match=r"one number per pixel in .*0_train\.png; its mode is RGB"):
        parsing.lapa(tmp_path, "train")[0]
    marks.write_text("2\n1 2\n3 4\n")
    with pytest.raises(MissingData, match=r"expected 106 points in .*0_train\.txt; it has 2"):
        parsing.lapa(tmp_path, "train")[0]


def test_helen_takes_the_likeliest_and_merges_sides(tmp_path: Path) -> None:
    layouts.helen(tmp_path)
    sample = parsing.helen(tmp_path, "test")[0]
    mask = sample.labels["helen9"]
    assert sample.name == "300_1"
    for place, label in {(0, 0): 8, (46, 0): 0, (30, 14): 1, (12, 20): 2, (13, 40): 2, (18, 20): 3, (18,
    40): 3, (25, 32): 4,
                         (34, 22): 5, (37, 32): 6, (39, 38): 7}.items():  # fmt: skip
        assert mask[place] == label, place
    # the eyes' middles, and the ends of the upper lip's first row, which reach furthest
    np.testing.assert_allclose(sample.points[[0, 1]], [(22, 18), (42, 18)])
    assert (
        sample.points[[3, 4], 0].tolist() == [22, 42] and (abs(sample.points[[3, 4], 1] - 34.5) <= 0.5).all()
    )
    assert 22 < sample.points[2, 1] < 34 and 31 < sample.points[2, 0] < 33
    (tmp_path / "testing.txt").write_text("300_1\n")
    with pytest.raises(MissingData, match='expected "number , name" in line 1'):
        parsing.helen(tmp_path, "test")


def test_helen_points_without_an_eye() -> None:
    classes = np.zeros((48, 64), np.intp)
    for k, (y1, y2, x1, x2) in layouts.HELEN_BLOCKS.items():
        if k != 4:
            classes[y1:y2, x1:x2] = k
    five = parsing.five_of_parts(classes, "x")
    assert five[1].tolist() == [42, 18]  # the eye that is there is the picture's right one
    known = [1, 3, 4]
    fit = geometry.fit_similarity(geometry.TEMPLATES["head"][known], five[known])
    np.testing.assert_allclose(five[0], geometry.move_points(geometry.TEMPLATES["head"][0], fit))
    with pytest.raises(MissingData, match="it has 0"):
        parsing.five_of_parts(np.zeros((48, 64), np.intp), "x")


def test_the_trainer_can_walk_it(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    if TASK[name] not in TASKS:
        pytest.skip(f"no task {TASK[name]}")
    write, reader, _, _ = MASK_SETS[name]
    write(tmp_path)
    dataset = reader(tmp_path, "train")
    example = FaceSource(dataset, VIEW, NONE).example(0, rng)
    target, known = example.labels[TASK[name]]
    assert example.pixels.shape == (64, 64, 3) and target.shape == (64, 64) and known
    fit = geometry.fit_similarity(dataset[0].points, geometry.template_points(VIEW))
    np.testing.assert_array_equal(
        target, geometry.warp_mask(dataset[0].labels[TASK[name]], fit, (64, 64), 255)
    )
    assert len(np.unique(target)) > 3

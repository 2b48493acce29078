"""What each kind of task promises: reading, losses, metrics; cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien import geometry
from mien.data import FaceSource, toy
from mien.data.augment import NONE
from mien.errors import UnknownTask
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, GENDER, IDENTITY, LANDMARKS, PARSING, POINTS5, task
from mien.tasks.identity import Identity, Verification, ten_fold
from mien.tasks.landmarks import Landmarks, expected_place
from mien.tasks.parsing import UNKNOWN
from mien.types import Crop, View

CROP = Crop(np.zeros((64, 64, 3), np.uint8), geometry.about((0, 0), scale=0.5, shift=(3, -2)))


def test_one_hot_map_is_read_at_its_cell_centre():
    logits = np.full((1, 16, 16), -50.0)
    logits[0, 4, 9] = 50
    assert expected_place(logits)[0] == pytest.approx(((9 + 0.5) / 16, (4 + 0.5) / 16))


def test_landmarks_come_back_to_the_photo():
    truth = np.array([(20.0, 30.0), (60.0, 31.0), (41.0, 55.0), (25.0, 80.0), (58.0, 82.0)])
    target, known = POINTS5.move(truth, CROP.from_photo, False, (64, 64))
    assert bool(known)
    assert POINTS5.read(target, CROP).points == pytest.approx(truth, abs=1e-3)


def test_mirrored_landmarks_keep_picture_order():
    mirror = geometry.about((31.5, 31.5), mirror=True)
    points = np.array([(20.0, 30.0), (44.0, 30.0), (32.0, 40.0), (24.0, 50.0), (40.0, 50.0)])
    target, _ = POINTS5.move(points, mirror, True, (64, 64))
    assert target[0, 0] < target[1, 0]
    assert target[3, 0] < target[4, 0]
    pairs = np.asarray(LANDMARKS.mirror)
    assert (pairs[pairs] == np.arange(68)).all()  # twice is nothing


def test_landmark_loss_is_least_at_the_truth():
    target = torch.full((1, 5, 2), 0.5)
    grid = (torch.arange(16) + 0.5) / 16
    loss = POINTS5.criterion()

    def at(x: float) -> float:
        logits = -0.5 * (((grid - x) * 16) ** 2)[None] - 0.5 * (((grid - 0.5) * 16) ** 2)[:, None]
        return float(loss(logits.expand(1, 5, 16, 16), target, torch.ones(1, dtype=torch.bool)))

    assert at(0.5) < 0.05
    assert at(0.5) < at(0.55) < at(0.7)


def test_nme_by_hand():
    metrics = LANDMARKS.metrics()
    truth = np.zeros((68, 2))
    truth[45] = (50, 0)  # outer eye corners 50 px apart
    metrics.update(Landmarks((truth + (3, 4)).astype(np.float32), "ibug68"), truth)
    assert metrics.compute()["nme"] == pytest.approx(10.0)


def test_parsing_reads_masks_into_the_photo_and_scores_them():
    labels = np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 1
    labels[24:32, 24:40] = 13
    logits = np.stack([np.where(labels == i, 5.0, -5.0) for i in range(19)]).astype(np.float32)
    answer = PARSING.read(logits, Crop(np.zeros((64, 64, 3), np.uint8), np.eye(2, 3)))
    assert (answer.mask == labels).all()
    assert answer.fractions["hair"] == pytest.approx(8 * 16 / 64**2)
    metrics = PARSING.metrics()
    metrics.update(answer, labels)
    assert metrics.compute()["mean_f1"] == pytest.approx(1.0)
    shifted = np.roll(labels, 8, axis=1)
    metrics = PARSING.metrics()
    metrics.update(answer, shifted)
    got = metrics.compute()
    for name, index in (("skin", 1), ("hair", 13)):
        a, b = labels == index, shifted == index
        assert got[f"f1:{name}"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_mirrored_mask_swaps_sides_and_keeps_the_unknown():
    mask = np.full((8, 8), UNKNOWN, np.uint8)
    mask[:, :4] = PARSING.names.index("l_eye")
    moved, _ = PARSING.move(mask, geometry.about((3.5, 3.5), mirror=True), True, (8, 8))
    assert set(np.unique(moved[:, 4:])) == {PARSING.names.index("r_eye")}
    assert set(np.unique(moved[:, :4])) == {UNKNOWN}


def test_a_task_as_one_data_set_answers_it():
    morph = task("age@morph2")
    assert (morph.name, morph.labels, morph.shape) == ("age@morph2", AGE.labels, AGE.shape)
    assert task("age").name == AGE.name == "age"
    view = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    example = FaceSource(toy.toy(n=1, tasks=("age",)), view, NONE, at="morph2").example(0, np.random.default_rng(0))
    assert list(example.labels) == ["age@morph2"]
    with pytest.raises(UnknownTask, match="wings"):
        task("wings@morph2")


def test_age_of_a_sharp_distribution():
    logits = np.full(101, -40.0, np.float32)
    logits[33] = 40
    age = AGE.read(logits, CROP)
    assert age.years == pytest.approx(33)
    assert 32.4 < age.low < 33 < age.high < 33.6


def test_age_loss_falls_towards_the_truth():
    loss, known = AGE.criterion(), torch.ones(1, dtype=torch.bool)
    bins = torch.arange(101.0)
    values = [float(loss((-0.5 * ((bins - a) / 2) ** 2)[None], torch.tensor([40.0]), known)) for a in (40, 43, 60)]
    assert values[0] < 1e-4 < values[1] < values[2]


def test_expression_takes_an_index_or_votes():
    by_index, _ = EXPRESSION.move(1, np.eye(2, 3), False, (64, 64))
    by_votes, _ = EXPRESSION.move([0, 5, 0, 0, 5, 0, 0, 0], np.eye(2, 3), False, (64, 64))
    assert by_index.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert by_votes.tolist() == [0, 0.5, 0, 0, 0.5, 0, 0, 0]
    answer = EXPRESSION.read(np.array([0, 3, 0, 0, 0, 0, 0, 0], np.float32), CROP)
    assert answer.label == "happiness"
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert list(answer.probabilities)[:3] == ["neutral", "happiness", "sadness"]


def test_attributes_know_each_element_by_itself():
    target, known = ATTRIBUTES.move({"Male": 1, "Smiling": 0}, np.eye(2, 3), False, (64, 64))
    assert known.sum() == 2
    assert target[ATTRIBUTES.index["Male"]] == 1
    raw = torch.zeros(1, 40, requires_grad=True)
    loss = ATTRIBUTES.criterion()(raw, torch.from_numpy(target)[None], torch.from_numpy(known)[None])
    assert float(loss.detach()) == pytest.approx(np.log(2))
    loss.backward()
    assert int((raw.grad != 0).sum()) == 2


def test_gender_is_read_from_male():
    raw = np.zeros(40, np.float32)
    raw[ATTRIBUTES.index["Male"]] = -2
    gender = GENDER.derive(ATTRIBUTES.read(raw, CROP))
    assert gender.label == "female"
    assert gender.probability == pytest.approx(1 / (1 + np.exp(-2)))


def test_identity_is_a_direction_and_its_loss_sees_length_and_angle():
    v = IDENTITY.read(np.arange(128, dtype=np.float32), CROP)
    assert np.linalg.norm(v.embedding) == pytest.approx(1, abs=1e-6)
    assert v.similarity(v) == pytest.approx(1, abs=1e-6)
    target = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    loss, known = IDENTITY.criterion(), torch.ones(4, dtype=torch.bool)
    assert float(loss(target, target, known)) == pytest.approx(0, abs=1e-5)
    assert float(loss(2 * target, target, known)) > 0.5
    assert float(loss(-target, target, known)) > float(loss(2 * target, target, known))


def test_ten_fold_separates_what_can_be_separated(rng):
    same = np.arange(200) % 2 == 0
    assert ten_fold(np.where(same, 0.8, 0.2), same)[0] == 1.0
    assert ten_fold(np.where(same, 0.8, 0.2), same)[1] == pytest.approx(0.5)
    assert 0.35 < ten_fold(rng.random(200), same)[0] < 0.65


def test_verification_pairs_by_number():
    metrics = Verification(folds=2)
    e = np.eye(4, dtype=np.float32)
    for pair in range(4):
        same = pair % 2 == 0
        metrics.update(Identity(e[0]), [(pair, same)])
        metrics.update(Identity(e[0] if same else e[1]), [(pair, same)])
    got = metrics.compute()
    assert got["n"] == 4
    assert got["accuracy"] == 100.0

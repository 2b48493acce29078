"""What each kind of task promises: reading, losses, moving; their metrics are in test_metrics.py."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mien import geometry
from mien.data import synthetic
from mien.data.augment import NONE
from mien.data.dataset import FaceSource
from mien.errors import UnknownTask
from mien.tasks import (
    AFLW19,
    AGE,
    ATTRIBUTES,
    COFW29,
    EULER,
    EXPRESSION,
    GENDER,
    HELEN9,
    IDENTITY,
    LANDMARKS,
    LAPA11,
    PARSING,
    POINTS5,
    POSE5,
    WFLW98,
    pose,
    task,
)
from mien.tasks.landmarks import expected_place
from mien.tasks.parsing import UNKNOWN, ParsingTask
from mien.tasks.pose import Pose
from mien.types import Crop, View

CROP = Crop(np.zeros((64, 64, 3), np.uint8), geometry.about((0, 0), scale=0.5, shift=(3, -2)))


def test_one_hot_map_is_read_at_its_cell_center():
    logits = np.full((1, 16, 16), -50.0)
    logits[0, 4, 9] = 50
    assert expected_place(logits)[0] == pytest.approx(((9 + 0.5) / 16, (4 + 0.5) / 16))


def test_landmarks_come_back_to_the_photo():
    truth = np.array([(20.0, 30.0), (60.0, 31.0), (41.0, 55.0), (25.0, 80.0), (58.0, 82.0)])
    target, known = POINTS5.encode_target(truth, CROP.from_photo, False, (64, 64))
    assert known.tolist() == [True] * 5
    assert POINTS5.read(target, CROP).points == pytest.approx(truth, abs=1e-3)


def test_mirrored_landmarks_keep_picture_order():
    mirror = geometry.about((31.5, 31.5), mirror=True)
    points = np.array([(20.0, 30.0), (44.0, 30.0), (32.0, 40.0), (24.0, 50.0), (40.0, 50.0)])
    target, _ = POINTS5.encode_target(points, mirror, True, (64, 64))
    assert target[0, 0] < target[1, 0]
    assert target[3, 0] < target[4, 0]


SPOTS = {
    "wflw98": (WFLW98, synthetic.WFLW98_OF_68, synthetic.WFLW98_LOW), "cofw29": (COFW29,
    synthetic.COFW29_OF_68, synthetic.COFW29_LOW),
    "aflw19": (AFLW19, synthetic.AFLW19_OF_68, ()), "landmarks": (LANDMARKS, range(68), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOTS)
def test_mirror_pairs_on_a_symmetric_face(name, rng):
    """The drawn outline is symmetric about x = 0, so geometry alone says which point is whose partner."""
    what, spots, low = SPOTS[name]
    pairs = np.asarray(what.mirror)
    assert (pairs[pairs] == np.arange(len(pairs))).all()  # twice is nothing
    points = synthetic._spots(100 * synthetic._outline(rng), tuple(spots), low)
    assert len(points) == what.shape.n == len(pairs)
    assert len(np.unique(points.round(6), axis=0)) == len(points)
    assert points[pairs] == pytest.approx(points * (-1, 1), abs=1e-9)
    left = points[:, 0] < -1e-6
    assert left.sum() == (len(points) - (pairs == np.arange(len(pairs))).sum()) / 2
    assert (points[pairs[left], 0] > 0).all()
    target, known = what.encode_target(points, geometry.about((0, 0), mirror=True), True, (64, 64))
    assert known.all()
    assert target * 64 - 0.5 == pytest.approx(
        points, abs=1e-4
    )  # mirrored, the symmetric face is itself again


def test_orders_of_the_points_that_metrics_name():
    """Spot checks against the sets' published index tables."""
    assert [WFLW98.mirror[i] for i in (0, 16, 33, 38, 51, 55, 60, 64, 65, 76, 85, 88, 96)] == [
        32, 16, 46, 50, 51, 59, 72, 68, 75, 82, 85, 92, 97,
    ]  # fmt: skip
    assert [COFW29.mirror[i] for i in (0, 2, 4, 5, 8, 10, 12, 13, 16, 18, 20, 22, 24, 28)] == [
        1, 3, 6, 7, 9, 11, 14, 15, 17, 19, 20, 23, 24, 28,
    ]  # fmt: skip
    assert AFLW19.mirror == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 14, 13, 12, 17, 16, 15, 18)
    assert (LANDMARKS.eyes, WFLW98.eyes, COFW29.eyes, AFLW19.eyes) == ((36, 45), (60, 72), (8, 9), None)


def test_a_point_nobody_labeled_is_unknown_by_itself():
    points = np.arange(38, dtype=float).reshape(19, 2)
    points[0] = np.nan
    points[13, 1] = np.nan
    for label in (points, {"points": points, "box": (0, 0, 9, 9)}):
        target, known = AFLW19.encode_target(label, np.eye(2, 3), False, (64, 64))
        assert np.flatnonzero(~known).tolist() == [0, 13]
        assert (target[~known] == 0.5).all()
    target, known = AFLW19.encode_target(points, geometry.about((0, 0), mirror=True), True, (64, 64))
    assert np.flatnonzero(~known).tolist() == [5, 13]  # the partner of the outer left brow
    rest = [i for i in range(19) if i not in (5, 13)]
    for raw in (torch.randn(1, 19, 8, 8), torch.rand(1, 19, 2)):
        raw.requires_grad_()
        loss = AFLW19.criterion()(raw, torch.from_numpy(target)[None], torch.from_numpy(known)[None])
        loss.backward()
        assert [i for i in range(19) if raw.grad[0, i].any()] == rest
        alone = AFLW19.criterion()(
            raw[:, rest], torch.from_numpy(target)[None, rest], torch.ones(1, dtype=torch.bool)
        )
        assert float(alone.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_landmark_loss_is_least_at_the_truth():
    target = torch.full((1, 5, 2), 0.5)
    grid = (torch.arange(16) + 0.5) / 16
    loss = POINTS5.criterion()

    def at(x: float) -> float:
        logits = -0.5 * (((grid - x) * 16) ** 2)[None] - 0.5 * (((grid - 0.5) * 16) ** 2)[:, None]
        return float(loss(logits.expand(1, 5, 16, 16), target, torch.ones(1, dtype=torch.bool)))

    assert at(0.5) < 0.05
    assert at(0.5) < at(0.55) < at(0.7)


def test_parsing_reads_masks_into_the_photo_and_scores_them():
    labels = np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 1
    labels[24:32, 24:40] = 13
    logits = np.stack([np.where(labels == i, 5.0, -5.0) for i in range(19)]).astype(np.float32)
    answer = PARSING.read(logits, Crop(np.zeros((64, 64, 3), np.uint8), np.eye(2, 3)))
    assert answer.mask.shape == (128, 128), "maps as fine as the crop: edges are told to half a pixel"
    assert (answer.mask_in(64, 64) == labels).all()
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


def test_a_class_may_weigh_more_in_the_loss_of_masks():
    heavy = ParsingTask(
        "parsing", "three", ("background", "skin", "hat"), {}, dice_weight=0.0, class_weights={"hat": 3.0}
    )
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    target = torch.tensor([[[0, 1], [2, UNKNOWN]]], dtype=torch.uint8)
    want = -(np.log(0.5) + np.log(0.3) + 3 * np.log(0.2)) / 5
    assert float(heavy.criterion()(logits, target, torch.tensor([True]))) == pytest.approx(want, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 12), (32, 32), (64, 48)]))
def test_a_mask_is_the_argmax_of_the_enlarged_maps(seed, cells):
    """Twice the crop's size where the maps are at least half of it; and both sizes are the same place in the
    photo.
    """
    h, w = cells
    logits = np.random.default_rng(seed).normal(size=(19, h, w)).astype(np.float32)
    crop = Crop(np.zeros((64, 48, 3), np.uint8), np.array([[0.5, 0.1, 3.0], [-0.1, 0.5, 5.0]]))
    answer, k = PARSING.read(logits, crop), 1 if h == 16 else 2
    together = cv2.resize(logits.transpose(1, 2, 0), (48 * k, 64 * k), interpolation=cv2.INTER_LINEAR)
    won = np.take_along_axis(together, answer.mask[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(won, together.max(-1), atol=1e-5)  # the last bits of a sum depend on its order
    # the photo's place of the crop's corner, half a pixel outside its first pixel's center, is the mask's
    # corner too
    corner = geometry.move_points([-0.5, -0.5], geometry.invert(crop.from_photo))
    np.testing.assert_allclose(geometry.move_points(corner, answer.from_photo), [-0.5, -0.5], atol=1e-9)
    assert geometry.scale_of(answer.from_photo) == pytest.approx(k * geometry.scale_of(crop.from_photo))


def test_a_mirrored_mask_swaps_sides_and_keeps_the_unknown():
    mask = np.full((8, 8), UNKNOWN, np.uint8)
    mask[:, :4] = PARSING.names.index("l_eye")
    moved, _ = PARSING.encode_target(mask, geometry.about((3.5, 3.5), mirror=True), True, (8, 8))
    assert set(np.unique(moved[:, 4:])) == {PARSING.names.index("r_eye")}
    assert set(np.unique(moved[:, :4])) == {UNKNOWN}


def test_a_task_as_one_data_set_answers_it():
    morph = task("age@morph2")
    assert (morph.name, morph.labels, morph.shape) == ("age@morph2", AGE.labels, AGE.shape)
    assert task("age").name == AGE.name == "age"
    view = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    example = FaceSource(synthetic.toy(n=1, tasks=("age",)), view, NONE, at="morph2").example(
        0, np.random.default_rng(0)
    )
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
    values = [
        float(loss((-0.5 * ((bins - a) / 2) ** 2)[None], torch.tensor([40.0]), known)) for a in (40, 43, 60)
    ]
    assert values[0] < 1e-4 < values[1] < values[2]


def test_expression_takes_an_index_or_votes():
    by_index, _ = EXPRESSION.encode_target(1, np.eye(2, 3), False, (64, 64))
    by_votes, _ = EXPRESSION.encode_target([0, 5, 0, 0, 5, 0, 0, 0], np.eye(2, 3), False, (64, 64))
    assert by_index.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert by_votes.tolist() == [0, 0.5, 0, 0, 0.5, 0, 0, 0]
    answer = EXPRESSION.read(np.array([0, 3, 0, 0, 0, 0, 0, 0], np.float32), CROP)
    assert answer.label == "happiness"
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert list(answer.probabilities)[:3] == ["neutral", "happiness", "sadness"]


def test_attributes_know_each_element_by_itself():
    target, known = ATTRIBUTES.encode_target({"Male": 1, "Smiling": 0}, np.eye(2, 3), False, (64, 64))
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


def test_sides_of_the_smaller_parsing_sets():
    assert [LAPA11.partners[i] for i in range(11)] == [0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10]
    assert (HELEN9.partners == np.arange(256)).all()
    assert (LAPA11.shape.n, HELEN9.shape.n) == (11, 9)
    _, labels, _ = next(
        d
        for i in range(9)
        if not (d := synthetic.draw(np.random.default_rng(i)))[1]["attributes"]["Eyeglasses"]
    )
    for eyes, lapa in ((slice(36, 42), 4), (slice(42, 48), 5)):  # the picture's left eye first
        x, y = labels["landmarks"][eyes].mean(0).round().astype(int)
        assert (labels["lapa11"][y, x], labels["helen9"][y, x]) == (lapa, 3)
    assert set(np.unique(labels["lapa11"])) >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
    assert set(np.unique(labels["helen9"])) >= set(range(9))


def test_a_mirrored_pose_looks_the_other_way():
    mirror = geometry.about((0, 0), mirror=True)
    assert [int(POSE5.encode_target(i, mirror, True, (8, 8))[0].argmax()) for i in range(5)] == [
        4,
        3,
        2,
        1,
        0,
    ]
    assert [int(POSE5.encode_target(i, np.eye(2, 3), False, (8, 8))[0].argmax()) for i in range(5)] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert POSE5.encode_target([3, 1, 0, 0, 0], mirror, True, (8, 8))[0].tolist() == [0, 0, 0, 0.25, 0.75]
    assert EXPRESSION.encode_target(1, mirror, True, (8, 8))[0].argmax() == 1


def test_euler_angles_follow_their_picture_and_come_back():
    turned, _ = EULER.encode_target((0, 20, 0), geometry.about((0, 0), degrees=15, scale=3), False, (8, 8))
    up, aside = (
        np.sin(np.radians(20)) * np.cos(np.radians(15)),
        np.sin(np.radians(20)) * np.sin(np.radians(15)),
    )
    # where the nose points turns with the picture: a head that looks up now looks to the right as well
    yaw, pitch = np.degrees(np.arctan2(aside, np.cos(np.radians(20)))), np.degrees(np.arcsin(up))
    assert turned[:2] * 30 == pytest.approx((yaw, pitch), abs=1e-4)
    flat, known = EULER.encode_target((0, 0, 10), geometry.about((5, 7), degrees=15, scale=3), False, (8, 8))
    assert flat * 30 == pytest.approx((0, 0, 25), abs=1e-4)
    assert bool(known)
    mirrored, _ = EULER.encode_target((30, 20, 10), geometry.about((5, 7), mirror=True), True, (8, 8))
    assert mirrored * 30 == pytest.approx((-30, 20, -10), abs=1e-4)
    for mirror in (False, True):
        crop = Crop(
            np.zeros((8, 8, 3), np.uint8), geometry.about((5, 7), degrees=-40, scale=0.3, mirror=mirror)
        )
        pose = EULER.read(EULER.encode_target((50, -30, 20), crop.from_photo, mirror, (8, 8))[0], crop)
        assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((50, -30, 20), abs=1e-3)
    metrics = EULER.metrics()
    metrics.update(Pose(10, 0, -3), (7, 0, 3))
    metrics.update(Pose(-5, 4, 179), (-5, 6, -179))
    assert metrics.compute() == pytest.approx(
        {"mae": (1.5 + 1 + 4) / 3, "yaw": 1.5, "pitch": 1, "roll": 4, "n": 2}
    )


def test_euler_angles_mean_what_the_derived_pose_means():
    """A generic head, turned by the same angles and seen from far away, is read by `pose_from_68`."""
    for angles in ((25, 10, -15), (-30, -20, 5), (0, 0, 40)):
        seen = pose._MODEL @ pose.pose_matrix(*angles).T
        points = np.zeros((68, 2))
        points[list(pose._MODEL_INDEX)] = seen[:, :2] / (
            4 * 103 + seen[:, 2:]
        )  # the model is 103 high; see pose_from_68
        assert pose.pose_from_68(points) == pytest.approx(angles, abs=1.2)
        assert pose.pose_angles(pose.pose_matrix(*angles)) == pytest.approx(angles)

"""What the tasks' metrics compute, by cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mien.tasks import (
    AFLW19,
    AGE,
    ATTRIBUTES,
    COFW29,
    LANDMARKS,
    LAPA11,
    POINTS5,
    POSE5,
    UNITS8,
    UNITS12,
    WFLW98,
)
from mien.tasks.age import Age, AgeRange
from mien.tasks.attributes import Attributes
from mien.tasks.choice import Choice
from mien.tasks.identity import Identity, Verification, ten_fold
from mien.tasks.landmarks import Landmarks, error_curve_area
from mien.tasks.parsing import UNKNOWN, Parsing


def test_nme_by_hand():
    metrics = LANDMARKS.metrics()
    truth = np.zeros((68, 2))
    truth[45] = (50, 0)  # outer eye corners 50 px apart
    metrics.update(Landmarks((truth + (3, 4)).astype(np.float32), "ibug68"), truth)
    assert metrics.compute()["nme"] == pytest.approx(10.0)
    assert "nme_box" not in metrics.compute()


@pytest.mark.parametrize(("what", "eye"), [(WFLW98, 72), (COFW29, 9), (LANDMARKS, 45), (POINTS5, 1)])
def test_nme_in_units_of_the_sets_own_eye_points(what, eye):
    n = what.shape.n
    truth = np.full((n, 2), 7.0)
    truth[eye] += (0, 40)
    other = truth.copy()
    other[n - 1] = np.nan  # unlabeled, so only the rest counts
    guess = truth + (0, 2)
    guess[n - 1] = 1e6
    metrics = what.metrics()
    metrics.update(Landmarks(guess, what.labels), other)
    blind = other.copy()
    blind[eye] = np.nan
    metrics.update(Landmarks(guess, what.labels), blind)  # no unit: left out
    got = metrics.compute()
    assert (got["nme"], got["n"]) == (pytest.approx(5.0), 1)


def test_nme_by_the_box_by_hand():
    truth = np.zeros((19, 2))
    truth[18] = (30, 40)
    truth[7] = np.nan
    metrics = AFLW19.metrics()
    metrics.update(
        Landmarks(truth + (0, 3), "aflw19"), {"points": truth, "box": (10, 20, 70, 100)}
    )  # 60 x 80, diagonal 100
    got = metrics.compute()
    assert got["nme"] == pytest.approx(3.0)
    assert got["nme_box"] == pytest.approx(100 * 3 / np.sqrt(4800))
    assert got["boxed"] == 100
    metrics.update(Landmarks(truth + (0, 3), "aflw19"), truth)  # without a box: that of the points, 30 x 40
    got = metrics.compute()
    assert got["nme"] == pytest.approx((3.0 + 6.0) / 2)
    assert (got["boxed"], got["n"]) == (50, 2)
    metrics.update(Landmarks(truth, "aflw19"), np.full((19, 2), np.nan))
    assert metrics.compute()["n"] == 2


def test_failures_and_area_under_the_error_curve_by_hand():
    metrics = POINTS5.metrics()
    truth = np.array([(0.0, 0), (100, 0), (50, 50), (20, 80), (80, 80)])
    for error in (2, 5, 20):
        metrics.update(Landmarks(truth + (error, 0), "mtfl5"), truth)
    got = metrics.compute()
    assert got["fr@0.1"] == pytest.approx(100 / 3)
    assert got["auc@0.1"] == pytest.approx((0.8 + 0.5 + 0) / 3, abs=1e-3)
    assert got["median"] == pytest.approx(5)
    assert error_curve_area([0.0], 0.1) == 1
    assert error_curve_area([0.1001], 0.1) == 0
    assert error_curve_area([0.035], 0.07) == pytest.approx(0.5, abs=1e-3)


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


def masked(mask, labels=LAPA11) -> Parsing:
    return Parsing(np.asarray(mask, np.uint8), np.eye(2, 3), labels.names, labels.labels, {})


def test_parsing_f1_is_of_one_matrix_and_leaves_absent_classes_out():
    metrics = LAPA11.metrics()
    metrics.update(
        masked([[0, 0, 1, 1, 2]]), np.array([[0, 1, 1, 1, UNKNOWN]], np.uint8)
    )  # the last pixel counts nowhere
    metrics.update(masked([[1, 6, 10, 0]]), np.array([[1, 0, 10, 10]], np.uint8))
    got = metrics.compute()
    want = {"face": 2 * 3 / (3 + 4), "nose": 0.0, "hair": 2 * 1 / (1 + 2)}  # nose: answered, never true
    assert {k[3:]: v for k, v in got.items() if k.startswith("f1:")} == pytest.approx(want)
    assert got["mean_f1"] == pytest.approx(sum(want.values()) / 3)
    assert got["n"] == 2


def test_age_errors_by_hand():
    metrics = AGE.metrics()
    for years, label in ((33.0, 30), (44.0, (40.0, 2.0)), (25.0, 20.0), (60.0, (50.0, 0.0))):
        metrics.update(Age(years, years - 4, years + 4), label)
    got = metrics.compute()
    assert got["mae"] == pytest.approx((3 + 4 + 5 + 10) / 4)
    assert got["cs5"] == 75  # five years are within five years
    assert got["coverage"] == 50
    right = (
        np.exp(-9 / 18) + np.exp(-16 / 8) + np.exp(-25 / 18) + np.exp(-100 / 18)
    )  # sigma 3 where none is given
    assert got["epsilon_error"] == pytest.approx(1 - right / 4)
    assert AGE.encode_target((40.0, 2.0), np.eye(2, 3), False, (8, 8))[0].tolist() == [40, 40]


def yes(what, *names: str) -> Attributes:
    return Attributes({n: 0.9 if n in names else 0.1 for n in what.names}, what.labels)


def test_mean_accuracy_leaves_the_unknown_out():
    metrics = ATTRIBUTES.metrics()
    metrics.update(
        yes(ATTRIBUTES, "Male"), {"Male": 1, "Bald": 1, "Young": -1, "Smiling": None, "Bangs": float("nan")}
    )
    metrics.update(yes(ATTRIBUTES, "Male"), {"Male": 0, "Bald": 0})
    metrics.update(yes(ATTRIBUTES), {"Male": True, "Bald": False})
    got = metrics.compute()
    assert {k: v for k, v in got.items() if k.startswith("accuracy:")} == pytest.approx(
        {"accuracy:Male": 100 / 3, "accuracy:Bald": 200 / 3}
    )
    assert got["mean_accuracy"] == pytest.approx(50)
    label = {"Male": -1, "Young": None, "Bald": float("nan"), "Smiling": 1}
    target, known = ATTRIBUTES.encode_target(label, np.eye(2, 3), False, (8, 8))
    assert np.flatnonzero(known).tolist() == np.flatnonzero(target).tolist() == [ATTRIBUTES.index["Smiling"]]


def test_units_are_scored_by_f1():
    assert UNITS12.names == tuple(f"AU{n}" for n in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24))
    assert UNITS8.names == tuple(f"AU{n}" for n in (1, 2, 4, 6, 9, 12, 25, 26))
    metrics = UNITS8.metrics()
    metrics.update(yes(UNITS8, "AU1", "AU4"), {"AU1": 1, "AU2": 0, "AU4": 0, "AU6": 1, "AU9": None})
    metrics.update(yes(UNITS8, "AU1"), {"AU1": 0, "AU2": 0, "AU4": 0, "AU6": 1})
    metrics.update(yes(UNITS8, "AU9"), {"AU1": 1, "AU9": -1})
    got = metrics.compute()
    want = {
        "AU1": 2 * 1 / (2 + 2),
        "AU4": 0.0,
        "AU6": 0.0,
    }  # AU2 is absent everywhere, the others are never known
    assert {k[3:]: v for k, v in got.items() if k.startswith("f1:")} == pytest.approx(want)
    assert (got["mean_f1"], got["n"]) == (pytest.approx(0.5 / 3), 3)


def chosen(what, index: int) -> Choice:
    return Choice(what.names[index], {}, what.labels)


def test_choices_are_scored_over_pictures_and_over_classes():
    metrics = POSE5.metrics()
    for truth, guess in ((2, 2), (2, 2), (2, 2), (2, 1), (0, 0), (4, 3)):
        metrics.update(chosen(POSE5, guess), truth)
    got = metrics.compute()
    assert got["accuracy"] == pytest.approx(100 * 4 / 6)
    assert got["mean_class_accuracy"] == pytest.approx(100 * (0.75 + 1 + 0) / 3)
    assert "recall:left" not in got  # it does not occur in the truth


def test_scores_agree_with_scikit_learn(rng):
    scores = pytest.importorskip("sklearn.metrics")
    truth, guess = rng.integers(0, 5, (2, 60))
    choice, units = POSE5.metrics(), UNITS12.metrics()
    bits, said = rng.integers(0, 2, (2, 60, 12))
    for i in range(60):
        choice.update(chosen(POSE5, guess[i]), truth[i])
        units.update(
            Attributes(dict(zip(UNITS12.names, said[i], strict=True)), ""),
            dict(zip(UNITS12.names, bits[i], strict=True)),
        )
    assert choice.compute()["accuracy"] == pytest.approx(100 * scores.accuracy_score(truth, guess))
    assert choice.compute()["mean_class_accuracy"] == pytest.approx(
        100 * scores.balanced_accuracy_score(truth, guess)
    )
    assert units.compute()["mean_f1"] == pytest.approx(scores.f1_score(bits, said, average="macro"))
    parsing = LAPA11.metrics()
    a, b = rng.integers(0, 11, (2, 30, 30))
    parsing.update(masked(a), b)
    assert parsing.compute()["mean_f1"] == pytest.approx(
        scores.f1_score(b.ravel(), a.ravel(), labels=range(1, 11), average="macro")
    )


def test_an_age_range_costs_the_probability_outside_it():
    import torch

    loss = AGE.criterion()
    target = torch.tensor(
        np.stack([AGE.encode_target(v, np.eye(2, 3), False, (8, 8))[0] for v in (AgeRange(20, 29), 24)])
    )
    raw = torch.full((2, 101), -20.0)
    raw[:, 20:30] = 0.0
    known = torch.tensor([True, False])
    assert float(loss(raw, target, known)) == pytest.approx(0, abs=1e-4), (
        "all of the probability and the mean are in the range"
    )
    half = raw.clone()
    half[:, 50:60] = 0.0  # mean 39.5: 10.5 years beyond 29
    assert float(loss(half, target, known)) == pytest.approx(np.log(2) + AGE.l1_weight * 10.5, abs=1e-3)
    sharp = torch.full((1, 101), -20.0)
    sharp[0, 24] = 0.0
    exact = loss(sharp, target[1:], torch.tensor([True]))
    assert float(exact) > 1, "a known year wants a Gaussian around it, not a spike"
    assert float(exact) == pytest.approx(float(loss(sharp, target[1:, 0], torch.tensor([True]))))
    wide = raw.requires_grad_()
    loss(wide, target, torch.tensor([True, True])).backward()
    assert torch.isfinite(wide.grad).all()

"""Decoding by normalized sigmoids, and the official losses of ages and landmarks; expected numbers are those
of the official code.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mien.errors import BadWeights, UsageError
from mien.evaluation.scoring import PROTOCOLS, evaluate
from mien.geometry import template_points
from mien.inference.onnx_model import OnnxModel
from mien.tasks import AGE, LANDMARKS, POINTS5, task
from mien.tasks.base import configured
from mien.tasks.landmarks import expected_place
from mien.training import checkpoint
from mien.types import Crop, Sample, View
from tests.support.exported import network

SIGMOID = {"decoding": "sigmoid"}
CROP = Crop(np.zeros((512, 512, 3), np.uint8), np.array([[1.0, 0, 0], [0, 1, 0]]))
BINS = np.arange(101)


def logit(p):
    return np.log(p / (1 - p))


def ages(peak: float, *parts: tuple[float, float]) -> np.ndarray:
    """Logits whose sigmoids are a mixture of Gaussians (share, years) of two years, with this maximum."""
    q = sum(share * np.exp(-0.5 * ((BINS - years) / 2) ** 2) for share, years in parts)
    return logit(np.clip(peak * q / q.max(), 1e-12, None))


@pytest.mark.parametrize(("peak", "softmax"), [(0.05, 33.55), (0.5, 32.87), (0.95, 30.97)])
def test_an_age_of_two_peaks_is_the_official_33_60_at_any_height(peak, softmax):
    raw = ages(peak, (0.7, 30), (0.3, 42))
    assert configured(AGE, SIGMOID).read(raw, CROP).years == pytest.approx(33.60, abs=0.005)
    assert AGE.read(raw, CROP).years == pytest.approx(softmax, abs=0.005)


def test_the_spread_of_one_peak_is_that_of_its_label():
    raw = ages(0.95, (1.0, 40))
    for decoding, spread in (("sigmoid", 2.00), ("softmax", 1.06)):
        p = configured(AGE, {"decoding": decoding})._distribution(raw)
        assert np.sqrt(p @ (BINS - p @ BINS) ** 2) == pytest.approx(spread, abs=0.01)
    official, ours = configured(AGE, SIGMOID).read(raw, CROP), AGE.read(raw, CROP)
    assert official.high - official.low > 1.8 * (ours.high - ours.low)


@pytest.mark.parametrize(("background", "official"), [(-11.0, 4.39), (-13.0, 0.62)])
def test_the_tail_of_a_sigmoid_map_pulls_to_the_center(background, official):
    """A peak of 0.95 on a noisy background; 147 of 512 pixels from the center are the mean of landmarks."""
    away = 147 / 512
    place = 0.5 + away * np.array([0.6, -0.8])
    cells = np.arange(128) + 0.5
    far = (cells[None] - 128 * place[0]) ** 2 + (cells[:, None] - 128 * place[1]) ** 2
    peak = 0.95 * np.exp(-0.5 * far / 1.25**2)
    noise = np.random.default_rng(0).standard_normal((128, 128)) * 0.3
    raw = logit(1 / (1 + np.exp(-(background + noise))) + peak)
    found = expected_place(raw[None], "sigmoid")[0]
    assert 512 * np.linalg.norm(found - place) == pytest.approx(official, rel=0.03)
    assert 512 * np.linalg.norm(expected_place(raw[None])[0] - place) < 0.4 * official + 0.2


def test_the_official_losses_of_random_logits():
    torch.manual_seed(0)
    raw = torch.randn(4, 68, 128, 128) * 0.5
    centers = torch.full((4, 68, 2), 0.5)
    loss = configured(LANDMARKS, SIGMOID).criterion()(raw, centers, torch.ones(4, dtype=torch.bool))
    assert float(loss) == pytest.approx(0.724, abs=0.002)  # of the BCE alone; random maps expect the center


def by_hand(raw, target):
    """The official landmark loss, cell by cell, in numpy."""
    n, h, w = raw.shape
    p, distances, bce = 1 / (1 + np.exp(-raw)), [], []
    for k in range(n):
        goal = np.zeros((h, w))
        for y in range(h):
            for x in range(w):
                r2 = (x + 0.5 - w * target[k, 0]) ** 2 + (y + 0.5 - h * target[k, 1]) ** 2
                goal[y, x] = np.exp(-r2 / (2 * 1.25**2)) if r2 <= 25 else 0.0
        ys, xs = np.mgrid[:h, :w]
        place = np.array([((xs + 0.5) / w * p[k]).sum(), ((ys + 0.5) / h * p[k]).sum()]) / p[k].sum()
        distances.append(np.linalg.norm(place - target[k]))
        bce.append(-(goal * np.log(p[k]) + (1 - goal) * np.log(1 - p[k])).mean())
    return np.mean(distances) + np.mean(bce)


def test_the_landmark_loss_is_distance_and_bce_of_a_cut_gaussian():
    rng = np.random.default_rng(1)
    raw, target = rng.standard_normal((2, 5, 12, 16)), rng.uniform(0.1, 0.9, (2, 5, 2))
    known = np.ones((2, 5), bool)
    known[1, 2:] = False
    loss = configured(POINTS5, SIGMOID).criterion()(*map(torch.from_numpy, (raw, target, known)))
    assert float(loss) == pytest.approx(by_hand(raw[known], target[known]), rel=1e-5)


def test_the_age_loss_is_the_official_one():
    rng = np.random.default_rng(2)
    raw, years = rng.standard_normal((6, 101)), rng.uniform(5, 90, 6)
    q = np.exp(-0.5 * ((BINS - years[:, None]) / 2) ** 2)
    q /= q.sum(1, keepdims=True)
    p = 1 / (1 + np.exp(-raw))
    p /= p.sum(1, keepdims=True)
    official = (q * (np.log(np.clip(q, 1e-12, None)) - np.log(p))).sum(1).mean() + np.abs(
        p @ BINS - years
    ).mean()
    plain = replace(configured(AGE, SIGMOID), l1_weight=1.0)
    loss = plain.criterion()(torch.from_numpy(raw), torch.from_numpy(years), torch.ones(6, dtype=torch.bool))
    assert float(loss) == pytest.approx(official, rel=1e-6)
    assert AGE.l1_weight == 0.1


def test_a_year_offset_moves_answers_and_targets():
    later = configured(task("age@utkface"), {"year_offset": 21})
    raw = ages(0.9, (1.0, 14))
    assert later.read(raw, CROP).years == pytest.approx(35, abs=0.05)
    assert later.read(raw, CROP).low > 21
    assert later.encode_target(35.0, np.eye(3)[:2], False, (8, 8))[0].tolist() == [14, 14]
    assert later.header() == {"name": "age@utkface", "labels": "years101", "year_offset": 21}


def test_defaults_are_not_in_the_header_and_nothing_is_copied():
    assert AGE.header() == {"name": "age", "labels": "years101"}
    assert configured(AGE, AGE.header()) is AGE
    assert configured(AGE, SIGMOID).header()["decoding"] == "sigmoid"
    assert AGE.decoding == LANDMARKS.decoding == "softmax"


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("age", {"decoding": "argmax"}, "softmax, sigmoid"),
        ("expression", {"decoding": "sigmoid"}, "has no setting"),
        ("landmarks", {"year_offset": 21}, "has no setting"),
        ("age", {"year_offset": -3}, "whole number"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name, settings, says):
    with pytest.raises(UsageError, match=says):
        configured(task(name), settings)


def test_sigmoid_decoding_needs_maps():
    with pytest.raises(UsageError, match="heat maps"):
        configured(POINTS5, SIGMOID).criterion()(
            torch.zeros(2, 5, 2), torch.zeros(2, 5, 2), torch.ones(2, 5, dtype=torch.bool)
        )


def test_weights_keep_how_they_are_decoded(exported):
    """Through a checkpoint and through an exported file, and a damaged setting is refused."""
    model = network()
    assert [t.name for t in model.tasks if t.header().get("decoding") == "sigmoid"] == ["landmarks", "age"]
    for again in (checkpoint.load(exported / "m.safetensors"), OnnxModel(exported / "m.onnx")):
        assert [t.header() for t in again.tasks] == [t.header() for t in model.tasks]
        age = next(t for t in again.tasks if t.name == "age")
        assert age.read(ages(0.5, (0.7, 30), (0.3, 42)), CROP).years == pytest.approx(33.60 + 21, abs=0.005)
    header = {
        **checkpoint.header_of(model),
        "tasks": [{"name": "age", "labels": "years101", "decoding": "argmax"}],
    }
    with pytest.raises(BadWeights, match="argmax"):
        checkpoint.build(header, "some.safetensors")


def test_a_protocol_reads_as_the_weights_were_trained_to_be_read():
    raw = ages(0.95, (0.7, 30), (0.3, 42)).astype(np.float32)

    class Fixed:
        view = View((64, 64), "head", (0.5,) * 3, (0.5,) * 3)

        def __init__(self, settings):
            self.tasks = (configured(task("age"), settings),)

        def __call__(self, images):
            return {"age": np.repeat(raw[None], len(images), 0)}

    class Faces(list):
        name = "faces"

    points = template_points(Fixed.view)
    faces = Faces(Sample(np.zeros((64, 64, 3), np.uint8), {"age": 33.60}, points, str(i)) for i in range(2))
    scores = [
        evaluate(Fixed(s), PROTOCOLS["utkface-age"], dataset=faces).values["mae"] for s in (SIGMOID, {})
    ]
    assert scores[0] == pytest.approx(0, abs=0.005)
    assert scores[1] == pytest.approx(33.60 - 30.97, abs=0.01)


def test_age_bounds_are_shares_of_the_distribution():
    raw = np.full(101, -60.0)
    raw[[12, 16, 18, 30]] = np.log([0.1, 0.2, 0.3, 0.4])
    age = AGE.read(raw.astype(np.float32), CROP)
    assert age.at_least == pytest.approx({13: 0.9, 16: 0.9, 18: 0.7, 21: 0.4, 25: 0.4})
    assert age.to_dict()["at_least"]["18"] == pytest.approx(0.7)
    later = replace(AGE, year_offset=10).read(raw.astype(np.float32), CROP)
    assert later.at_least == pytest.approx({13: 1.0, 16: 1.0, 18: 1.0, 21: 1.0, 25: 0.9})
    flat = replace(AGE, temperature=4.0).read(raw.astype(np.float32), CROP)
    assert 0.25 < flat.at_least[21] < 0.4 and flat.years == pytest.approx(age.years)


def test_age_bounds_have_a_mean_and_columns():
    one = AGE.read(ages(0.9, (1.0, 10)).astype(np.float32), CROP)
    two = AGE.read(ages(0.9, (1.0, 40)).astype(np.float32), CROP)
    mean = one.from_mean((one.mean_terms() + two.mean_terms()) / 2)
    assert mean.at_least[18] == pytest.approx((one.at_least[18] + two.at_least[18]) / 2)
    cells = {c.name: c.get({"age": mean.to_dict()}) for c in AGE.columns()}
    assert cells["age_at_least_18"] == mean.to_dict()["at_least"]["18"]

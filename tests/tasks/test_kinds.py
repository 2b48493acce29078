"""Tasks that a weights file defines: there and back, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mien.errors import UnknownTask, UsageError
from mien.io.writers import columns
from mien.tasks.attributes import AttributesTask
from mien.tasks.choice import ChoiceTask
from mien.tasks.kinds import KINDS, check_name, entry_of, label_set, task_of
from mien.tasks.landmarks import LandmarkTask
from mien.tasks.number import COVERAGE, Number, NumberTask
from mien.tasks.parsing import ParsingTask
from mien.types import Crop
from mien.video.averages import TrackAverages, averaged

CROP = Crop(np.zeros((8, 8, 3), np.uint8), np.eye(2, 3))
OWN = [
    ChoiceTask("hair", "hair-1", ("curly", "straight", "wavy"), temperature=1.5),
    ChoiceTask("side", "side-1", ("left", "right"), mirror=(1, 0), sensitive=False),
    AttributesTask("things", "things-1", ("glasses", "beard"), temperature=0.8),
    NumberTask("length", "length-1", "cm", center=10.0, scale=2.0, minimum=4.0, maximum=16.0, interval=2.0),
    LandmarkTask("ears", "ears-1", (1, 0, 2), (0, 1)),
    ParsingTask("tattoo", "tattoo-1", ("background", "left", "right"), {"left": "right"}),
]


@pytest.mark.parametrize("task", OWN, ids=lambda t: t.name)
def test_there_and_back(task):
    entry = json.loads(json.dumps(entry_of(task)))
    assert task_of(entry) == task
    assert {type(t) for t in OWN} == {build for build, _ in KINDS.values()}


def test_a_task_of_the_catalogue_has_no_kind():
    from mien.tasks import AGE

    assert "kind" not in entry_of(AGE)
    assert task_of(entry_of(AGE)) is AGE


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "age"}, UsageError),
        ({"name": "box"}, UsageError),
        ({"name": "Hair color"}, UsageError),
        ({"name": "a" * 41}, UsageError),
        ({"name": 3}, TypeError),
        ({"kind": "poem"}, UnknownTask),
        ({"names": ["curly"]}, ValueError),
        ({"names": ["curly", "curly"]}, ValueError),
        ({"names": ["curly", "a\nb"]}, ValueError),
        ({"names": "curly"}, ValueError),
        ({"names": [str(i) for i in range(1001)]}, ValueError),
        ({"temperature": 0}, ValueError),
        ({"temperature": float("nan")}, ValueError),
        ({"temperature": True}, ValueError),
        ({"mirror": [0, 0, 1]}, ValueError),
        ({"sensitive": 1}, ValueError),
    ],
)
def test_entries_that_are_refused(change, error):
    with pytest.raises(error):
        task_of(entry_of(OWN[0]) | change)


def test_a_name_with_a_meaning_is_refused_with_another_one():
    with pytest.raises(UsageError, match="my_gender"):
        check_name("gender")


def test_label_sets_differ_by_order():
    assert label_set("hair", ("a", "b")) != label_set("hair", ("b", "a"))


def test_number_is_read_with_its_interval():
    task = OWN[3]
    answer = task.read(np.array([1.0, 0.0], np.float32), CROP)
    assert (answer.estimate, answer.low, answer.high) == (12.0, 8.0, 16.0)
    assert answer.summary() == "12.0 cm (8.0-16.0)"
    assert answer.to_dict()["coverage"] == COVERAGE
    assert task.read(np.array([9.0, 9.0], np.float32), CROP).estimate == 16.0


def test_number_learns_place_and_spread():
    task, rng = OWN[3], np.random.default_rng(0)
    truth = torch.tensor(rng.laplace(0.5, 0.3, 4000), dtype=torch.float32)
    raw = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([raw], 0.05)
    for _ in range(300):
        loss = task.criterion()(raw.expand(4000, 2), truth, torch.ones(4000, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert raw[0, 0].item() == pytest.approx(0.5, abs=0.03)
    assert raw[0, 1].exp().item() == pytest.approx(0.3, abs=0.03)


def test_number_has_metrics_a_mean_and_columns():
    task = OWN[3]
    metrics = task.metrics()
    for estimate, truth in ((10.0, 11.0), (12.0, 12.0), (8.0, 5.0)):
        metrics.update(Number(estimate, estimate - 2, estimate + 2), truth)
    found = metrics.compute()
    assert found["mae"] == pytest.approx(4 / 3)
    assert found["coverage"] == pytest.approx(200 / 3)
    means = TrackAverages()
    means.add({"length": Number(10, 8, 12, "cm")}, 1.0)
    means.add({"length": Number(13, 12, 14, "cm")}, 2.0)
    assert means.answers() == {"length": Number(12.0, pytest.approx(32 / 3), pytest.approx(40 / 3), "cm")}
    assert averaged("length", OWN)
    assert not averaged("length")
    assert [c.name for c in columns(["length", "hair"], OWN)[-7:]] == [
        "length", "length_low", "length_high", "hair", "hair_curly", "hair_straight", "hair_wavy",
    ]  # fmt: skip


def test_answers_know_the_columns_of_their_task():
    for task in OWN[:4]:
        raw = np.zeros(task.shape.n, np.float32)
        own = task.read(raw, CROP).own_columns(task.name)
        assert [c.name for c in own] == [c.name for c in task.columns()]

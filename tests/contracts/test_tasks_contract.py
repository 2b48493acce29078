"""Every task in the catalogue keeps the contract; an empty catalogue fails."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mien import geometry
from mien.data import synthetic
from mien.tasks import ANSWER_ORDER, DEFAULT_TASKS, DERIVED, TASKS, Embedding, Map, Points, Vector
from mien.tasks.base import WeightedMean
from mien.types import Crop

FACE_TASKS = [t for t in TASKS.values() if isinstance(t.shape, (Vector, Points, Map, Embedding))]
SIZE = (64, 64)


def test_the_catalogue_is_complete():
    assert len(FACE_TASKS) >= 19
    assert {"landmarks", "points5", "parsing", "age", "expression", "attributes", "identity"} <= set(TASKS)
    more = {
        "wflw98",
        "cofw29",
        "aflw19",
        "lapa11",
        "helen9",
        "emotion7",
        "pose5",
        "euler",
        "units12",
        "units8",
    }
    assert more <= set(TASKS)
    assert not more & {t.name for t in DEFAULT_TASKS}
    assert set(DERIVED) == {"gender", "pose"}
    assert set(ANSWER_ORDER) == {t.name for t in FACE_TASKS} | set(DERIVED)
    for d in DERIVED.values():
        assert d.source in TASKS


def raw_of(task, batch: int, rng: np.random.Generator) -> np.ndarray:
    shape = task.shape
    tail = (
        (shape.n,)
        if isinstance(shape, Vector)
        else (shape.d,)
        if isinstance(shape, Embedding)
        else (shape.n, 16, 16)
    )
    return rng.standard_normal((batch, *tail)).astype(np.float32)


def batch_of(task, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three labeled drawn faces and one without a label."""
    rows = []
    for i in range(3):
        _, labels, five = synthetic.draw(np.random.default_rng(i))
        a = geometry.fit_similarity(five, geometry.TEMPLATES["head"] * SIZE)
        rows.append(task.encode_target(labels[task.name], a, False, SIZE))
    rows.append(task.missing_target(SIZE))
    target, mask = (torch.from_numpy(np.stack([np.asarray(r[i]) for r in rows])) for i in (0, 1))
    return torch.from_numpy(raw_of(task, 4, rng)).requires_grad_(), target, mask


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_a_blank_has_the_shape_of_a_label_and_is_finite(task):
    _, labels, _ = synthetic.draw(np.random.default_rng(0))
    target, mask = task.encode_target(labels[task.name], np.eye(2, 3), False, SIZE)
    blank, unknown = task.missing_target(SIZE)
    assert np.asarray(blank).shape == np.asarray(target).shape
    assert np.asarray(blank).dtype == np.asarray(target).dtype
    assert np.asarray(unknown).shape == np.asarray(mask).shape
    assert not np.asarray(unknown).any()
    assert np.isfinite(np.asarray(blank, np.float64)).all()


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_unknown_rows_change_nothing(task, rng):
    raw, target, mask = batch_of(task, rng)
    loss = task.criterion()(raw, target, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert float(loss.detach()) > 0
    assert (raw.grad[3] == 0).all()
    assert (raw.grad[:3] != 0).any()
    few = task.criterion()(raw[:3], target[:3], mask[:3])
    assert float(few.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_no_label_is_zero_loss_and_zero_gradient(task, rng):
    raw, target, mask = batch_of(task, rng)
    loss = task.criterion()(raw, target, torch.zeros_like(mask))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (raw.grad == 0).all()


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_answers_are_plain_json(task, rng):
    crop = Crop(
        np.zeros((64, 64, 3), np.uint8), geometry.about((32, 32), degrees=10, scale=0.4, shift=(5, 5))
    )
    answer = task.read(raw_of(task, 1, rng)[0], crop)
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False)) == answer.to_dict()
    for derived in DERIVED.values():
        if derived.source == task.name:
            assert json.dumps(derived.derive(answer).to_dict(), allow_nan=False)


def answers_of(task, rng: np.random.Generator, n: int = 1) -> list:
    """Answers of the task, then as many of what derives from each of them."""
    crop = Crop(np.zeros((64, 64, 3), np.uint8), np.eye(2, 3))
    own = [task.read(raw, crop) for raw in raw_of(task, n, rng)]
    return own + [d.derive(a) for d in DERIVED.values() if d.source == task.name for a in own]


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_columns_hold_the_answers_record(task, rng):
    for described in (task, *(d for d in DERIVED.values() if d.source == task.name)):
        answer = answers_of(task, rng)[0]
        answer = answer if described is task else described.derive(answer)
        assert isinstance(answer, described.answer)
        columns = described.columns()
        assert columns
        assert all(c.name == described.name or c.name.startswith(f"{described.name}_") for c in columns)
        assert len({c.name for c in columns}) == len(columns)
        for c in columns:
            cell = c.get({described.name: answer.to_dict()})
            if c.parts:
                assert len(cell) == len(c.parts)
                assert all(isinstance(v, float) for v in cell)
            else:
                assert isinstance(cell, c.kind), c.name
            assert c.get({}) is None


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_answers_say_a_line_and_a_tag(task, rng):
    for answer in answers_of(task, rng):
        assert "\n" not in answer.summary() + answer.tag()
        assert len(answer.summary()) < 100
        assert len(answer.tag()) < 20
        assert answer.value() is None or np.array(answer.value()).dtype.kind in "fU"


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_the_mean_of_answers_is_weighted_and_of_their_own_class(task, rng):
    n = 3
    answers = answers_of(task, rng, n)
    for group in (answers[:n], answers[n:]):
        if not group:
            continue
        if not group[0].averaged:
            with pytest.raises(TypeError, match="no mean"):
                group[0].mean_terms()
            continue
        mean = WeightedMean()
        for answer, weight in zip(group, (1.0, 2.0, 5.0), strict=True):
            mean.add(answer, weight)
        assert type(mean.answer()) is type(group[0])
        expected = np.average([a.mean_terms() for a in group], axis=0, weights=(1.0, 2.0, 5.0))
        if isinstance(task.shape, Embedding):
            expected /= np.linalg.norm(expected)
        assert np.allclose(mean.answer().mean_terms(), expected, atol=1e-6)


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_losses_of_parts_weighted_add_up(task, rng):
    """Two parts of a batch, weighted by what each knows, have the loss of the entire batch."""
    raw, target, mask = batch_of(task, rng)
    if isinstance(task.shape, Map):
        task = dataclasses.replace(task, dice_weight=0.0)  # the Dice term is no mean over pixels
    criterion = task.criterion()
    parts = [slice(0, 1), slice(1, 4)]
    weights = [task.loss_weight(target[p], mask[p]) for p in parts]
    losses = [float(criterion(raw[p], target[p], mask[p]).detach()) for p in parts]
    joined = sum(w * v for w, v in zip(weights, losses, strict=True)) / sum(weights)
    assert joined == pytest.approx(float(criterion(raw, target, mask).detach()), rel=1e-4)


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_metrics_give_their_headline(task, rng):
    crop = Crop(np.zeros((160, 160, 3), np.uint8), np.eye(2, 3))
    metrics = task.metrics()
    for i in range(4):
        _, labels, _ = synthetic.draw(np.random.default_rng(i))
        label = [(i // 2, True)] if isinstance(task.shape, Embedding) else labels[task.name]
        metrics.update(task.read(raw_of(task, 1, rng)[0], crop), label)
    if task.name == "identity":
        for i in range(2, 22):
            metrics.update(task.read(raw_of(task, 1, rng)[0], crop), [(i // 2 + 1, i % 4 < 2)])
    values = metrics.compute()
    assert metrics.headline in values
    assert all(np.isfinite(v) for v in values.values())


NO_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
import numpy as np
from mien.data import synthetic as toy
from mien.tasks import TASKS, Embedding, Points, Vector
from mien.types import Crop
_, labels, _ = toy.draw(np.random.default_rng(0))
crop = Crop(np.zeros((160, 160, 3), np.uint8), np.eye(2, 3))
for name in labels:
    task = TASKS[name]
    n = task.shape.d if isinstance(task.shape, Embedding) else task.shape.n
    raw = np.linspace(-1, 1, n * 64, dtype=np.float32).reshape(n, 8, 8)
    answer = task.read(raw[:, 0, 0] if isinstance(task.shape, Vector | Embedding) else raw, crop)
    answer.to_dict()
    if isinstance(task.shape, Points):
        task.read(raw[:, 0, :2], crop)
    if not isinstance(task.shape, Embedding):
        metrics = task.metrics()
        metrics.update(answer, labels[name])
        metrics.compute()
print(len(labels))
"""


def test_reading_and_scoring_need_no_torch():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NO_TORCH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(FACE_TASKS)


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
def test_an_answer_comes_back_from_the_mirror(task):
    """What a perfect network says of the mirrored picture, brought back, is what it says of the picture."""
    picture, labels, _ = synthetic.draw(np.random.default_rng(0))
    h, w = picture.shape[:2]
    plain, _ = task.encode_target(labels[task.name], np.eye(2, 3), False, (w, h))
    seen, _ = task.encode_target(labels[task.name], np.array([[-1.0, 0, w - 1], [0, 1, 0]]), True, (w, h))
    raw = raw_of(task, 2, np.random.default_rng(1))
    assert np.array_equal(task.undo_hflip(task.undo_hflip(raw)), raw)
    if isinstance(task.shape, Map):
        mask = np.asarray(plain) < task.shape.n
        back = task.undo_hflip(
            np.eye(256, dtype=np.float32)[seen][..., : task.shape.n].transpose(2, 0, 1)[None]
        )[0]
        assert mask.mean() > 0.5
        assert np.array_equal(back.argmax(0)[mask], np.asarray(plain)[mask])
    elif np.ndim(plain):
        assert np.allclose(task.undo_hflip(np.asarray(seen)[None])[0], plain, atol=1e-5)
    else:
        assert task.undo_hflip(raw) is raw

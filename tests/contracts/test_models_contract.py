"""Every builder in the catalogue keeps the contract; an empty catalogue fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien import checkpoint
from mien.data import FaceSource, toy
from mien.data.augment import Augment
from mien.data.mix import collate
from mien.models import MODELS
from mien.tasks import Boxes, Embedding, Map, Points, Vector
from mien.train import losses_of, to_tensors

FACE_MODELS = [n for n in MODELS if not n.endswith("_base") and n != "detector"]


def test_the_catalogue_is_whole():
    assert {"faceptor_tiny", "detector"} <= set(MODELS)
    assert FACE_MODELS


def batch(model, n: int = 4, tasks: tuple[str, ...] | None = None):
    source = FaceSource(toy.toy(n=n, tasks=tasks), model.view, Augment())
    return collate([source.example(i, np.random.default_rng(i)) for i in range(n)], model.tasks, model.view.size)


@pytest.fixture(scope="module", params=FACE_MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_one_answer_a_task_of_its_shape(model):
    images, _, _ = to_tensors(batch(model), model.view)
    raw = model.eval()(images)
    assert list(raw) == [t.name for t in model.tasks]
    for task in model.tasks:
        if isinstance(task.shape, Vector):
            assert raw[task.name].shape == (4, task.shape.n)
        elif isinstance(task.shape, Embedding):
            assert raw[task.name].shape == (4, task.shape.d)
        elif isinstance(task.shape, Map):
            assert raw[task.name].shape[:2] == (4, task.shape.n)
        elif isinstance(task.shape, Points):
            assert raw[task.name].shape[:2] == (4, task.shape.n)
            assert raw[task.name].ndim in (3, 4)
        else:
            assert isinstance(task.shape, Boxes)


def test_a_picture_answers_the_same_alone_and_in_a_batch(model):
    images, _, _ = to_tensors(batch(model), model.view)
    together, alone = model.eval()(images), model(images[1:2])
    for name in together:
        assert torch.allclose(together[name][1:2], alone[name], atol=1e-4), name


def test_an_absent_task_leaves_zero_not_missing_gradients(model):
    images, targets, known = to_tensors(batch(model, tasks=("age",)), model.view)
    model.train().zero_grad()
    losses = losses_of(model, {t.name: t.criterion() for t in model.tasks}, model(images), targets, known)
    assert {n for n, v in losses.items() if float(v.detach()) != 0} == {"age"}
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_a_checkpoint_comes_back_whole(model, tmp_path):
    checkpoint.save(tmp_path / "m.safetensors", model, recipe="test")
    again = checkpoint.load(tmp_path / "m.safetensors")
    assert again.header["recipe"] == "test"
    assert again.view == model.view
    assert [t.name for t in again.tasks] == [t.name for t in model.tasks]
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name

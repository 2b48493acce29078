"""Every builder in the catalogue keeps the contract; an empty catalogue fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.data import synthetic
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture, collate
from mien.export.onnx_export import difference, export
from mien.models import MODELS
from mien.tasks import Boxes, Embedding, Map, Points, Vector
from mien.training import checkpoint
from mien.training.loop import fit, losses_of, to_tensors
from mien.training.recipe import Recipe, cosine

FACE_MODELS = [n for n in MODELS if n.endswith("_tiny")]  # the full sizes have tests of their own


def test_the_catalogue_is_complete():
    assert {
        "faceptor_tiny",
        "far_amtn_tiny",
        "ifan_tiny",
        "mgmtn_tiny",
        "naive_faceptor_tiny",
        "qface_tiny",
        "detector",
    } <= set(MODELS)
    assert len(FACE_MODELS) >= 6


def batch(model, n: int = 4, tasks: tuple[str, ...] | None = None):
    source = FaceSource(synthetic.toy(n=n, tasks=tasks), model.view, Augment())
    return collate(
        [source.example(i, np.random.default_rng(i)) for i in range(n)], model.tasks, model.view.size
    )


@pytest.fixture(scope="module", params=FACE_MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_each_task_has_one_answer_of_its_shape(model):
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
    labeled = "age" if "age" in [t.name for t in model.tasks] else model.tasks[0].name
    images, targets, mask = to_tensors(batch(model, tasks=(labeled,)), model.view)
    model.train().zero_grad()
    losses = losses_of(model, {t.name: t.criterion() for t in model.tasks}, images, targets, mask)
    # a model with groups gives a loss a group, "attributes:Mouth"
    assert {n.partition(":")[0] for n, v in losses.items() if float(v.detach()) != 0} == {labeled}
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_a_checkpoint_is_restored_completely(model, tmp_path):
    checkpoint.save(tmp_path / "m.safetensors", model, recipe="test")
    again = checkpoint.load(tmp_path / "m.safetensors")
    assert again.header["recipe"] == "test"
    assert again.view == model.view
    assert [t.name for t in again.tasks] == [t.name for t in model.tasks]
    for (name, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", FACE_MODELS)
def test_onnx_and_torch_agree(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name](size=64)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 1.0  # an untrained network answers nearly nothing without statistics
    images, _, _ = to_tensors(batch(model), model.view)
    with torch.no_grad():
        raw = model.train()(images)
    export(model.eval(), tmp_path / "m.onnx")
    for n in (4, 1):
        gaps = difference(model, tmp_path / "m.onnx", images[:n].contiguous().numpy())
        assert list(gaps) == [t.name for t in model.tasks]
        for task, gap in gaps.items():
            assert gap <= 1e-4 * max(1.0, float(raw[task].abs().max())), (task, gap)


@pytest.mark.parametrize("name", FACE_MODELS)
def test_two_steps_of_training_move_the_weights(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name](size=64)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    source = FaceSource(synthetic.toy(n=8), model.view, Augment())
    mixture = Mixture([(source, 4)], model.tasks, seed=1, size=model.view.size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    fit(
        Recipe(name="test", model=model, mixture=mixture, optimizer=optimizer, schedule=cosine(1), steps=2),
        tmp_path,
    )
    assert (tmp_path / "model.safetensors").exists()
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert all(torch.isfinite(p).all() for p in model.parameters())

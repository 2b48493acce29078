"""What every model must keep, one function per promise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture, collate
from mien.export.onnx_export import difference, export
from mien.models import MODELS
from mien.tasks import Boxes, Embedding, Map, Points, Vector
from mien.testing.examples import DrawnFaces, ensure
from mien.training import checkpoint
from mien.training.loop import fit, losses_of, to_tensors
from mien.training.recipe import Recipe, cosine
from mien.types import FaceModel

Make = Callable[[], FaceModel]


def _batch(model: FaceModel, tasks: tuple[str, ...] | None = None) -> Any:
    """(images, targets, masks) of four drawn faces, labeled for these tasks; None: for all of the model."""
    wanted = [t for t in model.tasks if tasks is None or t.name in tasks]
    source = FaceSource(DrawnFaces(wanted, 4), model.view, Augment())
    examples = [source.example(i, np.random.default_rng(i), model.tasks) for i in range(4)]
    return to_tensors(collate(examples, model.tasks, model.view.size), model.view)


def _made(make: Make) -> tuple[FaceModel, nn.Module]:
    """A model from a fixed seed, twice under its two types."""
    torch.manual_seed(0)
    model = make()
    return model, cast(nn.Module, model)


def check_shapes(make: Make) -> None:
    """One output per task, in the order of the tasks, of the task's shape."""
    model, module = _made(make)
    module.eval()
    with torch.no_grad():
        raw = model(_batch(model)[0])
    names = [t.name for t in model.tasks]
    ensure(names, "the model has no tasks")
    ensure(list(raw) == names, f"forward gives {list(raw)}; it must give the tasks in order: {names}")
    for task in model.tasks:
        shape, found = task.shape, tuple(raw[task.name].shape)
        if isinstance(shape, Boxes):
            continue
        n = shape.d if isinstance(shape, Embedding) else shape.n
        vector = isinstance(shape, (Vector, Embedding))
        dims = {"vector": (2,), "points": (3, 4), "map": (4,)}[
            "vector" if vector else "points" if isinstance(shape, Points) else "map"
        ]
        assert vector or isinstance(shape, (Points, Map))
        ensure(
            found[:2] == (4, n) and len(found) in dims,
            f"the output of {task.name} for 4 images is {found}; its shape is {shape}",
        )


def check_batch_independence(make: Make) -> None:
    """A picture gets the same outputs alone and in a batch."""
    model, module = _made(make)
    images = _batch(model)[0]
    module.eval()
    with torch.no_grad():
        together, alone = model(images), model(images[1:2])
    for name in together:
        gap = float((together[name][1:2] - alone[name]).abs().max())
        ensure(gap <= 1e-4, f"{name} of a picture changes by {gap:.2g} in a batch; in evaluation it must not")


def check_absent_tasks_have_zero_gradients(make: Make) -> None:
    """A batch that labels one task has a loss for it alone, and leaves no parameter without a gradient."""
    model, module = _made(make)
    names = [t.name for t in model.tasks]
    labeled = "age" if "age" in names else names[0]
    images, targets, mask = _batch(model, (labeled,))
    module.train().zero_grad()
    losses = losses_of(model, {t.name: t.criterion() for t in model.tasks}, images, targets, mask)
    # a model with groups gives a loss per group, "attributes:Mouth"
    learned = {n.partition(":")[0] for n, v in losses.items() if float(v.detach()) != 0}
    ensure(learned == {labeled}, f"only {labeled} is labeled, and there are losses of {sorted(learned)}")
    cast(Tensor, sum(losses.values())).backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    ensure(not missing, f"parameters without a gradient where a task has no label: {', '.join(missing[:5])}")


def check_checkpoint(make: Make) -> None:
    """A checkpoint comes back with all weights, built by its name in `MODELS`."""
    model, module = _made(make)
    name = model.builder[0]
    ensure(
        name in MODELS,
        f"`builder` names {name!r}, which is not in mien.models.MODELS; install the package with its entry"
        f' point in mien.systems, or set MODELS["{name}"] in the test',
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        checkpoint.save(path, model, recipe="test")
        again = checkpoint.load(path)
    ensure(again.header["recipe"] == "test", f"{name}: the header of a checkpoint is lost")
    ensure(again.view == model.view, f"{name}: the loaded model has the view {again.view}, not {model.view}")
    tasks = [t.name for t in model.tasks], [t.name for t in again.tasks]
    ensure(tasks[0] == tasks[1], f"{name}: the loaded model has the tasks {tasks[1]}, not {tasks[0]}")
    weights, loaded = module.state_dict(), again.state_dict()
    ensure(list(weights) == list(loaded), f"{name}: the loaded model has other weights; see `builder`")
    for key in weights:
        ensure(torch.equal(weights[key], loaded[key]), f"{name}: {key} differs after loading")


def check_onnx(make: Make) -> None:
    """The exported ONNX network gives what the model gives."""
    model, module = _made(make)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0  # an untrained network gives nearly nothing without statistics
    images = _batch(model)[0]
    module.train()
    with torch.no_grad():
        raw = model(images)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path)
        for n in (4, 1):
            gaps = difference(model, path, images[:n].contiguous().numpy())
            ensure(list(gaps) == [t.name for t in model.tasks], f"ONNX gives {list(gaps)}")
            for task, gap in gaps.items():
                limit = 1e-4 * max(1.0, float(raw[task].abs().max()))
                ensure(
                    gap <= limit, f"{task} differs by {gap:.2g} between torch and ONNX; {limit:.2g} at most"
                )


def check_training(make: Make) -> None:
    """Two steps of training change the weights, and all stay finite."""
    model, module = _made(make)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    source = FaceSource(DrawnFaces(model.tasks, 8), model.view, Augment())
    mixture = Mixture([(source, 4)], model.tasks, seed=1, size=model.view.size)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            Recipe(
                name="test", model=model, mixture=mixture, optimizer=optimizer, schedule=cosine(1), steps=2
            ),
            Path(folder),
        )
        ensure((Path(folder) / "model.safetensors").exists(), "training wrote no model.safetensors")
    after = dict(module.named_parameters())
    ensure(any(not torch.equal(p, before[n]) for n, p in after.items()), "two steps changed no weight")
    for n, p in after.items():
        ensure(torch.isfinite(p).all(), f"{n} is not finite after two steps")


CHECKS = (
    check_shapes,
    check_batch_independence,
    check_absent_tasks_have_zero_gradients,
    check_checkpoint,
    check_onnx,
    check_training,
)


def check_model(builder: Callable[..., FaceModel], **options: Any) -> None:
    """Check that a model keeps the contract: outputs, gradients, checkpoint, ONNX, two steps of training.

    Args:
        builder: of the model, such as those in `mien.models.MODELS`.
        options: of the builder; a small network is checked in seconds.

    Raises:
        AssertionError: it does not; the message says what is wrong.
    """
    make = partial(builder, **options)
    for check in CHECKS:
        check(make)

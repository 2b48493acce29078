"""The checks of `mien.testing` find what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mien.data import synthetic
from mien.data.dataset import RandomSubset
from mien.evaluation.protocols import Protocol
from mien.models import MODELS
from mien.tasks import AGE, EXPRESSION, FACES, TASKS, Answer, Task, Vector
from mien.tasks.attributes import AttributesTask
from mien.tasks.base import over_labeled
from mien.tasks.choice import ChoiceTask
from mien.tasks.columns import Column, value_at
from mien.tasks.landmarks import LANDMARKS
from mien.testing import check_dataset, check_model, check_protocol, check_task
from mien.testing import models as model_checks
from mien.types import View

# --- Tasks


@dataclass(frozen=True, slots=True)
class Length(Answer):
    """A length in pixels."""

    pixels: float

    averaged: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        return {"pixels": round(self.pixels, 3)}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return [Column(name, float, value_at(name, "pixels"))]

    def mean_terms(self):
        return np.array([self.pixels])

    def from_mean(self, terms):
        return Length(float(terms[0]))


class MeanError:
    headline = "mae"

    def __init__(self) -> None:
        self.errors = list[float]()

    def update(self, answer, label) -> None:
        self.errors.append(abs(answer.pixels - label))

    def compute(self) -> dict[str, float]:
        return {"mae": float(np.mean(self.errors)), "n": len(self.errors)}


@dataclass(frozen=True, kw_only=True)
class LengthTask(Task[Length]):
    """A number of its own kind, which keeps the contract."""

    answer = Length
    name: str = "length"
    labels: str = "pixels"

    @property
    def shape(self) -> Vector:
        return Vector(1)

    def criterion(self):
        return over_labeled(lambda raw, target: (raw[:, 0] - target).square().mean())

    def read(self, raw, crop):
        return Length(float(raw[0]))

    def metrics(self):
        return MeanError()

    def encode_target(self, label, affine, mirrored, size):
        return np.float32(label), np.True_

    def missing_target(self, size):
        return np.float32(0), np.False_


class NotFinite(LengthTask):
    def missing_target(self, size):
        return np.float32(np.nan), np.False_


class OtherType(LengthTask):
    def missing_target(self, size):
        return np.float64(0), np.False_


class CountsMissing(LengthTask):
    def criterion(self):
        return lambda raw, target, mask: ((raw[:, 0] - target).square() * mask).mean()


class IgnoresMask(LengthTask):
    def criterion(self):
        return lambda raw, target, mask: (raw[:, 0] - target).square().mean()


class NoLossWithoutLabels(LengthTask):
    def criterion(self):
        def loss(raw, target, mask):
            return (raw[mask, 0] - target[mask]).square().mean() if mask.any() else torch.zeros(())

        return loss


class Sums(LengthTask):
    def loss_weight(self, target, mask):
        return 1.0


class Flips(LengthTask):
    def undo_hflip(self, raw):
        return -raw


class ReadsWithTorch(LengthTask):
    def read(self, raw, crop):
        import torch

        return Length(float(torch.tensor(raw[0])))


class NoCount(LengthTask):
    def metrics(self):
        class Mean(MeanError):
            def compute(self):
                return {"mae": 1.0}

        return Mean()


class OtherHeadline(LengthTask):
    def metrics(self):
        class Mean(MeanError):
            headline = "error"

        return Mean()


def with_answer(name: str, **members: Any) -> Task[Any]:
    """The task with an answer that differs."""
    own = type(name, (Length,), {"__slots__": (), **members})
    made = type(name, (LengthTask,), {"answer": own, "read": lambda self, raw, crop: own(float(raw[0]))})
    return made()


WRONG = {
    "missing_target is not finite": NotFinite(),
    "the target of missing_target is float64": OtherType(),
    "a row without a label changes the loss": CountsMissing(),
    "a row without a label has a gradient": IgnoresMask(),
    "the loss has no gradient without labels": NoLossWithoutLabels(),
    "return from loss_weight what the criterion divides by": Sums(),
    "undo_hflip.. does not undo": Flips(),
    "import it in criterion.. only": ReadsWithTorch(),
    "compute.. has no 'n'": NoCount(),
    "the headline 'error' is not among the numbers: mae, n": OtherHeadline(),
    "to_dict.. is not plain JSON": with_answer("A", to_dict=lambda self: {"pixels": np.float32(1)}),
    "summary.. or tag.. has a line break": with_answer("B", summary=lambda self: "a\nb"),
    "column 'width' must be named 'length'": with_answer(
        "C", columns=classmethod(lambda cls, name: [Column("width", float, value_at(name, "pixels"))])
    ),
    "which is not of type int": with_answer(
        "D", columns=classmethod(lambda cls, name: [Column(name, int, value_at(name, "pixels"))])
    ),
    "from_mean.. gives Length, not E": with_answer("E"),
    "`averaged` is False": with_answer("F", averaged=False),
}


def test_a_task_that_keeps_the_contract_passes():
    check_task(LengthTask())
    check_task(LengthTask(), labels=[3.0, 4.5, 8.0, 2.25])


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_wrong_with_a_task_is_found(reason):
    with pytest.raises(AssertionError, match=f"length: .*{reason}|{reason}"):
        check_task(WRONG[reason])


@pytest.mark.parametrize(
    "task",
    [
        ChoiceTask("mask_wearing", "mask3", ("none", "worn", "below_nose")),
        AttributesTask("things", "things2", ("Scarf", "Mask")),
        replace(LANDMARKS, name="places"),
        replace(AGE, name="years"),
        replace(EXPRESSION, name="mood"),
    ],
    ids=lambda t: t.name,
)
def test_labels_are_found_for_tasks_of_known_kinds(task):
    check_task(task)


def test_labels_that_nothing_suits_are_asked_for():
    class Words(LengthTask):
        def encode_target(self, label, affine, mirrored, size):
            return np.float32(len(label.split())), np.True_

    with pytest.raises(AssertionError, match=r"no example label is known for the task 'length'; pass some"):
        check_task(Words())
    with pytest.raises(AssertionError, match="length: 2 labels; pass 4 or more"):
        check_task(LengthTask(), labels=[1.0, 2.0])
    with pytest.raises(AssertionError, match="faces finds faces in photos"):
        check_task(FACES, labels=[1, 2, 3, 4])


# --- Data sets


class Changed:
    """The drawn set, with one thing changed."""

    name = "changed"

    def __init__(self, **changes: Any):
        self.faces, self.changes = synthetic.toy(n=3, tasks=("age",)), changes

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int):
        return replace(self.faces[i], **{k: v() for k, v in self.changes.items()})


class Endless(Changed):
    def __getitem__(self, i: int):
        return self.faces[i % 3]


class Empty(Changed):
    def __len__(self) -> int:
        return 0


WRONG_SETS = {
    r"a picture is float64\(4, 4, 3\)": Changed(image=lambda: np.zeros((4, 4, 3))),
    "`points` must be five finite places": Changed(points=lambda: np.full((5, 2), np.nan)),
    "differs when it is opened twice": Changed(points=lambda: np.random.default_rng().random((5, 2))),
    "has no label": Changed(labels=dict),
    "labels of no known task: shoe_size": Changed(labels=lambda: {"shoe_size": 3}),
    r"\[3\] of 3 pictures gives one": Endless(),
    "holds no pictures": Empty(),
}


def test_a_data_set_that_keeps_the_contract_passes():
    check_dataset(Changed())
    check_dataset(RandomSubset(synthetic.toy(), 5))
    check_dataset(Changed(labels=lambda: {"length": 3.0}), tasks=[LengthTask()])


@pytest.mark.parametrize("reason", WRONG_SETS)
def test_what_is_wrong_with_a_data_set_is_found(reason):
    with pytest.raises(AssertionError, match=f"changed.*{reason}"):
        check_dataset(WRONG_SETS[reason])


# --- Protocols

RIGHT = Protocol(
    "mine", lambda: synthetic.toy(n=3, tasks=("age",)), "age", "toy", ("mae", "cs5"), "drawn heads"
)


def test_a_protocol_that_keeps_the_contract_passes(monkeypatch):
    check_protocol(RIGHT)
    monkeypatch.setitem(TASKS, "length", LengthTask())
    lengths = replace(
        RIGHT, task="length", keys=("mae",), dataset=lambda: Changed(labels=lambda: {"length": 3.0})
    )
    check_protocol(lengths)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ""}, "the name of the protocol is ''"),
        ({"keys": ()}, "`keys` is empty"),
        ({"note": ""}, "`note` is empty"),
        ({"task": "length"}, "mine scores 'length', no known task"),
        ({"keys": ("mae", "nme")}, "the metrics do not compute nme, but: mae"),
    ],
)
def test_what_is_wrong_with_a_protocol_is_found(changes, reason):
    with pytest.raises(AssertionError, match=reason):
        check_protocol(replace(RIGHT, **changes))


# --- Models

VIEW = View((32, 32), "head", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Small(nn.Module):
    """One linear layer on the mean color for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks, self.view = (LengthTask(), EXPRESSION), VIEW
        self.builder = ("small", {})
        self.length, self.expression = nn.Linear(3, 1), nn.Linear(3, 8)

    def forward(self, images):
        x = images.mean((2, 3))
        return {"length": self.length(x), "expression": self.expression(x)}


class OtherOrder(Small):
    def forward(self, images):
        return dict(reversed(super().forward(images).items()))


class OtherShape(Small):
    def forward(self, images):
        raw = super().forward(images)
        return raw | {"expression": raw["expression"][:, :7]}


class LooksAround(Small):
    def forward(self, images):
        x = images.mean((2, 3))
        return super().forward(images) | {"length": self.length(x - x.mean(0))}


class Detached(Small):
    def forward(self, images):
        raw = super().forward(images)
        return raw | {"expression": raw["expression"].detach().requires_grad_()}


WRONG_MODELS = {
    "it must give the tasks in order": (model_checks.check_shapes, OtherOrder),
    r"the output of expression for 4 images is \(4, 7\)": (model_checks.check_shapes, OtherShape),
    "length of a picture changes by": (model_checks.check_batch_independence, LooksAround),
    "parameters without a gradient .*expression": (
        model_checks.check_absent_tasks_have_zero_gradients,
        Detached,
    ),
    "`builder` names 'small', which is not in": (model_checks.check_checkpoint, Small),
}


@pytest.mark.parametrize("reason", WRONG_MODELS)
def test_what_is_wrong_with_a_model_is_found(reason):
    check, make = WRONG_MODELS[reason]
    with pytest.raises(AssertionError, match=reason):
        check(make)


def test_a_model_that_keeps_the_contract_passes(monkeypatch):
    class Known(Small):
        def __init__(self, *, tasks=(EXPRESSION,), size=32):
            super().__init__()
            self.tasks, self.builder = tuple(tasks), ("small", {"tasks": ["expression"], "size": size})
            del self.length

        def forward(self, images):
            return {"expression": self.expression(images.mean((2, 3)))}

    monkeypatch.setitem(MODELS, "small", Known)
    check_model(Known, size=32)

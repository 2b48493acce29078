"""A new kind of task is one file and one line in the catalogue: everything else follows from them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.evaluation.protocols import Protocol
from mien.evaluation.scoring import evaluate
from mien.inference.onnx_model import _tasks
from mien.inference.reader import Reader
from mien.io.writers import open_output
from mien.tasks import TASKS, Answer, Task, Vector, summaries, supported_tasks
from mien.tasks.base import over_labeled, sigmoid
from mien.tasks.columns import Column, value_at
from mien.training.distributed import loss_weight
from mien.training.loop import losses_of, to_tensors
from mien.types import Crop, Detection, Floats, Sample, View
from mien.video.averages import TrackAverages, averaged
from mien.visualize import drawing

# --- The one file


@dataclass(frozen=True, slots=True)
class Sharpness(Answer):
    """How sharp a face is.

    Attributes:
        score: 0..1.
    """

    score: float

    averaged: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        return {"score": round(self.score, 3)}

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return [Column(name, float, value_at(name, "score"))]

    def summary(self) -> str:
        return f"sharp {self.score:.0%}"

    def mean_terms(self) -> npt.NDArray[np.float64]:
        return np.array([self.score])

    def from_mean(self, terms: npt.NDArray[np.float64]) -> Sharpness:
        return Sharpness(float(terms[0]))


@dataclass(frozen=True, kw_only=True)
class SharpnessTask(Task[Sharpness]):
    answer: ClassVar[type[Answer]] = Sharpness
    name: str = "sharpness"
    labels: str = "unit"
    weight: float = 1.0

    @property
    def shape(self) -> Vector:
        return Vector(1)

    def criterion(self):
        from torch.nn.functional import binary_cross_entropy_with_logits

        return over_labeled(
            lambda raw, target: self.weight * binary_cross_entropy_with_logits(raw[:, 0], target)
        )

    def read(self, raw: Floats, crop: Crop) -> Sharpness:
        return Sharpness(float(sigmoid(raw)[0]))

    def metrics(self) -> SharpnessError:
        return SharpnessError()

    def encode_target(self, label, affine, mirrored, size):
        return np.float32(label), np.True_

    def missing_target(self, size):
        return np.float32(0.5), np.False_


class SharpnessError:
    """Mean absolute error."""

    headline = "mae"

    def __init__(self) -> None:
        self.errors = list[float]()

    def update(self, answer: Sharpness, label: Any) -> None:
        self.errors.append(abs(answer.score - label))

    def compute(self) -> dict[str, float]:
        return {"mae": float(np.mean(self.errors)), "n": len(self.errors)}


SHARPNESS = SharpnessTask()


# --- The one line


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    monkeypatch.setitem(TASKS, SHARPNESS.name, SHARPNESS)


# --- What follows

VIEW = View((32, 32), "head", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
POINTS = np.array([[12, 14], [20, 14], [16, 18], [13, 23], [19, 23]], np.float64)


class Network:
    """Predicts a sharpness of 0.75 for every face."""

    view, tasks = VIEW, (SHARPNESS,)

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        return {"sharpness": np.full((len(images), 1), np.log(3), np.float32)}


def read():
    face = Detection(np.array([8, 8, 24, 28], np.float32), 0.9, POINTS.astype(np.float32))
    reader = Reader(lambda pixels: [face], Network())
    picture = np.full((40, 40, 3), (200, 150, 120), np.uint8)
    return reader, reader(picture)


def test_it_is_read_and_recorded():
    reader, reading = read()
    assert reader.requested == ("sharpness",) == supported_tasks(["sharpness"])
    assert reading[0][SHARPNESS] == Sharpness(pytest.approx(0.75))
    assert reading.to_dict()["faces"][0]["sharpness"] == {"score": 0.75}


def test_it_has_columns_words_and_a_picture(tmp_path):
    reader, reading = read()
    output = open_output(str(tmp_path / "faces.csv"), reader.requested)
    output.add(reading.to_dict() | {"path": "a.jpg"})
    output.close()
    with (tmp_path / "faces.csv").open(newline="", encoding="utf-8") as file:
        assert [row["sharpness"] for row in csv.DictReader(file)] == ["0.75"]
    assert summaries(reading[0].answers) == ["sharp 75%"]
    assert drawing.annotate(reading.photo.pixels, reading).shape == reading.photo.pixels.shape


def test_it_is_averaged_over_frames():
    means = TrackAverages()
    means.add({"sharpness": Sharpness(0.5)}, 1.0)
    means.add({"sharpness": Sharpness(1.0)}, 3.0)
    assert means.answers() == {"sharpness": Sharpness(0.875)}
    assert averaged("sharpness")


def test_it_is_scored():
    class Set(Faces):
        def __getitem__(self, i: int, /) -> Sample:
            sample = super().__getitem__(i)
            return replace(sample, labels={"sharpness": 0.25})

    protocol = Protocol("sharp", Set, "sharpness", "test", keys=("mae",))
    assert evaluate(Network(), protocol).headline == pytest.approx(0.5)


def test_its_header_makes_it_again():
    assert _tasks([SHARPNESS.header()]) == (SHARPNESS,)


class Faces:
    """Gray pictures; every second one is labeled."""

    name = "faces"

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int, /) -> Sample:
        if not 0 <= i < len(self):
            raise IndexError(i)
        picture = np.full((32, 32, 3), 60 * i, np.uint8)
        return Sample(picture, {"sharpness": 0.25} if i % 2 else {}, POINTS, f"face-{i}")


class Trainable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tasks, self.view, self.builder = (SHARPNESS,), VIEW, ("trainable", {})
        self.head = nn.Linear(3, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sharpness": self.head(images.mean((2, 3)))}


def test_it_is_trained():
    torch.manual_seed(0)
    model = Trainable()
    mixture = Mixture([(FaceSource(Faces(), VIEW, Augment()), 4)], model.tasks, seed=1, size=VIEW.size)
    batch = mixture.batch(0)
    assert sorted(batch.targets["sharpness"].tolist()) == [0.25, 0.25, 0.5, 0.5]
    images, targets, mask = to_tensors(batch, VIEW)
    plain, heavy = (
        losses_of(model, {"sharpness": t.criterion()}, images, targets, mask)["sharpness"]
        for t in (SHARPNESS, replace(SHARPNESS, weight=2.0))
    )
    assert float(heavy.detach()) == pytest.approx(2 * float(plain.detach()))
    assert loss_weight(SHARPNESS, SHARPNESS.criterion(), targets["sharpness"], mask["sharpness"]) == 2.0
    plain.backward()
    assert model.head.weight.grad is not None
    assert bool((model.head.weight.grad != 0).any())

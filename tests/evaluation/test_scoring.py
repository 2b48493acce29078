"""Protocols whose faces a detector finds, as they are when a photo comes without labeled points."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mien.cli import app
from mien.data.synthetic import Toy, toy
from mien.errors import MissingData, UsageError
from mien.evaluation.protocols import PROTOCOLS
from mien.evaluation.scoring import DETECTED, Score, as_table, evaluate, face_at
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.io.image import load_photo
from mien.types import Detection, Pixels, Sample
from tests.conftest import needs_pack

PROTOCOL = dataclasses.replace(PROTOCOLS["helen68"], flip_tta=False)


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel(WEIGHTS / "mien.onnx", threads=1, tasks=["landmarks"])


class Labels:
    """Finds what is labeled, less what is hidden; a second box around each face stands farther off, and a
    third elsewhere.
    """

    def __init__(self, of: Toy, hidden: tuple[int, ...] = ()):
        self.samples, self.hidden = [of[i] for i in range(len(of))], hidden

    def __call__(self, pixels: Pixels) -> list[Detection]:
        [(i, points)] = [(i, s.points) for i, s in enumerate(self.samples) if np.array_equal(s.image, pixels)]
        if i in self.hidden:
            return [self.box(points, (100, 100))]
        return [self.box(points, (100, 0)), self.box(points, (9, 9)), self.box(points, (1, 0), points)]

    def box(self, points: np.ndarray, away: tuple[float, float], told: np.ndarray | None = None) -> Detection:
        x, y = points.mean(0) + away
        return Detection(
            np.array([x - 30, y - 30, x + 30, y + 30]), 0.9, points + 40 if told is None else told
        )


def score(model: OnnxModel, hidden: tuple[int, ...] = (), **how: object) -> Score:
    faces = toy(n=6, tasks=("landmarks",))
    return evaluate(model, PROTOCOL, dataset=faces, batch=4, **(how or {"find": Labels(faces, hidden)}))  # type: ignore[arg-type]


def test_found_where_they_are_labeled_faces_score_as_labeled_ones(model: OnnxModel) -> None:
    placed, found = score(model, find=None), score(model)
    assert "found" not in placed.values
    assert found.values == placed.values | {"found": 100.0}
    assert (found.headline, found.keys) == (placed.headline, (*placed.keys, "found"))


def test_a_face_that_is_not_found_has_no_answer(model: OnnxModel) -> None:
    values = score(model, hidden=(1, 4, 5)).values
    assert (values["n"], values["found"]) == (3, 50.0)
    with pytest.raises(MissingData, match="found none of the 6 faces of helen68"):
        score(model, hidden=tuple(range(6)))


@pytest.mark.parametrize(("boxes", "which"), [
    ([], None),
    ([(0, 0, 9, 9)], None),
    ([(0, 0, 10, 10)], 0),
    ([(0, 0, 40, 40), (0, 0, 22, 22), (8, 8, 12, 11), (11, 8, 12, 12)], 2),
])  # fmt: skip
def test_the_face_is_the_box_around_it_whose_middle_is_nearest(
    boxes: list[tuple[int, ...]], which: int | None
) -> None:
    assert face_at([(9, 10), (11, 10)], boxes) == which


def test_the_embedded_detector_places_a_photo(model: OnnxModel) -> None:
    pixels = load_photo("examples/astronaut.jpg").pixels
    find = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=1))
    [face] = find(pixels)

    class One:
        name = "one"

        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Sample:
            return Sample(
                pixels,
                {"landmarks": np.zeros((68, 2)) + np.arange(68)[:, None]},
                np.asarray(face.points, np.float64) + 8,
                "a",
            )

    labeled, found = (evaluate(model, PROTOCOL, dataset=One(), find=how) for how in (None, find))
    assert found.values["found"] == 100
    assert found.values["nme"] != labeled.values["nme"]


@pytest.mark.parametrize("name", [n for n, p in PROTOCOLS.items() if p.crop])
def test_a_table_says_what_cut_the_faces_out(name: str) -> None:
    p = PROTOCOLS[name]
    values = dict.fromkeys((*p.keys, "n", "found"), 1.0)
    placed, found = (as_table([Score(name, values, 1.0, keys)]) for keys in (p.keys, (*p.keys, "found")))
    assert f"{p.note}; {p.crop} |" in placed
    assert f"{p.note}; {DETECTED} |" in found


@needs_pack
def test_the_command_says_how_many_were_found(tmp_path: Path) -> None:
    words = ["evaluate", "--protocol", "helen68", "--detect", "--threads", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "scores.json")])
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["scores"]["helen68"]
    assert values["found"] > 95
    assert values["nme"] < 4.5
    assert f"found {values['found']:.2f}" in done.output
    assert "of the faces that it found" in done.output
    assert "not by our detector" not in done.output
    refused = CliRunner().invoke(app, [*words, "--record"])
    assert isinstance(refused.exception, UsageError)
    assert "leave out --detect" in str(refused.exception)

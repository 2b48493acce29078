"""Reading a face with its mirror image: one call, merged answers, and networks that cannot do it."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import mien
from mien.cli import app
from mien.errors import UsageError
from mien.inference.flip_tta import FlipTTA
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.tasks import AGE, LANDMARKS
from mien.types import View


class Leaning:
    """Answers age by the mean of the left half, and points by its argmax: a mirror image differs."""

    view, tasks, calls = View((8, 8), "head", (0.5,) * 3, (0.5,) * 3), (AGE, LANDMARKS), 0

    def __call__(self, images):
        self.calls += 1
        left = images[..., :4].mean((1, 2, 3))
        return {"age": left[:, None].repeat(101, 1), "landmarks": images[:, :1, ::2, ::2].repeat(68, 1)}


def test_answers_are_the_mean_of_both_in_one_call():
    inner, images = Leaning(), np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    both = FlipTTA(inner)(images)
    assert inner.calls == 1
    assert np.allclose(both["age"][:, 0], images.mean((1, 2, 3)), atol=1e-6)
    assert np.array_equal(both["landmarks"], inner(images)["landmarks"]), (
        "points are answered from the picture alone"
    )


def test_flip_tta_gives_a_face_and_its_mirror_image_equal_answers():
    plain, mirrored = (
        mien.load(threads=1, tasks=["age", "expression", "identity", "landmarks"], flip_tta=m)
        for m in (False, True)
    )
    crop = plain("examples/astronaut.jpg")[0].crop
    other = mien.types.Crop(crop.pixels[:, ::-1].copy(), crop.from_photo)

    def gap(reader) -> float:
        a, b = reader.read_crops([crop, other])
        return float(np.abs(a["identity"].embedding - b["identity"].embedding).max())

    assert gap(mirrored) < 1e-4 < 1e-2 < gap(plain)
    assert np.allclose(
        mirrored.read_crops([crop])[0]["landmarks"].points,
        plain.read_crops([crop])[0]["landmarks"].points,
        atol=1e-2,
    )


def test_a_detector_cannot_be_mirrored():
    with pytest.raises(UsageError, match="'faces' cannot be predicted from flipped photos"):
        FlipTTA(OnnxModel(WEIGHTS / "detector.onnx", threads=1))


def test_records_state_flip_tta_and_a_table_without_it_is_not_resumed(tmp_path):
    words = [
        "analyze",
        "examples/astronaut.jpg",
        "--tasks",
        "age",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "rows.jsonl"),
    ]
    assert CliRunner().invoke(app, [*words, "--flip-tta"]).exit_code == 0
    assert '"name": "mien_tiny+flip_tta"' in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert CliRunner().invoke(app, [*words, "--flip-tta", "--resume"]).exit_code == 0
    refused = CliRunner().invoke(app, [*words, "--resume"])
    assert isinstance(refused.exception, UsageError) and "mien_tiny+flip_tta" in str(refused.exception)

"""The loop: it resumes exactly, it learns drawn faces, it refuses what would lose work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mien import checkpoint
from mien.balance import Fixed
from mien.cli import load_recipe
from mien.data import FaceSource, toy
from mien.data.augment import Augment
from mien.data.mix import Mixture
from mien.errors import BadWeights, UsageError
from mien.models.detector import detector
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, ATTRIBUTES, LANDMARKS
from mien.train import Average, Recipe, cosine, fit, learn_mode


def small(steps: int = 6, seed: int = 3, lr: float = 1e-3) -> Recipe:
    torch.manual_seed(seed)
    model = faceptor_tiny(tasks=(LANDMARKS, AGE, ATTRIBUTES), size=64)
    model.encoder.freeze(1)
    parts = [
        (FaceSource(toy.toy(n=10, tasks=("landmarks",)), model.view, Augment()), 3),
        (FaceSource(toy.toy(n=7, tasks=("age", "attributes")), model.view, Augment()), 3),
    ]
    learned = [p for p in model.parameters() if p.requires_grad]
    return Recipe(
        "small", model, Mixture(parts, model.tasks, seed=seed, size=model.view.size), torch.optim.AdamW(learned, lr=lr), cosine(2), steps,
        balance=Fixed({"age": 0.5}), seed=seed, data=("toy",),
    )  # fmt: skip


def test_stop_and_resume_gives_the_weights_of_going_on(tmp_path):
    whole = fit(small(), tmp_path / "whole", report=2)
    fit(small(), tmp_path / "parts", stop_after=2, report=2)
    fit(small(), tmp_path / "parts", stop_after=1, resume=True, report=2)
    parts = fit(small(), tmp_path / "parts", resume=True, report=2)
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    last = [checkpoint._read(tmp_path / run / "last.safetensors")[0] for run in ("whole", "parts")]
    assert set(last[0]) == set(last[1])
    for name in last[0]:
        assert torch.equal(last[0][name], last[1][name]), name


def test_a_run_is_not_overwritten(tmp_path):
    fit(small(steps=1), tmp_path)
    with pytest.raises(UsageError, match="--resume"):
        fit(small(steps=1), tmp_path)


def test_the_log_is_json_lines_with_a_loss_a_task(tmp_path):
    fit(small(steps=4), tmp_path, report=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4]
    assert set(rows[0]["losses"]) == {"landmarks", "age", "attributes", "norm"}
    assert rows[0]["images_per_s"] > 0


def test_drawn_faces_are_learned(tmp_path):
    recipe = small(steps=60, lr=3e-3)
    fit(recipe, tmp_path, report=10)
    rows = [json.loads(line)["losses"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["landmarks"] < 0.85 * rows[0]["landmarks"]
    assert rows[-1]["age"] < rows[0]["age"]


def test_frozen_parts_stay_as_they_were(tmp_path):
    recipe = small(steps=3)
    before = {n: v.clone() for n, v in recipe.model.encoder.stem.state_dict().items()}
    fit(recipe, tmp_path)
    for name, value in recipe.model.encoder.stem.state_dict().items():
        assert torch.equal(before[name], value), name  # batch-norm statistics too


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    recipe = small(steps=2)
    with torch.no_grad():
        recipe.model.value.weight.fill_(float("nan"))
    with pytest.raises(UsageError, match="not finite.*age"):
        fit(recipe, tmp_path)


def test_average_follows_and_starts_warm():
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average.model.weight.fill_(0.0)
    average.update(model, 0)
    assert float(average.model.weight) == pytest.approx(0.9)  # 1 - 1/10
    average.update(model, 10_000)
    assert float(average.model.weight) == pytest.approx(0.91)  # 0.9 + 0.1 * 0.1


def test_batches_are_a_function_of_seed_and_step():
    a, b, other = small().mixture, small().mixture, small(seed=4).mixture
    for step in (0, 5):
        assert np.array_equal(a.batch(step).images, b.batch(step).images)
    assert not np.array_equal(a.batch(0).images, other.batch(0).images)
    direct = [a.batch(s) for s in range(3, 6)]
    for one, two in zip(direct, b.batches(3, 6), strict=True):
        assert np.array_equal(one.images, two.images)
        for task in one.targets:
            assert np.array_equal(one.targets[task], two.targets[task])


def test_an_epoch_shows_every_picture_once():
    class Numbers:
        name = "numbers"

        def __len__(self) -> int:
            return 6

        def example(self, index, rng):
            from mien.types import Example

            return Example(np.full((8, 8, 3), index, np.uint8), {})

    mixture = Mixture([(Numbers(), 2)], (), seed=0, size=(8, 8))
    seen = [int(i[0, 0, 0]) for step in range(6) for i in mixture.batch(step).images]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_a_broken_source_is_raised_not_hidden():
    class Broken:
        name = "broken"

        def __len__(self) -> int:
            return 1

        def example(self, index, rng):
            raise ValueError("this picture is broken")

    with pytest.raises(ValueError, match="this picture is broken"):
        list(Mixture([(Broken(), 1)], (), seed=0, size=(8, 8)).batches(0, 2))


def test_learn_mode_keeps_frozen_norms_still():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2))
    model[0].requires_grad_(False)
    learn_mode(model)
    assert not model[0].training
    assert model[1].training


def test_a_foreign_or_cut_checkpoint_is_refused(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(BadWeights, match="no readable safetensors"):
        checkpoint.load(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BadWeights, match="not written by mien"):
        checkpoint.load(tmp_path / "foreign.safetensors")


def test_a_wider_and_deeper_detector_starts_by_answering_like_the_smaller_one():
    grow = load_recipe(Path(__file__).parent.parent / "recipes" / "detector.py").__globals__["grow"]
    torch.manual_seed(0)
    small = detector(stem=8, widths=(8, 12, 16, 16), depths=(1, 1, 1, 1), dim=8).eval()
    large = detector(stem=8, widths=(8, 16, 20, 16), depths=(1, 2, 1, 1), dim=12).eval()
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(large(images)["faces"], small(images)["faces"], atol=1e-3)
    grow(small, large)
    assert torch.allclose(large(images)["faces"], small(images)["faces"], atol=1e-5)

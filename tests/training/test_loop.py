"""The loop: it resumes exactly, with several views too, it learns drawn faces, it refuses what would lose
work.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mien.cli import load_recipe
from mien.data import synthetic
from mien.data.augment import NONE, Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture, shares
from mien.errors import BadWeights, UsageError
from mien.models.detector import detector
from mien.models.faceptor import faceptor_tiny
from mien.models.ifan import ifan_tiny
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, LANDMARKS, PARSING, POINTS5
from mien.training import checkpoint, loop
from mien.training.ema import Average
from mien.training.loop import fit, train_step, training_mode
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, cosine
from mien.types import Batch, View


def small(steps: int = 6, seed: int = 3, lr: float = 1e-3) -> Recipe:
    torch.manual_seed(seed)
    model = faceptor_tiny(tasks=(LANDMARKS, AGE, ATTRIBUTES), size=64)
    model.encoder.freeze(1)
    parts = [
        (FaceSource(synthetic.toy(n=10, tasks=("landmarks",)), model.view, Augment()), 3),
        (FaceSource(synthetic.toy(n=7, tasks=("age", "attributes")), model.view, Augment()), 3),
    ]
    learned = [p for p in model.parameters() if p.requires_grad]
    return Recipe(
        "small",
        model,
        Mixture(parts, model.tasks, seed=seed, size=model.view.size),
        torch.optim.AdamW(learned, lr=lr),
        cosine(2),
        steps,
        loss_weighting=Fixed({"age": 0.5}),
        seed=seed,
        data=("toy",),
    )


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
    with pytest.raises(UsageError, match=r"not finite.*age"):
        fit(recipe, tmp_path)


def test_average_follows_and_starts_warm():
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average.module.weight.fill_(0.0)
    average.update(model, 0)
    assert float(average.module.weight) == pytest.approx(0.9)  # 1 - 1/10
    average.update(model, 10_000)
    assert float(average.module.weight) == pytest.approx(0.91)  # 0.9 + 0.1 * 0.1


def test_average_is_what_its_definition_says_batch_norm_too():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    average, expected = Average(model, 0.5), {k: v.clone() for k, v in model.state_dict().items()}
    assert list(average.module.state_dict()) == list(expected)  # as checkpoints name them
    for step in (0, 1, 2, 30):
        model(torch.randn(8, 3)).sum().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            moved = value.is_floating_point()
            expected[name] = torch.lerp(expected[name], value, 1 - decay) if moved else value.clone()
        average.update(model, step)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not average.module.training


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

        def example(self, index, rng, tasks=None):
            from mien.types import Example

            return Example(np.full((8, 8, 3), index, np.uint8), {})

    mixture = Mixture([(Numbers(), 2)], (), seed=0, size=(8, 8))
    seen = [int(i[0, 0, 0]) for step in range(6) for i in mixture.batch(step).images]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]
    assert (
        seen[:6] == np.random.default_rng([0, 1, 0, 0]).permutation(6).tolist()
    )  # a run of before resumes with the same pictures


def test_a_broken_source_is_raised_not_hidden():
    class Broken:
        name = "broken"

        def __len__(self) -> int:
            return 1

        def example(self, index, rng, tasks=None):
            raise ValueError("this picture is broken")

    with pytest.raises(ValueError, match="this picture is broken"):
        list(Mixture([(Broken(), 1)], (), seed=0, size=(8, 8)).batches(0, 2))


def test_learn_mode_keeps_frozen_norms_still():
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2))
    model[0].requires_grad_(False)
    training_mode(model)
    assert not model[0].training
    assert model[1].training


def test_a_foreign_or_cut_checkpoint_is_refused(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(BadWeights, match="not a readable safetensors"):
        checkpoint.load(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BadWeights, match="not written by mien"):
        checkpoint.load(tmp_path / "foreign.safetensors")


def test_a_wider_and_deeper_detector_starts_by_answering_like_the_smaller_one():
    grow = load_recipe(Path(__file__).parents[2] / "recipes" / "detector.py").__globals__["grow"]
    torch.manual_seed(0)
    small = detector(stem=8, widths=(8, 12, 16, 16), depths=(1, 1, 1, 1), dim=8).eval()
    large = detector(stem=8, widths=(8, 16, 20, 16), depths=(1, 2, 1, 1), dim=12).eval()
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(large(images)["faces"], small(images)["faces"], atol=1e-3)
    grow(small, large)
    assert torch.allclose(large(images)["faces"], small(images)["faces"], atol=1e-5)


SMALL = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def two_views(steps: int = 4, lr: float = 1e-3, only: int | None = None) -> Recipe:
    """Ages at 64 pixels, normalized as Faceptor's release does, and landmarks at 96, as the model has it;
    nothing labels attributes.
    """
    torch.manual_seed(3)
    model = faceptor_tiny(tasks=(LANDMARKS, AGE, ATTRIBUTES), size=96)
    ages = FaceSource(synthetic.toy(n=8, tasks=("age",)), SMALL, Augment())
    places = FaceSource(synthetic.toy(n=8, tasks=("landmarks",)), model.view, Augment())
    mixtures = [
        Mixture([(ages, 4)], (AGE, ATTRIBUTES), seed=1, view=SMALL),
        Mixture([(places, 3)], model.tasks, seed=2, size=(96, 96)),
    ]
    some = mixtures if only is None else [mixtures[only]]
    return Recipe(
        "two views", model, some, torch.optim.AdamW(model.parameters(), lr=lr), cosine(2), steps, clip=1e9
    )


def gradients(recipe: Recipe) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    losses = train_step(recipe, recipe.criteria_by_task(), [m.batch(0) for m in recipe.mixtures])
    return losses, {n: p.grad for n, p in recipe.model.named_parameters()}


def test_a_step_is_the_sum_of_its_views():
    together, grads = gradients(two_views())
    places, others = gradients(two_views(only=1))
    r = two_views(only=0)
    r.mixture[0].tasks = r.model.tasks
    ages, more = gradients(r)
    assert together["age"] == pytest.approx(ages["age"]) and ages["age"] > 0
    assert together["landmarks"] == pytest.approx(places["landmarks"]) and places["landmarks"] > 0
    assert ages["landmarks"] == places["age"] == together["attributes"] == 0
    for name, grad in grads.items():
        assert torch.allclose(
            grad, others[name] + more[name], rtol=1e-3, atol=1e-3 * float(grad.abs().max()) + 1e-5
        ), name


def test_what_no_view_labels_has_zero_not_missing_gradients():
    _, grads = gradients(two_views())
    assert [n for n, g in grads.items() if g is None] == []
    places, years, answers = grads["query_feat"].split([68, 101, 40])
    assert (answers == 0).all()
    assert (places != 0).any() and (years != 0).any()


def test_each_view_has_its_own_size_and_normalization():
    r, seen = two_views(), []
    r.model.encoder.register_forward_pre_hook(lambda _, images: seen.append(images[0].clone()))
    batches = [m.batch(0) for m in r.mixtures]
    train_step(r, r.criteria_by_task(), batches)
    assert [tuple(s.shape) for s in seen] == [(4, 3, 64, 64), (3, 3, 96, 96)]
    assert torch.allclose(seen[0], torch.from_numpy(SMALL.tensor(batches[0].images)), atol=1e-5)
    assert torch.allclose(seen[1], torch.from_numpy(r.model.view.tensor(batches[1].images)), atol=1e-5)


def test_both_views_learn(tmp_path):
    r = two_views(steps=24, lr=3e-3)
    r.clip, view = 5.0, r.model.view
    fit(r, tmp_path, report=8)
    rows = [json.loads(line)["losses"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["landmarks"] < 0.93 * rows[0]["landmarks"]
    assert rows[-1]["age"] < 0.93 * rows[0]["age"]
    assert checkpoint.load(tmp_path / "model.safetensors").view == view


def test_stop_and_resume_with_two_views(tmp_path):
    fit(two_views(), tmp_path / "whole")
    fit(two_views(), tmp_path / "parts", stop_after=2)
    fit(two_views(), tmp_path / "parts", resume=True)
    last = [checkpoint._read(tmp_path / run / "last.safetensors")[0] for run in ("whole", "parts")]
    assert set(last[0]) == set(last[1])
    assert [n for n in last[0] if not torch.equal(last[0][n], last[1][n])] == []


def test_pictures_of_all_views_count(tmp_path, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    fit(two_views(steps=2), tmp_path, report=2)
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert row["images_per_s"] == 2 * (4 + 3)  # two steps in one tick


def test_threads_of_all_mixtures_end():
    def running() -> int:
        return sum(t.name == "mixture" for t in threading.enumerate())

    before, stream = running(), loop.batches_of(two_views().mixtures, 0, 50)
    assert len(next(stream)) == 2
    assert running() == before + 2
    stream.close()
    assert running() == before


def test_pictures_of_another_size_are_refused():
    source = FaceSource(synthetic.toy(n=2), SMALL, NONE)
    with pytest.raises(UsageError, match="64 x 64 came to a mixture of 96 x 96"):
        Mixture([(source, 1)], (), seed=0, size=(96, 96)).batch(0)
    with pytest.raises(UsageError, match="a size or a view"):
        Mixture([(source, 1)], (), seed=0, size=(96, 96), view=SMALL)
    with pytest.raises(UsageError, match="a size or a view"):
        Mixture([(source, 1)], (), seed=0)


@pytest.mark.parametrize(
    ("weights", "batch", "expected"),
    [
        ([0.5, 0.3, 0.2], 32, [16, 10, 6]),  # 16, 9.6, 6.4
        ([1, 1, 1], 10, [4, 3, 3]),
        ([0.1, 0.1, 0.1], 10, [4, 3, 3]),
        ([0.1, 0.2, 0.7], 10, [1, 2, 7]),
        ([5, 0, 1], 4, [3, 0, 1]),  # 3.33, 0, 0.67
        ([9, 7, 6, 5, 2, 1, 2], 32, [9, 7, 6, 5, 2, 1, 2]),
        ([5_179_510, 182_637, 44_194], 256, [245, 9, 2]),  # 245.256, 8.648, 2.093
    ],
)
def test_shares_are_integers(weights, batch, expected):
    assert shares(weights, batch) == expected
    assert sum(expected) == batch


@pytest.mark.parametrize("weights", [[1, -1], [0, 0], [float("nan"), 1], [float("inf"), 1], []])
def test_shares_of_nothing_are_refused(weights):
    with pytest.raises(UsageError, match="proportions"):
        shares(weights, 8)


def test_a_mixture_by_proportion_is_the_same_mixture():
    sources = [FaceSource(synthetic.toy(n=n), SMALL, Augment()) for n in (5, 6, 7)]
    plain = Mixture([(sources[0], 3), (sources[2], 1)], (AGE,), seed=4, size=SMALL.size)
    shared = Mixture.by_proportion(sources, [0.7, 0, 0.3], 4, (AGE,), seed=4, view=SMALL)
    assert shared.parts == plain.parts and shared.batch_size == 4
    assert np.array_equal(shared.batch(2).images, plain.batch(2).images)
    with pytest.raises(UsageError, match="none falls to: toy"):
        Mixture.by_proportion(sources, [100, 1, 100], 8, (AGE,), seed=4, view=SMALL)


def batch_of_two() -> Batch:
    """By hand: two pictures, of which the second knows less."""
    masks = np.full((2, 32, 32), 3, np.uint8)
    masks[1, :, :16], masks[1, :, 16:] = 5, 255
    masks[0, :2, :4] = 7  # half of the 4 x 4 pixels that the first place of the map stands for
    masks[:, 28:, 28:] = 255  # the last place: nobody labeled it
    attributes, asked = np.zeros((2, 40), np.float32), np.zeros((2, 40), bool)
    attributes[0, :2], asked[0, :2], asked[1, 0] = 1, True, True
    targets = {
        "parsing": masks,
        "points5": np.stack([np.full((5, 2), 0.2, np.float32), np.full((5, 2), 0.8, np.float32)]),
        "expression": np.eye(8, dtype=np.float32)[[1, 6]],
        "attributes": attributes,
        "age": np.array([30.4, 40.0], np.float32),
    }
    points = np.ones((2, 5), bool)
    points[1, 4] = False
    mask = {
        "parsing": np.array([True, True]),
        "points5": points,
        "attributes": asked,
        "age": np.array([True, True]),
    }
    mask["expression"] = np.array([True, False])
    return Batch(np.zeros((2, 32, 32, 3), np.uint8), targets, mask)


def test_mean_answers_by_hand():
    model = ifan_tiny(tasks=(PARSING, POINTS5, EXPRESSION, ATTRIBUTES, AGE), size=32)
    batch = batch_of_two()
    means = model.mean_answers([batch, batch])
    left, right, first, last = (means["parsing"][:, y, x] for y, x in ((4, 0), (4, 7), (0, 0), (7, 7)))
    assert left.nonzero().flatten().tolist() == [3, 5] and left[3] == left[5] == 0.5
    assert right[3] == 1 and right.sum() == 1
    assert [float(first[c]) for c in (3, 5, 7)] == [0.25, 0.5, 0.25]
    assert torch.allclose(last, torch.full((19,), 1 / 19))
    assert torch.allclose(means["points5"], torch.tensor([[0.5, 0.5]] * 4 + [[0.2, 0.2]]))
    assert means["expression"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert means["attributes"][:3].tolist() == pytest.approx([0.5, 1, 1 / 40])  # nobody knows the third
    assert means["age"].nonzero().flatten().tolist() == [30, 40]
    model.set_means(means)
    assert torch.equal(model.first(2)["parsing"][1], means["parsing"])


def test_mean_answers_of_drawn_faces():
    model = ifan_tiny(size=32)
    source = FaceSource(synthetic.toy(n=24), model.view, NONE)
    plain = Mixture([(source, 8)], model.tasks, seed=1, size=model.view.size)
    means = model.mean_answers(plain.batch(i) for i in range(3))
    rng = np.random.default_rng(0)
    labels = [source.example(i, rng).labels for i in range(24)]
    assert np.allclose(means["points5"], np.mean([p["points5"][0] for p in labels], 0), atol=1e-5)
    assert np.allclose(means["expression"], np.mean([p["expression"][0] for p in labels], 0), atol=1e-6)
    assert torch.allclose(means["parsing"].sum(0), torch.ones(8, 8), atol=1e-5)
    assert {k: v.shape for k, v in means.items()} == {k: v.shape[1:] for k, v in model.first(1).items()}
    model.set_means(means)

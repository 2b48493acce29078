"""CosFace: its logits by hand, what it leaves out, that it learns, and that its class weights stay with the
run.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mien.data import synthetic
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, IDENTITY512, task
from mien.tasks.identity import MarginTask
from mien.training import checkpoint
from mien.training.loop import fit, train_step
from mien.training.recipe import Recipe, cosine
from mien.types import Sample


def three(scale: float = 64.0) -> torch.nn.Module:
    """Three classes in two dimensions, of other lengths than 1."""
    criterion = MarginTask(classes=3, d=2, scale=scale).criterion()
    with torch.no_grad():
        criterion.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-0.5, 0.0]]))
    return criterion


class People:
    """Drawn faces of four persons by turns."""

    name = "people"

    def __init__(self, n: int = 8):
        self.faces = synthetic.toy(n=n)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int) -> Sample:
        face = self.faces[i]
        return Sample(face.image, {"identity512": i % 4}, face.points)


def test_logits_by_hand():
    # (3, 4) / 5 = (.6, .8); cosines .6, .8, -.6; the own class loses .4; all times 64
    logits = three().logits(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([0, 2]))
    expected = torch.tensor([[12.8, 51.2, -38.4], [38.4, 51.2, -64.0]])
    assert torch.allclose(logits, expected, atol=1e-4)


def test_loss_by_hand():
    loss = three(scale=1.0)(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), torch.tensor([True]))
    assert float(loss.detach()) == pytest.approx(
        math.log(math.exp(0.2) + math.exp(0.8) + math.exp(-0.6)) - 0.2, abs=1e-5
    )


def test_unknown_rows_change_nothing():
    raw, who = torch.tensor([[3.0, 4.0], [1.0, -2.0]], requires_grad=True), torch.tensor([0, 0])
    criterion = three(scale=4.0)
    both = criterion(raw, who, torch.tensor([True, False]))
    both.backward()
    assert (raw.grad[1] == 0).all() and (raw.grad[0] != 0).any()
    alone = criterion(raw[:1], who[:1], torch.tensor([True]))
    assert float(both.detach()) == float(alone.detach())


def test_nobody_known_is_zero_loss_and_zero_gradients():
    raw, criterion = torch.ones(2, 2, requires_grad=True), three()
    loss = criterion(raw, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert (raw.grad == 0).all()
    assert criterion.weight.grad is not None and (criterion.weight.grad == 0).all()


def test_it_learns_to_keep_people_apart_by_the_margin():
    g = torch.Generator().manual_seed(0)
    who = torch.arange(60) % 3
    pictures = torch.eye(3)[who] + 0.1 * torch.randn(60, 3, generator=g)
    torch.manual_seed(0)
    network, criterion, mask = (
        torch.nn.Linear(3, 2, bias=False),
        MarginTask(classes=3, d=2, scale=16.0).criterion(),
        torch.ones(60, dtype=torch.bool),
    )
    optimizer = torch.optim.Adam([*network.parameters(), *criterion.parameters()], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(network(pictures), who, mask).backward()
        optimizer.step()
    logits = criterion.logits(network(pictures), who)  # with the margin taken off the own class
    assert (logits.argmax(1) == who).all()


def test_a_number_of_a_person_stays_one():
    target, mask = task("identity512").encode_target(70_000, np.eye(2, 3), True, (8, 8))
    blank, unknown = MarginTask(classes=100_000).missing_target((8, 8))
    assert target == 70_000 and mask
    assert np.asarray(target).dtype == np.asarray(blank).dtype == np.int64
    assert np.shape(target) == np.shape(blank) == () and not unknown


def test_a_person_too_many_is_named():
    with pytest.raises(UsageError, match=r"persons 0\.\.2.*says 3"):
        three()(torch.ones(2, 2), torch.tensor([1, 3]), torch.tensor([True, True]))


def recipe(*, given: bool = True, trained: bool = True, tasks: tuple = ()) -> Recipe:
    torch.manual_seed(3)
    margin = MarginTask(classes=4)
    model = faceptor_tiny(tasks=(margin, AGE), size=64)
    criterion = margin.criterion()
    sources = [
        (FaceSource(People(), model.view, Augment()), 3),
        (FaceSource(synthetic.toy(n=5, tasks=("age",)), model.view, Augment()), 3),
    ]
    groups = [{"params": model.parameters(), "lr": 1e-3}] + (
        [{"params": criterion.parameters(), "lr": 1e-2}] if trained else []
    )
    return Recipe(
        "people",
        model,
        Mixture(sources, tasks or model.tasks, seed=1, size=model.view.size),
        torch.optim.AdamW(groups),
        cosine(1),
        3,
        criteria={"identity512": criterion} if given else {},
    )


def test_a_run_with_class_weights_stops_and_goes_on_exactly(tmp_path):
    start = recipe().criteria["identity512"].weight.detach().clone()
    whole, parts = recipe(), [recipe(), recipe()]
    fit(whole, tmp_path / "whole")
    fit(parts[0], tmp_path / "parts", stop_after=1)
    fit(parts[1], tmp_path / "parts", resume=True)
    weights = [r.criteria["identity512"].weight for r in (whole, *parts)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], start)
    last = [checkpoint._read(tmp_path / run / "last.safetensors")[0] for run in ("whole", "parts")]
    assert torch.equal(last[0]["criterion.identity512.weight"], weights[0])
    assert set(last[0]) == set(last[1])
    assert [n for n in last[0] if not torch.equal(last[0][n], last[1][n])] == []


def test_the_gradient_is_clipped_with_the_class_weights():
    r = recipe()
    r.clip = 1e-3
    criteria = r.criteria_by_task()
    norm = train_step(r, criteria, [r.mixtures[0].batch(0)])["norm"]
    learned = [*r.model.parameters(), *criteria["identity512"].parameters()]
    grads = [p.grad for p in learned if p.grad is not None]  # no task here asks the pixel decoder
    assert norm > 1
    assert float(torch.stack([g.square().sum() for g in grads]).sum().sqrt()) == pytest.approx(1e-3, rel=1e-3)


def test_class_weights_are_no_part_of_the_model(tmp_path):
    r = recipe()
    fit(r, tmp_path, stop_after=1)
    again = checkpoint.load(tmp_path / "model.safetensors")
    assert set(again.state_dict()) == set(r.model.state_dict())
    assert again.tasks == (IDENTITY512, AGE)
    assert again(torch.zeros(1, 3, 64, 64))["identity512"].shape == (1, 512)


@pytest.mark.parametrize("given", [True, False])
def test_class_weights_that_nobody_trains_are_refused(given, tmp_path):
    with pytest.raises(UsageError, match="does not train the criterion of identity512"):
        fit(recipe(given=given, trained=not given), tmp_path)  # not given: the task would make another one


def test_criteria_and_mixtures_answer_the_model(tmp_path):
    r = recipe()
    r.criteria = {**r.criteria, "pose": lambda raw, target, mask: raw.sum()}
    with pytest.raises(UsageError, match=r"criteria for pose.*identity512, age"):
        fit(r, tmp_path)
    with pytest.raises(UsageError, match="no mixture has the task age"):
        fit(recipe(tasks=(MarginTask(classes=4),)), tmp_path)

"""Some tasks of a model alone: the same answers, and no other head sees the images."""

from __future__ import annotations

import pytest
import torch

from mien.models.faceptor import faceptor_tiny
from mien.models.naive_faceptor import naive_faceptor_tiny
from mien.tasks import task
from mien.training.loop import losses_of

NAMES = ["age", "expression7@affectnet", "expression7@rafdb", "parsing", "points5", "identity"]
BUILDERS = [faceptor_tiny, naive_faceptor_tiny]


def built(builder):
    torch.manual_seed(4)
    return builder(tasks=[task(n) for n in NAMES], size=64)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize(
    "names", [["age"], ["identity"], ["points5", "parsing"], ["expression7@rafdb", "identity", "points5"]]
)
def test_some_tasks_answer_as_among_all(builder, names):
    model, images = built(builder).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        every, some = model(images), model.forward_tasks(images, names)
    assert list(some) == [n for n in NAMES if n in names]
    for name, value in some.items():
        torch.testing.assert_close(value, every[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_view_does_not_reach_the_batch_norms_of_the_other_views_heads(builder):
    """The official groups: the identity head's running statistics follow the small view only."""
    model = built(builder).train()
    criteria = {t.name: t.criterion() for t in model.tasks}
    heads = {
        k: v.clone()
        for k, v in model.state_dict().items()
        if "running" in k and not k.startswith(("encoder.", "dense."))
    }
    assert heads
    images = torch.randn(2, 3, 64, 64)
    targets = {"points5": torch.full((2, 5, 2), 0.5), "parsing": torch.zeros(2, 64, 64, dtype=torch.uint8)}
    mask = {"points5": torch.ones(2, 5, dtype=torch.bool), "parsing": torch.ones(2, dtype=torch.bool)}
    losses = losses_of(model, criteria, images, targets, mask)
    assert set(losses) == {"points5", "parsing"}
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in heads.items())
    torch.stack(list(losses.values())).sum().backward()
    assert all(
        p.grad is None
        for n, p in model.named_parameters()
        if n.startswith(("identity.", "feature.", "value."))
    )
    assert any(
        p.grad is not None and bool(p.grad.any())
        for n, p in model.named_parameters()
        if n.startswith("encoder.")
    )
    identity = {"identity": torch.nn.functional.normalize(torch.randn(2, model.tasks[-1].shape.d), dim=1)}
    before = {k: v for k, v in heads.items() if k.startswith(("identity.", "feature."))}
    losses_of(model, criteria, images, identity, {"identity": torch.ones(2, dtype=torch.bool)})
    assert before and all(not torch.equal(v, model.state_dict()[k]) for k, v in before.items())

"""The embedded network's own ways: heads that see labeled pictures only, tasks that do not touch each other,
its view.
"""

from __future__ import annotations

import pytest
import torch

from mien.errors import UsageError
from mien.models.mien import distance, mien_tiny
from mien.tasks import (
    AGE,
    ATTRIBUTES,
    DEFAULT_TASKS,
    EXPRESSION,
    FACES,
    IDENTITY,
    LANDMARKS,
    PARSING,
    POINTS5,
)

torch.manual_seed(0)
BY_NAME = {t.name: t for t in DEFAULT_TASKS}
TASKS = (LANDMARKS, PARSING, AGE, ATTRIBUTES, IDENTITY)


def labels(model, images, which: dict[str, list[bool]]):
    """Targets and known: a task that `which` does not name is known nowhere."""
    n = len(images)
    targets, mask = {}, {}
    for t in model.tasks:
        target, told = t.missing_target(model.view.size)
        targets[t.name] = torch.as_tensor(target).expand(n, *torch.as_tensor(target).shape).clone()
        flags = torch.tensor(which.get(t.name, [False] * n))
        mask[t.name] = (
            flags.reshape(n, *[1] * torch.as_tensor(told).ndim)
            .expand(n, *torch.as_tensor(told).shape)
            .clone()
        )
    if "parsing" in which:
        targets["parsing"][:] = 1
    return targets, mask


@pytest.fixture(scope="module")
def model():
    return mien_tiny(
        tasks=TASKS, size=64
    ).eval()  # batch norms by their statistics: then a picture's answer is its own


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 64, 64)


def test_the_size_that_its_page_tells():
    with torch.device("meta"):
        assert sum(p.numel() for p in mien_tiny(finer=16, own=192).parameters()) == 6_153_801
        assert sum(p.numel() for p in mien_tiny(finer=16).parameters()) == 4_324_425
        assert sum(p.numel() for p in mien_tiny().parameters()) == 4_311_126


WHICH = {
    "parsing": [True, False, True, False],
    "age": [False, True, True, False],
    "identity": [True, True, False, False],
}


def test_losses_are_those_of_the_entire_batch(model, images):
    targets, mask = labels(model, images, WHICH)
    criteria = {t.name: t.criterion() for t in model.tasks}
    with torch.no_grad():
        told, raw = model.learn(images, targets, mask, criteria), model(images)
    assert list(told) == [t.name for t in TASKS]
    for t in TASKS:
        whole = criteria[t.name](raw[t.name], targets[t.name], mask[t.name])
        assert torch.allclose(told[t.name], whole, atol=1e-5), t.name
    assert {n for n, v in told.items() if float(v) != 0} == set(WHICH)


def test_a_head_sees_the_pictures_that_label_its_tasks(model, images):
    seen = {}
    hooks = [
        m.register_forward_hook(
            lambda m, given, out, name=name: seen.__setitem__(
                name, len(given[0][0] if isinstance(given[0], list) else given[0])
            )
        )
        for name, m in (("dense", model.dense), ("values", model.values), ("who", model.who["identity"]))
    ]
    targets, mask = labels(model, images, {**WHICH, "age": [False, True, True, True]})
    with torch.no_grad():
        model.learn(images, targets, mask, {t.name: t.criterion() for t in model.tasks})
    for hook in hooks:
        hook.remove()
    assert seen == {"dense": 2, "values": 3, "who": 2}


def test_a_head_that_stands_still_sees_one_picture_where_nothing_is_labeled(images):
    model, seen = mien_tiny(tasks=TASKS, size=64, own=16), []
    model.requires_grad_(False)
    model.own.requires_grad_(True)
    model.eval()
    for part in (model.summary, model.dense.pyramid.laterals[0], model.own["identity"].eighth):
        part.register_forward_hook(lambda m, given, out: seen.append(len(out)))
    targets, mask = labels(model, images, {"identity": [True, True, True, False]})
    losses = model.learn(images, targets, mask, {t.name: t.criterion() for t in model.tasks})
    assert seen == [1, 1, 3]
    assert {n for n, v in losses.items() if float(v.detach()) != 0} == {"identity"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.own.parameters())


def test_one_labeled_picture_does_not_stop_a_batch_norm(images):
    model = mien_tiny(tasks=TASKS, size=64).train()
    targets, mask = labels(model, images, {"identity": [True, False, False, False]})
    losses = model.learn(images, targets, mask, {t.name: t.criterion() for t in model.tasks})
    assert torch.isfinite(torch.stack(list(losses.values()))).all()


def test_a_task_of_values_answers_the_same_alone_and_among_others(images):
    both, alone = (
        mien_tiny(tasks=(AGE, EXPRESSION, ATTRIBUTES), size=64).eval(),
        mien_tiny(tasks=(EXPRESSION,), size=64).eval(),
    )
    mine = dict(both.state_dict())
    place = both.values.split(torch.arange(sum(both.values.queries.values()))[None])["expression"][0]
    for name in ("values.content", "values.place"):
        mine[name] = mine[name][place]
    alone.load_state_dict({k: mine[k] for k in alone.state_dict()})
    with torch.no_grad():
        assert torch.allclose(both(images)["expression"], alone(images)["expression"], atol=1e-4)


def test_queries_are_numbers_of_a_task_or_eight_where_it_has_many(model):
    assert model.values.queries == {"age": 8, "attributes": 40}
    assert mien_tiny(tasks=(EXPRESSION,), size=64).values.queries == {"expression": 8}


def test_attention_of_values_sums_to_one_over_its_grids(model, images):
    with torch.no_grad():
        seen = model.attention(images)
    tokens = sum(h * w for h, w in model.grids(images))
    assert {k: tuple(v.shape) for k, v in seen.items()} == {"attributes": (4, 40, 4, tokens)}, (
        "ages share eight queries"
    )
    assert all(torch.allclose(v.sum(-1), torch.ones(()), atol=1e-5) for v in seen.values())
    assert mien_tiny(tasks=(PARSING,), size=64).attention(images) == {}


@pytest.mark.parametrize("tasks", [(LANDMARKS,), (POINTS5, PARSING), (AGE,), (IDENTITY,)])
def test_a_network_of_some_tasks_has_no_other_heads(tasks, images):
    model = mien_tiny(tasks=tasks, size=64).eval()
    with torch.no_grad():
        assert list(model(images)) == [t.name for t in tasks]
    assert (model.dense is None) == (tasks[0] not in (LANDMARKS, POINTS5))
    assert (model.values is None) == (tasks != (AGE,))


def test_an_unknown_kind_of_question_is_named():
    with pytest.raises(UsageError, match="no head for: faces"):
        mien_tiny(tasks=(FACES, *DEFAULT_TASKS), size=64)


def test_a_finer_look_at_masks_begins_with_the_answers_of_the_network_it_is_added_to(images):
    plain, finer = mien_tiny(tasks=TASKS, size=64).eval(), mien_tiny(tasks=TASKS, size=64, finer=8).eval()
    left = finer.load_state_dict(plain.state_dict(), strict=False)
    assert left.missing_keys and all(k.startswith("dense.finer.") for k in left.missing_keys)
    with torch.no_grad():
        before, after = plain(images), finer(images)
        assert after["parsing"].shape == (4, 19, 32, 32), "half the crop's side, not a quarter"
        enlarged = torch.nn.functional.interpolate(
            before["parsing"], (32, 32), mode="bilinear", align_corners=False
        )
        assert torch.allclose(after["parsing"], enlarged, atol=1e-5)
        assert all(torch.equal(before[t.name], after[t.name]) for t in TASKS if t is not PARSING)
        assert finer.grids(images) == plain.grids(images)
        assert torch.equal(finer.attention(images)["attributes"], plain.attention(images)["attributes"])
        torch.nn.init.normal_(finer.dense.finer.out.weight)
        assert not torch.allclose(finer(images)["parsing"], enlarged, atol=1e-2)


def test_stages_of_identitys_own_change_nobody_elses_answers(images):
    plain, own = mien_tiny(tasks=TASKS, size=64).eval(), mien_tiny(tasks=TASKS, size=64, own=16).eval()
    theirs, fresh = plain.state_dict(), own.state_dict()
    kept = {k: v for k, v in theirs.items() if v.shape == fresh[k].shape}
    assert {k for k in fresh if k not in kept} == {k for k in fresh if k.startswith("own.")} | {
        "who.identity.widen.0.weight"
    }
    own.load_state_dict(kept, strict=False)
    with torch.no_grad():
        before, after = plain(images), own(images)
        assert all(torch.equal(before[t.name], after[t.name]) == (t is not IDENTITY) for t in TASKS)
        earlier = [m.clone() for m in own.encoder(images)[-3:]]
        for i in range(3):  # it looks at all three maps
            other = [m + (i == j) for j, m in enumerate(earlier)]
            assert not torch.allclose(own.own["identity"](other), own.own["identity"](earlier), atol=1e-3)


def test_a_network_without_masks_has_nothing_to_make_finer(images):
    model = mien_tiny(tasks=(POINTS5, AGE), size=64, finer=8).eval()
    assert model.dense.finer is None
    with torch.no_grad():
        assert model(images)["points5"].shape == (4, 5, 16, 16)


def test_distance_is_lowest_at_the_same_answers_and_counts_only_what_has_no_label():
    torch.manual_seed(3)
    for name, shape in (
        ("age", (4, 101)), ("expression", (4, 8)), ("attributes", (4, 40)), ("landmarks", (4, 68, 8, 8)),
        ("parsing", (4, 19, 8, 8)), ("identity", (4, 128)),
    ):  # fmt: skip
        of, goal = BY_NAME[name], torch.randn(shape)
        other = torch.randn(shape)
        assert distance(of, goal, goal) < distance(of, other, goal), name
        mixed = torch.cat([goal[:2], other[2:]])
        free = torch.tensor([True, True, False, False])
        assert torch.allclose(distance(of, mixed, goal, free), distance(of, goal[:2], goal[:2])), name
        assert float(distance(of, other, goal, torch.zeros(4, dtype=torch.bool))) == 0.0
        raw = goal.clone().requires_grad_()
        distance(of, raw, goal).backward()
        assert raw.grad is not None and float(raw.grad.abs().max()) < 1e-6, f"{name}: no pull at the goal"
    known = torch.zeros(4, 40, dtype=torch.bool)
    known[:, 3] = True  # one attribute has no label
    of, goal = ATTRIBUTES, torch.randn(4, 40)
    told = goal.clone()
    told[:, :3] += 5
    assert torch.allclose(distance(of, told, goal, known), distance(of, goal, goal, known))

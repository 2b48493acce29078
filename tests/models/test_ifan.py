"""iFAN against its record: the channel ladder, the counts, the feedback, the paths, hybrid training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mien.errors import UsageError
from mien.models.backbones.fc_densenet import TaskNorm
from mien.models.ifan import IFAN, draw_disks, ifan, ifan_tiny, plug_in
from mien.tasks import AGE, ATTRIBUTES, EULER, EXPRESSION, POINTS5
from mien.training.recipe import adamw

NAMES = ["parsing", "points5", "expression"]
LADDERS = {
    True: {"first": 24, "down": [153, 140, 267, 387, 491], "up": [232, 655, 551, 431, 304], "final": 317},
    False: {"first": 17, "down": [146, 140, 260, 380, 484], "up": [232, 648, 544, 424, 304], "final": 310},
}
COUNTS = {True: (3_786_340, 3_870_919, 18_260), False: (3_741_960, 3_826_392, 18_204)}
HEADS = {
    True: {"helen9": 2853, "points5": 314_250, "emotion7": 25_991},
    False: {"helen9": 2790, "points5": 309_770},
}


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(
        p.numel() for m in module.modules() if isinstance(m, kind) for p in m.parameters(recurse=False)
    )


def tiny(**arguments) -> IFAN:
    torch.manual_seed(0)
    return ifan_tiny(**{"size": 32, **arguments})


def batch(model: IFAN, b: int = 3, mask: tuple[str, ...] = ()):
    g, side = torch.Generator().manual_seed(1), model.sizes.side
    targets = {
        "parsing": torch.randint(0, 19, (b, side, side), generator=g),
        "points5": torch.rand(b, 5, 2, generator=g),
        "expression": torch.eye(8)[torch.randint(0, 8, (b,), generator=g)],
    }
    seen = {n: torch.full((b,), n in mask) for n in targets}
    return (
        torch.randn(b, 3, side, side, generator=g),
        targets,
        seen,
        {t.name: t.criterion() for t in model.tasks},
    )


@pytest.mark.parametrize("emotion", [True, False])
def test_the_ladder_of_the_paper(emotion):
    with torch.device("meta"):
        net = ifan(emotion=emotion)
        seen: dict[str, list] = {"down": [], "blocks": [], "up": [], "ups": [], "skips": []}
        for m in net.trunk.downs:
            m.register_forward_hook(lambda _, x, y: seen["down"].append((x[0].shape[1:3], y.shape[1:3])))
        for m in net.trunk.ups:
            m.register_forward_hook(lambda _, x, y: seen["up"].append(x[0].shape[1:3]))
        for m in net.trunk.up_blocks:
            m.register_forward_hook(lambda _, x, y: seen["ups"].append(y.shape[1:3]))
        answers = net.eval().lap(torch.zeros(2, 3, 128, 128), net.first(2), ["helen9"], False)
    want = LADDERS[emotion]
    assert (net.trunk.first.in_channels, net.trunk.first.out_channels) == (want["first"], 48)
    outs = list(zip([52, 88, 124, 160, 196], [64, 32, 16, 8, 4], strict=True))
    assert [tuple(a) for a, _ in seen["down"]] == list(zip(want["down"], [128, 64, 32, 16, 8], strict=True))
    assert [tuple(b) for _, b in seen["down"]] == outs
    assert [tuple(s) for s in seen["up"]] == list(zip(want["up"], [4, 8, 16, 32, 64], strict=True))
    assert [tuple(s) for s in seen["ups"]] == list(
        zip([520, 448, 376, 304, 296], [8, 16, 32, 64, 128], strict=True)
    )
    skips = [b.convs[0].in_channels - 128 for b in net.trunk.up_blocks]
    assert skips == [356, 284, 212, 140, 132]
    assert net.trunk.bottom_width == 232
    assert net.trunk.final == net.heads["helen9"].out.in_channels == want["final"]
    assert answers["helen9"].shape == (2, 9, 128, 128)


@pytest.mark.parametrize("emotion", [True, False])
def test_the_counts_of_the_paper(emotion):
    with torch.device("meta"):
        net = ifan(emotion=emotion)
    trunk, both, norms = COUNTS[emotion]
    assert count(net.trunk, nn.Conv2d) == trunk
    assert count(net.trunk, nn.Conv2d) + count(net.encoders, nn.Conv2d) == both
    paths = [m.norms for m in net.trunk.modules() if isinstance(m, TaskNorm)]
    for name in HEADS[emotion]:
        assert sum(count(p[name], nn.BatchNorm2d) for p in paths) == norms
    assert {n: sum(p.numel() for p in h.parameters()) for n, h in net.heads.items()} == HEADS[emotion]
    assert (count(net.encoders, nn.BatchNorm2d) > 0) is (not emotion)


def test_the_view_is_the_caffe_one():
    with torch.device("meta"):
        view = ifan().view
    pixels = np.full((1, 128, 128, 3), 200, np.uint8)
    assert np.allclose(view.tensor(pixels)[0, :, 0, 0], 200 - np.array([123.68, 116.779, 103.939]), atol=1e-3)


def test_feedback_starts_from_the_means_and_takes_three_laps(monkeypatch):
    with torch.device("meta"):
        full = ifan()
        assert [m.shape for m in full.maps(full.first(2)).values()] == [(2, c, 128, 128) for c in (9, 5, 7)]
        assert full.laps == 3
    net = tiny().eval()
    means = {"points5": torch.rand(5, 2), "expression": torch.arange(8) / 28}
    net.set_means(means)
    states, lap = [], net.lap
    monkeypatch.setattr(net, "lap", lambda x, state, *more: states.append(state) or lap(x, state, *more))
    with torch.no_grad():
        answers = net(torch.randn(2, 3, 32, 32))
    assert len(states) == 3
    assert all(torch.equal(states[0][n][1], m) for n, m in means.items())
    assert not torch.equal(states[1]["points5"], states[0]["points5"])
    assert list(answers) == NAMES
    with pytest.raises(UsageError, match="mean of points5"):
        net.set_means({"points5": torch.rand(4, 2)})


def test_disks():
    p = torch.tensor([[[0.5, 0.25], [0.0, 0.0]]], requires_grad=True)
    disks = draw_disks(p, 128)
    assert disks[0, 0].sum() == 69
    assert set(disks.unique().tolist()) == {0.0, 1.0}
    assert disks[0, 0, 32, 64] == 1 and disks[0, 0, 32, 68] == 1 and disks[0, 0, 32, 69] == 0
    assert disks[0, 1].sum() == 22  # a quarter is left in the corner, axes included
    assert not disks.requires_grad
    soft = draw_disks(p, 128, "gauss")
    soft[0, 0, 30, 60].backward()
    assert p.grad is not None and p.grad[0, 0].abs().min() > 0


def test_points_are_the_papers_numbers_plus_a_half():
    net = tiny()
    head = net.heads["points5"]
    nn.init.zeros_(head.out.weight)
    v = torch.linspace(-0.5, 0.5, 10)
    head.out.bias.data.copy_(v)
    raw = net.eval()(torch.zeros(1, 3, 32, 32))["points5"][0]
    assert torch.allclose(raw[:, 0] * 128, (v[:5] + 0.5) * 128)
    assert torch.allclose(raw[:, 1] * 128, (v[5:] + 0.5) * 128)
    assert torch.allclose(raw * 128 / 128 - 0.5, v.view(2, 5).T)


def test_paths_share_convolutions_and_swapping_norms_swaps_answers():
    net = tiny().eval()
    norms = [m.norms for m in net.trunk.modules() if isinstance(m, TaskNorm)]
    for i, n in enumerate(norms):
        n["points5"].running_mean.fill_(0.1 * (i + 1))
    convs = {k: v.clone() for k, v in net.trunk.named_parameters() if ".norms." not in k}
    x, state = torch.randn(1, 3, 32, 32), net.first(1)
    with torch.no_grad():
        before = net.lap(x, state, NAMES, False)
        for n in norms:
            n["parsing"], n["points5"] = n["points5"], n["parsing"]
        after = net.lap(x, state, NAMES, False)
    assert torch.equal(before["expression"], after["expression"])
    assert not torch.allclose(before["parsing"], after["parsing"])
    assert all(torch.equal(v, net.trunk.get_parameter(k)) for k, v in convs.items())
    assert sum(isinstance(m, nn.Conv2d) for m in tiny().trunk.modules()) == sum(
        isinstance(m, nn.Conv2d) for m in tiny(tasks=(POINTS5,)).trunk.modules()
    )


@pytest.mark.parametrize("own", NAMES)
def test_a_step_for_one_task_leaves_the_others_alone(own):
    net = tiny().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    losses = net.learn(*batch(net, mask=(own,)))
    assert {n for n, v in losses.items() if float(v.detach()) != 0} == {own}
    sum(losses.values()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []
    torch.optim.SGD(net.parameters(), 0.1).step()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    theirs = [
        k for k in before for n in NAMES if n != own and (f"norms.{n}." in k or k.startswith(f"heads.{n}."))
    ]
    assert not changed & set(theirs)
    assert {"trunk.first.weight", f"trunk.bottom.norms.0.norms.{own}.running_mean"} <= changed
    assert any(k.startswith(f"heads.{own}.") for k in changed)
    assert all(f"encoders.{n}.convs.0.weight" in changed for n in NAMES)


def test_learning_looks_at_known_rows_only_and_sums_over_laps():
    net = tiny().train()
    x, targets, mask, criteria = batch(net, mask=("points5",))
    mask["points5"][1] = False
    calls = []
    criteria["points5"] = lambda raw, target, seen: calls.append(len(raw)) or raw.new_ones(()) + 0 * raw.sum()
    losses = net.learn(x, targets, mask, criteria)
    assert calls == [2, 2, 2]
    assert float(losses["points5"].detach()) == pytest.approx(3.0)
    nothing = net.learn(x, targets, {}, criteria)
    assert all(float(v.detach()) == 0 for v in nothing.values())


def test_laps_add_no_parameters():
    a, b = (sum(p.numel() for p in tiny(laps=n).parameters()) for n in (1, 4))
    assert a == b


def test_fed_back_parsing_changes_the_points():
    net = tiny().eval()
    x, state = torch.randn(1, 3, 32, 32), net.first(1)
    other = {**state, "parsing": torch.rand_like(state["parsing"]).softmax(1) * 5}
    with torch.no_grad():
        a, b = (net.lap(x, s, ["points5"], False)["points5"] for s in (state, other))
    assert (a - b).abs().max() > 1e-4


def test_shared_norms_answer_all_tasks_in_one_pass(monkeypatch):
    net = tiny(norms="shared").train()
    runs, forward = [], net.trunk.forward
    monkeypatch.setattr(net.trunk, "forward", lambda *a: runs.append(1) or forward(*a))
    net(torch.randn(2, 3, 32, 32))
    assert len(runs) == net.laps


@pytest.mark.parametrize("build", [tiny, lambda: tiny(disks="gauss", norms="shared")])
def test_plug_in_keeps_everything(build):
    net = build().eval()
    more = plug_in(net, AGE)
    assert more.builder[1]["tasks"] == [*NAMES, "age"]
    new = more.state_dict()
    for k, v in net.state_dict().items():
        part = tuple(slice(n) for n in v.shape)
        assert torch.equal(new[k][part], v), k
        if v.ndim > 1 and new[k].shape != v.shape:
            assert new[k][:, v.shape[1] :].abs().max() == 0, k
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        a, b = net(x), more(x)
    assert b["age"].shape == (2, 101) and b["age"].isfinite().all()
    assert all(torch.allclose(a[n], b[n], atol=1e-4) for n in NAMES)
    with pytest.raises(UsageError, match="already"):
        plug_in(more, AGE)


def test_what_it_refuses():
    with pytest.raises(UsageError, match="multiple of 16"):
        ifan_tiny(size=100)
    with pytest.raises(UsageError, match="disks"):
        tiny(disks="square")
    with torch.device("meta"):
        assert [t.name for t in plug_in(ifan(emotion=False), EXPRESSION).tasks] == [
            "helen9",
            "points5",
            "expression",
        ]


def test_dense_heads_begin_at_the_mean_answers():
    net = tiny(tasks=(POINTS5, EXPRESSION, ATTRIBUTES, EULER))
    g = torch.Generator().manual_seed(3)
    means = {"points5": torch.rand(5, 2, generator=g), "expression": torch.rand(8, generator=g).softmax(0)}
    net.set_means(
        {**means, "attributes": torch.rand(40, generator=g), "euler": 30 * torch.randn(3, generator=g)}
    )
    net.begin_at_means()
    answers = net.eval().feedback(net(torch.randn(2, 3, 32, 32, generator=g)))
    for t in net.tasks:
        torch.testing.assert_close(
            answers[t.name], net.get_buffer(f"mean_{t.name}").expand_as(answers[t.name]), atol=1e-4, rtol=0
        )


def test_dense_heads_learn_slower_the_more_they_read():
    net = tiny()
    wide, narrow = net.heads["points5"].out, net.heads["expression"].out
    assert net.rates() == {
        "heads.points5.": 50 / wide.in_features,
        "heads.expression.": min(1.0, 50 / narrow.in_features),
    }
    optimizer = adamw(net, 1e-3, rates=net.rates())
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(net.parameters())), "every weight is in one group"
    assert rate[id(wide.weight)] == rate[id(wide.bias)] == pytest.approx(1e-3 * 50 / wide.in_features)
    assert rate[id(net.trunk.first.weight)] == rate[id(net.heads["parsing"].out.weight)] == 1e-3

"""Learning rates of parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from mien.training.recipe import adamw


def test_a_relative_rate_follows_the_size_of_the_weights() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        for layer, size in zip(model, (0.25, 0.01, 0.0), strict=True):
            layer.weight.fill_(size)
            layer.bias.fill_(4.0)
    rates = {
        id(p): group["lr"]
        for group in adamw(model, 1e-3, relative=True).param_groups
        for p in group["params"]
    }
    assert rates[id(model[0].weight)] == 1e-3 / 4
    assert 1e-3 / 128 <= rates[id(model[1].weight)] <= 1e-3 / 64
    assert rates[id(model[2].weight)] == 1e-3 / 512  # weights of zero learn too
    assert rates[id(model[0].bias)] == 1e-3 / 8
    assert {g["lr"] for g in adamw(model, 1e-3).param_groups} == {1e-3}

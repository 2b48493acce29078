"""iFAN's details of the official Keras graph: padding, shared norms, initial values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mien.models.backbones.fc_densenet import Path, Sizes
from mien.models.ifan import ReEncoder, ifan, ifan_tiny
from mien.tasks.base import Points


@pytest.mark.parametrize(("emotion", "parameters"), [(True, 4_268_793), (False, 4_175_904)])
def test_the_official_counts(emotion: bool, parameters: int):
    """The two-task net has one set of re-encoder norms for both paths: 544 parameters fewer than with a set
    each.
    """
    with torch.device("meta"):
        assert sum(p.numel() for p in ifan(emotion=emotion).parameters()) == parameters


def test_the_strided_convolution_pads_as_tensorflow_does():
    """SAME at stride 2 and an even side: 1 before, 2 after. Cell (0, 0) sees pixels -1 .. 3 of each axis."""
    encoder = ReEncoder(Points(1), Sizes(official=True), ["a"])
    seen = []
    encoder.convs[0].register_forward_hook(lambda _, x, y: seen.append(y))
    image = torch.zeros(1, 1, 128, 128)
    image[0, 0, 3, 3] = 1.0
    with torch.no_grad():
        encoder(image, Path("a", False))
    (first,) = seen
    assert first.shape == (1, 24, 64, 64)
    torch.testing.assert_close(first[0, :, 0, 0], encoder.convs[0].weight[:, 0, 4, 4].detach())
    torch.testing.assert_close(first[0, :, 1, 1], encoder.convs[0].weight[:, 0, 2, 2].detach())
    last = torch.zeros(1, 1, 128, 128)
    last[0, 0, 127, 127] = 1.0
    with torch.no_grad():
        encoder(last, Path("a", False))
    torch.testing.assert_close(seen[1][0, :, 63, 63], encoder.convs[0].weight[:, 0, 2, 2].detach())


def test_small_networks_pad_as_before():
    encoder = ReEncoder(Points(1), Sizes(), ["a"])
    x = torch.randn(1, 1, 128, 128)
    with torch.no_grad():
        first = F.max_pool2d(F.relu(F.conv2d(x, encoder.convs[0].weight, stride=2, padding=2)), 2)
        torch.testing.assert_close(encoder(x, Path("a", False))[0], first)
    assert not ifan_tiny(size=32).sizes.official


def test_initial_values_and_momentum_are_kerass():
    torch.manual_seed(0)
    net = ifan()

    def bound(module, fans: float) -> float:
        assert module.bias is None or not module.bias.any()
        return float(module.weight.detach().abs().max()) / math.sqrt(6 / fans)

    up, head = net.trunk.ups[0].conv, net.heads["helen9"].out
    assert bound(up, 9 * (up.in_channels + up.out_channels)) == pytest.approx(1, abs=0.02)
    assert bound(head, head.in_channels + head.out_channels) == pytest.approx(1, abs=0.02)
    points = net.heads["points5"].out
    assert bound(points, points.in_features + points.out_features) == pytest.approx(1, abs=0.02)
    first = net.trunk.first  # He uniform: 6 over what is read
    assert bound(first, 49 * first.in_channels) == pytest.approx(1, abs=0.02)
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}
    assert {m.momentum for m in ifan_tiny(size=32).modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}

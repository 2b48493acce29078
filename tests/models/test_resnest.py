"""ResNeSt-50 against the published count, keys and shapes; split attention against itself by hand."""

from __future__ import annotations

import pytest
import torch

from mien.models.backbones.resnest import Block, ResNeSt50, SplitAttention


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def net():
    with torch.device("meta"):
        return ResNeSt50().eval()


def test_the_published_size(net):
    assert count(net) + 2048 * 1000 + 1000 == 27_483_240
    with torch.device("meta"):
        assert count(ResNeSt50(pool_first=True)) == count(net)


def test_the_published_keys(net):
    keys = set(net.state_dict())
    assert {
        "conv1.0.weight", "conv1.1.running_mean", "conv1.3.weight", "conv1.6.weight", "bn1.weight",
        "layer1.0.downsample.1.weight",
        "layer1.0.downsample.2.bias", "layer2.3.conv2.conv.weight", "layer3.5.conv2.bn0.weight",
        "layer4.2.conv2.fc1.bias",
        "layer4.2.conv2.bn1.running_var", "layer4.2.conv2.fc2.weight", "layer4.2.bn3.bias",
    } < keys  # fmt: skip
    assert {k.split(".")[0] for k in keys} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert [len(s) for s in (net.layer1, net.layer2, net.layer3, net.layer4)] == [3, 4, 6, 3]
    assert [net.conv1[i].out_channels for i in (0, 3, 6)] == [32, 32, 64]


@pytest.mark.parametrize(
    ("side", "sides"), [(224, (56, 28, 14, 7)), (227, (57, 29, 15, 8)), (112, (28, 14, 7, 4))]
)
def test_the_pyramid(net, side, sides):
    with torch.device("meta"):
        shapes = [tuple(m.shape) for m in net(torch.empty(2, 3, side, side))]
    assert shapes == [(2, c, s, s) for c, s in zip(ResNeSt50.channels, sides, strict=True)]


def test_only_pools_make_maps_smaller(net):
    strided = [n for n, m in net.named_modules() if isinstance(m, torch.nn.Conv2d) and m.stride != (1, 1)]
    assert strided == ["conv1.0"]
    assert isinstance(net.layer2[0].after, torch.nn.AvgPool2d) and isinstance(
        net.layer2[0].before, torch.nn.Identity
    )
    assert isinstance(net.layer2[1].after, torch.nn.Identity)
    with torch.device("meta"):
        fast = ResNeSt50(pool_first=True)
    assert isinstance(fast.layer4[0].before, torch.nn.AvgPool2d) and isinstance(
        fast.layer4[0].after, torch.nn.Identity
    )


def test_the_shortcut_averages():
    torch.manual_seed(0)
    block = Block(8, 16, 2).eval()
    torch.nn.init.zeros_(block.bn3.weight)  # the residual is silent
    torch.nn.init.ones_(block.downsample[1].weight)
    x = torch.rand(1, 8, 5, 5)
    y = block(x)
    assert y.shape == (1, 16, 3, 3)
    assert torch.allclose(y[0, :, 0, 0], x[0, :, :2, :2].mean((1, 2)).sum().expand(16), atol=1e-4)
    assert torch.allclose(
        y[0, :, 2, 2], x[0, :, 4, 4].sum().expand(16), atol=1e-4
    )  # a border cell counts real pixels only


def test_split_attention_weighs_its_two_branches():
    torch.manual_seed(0)
    split, x = SplitAttention(8).eval(), torch.randn(2, 8, 6, 6)
    branches = torch.relu(split.bn0(split.conv(x)))
    first, second = branches[:, :8], branches[:, 8:]
    w = split.weights(torch.stack([first, second], 1))
    assert w.shape == (2, 2, 8)
    assert torch.allclose(w.sum(1), torch.ones(2, 8)) and float(w.detach().std()) > 0
    assert torch.allclose(
        split(x), first * w[:, 0, :, None, None] + second * w[:, 1, :, None, None], atol=1e-6
    )
    torch.nn.init.zeros_(split.fc2.weight)
    torch.nn.init.zeros_(split.fc2.bias)
    split.fc2.bias.data[:8] = 100.0  # the first branch wins everywhere
    assert torch.allclose(split(x), first, atol=1e-6)
    assert split.conv.groups == 2 and split.fc1.out_channels == 32

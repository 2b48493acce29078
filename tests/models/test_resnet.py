"""A published ResNet-50 state dict: its keys listed by hand, where they go, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.errors import BadWeights
from mien.models.backbones.resnet import ResNet50

STAGES = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))  # width, channels out, blocks


def published(counted: bool = True) -> dict[str, Tensor]:
    """320 tensors with `num_batches_tracked`, 267 without, as in the oldest files."""
    torch.manual_seed(2)
    state: dict[str, Tensor] = {}

    def conv(key: str, out: int, c: int, kernel: int) -> None:
        state[f"{key}.weight"] = torch.randn(out, c, kernel, kernel) * (2 / (c * kernel * kernel)) ** 0.5

    def bn(key: str, n: int) -> None:
        state[f"{key}.weight"], state[f"{key}.bias"] = torch.rand(n) * 0.5 + 0.5, torch.randn(n) * 0.1
        state[f"{key}.running_mean"], state[f"{key}.running_var"] = torch.randn(n) * 0.1, torch.rand(n) + 0.5
        if counted:
            state[f"{key}.num_batches_tracked"] = torch.tensor(1000 + len(state))

    conv("conv1", 64, 3, 7)
    bn("bn1", 64)
    c = 64
    for s, (width, out, blocks) in enumerate(STAGES, 1):
        for b in range(blocks):
            at = f"layer{s}.{b}"
            for i, (o, n, kernel) in enumerate(((width, c, 1), (width, width, 3), (out, width, 1)), 1):
                conv(f"{at}.conv{i}", o, n, kernel)
                bn(f"{at}.bn{i}", o)
            if b == 0:
                conv(f"{at}.downsample.0", out, c, 1)
                bn(f"{at}.downsample.1", out)
            c = out
    state |= {"fc.weight": torch.randn(1000, 2048) * 0.02, "fc.bias": torch.zeros(1000)}
    return state


def reference(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The published net by functions: stride 2 on the 3x3 and the shortcut of the first block of stages 2 to
    4.
    """

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        w = state[f"{conv}.weight"]
        x = F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)
        mean, var, weight, bias = (
            state[f"{bn}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.max_pool2d(F.relu(conv_bn(x, "conv1", "bn1", 2)), 3, 2, 1)
    maps = []
    for s, (_, _, blocks) in enumerate(STAGES, 1):
        for b in range(blocks):
            at, stride = f"layer{s}.{b}", 2 if s > 1 and b == 0 else 1
            y = F.relu(conv_bn(x, f"{at}.conv1", f"{at}.bn1"))
            y = F.relu(conv_bn(y, f"{at}.conv2", f"{at}.bn2", stride))
            y = conv_bn(y, f"{at}.conv3", f"{at}.bn3")
            x = F.relu(y + (x if b else conv_bn(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)))
        maps.append(x)
    return maps


@pytest.fixture(scope="module")
def file() -> dict[str, Tensor]:
    return published()


def test_a_published_file_loads_completely_and_computes_the_published_net(file):
    assert len(file) == 320
    net = ResNet50().eval()
    assert net.load_imagenet(file) is net
    ours = net.state_dict()
    assert ours.keys() == file.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(v, file[k]) for k, v in ours.items())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(net(images), reference(file, images), strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_old_files_do_not_count_batches(file):
    old = {k: v for k, v in file.items() if not k.endswith("num_batches_tracked")}
    assert len(old) == 267
    net = ResNet50().load_imagenet(old)
    assert torch.equal(net.layer4[2].bn3.running_var, file["layer4.2.bn3.running_var"])
    assert int(net.bn1.num_batches_tracked) == 0
    assert net.bn1.num_batches_tracked.dtype == torch.long


def test_missing_unknown_and_misshapen_tensors_are_named_and_nothing_is_half_loaded(file):
    net = ResNet50()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(BadWeights, match=r"1 missing: layer3\.5\.bn3\.running_mean"):
        net.load_imagenet({k: v for k, v in file.items() if k != "layer3.5.bn3.running_mean"})
    with pytest.raises(BadWeights, match=r"1 unknown: layer3\.6\.conv1\.weight"):
        net.load_imagenet(file | {"layer3.6.conv1.weight": torch.zeros(1)})
    with pytest.raises(BadWeights, match=r"2 unknown: fc\.weight, fc\.bias"):
        net.load_imagenet(file, leave=())
    with pytest.raises(BadWeights, match=r"conv1\.weight \(64, 3, 3, 3\) for \(64, 3, 7, 7\)"):
        net.load_imagenet(file | {"conv1.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(BadWeights, match=r"265 missing: conv1\.weight, .*, \.\.\."):
        net.load_imagenet({})
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_block_that_another_module_replaces_is_left_out_by_name(file):
    net = ResNet50((3, 4, 6, 2))
    with pytest.raises(BadWeights, match=r"18 unknown: layer4\.2\.conv1\.weight"):
        net.load_imagenet(file)
    net.load_imagenet(file, leave=("fc.", "layer4.2."))
    assert torch.equal(net.layer4[1].conv3.weight, file["layer4.1.conv3.weight"])

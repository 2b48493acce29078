"""ResNeSt-50 without its classifier (Zhang et al.

2020, arXiv 2004.08955). Same contract as `encoders`; published keys.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mien.models.backbones.resnet import FourStages


class SplitAttention(nn.Module):
    """A 3x3 convolution in `radix` branches, weighed against each other channel by channel: (B, C, H, W) ->
    the same shape.

    Cardinality 1. The branches' sum, pooled, goes through two 1x1 convolutions; a softmax over the branches
    gives the weights.

    Args:
        reduction: C * radix / reduction is the inner width, 32 at least.
    """

    def __init__(self, channels: int, *, radix: int = 2, reduction: int = 4):
        super().__init__()
        self.radix = radix
        inner = max(channels * radix // reduction, 32)
        self.conv, self.bn0 = (
            nn.Conv2d(channels, channels * radix, 3, 1, 1, groups=radix, bias=False),
            nn.BatchNorm2d(channels * radix),
        )
        self.fc1, self.bn1 = nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, channels * radix, 1)

    def weights(self, branches: Tensor) -> Tensor:
        """(B, radix, C, H, W) -> (B, radix, C); the sum over radix is 1."""
        pooled = branches.sum(1).mean((2, 3), keepdim=True)
        scores = self.fc2(F.relu(self.bn1(self.fc1(pooled))))
        return scores.unflatten(1, (self.radix, -1)).flatten(2).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        branches = F.relu(self.bn0(self.conv(x))).unflatten(1, (self.radix, -1))
        return (branches * self.weights(branches)[..., None, None]).sum(1)


class Block(nn.Module):
    """1x1 down, split attention, 1x1 up, plus the input: (B, c_in, H, W) -> (B, c_out, H/stride, W/stride),
    rounded up.

    No convolution has a stride: average pools halve the maps, one in the shortcut, one next to the split
    attention.

    Args:
        pool_first: that pool stands before the split attention (the published "fast" nets) instead of after
            it.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, *, pool_first: bool = False):
        super().__init__()
        width = c_out // 4
        self.conv1, self.bn1 = nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = SplitAttention(width)
        self.conv3, self.bn3 = nn.Conv2d(width, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        pool: nn.Module = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.before: nn.Module = pool if pool_first else nn.Identity()
        self.after: nn.Module = nn.Identity() if pool_first else pool
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            shrink = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(
                shrink, nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.after(self.conv2(self.before(y)))))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class ResNeSt50(FourStages):
    """forward: (B, 3, H, W) with ImageNet normalization -> maps at strides 4, 8, 16, 32 with 256, 512, 1024,
    2048 channels.
    """

    def __init__(self, *, pool_first: bool = False):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 1, 1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(64)

        def stage(c_in: int, c_out: int, n: int, stride: int) -> nn.Sequential:
            rest = (Block(c_out, c_out) for _ in range(n - 1))
            return nn.Sequential(Block(c_in, c_out, stride, pool_first=pool_first), *rest)

        self.layer1, self.layer2 = stage(64, 256, 3, 1), stage(256, 512, 4, 2)
        self.layer3, self.layer4 = stage(512, 1024, 6, 2), stage(1024, 2048, 3, 2)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(
                    m.weight, 0.0, (2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)) ** 0.5
                )

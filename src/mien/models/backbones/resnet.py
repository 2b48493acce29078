"""ResNet-50 without its classifier (He et al.

2015; stride on the 3x3, as torchvision has it). Same contract as `encoders`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadWeights


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, plus the input: (B, c_in, H, W) -> (B, c_out, H/stride, W/stride). Keys as
    torchvision's.

    Args:
        width: channels inside (ResNet: c_out / 4).
    """

    def __init__(self, c_in: int, width: int, c_out: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def residual(self, x: Tensor) -> Tensor:
        """The three convolutions alone, without the input and the last ReLU."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu((x if self.downsample is None else self.downsample(x)) + self.residual(x))


class FourStages(nn.Module):
    """The walk of a ResNet and its kin: stem, pooling, four stages; a map is handed out after each."""

    channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    conv1: nn.Module
    bn1: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


class ResNet50(FourStages):
    """forward: (B, 3, H, W) with ImageNet normalization -> maps at strides 4, 8, 16, 32 with 256, 512, 1024,
    2048 channels.

    Args:
        blocks: bottlenecks a stage; fewer where another module takes a block's place.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 4, 6, 3)):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = self._stage(64, 256, blocks[0], 1)
        self.layer2 = self._stage(256, 512, blocks[1], 2)
        self.layer3 = self._stage(512, 1024, blocks[2], 2)
        self.layer4 = self._stage(1024, 2048, blocks[3], 2)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(c_in: int, c_out: int, n: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(Bottleneck(c_out if i else c_in, c_out // 4, c_out, 1 if i else stride) for i in range(n))
        )

    def load_imagenet(self, state: Mapping[str, Tensor], *, leave: tuple[str, ...] = ("fc.",)) -> ResNet50:
        """Fill from a published ResNet-50 state dict: conv1, bn1, layer1.0.conv1 ... layer4.2.bn3, fc.

        `num_batches_tracked` may be missing: older files have none, and nothing here reads it.

        Args:
            leave: prefixes of keys that are not wanted. With the last block of `layer4` taken out (as in
                FAR-AMTN, whose `split.block` takes its weights) also "layer4.2.".

        Raises:
            BadWeights: tensors are missing, unknown or of another shape, the first few are named; the net is
                then unchanged.
        """
        ours = self.state_dict()
        loaded = {k: v for k, v in state.items() if not k.startswith(leave)}
        problems = {
            "missing": [k for k in ours if k not in loaded and not k.endswith(".num_batches_tracked")],
            "unknown": [k for k in loaded if k not in ours],
            "of another shape (file for model)": [
                f"{k} {tuple(loaded[k].shape)} for {tuple(v.shape)}"
                for k, v in ours.items()
                if k in loaded and loaded[k].shape != v.shape
            ],
        }
        messages = [
            f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' * (len(keys) > 5)}"
            for what, keys in problems.items()
            if keys
        ]
        if messages:
            raise BadWeights(
                f"this is not a ResNet-50 for this network. {'; '.join(messages)}. Name blocks of the"
                " file that the network lacks in `leave`"
            )
        self.load_state_dict({k: loaded.get(k, v.new_zeros(())) for k, v in ours.items()})
        return self

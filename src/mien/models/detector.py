"""A small face detector: anchor-free, three strides, one pass over the entire photo. Under 0.4 M parameters.

The form follows YuNet (Wu et al. 2023) and YOLOX (Ge et al. 2021): depthwise-separable blocks, a small
pyramid, and for each cell one score, one box and five points. `mien.tasks.detection` defines the 15 numbers
of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.models.backbones.efficientnet_lite import conv_bn
from mien.tasks import FACES
from mien.types import View

# one mean and one standard deviation for all channels, so that a photo is normalized in a single pass
VIEW = View(size=(320, 320), template="photo", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


conv = partial(conv_bn, act=nn.ReLU, eps=1e-5, momentum=0.1)


class Separable(nn.Module):
    """Depthwise kernel x kernel, then pointwise, then ReLU; with a shortcut before the ReLU where the shape
    stays.

    The order matters for speed: a sum right after a convolution is folded into it by the runtime.
    """

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.short = cin == cout and stride == 1
        self.space = conv(cin, cin, kernel, stride, groups=cin, act=None)
        self.mix = conv(cin, cout, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.space(x))
        return F.relu(x + y if self.short else y)


class FaceDetector(nn.Module):
    """forward: (B, 3, H, W), normalized, H and W multiples of 32 -> {"faces": (B, cells, 15)}.

    Cells are in row-major order, stride 8 first, then 16, then 32. The first map (stride 2) has few channels:
    at a photo's full size it decides the speed.

    Args:
        stem, widths: channels at strides 2 and 4, 8, 16, 32.
        depths: blocks at strides 4, 8, 16, 32.
        dim: channels of the pyramid.
        head: blocks in the head of each stride.
    """

    tasks = (FACES,)
    view = VIEW
    builder: tuple[str, dict[str, object]] = ("", {})

    def __init__(self, *, stem: int, widths: Sequence[int], depths: Sequence[int], dim: int, head: int):
        super().__init__()
        self.stem = conv(3, stem, 3, 2)
        stages, cin = [], stem
        for level, (c, depth) in enumerate(zip(widths, depths, strict=True)):
            kernel = 5 if level >= 2 else 3  # coarse maps are cheap, and large faces need a larger field
            down = Separable(cin, c, 3, 2)
            stages.append(nn.Sequential(down, *(Separable(c, c, kernel) for _ in range(depth))))
            cin = c
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(conv(c, dim, act=None) for c in widths[1:])
        self.smooth = nn.ModuleList(Separable(dim, dim) for _ in widths[1:-1])
        self.heads = nn.ModuleList()
        for _ in widths[1:]:
            last = nn.Conv2d(dim, 15, 1)
            nn.init.normal_(last.weight, std=0.01)
            # faces are rare: scores start at 0.01; boxes start at about four strides, the middle of the range
            last.bias = nn.Parameter(torch.tensor([-4.6, 0, 0, 1.4, 1.4, *[0.0] * 10]))
            self.heads.append(nn.Sequential(*(Separable(dim, dim) for _ in range(head)), last))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pyramid = [lateral(m) for lateral, m in zip(self.laterals, maps[1:], strict=True)]
        for i in reversed(range(len(self.smooth))):
            pyramid[i] = self.smooth[i](
                pyramid[i] + F.interpolate(pyramid[i + 1], scale_factor=2.0, mode="nearest")
            )
        rows = [out(m).flatten(2).transpose(1, 2) for out, m in zip(self.heads, pyramid, strict=True)]
        return {"faces": torch.cat(rows, 1)}


def detector(
    *,
    stem: int = 16,
    widths: Sequence[int] = (32, 64, 96, 160),
    depths: Sequence[int] = (1, 3, 4, 3),
    dim: int = 64,
    head: int = 1,
) -> FaceDetector:
    """The detector of the default weights; see `FaceDetector` for the arguments."""
    arguments = {"stem": stem, "widths": list(widths), "depths": list(depths), "dim": dim, "head": head}
    model = FaceDetector(stem=stem, widths=widths, depths=depths, dim=dim, head=head)
    model.builder = ("detector", arguments)
    return model

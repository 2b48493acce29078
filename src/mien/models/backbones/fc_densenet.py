"""FC-DenseNet with injected maps: the trunk of iFAN (Li et al., ACM MM 2017), after Jegou et al. 2017.

Convolutions are shared by all tasks; every task has its own path through them by its own batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARED = "shared"


@dataclass(frozen=True)
class Sizes:
    """Widths and depths; the defaults are the paper's network.

    Attributes:
        side: of the crop.
        stride: of the first convolution (7x7, `first` channels).
        growth, layers: of a dense block.
        levels: dense blocks on the way down, without the bottleneck.
        start: where the counter of transition widths starts; the official code starts at 16, though `first`
            is 48.
        up: width inside a transition-up.
        codes: widths of the re-encoders, at strides 4, 8 and 16 of the crop.
        coded_norm: batch norm in the re-encoders (official: in the 2-task net only).
        dropout: before dense heads.
        official: details of the official Keras graph. The strided 5x5 convolution pads 1 before and 2 after,
            as TensorFlow does; norms of re-encoders are one set for all paths; transition-ups and heads start
            by Glorot; running statistics move by 1 %. Ours: without it, padding 2 and 2, norms a path, He for
            all convolutions, 10 %; small networks were trained so.
    """

    side: int = 128
    stride: int = 1
    growth: int = 12
    layers: int = 3
    levels: int = 5
    first: int = 48
    start: int = 16
    up: int = 128
    codes: tuple[int, ...] = (24, 48, 64)
    coded_norm: bool = False
    dropout: float = 0.3
    official: bool = False

    @property
    def injected(self) -> dict[int, int]:
        """Level -> index of the re-encoded map of that size; level 0 gets the raw maps instead."""
        strides = {self.stride * 2**i: i for i in range(1, self.levels)}
        return {strides[4 * 2**k]: k for k in range(len(self.codes)) if 4 * 2**k in strides}


@dataclass(frozen=True)
class Path:
    """Which batch norms a pass uses, and whether it learns (batch statistics, dropout) or evaluates."""

    name: str
    learn: bool


class TaskNorm(nn.Module):
    """One BatchNorm2d a path, or one for all.

    A path that does not learn uses its running statistics, also while the model trains.
    """

    def __init__(self, channels: int, paths: Sequence[str]):
        super().__init__()
        self.norms = nn.ModuleDict({p: nn.BatchNorm2d(channels, eps=1e-3) for p in paths})

    def forward(self, x: Tensor, path: Path) -> Tensor:
        norm: Any = self.norms[path.name if path.name in self.norms else SHARED]
        if path.learn:
            return norm(x)
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )


class Dense(nn.Module):
    """Layers of BN, ReLU, conv 3x3; each reads all before it: c -> c + layers * growth channels."""

    def __init__(self, c: int, sizes: Sizes, paths: Sequence[str]):
        super().__init__()
        widths = [c + i * sizes.growth for i in range(sizes.layers)]
        self.norms = nn.ModuleList(TaskNorm(w, paths) for w in widths)
        self.convs = nn.ModuleList(nn.Conv2d(w, sizes.growth, 3, padding=1, bias=False) for w in widths)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x, path)))], 1)
        return x


class Down(nn.Module):
    """Transition-down: BN, ReLU, conv 1x1, average-pool 2."""

    def __init__(self, c: int, out: int, paths: Sequence[str]):
        super().__init__()
        self.norm, self.conv = TaskNorm(c, paths), nn.Conv2d(c, out, 1, bias=False)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x, path))), 2)


class Up(nn.Module):
    """Transition-up: conv 3x3, ReLU, sub-pixel x2, conv 3x3, ReLU; it has no batch norm."""

    def __init__(self, c: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(c, width, 3, padding=1, bias=False)
        self.fine = nn.Conv2d(width // 4, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fine(F.pixel_shuffle(F.relu(self.conv(x)), 2)))


class Trunk(nn.Module):
    """FC-DenseNet with injections.

    forward: images (B, 3, s, s), raw maps (B, raw, s, s), re-encoded maps finest first -> "last" (level
    `levels - 1` after injection), "bottom" (bottleneck), "final" (finest map with the raw maps).

    Args:
        raw: feedback channels in all.
        coded: re-encoded channels in all, by stage.
    """

    def __init__(self, sizes: Sizes, raw: int, coded: Sequence[int], paths: Sequence[str]):
        super().__init__()
        self.sizes = sizes
        grown = sizes.layers * sizes.growth
        extra = [
            raw,
            *[coded[sizes.injected[i]] if i in sizes.injected else 0 for i in range(1, sizes.levels)],
        ]
        self.first = nn.Conv2d(3 + raw, sizes.first, 7, sizes.stride, 3, bias=False)
        self.blocks, self.downs = nn.ModuleList(), nn.ModuleList()
        c, skips = sizes.first, []
        for i in range(sizes.levels):
            self.blocks.append(Dense(c, sizes, paths))
            skips.append(2 * c + grown)  # a block's input is in its output already, and is joined once more
            c = sizes.start + (i + 1) * grown
            self.downs.append(Down(skips[-1] + extra[i], c, paths))
        self.bottom = Dense(c, sizes, paths)
        self.ups, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        self.last, self.bottom_width, c = skips[-1] + extra[-1], c + grown, c + grown
        for i in reversed(range(sizes.levels)):
            self.ups.append(Up(c, sizes.up))
            self.up_blocks.append(Dense(sizes.up + skips[i], sizes, paths))
            c = sizes.up + skips[i] + grown + extra[i]
        self.final = c

    def forward(self, images: Tensor, raw: Tensor, coded: Sequence[Tensor], path: Path) -> dict[str, Tensor]:
        sizes = self.sizes
        # Ours: a strided first convolution leaves level 0 smaller than the picture; the raw maps are averaged
        # down to it
        inject = {0: F.avg_pool2d(raw, sizes.stride) if sizes.stride > 1 else raw}
        inject |= {level: coded[k] for level, k in sizes.injected.items()}

        def joined(x: Tensor, level: int) -> Tensor:
            return torch.cat([x, inject[level]], 1) if level in inject else x

        x, skips = self.first(torch.cat([images, raw], 1)), []
        for i, (block, down) in enumerate(zip(self.blocks, self.downs, strict=True)):
            skips.append(torch.cat([block(x, path), x], 1))
            last = joined(skips[-1], i)
            x = down(last, path)
        bottom = x = self.bottom(x, path)
        for i, up, block in zip(reversed(range(sizes.levels)), self.ups, self.up_blocks, strict=True):
            x = joined(block(torch.cat([up(x), skips[i]], 1), path), i)
        return {"last": last, "bottom": bottom, "final": x}

"""Task-adaptive Q-Face (Sun et al., 2024, arXiv 2405.09059): label queries read a fused memory of several
encoder stages.

Known from the paper: taps at several depths of a large pre-trained encoder, their fusion into one token
memory, learnable label queries, cross-attention, and all tasks in one pass. No official code is public: every
other choice here is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.efficientnet_lite import EfficientNetLite, efficientnet_lite
from mien.models.backbones.vit import VisionTransformer
from mien.models.decoders import Attention, sine_positions
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, EXPRESSION7, UNITS12, Task, Vector
from mien.types import View

FUSIONS = ("concat", "sum", "gated", "tokens")


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map (B, C, H, W) on the (h, w) of the memory: cells are averaged where it is finer, interpolated
    elsewhere.
    """
    h, w = x.shape[-2:]
    if (h, w) == grid:
        return x
    if h % grid[0] == 0 and w % grid[1] == 0:
        return F.avg_pool2d(x, (h // grid[0], w // grid[1]))
    return F.interpolate(x, grid, mode="bilinear", align_corners=False)


class Fusion(nn.Module):
    """Maps of several stages -> one memory of tokens (B, N, dim). Each stage has its own LN and Linear.

    Args:
        channels: of the stages.
        width: of a stage's tokens before they meet.
        dim: of the memory.
        kind: "concat" on channels, "sum", "gated" (a sum, each stage times a learned scalar that starts at
            1), or "tokens": stages side by side as tokens, N = stages * h * w, so that a query can choose
            stages too.
    """

    def __init__(self, channels: Sequence[int], *, width: int, dim: int, kind: str):
        super().__init__()
        if kind not in FUSIONS:
            raise UsageError(f"no fusion {kind!r}; there are: {', '.join(FUSIONS)}")
        self.kind = kind
        self.stages = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, width)) for c in channels)
        self.gate = nn.Parameter(torch.ones(len(channels))) if kind == "gated" else None
        self.end = nn.Sequential(
            nn.Linear(width * len(channels) if kind == "concat" else width, dim), nn.GELU()
        )

    def forward(self, maps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        x = [s(to_grid(m, grid).flatten(2).transpose(1, 2)) for s, m in zip(self.stages, maps, strict=True)]
        if self.gate is not None:
            x = [g * t for g, t in zip(self.gate, x, strict=True)]
        if self.kind == "concat":
            return self.end(torch.cat(x, -1))
        return self.end(torch.cat(x, 1) if self.kind == "tokens" else torch.stack(x).sum(0))


class ReadableAttention(Attention):
    """Attention in two steps, which hands out its weights: what is shown is what was used."""

    def remember(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, d) twice -> projected, (B, heads, N, d / heads) twice; once for all tasks."""
        return self.split(self.k(key)), self.split(self.v(value))

    def read(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, d) and what `remember` gave -> answers (B, Q, d), weights (B, heads, Q, N)."""
        q = self.split(self.q(query))
        weights = (q @ key.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2)), weights


class LabelLayer(nn.Module):
    """[Self-attention among one task's queries], cross-attention, feed-forward.

    Args:
        self_attention: whether the first part is there.
        pre_norm: x + part(LN x); otherwise LN(x + part(x)).
    """

    def __init__(self, dim: int, heads: int, ffn: int, *, self_attention: bool, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_ = Attention(dim, heads) if self_attention else None
        self.self_norm = nn.LayerNorm(dim) if self_attention else None
        self.cross, self.cross_norm = ReadableAttention(dim, heads), nn.LayerNorm(dim)
        self.ffn, self.ffn_norm = (
            nn.Sequential(nn.Linear(dim, ffn), nn.GELU(), nn.Linear(ffn, dim)),
            nn.LayerNorm(dim),
        )

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.self_ is not None and self.self_norm is not None:
            y = self.self_norm(x) if self.pre_norm else x
            x = self.add(x, self.self_(y, y, y), self.self_norm)
        y, weights = self.cross.read(self.cross_norm(x) if self.pre_norm else x, key, value)
        x = self.add(x, y, self.cross_norm)
        return self.add(x, self.ffn(self.ffn_norm(x) if self.pre_norm else x), self.ffn_norm), weights

    def add(self, x: Tensor, y: Tensor, norm: nn.Module) -> Tensor:
        return x + y if self.pre_norm else norm(x + y)


class LabelQueries(nn.Module):
    """One task's own parameters: a query per label, and a Linear(d -> 1) per label to read it with
    (Query2Label).
    """

    def __init__(self, n: int, dim: int):
        super().__init__()
        self.query = nn.Parameter(torch.randn(n, dim))
        self.weight = nn.Parameter(torch.randn(n, dim) * dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, d) -> logits (B, n)."""
        return (x * self.weight).sum(-1) + self.bias


class QFace(nn.Module):
    """See the module's text. forward: (B, 3, H, W) -> task name -> (B, n), for all tasks, from one run of the
    encoder.

    Tasks share the memory and the decoder's layers but never see each other's queries, and each is run by
    itself: adding or removing one leaves the others' answers equal to the bit.

    Args:
        encoder: images -> maps.
        tasks: predicted tasks, each a Vector.
        view: how faces are shown.
        taps: 0-based indices of the encoder's maps to fuse.
        stride: pixels between tokens of the memory.
        fusion, width, dim: see `Fusion`.
        heads, layers, ffn, self_attention, pre_norm: of the decoder, see `LabelLayer`.
        positions: add sine positions to the keys; a ViT's tokens carry theirs already, a convolutional map's
            do not.
    """

    builder: tuple[str, dict[str, object]]

    # Ours: every default. The paper's public text names none of them.
    def __init__(
        self,
        encoder: VisionTransformer | EfficientNetLite,
        tasks: Sequence[Task[Any]],
        view: View,
        *,
        taps: Sequence[int],
        stride: int = 16,
        fusion: str = "concat",
        width: int = 768,
        dim: int = 256,
        heads: int = 8,
        layers: int = 4,
        ffn: int = 1024,
        self_attention: bool = True,
        pre_norm: bool = True,
        positions: bool = False,
    ):
        super().__init__()
        self.encoder, self.tasks, self.view = encoder, tuple(tasks), view
        self.taps, self.stride, self.positions = tuple(taps), stride, positions
        counts = {t.name: t.shape.n for t in tasks if isinstance(t.shape, Vector)}
        if unknown := [t.name for t in tasks if t.name not in counts]:
            raise UsageError(
                f"Q-Face answers with numbers only; it has no read-out for: {', '.join(unknown)}"
            )
        self.fusion = Fusion([encoder.channels[i] for i in self.taps], width=width, dim=dim, kind=fusion)
        self.labels = nn.ModuleDict({name: LabelQueries(n, dim) for name, n in counts.items()})
        self.layers = nn.ModuleList(
            LabelLayer(dim, heads, ffn, self_attention=self_attention, pre_norm=pre_norm)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(h, w) of the memory for these images."""
        h, w = images.shape[-2:]
        if h % self.stride or w % self.stride:
            raise UsageError(f"sides {(h, w)} are no multiples of {self.stride}; resize the crop")
        return h // self.stride, w // self.stride

    def memory(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, N, dim), N = h * w, or stages * h * w when fused as tokens."""
        grid, maps = self.grid(images), self.encoder(images)
        value = self.fusion([maps[i] for i in self.taps], grid)
        if not self.positions:
            return value, value
        place = sine_positions(*grid, value.shape[-1]).to(value)
        return value + place.repeat(value.shape[1] // place.shape[0], 1), value

    def decode(self, key: Tensor, value: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What `memory` gave -> by task: logits (B, n), and the last layer's weights (B, n, heads, N)."""
        layers = cast(list[LabelLayer], list(self.layers))
        projected = [layer.cross.remember(key, value) for layer in layers]
        answers, weights = {}, {}
        for task in self.tasks:
            labels = cast(LabelQueries, self.labels[task.name])
            x = labels.query.expand(value.shape[0], -1, -1)
            for layer, (k, v) in zip(layers, projected, strict=True):
                x, seen = layer(x, k, v)
            answers[task.name], weights[task.name] = labels(self.norm(x)), seen.transpose(1, 2)
        return answers, weights

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.decode(*self.memory(images))[0]

    def attention(self, images: Tensor) -> dict[str, Tensor]:
        """Task name -> (B, n, heads, N): attention of each query in the last layer; sums to 1 over N."""
        return self.decode(*self.memory(images))[1]

    def grids(self, images: Tensor) -> tuple[tuple[int, int], ...]:
        """(h, w) of each part of the memory for these images: one, or one a stage when fused as tokens."""
        return (self.grid(images),) * (len(self.taps) if self.fusion.kind == "tokens" else 1)


BASE_TASKS: tuple[Task[Any], ...] = (EXPRESSION7, UNITS12, ATTRIBUTES, AGE)
TINY_TASKS: tuple[Task[Any], ...] = (EXPRESSION, ATTRIBUTES, AGE)


def qface_base(
    *,
    tasks: Sequence[Task[Any]] = BASE_TASKS,
    size: int = 224,
    fusion: str = "concat",
    drop_path: float = 0.0,
) -> QFace:
    """Q-Face on ViT-B/16, taps after blocks 3, 6, 9 and 12. Fill the encoder with
    `vit.load_clip(model.encoder, ...)`.

    Ours: head pose is left out by default; `tasks` may have EULER, or any task with a Vector, for three
    queries more.

    Args:
        size: side of the crop in pixels, a multiple of 16.
    """
    # Ours: FaRL's grid, as the crop of 224 needs no interpolation then.
    encoder = VisionTransformer(grid=14, drop_path=drop_path)
    view = View((size, size), "head", encoder.mean, encoder.std)
    model = QFace(encoder, tasks, view, taps=(2, 5, 8, 11), fusion=fusion)
    model.builder = (
        "qface_base",
        {"tasks": [t.name for t in tasks], "size": size, "fusion": fusion, "drop_path": drop_path},
    )
    return model


def qface_tiny(
    *,
    tasks: Sequence[Task[Any]] = TINY_TASKS,
    size: int = 112,
    imagenet: bool = False,
    fusion: str = "concat",
    taps: Sequence[int] = (0, 1, 2, 3),
) -> QFace:
    """Q-Face on EfficientNet-Lite0: what 2 CPU cores train in an hour or two.

    Ours: a convolutional encoder whose four levels are the stages, resized to the grid of stride 16;
    positions on the keys; 2 decoder layers of width 128.

    Args:
        size: side of the crop in pixels, a multiple of 16.
        imagenet: start the encoder from ImageNet weights.
        taps: of the encoder's four levels; (3,) is the last one alone, without fusion of levels.
    """
    encoder, view = efficientnet_lite(size, imagenet)
    model = QFace(
        encoder,
        tasks,
        view,
        taps=taps,
        fusion=fusion,
        width=128,
        dim=128,
        heads=4,
        layers=2,
        ffn=256,
        positions=True,
    )
    model.builder = (
        "qface_tiny",
        {"tasks": [t.name for t in tasks], "size": size, "fusion": fusion, "taps": list(taps)},
    )
    return model

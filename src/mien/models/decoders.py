"""Modules that several systems share: positions, the query decoder, the pooled head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError


def sine_positions(h: int, w: int, dim: int, temperature: float = 10000.0) -> Tensor:
    """(h * w, dim) sine/cosine positions of cell centers: the first half for y, the second for x,
    interleaved.
    """

    def axis(n: int) -> Tensor:
        place = (torch.arange(1, n + 1, dtype=torch.float32) - 0.5) / n * 2 * math.pi
        rate = temperature ** (2 * torch.div(torch.arange(dim // 2), 2, rounding_mode="floor") / (dim // 2))
        angle = place[:, None] / rate
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    y, x = axis(h), axis(w)
    return torch.cat([y[:, None].expand(h, w, -1), x[None].expand(h, w, -1)], -1).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention from queries (B, Q, d) to keys and values (B, N, d), with an optional additive
    mask (Q, N).
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, heads, N, d / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.split(self.q(query)), self.split(self.k(key)), self.split(self.v(value))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """The attention weights of `forward` without a mask, (B, heads, Q, N).

        Slower than `forward`; for display, not for training.
        """
        q, k = self.split(self.q(query)), self.split(self.k(key))
        return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


class QueryLayer(nn.Module):
    """Cross-attention, self-attention, feed-forward; post-norm: x = LN(x + part(x)), as in Mask2Former and
    Faceptor.
    """

    def __init__(self, dim: int, heads: int, ffn: int):
        super().__init__()
        self.cross, self.self_ = Attention(dim, heads), Attention(dim, heads)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.ReLU(), nn.Linear(ffn, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, place: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norms[0](x + self.cross(x + place, key, value))
        x = self.norms[1](x + self.self_(x + place, x + place, x, mask))
        return self.norms[2](x + self.ffn(x))


class QueryDecoder(nn.Module):
    """Queries read a memory of tokens, layer by layer. Positions are added to keys and queries, never to
    values.

    Args:
        channels: of each memory level; every level has its own 1x1 projection and a level embedding on its
            keys (Faceptor's Layer-Attention when there are several).
        norm: a LayerNorm after each projection. A convolutional encoder's maps have any scale, and large keys
            make every head attend to one token.
    """

    def __init__(
        self, channels: tuple[int, ...], *, dim: int, heads: int, layers: int, ffn: int, norm: bool = False
    ):
        super().__init__()
        self.dim = dim
        convolutions = [nn.Conv2d(c, dim, 1) for c in channels]
        self.project = nn.ModuleList(nn.Sequential(c, LayerNorm2d(dim)) if norm else c for c in convolutions)
        # one parameter per level, so that a second stage can train only the new ones
        self.level = nn.ParameterList(torch.randn(dim) * dim**-0.5 for _ in channels)
        self.adapt = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.layers = nn.ModuleList(QueryLayer(dim, heads, ffn) for _ in range(layers))

    @torch.no_grad()
    def init_official(self) -> None:
        """Set the official code's initial values of level embeddings, projections and attention biases.

        Small networks keep torch's, with level embeddings of std 1 / sqrt(dim), since their shipped weights
        were trained from those.
        """
        for embedding in self.level:
            nn.init.normal_(embedding)
        for part in self.project.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_uniform_(part.weight, a=1)
                nn.init.zeros_(cast(Tensor, part.bias))
        for part in self.layers.modules():
            if isinstance(part, Attention):
                for linear in (part.q, part.k, part.v, part.out):
                    nn.init.zeros_(linear.bias)

    def memory(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the used levels, projected: each (B, dim, h, w)."""
        return [p(m) for p, m in zip(self.project, maps, strict=True)]

    def tokens(self, memory: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values (B, N, dim): the levels one after another, each row by row."""
        value = torch.cat([m.flatten(2).transpose(1, 2) for m in memory], 1)
        positions = [
            self.adapt(sine_positions(m.shape[-2], m.shape[-1], self.dim).to(m)) + e
            for m, e in zip(memory, self.level, strict=True)
        ]
        return value + torch.cat(positions), value

    def forward(self, content: Tensor, place: Tensor, memory: list[Tensor], mask: Tensor | None) -> Tensor:
        """content, place: (Q, dim); memory from `memory`; mask: (Q, Q) additive -> (B, Q, dim)."""
        key, value = self.tokens(memory)
        x = content.expand(value.shape[0], -1, -1)
        for layer in self.layers:
            x = layer(x, place, key, value, mask)
        return x

    def attention(self, content: Tensor, place: Tensor, memory: list[Tensor], mask: Tensor | None) -> Tensor:
        """As `forward` -> (B, Q, heads, N): attention weights of the last layer, which sum to 1 over N."""
        key, value = self.tokens(memory)
        x = content.expand(value.shape[0], -1, -1)
        *before, last = cast(list[QueryLayer], list(self.layers))
        for layer in before:
            x = layer(x, place, key, value, mask)
        return last.cross.weights(x + place, key).transpose(1, 2)


def lay_out(attention: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Weights over tokens (..., heads, N) -> a map (..., h, w) on the finest grid, with the same sum.

    Heads are averaged and levels added; a coarser cell's weight is shared evenly by the cells that it covers.

    Args:
        grids: (h, w) of each level of the memory, in the order in which their tokens stand.

    Raises:
        UsageError: the tokens are not those of the grids, or a grid does not divide the finest.
    """
    seen, sizes = attention.mean(-2), [h * w for h, w in grids]
    if seen.shape[-1] != sum(sizes):
        raise UsageError(f"{seen.shape[-1]} tokens do not lie on a grid of {', '.join(map(str, grids))}")
    height, width = max(grids)
    total = seen.new_zeros(*seen.shape[:-1], height, width)
    for part, (h, w) in zip(seen.split(sizes, -1), grids, strict=True):
        if height % h or width % w:
            raise UsageError(f"a grid of {(h, w)} does not divide the finest, {(height, width)}")
        down, across = height // h, width // w
        fine = part.unflatten(-1, (h, w)).repeat_interleave(down, -2).repeat_interleave(across, -1)
        total = total + fine / (down * across)
    return total


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EmbeddingHead(nn.Module):
    """Map -> LN -> mean over places -> Linear, BN, Linear, BN (Faceptor's and Naive Faceptor's feature
    read-out).
    """

    def __init__(self, channels: int, hidden: int, d: int):
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.head = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.BatchNorm1d(hidden, eps=2e-5),
            nn.Linear(hidden, d, bias=False),
            nn.BatchNorm1d(d, eps=2e-5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean((2, 3)))

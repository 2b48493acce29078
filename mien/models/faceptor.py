"""Faceptor: a generalist model for face perception (Qin et al., ECCV 2024, arXiv 2403.09500).

One encoder, two decoders. A transformer decoder lets task-specific queries read the encoder's maps; a pixel decoder
enlarges the maps. Three read-outs are shared by all tasks of a kind:
value (one number a query), map (query . pixel features), feature (an embedding, without queries).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.decoders import EmbeddingHead, LayerNorm2d, QueryDecoder
from mien.models.encoders import EfficientNetLite
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, IDENTITY, LANDMARKS, PARSING, POINTS5, Embedding, Map, Points, Task, Vector
from mien.types import View


class PixelDecoder(nn.Module):
    """Memory -> fine pixel features, each step ConvTranspose 2x2, LN, GELU.

    Ours: finer encoder maps are added on the way up (`laterals`), and one 3x3 convolution ends it. Faceptor's ViT has
    maps of one stride only; a convolutional pyramid has finer ones, and they cost little.

    Args:
        channels: of the finer maps, coarse to fine, one a doubling. dim: of the memory; out: of the pixel features.
    """

    def __init__(self, channels: Sequence[int], *, dim: int, out: int):
        super().__init__()
        widths = [dim, *[out] * len(channels)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in zip(widths, widths[1:], strict=False))
        self.laterals = nn.ModuleList(nn.Conv2d(c, out, 1) for c in channels)
        self.norms = nn.ModuleList(LayerNorm2d(out, eps=1e-6) for _ in channels)
        self.end = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor, finer: Sequence[Tensor]) -> Tensor:
        for up, lateral, norm, fine in zip(self.up, self.laterals, self.norms, finer, strict=True):
            x = F.gelu(norm(up(x) + lateral(fine)))
        return self.end(x)


class Faceptor(nn.Module):
    """See the module's text. forward: (B, 3, H, W) -> task name -> raw answers, for all tasks, in one pass.

    There is no attention between the queries of different tasks: a task alone and among others answers the same.

    Args:
        encoder: images -> pyramid (see `encoders`). tasks: what is asked, in output order. view: how faces are shown.
        levels: pyramid levels that the queries read, finest first; the pixel decoder starts from the first of them.
        dim, heads, layers, ffn: of the transformer decoder (paper: 256, 8, 9, 2048). pixel_dim: of the pixel features.
        hidden: width inside the embedding read-out (paper: 768).
    """

    def __init__(
        self, encoder: EfficientNetLite, tasks: Sequence[Task], view: View, *, levels: Sequence[int], dim: int = 256, heads: int = 8,
        layers: int = 9, ffn: int = 2048, pixel_dim: int = 256, hidden: int = 768,
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.tasks, self.view, self.levels = encoder, tuple(tasks), view, tuple(levels)
        self.asked = {t.name: t.shape.n for t in tasks if isinstance(t.shape, Vector | Points | Map)}
        unknown = [t.name for t in tasks if t.name not in self.asked and not isinstance(t.shape, Embedding)]
        if unknown:
            raise UsageError(f"Faceptor has no read-out for: {', '.join(unknown)}")
        queries = sum(self.asked.values())
        self.query_feat = nn.Parameter(torch.randn(queries, dim))
        self.query_embed = nn.Parameter(torch.rand(queries, dim))
        self.decoder = QueryDecoder(tuple(encoder.channels[i] for i in self.levels), dim=dim, heads=heads, layers=layers, ffn=ffn)
        self.value = nn.Linear(dim, 1)
        self.pixel = PixelDecoder(encoder.channels[: self.levels[0]][::-1], dim=dim, out=pixel_dim)
        self.map_query = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, pixel_dim))
        self.feature = nn.ModuleDict(
            {t.name: EmbeddingHead(encoder.channels[-1], hidden, t.shape.d) for t in tasks if isinstance(t.shape, Embedding)}
        )
        owner = torch.repeat_interleave(torch.arange(len(self.asked)), torch.tensor(list(self.asked.values())))
        # a large negative number, not -inf: exporters and float16 handle it
        self.register_buffer("apart", (owner[:, None] != owner[None]).float() * -1e4, persistent=False)
        for p in self.decoder.layers.parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(images)
        memory = self.decoder.memory([maps[i] for i in self.levels])
        x = self.decoder(self.query_feat, self.query_embed, memory, self.apart)
        parts = dict(zip(self.asked, x.split(list(self.asked.values()), 1), strict=True))
        pixels = self.pixel(memory[0], maps[: self.levels[0]][::-1])
        answers = {}
        for task in self.tasks:
            if isinstance(task.shape, Embedding):
                answers[task.name] = self.feature[task.name](maps[-1])
            elif isinstance(task.shape, Vector):
                answers[task.name] = self.value(parts[task.name]).squeeze(-1)
            else:
                answers[task.name] = torch.einsum("bqc,bchw->bqhw", self.map_query(parts[task.name]), pixels)
        return answers


DEFAULT_TASKS = (LANDMARKS, POINTS5, PARSING, AGE, EXPRESSION, ATTRIBUTES, IDENTITY)


def faceptor_tiny(*, tasks: Sequence[Task] = DEFAULT_TASKS, size: int = 128, imagenet: bool = False) -> Faceptor:
    """Faceptor on EfficientNet-Lite0: what 2 CPU cores train in an hour or two.

    Ours: a convolutional encoder, two memory levels (strides 16 and 32) from the start, 2 decoder layers of width 128.

    Args:
        size: side of the crop in pixels, a multiple of 32. imagenet: start the encoder from ImageNet weights.
    """
    encoder = EfficientNetLite()
    if imagenet:
        encoder.load_imagenet()
    view = View((size, size), "head", encoder.mean, encoder.std)
    model = Faceptor(encoder, tasks, view, levels=(2, 3), dim=128, heads=4, layers=2, ffn=256, pixel_dim=64, hidden=256)
    model.builder = ("faceptor_tiny", {"tasks": [t.name for t in tasks], "size": size})  # type: ignore[assignment]
    return model

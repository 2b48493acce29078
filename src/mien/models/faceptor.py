"""Faceptor: a generalist model for face perception (Qin et al., ECCV 2024, arXiv 2403.09500).

One encoder, two decoders. A transformer decoder lets task-specific queries read the encoder's maps; a pixel
decoder enlarges the maps. Three read-outs are shared by all tasks of a kind: value (one number per query),
map (query . pixel features), feature (an embedding, without queries).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.efficientnet_lite import EfficientNetLite, efficientnet_lite
from mien.models.backbones.vit import VisionTransformer
from mien.models.decoders import EmbeddingHead, LayerNorm2d, QueryDecoder
from mien.tasks import DEFAULT_TASKS, Embedding, Map, Points, Task, Vector, task
from mien.types import View


class PixelDecoder(nn.Module):
    """Memory (B, dim, h, w) -> pixel features (B, dim, 4h, 4w): ConvTranspose 2x2, LN, GELU, ConvTranspose
    2x2.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.up1, self.norm, self.up2 = (
            nn.ConvTranspose2d(dim, dim, 2, 2),
            LayerNorm2d(dim, eps=1e-6),
            nn.ConvTranspose2d(dim, dim, 2, 2),
        )
        self.out = dim

    def forward(self, x: Tensor, finer: Sequence[Tensor]) -> Tensor:
        return self.up2(F.gelu(self.norm(self.up1(x))))


class PyramidPixelDecoder(nn.Module):
    """Memory -> fine pixel features, each step ConvTranspose 2x2, LN, GELU.

    Ours: finer encoder maps are added on the way up (`laterals`), and one 3x3 convolution ends it. Faceptor's
    ViT has maps of one stride only; a convolutional pyramid has finer ones, and they cost little.

    Args:
        channels: channels of the finer maps, coarse to fine, one per doubling.
        dim: channels of the memory.
        out: channels of the pixel features.
    """

    def __init__(self, channels: Sequence[int], *, dim: int, out: int):
        super().__init__()
        self.out = out
        widths = [dim, *[out] * len(channels)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in itertools.pairwise(widths))
        self.laterals = nn.ModuleList(nn.Conv2d(c, out, 1) for c in channels)
        self.norms = nn.ModuleList(LayerNorm2d(out, eps=1e-6) for _ in channels)
        self.end = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor, finer: Sequence[Tensor]) -> Tensor:
        for up, lateral, norm, fine in zip(self.up, self.laterals, self.norms, finer, strict=True):
            x = F.gelu(norm(up(x) + lateral(fine)))
        return self.end(x)


class Faceptor(nn.Module):
    """See the module's text. forward: (B, 3, H, W) -> task name -> raw answers, for all tasks, in one pass.

    There is no attention between the queries of different tasks, so the output of a task does not depend on
    the other tasks.

    Args:
        encoder: images -> pyramid (see `encoders`, `vit`).
        tasks: predicted tasks, in output order.
        view: crop, template and normalization.
        pixel: the pixel decoder: (memory of the first used level, finer maps, coarse to fine) -> pixel
            features.
        levels: encoder levels that the queries read; the pixel decoder starts from the first of them. Several
            of them are the paper's Layer-Attention; there, the first is what the first stage trained.
        dim, heads, layers, ffn, norm: of the transformer decoder.
        hidden: width inside the embedding read-out.
    """

    builder: tuple[str, dict[str, object]]

    def __init__(
        self,
        encoder: EfficientNetLite | VisionTransformer,
        tasks: Sequence[Task],
        view: View,
        pixel: PixelDecoder | PyramidPixelDecoder,
        *,
        levels: Sequence[int],
        dim: int = 256,
        heads: int = 8,
        layers: int = 9,
        ffn: int = 2048,
        hidden: int = 768,
        norm: bool = False,
    ):
        super().__init__()
        self.encoder, self.tasks, self.view, self.levels = encoder, tuple(tasks), view, tuple(levels)
        self.query_tasks = {t.name: t.shape.n for t in tasks if isinstance(t.shape, Vector | Points | Map)}
        unknown = [
            t.name for t in tasks if t.name not in self.query_tasks and not isinstance(t.shape, Embedding)
        ]
        if unknown:
            raise UsageError(f"Faceptor has no read-out for: {', '.join(unknown)}")
        queries = sum(self.query_tasks.values())
        self.query_feat = nn.Parameter(torch.randn(queries, dim))
        self.query_embed = nn.Parameter(torch.rand(queries, dim))
        self.decoder = QueryDecoder(
            tuple(encoder.channels[i] for i in self.levels),
            dim=dim,
            heads=heads,
            layers=layers,
            ffn=ffn,
            norm=norm,
        )
        self.value = nn.Linear(dim, 1)
        self.pixel = pixel
        self.map_query = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, pixel.out)
        )
        self.feature = nn.ModuleDict(
            {
                t.name: EmbeddingHead(encoder.channels[-1], hidden, t.shape.d)
                for t in tasks
                if isinstance(t.shape, Embedding)
            }
        )
        owner = torch.cat(
            [torch.full((n,), i) for i, n in enumerate(self.query_tasks.values())] or [torch.zeros(0)]
        )
        # a large negative number, not -inf: exporters and float16 handle it
        self.register_buffer(
            "attention_mask", (owner[:, None] != owner[None]).float() * -1e4, persistent=False
        )
        for p in self.decoder.layers.parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def second_stage(self) -> Faceptor:
        """Train Layer-Attention alone: the projections and level embeddings of all levels but the first.

        The paper's code intends to train the queries too, but names no existing parameter. This is what it
        does.
        """
        self.requires_grad_(False)
        for module in (self.decoder.project[1:], self.decoder.level[1:]):
            for p in module.parameters():
                p.requires_grad_(True)
        return self

    def attention(self, images: Tensor) -> dict[str, Tensor]:
        """Task name -> (B, Q, heads, N): attention of its queries in the last layer; sums to 1 over N.

        The tokens are those of the used levels, one level after another, see `grids`. An embedding has no
        queries.
        """
        maps = self.encoder(images)
        seen = self.decoder.attention(
            self.query_feat,
            self.query_embed,
            self.decoder.memory([maps[i] for i in self.levels]),
            cast(Tensor, self.attention_mask),
        )
        return dict(zip(self.query_tasks, seen.split(list(self.query_tasks.values()), 1), strict=True))

    def _read(self, queries: dict[str, int], memory: list[Tensor]) -> dict[str, Tensor]:
        """Outputs (B, n, dim) of the queries of these tasks, name -> number of queries."""
        feat, embed, attention_mask = (
            cast(Tensor, self.query_feat),
            cast(Tensor, self.query_embed),
            cast(Tensor, self.attention_mask),
        )
        if not queries:
            return {}
        if queries.keys() != self.query_tasks.keys():
            rows = (
                torch.cat([torch.full((n,), name in queries) for name, n in self.query_tasks.items()])
                .nonzero()
                .squeeze(1)
                .to(feat.device)
            )
            feat, embed, attention_mask = feat[rows], embed[rows], attention_mask[rows][:, rows]
        return dict(
            zip(
                queries,
                self.decoder(feat, embed, memory, attention_mask).split(list(queries.values()), 1),
                strict=True,
            )
        )

    def grids(self, images: Tensor) -> tuple[tuple[int, int], ...]:
        """(h, w) of each used level for these images."""
        h, w = images.shape[-2:]
        return tuple(
            (-(-h // s), -(-w // s)) for s in (self.encoder.strides[i] for i in self.levels)
        )  # convolutions round up

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.forward_tasks(images, [t.name for t in self.tasks])

    def forward_tasks(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """As `forward`, for the named tasks only: no other query, head or batch norm is run."""
        tasks, maps = [t for t in self.tasks if t.name in names], self.encoder(images)
        memory = self.decoder.memory([maps[i] for i in self.levels])
        parts = self._read(
            {t.name: self.query_tasks[t.name] for t in tasks if t.name in self.query_tasks}, memory
        )
        if any(isinstance(t.shape, Points | Map) for t in tasks):
            pixels = self.pixel(memory[0], maps[: self.levels[0]][::-1])
        answers = {}
        for t in tasks:
            if isinstance(t.shape, Embedding):
                answers[t.name] = self.feature[t.name](maps[-1])
            elif isinstance(t.shape, Vector):
                answers[t.name] = self.value(parts[t.name]).squeeze(-1)
            else:
                answers[t.name] = torch.einsum("bqc,bchw->bqhw", self.map_query(parts[t.name]), pixels)
        return answers


_BASE = (
    "age@morph2",
    "attributes@celeba",
    "expression7@affectnet",
    "expression7@rafdb",
    "parsing@celebamask",
    "landmarks@300w",
)
BASE_TASKS = tuple(task(n) for n in (*_BASE, "identity512@ms1mv3"))


def faceptor_base(
    *, tasks: Sequence[Task] = BASE_TASKS, size: int = 512, levels: Sequence[int] = (11,)
) -> Faceptor:
    """The paper's size on ViT-B/16: 103,200,001 parameters with its seven base sets.

    Args:
        size: side of the crop (paper: 112 for values and identity, 512 for maps; any multiple of 16 works).
        levels: (11,) is the first stage, (11, 1, 3, 5, 7, 9) the second (see `Faceptor.second_stage`).
    """
    encoder = VisionTransformer(drop_path=0.2)
    view = View((size, size), "head", encoder.mean, encoder.std)  # Ours: one view, with CLIP's normalization
    model = Faceptor(encoder, tasks, view, PixelDecoder(256), levels=levels)
    model.decoder.init_official()
    model.builder = (
        "faceptor_base",
        {"tasks": [t.name for t in tasks], "size": size, "levels": list(levels)},
    )
    return model


def faceptor_tiny(
    *,
    tasks: Sequence[Task] = DEFAULT_TASKS,
    size: int = 128,
    imagenet: bool = False,
    levels: Sequence[int] = (2, 3),
) -> Faceptor:
    """Faceptor on EfficientNet-Lite0: what 2 CPU cores train in an hour or two.

    Ours: a convolutional encoder, two memory levels (strides 16 and 32) from the start, a norm on each, 2
    decoder layers of width 128.

    Args:
        size: side of the crop in pixels, a multiple of 16.
        imagenet: start the encoder from ImageNet weights.
        levels: (2,) is the paper's first stage, (2, 3, 1, 0) its second (see `Faceptor.second_stage`).
    """
    encoder, view = efficientnet_lite(size, imagenet)
    pixel = PyramidPixelDecoder(encoder.channels[: levels[0]][::-1], dim=128, out=64)
    model = Faceptor(
        encoder, tasks, view, pixel, levels=levels, dim=128, heads=4, layers=2, ffn=256, hidden=256, norm=True
    )
    kept = {} if tuple(levels) == (2, 3) else {"levels": list(levels)}  # absent in older checkpoints
    model.builder = ("faceptor_tiny", {"tasks": [t.name for t in tasks], "size": size, **kept})
    return model

"""Naive Faceptor: the baseline of the Faceptor paper (Qin et al., ECCV 2024, arXiv 2403.09500).

One encoder and three designs of output head. Tasks whose outputs have the same shape share a design. Tasks of
one *type* share a head too, and differ only in its last layer. A type is the part of a task's name before
"@": the tasks expression7@affectnet and expression7@rafdb are two data sets of one type.

- attribute head: several maps, channel attention, global maximum, one fully connected layer per data set
  (SwinFace's MLCA);
- dense head: FPN and UPerHead, one last 1x1 convolution per type, of which each data set has its slice of
  channels;
- identity head: an embedding from the last map.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.efficientnet_lite import EfficientNetLite, conv_bn, efficientnet_lite
from mien.models.backbones.vit import VisionTransformer
from mien.models.decoders import EmbeddingHead
from mien.tasks import DEFAULT_TASKS, Embedding, Map, Points, Task, Vector, task
from mien.types import View


def windows(n: int, out: int, like: Tensor) -> Tensor:
    """(out, n) rows that average `out` windows over n places, as adaptive average pooling cuts them."""
    ends = [(i * n // out, -((i + 1) * n // -out)) for i in range(out)]
    # of numbers, not of operations: those were half of the nodes that an exporter walks
    return like.new_tensor(
        [[(low <= place < high) / (high - low) for place in range(n)] for low, high in ends]
    )


def pool(x: Tensor, h: int, w: int) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): adaptive average pooling, as products, which export at any size."""
    if x.shape[-2:] == (h, w):
        return x
    return windows(x.shape[-2], h, x) @ x @ windows(x.shape[-1], w, x).T


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> bilinearly to the height and width of `like`."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class ChannelGate(nn.Module):
    """CBAM's channel attention (Woo et al. 2018): (B, C, h, w) -> a gate in (0, 1), (B, C, 1, 1)."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()[..., None, None]


class AttributeHead(nn.Module):
    """Maps (B, C, h, w) -> task name -> (B, n). Everything but the last layers is shared by the data sets of
    the type.

    Args:
        channels: of each map.
        answers: task name -> n.
        width: channels that each map gets before the gate.
        grid: which of the maps has the grid on which they meet (the paper's maps have one grid).
    """

    def __init__(
        self,
        channels: Sequence[int],
        answers: Mapping[str, int],
        *,
        width: int,
        grid: int = -1,
        reduction: int = 16,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.grid, dim = grid, width * len(channels)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1, bias=False) for c in channels)
        self.gate = ChannelGate(dim, reduction)
        self.norm = nn.BatchNorm1d(dim, eps=2e-5)
        self.hidden = nn.Sequential(
            *(m for _ in range(2) for m in (nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout)))
        )
        self.last = nn.ModuleDict({name: nn.Linear(dim, n) for name, n in answers.items()})

    def gathered(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps on one grid, projected and side by side: (B, width * maps, h, w)."""
        h, w = maps[self.grid].shape[-2:]
        return torch.cat([p(pool(m, h, w)) for p, m in zip(self.project, maps, strict=True)], 1)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        x = self.gathered(maps)
        x = self.hidden(self.norm(F.relu(x * self.gate(x)).amax((2, 3))))
        return {name: last(x) for name, last in self.last.items()}


class PlainPyramid(nn.Module):
    """Four maps of one stride -> sides times 4, 2, 1 and 1/2, as FaRL gives a plain ViT a pyramid.

    Channels stay.
    """

    def __init__(self, channels: int):
        super().__init__()

        def up() -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(channels, channels, 2, 2)

        # the paper's SyncBN is BatchNorm over all GPUs of a run: the same numbers, and one process here
        self.up4 = nn.Sequential(up(), nn.BatchNorm2d(channels), nn.GELU(), up())
        self.up2 = up()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        a, b, c, d = maps
        return [self.up4(a), self.up2(b), c, F.max_pool2d(d, 2)]


class UPerHead(nn.Module):
    """Pyramid, finest first -> (B, width, h, w) on the finest grid (UPerNet, Xiao et al. 2018), without its
    last convolution.

    The coarsest map is pooled on grids of several sizes (`pools`); maps are added from coarse to fine.
    """

    def __init__(self, channels: Sequence[int], *, width: int, pools: Sequence[int]):
        super().__init__()

        def conv(c_in: int, kernel: int) -> nn.Sequential:
            return conv_bn(c_in, width, kernel, act=nn.ReLU, eps=1e-5, momentum=0.1)

        *finer, top = channels
        self.pools = tuple(pools)
        self.contexts = nn.ModuleList(conv(top, 1) for _ in pools)
        self.top = conv(top + width * len(self.pools), 3)
        self.laterals = nn.ModuleList(conv(c, 1) for c in finer)
        self.smooth = nn.ModuleList(conv(width, 3) for _ in finer)
        self.fuse = conv(width * len(channels), 3)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        *finer, top = pyramid
        contexts = [enlarge(c(pool(top, n, n)), top) for n, c in zip(self.pools, self.contexts, strict=True)]
        levels = [lateral(m) for lateral, m in zip(self.laterals, finer, strict=True)]
        levels.append(self.top(torch.cat([top, *contexts], 1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + enlarge(levels[i], levels[i - 1])
        levels = [*(s(m) for s, m in zip(self.smooth, levels[:-1], strict=True)), levels[-1]]
        return self.fuse(torch.cat([enlarge(m, levels[0]) for m in levels], 1))


class DenseHead(nn.Module):
    """Four maps -> task name -> logits (B, n, h, w) on the finest grid; each data set owns a slice of the
    last channels.

    Args:
        channels: of each map.
        answers: task name -> n.
        plain: the maps have one stride and need a pyramid made.
    """

    def __init__(
        self,
        channels: Sequence[int],
        answers: Mapping[str, int],
        *,
        plain: bool,
        width: int,
        pools: Sequence[int],
    ):
        super().__init__()
        self.answers = dict(answers)
        self.pyramid = PlainPyramid(channels[0]) if plain else nn.Identity()
        self.uper = UPerHead(channels, width=width, pools=pools)
        self.dropout = nn.Dropout2d(0.1)
        self.last = nn.Conv2d(width, sum(self.answers.values()), 1)

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        x = self.last(self.dropout(self.uper(self.pyramid(maps))))
        return dict(zip(self.answers, x.split(list(self.answers.values()), 1), strict=True))


class NaiveFaceptor(nn.Module):
    """See the module's text. forward: (B, 3, H, W) -> task name -> raw answers, for all tasks, in one pass.

    Ours: one view and one pass for all tasks (official: 112 px or 512 px, one task per run). Ours: dense
    heads output logits on their own grid; the paper's output modules enlarge parsing to the crop, and turn
    heat maps (sigmoid, then mean position) into points. Here a task's `read` and `criterion` do that.

    Args:
        encoder: images -> maps.
        tasks: predicted tasks, in output order.
        view: crop, template and normalization.
        attribute_levels, dense_levels: which of the encoder's maps the heads read, finest first.
        plain: whether those maps have one stride, so that a dense head makes its own pyramid.
        attribute_width: channels per map in an attribute head.
        grid: see `AttributeHead`.
        dense_width, pools: of the dense heads.
        hidden: width inside the identity head.
    """

    builder: tuple[str, dict[str, object]]

    def __init__(
        self,
        encoder: EfficientNetLite | VisionTransformer,
        tasks: Sequence[Task],
        view: View,
        *,
        attribute_levels: Sequence[int] = (5, 7, 9, 11),
        dense_levels: Sequence[int] = (3, 5, 7, 11),
        plain: bool = True,
        attribute_width: int = 128,
        grid: int = -1,
        dropout: float = 0.5,
        dense_width: int = 512,
        pools: Sequence[int] = (1, 2, 3, 6),
        hidden: int = 768,
    ):
        super().__init__()
        self.encoder, self.tasks, self.view = encoder, tuple(tasks), view
        self.attribute_levels, self.dense_levels = tuple(attribute_levels), tuple(dense_levels)
        vectors = by_type({t.name: t.shape.n for t in tasks if isinstance(t.shape, Vector)})
        places = by_type({t.name: t.shape.n for t in tasks if isinstance(t.shape, Points | Map)})
        embeddings = {t.name: t.shape.d for t in tasks if isinstance(t.shape, Embedding)}
        mask = {name for group in (*vectors.values(), *places.values()) for name in group} | set(embeddings)
        if unknown := [t.name for t in tasks if t.name not in mask]:
            raise UsageError(f"Naive Faceptor has no head for: {', '.join(unknown)}")
        if both := set(vectors) & set(places):
            raise UsageError(
                f"tasks of one type need one shape of answer; these have two: {', '.join(sorted(both))}"
            )
        flat, wide = (
            [encoder.channels[i] for i in levels] for levels in (self.attribute_levels, self.dense_levels)
        )
        self.attribute = nn.ModuleDict(
            {
                k: AttributeHead(flat, v, width=attribute_width, grid=grid, dropout=dropout)
                for k, v in vectors.items()
            }
        )
        self.dense = nn.ModuleDict(
            {k: DenseHead(wide, v, plain=plain, width=dense_width, pools=pools) for k, v in places.items()}
        )
        self.identity = nn.ModuleDict(
            {k: EmbeddingHead(encoder.channels[-1], hidden, d) for k, d in embeddings.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.forward_tasks(images, [t.name for t in self.tasks])

    def forward_tasks(self, images: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """As `forward`, for the named tasks only: heads and batch norms of other types are not run."""
        maps, types = self.encoder(images), by_type(dict.fromkeys(names, 0))
        answers = {name: head(maps[-1]) for name, head in self.identity.items() if name in names}
        for heads, levels in ((self.attribute, self.attribute_levels), (self.dense, self.dense_levels)):
            for kind, head in heads.items():
                if kind in types:
                    answers |= head([maps[i] for i in levels])
        return {t.name: answers[t.name] for t in self.tasks if t.name in names}


def by_type(answers: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Task name -> n, grouped by type."""
    groups: dict[str, dict[str, int]] = {}
    for name, n in answers.items():
        groups.setdefault(name.split("@")[0], {})[name] = n
    return groups


# "Base" of the paper: seven data sets. RAF-DB's seven expressions are read in AffectNet's order, as in the
# official code.
_BASE = (
    "identity512",
    "age",
    "attributes",
    "expression7@affectnet",
    "expression7@rafdb",
    "parsing",
    "landmarks",
)
BASE_TASKS: tuple[Task, ...] = tuple(task(n) for n in _BASE)


def naive_faceptor_base(*, tasks: Sequence[Task] = BASE_TASKS, size: int = 512) -> NaiveFaceptor:
    """Naive Faceptor as published, on ViT-B/16: 178,911,058 parameters with the tasks of `BASE_TASKS`.

    Args:
        tasks: those seven by default.
        size: side of the crop in pixels, a multiple of 16 (official: 112 and 512).
    """
    encoder = VisionTransformer(drop_path=0.2)
    view = View((size, size), "head", encoder.mean, encoder.std)
    model = NaiveFaceptor(encoder, tasks, view)
    model.builder = ("naive_faceptor_base", {"tasks": [t.name for t in tasks], "size": size})
    return model


def naive_faceptor_tiny(
    *, tasks: Sequence[Task] = DEFAULT_TASKS, size: int = 112, imagenet: bool = False
) -> NaiveFaceptor:
    """Naive Faceptor on EfficientNet-Lite0, to compare with `faceptor_tiny`.

    Ours: a convolutional encoder, whose own pyramid takes the place of the FPN; narrow heads; attribute heads
    gather all four maps on the grid of stride 16; less dropout, since they are narrow.

    Args:
        size: side of the crop in pixels.
        imagenet: start the encoder from ImageNet weights.
    """
    encoder, view = efficientnet_lite(size, imagenet)
    every = range(len(encoder.channels))
    model = NaiveFaceptor(
        encoder,
        tasks,
        view,
        attribute_levels=every,
        dense_levels=every,
        plain=False,
        attribute_width=32,
        grid=2,
        dropout=0.2,
        dense_width=64,
        hidden=256,
    )
    model.builder = ("naive_faceptor_tiny", {"tasks": [t.name for t in tasks], "size": size})
    return model

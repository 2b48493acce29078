"""The network of `mien.load()`: the best parts of the six compared systems on one small encoder.

- Queries predict values (age, expression, attributes), as in Faceptor and Q-Face, from two levels with a norm
  on each. A summary of the entire face is added to the queries' outputs, as in Naive Faceptor's head.
- One pyramid of plain convolutions predicts points and parsing, as in Naive Faceptor: with few labeled
  pictures it learned more than queries did. All dense tasks share the pyramid. Points and maps have one
  convolution each; parsing has a second one at twice the resolution, on the encoder's first map, since eyes
  are only two cells high without it.
- Tasks of `state` (eyes, gaze, occlusion, quality) have a small head each, `StateHead`, on places of the
  encoder's maps. They are trained alone, on the frozen network, and change none of its other outputs.
- Identity has its own last stages, plain residual blocks on the encoder's maps of strides 8, 16 and 32, since
  it needs other features than age or expression. A global depthwise convolution pools their map
  (MobileFaceNet, Chen et al. 2018).

In training, each head runs only on the pictures of the batch that have a label for one of its tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.efficientnet_lite import EfficientNetLite, conv_bn, efficientnet_lite
from mien.models.decoders import QueryDecoder
from mien.tasks import DEFAULT_TASKS, Embedding, Map, Points, Task, Vector
from mien.types import View

# a task with more numbers than this shares queries: ages are steps of one scale
_MANY = 48
_SHARED = 8


class VectorHeads(nn.Module):
    """Maps of two levels, and a summary of the face (B, c) -> task name -> (B, n).

    Each number has one query; a task with many numbers has eight queries. Each task has its own output
    weights. There is no attention between the queries of different tasks.

    Args:
        channels: channels of the levels.
        summary: width of the summary.
        answers: task name -> n.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        summary: int,
        answers: Mapping[str, int],
        *,
        dim: int,
        heads: int,
        layers: int,
        ffn: int,
        dropout: float,
    ):
        super().__init__()
        self.answers = dict(answers)
        self.queries = {name: n if n <= _MANY else _SHARED for name, n in answers.items()}
        total = sum(self.queries.values())
        self.content, self.place = nn.Parameter(torch.randn(total, dim)), nn.Parameter(torch.rand(total, dim))
        self.decoder = QueryDecoder(channels, dim=dim, heads=heads, layers=layers, ffn=ffn, norm=True)
        for p in self.decoder.layers.parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
        owner = torch.cat([torch.full((n,), i) for i, n in enumerate(self.queries.values())])
        self.register_buffer(
            "attention_mask", (owner[:, None] != owner[None]).float() * -1e4, persistent=False
        )
        self.own = nn.ParameterDict(
            {t: nn.Parameter(torch.randn(n, dim) * dim**-0.5) for t, n in answers.items() if n <= _MANY}
        )
        self.many = nn.ModuleDict({t: nn.Linear(_SHARED * dim, n) for t, n in answers.items() if n > _MANY})
        self.whole = nn.ModuleDict({t: nn.Linear(summary, n) for t, n in answers.items()})
        self.dropout = nn.Dropout(dropout)

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """(B, queries, ...) -> task name -> (B, queries of the task, ...)."""
        return dict(zip(self.queries, x.split(list(self.queries.values()), 1), strict=True))

    def forward(self, maps: list[Tensor], summary: Tensor) -> dict[str, Tensor]:
        x = self.dropout(
            self.decoder(
                self.content, self.place, self.decoder.memory(maps), cast(Tensor, self.attention_mask)
            )
        )
        summary, outputs = self.dropout(summary), {}
        for name, part in self.split(x).items():
            read = (part * self.own[name]).sum(-1) if name in self.own else self.many[name](part.flatten(1))
            outputs[name] = read + self.whole[name](summary)
        return outputs


class Pyramid(nn.Module):
    """Feature pyramid: four maps, finest first -> (B, width, h, w) on the finest grid.

    Laterals are added from coarse to fine, with one 3x3 convolution per level.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.laterals = nn.ModuleList(conv_bn(c, width, 1, act=None) for c in channels)
        self.smooth = nn.ModuleList(conv_bn(width, width, 3) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=True)]
        x = self.smooth[-1](levels[-1])
        for level, smooth in zip(levels[-2::-1], list(self.smooth)[-2::-1], strict=True):
            x = smooth(level + F.interpolate(x, level.shape[-2:], mode="nearest"))
        return x


class ParsingRefinement(nn.Module):
    """Logits (B, n, h, w) -> logits (B, n, 2h, 2w): enlarged, plus a correction from a finer map.

    Args:
        early: channels of the encoder's map of twice the resolution.
        coarse: channels of the branch.
        n: number of classes.
        width: inner channels.
    """

    def __init__(self, early: int, coarse: int, n: int, width: int):
        super().__init__()
        self.low, self.high = conv_bn(early, width, 3), conv_bn(coarse, width, 1)
        self.mix, self.out = conv_bn(2 * width, 2 * width, 3), nn.Conv2d(2 * width, n, 1)
        nn.init.zeros_(self.out.weight)  # added to a trained network, it changes nothing at first
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, early: Tensor, coarse: Tensor, logits: Tensor) -> Tensor:
        size = early.shape[-2:]
        enlarged, context = (
            F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (logits, self.high(coarse))
        )
        return enlarged + self.out(self.mix(torch.cat([self.low(early), context], 1)))


class DenseHeads(nn.Module):
    """The pyramid, one branch for points and one for maps -> task name -> logits (B, n, h, w).

    The grid has a quarter of the crop's side.

    Args:
        channels: channels of the encoder's maps, finest first.
        points: task name -> number of points.
        maps: task name -> number of classes.
        width: channels of the pyramid.
        finer: inner channels of `ParsingRefinement`, which doubles the resolution of maps; 0 for none. It
            uses the first of the encoder's maps.
    """

    def __init__(
        self,
        channels: Sequence[int],
        points: Mapping[str, int],
        maps: Mapping[str, int],
        width: int,
        finer: int = 0,
    ):
        super().__init__()
        self.kinds = {
            kind: dict(answers) for kind, answers in (("points", points), ("maps", maps)) if answers
        }
        self.finer = (
            ParsingRefinement(channels[0], width, sum(maps.values()), finer) if finer and maps else None
        )
        self.pyramid = Pyramid(channels[1:] if finer else channels, width)
        self.branch = nn.ModuleDict(
            {
                k: nn.Sequential(conv_bn(width, width, 3), nn.Conv2d(width, sum(a.values()), 1))
                for k, a in self.kinds.items()
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        x, outputs = self.pyramid(maps[-len(self.pyramid.laterals) :]), dict[str, Tensor]()
        for kind, answers in self.kinds.items():
            narrow, out = cast(nn.Sequential, self.branch[kind])
            seen = narrow(x)
            logits = out(seen)
            if kind == "maps" and self.finer is not None:
                logits = self.finer(maps[0], seen, logits)
            outputs |= dict(zip(answers, logits.split(list(answers.values()), 1), strict=True))
        return outputs


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions, (B, c, h, w) -> the same (He et al., CVPR 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = conv_bn(channels, channels, 3), conv_bn(channels, channels, 3, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class IdentityBranch(nn.Module):
    """Last stages for identity only: maps of strides 8, 16 and 32 -> one map of stride 32.

    Args:
        channels: channels of the three maps.
        width: channels of the result.
        middle: channels at stride 16.
        blocks: residual blocks at stride 16.
    """

    def __init__(self, channels: Sequence[int], width: int, *, middle: int = 128, blocks: int = 3):
        super().__init__()
        self.eighth, self.sixteenth = (
            conv_bn(channels[0], middle, 3, 2, act=None),
            conv_bn(channels[1], middle, 1, act=None),
        )
        self.blocks = nn.Sequential(*(Residual(middle) for _ in range(blocks)))
        self.down, self.last = (
            conv_bn(middle, width, 3, 2, act=None),
            conv_bn(channels[2], width, 1, act=None),
        )
        self.end = Residual(width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.blocks(F.relu(self.eighth(maps[0]) + self.sixteenth(maps[1])))
        return self.end(F.relu(self.down(x) + self.last(maps[2])))


class IdentityHead(nn.Module):
    """Last map (B, c, h, w) -> embedding (B, d): 1x1 convolution, global depthwise convolution, linear layer.

    Args:
        channels: c.
        grid: (height, width) of the map, the depthwise kernel's size.
        hidden: channels between the layers.
        d: size of the embedding.
    """

    def __init__(self, channels: int, grid: tuple[int, int], hidden: int, d: int):
        super().__init__()
        self.widen = conv_bn(channels, hidden)
        self.places = nn.Conv2d(hidden, hidden, grid, groups=hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.out = nn.Sequential(nn.Linear(hidden, d, bias=False), nn.BatchNorm1d(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.places(self.widen(x)).flatten(1)))


# Rows and columns of the maps of strides 8 and 16 that a state head reads, in sixteenths of the crop's side.
EYE_REGION = ((5, 11), (2, 14))
FACE_REGION = ((4, 14), (2, 14))
_REGIONS = {"eyes": EYE_REGION, "gaze": EYE_REGION}  # by task; all others read the face


class StateHead(nn.Module):
    """Maps of strides 8, 16 and 32 -> (B, n): what a face does, or what covers it.

    Both finer maps are narrowed by a 1x1 convolution and read place by place in one region of the aligned
    face; of the last map the mean is read. Two linear layers follow.

    Args:
        channels: channels of the three maps.
        n: number of outputs.
        region: rows and columns, in sixteenths of the crop's side.
        grid: (height, width) of the first map.
        narrow: channels per place of the first two maps.
        hidden: width of the middle layer.
    """

    def __init__(
        self,
        channels: Sequence[int],
        n: int,
        region: tuple[tuple[int, int], tuple[int, int]],
        grid: tuple[int, int],
        *,
        narrow: tuple[int, int] = (12, 20),
        hidden: int = 48,
    ):
        super().__init__()
        self.places = tuple(_places(region, (grid[0] >> k, grid[1] >> k)) for k in (0, 1))
        self.near, self.far = nn.Conv2d(channels[0], narrow[0], 1), nn.Conv2d(channels[1], narrow[1], 1)
        cells = [(b - a) * (d - c) for (a, b), (c, d) in self.places]
        width = cells[0] * narrow[0] + cells[1] * narrow[1] + channels[2]
        self.hidden, self.out = nn.Linear(width, hidden), nn.Linear(hidden, n)

    def cut(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The parts of the three maps that the head reads."""
        parts = [m[:, :, a:b, c:d] for m, ((a, b), (c, d)) in zip(maps, self.places, strict=False)]
        return [*parts, maps[2].mean((2, 3))]

    def read(self, parts: Sequence[Tensor], dropout: float = 0.0) -> Tensor:
        """The outputs by what `cut` gives; dropout: rate on what the first linear layer reads."""
        near, far, mean = parts
        x = torch.cat([F.relu(self.near(near)).flatten(1), F.relu(self.far(far)).flatten(1), mean], 1)
        if dropout:
            x = F.dropout(x, dropout)
        return self.out(F.relu(self.hidden(x)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.read(self.cut(maps))


def _places(
    region: tuple[tuple[int, int], tuple[int, int]], grid: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A region in cells of a map; at least one cell."""
    rows, columns = (
        (a * n // 16, max(a * n // 16 + 1, -(-b * n // 16))) for (a, b), n in zip(region, grid, strict=True)
    )
    return rows, columns


def distance(task: Task, outputs: Tensor, goal: Tensor, unlabeled: Tensor | None = None) -> Tensor:
    """Distance of raw outputs from another network's, mean over what has no label.

    Cross-entropy between the probabilities of both, over the classes, or over the cells of a point's map; one
    minus the cosine for embeddings.

    Args:
        task: whose outputs they are.
        outputs: (B, ...) raw.
        goal: the other network's.
        unlabeled: (B,), or (B, n) for a task that is labeled in part; None: everything.
    """
    if isinstance(task.shape, Embedding):
        each = 1 - F.cosine_similarity(outputs, goal)
    elif isinstance(task.shape, Points):
        each = -(goal.flatten(2).softmax(-1) * outputs.flatten(2).log_softmax(-1)).sum(-1)
    elif task.activation == "softmax":
        each = -(goal.softmax(1) * outputs.log_softmax(1)).sum(1)
    else:
        each = F.binary_cross_entropy_with_logits(outputs, goal.sigmoid(), reduction="none")
    if unlabeled is None:
        return each.mean()
    if each.ndim > unlabeled.ndim:
        each = each.flatten(1).mean(1)
    weight = unlabeled.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp_min(1)


class Mien(nn.Module):
    """The network of the module's docstring.

    forward: (B, 3, H, W) -> task name -> raw outputs, for all tasks in one pass.

    Args:
        encoder: images -> four maps, finest first, and with `finer` one more before them.
        tasks: predicted tasks, in output order.
        view: crop, template and normalization.
        levels: indices of the encoder's maps that the queries read.
        dim: width of the query decoder.
        heads: attention heads of the query decoder.
        layers: layers of the query decoder.
        ffn: feed-forward width of the query decoder.
        width: channels of the pyramid.
        finer: inner channels of `ParsingRefinement`; 0 for none.
        summary: width of the summary of the entire face.
        hidden: channels inside an identity head.
        own: channels of identity's own last stages, see `IdentityBranch`; 0: it reads the encoder's last map.
        dropout: dropout rate before the last layer of values.
        state: names of tasks with a `StateHead`.
    """

    builder: tuple[str, dict[str, object]]

    def __init__(
        self,
        encoder: EfficientNetLite,
        tasks: Sequence[Task],
        view: View,
        *,
        levels: tuple[int, ...] = (2, 3),
        dim: int = 128,
        heads: int = 4,
        layers: int = 2,
        ffn: int = 256,
        width: int = 64,
        summary: int = 512,
        hidden: int = 512,
        dropout: float = 0.2,
        finer: int = 0,
        own: int = 0,
        state: Sequence[str] = (),
    ):
        super().__init__()
        self.reference: tuple[
            Any, ...
        ] = ()  # see `learn_from`; in a tuple, so that torch does not register it
        self.early = 1 if finer else 0  # number of maps before the four that all heads share
        self.encoder, self.tasks, self.view, self.levels = encoder, tuple(tasks), view, levels
        kinds: tuple[Any, ...] = (Vector, Points, Map)
        vectors, points, maps = (
            {t.name: cast(Vector, t.shape).n for t in tasks if isinstance(t.shape, kind)} for kind in kinds
        )
        if wrong := [n for n in state if n not in vectors]:
            raise UsageError(f"this network has no state head for {wrong[0]!r}; name a task with numbers")
        states = {n: vectors.pop(n) for n in state}
        embeddings = {t.name: t.shape.d for t in tasks if isinstance(t.shape, Embedding)}
        if unknown := [
            t.name
            for t in tasks
            if not any(t.name in part for part in (vectors, states, points, maps, embeddings))
        ]:
            raise UsageError(f"this network has no head for: {', '.join(unknown)}")
        last, stride = encoder.channels[-1], encoder.strides[-1]
        grid = (-(-view.size[1] // stride), -(-view.size[0] // stride))
        self.summary = conv_bn(last, summary) if vectors else None
        read = tuple(encoder.channels[self.early + i] for i in levels)
        self.values = (
            VectorHeads(read, summary, vectors, dim=dim, heads=heads, layers=layers, ffn=ffn, dropout=dropout)
            if vectors
            else None
        )
        self.dense = DenseHeads(encoder.channels, points, maps, width, finer) if points or maps else None
        self.own = nn.ModuleDict(
            {name: IdentityBranch(encoder.channels[-3:], own) for name in embeddings if own}
        )
        self.who = nn.ModuleDict(
            {name: IdentityHead(own or last, grid, hidden, d) for name, d in embeddings.items()}
        )
        side = encoder.strides[-3]
        cells = (-(-view.size[1] // side), -(-view.size[0] // side))
        self.state = nn.ModuleDict(
            {
                name: StateHead(encoder.channels[-3:], n, _REGIONS.get(name, FACE_REGION), cells)
                for name, n in states.items()
            }
        )
        self.heads: dict[tuple[str, ...], Callable[[list[Tensor]], dict[str, Tensor]]] = {
            **({tuple(vectors): self._values} if vectors else {}),
            **({(*points, *maps): self.dense} if self.dense else {}),
            **{(name,): self._embedding(name) for name in embeddings},
            **{(name,): self._state(name) for name in states},
        }
        parts: dict[tuple[str, ...], list[Any]] = {
            tuple(vectors): [self.values, self.summary],
            (*points, *maps): [self.dense],
        }
        parts |= {(name,): [self.who[name], *([self.own[name]] if own else [])] for name in embeddings}
        parts |= {(name,): [self.state[name]] for name in states}
        self.parts = {
            names: tuple(p for p in of if p is not None) for names, of in parts.items()
        }  # what only that head uses

    def _values(self, maps: list[Tensor]) -> dict[str, Tensor]:
        assert self.values is not None and self.summary is not None
        return self.values([maps[self.early + i] for i in self.levels], self.summary(maps[-1]).mean((2, 3)))

    def _embedding(self, name: str) -> Callable[[list[Tensor]], dict[str, Tensor]]:
        return lambda maps: {
            name: self.who[name](self.own[name](maps[-3:]) if name in self.own else maps[-1])
        }

    def _state(self, name: str) -> Callable[[list[Tensor]], dict[str, Tensor]]:
        return lambda maps: {name: self.state[name](maps[-3:])}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, outputs = self.encoder(images), dict[str, Tensor]()
        for head in self.heads.values():
            outputs |= head(maps)
        return {t.name: outputs[t.name] for t in self.tasks}

    def learn(
        self, images: Tensor, targets: dict[str, Tensor], mask: dict[str, Tensor], criteria: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Losses by task. Each head runs on the pictures that label one of its tasks, or on all if none does.

        The losses are those on all pictures, except that batch norms follow only labeled pictures. A frozen
        head without labeled pictures runs on one picture, for a loss of zero. After `learn_from`, every third
        picture is also trained on the reference's outputs for whatever it has no label for.
        """
        maps, losses = self.encoder(images), dict[str, Tensor]()
        every = torch.arange(0, len(images), 3)
        reference_maps = self._reference_maps(maps, every) if self.reference else []
        reference_only, skip = self.reference[2:] if self.reference else ((), ())
        by_name = {t.name: t for t in self.tasks}
        for names, head in self.heads.items():
            labeled = torch.stack(
                [mask[n].flatten(1).any(1) if mask[n].ndim > 1 else mask[n] for n in names]
            ).any(0)
            if self.reference:
                labeled[every] = True
            rows = labeled.nonzero().flatten() if int(labeled.sum()) > 1 else torch.arange(len(images))
            if not labeled.any() and not any(
                p.requires_grad for part in self.parts[names] for p in part.parameters()
            ):
                rows = rows[:1]
            outputs = head([m[rows] for m in maps])
            losses |= {n: criteria[n](outputs[n], targets[n][rows], mask[n][rows]) for n in names}
            if self.reference:
                with torch.no_grad():
                    goals = self.reference[0].heads[names](reference_maps)
                shared = torch.searchsorted(rows, every)
                for n in names:
                    if n in reference_only:
                        losses[n] = distance(by_name[n], outputs[n][shared], goals[n])
                    elif n not in skip:
                        unlabeled = ~mask[n][every]
                        losses[n] = losses[n] + distance(by_name[n], outputs[n][shared], goals[n], unlabeled)
        return {t.name: losses[t.name] for t in self.tasks}

    def learn_from(
        self, reference: Mien, stages: int, *, reference_only: Sequence[str] = (), skip: Sequence[str] = ()
    ) -> None:
        """Use another network's outputs as targets where a picture has no label, so that a network trained on
        new sets keeps its other tasks (learning without forgetting, Li and Hoiem, ECCV 2016).

        Both networks share the stem and the first `stages` stages, which are frozen.

        Args:
            reference: a network of the same form; it is not part of this one's weights.
            stages: number of frozen stages; the encoder must return the map after the last of them.
            reference_only: names of tasks trained on the reference's outputs only: their labels are not used.
            skip: names of tasks for which the reference is not used.

        Raises:
            UsageError: the encoder does not return the map after that stage.
        """
        if stages - 1 not in self.encoder._taps:
            places = ", ".join(str(t + 1) for t in self.encoder._taps)
            raise UsageError(f"a reference can share {places} stages of the encoder, not {stages}")
        self.reference = (reference.eval().requires_grad_(False), stages, tuple(reference_only), tuple(skip))

    def _reference_maps(self, maps: list[Tensor], rows: Tensor) -> list[Tensor]:
        """The reference's maps of these pictures, computed from the last one that both networks share."""
        reference, stages = self.reference[:2]
        shared = self.encoder._taps.index(stages - 1) + 1
        with torch.no_grad():
            out = [m[rows].detach() for m in maps[:shared]]
            x = out[-1]
            for i, stage in enumerate(reference.encoder.stages[stages:], stages):
                x = stage(x)
                if i in self.encoder._taps:
                    out.append(x)
        return out

    @property
    def query_tasks(self) -> tuple[str, ...]:
        """Tasks with one query per label: those whose attention can be shown."""
        return tuple(self.values.own) if self.values is not None else ()

    def attention(self, images: Tensor) -> dict[str, Tensor]:
        """Task in `query_tasks` -> (B, Q, heads, N): attention of its queries in the last layer.

        It sums to 1 over N.
        """
        if self.values is None:
            return {}
        maps, values = self.encoder(images), self.values
        memory = values.decoder.memory([maps[self.early + i] for i in self.levels])
        seen = values.split(
            values.decoder.attention(
                values.content, values.place, memory, cast(Tensor, values.attention_mask)
            )
        )
        return {name: seen[name] for name in self.query_tasks}

    def grids(self, images: Tensor) -> tuple[tuple[int, int], ...]:
        """(h, w) of each level that the queries read, for these images."""
        h, w = images.shape[-2:]
        return tuple(
            (-(-h // s), -(-w // s)) for s in (self.encoder.strides[self.early + i] for i in self.levels)
        )


def mien_tiny(
    *,
    tasks: Sequence[Task] = DEFAULT_TASKS,
    size: int = 128,
    imagenet: bool = False,
    finer: int = 0,
    own: int = 0,
    state: Sequence[str] = (),
) -> Mien:
    """The embedded network, on EfficientNet-Lite0.

    Args:
        tasks: predicted tasks, in output order.
        size: side of the crop in pixels.
        imagenet: start the encoder from ImageNet weights.
        finer: inner channels of `ParsingRefinement`; 0: parsing on a quarter of the crop's side, as in older
            networks.
        own: channels of identity's own last stages; 0: none, as in older networks.
        state: names of tasks with a `StateHead`; none in older networks.
    """
    encoder, view = efficientnet_lite(size, imagenet, early=finer > 0)
    model = Mien(encoder, tasks, view, finer=finer, own=own, state=state)
    arguments: dict[str, object] = {
        "tasks": [t.name for t in tasks],
        "size": size,
        "finer": finer,
        "own": own,
    }
    model.builder = ("mien_tiny", arguments | ({"state": list(state)} if state else {}))
    return model

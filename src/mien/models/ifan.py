"""iFAN: integrated face analytics network with cross-dataset hybrid training (Li et al., ACM MM 2017, arXiv
1711.06055).

One FC-DenseNet, run several laps. After a lap the answers of *all* tasks are drawn as maps and fed back at
several depths of the next one. Convolutions are shared; every task has its own path through them by its own
batch norms, which is what lets data sets that are labeled for one task each be mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.models.backbones.fc_densenet import SHARED, Path, Sizes, TaskNorm, Trunk
from mien.models.widen import place_within
from mien.tasks import EMOTION7, EXPRESSION, HELEN9, PARSING, POINTS5, Map, Points, Task, Vector, task
from mien.tasks.base import Criterion
from mien.tasks.parsing import UNKNOWN
from mien.types import Batch, View

# Caffe's BGR means 103.939, 116.779, 123.68 of 255, here in RGB order: the order only permutes the first
# convolution.
CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)


class ReEncoder(nn.Module):
    """Maps (B, n, s, s) -> features at strides 4, 8, 16: conv (5x5 stride 2, then 3x3), ReLU, max-pool 2.

    A vector's maps are constant, so its convolutions are 1x1 and keep n channels.
    """

    def __init__(self, shape: Any, sizes: Sizes, paths: Sequence[str]):
        super().__init__()
        # stages beyond the deepest injection would never learn
        widths = [shape.n] * (max(sizes.injected.values(), default=-1) + 1)
        self.flat = flat = isinstance(shape, Vector)
        self.widths = widths if flat else list(sizes.codes[: len(widths)])
        kernels = [1 if flat else 5 if i == 0 else 3 for i in range(len(widths))]
        # TensorFlow's SAME padding of an even side at stride 2: one less before than after
        self.before = (1, 2, 1, 2) if sizes.official and not flat else (0, 0, 0, 0)
        paths = [SHARED] if sizes.official else paths
        self.convs = nn.ModuleList(
            nn.Conv2d(
                a, b, k, 1 if flat or i else 2, 0 if i == 0 and any(self.before) else k // 2, bias=False
            )
            for i, (a, b, k) in enumerate(zip([shape.n, *self.widths], self.widths, kernels, strict=False))
        )
        self.norms = nn.ModuleList(
            TaskNorm(w, paths) if sizes.coded_norm else nn.Identity() for w in self.widths
        )

    def forward(self, x: Tensor, path: Path) -> list[Tensor]:
        coded = []
        # the stride of a 1x1 convolution, by hand: oneDNN crashes in its backward with channels-last weights
        if self.flat:
            x = x[:, :, ::2, ::2].contiguous()
        elif any(self.before):
            x = F.pad(x, self.before)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            x = F.max_pool2d(F.relu(norm(x, path) if isinstance(norm, TaskNorm) else x), 2)
            coded.append(x)
        return coded


class Head(nn.Module):
    """Map: conv 1x1 on "final". Points: dense on flattened "last". Vector: dense on flattened "bottom"."""

    def __init__(self, shape: Any, trunk: Trunk):
        super().__init__()
        self.shape, sizes = shape, trunk.sizes
        self.out: nn.Module
        self.dropout, side = sizes.dropout, sizes.side // (sizes.stride * 2**sizes.levels)
        if isinstance(shape, Map):
            self.reads, self.out = "final", nn.Conv2d(trunk.final, shape.n, 1, bias=False)
        elif isinstance(shape, Points):
            self.reads, self.out = "last", nn.Linear(trunk.last * (2 * side) ** 2, 2 * shape.n)
        else:
            self.reads, self.out = "bottom", nn.Linear(trunk.bottom_width * side**2, shape.n)

    def forward(self, features: Mapping[str, Tensor], path: Path) -> Tensor:
        x = features[self.reads]
        if isinstance(self.shape, Map):
            return self.out(x)
        x = self.out(F.dropout(x.flatten(1), self.dropout, path.learn))
        # iFAN answers x1..xn, y1..yn in [-0.5, 0.5]; the contract wants fractions of the crop
        return x.unflatten(1, (2, -1)).transpose(1, 2) + 0.5 if isinstance(self.shape, Points) else x


def draw_disks(points: Tensor, side: int, kind: str = "hard", sigma: float = 2.5) -> Tensor:
    """Fractions (B, n, 2) -> maps (B, n, side, side), clipped at the border.

    "hard": 1 where the squared distance to the rounded center is < 25 pixels, without gradient; pixel =
    fraction * side. Ours: "gauss", a Gaussian of `sigma` pixels around the exact center, through which
    gradients flow.
    """
    place = torch.arange(side, device=points.device, dtype=points.dtype)
    center = points * side if kind == "gauss" else torch.round(points.detach() * side)
    dx, dy = (place - center[..., :1]).square(), (place - center[..., 1:]).square()
    far = dy[..., :, None] + dx[..., None, :]
    return (far * (-0.5 / sigma**2)).exp() if kind == "gauss" else (far < 25).to(points.dtype)


class IFAN(nn.Module):
    """See the module's text. forward: (B, 3, s, s) -> task name -> raw answers of the last lap, for all
    tasks.

    Points answer (B, n, 2) fractions of the crop, maps (B, n, h, w) logits, vectors (B, n) logits.

    Args:
        tasks: in output order, which is the order of the feedback channels.
        view: how faces are shown.
        laps: passes with the same weights.
        disks: how points are drawn, see `draw_disks`.
        norms: "task": one set of batch norms per task. Ours: "shared": one set for all, so that one pass of
            the trunk serves all tasks; a third of the cost, but data sets are mixed in the batch norms.
        through: Ours: in training a task's own answer carries gradients to the lap before; other tasks' never
            do in `learn`.
    """

    builder: tuple[str, dict[str, Any]]

    def __init__(
        self,
        tasks: Sequence[Task],
        view: View,
        sizes: Sizes | None = None,
        *,
        laps: int = 3,
        disks: str = "hard",
        norms: str = "task",
        through: bool = True,
    ):
        super().__init__()
        self.sizes = sizes = sizes or Sizes(side=view.size[0])
        if unknown := [t.name for t in tasks if not isinstance(t.shape, Vector | Points | Map)]:
            raise UsageError(f"iFAN has no head for: {', '.join(unknown)}")
        if disks not in ("hard", "gauss") or norms not in ("task", SHARED) or laps < 1:
            raise UsageError(
                'disks are "hard" or "gauss", norms "task" or "shared", and there is at least one lap'
            )
        if view.size != (sizes.side, sizes.side) or sizes.side % (sizes.stride * 2**sizes.levels):
            raise UsageError(
                f"the crop must be square, a multiple of {sizes.stride * 2**sizes.levels}, and as large as"
                " sizes.side"
            )
        self.tasks, self.view, self.laps, self.disks, self.norms, self.through = (
            tuple(tasks),
            view,
            laps,
            disks,
            norms,
            through,
        )
        self.paths = {t.name: SHARED if norms == SHARED else t.name for t in tasks}
        paths = list(dict.fromkeys(self.paths.values()))
        self.encoders = nn.ModuleDict({t.name: ReEncoder(t.shape, sizes, paths) for t in tasks})
        coded = [sum(w) for w in zip(*[e.widths for e in self.encoders.values()], strict=True)]
        shapes: list[Any] = [t.shape for t in tasks]
        self.trunk = Trunk(sizes, sum(s.n for s in shapes), coded, paths)
        self.heads = nn.ModuleDict({t.name: Head(t.shape, self.trunk) for t in tasks})
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, nonlinearity="relu")
            elif sizes.official and isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.01  # Keras' 0.99
        if sizes.official:
            for m in (*self.trunk.ups.modules(), *self.heads.modules()):
                if isinstance(m, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(m.weight)
                if isinstance(m, nn.Linear):
                    nn.init.zeros_(m.bias)
        for t in tasks:
            self.register_buffer(f"mean_{t.name}", self._blank(t.shape))

    def _blank(self, shape: Any) -> Tensor:
        """The initial answer: points in the middle, equal probabilities of all classes."""
        if isinstance(shape, Points):
            return torch.full((shape.n, 2), 0.5)
        side = self.sizes.side // self.sizes.stride
        return torch.full((shape.n, side, side) if isinstance(shape, Map) else (shape.n,), 1 / shape.n)

    def set_means(self, means: Mapping[str, Tensor]) -> None:
        """Keep the training set's mean answers, the feedback of the first lap.

        Args:
            means: by task, as `feedback` gives them, without the batch axis: (n, h, w) or (n,) probabilities,
                (n, 2) fractions.
        """
        for name, mean in means.items():
            mine = self.get_buffer(f"mean_{name}")
            if mean.shape != mine.shape:
                raise UsageError(f"the mean of {name} is {tuple(mean.shape)}, not {tuple(mine.shape)}")
            mine.copy_(mean)

    @torch.no_grad()
    def begin_at_means(self) -> None:
        """Ours: dense heads answer the mean answers until they learn: no weights, and a bias that gives the
        mean.
        """
        for t in self.tasks:
            if isinstance(out := self.heads[t.name].out, nn.Linear):
                mean = self.get_buffer(f"mean_{t.name}")
                nn.init.zeros_(out.weight)
                raw = unsettled(t, mean, 1e-4)
                out.bias.copy_((raw - 0.5).T.flatten() if isinstance(t.shape, Points) else raw)

    def rates(self, inputs: float = 50.0) -> dict[str, float]:
        """Prefixes of dense heads' weights -> a factor on their learning rate, for `adamw`.

        The factor is `inputs` divided by the head's number of inputs.

        Ours: a dense head reads a flattened map, thousands of numbers, and AdamW moves all its weights by one
        learning rate per step: its answer would move by thousands of them. At the rate of the convolutions
        points never came back from that.
        """
        dense = {n: h.out for n, h in self.heads.items() if isinstance(h.out, nn.Linear)}
        return {f"heads.{n}.": min(1.0, inputs / out.in_features) for n, out in dense.items()}

    def mean_answers(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """What the labels of these batches answer on average, for `set_means`, before training.

        Give it some hundred crops of the training set without augmentation. A mean is over the known labels
        of its task, place by place and attribute by attribute; where there is none, the model's present mean
        stays. Vectors with one number per face, such as years, count as classes by the rounded number.
        """
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for batch in batches:
            for t in self.tasks:
                if t.name in batch.targets:
                    mean = self.get_buffer(f"mean_{t.name}")
                    target, mask = (torch.from_numpy(part[t.name]) for part in (batch.targets, batch.mask))
                    value, weight = _labeled(t, target, mask, mean.shape)
                    sums[t.name] = sums.get(t.name, 0) + value.sum(0)
                    counts[t.name] = counts.get(t.name, 0) + weight.sum(0)
        return {
            n: torch.where(counts[n] > 0, s / counts[n].clamp_min(1e-9), self.get_buffer(f"mean_{n}")).float()
            for n, s in sums.items()
        }

    def first(self, batch: int) -> dict[str, Tensor]:
        """Task name -> the mean answer, for each picture of a batch."""
        means = {t.name: self.get_buffer(f"mean_{t.name}") for t in self.tasks}
        return {k: m[None].repeat(batch, *[1] * m.ndim) for k, m in means.items()}

    def feedback(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw answers -> answers as they are fed back: probabilities; points stay."""
        return {t.name: _settled(t, raw[t.name]) for t in self.tasks}

    def maps(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Settled answers -> feedback maps (B, n, s, s)."""
        side, out = self.sizes.side, {}
        for t in self.tasks:
            x = state[t.name]
            if isinstance(t.shape, Points):
                out[t.name] = draw_disks(x, side, self.disks)
            elif isinstance(t.shape, Map):
                out[t.name] = (
                    x
                    if x.shape[-1] == side
                    else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
                )
            else:
                out[t.name] = x[:, :, None, None].repeat(
                    1, 1, side, side
                )  # repeated: convolutions want real memory
        return out

    def lap(
        self, images: Tensor, state: Mapping[str, Tensor], names: Sequence[str], learn: bool
    ) -> dict[str, Tensor]:
        """One pass for the named tasks, all from the same settled answers `state`: -> raw answers."""
        maps, answers = self.maps(state), dict[str, Tensor]()
        raw, coded = torch.cat(list(maps.values()), 1), None
        for key in dict.fromkeys(self.paths[n] for n in names):
            path = Path(key, learn)
            # without norms of their own, the re-encoders are the same for all paths
            if coded is None or (self.sizes.coded_norm and not self.sizes.official):
                parts = [self.encoders[n](m, path) for n, m in maps.items()]
                coded = [torch.cat(stage, 1) for stage in zip(*parts, strict=True)]
            features = self.trunk(images, raw, coded, path)
            answers |= {n: self.heads[n](features, path) for n in names if self.paths[n] == key}
        return answers

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        state, names = self.first(images.shape[0]), [t.name for t in self.tasks]
        for _ in range(self.laps - 1):
            state = self.feedback(self.lap(images, state, names, self.training))
            if not self.through:
                state = {k: v.detach() for k, v in state.items()}
        raw = self.lap(images, state, names, self.training)
        return {n: raw[n] for n in names}

    def learn(
        self,
        images: Tensor,
        targets: Mapping[str, Tensor],
        mask: Mapping[str, Tensor],
        criteria: Mapping[str, Criterion],
    ) -> dict[str, Tensor]:
        """Hybrid training: one loss per task, from the rows labeled for it, summed over the laps (deep
        supervision).

        Other tasks answer on these rows in evaluation mode and without gradient; they are feedback, nothing
        else. A task without rows has zero loss with zero (not missing) gradients.
        """
        losses = {}
        for t in self.tasks:
            rows = mask[t.name].reshape(len(images), -1).any(1) if t.name in mask else None
            if rows is None or not bool(rows.any()):
                losses[t.name] = torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0
            else:
                losses[t.name] = self._learn_one(
                    t.name, images[rows], targets[t.name][rows], mask[t.name][rows], criteria[t.name]
                )
        return losses

    def _learn_one(
        self, name: str, images: Tensor, target: Tensor, mask: Tensor, criterion: Criterion
    ) -> Tensor:
        state, total = self.first(images.shape[0]), images.new_zeros(())
        others = [t.name for t in self.tasks if t.name != name]
        for lap in range(self.laps):
            own = self.lap(images, state, [name], self.training)[name]
            total = total + criterion(own.float(), target, mask)
            if lap < self.laps - 1:
                with torch.no_grad():
                    answers = self.lap(images, state, others, False) if others else {}
                state = self.feedback({**answers, name: own if self.through else own.detach()})
        return total


def _settled(t: Task, raw: Tensor) -> Tensor:
    if t.activation == "none":  # coordinates and angles stay as they are
        return raw
    # attributes exclude nothing: one yes or no each
    return raw.sigmoid() if t.activation == "sigmoid" else raw.softmax(1)


def unsettled(t: Task, settled: Tensor, minimum: float) -> Tensor:
    """The logits of these probabilities, which are clamped to at least `minimum`."""
    if t.activation == "none":
        return settled
    return settled.logit(minimum) if t.activation == "sigmoid" else settled.clamp_min(minimum).log()


def _labeled(t: Task, target: Tensor, mask: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Targets as settled answers times their weights, and the weights: (B, *shape) each, or (B, 1, h, w)
    weights of a map.
    """
    if isinstance(t.shape, Map):
        seen = ((target != UNKNOWN) & mask[:, None, None]).double()
        hot = (
            F.one_hot(torch.where(seen > 0, target, 0).long(), t.shape.n).permute(0, 3, 1, 2) * seen[:, None]
        )
        return F.adaptive_avg_pool2d(hot, shape[1:]), F.adaptive_avg_pool2d(seen[:, None], shape[1:])  # type: ignore[arg-type]
    if target.ndim == 2 and target.shape[1] == 2 and isinstance(t.shape, Vector) and t.shape.n > 2:
        target = target.mean(1)  # a range of years counts by its middle
    if isinstance(t.shape, Vector) and target.ndim == 1:
        target = F.one_hot(target.round().long(), t.shape.n)
    weight = mask.double().reshape(mask.shape + (1,) * (target.ndim - mask.ndim)).expand(target.shape)
    return target * weight, weight


def plug_in(model: IFAN, new: Task) -> IFAN:
    """Add a task to a trained model: new head, re-encoder, mean answer and path; the rest is bit-equal.

    The new feedback channels come last wherever they are read, and old layers read them with zero weights:
    old tasks answer as before until training goes on. Ours: the new path starts as a copy of the first task's
    batch norms.
    """
    if new.name in model.paths:
        raise UsageError(f"the model has the task {new.name!r} already")
    more = IFAN(
        (*model.tasks, new),
        model.view,
        model.sizes,
        laps=model.laps,
        disks=model.disks,
        norms=model.norms,
        through=model.through,
    )
    name, arguments = model.builder
    key = "tasks" if "tasks" in arguments else "plugged"
    more.builder = (name, {**arguments, key: [*arguments.get(key, []), new.name]})
    old, first = model.state_dict(), model.tasks[0].name
    with torch.no_grad():
        for k, mine in more.state_dict().items():
            value = old.get(k, old.get(k.replace(f".norms.{new.name}.", f".norms.{first}.")))
            if value is not None:
                place_within(mine, value)
    return more.train(model.training)


def ifan(
    *,
    emotion: bool = True,
    laps: int = 3,
    disks: str = "hard",
    through: bool = True,
    plugged: Sequence[str] = (),
) -> IFAN:
    """The paper's network at 128 pixels: Helen parsing, MTFL points and, in the 3-task net, BNU-LSVED
    emotions.

    The view equals the official Keras preprocessing: std is 1/255, so pixels stay on 0..255, less the Caffe
    means. Ours: RGB, and crops aligned to the "head" template; the official code resizes a face box.

    Args:
        emotion: the 3-task net; False: the 2-task net, whose re-encoders have batch norms.
        plugged: names of tasks added later.
    """
    tasks = (HELEN9, POINTS5, EMOTION7) if emotion else (HELEN9, POINTS5)
    view = View((128, 128), "head", CAFFE_MEAN, (1 / 255, 1 / 255, 1 / 255))
    more = [task(n) for n in plugged]
    model = IFAN(
        (*tasks, *more),
        view,
        Sizes(coded_norm=not emotion, official=True),
        laps=laps,
        disks=disks,
        through=through,
    )
    arguments = {
        "emotion": emotion,
        "laps": laps,
        "disks": disks,
        "through": through,
        "plugged": list(plugged),
    }
    model.builder = ("ifan", arguments)
    return model


def ifan_tiny(
    *,
    tasks: Sequence[Task] = (PARSING, POINTS5, EXPRESSION),
    size: int = 112,
    laps: int = 3,
    norms: str = "task",
    disks: str = "hard",
    through: bool = True,
) -> IFAN:
    """iFAN for a CPU.

    Ours: a first convolution of stride 4, two levels (strides 4 and 8) and a bottleneck at 16, growth 8, two
    layers a block, narrow transitions and re-encoders; std 0.225 in place of 1/255, so that the picture does
    not drown the feedback, which is 0..1.

    Args:
        size: side of the crop in pixels, a multiple of 16.
    """
    view = View((size, size), "head", CAFFE_MEAN, (0.225, 0.225, 0.225))
    sizes = Sizes(
        side=size, stride=4, growth=8, layers=2, levels=2, first=16, start=16, up=32, codes=(8, 16, 16)
    )
    model = IFAN(tasks, view, sizes, laps=laps, disks=disks, norms=norms, through=through)
    arguments = {
        "tasks": [t.name for t in tasks],
        "size": size,
        "laps": laps,
        "norms": norms,
        "disks": disks,
        "through": through,
    }
    model.builder = ("ifan_tiny", arguments)
    return model

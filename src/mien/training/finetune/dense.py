"""Heads for points and masks on the frozen network's maps, and their training.

The head adds 1x1 convolutions of the maps on the grid of a quarter of the crop, has one 3x3 convolution, and
gives a map per point or class. Masks get a second step at twice the resolution, from the encoder's first map.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mien import geometry
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.tasks import Map, Task
from mien.training.checkpoint import load_run
from mien.training.ema import Average
from mien.training.finetune.graph import FeatureNetwork
from mien.training.loop import fit
from mien.training.loss_weighting import Fixed
from mien.training.recipe import Recipe, adamw, cosine
from mien.types import Crop, FaceModel, Floats, Sample, View

WIDTH = 64  # channels of the head
FINE = 16  # channels of the second step
GRID = 4  # stride of the first step's grid
BATCH = 16
RATE = 2e-3
STEPS = (150, 800)  # fewest and most
EPOCHS = 24
ROUNDS = 5  # validations of a training
MEASURED = 64  # faces by which the maps are standardized
AUGMENT = Augment(degrees=12, scale=0.1, photometric=0.7, fill_border=0.3, paste_background=0.0, noise=0.05)


@dataclass(frozen=True)
class Source:
    """A map that the head reads.

    Attributes:
        tensor: its name in the graph.
        channels: of the map.
        stride: pixels of the crop per cell.
    """

    tensor: str
    channels: int
    stride: int


class DenseHead(nn.Module):
    """Maps -> logits (B, n, h, w).

    Args:
        sources: of the maps, in their order.
        n: points or classes.
        fine: whether a map of stride 2 is among the sources and doubles the resolution.
    """

    def __init__(self, sources: Sequence[Source], n: int, fine: bool):
        super().__init__()
        self.sources, self.fine, self.n = tuple(sources), fine, n
        self.coarse = [i for i, s in enumerate(sources) if s.stride >= GRID]
        self.laterals = nn.ModuleList(nn.Conv2d(sources[i].channels, WIDTH, 1) for i in self.coarse)
        self.mix, self.out = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, n, 1)
        if fine:
            self.early_at = next(i for i, s in enumerate(sources) if s.stride == GRID // 2)
            self.early = nn.Conv2d(sources[self.early_at].channels, FINE, 3, padding=1)
            self.context, self.join = nn.Conv2d(WIDTH, FINE, 1), nn.Conv2d(2 * FINE, FINE, 3, padding=1)
            self.correct = nn.Conv2d(FINE, n, 1)
            nn.init.zeros_(self.correct.weight)
            nn.init.zeros_(cast(Tensor, self.correct.bias))
        for i, s in enumerate(sources):
            self.register_buffer(f"mean{i}", torch.zeros(1, s.channels, 1, 1))
            self.register_buffer(f"spread{i}", torch.ones(1, s.channels, 1, 1))

    def standardize(self, maps: Sequence[Tensor]) -> None:
        """Set the mean and spread of each channel from some faces."""
        for i, m in enumerate(maps):
            spread = m.std((0, 2, 3), keepdim=True)
            getattr(self, f"mean{i}").copy_(m.mean((0, 2, 3), keepdim=True))
            getattr(self, f"spread{i}").copy_(spread.clamp_min(0.01 * float(spread.mean()) + 1e-6))

    def _plain(self, maps: Sequence[Tensor], i: int) -> Tensor:
        return cast(Tensor, (maps[i] - getattr(self, f"mean{i}")) / getattr(self, f"spread{i}"))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        parts = list[Tensor]()
        for lateral, i in zip(self.laterals, self.coarse, strict=True):
            part = lateral(self._plain(maps, i))
            k = self.sources[i].stride // GRID
            parts.append(F.interpolate(part, scale_factor=float(k), mode="nearest") if k > 1 else part)
        x = F.relu(self.mix(F.relu(torch.stack(parts).sum(0))))
        logits: Tensor = self.out(x)
        if not self.fine:
            return logits
        logits, context = (
            F.interpolate(t, scale_factor=2.0, mode="bilinear", align_corners=False)
            for t in (logits, self.context(x))
        )
        early = F.relu(self.early(self._plain(maps, self.early_at)))
        joined: Tensor = self.correct(F.relu(self.join(torch.cat([early, F.relu(context)], 1))))
        return logits + joined

    def arrays(self) -> dict[str, tuple[Floats, Floats]]:
        """Weight and bias of each convolution, with the standardization inside of those that allow it.

        The 3x3 convolution of the early map pads with zeros, so that its standardization stays outside: the
        entry "early.scale" has a 1x1 convolution per channel for it.
        """

        def both(layer: nn.Module) -> tuple[Floats, Floats]:
            conv = cast(nn.Conv2d, layer)
            assert conv.bias is not None
            return conv.weight.detach().numpy().copy(), conv.bias.detach().numpy().copy()

        out = {}
        for k, i in enumerate(self.coarse):
            weight, bias = both(self.laterals[k])
            mean, spread = (getattr(self, f"{n}{i}").numpy().reshape(-1) for n in ("mean", "spread"))
            folded = (weight / spread[None, :, None, None]).astype(np.float32)
            out[f"lateral{k}"] = folded, (bias - folded[:, :, 0, 0] @ mean).astype(np.float32)
        names = ("mix", "out", *(("early", "context", "join", "correct") if self.fine else ()))
        out |= {n: both(getattr(self, n)) for n in names}
        if self.fine:
            i = self.early_at
            mean, spread = (getattr(self, f"{n}{i}").numpy().reshape(-1) for n in ("mean", "spread"))
            scale = (1 / spread).astype(np.float32)
            out["early.scale"] = scale.reshape(-1, 1, 1, 1), (-mean * scale).astype(np.float32)
        return out


class FrozenMaps:
    """Normalized pictures (B, 3, H, W) -> the maps of a frozen network in ONNX Runtime, as tensors."""

    def __init__(self, network: FeatureNetwork):
        self.network = network

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(m) for m in self.network(images.contiguous().numpy())]

    def __deepcopy__(self, memo: Any) -> FrozenMaps:
        return self  # a session has no weights that learn


class OnFrozen(nn.Module):
    """One new head on a frozen network, as the training loop takes it."""

    def __init__(self, head: DenseHead, maps: FrozenMaps, task: Task[Any], view: View, builder: str):
        super().__init__()
        self.head, self.maps, self.tasks, self.view = head, maps, (task,), view
        self.builder: tuple[str, dict[str, object]] = (builder, {})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {self.tasks[0].name: self.head(self.maps(images))}


class LooseFaces:
    """Training pictures: each face with some surroundings, decoded once and kept in memory.

    Args:
        name: of the task.
        faces: (pixels, five points, label) each, in one geometry.
    """

    def __init__(self, name: str, faces: Sequence[tuple[Any, Any, Any]]):
        self.name, self.faces = name, faces

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, i: int, /) -> Sample:
        pixels, points, label = self.faces[i]
        return Sample(pixels, {self.name: label}, points, f"{i}")


def steps_for(pictures: int) -> int:
    """Steps of a training, in full rounds."""
    steps = int(np.clip(EPOCHS * pictures / BATCH, *STEPS))
    return ROUNDS * -(-steps // ROUNDS)


def _steps_done(last: Path) -> int:
    """Steps of the run whose complete state is in that file; 0 without a file."""
    if not last.is_file():
        return 0
    with safe_open(last, "pt") as file:
        return int(json.loads(file.metadata()["mien"])["step"])


def train(
    recipe: Recipe,
    folder: Path,
    facts: Mapping[str, Any],
    validate: Callable[[nn.Module], tuple[float, float]],
    log: Callable[[str], None],
    headline: str,
) -> nn.Module:
    """Train with `fit` in `ROUNDS` rounds; the averaged model of the round with the lowest validation loss.

    A stopped training goes on from its last round. Another one in the folder, of other facts, is forgotten.

    Args:
        recipe: what is trained.
        folder: of the run.
        facts: what a run must have been started with to go on.
        validate: averaged model -> (loss, headline metric).
        log: takes a line for each round.
        headline: name of the metric.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    run = folder / f"run-{digest}"
    every, note = recipe.steps // ROUNDS, run / "rounds.json"
    rounds: list[dict[str, float]] = json.loads(note.read_text("utf-8")) if note.is_file() else []
    model = cast(nn.Module, recipe.model)
    rates = [group["lr"] for group in recipe.optimizer.param_groups]
    while len(rounds) < ROUNDS:
        last = run / "last.safetensors"
        done = _steps_done(last)
        goal = every * (len(rounds) + 1)
        if done < goal:
            for group, rate in zip(recipe.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # `fit` takes it as the rate that its schedule changes
            averaged = cast(
                nn.Module,
                fit(
                    recipe, run, resume=True, stop_after=goal - done, report=every, save=every, progress=False
                ),
            )
        else:  # stopped between the training of a round and its note
            average = Average(model, recipe.ema)
            load_run(last, model, average.module, recipe.optimizer, recipe.loss_weighting)
            averaged = average.module
        loss, score = validate(averaged)
        better = all(loss < r["loss"] for r in rounds)
        if better:
            save_file({k: v.contiguous() for k, v in averaged.state_dict().items()}, run / "best.part")
            (run / "best.part").replace(run / "best.safetensors")
        rounds.append({"step": goal, "loss": loss, "score": score})
        part = note.with_suffix(".part")
        part.write_text(json.dumps(rounds), encoding="utf-8")
        part.replace(note)
        log(
            f"step {goal} of {recipe.steps}: validation loss {loss:.4f}, {headline} {score:.3g}"
            + ("  (best so far)" if better else "")
        )
    best = Average(model, recipe.ema).module
    best.load_state_dict(load_file(run / "best.safetensors"))
    return best.eval()


# --- A head on the frozen network


@dataclass(frozen=True)
class Pictures:
    """Faces for training and for validation.

    Attributes:
        train: (pixels with surroundings, five points, label) each.
        val: aligned faces.
        val_labels: their labels, in pixels of the photos.
        facts: what identifies the pictures and their labels.
    """

    train: Sequence[tuple[Any, Any, Any]]
    val: Sequence[Crop]
    val_labels: Sequence[Any]
    facts: Sequence[str]


def predict(
    model: Callable[[Tensor], Mapping[str, Tensor]], name: str, crops: Sequence[Crop], view: View
) -> Floats:
    """Raw numbers of one task for aligned faces, (n, ...)."""
    parts = list[Floats]()
    with torch.no_grad():
        for i in range(0, len(crops), BATCH):
            images = view.tensor(np.stack([c.pixels for c in crops[i : i + BATCH]]))
            parts.append(model(torch.from_numpy(images))[name].numpy())
    return np.concatenate(parts)


def validation(task: Task[Any], pictures: Pictures, view: View) -> Callable[[nn.Module], tuple[float, float]]:
    """A function: model -> (loss, headline metric) on the validation part."""
    pairs = [
        task.encode_target(label, crop.from_photo, False, view.size)
        for label, crop in zip(pictures.val_labels, pictures.val, strict=True)
    ]
    target, mask = (torch.from_numpy(np.stack([np.asarray(p[i]) for p in pairs])) for i in (0, 1))

    def validate(model: nn.Module) -> tuple[float, float]:
        raw = predict(model.eval(), task.name, pictures.val, view)
        loss = float(task.criterion()(torch.from_numpy(raw), target, mask))
        metrics = task.metrics()
        for numbers, crop, label in zip(raw, pictures.val, pictures.val_labels, strict=True):
            metrics.update(task.read(numbers, crop), label)
        return loss, metrics.compute()[metrics.headline]

    return validate


def recipe_for(model: nn.Module, task: Task[Any], pictures: Pictures, view: View, *, lr: float, seed: int,
        mirror: bool, rates: Mapping[str, float], weights: Mapping[str, float]) -> Recipe:  # fmt: skip
    """The training of a new head, alone or with more of the network.

    Args:
        mirror: whether pictures are mirrored too.
        rates: prefix of weight names -> factor on the learning rate.
        weights: loss name -> weight.
    """
    augment = replace(AUGMENT, mirror=0.5 if mirror else 0.0)
    source = FaceSource(LooseFaces(task.name, pictures.train), view, augment)
    mixture = Mixture([(source, min(BATCH, max(2, len(pictures.train))))], (task,), seed=seed, view=view)
    steps = steps_for(len(pictures.train))
    return Recipe(
        name="finetune",
        model=cast(FaceModel, model),
        mixture=mixture,
        optimizer=adamw(model, lr, rates=rates),
        schedule=cosine(max(1, steps // 20)),
        steps=steps,
        loss_weighting=Fixed(weights),
        seed=seed,
        ema=0.98,
    )


def train_head(
    task: Task[Any],
    pictures: Pictures,
    sources: Sequence[Source],
    network: FeatureNetwork,
    view: View,
    folder: Path,
    *,
    seed: int,
    mirror: bool,
    log: Callable[[str], None],
) -> DenseHead:
    """A head for points or masks; the network stands still."""
    torch.manual_seed(seed)
    shape = task.shape
    fine = isinstance(shape, Map) and any(s.stride < GRID for s in sources)
    head = DenseHead(sources, shape.n, fine)  # type: ignore[union-attr]
    maps = FrozenMaps(network)
    crops = [geometry.align(pixels, points, view).pixels for pixels, points, _ in pictures.train[:MEASURED]]
    head.standardize(maps(torch.from_numpy(view.tensor(np.stack(crops)))))
    model = OnFrozen(head, maps, task, view, "finetune")
    recipe = recipe_for(model, task, pictures, view, lr=RATE, seed=seed, mirror=mirror, rates={}, weights={})
    facts = {"task": repr(task), "seed": seed, "steps": recipe.steps, "mirror": mirror,
        "pictures": list(pictures.facts), "maps": network.sha256, "depth": "head"}  # fmt: skip
    best = train(recipe, folder, facts, validation(task, pictures, view), log, task.metrics().headline)
    return cast(OnFrozen, best).head

"""Fine-tuning of more than the head: the decoders, or the encoder too, while the old tasks are protected.

A copy of the network as it was gives the targets of the old tasks on the user's own pictures (learning
without forgetting, Li and Hoiem, ECCV 2016). Batch norms keep their statistics and scales, and the learning
rate is low: other settings damage the old tasks within a hundred steps.

- `decoder`: the encoder stands still. What learns is between it and the answers: for classes, attributes and
  numbers the query decoder and the summary of the face; for points and masks the pyramid with its branches.
  Old tasks of the other parts, such as identity, stay as they are.
- `all`: the encoder's stages after the second learn too, and all decoders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mien.data.pack_mixture import LOSS_WEIGHTS
from mien.errors import BadWeights
from mien.models.mien import Mien, distance
from mien.tasks import Map, Points, Task
from mien.training.finetune.dense import DenseHead, Pictures, predict, recipe_for, train, validation
from mien.training.finetune.heads import Layers
from mien.types import Crop, Floats

RATE = 1e-4  # of the network; 1.5e-4 and more damage old tasks
HEAD_FACTOR = 5.0  # on the learning rate of the new head
KEEP = 2.0  # weight of the old tasks' losses, next to their usual ones
FROZEN_STAGES = 2  # of the encoder, at the depth "all"
FROZEN_BY_DEPTH = {"decoder": 7, "all": FROZEN_STAGES}


class VectorHead(nn.Module):
    """Linear layers with ReLU between them, from the layers of a trained head."""

    def __init__(self, layers: Layers):
        super().__init__()
        self.linear = nn.ModuleList()
        for weight, bias in layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight.data, layer.bias.data = (
                torch.from_numpy(weight.copy()),
                torch.from_numpy(bias.copy()),
            )
            self.linear.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.linear):
            x = layer(x) if i == 0 else layer(F.relu(x))
        return x

    def layers(self) -> Layers:
        """Weight and bias of each layer."""
        return [
            (m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy())
            for m in cast("Sequence[nn.Linear]", self.linear)
        ]


class Deepened(nn.Module):
    """A network that learns a new task, and to keep its old ones.

    Args:
        body: the network.
        reference: the network as it was.
        head: of the new task, trained on the frozen network.
        task: the new task.
        pooled: maps, from the last one, whose means a vector head reads.
        depth: "decoder" or "all".
    """

    def __init__(
        self, body: Mien, reference: Mien, head: nn.Module, task: Task[Any], pooled: int, depth: str
    ):
        super().__init__()
        self.body, self.head, self.pooled, self.depth = body, head, pooled, depth
        self.reference = (reference.eval().requires_grad_(False),)  # in a tuple: not among the weights
        self.tasks, self.view, self.builder = (task,), body.view, body.builder
        self._choose()

    def _choose(self) -> None:
        """Which weights learn."""
        self.body.requires_grad_(self.depth == "all")
        if self.depth == "decoder":
            for part in self._parts_read():
                part.requires_grad_(True)
        self.body.encoder.freeze(FROZEN_BY_DEPTH[self.depth])
        for module in self.body.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)

    def _parts_read(self) -> list[nn.Module]:
        """The decoders that the new head reads."""
        dense = isinstance(self.tasks[0].shape, Map | Points)
        parts = [self.body.dense] if dense else [self.body.values, self.body.summary]
        return [p for p in parts if p is not None]

    def _features(self, maps: list[Tensor]) -> Any:
        if isinstance(self.head, DenseHead):
            found = {m.shape[-1]: m for m in maps}
            width = self.view.size[0]
            given = [found[width // s.stride] for s in self.head.sources]
            if self.body.dense is not None:  # the first source, see `mien.training.finetune.run`
                given[0] = self.body.dense.pyramid(maps[-len(self.body.dense.pyramid.laterals) :])
            return given
        parts = [] if self.body.summary is None else [self.body.summary(maps[-1]).mean((2, 3))]
        return torch.cat([*parts, *(maps[-1 - i].mean((2, 3)) for i in range(self.pooled))], 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {self.tasks[0].name: self.head(self._features(self.body.encoder(images)))}

    def learn(
        self, images: Tensor, targets: dict[str, Tensor], mask: dict[str, Tensor], criteria: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Loss of the new task, and for each old one that can change its distance from what it was."""
        name = self.tasks[0].name
        maps = self.body.encoder(images)
        losses = {name: criteria[name](self.head(self._features(maps)), targets[name], mask[name])}
        with torch.no_grad():
            before = self.reference[0].encoder(images)
        by_name = {t.name: t for t in self.body.tasks}
        for names, head in self.body.heads.items():
            learns = any(p.requires_grad for part in self.body.parts[names] for p in part.parameters())
            if not learns and self.depth == "decoder":
                continue
            outputs = head(maps)
            with torch.no_grad():
                goals = self.reference[0].heads[names](before)
            losses |= {f"keep {n}": distance(by_name[n], outputs[n], goals[n]) for n in names}
        return losses


@dataclass(frozen=True)
class Deep:
    """What a deeper training gave.

    Attributes:
        body: the network, whose old tasks may have moved.
        head: of the new task.
        loss: on the validation part.
        frozen_loss: of the head on the network as it was.
    """

    body: Mien
    head: nn.Module
    loss: float
    frozen_loss: float


def deepen(
    base: Path,
    head: nn.Module,
    task: Task[Any],
    pictures: Pictures,
    folder: Path,
    *,
    pooled: int,
    depth: str,
    seed: int,
    mirror: bool,
    log: Callable[[str], None],
) -> Deep:
    """Train the network and a head that was trained on it.

    Raises:
        BadWeights: the file holds another network than mien's own.
    """
    from mien.export import onnx_import  # the one part of `export` that a training starts from

    body, reference = onnx_import.load(base), onnx_import.load(base)
    if not isinstance(body, Mien) or not isinstance(reference, Mien):
        raise BadWeights(
            f"{base} holds a {type(body).__name__}, which --depth {depth} cannot train; leave --depth out"
        )
    torch.manual_seed(seed)
    model = Deepened(body, reference, head, task, pooled, depth)
    validate = validation(task, pictures, body.view)
    frozen_loss, _ = validate(model)
    weights = {f"keep {n}": KEEP * w for n, w in LOSS_WEIGHTS.items()}
    recipe = recipe_for(
        model, task, pictures, body.view, lr=RATE, seed=seed, mirror=mirror,
        rates={"body.": 1.0, "head.": HEAD_FACTOR}, weights=weights,
    )  # fmt: skip
    facts = {"task": repr(task), "seed": seed, "steps": recipe.steps, "depth": depth,
        "pictures": list(pictures.facts), "frozen_loss": frozen_loss}  # fmt: skip
    best = cast(Deepened, train(recipe, folder, facts, validate, log, task.metrics().headline))
    fresh = onnx_import.load(base)  # an averaged copy shares functions with its original
    assert isinstance(fresh, Mien)
    fresh.load_state_dict(best.body.state_dict())
    return Deep(fresh.eval(), best.head, validate(best)[0], frozen_loss)


def write(body: Mien, path: Path, **header: Any) -> None:
    """The network as a new file, without the new head."""
    from mien.export.onnx_export import export

    export(body, path, **header)


def raw_of(
    body: nn.Module, head: nn.Module, task: Task[Any], pooled: int, depth: str, crops: Sequence[Crop]
) -> Floats:
    """Raw numbers of the new task by the trained network, (n, ...)."""
    model = Deepened(cast(Mien, body), cast(Mien, body), head, task, pooled, depth).eval()
    return predict(model, task.name, crops, cast(Mien, body).view)

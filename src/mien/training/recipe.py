"""What a training run is: a `Recipe`, learning-rate schedules and optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.training.loss_weighting import Fixed, LossWeighting
from mien.types import FaceModel


def cosine(warmup: int) -> Callable[[int, int], float]:
    """Linear warm-up over `warmup` steps, then a cosine to zero: (step, steps) -> factor on the learning
    rate.
    """

    def factor(step: int, steps: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def adamw(
    model: nn.Module,
    lr: float,
    *,
    heads: float = 2.0,
    weight_decay: float = 0.02,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW over the weights that learn; those outside `model.encoder` learn `heads` times as fast, for they
    start from nothing.

    Args:
        lr: of the encoder; of everything where the model has none.
        rates: how the names of weights begin -> a factor on their learning rate, in place of `heads`.
    """
    groups, rates = dict[float, list[nn.Parameter]]({1.0: []}), rates or {}  # the encoder's come first
    others = (
        heads
        if any(n.startswith("encoder.") and p.requires_grad for n, p in model.named_parameters())
        else 1.0
    )
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = next(
                (f for begin, f in rates.items() if name.startswith(begin)),
                1.0 if name.startswith("encoder.") else others,
            )
            groups.setdefault(factor, []).append(p)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr * factor} for factor, p in groups.items() if p], weight_decay=weight_decay
    )


@dataclass
class Recipe:
    """How a model is raised.

    Attributes:
        name: of the run. model: built, with `tasks`, `view` and `builder`.
        mixture: where batches come from; several, of one view each, share every step (Faceptor: 112 and 512
            pixels).
        optimizer: over the model's parameters, and over those of `criteria`.
        schedule: (step, steps) -> factor on each group's learning rate.
        steps: optimiser steps in all. balance: dict of losses -> dict of weights. seed: of everything random.
        ema: decay of the averaged weights, which are the ones evaluated and exported. clip: largest gradient
            norm.
        bf16: autocast of the forward, where it is measured to be faster.
        accumulate: micro-batches a step, for less memory: gradients are those of the whole batch, but for
            batch norms.
        protocols: names in `evaluate.PROTOCOLS`, run on the averaged weights every `every` steps, on the
            first `limit` pictures of each.
        data: sets and licences, for the provenance of the weights.
        criteria: by task, in place of the task's own; one that is an nn.Module is trained and saved with the
            run, and
            is no part of the model's weights.
    """

    name: str
    model: FaceModel
    mixture: Mixture | Sequence[Mixture]
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int, int], float]
    steps: int
    balance: LossWeighting = field(default_factory=Fixed)
    seed: int = 1
    ema: float = 0.999
    clip: float = 5.0
    bf16: bool = False
    accumulate: int = 1
    protocols: Sequence[str] = ()
    every: int = 1000
    limit: int | None = None
    data: Sequence[str] = ()
    criteria: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mixtures(self) -> tuple[Mixture, ...]:
        """All of them, one or several."""
        return (self.mixture,) if isinstance(self.mixture, Mixture) else tuple(self.mixture)

    def provenance(self, step: int) -> dict[str, Any]:
        """What the header of weights says of how they were raised."""
        return {"recipe": self.name, "step": step, "seed": self.seed, "data": list(self.data)}

    def criteria_by_task(self) -> dict[str, Any]:
        """A criterion for each task of the model.

        Raises:
            UsageError: a criterion for no task of the model, parameters in one that the optimiser does not
                train, a
                task that is in no mixture, or `accumulate` below 1.
        """
        tasks = {t.name: t for t in self.model.tasks}
        if self.accumulate < 1:
            raise UsageError(
                f"accumulate is the number of micro-batches a step, 1 or more; got {self.accumulate}"
            )
        if unknown := [n for n in self.criteria if n not in tasks]:
            raise UsageError(f"criteria for {', '.join(unknown)}, but the model answers: {', '.join(tasks)}")
        criteria = {n: self.criteria[n] if n in self.criteria else t.criterion() for n, t in tasks.items()}
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for name, criterion in criteria.items():
            if isinstance(criterion, nn.Module) and any(
                p.requires_grad and id(p) not in trained for p in criterion.parameters()
            ):
                raise UsageError(
                    f"the optimizer does not train the criterion of {name}; make it once, for both criteria="
                    " and optimizer="
                )
        if absent := [n for n in tasks if not any(n == t.name for m in self.mixtures for t in m.tasks)]:
            raise UsageError(f"no mixture has the task {', '.join(absent)}; name it in Mixture(tasks=...)")
        return criteria

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
    head_lr_multiplier: float = 2.0,
    weight_decay: float = 0.02,
    rates: Mapping[str, float] | None = None,
    relative: bool = False,
) -> torch.optim.AdamW:
    """AdamW over the trainable weights, with a higher learning rate outside `model.encoder`.

    Args:
        model: to train.
        lr: learning rate of the encoder; of all weights if the model has none.
        head_lr_multiplier: factor on the learning rate of weights outside the encoder, which start untrained.
        weight_decay: of all weights.
        rates: prefix of weight names -> factor on their learning rate, instead of `head_lr_multiplier`.
        relative: `lr` is a fraction of each weight tensor's root mean square (to a power of two), as in
            Adafactor (Shazeer and Stern, ICML 2018, section 8). The batch norms of an exported network are
            folded into its convolutions, whose weights then differ in size by a factor of 30: one rate for
            all would be too high for the smallest.
    """
    groups, rates = dict[float, list[nn.Parameter]]({1.0: []}), rates or {}  # the encoder's come first
    others = (
        head_lr_multiplier
        if any(n.startswith("encoder.") and p.requires_grad for n, p in model.named_parameters())
        else 1.0
    )
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = next(
                (f for begin, f in rates.items() if name.startswith(begin)),
                1.0 if name.startswith("encoder.") else others,
            )
            groups.setdefault(factor * (_size(p) if relative else 1.0), []).append(p)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr * factor} for factor, p in groups.items() if p], weight_decay=weight_decay
    )


def _size(weights: nn.Parameter) -> float:
    """Root mean square of a tensor's weights, as a power of two; 1/512 or more, for biases 1/8 or less."""
    size = float(weights.detach().square().mean().sqrt())
    maximum = math.inf if weights.ndim > 1 else 1 / 8
    return float(2.0 ** round(math.log2(min(max(size, 1 / 512), maximum))))


@dataclass
class Recipe:
    """How a model is trained.

    Attributes:
        name: of the run.
        model: built, with `tasks`, `view` and `builder`.
        mixture: source of the batches; several mixtures, of one view each, share every step (Faceptor: 112
            and 512 pixels).
        optimizer: over the parameters of the model and of `criteria`.
        schedule: (step, steps) -> factor on each group's learning rate.
        steps: total number of optimizer steps.
        loss_weighting: dict of losses -> dict of weights.
        seed: of all random numbers.
        ema: decay of the averaged weights, which are evaluated and exported.
        clip: maximum gradient norm.
        bf16: autocast of the forward pass; use it where it is measured to be faster.
        accumulate: micro-batches per step, to save memory. Except for batch norms, gradients are those of the
            entire batch.
        protocols: names in `evaluate.PROTOCOLS`, run on the averaged weights.
        every: steps between two runs of the protocols.
        limit: maximum number of pictures per protocol; None for all.
        data: sets and licenses, for the provenance of the weights.
        criteria: task -> criterion, instead of the task's own; an nn.Module is trained and saved with the
            run, and is not part of the model's weights.
    """

    name: str
    model: FaceModel
    mixture: Mixture | Sequence[Mixture]
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int, int], float]
    steps: int
    loss_weighting: LossWeighting = field(default_factory=Fixed)
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
        """How the weights were trained, for their header."""
        return {"recipe": self.name, "step": step, "seed": self.seed, "data": list(self.data)}

    def criteria_by_task(self) -> dict[str, Any]:
        """A criterion for each task of the model.

        Raises:
            UsageError: a criterion for a task that the model does not have, parameters of a criterion that
                the optimizer does not train, a task without a mixture, or `accumulate` below 1.
        """
        tasks = {t.name: t for t in self.model.tasks}
        if self.accumulate < 1:
            raise UsageError(
                f"accumulate is the number of micro-batches per step, 1 or more; got {self.accumulate}"
            )
        if unknown := [n for n in self.criteria if n not in tasks]:
            raise UsageError(
                f"criteria for {', '.join(unknown)}, but the model's tasks are: {', '.join(tasks)}"
            )
        criteria = {n: self.criteria[n] if n in self.criteria else t.criterion() for n, t in tasks.items()}
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for name, criterion in criteria.items():
            if isinstance(criterion, nn.Module) and any(
                p.requires_grad and id(p) not in trained for p in criterion.parameters()
            ):
                raise UsageError(
                    f"the optimizer does not train the criterion of {name}; build it once and pass it to both"
                    " criteria= and optimizer="
                )
        if absent := [n for n in tasks if not any(n == t.name for m in self.mixtures for t in m.tasks)]:
            raise UsageError(f"no mixture has the task {', '.join(absent)}; name it in Mixture(tasks=...)")
        return criteria

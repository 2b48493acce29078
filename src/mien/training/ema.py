"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """Exponential moving average of weights and batch-norm statistics, with a warm start.

    Args:
        model: whose weights are averaged; `module` is its copy with the averages, in evaluation mode.
        decay: 0..1, of a long run; early on it is smaller, so that the random start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        @torch.no_grad()
        def move(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
            """`count`: weights averaged so far, the initial ones among them."""
            n = int(count)
            step_size = 1 - min(decay, n / (9 + n))
            for average, weight in zip(averages, weights, strict=True):
                if average.dtype.is_floating_point:
                    average.lerp_(weight, step_size)
                else:
                    average.copy_(weight)

        super().__init__(model, multi_avg_fn=move, use_buffers=True)
        self.module.eval().requires_grad_(False)

    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model after this step of the training, counted from 0.

        The step is given, not counted here: a resumed run goes on with the decay it had.
        """
        self.n_averaged.fill_(step + 1)
        self.update_parameters(model)

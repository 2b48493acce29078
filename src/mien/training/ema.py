"""Exponential moving average of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """Exponential moving average of weights and batch-norm statistics, with a warm start."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; early on faster, so that the random start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, mine in self.model.state_dict().items():
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs[name], 1 - decay)
            else:
                mine.copy_(theirs[name])

"""Loss weighting: losses of a step by name -> their weights, plain numbers.

A loss of exactly zero has no label in the batch (see `mien.tasks.base.zero_loss`); adaptive weightings ignore
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class LossWeighting(Protocol):
    """The interface of a loss weighting. Its state is plain JSON, in the header of a checkpoint."""

    def __call__(self, losses: Mapping[str, Tensor]) -> dict[str, float]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Fixed:
    """A fixed weight per task.

    Args:
        weights: task -> weight; 1 for a task without an entry.
        normalize: divide the weights of a step by their sum, as Faceptor's total does (Qin et al. 2024).
    """

    def __init__(self, weights: Mapping[str, float] | None = None, *, normalize: bool = False):
        self.weights, self.normalize = dict(weights or {}), normalize

    def __call__(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses of one step -> weights of that step."""
        weights = {name: self.weights.get(name, 1.0) for name in losses}
        total = sum(weights.values()) if self.normalize else 1.0
        return {name: weight / total for name, weight in weights.items()}

    def state_dict(self) -> dict[str, float]:
        """Empty: the weights do not change during training."""
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Inverse of `state_dict`."""


class Uncertainty:
    """Learned log-variances s: a loss L has weight exp(-s) (Kendall et al., CVPR 2018).

    s minimizes exp(-s) L + s. Ours: s takes its own gradient step here, outside the optimizer, so the total
    does not include the penalty s. A step changes s by at most `lr`: otherwise one enormous loss would switch
    off its task for a long time.

    Args:
        lr: learning rate of the log-variances.
    """

    def __init__(self, lr: float = 0.01):
        self.lr, self.log_var = lr, dict[str, float]()

    def __call__(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses of one step -> weights of that step; the log-variances then follow the losses."""
        weights = {name: math.exp(-self.log_var.setdefault(name, 0.0)) for name in losses}
        for name, loss in losses.items():
            value = float(loss.detach())
            if value != 0:
                self.log_var[name] += self.lr * min(1.0, weights[name] * value - 1)
        return weights

    def state_dict(self) -> dict[str, float]:
        """Log-variances by name."""
        return dict(self.log_var)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Inverse of `state_dict`."""
        self.log_var = dict(state)


class Dynamic:
    """Dynamic weights: the loss that falls slowest has the largest weight.

    w = K softmax(r / T), where r is the mean loss of a window, divided by that of the window before.
    FAR-AMTN's dynamic weighting (Gao et al. 2025) has no public equation. Ours: dynamic weight average (Liu
    et al., CVPR 2019), which equalizes speed only: it does not depend on the scale of a loss. FAR-AMTN's also
    equalizes scale. Ours: each loss is divided by the mean of its first window and multiplied by the average
    of these means. After the first window, all losses have the same scale, and their sum keeps its own. w is
    1 in the first two windows, and so is the scale factor in the first.

    Args:
        window: steps over which losses are averaged (one epoch in the original).
        temperature: T; larger values give more even weights.
        equalize_scale: divide by the means of the first window; False is the published dynamic weight
            average.
    """

    def __init__(self, window: int, *, temperature: float = 2.0, equalize_scale: bool = True):
        self.window, self.temperature, self.equalize_scale = window, temperature, equalize_scale
        self.step = 0
        self.first = dict[str, float]()  # means of the first window in which a loss has labels
        self.before, self.last = dict[str, float](), dict[str, float]()  # means of the last two whole windows
        self.sums, self.counts = dict[str, float](), dict[str, int]()  # of the window that is being filled

    def __call__(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses of one step -> weights of that step, which follow from earlier windows."""
        weights = self._weights(list(losses))
        for name, loss in losses.items():
            value = float(loss.detach())
            if value != 0:
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
        self.step += 1
        if self.step % self.window == 0:
            # a loss without labels in an entire window keeps its mean
            means = {n: s / self.counts[n] for n, s in self.sums.items()}
            self.before, self.last, self.first = self.last, self.last | means, means | self.first
            self.sums, self.counts = {}, {}
        return weights

    def _weights(self, names: list[str]) -> dict[str, float]:
        ratio = {n: self.last[n] / self.before[n] if n in self.before else 1.0 for n in names}
        largest = max(ratio.values(), default=0.0)
        e = {n: math.exp((r - largest) / self.temperature) for n, r in ratio.items()}
        return {n: len(names) * v / sum(e.values()) * self._scale(n) for n, v in e.items()}

    def _scale(self, name: str) -> float:
        """The factor that scales a loss to the average of the first windows; 1 before the first one."""
        if not self.equalize_scale or name not in self.first:
            return 1.0
        return sum(self.first.values()) / len(self.first) / self.first[name]

    def state_dict(self) -> dict[str, Any]:
        """The step, the means of the first window and of two others, and the window that is being filled."""
        return {
            "step": self.step,
            **{k: dict(getattr(self, k)) for k in ("first", "before", "last", "sums", "counts")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.step = int(state["step"])
        self.first = dict(state.get("first", {}))  # runs of earlier versions have none
        self.before, self.last, self.sums, self.counts = (
            dict(state[k]) for k in ("before", "last", "sums", "counts")
        )

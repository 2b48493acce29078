"""Age: years and their spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien.tasks.base import Answer, Criterion, Task, Vector, over_labeled, sigmoid, softmax
from mien.tasks.columns import Column, number_columns, value_at
from mien.types import Array, Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor

BOUNDS = (13, 16, 18, 21, 25)  # years of `Age.at_least`


@dataclass(frozen=True, slots=True)
class Age(Answer):
    """How old a face looks.

    Attributes:
        years: expectation of the predicted distribution, 0..100.
        low, high: years between which the middle `coverage` of that distribution lies.
        coverage: 0..1, the share of the distribution between low and high.
        at_least: years of `BOUNDS` -> probability, 0..1, that the face looks at least so old. Estimates, as
            the years are: no age check may rest on them alone.
    """

    years: float
    low: float
    high: float
    coverage: float = 0.8
    at_least: Mapping[int, float] = field(default_factory=dict, hash=False)

    averaged: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """{"years", "low", "high", "coverage", "at_least": {"13": ...}}."""
        return {
            "years": round(self.years, 1),
            "low": round(self.low, 1),
            "high": round(self.high, 1),
            "coverage": self.coverage,
            "at_least": {str(bound): round(p, 4) for bound, p in self.at_least.items()},
        }

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return [
            Column(name, float, value_at(name, "years")),
            *number_columns(name, ("low", "high")),
            *(Column(f"{name}_at_least_{b}", float, value_at(name, "at_least", str(b))) for b in BOUNDS),
        ]

    def summary(self) -> str:
        """` 34 years (28-41)`."""
        return f"{self.years:3.0f} years ({self.low:.0f}-{self.high:.0f})"

    def tag(self) -> str:
        """The years, such as `34`; empty where the years are not finite."""
        return f"{self.years:.0f}" if math.isfinite(self.years) else ""

    def interval(self) -> str:
        """The interval, such as `(28-41)`; empty where an end of it is not finite."""
        known = self.tag() and math.isfinite(self.low) and math.isfinite(self.high)
        return f"({self.low:.0f}-{self.high:.0f})" if known else ""

    def value(self) -> float:
        """Years."""
        return self.years

    def mean_terms(self) -> Array:
        return np.array([self.years, self.low, self.high, *self.at_least.values()])

    def from_mean(self, terms: Array) -> Age:
        years, low, high, *over = terms.tolist()
        return Age(years, low, high, self.coverage, dict(zip(self.at_least, over, strict=True)))


@dataclass(frozen=True, slots=True)
class AgeRange:
    """A label that says only between which years an age lies.

    Attributes:
        low, high: whole years, both included, 0..100.
    """

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class AgeTask(Task[Age]):
    """A distribution over 0..100 years, read as expectation and interval.

    A label is a number of years, (mean, sigma) of what several people guessed (sigma counts in the metric
    only), or an `AgeRange`. A target is (low, high), equal where the year is known.

    Loss (DLDL-v2, as in Faceptor): KL to a Gaussian of `sigma` years around the label, plus the error of the
    expectation in years times `l1_weight`. Ours: softmax in place of normalized sigmoids, and the weight.
    Ours: for a range, minus the logarithm of the probability within it, plus `l1_weight` times the years by
    which the expectation lies outside it.

    Attributes:
        sigma: years, of the Gaussian.
        l1_weight: of the error in years next to the KL.
        temperature: what logits are divided by for the interval and `Age.at_least`, not for the years;
            weights may bring theirs, see docs/model-card.md.
        decoding: how logits become a distribution. "softmax", or "sigmoid": sigmoids divided by their sum, as
            in Faceptor.
        year_offset: years of the first bin; the distribution covers year_offset .. year_offset + 100.
    """

    answer: ClassVar[type[Answer]] = Age
    activation = "softmax"
    name: str = "age"
    labels: str = "years101"
    sensitive: bool = True
    sigma: float = 2.0
    l1_weight: float = 0.1
    temperature: float = 1.0
    decoding: str = "softmax"
    year_offset: int = 0

    @property
    def shape(self) -> Vector:
        return Vector(101)

    def criterion(self) -> Criterion:
        from torch.nn import functional as F

        sigmoids = self.decoding == "sigmoid"

        def loss(raw: Tensor, years: Tensor) -> Tensor:
            low, high = (years, years) if years.ndim == 1 else years.unbind(-1)
            bins = raw.new_ones(101).cumsum(0) - 1
            goal = (-0.5 * ((bins - low[:, None]) / self.sigma).square()).softmax(-1)
            log_p = (F.logsigmoid(raw) if sigmoids else raw).log_softmax(-1)
            kl = (goal * (goal.clamp_min(1e-12).log() - log_p)).sum(-1)
            outside = (bins < low[:, None] - 0.5) | (bins > high[:, None] + 0.5)
            within = -log_p.masked_fill(outside, -1e4).logsumexp(-1)
            mean = (log_p.exp() * bins).sum(-1)
            error = (low - mean).clamp_min(0) + (mean - high).clamp_min(0)
            return kl.where(low == high, within).mean() + self.l1_weight * error.mean()

        return over_labeled(loss)

    def read(self, raw: Floats, crop: Crop) -> Age:
        years = float(self._distribution(raw) @ np.arange(101))
        spread = self._distribution(np.asarray(raw, np.float64) / self.temperature)
        edges = np.concatenate([[0.0], np.cumsum(spread)])  # bin k covers k - 1/2 .. k + 1/2
        low, high = np.interp([0.1, 0.9], edges, np.arange(102) - 0.5)
        if self.temperature != 1:  # a narrowed interval of a lopsided distribution may lie next to its mean
            low, high = min(low, years), max(high, years)
        first = self.year_offset
        over = {b: float(np.clip(spread[max(0, b - first) :].sum(), 0, 1)) for b in BOUNDS}
        return Age(
            first + years,
            first + float(np.clip(low, 0, 100)),
            first + float(np.clip(high, 0, 100)),
            at_least=over,
        )

    def _distribution(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(101,) logits -> (101,) probabilities."""
        if self.decoding == "softmax":
            return softmax(logits)
        p = sigmoid(logits)
        return p / max(float(p.sum()), 1e-12)  # the official code divides by no less

    def decoder(self) -> dict[str, Any] | None:
        if (self.decoding, self.year_offset) != ("softmax", 0):
            return None
        return {"kind": "age", "temperature": self.temperature}

    def metrics(self) -> AgeError:
        return AgeError()

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        years = (label.low, label.high) if isinstance(label, AgeRange) else (_guess(label)[0],) * 2
        return np.clip(np.asarray(years, np.float32) - np.float32(self.year_offset), 0, 100), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(2, np.float32), np.False_


def _guess(label: Any) -> tuple[float, float]:
    """(years, sigma); sigma is 3 where none, or none above 0, is given."""
    if np.ndim(label) == 0:
        return float(label), 3.0
    years, sigma = (float(v) for v in label)
    return years, sigma if sigma > 0 else 3.0


class AgeError:
    """MAE in years, CS5 (percentage within five years), epsilon-error, and how often the interval holds the
    truth.

    Epsilon-error (ChaLearn LAP 2015): 1 - mean exp(-error^2 / (2 sigma^2)), sigma the label's own or 3 years;
    0..1.
    """

    headline = "mae"

    def __init__(self) -> None:
        self.rows = list[tuple[float, float, bool]]()

    def update(self, answer: Age, label: Any) -> None:
        years, sigma = _guess(label)
        self.rows.append((abs(answer.years - years), sigma, answer.low - 0.5 <= years <= answer.high + 0.5))

    def compute(self) -> dict[str, float]:
        error, sigma, inside = np.asarray(self.rows, np.float64).T
        return {
            "mae": float(error.mean()),
            "cs5": 100 * float((error <= 5).mean()),
            "epsilon_error": 1 - float(np.exp(-0.5 * (error / sigma) ** 2).mean()),
            "coverage": 100 * float(inside.mean()),
            "n": len(error),
        }


class AgeClass:
    """Percentage of right age classes, and of those at most one class off. The class is that of the predicted
    years, rounded.

    Labels are `AgeRange`s that follow one another without gaps.

    Args:
        starts: first year of each class, rising.
    """

    headline = "class_accuracy"

    def __init__(self, starts: tuple[int, ...]):
        self.starts, self.rows = np.asarray(starts), list[tuple[int, int]]()

    def update(self, answer: Age, label: AgeRange) -> None:
        truth, guess = (
            int(np.searchsorted(self.starts, round(y), side="right")) - 1 for y in (label.low, answer.years)
        )
        self.rows.append((truth, guess))

    def compute(self) -> dict[str, float]:
        truth, guess = np.asarray(self.rows).T
        each = {
            f"within_one:{self.starts[i]}": 100 * float((abs(guess - truth)[truth == i] <= 1).mean())
            for i in np.unique(truth)
        }
        return {
            "class_accuracy": 100 * float((truth == guess).mean()),
            "within_one": 100 * float((abs(truth - guess) <= 1).mean()),
            "n": len(truth),
            **each,
        }


AGE = AgeTask()

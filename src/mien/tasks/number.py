"""Number: one quantity with a unit, such as centimeters or a rating, and its interval."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien.tasks.base import Answer, Criterion, Task, Vector, over_labeled
from mien.tasks.columns import Column, number_columns, value_at
from mien.types import Array, Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor

COVERAGE = 0.8  # the share of truths that an interval is made to hold
_LOG_LIMIT = 5.0  # of the predicted spread's logarithm


@dataclass(frozen=True, slots=True)
class Number(Answer):
    """A quantity.

    Attributes:
        estimate: the prediction, in the unit.
        low, high: ends of the interval, in the unit.
        unit: for people, such as "cm"; may be empty.
        coverage: 0..1, the share of truths that such intervals hold.
    """

    estimate: float
    low: float
    high: float
    unit: str = ""
    coverage: float = COVERAGE

    averaged: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """{"estimate", "low", "high", "unit", "coverage"}."""
        return {
            "estimate": round(self.estimate, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "unit": self.unit,
            "coverage": self.coverage,
        }

    @classmethod
    def columns(cls, name: str) -> list[Column]:
        return [Column(name, float, value_at(name, "estimate")), *number_columns(name, ("low", "high"))]

    def _rounded(self, x: float) -> str:
        """With as many decimals as the interval is worth."""
        width = max(self.high - self.low, 1e-6)
        return f"{x:.{max(0, 1 - math.floor(math.log10(width)))}f}"

    def summary(self) -> str:
        """`34.2 cm (31.0-37.5)`."""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self._rounded(self.estimate)}{unit} ({self._rounded(self.low)}-{self._rounded(self.high)})"

    def tag(self) -> str:
        """The number with its unit."""
        return self._rounded(self.estimate) + (f" {self.unit}" if self.unit else "")

    def value(self) -> float:
        """The prediction, in the unit."""
        return self.estimate

    def mean_terms(self) -> Array:
        return np.array([self.estimate, self.low, self.high])

    def from_mean(self, terms: Array) -> Number:
        return Number(float(terms[0]), float(terms[1]), float(terms[2]), self.unit, self.coverage)


@dataclass(frozen=True)
class NumberTask(Task[Number]):
    """One quantity, by the likelihood of a Laplace distribution whose spread is predicted too.

    Raw numbers are two: the standardized quantity, (x - center) / scale, and the logarithm of its spread.

    Attributes:
        unit: for people.
        center, scale: what standardizes; in the unit.
        minimum, maximum: predictions are clipped to these; in the unit.
        interval: half the width of an interval in predicted spreads; weights bring theirs, which makes
            intervals hold `COVERAGE` of the truths.
    """

    answer: ClassVar[type[Answer]] = Number
    unit: str = ""
    _: KW_ONLY
    center: float = 0.0
    scale: float = 1.0
    minimum: float = -1e6
    maximum: float = 1e6
    interval: float = 1.609  # -ln(1 - COVERAGE): exact where the spread is
    sensitive: bool = True

    @property
    def shape(self) -> Vector:
        return Vector(2)

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            spread = raw[:, 1].clamp(-_LOG_LIMIT, _LOG_LIMIT)
            return ((raw[:, 0] - target).abs() * (-spread).exp() + spread).mean()

        return over_labeled(loss)

    def read(self, raw: Floats, crop: Crop) -> Number:
        x, log_spread = (float(v) for v in np.asarray(raw, np.float64))
        half = self.interval * self.scale * math.exp(min(max(log_spread, -_LOG_LIMIT), _LOG_LIMIT))
        middle = self._clipped(self.center + self.scale * x)
        return Number(middle, self._clipped(middle - half), self._clipped(middle + half), self.unit)

    def _clipped(self, x: float) -> float:
        return min(max(x, self.minimum), self.maximum)

    def decoder(self) -> dict[str, Any]:
        names = ("unit", "center", "scale", "minimum", "maximum", "interval")
        return {"kind": "number", **{n: getattr(self, n) for n in names}, "coverage": COVERAGE}

    def metrics(self) -> NumberError:
        return NumberError()

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        return np.float32((float(label) - self.center) / self.scale), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.float32(0), np.False_


class NumberError:
    """Mean absolute error and root mean squared error in the unit, correlation, and the share of intervals
    that hold the truth.
    """

    headline = "mae"

    def __init__(self) -> None:
        self.rows = list[tuple[float, float, bool]]()

    def update(self, answer: Number, label: Any) -> None:
        truth = float(label)
        self.rows.append((answer.estimate, truth, answer.low <= truth <= answer.high))

    def compute(self) -> dict[str, float]:
        guess, truth, inside = np.asarray(self.rows, np.float64).T
        error = guess - truth
        varied = len(error) > 1 and guess.std() > 0 and truth.std() > 0
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt(np.square(error).mean())),
            **({"correlation": float(np.corrcoef(guess, truth)[0, 1])} if varied else {}),
            "coverage": 100 * float(inside.mean()),
            "n": len(error),
        }

"""Calibration: measure whether probabilities are right, fit one temperature per task, and choose when to
abstain.

A temperature divides the logits of a trained task (Guo et al., ICML 2017): it changes the confidence of an
answer, never the most likely class. The provenance file next to the weights stores temperatures,
`{"calibration": {"temperatures": {task: number}}}`, and `mien.inference.onnx_model.OnnxModel` passes them to
its tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import bisect, minimize_scalar

from mien.errors import UsageError

Array = npt.NDArray[np.float64]
MINIMUM, MAXIMUM = 0.05, 20.0  # temperatures tried
CUTS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers with similar probabilities.

    Attributes:
        low: lower edge, 0..1.
        high: upper edge, 0..1.
        n: number of answers.
        confidence: their mean probability, 0..1.
        accuracy: fraction of them that is right, 0..1.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(probability: npt.ArrayLike, outcome: npt.ArrayLike, *, bins: int = 15) -> list[Bin]:
    """The non-empty bins of equal width; an edge belongs to the bin above it, 1 to the last one.

    Args:
        probability: (n,) 0..1.
        outcome: (n,) 0 or 1, whether the answer is right.
        bins: number of bins.

    Raises:
        UsageError: no values, or a probability outside 0..1.
    """
    p, y = np.asarray(probability, np.float64).ravel(), np.asarray(outcome, np.float64).ravel()
    if not len(p) or len(p) != len(y):
        raise UsageError(
            f"{len(p)} probabilities and {len(y)} outcomes; give the same number of both, at least one"
        )
    if not (p.min() >= 0 and p.max() <= 1):  # NaN fails too
        raise UsageError(f"probabilities must lie between 0 and 1; these range from {p.min()} to {p.max()}")
    at = np.minimum((p * bins + 1e-9).astype(int), bins - 1)
    return [
        Bin(
            b / bins, (b + 1) / bins, int((at == b).sum()), float(p[at == b].mean()), float(y[at == b].mean())
        )
        for b in sorted(set(at.tolist()))
    ]


def ece(probability: npt.ArrayLike, outcome: npt.ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error, 0..1: mean |confidence - accuracy| over bins, weighted by their answers."""
    rows = reliability(probability, outcome, bins=bins)
    return sum(b.n * abs(b.confidence - b.accuracy) for b in rows) / sum(b.n for b in rows)


# --- Temperatures


def choice_loss(logits: npt.ArrayLike, truth: npt.ArrayLike, temperature: float) -> float:
    """Mean negative log-likelihood of (n, k) logits at a temperature; truth: (n,) indices."""
    z = np.asarray(logits, np.float64) / temperature
    top = z.max(1)
    return float(
        (np.log(np.exp(z - top[:, None]).sum(1)) + top - z[np.arange(len(z)), np.asarray(truth, int)]).mean()
    )


def binary_loss(logits: npt.ArrayLike, truth: npt.ArrayLike, temperature: float) -> float:
    """Mean negative log-likelihood of yes/no logits of any shape at a temperature; truth: 0 or 1, the same
    shape.
    """
    z = np.asarray(logits, np.float64) / temperature
    return float((np.logaddexp(0, z) - np.asarray(truth, np.float64) * z).mean())


def minimum(
    f: Callable[[float], float], *, low: float = MINIMUM, high: float = MAXIMUM, tolerance: float = 1e-5
) -> float:
    """The minimum of f between two positive numbers, searched over the logarithm.

    f must fall and then rise. Both losses do: they are convex in 1 / temperature.

    Raises:
        UsageError: the minimum is at an edge.
    """
    search = minimize_scalar(
        lambda log: f(float(np.exp(log))),
        bounds=(np.log(low), np.log(high)),
        method="bounded",
        options={"xatol": tolerance},
    )
    found = float(np.exp(search.x))
    if min(found / low, high / found) < 1.01:
        raise UsageError(
            f"the best temperature is at the edge, {found:.3g}: all answers are right, or no better than"
            " chance; use more pictures"
        )
    return found


def choice_temperature(logits: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """The temperature of one-of-k answers, (n, k) logits, (n,) indices.

    Raises UsageError where there is none.
    """
    return minimum(lambda t: choice_loss(logits, truth, t))


def binary_temperature(logits: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """The temperature of yes/no answers, any shape. Raises UsageError where there is none."""
    return minimum(lambda t: binary_loss(logits, truth, t))


def reaching(
    f: Callable[[float], float], goal: float, *, low: float = MINIMUM, high: float = MAXIMUM
) -> float:
    """The smallest number between two positive ones at which a rising f reaches a goal, by bisection.

    Raises:
        UsageError: f does not reach the goal there, or exceeds it everywhere.
    """
    if not f(low) < goal <= f(high):
        raise UsageError(
            f"{goal:g} is not reached between temperatures {low:g} ({f(low):g}) and {high:g} ({f(high):g})"
        )
    width = 1e-4  # of the logarithm

    def side(log: float) -> float:
        """Never 0: where f stays at the goal, the search continues to the left."""
        return 1.0 if f(float(np.exp(log))) >= goal else -1.0

    return float(np.exp(bisect(side, np.log(low), np.log(high), xtol=width / 2) + width / 2))


def held_out(n: int, folds: int, fit: Callable[[npt.NDArray[np.int64]], float], *, seed: int = 0) -> Array:
    """(n,) cross-validated temperatures: each is fitted without the fold of its picture."""
    fold = np.random.default_rng(seed).permutation(n) % folds
    found = [fit(np.flatnonzero(fold != k)) for k in range(folds)]
    return np.asarray(found)[fold]


# --- Abstaining


@dataclass(frozen=True, slots=True)
class Answered:
    """Coverage and accuracy when answers below a probability are withheld.

    Attributes:
        cut: minimum probability, 0..1.
        share: fraction of the pictures with an answer, 0..1.
        n: number of pictures with an answer.
        accuracy: of these answers, 0..1; NaN without any.
    """

    cut: float
    share: float
    n: int
    accuracy: float


def abstaining(
    probability: npt.ArrayLike, right: npt.ArrayLike, cuts: Sequence[float] = CUTS
) -> list[Answered]:
    """Coverage and accuracy at each cut.

    Args:
        probability: (n,) of the predicted label, 0..1.
        right: (n,) whether the predicted label is right.
        cuts: minimum probabilities.
    """
    p, hit = np.asarray(probability, np.float64), np.asarray(right, bool)
    rows = []
    for cut in cuts:
        kept = p >= cut
        rows.append(
            Answered(
                cut,
                float(kept.mean()),
                int(kept.sum()),
                float(hit[kept].mean()) if kept.any() else float("nan"),
            )
        )
    return rows


def recommended(rows: Sequence[Answered], right: npt.ArrayLike, *, part: float = 0.5) -> float | None:
    """The smallest cut that reduces the error rate to at most `part` of what it is; None if no cut does."""
    allowed = part * (1 - float(np.asarray(right, np.float64).mean()))
    return next((r.cut for r in rows if r.n and 1 - r.accuracy <= allowed), None)


def bootstrap(values: npt.ArrayLike, *, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean of (n,) values and its 95 % percentile interval over seeded resamples.

    If all values are equal, resampling shows no variation and the interval has zero width: check n.
    """
    v = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [v[rng.integers(len(v), size=(k, len(v)))].mean(1) for k in _portions(draws, len(v))]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(v.mean()), float(low), float(high)


def _portions(draws: int, n: int, max_values: int = 4_000_000) -> list[int]:
    """Sizes of portions of the draws that keep memory small."""
    size = max(1, min(draws, max_values // max(n, 1)))
    return [min(size, draws - i) for i in range(0, draws, size)]


def bootstrap_pairs(
    hits: npt.ArrayLike, pairs: npt.ArrayLike, *, draws: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """(fraction, low, high) of pairs that hit, with a 95 % interval over seeded resamples of the pictures.

    Pictures are resampled, not pairs: pairs share pictures, so treating them as independent would give an
    interval that is far too narrow. Every pair of two drawn pictures counts; a draw without pairs is left
    out.

    Args:
        hits: (n, n) bool; hits outside `pairs` do not count.
        pairs: (n, n) bool, each pair in one triangle only.
        draws: number of resamples.
        seed: of the resamples.
    """
    p = np.asarray(pairs, np.float32)
    h, n = np.asarray(hits, np.float32) * p, len(p)
    if not p.any():
        raise UsageError("there are no pairs to count; choose another group")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)
    there = ((weights @ p) * weights).sum(1, dtype=np.float64)
    hit = ((weights @ h) * weights).sum(1, dtype=np.float64)
    low, high = np.percentile(hit[there > 0] / there[there > 0], [2.5, 97.5])
    return float(h.sum() / p.sum()), float(low), float(high)

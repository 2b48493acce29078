"""Is a probability of 0.8 right eight times of ten? Reliability, temperatures, abstaining, intervals.

A temperature divides the logits of a task that is trained (Guo et al., ICML 2017): it changes how sure an
answer is, never which answer is the likeliest. Temperatures are kept in the provenance file beside the
weights, `{"calibration": {"temperatures": {task: number}}}`, and `mien.inference.onnx_model.OnnxModel` hands
them to its tasks.
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
    """Answers of about the same probability.

    Attributes:
        low, high: edges, 0..1. n: answers. said: their mean probability. came: the share that came true.
    """

    low: float
    high: float
    n: int
    said: float
    came: float


def reliability(probability: npt.ArrayLike, outcome: npt.ArrayLike, *, bins: int = 15) -> list[Bin]:
    """Bins of equal width that hold anything; an edge belongs to the bin above it, 1 to the last.

    Args:
        probability: (n,) 0..1. outcome: (n,) 0 or 1, whether that came true.

    Raises:
        UsageError: nothing to count, or a probability outside 0..1.
    """
    p, y = np.asarray(probability, np.float64).ravel(), np.asarray(outcome, np.float64).ravel()
    if not len(p) or len(p) != len(y):
        raise UsageError(
            f"{len(p)} probabilities and {len(y)} outcomes; give as many of each, and at least one"
        )
    if not (p.min() >= 0 and p.max() <= 1):  # NaN fails too
        raise UsageError(f"probabilities lie between 0 and 1; these go from {p.min()} to {p.max()}")
    at = np.minimum((p * bins + 1e-9).astype(int), bins - 1)
    return [
        Bin(
            b / bins, (b + 1) / bins, int((at == b).sum()), float(p[at == b].mean()), float(y[at == b].mean())
        )
        for b in sorted(set(at.tolist()))
    ]


def ece(probability: npt.ArrayLike, outcome: npt.ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error, 0..1: the mean of |said - came| over bins, each weighted by its answers."""
    rows = reliability(probability, outcome, bins=bins)
    return sum(b.n * abs(b.said - b.came) for b in rows) / sum(b.n for b in rows)


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
    """Where f is least between two positive numbers; f falls, then rises.

    Both losses do: they are convex in 1 / temperature.

    Raises:
        UsageError: the least is at an edge, so that there is none.
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
            f"the best temperature runs to the edge, {found:.3g}: all answers right, or no better than"
            " chance; take more pictures"
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
    """The least number between two positive ones at which f, which rises, in steps too, reaches a goal.

    Raises:
        UsageError: it does not reach it there, or has from the start.
    """
    if not f(low) < goal <= f(high):
        raise UsageError(
            f"{goal:g} is not reached between temperatures {low:g} ({f(low):g}) and {high:g} ({f(high):g})"
        )
    width = 1e-4  # of the logarithm

    def side(log: float) -> float:
        """Never 0: where f stays at the goal, the search shall go on to the left."""
        return 1.0 if f(float(np.exp(log))) >= goal else -1.0

    return float(np.exp(bisect(side, np.log(low), np.log(high), xtol=width / 2) + width / 2))


def held_out(n: int, folds: int, fit: Callable[[npt.NDArray[np.int64]], float], *, seed: int = 0) -> Array:
    """(n,) temperatures, each fitted without the fold in which the picture stands: what a new picture would
    get.
    """
    fold = np.random.default_rng(seed).permutation(n) % folds
    found = [fit(np.flatnonzero(fold != k)) for k in range(folds)]
    return np.asarray(found)[fold]


# --- Saying nothing


@dataclass(frozen=True, slots=True)
class Answered:
    """What is left when answers below a probability are not given.

    Attributes:
        cut: least probability. share: of the pictures that get an answer, 0..1. n: these. accuracy: among
            them, 0..1; NaN of none.
    """

    cut: float
    share: float
    n: int
    accuracy: float


def abstaining(
    probability: npt.ArrayLike, right: npt.ArrayLike, cuts: Sequence[float] = CUTS
) -> list[Answered]:
    """Coverage and accuracy at each cut. probability: (n,) of the label given; right: (n,) whether it was."""
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
    """The least cut that leaves at most `part` of the errors' share among the answered; None where no cut
    does.
    """
    allowed = part * (1 - float(np.asarray(right, np.float64).mean()))
    return next((r.cut for r in rows if r.n and 1 - r.accuracy <= allowed), None)


def bootstrap(values: npt.ArrayLike, *, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean of (n,) values and its 95 % percentile interval over seeded resamples.

    Where all values are the same a resample says nothing, and the interval has no width: look at n.
    """
    v = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [v[rng.integers(len(v), size=(k, len(v)))].mean(1) for k in _portions(draws, len(v))]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(v.mean()), float(low), float(high)


def _portions(draws: int, n: int, most: int = 4_000_000) -> list[int]:
    """Draws in parts, so that memory stays small."""
    size = max(1, min(draws, most // max(n, 1)))
    return [min(size, draws - i) for i in range(0, draws, size)]


def bootstrap_pairs(
    hits: npt.ArrayLike, pairs: npt.ArrayLike, *, draws: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """(share, low, high) of pairs that hit, with a 95 % interval over seeded resamples of the pictures, not
    of the pairs.

    Pairs share pictures: taken as independent they would promise far too narrow an interval. Every pair of
        two draws of
    pictures counts; a draw without any pair is left out.

    Args:
        hits, pairs: (n, n) bool, each pair in one triangle only; hits outside `pairs` do not count.
    """
    p = np.asarray(pairs, np.float32)
    h, n = np.asarray(hits, np.float32) * p, len(p)
    if not p.any():
        raise UsageError("there are no pairs to count; take another group")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)
    there = ((weights @ p) * weights).sum(1, dtype=np.float64)
    hit = ((weights @ h) * weights).sum(1, dtype=np.float64)
    low, high = np.percentile(hit[there > 0] / there[there > 0], [2.5, 97.5])
    return float(h.sum() / p.sum()), float(low), float(high)

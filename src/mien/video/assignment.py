"""The assignment problem: which detection continues which track."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mien.types import Array


def assign(cost: npt.ArrayLike) -> list[tuple[int, int]]:
    """The pairs (row, column) of minimum total cost, as many as possible; infinite costs are never paired.

    Hungarian method with potentials, O(rows^2 columns) (Kuhn 1955; shortest augmenting paths as in Jonker and
    Volgenant 1987).
    """
    c = np.asarray(cost, np.float64)
    if c.ndim != 2 or not c.size:
        return []
    if c.shape[0] > c.shape[1]:
        return sorted((row, column) for column, row in assign(c.T))
    allowed = np.isfinite(c)
    # dearer than any choice of allowed pairs, so that as many as can be are allowed ones
    big = 1.0 + 2 * len(c) * float(np.abs(c[allowed]).max(initial=1.0))
    full = np.where(allowed, c, big)
    owner = np.full(c.shape[1] + 1, -1)  # column -> row; the last column is where a search starts
    over, under = np.zeros(len(c)), np.zeros(c.shape[1] + 1)
    for row in range(len(c)):
        _augment(full, row, owner, over, under)
    return sorted((int(r), j) for j, r in enumerate(owner[:-1]) if r >= 0 and allowed[r, j])


def _augment(cost: Array, row: int, owner: npt.NDArray[np.int_], over: Array, under: Array) -> None:
    """Find a column for one more row, moving others where that is cheaper; changes owner and potentials."""
    columns = cost.shape[1]
    owner[columns], at = row, columns
    lowest, previous, done = np.full(columns, np.inf), np.full(columns, columns), np.zeros(columns + 1, bool)
    while owner[at] >= 0:
        done[at] = True
        row_now = owner[at]
        slack = cost[row_now] - over[row_now] - under[:columns]
        nearer = ~done[:columns] & (slack < lowest)
        lowest[nearer], previous[nearer] = slack[nearer], at
        step_to = int(np.argmin(np.where(done[:columns], np.inf, lowest)))
        step = lowest[step_to]
        over[owner[done]] += step
        under[done] -= step
        lowest[~done[:columns]] -= step
        at = step_to
    while at != columns:
        owner[at] = owner[previous[at]]
        at = int(previous[at])
    owner[columns] = -1

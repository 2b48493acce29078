"""Large albums: which faces are one person's, by blocks, so that no matrix of all pairs is ever there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.recognition import clustering
from mien.scale.engine import run
from mien.types import Floats

BLOCK = 4096  # Ours: faces a side of a block of pairs, 64 MB of similarities
LARGEST = 8192  # Ours: faces of a part that average linkage is asked of, 0.5 GB of similarities
SLACK = 1e-4  # below the cut: products of other shapes round differently, and a pair too many does no harm
TIGHTER = 0.01  # Ours: a part that is too large is cut by this much higher, again and again


@dataclass(frozen=True, slots=True)
class Groups:
    """Attributes: labels: a group's number a face, as `cluster.group` gives it.

    approximate: faces in parts that were cut higher to fit.
    """

    labels: list[int]
    approximate: int


class Near:
    """Worker: a block of pairs -> which faces hang together in it, as few pairs as say so."""

    def __init__(self, e: Floats, photo: npt.NDArray[np.int64], margins: Floats):
        self.e, self.photo, self.margins = e, photo, margins

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        (a, b), cut = item["rows"], item["cut"]
        rows, others = (
            np.arange(a, min(a + item["block"], len(self.e))),
            np.arange(b, min(b + item["block"], len(self.e))),
        )
        near = (
            self.e[rows] @ self.e[others].T - np.maximum(self.margins[rows, None], self.margins[None, others])
            >= cut - SLACK
        )
        near &= self.photo[rows, None] != self.photo[None, others]
        i, j = (x.tolist() for x in np.nonzero(near))
        forest, kept = Forest(), []
        for one, two in zip((rows[i]).tolist(), (others[j]).tolist(), strict=True):
            if one < two and forest.join(one, two):
                kept.append([one, two])
        return {"pairs": kept, "pid": os.getpid()}


class Linked:
    """Worker: parts -> their groups by average linkage."""

    def __init__(self, e: Floats, photo: npt.NDArray[np.int64], margins: Floats, cut: float):
        self.e, self.photo, self.margins, self.cut = e, photo, margins, cut

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        out = []
        for part in item["parts"]:
            labels = clustering.group(
                self.e[part], self.cut, apart=self.photo[part].tolist(), margins=self.margins[part]
            )
            groups: dict[int, list[int]] = {}
            for face, label in zip(part, labels, strict=True):
                groups.setdefault(label, []).append(face)
            out += list(groups.values())
        return {"groups": out, "pid": os.getpid()}


class Forest:
    """Which numbers hang together (union-find)."""

    def __init__(self) -> None:
        self.up: dict[int, int] = {}

    def root(self, i: int) -> int:
        """The number that stands for all that hang together with i."""
        while (above := self.up.get(i, i)) != i:
            self.up[i] = self.up.get(above, above)
            i = self.up[i]
        return i

    def join(self, i: int, j: int) -> bool:
        """Whether they did not hang together before."""
        a, b = self.root(i), self.root(j)
        self.up[max(a, b)] = min(a, b)
        return a != b


def group(
    embeddings: npt.ArrayLike,
    cut: float,
    *,
    apart: Sequence[int] | None = None,
    margins: npt.ArrayLike | None = None,
    block: int = BLOCK,
    largest: int = LARGEST,
    engine: str = "local",
    workers: int | None = None,
) -> Groups:
    """`cluster.group`, by blocks of pairs and then by parts, on many cores or machines.

    Faces between which no chain of pairs reaches the cut can never be one group, so each such part is solved
    alone: exactly what `cluster.group` answers. A part of more than `largest` faces (a chain of lookalikes; a
    cut too low for the network) is cut higher until it fits: there, groups may come out smaller than average
    linkage at the cut would have them.

    Args:
        embeddings, cut, apart, margins: see `cluster.group`.
        block: faces a side.
        engine, workers: see `engine.run`.
    """
    e = np.ascontiguousarray(embeddings, np.float32)
    m = np.zeros(len(e), np.float32) if margins is None else np.asarray(margins, np.float32)
    photo = np.arange(len(e)) if apart is None else np.asarray(apart, np.int64)

    def parts_of(faces: npt.NDArray[np.int64], at: float) -> list[list[int]]:
        blocks = range(0, len(faces), block)
        items = [{"rows": [a, b], "cut": at, "block": block} for a in blocks for b in blocks if b >= a]
        forest = Forest()
        for result in run(items, Near, (e[faces], photo[faces], m[faces]), engine=engine, workers=workers):
            for i, j in result["pairs"]:
                forest.join(i, j)
        found: dict[int, list[int]] = {}
        for k, face in enumerate(faces.tolist()):
            found.setdefault(forest.root(k), []).append(face)
        return list(found.values())

    fit, approximate = [], 0
    waiting = [(part, cut) for part in parts_of(np.arange(len(e)), cut)]
    while waiting:
        part, at = waiting.pop()
        if len(part) <= largest:
            fit.append(part)
            continue
        approximate += len(part) if at == cut else 0
        # beyond 1 there is nothing to cut: pictures that are the same picture are one group
        higher = (
            parts_of(np.array(part), at + TIGHTER)
            if at + TIGHTER <= 1
            else [part[i : i + largest] for i in range(0, len(part), largest)]
        )
        waiting += [(p, at + TIGHTER) for p in higher]
    groups = [part for part in fit if len(part) == 1]
    for result in run(
        _bundles([p for p in fit if len(p) > 1]), Linked, (e, photo, m, cut), engine=engine, workers=workers
    ):
        groups += result["groups"]
    groups.sort(key=lambda members: (-len(members), members[0]))
    labels = [0] * len(e)
    for number, members in enumerate(groups):
        for face in members:
            labels[face] = number
    return Groups(labels, approximate)


def _bundles(parts: list[list[int]], pairs: int = 4_000_000) -> list[dict[str, Any]]:
    """Parts in pieces of work of about as many pairs."""
    out: list[dict[str, Any]] = []
    full = pairs
    for part in sorted(parts, key=len, reverse=True):
        if full >= pairs:
            out.append({"parts": []})
            full = 0
        out[-1]["parts"].append(part)
        full += len(part) ** 2
    return out

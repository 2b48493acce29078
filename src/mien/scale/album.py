"""Cluster the faces of large albums in blocks, so that the matrix of all pairs never exists."""

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

BLOCK = 4096  # Ours: side of a block of pairs in faces, 64 MB of similarities
LARGEST = 8192  # Ours: maximum faces of one average linkage, 0.5 GB of similarities
SLACK = 1e-4  # below the threshold: other matrix shapes round differently, and an extra pair changes nothing
TIGHTER = 0.01  # Ours: step by which the threshold increases until every part is small enough


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of an album.

    Attributes:
        labels: (n,) one group number per face, as `clustering.group` returns it.
        approximate: number of faces in parts that were split at a higher threshold.
    """

    labels: list[int]
    approximate: int


class BlockPairs:
    """Worker: a block of pairs -> a spanning forest of its connected faces."""

    def __init__(self, e: Floats, photo: npt.NDArray[np.int64], margins: Floats):
        self.e, self.photo, self.margins = e, photo, margins

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        (a, b), threshold = item["rows"], item["threshold"]
        rows, others = (
            np.arange(a, min(a + item["block"], len(self.e))),
            np.arange(b, min(b + item["block"], len(self.e))),
        )
        above = (
            self.e[rows] @ self.e[others].T - np.maximum(self.margins[rows, None], self.margins[None, others])
            >= threshold - SLACK
        )
        above &= self.photo[rows, None] != self.photo[None, others]
        i, j = (x.tolist() for x in np.nonzero(above))
        forest, pairs = Forest(), []
        for one, two in zip((rows[i]).tolist(), (others[j]).tolist(), strict=True):
            if one < two and forest.join(one, two):
                pairs.append([one, two])
        return {"pairs": pairs, "pid": os.getpid()}


class Linkage:
    """Worker: parts -> their groups by average linkage."""

    def __init__(self, e: Floats, photo: npt.NDArray[np.int64], margins: Floats, threshold: float):
        self.e, self.photo, self.margins, self.threshold = e, photo, margins, threshold

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        out = []
        for part in item["parts"]:
            labels = clustering.group(
                self.e[part], self.threshold, photos=self.photo[part].tolist(), margins=self.margins[part]
            )
            groups: dict[int, list[int]] = {}
            for face, label in zip(part, labels, strict=True):
                groups.setdefault(label, []).append(face)
            out += list(groups.values())
        return {"groups": out, "pid": os.getpid()}


class Forest:
    """Connected components of numbers (union-find)."""

    def __init__(self) -> None:
        self.up: dict[int, int] = {}

    def root(self, i: int) -> int:
        """The representative of i's component."""
        while (above := self.up.get(i, i)) != i:
            self.up[i] = self.up.get(above, above)
            i = self.up[i]
        return i

    def join(self, i: int, j: int) -> bool:
        """Connect two numbers; True if they were in different components before."""
        a, b = self.root(i), self.root(j)
        self.up[max(a, b)] = min(a, b)
        return a != b


def group(
    embeddings: npt.ArrayLike,
    threshold: float,
    *,
    photos: Sequence[int] | None = None,
    margins: npt.ArrayLike | None = None,
    block: int = BLOCK,
    largest: int = LARGEST,
    engine: str = "local",
    workers: int | None = None,
) -> Groups:
    """`clustering.group` in blocks of pairs and then in parts, on many cores or machines.

    Faces that no chain of pairs above the threshold connects can never be one group. So each connected part
    is clustered separately, with the same result as `clustering.group`. A part of more than `largest` faces
    (a chain of similar people, or a threshold too low for the network) is split at higher thresholds until it
    fits; its groups may be smaller than those of average linkage.

    Args:
        embeddings: see `clustering.group`.
        threshold: see `clustering.group`.
        photos: see `clustering.group`.
        margins: see `clustering.group`.
        block: side of a block of pairs, in faces.
        largest: maximum number of faces in one part.
        engine: see `engine.run`.
        workers: see `engine.run`.
    """
    e = np.ascontiguousarray(embeddings, np.float32)
    m = np.zeros(len(e), np.float32) if margins is None else np.asarray(margins, np.float32)
    photo = np.arange(len(e)) if photos is None else np.asarray(photos, np.int64)

    def parts_of(faces: npt.NDArray[np.int64], at: float) -> list[list[int]]:
        blocks = range(0, len(faces), block)
        items = [{"rows": [a, b], "threshold": at, "block": block} for a in blocks for b in blocks if b >= a]
        forest = Forest()
        for result in run(
            items, BlockPairs, (e[faces], photo[faces], m[faces]), engine=engine, workers=workers
        ):
            for i, j in result["pairs"]:
                forest.join(i, j)
        found: dict[int, list[int]] = {}
        for k, face in enumerate(faces.tolist()):
            found.setdefault(forest.root(k), []).append(face)
        return list(found.values())

    fit, approximate = [], 0
    waiting = [(part, threshold) for part in parts_of(np.arange(len(e)), threshold)]
    while waiting:
        part, at = waiting.pop()
        if len(part) <= largest:
            fit.append(part)
            continue
        approximate += len(part) if at == threshold else 0
        # a threshold above 1 splits nothing: identical pictures are one group
        higher = (
            parts_of(np.array(part), at + TIGHTER)
            if at + TIGHTER <= 1
            else [part[i : i + largest] for i in range(0, len(part), largest)]
        )
        waiting += [(p, at + TIGHTER) for p in higher]
    groups = [part for part in fit if len(part) == 1]
    for result in run(
        _bundles([p for p in fit if len(p) > 1]),
        Linkage,
        (e, photo, m, threshold),
        engine=engine,
        workers=workers,
    ):
        groups += result["groups"]
    groups.sort(key=lambda members: (-len(members), members[0]))
    labels = [0] * len(e)
    for number, members in enumerate(groups):
        for face in members:
            labels[face] = number
    return Groups(labels, approximate)


def _bundles(parts: list[list[int]], pairs: int = 4_000_000) -> list[dict[str, Any]]:
    """Bundle parts into pieces of work of about `pairs` pairs."""
    out: list[dict[str, Any]] = []
    full = pairs
    for part in sorted(parts, key=len, reverse=True):
        if full >= pairs:
            out.append({"parts": []})
            full = 0
        out[-1]["parts"].append(part)
        full += len(part) ** 2
    return out

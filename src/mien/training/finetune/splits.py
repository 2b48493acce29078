"""Which pictures train, which choose, which measure: people and duplicates stay on one side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.training.finetune.faces import Kept
from mien.training.finetune.table import SPLITS, Row

VAL = TEST = 0.15  # of the pictures
NEAR_BITS = 15  # of 256 that may differ between near duplicates
NEAR_GRAY = 6.0  # mean gray levels of 255 that they may differ by
_BANDS = NEAR_BITS + 1  # with so many parts, one of them is equal in two near duplicates


@dataclass(eq=False)
class Split:
    """A part for each picture.

    Attributes:
        part: "train", "val", "test", or "" for what is left out, by picture.
        group: a number for each picture; equal for one person and for duplicates.
        problems: what was left out and why.
    """

    part: list[str]
    group: npt.NDArray[np.int64]
    problems: list[str]

    def index(self, name: str) -> npt.NDArray[np.int64]:
        """Numbers of the pictures of a part."""
        return np.flatnonzero(np.array(self.part) == name)


class _Sets:
    """Union-find."""

    def __init__(self, n: int):
        self.up = list(range(n))

    def root(self, i: int) -> int:
        while self.up[i] != i:
            self.up[i] = self.up[self.up[i]]
            i = self.up[i]
        return i

    def join(self, a: int, b: int) -> None:
        self.up[self.root(a)] = self.root(b)


def duplicates(kept: Sequence[Kept]) -> list[tuple[int, int, bool]]:
    """Pairs of pictures that show the same, mirrored or not: (first, second, pixel for pixel)."""
    pairs = dict[tuple[int, int], bool]()
    by_pixels: dict[str, int] = {}
    for i, k in enumerate(kept):
        first = by_pixels.setdefault(k.pixels, i)
        if first != i:
            pairs[first, i] = True
    if not kept:
        return []
    bits = np.stack([k.bits for k in kept])
    gray = np.stack([k.thumb for k in kept]).astype(np.float32)
    bands = np.array_split(np.arange(bits.shape[-1]), _BANDS)
    for band in bands:
        places: dict[bytes, list[int]] = {}
        for i in range(len(kept)):
            for side in (0, 1):
                at = places.setdefault(np.packbits(bits[i, side, band]).tobytes(), [])
                at.append(2 * i + side)
        for together in places.values():
            if len(together) > 1:
                _compare(np.array(together), bits, gray, pairs)
    return [(a, b, exact) for (a, b), exact in sorted(pairs.items())]


def _compare(
    together: npt.NDArray[np.int64],
    bits: npt.NDArray[np.bool_],
    gray: npt.NDArray[np.float32],
    pairs: dict[tuple[int, int], bool],
) -> None:
    """Add the near duplicates among pictures that share a part of their hash."""
    plain = together[together % 2 == 0]  # one of two is as it is: mirror images of both are no new pair
    for at in plain:
        i = int(at) // 2
        others = together[together // 2 > i]
        if not len(others):
            continue
        j, side = others // 2, others % 2
        near = (bits[j, side] != bits[i, 0]).sum(1) <= NEAR_BITS
        near &= np.abs(gray[j, side] - gray[i, 0]).mean((1, 2)) <= NEAR_GRAY
        for k in j[near]:
            pairs.setdefault((i, int(k)), False)


def split(rows: Sequence[Row], kept: Sequence[Kept], strata: Sequence[Any], *, seed: int = 0) -> Split:
    """A part for each picture: the table's where it says so, else at random, by person and by duplicates.

    Args:
        rows, kept: the pictures.
        strata: what every part should have its share of, such as the class of each picture.
        seed: of the random split.
    """
    sets, problems = _Sets(len(rows)), list[str]()
    part = [r.split for r in rows]
    people: dict[str, int] = {}
    for i, row in enumerate(rows):
        if row.person:
            sets.join(i, people.setdefault(row.person, i))
    dropped = set[int]()
    found = duplicates(kept)
    exact = sum(e for *_, e in found)
    for a, b, same in found:
        sets.join(a, b)
        if same and not _agree(rows[a].label, rows[b].label):
            dropped |= {a, b}
            problems.append(
                f"{rows[a].name} and {rows[b].name} are one picture with two labels"
                f"{_both_words(rows[a].label, rows[b].label)}; both are left out, correct one and remove the"
                " other"
            )
    if found:
        problems.append(
            f"{exact} pairs of pictures are equal and {len(found) - exact} nearly equal"
            f" ({rows[found[0][0]].name} and {rows[found[0][1]].name}, for instance); duplicates stay on one"
            " side of the split. Remove them: they teach nothing new"
        )
    roots = np.array([sets.root(i) for i in range(len(rows))], np.int64)
    group = np.asarray(np.unique(roots, return_inverse=True)[1], np.int64)
    if any(part):
        _repair(rows, part, group, dropped, problems)
    _fill(part, group, strata, seed)
    for i in dropped:
        part[i] = ""
    return Split(part, group, problems)


def _both_words(a: Any, b: Any) -> str:
    """Labels that are short enough to print."""
    return f", {a!r} and {b!r}" if isinstance(a, str | int | float | dict) else ""


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(a[k] == b[k] for k in a.keys() & b.keys())
    return bool(np.array_equal(a, b, equal_nan=True)) if isinstance(a, np.ndarray) else bool(a == b)


def _repair(
    rows: Sequence[Row],
    part: list[str],
    group: npt.NDArray[np.int64],
    dropped: set[int],
    problems: list[str],
) -> None:
    """Parts that the table gives: a person or a duplicate in two of them stays in the stricter one."""
    order = {name: i for i, name in enumerate(SPLITS)}
    leaks = 0
    example = ""
    for g in np.unique(group):
        members = [i for i in np.flatnonzero(group == g).tolist() if part[i]]
        if len({part[i] for i in members}) > 1:
            best = max((part[i] for i in members), key=lambda p: order[p])
            out = [i for i in members if part[i] != best]
            leaks += len(out)
            example = example or f"{rows[out[0]].name} ({part[out[0]]})"
            dropped |= set(out)
    if leaks:
        problems.append(
            f"{leaks} pictures leak between the splits of the table, by person or as duplicates, such as"
            f" {example};"
            " they are left out of the earlier part. Give one person, and one picture, one split"
        )
    missing = [name for name in SPLITS if name not in part]
    if missing:
        problems.append(f"the table has no split {missing[0]!r}; it is taken at random from the train part")


def _fill(part: list[str], group: npt.NDArray[np.int64], strata: Sequence[Any], seed: int) -> None:
    """Give a part to every group that has none; where whole parts are missing, take them from train."""
    given = {p for p in part if p}
    wanted = [(name, share) for name, share in (("test", TEST), ("val", VAL)) if name not in given]
    free = [i for i, p in enumerate(part) if not p or (p == "train" and wanted)]
    members: dict[int, list[int]] = {}
    for i in free:
        members.setdefault(int(group[i]), []).append(i)
    by_stratum: dict[Any, list[int]] = {}
    for g, inside in members.items():
        commonest = Counter(strata[i] for i in inside).most_common(1)[0][0]
        by_stratum.setdefault(commonest, []).append(g)
    rng = np.random.default_rng(seed)
    for stratum in sorted(by_stratum, key=str):
        groups = [by_stratum[stratum][i] for i in rng.permutation(len(by_stratum[stratum]))]
        total = sum(len(members[g]) for g in groups)
        for name, share in wanted:
            taken = 0
            while len(groups) > 1 and taken < max(1, round(share * total)):
                g = groups.pop()
                taken += len(members[g])
                for i in members[g]:
                    part[i] = name
        for g in groups:
            for i in members[g]:
                part[i] = "train"

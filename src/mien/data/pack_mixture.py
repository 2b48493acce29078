"""Which set of the pack answers which question, and how many pictures of each make a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mien.data import synthetic
from mien.data.augment import Augment
from mien.data.dataset import ConcatDataset, Dataset, FaceSource, LabelledSubset, RandomSubset
from mien.data.face_morphs import FaceMorphs
from mien.data.formats import pack, wild
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.tasks import Task
from mien.types import View

# set -> how its training part is opened, given the teacher's descriptors, and how much of their mean is left
# in them
_OPEN: dict[str, Callable[[Mapping[str, Any], float], Dataset]] = {
    "ferplus": lambda teacher, left: pack.ferplus("train", soft=True),
    "utkface": lambda teacher, left: pack.utkface("train", teacher=teacher),
    "celeba": lambda teacher, left: pack.celeba("train", teacher=teacher),
    "mtfl": lambda teacher, left: pack.mtfl("train", teacher=teacher),
    "mtfl-turned": lambda teacher, left: pack.mtfl("train", teacher=teacher, turned=True),
    "helen68": lambda teacher, left: pack.helen68("train"),
    "afw68": lambda teacher, left: pack.afw68("train"),
    "celebamask": lambda teacher, left: pack.celebamask("train"),
    "blends": lambda teacher, left: FaceMorphs(left=left),
    "fairface": lambda teacher, left: wild.fairface("train"),
    "utkface-full": lambda teacher, left: wild.utkface("train", teacher=teacher),
    "aaf": lambda teacher, left: wild.aaf("train"),
    "aaf-faces": lambda teacher, left: wild.aaf("train", landmarks=False),
    "celeba_wild": lambda teacher, left: wild.celeba_wild("train"),
}

# cut to the face, or nearly so; and whole heads, whose surroundings the former may borrow
TIGHT, WHOLE = ("ferplus", "utkface", "utkface-full", "celeba"), ("mtfl", "celebamask")
# task -> the sets that were made for it; others may label it too, in part
MADE_FOR: dict[str, tuple[str, ...]] = {
    "expression": ("ferplus",),
    "age": ("utkface", "utkface-full", "fairface", "aaf", "aaf-faces"),
    "attributes": ("celeba", "celeba_wild"),
    "points5": ("mtfl", "mtfl-turned"),
    "landmarks": ("helen68", "afw68"),
    "parsing": ("celebamask",),
    "identity": ("celeba", "utkface", "utkface-full", "mtfl", "mtfl-turned", "blends"),
}
# pictures of each set in a batch of 20 that raises all tasks
SHARES = {"ferplus": 5, "utkface": 4, "celeba": 4, "mtfl": 2, "helen68": 1, "afw68": 1, "celebamask": 3}
# task -> the protocol on validation pictures that shows how it learns
WATCHED = {
    "expression": "ferplus-val", "age": "utkface-age", "attributes": "celeba", "landmarks": "helen68",
    "parsing": "celebamask",
    "identity": "lfw",
}  # fmt: skip
# What a task's loss weighs: found on the main network, where at equal weights attributes and identity hardly
# learned
LOSS_WEIGHTS = {
    "landmarks": 0.5,
    "points5": 0.5,
    "parsing": 1.0,
    "age": 0.5,
    "expression": 1.5,
    "attributes": 7.0,
    "identity": 2.0,
}


def batch_shares(tasks: Sequence[Task[Any]], batch: int) -> dict[str, int]:
    """The sets made for these tasks -> pictures in a batch, in the proportions of `SHARES` and at least one
    of each.

    Raises:
        UsageError: a task that no set of the pack was made for, or a batch with less room than sets.
    """
    missing = [t.name for t in tasks if t.name not in MADE_FOR]
    if missing:
        raise UsageError(
            f"no set of the pack is made for {missing[0]!r}; there are sets for: {', '.join(MADE_FOR)}"
        )
    wanted = {s for t in tasks for s in MADE_FOR[t.name]}
    part = {name: n for name, n in SHARES.items() if name in wanted}
    if batch < len(part):
        raise UsageError(f"a batch of {batch} has no room for {len(part)} sets: {', '.join(part)}")
    exact = {name: batch * n / sum(part.values()) for name, n in part.items()}
    whole = {name: max(1, int(x)) for name, x in exact.items()}
    while sum(whole.values()) != batch:  # the largest remainder gives or takes one
        step = 1 if sum(whole.values()) < batch else -1
        name = max((n for n in whole if whole[n] + step >= 1), key=lambda n: step * (exact[n] - whole[n]))
        whole[name] += step
    return whole


def validation_protocols(tasks: Sequence[Task[Any]]) -> tuple[str, ...]:
    """The protocols that show how these tasks learn, none of them on test pictures."""
    return tuple(WATCHED[t.name] for t in tasks if t.name in WATCHED)


def blend(
    shares: Mapping[str, int],
    view: View,
    tasks: Sequence[Task[Any]],
    *,
    seed: int,
    augment: Augment | None = None,
    most: Mapping[str, int] | None = None,
    drawn: bool = False,
    paste_background: bool = False,
    only: str = "",
    left: float = 0.0,
) -> Mixture:
    """Training parts of the pack in one mixture: set -> pictures a batch, in that order.

    Args:
        view: of the model;
        tasks: the ones it learns. A teacher's descriptors come along where identity is one of them.
        augment: default `Augment()`.
        most: set -> use so many of its pictures only, to study how much a task needs.
        borrow: surround faces of tight sets with what surrounds those of whole ones, see `Augment.borrow`.
        drawn: drawn faces in place of the pack, each set with the labels it was made for: a recipe can be
            tried without data.
        only: a task; then pictures that it has no label for stay out, and labels of other tasks too.
        left: see `pack.centred`.

    Raises:
        UsageError: a set that the pack does not have.
    """
    unknown = [name for name in (*shares, *(most or {})) if name not in _OPEN]
    if unknown:
        raise UsageError(f"the pack has no set {unknown[0]!r}; it has: {', '.join(_OPEN)}")
    teacher = pack.descriptors(left=left) if not drawn and any(t.name == "identity" for t in tasks) else {}
    opened = dict[str, Dataset]()
    for name in shares:
        made_for = tuple(task for task, sets in MADE_FOR.items() if name in sets)
        dataset: Dataset = synthetic.toy(tasks=made_for) if drawn else _OPEN[name](teacher, left)
        dataset = LabelledSubset(dataset, only) if only else dataset
        opened[name] = RandomSubset(dataset, most[name]) if most and name in most else dataset
    lenders = [opened[name] for name in WHOLE if paste_background and name in opened]
    others, augment = ConcatDataset(lenders) if lenders else None, augment or Augment()
    told = (only,) if only else ()
    parts = [
        (FaceSource(opened[s], view, augment, only=told, others=others if s in TIGHT else None), n)
        for s, n in shares.items()
    ]
    return Mixture(parts, tasks, seed=seed, size=view.size)

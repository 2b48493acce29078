"""Mix the sets of the data pack: which sets label which task, and the pictures of each in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mien.data.augment import Augment
from mien.data.dataset import ConcatDataset, Dataset, FaceSource, LabeledSubset, RandomSubset
from mien.data.face_morphs import FaceMorphs
from mien.data.formats import pack, wild
from mien.data.mixture import Mixture
from mien.data.synthetic import toy
from mien.errors import UsageError
from mien.tasks import Task
from mien.types import View

# set -> opens its training part, given the teacher's descriptors and the fraction of their mean to keep
_OPEN: dict[str, Callable[[Mapping[str, Any], float], Dataset]] = {
    "ferplus": lambda teacher, left: pack.ferplus("train", soft=True),
    "utkface": lambda teacher, left: pack.utkface("train", teacher=teacher),
    "celeba": lambda teacher, left: pack.celeba("train", teacher=teacher),
    "mtfl": lambda teacher, left: pack.mtfl("train", teacher=teacher),
    "mtfl-turned": lambda teacher, left: pack.mtfl("train", teacher=teacher, turned=True),
    "helen68": lambda teacher, left: pack.helen68("train"),
    "afw68": lambda teacher, left: pack.afw68("train"),
    "celebamask": lambda teacher, left: pack.celebamask("train"),
    "face_morphs": lambda teacher, left: FaceMorphs(left=left),
    "fairface": lambda teacher, left: wild.fairface("train", teacher=teacher),
    "utkface-full": lambda teacher, left: wild.utkface("train", teacher=teacher),
    "aaf": lambda teacher, left: wild.aaf("train", teacher=teacher),
    "aaf-faces": lambda teacher, left: wild.aaf("train", landmarks=False, teacher=teacher),
    "celeba_wild": lambda teacher, left: wild.celeba_wild("train", teacher=teacher),
}

# Sets cropped tightly around the face, and sets of entire heads, whose backgrounds the former can use.
TIGHT, WHOLE = ("ferplus", "utkface", "utkface-full", "celeba"), ("mtfl", "celebamask")
# task -> the sets made for it; other sets may label it too, partly
MADE_FOR: dict[str, tuple[str, ...]] = {
    "expression": ("ferplus",),
    "age": ("utkface", "utkface-full", "fairface", "aaf", "aaf-faces"),
    "attributes": ("celeba", "celeba_wild"),
    "points5": ("mtfl", "mtfl-turned"),
    "landmarks": ("helen68", "afw68"),
    "parsing": ("celebamask",),
    "identity": (
        "celeba", "utkface", "utkface-full", "mtfl", "mtfl-turned", "face_morphs", "fairface", "aaf",
        "aaf-faces", "celeba_wild",
    ),
}  # fmt: skip
# pictures of each set in a batch of 20 that trains all tasks
SHARES = {"ferplus": 5, "utkface": 4, "celeba": 4, "mtfl": 2, "helen68": 1, "afw68": 1, "celebamask": 3}
# task -> the protocol on validation pictures that is reported during training
VALIDATION_PROTOCOLS = {
    "expression": "ferplus-val", "age": "utkface-age", "attributes": "celeba", "landmarks": "helen68",
    "parsing": "celebamask",
    "identity": "lfw",
}  # fmt: skip
# Loss weight per task, chosen on the embedded network: with equal weights it hardly learned attributes and
# identity.
LOSS_WEIGHTS = {
    "landmarks": 0.5,
    "points5": 0.5,
    "parsing": 1.0,
    "age": 0.5,
    "expression": 1.5,
    "attributes": 7.0,
    "identity": 2.0,
}


def allocate_batch(tasks: Sequence[Task[Any]], batch: int) -> dict[str, int]:
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
    return tuple(VALIDATION_PROTOCOLS[t.name] for t in tasks if t.name in VALIDATION_PROTOCOLS)


def pack_mixture(
    shares: Mapping[str, int],
    view: View,
    tasks: Sequence[Task[Any]],
    *,
    seed: int,
    augment: Augment | None = None,
    max_samples: Mapping[str, int] | None = None,
    synthetic: bool = False,
    paste_background: bool = False,
    only: str = "",
    left: float = 0.0,
    teacher: Mapping[str, Any] | None = None,
) -> Mixture:
    """A mixture of the pack's training sets.

    Args:
        shares: set -> pictures per batch, in this order.
        view: of the model.
        tasks: of the model. With identity, the sets get a teacher's descriptors.
        seed: of the mixture.
        augment: default `Augment()`.
        max_samples: set -> maximum number of its pictures, to study how many a task needs.
        synthetic: use synthetic faces instead of the pack, to try a recipe without data. Each set has the
            labels of its main task.
        paste_background: give faces of tight sets the backgrounds of entire heads, see `Augment`.
        only: a task name; pictures without its label and labels of other tasks are left out.
        left: see `pack.centered`.
        teacher: identity descriptors by "set/name", instead of those of the pack.

    Raises:
        UsageError: a set that the pack does not have.
    """
    unknown = [name for name in (*shares, *(max_samples or {})) if name not in _OPEN]
    if unknown:
        raise UsageError(f"the pack has no set {unknown[0]!r}; it has: {', '.join(_OPEN)}")
    if synthetic or not any(t.name == "identity" for t in tasks):
        teacher = {}
    elif teacher is None:
        teacher = pack.descriptors(left=left)
    opened = dict[str, Dataset]()
    for name in shares:
        made_for = tuple(task for task, sets in MADE_FOR.items() if name in sets)
        dataset: Dataset = toy(tasks=made_for) if synthetic else _OPEN[name](teacher, left)
        dataset = LabeledSubset(dataset, only) if only else dataset
        opened[name] = (
            RandomSubset(dataset, max_samples[name]) if max_samples and name in max_samples else dataset
        )
    whole_heads = [opened[name] for name in WHOLE if paste_background and name in opened]
    others, augment = ConcatDataset(whole_heads) if whole_heads else None, augment or Augment()
    only_tasks = (only,) if only else ()
    parts = [
        (FaceSource(opened[s], view, augment, only=only_tasks, others=others if s in TIGHT else None), n)
        for s, n in shares.items()
    ]
    return Mixture(parts, tasks, seed=seed, size=view.size)

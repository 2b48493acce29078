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
    "ferplus": lambda teacher, mean_fraction: pack.ferplus("train", soft=True),
    "utkface": lambda teacher, mean_fraction: pack.utkface("train", teacher=teacher),
    "celeba": lambda teacher, mean_fraction: pack.celeba("train", teacher=teacher),
    "mtfl": lambda teacher, mean_fraction: pack.mtfl("train", teacher=teacher),
    "mtfl-turned": lambda teacher, mean_fraction: pack.mtfl("train", teacher=teacher, turned=True),
    "helen68": lambda teacher, mean_fraction: pack.helen68("train"),
    "afw68": lambda teacher, mean_fraction: pack.afw68("train"),
    "celebamask": lambda teacher, mean_fraction: pack.celebamask("train"),
    "face_morphs": lambda teacher, mean_fraction: FaceMorphs(mean_fraction=mean_fraction),
    "fairface": lambda teacher, mean_fraction: wild.fairface("train", teacher=teacher),
    "utkface-full": lambda teacher, mean_fraction: wild.utkface("train", teacher=teacher),
    "aaf": lambda teacher, mean_fraction: wild.aaf("train", teacher=teacher),
    "aaf-faces": lambda teacher, mean_fraction: wild.aaf("train", landmarks=False, teacher=teacher),
    "celeba_wild": lambda teacher, mean_fraction: wild.celeba_wild("train", teacher=teacher),
}

# Sets cropped tightly around the face, and sets of entire heads, whose backgrounds the former can use.
TIGHT, ENTIRE = ("ferplus", "utkface", "utkface-full", "celeba"), ("mtfl", "celebamask")
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
PROPORTIONS = {"ferplus": 5, "utkface": 4, "celeba": 4, "mtfl": 2, "helen68": 1, "afw68": 1, "celebamask": 3}
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
    """The sets made for these tasks -> pictures in a batch, by `PROPORTIONS`, at least one of each.

    Raises:
        UsageError: a task that no set of the pack was made for, or a batch with less room than sets.
    """
    missing = [t.name for t in tasks if t.name not in MADE_FOR]
    if missing:
        raise UsageError(
            f"no set of the pack is made for {missing[0]!r}; there are sets for: {', '.join(MADE_FOR)}"
        )
    wanted = {s for t in tasks for s in MADE_FOR[t.name]}
    part = {name: n for name, n in PROPORTIONS.items() if name in wanted}
    if batch < len(part):
        raise UsageError(f"a batch of {batch} has no room for {len(part)} sets: {', '.join(part)}")
    exact = {name: batch * n / sum(part.values()) for name, n in part.items()}
    counts = {name: max(1, int(x)) for name, x in exact.items()}
    while sum(counts.values()) != batch:  # the largest remainder gives or takes one
        step = 1 if sum(counts.values()) < batch else -1
        name = max((n for n in counts if counts[n] + step >= 1), key=lambda n: step * (exact[n] - counts[n]))
        counts[name] += step
    return counts


def validation_protocols(tasks: Sequence[Task[Any]]) -> tuple[str, ...]:
    """The protocols that show how these tasks learn, none of them on test pictures."""
    return tuple(VALIDATION_PROTOCOLS[t.name] for t in tasks if t.name in VALIDATION_PROTOCOLS)


def pack_mixture(
    counts: Mapping[str, int],
    view: View,
    tasks: Sequence[Task[Any]],
    *,
    seed: int,
    augment: Augment | None = None,
    max_samples: Mapping[str, int] | None = None,
    synthetic: bool = False,
    paste_background: bool = False,
    only: str = "",
    mean_fraction: float = 0.0,
    teacher: Mapping[str, Any] | None = None,
) -> Mixture:
    """A mixture of the pack's training sets.

    Args:
        counts: set -> pictures per batch, in this order.
        view: of the model.
        tasks: of the model. With identity, the sets get a teacher's descriptors.
        seed: of the mixture.
        augment: default `Augment()`.
        max_samples: set -> maximum number of its pictures, to study how many a task needs.
        synthetic: use synthetic faces instead of the pack, to try a recipe without data. Each set has the
            labels of its main task.
        paste_background: give faces of tight sets the backgrounds of entire heads, see `Augment`.
        only: a task name; pictures without its label and labels of other tasks are left out.
        mean_fraction: see `pack.centered`.
        teacher: identity descriptors by "set/name", instead of those of the pack.

    Raises:
        UsageError: a set that the pack does not have.
    """
    unknown = [name for name in (*counts, *(max_samples or {})) if name not in _OPEN]
    if unknown:
        raise UsageError(f"the pack has no set {unknown[0]!r}; it has: {', '.join(_OPEN)}")
    if synthetic or not any(t.name == "identity" for t in tasks):
        teacher = {}
    elif teacher is None:
        teacher = pack.descriptors(mean_fraction=mean_fraction)
    opened = dict[str, Dataset]()
    for name in counts:
        made_for = tuple(task for task, sets in MADE_FOR.items() if name in sets)
        dataset: Dataset = toy(tasks=made_for) if synthetic else _OPEN[name](teacher, mean_fraction)
        dataset = LabeledSubset(dataset, only) if only else dataset
        opened[name] = (
            RandomSubset(dataset, max_samples[name]) if max_samples and name in max_samples else dataset
        )
    heads = [opened[name] for name in ENTIRE if paste_background and name in opened]
    others, augment = ConcatDataset(heads) if heads else None, augment or Augment()
    only_tasks = (only,) if only else ()
    parts = [
        (FaceSource(opened[s], view, augment, only=only_tasks, others=others if s in TIGHT else None), n)
        for s, n in counts.items()
    ]
    return Mixture(parts, tasks, seed=seed, size=view.size)

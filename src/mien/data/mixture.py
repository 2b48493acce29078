"""Several sources, one batch.

A batch is a pure function of (seed, step), so a run resumes by its step alone.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Generator, Sequence
from fractions import Fraction

import numpy as np

from mien.errors import UsageError
from mien.tasks import Task
from mien.types import Batch, Example, Source, View


def collate(examples: Sequence[Example], tasks: Sequence[Task], size: tuple[int, int]) -> Batch:
    """Stack examples; a task that an example does not label gets its finite blank, with known = False.

    Returns:
        Batch with images (B, H, W, 3) uint8 and, for every task, targets (B, ...) and known (B,) or (B, K).

    Raises:
        UsageError: the pictures are not of that size; labels of another size would not fit them.
    """
    images = np.stack([e.pixels for e in examples])
    h, w = images.shape[1:3]
    if (w, h) != tuple(size):
        raise UsageError(
            f"pictures of {w} x {h} came to a mixture of {size[0]} x {size[1]}; give sources and mixture the"
            " same view"
        )
    targets, mask = {}, {}
    for task in tasks:
        blank = task.missing_target(size)
        rows = [e.labels.get(task.name, blank) for e in examples]
        targets[task.name] = np.stack([np.asarray(t) for t, _ in rows])
        mask[task.name] = np.stack([np.asarray(k) for _, k in rows])
    return Batch(images, targets, mask)


def shares(weights: Sequence[float], batch: int) -> list[int]:
    """Whole pictures of a batch for each weight, in proportion: the largest remainders are rounded up, ties
    from the left.

    Raises:
        UsageError: a weight is negative or not finite, or all are zero.
    """
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) == 0:
        raise UsageError(f"proportions are 0 or more, and not all 0; got {list(weights)}")
    exact = [Fraction(float(w)) for w in weights]  # rounding noise would decide between equal remainders
    quotas = [w * batch / sum(exact) for w in exact]
    counts = [int(q) for q in quotas]
    for i in sorted(range(len(quotas)), key=lambda i: counts[i] - quotas[i])[: batch - sum(counts)]:
        counts[i] += 1
    return counts


class Mixture:
    """Takes a fixed number of pictures of each source for every batch.

    Args:
        parts: (source, pictures a batch). A source is walked in a fresh random order each epoch of its own.
        tasks: the model's tasks, or in one mixture of several those that it labels.
        seed: of order and augmentation; mixtures next to each other want different ones.
        size: (width, height) of the crops.
        view: how the pictures are shown, size and normalization, where that is not the model's own view.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Source, int]],
        tasks: Sequence[Task],
        *,
        seed: int,
        size: tuple[int, int] | None = None,
        view: View | None = None,
    ):
        given = size or (view.size if view else None)
        if given is None or (view and view.size != tuple(given)):
            raise UsageError(f"a mixture needs a size or a view, of one size; got size={size}, view={view}")
        self.parts, self.tasks, self.seed, self.size, self.view = list(parts), tuple(tasks), seed, given, view
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    @classmethod
    def by_proportion(
        cls,
        sources: Sequence[Source],
        weights: Sequence[float],
        batch: int,
        tasks: Sequence[Task],
        *,
        seed: int,
        size: tuple[int, int] | None = None,
        view: View | None = None,
    ) -> Mixture:
        """A mixture of `batch` pictures, shared among the sources by weight; see `shares`. A source of weight
        0 stays out.

        Raises:
            UsageError: a source would never be seen, because its share rounds to no picture.
        """
        parts = [(s, w, n) for s, w, n in zip(sources, weights, shares(weights, batch), strict=True) if w > 0]
        if unseen := [s.name for s, _, n in parts if n == 0]:
            raise UsageError(
                f"of {batch} pictures a batch none falls to: {', '.join(unseen)}; raise the batch or these"
                " weights"
            )
        return cls([(s, n) for s, _, n in parts], tasks, seed=seed, size=size, view=view)

    @property
    def batch_size(self) -> int:
        """Pictures a batch, over all sources."""
        return sum(n for _, n in self.parts)

    def _order(self, part: int, epoch: int) -> np.ndarray:
        key = (part, epoch)
        if key not in self._orders:
            order = np.random.default_rng([self.seed, 1, part, epoch]).permutation(len(self.parts[part][0]))
            self._orders = {k: v for k, v in self._orders.items() if k[0] != part or k[1] == epoch - 1} | {
                key: order
            }
        return self._orders[key]

    def batch(self, step: int, share: int = 0, of: int = 1) -> Batch:
        """The batch of that step (0, 1, 2, ...), or one of its shares.

        Pictures are dealt in turn: the j-th of the whole batch falls to share j modulo `of`. So shares are
        disjoint, together the whole batch, and differ by one picture at most, in each part and in all.

        Raises:
            UsageError: there are fewer pictures than shares.
        """
        if not 0 <= share < of or of > self.batch_size:
            raise UsageError(
                f"share {share} of {of} of a batch of {self.batch_size} pictures; each share (a rank's"
                " micro-batch) needs a picture: raise the batch, or take fewer ranks or a smaller accumulate"
            )
        places = [
            (part, i) for part, (_, n) in enumerate(self.parts) for i in range(step * n, (step + 1) * n)
        ]
        examples = []
        for part, i in places[share::of]:
            source = self.parts[part][0]
            index = int(self._order(part, i // len(source))[i % len(source)])
            rng = np.random.default_rng([self.seed, 2, part, i])
            examples.append(source.example(index, rng, self.tasks))
        return collate(examples, self.tasks, self.size)

    def batches(
        self, start: int, stop: int, *, ahead: int = 4, shares: Sequence[int] = (0,), of: int = 1
    ) -> Generator[Batch, None, None]:
        """Batches of steps start..stop-1, or these shares of each, made by one thread a few batches ahead of
        their use.
        """
        wanted = [(step, share) for step in range(start, stop) for share in shares]
        made: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
        done = threading.Event()

        def work() -> None:
            try:
                for step, share in wanted:
                    item = self.batch(step, share, of)
                    while not done.is_set():
                        try:
                            made.put(item, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    if done.is_set():
                        return
            except BaseException as e:  # noqa: BLE001  (handed to the consumer, which raises it)
                made.put(e)

        thread = threading.Thread(target=work, name="mixture", daemon=True)
        thread.start()
        try:
            for _ in wanted:
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()
            thread.join()

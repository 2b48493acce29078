"""Several sources, one batch. A batch is a pure function of (seed, step), so a run resumes by its step alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from mien.tasks import Task
from mien.types import Batch, Example, Source


def collate(examples: Sequence[Example], tasks: Sequence[Task], size: tuple[int, int]) -> Batch:
    """Stack examples; a task that an example does not label gets its finite blank, with known = False.

    Returns:
        Batch with images (B, H, W, 3) uint8 and, for every task, targets (B, ...) and known (B,) or (B, K).
    """
    images = np.stack([e.pixels for e in examples])
    targets, known = {}, {}
    for task in tasks:
        blank = task.blank(size)
        rows = [e.labels.get(task.name, blank) for e in examples]
        targets[task.name] = np.stack([np.asarray(t) for t, _ in rows])
        known[task.name] = np.stack([np.asarray(k) for _, k in rows])
    return Batch(images, targets, known)


class Mixture:
    """Takes a fixed number of pictures of each source for every batch.

    Args:
        parts: (source, pictures a batch). A source is walked in a fresh random order each epoch of its own.
        tasks: the model's tasks; seed: of order and augmentation; size: (width, height) of the crops.
    """

    def __init__(self, parts: Sequence[tuple[Source, int]], tasks: Sequence[Task], *, seed: int, size: tuple[int, int]):
        self.parts, self.tasks, self.seed, self.size = list(parts), tuple(tasks), seed, size
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    @property
    def batch_size(self) -> int:
        """Pictures a batch, over all sources."""
        return sum(n for _, n in self.parts)

    def _order(self, part: int, epoch: int) -> np.ndarray:
        key = (part, epoch)
        if key not in self._orders:
            order = np.random.default_rng([self.seed, 1, part, epoch]).permutation(len(self.parts[part][0]))
            self._orders = {k: v for k, v in self._orders.items() if k[0] != part or k[1] == epoch - 1} | {key: order}
        return self._orders[key]

    def batch(self, step: int) -> Batch:
        """The batch of that step (0, 1, 2, ...)."""
        examples = []
        for part, (source, n) in enumerate(self.parts):
            for i in range(step * n, (step + 1) * n):
                index = int(self._order(part, i // len(source))[i % len(source)])
                examples.append(source.example(index, np.random.default_rng([self.seed, 2, part, i])))
        return collate(examples, self.tasks, self.size)

    def batches(self, start: int, stop: int, *, ahead: int = 4) -> Iterator[Batch]:
        """Batches of steps start..stop-1, made by one thread a few steps ahead of their use."""
        made: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
        done = threading.Event()

        def work() -> None:
            try:
                for step in range(start, stop):
                    item = self.batch(step)
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
            for _ in range(start, stop):
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()
            thread.join()

"""Dynamic batching: faces of pictures that are read at the same time share a forward pass."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping

import numpy as np

from mien.errors import UsageError, without_frames
from mien.inference.weights_file import weights_id
from mien.server.limits import Deadline, DeadlineExceeded
from mien.types import Floats, InferenceModel

FOREVER = 365 * 86400.0
_log = logging.getLogger("mien.server")


class _Ask:
    """One caller's faces, and the future of their outputs."""

    __slots__ = ("answer", "arrived", "done", "error", "images")

    def __init__(self, images: Floats):
        self.images, self.arrived, self.done = images, time.monotonic(), threading.Event()
        self.answer: dict[str, Floats] = {}
        self.error: Exception | None = None


class Batcher:
    """An `InferenceModel` that many threads may call; one forward pass serves several calls.

    A call waits for others for at most `wait_ms`, and not at all if no other picture is in progress (see
    `lease`). Calls are never split: a call with more than `faces` faces gets its own forward pass.

    Args:
        model: called from one thread only.
        faces: maximum batch size of a shared forward pass.
        wait_ms: maximum wait for other calls, in milliseconds.
        observe: called with (faces, calls) after each forward pass.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        faces: int = 16,
        wait_ms: float = 4.0,
        observe: Callable[[int, int], None] | None = None,
    ):
        if faces < 1 or wait_ms < 0:
            raise UsageError(
                f"a batch needs 1 or more faces and a wait of 0 ms or more, not {faces} and {wait_ms}"
            )
        self.model, self.faces, self.wait, self._observe = model, faces, wait_ms / 1e3, observe
        self.view, self.tasks = model.view, model.tasks
        self.name, self.sha256 = weights_id(model)
        self.forwards = self.calls = self.answered = 0  # answered: faces
        self._changed = threading.Condition()
        self._waiting: list[_Ask] = []
        self._coming = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def lease(self, deadline: Deadline) -> Lease:
        """Context of one picture: until its first call, faces of other pictures may wait for its faces."""
        return Lease(self, deadline)

    def expect(self, more: int) -> None:
        """Change the number of pictures in progress by `more`."""
        with self._changed:
            self._coming += more
            self._changed.notify_all()

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        """(B, 3, H, W) float32 -> task name -> raw outputs (B, ...)."""
        return self.ask(images, Deadline(FOREVER))

    def ask(self, images: Floats, deadline: Deadline, *, expected: int = 0) -> Mapping[str, Floats]:
        """As `__call__`; `expected` is 1 for the call that `expect(1)` announced.

        Raises:
            DeadlineExceeded: no output by then. Faces that still wait are removed.
            RuntimeError: the batcher is closed, or the forward pass failed.
        """
        mine = _Ask(np.asarray(images, np.float32))
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mien-batcher", daemon=True)
                self._thread.start()
            self._waiting.append(mine)
            self._coming -= expected
            self._changed.notify_all()
        if not mine.done.wait(deadline.left()):
            with self._changed:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            deadline.check()
            raise DeadlineExceeded("the request's time is over")
        error, answer = mine.error, mine.answer
        del mine, images  # an error keeps this frame alive, which must not keep the faces
        if error is not None:
            raise RuntimeError("the forward pass failed") from error
        return answer

    def close(self) -> None:
        """Serve the waiting calls, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._forward(batch)
            del batch  # otherwise the faces would stay in memory until the next call

    def _forward(self, batch: list[_Ask]) -> None:
        try:
            raw = self.model(np.concatenate([a.images for a in batch]))
            start = 0
            for a in batch:
                stop = start + len(a.images)
                a.answer = {name: values[start:stop] for name, values in raw.items()}
                start = stop
        except Exception as e:  # noqa: BLE001 - it belongs to the callers, and this thread must live on
            _log.error("a forward pass failed\n%s", traceback.format_exc())
            error = without_frames(e)
            for a in batch:
                a.error = error
        faces = sum(len(a.images) for a in batch)
        self.forwards, self.calls, self.answered = (
            self.forwards + 1,
            self.calls + len(batch),
            self.answered + faces,
        )
        if self._observe:
            self._observe(faces, len(batch))
        for a in batch:
            a.done.set()

    def _next(self) -> list[_Ask]:
        """Take the calls of the next forward pass from the waiting ones; empty when closed."""
        with self._changed:
            while True:
                if not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                left = self._waiting[0].arrived + self.wait - time.monotonic()
                full = sum(len(a.images) for a in self._waiting) >= self.faces
                if full or left <= 0 or self._closed or not self._coming:
                    return self._take()
                self._changed.wait(left)

    def _take(self) -> list[_Ask]:
        taken = [self._waiting.pop(0)]
        faces = len(taken[0].images)
        while self._waiting and faces + len(self._waiting[0].images) <= self.faces:
            taken.append(self._waiting.pop(0))
            faces += len(taken[-1].images)
        return taken


class Lease:
    """A `Batcher` for one picture: an `InferenceModel` with a deadline.

    Enter it before the picture is opened.
    """

    def __init__(self, batcher: Batcher, deadline: Deadline):
        self.view, self.tasks, self._batcher, self._deadline, self._expected = (
            batcher.view,
            batcher.tasks,
            batcher,
            deadline,
            0,
        )

    def __enter__(self) -> Lease:
        self._batcher.expect(1)
        self._expected = 1
        return self

    def __exit__(self, *_: object) -> None:
        """Stop waiting for a picture without faces, or one that failed."""
        self._batcher.expect(-self._expected)
        self._expected = 0

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        """See `Batcher.ask`."""
        expected, self._expected = self._expected, 0
        return self._batcher.ask(images, self._deadline, expected=expected)

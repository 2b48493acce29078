"""Reading pictures outside the event loop: a bounded queue, a few threads, one batcher."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mien.errors import PhotoError
from mien.inference.reader import Reader
from mien.inference.reading import Reading
from mien.server.batcher import Batcher
from mien.server.errors import ApiError
from mien.server.limits import Deadline, DeadlineExceeded, TooManyFaces
from mien.server.metrics import Counts

T = TypeVar("T")


class WorkQueue:
    """Threads behind a bounded queue, used from one event loop.

    Args:
        threads: number of pictures read at once.
        places: maximum number of pictures waiting or being read.
    """

    def __init__(self, threads: int, places: int):
        self.places, self.inside, self.running = places, 0, 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mien-photo")
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of pictures that no thread has started."""
        return self.inside - self.running

    async def run(self, jobs: Sequence[Callable[[], T]], deadline: Deadline) -> list[T]:
        """Run all jobs and return their results in order.

        Raises:
            ApiError: 503 if the queue is full, or if the time was over before the jobs started; 504 if it was
                over later.
        """
        if self.inside + len(jobs) > self.places:
            text = (
                f"{self.inside} pictures are being read or wait, and the queue has {self.places} places; try"
                " again"
            )
            raise ApiError(503, "queue_full", text, retry_after=1)
        futures = [self._submit(job) for job in jobs]
        wrapped = [_wrapped(f) for f in futures]
        pending = (await asyncio.wait(wrapped, timeout=deadline.left()))[1]
        if not pending:
            results = []
            try:
                while wrapped:
                    results.append(wrapped.pop(0).result())
                return results
            except DeadlineExceeded as e:
                raise ApiError(504, "timeout", str(e)) from e
            # an error keeps this frame alive and the frame the error: a cycle that keeps the pictures
            finally:
                futures.clear()
                wrapped.clear()
        unbegun = [f.cancel() for f in futures if not f.done()]
        if unbegun and all(unbegun):
            text = f"no thread was free for {deadline.seconds:g} s; try again later"
            raise ApiError(503, "queue_timeout", text, retry_after=deadline.seconds)
        raise ApiError(
            504,
            "timeout",
            f"the request took longer than {deadline.seconds:g} s; send fewer or smaller pictures",
        )

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        def run() -> T:
            with self._lock:
                self.running += 1
            try:
                return job()
            finally:
                with self._lock:
                    self.running -= 1
                    self.inside -= 1

        def left(future: Future[T]) -> None:
            if future.cancelled():  # it never ran
                with self._lock:
                    self.inside -= 1

        with self._lock:
            self.inside += 1
        future = self._pool.submit(run)
        future.add_done_callback(left)
        return future

    def close(self) -> None:
        """Wait for all jobs, then stop."""
        self._pool.shutdown()


def _wrapped(future: Future[T]) -> asyncio.Future[T]:
    """The future for the event loop.

    Nobody awaits a result that arrives after the deadline; reading its exception avoids a warning.
    """
    wrapped = asyncio.wrap_future(future)
    wrapped.add_done_callback(lambda w: w.cancelled() or w.exception())
    return wrapped


@dataclass(frozen=True, slots=True)
class AnalyzeRequest:
    """The options of a request for its pictures.

    Attributes:
        tasks: requested tasks by name; None for the reader's tasks.
        score: minimum detection score; None for the detector's default.
        faces: maximum number of faces, the largest ones; None for all.
        masks: include the parsing masks.
        thorough: search at every scale and rotation; None for the reader's setting.
    """

    tasks: tuple[str, ...] | None = None
    score: float | None = None
    faces: int | None = None
    masks: bool = False
    thorough: bool | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A picture's record, and the error of an error record."""

    json: dict[str, Any]
    error: PhotoError | None


class Pipeline:
    """Bytes -> `Reading`, by the reader's detector and the batcher's shared forward passes.

    Called from the queue's threads.
    """

    def __init__(self, reader: Reader, batcher: Batcher, *, max_faces: int, pixels: int, counts: Counts):
        self.batcher, self.max_faces, self.pixels, self.counts = batcher, max_faces, pixels, counts
        self.reader = Reader(
            reader.detector,
            batcher,
            tasks=reader.requested,
            batch=batcher.faces,
            max_pixels=pixels,
            thorough=reader.thorough,
        )

    @property
    def model(self) -> dict[str, str]:
        """Name and sha256 of the network, as records have them."""
        return {"name": self.batcher.name, "sha256": self.batcher.sha256}

    def reader_for(self, tasks: Sequence[str]) -> Reader:
        """A new reader for these tasks, for example for a gallery."""
        return Reader(
            self.reader.detector,
            self.batcher,
            tasks=tasks,
            batch=self.batcher.faces,
            max_pixels=self.pixels,
            thorough=self.reader.thorough,
        )

    def read(self, data: bytes, analyze_request: AnalyzeRequest, deadline: Deadline) -> Reading:
        """Read one picture. If that fails, the reading has `.error`, as in a list of `Reader`.

        Raises:
            DeadlineExceeded: between two stages, or while waiting for a forward pass.
        """
        deadline.check()
        with self.batcher.lease(deadline) as lease:
            try:
                reading = self.reader.read(
                    data,
                    tasks=analyze_request.tasks,
                    score=analyze_request.score,
                    thorough=analyze_request.thorough,
                    max_faces=analyze_request.faces,
                    model=lease,
                    on_stage=partial(self._check, deadline),
                )
            except PhotoError as e:  # not logged: its message may contain the picture's first bytes
                self.counts.pictures.labels(e.code).inc()
                return Reading(None, error=e)
        self.counts.pictures.labels("read").inc()
        self.counts.faces.inc(len(reading))
        for stage, ms in reading.timing_ms.items():
            self.counts.stage.labels(stage).observe(ms / 1e3)
        return reading

    def _check(self, deadline: Deadline, stage: str, reading: Reading, faces: int) -> None:
        """Check the deadline and the number of faces between two stages."""
        if stage == "detect" and faces > self.max_faces:
            raise TooManyFaces(
                f"the picture shows {faces} faces, the limit is {self.max_faces}; send"
                f" faces={self.max_faces} for the largest ones, a higher score, or parts of the picture"
            )
        deadline.check()

    def record(self, data: bytes, analyze_request: AnalyzeRequest, deadline: Deadline) -> Record:
        """As `read`, but returns the record, which is made here and not in the event loop."""
        reading = self.read(data, analyze_request, deadline)
        json = reading.to_dict()
        if analyze_request.masks:
            for plain, face in zip(json.get("faces", ()), reading, strict=True):
                for name, answer in face.answers.items():
                    if detail := answer.detail():
                        plain[name] |= detail
        return Record(json, reading.error)

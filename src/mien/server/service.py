"""The shared state of the routes: reader, batcher, queue and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from fastapi import Request

from mien.errors import UnknownTask, UsageError
from mien.inference.detector import Detector
from mien.inference.reader import Reader
from mien.recognition.verification import MatchThreshold, match_threshold
from mien.server.batcher import Batcher
from mien.server.errors import ApiError
from mien.server.limits import Deadline, Limits, Uploads
from mien.server.metrics import Counts
from mien.server.worker import AnalyzeRequest, Pipeline, WorkQueue
from mien.tasks import ON_REQUEST, supported_tasks

T = TypeVar("T")


class Service:
    """The shared state of the routes: the reader, its batcher, the queue of pictures and the metrics.

    Args: see `app`.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        limits: Limits,
        offered: Sequence[str] | None,
        workers: int,
        batch_faces: int,
        batch_wait_ms: float,
    ):
        can = supported_tasks(t.name for t in reader.model.tasks)
        wrong = [n for n in offered or () if n not in can]
        if wrong:
            raise UnknownTask(f"this model does not have the task {wrong[0]!r}; it has: {', '.join(can)}")
        if workers < 1:
            raise UsageError(f"workers must be 1 or more, not {workers}")
        self.limits, self.counts, self.uploads, self.stopping = limits, Counts(), Uploads(), False
        self.offered = tuple(n for n in can if offered is None or n in offered)
        self.default = tuple(
            n
            for n in self.offered
            if n.partition("@")[0] not in ON_REQUEST and (offered is not None or n in reader.requested)
        )
        self.identity = next((n for n in ("identity512", "identity") if n in can), None)
        self.batcher = Batcher(
            reader.model, faces=batch_faces, wait_ms=batch_wait_ms, observe=self.counts.forward
        )
        self.line = WorkQueue(workers, limits.queue)
        self.work = Pipeline(
            reader, self.batcher, max_faces=limits.faces, pixels=limits.pixels, counts=self.counts
        )
        self.counts.watch("mien_queue_depth", "Pictures that wait for a thread.", lambda: self.line.waiting)
        self.counts.watch(
            "mien_pictures_inside", "Pictures that wait or are being read.", lambda: self.line.inside
        )

    def allowed(self, names: Sequence[str]) -> None:
        """Raises: ApiError 400 for tasks that the model lacks, 403 for tasks that are not offered."""
        try:
            self.work.reader.select(names)
        except UnknownTask as e:
            raise ApiError(400, "unknown_task", str(e), details={"offered": list(self.offered)}) from e
        for name in names:
            if name not in self.offered:
                text = f"this server does not offer {name!r}; it offers: {', '.join(self.offered)}"
                raise ApiError(403, "task_not_offered", text, details={"offered": list(self.offered)})

    async def each(
        self,
        how: Callable[[bytes, AnalyzeRequest, Deadline], T],
        images: Sequence[bytes],
        analyze_request: AnalyzeRequest,
        request: Request,
    ) -> list[T]:
        """All pictures of a request, in order, by `Pipeline.read` or `Pipeline.record`."""
        state = request.state
        self.check(analyze_request)
        if len(images) > 1:
            state.charge(state.key, len(images) - 1)
        deadline: Deadline = state.deadline
        return await self.line.run(
            [partial(how, data, analyze_request, deadline) for data in images], deadline
        )

    def check(self, analyze_request: AnalyzeRequest) -> None:
        """Raises: UnknownTask, or ApiError 400 for a search that this server's detector does not offer."""
        self.work.reader.select(analyze_request.tasks)
        if analyze_request.score is not None and not isinstance(self.work.reader.detector, Detector):
            raise ApiError(400, "bad_field", "the detector of this server takes no score; leave it out")
        if analyze_request.thorough and not isinstance(self.work.reader.detector, Detector):
            raise ApiError(
                400, "bad_field", "the detector of this server has no thorough search; leave thorough out"
            )

    def threshold_of(self, threshold: float | None, fmr: float | None) -> MatchThreshold | None:
        """The operating point of a comparison; None if none was requested and none was measured.

        Raises:
            ApiError: 400, the requested operating point is not available.
        """
        try:
            return match_threshold(self.work.reader.model, threshold=threshold, fmr=fmr)
        except UsageError as e:
            if threshold is None and fmr is None:
                return None
            raise ApiError(
                400, "bad_field", str(e), details={"field": "threshold" if fmr is None else "fmr"}
            ) from e

    def busy(self) -> str:
        """Why a picture would be refused now; "" if it would be accepted."""
        if self.stopping:
            return "the server is stopping"
        if self.line.inside >= self.line.places:
            return "the queue is full; try again"
        return (
            "as many requests are being sent as the server takes at once; try again"
            if self.uploads.full(self.limits)
            else ""
        )

    def close(self) -> None:
        """Wait for the pictures in progress, then stop."""
        self.line.close()
        self.batcher.close()

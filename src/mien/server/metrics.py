"""The server's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FACES = (1, 2, 4, 8, 16, 32, 64)


class Counts:
    """Metrics in a separate registry, so that two apps in a process are counted separately."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "mien_requests", "Replies by route and HTTP status.", ("route", "code"), registry=r
        )
        self.seconds = Histogram(
            "mien_request_seconds",
            "From the head of a request to the end of its reply.",
            ("route",),
            buckets=SECONDS,
            registry=r,
        )
        self.stage = Histogram(
            "mien_stage_seconds",
            "Time to decode, detect, align and read one picture.",
            ("stage",),
            buckets=SECONDS,
            registry=r,
        )
        self.pictures = Counter(
            "mien_pictures", "Pictures by outcome: read, or the error's code.", ("outcome",), registry=r
        )
        self.faces = Counter("mien_faces", "Faces read.", registry=r)
        self.batch_faces = Histogram("mien_batch_faces", "Faces per forward pass.", buckets=FACES, registry=r)
        self.batch_pictures = Histogram(
            "mien_batch_pictures", "Pictures that shared a forward pass.", buckets=FACES, registry=r
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read at each scrape."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def forward(self, faces: int, calls: int) -> None:
        """For `Batcher(observe=)`."""
        self.batch_faces.observe(faces)
        self.batch_pictures.observe(calls)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

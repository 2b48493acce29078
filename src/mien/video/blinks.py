"""Blinks of one face through time."""

from __future__ import annotations

OPEN, CLOSED = 0.6, 0.4  # ours: mean probability of open eyes; between them, nothing changes
LONGEST = 0.6  # seconds; eyes that stay closed for longer do not blink
SLOWEST = 0.12  # seconds between two sights, mean, beyond which blinks are missed


class Blinks:
    """Counts how often eyes close and open again.

    Attributes:
        count: blinks so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._closed_at: float | None = None
        self._opened = False
        self._first: float | None = None
        self._last = 0.0
        self._sights = 0

    def add(self, openness: float, time: float) -> None:
        """One sight.

        Args:
            openness: mean probability, 0..1, that the eyes are open.
            time: seconds, not before the last one.
        """
        self._first = time if self._first is None else self._first
        self._last, self._sights = time, self._sights + 1
        if openness <= CLOSED and self._opened:
            self._closed_at, self._opened = time, False
        elif openness >= OPEN:
            if self._closed_at is not None and time - self._closed_at <= LONGEST:
                self.count += 1
            self._closed_at, self._opened = None, True

    def per_minute(self) -> float | None:
        """Blinks per minute; None for less than two seconds, or where the sights lie too far apart."""
        if self._first is None or (seconds := self._last - self._first) < 2:
            return None
        return 60 * self.count / seconds if seconds / (self._sights - 1) <= SLOWEST else None

"""API keys, limits of requests, rates and deadlines."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MienError, PhotoError, UsageError

MIB = 1 << 20
_ORIGIN = re.compile(r"https?://[^/\s?#@*]+")
MINIMUM_KEY = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server. A request beyond a limit is refused with a reply that names it.

    Attributes:
        picture_bytes: maximum size of a picture, as uploaded.
        request_bytes: maximum size of a request, as uploaded.
        held_bytes: maximum size of the bodies of all open requests together.
        pixels: maximum pixels of a picture, by its header.
        faces: maximum faces in one picture.
        pictures: maximum pictures in one request.
        queue: maximum pictures waiting or being read, and maximum open requests; more get status 503.
        seconds: maximum time from the first byte of a request to its reply.
        stall: maximum seconds without a byte of an incomplete body.
        rate: pictures per minute and key; None for no limit.
        burst: pictures that may be sent at once before `rate` applies.
    """

    picture_bytes: int = 32 * MIB
    request_bytes: int = 64 * MIB
    held_bytes: int = 512 * MIB
    pixels: int = 64_000_000
    faces: int = 100
    pictures: int = 16
    queue: int = 64
    seconds: float = 30.0
    stall: float = 5.0
    rate: float | None = None
    burst: int = 32

    def __post_init__(self) -> None:
        for name in (
            "picture_bytes",
            "request_bytes",
            "held_bytes",
            "pixels",
            "faces",
            "pictures",
            "queue",
            "seconds",
            "stall",
            "burst",
        ):
            if getattr(self, name) <= 0:
                raise UsageError(f"the limit {name} must be above 0, not {getattr(self, name)}")
        if self.rate is not None and self.rate <= 0:
            raise UsageError(
                f"the limit rate must be above 0 pictures per minute, not {self.rate}; None switches it off"
            )


@dataclass(slots=True)
class Uploads:
    """The bodies of all open requests.

    Attributes:
        open: requests with a body.
        held: bytes of their bodies in memory.
        dropping: refused requests whose rest is read and discarded.
    """

    open: int = 0
    held: int = 0
    dropping: int = 0

    def full(self, limits: Limits) -> bool:
        """Whether the next request with a body would be refused."""
        return self.open >= limits.queue or self.held >= limits.held_bytes


class DeadlineExceeded(MienError):
    """The time of a request is over."""

    code = "timeout"


class TooManyFaces(PhotoError):
    """A picture shows more faces than the limit allows."""

    code = "too_many_faces"


class Deadline:
    """The time by which a request must be finished."""

    def __init__(self, seconds: float):
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """Remaining seconds, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises: DeadlineExceeded."""
        if self.left() <= 0:
            raise DeadlineExceeded(
                f"the request took longer than {self.seconds:g} s; send fewer or smaller pictures"
            )


class Keys:
    """The accepted bearer keys. Only their SHA-256 is stored.

    Args:
        keys: (name, key). A name appears in logs, a key never does.

    Raises:
        UsageError: a key of less than 16 characters, or the same key twice.
    """

    def __init__(self, keys: Iterable[tuple[str, str]]):
        self._digests: list[tuple[str, bytes]] = []
        for name, key in keys:
            if len(key) < MINIMUM_KEY:
                raise UsageError(
                    f"the key {name!r} has {len(key)} characters, it needs {MINIMUM_KEY}: "
                    'python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
            if self.owner(key) is not None:
                raise UsageError(f"the key {name!r} is also {self.owner(key)!r}'s; each needs its own")
            self._digests.append((name, hashlib.sha256(key.encode()).digest()))
        if len({name for name, _ in self._digests}) < len(self._digests):
            raise UsageError("two keys have the same name; each needs its own")

    def __len__(self) -> int:
        return len(self._digests)

    def owner(self, key: str) -> str | None:
        """The name of a key; None for an unknown key.

        All hashes are compared, so that the time reveals nothing about similar keys.
        """
        given, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for name, digest in self._digests:
            if hmac.compare_digest(given, digest):
                found = name
        return found


def read_keys(path: str | os.PathLike[str]) -> Keys:
    """Read a file with one key per line, `NAME KEY`; empty lines and lines that start with # are skipped.

    Raises:
        UsageError: the file cannot be read, has no key, or a line of another form (shown by number, never by
            content).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"cannot read the keys in {os.fspath(path)!r} ({type(e).__name__}); --api-keys names a text file,"
            " one NAME KEY per line"
        ) from e
    rows = [
        (number, line.split())
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    for number, words in rows:
        if len(words) != 2:
            raise UsageError(f"{os.fspath(path)!r}, line {number}: {len(words)} words where NAME KEY are two")
    if not rows:
        raise UsageError(f"{os.fspath(path)!r} has no key; write one per line: NAME KEY")
    return Keys((words[0], words[1]) for _, words in rows)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; names other than "localhost" are not loopback."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_origins(origins: Sequence[str], keys: Keys | None) -> None:
    """Check allowed origins.

    Raises:
        UsageError: an origin has a wrong form, or it is "*" without keys: any page could then enroll people
            and read their data.
    """
    for origin in origins:
        if origin == "*" and keys is None:
            raise UsageError(
                'the origin "*" is every page there is, so keys are needed: --api-keys FILE, or name the'
                " origins"
            )
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise UsageError(
                f"the origin {origin!r} must be scheme://host or scheme://host:port, such as"
                " https://photos.example"
            )


def without_port(host: str) -> str:
    """The Host header's name: "127.0.0.1:80" -> "127.0.0.1", "[::1]:80" -> "[::1]"."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


class Buckets:
    """One token bucket per name.

    Args:
        rate: tokens per minute.
        burst: tokens of a full bucket.
        clock: gives the time in seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self.rate, self.burst, self.clock = rate / 60, float(burst), clock
        self._kept: dict[
            str, tuple[float, float]
        ] = {}  # name -> tokens at a time; names are keys' names, so they are few

    def take(self, name: str, tokens: int = 1) -> float:
        """Take tokens: 0.0 if granted, else the seconds until the next attempt. A refusal costs nothing.

        A request larger than the bucket is granted when the bucket is full, and the rest is owed.
        """
        now = self.clock()
        held, at = self._kept.get(name, (self.burst, now))
        held = min(self.burst, held + (now - at) * self.rate)
        short = min(tokens, self.burst) - held
        self._kept[name] = (held if short > 0 else held - tokens, now)
        return max(0.0, short / self.rate)

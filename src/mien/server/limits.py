"""Who may ask, how much, how often and for how long."""

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
LEAST_KEY = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on. All are hard; a request beyond them is refused with a reply that names the
    limit.

    Attributes:
        picture_bytes, request_bytes: as uploaded.
        held_bytes: bodies of all open requests together.
        pixels: a picture's header may claim.
        faces: found in one picture.
        pictures: in one request.
        queue: pictures inside at once, waiting or being read, and requests open at once; more get 503.
        seconds: from the first byte of a request to its reply.
        stall: without a byte of a body that is not complete.
        rate: pictures a minute and key, None for no limit.
        burst: pictures that may come at once before `rate` counts.
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
                f"the limit rate must be above 0 pictures a minute, not {self.rate}; None switches it off"
            )


@dataclass(slots=True)
class Uploads:
    """The bodies of all open requests.

    Attributes:
        open: requests with a body.
        held: bytes of their bodies in memory.
        dropping: refused ones whose rest is read and dropped.
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
    """A moment that every stage of a request knows."""

    def __init__(self, seconds: float):
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises: Late."""
        if self.left() <= 0:
            raise DeadlineExceeded(
                f"the request took longer than {self.seconds:g} s; send fewer or smaller pictures"
            )


class Keys:
    """The bearer keys that are let in. Only their SHA-256 is kept.

    Args:
        keys: name -> key. A name appears in logs, a key never does.

    Raises:
        UsageError: a key of less than 16 characters, or the same key twice.
    """

    def __init__(self, keys: Iterable[tuple[str, str]]):
        self._digests: list[tuple[str, bytes]] = []
        for name, key in keys:
            if len(key) < LEAST_KEY:
                raise UsageError(
                    f"the key {name!r} has {len(key)} characters, it needs {LEAST_KEY}: "
                    'python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
            if self.who(key) is not None:
                raise UsageError(f"the key {name!r} is also {self.who(key)!r}'s; each needs its own")
            self._digests.append((name, hashlib.sha256(key.encode()).digest()))
        if len({name for name, _ in self._digests}) < len(self._digests):
            raise UsageError("two keys have the same name; each needs its own")

    def __len__(self) -> int:
        return len(self._digests)

    def who(self, key: str) -> str | None:
        """The name of a key, or None.

        The time taken says nothing about which key came close: all are compared, as hashes.
        """
        given, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for name, digest in self._digests:
            if hmac.compare_digest(given, digest):
                found = name
        return found


def read_keys(path: str | os.PathLike[str]) -> Keys:
    """A file with a key a line, `NAME KEY`; empty lines and lines that start with # do not count.

    Raises:
        UsageError: the file cannot be read, has no key, or a line of another form (shown by number, never by
            content).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"cannot read the keys in {os.fspath(path)!r} ({type(e).__name__}); --api-keys names a text file,"
            " NAME KEY a line"
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
        raise UsageError(f"{os.fspath(path)!r} has no key; write one a line: NAME KEY")
    return Keys((words[0], words[1]) for _, words in rows)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; a name other than "localhost" may lead anywhere, so it
    is not.
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_origins(origins: Sequence[str], keys: Keys | None) -> None:
    """Raises: UsageError, for an origin that is none, or for "*" without keys: any page could then enroll
    people and read them.
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
    """A token bucket a name.

    Args:
        rate: tokens a minute.
        burst: what a full bucket holds.
        clock: seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self.rate, self.burst, self.clock = rate / 60, float(burst), clock
        self._kept: dict[
            str, tuple[float, float]
        ] = {}  # name -> tokens at a time; names are keys' names, so they are few

    def take(self, name: str, tokens: int = 1) -> float:
        """0.0 when granted, else the seconds after which to ask again; a refusal costs nothing.

        Of a request larger than the bucket the rest is owed, or it could never come.
        """
        now = self.clock()
        held, at = self._kept.get(name, (self.burst, now))
        held = min(self.burst, held + (now - at) * self.rate)
        short = min(tokens, self.burst) - held
        self._kept[name] = (held if short > 0 else held - tokens, now)
        return max(0.0, short / self.rate)

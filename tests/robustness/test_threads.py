"""Thirty-two threads and one reader: each gets its photo's answer, bit for bit what a lone thread gets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import mien
from mien.data.synthetic import draw
from mien.errors import PhotoError
from tests.support.hard_worker import encoded

THREADS = 32


def fingerprint(reading: Any) -> str:
    """Every number of a reading, and the pixels of its crops and masks, but no times."""
    of = hashlib.sha256()
    for face in reading:
        of.update(
            face.box.tobytes()
            + face.points.tobytes()
            + face.crop.pixels.tobytes()
            + np.float64(face.score).tobytes()
        )
        of.update(
            face["landmarks"].points.tobytes()
            + face["parsing"].mask_in(reading.photo.width, reading.photo.height).tobytes()
        )
        of.update(repr(face.to_dict()).encode())
    return f"{len(reading)} {reading.photo.width}x{reading.photo.height} {of.hexdigest()}"


def read(reader: Any, source: Any) -> str:
    try:
        return fingerprint(reader(source))
    except PhotoError as e:
        return f"{type(e).__name__}: {e}"


def together(n: int, work: Callable[[int], Any]) -> list[Any]:
    """work(0..n-1), each in a thread of its own; all begin at once."""
    gate = threading.Barrier(n)

    def begin(i: int) -> Any:
        gate.wait(60)
        return work(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(begin, range(n), timeout=300))


@pytest.fixture(scope="module")
def sources() -> list[Any]:
    """Arrays, files' bytes of four kinds and of several sizes, and damaged bytes."""
    rng = np.random.default_rng(11)
    drawn = [draw(rng)[0] for _ in range(THREADS)]
    kinds = ("PNG", "JPEG", "WEBP", "GIF")
    out: list[Any] = [
        p[: 160 - i] if i % 3 == 0 else encoded(p[: 160 - i], kinds[i % 4]) for i, p in enumerate(drawn)
    ]
    out[5] = out[4][: len(out[4]) // 2]
    out[17] = b"no picture"
    return out


@pytest.mark.parametrize("inner", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_32_threads_are_bit_equal_to_one(sources: list[Any], inner: int) -> None:
    reader = mien.load(threads=inner)
    alone = [read(reader, s) for s in sources]
    assert len(set(alone)) == len(alone)  # a mix-up could not hide: no two answers are alike
    assert sum(a.startswith("1 ") for a in alone) > THREADS / 2
    assert [a.split(":")[0] for a in alone if ":" in a] == ["Truncated", "NotAPicture"]

    def round_trip(i: int) -> list[str]:
        return [read(reader, sources[(i + k * 5) % THREADS]) for k in range(2)]

    for i, got in enumerate(together(THREADS, round_trip)):
        assert got == [alone[(i + k * 5) % THREADS] for k in range(2)], f"thread {i}"


def test_threads_may_share_a_stream_s_photos_and_load_at_once(sources: list[Any]) -> None:
    some = sources[:6]
    readers = together(3, lambda i: mien.load(threads=1))
    alone = [len(r) for r in readers[0](some)]
    for lengths in together(3, lambda i: [len(r) for r in readers[i].stream(some, photos_a_time=4)]):
        assert lengths == alone

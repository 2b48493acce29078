"""Long runs: memory after thousands of photos is what it was after the warm-up."""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.fuzz import MANY

linux = pytest.mark.skipif(
    not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc"
)
ROOT = Path(__file__).parents[2]
MIB = 2**20


def resident() -> int:
    """Bytes in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


_FIELDS = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)


class _Heap(ctypes.Structure):
    """struct mallinfo2"""

    _fields_ = [(n, ctypes.c_size_t) for n in _FIELDS]


def held() -> int:
    """Bytes that C code has asked for and not given back. Resident memory has the holes between them too:
    they grow and shrink with the sizes of photos, and hide a slow leak as well as they look like one. Where
    libc is not glibc: resident."""
    try:
        heap = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return resident()
    heap.restype = _Heap
    found = heap()
    return int(found.uordblks + found.hblkhd)


def photo(i: int) -> bytes:
    """A drawn face in a small file, of one of many sizes and five kinds; every tenth is damaged."""
    from PIL import Image

    from mien.data.synthetic import draw

    rng = np.random.default_rng(i)
    width = int(rng.integers(40, 260))
    size = (width, int(width * rng.uniform(0.8, 1.2)))
    out = io.BytesIO()
    Image.fromarray(draw(rng)[0]).resize(size).save(out, ("JPEG", "PNG", "WEBP", "GIF", "TIFF")[i % 5])
    return out.getvalue()[: -len(out.getvalue()) // 2] if i % 10 == 9 else out.getvalue()


def soak(n: int, warm: int) -> dict[str, float]:
    """Read `warm` photos, then n more; MiB resident after the warm-up, at most and at the end, and what was
    held in the thirds.
    """
    import mien

    reader = mien.load(threads=1)
    start, faces, broken, curve, heap, blocks = 0.0, 0, 0, list[int](), list[int](), list[int]()
    for seen, reading in enumerate(reader.stream(photo(i) for i in range(warm + n)), 1):
        faces += len(reading)
        broken += reading.error is not None
        json.dumps(reading.to_dict())
        if seen == warm:
            start = time.perf_counter()
        if seen >= warm and (seen - warm) % max(n // 100, 1) == 0:
            curve.append(resident())
            heap.append(held())
            blocks.append(sys.getallocatedblocks())
    took = time.perf_counter() - start
    third = max(len(curve) // 3, 1)
    return {
        "photos": n, "faces": faces, "broken": broken, "seconds": round(took, 1),
        "after_warm_up": round(curve[0] / MIB, 1),
        "most": round(max(curve) / MIB, 1), "end": round(curve[-1] / MIB, 1),
        "held_middle_third": round(float(np.mean(heap[third:-third])) / MIB, 2),
        "held_last_third": round(float(np.mean(heap[-third:])) / MIB, 2),
        "objects_middle_third": round(float(np.mean(blocks[third:-third]))),
        "objects_last_third": round(float(np.mean(blocks[-third:]))),
    }  # fmt: skip


def in_a_process(n: int, warm: int) -> dict[str, float]:
    """`soak` by itself, so that other tests' memory does not count."""
    code = (
        "import json, logging; logging.disable(50); from tests.robustness.test_soak import soak;"
        f" print(json.dumps(soak({n}, {warm})))"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert found["broken"] == (n + warm) / 10
    assert found["faces"] > 0.4 * (n + warm)
    return found


@linux
def test_two_hundred_photos_leave_memory_flat() -> None:
    found = in_a_process(200, 60)
    assert found["end"] - found["after_warm_up"] < 24


@linux
@pytest.mark.slow
def test_many_photos_leave_memory_flat() -> None:
    found = in_a_process(MANY, min(500, MANY))
    assert (
        found["held_last_third"] - found["held_middle_third"] < 6
    )  # of 10,000 photos a leak of 2 KiB each would be 6.5 MiB
    assert (
        found["objects_last_third"] - found["objects_middle_third"] < 10_000
    )  # and three Python objects each as many
    assert found["most"] - found["after_warm_up"] < 40

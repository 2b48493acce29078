"""Our own byte-mutation fuzzer: seeded, so that the number in a failure gives the same mutant again.

A mutant runs in a worker process with a limit on memory and on processor time, so that even a crash of native
code is a failure that names its seed, and the mutants after it still run.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 5  # of processor time for one mutant: a busy machine must not fail a test
MANY = int(
    os.environ.get("MIEN_HARD", "300")
)  # mutants of a kind, and photos of the soak, in the long tests; 10000 for the whole of it
MEMORY = 1 << 30  # bytes that one mutant may take beyond those of the worker at rest
LIMITS = {
    -signal.SIGPROF: f"more than {SECONDS} s",
    -signal.SIGALRM: "asleep for two minutes",
    -signal.SIGSEGV: "a crash",
}

EDGES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0",
    b"\xff\xff",
    b"\0\x01",
    b"\x01\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
)


def mutate(seed: int, originals: Sequence[bytes]) -> bytes:
    """One mutant: originals take turns; one to eight moves, half of them in the first 128 bytes, where
    headers are.
    """
    rng = random.Random(seed)
    data = bytearray(originals[seed % len(originals)])
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        _move(data, rng, originals)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        data = with_sums(data)
    return bytes(data)


def _move(data: bytearray, rng: random.Random, originals: Sequence[bytes]) -> None:
    end = max(1, len(data) if rng.random() < 0.5 else min(128, len(data)))
    at, length = rng.randrange(end), int(2 ** rng.uniform(0, 9))
    what = rng.randrange(9)
    if what <= 1 and data:
        data[min(at, len(data) - 1)] = rng.randrange(256)
    elif what == 2 and data:
        data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
    elif what == 3:
        edge = rng.choice(EDGES)
        data[at : at + len(edge)] = edge
    elif what == 4:
        del data[at : at + length]
    elif what == 5:
        data[at:at] = data[at : at + length]
    elif what == 6:
        data[at:at] = rng.randbytes(min(length, 64))
    elif what == 7:
        other = rng.choice(originals)
        start = rng.randrange(len(other))
        data[at : at + length] = other[start : start + length]
    elif rng.random() < 0.5:
        del data[rng.randrange(end) :]


def with_sums(data: bytearray) -> bytearray:
    """A PNG whose checksums fit its chunks again: without it hardly a mutant gets past them."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if at + 12 + size > len(data):
            break
        body = data[at + 4 : at + 8 + size]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return out + data[at:]


@dataclass
class Hunt:
    """What a run of mutants gave: answers and errors by name, the most memory in bytes, the slowest in
    seconds.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    memory: int = 0
    seconds: float = 0.0

    def report(self) -> str:
        counts = ", ".join(f"{k} {v:,}" for k, v in self.outcomes.most_common())
        return (
            f"{sum(self.outcomes.values()):,} mutants: {counts}; at most {self.memory / 2**20:.0f} MiB and"
            f" {self.seconds:.2f} s"
        )


def hunt(what: str, folder: Path, first: int, count: int) -> Hunt:
    """Run `count` mutants of a kind in workers; what is neither an answer nor a MienError is in `failures`,
    by seed.
    """
    result, seed = Hunt(), first
    while seed < first + count and len(result.failures) < 20:
        seed = _work(result, what, folder, seed, first + count)
    return result


def _work(result: Hunt, what: str, folder: Path, seed: int, end: int) -> int:
    """One worker, from a seed on; the seed to go on with."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.support.hard_worker",
        what,
        str(seed),
        str(end),
        str(folder),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    current = None
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == "seed":
            current = int(rest)
        elif word == "bad":
            result.failures.append(f"{what} seed {current}: {rest}")
        elif word == "got":
            name, memory, seconds = rest.split()
            result.outcomes[name] += 1
            result.memory, result.seconds = (
                max(result.memory, int(memory)),
                max(result.seconds, float(seconds)),
            )
    if current is None:
        raise AssertionError(f"the worker did not start (exit {done.returncode}): {done.stderr[-2000:]}")
    if done.returncode:
        why = LIMITS.get(done.returncode, f"exit {done.returncode}")
        result.failures.append(f"{what} seed {current}: {why}: {done.stderr[-800:]}")
    return current + 1

"""What a process holds.

In processes of their own, for a training tells the C library to keep what it is given back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mien.diagnostics.memory import resident

SIZE = 150  # MB
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="what a process holds now is told on Linux alone"
)


def told(code: str) -> list[dict[str, float]]:
    code = f"import json, numpy as np\nfrom mien.diagnostics.memory import resident\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(map(json.loads, done.stdout.splitlines()))


def test_the_peak_stays_when_memory_is_given_back() -> None:
    tell = "print(json.dumps(resident()))"
    before, during, after = told(
        f"{tell}\nheld = np.ones(({SIZE}, 2**20), np.uint8)\n{tell}\ndel held\n{tell}"
    )
    assert before["now"] + 0.9 * SIZE < during["now"] < during["peak"] + 1  # the kernel counts a little late
    assert after["now"] < during["now"] - 0.9 * SIZE
    assert after["peak"] > during["peak"] - 1


def test_another_process_is_measured_until_it_ends() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", f"held = bytearray({SIZE} << 20)\nprint(1, flush=True)\ninput()"],
        stdin=-1,
        stdout=-1,
    )
    assert child.stdout
    child.stdout.readline()
    assert SIZE < resident(child.pid)["now"] < resident(child.pid)["peak"] + 1
    child.kill()
    child.communicate()
    assert resident(child.pid) == {}


def test_a_small_child_of_a_large_parent_is_small() -> None:
    held = np.ones((SIZE, 2**20), np.uint8)
    [child] = told("print(json.dumps(resident()))")
    assert 1 < child["peak"] < SIZE <= held.nbytes / 2**20

"""What a process holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mien.memory import resident

SIZE = 150  # MB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process holds now is told on Linux alone")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = resident()["now"]
    held = np.ones((SIZE, 2**20), np.uint8)
    with_it = resident()
    assert before + 0.9 * SIZE < with_it["now"] < with_it["peak"] + 1  # the kernel counts a little late
    del held
    after = resident()
    assert after["now"] < with_it["now"] - 0.9 * SIZE
    assert after["peak"] > with_it["peak"] - 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="elsewhere the system's own count is told")
def test_a_small_child_of_a_large_parent_is_small() -> None:
    held = np.ones((SIZE, 2**20), np.uint8)
    code = "from mien.memory import resident; print(resident()['peak'])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 1 < float(told) < SIZE < held.nbytes / 2**20 + 1

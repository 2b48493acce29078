"""Time of a face and of a photo by threads and spinning, alone and next to a busy process.

python -m bench.speed.threads [--seconds 8]

Spinning threads of ONNX Runtime wait awake for their next part of a network: that is faster on idle cores,
and slow where another program wants them. One process, median of the calls of some seconds, settings in turn.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import Reader
from mien.inference.weights_file import WEIGHTS
from mien.io.image import load_photo

SPINNING = {"until the end of a call": None, "off": "0", "on": "1"}
PHOTO = Path("examples/astronaut.jpg")


class Session(OnnxModel):
    """A network with ONNX Runtime's spinning set by hand."""

    spinning: str | None = None

    def _start(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        options.inter_op_num_threads = 1
        if self.spinning is None:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        else:
            options.add_session_config_entry("session.intra_op.allow_spinning", self.spinning)
        options.enable_mem_pattern = False
        return ort.InferenceSession(self._data, options, providers=self._requested)


def reader(threads: int, spinning: str | None) -> Reader:
    """A reader of the embedded networks with these settings."""
    kind = type("Chosen", (Session,), {"spinning": spinning})
    finder = Detector(kind(WEIGHTS / "detector.onnx", threads=threads))
    return Reader(finder, kind(WEIGHTS / "mien.onnx", threads=threads))


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Median time of a call."""
    call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="per cell")
    seconds = parser.parse_args().seconds
    pixels = load_photo(PHOTO).pixels
    print("| load | threads | spinning | one face, ms | one photo, ms |")
    print("|---|---|---|---|---|")
    for busy in (False, True):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            for threads, (name, value) in itertools.product((1, 2), SPINNING.items()):
                if threads == 1 and value is not None:
                    continue  # one thread waits for nobody
                one = reader(threads, value)
                crop = np.zeros((1, *one.model.view.size, 3), np.uint8)
                face = milliseconds(lambda o=one, c=crop: o.model(o.model.view.tensor(c)), seconds)  # type: ignore[misc]
                photo = milliseconds(lambda o=one: o.read(pixels), seconds)  # type: ignore[misc]
                load = "one busy process" if busy else "idle"
                print(f"| {load} | {threads} | {name} | {face:.1f} | {photo:.1f} |", flush=True)
        finally:
            if other is not None:
                other.kill()
                other.wait()


if __name__ == "__main__":
    main()

"""The loop of a worker in Python: JSON lines in and out. It runs in a peer's environment and needs numpy
alone.

In:  {"photo": path of a .npy (H, W, 3) uint8 RGB, "job": name, "times": n, "tell": bool}
Out: {"ready": true, "versions": {...}, "weights": {file: bytes}} once, then for each line {"ms": [...],
"cpu_ms": [...], "faces": [...]}
"""

import json
import os
import sys
import time

import numpy as np


def serve(load):
    """Answer until stdin ends.

    load: () -> (call, tell, versions, weights' paths). call(pixels, job) -> raw is timed; tell(raw, job,
    pixels) -> a list of faces as plain values is not. A failure ends the process with its traceback: the
    other side says so in the table.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not stand between the lines

    def say(message):
        out.write(json.dumps(message) + "\n")
        out.flush()

    call, tell, versions, weights = load()
    say(
        {
            "ready": True,
            "versions": versions,
            "weights": {os.path.basename(p): os.path.getsize(p) for p in weights},
        }
    )
    for line in sys.stdin:
        order = json.loads(line)
        pixels, ms, cpu_ms = np.load(order["photo"]), [], []
        for _ in range(order.get("times", 1)):
            wall, cpu = time.perf_counter(), time.process_time()
            raw = call(pixels, order["job"])
            ms.append(1e3 * (time.perf_counter() - wall))
            cpu_ms.append(1e3 * (time.process_time() - cpu))
        faces = tell(raw, order["job"], pixels)
        say(
            {
                "ms": ms,
                "cpu_ms": cpu_ms,
                "found": len(faces),
                "faces": faces if order.get("tell", True) else [],
            }
        )

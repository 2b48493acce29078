"""Load test of the server: pictures per second, latency, memory. Every reply is compared with a serial one.

    python bench/speed/load.py [--seconds 600] [--clients 1,8,32] [--settings 16:4,16:0,1:0] [--threads 1] \\
        [PICTURE ...]

The seconds are shared by all runs. A setting is FACES:MS: the maximum batch size and the wait for other
pictures; 1:0 is no batching. The server is a separate process; it and its clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import mien
from mien.diagnostics.memory import resident
from mien.server.client import Client

TASKS = ("landmarks", "parsing", "age", "gender", "expression", "attributes", "pose", "identity")
PICTURES = ("examples/astronaut.jpg", "examples/grace_hopper.jpg")


def differs(a: Any, b: Any, inside: str = "") -> bool:
    """Whether two records differ by more than the last decimal, without the times."""
    if isinstance(a, dict) and isinstance(b, dict):
        return set(a) != set(b) or any(differs(a[k], b[k], k) for k in a if k != "timing_ms")
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(differs(x, y, inside) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) > (2e-6 if inside == "embedding" else 0.0101)
    return bool(a != b)


@contextmanager
def server(faces: int, wait_ms: float, threads: int) -> Iterator[tuple[str, int]]:
    """`mien serve` as a process: its address and process id."""
    words = [
        "serve",
        "--port",
        "0",
        "--batch",
        str(faces),
        "--batch-wait",
        str(wait_ms),
        "--threads",
        str(threads),
        "--queue",
        "256",
        "--timeout",
        "300",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "mien", *words], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            port = 0
            for line in process.stderr:
                if found := re.search(r"listening on http://\S+:(\d+)/", line):
                    port = int(found[1])
                    break
            if not port:
                raise SystemExit("the server did not start")
            threading.Thread(
                target=process.stderr.read, daemon=True
            ).start()  # otherwise its pipe would fill up
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()


def now_mb(pid: int) -> float:
    """Resident MB, or nan if the system does not report it."""
    return resident(pid).get("now", float("nan"))


def cpu(pid: int) -> float:
    """Seconds of processor time that the process has used, or nan where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forwards(url: str) -> tuple[float, float]:
    """(faces, forward passes) so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    values = [re.search(rf"^mien_batch_faces_{n} (\S+)", text, re.M) for n in ("sum", "count")]
    return tuple(float(v[1]) if v else 0.0 for v in values)  # type: ignore[return-value]


class Run:
    """Clients that each send one request at a time until the time is over."""

    def __init__(
        self, url: str, clients: int, seconds: float, pictures: list[bytes], expected: list[dict[str, Any]]
    ):
        self.url, self.clients, self.seconds, self.pictures, self.expected = (
            url,
            clients,
            seconds,
            pictures,
            expected,
        )
        self.times: list[float] = []
        self.wrong = self.lost = 0
        self.reasons: set[str] = set()

    def __call__(self) -> Run:
        """All clients at once; the rate counts from the first request to the last answer."""
        start = time.perf_counter()
        threads = [
            threading.Thread(target=self._client, args=(i, start + self.seconds)) for i in range(self.clients)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.rate = len(self.times) / (time.perf_counter() - start)
        return self

    def _client(self, number: int, until: float) -> None:
        client, turn = Client(self.url, timeout=300), number
        while (begun := time.perf_counter()) < until:
            turn += 1
            which = turn % len(self.pictures)
            try:
                (record,) = client.analyze(self.pictures[which], tasks=TASKS)
            except (mien.MienError, OSError) as e:
                self.lost += 1
                self.reasons.add(repr(e))
                continue
            self.times.append(time.perf_counter() - begun)  # list.append is atomic
            if differs(record, self.expected[which]):
                self.wrong += 1


def main() -> None:
    """Print one line per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", default=PICTURES)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--settings", default="16:4,16:0,1:0")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    pictures = [Path(p).read_bytes() for p in given.pictures]
    reader = mien.load(tasks=TASKS, threads=1)
    expected = [reader(p).to_dict() for p in pictures]
    clients = [int(n) for n in given.clients.split(",")]
    settings = [(int(f), float(ms)) for f, ms in (s.split(":") for s in given.settings.split(","))]
    each = given.seconds / (len(clients) * len(settings))
    faces = np.mean([len(e["faces"]) for e in expected])
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"{os.cpu_count()} cores, load {load:.1f} before the start; {faces:.1f} faces per picture;"
        f" {each:.0f} s per run"
    )
    columns = (
        "batch,wait ms,clients,pictures/s,p50 ms,p95 ms,CPU ms per picture,faces per"
        " forward pass,answers,wrong,lost,MB before,MB after"
    )
    print("| " + columns.replace(",", " | ") + " |")
    print("|" + "---|" * 13)
    failures = 0
    for maximum, wait_ms in settings:
        with server(maximum, wait_ms, given.threads) as (url, pid):
            Run(url, 2, 2.0, pictures, expected)()  # to warm up
            for n in clients:
                before, used, (f0, n0) = now_mb(pid), cpu(pid), forwards(url)
                run = Run(url, n, each, pictures, expected)()
                f1, n1 = forwards(url)
                used = 1e3 * (cpu(pid) - used) / max(len(run.times), 1)
                p50, p95 = 1e3 * np.percentile(run.times or [float("nan")], [50, 95])
                row = [
                    f"{maximum}",
                    f"{wait_ms:g}",
                    f"{n}",
                    f"{run.rate:.1f}",
                    f"{p50:.0f}",
                    f"{p95:.0f}",
                    f"{used:.0f}",
                    f"{(f1 - f0) / max(n1 - n0, 1):.2f}",
                ]
                row += [
                    f"{len(run.times)}",
                    f"{run.wrong}",
                    f"{run.lost}",
                    f"{before:.0f}",
                    f"{now_mb(pid):.0f}",
                ]
                print("| " + " | ".join(row) + " |", flush=True)
                for reason in sorted(run.reasons):
                    print("lost:", reason, file=sys.stderr)
                failures += run.wrong + run.lost
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()

"""A tool at work in a process of its own: JSON lines in and out, as `workers/serve.py` says."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mien.diagnostics.memory import resident


class PeerFailed(Exception):
    """A tool's process ended, was too slow or sent an invalid reply; the message is the reason that stands
    in the table.
    """


class Worker:
    """One process. Use it in a `with`, so that it ends.

    Args:
        name: for messages.
        words: the command.
        threads: for the libraries that heed it, and so many cores for the process.
        log: where its stderr goes.
        patience: seconds for an answer, the first line included.

    Attributes:
        ready: what it said first.
        start_ms: from the process's beginning until then.

    Raises:
        PeerFailed: it did not get ready.
    """

    def __init__(
        self, name: str, words: Sequence[str], *, threads: int = 2, log: Path, patience: float = 300.0
    ):
        self.name, self.log, self.patience = name, log, patience
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env=quiet(os.environ, threads),
                text=True,
                encoding="utf-8",
            )
        if hasattr(
            os, "sched_setaffinity"
        ):  # some libraries take every core that they see, whatever is configured
            os.sched_setaffinity(self.process.pid, sorted(os.sched_getaffinity(0))[:threads])
        self._lines: queue.Queue[str] = queue.Queue()
        assert self.process.stdin and self.process.stdout
        self._stdin = self.process.stdin
        self._reading = threading.Thread(target=self._listen, args=(self.process.stdout,), daemon=True)
        self._reading.start()
        try:
            self.ready = self.receive()
        except PeerFailed:
            self.close()
            raise
        self.start_ms = 1e3 * (time.perf_counter() - began)

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line)
        self._lines.put("")  # the end

    def send(self, photo: Path, job: str, *, times: int = 1, tell: bool = True) -> None:
        """Ask; `receive` gives the answer.

        Raises:
            PeerFailed: the process is gone.
        """
        try:
            self._stdin.write(
                json.dumps({"photo": str(photo), "job": job, "times": times, "tell": tell}) + "\n"
            )
            self._stdin.flush()
        except OSError as e:
            raise PeerFailed(self._reason("ended")) from e

    def receive(self) -> dict[str, Any]:
        """The next line.

        Raises:
            PeerFailed: it ended, was silent for `patience` seconds, or the line is not JSON.
        """
        try:
            line = self._lines.get(timeout=self.patience)
        except queue.Empty:
            raise PeerFailed(f"no answer in {self.patience:.0f} s") from None
        if not line:
            self.process.wait()
            raise PeerFailed(self._reason(f"ended with code {self.process.returncode}"))
        try:
            reply: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as e:
            raise PeerFailed(f"sent an invalid reply: {line.strip()[:80]!r}") from e
        return reply

    def ask(self, photo: Path, job: str, *, times: int = 1, tell: bool = True) -> dict[str, Any]:
        """`send`, then `receive`."""
        self.send(photo, job, times=times, tell=tell)
        return self.receive()

    def memory_mb(self) -> dict[str, float]:
        """Resident now and at most; empty where the system does not tell (not Linux)."""
        return resident(self.process.pid)

    def _reason(self, what: str) -> str:
        lines = [
            line.strip()
            for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.strip()
        ]
        named = [line for line in lines if "error" in line.lower()]
        return f"{what}: {(named or lines or ['no output'])[-1][:200]}"

    def close(self) -> None:
        """End it: by the end of its input, or by force after ten seconds."""
        with contextlib.suppress(BrokenPipeError):  # it may be gone already
            self._stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reading.join()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def quiet(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a worker: so many threads, and as little chatter as its libraries allow."""
    counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return {
        **environ,
        **dict.fromkeys(counts, str(threads)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "GLOG_minloglevel": "2",
        "PYTHONWARNINGS": "ignore",
    }

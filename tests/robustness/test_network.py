"""No socket is opened: not by reading, not by evaluating, not by the command line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mien
from mien.data.synthetic import toy
from mien.evaluation.protocols import Protocol
from mien.evaluation.scoring import evaluate
from mien.inference.weights_file import WEIGHTS

ROOT = Path(__file__).parents[2]

# Every way out of CPython tells its audit hooks; a monkeypatch would miss what imported `socket` before, or
# uses `_socket`.
WATCH = """
import sys
def watch(event, args):
    if event.startswith(("socket.", "http.", "urllib.", "ftplib.", "smtplib.", "webbrowser.")):
        raise SystemExit(f"network: {event} {args}")
sys.addaudithook(watch)
"""
WORK = """
import json, sys
import mien
from mien.data.synthetic import toy
from mien.evaluation.scoring import evaluate
from mien.evaluation.protocols import Protocol
reader = mien.load(threads=1)
readings = reader(["examples/astronaut.jpg", "https://example.org/a.jpg", b"no picture"])
assert len(readings[0]) == 1 and [r.error.code for r in readings[1:3]] == ["not_found", "not_a_picture"]
json.dumps([r.to_dict() for r in readings])
score = evaluate(reader.model, Protocol("drawn", lambda: toy("test", n=4), "age", "drawn", ("mae",)))
assert score.values["n"] == 4
from mien.cli import main
sys.argv = ["mien", "analyze", "examples/grace_hopper.jpg", "--out", "-", "--threads", "1"]
main()
"""


def test_analyze_and_evaluate_work_where_a_socket_raises(
    astronaut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> Any:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    with pytest.raises(AssertionError, match="socket was opened"):
        socket.socket()
    network = mien.OnnxModel(WEIGHTS / "mien.onnx", threads=1)
    reader = mien.load(network, tasks=["age", "landmarks", "identity"])
    (face,) = reader(astronaut)
    assert {"age", "landmarks", "identity"} == set(face.answers)
    for task in ("age", "landmarks", "parsing", "attributes"):
        protocol = Protocol(f"drawn-{task}", lambda: toy("test", n=4), task, "drawn faces", ("n",))
        assert evaluate(network, protocol, batch=2).headline == 4


def run(*before: str, code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_no_audit_event_of_a_network_is_seen() -> None:
    caught = run(code=WATCH + "import socket; socket.create_connection(('127.0.0.1', 9))")
    assert caught.returncode == 1 and "network: socket." in caught.stderr
    done = run(code=WATCH + WORK)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"faces"' in done.stdout


def test_all_works_in_a_namespace_without_a_network() -> None:
    tool = shutil.which("unshare")
    if tool is None:
        pytest.skip("no unshare on this system")
    apart = [tool, "--user", "--map-root-user", "--net"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody make a namespace")
    alone = run(*apart, code="import socket; print(socket.if_nameindex())")
    assert alone.stdout.strip() == "[(1, 'lo')]"
    done = run(*apart, code=WORK)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"faces"' in done.stdout

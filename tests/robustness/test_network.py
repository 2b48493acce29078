"""No socket is opened: not by reading, not by evaluating, not by a command. `mien serve` listens on one, and
`mien web` runs npm, which downloads.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
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
from mien.web.build import ORT_FILES
from tests.contracts.test_cli_contract import COMMANDS
from tests.support.socket_guard import NO_GUARD
from tests.support.toy_recipe import TOY_RECIPE

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


def run(*before: str, code: str, limit: float = 120) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
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


LISTENS = {"serve"}
ASTRONAUT, GRACE = "examples/astronaut.jpg", "examples/grace_hopper.jpg"
ONE = ("--threads", "1")


def commands(folder: Path) -> list[tuple[list[str], int]]:
    """Commands of which none opens an internet socket, with the exit code of each."""
    for name in ORT_FILES:
        (folder / name).write_bytes(name.encode())
    (folder / "toy.py").write_text(TOY_RECIPE, encoding="utf-8")
    shutil.copy(ASTRONAUT, folder / "a.jpg")
    drawn, covered = ["--draw", str(folder / "drawn")], ["--out", str(folder / "covered")]
    return [
        (["analyze", ASTRONAUT, "--out", str(folder / "faces.jsonl"), *drawn, *ONE], 0),
        (["analyze", "https://example.org/a.jpg", "--out", str(folder / "no.jsonl"), *ONE], 2),
        (["anonymize", ASTRONAUT, *covered, *ONE], 0),
        (["verify", ASTRONAUT, GRACE, *ONE], 1),
        (["cluster", ASTRONAUT, GRACE, "--out", str(folder / "groups.json"), *ONE], 0),
        (["video", "https://example.org/a.mp4", "--out", str(folder / "video.jsonl"), *ONE], 2),
        (["web", "--out", str(folder / "site"), "--ort", str(folder)], 0),
        (["train", str(folder / "toy.py"), "--out", str(folder / "run"), *ONE], 0),
        (["export", str(folder / "run"), "--out", str(folder / "toy.onnx")], 0),
        (["evaluate", "--protocol", "drawn", *ONE], 0),
        (["quantize", str(folder / "a.jpg"), "--out", str(folder / "x.onnx")], 2),  # one face is too few
        (["doctor"], 0),
        (["bench", ASTRONAUT, "--runs", "1", *ONE], 0),
        (["models"], 0),
        (["tasks"], 0),
        (["features", ASTRONAUT, "--out", str(folder / "features.csv"), *ONE], 0),
        (["finetune", str(folder), "--name", "x", "--out", str(folder / "y.onnx"), *ONE], 2),  # no classes
        (["best", ASTRONAUT, GRACE, "--out", str(folder / "best.json"), *ONE], 0),
        (["check", ASTRONAUT, *ONE], 1),  # some rules fail
        (["merge", str(folder / "a.onnx"), str(folder / "b.onnx"), "--out", str(folder / "c.onnx")], 2),
    ]


def gallery_commands(folder: Path) -> list[tuple[list[str], int]]:
    """Commands of a gallery in a folder: importing LanceDB opens a local socket to see whether IPv6 works."""
    people, key = str(folder / "people"), str(folder / "key")
    return [
        (["gallery", "key", "--out", key], 0),
        (["gallery", "add", people, ASTRONAUT, "--name", "Eileen", *ONE], 0),
        (["gallery", "add", people, GRACE, "--name", "Grace", *ONE], 0),
        (["gallery", "identify", people, ASTRONAUT, *ONE], 0),
        (["gallery", "correct", people, GRACE, "--not", "Eileen", *ONE], 0),
        (["gallery", "edit", people, "Eileen", "--note", "signed"], 0),
        (["gallery", "list", people], 0),
        (["gallery", "stats", people], 0),
        (["gallery", "export", people, "--out", str(folder / "copy")], 0),
        (["gallery", "split", people, "Eileen", "no-such-face", "--to", "Amelia"], 2),
        (["gallery", "merge", people, "Eileen", "Grace"], 0),
        (["gallery", "prune", people], 0),
        (["gallery", "forget", people, "Eileen"], 0),
    ]


def guarded(call: str, listed: list[tuple[list[str], int]], folder: Path) -> None:
    """Run commands in a process that the kernel kills at a system call, native code included."""
    path = folder / "commands.json"
    path.write_text(json.dumps(listed), encoding="utf-8")
    code = f"import sys; from tests.support import socket_guard; sys.argv = ['', {call!r}, {str(path)!r}]"
    done = run(code=f"{code}; socket_guard.main()", limit=3000)
    if done.returncode == NO_GUARD:
        pytest.skip("this system has no seccomp filters")
    assert done.returncode == 0, (done.stdout, done.stderr[-3000:])
    assert len(done.stdout.splitlines()) == len(listed)


def test_every_command_is_in_a_list(tmp_path: Path) -> None:
    listed = [*commands(tmp_path), *gallery_commands(tmp_path)]
    assert {" ".join(w[:2]) if w[0] == "gallery" else w[0] for w, _ in listed} == set(COMMANDS) - LISTENS


@pytest.mark.slow
def test_no_command_opens_an_internet_socket(tmp_path: Path) -> None:
    guarded("socket", commands(tmp_path), tmp_path)


@pytest.mark.slow
def test_no_gallery_command_connects(tmp_path: Path) -> None:
    guarded("connect", gallery_commands(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("call", "code"),
    [("socket", "socket.socket()"), ("connect", "socket.socket().connect(('127.0.0.1', 9))")],
)
def test_the_guard_kills(call: str, code: str) -> None:
    guard = (
        f"from tests.support.socket_guard import forbid; import socket, sys; forbid({call!r}) or sys.exit(3)"
    )
    done = run(code=f"{guard}; socket.socketpair(); print('local'); {code}")
    if done.returncode == NO_GUARD:
        pytest.skip("this system has no seccomp filters")
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "local\n")


def test_onnx_runtime_reports_nothing() -> None:
    """Its telemetry has threads of its own, which begin when it is imported."""
    code = "import os, mien; mien.OnnxModel; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    for given, seen in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | given,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == seen

"""What must hold when processes die or meet: a killed actor, a killed job, readers beside a writer, and the
page's commands.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import mien
from mien.scale import photos, places
from tests.scale.test_scale import ray, written  # noqa: F401  # the session's Ray

pytest.importorskip("pyarrow", reason="pip install 'mien[scale]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.use_[a-z_]+. is deprecated:DeprecationWarning"),  # see test_scale
]
load = functools.partial(mien.load, tasks=["age"], threads=1)


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """60 small pictures of one face."""
    folder = tmp_path_factory.mktemp("album")
    small = Image.open("examples/astronaut.jpg").convert("RGB").crop((130, 10, 320, 200))
    for i in range(60):
        small.rotate(i % 20 - 10).resize((120 + i, 120 + i)).save(folder / f"{i:02d}.jpg")
    return folder


def paths_of(out: str | Path) -> list[str]:
    return [os.path.basename(r["path"]) for r in written(out)]


ALL = [f"{i:02d}.jpg" for i in range(60)]


def test_a_killed_actor_loses_and_doubles_nothing(album, tmp_path, ray) -> None:  # noqa: F811
    killed: list[int] = []
    pids = set()

    def kill_once(part: dict) -> None:
        pids.add(part["pid"])
        if not killed:
            killed.append(part["pid"])
            os.kill(part["pid"], signal.SIGKILL)

    done = photos.analyze(
        [str(album)], str(tmp_path / "out"), load, engine="ray", workers=1, photos=5, on_part=kill_once
    )
    assert killed and pids - set(killed), "the job was over before the actor died; make the album larger"
    assert paths_of(tmp_path / "out") == ALL
    assert done.photos == 60
    photos.analyze([str(album)], str(tmp_path / "whole"), load, photos=5)
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_a_killed_job_goes_on(album, tmp_path) -> None:
    """The whole job dies, Ray and all; what is there is whole, and the rest is read by the next one."""
    pytest.importorskip("ray", reason="pip install 'mien[scale]'")
    out = tmp_path / "out"
    code = (
        f"import functools, mien\nfrom mien.scale import photos\nphotos.analyze([{str(album)!r}],"
        f" {str(out)!r}, functools.partial(mien.load, tasks=['age'], threads=1), engine='ray', workers=1,"
        " photos=5)"
    )
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not list(out.glob("part-*.parquet")):
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.02)
    job.kill()
    job.wait()
    deadline = time.monotonic() + 60  # its actors end by themselves when they miss their driver
    before = -1
    while time.monotonic() < deadline and before != (before := len(list(out.glob("part-*.parquet")))):
        time.sleep(5)
    there = paths_of(out)
    assert 0 < len(there) < 60
    assert photos.analyze([str(album)], str(out), load, photos=5).skipped == len(there)
    assert paths_of(out) == ALL


# --- Readers beside a writer

WRITER = """
import sys
import numpy as np
from mien.recognition.gallery import Gallery
from mien.recognition.store import FACE, Row, new_store
from mien.recognition.records import new_id, now
place, rounds = sys.argv[1], int(sys.argv[2])
axes = np.eye(64, dtype=np.float32)
store = new_store(place, None, None, {"model": "m" * 64, "task": "identity", "view": {}, "d": 64})
def row(i): return Row(new_id("f"), f"p_{i:016x}", f"Person {i}", FACE, "", "", now(), axes[i])
store.add([row(i) for i in range(20)])
print("ready", flush=True)
gallery = Gallery(place, threshold=0.5)
for i in range(rounds):
    gallery.store.add([row(20 + i)])
    gallery.forget(f"Person {20 + i}")
    print(i, flush=True)
"""
READER = """
import json, sys, time
import numpy as np
from mien.recognition.gallery import Gallery
place, seconds = sys.argv[1], float(sys.argv[2])
axes, gallery = np.eye(64, dtype=np.float32), Gallery(place, threshold=0.5)
n, seen, end = 0, set(), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for i in (0, 7, 19):
        answer = gallery.search(axes[i])
        assert answer.match is not None and answer.match.name == f"Person {i}", (i, answer)
        assert answer.match.similarity > 0.999
    seen.add(len(gallery.people()))
    n += 1
print(json.dumps({"rounds": n, "people": sorted(seen)}))
"""


def test_many_readers_stay_right_while_one_writer_adds_and_forgets(tmp_path) -> None:
    pytest.importorskip("lancedb", reason="pip install 'mien[scale]'")
    place, seconds = str(tmp_path / "gallery"), 20
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, place, "40"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, place, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [r.communicate(timeout=240) for r in readers]
    writer_said, writer_error = writer.communicate(timeout=240)
    assert writer.returncode == 0, writer_error[-2000:]
    assert [int(x) for x in writer_said.split()] == list(range(40))
    for process, (out, error) in zip(readers, said, strict=True):
        assert process.returncode == 0, error[-2000:]
        found = json.loads(out)
        assert found["rounds"] > 3
        assert set(found["people"]) <= {20, 21}
    from mien.recognition.gallery import Gallery

    assert len(Gallery(place, threshold=0.5).people()) == 20


# --- The page


def commands() -> list[str]:
    """Lines `$ mien ...` of the page."""
    text = Path("docs/scale.md").read_text(encoding="utf-8")
    return [line[2:] for line in text.splitlines() if line.startswith("$ mien ")]


def test_the_page_s_commands_run(tmp_path, monkeypatch, ray) -> None:  # noqa: F811
    from typer.testing import CliRunner

    from mien.cli import app

    lines = commands()
    assert len(lines) >= 4
    (tmp_path / "examples").symlink_to(Path("examples").resolve())
    monkeypatch.chdir(tmp_path)
    for command in lines:
        done = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert places.Parts("out/who").names()

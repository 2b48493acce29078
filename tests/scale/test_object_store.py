"""Photos, parts and galleries in an object store: a local S3 server."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import mien
from mien.cli import app
from mien.errors import NotFound, StorageError, Unreadable
from mien.recognition.records import new_id, now
from mien.recognition.store import FACE, Row, new_store
from mien.scale import people, photos, places

fs = pytest.importorskip("pyarrow.fs", reason="pip install 'mien[scale]'")
pytest.importorskip("moto", reason="pip install 'moto[server]'")
pytest.importorskip("flask", reason="pip install 'moto[server]'")
pytestmark = pytest.mark.slow
load = functools.partial(mien.load, tasks=["age", "identity"], threads=1)
NAMES = ("a b.jpg", "a%20c.jpg", "a#d.jpg", "a?e.jpg", "ü.jpg", "a+f.jpg", "[g].jpg", "below/h.JPG")


class Server:
    """A moto server of this machine."""

    def __init__(self, url: str):
        self.url = url

    def check_credentials(self, on: bool) -> None:
        """Whether requests need the keys of a user; there is none, so that all keys are wrong."""
        data = b"0" if on else b"inf"
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data, {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=10).close()

    def put(self, path: str, data: bytes) -> None:
        """BUCKET/KEY."""
        with self.store.open_output_stream(path) as out:
            out.write(data)

    @functools.cached_property
    def store(self):
        """Arrow's file system, which may make buckets."""
        return fs.S3FileSystem(
            endpoint_override=self.url.removeprefix("http://"),
            scheme="http",
            allow_bucket_creation=True,
            request_timeout=60,  # the server is slow on a busy machine
            connect_timeout=60,
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < end, "moto did not start"
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", url)
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            places._file_system.cache_clear()
            yield Server(url)
    finally:
        places._file_system.cache_clear()
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def small() -> bytes:
    """A small photo of one face."""
    buffer = io.BytesIO()
    picture = Image.open("examples/astronaut.jpg").convert("RGB").crop((130, 10, 320, 200))
    picture.resize((120, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def bucket(server: Server, small: bytes, request) -> str:
    """A new bucket with photos in `in/`, one of them empty, one damaged."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    server.store.create_dir(name)
    for key in NAMES:
        server.put(f"{name}/in/{key}", small)
    server.put(f"{name}/in/empty.jpg", b"")
    server.put(f"{name}/in/half.jpg", small[:300])
    server.put(f"{name}/in/notes.txt", b"no photo")
    return name


def rows_of(uri: str) -> list[dict]:
    parts = places.Parts(uri)
    lines = [row for name in parts.names() for row in parts.read(name).to_pylist()]
    return sorted(lines, key=lambda r: (r["path"], r["face"] or 0))


def test_names_are_taken_as_they_are(bucket: str, small: bytes) -> None:
    top = f"s3://{bucket}/in"
    expected = sorted([*NAMES, "empty.jpg", "half.jpg"])
    assert places.find([top]) == [f"{top}/{n}" for n in expected]
    assert places.find([f"{top}/"]) == [f"{top}/{n}" for n in expected]
    assert [places.fetch(f"{top}/{n}") for n in NAMES] == [small] * len(NAMES)
    assert places.find([f"{top}/**/*.JPG", f"{top}/[g].jpg"]) == [
        f"{top}/below/h.JPG",
        f"{top}/[g].jpg",
    ]
    assert places.find([f"{top}/a?[ce].jpg", f"{top}/a%20c.jpg"]) == [
        f"{top}/a?e.jpg",
        f"{top}/a%20c.jpg",
    ]
    assert isinstance(places.fetch(f"{top}/none.jpg"), NotFound)
    for nothing in (f"s3://{bucket}/none", "s3://no-such-bucket/in"):
        with pytest.raises(NotFound, match="there is no"):
            places.find([nothing])
    with pytest.raises(NotFound, match="holds no pictures"):
        places.find([f"{top}/*.png"])


def test_a_job_reads_writes_and_goes_on(server: Server, bucket: str, small: bytes, tmp_path) -> None:
    uri, out = f"s3://{bucket}/in", f"s3://{bucket}/out/faces"
    done = photos.analyze([uri], out, load, photos=4)
    assert (done.photos, done.failed, done.skipped) == (10, 2, 0)
    assert {r["path"]: r["error"] for r in rows_of(out) if r["error"]} == {
        f"{uri}/empty.jpg": "empty_file",
        f"{uri}/half.jpg": "truncated",
    }
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(small)
    photos.analyze([str(tmp_path)], str(tmp_path / "out"), load)
    here = {os.path.basename(r["path"]): r["identity"] for r in rows_of(str(tmp_path / "out"))}
    there = {os.path.basename(r["path"]): r["identity"] for r in rows_of(out) if r["face"]}
    assert there == here
    server.put(f"{bucket}/in/new.jpg", small)
    again = photos.analyze([uri], out, load)
    assert (again.photos, again.skipped) == (1, 10)
    # the faces of the table, named by a gallery next to it
    gallery = mien.Gallery(f"s3://{bucket}/people", mien.load(tasks=["identity"], threads=1), fmr=0.1)
    gallery.add("examples/astronaut.jpg", "Eileen Collins")
    named = people.identify(gallery, out, f"s3://{bucket}/who")
    assert named == {"faces": 9, "matched": 9, "skipped": 0}
    assert people.to_lance(out, f"s3://{bucket}/lance/faces.lance") == 9
    table = people.identify(gallery, f"s3://{bucket}/lance/faces.lance", f"s3://{bucket}/who-lance")
    assert table["matched"] == 9


@pytest.mark.parametrize("sealed", [False, True])
def test_a_gallery_adds_finds_and_forgets(bucket: str, tmp_path, sealed: bool) -> None:
    key = tmp_path / "people.key" if sealed else None
    if key:
        from mien.recognition.gallery import new_key

        new_key(key)
    uri, reader = f"s3://{bucket}/people", mien.load(tasks=["identity"], threads=1)
    gallery = mien.Gallery(uri, reader, fmr=0.01, key=key)
    gallery.add("examples/astronaut.jpg", "Eileen Collins")
    gallery.add("examples/grace_hopper.jpg", "Grace Hopper")
    other = mien.Gallery(uri, reader, fmr=0.01, key=key)
    assert {p.name for p in other.people()} == {"Eileen Collins", "Grace Hopper"}
    [answer] = other.identify("examples/astronaut.jpg")
    assert answer.match is not None and answer.match.name == "Eileen Collins"
    assert gallery.forget("Eileen Collins").faces == 1
    [answer] = other.identify("examples/astronaut.jpg")
    assert answer.match is None
    assert gallery.stats()["versions"] == 1


def test_wrong_credentials_are_named(server: Server, bucket: str) -> None:
    uri = f"s3://{bucket}"
    server.check_credentials(True)
    try:
        for call in (
            lambda: places.find([f"{uri}/in"]),
            lambda: places.find([f"{uri}/in/*.jpg"]),
            lambda: photos.analyze(["examples/astronaut.jpg"], f"{uri}/out", load),
            lambda: mien.Gallery(f"{uri}/people").people(),
        ):
            with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as e:
                call()
            assert str(e.value).startswith(f"cannot use '{uri}")
            assert len(str(e.value)) < 700
        refused = places.fetch(f"{uri}/in/a b.jpg")
        assert isinstance(refused, Unreadable)
        assert "credentials" in str(refused)
        done = CliRunner().invoke(app, ["gallery", "list", f"{uri}/people"])
        assert isinstance(done.exception, StorageError)
    finally:
        server.check_credentials(False)
    assert len(places.find([f"{uri}/in"])) == 10


def test_a_bucket_that_is_missing_and_a_store_that_does_not_answer(server: Server, monkeypatch) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        photos.analyze(["examples/astronaut.jpg"], "s3://no-such-bucket/out", load)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    places._file_system.cache_clear()
    try:
        with pytest.raises(StorageError, match="cannot be reached"):
            places.find(["s3://anything/in"])
    finally:
        places._file_system.cache_clear()


# adds and erases a person, `rounds` times, after a line on stdin
WRITER = """
import sys
import numpy as np
from mien.recognition.gallery import Gallery
from mien.recognition.records import new_id, now
from mien.recognition.store import FACE, Row
place, rounds = sys.argv[1], int(sys.argv[2])
axes, gallery = np.eye(64, dtype=np.float32), Gallery(place, threshold=0.5)
print("ready", flush=True)
sys.stdin.readline()
for i in range(20, 20 + rounds):
    gallery.store.add([Row(new_id("f"), f"p_{i:016x}", f"Person {i}", FACE, "", "", now(), axes[i])])
    gallery.forget(f"Person {i}")
"""
# searches until stdin is closed, at least once, so that a slow machine only makes it slow
READER = """
import json, select, sys
import numpy as np
from mien.recognition.gallery import Gallery
axes, gallery = np.eye(64, dtype=np.float32), Gallery(sys.argv[1], threshold=0.5)
print("ready", flush=True)
rounds, people = 0, set()
while not rounds or not select.select([sys.stdin], [], [], 0)[0]:
    for i in (0, 19):
        answer = gallery.search(axes[i])
        assert answer.match is not None and answer.match.name == f"Person {i}", (i, answer)
        assert answer.match.similarity > 0.999
    people.add(len(gallery.people()))
    rounds += 1
print(json.dumps({"rounds": rounds, "people": sorted(people)}))
"""


def test_many_readers_and_one_writer_of_a_gallery(bucket: str) -> None:
    uri = f"s3://{bucket}/people"
    store = new_store(uri, None, None, {"model": "m" * 64, "task": "identity", "view": {}, "d": 64})
    people = [
        (f"p_{i:016x}", f"Person {i}", vector) for i, vector in enumerate(np.eye(64, dtype=np.float32)[:20])
    ]
    store.add([Row(new_id("f"), who, name, FACE, "", "", now(), vector) for who, name, vector in people])
    commands = [[WRITER, uri, "2"], *([READER, uri] for _ in range(2))]
    with ExitStack() as running:
        processes = []
        for words in commands:
            process = subprocess.Popen(
                [sys.executable, "-c", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            running.callback(process.kill)
            processes.append(process)
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()[-2000:]
        writer, *readers = processes
        _, error = writer.communicate("go\n", timeout=1200)
        assert writer.returncode == 0, error[-2000:]
        for process in readers:
            out, error = process.communicate(timeout=1200)  # closes stdin
            assert process.returncode == 0, error[-2000:]
            found = json.loads(out)
            assert found["rounds"] >= 1
            assert set(found["people"]) <= {20, 21}
    assert len(mien.Gallery(uri, threshold=0.5).people()) == 20


# kills the first worker that has finished a part, then the rest must be done by another one
JOB = """
import functools, json, os, signal, sys
import mien
from mien.scale import photos
killed, pids = [], set()
def kill_once(part):
    pids.add(part["pid"])
    if not killed:
        killed.append(part["pid"])
        os.kill(part["pid"], signal.SIGKILL)
load = functools.partial(mien.load, tasks=["age"], threads=1)
done = photos.analyze([sys.argv[1]], sys.argv[2], load, engine="ray", workers=1, photos=2, on_part=kill_once)
print(json.dumps({"photos": done.photos, "others": len(pids - set(killed)), "skipped": done.skipped}))
"""


def test_ray_reads_and_writes_and_a_killed_worker_loses_nothing(bucket: str, small: bytes, server) -> None:
    pytest.importorskip("ray", reason="pip install 'mien[scale]'")
    count = 12
    for i in range(count):
        server.put(f"{bucket}/many/{i:02}.jpg", small)
    uri, out = f"s3://{bucket}/many", f"s3://{bucket}/ray"

    def run() -> dict:
        done = subprocess.run(
            [sys.executable, "-c", JOB, uri, out], capture_output=True, text=True, timeout=1500, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    first = run()
    assert (first["photos"], first["skipped"]) == (count, 0)
    assert first["others"] >= 1, "the job was over before the worker died"
    assert [Path(r["path"]).name for r in rows_of(out)] == [f"{i:02}.jpg" for i in range(count)]
    server.store.delete_file(f"{bucket}/ray/{places.Parts(out).names()[0]}")  # as after a killed job
    again = run()
    assert again["photos"] + again["skipped"] == count
    assert again["photos"] > 0
    assert [Path(r["path"]).name for r in rows_of(out)] == [f"{i:02}.jpg" for i in range(count)]

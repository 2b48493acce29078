"""A disk that is full, a folder that may not be written, files that vanish: said in one line, and nothing
else is lost.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.data.synthetic import draw
from mien.errors import NotFound, PhotoError, Truncated, Unreadable
from tests.support.hard_worker import encoded

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def album(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(31)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        path.write_bytes(encoded(draw(rng)[0], "PNG"))
    return paths


def mien_cli(*words: Any, limit: int | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command line; limit: no file may grow beyond so many bytes, as on a disk that is full."""

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # type: ignore[arg-type]

    more = {"stdout": subprocess.PIPE} | more
    return subprocess.run(
        [sys.executable, "-m", "mien", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=full if limit is not None else None,
        **more,
    )


# A disk that is full


@needs_full
@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.csv"])
def test_a_full_disk_is_an_error_and_never_silent(name: str, album: list[Path], tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(FULL)
    done = mien_cli("analyze", album[0], "--out", tmp_path / name, "--threads", 1)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


@needs_full
def test_a_pipe_that_is_full_is_an_error(album: list[Path]) -> None:
    with FULL.open("w") as out:
        done = mien_cli("analyze", album[0], "--threads", 1, stdout=out)
    assert done.returncode != 0
    assert "No space left on device" in done.stderr


def test_records_before_the_disk_was_full_are_complete_and_resumed(album: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    whole = mien_cli("analyze", *album, "--out", tmp_path / "whole.jsonl", "--threads", 1)
    assert whole.returncode == 0, whole.stderr
    size = (tmp_path / "whole.jsonl").stat().st_size
    done = mien_cli("analyze", *album, "--out", out, "--threads", 1, limit=size // 2)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    again = mien_cli("analyze", *album, "--out", out, "--threads", 1, "--resume")
    assert again.returncode == 0, again.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(r["path"] for r in records) == sorted(map(str, album))
    assert all("faces" in r for r in records)


# A place that cannot be written


def test_a_place_that_is_none_is_an_error(album: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, said in (
        (tmp_path / "file" / "out.jsonl", tmp_path / "file"),
        (Path("/proc/none.jsonl"), "/proc/none.jsonl"),
    ):
        done = mien_cli("analyze", album[0], "--out", place, "--threads", 1)
        assert done.returncode != 0, place
        assert str(said) in done.stderr


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(album: list[Path], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    done = mien_cli("analyze", album[0], "--out", tmp_path / "locked" / "out.jsonl", "--threads", 1)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


# Files that change under the reader


def test_files_that_vanish_in_mid_run_lose_only_themselves(reader: Any, album: list[Path]) -> None:
    def vanishing() -> Iterator[Path]:
        yield album[0]
        album[1].unlink()
        yield album[1]
        album[2].unlink()
        album[2].mkdir()
        yield album[2]
        yield album[3]

    readings = list(reader.stream(vanishing(), photos_a_time=2))
    assert [type(r.error) for r in readings] == [type(None), NotFound, Unreadable, type(None)]
    assert [r.path for r in readings] == [str(p) for p in album]
    assert readings[0].photo is not None and readings[3].photo is not None
    assert json.loads(json.dumps(readings[1].to_dict()))["error"]["code"] == "not_found"


def test_a_file_that_is_rewritten_while_it_is_read_is_a_photo_or_an_error(
    reader: Any, album: list[Path]
) -> None:
    data, stop = album[0].read_bytes(), threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for end in (len(data), 0, len(data) // 2):
                album[0].write_bytes(data[:end])

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen: set[str] = set()
    try:
        for _ in range(60):
            try:
                seen.add(f"{len(reader(album[0]))} faces")
            except PhotoError as e:
                seen.add(type(e).__name__)
    finally:
        stop.set()
        writer.join()
    assert seen <= {"0 faces", "1 faces", "EmptyFile", "Truncated", "NotAPicture"}


def test_an_unreadable_disk_is_reported(
    reader: Any, album: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Path, *args: Any, **more: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(Unreadable, match="Input/output error"):
        reader(album[0])


def test_a_half_copied_folder_gives_an_answer_or_an_error_a_file(
    reader: Any, album: list[Path], tmp_path: Path
) -> None:
    shutil.copy(album[0], tmp_path / "half.png")
    os.truncate(tmp_path / "half.png", album[0].stat().st_size // 2)
    good, bad = reader([album[0], tmp_path / "half.png"])
    assert good.error is None
    assert isinstance(bad.error, Truncated)

"""Names of written files: none is used twice, none is too long."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mien.cli import app
from mien.cli.common import STEM_BYTES, output_names
from mien.errors import UsageError
from mien.io.paths import file_key
from mien.video.container import Writer
from mien.visualize.drawing import save_jpeg, save_mask, save_png

GRAY = np.full((8, 8, 3), 90, np.uint8)


def test_a_numbered_name_is_no_other_photos_name() -> None:
    assert output_names(["a/x.jpg", "b/x.jpg", "x-2.jpg"]) == ["x", "x-3", "x-2"]
    assert output_names(["x-2.jpg", "a/x.jpg", "b/x.jpg", "c/x.jpg", "d/x-2.jpg"]) == [
        "x-2",
        "x",
        "x-3",
        "x-4",
        "x-2-2",
    ]


def test_case_and_unicode_form_do_not_make_a_name_new() -> None:
    composed = "Jos\u00e9"
    paths = ["a/X.jpg", "b/x.jpg", f"{composed}.jpg", f"{unicodedata.normalize('NFD', composed)}.jpg"]
    keys = {unicodedata.normalize("NFC", name).casefold() for name in output_names(paths)}
    assert len(keys) == len(paths)


def test_a_long_name_leaves_room_for_its_ending() -> None:
    long = ["n" * 251 + ".jpg", "n" * 250 + "m.jpg", "\u00fc" * 125 + ".jpg"]
    names = output_names(long)
    assert len(set(names)) == 3
    assert all(STEM_BYTES - 2 <= len(name.encode()) < STEM_BYTES + 10 for name in names)


@pytest.mark.parametrize("stem", ["con", "NUL", "Aux.2026", "com1", "LPT9", "com\u00b2", "prn ", "nul .x"])
def test_names_of_windows_devices_are_no_file_names(stem: str) -> None:
    assert output_names([f"a/{stem}.jpg", f"a/_{stem}.png"]) == [f"_{stem}", f"_{stem}-2"]


@pytest.mark.parametrize("stem", ["console", "com10", "com", "nul-1", "a.con"])
def test_names_that_only_look_like_devices_stay(stem: str) -> None:
    assert output_names([f"a/{stem}.jpg"]) == [stem]


def test_a_file_has_one_key_by_all_its_names(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    (tmp_path / "soft.jpg").symlink_to("a.jpg")
    os.link(tmp_path / "a.jpg", tmp_path / "hard.jpg")
    names = (
        tmp_path / "a.jpg",
        tmp_path / "soft.jpg",
        tmp_path / "hard.jpg",
        f"{tmp_path}/../{tmp_path.name}/a.jpg",
    )
    assert len({file_key(name) for name in names}) == 1
    assert file_key(tmp_path / "b.jpg") != file_key(names[0])
    assert file_key(tmp_path / "none.jpg") == file_key(f"{tmp_path}/./none.jpg") == str(tmp_path / "none.jpg")


def _video(path: Path) -> None:
    with Writer(path) as out:
        out.add(np.repeat(np.repeat(GRAY, 4, 0), 4, 1), 0.0)


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", lambda path: save_png(path, GRAY)),
        ("a.jpg", lambda path: save_jpeg(path, GRAY)),
        ("m.png", lambda path: save_mask(path, GRAY[..., 0])),
        ("v.mp4", _video),
    ],
)
def test_no_file_is_changed_through_a_link(name: str, write, link, tmp_path: Path) -> None:
    original, target = tmp_path / "original", tmp_path / name
    original.write_bytes(b"the original")
    link(original, target)
    write(target)
    assert original.read_bytes() == b"the original"
    assert not target.is_symlink()
    assert target.stat().st_size > 50
    write(target)  # a file of an earlier run is replaced
    assert target.stat().st_nlink == 1


def test_a_link_to_a_photo_of_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    shutil.copy("examples/astronaut.jpg", tmp_path / "in/a.jpg")
    os.link(tmp_path / "in/a.jpg", tmp_path / "out/a.jpg")
    before = (tmp_path / "in/a.jpg").read_bytes()
    done = CliRunner().invoke(app, ["anonymize", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UsageError)
    assert "is one of the photos" in str(done.exception)
    assert (tmp_path / "in/a.jpg").read_bytes() == before

"""A drawing, crop, mask or copy that cannot be written is the error of its photo; the run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli.cluster import _save_people
from mien.cli.common import app, output_names


def run(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def photos(tmp_path: Path, astronaut: str) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(astronaut, folder / f"{name}.jpg")
    return folder


@pytest.mark.parametrize(
    ("option", "file"), [("--draw", "b.jpg"), ("--crops", "b-1.png"), ("--masks", "b-1.png")]
)
def test_a_side_file_that_cannot_be_written(photos: Path, tmp_path: Path, option: str, file: str) -> None:
    """A folder stands where the file should go."""
    side, out = tmp_path / "side", tmp_path / "out.jsonl"
    (side / file).mkdir(parents=True)
    tasks = ("--tasks", "parsing" if option == "--masks" else "age")
    done = run("analyze", photos, *tasks, "--threads", 1, option, side, "--out", out)
    assert done.exit_code == 1
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r.get("error", {}).get("code") for r in records] == [None, "not_written", None]
    assert file in records[1]["error"]["message"] and "b.jpg" in records[1]["error"]["message"]
    assert [len(r["faces"]) for r in records[::2]] == [1, 1]
    assert len([p for p in side.iterdir() if p.is_file()]) == 2
    assert "cannot be written" in done.stderr


def test_a_picture_that_is_too_large_for_its_format_loses_no_other(tmp_path: Path, photos: Path) -> None:
    Image.fromarray(np.zeros((1, 66_000, 3), np.uint8)).save(photos / "b.png")  # wider than a JPEG may be
    out = tmp_path / "out.jsonl"
    done = run("analyze", photos, "--tasks", "age", "--threads", 1, "--draw", tmp_path / "d", "--out", out)
    assert done.exit_code == 1
    codes = {
        Path(r["path"]).name: r.get("error", {}).get("code")
        for r in map(json.loads, out.read_text().splitlines())
    }
    assert codes == {"a.jpg": None, "b.jpg": None, "b.png": "not_written", "c.jpg": None}
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_copy_that_cannot_be_written_loses_no_other(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "hidden"
    (out / "b.jpg").mkdir(parents=True)
    done = run("anonymize", photos, "--boxes", "--threads", 1, "--out", out)
    assert done.exit_code == 1
    assert (out / "a.jpg").is_file() and (out / "c.jpg").is_file()
    assert "b.jpg" in done.stderr and "cannot be written" in done.stderr


def test_crops_of_people_have_names_of_their_own_that_fit(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.jpg", photos / ("n" * 250 + ".jpg"))
    (photos / "below").mkdir()
    shutil.copy(photos / "a.jpg", photos / "below" / "A.jpg")
    done = run(
        "cluster", photos, "--threads", 1, "--out", tmp_path / "o.json", "--crops", tmp_path / "people"
    )
    assert done.exit_code == 0, done.output
    names = [p.name for p in (tmp_path / "people").rglob("*.png")]
    assert len(names) == 5 == len({n.casefold() for n in names})
    assert max(map(len, names)) < 200
    assert output_names(["x/a.jpg", "x/below/A.jpg"])[1] == "A-2"


def test_a_person_s_crop_that_cannot_be_written_loses_no_other(reader, photos: Path, tmp_path: Path) -> None:
    """A file stands where the folder of the second person should go."""
    readings = reader([str(photos / "a.jpg"), str(photos / "b.jpg")])
    (tmp_path / "person-002").write_text("")
    album = SimpleNamespace(persons=[2, 1])
    assert _save_people(album, [(readings[0], [0]), (readings[1], [1])], tmp_path, None) == 1
    assert [p.name for p in tmp_path.rglob("*.png")] == ["00002-b-1.png"]


@pytest.mark.parametrize("option", ["--draw", "--crops", "--masks"])
def test_pictures_are_never_written_over_the_photos(photos: Path, option: str) -> None:
    before = {p.name: p.read_bytes() for p in photos.iterdir()}
    done = run(
        "analyze", photos, "--tasks", "parsing", "--threads", 1, option, photos, "--out", photos / "o.jsonl"
    )
    assert done.exit_code == 1 and "folder of these photos" in str(done.exception)
    assert {p.name: p.read_bytes() for p in photos.iterdir()} == before


def test_two_kinds_of_pictures_do_not_share_a_folder(photos: Path, tmp_path: Path) -> None:
    done = run(
        "analyze",
        photos,
        "--tasks",
        "parsing",
        "--threads",
        1,
        "--crops",
        tmp_path / "x",
        "--masks",
        tmp_path / "x",
    )
    assert "--crops and --masks would write into one folder" in str(done.exception)

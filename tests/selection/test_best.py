"""Bursts and their best shots."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app
from mien.errors import UsageError
from mien.io.image import load_photo
from mien.selection import best_shots as module
from mien.selection.best_shots import SMILE, WISHES, Shot, best, grouped, likeness, loaded, taken


def save(path: Path, pixels: np.ndarray, time: str = "", fraction: str = "") -> Path:
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    if time:
        exif.get_ifd(0x8769)[36867] = time
        exif.get_ifd(0x8769)[37521] = fraction
    image.save(path, quality=92, exif=exif)
    return path


def shot(path: str, time: float | None, small: np.ndarray, **more) -> Shot:
    small = (small - small.mean()) / max(small.std(), 1e-6)
    facts = {"score": 0.5, "faces": [], "persons": [], "points": [], "reasons": []} | more
    return Shot(path, time, _small=small.astype(np.float32), _thumb=np.zeros((4, 4, 3), np.uint8), **facts)


def test_the_time_of_a_photo_is_that_of_its_exif_data(tmp_path, rng) -> None:
    noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
    one = taken(save(tmp_path / "a.jpg", noise, "2024:05:01 12:00:00", "25"))
    other = taken(save(tmp_path / "b.jpg", noise, "2024:05:01 12:00:03"))
    assert other - one == pytest.approx(2.75)
    assert taken(save(tmp_path / "c.jpg", noise)) is None
    assert taken(save(tmp_path / "d.jpg", noise, "yesterday")) is None
    assert taken(tmp_path / "gone.jpg") is None


def test_bursts_need_likeness_and_nearness_in_time(rng) -> None:
    a, b = rng.standard_normal((2, 24, 24))
    near = a + 0.2 * rng.standard_normal((24, 24))
    moved = np.roll(a, 2, 1)
    shots = [
        shot("1", 0.0, a), shot("2", 5.0, near), shot("3", 8.0, b), shot("4", 30.0, b), shot("5", 31.0, b),
        shot("7", None, a), shot("6", None, near),
    ]  # fmt: skip
    found = [[s.path for s in g] for g in grouped(shots, 10, 0.8)]
    assert found == [["1", "2"], ["3"], ["4", "5"], ["6", "7"]]
    assert likeness(shots[0], shot("m", 0, moved)) > 0.9
    assert likeness(shots[0], shots[2]) < 0.5


def test_reasons_name_what_the_others_lack() -> None:
    z = np.eye(24)
    good = shot("a", 0, z, score=0.9, faces=[0.9], persons=[1], points=[{"eyes": 1.0, "sharp": 0.9}])
    bad = shot("b", 1, z, score=0.3, faces=[0.3], persons=[1], points=[{"eyes": 0.1, "sharp": 0.85}])
    burst = module._judged([bad, good], WISHES)
    assert (burst.best, burst.shots[1].reasons, burst.persons) == (1, ["eyes open"], {1: 1})
    assert bad.reasons == []
    assert module._judged([good], WISHES).shots[0].reasons == ["the only shot"]


def test_each_person_may_have_another_best_shot() -> None:
    z = np.eye(24)
    one = shot("a", 0, z, score=0.8, faces=[0.9, 0.7], persons=[1, 2], points=[{}, {}])
    two = shot("b", 1, z, score=0.75, faces=[0.5, 1.0], persons=[1, 2], points=[{}, {}])
    burst = module._judged([one, two], WISHES)
    assert (burst.best, burst.persons) == (0, {1: 0, 2: 1})
    assert module.Selection([burst], [], []).picks() == ["a", "b"]


def test_wishes_give_points_in_both_directions() -> None:
    gaze = next(w for w in WISHES if w.name == "gaze")
    assert [gaze.points(v) for v in (0, 8, 21.5, 35, 60)] == [1, 1, 0.5, 0, 0]
    assert [SMILE.points(v) for v in (0.1, 0.5, 0.9)] == pytest.approx([0, 0.5, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A burst of three of one scene, of which the second is sharp, and another photo."""
    place = tmp_path_factory.mktemp("album")
    root = Path(__file__).parents[2] / "examples"
    sharp = load_photo(root / "astronaut.jpg").pixels
    soft = cv2.GaussianBlur(sharp, (0, 0), 3)
    for name, pixels, at in (("1.jpg", soft, "00"), ("2.jpg", sharp, "01"), ("3.jpg", soft, "02")):
        save(place / name, pixels, f"2024:05:01 12:00:{at}")
    save(place / "4.jpg", load_photo(root / "grace_hopper.jpg").pixels, "2024:05:01 12:00:03")
    return place


def test_the_sharp_shot_of_a_burst_is_found(folder, tmp_path) -> None:
    steps = list[int]()
    found = best(folder, reader=loaded(threads=1), step=lambda: steps.append(1))
    assert [len(b.shots) for b in found.bursts] == [3, 1] and len(steps) == 4
    assert [Path(p).name for p in found.best()] == ["2.jpg", "4.jpg"]
    assert "sharper" in found.bursts[0].shots[1].reasons
    assert {"eyes", "gaze", "occlusion", "quality"} >= set(found.missing)
    assert len(found.bursts[0].persons) == 1  # the same person in all three
    copies = found.save_photos(tmp_path / "copies")
    assert [c.name for c in copies] == ["0001-2.jpg", "0002-4.jpg"]
    assert copies[0].read_bytes() == (folder / "2.jpg").read_bytes()
    links = found.save_photos(tmp_path / "links", link=True)
    assert links[0].is_symlink() and links[0].resolve() == (folder / "2.jpg").resolve()
    with pytest.raises(UsageError, match="exists already"):
        found.save_photos(tmp_path / "copies")
    with pytest.raises(UsageError, match="name another folder"):
        found.save_photos(folder)
    found.save_sheet(tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<img") == 4 and page.count('class="best"') == 2 and "sharper" in page
    with pytest.raises(UsageError, match=r"FILE\.html"):
        found.save_sheet(tmp_path / "sheet.pdf")


def test_the_command_writes_json_and_copies(folder, tmp_path) -> None:
    out, copies = tmp_path / "best.json", tmp_path / "copies"
    words = ["best", str(folder), "--out", str(out), "--copy", str(copies), "--smiling", "--threads", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert Path(record["bursts"][0]["best"]).name == "2.jpg"
    assert sorted(p.name for p in copies.iterdir()) == ["0001-2.jpg", "0002-4.jpg"]


def test_settings_out_of_range_are_refused(folder) -> None:
    with pytest.raises(UsageError, match="seconds"):
        best(folder, seconds=0)
    with pytest.raises(UsageError, match="similarity"):
        best(folder, similarity=2)

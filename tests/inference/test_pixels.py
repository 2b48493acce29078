"""Pixels of photos in lists and streams: what is held, what is dropped, and how it comes back."""

from __future__ import annotations

import copy
import io
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mien.errors import Unreadable
from mien.inference import reader as module
from mien.inference.reader import Reader
from mien.types import View

SIDE = (800, 500)  # 1.2 MB as pixels
MB = 2**20


@pytest.fixture
def album(tmp_path: Path) -> list[str]:
    paths = []
    for i in range(10):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", SIDE, (20 * i, 120, 140)).save(paths[-1])
    return paths


@pytest.fixture
def blind() -> Reader:
    """Sees no face, so that all memory is that of photos."""
    view = View((112, 112), "arcface", (0.5,) * 3, (0.5,) * 3)
    return Reader(lambda pixels: [], SimpleNamespace(tasks=(), view=view))


def peak(call) -> float:
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / MB


def test_a_stream_holds_photos_by_their_pixels(blind, album, monkeypatch):
    monkeypatch.setattr(module, "GROUP_PIXELS", 2 * SIDE[0] * SIDE[1])
    assert peak(lambda: sum(len(r) for r in blind.stream(album))) < 6, "two photos of 1.2 MB, and decoding"
    monkeypatch.setattr(module, "GROUP_PIXELS", 100 * SIDE[0] * SIDE[1])
    assert peak(lambda: sum(len(r) for r in blind.stream(album))) > 9, "eight photos"


def test_large_photos_are_read_one_at_a_time_and_small_ones_together(blind, album, monkeypatch):
    order: list[str] = []

    def told():
        for path in album[:4]:
            order.append("read")
            yield path

    for limit, expected in ((1, ["read", "given"] * 4), (10**9, ["read"] * 4 + ["given"] * 4)):
        monkeypatch.setattr(module, "GROUP_PIXELS", limit)
        order.clear()
        for _ in blind.stream(told()):
            order.append("given")
        assert order == expected


def test_a_list_keeps_no_pixels_and_reads_them_again(blind, album):
    tracemalloc.start()
    again = blind(album)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < MB, "ten photos have 12 MB"
    for i, reading in enumerate(again):
        assert (reading.photo.width, reading.photo.height) == SIDE
        assert reading.photo.pixels[0, 0].tolist() == [20 * i, 120, 140]
        assert reading.draw().shape == (SIDE[1], SIDE[0], 3)


def test_pixels_that_somebody_holds_are_not_read_twice(blind, album):
    reading, _ = blind(album[:2])
    held = reading.photo.pixels
    os.unlink(album[0])
    assert reading.photo.pixels is held


def test_while_a_stream_shows_a_photo_its_pixels_are_there(blind, album):
    for reading, path in zip(blind.stream(album), album, strict=True):
        os.unlink(path)
        assert reading.photo.pixels.shape == (SIDE[1], SIDE[0], 3)


def test_a_relative_path_is_found_from_another_folder(blind, album, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (reading,) = blind(["3.png"])
    monkeypatch.chdir("/")
    assert reading.path == "3.png" and reading.photo.pixels[0, 0, 0] == 60


@pytest.mark.parametrize("change", ["removed", "changed"])
def test_a_file_that_is_not_the_same_any_more_is_an_error(blind, album, change):
    (reading,) = blind(album[:1])
    os.unlink(album[0])
    if change == "changed":
        Image.new("RGB", (30, 20)).save(album[0])
    with pytest.raises(Unreadable, match=r"0.png.*changed or removed"):
        _ = reading.photo.pixels
    with pytest.raises(Unreadable):
        reading.draw()


def test_bytes_are_decoded_again_and_other_photos_keep_their_pixels(blind):
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    given = [buffer.getvalue(), picture.copy(), Image.fromarray(picture), io.BytesIO(buffer.getvalue())]
    readings = blind(given)
    given[1][:] = 0  # the caller's array is the caller's
    for reading in readings:
        assert np.array_equal(reading.photo.pixels, picture)


def test_a_single_photo_keeps_its_pixels(blind, album):
    reading = blind(album[0])
    os.unlink(album[0])
    assert reading.photo.pixels.shape == (SIDE[1], SIDE[0], 3)


def test_a_copy_of_a_reading_reads_its_pixels_again_too(blind, album):
    (reading,) = blind(album[:1])
    twin = copy.deepcopy(reading)
    assert np.array_equal(twin.photo.pixels, reading.photo.pixels)
    assert "pixels" not in repr(twin.photo) and repr(twin.photo).endswith("800x500)")

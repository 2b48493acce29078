"""Damaged pictures and odd arrays: an answer or a MienError; no other exception, no crash, no hang, no
gigabyte.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mien.errors import BadArray, MienError, TooLarge
from mien.io.image import load_photo
from tests.support.fuzz import MANY, MEMORY, SECONDS, hunt, mutate, with_sums
from tests.support.fuzz import ROOT as FUZZ_ROOT
from tests.support.hard_worker import LARGEST

DTYPES = st.one_of(
    arrays.scalar_dtypes(),
    st.just(np.dtype(object)),
    st.just(np.dtype("u1")),
    st.just(np.dtype([("r", "u1")])),
)
SHAPES = st.one_of(
    arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=12),
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from([1, 2, 3, 3, 3, 4])),
)


def check(folder: Path, first: int, count: int) -> None:
    found = hunt("pictures", folder, first, count)
    print(found.report())
    assert not found.failures, "\n".join(found.failures)
    assert sum(found.outcomes.values()) == count
    assert found.memory < MEMORY and found.seconds < SECONDS
    # a fuzzer that damages nothing, or everything at the door, would find nothing
    assert found.outcomes["answer"] > count / 20
    assert found.outcomes["Truncated"] > count / 20


def test_mutated_pictures(tmp_path: Path) -> None:
    check(tmp_path, 1_000_000, 100)


@pytest.mark.slow
def test_many_mutated_pictures(tmp_path: Path) -> None:
    check(tmp_path, 0, MANY)


def test_a_mutant_is_its_seed_s_alone() -> None:
    originals = [bytes(range(256)) * 3, b"\x89PNG\r\n\x1a\n" + bytes(200)]
    assert [mutate(s, originals) for s in range(50)] == [mutate(s, originals) for s in range(50)]
    assert len({mutate(s, originals) for s in range(50)}) > 40


def test_checksums_are_fixed_so_that_mutants_pass_them() -> None:
    from tests.support.hard_worker import encoded, faces

    data = encoded(faces(1)[0], "PNG")
    assert bytes(with_sums(bytearray(data))) == data
    broken = data.replace(b"IHDR\0\0\0\x40\0\0\0\x40", b"IHDR\0\0\0\x40\0\0\0\x20")
    with pytest.raises(MienError):
        load_photo(broken)
    assert load_photo(bytes(with_sums(bytearray(broken)))).height == 32


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dtype=DTYPES, shape=SHAPES)
def test_any_array(reader: Any, data: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    array = (
        np.empty(shape, dtype)
        if dtype.kind in "OV"
        else data.draw(arrays.arrays(dtype, shape, fill=st.nothing() if shape == () else None))
    )
    gray = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
    colored = len(shape) == 3 and (shape[2] == 3 or (shape[2] == 4 and shape[0] != 3))
    right = dtype == np.uint8 and (gray or colored) and array.size > 0
    try:
        reading = reader(array)
    except BadArray:
        assert not right
        return
    assert right
    assert (reading.photo.height, reading.photo.width) == shape[:2]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.tuples(*[st.sampled_from([-3, -2, -1, 1, 2, 3])] * 2),
    channels=st.sampled_from([1, -1]),
    order=st.sampled_from("CF"),
)
def test_any_strides(steps: tuple[int, int], channels: int, order: Any) -> None:
    picture = np.arange(24 * 18 * 3, dtype=np.uint32).astype(np.uint8).reshape(24, 18, 3).copy(order)
    view = picture[:: steps[0], :: steps[1], ::channels]
    view.flags.writeable = False
    photo = load_photo(view)
    assert np.array_equal(photo.pixels, view)
    assert photo.pixels.flags.c_contiguous and photo.pixels.flags.writeable


@pytest.mark.parametrize("shape", [(1, 100_000, 3), (100_000, 1, 3), (2, 5_000_000, 3), (40_000, 40, 3)])
def test_long_and_thin(reader: Any, shape: tuple[int, int, int]) -> None:
    assert reader(np.full(shape, 90, np.uint8)) == []


def test_a_vast_array_of_one_byte_is_refused_before_it_is_copied(reader: Any) -> None:
    with pytest.raises(TooLarge, match="1000000 x 1000000"):
        reader(np.broadcast_to(np.zeros(1, np.uint8), (1_000_000, 1_000_000, 3)))


@pytest.mark.parametrize("kind", [np.ma.MaskedArray, np.recarray, np.memmap])
def test_kinds_of_array_are_arrays(kind: Any, tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    if kind is np.memmap:
        picture.tofile(tmp_path / "raw")
        given = np.memmap(tmp_path / "raw", np.uint8, "r", shape=picture.shape)
    else:
        given = picture.view(kind)
    photo = load_photo(given)
    assert type(photo.pixels) is np.ndarray
    assert np.array_equal(photo.pixels, picture)


@pytest.mark.parametrize(
    "thing",
    [None, 3, 1.5, {"a": 1}, {1}, object(), range(3), "a\0b.jpg", Path("a\0b.jpg"), "", b"\0", "\udcff"],
)
def test_any_other_thing_is_refused_by_type(reader: Any, thing: Any) -> None:
    with pytest.raises(MienError):
        reader(thing)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_picture_allowed_takes_less_than_a_gigabyte(name: str) -> None:
    """64 million pixels in a file of less than 3 MB."""
    code = f"from tests.support.hard_worker import weigh; weigh({name!r})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=FUZZ_ROOT, capture_output=True, text=True, check=True
    )
    mebibytes, seconds = map(float, done.stdout.split())
    print(name, done.stdout)
    assert mebibytes < 1024
    assert seconds < SECONDS

"""Forked or spawned workers, at bad moments too, answer as their parent does, and none hangs."""

from __future__ import annotations

import copy
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

import mien
from mien.data.synthetic import draw
from mien.errors import BadWeights
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from tests.robustness.test_threads import fingerprint

LONG = 120  # seconds until a worker counts as hung: it needs one, but the machine may be busy
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

READER: Any = None  # a forked worker sees its parent's; a spawned one is sent it


def photos(n: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(23)
    return [draw(rng)[0] for _ in range(n)]


def take(reader: Any) -> None:
    global READER
    READER = reader


def answer(photo: np.ndarray) -> str:
    return fingerprint(READER(photo))


def answer_in_threads(given: list[np.ndarray]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(answer, given))


def answer_large(side: int) -> str:
    """Large enough for OpenCV to split the work among threads, which a fork does not bring along."""
    return fingerprint(READER(np.repeat(np.repeat(photos(1)[0], side // 160, 0), side // 160, 1)))


@needs_fork
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_forked_workers_answer_as_their_parent(threads: int) -> None:
    take(mien.load(threads=threads))
    expected = [answer(p) for p in photos()]
    large = answer_large(1600)  # the parent's OpenCV has its threads now
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(answer, photos() * 3, chunksize=1).get(LONG) == expected * 3
        assert pool.map_async(answer_large, [1600] * 3, chunksize=1).get(LONG) == [large] * 3
    assert [answer(p) for p in photos()] == expected  # and the parent still works


@needs_fork
@pytest.mark.slow
def test_a_fork_while_the_parent_reads_in_threads() -> None:
    take(mien.load(threads=1))
    expected = [answer(p) for p in photos()]
    stop = threading.Event()
    wrong: list[str] = []

    def keep_reading(i: int) -> None:
        while not stop.is_set():
            if answer(photos()[i]) != expected[i]:
                wrong.append(f"photo {i}")

    workers = [threading.Thread(target=keep_reading, args=(i,)) for i in range(2)]
    for w in workers:
        w.start()
    try:
        for _ in range(10):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map_async(answer, photos(), chunksize=1).get(LONG) == expected
    finally:
        stop.set()
        for w in workers:
            w.join()
    assert not wrong


@needs_fork
def test_many_threads_of_a_forked_worker_begin_at_once() -> None:
    take(mien.load(threads=1))
    expected = [answer(p) for p in photos(8)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(answer_in_threads, (photos(8),)).get(LONG) == expected


@pytest.mark.parametrize("way", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_reader_can_be_sent_to_workers(way: str) -> None:
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {way} on this system")
    take(mien.load(threads=1))
    expected = [answer(p) for p in photos()]
    with multiprocessing.get_context(way).Pool(2, take, (READER,)) as pool:
        assert pool.map_async(answer, photos() * 2, chunksize=1).get(LONG) == expected * 2


def test_a_pickled_model_is_complete_and_independent(tmp_path: Any) -> None:
    model = OnnxModel(WEIGHTS / "detector.onnx", threads=1)
    again = ForkingPickler.loads(ForkingPickler.dumps(model))
    images = np.random.default_rng(2).standard_normal((1, 3, 64, 96), np.float32)
    assert np.array_equal(model(images)["faces"], again(images)["faces"])
    assert (again.sha256, again.threads, again.view) == (model.sha256, 1, model.view)
    assert copy.copy(model)._session is not model._session
    model._data = b"not a network"
    with pytest.raises(BadWeights):
        copy.deepcopy(model)

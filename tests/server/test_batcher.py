"""Faces of several callers share a forward: who waits for whom, who gets what, and what happens when it goes
wrong.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import numpy as np
import pytest

from mien.errors import UsageError
from mien.server.batcher import Batcher
from mien.server.limits import Deadline, DeadlineExceeded
from mien.server.worker import WorkQueue
from mien.types import View


class Double:
    """Answers twice the first number of each face. `hold` keeps a forward from ending."""

    view = View((2, 2), "photo", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    tasks = ()

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun, self.hold = threading.Event(), threading.Event()
        self.hold.set()

    def __call__(self, images):
        self.sizes.append(len(images))
        self.begun.set()
        assert self.hold.wait(10)
        if (images < 0).any():
            raise FloatingPointError("a negative face")
        return {"double": 2 * images[:, 0, 0, 0]}


def faces(*numbers: float) -> np.ndarray:
    out = np.zeros((len(numbers), 3, 2, 2), np.float32)
    out[:, 0, 0, 0] = numbers
    return out


def until(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def model():
    return Double()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as p:
        yield p


def busy(batcher: Batcher, model: Double, pool):
    """A forward under way that does not end before `model.hold.set()`."""
    model.hold.clear()
    first = pool.submit(batcher, faces(0))
    assert model.begun.wait(5)
    return first


def test_eight_pictures_on_their_way_are_one_forward_and_each_gets_its_own(model, pool):
    batcher = Batcher(model, faces=16, wait_ms=5000)
    together = threading.Barrier(8)

    def picture(i: int) -> list[float]:
        with batcher.lease(Deadline(10)) as lease:
            together.wait(5)  # all are on their way before the first asks
            return lease(faces(i, 10 * i))["double"].tolist()

    start = time.monotonic()
    assert list(pool.map(picture, range(8))) == [[2 * i, 20 * i] for i in range(8)]
    assert time.monotonic() - start < 4  # full: nobody waited for the clock
    assert (batcher.forwards, batcher.calls, batcher.answered, model.sizes) == (1, 8, 16, [16])
    batcher.close()


def test_one_alone_does_not_wait(model):
    batcher = Batcher(model, wait_ms=60_000)
    start = time.monotonic()
    with batcher.lease(Deadline(10)) as lease:
        assert lease(faces(3))["double"].tolist() == [6]
        assert lease(faces(4))["double"].tolist() == [8]  # a second part of the same picture
    assert batcher(faces(5))["double"].tolist() == [10]
    assert time.monotonic() - start < 5
    assert model.sizes == [1, 1, 1]
    batcher.close()


def test_a_face_waits_for_one_on_its_way_but_not_for_ever(model):
    batcher = Batcher(model, wait_ms=80)
    with batcher.lease(Deadline(10)), batcher.lease(Deadline(10)) as quick:
        start = time.monotonic()
        quick(faces(1))
        assert 0.07 < time.monotonic() - start < 4
    batcher.close()


def test_a_picture_without_faces_is_waited_for_no_longer(model, pool):
    batcher = Batcher(model, wait_ms=60_000)
    with batcher.lease(Deadline(10)) as quick:
        with batcher.lease(Deadline(10)):
            answer = pool.submit(quick, faces(1))
            assert not wait([answer], timeout=0.1).done
        assert answer.result(5)["double"].tolist() == [2]
    batcher.close()


def test_calls_are_never_split_and_come_in_order(model, pool):
    batcher = Batcher(model, faces=8)
    first = busy(batcher, model, pool)
    calls = []
    for i in range(5):
        calls.append(pool.submit(batcher, faces(i, i, i)))
        until(lambda n=i + 1: len(batcher._waiting) == n)
    model.hold.set()
    assert [c.result(5)["double"].tolist() for c in calls] == [[2 * i] * 3 for i in range(5)]
    assert first.result(5)["double"].tolist() == [0]
    assert model.sizes == [1, 6, 6, 3]
    assert len(batcher(faces(*range(20)))["double"]) == 20  # larger than a batch: one forward for itself
    assert model.sizes[-1] == 20
    batcher.close()


def test_errors_reach_their_callers_and_the_next_call_works(model):
    batcher = Batcher(model)
    with pytest.raises(RuntimeError, match="forward pass failed") as caught:
        batcher(faces(-1))
    assert isinstance(caught.value.__cause__, FloatingPointError)
    assert batcher(faces(1))["double"].tolist() == [2]
    batcher.close()


def test_a_failed_forward_keeps_no_faces(model):
    """Without the collector: an error must not hold the frames, and so the faces, of its forward."""
    batcher = Batcher(model)
    gc.collect()
    gc.disable()
    try:
        given = faces(-1)
        gone = weakref.ref(given)
        try:
            batcher(given)
        except RuntimeError as error:
            del given
            kept = error.__cause__
            assert kept.__traceback__ is None
        until(lambda: gone() is None)
        given = faces(1)  # nor does one that succeeds, when no other call comes
        gone = weakref.ref(given)
        batcher(given)
        del given
        until(lambda: gone() is None)
    finally:
        gc.enable()
    batcher.close()


def test_a_failed_picture_is_kept_by_no_cycle():
    """Without the collector: the error of a job in the queue holds frames that must not hold the error."""

    class Picture:
        pass

    def fail(picture):
        raise FloatingPointError("a negative face")

    async def ask(picture):
        try:
            await queue.run([partial(fail, picture)], Deadline(5))
        except FloatingPointError as error:
            return str(error)

    queue = WorkQueue(1, 4)
    gc.collect()
    gc.disable()
    try:
        given = Picture()
        gone = weakref.ref(given)
        assert asyncio.run(ask(given)) == "a negative face"
        del given
        until(lambda: gone() is None)
    finally:
        gc.enable()
        queue.close()


def test_a_late_call_is_taken_back(model, pool):
    batcher = Batcher(model)
    busy(batcher, model, pool)
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.05 s"):
        batcher.ask(faces(1), Deadline(0.05))
    assert batcher._waiting == []
    model.hold.set()
    assert batcher(faces(2))["double"].tolist() == [4]
    assert model.sizes == [1, 1]  # the late face cost no forward
    batcher.close()


def test_closing_answers_what_waits_and_then_refuses(model, pool):
    batcher = Batcher(model)
    first = busy(batcher, model, pool)
    second = pool.submit(batcher, faces(7))
    until(lambda: len(batcher._waiting) == 1)
    closing = pool.submit(batcher.close)
    model.hold.set()
    closing.result(5)
    assert first.result(5)["double"].tolist() == [0]
    assert second.result(5)["double"].tolist() == [14]
    with pytest.raises(RuntimeError, match="closed"):
        batcher(faces(1))


def test_it_tells_of_each_forward(model):
    seen: list[tuple[int, int]] = []
    batcher = Batcher(model, observe=lambda *n: seen.append(n))
    batcher(faces(1, 2))
    batcher(faces(3))
    assert seen == [(2, 1), (1, 1)]
    batcher.close()


def test_wrong_sizes_are_refused(model):
    with pytest.raises(UsageError, match="0 and 4"):
        Batcher(model, faces=0)
    with pytest.raises(UsageError, match="-1"):
        Batcher(model, wait_ms=-1)


def test_the_network_answers_a_batch_as_it_answers_single_faces(reader):
    """With ONNX Runtime 1.32 on one thread all answers but the embedding are the same to the last bit, and
    that to 4e-7.
    """
    crops = [f.crop for f in reader("examples/collage.jpg")[:4]]
    images = reader.model.view.tensor(np.stack([c.pixels for c in crops]))
    together = reader.model(images)
    for i in range(len(images)):
        for name, values in reader.model(images[i : i + 1]).items():
            assert np.allclose(values[0], together[name][i], rtol=0, atol=1e-4), name

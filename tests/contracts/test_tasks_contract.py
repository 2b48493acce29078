"""Every task in the catalogue keeps the contract; an empty catalogue fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mien.tasks import ANSWER_ORDER, DEFAULT_TASKS, DERIVED, TASKS, Embedding, Map, Points, Vector
from mien.testing.tasks import CHECKS, case

FACE_TASKS = [t for t in TASKS.values() if isinstance(t.shape, (Vector, Points, Map, Embedding))]


def test_the_catalogue_is_complete():
    assert len(FACE_TASKS) >= 19
    assert {"landmarks", "points5", "parsing", "age", "expression", "attributes", "identity"} <= set(TASKS)
    more = {
        "wflw98",
        "cofw29",
        "aflw19",
        "lapa11",
        "helen9",
        "emotion7",
        "pose5",
        "euler",
        "units12",
        "units8",
    }
    assert more <= set(TASKS)
    assert not more & {t.name for t in DEFAULT_TASKS}
    assert set(DERIVED) == {"gender", "pose"}
    assert set(ANSWER_ORDER) == {t.name for t in FACE_TASKS} | set(DERIVED)
    for d in DERIVED.values():
        assert d.source in TASKS


@pytest.mark.parametrize("task", FACE_TASKS, ids=lambda t: t.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_a_task_keeps_the_contract(check, task):
    check(case(task))


NO_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
import numpy as np
from mien.data import synthetic as toy
from mien.tasks import TASKS, Embedding, Points, Vector
from mien.types import Crop
_, labels, _ = toy.draw(np.random.default_rng(0))
crop = Crop(np.zeros((160, 160, 3), np.uint8), np.eye(2, 3))
for name in labels:
    task = TASKS[name]
    n = task.shape.d if isinstance(task.shape, Embedding) else task.shape.n
    raw = np.linspace(-1, 1, n * 64, dtype=np.float32).reshape(n, 8, 8)
    answer = task.read(raw[:, 0, 0] if isinstance(task.shape, Vector | Embedding) else raw, crop)
    answer.to_dict()
    if isinstance(task.shape, Points):
        task.read(raw[:, 0, :2], crop)
    if not isinstance(task.shape, Embedding):
        metrics = task.metrics()
        metrics.update(answer, labels[name])
        metrics.compute()
print(len(labels))
"""


def test_reading_and_scoring_need_no_torch():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NO_TORCH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(FACE_TASKS)

"""A network cut down to the answers asked for: the same answers, fewer nodes, and damaged bytes told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import mien
from mien.cli.common import load_model
from mien.errors import BadWeights, UnknownTask
from mien.inference import onnx_prune
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import default_task
from mien.inference.weights_file import WEIGHTS

FILE = WEIGHTS / "mien.onnx"


def small(kind: str = "Relu") -> bytes:
    """x -> a = x * w, x -> b = relu(x * v), b's product unused by a; one more field behind the graph."""
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xab"]
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["x", "v"], ["c"]),
        helper.make_node(kind, ["c"], ["b"]),
    ]
    weights = [helper.make_tensor(n, TensorProto.FLOAT, [1, 2], [1.0, 2.0]) for n in "wv"]
    return helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], weights)).SerializeToString()


def test_nodes_and_weights_of_requested_tasks_stay() -> None:
    assert onnx_prune.outputs(small()) == ["a", "b"]
    graph = onnx.load_from_string(onnx_prune.prune(small(), {"b"})).graph
    assert [n.op_type for n in graph.node] == ["Mul", "Relu"] and [i.name for i in graph.initializer] == ["v"]
    assert [o.name for o in graph.output] == ["b"] and [i.name for i in graph.input] == ["x"]


@pytest.mark.parametrize("answers", [{"a", "b"}, {"z"}, set()])
def test_all_or_nothing_leaves_the_file_as_it_is(answers: set[str]) -> None:
    assert onnx_prune.prune(small(), answers) == small()


def test_a_graph_in_a_graph_may_read_anything() -> None:
    assert onnx_prune.prune(small("Loop"), {"a"}) == small("Loop")


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x3a\x05ab", b"\x0b\x00", b"\xff" * 20])
def test_a_file_that_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"graph|end|kind"):
        onnx_prune.outputs(data)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(onnx_prune.outputs(data), list)


@pytest.fixture(scope="module")
def whole() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noise of the embedded network's size, and all its answers."""
    model = OnnxModel(FILE, threads=1)
    w, h = model.view.size
    images = np.random.default_rng(0).standard_normal((2, 3, h, w)).astype(np.float32)
    return images, dict(model(images))


@pytest.mark.parametrize(
    "tasks", [None, ["age"], ["identity"], ["gender", "pose"], ["parsing", "expression"]]
)
def test_a_reader_computes_only_requested_tasks_with_equal_results(
    tasks: list[str] | None, whole: tuple
) -> None:
    images, answers = whole
    asked = OnnxModel(FILE, threads=1, tasks=tasks or default_task)
    wanted = {None: set(answers) - {"identity"}, "gender": {"attributes", "landmarks"}}.get(
        tasks and tasks[0], set(tasks or ())
    )
    found = asked(images)
    assert set(found) == {t.name for t in asked.tasks} == wanted
    assert all(np.array_equal(found[n], answers[n]) for n in found)
    assert [t.name for t in asked.known_tasks] == list(answers)


def test_all_or_nothing_of_a_network_is_the_network_itself() -> None:
    for tasks in (lambda name: True, lambda name: False, ["nothing"]):
        model = OnnxModel(FILE, threads=1, tasks=tasks)
        assert model.tasks == model.known_tasks and len(model.tasks) == 7


@pytest.mark.parametrize("weights", [lambda: None, lambda: load_model(None, 1)])
def test_a_reader_has_two_sessions_its_own_and_the_detector_s(
    weights: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[object]()
    start = ort.InferenceSession
    monkeypatch.setattr(
        "mien.inference.onnx_model.ort.InferenceSession",
        lambda *a, **more: started.append(a) or start(*a, **more),
    )
    reader = mien.load(weights(), threads=1)
    reader("examples/astronaut.jpg")
    assert len(started) == 2


def test_bytes_that_cannot_be_followed_are_refused_by_the_runtime(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    output = (
        b"\x62\x03\x0a\x01a" + b"\x62\x03\x0a\x01b"
    )  # two outputs, then a node of a kind of field that there is not
    graph = output + b"\x0a\x02\x0b\x00"
    path.write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    with pytest.raises(BadWeights, match="not an ONNX network that runs here"):
        OnnxModel(path, tasks=["a"])


def test_a_reader_knows_the_tasks_it_was_loaded_without_and_takes_another_model() -> None:
    reader = mien.load(tasks=["age"], threads=1)
    assert [t.name for t in reader.model.tasks] == ["age"] and "identity" in [
        t.name for t in reader.model.known_tasks
    ]
    photo = "examples/astronaut.jpg"
    with pytest.raises(UnknownTask, match=r"loaded without 'identity'; load it with tasks="):
        reader.read(photo, tasks=["identity"])
    with pytest.raises(UnknownTask, match=r"does not predict 'nose'; its tasks: age"):
        reader.read(photo, tasks=["nose"])

    class Other:
        view, tasks = reader.model.view, reader.model.tasks

        def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
            raise LookupError("asked")

    reader.model = Other()
    with pytest.raises(LookupError, match="asked"):
        reader(photo)

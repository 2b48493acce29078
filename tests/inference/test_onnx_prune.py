"""A network cut down to the answers asked for: the same answers, fewer nodes, and damaged bytes told."""

from __future__ import annotations

import contextlib
import shutil
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
from mien.cli.common import network
from mien.errors import BadWeights
from mien.inference import onnx_prune
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import needed
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


def test_nodes_and_weights_of_what_is_asked_stay() -> None:
    assert onnx_prune.outputs(small()) == ["a", "b"]
    graph = onnx.load_from_string(onnx_prune.excerpt(small(), {"b"})).graph
    assert [n.op_type for n in graph.node] == ["Mul", "Relu"] and [i.name for i in graph.initializer] == ["v"]
    assert [o.name for o in graph.output] == ["b"] and [i.name for i in graph.input] == ["x"]


@pytest.mark.parametrize("answers", [{"a", "b"}, {"z"}, set()])
def test_all_or_nothing_leaves_the_file_as_it_is(answers: set[str]) -> None:
    assert onnx_prune.excerpt(small(), answers) == small()


def test_a_graph_in_a_graph_may_read_anything() -> None:
    assert onnx_prune.excerpt(small("Loop"), {"a"}) == small("Loop")


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x3a\x05ab", b"\x0b\x00", b"\xff" * 20])
def test_what_is_no_model_is_told(data: bytes) -> None:
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


@pytest.mark.parametrize("tasks", [None, ["age"], ["identity"], ["gender", "pose"], ["parsing", "expression"]])
def test_a_reader_works_for_what_is_asked_and_answers_the_same(tasks: list[str] | None, whole: tuple) -> None:
    images, answers = whole
    asked = OnnxModel(FILE, threads=1, answers=needed(tasks))
    wanted = {None: set(answers) - {"identity"}, "gender": {"attributes", "landmarks"}}.get(tasks and tasks[0], set(tasks or ()))
    found = asked(images)
    assert set(found) == {t.name for t in asked.tasks} == wanted
    assert all(np.array_equal(found[n], answers[n]) for n in found)
    other = asked.whole()
    assert other._session is None, "nobody has called it"
    assert [t.name for t in other.tasks] == list(answers) and other.sha256 == asked.sha256
    assert all(np.array_equal(v, answers[n]) for n, v in other(images).items())
    assert asked.whole() is not asked and other.whole() is other


def test_all_or_nothing_of_a_network_is_the_network_itself() -> None:
    for answers in (lambda name: True, lambda name: False):
        model = OnnxModel(FILE, threads=1, answers=answers)
        assert model.whole() is model and len(model.tasks) == 7


@pytest.mark.parametrize(("given", "sessions"), [(lambda: None, 3), (lambda: network(None, 1), 2)])
def test_a_network_that_is_given_whole_has_one_session(given: Callable[[], Any], sessions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the detector's; a reader that works for less has a second one when its whole network is called, as a server does."""
    started = list[object]()
    start = ort.InferenceSession
    monkeypatch.setattr("mien.inference.onnx_model.ort.InferenceSession", lambda *a, **more: started.append(a) or start(*a, **more))
    reader = mien.load(given(), threads=1)
    reader("examples/astronaut.jpg")
    reader.model(np.zeros((1, 3, 128, 128), np.float32))
    assert len(started) == sessions


def test_bytes_that_cannot_be_followed_are_refused_by_the_runtime(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    output = b"\x62\x03\x0a\x01a" + b"\x62\x03\x0a\x01b"  # two outputs, then a node of a kind of field that there is not
    graph = output + b"\x0a\x02\x0b\x00"
    path.write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    with pytest.raises(BadWeights, match="no ONNX network that runs here"):
        OnnxModel(path, answers=lambda name: name == "a")


def test_a_file_that_changes_before_all_of_it_is_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mien.onnx"
    shutil.copy(FILE, path)
    model = OnnxModel(path, threads=1, answers=needed(["age"]))
    path.write_bytes(FILE.read_bytes() + bytes(2))
    with pytest.raises(BadWeights, match="changed since they were loaded"):
        model.whole()(np.zeros((1, 3, 128, 128), np.float32))


def test_a_reader_knows_all_answers_of_its_model_and_takes_another_model() -> None:
    reader = mien.load(tasks=["age"], threads=1)
    assert "identity" in [t.name for t in reader.model.tasks]
    photo = "examples/astronaut.jpg"
    (face,) = reader(photo)
    again = mien.Reader(reader.detector, reader.model, tasks=["age", "identity"])(photo)[0]
    assert again["age"] == face["age"] and "identity" in again

    class Other:
        view, tasks = reader.model.view, reader.model.tasks

        def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
            raise LookupError("asked")

    reader.model = Other()
    with pytest.raises(LookupError, match="asked"):
        reader(photo)

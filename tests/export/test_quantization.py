"""8-bit networks: what stays float, what travels along, how far answers move, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mien.errors import UsageError
from mien.export.quantization import MINIMUM, only_for, quantize, shift
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import load
from mien.inference.weights_file import WEIGHTS
from tests.cli.test_cli import run

FLOAT = WEIGHTS / "mien.onnx"


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """Thirty-two looks at the example faces, normalized: (32, 3, H, W)."""
    reader = load(tasks=[], threads=1)
    crops = [
        f.crop.pixels
        for r in reader(["examples/astronaut.jpg", "examples/collage.jpg"])
        for f in r
        if f.crop is not None
    ]
    looks = [c[:, ::-1] if i % 2 else c for i, c in enumerate(crops * MINIMUM)][:MINIMUM]
    light = np.linspace(0.6, 1.1, MINIMUM)[:, None, None, None]
    return reader.model.view.tensor((np.stack(looks) * light).clip(0, 255).astype(np.uint8))


def test_only_for_names_what_no_other_answer_needs() -> None:
    relu = lambda a, b: helper.make_node("Relu", [a], [b], name=f"{a}-{b}")  # noqa: E731
    nodes = [relu("x", "trunk"), relu("trunk", "a1"), relu("a1", "a"), relu("trunk", "b")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "a", "b")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    assert only_for(graph, ["a"]) == ["a1-a", "trunk-a1"]
    assert only_for(graph, ["b"]) == ["trunk-b"]
    assert only_for(graph, []) == []
    assert only_for(graph, ["a", "b"]) == ["a1-a", "trunk-a1", "trunk-b", "x-trunk"]


@pytest.fixture(scope="module")
def small(faces: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Made once: an 8-bit network with float parsing, and its provenance."""
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    return out, quantize(FLOAT, out, faces, keep=("parsing",))


def test_it_answers_as_the_float_network_does_and_says_where_it_comes_from(
    small: tuple[Path, dict], faces: np.ndarray
) -> None:
    out, record = small
    before, after = OnnxModel(FLOAT), OnnxModel(out)
    assert record["bytes"] == out.stat().st_size < 0.6 * FLOAT.stat().st_size
    assert record["int8"] == {"of": before.sha256, "faces": MINIMUM, "float": ["parsing"]}
    assert record["license"] and "scores" not in record, "numbers of the float network are not this one's"
    assert after.header == before.header
    assert [getattr(t, "temperature", None) for t in after.tasks] == [
        getattr(t, "temperature", None) for t in before.tasks
    ]
    moved = shift(FLOAT, out, faces[:8])
    assert set(moved) == {t.name for t in before.tasks}
    assert all(0 < v < 0.6 for v in moved.values()), (
        moved
    )  # an unrelated network's answers would be about 1.1 away
    assert shift(FLOAT, FLOAT, faces[:2]) == dict.fromkeys(moved, 0.0)


def test_a_kept_task_has_float_convolutions_of_its_own(small: tuple[Path, dict]) -> None:
    graph = onnx.load(small[0]).graph
    own = set(only_for(graph, ["parsing"]))
    assert not [n.name for n in graph.node if n.name in own and n.op_type == "QuantizeLinear"]
    assert [n for n in graph.node if n.op_type == "QuantizeLinear"]


@pytest.mark.parametrize(
    ("keep", "n", "says"),
    [(("hair",), MINIMUM, "'hair' is not a task"), ((), MINIMUM - 1, f"{MINIMUM - 1} faces are too few")],
)
def test_what_cannot_be_made_is_refused(
    keep: tuple[str, ...], n: int, says: str, faces: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        quantize(FLOAT, tmp_path / "x.onnx", faces[:n], keep=keep)
    assert not list(tmp_path.iterdir())


def test_the_command_needs_faces_enough(tmp_path: Path) -> None:
    shutil.copy("examples/astronaut.jpg", tmp_path / "a.jpg")
    done = run("quantize", str(tmp_path), "--out", str(tmp_path / "x.onnx"))
    assert done.returncode == 2
    assert "1 faces are too few" in done.stderr

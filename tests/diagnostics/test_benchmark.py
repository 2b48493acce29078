"""The bench measures what it says, on drawn pictures and on files; the floor counts what can be counted by
hand.
"""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import onnx
import onnx.helper as h
import pytest
from typer.testing import CliRunner

from bench.speed import roofline
from mien.cli import app
from mien.diagnostics import benchmark
from mien.errors import NotFound, UsageError
from mien.io.image import load_photo


def test_drawn_pictures_have_the_faces_they_claim(reader) -> None:
    one, five = benchmark.drawn_groups()
    assert [len(reader.detector(load_photo(g.photos[0]).pixels)) for g in (one, five)] == [1, 5]
    assert (load_photo(five.photos[0]).width, load_photo(five.photos[0]).height) == (1000, 667)


def test_spread_by_hand() -> None:
    assert benchmark.spread([1, 2, 3]) == {"p50": 2, "p95": 2.9}
    assert benchmark.spread([7.00049]) == {"p50": 7.0, "p95": 7.0}


def test_turns_warm_up_and_spread_over_the_folder() -> None:
    assert list(benchmark._turns(list("ab"), 5)) == list("aba" + "ababa")
    assert list(benchmark._turns(list("abcdef"), 3)) == list("abc" + "ace")


def test_the_report_is_complete(astronaut, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "start_up", partial(benchmark.start_up, repeats=1))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    words = ["bench", astronaut, str(tmp_path), "--threads", "1", "--runs", "2", "--tasks", "age", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output + str(done.exception)
    found = json.loads(done.stdout)
    (group,) = found["groups"]
    assert group["name"] == "1 pictures (1 could not be read)"
    assert group["faces_per_picture"] == 1
    assert list(group["ms"]) == [*benchmark.STAGES, "all"]
    assert all(0 < v["p50"] <= v["p95"] for v in group["ms"].values())
    assert group["stream"]["pictures"] == group["stream"]["faces"] == 2
    assert group["stream"]["failed"] == 0
    assert group["stream"]["cpu_seconds_per_picture"] > 0
    assert (found["threads"], found["runs"], found["tasks"]) == (1, 2, ["age"])
    assert found["resident_mb"]["peak"] > 50
    assert list(found["start_ms"]) == ["import_mien", "import_reader", "load_weights"]
    assert min(found["start_ms"].values()) > 0
    about = found["machine"]
    assert len(about["weights"]["mien"]["sha256"]) == len(about["weights"]["detector"]["sha256"]) == 64
    assert about["packages"]["numpy"] == np.__version__
    text = "\n".join(benchmark.table(found))
    for word in (
        "threads 1",
        "decode",
        "pictures/s",
        "CPU seconds",
        "resident",
        "load weights",
        about["cpu"],
    ):
        assert word in text


def test_what_cannot_be_timed_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="runs must be 1"):
        benchmark.measure(runs=0)
    with pytest.raises(NotFound):
        benchmark.measure([str(tmp_path)])
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="none of the 1 pictures"):
        benchmark.measure([str(tmp_path)])


# --- The floor


def network(path) -> None:
    """Convolution 3 -> 4, 3x3, padded; depthwise 3x3; 1x1 to 2; flatten; product with (2 * 8 * 8, 5)."""
    f = onnx.TensorProto.FLOAT
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 1, 3, 3), "w3": (2, 4, 1, 1), "w4": (128, 5)}
    weights = [onnx.numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()]
    ops = [
        h.make_node("Conv", ["images", "w1"], ["a"], pads=[1, 1, 1, 1]), h.make_node("Relu", ["a"], ["b"]),
        h.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=4), h.make_node("Conv", ["c", "w3"],
        ["d"]),
        h.make_node("Flatten", ["d"], ["e"]), h.make_node("MatMul", ["e", "w4"], ["y"]),
    ]  # fmt: skip
    ins, outs = (
        [h.make_tensor_value_info("images", f, ["n", 3, 8, 8])],
        [h.make_tensor_value_info("y", f, ["n", 5])],
    )
    onnx.save(
        h.make_model(
            h.make_graph(ops, "g", ins, outs, weights), opset_imports=[h.make_opsetid("", 17)], ir_version=9
        ),
        path,
    )


@pytest.mark.parametrize("n", [1, 3])
def test_multiply_adds_and_bytes_by_hand(n, tmp_path) -> None:
    network(tmp_path / "net.onnx")
    ops = roofline.nodes(tmp_path / "net.onnx", (n, 3, 8, 8))
    assert [(o.kind, o.macs) for o in ops] == [
        ("convolution, k x k", n * 64 * 4 * 27), ("element by element", 0), ("convolution, depthwise",
        n * 64 * 4 * 9),
        ("convolution 1x1", n * 64 * 2 * 4), ("element by element", 0), ("matrix product", n * 128 * 5),
    ]  # fmt: skip
    assert sum(o.weights for o in ops) == 4 * (108 + 36 + 8 + 640)
    a, d = n * 4 * 64 * 4, n * 2 * 64 * 4  # bytes of a tensor of 4 channels, and of 2
    assert [o.bytes for o in ops] == [
        n * 3 * 64 * 4 + 432 + a,
        2 * a,
        2 * a + 144,
        a + 32 + d,
        0,
        d + 2560 + n * 20,
    ]


def test_other_products_by_hand() -> None:
    einsum = h.make_node("Einsum", ["a", "b"], ["c"], equation="bij, bjk -> bik")
    assert roofline.multiply_adds(einsum, [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)]) == ("matrix product", 120)
    gemm = h.make_node("Gemm", ["a", "b"], ["c"], transA=1)
    assert roofline.multiply_adds(gemm, [(7, 2), (7, 3)], [(2, 3)])[1] == 42
    up = h.make_node("ConvTranspose", ["a", "w"], ["c"])
    assert roofline.multiply_adds(up, [(1, 8, 4, 4), (8, 5, 2, 2)], [(1, 5, 8, 8)])[1] == 8 * 16 * 5 * 4
    assert roofline.multiply_adds(h.make_node("Softmax", ["a"], ["b"]), [(9,)], [(9,)]) == (
        "element by element",
        0,
    )


def test_a_row_of_the_page_by_hand(tmp_path) -> None:
    case = roofline.Case("net", tmp_path / "x.onnx", (1, 3, 10, 10))
    ops = [
        roofline.Node("matrix product", 2_000_000, 3_000_000, 500_000),
        roofline.Node("element by element", 0, 1_000_000, 0),
    ]
    line = roofline.row(case, ops, 8.0, macs_a_second=1e9, bytes_a_second=1e9)
    assert line == ["net", "2.0", "0.50", "4.0", "2.00", "0.50", "4.00", "8.00", "**4.0**", "2.0"]


def test_shipped_networks_are_counted(tmp_path) -> None:
    face, _, _, find = roofline.cases()
    small = roofline.nodes(find.path, (1, 3, 64, 64))
    large = roofline.nodes(find.path, (1, 3, 128, 128))
    assert sum(o.macs for o in large) == 4 * sum(o.macs for o in small)  # the detector is convolutions alone
    ops = roofline.nodes(face.path, face.shape)
    held = sum(o.weights for o in ops)
    assert 0.7 * face.path.stat().st_size < held < 1.1 * face.path.stat().st_size
    assert math.isclose(sum(float(line[3]) for line in roofline.kinds(ops)), 100, abs_tol=0.5)

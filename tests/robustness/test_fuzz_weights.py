"""Damaged weights: whatever bytes stand there, mien works with them or says BadWeights; never another
exception or a crash.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.errors import BadWeights
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS, read_weights
from tests.support.fuzz import MANY, MEMORY, SECONDS, hunt
from tests.support.hard_worker import small_network, small_pair, with_header

onnx = pytest.importorskip("onnx")
EVEN: dict[str, Any] = {"size": [64, 64], "template": "head", "mean": [0.5] * 3, "std": [0.5] * 3}


def check(kind: str, folder: Path, first: int, count: int) -> None:
    found = hunt(kind, folder, first, count)
    print(found.report())
    assert not found.failures, "\n".join(found.failures)
    assert sum(found.outcomes.values()) == count
    assert found.memory < MEMORY and found.seconds < SECONDS
    assert found.outcomes["BadWeights"] > count / 4
    assert found.outcomes["answer"] > 0


def test_mutated_networks(tmp_path: Path) -> None:
    check("networks", tmp_path, 1_000_000, 100)


def test_mutated_provenance(tmp_path: Path) -> None:
    check("promises", tmp_path, 1_000_000, 100)


def test_mutated_headers(tmp_path: Path) -> None:
    check("headers", tmp_path, 1_000_000, 100)


def test_a_header_written_by_hand_is_the_library_s() -> None:
    data = small_pair()[1]
    proto = onnx.load_from_string(data)
    header = proto.metadata_props[0].value
    del proto.metadata_props[:]
    assert onnx.load_from_string(
        with_header(proto.SerializeToString(), header.encode())
    ) == onnx.load_from_string(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["networks", "headers", "promises"])
def test_many_mutants(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path, 0, MANY)


# Each region of the embedded files


def damaged(path: Path, at: int) -> None:
    """Flip one bit of a byte, see the file refused, and flip it back."""
    with path.open("r+b") as file:
        for _ in range(2):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
            file.flush()
            if _ == 0:
                with pytest.raises(BadWeights, match="truncated or altered"):
                    OnnxModel(path)


@pytest.mark.parametrize(("name", "regions"), [("detector", 64), ("mien", 16)])
def test_one_bit_in_any_region_is_refused(name: str, regions: int, tmp_path: Path) -> None:
    for end in ("onnx", "json"):
        shutil.copy(WEIGHTS / f"{name}.{end}", tmp_path)
    path = tmp_path / f"{name}.onnx"
    size = path.stat().st_size
    for i in range(regions):
        damaged(path, i * (size - 1) // (regions - 1))
    assert read_weights(path)[0] == (WEIGHTS / f"{name}.onnx").read_bytes()  # and whole again


def test_every_cut_and_every_addition_is_refused(tmp_path: Path) -> None:
    data = (WEIGHTS / "detector.onnx").read_bytes()
    shutil.copy(WEIGHTS / "detector.json", tmp_path / "w.json")
    path = tmp_path / "w.onnx"
    for cut in (*(len(data) * i // 12 for i in range(12)), len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(BadWeights, match="are empty" if cut == 0 else "truncated or altered"):
            OnnxModel(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(BadWeights, match="truncated or altered"):
        OnnxModel(path)


# Provenance and header, by name


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000, b'{"sha256": 3}', b"{}", b"\0"]
)
def test_a_provenance_file_that_promises_nothing_is_refused(text: bytes, tmp_path: Path) -> None:
    shutil.copy(WEIGHTS / "detector.onnx", tmp_path / "w.onnx")
    (tmp_path / "w.json").write_bytes(text)
    with pytest.raises(BadWeights, match=r"w\.json"):
        OnnxModel(tmp_path / "w.onnx")


def promised(path: Path, **facts: Any) -> dict[str, Any]:
    """A provenance file beside weights, with more facts."""
    record = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **facts}
    path.with_suffix(".json").write_text(json.dumps(record))
    return record


def test_calibration_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(small_pair()[1])
    record = promised(tmp_path / "w.onnx", calibration={"temperatures": {"expression": 2.0}})
    OnnxModel(tmp_path / "w.onnx")
    for wrong in (
        [],
        3,
        {"temperatures": 3},
        {"temperatures": {"age": -1}},
        {"temperatures": {"expression": math.nan}},
    ):
        (tmp_path / "w.json").write_text(json.dumps(record | {"calibration": wrong}))
        with pytest.raises(BadWeights, match="calibration"):
            OnnxModel(tmp_path / "w.onnx")


def rewritten(folder: Path, header: Any) -> Path:
    """The small face network with another header."""
    proto = onnx.load_from_string(small_pair()[1])
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {"mien": header if isinstance(header, str) else json.dumps(header)})
    path = folder / "w.onnx"
    onnx.save(proto, path)
    return path


def header(**change: Any) -> dict[str, Any]:
    view = EVEN | change.pop("view", {})
    return {
        "format": "mien-1",
        "builder": "b",
        "view": view,
        "tasks": [{"name": "age", "labels": "years101"}],
    } | change


def test_the_header_is_right_before_it_is_damaged(tmp_path: Path) -> None:
    model = OnnxModel(rewritten(tmp_path, header()))
    assert [t.name for t in model.tasks] == ["age"]
    assert model(np.zeros((2, 3, 64, 64), np.float32))["age"].shape == (2, 101)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("no json", "should hold JSON"),
        ("[1]", "JSON object, not list"),
        ("{}", "no mien-1 header"),
        ("[" * 100_000, "JSON"),
        (header(view={"size": [64]}), "size"),
        (header(view={"size": [64, 0]}), "size"),
        (header(view={"size": [64, 1e9]}), "size"),
        (header(view={"size": [64, 64.0]}), "size"),
        (header(view={"size": [10**9, 64]}), "size"),
        (header(view={"size": 3}), "damaged"),
        (header(view={"template": "hed"}), "template"),
        (header(view={"template": ["head"]}), "damaged"),
        (header(view={"std": [0, 1, 1]}), "std"),
        (header(view={"std": [1, 1]}), "std"),
        (header(view={"mean": ["a"] * 3}), "damaged"),
        (header(view={"mean": [math.nan] * 3}), "mean"),
        (header(view={"std": [10**400] * 3}), "damaged"),
        ({"format": "mien-1", "tasks": []}, "view"),
        (header(tasks=[]), "at least one"),
        (header(tasks=3), "damaged"),
        (header(tasks=["age"]), "damaged"),
        (header(tasks=[{"name": "age"}]), "labels"),
        (header(tasks=[{"name": 3, "labels": ""}]), "newer"),
        (header(tasks=[{"name": "age", "labels": "years70"}]), "years70"),
        (header(tasks=[{"name": "age", "labels": "years101"}] * 2), "once"),
        (header(tasks=[{"name": "parsing", "labels": "celebamask19"}]), "promises 'parsing'"),
        ({k: v for k, v in header().items() if k != "builder"}, "builder"),
    ],
)
def test_a_damaged_header_says_what_is_wrong(wrong: Any, word: str, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=word):
        OnnxModel(rewritten(tmp_path, wrong))


def test_outputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(small_network({"age": ("years101", 100)}, EVEN))
    with pytest.raises(BadWeights, match=r"answers 'age' by float32\(1, 100\)"):
        OnnxModel(tmp_path / "w.onnx")(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e30])
def test_outputs_that_are_no_numbers_are_refused(number: float, tmp_path: Path) -> None:
    proto = onnx.load_from_string(small_pair()[1])
    weights = next(w for w in proto.graph.initializer if w.name == "age_w")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full((101, 3, 1, 1), number, np.float32), "age_w"))
    onnx.save(proto, tmp_path / "w.onnx")
    with pytest.raises(BadWeights, match="predicts 'age' as NaN or too large"):
        OnnxModel(tmp_path / "w.onnx")(np.ones((1, 3, 64, 64), np.float32))


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(small_pair()[1])
    model = OnnxModel(tmp_path / "w.onnx")
    for shape in [(1, 3, 32, 32), (1, 1, 64, 64), (3, 64, 64)]:
        with pytest.raises(BadWeights, match="cannot work on images"):
            model(np.zeros(shape, np.float32))


@pytest.mark.parametrize("place", ["beside.bin", "../beside.bin", "/etc/hostname"])
def test_weights_that_point_to_another_file_are_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """External data would read a file of the writer's choice; its bytes are outside the sha256 as well."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for folder in (tmp_path, tmp_path / "in"):
        (folder / "beside.bin").write_bytes(bytes(4 * 101 * 3))
    proto = onnx.load_from_string(small_pair()[1])
    weights = next(w for w in proto.graph.initializer if w.name == "age_w")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", str(4 * 101 * 3))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    Path("w.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BadWeights):
        OnnxModel("w.onnx")

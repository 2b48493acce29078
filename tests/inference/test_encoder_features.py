"""Frozen features: the encoder's maps averaged over places, without heads and without torch."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

import mien
from mien.cli import app
from mien.errors import BadWeights, UsageError
from mien.inference import onnx_prune
from mien.inference.encoder_features import EncoderModel, FeatureReader
from mien.inference.weights_file import WEIGHTS

FILE = WEIGHTS / "mien.onnx"
LEVELS = {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}
PHOTOS = ["examples/astronaut.jpg", "examples/collage.jpg"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 3, 128, 128)).astype(np.float32)


# --- The graph


def small(end: str = "Relu") -> bytes:
    """x -> two convolutions of the encoder, the sum of both, `end` -> two heads, a and b."""

    def values(name: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Conv", ["images", "model.encoder.w"], ["first"]),
        helper.make_node("Conv", ["first", "model.encoder.w"], ["c"]),
        helper.make_node("Add", ["c", "first"], ["d"]),
        helper.make_node(end, ["d"], ["e"]),
        helper.make_node("Conv", ["e", "model.head.w"], ["a"]),
        helper.make_node("ReduceMean", ["e"], ["b"]),
    ]
    weights = [
        helper.make_tensor(n, TensorProto.FLOAT, [3, 3, 1, 1], [float(i) for i in range(9)])
        for n in ("model.encoder.w", "model.head.w")
    ]
    graph = helper.make_graph(
        nodes, "g", [values("images", [1, 3, 4, 4])], [values("a", [1, 3, 4, 4]), values("b", [1])], weights
    )
    return helper.make_model(graph).SerializeToString()


def test_an_encoder_ends_with_its_activations():
    assert onnx_prune.encoder_maps(small()) == ["e"]
    assert onnx_prune.encoder_maps(small("Sigmoid")) == ["d"]
    graph = onnx.load_from_string(onnx_prune.expose(small(), ["e", "c"])).graph
    assert [n.op_type for n in graph.node] == ["Conv", "Conv", "Add", "Relu"]
    assert [i.name for i in graph.initializer] == ["model.encoder.w"]
    assert [o.name for o in graph.output] == ["e", "c"]
    assert {o.type.tensor_type.elem_type for o in graph.output} == {TensorProto.FLOAT}


def test_a_picture_made_8_bit_and_float_again_is_no_map():
    model = onnx.load_from_string(small())
    graph = model.graph
    graph.node[0].input[0] = "pixels"
    graph.node.insert(0, helper.make_node("QuantizeLinear", ["images", "scale"], ["bytes"]))
    graph.node.insert(1, helper.make_node("DequantizeLinear", ["bytes", "scale"], ["pixels"]))
    graph.node.append(helper.make_node("ReduceMean", ["pixels"], ["mean"]))
    graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]))
    assert onnx_prune.encoder_maps(model.SerializeToString()) == ["e"]


def test_a_network_without_an_encoder_is_refused(tmp_path):
    assert onnx_prune.encoder_maps(small().replace(b"model.encoder.", b"model.nothing.")) == []
    path = tmp_path / "other.onnx"
    path.write_bytes(FILE.read_bytes().replace(b"model.encoder.", b"model.nothing."))
    with pytest.raises(BadWeights, match=r"other\.onnx has no encoder with maps of the face; use"):
        EncoderModel(path, threads=1)
    path.write_bytes(b"\x0b\x00")
    with pytest.raises(BadWeights, match="no encoder with maps"):
        EncoderModel(path, threads=1)


# --- The embedded network


@pytest.mark.parametrize("level", [None, *LEVELS])
def test_features_are_the_means_of_the_encoder_s_maps(level, images):
    import torch

    from mien.export import onnx_import

    model = EncoderModel(FILE, level=level, threads=1)
    assert model.levels == LEVELS
    assert (model.level, model.dim) == (level or 32, LEVELS[level or 32])
    assert model.tasks == ()
    values = model(images)["features"]
    assert values.dtype == np.float32
    with torch.no_grad():
        maps = onnx_import.load(FILE).eval().encoder(torch.from_numpy(images))
    (same,) = [m for m in maps if m.shape[1] == model.dim]
    assert images.shape[3] // same.shape[3] == model.level
    np.testing.assert_allclose(values, same.mean((2, 3)).numpy(), atol=2e-4)


def test_only_the_encoder_is_kept():
    last, early = (len(EncoderModel(FILE, level=n, threads=1)._data) for n in (None, 8))
    assert early < 0.05 * FILE.stat().st_size
    assert last < 0.6 * FILE.stat().st_size


def test_a_level_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"has no map of stride 3; there are: 2, 4, 8, 16, 32"):
        EncoderModel(FILE, level=3, threads=1)


def _encoded(model: EncoderModel, images: np.ndarray) -> np.ndarray:
    return model(images)["features"]


def test_another_process_has_the_same_features(images):
    model = EncoderModel(FILE, level=8, threads=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        again = pool.apply(_encoded, (model, images))
    assert np.array_equal(again, _encoded(model, images))


# --- Photos


def test_rows_are_the_faces_of_analyze_in_order(reader):
    found = mien.features([*PHOTOS, "nowhere.jpg", PHOTOS[0]], threads=1)
    readings = reader([*PHOTOS, PHOTOS[0]])
    assert found.paths == [r.path for r in readings for _ in r]
    assert found.photos.tolist() == [i for i, r in zip((0, 1, 3), readings, strict=True) for _ in r]
    assert found.faces.tolist() == [n for r in readings for n, _ in enumerate(r, 1)]
    assert np.array_equal(found.boxes, np.stack([f.box for r in readings for f in r]))
    assert np.array_equal(found.scores, np.float32([f.score for r in readings for f in r]))
    assert found.values.shape == (len(found.paths), 320)
    assert np.array_equal(found.values[0], found.values[-1])
    assert {i: e.code for i, e in found.errors.items()} == {2: "not_found"}
    one_by_one = mien.features(PHOTOS, threads=1, batch=1)
    np.testing.assert_allclose(one_by_one.values, found.values[:-1], atol=1e-4)


def test_no_face_and_no_photo_are_no_rows():
    nothing = mien.features([np.zeros((64, 64, 3), np.uint8)], threads=1)
    assert (nothing.values.shape, nothing.boxes.shape, nothing.paths) == ((0, 320), (0, 4), [])
    assert mien.features([], level=4, threads=1).values.shape == (0, 24)
    with pytest.raises(UsageError, match=r"photos must be a list, not one photo: features\(\['a.jpg'\]\)"):
        mien.features("a.jpg")


def test_torch_is_not_needed():
    code = (
        "import sys; sys.modules['torch'] = None; import mien;"
        f" assert mien.features({PHOTOS[:1]!r}, threads=1).values.shape == (1, 320)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- The command


def run(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["features", *words, "--threads", "1"])
    assert done.exit_code == code, done.output + str(done.exception)
    return done


def test_every_format_has_the_same_rows(tmp_path, monkeypatch):
    import csv

    import pyarrow.parquet as pq

    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    photos = [PHOTOS[0], str(bad), PHOTOS[1]]
    for kind in ("parquet", "npz", "csv", "jsonl"):
        done = run(*photos, "--out", str(tmp_path / f"rows.{kind}"), code=1)
        assert "bad.jpg" in done.stderr
        assert "mien: 12 faces of 2 photos; 320 numbers per face, level 32" in done.stderr
    records = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(r["path"], r["face"]) for r in records] == [
        (PHOTOS[0], 1),
        *((PHOTOS[1], n) for n in range(1, 12)),
    ]
    values = np.float32([r["features"] for r in records])
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column_names == [
        "path",
        "face",
        "model",
        "level",
        "x1",
        "y1",
        "x2",
        "y2",
        "score",
        "features",
    ]
    assert np.array_equal(np.stack(table["features"].to_numpy()), values)
    assert table["path"].to_pylist() == [r["path"] for r in records]
    assert set(table["level"].to_pylist()) == {32}
    assert table["model"].to_pylist()[0].startswith("mien_tiny:")
    with np.load(tmp_path / "rows.npz") as arrays:
        assert np.array_equal(arrays["features"], values)
        assert arrays["path"].tolist() == [r["path"] for r in records]
        np.testing.assert_allclose(arrays["box"], [r["box"] for r in records])
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.array_equal(np.float32([[r[f"features_{i}"] for i in range(320)] for r in rows]), values)
    assert [float(r["x1"]) for r in rows] == [r["box"][0] for r in records]
    again = tmp_path / "again.parquet"
    run(*photos, "--out", str(again), code=1)
    assert again.read_bytes() == (tmp_path / "rows.parquet").read_bytes()


def test_a_photo_without_a_face_is_an_empty_table(tmp_path):
    import pyarrow.parquet as pq
    from PIL import Image

    Image.new("RGB", (80, 80), "white").save(tmp_path / "white.png")
    for kind in ("parquet", "npz"):
        run(str(tmp_path / "white.png"), "--out", str(tmp_path / f"none.{kind}"), "--level", "4")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    with np.load(tmp_path / "none.npz") as arrays:
        assert arrays["features"].shape == (0, 24)


def test_wrong_names_and_levels_are_refused_before_reading(tmp_path):
    for words, reason in (
        (["--out", "a.txt"], r"--out takes FILE.parquet, FILE.npz, FILE.csv, FILE.jsonl or -, not 'a.txt'"),
        (
            ["--out", str(tmp_path / "a.npz"), "--level", "7"],
            "no map of stride 7; there are: 2, 4, 8, 16, 32",
        ),
    ):
        done = CliRunner().invoke(app, ["features", PHOTOS[0], *words])
        assert isinstance(done.exception, UsageError)
        assert reason in str(done.exception)
    assert not Path("a.txt").exists()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_keeps_its_rows(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    read = FeatureReader.stream

    def interrupted(self, photos):
        for i, found in enumerate(read(self, photos)):
            if i:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(FeatureReader, "stream", interrupted)
    done = run(*PHOTOS, "--out", str(tmp_path / "part.parquet"), code=130)
    assert "interrupted; the faces of 1 of 2 photos are saved" in done.stderr
    assert pq.read_table(tmp_path / "part.parquet").num_rows == 1

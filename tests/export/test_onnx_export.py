"""Torch and ONNX answer alike; headers travel; altered files are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from mien import geometry
from mien.data import synthetic
from mien.errors import BadWeights, UsageError
from mien.export import onnx_import
from mien.export.onnx_export import difference
from mien.export.onnx_import import recompute_batchnorm_stats
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import write_provenance
from mien.inference.weights_file import WEIGHTS
from tests.support.exported import network


@pytest.fixture(scope="module")
def pair(exported):
    return network(), exported


def crops(view, n: int) -> np.ndarray:
    faces = [synthetic.draw(np.random.default_rng(i)) for i in range(n)]
    return view.tensor(np.stack([geometry.align(p, five, view).pixels for p, _, five in faces]))


def test_parity_on_photographed_faces(pair, reader):
    model, folder = pair
    found = [
        (photo.photo.pixels, face.points)
        for photo in reader(["examples/astronaut.jpg", "examples/collage.jpg"])
        for face in photo
    ]
    images = model.view.tensor(
        np.stack([geometry.align(p, points, model.view).pixels for p, points in found])
    )
    assert len(images) == 12
    gaps = difference(model, folder / "m.onnx", images)
    assert max(gaps.values()) <= 1e-4, gaps


@pytest.mark.parametrize("n", [1, 2, 5])
def test_parity_on_faces_and_on_noise(pair, n):
    model, folder = pair
    noise = np.random.default_rng(0).standard_normal((n, 3, 64, 64)).astype(np.float32)
    for images in (crops(model.view, n), noise):
        gaps = difference(model, folder / "m.onnx", images)
        assert set(gaps) == {"landmarks", "parsing", "age", "identity"}
        assert max(gaps.values()) <= 1e-4, gaps


def test_the_header_is_inside(pair):
    model, folder = pair
    onnx = OnnxModel(folder / "m.onnx", threads=1)
    assert onnx.view == model.view
    assert [t.name for t in onnx.tasks] == [t.name for t in model.tasks]
    assert onnx.name == "faceptor_tiny"
    assert onnx.header["recipe"] == "test"
    assert {t["labels"] for t in onnx.header["tasks"]} == {
        "ibug68",
        "celebamask19",
        "years101",
        "embedding128",
    }


def test_release_writes_provenance_that_is_checked_at_load(pair, tmp_path):
    for name in ("m.onnx", "m.json"):
        shutil.copy(pair[1] / name, tmp_path)
    record = json.loads((tmp_path / "m.json").read_text())
    assert (record["recipe"], record["note"]) == ("test", "newer")
    assert max(record["parity"].values()) <= 1e-4
    assert OnnxModel(tmp_path / "m.onnx").sha256 == record["sha256"]
    data = bytearray((tmp_path / "m.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(BadWeights, match="truncated or altered"):
        OnnxModel(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(data[: len(data) // 3])
    with pytest.raises(BadWeights, match="truncated or altered"):
        OnnxModel(tmp_path / "m.onnx")


def test_what_is_no_network_is_refused(tmp_path):
    cases = {"missing": None, "empty": b"", "noise": b"not an onnx file at all"}
    for name, data in cases.items():
        if data is not None:
            (tmp_path / f"{name}.onnx").write_bytes(data)
        with pytest.raises(BadWeights, match=name):
            OnnxModel(tmp_path / f"{name}.onnx")


def test_a_network_without_our_header_is_refused(pair, tmp_path):
    import onnx

    proto = onnx.load(pair[1] / "m.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "plain.onnx")
    with pytest.raises(BadWeights, match="no mien-1 header"):
        OnnxModel(tmp_path / "plain.onnx")


def test_wrong_settings_say_what_would_do(pair):
    with pytest.raises(UsageError, match="threads must be 1 or more"):
        OnnxModel(pair[1] / "m.onnx", threads=0)
    with pytest.raises(UsageError, match=r"no NoSuchProvider here; there are: .*CPUExecutionProvider"):
        OnnxModel(pair[1] / "m.onnx", providers=["NoSuchProvider"])


def test_provenance_is_json(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"abc")
    write_provenance(tmp_path / "w.onnx", sets={"toy": "drawn"})
    record = json.loads((tmp_path / "w.json").read_text())
    assert record["bytes"] == 3
    assert record["sha256"].startswith("ba7816bf")


def test_an_exported_network_can_be_trained_further(pair):
    """The shipped file too: it is what a fork begins from, and its run's checkpoints are in no package."""
    for path in (pair[1] / "m.onnx", WEIGHTS / "mien.onnx"):
        model = onnx_import.load(path)
        images = crops(model.view, 12)
        assert max(difference(model, path, images).values()) < 1e-3
        with torch.no_grad():
            asked = {n: v.clone() for n, v in model(torch.from_numpy(images)).items()}
            recompute_batchnorm_stats(model, torch.from_numpy(images).split(6))
            for name, answer in model(torch.from_numpy(images)).items():
                assert torch.allclose(answer, asked[name], atol=1e-3), name
            # while it learns, norms take a batch's own statistics: those that they were settled on
            for m in model.modules():
                if isinstance(m, torch.nn.Dropout):
                    m.p = 0.0
            learning = model.train()(torch.from_numpy(images))
            for name, answer in learning.items():
                gap, size = float((answer - asked[name]).abs().mean()), float(asked[name].abs().mean())
                assert gap < 0.05 * size, (name, gap, size)


def test_an_export_that_cannot_be_trained_further_says_why(pair, tmp_path):
    import onnx

    (tmp_path / "cut.onnx").write_bytes((pair[1] / "m.onnx").read_bytes()[:1000])
    with pytest.raises(BadWeights, match="not a readable ONNX file"):
        onnx_import.load(tmp_path / "cut.onnx")
    proto = onnx.load(pair[1] / "m.onnx")
    (lost,) = (i for i in proto.graph.initializer if i.name == "model.encoder.stem.0.weight")
    proto.graph.initializer.remove(lost)
    onnx.save(proto, tmp_path / "less.onnx")
    with pytest.raises(BadWeights, match=r"less.onnx: encoder.stem.0.weight is not in it"):
        onnx_import.load(tmp_path / "less.onnx")

"""InsightFace's modules, sample pictures, providers and single models, as its examples use them."""

from __future__ import annotations

import importlib

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from mien.compat import insightface
from mien.compat.insightface.app import FaceAnalysis
from mien.compat.insightface.app.common import Face
from mien.compat.insightface.data import get_image as ins_get_image
from mien.errors import BadWeights, UsageError
from mien.inference.weights_file import WEIGHTS

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
without_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="CUDA is here")


@pytest.fixture(scope="module")
def bgr(astronaut):
    return np.ascontiguousarray(np.asarray(Image.open(astronaut).convert("RGB"))[..., ::-1])


@without_cuda
def test_the_readme_runs(caplog) -> None:
    """The quick example of the published README, as it is written there."""
    app = FaceAnalysis(providers=["CUDAExecutionProvider", "CPUExecutionProvider"], threads=1)
    app.prepare(ctx_id=0, det_size=(640, 640))
    img = ins_get_image("t1")
    faces = app.get(img)
    rimg = app.draw_on(img, faces)
    assert len(faces) >= 1
    assert rimg.shape == img.shape
    assert not np.array_equal(rimg, img)
    assert "no CUDAExecutionProvider here; CPUExecutionProvider is used" in caplog.text


def test_modules_are_where_they_are_imported_from() -> None:
    for path, name in (
        ("app", "FaceAnalysis"),
        ("app.common", "Face"),
        ("app.face_analysis", "FaceAnalysis"),
        ("data", "get_image"),
        ("model_zoo", "get_model"),
    ):
        assert hasattr(importlib.import_module(f"mien.compat.insightface.{path}"), name)
    assert insightface.app.FaceAnalysis is insightface.FaceAnalysis is FaceAnalysis
    assert insightface.model_zoo.get_model
    assert insightface.__version__ >= "0.3"  # which their examples assert


def test_get_image(astronaut, bgr) -> None:
    assert np.array_equal(ins_get_image(astronaut), bgr)
    assert np.array_equal(ins_get_image(astronaut, to_rgb=True), bgr[..., ::-1])
    assert ins_get_image("t1").dtype == np.uint8


@without_cuda
def test_providers_fall_through_as_in_onnx_runtime(caplog) -> None:
    with_options = [(CUDA, {"device_id": 0}), CPU]
    for given in (with_options, [CUDA, CPU], [CUDA], [CPU], None):
        app = FaceAnalysis(allowed_modules=["detection"], providers=given, threads=1)
        networks = app._networks
        assert networks.reader.model.providers == networks.detector.model.providers == [CPU]
    assert caplog.text.count("no CUDAExecutionProvider here") == 6  # both networks, three times
    app = FaceAnalysis(
        allowed_modules=["detection"],
        providers=[CUDA, CPU],
        provider_options=[{"device_id": 1}, {}],
        threads=1,
    )
    app.prepare(ctx_id=-1)
    assert app._networks.reader.model.providers == [CPU]
    with pytest.raises(UsageError, match="1 provider_options for 2 providers"):
        FaceAnalysis(providers=[CUDA, CPU], provider_options=[{}])
    with pytest.raises(UsageError, match="no GPU here"):
        FaceAnalysis(providers=["GPU"])


def test_single_models_give_what_the_analysis_gives(bgr) -> None:
    app = FaceAnalysis(allowed_modules=["detection", "recognition", "genderage"], providers=[CPU], threads=1)
    app.prepare(ctx_id=0, det_size=(640, 640))
    (whole,) = app.get(bgr)
    assert list(app.models) == ["detection", "recognition", "genderage"]
    assert app.models["detection"] is app.det_model
    boxes, points = app.det_model.detect(bgr, input_size=(640, 640), max_num=1, metric="default")
    assert np.allclose(boxes[0, :4], whole.bbox)
    assert boxes[0, 4] == pytest.approx(whole.det_score)
    face = Face(bbox=boxes[0, :4], kps=points[0], det_score=boxes[0, 4])
    recognition, genderage = app.models["recognition"], app.models["genderage"]
    assert np.allclose(recognition.get(bgr, face), whole.embedding, atol=1e-4)
    assert recognition.compute_sim(face.embedding, whole.normed_embedding) == pytest.approx(1, abs=1e-4)
    assert genderage.get(bgr, face) == (whole.gender, whole.age) == (face.gender, face.age)
    boxes, points = app.det_model.detect(np.zeros((64, 64, 3), np.uint8))
    assert (boxes.shape, points.shape) == ((0, 5), (0, 5, 2))
    with pytest.raises(UsageError, match=r"use get\(img, face\)"):
        recognition.get_feat([bgr])


def test_get_model(bgr, tmp_path) -> None:
    """The README's calls, and names of models that the packs contain."""
    detector = insightface.model_zoo.get_model("your_detection_model.onnx", providers=[CUDA, CPU])
    detector.prepare(ctx_id=0, input_size=(640, 640), det_thresh=0.3)
    boxes, _ = detector.detect(bgr)
    assert len(boxes) >= 1
    handler = insightface.model_zoo.get_model("your_recognition_model.onnx")
    handler.prepare(ctx_id=0)
    assert [
        insightface.model_zoo.get_model(name, providers=[CPU]).taskname
        for name in (
            "det_10g.onnx",
            "models/buffalo_l/w600k_r50.onnx",
            "genderage.onnx",
            WEIGHTS / "detector.onnx",
        )
    ] == ["detection", "recognition", "genderage", "detection"]
    with pytest.raises(UsageError, match="use FaceAnalysis"):
        insightface.model_zoo.get_model("buffalo_l")
    (tmp_path / "det_10g.onnx").write_bytes(b"not a network of ours")
    with pytest.raises(BadWeights):
        insightface.model_zoo.get_model(tmp_path / "det_10g.onnx")

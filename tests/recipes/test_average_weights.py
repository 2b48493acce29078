"""Averages of two exported networks: between both, with the provenance of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mien.errors import UsageError
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import provenance_of, write_provenance

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402

from mien.models.widen import place_within  # noqa: E402
from recipes.average_weights import average  # noqa: E402

DETECTOR = Path("src/mien/weights/detector.onnx")


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


def doubled(path: Path) -> Path:
    """The detector with its kernels doubled, from another data set."""
    model = onnx.load(str(DETECTOR))
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim > 1:  # kernels; the others are shapes, scales and biases
            tensor.CopyFrom(numpy_helper.from_array(2 * value, tensor.name))
    onnx.save(model, str(path))
    facts = {k: v for k, v in provenance_of(DETECTOR).items() if k not in ("file", "sha256", "bytes")}
    write_provenance(path, **facts | {"data": ["others"], "sets": {"others": "of a test"}, "note": "Twice."})
    return path


def test_weights_lie_between_both_and_the_provenance_names_them(tmp_path):
    second = doubled(tmp_path / "second.onnx")
    average(DETECTOR, second, 0.25, tmp_path / "out" / "mixed.onnx")
    first, mixed = weights(DETECTOR), weights(tmp_path / "out" / "mixed.onnx")
    for name, value in mixed.items():
        factor = 1.25 if value.ndim > 1 else 1
        np.testing.assert_allclose(value, factor * first[name], rtol=1e-6)
    record = provenance_of(tmp_path / "out" / "mixed.onnx")
    assert record["averaged"][1] == {"sha256": provenance_of(second)["sha256"], "share": 0.25}
    assert "others" in record["data"] and "photos" in record["sets"] and record["note"].endswith("Twice.")
    assert "scores" not in record, "they are of other weights"
    assert OnnxModel(tmp_path / "out" / "mixed.onnx", threads=1).tasks[0].name == "faces"


def test_a_narrower_network_in_a_wider_one_answers_as_before():
    rng = np.random.default_rng(1)
    x, inner, last = rng.normal(size=5), rng.normal(size=(4, 5)), rng.normal(size=(3, 4))
    wide_inner, wide_last = rng.normal(size=(6, 5)), rng.normal(size=(3, 6))
    added = wide_inner[4:].copy()
    place_within(wide_inner, inner)
    place_within(wide_last, last)
    np.testing.assert_allclose(wide_last @ (wide_inner @ x), last @ (inner @ x))
    np.testing.assert_array_equal(wide_inner[4:], added)  # new channels keep their own weights


def test_other_networks_and_shares_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"between 0 and 1, not 1\.5"):
        average(DETECTOR, DETECTOR, 1.5, tmp_path / "x.onnx")
    shutil.copy("src/mien/weights/mien.onnx", tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="do not hold the same network"):
        average(DETECTOR, tmp_path / "other.onnx", 0.5, tmp_path / "x.onnx")

"""State heads in a weights file: old outputs stay as they are, and the file is read back as a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.errors import BadWeights
from mien.export import onnx_import
from mien.export.state_heads import add_state_heads
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import read
from mien.inference.weights_file import WEIGHTS, measured_sha256
from mien.models.mien import Mien, StateHead, mien_tiny
from mien.tasks import EYES, GAZE

EMBEDDED = WEIGHTS / "mien.onnx"
TASKS = {"eyes": EYES, "gaze": GAZE}


def heads(seed: int) -> dict[str, StateHead]:
    torch.manual_seed(seed)
    model = mien_tiny(tasks=(EYES, GAZE), state=("eyes", "gaze"))
    return {n: h.eval() for n, h in model.state.items()}  # type: ignore[misc]


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "mien.onnx"
    add_state_heads(EMBEDDED, heads(1), TASKS, path, sets={"teacher": "free"})
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).standard_normal((2, 3, 128, 128)).astype(np.float32)


@pytest.mark.heavy
def test_old_outputs_are_the_same_bit_for_bit(added, images) -> None:
    old, new = OnnxModel(EMBEDDED, threads=1)(images), OnnxModel(added, threads=1)(images)
    assert set(new) == set(old) | {"eyes", "gaze"}
    for name, values in old.items():
        np.testing.assert_array_equal(new[name], values)
    assert added.stat().st_size < EMBEDDED.stat().st_size + 1_500_000
    assert measured_sha256(OnnxModel(added, threads=1)) == measured_sha256(OnnxModel(EMBEDDED, threads=1))


@pytest.mark.heavy
def test_the_file_is_read_back_as_a_network(added, images) -> None:
    model = onnx_import.load(added)
    assert isinstance(model, Mien) and set(model.state) == {"eyes", "gaze"}
    with torch.inference_mode():
        ours = model(torch.from_numpy(images))
    theirs = OnnxModel(added, threads=1, tasks=["eyes", "gaze", "age"])(images)
    assert set(theirs) == {"eyes", "gaze", "age"}
    for name in theirs:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name], atol=2e-4)
    assert {"teacher", "fairface"} <= set(read(added).sets)


@pytest.mark.heavy
def test_a_head_takes_the_place_of_an_older_one(added, images, tmp_path) -> None:
    again = tmp_path / "again.onnx"
    other = {"eyes": heads(2)["eyes"]}
    add_state_heads(added, other, TASKS, again)
    old, new = OnnxModel(added, threads=1)(images), OnnxModel(again, threads=1)(images)
    assert not np.array_equal(new["eyes"], old["eyes"])
    np.testing.assert_array_equal(new["gaze"], old["gaze"])
    assert [t.name for t in OnnxModel(again, threads=1).tasks if t.name == "eyes"] == ["eyes"]


def test_another_network_is_refused(tmp_path) -> None:
    with pytest.raises(BadWeights, match="state heads need mien_tiny"):
        add_state_heads(WEIGHTS / "detector.onnx", {}, {}, tmp_path / "out.onnx")


def test_heads_follow_the_side_that_they_read() -> None:
    """What lies outside of the region of the eyes changes their head only by the mean of the last map."""
    head = heads(1)["eyes"]
    maps = [torch.randn(1, 40, 16, 16), torch.randn(1, 112, 8, 8), torch.randn(1, 320, 4, 4)]
    changed = [m.clone() for m in maps]
    changed[0][:, :, 12:] += 1
    changed[1][:, :, 7:] += 1
    assert torch.equal(head(maps), head(changed))
    changed[0][:, :, 7, 7] += 1
    assert not torch.equal(head(maps), head(changed))

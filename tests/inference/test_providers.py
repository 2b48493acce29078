"""Devices and execution providers, for the network and the detector alike."""

from __future__ import annotations

import onnxruntime as ort
import pytest

import mien
from mien.errors import UsageError
from mien.inference.providers import CPU, available, name_of, providers_of, warn_if_lost

CUDA = "CUDAExecutionProvider"
without_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="CUDA is here")


@pytest.fixture
def with_cuda(monkeypatch):
    """ONNX Runtime as it answers where CUDA is installed."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])


@without_cuda
def test_absent_providers_are_left_out_with_a_warning(caplog) -> None:
    assert available([CUDA, CPU]) == [CPU]
    assert available([(CUDA, {"device_id": 0})]) == [CPU]  # as ONNX Runtime: the CPU is always the last
    assert caplog.text.count("no CUDAExecutionProvider here; CPUExecutionProvider is used") == 2
    caplog.clear()
    assert available([CPU]) == [CPU]
    assert not caplog.text


def test_options_and_order_are_kept(with_cuda) -> None:
    asked = [(CUDA, {"device_id": 1}), CPU]
    assert available(asked) == asked
    assert available([CPU, CUDA]) == [CPU, CUDA]
    assert available([CUDA]) == [CUDA, CPU]


def test_names_that_nobody_knows_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no CUDA here; there are: .*CPUExecutionProvider"):
        available(["CUDA"])
    with pytest.raises(UsageError, match="must be a list"):
        available(CPU)  # type: ignore[arg-type]


def test_devices(with_cuda) -> None:
    assert providers_of("cpu") == [CPU]
    assert providers_of("cuda") == [CUDA, CPU]
    assert providers_of("cuda:1") == [(CUDA, {"device_id": 1}), CPU]
    for wrong in ("gpu", "cuda:", "cuda:one", "cpu:0", "", 0):
        with pytest.raises(UsageError, match=r"device is cpu, cuda, .* not"):
            providers_of(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="directml' needs DmlExecutionProvider"):
        providers_of("directml")


def test_a_provider_that_could_not_start_is_told(caplog) -> None:
    warn_if_lost([(CUDA, {}), CPU], [CPU])
    assert "CUDAExecutionProvider could not start" in caplog.text
    caplog.clear()
    warn_if_lost([CPU], [CPU])
    assert not caplog.text


@without_cuda
def test_load_chooses_for_network_and_detector(caplog) -> None:
    reader = mien.load(tasks=["age"], threads=1, providers=[CUDA, CPU])
    assert reader.model.providers == reader.detector.model.providers == [CPU]
    assert caplog.text.count("no CUDAExecutionProvider here") == 2
    with pytest.raises(UsageError, match="install onnxruntime-gpu in place of onnxruntime"):
        mien.load(device="cuda")
    with pytest.raises(UsageError, match="not both"):
        mien.load(device="cpu", providers=[CPU])


def test_load_hands_the_device_to_both(monkeypatch, with_cuda) -> None:
    seen = []

    class Session(ort.InferenceSession):
        def __init__(self, data, options, providers):
            seen.append([name_of(p) for p in providers])
            super().__init__(data, options, providers=[CPU])

    monkeypatch.setattr(ort, "InferenceSession", Session)
    mien.load(tasks=["age"], threads=1, device="cuda:0")
    assert seen == [[CUDA, CPU], [CUDA, CPU]]

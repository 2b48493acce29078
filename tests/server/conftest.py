"""A server's reader has the entire network: clients may ask for any task."""

from __future__ import annotations

import pytest

import mien
from mien.inference.weights_file import WEIGHTS


@pytest.fixture(scope="session")
def reader() -> mien.Reader:
    return mien.load(mien.OnnxModel(WEIGHTS / "mien.onnx", threads=1), threads=1)

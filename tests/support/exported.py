"""One exported network for all tests: an export takes longer than most tests."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
import torch

from mien.export.onnx_export import release
from mien.inference.provenance import write_provenance
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, IDENTITY, LANDMARKS, PARSING
from mien.tasks.base import configured
from mien.training import checkpoint
from mien.types import FaceModel

SETTINGS = {"age": {"decoding": "sigmoid", "year_offset": 21}, "landmarks": {"decoding": "sigmoid"}}


def network() -> FaceModel:
    """A small Faceptor that is the same in every process, with settings of its own for two tasks."""
    torch.manual_seed(1)
    model = faceptor_tiny(tasks=(LANDMARKS, PARSING, AGE, IDENTITY), size=64).eval()
    for p in model.parameters():  # as if trained: the exporter keeps only one of two tensors that are equal
        if p.ndim == 1:
            p.data.add_(0.01 * torch.randn(p.shape))
    model.tasks = tuple(configured(t, SETTINGS.get(t.name, {})) for t in model.tasks)
    return model


def exported(factory: pytest.TempPathFactory) -> Path:
    """The folder with m.safetensors, m.onnx and m.json of `network`, by the first process of the run."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "exported"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            checkpoint.save(folder / "m.safetensors", network(), recipe="test", data=["toy"])
            (folder / "m.onnx").write_bytes(b"an older file")  # an export replaces it, with its provenance
            write_provenance(folder / "m.onnx", sets={"toy": "drawn"}, note="older")
            release(folder / "m.safetensors", folder / "m.onnx", note="newer")
            (folder / "done").touch()
    return folder

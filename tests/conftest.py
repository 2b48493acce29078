"""Shared by all tests: where the data pack is, a drawn model, and the example photos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PACK = Path(os.environ.get("MIEN_DATA") or ROOT / ".." / "shared" / "data")
needs_pack = pytest.mark.skipif(
    not (PACK / "mtfl").is_dir(), reason=f"the data pack is not at {PACK}; set MIEN_DATA"
)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run from the checkout, whatever folder pytest was started in, and find the pack where it is."""
    monkeypatch.chdir(ROOT)
    if PACK.is_dir():
        monkeypatch.setenv("MIEN_DATA", str(PACK))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def astronaut() -> str:
    return str(ROOT / "examples" / "astronaut.jpg")


@pytest.fixture(scope="session")
def reader():
    import mien

    return mien.load(threads=1)

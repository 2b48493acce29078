"""Shared by all tests: the option `--fast`, where the data pack is, and the example photos.

`--fast` (`make test-fast`) leaves out files that import torch, and tests that are marked `heavy` or `slow`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PACK = Path(os.environ.get("MIEN_DATA") or ROOT / ".." / "shared" / "data")
needs_pack = pytest.mark.skipif(
    not (PACK / "mtfl").is_dir(), reason=f"the data pack is not at {PACK}; set MIEN_DATA"
)


# torch itself, or the packages of mien that import it
USES_TORCH = re.compile(r"^(import|from) (torch|mien\.(models|training|export))\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests without torch that take under a second")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast: files that import torch are not even imported."""
    if not config.getoption("--fast") or collection_path.suffix != ".py":
        return None
    return True if USES_TORCH.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --fast: tests marked `heavy` or `slow` are left out."""
    if config.getoption("--fast"):
        left_out = [i for i in items if i.get_closest_marker("heavy") or i.get_closest_marker("slow")]
        items[:] = [i for i in items if i not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", autouse=True)
def _no_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --fast: an error at the end of a run in which some test has imported torch after all."""
    yield
    if request.config.getoption("--fast"):
        assert "torch" not in sys.modules, "a test of `make test-fast` imports torch; mark it `heavy`"


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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m.safetensors and m.onnx of `tests.support.exported.network`; needs torch."""
    from tests.support.exported import exported

    return exported(tmp_path_factory)


@pytest.fixture(scope="session")
def astronaut() -> str:
    return str(ROOT / "examples" / "astronaut.jpg")


@pytest.fixture(scope="session")
def reader():
    import mien

    return mien.load(threads=1)

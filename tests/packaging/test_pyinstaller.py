"""What PyInstaller is told about mien: the files and modules that a frozen application needs."""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mien
from mien._pyinstaller import get_hook_dirs

ROOT = Path(__file__).parents[2]
PACKAGE = Path(mien.__file__).parent


@pytest.fixture(scope="module")
def hook() -> dict[str, Any]:
    (folder,) = get_hook_dirs()
    return runpy.run_path(str(Path(folder) / "hook-mien.py"))


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pyinstaller40"] == {"hook-dirs": "mien._pyinstaller:get_hook_dirs"}


def test_every_data_file_of_the_wheel_is_collected_to_its_place(hook) -> None:
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mien"]
    shipped = {
        file for glob in globs for file in PACKAGE.glob(glob) if file.suffix != ".py" and file.is_file()
    }
    collected = {Path(source): folder for source, folder in hook["datas"]}
    assert {"mien.onnx", "detector.onnx", "mien.json", "index.html", "worker.js"} <= {f.name for f in shipped}
    assert shipped <= collected.keys()
    for source, folder in collected.items():
        assert Path(folder) == Path("mien") / source.parent.relative_to(PACKAGE)
        assert source.suffix not in (".py", ".pyc")


def test_modules_that_are_imported_on_first_use_are_named(hook) -> None:
    hidden = hook["hiddenimports"]
    assert all(importlib.util.find_spec(name) for name in hidden)
    assert {m for m in mien._LAZY.values() if not m.startswith("mien.training")} <= set(hidden)
    classes = [getattr(mien, name) for name in mien._LAZY if isinstance(getattr(mien, name), type)]
    assert mien.Reader in classes
    assert {c.__module__ for c in classes} <= set(hidden)


def test_torch_stays_outside(hook) -> None:
    assert hook["excludedimports"] == ["torch"]
    assert not [
        m for m in hook["hiddenimports"] if m.startswith(("mien.training", "mien.models", "mien.data"))
    ]


def test_the_hooks_folder_needs_nothing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PyInstaller", None)
    importlib.reload(importlib.import_module("mien._pyinstaller"))
    assert get_hook_dirs() == [str(PACKAGE / "_pyinstaller")]

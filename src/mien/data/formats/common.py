"""Shared by all readers of publishers' layouts: required files, pictures, splits, optional libraries."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mien.errors import MissingData, UsageError
from mien.io.image import load_photo
from mien.types import Pixels

T = TypeVar("T")


def need(path: Path) -> Path:
    """Check that a path exists, and return it.

    Raises:
        MissingData: it does not exist.
    """
    if not path.exists():
        raise MissingData(f"expected {path}; it is missing")
    return path


def picture(path: Path) -> Pixels:
    """(H, W, 3) uint8 RGB of a file, upright.

    Raises:
        MissingData: no such file. PhotoError: it is not a picture that mien reads.
    """
    return load_photo(need(path)).pixels


def one_of(what: str, split: str, splits: Iterable[str]) -> str:
    """Check that a set has a split, and return the split.

    Raises:
        UsageError: the set has no such split.
    """
    if split not in (known := tuple(splits)):
        raise UsageError(f"{what} has no split {split!r}; there are: {', '.join(known)}")
    return split


def pick(what: str, split: str, splits: Mapping[str, T]) -> T:
    """The publisher's name of a split.

    Raises:
        UsageError: naming the splits there are.
    """
    return splits[one_of(what, split, splits)]


def optional(module: str, path: Path) -> Any:
    """Import a module that only some sets need.

    Raises:
        MissingData: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise MissingData(
            f"{path} cannot be read without {package}, which is not installed: pip install {package}"
        ) from error

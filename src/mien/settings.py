"""Where things are on this machine: `MIEN_*` first, then `mien.toml` in the working folder."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from mien.errors import MissingData, UsageError

FILE = "mien.toml"


def _toml() -> dict[str, dict[str, str]]:
    path = Path(FILE)
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{FILE} is not valid TOML: {e}") from e


def data_root() -> Path:
    """The folder of labelled data: `MIEN_DATA`, or `[data] root` in mien.toml.

    Raises:
        MissingData: neither names a folder that exists.
    """
    return _folder("MIEN_DATA", "root")


def data_more_root() -> Path:
    """The folder of the second data pack: `MIEN_DATA_MORE`, or `[data] more` in mien.toml.

    Raises:
        MissingData: neither names a folder that exists.
    """
    return _folder("MIEN_DATA_MORE", "more")


def _folder(variable: str, key: str) -> Path:
    named = os.environ.get(variable) or _toml().get("data", {}).get(key)
    if not named:
        raise MissingData(f'no data folder is set; set {variable}, or [data] {key} = "..." in mien.toml')
    path = Path(named)
    if not path.is_dir():
        raise MissingData(f"the data folder {named!r} does not exist; set {variable}, or [data] {key} in mien.toml")
    return path


def cache_root() -> Path:
    """Where decoded pictures are kept: `MIEN_CACHE`, or `[cache] root`, or `.cache`; made when missing."""
    path = Path(os.environ.get("MIEN_CACHE") or _toml().get("cache", {}).get("root") or ".cache")
    path.mkdir(parents=True, exist_ok=True)
    return path

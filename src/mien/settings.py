"""This machine: where things are (`MIEN_*` first, then `mien.toml` in the working folder), and how many cores
may be used.
"""

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
    """The folder of labeled data: `MIEN_DATA`, or `[data] root` in mien.toml.

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
        raise MissingData(
            f"the data folder {named!r} does not exist; set {variable}, or [data] {key} in mien.toml"
        )
    return path


def cache_root() -> Path:
    """Where decoded pictures are kept: `MIEN_CACHE`, or `[cache] root`, or `.cache`; made when missing."""
    path = Path(os.environ.get("MIEN_CACHE") or _toml().get("cache", {}).get("root") or ".cache")
    path.mkdir(parents=True, exist_ok=True)
    return path


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that a container is given (cgroup 2 or 1); None for no limit."""
    two, one = root / "cpu.max", root / "cpu" / "cpu.cfs_quota_us"
    if two.is_file():
        limit, _, period = two.read_text().strip().partition(" ")
        return None if limit == "max" else int(limit) / int(period or 100_000)
    if one.is_file() and int(one.read_text()) > 0:
        return int(one.read_text()) / int((root / "cpu" / "cpu.cfs_period_us").read_text())
    return None


def inference_threads() -> int:
    """Threads of a forward pass where none were named: all cores that may be used, and no more than a
    container's quota.

    More threads than the quota has cores wait for each other: the kernel stops all of them for the rest of
    each period.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return usable if quota is None else max(1, min(usable, int(quota)))

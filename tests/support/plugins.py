"""Installed plug-ins, as pip leaves them: modules next to a .dist-info folder."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

PAGE = Path("docs/adding.md")


def install(
    site: Path,
    package: str,
    version: str,
    entry_points: Mapping[str, Mapping[str, str]],
    files: Mapping[str, str],
) -> None:
    """Write a package into a folder of `sys.path`.

    entry_points: group -> name -> "module:object". files: path below the folder -> text.
    """
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [
        line
        for group, names in entry_points.items()
        for line in (f"[{group}]", *(f"{n} = {value}" for n, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def install_documented(site: Path) -> None:
    """The package of docs/adding.md, word for word."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Write a plug-in\n")[2]
    (project,) = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    described = tomllib.loads(project)["project"]
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", text, re.M | re.S)
    files = {"mien_hats/__init__.py": "", **dict(blocks)}
    install(site, described["name"], described["version"], described["entry-points"], files)

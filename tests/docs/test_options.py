"""Every option that the documentation shows for a `mien` command exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from mien.cli import app

PAGES = sorted([Path("README.md"), *Path("docs").glob("**/*.md")])
COMMAND = re.compile(r"(?:^|[\s`$(])mien ((?:[a-z]+)(?:[^\n`|]|\\\n)*)")


def known(command: Any) -> set[str]:
    """The options of a command."""
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def shown(page: Path) -> list[tuple[str, list[str]]]:
    """(command line, its words) of each `mien` command on a page."""
    text = page.read_text(encoding="utf-8")
    lines = [m[1].split("  #")[0] for m in COMMAND.finditer(text)]
    return [(line, line.replace("\\\n", " ").split()) for line in lines]


def test_lines_are_found() -> None:
    assert sum(len(shown(page)) for page in PAGES) > 80


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_shown_options_exist(page: Path) -> None:
    top: Any = typer.main.get_command(app)
    for line, words in shown(page):
        command, rest = top, words
        while rest and hasattr(command, "commands") and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        if command is top or command.name == "train":  # recipes have options of their own
            continue
        used = {w.split("=")[0] for w in rest if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", w)}
        assert used <= known(command), f"{page}: mien {line}: {used - known(command)}"

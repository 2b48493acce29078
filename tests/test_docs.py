"""What the documents show is run: Python blocks, and commands that read the examples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mien.cli import app

PAGES = ["README.md", *sorted(str(p) for p in Path("docs").rglob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", Path(page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")])
def test_python_blocks_run_in_order(page, capsys):
    scope: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)
    assert "__builtins__" in scope


COMMANDS = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("mien ")]


def test_there_are_commands_to_run():
    assert any(c.startswith("mien analyze") for c in COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("mien analyze")])
def test_commands_on_the_examples_run(command, tmp_path):
    words = [str(tmp_path / w.removeprefix("out/")) if w.startswith("out") else w for w in shlex.split(command.split("#")[0])[1:]]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("mien analyze")])
def test_other_commands_exist_with_their_options(command):
    words = shlex.split(command.split("#")[0])
    text = CliRunner().invoke(app, [words[1], "--help"]).output
    for word in words[2:]:
        if word.startswith("--") and words[1] != "train":  # a recipe adds flags of its own
            assert word in text, word


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", Path(page).read_text(encoding="utf-8")):
            assert (Path(page).parent / target).exists(), f"{page} -> {target}"

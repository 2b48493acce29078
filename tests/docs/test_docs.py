"""What the documents show is run: Python blocks, commands that read the examples, and the tables of the
systems' pages.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import tempfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mien.cli import app, load_recipe, recipe_arguments
from mien.models import MODELS
from mien.tasks import TASKS
from mien.training import checkpoint

PAGES = ["README.md", *sorted(str(p) for p in Path("docs").rglob("*.md"))]
SYSTEMS = sorted(p.stem for p in Path("docs/papers").glob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """Each with as many empty lines before it as make a traceback's line the page's."""
    text = Path(page).read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return ["\n" * text.count("\n", 0, m.start(1)) + m[1] for m in found]


@pytest.fixture
def _catalogues():
    """A page may put a task or a system of its own in the catalogues; other tests must not see it."""
    kept = [(c, dict(c)) for c in (TASKS, MODELS)]
    yield
    for catalogue, before in kept:
        catalogue.clear()
        catalogue.update(before)


@pytest.mark.usefixtures("_catalogues")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")])
def test_python_blocks_run_in_order(page, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scope: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)
    assert "__builtins__" in scope


# --- Commands

LINES = [
    line
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("mien ")
]
COMMANDS = list(dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in LINES))


def words_of(command: str) -> list[str]:
    return shlex.split(command)[1:]


def commands(*verbs: str) -> list[str]:
    return [c for c in COMMANDS if words_of(c)[0] in verbs]


def test_there_are_commands_to_run():
    assert len(commands("analyze")) > 8
    assert len(commands("train")) > 12
    assert len(commands("analyze", "train", "evaluate", "export")) == len(COMMANDS)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """RUN folder's name -> a folder with the untrained weights of the system of that name."""
    made: dict[str, str] = {}

    def run(name: str) -> str:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            checkpoint.save(folder / "model.safetensors", MODELS[name]())
            made[name] = str(folder)
        return made[name]

    return run


@pytest.mark.parametrize("command", commands("analyze"))
def test_commands_on_the_examples_run(command, tmp_path, run_of):
    words = [str(tmp_path / w.removeprefix("out/")) if w.startswith("out") else w for w in words_of(command)]
    words = [run_of(w.removeprefix("runs/")) if w.startswith("runs/") else w for w in words]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output + str(done.exception)


@pytest.mark.parametrize("command", commands("evaluate", "export"))
def test_other_commands_exist_with_their_options(command):
    words = words_of(command)
    text = CliRunner().invoke(app, [words[0], "--help"]).output
    for word in words[1:]:
        if word.startswith("--"):
            assert word in text, word


@pytest.mark.parametrize("command", commands("train"))
def test_recipes_exist_and_know_their_flags(command):
    _, recipe, out, _, *flags = words_of(command)
    assert out == "--out"
    recipe_arguments(load_recipe(Path(recipe)), flags)  # raises where a flag is unknown


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", Path(page).read_text(encoding="utf-8")):
            assert (Path(page).parent / target).exists(), f"{page} -> {target}"


# --- The systems' pages


def page_of(system: str) -> str:
    return Path(f"docs/papers/{system}.md").read_text(encoding="utf-8")


def test_every_system_has_a_page_and_every_page_a_system():
    assert {builder.__module__.rpartition(".")[2] for builder in MODELS.values()} == {
        *SYSTEMS,
        "detector",
        "mien",
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_tables_give_the_number_of_parameters(system):
    module = importlib.import_module(f"mien.models.{system}")
    rows = re.findall(r"^\| `(\w+\(.*?\))` \| ([\d,]+) \|", page_of(system), re.M)
    assert len(rows) >= 2
    for call, number in rows:
        with torch.device("meta"):  # shapes without memory
            model = eval(call, dict(vars(module)))
        assert f"{sum(p.numel() for p in model.parameters()):,}" == number, call


@pytest.mark.parametrize("system", SYSTEMS)
def test_pages_name_every_keyword_argument(system):
    """Where a paper is silent they are the choices."""
    module = importlib.import_module(f"mien.models.{system}")
    made = [
        m
        for _, m in inspect.getmembers(module, lambda m: inspect.isclass(m) or inspect.isfunction(m))
        if m.__module__ == module.__name__
    ]
    chosen = {
        p.name for m in made for p in inspect.signature(m).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    assert len(chosen) >= 5
    assert sorted(n for n in chosen if f"`{n}`" not in page_of(system)) == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_pages_say_what_is_known_and_what_is_not_claimed(system):
    page = page_of(system)
    for heading in ("Exact", "Ours", "Unknown", "Sizes", "Numbers", "Limits"):
        assert f"\n## {heading}\n" in page
    assert re.search(r"no\s+published\s+(number|accuracy)\s+is\s+claimed\s+to\s+be\s+reproduced", page)
    assert "](../comparison.md)" in page

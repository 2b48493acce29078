"""Names use the words of the field: no name in src, recipes and bench has a word of `REPLACED`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

FILES = [p for d in ("src", "recipes", "bench") for p in sorted((ROOT / d).rglob("*.py"))]
# word -> what to write instead
REPLACED = {
    "alike": "similar, possible_duplicate",
    "answerable": "supported_tasks",
    "apart": "separate, distinct, photos",
    "asked": "requested",
    "beside": "next_to",
    "borrow": "paste_background",
    "colour": "color",
    "excerpt": "pruned graph",
    "film": "video, container",
    "lean": "label_offset_x",
    "least": "minimum",
    "licence": "license",
    "mend": "fix",
    "most": "maximum",
    "said": "message, confidence",
    "surer": "confident",
    "surround": "fill_border",
    "suspect": "candidate",
    "theirs": "other, exported, expected",
    "told": "log, message",
    "watched": "validation_protocols",
}


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each function, class, parameter, attribute and variable that a module makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def words(name: str) -> set[str]:
    return {w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


@pytest.mark.parametrize("folder", ["src", "recipes", "bench"])
def test_names_have_no_replaced_word(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name} ({REPLACED[word]})"
        for path in FILES
        if path.is_relative_to(ROOT / folder)
        for line, name in names(ast.parse(path.read_text(encoding="utf-8")))
        for word in words(name.replace("at_least", "")) & set(REPLACED)
    ]
    assert not found, "\n".join(found)


def test_a_replaced_word_is_found() -> None:
    tree = ast.parse(
        "class Told:\n    def f(self, least_ms):\n        self.theirs = colour = 1\n    ALIKE = 2"
    )
    found = {word for _, name in names(tree) for word in words(name) & set(REPLACED)}
    assert found == {"told", "least", "theirs", "colour", "alike"}

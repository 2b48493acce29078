"""What every command takes: --quiet, --verbose, --thorough; and the help of a recipe."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app
from mien.cli.train import option_rows
from mien.errors import UsageError


def invoke(*words: str):
    return CliRunner().invoke(app, [*words, "--threads", "1"])


def test_quiet_leaves_results_and_errors(tmp_path, astronaut) -> None:
    (tmp_path / "bad.png").write_bytes(b"nope")
    words = [
        "analyze",
        astronaut,
        str(tmp_path / "bad.png"),
        "--tasks",
        "age",
        "-o",
        str(tmp_path / "a.jsonl"),
    ]
    loud, quiet = invoke(*words), invoke(*words, "-q")
    assert "years" in loud.stdout
    assert quiet.stdout == ""
    for done in (loud, quiet):
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1, "a photo that fails is reported once"
        assert done.stderr.startswith("mien: ")
        assert "bad.png" in done.stderr
    assert len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_verbose_tells_stages_and_shows_the_traceback(astronaut) -> None:
    words = ["analyze", astronaut, "--tasks", "age", "-o", "-"]
    done = invoke(*words, "-v")
    assert re.search(r"mien: \S+astronaut.jpg: 1 faces; decode [\d.]+ ms, detect", done.stderr)
    assert json.loads(done.stdout)["faces"]
    assert invoke(*words).stderr == ""
    failed = invoke("analyze", astronaut, "--tasks", "agee", "-v")
    assert "Traceback" in failed.stderr
    assert "agee" in failed.stderr
    assert not logging.getLogger("mien").handlers
    assert logging.getLogger("mien").level == logging.NOTSET


def test_a_turned_face_is_found_with_thorough_and_its_record_and_line_say_so(tmp_path, astronaut) -> None:
    with Image.open(astronaut) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png")
    out = tmp_path / "faces.jsonl"
    done = invoke("analyze", str(tmp_path / "turned.png"), "--thorough", "--tasks", "age", "--out", str(out))
    assert done.exit_code == 0, done.output
    (face,) = json.loads(out.read_text(encoding="utf-8"))["faces"]
    assert abs(face["roll"]) == pytest.approx(180, abs=10)
    assert f"turned by {face['roll']:.0f} degrees" in done.stdout


RECIPE = '''
def recipe(*, steps: int = 5, lr: float = 0.1, deep: bool = False, start: str = ""):
    """Nothing to train.

    Args:
        steps: number of training steps. lr: learning rate; of AdamW,
            with warm-up.
        deep, start: as in the paper.
    """
'''


def test_help_of_a_recipe_lists_its_options(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(RECIPE, encoding="utf-8")
    text = CliRunner().invoke(app, ["train", str(path), "-h"], terminal_width=200).output
    rows = text.partition(f"Recipe options of {path}:\n")[2].splitlines()
    assert [re.sub(r" {2,}", "  ", row.strip()) for row in rows] == [
        "--steps N  Number of training steps.  [default: 5]",
        "--lr X  Learning rate; of AdamW, with warm-up.  [default: 0.1]",
        "--deep yes|no  As in the paper.  [default: no]",
        "--start TEXT  As in the paper.",
    ]
    assert "Recipe options" not in CliRunner().invoke(app, ["train", "-h"]).output


def test_help_of_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(tmp_path / "none.py"), "--help"])
    assert isinstance(done.exception, UsageError)
    path = tmp_path / "broken.py"
    path.write_text("import no_such_package\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["train", str(path), "--help"])
    assert "no_such_package" in str(done.exception)
    assert "pip install 'mien[train]'" in str(done.exception)


@pytest.mark.heavy
@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.py"), key=str))
def test_every_option_of_the_recipes_is_explained(path: Path) -> None:
    from mien.cli import load_recipe

    if "def recipe(" not in path.read_text(encoding="utf-8"):
        pytest.skip("no recipe")
    rows = option_rows(load_recipe(path))
    assert rows
    for flag, text in rows:
        assert text.partition("[default")[0].strip(), f"{path}: {flag} has no text in the Args section"

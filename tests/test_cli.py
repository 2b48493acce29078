"""The command line as people and scripts use it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mien import checkpoint
from mien.cli import app, load_recipe, output_names, recipe_arguments, table_lines
from mien.errors import UsageError
from mien.models.qface import qface_tiny


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mien", *words], capture_output=True, text=True, check=False)


def invoke(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    (folder / "in ner").mkdir(parents=True)
    shutil.copy("examples/astronaut.jpg", folder / "a.jpg")
    shutil.copy("examples/grace_hopper.jpg", folder / "in ner" / "ü\nb.jpg")
    return folder


def test_a_folder_gives_a_line_a_photo(album, tmp_path):
    out = tmp_path / "deep" / "faces.jsonl"
    done = invoke(
        "analyze", str(album), "--out", str(out), "--draw", str(tmp_path / "drawn"), "--masks", str(tmp_path / "masks"), "--threads", "1"
    )
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [len(r["faces"]) for r in rows] == [1, 1]
    assert rows[1]["path"].endswith("ü\nb.jpg")
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 2
    mask = Image.open(tmp_path / "masks" / "a-1.png")
    assert mask.mode == "P"
    assert mask.size == (512, 512)
    assert set(np.unique(np.asarray(mask))) <= {*range(19), 255}
    assert "years" in done.output


def test_json_is_one_array(album, tmp_path):
    out = tmp_path / "faces.json"
    assert invoke("analyze", str(album), "--out", str(out), "--tasks", "age", "--threads", "1").exit_code == 0
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == 2
    assert set(rows[0]["faces"][0]) == {"box", "score", "points5", "age"}


def test_piped_output_is_json_lines_and_errors_go_to_stderr(album):
    (album / "bad.png").write_bytes(b"nope")
    done = run("analyze", str(album), "missing.jpg", "--threads", "1")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    errors = {os.path.basename(r["path"]): r["error"]["code"] for r in rows if "error" in r}
    assert errors == {"bad.png": "not_a_picture", "missing.jpg": "not_found"}
    assert sum("faces" in r for r in rows) == 2
    assert sum(line.startswith("mien: ") for line in done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("analyze",), "Missing argument"),
        (("analyze", "examples", "--out", "x.xml"), "FILE.jsonl, FILE.json or -"),
        (("analyze", "examples", "--tasks", "agee"), "does not answer 'agee'"),
        (("analyze", "examples", "--batch", "0"), "batch"),
        (("analyze", "examples", "--masks", "m", "--tasks", "age"), "parsing"),
        (("analyze", "examples", "--weights", "no.onnx"), "no.onnx"),
        (("analyze", "examples", "--attention", "never"), "gives answers only"),
        (("analyze", "examples", "--label", "Eyeglasses"), "--attention FOLDER"),
        (("evaluate", "--protocol", "nope"), "no protocol 'nope'"),
        (("train", "no.py", "--out", "x"), "no recipe 'no.py'"),
        (("nonsense",), "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_two(words, said):
    done = run(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_pictures_is_wrong_usage(tmp_path):
    done = run("analyze", str(tmp_path))
    assert done.returncode == 2
    assert "holds no pictures" in done.stderr


def test_names_of_outputs_do_not_collide():
    assert output_names(["a/x.jpg", "b/x.png", "y.jpg"]) == ["x", "x-2", "y"]


def test_the_table_of_a_failed_photo():
    assert list(table_lines({"path": "p.jpg", "error": {"code": "truncated", "message": "..."}})) == ["p.jpg: not read (truncated)"]


def test_recipe_arguments_become_flags(tmp_path):
    path = tmp_path / "r.py"
    path.write_text("def recipe(*, steps: int = 5, lr: float = 0.1, deep: bool = False):\n    return steps, lr, deep\n")
    make = load_recipe(path)
    assert make(**recipe_arguments(make, ["--steps", "7", "--deep", "true"])) == (7, 0.1, True)
    for words, said in ((["--stops", "7"], "no setting --stops"), (["--steps", "many"], "takes a int"), (["--steps"], "--name value")):
        with pytest.raises(UsageError, match=said):
            recipe_arguments(make, words)
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="no function recipe"):
        load_recipe(path)


TOY_RECIPE = '''
"""A drawn face learned in a few steps."""
import torch
from mien.data import FaceSource, toy
from mien.data.augment import Augment
from mien.data.mix import Mixture
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, LANDMARKS
from mien.train import Recipe, cosine

def recipe(*, steps: int = 2, seed: int = 1) -> Recipe:
    torch.manual_seed(seed)
    model = faceptor_tiny(tasks=(LANDMARKS, AGE), size=64)
    mixture = Mixture([(FaceSource(toy.toy(n=4), model.view, Augment()), 2)], model.tasks, seed=seed, size=model.view.size)
    return Recipe("toy", model, mixture, torch.optim.AdamW(model.parameters(), lr=1e-3), cosine(1), steps, seed=seed, data=("toy",))
'''


def test_train_resume_export_and_read_with_the_result(tmp_path):
    (tmp_path / "toy.py").write_text(TOY_RECIPE)
    words = ["train", str(tmp_path / "toy.py"), "--out", str(tmp_path / "run"), "--threads", "1", "--steps", "2"]
    assert invoke(*words).exit_code == 0
    again = run(*words)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert invoke(*words, "--resume").exit_code == 0
    done = invoke("export", str(tmp_path / "run"), str(tmp_path / "toy.onnx"))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "toy.json").read_text())["recipe"] == "toy"
    for weights in (tmp_path / "toy.onnx", tmp_path / "run"):
        out = tmp_path / "faces.json"
        read = invoke("analyze", "examples/astronaut.jpg", "--weights", str(weights), "--out", str(out), "--threads", "1")
        assert read.exit_code == 0, read.output
        face = json.loads(out.read_text())[0]["faces"][0]
        assert {"landmarks", "age", "pose"} <= set(face)
        assert "expression" not in face  # a model that does not answer a task does not invent it


def test_attention_draws_sheets_or_one_label(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "model.safetensors", qface_tiny(size=64))
    words = ["analyze", "examples/astronaut.jpg", "--weights", str(tmp_path / "run"), "--threads", "1", "--attention"]
    assert invoke(*words, str(tmp_path / "all")).exit_code == 0
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"astronaut-1-attributes.jpg", "astronaut-1-expression.jpg"}
    assert invoke(*words, str(tmp_path / "one"), "--label", "Eyeglasses").exit_code == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["astronaut-1-attributes-Eyeglasses.jpg"]
    assert invoke(*words, str(tmp_path / "few"), "--tasks", "age,expression").exit_code == 0
    assert [p.name for p in (tmp_path / "few").iterdir()] == ["astronaut-1-expression.jpg"]
    refused = invoke(*words, str(tmp_path / "none"), "--label", "Beard")
    assert isinstance(refused.exception, UsageError)
    assert "no label 'Beard'" in str(refused.exception)
    assert not (tmp_path / "none").exists()

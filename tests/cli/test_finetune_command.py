"""`mien finetune` and `mien merge` on the command line: output, exit codes and messages."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mien.cli import app
from mien.errors import UsageError
from tests.support import drawn_labels

pytestmark = pytest.mark.heavy  # the commands import torch


@pytest.fixture(scope="module")
def home(tmp_path_factory, reader):
    root = tmp_path_factory.mktemp("command")
    drawn_labels.class_folders(root / "masks", reader, 24, seed=5)
    return root


@pytest.fixture(autouse=True)
def _cache(home, monkeypatch):
    monkeypatch.setenv("MIEN_CACHE", str(home / "cache"))


def run(*words):
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done


def test_from_folders_to_a_table_of_answers(home):
    out = home / "masked.onnx"
    done = run("finetune", home / "masks", "--name", "masked", "--out", out, "--threads", 1)
    assert "masked: choice of none, worn" in done.stdout
    assert "old answers: bit for bit as before" in done.stdout
    assert "next: " in done.stdout
    assert "validation loss" in done.stderr
    picture = next((home / "masks" / "worn").iterdir())
    run("analyze", "--weights", out, picture, "--tasks", "masked,age", "--out", home / "o.jsonl",
        "--draw", home / "d", "--sheet", home / "s.html", "--threads", 1)  # fmt: skip
    record = json.loads((home / "o.jsonl").read_text(encoding="utf-8"))
    assert set(record["faces"][0]["masked"]["probabilities"]) == {"none", "worn"}
    assert (home / "d").is_dir()
    about = run("models", "--weights", out, "--no-builders").stdout
    assert "masked (masked-" in about

    kinds = {"covered": lambda kind, i: kind}
    data = drawn_labels.table(home, home / "masks", kinds)
    done = run(
        "finetune", data, "--name", "covered", "--out", home / "covered.onnx", "--threads", 1, "--json", "-q"
    )
    assert json.loads(done.stdout)["kind"] == "attributes"
    assert not done.stderr
    done = run("merge", out, home / "covered.onnx", "--out", home / "both.onnx")
    assert done.stdout.strip().endswith("both.onnx: masked, covered")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "masked", "--out", "m.txt"], "FILE.onnx"),
        (["--name", "Mask!", "--out", "m.onnx"], "is not a name for a task"),
        (["--name", "masked", "--out", "m.onnx", "--kind", "masks"], "a folder with the folders images and"),
        (["--name", "masked", "--out", "m.onnx", "--kind", "number"], "give a .csv or .parquet table"),
    ],
)
def test_wrong_words_say_the_fix(home, words, message):
    done = CliRunner().invoke(app, ["finetune", str(home / "masks"), *words])
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)


def test_merge_takes_two_files_and_another_one():
    for words, message in (
        (["a.onnx", "--out", "b.onnx"], "two files"),
        (["a.onnx", "b.onnx", "--out", "a.onnx"], "itself"),
    ):
        done = CliRunner().invoke(app, ["merge", *words])
        assert isinstance(done.exception, UsageError)
        assert message in str(done.exception)

"""From a recipe to a network that `mien analyze` uses, and the commands for torch weights."""

from __future__ import annotations

import json

import torch

from mien.errors import UsageError
from mien.models.qface import qface_tiny
from mien.training import checkpoint
from tests.cli.test_cli import invoke, run
from tests.support.toy_recipe import TOY_RECIPE


def test_train_resume_export_and_read_with_the_result(tmp_path):
    (tmp_path / "toy.py").write_text(TOY_RECIPE)
    words = [
        "train",
        str(tmp_path / "toy.py"),
        "--out",
        str(tmp_path / "run"),
        "--threads",
        "1",
        "--steps",
        "2",
    ]
    assert invoke(*words).exit_code == 0
    again = run(*words)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert invoke(*words, "--resume").exit_code == 0
    done = invoke("export", str(tmp_path / "run"), "-o", str(tmp_path / "toy.onnx"))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "toy.json").read_text())["recipe"] == "toy"
    for weights in (tmp_path / "toy.onnx", tmp_path / "run"):
        out = tmp_path / "faces.json"
        read = invoke(
            "analyze",
            "examples/astronaut.jpg",
            "--weights",
            str(weights),
            "--out",
            str(out),
            "--threads",
            "1",
        )
        assert read.exit_code == 0, read.output
        face = json.loads(out.read_text())[0]["faces"][0]
        assert {"landmarks", "age", "pose"} <= set(face)
        assert "expression" not in face  # a model that does not answer a task does not invent it


def test_attention_draws_sheets_or_one_label(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "model.safetensors", qface_tiny(size=64))
    words = [
        "analyze",
        "examples/astronaut.jpg",
        "--weights",
        str(tmp_path / "run"),
        "--threads",
        "1",
        "--attention",
    ]
    assert invoke(*words, str(tmp_path / "all")).exit_code == 0
    assert {p.name for p in (tmp_path / "all").iterdir()} == {
        "astronaut-1-attributes.jpg",
        "astronaut-1-expression.jpg",
    }
    assert invoke(*words, str(tmp_path / "one"), "--label", "Eyeglasses").exit_code == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["astronaut-1-attributes-Eyeglasses.jpg"]
    assert invoke(*words, str(tmp_path / "few"), "--tasks", "age,expression").exit_code == 0
    assert [p.name for p in (tmp_path / "few").iterdir()] == ["astronaut-1-expression.jpg"]
    refused = invoke(*words, str(tmp_path / "none"), "--label", "Beard")
    assert isinstance(refused.exception, UsageError)
    assert "no label 'Beard'" in str(refused.exception)
    assert not (tmp_path / "none").exists()

"""`mien models`: what the weights are, and for what they may be used."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from typer.testing import CliRunner

from mien.cli import app
from mien.cli import entry as cli
from mien.errors import BadWeights, UsageError
from mien.inference import provenance
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["models", *words])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


@pytest.fixture
def weights(tmp_path):
    """A copy whose provenance a test may change."""
    shutil.copy(WEIGHTS / "detector.onnx", tmp_path / "own.onnx")
    record = json.loads((WEIGHTS / "detector.json").read_text(encoding="utf-8"))

    def write(**changes):
        kept = {k: v for k, v in (record | changes).items() if v is not None}
        (tmp_path / "own.json").write_text(json.dumps(kept), encoding="utf-8")
        return str(tmp_path / "own.onnx")

    return write


@pytest.mark.heavy
def test_weights_and_builders_are_listed() -> None:
    from mien.models import MODELS

    found = json.loads(run("--json"))
    by = {w["file"]: w for w in found["weights"]}
    assert list(by) == ["detector.onnx", "mien.onnx"]
    for name, one in by.items():
        model = OnnxModel(WEIGHTS / name, threads=1)
        assert one["sha256"] == model.sha256
        assert one["bytes"] == (WEIGHTS / name).stat().st_size
        assert one["view"] == model.view.to_dict()
        assert list(one["tasks"]) == [t.name for t in model.tasks]
        assert one["uses"] == ["research"]
        assert one["sets"]
    assert list(found["builders"]) == list(MODELS)
    assert all(found["builders"].values())


@pytest.mark.heavy
def test_text_for_people() -> None:
    from mien.models import MODELS

    text = run()
    for word in (
        "mien.onnx",
        "license",
        "celeba:",
        "template",
        "landmarks (ibug68)",
        provenance.read(WEIGHTS / "mien.onnx").sha256,
    ):
        assert word in text
    assert all(f"  {name} " in text for name in MODELS)
    assert "builders" not in run("--no-builders")


def test_every_training_set_has_its_terms() -> None:
    for one in provenance.embedded():
        assert set(one.record["data"]) <= set(one.sets)
        assert "license not stated" not in one.sets.values()


def test_commercial_use_is_refused_with_exit_code_2(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["mien", "models", "--license", "commercial"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "detector.onnx is not for commercial use: research use only" in told.err
    assert "photos (photographs" in told.err


def test_research_is_allowed_and_other_words_are_not() -> None:
    assert "mien.onnx" in run("--license", "research", "--no-builders")
    with pytest.raises(UsageError, match="research or commercial use, not 'military'"):
        provenance.read(WEIGHTS / "mien.onnx").demand("military")


def test_what_the_file_allows_is_allowed_and_silence_allows_nothing(weights) -> None:
    assert "own.onnx" in run("--weights", weights(uses=["research", "commercial"]), "--license", "commercial")
    zero_loss = provenance.read(weights(uses=None))
    for use in provenance.USES:
        with pytest.raises(UsageError, match="does not say what it may be used for"):
            zero_loss.demand(use)
    assert "none is stated" in run("--weights", weights(uses=None))


def test_the_license_of_an_older_file_is_read(weights) -> None:
    path = weights(license=None, licence="MIT")
    assert provenance.read(path).license == "MIT"


def test_provenance_of_another_file_is_refused(weights, tmp_path) -> None:
    with pytest.raises(BadWeights, match=r"own\.onnx is not the file that own\.json describes"):
        provenance.read(weights(sha256="0" * 64))
    path = weights(header=None)
    with pytest.raises(BadWeights, match="is not a provenance file"):
        provenance.read(path)
    os.remove(tmp_path / "own.json")
    with pytest.raises(BadWeights, match="cannot be read"):
        provenance.read(path)


def test_without_torch_weights_are_listed_all_the_same(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    assert "mien.onnx" in done.stdout
    assert "builders\n" not in done.stdout
    assert "pip install 'mien[train]'" in done.stderr


def test_calibration_is_shown(weights) -> None:
    assert "read at   no temperatures" in run("--weights", weights())
    assert "read at   faces 1.5 (temperatures)" in run(
        "--weights", weights(calibration={"temperatures": {"faces": 1.5}})
    )

"""`mien analyze --workers N`: the records and pictures of one process, in the same order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app
from mien.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("photos")
    one = Image.open("examples/astronaut.jpg").convert("RGB").crop((130, 10, 320, 200)).resize((120, 120))
    for i in range(10):  # more than one group of eight
        one.rotate(3 * i).save(made / f"{i}.jpg")
    (made / "5.jpg").write_bytes(b"no picture")
    return made


def run(folder: Path, out: Path, *more: str):
    words = ["analyze", str(folder), "--out", str(out), "--tasks", "age,landmarks", "--threads", "1", *more]
    return CliRunner().invoke(app, words)


def records(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "timing_ms"} for line in lines]


@pytest.mark.heavy
def test_records_order_and_pictures_are_those_of_one_process(folder, tmp_path) -> None:
    one = run(folder, tmp_path / "one.jsonl", "--crops", str(tmp_path / "crops1"))
    two = run(folder, tmp_path / "two.jsonl", "--crops", str(tmp_path / "crops2"), "--workers", "2")
    assert (one.exit_code, two.exit_code) == (1, 1), (one.output, two.output)
    assert records(tmp_path / "two.jsonl") == records(tmp_path / "one.jsonl")
    assert [Path(r["path"]).name for r in records(tmp_path / "two.jsonl")] == [f"{i}.jpg" for i in range(10)]
    assert "error" in records(tmp_path / "two.jsonl")[5]
    assert "5.jpg" in two.stderr
    first = {p.name: p.read_bytes() for p in (tmp_path / "crops1").iterdir()}
    assert len(first) == 9
    assert {p.name: p.read_bytes() for p in (tmp_path / "crops2").iterdir()} == first


def test_the_contact_sheet_is_made_by_one_process(folder, tmp_path) -> None:
    done = run(folder, tmp_path / "x.jsonl", "--sheet", str(tmp_path / "s.html"), "--workers", "2")
    assert isinstance(done.exception, UsageError)
    assert "--sheet is made by one process" in str(done.exception)

"""The commands of docs/finetune.md, in their order, on drawn pictures; and the new task on a server."""

from __future__ import annotations

import io
import re
import shlex
import warnings
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import mien
from mien.cli import app
from tests.support import drawn_labels

PAGE = Path("docs/finetune.md")
RUN = ("finetune", "merge")  # and what analyzes photo.jpg


def commands():
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("mien ")))


def test_the_page_runs_from_pictures_to_a_served_task(tmp_path, monkeypatch, reader):
    lines = commands()
    assert len(lines) >= 8
    drawn_labels.class_folders(tmp_path / "hair", reader, 24, seed=9)
    (tmp_path / "hair" / "none").rename(tmp_path / "hair" / "straight")
    (tmp_path / "hair" / "worn").rename(tmp_path / "hair" / "curly")
    found = sorted((tmp_path / "hair").rglob("*.png"))
    kinds = [p.parent.name == "curly" for p in found]
    for name, values in {
        "glasses": [int(k) for k in kinds],
        "heights": [150 + 20 * k + 0.5 * (i % 9) for i, k in enumerate(kinds)],
    }.items():
        rows = "".join(f"{p},{v}\n" for p, v in zip(found, values, strict=True))
        (tmp_path / f"{name}.csv").write_text("path,value\n" + rows, encoding="utf-8")
    coco, _ = drawn_labels.annotated(tmp_path, reader, 16)
    text = coco.read_text(encoding="utf-8").replace('"file_name": "', '"file_name": "masks/images/')
    (tmp_path / "points.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr("mien.training.finetune.dense.STEPS", (5, 5))
    Image.open(found[0]).convert("RGB").save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    ran = list[str]()
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] in RUN or "photo.jpg" in words:
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, line + done.output + str(done.exception)
            ran.append(words[0])
    assert ran.count("finetune") == 5
    assert "analyze" in ran
    assert (tmp_path / "hair-report" / "report.md").is_file()
    assert {"hair", "glasses", "age"} <= set(mien.load("both.onnx", threads=1).requested)

    pytest.importorskip("fastapi")
    with warnings.catch_warnings():  # a newer Starlette asks for another HTTP client
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        from fastapi.testclient import TestClient

    from mien.server.app import app as serve

    with TestClient(serve(mien.load("both.onnx", threads=1)), base_url="http://127.0.0.1") as client:
        told = {t["name"]: t for t in client.get("/v1/models").json()["models"][0]["tasks"]}
        assert told["hair"]["default"]
        assert told["glasses"]["sensitive"]
        data = io.BytesIO(Path("photo.jpg").read_bytes())
        answer = client.post("/v1/analyze", files={"image": ("photo.jpg", data, "image/jpeg")})
        assert answer.status_code == 200, answer.text
        faces = answer.json()["results"][0]["faces"]
        assert set(faces[0]["hair"]["probabilities"]) == {"curly", "straight"}

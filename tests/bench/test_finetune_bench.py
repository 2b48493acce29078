"""The page and the curve of `bench.finetune`, from made-up scores."""

from __future__ import annotations

from pathlib import Path

from bench import finetune
from tests.conftest import ROOT


def test_the_table_and_the_curve_are_written(tmp_path, monkeypatch):
    page, curve = tmp_path / "page.md", tmp_path / "curve.svg"
    page.write_text((ROOT / "docs" / "finetune.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(finetune, "PAGE", page)
    monkeypatch.setattr(finetune, "CURVE", curve)
    lines = [
        {"task": t, "system": s, "per_class": n, "seed": k, "mean_class_accuracy": 10.0 * (k + 1)}
        for t in finetune.TASKS
        for s in finetune.SYSTEMS
        for n in finetune.COUNTS[:3]
        for k in (0, 1)
    ]
    finetune.write({"results": lines})
    text = page.read_text(encoding="utf-8")
    assert "| mask | full | 15.0 | 15.0 | 15.0 |  |" in text
    assert text.count(finetune.BEGIN) == text.count(finetune.END) == 1
    assert curve.read_text(encoding="utf-8").count("<polyline") == len(finetune.TASKS) * len(finetune.SYSTEMS)
    finetune.write({"results": lines})
    assert page.read_text(encoding="utf-8") == text
    assert Path(finetune.CURVE).name in text

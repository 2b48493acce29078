"""Every output that README and docs print equals the real one: text exactly, numbers within a tolerance,
timings ignored.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if sys.platform == "win32":
    pytest.skip("printed outputs are made on a pseudo-terminal", allow_module_level=True)

from bench.refresh_docs import PICTURE, TIMING, draw, pages, printed, real, refreshed

OUTPUTS = [(page, output) for page in pages() for output in printed(page.read_text(encoding="utf-8"))]

# Not the digits of a name such as "points5" or of a hash; the x of "91x119" may stand between two numbers.
NUMBER = re.compile(r"(?<![A-Za-wyz_\d.])[+-]?\d+(?:\.\d*)?")
COUNT = re.compile(r"\b\d+(?= faces?\b| photos?\b| people\b)")


def split(text: str) -> tuple[list[str], list[float]]:
    """Text without timings -> the words between the numbers, and the numbers."""
    text = TIMING.sub("TIME", text)
    text = COUNT.sub(lambda m: f"COUNT_{m[0]}", text)
    text = re.sub(r"[ \t]+", " ", text).strip()
    return [w.replace(" ", "") for w in NUMBER.split(text)], [float(n) for n in NUMBER.findall(text)]


def tolerance(value: float) -> float:
    """Fractions: 0.03. Larger numbers (years, degrees, pixels, percent): 2, or 1 % of them."""
    return 0.03 if abs(value) < 1 else max(2.0, 0.01 * abs(value))


def differences(shown: str, now: str) -> list[str]:
    """What differs by more than the tolerance; nothing for equal outputs."""
    (words, numbers), (words_now, numbers_now) = split(shown), split(now)
    if words != words_now:
        return [f"{a!r} is now {b!r}" for a, b in zip(words, words_now, strict=False) if a != b] or [
            "another number of words"
        ]
    return [f"{a} is now {b}" for a, b in zip(numbers, numbers_now, strict=True) if abs(a - b) > tolerance(a)]


def test_there_are_outputs_to_compare():
    assert len(OUTPUTS) >= 6
    assert "README.md" in {page.name for page, _ in OUTPUTS}


@pytest.mark.parametrize(
    ("page", "output"), OUTPUTS, ids=[f"{p.name}-{i}" for i, (p, _) in enumerate(OUTPUTS)]
)
def test_printed_output_is_the_real_one(page: Path, output, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    now = real(output)
    found = differences(output.shown, now)
    assert not found, (
        f"{page.name}, output of {output.command}: {'; '.join(found)}. Run `make refresh-docs`. It prints"
        f" now:\n{now}"
    )


def test_the_picture_is_the_real_one():
    with Image.open(PICTURE) as shown, Image.open(io.BytesIO(draw())) as now:
        assert shown.size == now.size
        difference = np.abs(np.asarray(shown, np.int16) - np.asarray(now, np.int16))
    assert difference.mean() < 1, (
        "docs/faces.jpg is not what the embedded network draws; run `make refresh-docs`"
    )


@pytest.mark.parametrize(
    ("shown", "now"),
    [
        ("1 face, 103 ms", "2 faces, 103 ms"),
        ("13 faces covered", "12 faces covered"),
        ("female 60%", "male 60%"),
        ("20 years", "24 years"),
        ("similarity 0.512", "similarity 0.612"),
        ("91x119 at 179,56", "91x119 at 189,56"),
    ],
)
def test_a_wrong_output_is_noticed(shown: str, now: str):
    assert differences(shown, now)


@pytest.mark.parametrize(
    ("shown", "now"),
    [("1 face, 103 ms", "1 face,  9.5 ms"), ("20 years (11-35)", "21 years (11-36)"), ("yaw +2", "yaw   +1")],
)
def test_a_small_difference_is_not(shown: str, now: str):
    assert not differences(shown, now)


def test_a_page_is_rewritten_in_place():
    code = "```python\nx = 2\n```\n\n```python\nprint(x + 1)\n```\n"
    page = f"a\n\n{code}\n<!-- output of: the Python block above -->\n```text\nold\n```\n\nz\n"
    assert refreshed(page) == page.replace("old", "3")

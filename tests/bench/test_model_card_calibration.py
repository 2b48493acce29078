"""The pages made from the weights, and the calibration that the model card measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.model_card import data
from mien.inference import provenance
from mien.inference.weights_file import WEIGHTS


def test_pages_tell_of_the_weights_in_the_package() -> None:
    """Made again by: python -m bench.model_card.__main__, and: python -m bench.speed.roofline."""
    sha256 = provenance.read(WEIGHTS / "mien.onnx").sha256
    assert sha256 in Path("docs/model-card.md").read_text(encoding="utf-8")
    assert sha256[:12] in Path("docs/benchmark.md").read_text(encoding="utf-8")


def test_the_card_recommends_the_cuts_that_are_recorded() -> None:
    page = Path("docs/model-card.md").read_text(encoding="utf-8")
    known = provenance.read(WEIGHTS / "mien.onnx").record["calibration"]
    for answer, cut in known["abstain"].items():
        assert f'face["{answer}"].confident({cut})' in page
    for task, temperature in known["temperatures"].items():
        assert f"\n| {task}" in page
        assert f"{temperature:.3f} | yes |" in page or task == "age"


@pytest.fixture
def drawn_answers(rng):
    """Answers of a network that is as sure as it is right, on drawn numbers, but for what a test spoils."""
    z = rng.standard_normal((1500, 8)) * 2
    truth = np.array([rng.choice(8, p=np.exp(r) / np.exp(r).sum()) for r in z])
    y = rng.standard_normal((300, 40)) * 3
    yes = (rng.random(y.shape) < 1 / (1 + np.exp(-y))).astype(int)
    years = rng.uniform(20, 60, 300)
    age = -0.5 * ((np.arange(101) - rng.normal(years, 6)[:, None]) / 6) ** 2
    utk = data.People({"age": age, "attributes": y}, yes[:, data.MALE], years, np.zeros(300, int))
    return data.Answers(
        utk,
        {"attributes": y},
        yes,
        np.arange(300),
        {"val": (z[:1000], truth[:1000]), "test": (z[1000:], truth[1000:])},
    )


def test_a_calibrated_network_gets_no_temperature_and_another_does(drawn_answers) -> None:
    a = drawn_answers
    good = data.fit(a)
    assert good.temperatures.get("attributes", 1) == pytest.approx(1, abs=0.1)
    assert good.temperatures.get("expression", 1) == pytest.approx(1, abs=0.1)
    assert "age" not in good.temperatures
    a.fer = {s: (3 * z, y) for s, (z, y) in a.fer.items()}
    a.celeba["attributes"] = 2 * a.celeba["attributes"]
    a.utk.raw["age"] = 4 * a.utk.raw["age"]
    spoilt = data.fit(a)
    assert spoilt.temperatures["expression"] == pytest.approx(3, rel=0.1)
    assert spoilt.temperatures["attributes"] == pytest.approx(2, rel=0.1)
    assert spoilt.temperatures["age"] == pytest.approx(3.5, rel=0.4)
    assert spoilt.covered[0].mean() < 0.7
    assert spoilt.covered[1].mean() == pytest.approx(0.8, abs=0.05)


def test_an_interval_that_covers_more_than_expected_is_not_changed(drawn_answers) -> None:
    drawn_answers.utk.raw["age"] = 0.3 * drawn_answers.utk.raw["age"]
    found = data.fit(drawn_answers)
    assert found.covered[0].mean() > 0.95
    assert "age" not in found.temperatures


def test_temperatures_are_not_chosen_on_test_pictures(drawn_answers) -> None:
    a = drawn_answers
    before = data.fit(a)
    z, y = a.fer["test"]
    a.fer["test"] = (5 * z, (y + 1) % 8)
    after = data.fit(a)
    assert (after.temperatures, after.abstain) == (before.temperatures, before.abstain)

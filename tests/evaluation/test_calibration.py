"""Temperatures at work: none, and nothing changes."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from mien.errors import BadWeights
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS, calibrated
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, GENDER, PARSING
from mien.tasks.attributes import Gender
from mien.types import Crop

CROP = Crop(np.zeros((1, 1, 3), np.uint8), np.eye(2, 3))


def raws(rng) -> dict[str, np.ndarray]:
    return {
        t.name: rng.standard_normal(t.shape.n).astype(np.float32) * 3  # type: ignore[union-attr]
        for t in (EXPRESSION, ATTRIBUTES, AGE)
    }


def test_without_an_entry_the_task_itself_reads(rng) -> None:
    for task in (EXPRESSION, ATTRIBUTES, AGE, PARSING):
        assert calibrated(task, {}) is task
        assert calibrated(task, {"other": 2.0}) is task
    raw = raws(rng)
    z = raw["expression"].astype(
        np.float64
    )  # as answers were read before there were temperatures, to the bit
    e = np.exp(z - z.max())
    by_name = dict(zip(EXPRESSION.names, (e / e.sum()).tolist(), strict=True))
    assert EXPRESSION.read(raw["expression"], CROP).probabilities == by_name
    z = raw["attributes"].astype(np.float64)
    assert (
        list(ATTRIBUTES.read(raw["attributes"], CROP).probabilities.values())
        == np.exp(-np.logaddexp(0.0, -z)).tolist()
    )
    z = raw["age"].astype(np.float64)
    p = np.exp(z - z.max())
    p /= p.sum()
    low, high = np.interp([0.1, 0.9], np.concatenate([[0.0], np.cumsum(p)]), np.arange(102) - 0.5)
    age = AGE.read(raw["age"], CROP)
    assert (age.years, age.low, age.high) == (
        float(p @ np.arange(101)),
        max(float(low), 0),
        min(float(high), 100),
    )


def test_a_temperature_divides_and_leaves_the_catalogue_alone(rng) -> None:
    raw = raws(rng)
    warm = {t.name: calibrated(t, {t.name: 2.0}) for t in (EXPRESSION, ATTRIBUTES, AGE)}
    assert EXPRESSION.temperature == ATTRIBUTES.temperature == AGE.temperature == 1
    assert warm["expression"].read(raw["expression"], CROP) == EXPRESSION.read(raw["expression"] / 2, CROP)
    assert warm["attributes"].read(raw["attributes"], CROP) == ATTRIBUTES.read(raw["attributes"] / 2, CROP)
    assert (
        EXPRESSION.read(raw["expression"], CROP).label
        == warm["expression"].read(raw["expression"], CROP).label
    )
    peak = (-0.5 * ((np.arange(101) - 40) / 5) ** 2).astype(np.float32)
    plain, wide = AGE.read(peak, CROP), warm["age"].read(peak, CROP)
    assert wide.high - wide.low == pytest.approx(
        2**0.5 * (plain.high - plain.low), rel=0.02
    )  # twice the variance
    assert wide.years == plain.years
    assert wide.low < plain.low < plain.high < wide.high


def test_a_narrowed_interval_still_holds_the_years() -> None:
    raw = np.full(101, -20, np.float32)
    raw[[20, 80]] = 1, 0  # two peaks: the mean lies between them
    age = calibrated(AGE, {"age": 0.1}).read(raw, CROP)
    assert age.low <= age.years <= age.high
    assert age.years == pytest.approx((20 * math.e + 80) / (math.e + 1), abs=1e-3)


@pytest.mark.parametrize(
    "entry", [{"parsing": 2.0}, {"age": 0}, {"age": "warm"}, {"age": float("inf")}, {"age": [1.0]}]
)
def test_a_temperature_that_makes_no_sense_is_refused(entry) -> None:
    task = {"parsing": PARSING, "age": AGE}[next(iter(entry))]
    with pytest.raises(BadWeights, match="temperature"):
        calibrated(task, entry)


def test_the_provenance_file_brings_temperatures(tmp_path, rng) -> None:
    shutil.copy(WEIGHTS / "mien.onnx", tmp_path / "mien.onnx")
    record = json.loads((WEIGHTS / "mien.json").read_text(encoding="utf-8"))
    record.pop("calibration", None)
    sidecar = tmp_path / "mien.json"

    def tasks() -> dict:
        sidecar.write_text(json.dumps(record), encoding="utf-8")
        return {t.name: t for t in OnnxModel(tmp_path / "mien.onnx", threads=1).tasks}

    assert tasks()["expression"] is EXPRESSION
    record["calibration"] = {"temperatures": {"expression": 4.0}}
    found = tasks()
    raw = raws(rng)["expression"]
    assert found["expression"].read(raw, CROP) == EXPRESSION.read(raw / 4, CROP)
    assert found["attributes"] is ATTRIBUTES
    record["calibration"] = {"temperatures": {"landmarks": 4.0}}
    with pytest.raises(BadWeights, match="landmarks cannot be read at temperature"):
        tasks()
    sidecar.write_text("{", encoding="utf-8")
    with pytest.raises(BadWeights, match=r"mien\.json"):
        OnnxModel(tmp_path / "mien.onnx", threads=1)


def test_sure_or_nothing() -> None:
    assert Gender("female", 0.8).confident(0.8) == "female"
    assert Gender("female", 0.79).confident(0.8) is None
    answer = EXPRESSION.read(np.array([math.log(7), *[0] * 7], np.float32), CROP)  # neutral, one half
    assert answer.confident(0.49) == "neutral"
    assert answer.confident(0.51) is None
    assert GENDER.derive(ATTRIBUTES.read(np.zeros(40, np.float32), CROP)).confident(0.5) == "male"

"""The model card and its long tables, bench/results/model_card/, say the same."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from bench.model_card import __main__ as card
from bench.model_card import age_bounds, data
from bench.model_card.calibration import abstaining
from mien.tasks.attributes import CELEBA40


def table(name: str) -> list[dict[str, str]]:
    with (card.TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page_rows() -> list[list[str]]:
    lines = card.PAGE.read_text(encoding="utf-8").splitlines()
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def interval(row: dict[str, str], name: str) -> str:
    return f"{row[name]} [{row[f'{name}_low']}, {row[f'{name}_high']}]"


def test_the_groups_of_the_page_are_those_of_the_table() -> None:
    shown = {row[0]: row for row in page_rows()}
    rows = table("age_gender")
    single = [row for row in rows if row["group"] in shown]
    assert len(single) == 1 + len(card.RACES) + 2 + len(card.BANDS)
    assert len(rows) > len(single)
    for row in single:
        _, n, *cells = shown[row["group"]]
        assert n == f"{int(row['n']):,}"
        assert cells == [interval(row, c) for c in ("age_mae", "age_bias", "gender_accuracy_pct")]


def test_the_mean_of_the_attributes_is_that_of_the_table() -> None:
    mean, *each = table("attributes")
    assert [row["attribute"] for row in each] == list(CELEBA40)
    shown = [interval(mean, name) for name in ("all", "female", "male", "young", "not_young")]
    assert shown in page_rows()


def test_the_recommended_thresholds_are_in_the_table() -> None:
    rows = {(r["task"], float(r["minimum_probability"])): r for r in table("confidence_thresholds")}
    shown = [row for row in page_rows() if len(row) == 6 and row[2].startswith("**")]
    assert {row[0] for row in shown} == {task for task, _ in rows} == {"gender", "expression"}
    for task, _, best, *cells in shown:
        row = rows[task, float(best.strip("*"))]
        assert cells == [row["of_all_pct"], row["correct_pct"], rows[task, 0.5]["correct_pct"]]


@pytest.fixture
def answers(rng) -> data.Answers:
    """Random outputs for random labels; the last race has fewer people than the page shows numbers for."""
    n = 200
    y = rng.integers(0, 2, (n, 40))
    raw = {"age": rng.standard_normal((n, 101)), "attributes": rng.standard_normal((n, 40))}
    people = data.People(raw, y[:, data.MALE], rng.uniform(1, 90, n), np.where(np.arange(n) < 5, 4, 0))
    return data.Answers(people, raw, y, np.arange(n), {})


def test_tables_are_written(answers, tmp_path, monkeypatch) -> None:
    probability = np.linspace(0.5, 1, 40)
    monkeypatch.setattr(card, "TABLES", tmp_path / "tables")
    fitted = data.Fit(tables={"gender": (abstaining(probability, probability > 0.6), "UTKFace val")})
    card.write_tables(answers, fitted)
    groups = {row["group"]: row for row in table("age_gender")}
    assert groups["all"]["n"] == "200"
    assert groups["race: other"]["n"] == "5" and groups["race: other"]["age_mae"] == ""
    low, mean, high = (float(groups["all"][f"age_mae{end}"]) for end in ("_low", "", "_high"))
    assert low < mean < high
    hits = (answers.celeba["attributes"] >= 0) == (answers.attributes == 1)
    assert table("attributes")[0]["all"] == f"{100 * hits.mean():.1f}"
    assert table("confidence_thresholds")[0] == {
        "task": "gender",
        "minimum_probability": "0.50",
        "predictions": "40",
        "of_all_pct": "100.0",
        "correct_pct": "80.0",
    }


def test_no_number_is_read_from_a_cell_without_one() -> None:
    assert card.numbers("4.88 [4.54, 5.25]") == ["4.88", "4.54", "5.25"]
    assert card.numbers("-0.46 [-1.41, 0.48]") == ["-0.46", "-1.41", "0.48"]
    assert card.numbers("too few") == ["", "", ""]


def test_age_bounds_of_a_perfect_predictor_have_no_errors(rng) -> None:
    years = rng.integers(1, 60, 400)
    over = (years[:, None] >= np.array(age_bounds.BOUNDS)).astype(float)
    one = age_bounds.Bounded("set", 420, over, years, rng.integers(0, 2, 400), np.full(400, -1))
    lines = list(age_bounds.section([one]))
    (calibrated,) = [line for line in lines if line.startswith("| set | 400")]
    assert calibrated == "| set | 400 of 420 |" + " 0.0 (0.0) |" * 5
    (every,) = [line for line in lines if line.startswith("| set, all |")]
    assert every.endswith("|" + " 0.0 [0.0, 0.0] |" * 4)
    assert not any("White" in line for line in lines)
    wrong = age_bounds.Bounded("set", 420, np.ones_like(over), years, one.male, one.race)
    (every,) = [line for line in age_bounds.section([wrong]) if line.startswith("| set, all |")]
    assert "100.0 [100.0, 100.0]" in every

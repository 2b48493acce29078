"""Rules are data: what a file may say, and what limits mean."""

from __future__ import annotations

import pytest

from mien.errors import UsageError
from mien.selection.measures import MEASURES
from mien.selection.rules import OWN, Rules

ONE = '[[rule]]\nmeasure = "eye_distance"\nminimum = 60\n'


@pytest.mark.parametrize("name", OWN)
def test_own_rules_are_complete(name) -> None:
    rules = Rules.load(name)
    assert rules.about and len(rules.rules) >= 10
    for rule in rules.rules:
        assert rule.measure in MEASURES
        assert rule.good.endswith(".") and rule.bad.endswith(".")
    assert {"eyes", "gaze", "occlusion", "landmarks"} <= set(rules.tasks())


def test_limits_include_their_ends_and_no_number_passes_none() -> None:
    (rule,) = Rules.of(ONE + "maximum = 100\n", "own").rules
    assert [rule.passes(v) for v in (59.9, 60, 100, 100.1, float("nan"))] == [False, True, True, False, False]
    assert rule.limit() == "60 to 100 pixels"
    assert Rules.of(ONE, "own").rules[0].limit() == "at least 60 pixels"
    most = Rules.of('[[rule]]\nmeasure = "roll"\nmaximum = 8\n', "own").rules[0]
    assert most.limit() == "at most 8 degrees"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no \\[\\[rule\\]\\]"),
        ("rule = 3", "no \\[\\[rule\\]\\]"),
        ("[[rule", "valid TOML"),
        ("[[rule]]\nminimum = 1\n", "has no measure"),
        ('[[rule]]\nmeasure = "beauty"\nminimum = 1\n', "no measure 'beauty'; there are: faces"),
        ('[[rule]]\nmeasure = "roll"\n', "has no limit"),
        ('[[rule]]\nmeasure = "roll"\nmaximum = "8"\n', "write a number"),
        ('[[rule]]\nmeasure = "roll"\nmaximum = true\n', "write a number"),
        (ONE + "max = 3\n", "unknown key 'max'"),
        (ONE + ONE, "one name"),
    ],
)
def test_bad_rules_say_the_fix(text, says) -> None:
    with pytest.raises(UsageError, match=says):
        Rules.of(text, "own")


def test_a_file_is_read_and_a_missing_one_is_named(tmp_path) -> None:
    path = tmp_path / "door.toml"
    path.write_text(ONE)
    assert Rules.load(path).name == "door"
    with pytest.raises(UsageError, match=r"no rules .*gone.toml"):
        Rules.load(tmp_path / "gone.toml")


def test_the_front_door_gives_functions_however_often_it_is_asked() -> None:
    import mien
    from mien.selection import best_shots, checking

    for _ in range(2):
        assert mien.best is best_shots.best
        assert mien.check is checking.check

"""A photo against rules: values, verdicts, tasks that a network does not have, and the command."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from mien.cli import app
from mien.inference.reading import Reading
from mien.io.image import load_photo
from mien.selection import measures
from mien.selection.checking import check, judged
from mien.selection.measures import Scene
from mien.selection.rules import Rules
from mien.tasks.eyes import Eyes
from mien.tasks.gaze import Gaze
from mien.types import Face

POINTS = np.array([(80, 90), (120, 90), (100, 110), (85, 130), (115, 130)], np.float32)


def face(**answers) -> Face:
    return Face(np.array([60, 50, 140, 160], np.float32), 0.9, POINTS, answers)


def reading(*faces: Face, pixels=None) -> Reading:
    made = Reading(None, load_photo(np.full((200, 200, 3), 120, np.uint8) if pixels is None else pixels))
    made += faces
    return made


def rules(measure: str, **limits: float) -> Rules:
    lines = "".join(f"{k} = {v}\n" for k, v in limits.items())
    return Rules.of(f'[[rule]]\nmeasure = "{measure}"\n{lines}', "own")


def test_a_rule_passes_or_fails_with_its_value() -> None:
    (result,) = judged(reading(face()), rules("eye_distance", minimum=40)).results
    assert (result.value, result.passed) == (40, True)
    found = judged(reading(face()), rules("eye_distance", minimum=41))
    assert found.passed is False and found.results[0].text == "eye_distance is not."


def test_a_missing_task_is_named_and_is_no_pass() -> None:
    found = judged(reading(face()), rules("eyes_open", minimum=0.5))
    assert found.passed is None
    assert found.results[0].missing == ("eyes",)
    assert found.results[0].text == "Not checked: this network has no task eyes."
    assert found.to_dict()["results"][0]["missing_tasks"] == ["eyes"]
    assert judged(reading(face(eyes=Eyes(0.9, 0.6))), rules("eyes_open", minimum=0.5)).passed is True
    assert judged(reading(face(eyes=Eyes(0.9, 0.4))), rules("eyes_open", minimum=0.5)).passed is False
    assert judged(reading(face(gaze=Gaze(30, 0))), rules("gaze_angle", maximum=12)).passed is False


def test_no_face_fails_every_rule_but_a_rule_that_wants_none() -> None:
    assert judged(reading(), rules("eyes_open", minimum=0.5)).results[0].text == "No face was found."
    assert judged(reading(), rules("faces", maximum=0)).passed is True
    assert judged(reading(), rules("faces", minimum=1)).passed is False
    assert judged(reading(face(), face()), rules("faces", maximum=1)).results[0].value == 2


def test_sharpness_and_light_follow_the_picture(astronaut, reader) -> None:
    pixels = load_photo(astronaut).pixels
    (found,) = reader.read(pixels, tasks=["landmarks"])

    def of(name: str, changed) -> float:
        return measures.MEASURES[name].of(Scene(found, np.clip(changed, 0, 255).astype(np.uint8), 1))

    soft = [of("sharpness", cv2.GaussianBlur(pixels, (0, 0), s)) for s in (0.8, 2, 4)]
    assert of("sharpness", pixels) > soft[0] > soft[1] > soft[2]
    assert of("brightness", pixels) > of("brightness", pixels * 0.4)
    assert of("clipped", pixels * 0.02) > 0.9 > of("clipped", pixels)
    ramp = np.linspace(1, 0.1, pixels.shape[1])[None, :, None]
    assert of("evenness", pixels * ramp) < of("evenness", pixels)


def test_the_embedded_network_checks_what_it_can(astronaut, reader, tmp_path) -> None:
    found = check(astronaut, reader=reader)
    by = {r.rule.name: r for r in found.results}
    assert by["one face"].passed and by["upright"].passed and by["sharp"].passed
    assert by["neutral expression"].passed is False and by["mouth closed"].passed is False
    drawn = found.draw()
    assert drawn.dtype == np.uint8 and drawn.shape[1] > load_photo(astronaut).width


def test_the_command_prints_draws_and_exits_by_the_verdict(astronaut, tmp_path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[[rule]]\nmeasure = "faces"\nminimum = 1\n')
    out = tmp_path / "drawn.png"
    words = ["check", astronaut, "--rules", str(own), "--threads", "1"]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("pass  faces: 1 (at least 1)")
    assert load_photo(out).width > 512
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout)["passed"] is True
    own.write_text('[[rule]]\nmeasure = "faces"\nminimum = 2\n')
    assert CliRunner().invoke(app, words).exit_code == 1


@pytest.mark.parametrize(("name", "says"), [("nobody", "no rules 'nobody'")])
def test_unknown_rules_are_wrong_usage(name, says, astronaut) -> None:
    done = CliRunner().invoke(app, ["check", astronaut, "--rules", name])
    assert done.exit_code != 0 and says in str(done.exception)

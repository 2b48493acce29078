"""One photo against a list of rules, such as those of a passport portrait."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mien.inference.reader import Reader, load
from mien.io.image import Source
from mien.selection.measures import Scene
from mien.selection.rules import Rule, Rules
from mien.tasks import supported_tasks
from mien.types import Face, Pixels
from mien.visualize.drawing import annotate
from mien.visualize.labels import font_for

if TYPE_CHECKING:
    from mien.inference.reading import Reading

SCHEMA = 1
_GREEN, _RED, _GRAY = (22, 130, 60), (190, 30, 40), (110, 115, 125)
_PANEL = 460  # pixels, of the list next to a drawn photo
_HEIGHT = 900  # pixels, maximum of a drawn photo


@dataclass(frozen=True, slots=True)
class Result:
    """What one rule says of a photo.

    Attributes:
        rule: with its limits.
        value: the measured number; None where it was not measured.
        passed: whether the value keeps the limits; None where it was not measured.
        text: a sentence.
        missing: names of the tasks that the network does not have.
    """

    rule: Rule
    value: float | None
    passed: bool | None
    text: str
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "rule": self.rule.name,
            "measure": self.rule.measure,
            "value": None if self.value is None else round(self.value, 4),
            "unit": self.rule.measured.unit,
            "minimum": self.rule.minimum,
            "maximum": self.rule.maximum,
            "passed": self.passed,
            "text": self.text,
            "missing_tasks": list(self.missing),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """A photo and what the rules say of it.

    Attributes:
        path: of the photo; None for bytes and arrays.
        rules: name of the rules.
        results: one per rule, in their order.
        face: the largest face; None without faces.
    """

    path: str | None
    rules: str
    results: tuple[Result, ...]
    face: Face | None
    _pixels: Pixels = field(repr=False)

    @property
    def passed(self) -> bool | None:
        """True: all rules pass. False: one fails. None: none fails, and some were not measured."""
        if any(r.passed is False for r in self.results):
            return False
        return None if any(r.passed is None for r in self.results) else True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": SCHEMA,
            "path": self.path,
            "rules": self.rules,
            "passed": self.passed,
            "results": [r.to_dict() for r in self.results],
        }

    def draw(self) -> Pixels:
        """The photo with its largest face, and the list of rules next to it: (H, W, 3) uint8 RGB."""
        faces = [] if self.face is None else [self.face]
        photo = annotate(
            self._pixels, faces, overlay="landmarks" if faces and "landmarks" in faces[0] else "none"
        )
        scale = min(1.0, _HEIGHT / photo.shape[0])
        if scale < 1:
            size = max(1, round(photo.shape[1] * scale)), _HEIGHT
            photo = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
        line, top = 34, 60
        height = max(photo.shape[0], top + line * len(self.results) + 20)
        sheet = Image.new("RGB", (photo.shape[1] + _PANEL, height), "white")
        sheet.paste(Image.fromarray(photo), (0, 0))
        draw, left = ImageDraw.Draw(sheet), photo.shape[1] + 20
        title = {True: "all rules pass", False: "not accepted", None: "not all rules could be checked"}
        font, text = font_for(f"{self.rules}: {title[self.passed]}", 20)
        draw.text((left, 18), text, (20, 22, 28), font)
        for i, result in enumerate(self.results):
            mark, color = _MARKS[result.passed]
            small, words = font_for(f"{mark}  {result.rule.name}{_value(result)}", 15)
            draw.text((left, top + i * line), words, color, small)
        return np.asarray(sheet, np.uint8)


_MARKS = {True: ("pass", _GREEN), False: ("FAIL", _RED), None: ("  ?  ", _GRAY)}


def _value(result: Result) -> str:
    if result.missing:
        return f": needs {', '.join(result.missing)}"
    shown = "" if result.value is None else f": {result.value:.3g}"
    return f"{shown} ({result.rule.limit()})"


def check(
    photo: Source, rules: str | os.PathLike[str] | Rules = "icao", *, reader: Reader | None = None
) -> Checked:
    """Check one photo against rules; with several faces, the largest one counts.

    Args:
        photo: a path, bytes, a Pillow image or an RGB array.
        rules: "icao", a TOML file, or rules.
        reader: from `mien.load()`; None loads one with the tasks that the rules need.

    Raises:
        PhotoError: the photo cannot be read. UsageError: no such rules.
    """
    listed = rules if isinstance(rules, Rules) else Rules.load(rules)
    reader = reader or load()
    reading = reader.read(photo, tasks=wanted(reader, listed.tasks()))
    return judged(reading, listed)


def wanted(reader: Reader, tasks: tuple[str, ...]) -> list[str]:
    """Those of the tasks that a reader's network has, and was loaded with."""
    can = supported_tasks(t.name for t in reader.model.tasks)
    return [t for t in tasks if t in can]


def judged(reading: Reading, rules: Rules) -> Checked:
    """What rules say of a photo that was read.

    Raises:
        PhotoError: the photo was not read.
    """
    if reading.error is not None:
        raise reading.error
    assert reading.photo is not None
    pixels, face = reading.photo.pixels, reading[0] if len(reading) else None
    results = tuple(_result(rule, reading, face, pixels) for rule in rules.rules)
    return Checked(reading.path, rules.name, results, face, pixels)


def _result(rule: Rule, reading: Reading, face: Face | None, pixels: Pixels) -> Result:
    if face is None:
        if rule.measure == "faces":
            return Result(rule, 0.0, rule.passes(0.0), rule.good if rule.passes(0.0) else rule.bad)
        return Result(rule, None, False, "No face was found.")
    if missing := tuple(t for t in rule.measured.tasks if t not in face):
        names = ", ".join(missing)
        return Result(rule, None, None, f"Not checked: this network has no task {names}.", missing)
    value = rule.measured.of(Scene(face, pixels, len(reading)))
    if value != value:  # NaN
        return Result(rule, None, None, f"Not checked: the {rule.measured.about} cannot be measured here.")
    passed = rule.passes(value)
    return Result(rule, value, passed, rule.good if passed else rule.bad)

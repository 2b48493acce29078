"""Labels of drawn faces: what they say, where they fit, and the small plates they stand on.

A label never covers another face. It stands next to its own face where there is room, on its own face where
there is none, and is left out where that would cover somebody else too.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mien.errors import UsageError
from mien.tasks import described
from mien.types import Array, Face, Pixels

Font = ImageFont.FreeTypeFont
Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2 in photo pixels

CONFIDENT = 0.8  # a label below this probability gets a question mark
MINIMUM = 0.6  # a label below this probability is left out
ON_FACE = 0.3  # the largest share of its own face that a label may cover
SMALL = 40  # pixels of face width, under which a face gets a short label

# Fonts for letters that Pillow's own font does not have; Pillow looks them up where the system keeps fonts.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "segoeui.ttf",
    "msyh.ttc",
)


class Plate(NamedTuple):
    """A label with its place.

    Attributes:
        text: what it says.
        x, y: its top left corner.
        width, height: pixels.
        font: of the text.
    """

    text: str
    x: int
    y: int
    width: int
    height: int
    font: Font

    @property
    def rectangle(self) -> Rectangle:
        """The pixels that it covers."""
        return self.x, self.y, self.x + self.width, self.y + self.height


def width_of(face: Face) -> float:
    """The width of a face's box, at least 1 pixel."""
    return max(1.0, float(face.box[2] - face.box[0]))


# What a label says


def texts(face: Face, name: str | None = None) -> list[str]:
    """Ways to describe a face, the fullest first: "F 34 (28-41) happiness", "F 34 happiness", "F 34".

    Gender and expression below `CONFIDENT` get a question mark and below `MINIMUM` are left out. So do the
    answers to tasks that only the weights define; they come last.

    Args:
        face: with "gender", "age" and "expression" as far as they were read.
        name: comes first in every text.
    """
    gender = age = interval = mood = ""
    if "gender" in face:
        gender = _marked(str(face["gender"].label)[:1].upper(), float(face["gender"].probability))
    if "age" in face and math.isfinite(face["age"].years):
        answer = face["age"]
        age = f"{answer.years:.0f}"
        if math.isfinite(answer.low) and math.isfinite(answer.high):
            interval = f"({answer.low:.0f}-{answer.high:.0f})"
    if "expression" in face:
        choice = face["expression"]
        mood = _marked(str(choice.label), float(choice.probabilities[choice.label]))
    more = [_own_tag(answer) for task, answer in face.answers.items() if described(task) is None]
    short = [gender, age] if gender or age else [mood or " ".join(more[:1])]
    fullest, full = [gender, age, interval, mood, *more], [gender, age, mood, *more]
    ways = [short] if width_of(face) < SMALL else [fullest, full, short]
    if name:
        ways = [[name, *way] for way in ways] + [[name]]
    found = [" ".join(filter(None, way)) for way in ways]
    return [text for text in dict.fromkeys(found) if text]


def _own_tag(answer: Any) -> str:
    """What the answer to a task of the weights' own says in a word."""
    label, probabilities = getattr(answer, "label", None), getattr(answer, "probabilities", {})
    return _marked(answer.tag(), float(probabilities[label])) if label in probabilities else str(answer.tag())


def _marked(word: str, probability: float) -> str:
    if not probability >= MINIMUM:  # no comparison holds for NaN
        return ""
    return word if probability >= CONFIDENT else word + "?"


# Fonts


def font_for(text: str, size: int, font: str | os.PathLike[str] | None = None) -> tuple[Font, str]:
    """A font that has the letters of a text, and the text.

    Args:
        text: one line.
        size: pixels.
        font: a font file. None: Pillow's own font for English; a font of the system for other letters. Where
            no font has them, accents are dropped, and letters that are still unknown become "?".

    Raises:
        UsageError: the file is not a font.
    """
    if font is not None:
        try:
            return _truetype(os.fspath(font), size), text
        except OSError as error:
            raise UsageError(
                f"cannot use {os.fspath(font)!r} as a font ({error}); give a .ttf or .otf file"
            ) from error
    own = _default(size)
    if _has(own, text):
        return own, text
    for name in _SYSTEM_FONTS:
        try:
            other = _truetype(name, size)
        except OSError:  # not on this system
            continue
        if _has(other, text):
            return other, text
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return own, "".join(c if _has(own, c) else "?" for c in plain)


@lru_cache(64)
def _truetype(name: str, size: int) -> Font:
    return ImageFont.truetype(name, size)


@lru_cache(64)
def _default(size: int) -> Font:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size it is never the bitmap font
    return font


def _has(font: Font, text: str) -> bool:
    """Whether no letter of the text is drawn as the box that stands for missing letters."""
    if text.isascii():
        return True
    missing = bytes(font.getmask("\uffff"))
    return all(c.isspace() or bytes(font.getmask(c)) != missing for c in text)


# Where labels stand


def letter_size(face: Face, shape: tuple[int, ...]) -> int:
    """Font size in pixels: at least 11, readable in the whole photo, and no larger than its face allows."""
    side = max(shape[:2])
    return round(max(11.0, min(max(width_of(face) * 0.085, side / 64), width_of(face) * 0.3, side / 28)))


def place(
    faces: Sequence[Face],
    shape: tuple[int, ...],
    names: Sequence[str | None],
    font: str | os.PathLike[str] | None = None,
) -> list[Plate]:
    """Plates inside the photo, apart from each other and from other faces.

    Each plate is nearer to its own face than to any other. A shorter text is tried where the fullest has no
    place next to its face. On its own face a plate covers at most `ON_FACE` of the box; where that is not
    enough either, there is no plate.

    Args:
        faces: in the order in which they choose their places.
        shape: (height, width, ...) of the photo.
        names: of each face, or None.
        font: see `font_for`.
    """
    boxes = np.array([_ordered(face) for face in faces], np.float64).reshape(-1, 4)
    plates: list[Plate] = []
    for i, face in enumerate(faces):
        others = np.delete(boxes, i, 0)
        taken = np.array([p.rectangle for p in plates], np.float64).reshape(-1, 4)
        size = letter_size(face, shape)
        pad = max(2, round(size * 0.32))
        options: dict[bool, list[Plate]] = {True: [], False: []}
        for text in texts(face, names[i]):
            letters, shown = font_for(text, size, font)
            width, height = math.ceil(letters.getlength(shown)) + 2 * pad, size + 2 * pad
            if width > shape[1] or height > shape[0]:
                continue
            for next_to, x, y in _spots(boxes[i], width, height, shape, gap=max(2, size // 4)):
                options[next_to].append(Plate(shown, x, y, width, height, letters))
        # next to the face with any text, before any text on the face
        for plate in options[True] + options[False]:
            area = plate.rectangle
            if (
                not _overlap(area, others).any()
                and not _overlap(area, taken).any()
                and (_distance(area, others) > _distance(area, boxes[i : i + 1])).all()
            ):
                plates.append(plate)
                break
    return plates


def _ordered(face: Face) -> Rectangle:
    x1, y1, x2, y2 = (float(v) for v in face.box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _overlap(one: Rectangle, boxes: Array) -> Array:
    """(n,) pixels squared that a rectangle shares with each of n."""
    x1, y1, x2, y2 = one
    wide = np.minimum(x2, boxes[:, 2]) - np.maximum(x1, boxes[:, 0])
    high = np.minimum(y2, boxes[:, 3]) - np.maximum(y1, boxes[:, 1])
    return np.maximum(wide, 0) * np.maximum(high, 0)


def _distance(one: Rectangle, boxes: Array) -> Array:
    """(n,) pixels from the middle of a rectangle to each of n; 0 within."""
    x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
    right = np.maximum(np.maximum(boxes[:, 0] - x, x - boxes[:, 2]), 0)
    down = np.maximum(np.maximum(boxes[:, 1] - y, y - boxes[:, 3]), 0)
    return np.hypot(right, down)


def _spots(
    box: Array, width: int, height: int, shape: tuple[int, ...], gap: int
) -> Iterator[tuple[bool, int, int]]:
    """Corners of a plate that fits into the photo, best first: (next to the box or on it, x, y)."""
    x1, y1, x2, y2 = (float(v) for v in box)
    columns = [x1, (x1 + x2 - width) / 2, x2 - width]
    rows = [y1, (y1 + y2 - height) / 2, y2 - height]
    above, below, left, right = y1 - gap - height, y2 + gap + 1, x1 - gap - width, x2 + gap + 1
    spots = [(x, y) for y in (above, below) for x in columns]
    spots += [(x, y) for x in (right, left) for y in rows]
    spots += [(x, y) for y in (y2 - gap - height, y1 + gap) for x in columns]
    area = max((x2 - x1) * (y2 - y1), 1.0)
    for x, y in spots:
        # a plate that reaches beyond the photo is pushed back into it
        at_x, at_y = _pushed(x, width, shape[1]), _pushed(y, height, shape[0])
        on_face = float(_overlap((at_x, at_y, at_x + width, at_y + height), box[None])[0])
        if on_face <= ON_FACE * area:
            yield on_face == 0, at_x, at_y


def _pushed(start: float, length: int, limit: int) -> int:
    return int(np.clip(round(min(max(start, -1e6), 1e6)), 0, limit - length))


# Paint


def draw(
    out: Pixels, plate: Plate, ground: tuple[int, int, int], ink: tuple[int, int, int], alpha: float
) -> None:
    """Paint a plate with round corners and its text onto a photo, in place.

    Args:
        out: (H, W, 3) uint8 RGB.
        ground, ink: colors of plate and text.
        alpha: 0..1, of the plate.
    """
    k = 4  # round corners are drawn this many times as large, and made smaller
    width, height = plate.width, plate.height
    big = Image.new("L", (k * width, k * height))
    ImageDraw.Draw(big).rounded_rectangle(
        (0, 0, k * width - 1, k * height - 1), radius=k * height * 0.24, fill=round(255 * alpha)
    )
    cover = np.asarray(big.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255
    letters = Image.new("L", (width, height))
    # "mm": centered on the line's middle, so that all labels sit alike
    ImageDraw.Draw(letters).text((width / 2, height / 2), plate.text, fill=255, font=plate.font, anchor="mm")
    text = np.asarray(letters, np.float32)[..., None] / 255
    part = out[plate.y : plate.y + height, plate.x : plate.x + width]
    mixed = part * (1 - cover) + np.array(ground, np.float32) * cover
    part[:] = np.rint(mixed * (1 - text) + np.array(ink, np.float32) * text).astype(np.uint8)

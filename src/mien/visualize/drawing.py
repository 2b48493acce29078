"""Faces drawn onto their photo: boxes, points, a light parsing overlay, where the head looks, and a short
label.

The result has the size of the photo, so all coordinates stay valid; small photos get a shorter label and not
a larger
canvas. Everything is drawn onto a copy. Line and letter sizes follow the face first, the photo second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mien.errors import BadArray, UsageError
from mien.io.image import check_pixels
from mien.types import Face, Floats, Pixels

Colour = tuple[int, int, int]

# The classes of celebamask19, in its order. Left and right of a pair are two shades of one hue.
COLORS: dict[str, Colour] = {
    "background": (38, 42, 54),
    "skin": (255, 170, 120),
    "nose": (255, 85, 60),
    "eyeglass": (40, 60, 200),
    "l_eye": (0, 190, 255),
    "r_eye": (0, 120, 210),
    "l_brow": (150, 220, 60),
    "r_brow": (90, 160, 30),
    "l_ear": (255, 215, 0),
    "r_ear": (205, 160, 0),
    "mouth": (130, 0, 40),
    "u_lip": (255, 40, 140),
    "l_lip": (200, 0, 100),
    "hair": (120, 70, 220),
    "hat": (0, 150, 130),
    "earring": (255, 255, 120),
    "necklace": (240, 240, 255),
    "neck": (200, 140, 170),
    "cloth": (90, 110, 130),
}
PALETTE: tuple[Colour, ...] = tuple(COLORS.values())
OUTSIDE = 255  # the label of pixels that no crop reached

BOX: Colour = (0, 230, 160)
INK: Colour = (10, 30, 25)
POINT: Colour = (255, 255, 255)
GAZE: Colour = (255, 190, 0)

SMALL = 40  # pixels of face width, under which a face gets a thin box and a short label
_OPACITY = 0.38
_HEAT_OPACITY = 0.7
_SHIFT = 4  # OpenCV's sub-pixel bits


def annotate(pixels: Pixels, faces: Sequence[Face], *, parsing: bool = True) -> Pixels:
    """A copy of the photo with its faces drawn in.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed.
        faces: as read from this photo. Of their answers "parsing", "landmarks", "pose", "age", "gender" and
            "expression" are drawn, as far as they are there. Points that are not finite are left out.
        parsing: False leaves the overlay out.

    Returns:
        (H, W, 3) uint8 RGB of the same size.

    Raises:
        BadArray: pixels are no RGB picture. UsageError: a face's box is not finite.
    """
    check_pixels(pixels, "the photo to draw on")
    out = np.array(pixels, np.uint8, order="C", copy=True)
    for i, face in enumerate(faces):
        if not np.isfinite(face.box).all():
            raise UsageError(
                f"face {i} has the box {np.asarray(face.box).tolist()}; a box needs four finite numbers"
            )
    for face in faces:
        if parsing and "parsing" in face:
            _overlay(out, face)
    faces = sorted(faces, key=_width, reverse=True)  # small ones last, so that large ones do not cover them
    for face in faces:
        _draw_box(out, face)
        _draw_points(out, face)
        _draw_gaze(out, face)
    return _draw_labels(out, faces)


def heat(pixels: Pixels, weights: npt.ArrayLike) -> Pixels:
    """A picture in gray with a map over it, from clear over violet and red to yellow.

    A cell's heat is its share of the map's largest value, times 1 - mean / largest: a map that prefers no
    place stays
    clear, however it is scaled, and does not look as hot as one with a sharp peak.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed.
        weights: (h, w) numbers >= 0 of any size and scale, stretched over the whole picture.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        BadArray: pixels are no RGB picture. UsageError: weights are no such map.
    """
    check_pixels(pixels, "the picture to heat")
    values = np.asarray(weights, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise UsageError(
            f"a map to draw must be (h, w) finite numbers >= 0; got {values.shape} from"
            f" {values.min(initial=np.inf)} on"
        )
    height, width = pixels.shape[:2]
    values = values / max(float(values.max()), 1e-12)
    strength = cv2.resize(values * (1 - values.mean()), (width, height), interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap(np.rint(255 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None]
    opacity = _HEAT_OPACITY * strength[..., None]
    return np.rint(gray * (1 - opacity) + colors * opacity).astype(np.uint8)


def save_png(path: str | os.PathLike[str], pixels: Pixels) -> None:
    """Write (H, W, 3) uint8 RGB losslessly.

    Raises:
        BadArray: not such an array. OSError: the place cannot be written.
    """
    check_pixels(pixels, "the picture to save")
    Image.fromarray(pixels).save(path, format="PNG")


def save_jpeg(path: str | os.PathLike[str], pixels: Pixels, *, quality: int = 92) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG, without thinning out the colours.

    Raises:
        BadArray: not such an array. OSError: the place cannot be written.
    """
    check_pixels(pixels, "the picture to save")
    Image.fromarray(pixels).save(path, format="JPEG", quality=quality, subsampling=0)


def save_mask(path: str | os.PathLike[str], mask: Pixels) -> None:
    """Write a label map (H, W) uint8 as a PNG with a palette: the file's values are the labels, its colours
    PALETTE.

    Label 255 (outside the crop) keeps its value and is black.

    Raises:
        BadArray: not such an array. OSError: the place cannot be written.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.uint8 or not mask.size:
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise BadArray(f"a mask to save must be a numpy array (H, W) of uint8 labels, not empty; got {got}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(_colour_table(tuple(COLORS)).tobytes())
    image.save(path, format="PNG")


# Sizes


def _width(face: Face) -> float:
    return max(1.0, float(face.box[2] - face.box[0]))


def _line_width(face: Face, shape: tuple[int, ...]) -> int:
    """1 px on small faces; otherwise what stays visible when the whole photo is shown on a screen."""
    if _width(face) < SMALL:
        return 1
    side = max(shape[:2])
    return round(min(max(_width(face) / 90, side / 900, 1.0), _width(face) / 20, 1 + side / 100))


def _letter_size(face: Face, shape: tuple[int, ...]) -> int:
    """Font size in px: 11 at least, and never so large that a label dwarfs its face or the photo."""
    side = max(shape[:2])
    return round(max(11.0, min(max(_width(face) * 0.09, side / 60), _width(face) * 0.3, side / 26)))


# Layers


def _colour_table(names: Sequence[str]) -> Pixels:
    """(256, 3) label -> RGB: by name where celebamask19 has the name, by number otherwise."""
    table = np.array([PALETTE[i % len(PALETTE)] for i in range(256)], np.uint8)
    for i, name in enumerate(names):
        if name in COLORS:
            table[i] = COLORS[name]
    table[OUTSIDE] = 0
    return table


def _overlay(out: Pixels, face: Face) -> None:
    answer = face["parsing"]
    mask = answer.mask_in(out.shape[1], out.shape[0])
    inside = (mask != 0) & (mask != OUTSIDE)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        return
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # a face is small in its photo
    colors = _colour_table(answer.names)[mask[part]]
    weight = (inside[part] * _OPACITY).astype(np.float32)[..., None]
    out[part] = np.rint(out[part] * (1 - weight) + colors * weight).astype(np.uint8)


def _draw_box(out: Pixels, face: Face) -> None:
    height, width = out.shape[:2]
    thick = _line_width(face, out.shape)
    # far outside is as good as just outside, and OpenCV's integers stay small
    xs = np.clip(np.rint(face.box[[0, 2]]), -2 * thick - 2, width + 2 * thick + 1)
    ys = np.clip(np.rint(face.box[[1, 3]]), -2 * thick - 2, height + 2 * thick + 1)
    corners = (int(xs[0]), int(ys[0])), (int(xs[1]), int(ys[1]))
    if thick > 1:  # a dark rim keeps the box visible on bright ground
        cv2.rectangle(out, *corners, INK, thick + 2)
    cv2.rectangle(out, *corners, BOX, thick)  # whole pixels and upright: smoothing would only blur it


def _draw_points(out: Pixels, face: Face) -> None:
    """All landmarks; the five points where there are none, or where 68 would hide a small face."""
    answer = face.answers.get("landmarks")
    points: Floats = face.points if answer is None or _width(face) < SMALL else answer.points
    radius = min(_width(face) / 110, max(out.shape[:2]) / 120)
    for x, y in _near(np.asarray(points, np.float64), out.shape):
        if radius >= 1.5:
            _dot(out, x, y, radius + 1, INK)
        _dot(out, x, y, radius, POINT)


def _draw_gaze(out: Pixels, face: Face) -> None:
    """A line from the nose to where the head points, seen from the front."""
    if "pose" not in face or _width(face) < SMALL:
        return
    pose = face["pose"]
    yaw, pitch = math.radians(pose.yaw), math.radians(pose.pitch)
    start = np.asarray(face.points[2], np.float64)
    # tasks.pose.pose_from_68: yaw > 0 to the picture's right, pitch > 0 up
    step = 0.6 * _width(face) * np.array([math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
    ends = _near(np.array([start, start + step]), out.shape)
    if len(ends) == 2:
        (x1, y1), (x2, y2) = np.rint(ends * 2**_SHIFT).astype(int).tolist()
        thick = _line_width(face, out.shape) + (_width(face) >= 2.5 * SMALL)
        if thick > 2:
            cv2.line(out, (x1, y1), (x2, y2), INK, thick + 2, cv2.LINE_AA, _SHIFT)
        cv2.line(out, (x1, y1), (x2, y2), GAZE, thick, cv2.LINE_AA, _SHIFT)


def _near(points: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """The finite points that are not far outside the photo (OpenCV's integers would overflow)."""
    reach = max(shape[:2])
    return points[(np.abs(points) < 2 * reach).all(axis=1)]  # no comparison holds for NaN


def _dot(out: Pixels, x: float, y: float, radius: float, color: Colour) -> None:
    if (
        radius < 0.6
    ):  # OpenCV's least circle is 3 px wide: share one pixel's worth of paint among the four around
        left, top = math.floor(x), math.floor(y)
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            if 0 <= column < out.shape[1] and 0 <= row < out.shape[0]:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                out[row, column] = np.rint(out[row, column] * (1 - share) + np.array(color) * share)
        return
    one = 2**_SHIFT
    cv2.circle(out, (round(x * one), round(y * one)), round(radius * one), color, -1, cv2.LINE_AA, _SHIFT)


# Labels


def _texts(face: Face) -> list[str]:
    """Ways to say who this is, the fullest first: "F 34 (28-41) happiness", "F 34 happiness", "F 34"."""
    gender, age, mood = (face[n].tag() if n in face else "" for n in ("gender", "age", "expression"))
    interval = face["age"].interval() if "age" in face else ""
    short = [gender, age] if gender or age else [mood]
    ways = [short] if _width(face) < SMALL else [[gender, age, interval, mood], [gender, age, mood], short]
    texts = [" ".join(filter(None, way)) for way in ways]
    return [text for text in dict.fromkeys(texts) if text]


def _draw_labels(out: Pixels, faces: Sequence[Face]) -> Pixels:
    """Plates with text: above the box, else below, else inside; apart from each other where there is room."""
    height, width = out.shape[:2]
    image = Image.fromarray(out)
    pen = ImageDraw.Draw(image)
    taken: list[tuple[int, int, int, int]] = []
    for face in faces:
        size = _letter_size(face, out.shape)
        font = ImageFont.load_default(size)
        pad = max(2, round(size * 0.3))
        tall = size + 2 * pad
        for text in _texts(face):
            wide = math.ceil(pen.textlength(text, font)) + 2 * pad
            if wide <= width and tall <= height:
                break
        else:  # nothing to say, or no room to say it
            continue
        x, y = _place(face, wide, tall, (width, height), _line_width(face, out.shape), taken)
        taken.append((x, y, x + wide, y + tall))
        pen.rectangle((x, y, x + wide - 1, y + tall - 1), fill=BOX)
        # "lm": from the left, middle of the line, so that all labels sit alike
        pen.text((x + pad, y + tall / 2), text, fill=INK, font=font, anchor="lm")
    return np.array(image)


def _place(
    face: Face,
    wide: int,
    tall: int,
    photo: tuple[int, int],
    line: int,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int]:
    """The top left corner of a plate that fits into the photo: above, below, inside the box's top or its
    foot.
    """
    left, top, _, bottom = (float(v) for v in face.box)
    rim = line // 2 + 1
    x = int(np.clip(round(left) - rim, 0, photo[0] - wide))
    ways = (top - rim - tall, bottom + rim + 1, top + rim, bottom - rim - tall)
    ys = [round(y) for y in ways if 0 <= round(y) <= photo[1] - tall]
    free = [
        y
        for y in ys
        if not any(x < x2 and x1 < x + wide and y < y2 and y1 < y + tall for x1, y1, x2, y2 in taken)
    ]
    if free or ys:
        return x, (free or ys)[0]
    return x, int(np.clip(round(top), 0, photo[1] - tall))  # the face fills or leaves the photo

"""Faces drawn onto their photo: box corners, landmark contours or a tint of the head's parts, and labels.

The result has the size of the photo, so all coordinates stay valid; small photos get a shorter label and not
a larger canvas. Everything is drawn onto a copy. Line and letter sizes follow the face first, then the photo.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from mien.errors import BadArray, UsageError
from mien.io.image import check_pixels
from mien.io.paths import drop_link
from mien.tasks import DERIVED, TASKS
from mien.tasks.parsing import UNKNOWN
from mien.types import Array, Face, Pixels
from mien.visualize import labels as plates
from mien.visualize import overlay as parts
from mien.visualize.labels import SMALL, width_of

Color = tuple[int, int, int]
Paint = Callable[[Pixels, npt.NDArray[np.float64], int, float], None]

# The classes of celebamask19, in its order. Left and right of a pair are two shades of one hue.
COLORS: dict[str, Color] = {
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
PALETTE: tuple[Color, ...] = tuple(COLORS.values())
OUTSIDE = 255  # the label of pixels that no crop reached

BOX: Color = (0, 230, 160)
INK: Color = (10, 30, 25)
WHITE: Color = (255, 255, 255)
DARK: Color = (18, 22, 28)
POSE: Color = (255, 190, 0)


@dataclass(frozen=True, slots=True)
class DrawStyle:
    """How faces are drawn.

    Attributes:
        about: one line for people.
        color: of the box.
        line: of contours and points.
        ground, ink: of a label's plate and text.
        plate: 0..1, opacity of the plate.
        frame: the box as four corners, or the entire rectangle.
        contours: landmarks as contours of the face's parts; False: each landmark as a point.
        pose: a line from the nose to where the head points.
    """

    about: str
    color: Color = WHITE
    line: Color = WHITE
    ground: Color = DARK
    ink: Color = WHITE
    plate: float = 0.72
    frame: bool = False
    contours: bool = True
    pose: bool = False


STYLES: dict[str, DrawStyle] = {
    "corners": DrawStyle("white box corners and contours; for slides"),
    "box": DrawStyle("a green box around each face", BOX, WHITE, BOX, INK, 1.0, frame=True),
    "points": DrawStyle(
        "every landmark as a point, and the head's direction", BOX, BOX, contours=False, pose=True
    ),
    "print": DrawStyle("black lines and labels on white; for paper", INK, INK, WHITE, INK, 0.9),
}
OVERLAYS = ("landmarks", "parsing", "none")

# of the classes of masks that weights define themselves, from the first after the background
OWN = ((230, 80, 60), (60, 140, 230), (240, 190, 50), (70, 180, 110), (170, 90, 200), (90, 200, 210))

_HEAT_OPACITY = 0.7
_SHIFT = 4  # OpenCV's sub-pixel bits

# Contours of iBUG's 68 points: eyes and lips are two curves each, which meet at their corners.
_CURVES: dict[int, tuple[tuple[int, ...], ...]] = {
    68: (
        tuple(range(17)), tuple(range(17, 22)), tuple(range(22, 27)), tuple(range(27, 31)),
        tuple(range(31, 36)),
        (36, 37, 38, 39), (39, 40, 41, 36), (42, 43, 44, 45), (45, 46, 47, 42),
        tuple(range(48, 55)), (54, 55, 56, 57, 58, 59, 48), (60, 61, 62, 63, 64), (64, 65, 66, 67, 60),
    )
}  # fmt: skip


def annotate(
    pixels: Pixels,
    faces: Sequence[Face],
    *,
    style: str = "corners",
    overlay: str = "landmarks",
    names: Sequence[str | None] | None = None,
    font: str | os.PathLike[str] | None = None,
) -> Pixels:
    """A copy of the photo with its faces drawn in.

    Labels say gender, age and expression as far as they were read, and what tasks of the weights' own answer.
    An answer whose probability is low gets a question mark or is left out, see `mien.visualize.labels`. A
    label never covers another face.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed.
        faces: as read from this photo. Landmarks that are not finite are left out.
        style: "corners", "box", "points" or "print", see `STYLES`.
        overlay: "landmarks"; "parsing", a tint of the parts of the head; or "none". With the first two,
            points and masks of tasks that the weights define themselves are drawn too.
        names: for each face what its label says first, such as a person's name; None for no name.
        font: a font file for labels. None: a built-in font, and a font of the system for letters that the
            built-in one lacks.

    Returns:
        (H, W, 3) uint8 RGB of the same size.

    Raises:
        BadArray: pixels are no RGB picture.
        UsageError: a face's box is not finite, names are not as many as faces, or style or overlay is
            unknown.
    """
    check_pixels(pixels, "the photo to draw on")
    draw_style = check_style(style, overlay)
    names = [None] * len(faces) if names is None else list(names)
    if len(names) != len(faces):
        raise UsageError(f"names has {len(names)} entries for {len(faces)} faces; give one per face, or None")
    for i, face in enumerate(faces):
        if not np.isfinite(face.box).all():
            raise UsageError(
                f"face {i} has the box {np.asarray(face.box).tolist()}; a box needs four finite numbers"
            )
    out = np.array(pixels, np.uint8, order="C", copy=True)
    order = sorted(range(len(faces)), key=lambda i: -width_of(faces[i]))
    if overlay == "parsing":
        painted = np.zeros(out.shape[:2], np.uint8)
        for i in order:
            if "parsing" in faces[i]:
                parts.tint(out, faces[i], painted)
                _draw_outlines(out, faces[i], draw_style)
    for i in order:
        _draw_box(out, faces[i], draw_style)
        if overlay == "landmarks":
            _draw_landmarks(out, faces[i], draw_style)
        if overlay != "none":
            _draw_own(out, faces[i], draw_style)
        if draw_style.pose:
            _draw_pose(out, faces[i])
    # small faces have little room for a label, so they choose first
    chosen = [faces[i] for i in reversed(order)], [names[i] for i in reversed(order)]
    for plate in plates.place(chosen[0], out.shape, chosen[1], font):
        plates.draw(out, plate, draw_style.ground, draw_style.ink, draw_style.plate)
    return out


def check_style(style: str, overlay: str) -> DrawStyle:
    """The style of that name.

    Raises:
        UsageError: style or overlay is unknown.
    """
    if style not in STYLES:
        raise UsageError(f"no drawing style {style!r}; choose from: {', '.join(STYLES)}")
    if overlay not in OVERLAYS:
        raise UsageError(f"no overlay {overlay!r}; choose from: {', '.join(OVERLAYS)}")
    return STYLES[style]


def heat(pixels: Pixels, weights: npt.ArrayLike) -> Pixels:
    """A picture in gray with a map over it, from clear over violet and red to yellow.

    A cell's heat is its share of the map's largest value, times 1 - mean / largest: a map that prefers no
    place stays clear, however it is scaled, and does not look as hot as one with a sharp peak.

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
    drop_link(path)
    Image.fromarray(pixels).save(path, format="PNG")


def save_jpeg(path: str | os.PathLike[str], pixels: Pixels, *, quality: int = 92) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG, without thinning out the colors.

    Raises:
        BadArray: not such an array. OSError: the place cannot be written.
    """
    check_pixels(pixels, "the picture to save")
    drop_link(path)
    Image.fromarray(pixels).save(path, format="JPEG", quality=quality, subsampling=0)


def save_mask(path: str | os.PathLike[str], mask: Pixels) -> None:
    """Write a label map (H, W) uint8 as a PNG with a palette: the file's values are the labels, its colors
    PALETTE.

    Label 255 (outside the crop) keeps its value and is black.

    Raises:
        BadArray: not such an array. OSError: the place cannot be written.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.uint8 or not mask.size:
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise BadArray(f"a mask to save must be a numpy array (H, W) of uint8 labels, not empty; got {got}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(_color_table(tuple(COLORS)).tobytes())
    drop_link(path)
    image.save(path, format="PNG")


# Sizes


def _line_width(face: Face, shape: tuple[int, ...]) -> float:
    """Pixels: what stays visible when the entire photo is shown on a screen, and thin on a small face."""
    side, width = max(shape[:2]), width_of(face)
    wanted = min(max(width / 130, side / 750), side / 350)
    return max(1.0, min(wanted, width / 16))


# Layers


def _color_table(names: Sequence[str]) -> Pixels:
    """(256, 3) label -> RGB: by name where celebamask19 has the name, by number otherwise."""
    table = np.array([PALETTE[i % len(PALETTE)] for i in range(256)], np.uint8)
    for i, name in enumerate(names):
        if name in COLORS:
            table[i] = COLORS[name]
    table[OUTSIDE] = 0
    return table


def _draw_box(out: Pixels, face: Face, draw_style: DrawStyle) -> None:
    """The box's corners, slightly rounded, or the entire box."""
    height, width = out.shape[:2]
    line = _line_width(face, out.shape)
    # far outside is as good as just outside, and OpenCV's integers stay small
    reach = 2 * line + 2
    x1, x2 = sorted(float(np.clip(face.box[i], -reach, width + reach)) for i in (0, 2))
    y1, y2 = sorted(float(np.clip(face.box[i], -reach, height + reach)) for i in (1, 3))
    radius = min(0.06 * (x2 - x1), 0.06 * (y2 - y1))
    turn = np.linspace(0, math.pi / 2, 6)
    arc = radius * np.stack([1 - np.sin(turn), 1 - np.cos(turn)], 1)  # from (r, 0) on the top to (0, r)
    arms = np.array([[0.2 * (x2 - x1), 0], [0, 0.2 * (y2 - y1)]])
    corner = np.concatenate([arms[:1], arc, arms[1:]]) if not draw_style.frame else arc
    corners = [
        np.array([x, y]) + corner * [sx, sy]
        for x, y, sx, sy in ((x1, y1, 1, 1), (x2, y1, -1, 1), (x2, y2, -1, -1), (x1, y2, 1, -1))
    ]
    if draw_style.frame:
        ring = np.concatenate([corners[0][::-1], corners[1], corners[2][::-1], corners[3]])
        corners = [np.concatenate([ring, ring[:1]])]
    _stroke(out, corners, line, draw_style.color)


def _draw_landmarks(out: Pixels, face: Face, draw_style: DrawStyle) -> None:
    """Contours, or all points; the five points where there are no others. A small face is left free."""
    if width_of(face) < SMALL:
        return
    answer = face.answers.get("landmarks")
    points = np.asarray(face.points if answer is None else answer.points, np.float64)
    line = min(max(0.6 * _line_width(face, out.shape), 0.7), width_of(face) / 110)
    if draw_style.contours:
        if len(points) in _CURVES:
            curves = [_smooth(_near(points[list(curve)], out.shape)) for curve in _CURVES[len(points)]]
            _stroke(out, curves, line, draw_style.line, 0.85)
        return
    radius = max(1.0, 1.5 * line)
    _dots(out, _near(points, out.shape), radius, draw_style.line)


def _draw_own(out: Pixels, face: Face, draw_style: DrawStyle) -> None:
    """Points and masks of tasks that the weights define themselves."""
    known = {*TASKS, *DERIVED}
    own = [answer for name, answer in face.answers.items() if name.partition("@")[0] not in known]
    for answer in own:
        if (mask := answer.photo_mask(out.shape[1], out.shape[0])) is not None:
            for k, color in enumerate(OWN):
                inside = (mask != UNKNOWN) & (mask > 0) & ((mask - 1) % len(OWN) == k)
                mixed = (1 - parts.OPACITY) * out[inside] + parts.OPACITY * np.array(color)
                out[inside] = np.rint(mixed).astype(np.uint8)
    for answer in own:
        if (points := answer.photo_points()) is not None:
            radius = max(1.5, 0.012 * width_of(face))
            _dots(out, _near(np.asarray(points, np.float64), out.shape), radius, draw_style.line)


def _draw_outlines(out: Pixels, face: Face, draw_style: DrawStyle) -> None:
    """Thin curves around the parts of the head, where the face is large enough for them."""
    if width_of(face) >= SMALL:
        line = min(0.55 * _line_width(face, out.shape), width_of(face) / 140)
        _stroke(out, parts.outlines(face["parsing"]), line, draw_style.line, 0.6)


def _draw_pose(out: Pixels, face: Face) -> None:
    """A line from the nose to where the head points, seen from the front."""
    if "pose" not in face or width_of(face) < SMALL:
        return
    pose = face["pose"]
    yaw, pitch = math.radians(pose.yaw), math.radians(pose.pitch)
    start = np.asarray(face.points[2], np.float64)
    # tasks.pose.pose_from_68: yaw > 0 to the picture's right, pitch > 0 up
    step = 0.6 * width_of(face) * np.array([math.sin(yaw) * math.cos(pitch), -math.sin(pitch)])
    ends = _near(np.array([start, start + step]), out.shape)
    if len(ends) == 2:
        _stroke(out, [ends], 1.5 * _line_width(face, out.shape), POSE)


def _near(points: Array, shape: tuple[int, ...]) -> Array:
    """The finite points that are not far outside the photo (OpenCV's integers would overflow)."""
    return points[(np.abs(points) < 2 * max(shape[:2])).all(axis=1)]  # no comparison holds for NaN


def _smooth(points: Array, steps: int = 6) -> Array:
    """A Catmull-Rom spline through points: (n, 2) -> ((n - 1) * steps + 1, 2)."""
    if len(points) < 3:
        return points
    ends = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    a, b, c, d = ends[:-3], ends[1:-2], ends[2:-1], ends[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = a[:, None], b[:, None], c[:, None], d[:, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


# Paint


def _stroke(out: Pixels, lines: Sequence[Array], width: float, color: Color, opacity: float = 1.0) -> None:
    """Smooth lines with a soft rim of the opposite brightness, so that they show on any ground.

    Args:
        lines: (n, 2) points each.
        width: pixels.
        opacity: 0..1.
    """
    lines = [line for line in lines if len(line) > 1]

    def paint(mask: Pixels, place: npt.NDArray[np.float64], scale: int, grow: float) -> None:
        runs = [np.rint(((line - place + 0.5) * scale - 0.5) * 2**_SHIFT).astype(np.int32) for line in lines]
        thick = max(1, round((width + grow) * scale))
        cv2.polylines(mask, runs, False, 255, thick, cv2.LINE_AA, _SHIFT)

    if lines:
        _blend(out, np.concatenate(lines), width, paint, color, opacity)


def _dots(out: Pixels, points: Array, radius: float, color: Color) -> None:
    """Discs around points, with the rim of `_stroke`."""

    def paint(mask: Pixels, place: npt.NDArray[np.float64], scale: int, grow: float) -> None:
        for x, y in np.rint(((points - place + 0.5) * scale - 0.5) * 2**_SHIFT).astype(int).tolist():
            size = round((radius + grow / 2) * scale * 2**_SHIFT)
            cv2.circle(mask, (x, y), size, 255, -1, cv2.LINE_AA, _SHIFT)

    if len(points):
        _blend(out, points, 2 * radius, paint, color, 1.0)


def _blend(out: Pixels, points: Array, width: float, paint: Paint, color: Color, opacity: float) -> None:
    """What `paint` covers gets the color; its rim is darkened, or brightened where the color is dark."""
    height, wide = out.shape[:2]
    rim = max(1.0, 0.9 * width)
    margin = width + 2 * rim + 2
    left, top = np.clip(np.floor(points.min(0) - margin), 0, (wide, height)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(0) + margin) + 1, 0, (wide, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        return
    size = right - left, bottom - top
    # thin lines of small faces are drawn larger, then averaged
    scale = int(np.clip(min(math.ceil(3 / width), 1600 // max(size)), 1, 4))
    dark = sum(color) < 3 * 100
    for shade, grow, alpha in (
        (WHITE if dark else (0, 0, 0), 1.6 * rim, 0.35 * opacity),
        (color, 0.0, opacity),
    ):
        mask = np.zeros((size[1] * scale, size[0] * scale), np.uint8)
        paint(mask, np.array([left, top], np.float64), scale, grow)
        if scale > 1:
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
        if grow:
            mask = cv2.GaussianBlur(mask, (0, 0), 0.5 * rim)
        rows, columns = np.nonzero(mask)
        weight = mask[rows, columns].astype(np.float32)[:, None] * (alpha / 255)
        before = out[top + rows, left + columns]
        mixed = before * (1 - weight) + np.array(shade, np.float32) * weight
        out[top + rows, left + columns] = np.rint(mixed).astype(np.uint8)

"""Drawn occlusion of faces, letters next to them, and darkness, backlight and compression, for training."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mien.types import Floats, Pixels

MASK_COLORS = (
    (235, 240, 245),
    (160, 200, 225),
    (40, 40, 45),
    (200, 220, 230),
    (120, 160, 190),
    (230, 200, 205),
)


def occlude(pixels: Pixels, faces: npt.ArrayLike, chance: float, rng: np.random.Generator) -> Pixels:
    """A copy of the picture in which each face is covered in part with the given chance.

    Args:
        pixels: (H, W, 3) uint8 RGB; the picture itself when nothing is covered.
        faces: rows (n, 15): x, y, w, h, five points in picture order, score, in pixels.
        chance: of each face, 0..1.
    """
    rows = np.asarray(faces, np.float64).reshape(-1, 15)
    covered = [row for row in rows if rng.random() < chance]
    if not covered:
        return pixels
    out = pixels.copy()
    for row in covered:
        kind = rng.random()
        points, box = row[4:14].reshape(5, 2), row[:4]
        if kind < 0.45:
            _mask(out, points, box, rng)
        elif kind < 0.6:
            _dark_glasses(out, points, rng)
        elif kind < 0.8:
            _block(out, box, rng)
        else:
            _hand(out, box, rng)
    return out


LETTERS = "OOO000QQDDCCGG88669RRPPBBabdegopqsu@&SEFHKTXYZ123457"  # round ones look most like small faces


def draw_letters(pixels: Pixels, boxes: npt.ArrayLike, rng: np.random.Generator) -> Pixels:
    """A copy of the picture with letters, digits, signs and rings that touch no face.

    Without them, a detector that learns small faces takes the letters of posters for faces.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        boxes: (n, 4) xyxy of the faces, in pixels.
    """
    out, kept = np.ascontiguousarray(pixels).copy(), np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = out.shape[:2]
    for _ in range(int(rng.integers(1, 9))):
        text = "".join(rng.choice(list(LETTERS), int(rng.integers(1, 9))))
        font, scale = int(rng.integers(0, 8)), float(np.exp(rng.uniform(np.log(0.25), np.log(2.5))))
        thick = int(rng.integers(1, max(2, round(3 * scale)) + 1))
        (w, h), below = cv2.getTextSize(text, font, scale, thick)
        x, y = int(rng.integers(-w // 3, width)), int(rng.integers(h // 2, height + h // 2))
        margin = thick + 3 + h // 2  # some letters reach beyond the size that is computed for them
        x1, y1, x2, y2 = x - margin, y - h - margin, x + w + margin, y + below + margin
        separate = (kept[:, 0] > x2) | (kept[:, 2] < x1) | (kept[:, 1] > y2) | (kept[:, 3] < y1)
        if not separate.all():
            continue
        ink, ground = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(2))
        kind, center = rng.random(), (x + w // 2, y - h // 2)
        if kind < 0.2:
            cv2.rectangle(out, (x1, y1), (x2, y2), ground, -1)
        elif kind < 0.35:
            cv2.ellipse(out, center, (max(2, w // 2), max(2, h // 2)), 0, 0, 360, ground, -1)
        if kind > 0.85:
            cv2.ellipse(out, center, (max(2, min(w, h) // 2), max(2, h // 2)), 0, 0, 360, ink, thick)
        else:
            cv2.putText(out, text, (x, y), font, scale, ink, thick, cv2.LINE_AA)
    return out


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.5:
        base = np.array(MASK_COLORS[int(rng.integers(len(MASK_COLORS)))])
        r, g, b = np.clip(base + rng.integers(-25, 26, 3), 0, 255)
    else:
        r, g, b = rng.integers(0, 256, 3)
    return int(r), int(g), int(b)


def _polygon(out: Pixels, corners: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """A filled polygon with soft shading, so that its area is not one flat color."""
    x1, y1 = np.floor(corners.min(0)).astype(int) - 1
    x2, y2 = np.ceil(corners.max(0)).astype(int) + 2
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, out.shape[1]), min(y2, out.shape[0])
    if x2 <= x1 or y2 <= y1:
        return
    area = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.fillPoly(area, [np.round((corners - [x1, y1]) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    shade = rng.normal(0, 12, (3, 3)).astype(np.float32)
    light = cv2.resize(shade, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    paint = np.clip(np.array(_color(rng), np.float32) + light[..., None], 0, 255)
    if rng.random() < 0.25:  # stripes or folds
        period = max(3.0, (y2 - y1) / rng.uniform(3, 8))
        paint = np.clip(paint + 18 * np.sin(np.arange(y2 - y1) * 2 * np.pi / period)[:, None, None], 0, 255)
    alpha = area[..., None].astype(np.float32) / 255
    part = out[y1:y2, x1:x2]
    part[:] = (part * (1 - alpha) + paint * alpha).astype(np.uint8)


def _mask(
    out: Pixels, points: npt.NDArray[np.float64], box: npt.NDArray[np.float64], rng: np.random.Generator
) -> None:
    """A face mask from the nose, or from below it, to under the chin."""
    left, right, nose, mouth = points[0], points[1], points[2], (points[3] + points[4]) / 2
    across = right - left
    eyes = (left + right) / 2
    down = mouth - eyes
    top = eyes + down * rng.uniform(0.25, 0.6) if rng.random() < 0.85 else mouth - down * 0.15
    wide, chin = rng.uniform(0.8, 1.1), eyes + down * rng.uniform(1.5, 1.9)
    corners = np.array(
        [
            top - across * wide,
            top + (nose - eyes) * 0.0 - down * rng.uniform(0.0, 0.15),
            top + across * wide,
            mouth + across * wide * 0.9,
            chin + across * 0.45,
            chin - across * 0.45,
            mouth - across * wide * 0.9,
        ]
    )
    _polygon(out, corners, rng)


def _dark_glasses(out: Pixels, points: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    across = points[1] - points[0]
    unit = float(np.hypot(*across))
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    tone = int(rng.integers(0, 70))
    axes = (max(1, round(unit * rng.uniform(0.32, 0.48))), max(1, round(unit * rng.uniform(0.22, 0.38))))
    for eye in points[:2]:
        cv2.ellipse(
            out, (round(eye[0]), round(eye[1])), axes, angle, 0, 360, (tone, tone, tone), -1, cv2.LINE_AA
        )
    ends = [tuple(int(v) for v in np.round(p)) for p in points[:2]]
    cv2.line(out, ends[0], ends[1], (tone, tone, tone), max(1, round(unit * 0.08)), cv2.LINE_AA)


def _block(out: Pixels, box: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Something with straight edges in front of a third to a half of the face, from one side."""
    x, y, w, h = box
    part, side = rng.uniform(0.25, 0.5), int(rng.integers(4))
    x1, y1, x2, y2 = x - 0.3 * w, y - 0.3 * h, x + 1.3 * w, y + 1.3 * h
    if side == 0:
        x2 = x + part * w
    elif side == 1:
        x1 = x + (1 - part) * w
    elif side == 2:
        y2 = y + part * h
    else:
        y1 = y + (1 - part) * h
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) + rng.normal(0, 0.06, (4, 2)) * [w, h]
    _polygon(out, corners, rng)


def _hand(out: Pixels, box: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Fingers: a few long ellipses in a skin tone."""
    x, y, w, h = box
    tone = np.array([224, 172, 138]) * rng.uniform(0.35, 1.1)
    start, angle = np.array([x, y]) + rng.uniform(0.1, 0.9, 2) * [w, h], rng.uniform(0, 180)
    step = np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))]) * 0.14 * w
    for i in range(int(rng.integers(2, 6))):
        r, g, b = (int(v) for v in np.clip(tone + rng.normal(0, 6, 3), 0, 255))
        place = start + i * step
        axes = (max(1, round(0.35 * h)), max(1, round(0.07 * w)))
        cv2.ellipse(out, (round(place[0]), round(place[1])), axes, angle, 0, 360, (r, g, b), -1, cv2.LINE_AA)


def degrade(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Darkness, backlight or compression: (H, W, 3) uint8 -> the same."""
    kind = rng.random()
    if kind < 0.35:  # a dark room
        gain = rng.uniform(0.12, 0.6)
        noisy = pixels * gain + rng.normal(0, rng.uniform(0, 6), pixels.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)
    if kind < 0.6:  # light from one side or from behind
        h, w = pixels.shape[:2]
        a, b = rng.uniform(0.25, 1.0), rng.uniform(1.0, 1.9)
        ramp = (
            np.linspace(a, b, w)[None, :, None] if rng.random() < 0.5 else np.linspace(b, a, h)[:, None, None]
        )
        return np.clip(pixels * (ramp if rng.random() < 0.5 else ramp[::-1, ::-1]), 0, 255).astype(np.uint8)
    return recompressed(pixels, int(rng.integers(20, 80)))


def recompressed(pixels: Pixels, quality: int) -> Pixels:
    """A picture (H, W, 3) after a JPEG compression of that quality, 1..100."""
    ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[return-value]


# --- One aligned face, with a label of what was done to it

OCCLUDERS = ("mask", "mask", "sunglasses", "sunglasses", "hand", "block", "none")


def draw_occluder(
    pixels: Pixels, points: npt.NDArray[np.float64], kind: str, rng: np.random.Generator
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """A copy of an aligned face (H, W, 3) with one thing drawn in front, and where it was drawn (H, W).

    Args:
        pixels: (H, W, 3) uint8 RGB.
        points: (5, 2) of the face, pixels, picture order.
        kind: one of `OCCLUDERS`.
    """
    out = np.ascontiguousarray(pixels).copy()
    unit = float(np.hypot(*(points[1] - points[0])))
    center = points.mean(0)
    box = np.array([center[0] - 1.1 * unit, center[1] - 1.5 * unit, 2.2 * unit, 2.9 * unit])
    if kind == "mask":
        _mask(out, points, box, rng)
    elif kind == "sunglasses":
        _sunglasses(out, points, rng)
    elif kind == "hand":
        _hand(out, box, rng)
    elif kind == "block":
        _block(out, box, rng)
    changed = np.abs(out.astype(np.int16) - pixels).max(2) > 6
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return out, closed.astype(bool)


def covered_shares(covered: npt.NDArray[np.bool_], points: npt.NDArray[np.float64]) -> Floats:
    """(4,) covered shares, 0..1, of the picture's left eye, its right eye, the nose and the mouth.

    Args:
        covered: (H, W).
        points: (5, 2), pixels, picture order.
    """
    unit = float(np.hypot(*(points[1] - points[0])))
    nose = (points[2] + (points[0] + points[1]) / 2 * 0.35) / 1.35
    mouth = (points[3] + points[4]) / 2
    places = (
        (points[0], (0.27, 0.17)),
        (points[1], (0.27, 0.17)),
        (nose, (0.22, 0.3)),
        (mouth, (0.38, 0.2)),
    )
    y, x = np.mgrid[: covered.shape[0], : covered.shape[1]]
    shares = []
    for (cx, cy), (rx, ry) in places:
        inside = ((x - cx) / (rx * unit)) ** 2 + ((y - cy) / (ry * unit)) ** 2 <= 1
        shares.append(float(covered[inside].mean()) if inside.any() else 0.0)
    return np.array(shares, np.float32)


def _sunglasses(out: Pixels, points: npt.NDArray[np.float64], rng: np.random.Generator) -> None:
    """Two dark lenses with a gradient, a highlight, a frame and arms."""
    across = points[1] - points[0]
    unit, angle = float(np.hypot(*across)), float(np.degrees(np.arctan2(across[1], across[0])))
    size = out.shape[1], out.shape[0]
    tone = rng.integers(0, 75) + rng.normal(0, 10, 3)
    wide, high = rng.uniform(0.34, 0.5), rng.uniform(0.24, 0.4)
    lenses, frame = np.zeros(out.shape[:2], np.uint8), np.zeros(out.shape[:2], np.uint8)
    oval, thick = rng.random() < 0.5, max(1, round(unit * rng.uniform(0.02, 0.12)))
    for eye in points[:2] + [0, rng.uniform(-0.03, 0.08) * unit]:
        if oval:
            middle, axes = (round(eye[0]), round(eye[1])), (round(wide * unit), round(high * unit))
            shape = np.asarray(cv2.ellipse2Poly(middle, axes, round(angle), 0, 360, 10), np.int32)
        else:
            middle_of, sides = (float(eye[0]), float(eye[1])), (2 * wide * unit, 2 * high * unit)
            shape = np.asarray(cv2.boxPoints((middle_of, sides, angle)), np.int32)
        cv2.fillPoly(lenses, [shape], 255, cv2.LINE_AA)
        cv2.polylines(frame, [shape], True, 255, thick, cv2.LINE_AA)
    unit_x = across / max(unit, 1e-6)
    inner, outer = unit_x * wide * unit, unit_x * (wide + 0.5) * unit
    lines = [(points[0] - inner, points[0] - outer), (points[1] + inner, points[1] + outer)]
    if 2 * wide < 1:
        lines.append((points[0] + inner, points[1] - inner))
    for start, end in lines:
        a, b = (tuple(int(v) for v in np.round(p)) for p in (start, end))
        cv2.line(frame, a, b, 255, thick, cv2.LINE_AA)
    ramp = np.linspace(rng.uniform(-15, 0), rng.uniform(0, 50), size[1])[:, None, None]
    paint = np.clip(tone + ramp + np.zeros((size[1], size[0], 3)), 0, 255)
    if rng.random() < 0.4:  # something bright is reflected
        shine = np.zeros(out.shape[:2], np.uint8)
        for eye in points[:2]:
            a = eye + rng.uniform(-0.3, 0.1, 2) * unit
            axes = (max(1, round(0.15 * unit)), max(1, round(0.06 * unit)))
            tilt = float(rng.uniform(-40, 40))
            cv2.ellipse(shine, (round(a[0]), round(a[1])), axes, tilt, 0, 360, 255, -1, cv2.LINE_AA)
        paint = paint + cv2.GaussianBlur(shine, (0, 0), 1.2)[..., None] * rng.uniform(0.2, 0.7)
    dense = rng.uniform(0.8, 1.0)
    alpha = lenses[..., None] / 255 * dense
    shown = out * (1 - alpha) + np.clip(paint, 0, 255) * alpha
    rim = frame[..., None] / 255
    shown = shown * (1 - rim) + np.array(_color(rng) if rng.random() < 0.3 else (20, 20, 22)) * rim
    out[:] = np.clip(shown, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Degraded:
    """An aligned face that was made worse.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        sharpness: 0..1: 1 is as sharp as before, 0 has an eighth of the detail.
        light: 0..1: 1 is as bright and even as before.
        occlusion: 0..1: mean covered share of eyes, nose and mouth.
    """

    pixels: Pixels
    sharpness: float
    light: float
    occlusion: float


def degrade_for_identity(
    pixels: Pixels, points: npt.NDArray[np.float64], rng: np.random.Generator
) -> Degraded:
    """Make an aligned face harder to recognize: one to three of blur, few pixels, noise, bad light, an
    occluder, and a bad crop.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        points: (5, 2) of the face, pixels, picture order.
    """
    out, sharpness, light, occlusion = np.ascontiguousarray(pixels).copy(), 1.0, 1.0, 0.0
    if rng.random() < 0.3:
        kind = ("mask", "sunglasses", "hand", "block")[int(rng.integers(4))]
        out, covered = draw_occluder(out, points, kind, rng)
        occlusion = float(covered_shares(covered, points).mean())
    if rng.random() < 0.35:
        gain = float(np.exp(rng.uniform(np.log(0.06), 0)))
        if rng.random() < 0.5:
            out = np.clip(out * gain + rng.normal(0, rng.uniform(0, 5), out.shape), 0, 255).astype(np.uint8)
        elif rng.random() < 0.5:
            ramp = np.linspace(gain, 1, out.shape[1])[None, :, None]
            out = np.clip(out * (ramp if rng.random() < 0.5 else ramp[:, ::-1]), 0, 255).astype(np.uint8)
        else:
            out = np.clip(255 - (255 - out.astype(np.float32)) * gain, 0, 255).astype(np.uint8)  # overexposed
        light = 1 + np.log(gain) / np.log(1 / 0.06)
    if rng.random() < 0.75:
        h, w = out.shape[:2]
        detail = float(np.exp(rng.uniform(np.log(1 / 14), 0)))
        how = rng.random()
        if how < 0.5:
            small = cv2.resize(
                out, (max(4, round(w * detail)), max(4, round(h * detail))), interpolation=cv2.INTER_AREA
            )
            out = np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR), np.uint8)
        elif how < 0.75:
            out = np.asarray(cv2.GaussianBlur(out, (0, 0), max(0.05, 0.45 * (1 / detail - 1))), np.uint8)
        else:
            out = _motion_blur(out, max(1, round(1.6 / detail)), float(rng.uniform(0, 180)))
        sharpness = float(np.clip(1 + np.log(detail) / np.log(8), 0, 1))
    if rng.random() < 0.25:
        out = np.ascontiguousarray(recompressed(out[..., ::-1], int(rng.integers(5, 60)))[..., ::-1])
    return Degraded(out, sharpness, float(light), occlusion)


def _motion_blur(pixels: Pixels, length: int, degrees: float) -> Pixels:
    """Blur along a line of that many pixels."""
    n = 2 * length + 1
    kernel = np.zeros((n, n), np.float32)
    c, s = np.cos(np.radians(degrees)) * length / 2, np.sin(np.radians(degrees)) * length / 2
    a, b = (round(length - c), round(length - s)), (round(length + c), round(length + s))
    cv2.line(kernel, a, b, 1.0, 1)
    return np.asarray(
        cv2.filter2D(pixels, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8
    )

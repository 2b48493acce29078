"""Drawn occlusion of faces, letters next to them, and darkness, backlight and compression, for training."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from mien.types import Pixels

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
    ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))])
    assert ok
    return cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[return-value]

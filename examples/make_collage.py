"""Make collage.jpg from the two portraits beside this file: eleven faces, many sizes, turns and lights.

    python examples/make_collage.py

Needs numpy and Pillow; the same pixels come out every time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIZE = (1280, 960)

# Where the head is in each portrait: (x, y) between the eyes and the mouth, and the width of the face.
# Pixels.
PORTRAITS = {"astronaut.jpg": (223.0, 124.0, 88.0), "grace_hopper.jpg": (270.0, 210.0, 166.0)}

Light = tuple[float, float, float]
ASTRONAUT, HOPPER = PORTRAITS
DAY, DIM, BRIGHT, WARM, COLD = (
    (1.0,) * 3,
    (0.35, 0.33, 0.38),
    (1.45, 1.42, 1.4),
    (1.15, 0.9, 0.6),
    (0.65, 0.9, 1.25),
)

# portrait, center in the collage, width of the face in px, turn in degrees (clockwise), mirrored, light, gray
PLACES: list[tuple[str, tuple[int, int], int, int, bool, Light, bool]] = [
    (HOPPER, (245, 300), 260, 0, False, DAY, False),
    (ASTRONAUT, (680, 230), 180, -20, False, DAY, False),
    (HOPPER, (1060, 235), 150, 35, True, WARM, False),
    (ASTRONAUT, (205, 760), 130, 15, True, COLD, False),
    (HOPPER, (500, 700), 110, -35, False, DAY, True),
    (ASTRONAUT, (760, 620), 100, 0, False, BRIGHT, False),
    (HOPPER, (985, 600), 84, 10, True, DIM, False),
    (ASTRONAUT, (1185, 560), 64, 30, True, DIM, False),
    (HOPPER, (740, 855), 48, -15, False, BRIGHT, False),
    (ASTRONAUT, (910, 850), 34, -10, False, DAY, True),
    (HOPPER, (1040, 850), 24, 5, True, DAY, False),
]


def background() -> np.ndarray:
    """(H, W, 3) float: a soft slope of two grays."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    slope = ((x / SIZE[0] + y / SIZE[1]) / 2)[..., None]
    canvas: np.ndarray = (
        np.array([206.0, 212.0, 220.0]) * (1 - slope) + np.array([128.0, 134.0, 146.0]) * slope
    )
    return canvas


def paste(canvas: np.ndarray, place: tuple[str, tuple[int, int], int, int, bool, Light, bool]) -> None:
    """Blend one head into the canvas, turned and lit, inside a soft ellipse that keeps its hair."""
    name, (cx, cy), width, degrees, mirrored, light, gray = place
    x, y, face = PORTRAITS[name]
    scale = width / face
    turn = np.radians(degrees)
    side = -1.0 if mirrored else 1.0
    # Pillow wants collage -> portrait: move to the center, turn back, scale back, mirror, move to the head
    c, s = np.cos(turn) / scale, np.sin(turn) / scale
    back = [side * c, side * s, x - side * (c * cx + s * cy), -s, c, y - (c * cy - s * cx)]
    portrait = Image.open(HERE / name).convert("RGB")
    if scale < 1:  # the affine below takes single pixels: shrink well first
        size = round(portrait.width * scale), round(portrait.height * scale)
        portrait = portrait.resize(size, Image.Resampling.LANCZOS)
        back = [v * scale for v in back]
    moved = portrait.transform(SIZE, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
    head = np.asarray(moved, np.float64)
    if gray:
        head = np.repeat(head.mean(axis=2, keepdims=True), 3, axis=2)
    head = (head * np.array(light)).clip(0, 255)

    # the ellipse stands in the head's own directions
    py, px = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] - np.array([cy, cx])[:, None, None]
    u, v = (px * np.cos(turn) + py * np.sin(turn)) / width, (py * np.cos(turn) - px * np.sin(turn)) / width
    far = np.hypot(u / 0.92, (v + 0.05) / 1.08)
    weight = ((1.0 - far) / 0.08).clip(0, 1)[..., None]
    canvas[:] = canvas * (1 - weight) + head * weight


def main() -> None:
    """Make the collage and save it next to this file."""
    canvas = background()
    for place in PLACES:
        paste(canvas, place)
    Image.fromarray(canvas.round().astype(np.uint8)).save(HERE / "collage.jpg", quality=92)


if __name__ == "__main__":
    main()

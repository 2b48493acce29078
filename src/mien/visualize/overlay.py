"""A tint of a face's parts, with soft edges, clipped to the head.

Neck, necklace and clothes are left out, and so is what belongs to other heads in the same crop. Hair that
reaches beyond the crop fades out before the crop ends, so that no edge of the crop shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mien import geometry
from mien.tasks.parsing import Parsing
from mien.types import Array, Face, Floats, Pixels

Color = tuple[int, int, int]

# Tints by class of the label sets; left and right of a pair are one color. What is not named is not tinted.
_SKIN, _BROW, _EYE, _LIP, _MOUTH, _HAIR = (
    (255, 190, 140), (110, 72, 40), (60, 160, 200), (225, 75, 90), (120, 30, 40), (205, 135, 40),
)  # fmt: skip
TINTS: dict[str, Color] = {
    "skin": _SKIN, "face": _SKIN, "nose": (245, 150, 110), "eyeglass": (70, 90, 120),
    "l_ear": (240, 165, 95), "r_ear": (240, 165, 95),
    "l_eye": _EYE, "r_eye": _EYE, "eye": _EYE, "l_brow": _BROW, "r_brow": _BROW, "brow": _BROW,
    "mouth": _MOUTH, "inner_mouth": _MOUTH,
    "u_lip": _LIP, "l_lip": _LIP, "upper_lip": _LIP, "lower_lip": _LIP,
    "hair": _HAIR, "hat": (70, 150, 120), "earring": (250, 220, 90),
}  # fmt: skip
OPACITY = 0.42
_SIDE = 256  # pixels of a mask's side at which edges are smoothed
_WINDOW = 9  # points of a contour that are averaged
_FADE = 0.8, 0.98  # from where to where the tint fades out, in half sides of the crop


def tint(out: Pixels, face: Face, painted: Pixels) -> None:
    """Tint a face's parts in a photo, in place.

    Args:
        out: (H, W, 3) uint8 RGB.
        face: with the answer "parsing".
        painted: (H, W) uint8, how much of each pixel earlier faces have tinted; brought up to date. A pixel
            is tinted once.
    """
    answer: Parsing = face["parsing"]
    colors, cover, to_layer = layer(answer)
    back = geometry.invert(to_layer)
    corners = geometry.move_points(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (_SIDE - 1.0), back)
    height, width = out.shape[:2]
    if not np.isfinite(corners).all():
        return
    left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        return
    # premultiplied, so that the colors of a soft edge do not mix with what lies outside
    stack = np.dstack([colors * cover[..., None], cover])
    moved = back.copy()
    moved[:, 2] -= (left, top)
    warped = cv2.warpAffine(stack, moved, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    part, before = out[top:bottom, left:right], painted[top:bottom, left:right]
    alpha = warped[..., 3]
    free = np.clip(1 - before.astype(np.float32) / 255 / np.maximum(alpha, 1e-6), 0, 1)
    strength = (OPACITY * free * alpha)[..., None]
    hue = warped[..., :3] / np.maximum(alpha, 1e-6)[..., None]
    inside = alpha > 1 / 255
    gray = part @ np.array([0.299, 0.587, 0.114], np.float32)
    # a tint as bright as the photo is there, half way: the face keeps its light and shade
    shaded = hue * (0.45 + 0.55 * gray[..., None] / np.maximum(hue.max(-1, keepdims=True), 1))
    mixed = part * (1 - strength) + np.clip(shaded, 0, 255) * strength
    part[inside] = np.rint(mixed[inside]).astype(np.uint8)
    before[:] = np.maximum(before, np.rint(255 * alpha).astype(np.uint8))


def layer(answer: Parsing) -> tuple[Floats, Floats, Array]:
    """(colors (s, s, 3) 0..255, cover (s, s) 0..1, affine photo -> layer) of a parsing, s pixels a side."""
    h, w = answer.mask.shape
    scale = _SIDE / max(h, w)
    grow = np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5]])
    size = (round(w * scale), round(h * scale))
    table = np.zeros((256, 4), np.float32)
    for index, name in enumerate(answer.names):
        if name in TINTS:
            table[index] = (*TINTS[name], 1)
    # colors are premultiplied by their cover, so that one blur softens both
    stack = np.zeros((_SIDE, _SIDE, 4), np.float32)
    flat = table[answer.mask] * _own_head(answer.mask, answer.names)[..., None]
    stack[: size[1], : size[0]] = cv2.resize(flat, size, interpolation=cv2.INTER_LINEAR)
    soft = np.asarray(cv2.GaussianBlur(stack, (0, 0), max(1.0, 0.5 * scale + 0.8)), np.float32)
    colors = np.asarray(soft[..., :3] / np.maximum(soft[..., 3:], 1e-6), np.float32)
    cover = np.asarray(np.clip(soft[..., 3] * 1.15 - 0.075, 0, 1) * _fade(size), np.float32)
    return colors, cover, geometry.compose(grow, answer.from_photo)


def outlines(answer: Parsing) -> list[Array]:
    """Smooth curves around the parts of a head, (n, 2) photo pixels each, as far as the tint reaches."""
    head, back = _own_head(answer.mask, answer.names), geometry.invert(answer.from_photo)
    h, w = answer.mask.shape
    kernel = cv2.getGaussianKernel(_WINDOW, -1).ravel()
    curves = []
    for index, name in enumerate(answer.names):
        if name not in TINTS:
            continue
        part = (head & (answer.mask == index)).astype(np.uint8)
        found, _ = cv2.findContours(part, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for contour in found:
            points = contour[:, 0].astype(np.float64)
            if len(points) < 2 * _WINDOW:
                continue
            ring = np.concatenate([points[-(_WINDOW // 2) :], points, points[: _WINDOW // 2]])
            smooth = np.stack([np.convolve(ring[:, i], kernel, "valid") for i in (0, 1)], 1)
            far = (np.abs((2 * smooth + 1) / (w, h) - 1) ** 3).sum(1) ** (1 / 3)
            inside = far < _FADE[0]
            if inside.all():
                curves.append(geometry.move_points(np.concatenate([smooth, smooth[:1]]), back))
                continue
            # from one place outside to the next, so that no curve crosses the gap
            smooth, inside = (np.roll(v, -int(np.argmin(inside)), axis=0) for v in (smooth, inside))
            starts = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0) == 1)
            ends = np.flatnonzero(np.diff(inside.astype(np.int8), append=0) == -1) + 1
            curves += [geometry.move_points(smooth[i:j], back) for i, j in zip(starts, ends, strict=True)]
    return curves


def _own_head(mask: Pixels, names: Sequence[str]) -> np.ndarray:
    """(h, w) bool: the parts of the head in the middle of a mask, without those of heads next to it."""
    wanted = np.isin(mask, [i for i, n in enumerate(names) if n in TINTS])
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(wanted.astype(np.uint8), connectivity=8)
    if count <= 2:
        return wanted
    h, w = mask.shape
    middle = numbers[h // 4 : h - h // 4, w // 4 : w - w // 4]
    votes = np.bincount(middle[middle > 0], minlength=count)
    if not votes.any():  # a head next to the middle
        votes = np.where(np.arange(count) > 0, stats[:, cv2.CC_STAT_AREA], 0)
    main = int(votes.argmax())
    keep = numbers == main
    # an earring, or hair behind an ear, stays where it is close to the head
    near = cv2.dilate(keep.astype(np.uint8), np.ones((h // 12 | 1, w // 12 | 1), np.uint8)) > 0
    for number in range(1, count):
        if (
            number != main
            and stats[number, cv2.CC_STAT_AREA] < 0.02 * h * w
            and near[numbers == number].any()
        ):
            keep |= numbers == number
    return keep


def _fade(size: tuple[int, int]) -> Floats:
    """1 in the middle of the crop, falling to 0 before its edge along a rounded square."""
    x, y = (np.abs((2 * np.arange(_SIDE) + 1) / n - 1) for n in size)
    far = (x[None] ** 3 + y[:, None] ** 3) ** (1 / 3)
    t = np.clip((_FADE[1] - far) / (_FADE[1] - _FADE[0]), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)

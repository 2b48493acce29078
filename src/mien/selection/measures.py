"""What can be measured of a face in its photo, by name; rules and best shots are made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mien import geometry
from mien.errors import UsageError
from mien.types import Array, Face, Floats, Pixels, View

_CLOSE = View((192, 192), "head", (0, 0, 0), (1, 1, 1))  # where sharpness is measured
_LIGHT = View((96, 96), "arcface", (0, 0, 0), (1, 1, 1))  # the face without hair and background
CLIPPED = (8, 247)  # brightness from which on a pixel has no detail


@dataclass(frozen=True, slots=True)
class Scene:
    """One face, and the photo that it is in.

    Attributes:
        face: with its answers.
        pixels: (H, W, 3) uint8 RGB, of the photo.
        faces: number of faces in the photo.
    """

    face: Face
    pixels: Pixels
    faces: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that can be measured.

    Attributes:
        about: what the number is, in a few words.
        unit: for people; empty for shares and probabilities.
        tasks: the answers that it needs.
        of: the measurement.
    """

    about: str
    unit: str
    tasks: tuple[str, ...]
    of: Callable[[Scene], float]


def _eyes(face: Face) -> Array:
    """(2, 2) the middle of each eye, picture order."""
    return np.asarray(face.points, np.float64)[:2]


def eye_distance(scene: Scene) -> float:
    """Pixels between the eyes."""
    one, other = _eyes(scene.face)
    return float(np.hypot(*(other - one)))


def head_height(scene: Scene) -> float:
    """Chin to crown by the photo's height: the eyes are taken to be half-way."""
    chin = np.asarray(scene.face["landmarks"].points, np.float64)[8]
    return float(2 * np.hypot(*(chin - _eyes(scene.face).mean(0))) / scene.pixels.shape[0])


def off_center(scene: Scene) -> float:
    """Horizontal distance of the face from the photo's middle, by its width."""
    width = scene.pixels.shape[1]
    return float(abs(_eyes(scene.face).mean(0)[0] - (width - 1) / 2) / width)


def mouth_gap(scene: Scene) -> float:
    """Distance of the inner lips by the mouth's width."""
    p = np.asarray(scene.face["landmarks"].points, np.float64)
    gap = np.mean([np.hypot(*(p[a] - p[b])) for a, b in ((61, 67), (62, 66), (63, 65))])
    return float(gap / max(float(np.hypot(*(p[54] - p[48]))), 1e-6))


def sharpness(scene: Scene) -> float:
    """Fine contrast by all contrast, on a face of 48 pixels between the eyes; a soft picture has little."""
    pixels = geometry.align(scene.pixels, scene.face.points, _CLOSE).pixels
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)[48:176, 40:152]
    return fine_contrast(gray)


def fine_contrast(gray: Floats) -> float:
    """Fine contrast of a gray picture by all its contrast."""
    return float(cv2.Laplacian(gray, cv2.CV_32F).std() / max(float(gray.std()), 1.0))


def _face_gray(scene: Scene) -> Floats:
    pixels = geometry.align(scene.pixels, scene.face.points, _LIGHT).pixels
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)[16:88, 16:80]


def brightness(scene: Scene) -> float:
    """Mean brightness of the face, 0..255."""
    return float(_face_gray(scene).mean())


def clipped(scene: Scene) -> float:
    """Share of the face that is black or white without detail."""
    gray = _face_gray(scene)
    return float(((gray <= CLIPPED[0]) | (gray >= CLIPPED[1])).mean())


def evenness(scene: Scene) -> float:
    """Brightness of the darker half of the face, left or right, by that of the brighter one."""
    gray = _face_gray(scene)
    half = gray.shape[1] // 2
    sides = sorted((float(gray[:, :half].mean()), float(gray[:, half:].mean())))
    return sides[0] / max(sides[1], 1.0)


def background_spread(scene: Scene) -> float:
    """Standard deviation of the background's brightness around the head, 0..128; NaN where none is seen."""
    height, width = scene.pixels.shape[:2]
    answer = scene.face["parsing"]
    mask = answer.mask_in(width, height)
    behind = (mask == answer.names.index("background")).astype(np.uint8)
    side = max(3, round(0.15 * eye_distance(scene)))
    behind = np.asarray(cv2.erode(behind, np.ones((side, side), np.uint8)), np.uint8)
    if behind.sum() < 0.01 * (mask != 255).sum() or not behind.any():
        return float("nan")
    gray = cv2.cvtColor(scene.pixels, cv2.COLOR_RGB2GRAY)
    return float(gray[behind.astype(bool)].std())


MEASURES: dict[str, Measure] = {
    "faces": Measure("faces in the photo", "", (), lambda s: float(s.faces)),
    "eye_distance": Measure("distance between the eyes", "pixels", (), eye_distance),
    "head_height": Measure("height of the head by that of the photo", "", ("landmarks",), head_height),
    "off_center": Measure("distance from the middle by the photo's width", "", (), off_center),
    "yaw": Measure("turn to a side", "degrees", ("pose",), lambda s: abs(float(s.face["pose"].yaw))),
    "pitch": Measure("turn up or down", "degrees", ("pose",), lambda s: abs(float(s.face["pose"].pitch))),
    "roll": Measure("tilt", "degrees", (), lambda s: abs(float(s.face.roll))),
    "eyes_open": Measure(
        "probability of the less open eye", "", ("eyes",), lambda s: float(s.face["eyes"].both_open)
    ),
    "mouth_gap": Measure("opening of the mouth by its width", "", ("landmarks",), mouth_gap),
    "neutral": Measure(
        "probability of a neutral expression", "", ("expression",),
        lambda s: float(s.face["expression"].probabilities["neutral"]),
    ),
    "smiling": Measure(
        "probability of a smile", "", ("attributes",), lambda s: float(s.face["attributes"]["Smiling"])
    ),
    "gaze_angle": Measure(
        "angle between gaze and camera", "degrees", ("gaze",), lambda s: float(s.face["gaze"].angle)
    ),
    "glasses": Measure(
        "probability of glasses", "", ("attributes",), lambda s: float(s.face["attributes"]["Eyeglasses"])
    ),
    "sunglasses": Measure(
        "probability of sunglasses", "", ("occlusion",), lambda s: float(s.face["occlusion"].sunglasses)
    ),
    "covered": Measure(
        "covered share of eyes, nose and mouth", "", ("occlusion",),
        lambda s: float(s.face["occlusion"].covered),
    ),
    "quality": Measure("quality", "", ("quality",), lambda s: float(s.face["quality"].score)),
    "sharpness": Measure("fine contrast by all contrast", "", (), sharpness),
    "brightness": Measure("mean brightness of the face, 0 to 255", "", (), brightness),
    "clipped": Measure("share of the face without detail, black or white", "", (), clipped),
    "evenness": Measure("darker half of the face by the brighter one", "", (), evenness),
    "background_spread": Measure(
        "spread of the background's brightness", "", ("parsing",), background_spread
    ),
}  # fmt: skip


def measure(name: str) -> Measure:
    """The measure of that name.

    Raises:
        UsageError: there is none; the message lists all.
    """
    if name not in MEASURES:
        raise UsageError(f"there is no measure {name!r}; there are: {', '.join(MEASURES)}")
    return MEASURES[name]

"""Drawn faces with every label known: for tests, and for a newcomer's first five minutes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from mien import geometry
from mien.tasks import UNITS8, UNITS12
from mien.tasks.parsing import CELEBAMASK19, HELEN9_NAMES, LAPA11_NAMES
from mien.types import Pixels, Sample

SIDE = 160
Spots = tuple[int | tuple[int, ...], ...]

# Where the points of other sets lie among the 68: a point, or the mean of several. Those of a brow's lower
# edge (LOW) are moved to the edge that is drawn, four pixels below.
_EYE_L, _EYE_R = (36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47)
WFLW98_OF_68: Spots = (
    *((i // 2, (i + 1) // 2) for i in range(33)),
    17,
    18,
    19,
    20,
    21,
    21,
    20,
    19,
    18,
    22,
    23,
    24,
    25,
    26,
    25,
    24,
    23,
    22,
    27,
    28,
    29,
    30,
    31,
    32,
    33,
    34,
    35,
    36,
    37,
    (37, 38),
    38,
    39,
    40,
    (40, 41),
    41,
    42,
    43,
    (43, 44),
    44,
    45,
    46,
    (46, 47),
    47,
    *range(48, 68),
    _EYE_L,
    _EYE_R,
)
WFLW98_LOW = (38, 39, 40, 41, 47, 48, 49, 50)
COFW29_OF_68: Spots = (
    17,
    26,
    21,
    22,
    19,
    19,
    24,
    24,
    36,
    45,
    39,
    42,
    (37, 38),
    (40, 41),
    (43, 44),
    (46, 47),
    _EYE_L,
    _EYE_R,
    31,
    35,
    30,
    33,
    48,
    54,
    51,
    62,
    66,
    57,
    8,
)
COFW29_LOW = (5, 7)
AFLW19_OF_68: Spots = (
    17,
    19,
    21,
    22,
    24,
    26,
    36,
    _EYE_L,
    39,
    42,
    _EYE_R,
    45,
    31,
    30,
    35,
    48,
    (62, 66),
    54,
    8,
)

# The 19 classes in smaller sets. A hat is background, drawn glasses hide what is behind and count as skin.
_COMMON = {"nose": "nose", "u_lip": "upper_lip", "mouth": "inner_mouth", "l_lip": "lower_lip", "hair": "hair"}
_SIDES = {n: n for n in ("l_eye", "r_eye", "l_brow", "r_brow")}
LAPA11_OF_19 = _COMMON | _SIDES | dict.fromkeys(("skin", "eyeglass", "l_ear", "r_ear"), "face")
HELEN9_OF_19 = _COMMON | {n: n[2:] for n in _SIDES} | dict.fromkeys(("skin", "eyeglass"), "skin")


def _spots(p: np.ndarray, spots: Spots, low: tuple[int, ...] = ()) -> np.ndarray:
    """(68, 2) -> (n, 2), see above."""
    out = np.stack([p[[i] if isinstance(i, int) else list(i)].mean(0) for i in spots])
    out[list(low)] += (0, 4)
    return out


def _classes(mask: Pixels, names: tuple[str, ...], of_19: dict[str, str]) -> Pixels:
    """A mask of 19 classes in those of a smaller set."""
    return np.array([names.index(of_19.get(n, "background")) for n in CELEBAMASK19], np.uint8)[mask]


def _outline(rng: np.random.Generator) -> np.ndarray:
    """68 points of a face about one unit wide, x right, y down, origin between eyes and mouth, with a random
    mouth.
    """
    jaw = np.stack(
        [-0.62 * np.cos(np.linspace(0, np.pi, 17)), 0.75 * np.sin(np.linspace(0, np.pi, 17)) - 0.1], 1
    )
    lift = rng.uniform(-0.05, 0.05)
    brow = np.stack([np.linspace(-0.5, -0.14, 5), -0.42 + lift - 0.06 * np.sin(np.linspace(0, np.pi, 5))], 1)
    bridge = np.stack([np.zeros(4), np.linspace(-0.22, 0.08, 4)], 1)
    base = np.stack([np.linspace(-0.12, 0.12, 5), 0.16 + 0.03 * np.sin(np.linspace(0, np.pi, 5))], 1)
    turn = np.radians([180, 240, 300, 0, 60, 120])
    eye = np.stack([-0.3 + 0.12 * np.cos(turn), -0.25 + 0.06 * np.sin(turn)], 1)
    smile, gape = rng.uniform(-0.08, 0.08), rng.uniform(0.03, 0.12)

    def lips(n: int, rx: float, ry: float) -> np.ndarray:
        a = np.pi + np.arange(n) * 2 * np.pi / n
        x = rx * np.cos(a)
        return np.stack([x, 0.4 + ry * np.sin(a) - smile * (x / rx) ** 2], 1)

    flip = np.array([-1.0, 1.0])
    return np.concatenate(
        [
            jaw,
            brow,
            brow[::-1] * flip,
            bridge,
            base,
            eye,
            (eye * flip)[[3, 2, 1, 0, 5, 4]],
            lips(12, 0.25, gape + 0.05),
            lips(8, 0.2, gape),
        ]
    )


def draw(rng: np.random.Generator) -> tuple[Pixels, dict[str, Any], np.ndarray]:
    """One drawn head -> picture (160, 160, 3), labels by task, five points."""
    male, glasses, hat = (bool(rng.random() < 0.5) for _ in range(3))
    years = float(rng.integers(5, 90))
    tilt = rng.uniform(-15, 15)
    place = geometry.about((0, 0), degrees=tilt, scale=rng.uniform(36, 46), shift=rng.uniform(76, 84, 2))
    outline = _outline(rng)
    p = geometry.move_points(outline, place)
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:] = rng.integers(0, 256, 3)
    mask = np.zeros((SIDE, SIDE), np.uint8)

    def paint(name: str, points: np.ndarray, color: Any) -> None:
        polygon = [np.round(points).astype(np.int32)]
        cv2.fillPoly(picture, polygon, [int(c) for c in color])
        cv2.fillPoly(mask, polygon, CELEBAMASK19.index(name))

    def blob(name: str, center: tuple[float, float], radii: tuple[float, float], color: Any) -> None:
        a = np.linspace(0, 2 * np.pi, 40)
        paint(
            name,
            geometry.move_points(
                np.stack([center[0] + radii[0] * np.cos(a), center[1] + radii[1] * np.sin(a)], 1), place
            ),
            color,
        )

    skin, gray = rng.integers(120, 230, 3), np.full(3, 90 + years * 1.5)
    blob("hair", (0, -0.35), (0.85, 0.85), gray if not male else gray * 0.4)
    blob("neck", (0, 0.8), (0.35, 0.4), skin * 0.9)
    blob("cloth", (0, 1.35), (1.0, 0.4), (40, 60, 200) if male else (200, 40, 120))
    blob("skin", (0, -0.1), (0.62, 0.75), skin)
    if hat:
        blob("hat", (0, -0.85), (0.8, 0.3), (30, 120, 30))
    paint("r_brow", np.concatenate([p[17:22], p[21:16:-1] + (0, 4)]), (60, 40, 30))
    paint("l_brow", np.concatenate([p[22:27], p[26:21:-1] + (0, 4)]), (60, 40, 30))
    paint("nose", p[[27, 31, 33, 35]], skin * 0.8)
    paint("r_eye", p[36:42], (250, 250, 250))
    paint("l_eye", p[42:48], (250, 250, 250))
    paint("u_lip", np.concatenate([p[48:55], p[64:59:-1]]), (180, 60, 70))
    paint("l_lip", np.concatenate([p[54:60], p[[48, 60, 67, 66, 65, 64]]]), (170, 50, 60))
    paint("mouth", p[60:68], (60, 10, 20))
    if glasses:
        for x in (-0.3, 0.3):
            blob("eyeglass", (x, -0.25), (0.2, 0.14), (20, 20, 20))
    smiling = bool(p[62, 1] > (p[60, 1] + p[64, 1]) / 2)
    five = geometry.five_of_68(p)
    who = np.array([float(male), years / 50, float(hat), -1.0], np.float32)
    labels = {
        "landmarks": p, "points5": five, "parsing": mask, "age": years, "expression": int(smiling),
        "expression7": int(smiling),
        "attributes": {"Male": male, "Eyeglasses": glasses, "Wearing_Hat": hat, "Smiling": smiling},
        "identity": np.resize(who, 128), "identity512": np.resize(who, 512),
        "lapa11": _classes(mask, LAPA11_NAMES, LAPA11_OF_19), "helen9": _classes(mask, HELEN9_NAMES,
        HELEN9_OF_19),
        "eyes": {"left": 1.0, "right": 1.0}, "gaze": (0.0, 0.0),
        "occlusion": {"mask": 0.0, "sunglasses": float(glasses), "left_eye": float(glasses),
                      "right_eye": float(glasses), "nose": 0.0, "mouth": 0.0},
        "quality": {"score": 0.9, "sharpness": 1.0, "light": 1.0, "pose": 1.0,
                    "occlusion": 0.7 if glasses else 1.0},
        "emotion7": 3 if smiling else 0, "pose5": 2, "euler": (0.0, 0.0, tilt),
        **_points(p, glasses), **_units(outline, smiling),
    }  # fmt: skip
    return picture, labels, five


def _points(p: np.ndarray, glasses: bool) -> dict[str, Any]:
    """Labels of the sets that mark other points than the 68.

    AFLW leaves out what is hidden: eyes behind drawn glasses.
    """
    seen = _spots(p, AFLW19_OF_68)
    box = np.concatenate([p.min(0), p.max(0)])
    if glasses:
        seen[6:12] = np.nan
    return {
        "wflw98": _spots(p, WFLW98_OF_68, WFLW98_LOW), "cofw29": _spots(p, COFW29_OF_68, COFW29_LOW),
        "aflw19": {"points": seen, "box": box},
    }  # fmt: skip


def _units(outline: np.ndarray, smiling: bool) -> dict[str, Any]:
    """Action units that the drawn brows and mouth can show; the others are absent."""
    raised, parted = bool(outline[17, 1] < -0.42), bool(outline[66, 1] - outline[62, 1] > 0.15)
    shown = {"AU1": raised, "AU2": raised, "AU6": smiling, "AU12": smiling, "AU25": parted}
    return {t.name: {n: shown.get(n, False) for n in t.names} for t in (UNITS12, UNITS8)}


class Toy:
    """n drawn faces, the same ones for the same seed."""

    def __init__(self, n: int, seed: int, tasks: tuple[str, ...] | None):
        self.name, self.n, self.seed, self.tasks = "toy", n, seed, tasks

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < self.n:
            raise IndexError(f"toy face {i} of {self.n}")
        picture, labels, five = draw(np.random.default_rng([self.seed, i]))
        kept = {k: v for k, v in labels.items() if self.tasks is None or k in self.tasks}
        return Sample(picture, kept, five, f"toy-{i}")


def toy(split: str = "train", *, n: int = 64, tasks: tuple[str, ...] | None = None) -> Toy:
    """Drawn faces; `tasks` keeps only these labels, as a real set would that annotates a part."""
    return Toy(n, {"train": 1, "val": 2, "test": 3}[split], tasks)

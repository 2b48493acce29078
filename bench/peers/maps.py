"""The others' answers in our words: points of the 478-point mesh, names of expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.tasks.age import Age
from mien.tasks.attributes import Attributes
from mien.tasks.choice import EXPRESSION8, Choice
from mien.tasks.landmarks import Landmarks

# Where each iBUG point lies on MediaPipe's mesh (canonical face model, 468 points; the ten of the irises
# follow and are not used). Jaw and inner lips, where maps in use differ, were chosen among the mesh's outline
# and lips as the nearest in mirrored pairs on 80 pictures of Helen's training half, in the tools' favor. The
# two never agree wholly: iBUG's jaw is the outline in the picture, the mesh's a line on the head.
IBUG68_OF_MESH = (
    127,
    234,
    132,
    58,
    172,
    136,
    149,
    148,
    152,
    377,
    378,
    365,
    397,
    288,
    361,
    454,
    356,  # jaw, from the picture's left
    70,
    63,
    105,
    66,
    107,
    336,
    296,
    334,
    293,
    300,  # brows' upper edges
    168,
    197,
    5,
    4,  # bridge, down to the tip
    98,
    97,
    2,
    326,
    327,  # under the nose
    33,
    160,
    158,
    133,
    153,
    144,
    362,
    385,
    387,
    263,
    373,
    380,  # eyes: corner, upper lid, corner, lower lid
    61,
    39,
    37,
    0,
    267,
    269,
    291,
    405,
    314,
    17,
    84,
    181,  # outer lips
    78,
    82,
    13,
    312,
    308,
    317,
    14,
    87,  # inner lips
)

# Every word that a tool here uses -> ours. Seven: contempt, FER+'s eighth, is never answered by them.
EXPRESSIONS = {
    "neutral": "neutral", "happy": "happiness", "sad": "sadness",
    "surprise": "surprise", "surprised": "surprise", "angry": "anger",
    "disgust": "disgust", "disgusted": "disgust", "fear": "fear", "fearful": "fear",
} | {name: name for name in EXPRESSION8}  # fmt: skip


def sixty_eight(face: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    """(68, 2) iBUG points in pixels, the tool's own or from its mesh; None where it has neither."""
    if "ibug68" in face:
        return np.asarray(face["ibug68"], np.float64)
    return np.asarray(face["mesh"], np.float64)[list(IBUG68_OF_MESH)] if "mesh" in face else None


def five(face: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    """(5, 2): the tool's own, else eye centers, nose tip and mouth corners of its 68."""
    if "points5" in face:
        return np.asarray(face["points5"], np.float64)
    points = sixty_eight(face)
    return None if points is None else geometry.five_of_68(points)


class Descriptor:
    """An embedding whose product with another is minus their Euclidean distance, the measure that the tools'
    manuals use.

    On embeddings of length 1 it orders pairs as the cosine does.
    """

    def __init__(self, numbers: npt.ArrayLike):
        self.numbers = np.asarray(numbers, np.float64)

    def __matmul__(self, other: Descriptor) -> float:
        return -float(np.linalg.norm(self.numbers - other.numbers))


class Person:
    """As `mien.tasks.identity.Verification` wants an answer."""

    def __init__(self, numbers: npt.ArrayLike):
        self.embedding = Descriptor(numbers)


def expression(face: Mapping[str, Any]) -> Choice | None:
    """A distribution over our eight; classes that the tool does not have get 0.

    Raises:
        KeyError: a word that `EXPRESSIONS` lacks.
    """
    scores = face.get("expression")
    if not scores:
        return None
    shown = dict.fromkeys(EXPRESSION8, 0.0) | {EXPRESSIONS[name]: float(p) for name, p in scores.items()}
    return Choice(max(shown, key=lambda n: shown[n]), shown, "expression8")


def answer(task: str, face: Mapping[str, Any]) -> Any:
    """The output of a tool for one face -> our prediction of that task; None if the tool has none."""
    if task in ("landmarks", "points5"):
        points = sixty_eight(face) if task == "landmarks" else five(face)
        return None if points is None else Landmarks(points.astype(np.float32), task)
    if task == "age":
        return Age(face["age"], face["age"], face["age"]) if "age" in face else None
    if task == "attributes":
        return Attributes({"Male": face["male"]}, "gender") if "male" in face else None
    if task == "expression":
        return expression(face)
    return Person(face["embedding"]) if "embedding" in face else None

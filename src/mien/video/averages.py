"""Averages of predictions over the frames of a track."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mien.tasks import GENDER, TASKS
from mien.tasks.age import Age, AgeTask
from mien.tasks.attributes import Attributes, AttributesTask, Gender
from mien.tasks.choice import Choice, ChoiceTask
from mien.tasks.identity import Identity, IdentityTask
from mien.types import Array


class TrackAverages:
    """Running means of answers, each frame weighing as its detection score times its box's side.

    Averaged are ages (years, low, high), genders, choices and yes/no answers (probabilities), and embeddings.
    Points, masks and poses belong to a frame and are left out.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Array] = {}
        self.weights: dict[str, float] = {}
        self.like: dict[str, Any] = {}

    def add(self, answers: Mapping[str, Any], weight: float) -> None:
        """One frame's answers."""
        for name, answer in answers.items():
            values = _numbers(answer)
            if values is not None:
                self.sums[name] = self.sums.get(name, 0.0) + weight * values
                self.weights[name] = self.weights.get(name, 0.0) + weight
                self.like[name] = answer

    def answers(self) -> dict[str, Any]:
        """Task name -> the mean, in the answer's own class."""
        return {
            name: _answer(like, self.sums[name] / max(self.weights[name], 1e-12))
            for name, like in self.like.items()
        }


def averaged(name: str) -> bool:
    """Whether answers of that name have a mean."""
    base = name.partition("@")[0]
    return base == GENDER.name or isinstance(
        TASKS.get(base), (AgeTask, ChoiceTask, AttributesTask, IdentityTask)
    )


def _numbers(answer: Any) -> Array | None:
    """What of an answer can be averaged, or None."""
    if isinstance(answer, Age):
        return np.array([answer.years, answer.low, answer.high])
    if isinstance(answer, Gender):
        return np.array([answer.probability if answer.label == "female" else 1 - answer.probability])
    if isinstance(answer, (Choice, Attributes)):
        return np.array(list(answer.probabilities.values()))
    if isinstance(answer, Identity):
        return np.asarray(answer.embedding, np.float64)
    return None


def _answer(like: Any, values: Array) -> Any:
    """Inverse of `_numbers`, with a class and names as in `like`."""
    if isinstance(like, Age):
        return Age(float(values[0]), float(values[1]), float(values[2]), like.coverage)
    if isinstance(like, Gender):
        return (
            Gender("female", float(values[0])) if values[0] >= 0.5 else Gender("male", 1 - float(values[0]))
        )
    if isinstance(like, Identity):
        return Identity((values / max(float(np.linalg.norm(values)), 1e-12)).astype(np.float32))
    probabilities = dict(zip(like.probabilities, values.tolist(), strict=True))
    if isinstance(like, Choice):
        return Choice(max(probabilities, key=lambda n: probabilities[n]), probabilities, like.labels)
    return Attributes(probabilities, like.labels)

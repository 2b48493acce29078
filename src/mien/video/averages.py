"""Averages of predictions over the frames of a track."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mien.tasks import Answer, Task, described
from mien.tasks.base import WeightedMean
from mien.types import Floats


class TrackAverages:
    """Running means of answers, each frame weighing as its detection score times its box's side, and its
    quality where that was read.

    Averaged are ages (years, low, high), genders, choices and yes/no answers (probabilities), and embeddings.
    Points, masks, poses and gazes belong to a frame and are left out.
    """

    def __init__(self) -> None:
        self.means: dict[str, WeightedMean[Answer]] = {}

    def add(self, answers: Mapping[str, Answer], weight: float) -> None:
        """One frame's answers."""
        for name, answer in answers.items():
            if answer.averaged:
                self.means.setdefault(name, WeightedMean()).add(answer, weight)

    def answers(self) -> dict[str, Answer]:
        """Task name -> the mean, in the answer's own class."""
        return {name: mean.answer() for name, mean in self.means.items()}

    def direction(self) -> Floats | None:
        """(d,) mean unit vector of identity, see `Answer.direction`; None if no task has one."""
        for mean in self.means.values():
            if mean.latest is not None and mean.latest.direction() is not None:
                return mean.answer().direction()
        return None


def averaged(name: str, tasks: Iterable[Task[Any]] = ()) -> bool:
    """Whether answers of that name have a mean; tasks: of the network."""
    known = described(name, tasks)
    return known is not None and known.answer.averaged

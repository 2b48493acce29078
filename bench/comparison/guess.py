"""What an answer that never looks at the picture scores: the floor of every column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.comparison.work import scores_of
from mien.data.augment import NONE
from mien.data.pack_mixture import PROPORTIONS, pack_mixture
from mien.models.ifan import ifan_tiny, unsettled
from mien.tasks import AGE, ATTRIBUTES, EXPRESSION, LANDMARKS, PARSING, POINTS5
from mien.types import Floats

TASKS = (PARSING, POINTS5, LANDMARKS, EXPRESSION, ATTRIBUTES, AGE)


class Guess:
    """An answerer that gives every face the mean of the training labels: mean places, the commonest class of
    each pixel, shares of classes, mean years. Means are taken by iFAN's `mean_answers`, which feeds its first
    lap with them.

    Args:
        means: task -> the mean label as iFAN keeps it, without the batch axis.
    """

    def __init__(self, means: Mapping[str, Any], view: Any):
        self.tasks, self.view = tuple(t for t in TASKS if t.name in means), view
        self.raw = {t.name: unsettled(t, means[t.name], 1e-6).numpy() for t in self.tasks}

    def __call__(self, images: Floats) -> dict[str, Floats]:
        return {name: np.repeat(raw[None], len(images), 0) for name, raw in self.raw.items()}


def guess(*, batches: int = 100, synthetic: bool = False) -> Guess:
    """From so many batches of twenty faces of the training sets, as they are."""
    net = ifan_tiny(tasks=TASKS)
    faces = pack_mixture(PROPORTIONS, net.view, TASKS, seed=1, augment=NONE, synthetic=synthetic)
    return Guess(net.mean_answers(faces.batch(i) for i in range(batches)), net.view)


def score_guess() -> dict[str, Any]:
    """Every protocol of the pack that it can answer: protocol -> numbers."""
    return scores_of(guess())

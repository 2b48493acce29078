"""Identity: an embedding whose direction represents the person."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.tasks.base import Answer, Criterion, Embedding, Task, over_labeled, zero_loss
from mien.tasks.columns import Column, value_at
from mien.types import Array, Crop, Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Identity(Answer):
    """The identity of a face, as a unit vector.

    Attributes:
        embedding: (d,) float, length 1. The similarity of two faces is the dot product, -1..1; not a
            probability.
    """

    embedding: Floats = field(repr=False)

    averaged: ClassVar[bool] = True

    def similarity(self, other: Identity) -> float:
        """Cosine, -1..1."""
        return float(self.embedding @ other.embedding)

    def to_dict(self) -> dict[str, Any]:
        """{"embedding": [d numbers]}."""
        return {"embedding": [round(float(v), 6) for v in self.embedding]}

    def value(self) -> Floats:
        """The embedding."""
        return self.embedding

    def direction(self) -> Floats:
        return self.embedding

    def mean_terms(self) -> Array:
        return np.asarray(self.embedding, np.float64)

    def from_mean(self, terms: Array) -> Identity:
        return Identity((terms / max(float(np.linalg.norm(terms)), 1e-12)).astype(np.float32))


@dataclass(frozen=True)
class IdentityTask(Task[Identity]):
    """An embedding, here trained by regressing a teacher's descriptors: (1 - cosine) + mean squared
    difference.

    Labels are teacher descriptors with the mean descriptor, or most of it, taken off and unit variance (the
    data set does that): then directions, not a common offset, tell people apart, and the loss starts near 2.

    Attributes:
        d: numbers of the embedding.
        distance_weight: of the squared difference next to the cosine.
    """

    answer: ClassVar[type[Answer]] = Identity
    name: str = "identity"
    labels: str = "embedding128"
    d: int = 128
    _: KW_ONLY
    sensitive: bool = True
    distance_weight: float = 1.0

    @property
    def shape(self) -> Embedding:
        return Embedding(self.d)

    def criterion(self) -> Criterion:
        def loss(raw: Tensor, target: Tensor) -> Tensor:
            norms = (raw.square().sum(-1) + 1e-8).sqrt() * (target.square().sum(-1) + 1e-8).sqrt()
            cosine = (raw * target).sum(-1) / norms
            return (1 - cosine).mean() + self.distance_weight * (raw - target).square().mean()

        return over_labeled(loss)

    def read(self, raw: Floats, crop: Crop) -> Identity:
        v = np.asarray(raw, np.float32)
        return Identity(v / max(float(np.linalg.norm(v)), 1e-12))

    def columns(self) -> list[Column]:
        parts = tuple(str(i) for i in range(self.d))
        return [Column(self.name, float, value_at(self.name, "embedding"), parts)]

    def decoder(self) -> dict[str, Any]:
        return {"kind": "identity"}

    def metrics(self) -> Verification:
        return Verification()

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        if np.ndim(label) == 0:  # a person's number, for a criterion such as that of `MarginTask`
            return np.int64(label), np.True_
        return np.asarray(label, np.float32), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.zeros(self.d, np.float32), np.False_


@dataclass(frozen=True)
class MarginTask(IdentityTask):
    """The same answer, trained by telling apart the people of a training set with CosFace (Wang et al., CVPR
    2018).

    A label is a person's number, 0..classes-1. What is answered, evaluated and exported is the embedding, as
    with `IdentityTask`; the class weights belong to the criterion and leave with it.

    Attributes:
        name, labels, d: of the catalogue's task that the weights shall answer.
        classes: people in the training set.
        scale, margin: s and m of the paper; the values are Faceptor's and InsightFace's.
        spread: standard deviation of the class weights at the start. Ours: normal, 0.01, as in InsightFace;
            official Faceptor starts uniform with 0.0255. The loss normalizes the weights, so that only their
            directions count, and those are similar.
    """

    name: str = "identity512"
    labels: str = "embedding512"
    d: int = 512
    _: KW_ONLY
    classes: int
    scale: float = 64.0
    margin: float = 0.4
    spread: float = 0.01

    def criterion(self) -> Criterion:
        """A new nn.Module with the class weights: keep one, give its parameters to the optimizer and itself
        to `Recipe.criteria`.
        """
        import torch
        from torch import nn
        from torch.nn import functional as F

        task, d = self, self.d

        class CosFace(nn.Module):
            """Embeddings (B, d), persons (B,), known (B,) -> cross-entropy over the known; `weight` is
            (classes, d).
            """

            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(task.spread * torch.randn(task.classes, d))

            def logits(self, raw: Tensor, target: Tensor) -> Tensor:
                """s (cos - m [own class]): (B, classes)."""
                cosine = F.linear(F.normalize(raw), F.normalize(self.weight))
                return task.scale * (cosine - task.margin * F.one_hot(target, task.classes).to(cosine.dtype))

            def forward(self, raw: Tensor, target: Tensor, mask: Tensor) -> Tensor:
                if not bool(mask.any()):
                    return zero_loss(raw) + zero_loss(self.weight)
                persons = target[mask]
                if others := persons[(persons < 0) | (persons >= task.classes)].tolist():
                    raise UsageError(
                        f"{task.name} knows persons 0..{task.classes - 1}, and a label says {others[0]};"
                        " count them again"
                    )
                return F.cross_entropy(self.logits(raw[mask], persons), persons)

        return CosFace()

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.int64(0), np.False_


class Verification:
    """Accuracy of "same person?" by 10-fold cross-validation of the threshold.

    A label is the list of (pair number, is it the same person?) in which the picture takes part; each pair
    number comes twice. Folds are cut from the pairs in order, same and different ones apart, as in LFW's own
    lists.
    """

    headline = "accuracy"

    def __init__(self, folds: int = 10) -> None:
        self.folds = folds
        self.seen: dict[int, tuple[bool, list[Floats]]] = {}

    def update(self, answer: Identity, label: Any) -> None:
        for pair, same in label:
            self.seen.setdefault(int(pair), (bool(same), []))[1].append(answer.embedding)

    def compute(self) -> dict[str, float]:
        pairs = [(same, e) for _, (same, e) in sorted(self.seen.items()) if len(e) == 2]
        same = np.array([s for s, _ in pairs])
        similarity = np.array([float(a @ b) for _, (a, b) in pairs])
        accuracy, threshold = ten_fold(similarity, same, self.folds)
        return {"accuracy": 100 * accuracy, "threshold": threshold, "n": len(pairs)}


def ten_fold(similarity: npt.ArrayLike, same: npt.ArrayLike, folds: int = 10) -> tuple[float, float]:
    """Mean accuracy over folds, each at the best threshold of the others, and the mean of those thresholds.

    Ties between thresholds are broken towards the middle one. Thresholds lie between every two similarities;
    the official code of Faceptor tries a grid of 0.01, so that on 6,000 pairs its accuracy differs by up to
    0.07 points, either way.
    """
    s, y = np.asarray(similarity, np.float64), np.asarray(same, bool)
    fold = np.empty(len(y), int)
    for value in (True, False):
        rows = np.flatnonzero(y == value)
        fold[rows] = np.arange(len(rows)) * folds // max(len(rows), 1)
    accuracies, thresholds = [], []
    for k in sorted(set(fold)):
        train, test = fold != k, fold == k
        cuts = np.sort(s[train])
        cuts = np.concatenate([[cuts[0] - 1], (cuts[1:] + cuts[:-1]) / 2, [cuts[-1] + 1]])
        order = np.argsort(s[train])
        positives = np.concatenate([[0], np.cumsum(y[train][order])])  # same pairs below each cut
        negatives = np.arange(len(cuts)) - positives
        right = negatives + (positives[-1] - positives)
        best = np.flatnonzero(right == right.max())
        t = float(cuts[best[len(best) // 2]])
        accuracies.append(float(((s[test] >= t) == y[test]).mean()))
        thresholds.append(t)
    return float(np.mean(accuracies)), float(np.mean(thresholds))


IDENTITY = IdentityTask()
IDENTITY512 = IdentityTask("identity512", "embedding512", 512)

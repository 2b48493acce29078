"""Parsing: which part of the head each pixel belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.tasks.base import Answer, Criterion, Map, Task, over_labeled, rounded, zero_loss
from mien.tasks.columns import Column, fraction_columns
from mien.types import Crop, Floats, Pixels

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = 255  # a pixel nobody labeled, or one outside the stored picture or the crop


@dataclass(frozen=True, slots=True, eq=False)
class Parsing(Answer):
    """A class per pixel.

    Attributes:
        mask: (h, w) uint8 class index in crop geometry: as many pixels as the crop, or twice as many each way
            where the network's maps are at least half the crop's size.
        from_photo: (2, 3) affine, photo pixels -> mask pixels.
        names: class names by index; `l_` and `r_` are the subject's own left and right (`l_eye` is on the
            picture's right).
        labels: the label set's id.
        fractions: share of the crop of each class that occurs, 0..1.
    """

    mask: Pixels = field(repr=False)
    from_photo: npt.NDArray[np.float64] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    labels: str
    fractions: Mapping[str, float]

    def mask_in(self, width: int, height: int) -> Pixels:
        """The mask in photo geometry: (height, width) uint8, 255 where the crop does not reach."""
        return geometry.warp_mask(self.mask, geometry.invert(self.from_photo), (width, height), UNKNOWN)

    def photo_mask(self, width: int, height: int) -> Pixels:
        return self.mask_in(width, height)

    def own_columns(self, name: str) -> list[Column]:
        return fraction_columns(name, self.names, "classes")

    def to_dict(self) -> dict[str, Any]:
        """{"set": id, "classes": {name: fraction of the crop}}."""
        return {"set": self.labels, "classes": rounded(self.fractions)}

    def detail(self) -> dict[str, Any]:
        """{"mask": {"size": [w, h], "from_photo": affine, "runs": [class index, length, ...]}}.

        Runs are in row order, in the crop's geometry, which is small for any photo. The affine transform maps
        photo pixels to mask pixels.
        """
        flat = self.mask.reshape(-1)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
        runs = np.stack([flat[starts], np.diff(np.append(starts, flat.size))], 1)
        h, w = self.mask.shape
        affine = self.from_photo.tolist()
        return {"mask": {"size": [w, h], "from_photo": affine, "runs": runs.reshape(-1).tolist()}}


@dataclass(frozen=True)
class ParsingTask(Task[Parsing]):
    """A class per pixel from logit maps, enlarged bilinearly to the crop, or to twice its size where they are
    fine enough.

    Loss: cross-entropy over known pixels (Faceptor) plus soft Dice over the classes present.
    Ours: the Dice term; mean F1 weighs an earring like the skin, and cross-entropy does not.

    Attributes:
        names: class names by index; index 0 is the background.
        mirror: pairs of classes that become each other when the picture is mirrored.
        dice_weight: of the Dice term.
        class_weights: class -> what its pixels weigh in the cross-entropy; 1 where none is named.
    """

    answer: ClassVar[type[Answer]] = Parsing
    activation = "softmax"
    names: tuple[str, ...]
    mirror: Mapping[str, str] = field(hash=False)
    _: KW_ONLY
    dice_weight: float = 1.0
    class_weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def shape(self) -> Map:
        return Map(len(self.names))

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.names

    @cached_property
    def partners(self) -> Pixels:
        """(256,) uint8: the class that each class becomes in a mirrored picture; unused numbers stay."""
        both = {**self.mirror, **{b: a for a, b in self.mirror.items()}}
        table = np.arange(256, dtype=np.uint8)
        table[: len(self.names)] = [self.names.index(both.get(n, n)) for n in self.names]
        return table

    def criterion(self) -> Criterion:
        import torch
        from torch.nn import functional as F

        weights = torch.tensor([self.class_weights.get(n, 1.0) for n in self.names])

        def loss(raw: Tensor, target: Tensor) -> Tensor:
            logits = F.interpolate(raw, target.shape[-2:], mode="bilinear", align_corners=False)
            labels = target.long()
            seen = labels != UNKNOWN
            if not bool(seen.any()):
                return zero_loss(raw)
            log_p = logits.log_softmax(1).permute(0, 2, 3, 1)[seen]  # (pixels, classes)
            hot = F.one_hot(labels[seen], len(self.names)).to(log_p.dtype)
            heavy = hot * weights.to(hot)
            ce = -(heavy * log_p).sum() / heavy.sum()
            p = log_p.exp()
            total = hot.sum(0)
            dice = 1 - (2 * (p * hot).sum(0) + 1) / (p.sum(0) + total + 1)
            present = total > 0
            return ce + self.dice_weight * torch.where(present, dice, 0.0).sum() / present.sum().clamp_min(1)

        return over_labeled(loss)

    def undo_hflip(self, raw: Floats) -> Floats:
        return raw[:, self.partners[: len(self.names)], :, ::-1]

    def read(self, raw: Floats, crop: Crop) -> Parsing:
        h, w = crop.pixels.shape[:2]
        k = (
            2 if 2 * raw.shape[1] >= h else 1
        )  # where an edge passes between two cells is known to about a quarter of a cell
        mask = _winners(np.ascontiguousarray(raw, np.float32), (k * w, k * h))
        to_mask = geometry.compose(
            geometry.about((-0.5, -0.5), scale=k), crop.from_photo
        )  # pixels are counted from their centers
        if crop.photo_size is not None:  # there is nothing to see outside the photo
            outside = geometry.outside_photo(to_mask, crop.photo_size, (k * w, k * h))
            if outside is not None:
                mask[outside] = 0
        share = (
            cv2.calcHist([mask], [0], None, [len(self.names)], [0, len(self.names)]).reshape(-1) / mask.size
        )
        fractions = {n: float(s) for n, s in zip(self.names, share, strict=True) if s > 0}
        return Parsing(mask, to_mask, self.names, self.labels, fractions)

    def columns(self) -> list[Column]:
        return fraction_columns(self.name, self.names, "classes")

    def loss_weight(self, target: Tensor, mask: Tensor) -> float:
        """The known pixels. Not exact for the Dice term, which is no mean over pixels."""
        return float((target[mask] != UNKNOWN).sum())

    def decoder(self) -> dict[str, Any]:
        return {"kind": "map", "names": self.names}

    def metrics(self) -> MeanF1:
        return MeanF1(self.names)

    def encode_target(
        self, label: Any, affine: npt.ArrayLike, mirrored: bool, size: tuple[int, int]
    ) -> tuple[Any, Any]:
        mask = geometry.warp_mask(label, affine, size, UNKNOWN)
        return (self.partners[mask] if mirrored else mask), np.True_

    def missing_target(self, size: tuple[int, int]) -> tuple[Any, Any]:
        return np.full((size[1], size[0]), UNKNOWN, np.uint8), np.False_


def _winners(logits: Floats, size: tuple[int, int]) -> Pixels:
    """(n, h, w) -> the class of the largest logit, (height, width) uint8, of the maps enlarged bilinearly to
    (width, height).

    A class at a time: with 19 classes several times as fast as enlarging them together and taking the argmax,
    whose answer it is.
    """
    best = cv2.resize(logits[0], size, interpolation=cv2.INTER_LINEAR)
    mask, plane, won = np.zeros(best.shape, np.uint8), np.empty_like(best), np.empty(best.shape, np.uint8)
    for k in range(1, len(logits)):
        cv2.resize(logits[k], size, plane, interpolation=cv2.INTER_LINEAR)
        cv2.compare(plane, best, cv2.CMP_GT, won)
        cv2.max(mask, cv2.bitwise_and(won, k, won), mask)  # type: ignore[call-overload]  # the latest winner has the largest index
        cv2.max(best, plane, best)
    return mask


class MeanF1:
    """F1 per class from one confusion matrix over all pixels of all pictures; mean over non-background
    classes.

    Pixels that the crop does not reach count as background in the answer; unlabeled pixels are left out. A
    class absent in both truth and answer is left out of the mean. "ceiling" is the mean F1 of a perfect
    answer in these crops: below 1 where they do not reach the whole picture.
    """

    headline = "mean_f1"

    def __init__(self, names: tuple[str, ...]):
        self.names, self.matrix, self.n = names, np.zeros((len(names), len(names)), np.int64), 0
        self.perfect = np.zeros_like(self.matrix)  # of the truth, where the crop reaches

    def update(self, answer: Parsing, label: Any) -> None:
        truth = np.asarray(label)
        guess = answer.mask_in(truth.shape[1], truth.shape[0])
        reached = guess != UNKNOWN
        guess = np.where(reached, guess, 0)
        self.matrix += self._counts(truth, guess)
        self.perfect += self._counts(truth, np.where(reached, truth, 0))
        self.n += 1

    def _counts(self, truth: Pixels, guess: Pixels) -> npt.NDArray[np.int64]:
        seen, k = truth != UNKNOWN, len(self.names)
        return np.bincount(truth[seen].astype(np.int64) * k + guess[seen], minlength=k * k).reshape(k, k)

    def _f1(self, matrix: npt.NDArray[np.int64]) -> dict[str, float]:
        hit, total = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
        return {
            n: 2.0 * h / t
            for n, h, t in zip(self.names, hit, total, strict=True)
            if t > 0 and n != self.names[0]
        }

    def compute(self) -> dict[str, float]:
        f1, best = self._f1(self.matrix), self._f1(self.perfect)
        mean, ceiling = (float(np.mean(list(v.values()))) if v else 0.0 for v in (f1, best))
        return {
            "mean_f1": mean,
            "ceiling": ceiling,
            "n": self.n,
            **{f"f1:{k}": float(v) for k, v in f1.items()},
        }


CELEBAMASK19 = (
    "background",
    "skin",
    "nose",
    "eyeglass",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "earring",
    "necklace",
    "neck",
    "cloth",
)
# LaPa (Liu et al. 2020): a face takes its ears along. Its "left" brow and eye, 2 and 4, are those left in the
# picture.
LAPA11_NAMES = (
    "background",
    "face",
    "r_brow",
    "l_brow",
    "r_eye",
    "l_eye",
    "nose",
    "upper_lip",
    "inner_mouth",
    "lower_lip",
    "hair",
)
# Helen as iFAN takes it: left and right are one class, so that a mirror swaps nothing.
HELEN9_NAMES = ("background", "skin", "brow", "eye", "nose", "upper_lip", "inner_mouth", "lower_lip", "hair")
PARSING = ParsingTask(
    "parsing", "celebamask19", CELEBAMASK19, {"l_eye": "r_eye", "l_brow": "r_brow", "l_ear": "r_ear"}
)
LAPA11 = ParsingTask("lapa11", "lapa11", LAPA11_NAMES, {"l_eye": "r_eye", "l_brow": "r_brow"})
HELEN9 = ParsingTask("helen9", "helen9", HELEN9_NAMES, {})

"""The catalogue of published ways of measuring: which pictures, which question, which numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mien import settings
from mien.data.catalogue import DATASETS
from mien.data.dataset import ConcatDataset
from mien.data.detection import PhotosDataset
from mien.data.formats import pack, wild
from mien.data.whole_photos import CenteredFaceDataset, FaceBoxesDataset
from mien.tasks import HELEN9
from mien.tasks.base import Metrics
from mien.tasks.detection import DetectionMetrics, PointInBoxMetrics
from mien.tasks.parsing import MeanF1
from mien.tasks.plugins import Catalogue, check_name

CROP = "cropped by the set's points (labels or a detector's), not by our detector"

TRUE_POINTS = (
    "aligned by five of the true points, which removes roll and errors of scale; published numbers are of"
    " upright boxes, so compare with --detect"
)


@dataclass(frozen=True)
class Protocol:
    """A published way of measuring.

    Attributes:
        name: on the command line.
        dataset: called to open it.
        task: whose answers are scored.
        split: for people.
        keys: the numbers that the table shows, of those that the metrics compute.
        note: what a reader must know to compare the number.
        at: a model that keeps an answer for each set is scored by its "task@at"; one that does not, by its
            "task".
        flip_tta: raw outputs of a crop and of its horizontal flip are added, as usual in face verification.
        metrics: in place of the task's own.
        crop: what cuts the faces out, unless a detector does (`evaluate`).
        full_picture: the model gets the entire picture, resized, in place of an aligned crop, as in the
            published code.
        tanh: factor of FaRL's tanh-warp, which shows the whole picture in an aligned crop; 0: none. For
            parsing only.
    """

    name: str
    dataset: Callable[[], Any]
    task: str
    split: str
    keys: tuple[str, ...]
    note: str = ""
    at: str = ""
    flip_tta: bool = False
    metrics: Callable[[], Metrics] | None = None
    crop: str = CROP
    full_picture: bool = False
    tanh: float = 0.0

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks that can be scored, the preferred one first."""
        return (f"{self.task}@{self.at}", self.task) if self.at else (self.task,)

    def answer(self, names: Collection[str]) -> str | None:
        """The task of a model that is scored; None if the model has none of them."""
        return next((n for n in self.task_names if n in names), None)


class PartsF(MeanF1):
    """Helen's F1 as a whole, "overall_f", 0..1, next to the classes' own: brows, eyes, nose and mouth
    together.

    One count over all pixels of all pictures, F = 2 hits / (parts in the truth + parts in the answer), where
    lips and inner mouth are one part (Smith et al., CVPR 2013). Skin and hair do not count.
    """

    headline = "overall_f"

    def compute(self) -> dict[str, float]:
        part = np.array(
            [
                {"brow": 1, "eye": 2, "nose": 3, "upper_lip": 4, "inner_mouth": 4, "lower_lip": 4}.get(n, 0)
                for n in self.names
            ]
        )
        truth, guess = part[:, None], part[None, :]
        hits = self.matrix[(truth == guess) & (truth > 0)].sum()
        total = (self.matrix * (truth > 0)).sum() + (self.matrix * (guess > 0)).sum()
        return {"overall_f": float(2 * hits / total) if total else 0.0, **super().compute()}


def helen_f() -> PartsF:
    """A fresh metric for Helen's nine classes."""
    return PartsF(HELEN9.names)


def _of(name: str, split: str, **options: Any) -> Callable[[], Any]:
    return partial(DATASETS[name], split, **options)


_NME = ("nme", "fr@0.1", "auc@0.1")
_FACES = "NME by outer eye corners, x 100; FR and AUC at 0.1"
_BOX = "NME by the diagonal of the set's box, x 100; nme_box by its side"
_PIXELS = "F1 from one confusion matrix over all pixels"
_VERIFY = (
    "embeddings of the picture and its mirror image added; 10 folds, each at the best threshold of the others"
)

# The project's data pack: samples of the sets, at the size and in the split that the pack has
_PACK = (
    Protocol(
        "mtfl",
        lambda: pack.mtfl("test"),
        "points5",
        "MTFL test (AFLW)",
        ("nme", "fr@0.1"),
        "NME by eye distance",
        "mtfl",
        crop=TRUE_POINTS,
    ),
    Protocol(
        "helen68",
        lambda: pack.helen68("val"),
        "landmarks",
        "Helen val",
        ("nme", "fr@0.1"),
        "NME by outer eye corners",
        "300w",
        crop=TRUE_POINTS,
    ),
    Protocol(
        "celebamask",
        lambda: pack.celebamask("val"),
        "parsing",
        "CelebAMask val",
        ("mean_f1", "ceiling"),
        "18 classes at 256 px; `ceiling` is what a perfect answer in these crops scores",
        "celebamask",
    ),
    Protocol(
        "celeba",
        lambda: pack.celeba("val"),
        "attributes",
        "CelebA val",
        ("mean_accuracy",),
        "40 attributes, 89x109 px",
        "celeba",
    ),
    Protocol(
        "utkface-age",
        lambda: pack.utkface("val"),
        "age",
        "UTKFace val",
        ("mae", "cs5", "coverage"),
        "own split",
        "utkface",
    ),
    Protocol(
        "utkface-gender",
        lambda: pack.utkface("val"),
        "attributes",
        "UTKFace val",
        ("accuracy:Male",),
        "own split",
        "utkface",
    ),
    *(
        Protocol(
            f"ferplus-{s}",
            partial(pack.ferplus, s),
            "expression",
            f"FER+ {s}",
            ("accuracy",),
            "majority, 8 classes",
            "ferplus",
        )
        for s in ("val", "test")
    ),
    Protocol(
        "photos",
        lambda: PhotosDataset(settings.data_root(), "val"),
        "faces",
        "photos val",
        ("recall", "precision", "point_error"),
        "whole photos through our detector against a teacher's boxes (score >= 0.6; the others are ignored),"
        " IoU 0.5; median point error in % of the box side; n counts faces",
        crop="",
    ),
    Protocol(
        "face-boxes",
        lambda: FaceBoxesDataset(settings.data_more_root()),
        "faces",
        "face_boxes, 100 photos set aside",
        ("recall", "precision"),
        "hand-drawn boxes, many small or masked faces; IoU 0.4, every box counts; n counts faces",
        metrics=partial(DetectionMetrics, overlap=0.4),
        crop="",
    ),
    Protocol(
        "fairface-found",
        lambda: CenteredFaceDataset(settings.data_more_root() / "fairface" / "val.parquet"),
        "faces",
        "FairFace, 1,000 of its training part",
        ("recall",),
        "pictures in which a box contains the center",
        metrics=PointInBoxMetrics,
        crop="",
    ),
    Protocol(
        "lfw", pack.lfw_pairs, "identity", "LFW View 1", ("accuracy", "threshold"), "10-fold over 1,000 pairs"
    ),
)

_TEACHER = "cropped by a teacher detector's points; where it finds no face, by the median of the set"


def _fairface() -> ConcatDataset:
    return ConcatDataset([wild.fairface("val"), wild.fairface("aside")])


# The second data pack. FairFace's official validation part takes no part in any of them.
_WILD = (
    Protocol(
        "fairface-age",
        _fairface,
        "age",
        "FairFace, 4,500 of its training part",
        ("class_accuracy", "within_one"),
        "9 classes, by the predicted years; not the official validation part",
        metrics=wild.fairface_classes,
        crop=_TEACHER,
    ),
    Protocol(
        "fairface-gender",
        _fairface,
        "attributes",
        "FairFace, 4,500 of its training part",
        ("accuracy:Male",),
        "500 pictures per race and 1,000 more; not the official validation part",
        crop=_TEACHER,
    ),
    Protocol(
        "utkface-full-age",
        lambda: wild.utkface("val"),
        "age",
        "UTKFace val, 200 px",
        ("mae", "cs5", "coverage"),
        "own split, tight crops",
        "utkface",
        crop=_TEACHER,
    ),
    Protocol(
        "utkface-full-gender",
        lambda: wild.utkface("val"),
        "attributes",
        "UTKFace val, 200 px",
        ("accuracy:Male",),
        "own split, tight crops",
        "utkface",
        crop=_TEACHER,
    ),
    Protocol(
        "aaf-age",
        lambda: wild.aaf("val"),
        "age",
        "All-Age-Faces val",
        ("mae", "cs5", "coverage"),
        "own split",
        crop=_TEACHER,
    ),
    Protocol(
        "aaf-gender",
        lambda: wild.aaf("val"),
        "attributes",
        "All-Age-Faces val",
        ("accuracy:Male",),
        "own split",
        crop=_TEACHER,
    ),
    Protocol(
        "aaf-landmarks",
        lambda: wild.aaf("val"),
        "landmarks",
        "All-Age-Faces val",
        ("nme", "fr@0.1"),
        "49 of 68 points, machine-made; NME by outer eye corners",
        crop=_TEACHER,
    ),
    Protocol(
        "celeba-wild",
        lambda: wild.celeba_wild("aside"),
        "attributes",
        "CelebA, 317 whole photos of 25 people",
        ("mean_accuracy",),
        "40 attributes; people of the training part that no training saw",
        "celeba",
        crop=_TEACHER,
    ),
    Protocol(
        "london-age",
        lambda: wild.london("age"),
        "age",
        "London test",
        ("mae", "cs5"),
        "studio portraits",
        crop=_TEACHER,
    ),
    Protocol(
        "london-gender",
        wild.london,
        "attributes",
        "London test",
        ("accuracy:Male",),
        "studio portraits",
        crop=_TEACHER,
    ),
    Protocol(
        "london-expression",
        wild.london,
        "expression",
        "London test",
        ("accuracy",),
        "studio portraits, neutral or happiness",
        crop=_TEACHER,
    ),
)

_LANDMARKS = (
    *(
        Protocol(
            f"300w-{s}",
            _of("300w", s),
            "landmarks",
            f"300-W {s} ({n})",
            _NME,
            _FACES,
            "300w",
            crop=TRUE_POINTS,
        )
        for s, n in (("common", 554), ("challenge", 135), ("full", 689))
    ),
    Protocol(
        "wflw", _of("wflw", "test"), "wflw98", "WFLW test (2,500)", _NME, _FACES, "wflw", crop=TRUE_POINTS
    ),
    *(
        Protocol(
            f"wflw-{s}",
            _of("wflw", s),
            "wflw98",
            f"WFLW test, {s} ({n})",
            _NME,
            _FACES,
            "wflw",
            crop=TRUE_POINTS,
        )
        for s, n in (
            ("largepose", 326),
            ("expression", 314),
            ("illumination", 698),
            ("makeup", 206),
            ("occlusion", 736),
            ("blur", 773),
        )
    ),
    Protocol(
        "cofw", _of("cofw", "test"), "cofw29", "COFW test (507)", _NME, _FACES, "cofw", crop=TRUE_POINTS
    ),
    *(
        Protocol(
            name,
            _of("aflw19", s),
            "aflw19",
            f"AFLW-19 {title}",
            ("nme", "nme_box", "auc_box@0.07"),
            _BOX,
            "aflw19",
            crop=TRUE_POINTS,
        )
        for name, s, title in (
            ("aflw19", "test", "full (4,386)"),
            ("aflw19-frontal", "frontal", "frontal (1,314)"),
        )
    ),
    Protocol(
        "mtfl-official",
        _of("mtfl-official", "test"),
        "points5",
        "MTFL test (2,995)",
        ("nme", "fr@0.1"),
        "NME by the distance of the eye centers, x 100: larger than by outer corners",
        "mtfl",
        crop=TRUE_POINTS,
    ),
)

_PARSING = (
    Protocol(
        "celebamask-hq",
        _of("celebamask-hq", "test"),
        "parsing",
        "CelebAMask-HQ test (2,824)",
        ("mean_f1",),
        f"{_PIXELS} at 512 px, mean of 18 classes; parts painted in FaRL's order",
        "celebamask",
        crop="whole pictures, not aligned",
        full_picture=True,
    ),
    Protocol(
        "lapa",
        _of("lapa", "test"),
        "lapa11",
        "LaPa test (2,000)",
        ("mean_f1", "ceiling"),
        f"{_PIXELS} at the pictures' own size, masks brought back out of the crop, mean of 10 classes;"
        " published numbers are of whole pictures, see lapa-tanh; `ceiling` is what a perfect answer in"
        " these crops scores",
        "lapa",
    ),
    Protocol(
        "lapa-tanh",
        _of("lapa", "test"),
        "lapa11",
        "LaPa test (2,000)",
        ("mean_f1",),
        f"{_PIXELS} at the pictures' own size, mean of 10 classes; for models trained on tanh-warped crops",
        "lapa",
        crop="whole pictures, aligned by five of the set's 106 points, tanh-warped by 0.8",
        tanh=0.8,
    ),
    Protocol(
        "helen",
        _of("helen", "test"),
        "helen9",
        "Helen test",
        ("overall_f", "mean_f1"),
        f"overall F of brows, eyes, nose and the whole mouth; {_PIXELS}",
        "helen",
        metrics=helen_f,
        crop="the faces are placed by the labels' parts",
    ),
)

_VALUES = (
    Protocol(
        "morph2",
        _of("morph2", "test"),
        "age",
        "MORPH II test",
        ("mae", "cs5"),
        "RANDOM_80_20, seed 0: a draw of our own, the same people in both halves",
        "morph2",
    ),
    Protocol(
        "utkface-official",
        _of("utkface-official", "test"),
        "age",
        "UTKFace test",
        ("mae", "cs5"),
        "RANDOM_80_20, seed 0, of all ages; published numbers are on ages 21 to 60, see utkface-coral",
        "utkface",
    ),
    Protocol(
        "utkface-coral",
        _of("utkface-coral", "test"),
        "age",
        "UTKFace test, 21-60 years",
        ("mae", "cs5"),
        "CORAL's split, by its authors' lists: the one of published numbers (Faceptor 4.10)",
        "utkface",
    ),
    *(
        Protocol(
            f"affectnet-{k}",
            _of("affectnet", "val", classes=k),
            task,
            f"AffectNet val, {k} classes",
            ("accuracy", "mean_class_accuracy"),
            "the test labels are not public",
            "affectnet",
        )
        for k, task in ((7, "expression7"), (8, "expression"))
    ),
    Protocol(
        "rafdb",
        _of("rafdb", "test"),
        "expression7",
        "RAF-DB test (3,068)",
        ("accuracy", "mean_class_accuracy"),
        "single label, 7 classes, the set's aligned crops",
        "rafdb",
    ),
    Protocol(
        "ferplus-official",
        _of("ferplus-official", "test"),
        "expression",
        "FER+ test",
        ("accuracy",),
        "majority, 8 classes",
        "ferplus",
    ),
    Protocol(
        "ferplus-official-7",
        _of("ferplus-official", "test", classes=7),
        "expression7",
        "FER+ test, 7 classes",
        ("accuracy",),
        "majority, pictures of contempt left out",
        "ferplus",
    ),
    *(
        Protocol(
            name,
            _of(name, "test"),
            "attributes",
            f"{title} test ({n})",
            ("mean_accuracy",),
            "mean of 40 accuracies at 0.5",
            at,
        )
        for name, title, n, at in (
            ("celeba-official", "CelebA", "19,962", "celeba"),
            ("lfwa", "LFWA", "6,880", "lfwa"),
        )
    ),
)

_IDENTITY = (
    *(
        Protocol(
            name,
            _of(name, "test"),
            "identity512",
            f"{title} pairs",
            ("accuracy", "threshold"),
            _VERIFY,
            "ms1mv3",
            flip_tta=True,
            crop="crops of 112 px as published",
        )
        for name, title in (
            ("lfw.bin", "LFW, 6,000"),
            ("cfp_fp", "CFP-FP, 7,000"),
            ("agedb_30", "AgeDB-30, 6,000"),
            ("calfw", "CALFW, 6,000"),
            ("cplfw", "CPLFW, 6,000"),
        )
    ),
    Protocol(
        "lfw-official",
        _of("lfw-official", "test"),
        "identity512",
        "LFW View 2, 6,000 pairs",
        ("accuracy", "threshold"),
        f"the ten folds of pairs.txt; {_VERIFY}",
        "ms1mv3",
        flip_tta=True,
    ),
)


def _check(name: str, value: Any) -> str:
    """What is wrong with a plug-in's protocol; empty where nothing is."""
    if not isinstance(value, Protocol):
        return f"it is of type {type(value).__name__}; name a mien.evaluation.protocols.Protocol"
    return check_name(name, value)


PROTOCOLS: Catalogue[Protocol] = Catalogue(
    "mien.protocols",
    {p.name: p for p in (*_PACK, *_WILD, *_LANDMARKS, *_PARSING, *_VALUES, *_IDENTITY)},
    _check,
)

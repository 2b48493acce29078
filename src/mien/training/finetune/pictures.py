"""Faces with their surroundings, for training on pixels: one decoding, then all in one small geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien import geometry
from mien.errors import PhotoError, UsageError
from mien.io.image import load_photo
from mien.tasks import Task
from mien.training.finetune.annotation_files import UNKNOWN, MaskLabel
from mien.training.finetune.faces import Kept
from mien.training.finetune.table import Row
from mien.types import Array, Crop, Pixels, View

MARGIN = 1.5  # the kept part of the photo, in sides of the crop
DETAIL = 1.25  # its pixels for each pixel of the crop


@dataclass(frozen=True, eq=False)
class Near:
    """A face and what is around it.

    Attributes:
        pixels: (H, W, 3) uint8: the aligned face with a margin.
        points: (5, 2) of the face, in these pixels.
        label: of the task, in these pixels.
        crop: the aligned face as the network sees it; its affine leads from these pixels.
    """

    pixels: Pixels
    points: Array
    label: Any
    crop: Crop


def near(row: Row, kept: Kept, task: Task[Any], label: Any, view: View) -> Near:
    """Decode a picture and take its face out.

    Args:
        label: as the task encodes it, in pixels of the photo; or a `MaskLabel`.

    Raises:
        PhotoError: the picture cannot be read. UsageError: its mask does not fit.
    """
    photo = load_photo(row.source).pixels
    w, h = view.size
    plain = geometry.fit_similarity(kept.points, geometry.template_points(view))
    size = (round(w * MARGIN * DETAIL), round(h * MARGIN * DETAIL))
    move = np.array(
        [[DETAIL, 0, (size[0] - 1 - DETAIL * (w - 1)) / 2], [0, DETAIL, (size[1] - 1 - DETAIL * (h - 1)) / 2]]
    )
    affine = geometry.compose(move, plain)
    crop = Crop(geometry.warp(photo, plain, view.size), geometry.invert(move))
    return Near(
        geometry.warp(photo, affine, size),
        geometry.move_points(kept.points, affine),
        _moved(label, affine, size, (photo.shape[1], photo.shape[0]), task),
        crop,
    )


def in_photo(label: Any, size: tuple[int, int], task: Task[Any]) -> Any:
    """A label in pixels of the photo: a mask as an array, others as they are."""
    return label.array(size, len(task.label_names)) if isinstance(label, MaskLabel) else label


def _moved(label: Any, affine: Array, size: tuple[int, int], photo: tuple[int, int], task: Task[Any]) -> Any:
    if isinstance(label, MaskLabel):
        return geometry.warp_mask(in_photo(label, photo, task), affine, size, UNKNOWN)
    if isinstance(label, dict) and "points" in label:
        box = np.asarray(label["box"], np.float64).reshape(2, 2)
        middle = geometry.move_points(box.mean(0), affine)
        half = geometry.scale_of(affine) * (box[1] - box[0]) / 2
        return {
            "points": geometry.move_points(label["points"], affine),
            "box": np.concatenate([middle - half, middle + half]),
        }
    return label


def read_all(
    rows: Sequence[Row],
    kept: Sequence[Kept],
    task: Task[Any],
    labels: Sequence[Any],
    view: View,
    problems: list[str],
    step: Callable[[], None] = lambda: None,
) -> list[Near | None]:
    """All faces; None, and a problem, where a picture or its mask cannot be used."""
    out = list[Near | None]()
    wrong = list[str]()
    for row, facts, label in zip(rows, kept, labels, strict=True):
        try:
            out.append(near(row, facts, task, label, view))
        except (PhotoError, UsageError) as e:
            wrong.append(f"{row.name}: {e}")
            out.append(None)
        step()
    if wrong:
        shown = "; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
        problems.append(f"{len(wrong)} pictures are left out, since they or their masks do not fit: {shown}")
    return out

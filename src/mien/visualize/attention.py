"""Where a network looked: for each label, the places of the crop that its query read from, as numbers and as
pictures.

A map is the cross-attention of the decoder's last layer. It tells where that layer read, not why the answer
came out so: other weights may lead to the same answer (Jain and Wallace, 2019, "Attention is not
Explanation", arXiv 1902.10186).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mien.errors import UsageError
from mien.tasks import Boxes, Embedding, Task
from mien.types import Crop, Face, Floats, HasAttention, HasPath, HasQueries, HoldsModel, Pixels
from mien.visualize import drawing

Maps = dict[str, Floats]

SIDE, LARGE = 128, 512  # width in pixels of a tile on a sheet, and of a tile alone
GAP, LETTERS = 6, 12
HEAD, CAPTION = (
    2 * LETTERS,
    3 * LETTERS,
)  # heights of the line above a sheet, and of the two lines below a tile
_GROUND, _TEXT = (24, 26, 32), (200, 204, 212)
_FIX = "name the torch weights of a Q-Face or a Faceptor: a run's folder, or a .safetensors"


def network_of(model: object) -> HasAttention:
    """The torch network whose attention can be read.

    Args:
        model: the network itself, or what holds one as its `model`: a `TorchModel`, a `Reader`.

    Raises:
        UsageError: it is an ONNX network, or a system without `attention`; the message says what to use.
    """
    while not isinstance(model, HasAttention) and isinstance(model, HoldsModel):
        model = model.model
    if isinstance(model, HasAttention):
        return model
    if isinstance(model, HasPath):
        raise UsageError(
            f"{model.path} gives answers only, as every ONNX network does; to see its attention, {_FIX}"
        )
    raise UsageError(f"{type(model).__name__} has no attention to show; {_FIX}")


def labels_of(task: Task[Any]) -> tuple[str, ...]:
    """What a task's queries stand for: its names, or "0", "1", ...

    (years of age, landmarks); none for an embedding.
    """
    if isinstance(task.shape, Embedding):
        return ()
    n = 0 if isinstance(task.shape, Boxes) else task.shape.n
    return task.label_names or tuple(map(str, range(n)))


def attention_of(model: object, face: Face | Crop) -> dict[str, Maps]:
    """Where each label's query looked on one face.

    Args:
        model: see `network_of`; in evaluation mode, as `checkpoint.load` gives it.
        face: as read with this model, or its crop.

    Returns:
        Task name -> label -> (h, w) float32 over the crop, >= 0, summing to 1. A cell is a token of the
        memory, the finest where levels differ; heads are averaged, levels added.

    Raises:
        UsageError: no attention here, a network in training mode, or a crop that is not in its view.
    """
    network = network_of(model)
    crop = face.crop if isinstance(face, Face) else face
    width, height = network.view.size
    if crop is None or crop.pixels.shape != (height, width, 3):
        got = "none" if crop is None else crop.pixels.shape
        raise UsageError(
            f"attention needs the face's crop of {(height, width, 3)}, not {got}; read the face with this"
            " network"
        )
    if network.training:
        raise UsageError(
            "the network is in training mode, where its attention is not that of its answers; call eval()"
            " first"
        )
    import torch

    from mien.models.decoders import lay_out

    with torch.inference_mode():
        images = torch.from_numpy(network.view.tensor(crop.pixels[None])).to(
            next(network.parameters()).device
        )
        grids = network.grids(images)
        seen = {
            name: lay_out(weights[0], grids).float().cpu().numpy()
            for name, weights in network.attention(images).items()
        }
    return {
        t.name: dict(zip(labels_of(t), seen[t.name], strict=True)) for t in network.tasks if t.name in seen
    }


def chosen(model: object, requested: Sequence[str], label: str | None = None) -> dict[str, tuple[str, ...]]:
    """What is worth drawing: task name -> labels.

    Args:
        model: see `network_of`.
        requested: names of the predicted tasks.
        label: this one only, wherever it occurs; None for every label of every task whose labels have names.

    Raises:
        UsageError: see `network_of`; no requested task has that label, or any named label.
    """
    network = network_of(model)
    # a network may have answers that no query of their own gave
    shown = network.query_tasks if isinstance(network, HasQueries) else requested
    tasks = [t for t in network.tasks if t.name in requested and t.name in shown]
    named = {t.name: labels_of(t) for t in tasks if t.label_names}
    if label is None:
        if not named:
            raise UsageError(
                f"none of {', '.join(requested)} has named labels to draw; add attributes or expression,"
                " or name a label"
            )
        return named
    found: dict[str, tuple[str, ...]] = {t.name: (label,) for t in tasks if label in labels_of(t)}
    if not found:
        known = (
            "; ".join(f"{name}: {', '.join(labels)}" for name, labels in named.items())
            or "only numbers, such as 30 for age"
        )
        raise UsageError(f"no label {label!r} in what is answered; there are: {known}")
    return found


def sheet(
    maps: Mapping[str, Floats], crop: Crop, answer: Any = None, *, title: str = "", side: int = SIDE
) -> Pixels:
    """One tile a label: the crop under the label's heat, the label's name, its probability and its peak.

    The peak is the largest cell over an even share: 1.0x is no preference at all, and no heat (see
    `draw.heat`).

    Args:
        maps: label -> (h, w), see `attention_of`.
        crop: what was looked at.
        answer: the task's answer; its `probabilities`, if it has them, are written. Labels of 0.5 or more are
            green.
        title: the line at the top.
        side: width of a tile in pixels; it keeps the crop's proportions.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: no maps.
    """
    if not maps:
        raise UsageError("no maps to draw; name at least one label")
    likely = getattr(answer, "probabilities", {})
    columns = math.ceil(math.sqrt(1.6 * len(maps))) if len(maps) > 1 else 1
    rows = math.ceil(len(maps) / columns)
    tall = round(side * crop.pixels.shape[0] / crop.pixels.shape[1])
    smaller = side < crop.pixels.shape[1]
    face = np.asarray(
        cv2.resize(crop.pixels, (side, tall), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC),
        np.uint8,
    )
    image = Image.new("RGB", (columns * (side + GAP) + GAP, HEAD + rows * (tall + CAPTION) + GAP), _GROUND)
    pen = ImageDraw.Draw(image)
    _write(pen, (GAP, HEAD / 2), title, image.width - 2 * GAP, _TEXT)
    for i, (label, seen) in enumerate(maps.items()):
        x, y = GAP + i % columns * (side + GAP), HEAD + i // columns * (tall + CAPTION)
        image.paste(Image.fromarray(drawing.heat(face, seen)), (x, y))
        p = likely.get(label)
        numbers = f"{p:.0%}  " if p is not None else ""
        color = drawing.BOX if p is not None and p >= 0.5 else _TEXT
        _write(pen, (x, y + tall + 0.8 * LETTERS), label, side, color)
        _write(pen, (x, y + tall + 2 * LETTERS), f"{numbers}peak {peak(seen):.1f}x", side, color)
    return np.array(image)


def peak(seen: Floats) -> float:
    """How many times an even share the largest cell has: 1 (no preference) to the number of cells (one place
    only).
    """
    return float(seen.max() / seen.mean())


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, room: int, color: drawing.Color
) -> None:
    """A line of text, its left middle at a place, smaller where it would not fit."""
    wide = pen.textlength(text, ImageFont.load_default(LETTERS))
    size = LETTERS if wide <= room else max(1, math.floor(LETTERS * room / wide))
    pen.text(at, text, fill=color, font=ImageFont.load_default(size), anchor="lm")


def save(
    folder: Path, name: str, model: object, faces: Sequence[Face], wanted: Mapping[str, Sequence[str]]
) -> list[Path]:
    """Write FOLDER/NAME-1-attributes.jpg: for each face of a photo, counted from 1, one sheet a task.

    A single label gives one large tile, NAME-1-attributes-Eyeglasses.jpg.

    Args:
        model: see `network_of`.
        faces: as read with it.
        wanted: task name -> labels, see `chosen`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, face in enumerate(faces, 1):
        maps = attention_of(model, face)
        for task, labels in wanted.items():
            assert face.crop is not None  # attention_of has looked at it
            single = len(labels) == 1
            title = f"{task}: where the last layer looked; peak = largest cell / even share"
            shown = {n: maps[task][n] for n in labels}
            picture = sheet(
                shown, face.crop, face.answers.get(task), title=title, side=LARGE if single else SIDE
            )
            paths.append(folder / f"{name}-{number}-{task}{'-' + labels[0] if single else ''}.jpg")
            drawing.save_jpeg(paths[-1], picture)
    return paths

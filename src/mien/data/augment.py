"""Random augmentation of training pictures. Each task moves its own label with the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.data.occlusion import recompressed
from mien.tasks import Points, Task, task
from mien.types import Example, Pixels, Sample, View


@dataclass(frozen=True, slots=True)
class Augment:
    """Ranges and probabilities of random changes to an aligned training crop.

    Ranges are symmetric and uniform, unless `normal`.

    Attributes:
        degrees: maximum rotation in degrees.
        scale: maximum relative change of size.
        shift: maximum shift, as a fraction of the crop's side.
        mirror: probability of a horizontal flip, 0..1.
        photometric: probability of a change of brightness, contrast, gamma, tint and saturation, 0..1.
        gray: probability of a gray picture, 0..1.
        blur: probability of a blur by resampling, 0..1.
        erase: probability of a rectangle of one random color, 0..1.
        noise: probability of Gaussian noise, 0..1.
        fill_border: probability that the area outside the stored picture is filled instead of black, 0..1.
            Data sets of tight crops have nothing there, and photos do: a network that saw only black around
            faces with an age would fail on photos.
        paste_background: probability that a filled border shows another face of the data (its hair, neck and
            background), 0..1. It carries no information about this face, so that the network learns to read
            the face itself.
        normal: rotation and size are normally distributed, with standard deviations `degrees` and `scale`
            around 0 and 1; sizes are clipped to 0.5..1.5.
        recompress: probability of a final JPEG compression of quality 30 to 95, 0..1.
        tighten: probability that the stored picture is cut close to the face, as tightly cropped photos are,
            0..1. Labels stay: a network that sees entire heads only takes the edge of such a photo for a hat.
    """

    degrees: float = 15.0
    scale: float = 0.12
    shift: float = 0.035
    mirror: float = 0.5
    photometric: float = 0.8
    gray: float = 0.12
    blur: float = 0.2
    erase: float = 0.15
    noise: float = 0.1
    fill_border: float = 0.55
    paste_background: float = 0.6
    normal: bool = False
    recompress: float = 0.0
    tighten: float = 0.0


NONE = Augment(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def crop_example(
    sample: Sample,
    view: View,
    augment: Augment,
    rng: np.random.Generator,
    others: Callable[[np.random.Generator], Pixels] | None = None,
    *,
    tasks: Mapping[str, Task[Any]] | None = None,
) -> Example:
    """Align a sample to a view by its five points, with random changes; tasks encode the labels.

    Args:
        sample: picture, five points and labels.
        view: the network's view.
        augment: ranges and probabilities.
        rng: source of randomness.
        others: gives a random other face in the same view, (H, W, 3) uint8, for `Augment.paste_background`.
        tasks: label's name -> the task that encodes it; labels of other names are left out. None: the
            catalogue's tasks, for every label.
    """
    w, h = view.size
    mirrored = bool(rng.random() < augment.mirror)
    # shifts labeled places before a flip, so that the label offset is to the right after it too
    aside = -2 * sample.label_offset_x if mirrored else 0.0
    base = geometry.fit_similarity(sample.points + (aside, 0), geometry.template_points(view))
    move = geometry.about(
        ((w - 1) / 2, (h - 1) / 2),
        degrees=(rng.normal() if augment.normal else rng.uniform(-1, 1)) * augment.degrees,
        scale=_scale(augment, rng),
        shift=rng.uniform(-1, 1, 2) * augment.shift * np.array([w, h]),
        mirror=mirrored,
    )
    affine = geometry.compose(move, base)
    image, place = sample.image, affine
    if augment.tighten and rng.random() < augment.tighten:
        image, place = tightened(image, affine, view, rng)
    pixels = geometry.warp(image, place, view.size)
    if rng.random() < augment.fill_border:
        other = others(rng) if others is not None and rng.random() < augment.paste_background else None
        pixels = (
            fill_border(pixels, image, place, rng)
            if other is None
            else paste_into(pixels, image, place, other, rng)
        )
    pixels = photometric(pixels, augment, rng)
    places = geometry.compose(affine, np.array([[1.0, 0.0, aside], [0.0, 1.0, 0.0]]))
    labels = {}
    for name, label in sample.labels.items():
        of = task(name) if tasks is None else tasks.get(name)
        if of is not None:
            moved = places if isinstance(of.shape, Points) else affine
            labels[name] = of.encode_target(label, moved, mirrored, view.size)
    return Example(pixels, labels)


def tightened(
    image: Pixels, affine: npt.ArrayLike, view: View, rng: np.random.Generator
) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """Cut a picture at a random distance from the face, 0.25 to 0.55 of the crop's side, on each side.

    Returns:
        The cut picture, and the affine (2, 3) cut picture -> crop.
    """
    home = geometry.invert(affine)
    w, h = view.size
    x, y = geometry.move_points([((w - 1) / 2, (h - 1) / 2)], home)[0]
    left, top, right, bottom = rng.uniform(0.25, 0.55, 4) * w * geometry.scale_of(home)
    x1, y1 = max(0, round(x - left)), max(0, round(y - top))
    x2, y2 = min(image.shape[1], round(x + right)), min(image.shape[0], round(y + bottom))
    if x2 - x1 < 8 or y2 - y1 < 8:
        return image, np.asarray(affine, np.float64)
    return image[y1:y2, x1:x2], geometry.compose(affine, np.array([[1.0, 0.0, x1], [0.0, 1.0, y1]]))


def _scale(augment: Augment, rng: np.random.Generator) -> float:
    """Random relative size of the face in its crop."""
    if augment.normal:
        return float(np.clip(1 + rng.normal() * augment.scale, 0.5, 1.5))
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(augment.scale)))


def fill_border(pixels: Pixels, image: Pixels, affine: npt.ArrayLike, rng: np.random.Generator) -> Pixels:
    """Fill the area outside the stored picture: by reflection, by its border's colors, or with one color."""
    size = (pixels.shape[1], pixels.shape[0])
    how = rng.random()
    if how < 0.6:
        border = cv2.BORDER_REFLECT_101 if how < 0.4 else cv2.BORDER_REPLICATE
        around = cv2.warpAffine(
            image, np.asarray(affine, np.float64), size, flags=cv2.INTER_LINEAR, borderMode=border
        )
    else:
        around = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), pixels.shape)
    inside = geometry.warp_mask(np.full(image.shape[:2], 1, np.uint8), affine, size, outside=0)
    return np.where(inside[..., None] > 0, pixels, around)


def paste_into(
    pixels: Pixels, image: Pixels, affine: npt.ArrayLike, other: Pixels, rng: np.random.Generator
) -> Pixels:
    """Paste the stored picture into another face of the same view (H, W, 3), with a seam of random width.

    The other face becomes gray if the stored picture is gray.
    """
    h, w = pixels.shape[:2]
    if not np.any(np.ptp(image[::4, ::4].astype(np.int16), axis=2)):
        other = grayed(other)
    seam = max(
        1.0, rng.uniform(0, 0.08) * min(image.shape[:2])
    )  # width in pixels of the stored picture, whose border fades out
    margin = np.minimum(_edge(image.shape[0])[:, None], _edge(image.shape[1])[None])
    stored = np.clip(margin / seam, 0, 1).astype(np.float32)
    inside = cv2.warpAffine(stored, np.asarray(affine, np.float64), (w, h), flags=cv2.INTER_LINEAR)[..., None]
    return (pixels * inside + other * (1 - inside)).astype(np.uint8)


def _edge(n: int) -> npt.NDArray[np.float64]:
    """Distance of each of n pixels from the nearer end."""
    i = np.arange(n, dtype=np.float64)
    return np.minimum(i, n - 1 - i)


def grayed(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> the same without color, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def photometric(pixels: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Change brightness, color and sharpness, not geometry: (H, W, 3) uint8 -> the same."""
    if rng.random() < augment.photometric:
        levels = np.arange(256, dtype=np.float32) / 255
        gain, lift, gamma = rng.uniform(0.7, 1.3), rng.uniform(-0.12, 0.12), np.exp(rng.uniform(-0.4, 0.4))
        tint = 1 + rng.uniform(-0.08, 0.08, 3)
        curves = (
            (((levels**gamma - 0.5) * gain + 0.5 + lift)[:, None] * tint * 255).clip(0, 255).astype(np.uint8)
        )
        pixels = cv2.LUT(pixels, curves[None])  # type: ignore[assignment]
        mix = rng.uniform(-0.5, 0.4)  # saturation: away from, or beyond, the gray picture
        pixels = cv2.addWeighted(pixels, 1 + mix, grayed(pixels), -mix, 0)  # type: ignore[assignment]
    if rng.random() < augment.gray:
        pixels = grayed(pixels)
    if rng.random() < augment.blur:
        h, w = pixels.shape[:2]
        f = rng.uniform(0.3, 0.9)
        small = cv2.resize(pixels, (max(8, int(w * f)), max(8, int(h * f))), interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if rng.random() < augment.noise:
        noise = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(2, 12)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < augment.erase:
        h, w = pixels.shape[:2]
        eh, ew = int(h * rng.uniform(0.1, 0.35)), int(w * rng.uniform(0.1, 0.35))
        y, x = int(rng.integers(0, h - eh)), int(rng.integers(0, w - ew))
        pixels = pixels.copy()
        pixels[y : y + eh, x : x + ew] = rng.integers(0, 256, 3)
    if (
        augment.recompress and rng.random() < augment.recompress
    ):  # no random number is used if it is off, so that the batches of older runs stay the same
        quality = int(rng.integers(30, 96))
        pixels = recompressed(pixels[..., ::-1], quality)[..., ::-1]
    return pixels

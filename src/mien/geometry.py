"""Boxes, five-point fits, and the warps of pixels, points and masks. Numpy and OpenCV only.

An affine is a (2, 3) float64 matrix A with q = A[:, :2] @ p + A[:, 2]. Points use pixel centers at whole
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.types import Crop, Pixels, View

Array = npt.NDArray[np.float64]

# Five points as fractions of the crop's side, picture order (eye, eye, nose, mouth corner, mouth corner).
# "head": the median face of aligned whole-head pictures (eyes 0.25 of the side apart), so that hair, ears and
# neck stay inside. "arcface": the tight crop that recognition networks use (Deng et al. 2019), here for
# comparison.
TEMPLATES: dict[str, Array] = {
    "head": np.array([(0.3738, 0.4761), (0.6262, 0.4761), (0.5, 0.6336), (0.3891, 0.7407), (0.6109, 0.7407)]),
    "arcface": (
        np.array(
            [
                (38.2946, 51.6963),
                (73.5318, 51.5014),
                (56.0252, 71.7366),
                (41.5493, 92.3655),
                (70.7299, 92.2041),
            ]
        )
        / 112.0
    ),
}

# Five points of the 68 (iBUG order): eye centers, nose tip, mouth corners.
FIVE_OF_68 = ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47), (30,), (48,), (54,))


def template_points(view: View) -> Array:
    """(5, 2) pixels of the view's template.

    Raises:
        UsageError: the view names no template that we know.
    """
    if view.template not in TEMPLATES:
        raise UsageError(f"no template {view.template!r}; there are: {', '.join(TEMPLATES)}")
    return TEMPLATES[view.template] * np.asarray(view.size, np.float64) - 0.5


def fit_similarity(src: npt.ArrayLike, dst: npt.ArrayLike) -> Array:
    """(2, 3) least-squares rotation + uniform scale + shift that brings src (n, 2) to dst (n, 2).

    Closed form in complex numbers: with centered z, w, the best factor is sum(w * conj z) / sum |z|^2.

    Raises:
        UsageError: all points of src coincide, or are not finite.
    """
    p, q = np.asarray(src, np.float64), np.asarray(dst, np.float64)
    z, w = p[:, 0] + 1j * p[:, 1], q[:, 0] + 1j * q[:, 1]
    zc, wc = z - z.mean(), w - w.mean()
    norm = float((np.abs(zc) ** 2).sum())
    if not np.isfinite(norm) or norm < 1e-12:
        raise UsageError(f"cannot fit a face to the points {p.tolist()}: they coincide or are not finite")
    a = (wc * zc.conj()).sum() / norm
    t = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, t.real], [a.imag, a.real, t.imag]])


def compose(outer: npt.ArrayLike, inner: npt.ArrayLike) -> Array:
    """The affine that applies `inner` first, then `outer`."""
    o, i = np.asarray(outer, np.float64), np.asarray(inner, np.float64)
    return np.hstack([o[:, :2] @ i[:, :2], o[:, :2] @ i[:, 2:] + o[:, 2:]])


def invert(affine: npt.ArrayLike) -> Array:
    """The affine that undoes this one."""
    a = np.asarray(affine, np.float64)
    m = np.linalg.inv(a[:, :2])
    return np.hstack([m, -m @ a[:, 2:]])


def about(
    center: Sequence[float],
    *,
    degrees: float = 0.0,
    scale: float = 1.0,
    shift: npt.ArrayLike = (0, 0),
    mirror: bool = False,
) -> Array:
    """Turn, scale and mirror (left-right) about a center, then shift; all in pixels, degrees clockwise on
    screen.
    """
    c, s = np.cos(np.radians(degrees)) * scale, np.sin(np.radians(degrees)) * scale
    m = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    o = np.asarray(center, np.float64)
    return np.hstack([m, (o - m @ o + np.asarray(shift, np.float64))[:, None]])


def move_points(points: npt.ArrayLike, affine: npt.ArrayLike) -> Array:
    """(..., 2) points through an affine."""
    a = np.asarray(affine, np.float64)
    return np.asarray(points, np.float64) @ a[:, :2].T + a[:, 2]


def scale_of(affine: npt.ArrayLike) -> float:
    """How many pixels one pixel becomes: the square root of |determinant|."""
    return float(np.sqrt(abs(np.linalg.det(np.asarray(affine, np.float64)[:, :2]))))


def halved(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> (H // 2, W // 2, 3), at least one pixel a side, by area averaging."""
    h, w = pixels.shape[:2]
    return cv2.resize(pixels, (max(1, w // 2), max(1, h // 2)), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def warp(
    pixels: Pixels, affine: npt.ArrayLike, size: tuple[int, int], outside: tuple[int, int, int] = (0, 0, 0)
) -> Pixels:
    """Pixels through an affine into (width, height); the RGB color `outside` where the source has no pixel.

    When the picture shrinks by more than two, it is first halved by area averaging, so that fine detail does
    not alias.
    """
    a = np.asarray(affine, np.float64)
    while scale_of(a) < 0.5 and min(pixels.shape[:2]) >= 2:
        h, w = pixels.shape[:2]
        pixels = halved(pixels)
        sx, sy = w / pixels.shape[1], h / pixels.shape[0]
        a = compose(a, [[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2]])
    return cv2.warpAffine(  # type: ignore[return-value]
        pixels, a, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )


def warp_mask(mask: Pixels, affine: npt.ArrayLike, size: tuple[int, int], outside: int) -> Pixels:
    """A label map through an affine, nearest neighbor; `outside` where the source has no pixel."""
    a = np.asarray(affine, np.float64)
    return cv2.warpAffine(  # type: ignore[return-value]
        mask, a, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,)
    )


def align(pixels: Pixels, points: npt.ArrayLike, view: View) -> Crop:
    """Align a face to a view by five points: photo (H, W, 3), points (5, 2) -> Crop of the view's size."""
    a = fit_similarity(points, template_points(view))
    return Crop(warp(pixels, a, view.size), a, (pixels.shape[1], pixels.shape[0]))


def outside_photo(
    affine: npt.ArrayLike, photo_size: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.bool_] | None:
    """Which pixels of a crop lie outside the photo, (height, width); None where none does.

    Args:
        affine: (2, 3), photo pixels -> crop pixels.
        photo_size: (width, height) of the photo.
        size: (width, height) of the crop.
    """
    (w, h), home = size, invert(affine)
    limit = np.asarray(photo_size, np.float64) - 0.5
    ends = move_points([(0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1)], home)
    if (ends >= -0.5).all() and (ends <= limit).all():
        return None
    x, y = np.arange(w, dtype=np.float64), np.arange(h, dtype=np.float64)[:, None]
    beyond = np.zeros((h, w), np.bool_)
    for axis in (0, 1):
        place = home[axis, 0] * x + home[axis, 1] * y + home[axis, 2]
        beyond |= (place < -0.5) | (place > limit[axis])
    return beyond


def five_of_68(points: npt.ArrayLike) -> Array:
    """(68, 2) iBUG points -> (5, 2): eye centers, nose tip, mouth corners."""
    p = np.asarray(points, np.float64)
    return np.stack([p[list(group)].mean(0) for group in FIVE_OF_68])


def corners(boxes: npt.ArrayLike) -> Array:
    """Rows of x, y, width, height and anything more, or one row -> (n, 4) xyxy."""
    b = np.atleast_2d(np.asarray(boxes, np.float64))
    return np.hstack([b[:, :2], b[:, :2] + b[:, 2:4]])


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """(n, 4) and (m, 4) xyxy boxes -> (n, m) intersection over union."""
    x, y = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    inter = (np.minimum(x[..., 2:], y[..., 2:]) - np.maximum(x[..., :2], y[..., :2])).clip(0).prod(-1)
    union = (x[..., 2:] - x[..., :2]).prod(-1) + (y[..., 2:] - y[..., :2]).prod(-1) - inter
    return inter / np.maximum(union, 1e-9)


# Five points on -1..1 of the crop, of which FaRL's tanh-warped crops are made.
TANH_POINTS = np.array([(196, 226), (316, 226), (256, 286), (220, 360.4), (292, 360.4)]) / 256 - 1


def tanh_align(pixels: Pixels, points: npt.ArrayLike, size: tuple[int, int], factor: float) -> Crop:
    """A face by its five points, then the tanh-warp: photo (H, W, 3) -> (width, height), with the affine of
    the plain crop.
    """
    affine = fit_similarity(points, (TANH_POINTS + 1) * (np.asarray(size, np.float64) - 1) / 2)
    return Crop(tanh_crop(pixels, affine, size, factor), affine)


def tanh_warp(c: npt.ArrayLike, factor: float) -> Array:
    """Aligned coordinates, -1..1 across the crop, squeezed so that the whole photo falls within (FaRL; Zheng
    et al. 2022).

    Up to 1 - factor nothing moves; beyond, tanh takes all that is left into the last `factor`. 0 is a plain
    crop.
    """
    x = np.asarray(c, np.float64)
    return x if _tanh_factor(factor) == 0 else _beyond(x, factor, np.tanh)


def tanh_unwarp(c: npt.ArrayLike, factor: float) -> Array:
    """Inverse of `tanh_warp`; what would lie farther than arctanh(0.999) is brought to there."""
    x = np.asarray(c, np.float64)
    return (
        x
        if _tanh_factor(factor) == 0
        else _beyond(x, factor, lambda t: np.arctanh(np.clip(t, -0.999, 0.999)))
    )


def _tanh_factor(factor: float) -> float:
    if not 0 <= factor <= 1:
        raise UsageError(f"the factor of a tanh-warp is 0..1, not {factor}")
    return factor


def _beyond(x: Array, w: float, curve: Callable[[Array], Array]) -> Array:
    """x up to 1 - w; from there on a curve, in units of w."""
    rest = np.abs(x) - (1 - w)
    return np.where(rest <= 0, x, np.sign(x) * (w * curve(rest / w) + 1 - w))


def tanh_crop(pixels: Pixels, from_photo: npt.ArrayLike, size: tuple[int, int], factor: float) -> Pixels:
    """A photo (H, W, 3) through an affine and the tanh-warp into (width, height); black where the photo has
    no pixel.

    from_photo is the affine of the plain crop of that size. Bilinear, without averaging: meant for crops no
    more than twice smaller than the face.
    """
    grid = [tanh_unwarp((2 * np.arange(n) + 1) / n - 1, factor) for n in size]
    xy = np.stack(np.meshgrid(*[((c + 1) * n - 1) / 2 for c, n in zip(grid, size, strict=True)]), -1)
    places = move_points(xy, invert(from_photo)).astype(np.float32)
    return cv2.remap(pixels, places[..., 0], places[..., 1], cv2.INTER_LINEAR)  # type: ignore[return-value]


def unwarp_mask(logits: npt.ArrayLike, crop: Crop, size: tuple[int, int], factor: float) -> Pixels:
    """Logits (n, h, w) on a tanh-warped crop -> the likeliest class of every pixel of the photo, (height,
    width) uint8.

    Args:
        crop: of the plain crop: its size in pixels and its affine.
        size: (width, height) of the photo.
    """
    maps = np.asarray(logits, np.float32)
    photo = np.stack(np.meshgrid(*[np.arange(n) for n in size]), -1)
    sides = np.array(crop.pixels.shape[1::-1], np.float64)
    c = tanh_warp((2 * move_points(photo, crop.from_photo) + 1) / sides - 1, factor)
    places = (((c + 1) * maps.shape[:0:-1] - 1) / 2).astype(np.float32)
    # a map at a time: OpenCV moves four channels at most
    moved = [
        cv2.remap(m, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for m in maps
    ]
    return np.argmax(moved, 0).astype(np.uint8)

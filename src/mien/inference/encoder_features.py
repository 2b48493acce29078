"""Features of the frozen encoder: one vector per face, for other learners such as scikit-learn's.

A vector is the mean over all places of one of the encoder's maps of the aligned face.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import BadWeights, PhotoError, UsageError
from mien.inference import onnx_prune
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import load
from mien.inference.reading import Reading
from mien.inference.weights_file import WEIGHTS
from mien.io.image import Source
from mien.types import Floats


class EncoderModel(OnnxModel):
    """The encoder of a network in ONNX Runtime; the heads are pruned away.

    Args:
        path: an .onnx file that mien exported.
        level: stride of the map, in pixels of the crop; None for the last map.
        threads: of one forward; None for all cores.

    Attributes:
        level: stride of the map.
        levels: stride -> channels of all maps that the encoder hands out.
        dim: numbers per face.

    Raises:
        BadWeights: see `OnnxModel`; also where the network has no encoder with maps.
        UsageError: it has no map of that stride.
    """

    def __init__(self, path: str | os.PathLike[str], *, level: int | None = None, threads: int | None = None):
        super().__init__(path, threads=threads, tasks=())
        self.tasks = ()
        w, h = self.view.size
        maps = self._run(np.zeros((1, 3, h, w), np.float32))
        maps = {name: m for name, m in maps.items() if m.ndim == 4 and 0 not in m.shape}
        found = {w // m.shape[3]: name for name, m in maps.items()}
        self.levels = {stride: maps[name].shape[1] for stride, name in found.items()}
        if not found:
            raise self._no_maps()
        self.level = max(found) if level is None else level
        if self.level not in found:
            strides = ", ".join(str(s) for s in sorted(found))
            raise UsageError(f"{self.path} has no map of stride {level}; there are: {strides}")
        self.dim = self.levels[self.level]
        if self._names != [found[self.level]]:
            self._names = [found[self.level]]
            self._data = onnx_prune.expose(self._data, self._names)
            self._session = self._start()

    def _prune(self, tasks: Any) -> frozenset[str]:
        """Reduce the bytes to the encoder, with its maps as outputs."""
        try:
            maps = onnx_prune.encoder_maps(self._data)
            self._data = onnx_prune.expose(self._data, maps) if maps else self._data
        except ValueError as error:
            raise self._no_maps() from error
        if not maps:
            raise self._no_maps()
        self._names = maps
        return frozenset()

    def _no_maps(self) -> BadWeights:
        return BadWeights(
            f"{self.path} has no encoder with maps of the face; use the embedded network, or one with an"
            " encoder of convolutions that mien exported"
        )

    def _check_ends(self) -> list[str]:
        return self._names

    def _run(self, images: Floats) -> Mapping[str, Floats]:
        """(B, 3, H, W) -> name -> map (B, c, h, w)."""
        return OnnxModel.__call__(self, images)

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        """(B, 3, H, W) float32, normalized by `view` -> {"features": (B, dim) float32}."""
        (seen,) = self._run(images).values()
        values = seen.mean((2, 3), dtype=np.float64).astype(np.float32)
        if not np.isfinite(values).all():
            raise BadWeights(f"the features of {self.path} are not finite; copy the file again")
        return {"features": values}


class FeatureReader:
    """Photos -> the frozen features of their faces: detect, align, encode.

    Args:
        weights, level, threads: see `EncoderModel`; None as weights for the embedded network.
        options: of `mien.load`: detector, batch, max_pixels, score, thorough.

    Attributes:
        model: the encoder.

    Raises:
        BadWeights, UsageError: see `EncoderModel` and `mien.load`.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        level: int | None = None,
        threads: int | None = None,
        **options: Any,
    ):
        self.model = EncoderModel(
            WEIGHTS / "mien.onnx" if weights is None else weights, level=level, threads=threads
        )
        self._reader = load(self.model, threads=threads, **options)

    def stream(self, photos: Iterable[Source]) -> Iterator[tuple[Reading, Floats]]:
        """(reading, features (faces, dim) float32) of each photo in order, the largest face first.

        The reading of a photo that cannot be read has `.error` and no faces. Memory does not grow with the
        number of photos.
        """
        for reading in self._reader.stream(photos):
            yield reading, self._encode([face.crop.pixels for face in reading if face.crop is not None])

    def _encode(self, crops: Sequence[Any]) -> Floats:
        step = self._reader.batch
        parts = [
            self.model(self.model.view.tensor(np.stack(crops[i : i + step])))["features"]
            for i in range(0, len(crops), step)
        ]
        return np.concatenate([np.zeros((0, self.model.dim), np.float32), *parts])


@dataclass(frozen=True)
class Features:
    """Frozen features of faces, one row per face: photos in order, the largest face of each first.

    Attributes:
        values: (n, dim) float32.
        paths: of the photo of each row; None for arrays and bytes.
        photos: (n,) int, which of the photos a row is of, from 0.
        faces: (n,) int, the number of the face in its photo, from 1.
        boxes: (n, 4) float32, [x1, y1, x2, y2] in pixels of the photo.
        scores: (n,) float32, of the detection, 0..1.
        level: stride of the encoder's map.
        errors: number of the photo, from 0 -> why it could not be read.
    """

    values: Floats
    paths: list[str | None]
    photos: npt.NDArray[np.int64]
    faces: npt.NDArray[np.int64]
    boxes: Floats
    scores: Floats
    level: int
    errors: dict[int, PhotoError] = field(default_factory=dict)


def features(
    photos: Iterable[Source],
    *,
    weights: str | os.PathLike[str] | None = None,
    level: int | None = None,
    threads: int | None = None,
    **options: Any,
) -> Features:
    """The frozen features of every face in these photos.

    Args:
        photos: as `Reader.stream` takes them.
        weights, level, threads, options: see `FeatureReader`.

    Raises:
        BadWeights, UsageError: see `FeatureReader`. A photo that cannot be read is an entry of `errors`.
    """
    if isinstance(photos, (str, bytes, os.PathLike)):
        raise UsageError(f"photos must be a list, not one photo: features([{photos!r}])")
    reader = FeatureReader(weights, level=level, threads=threads, **options)
    values, paths = [np.zeros((0, reader.model.dim), np.float32)], list[str | None]()
    where, found, errors = list[tuple[int, int]](), list[tuple[Any, float]](), dict[int, PhotoError]()
    for i, (reading, rows) in enumerate(reader.stream(photos)):
        if reading.error is not None:
            errors[i] = reading.error
        values.append(rows)
        for number, face in enumerate(reading, 1):
            paths.append(reading.path)
            where.append((i, number))
            found.append((face.box, face.score))
    numbers = np.asarray(where, np.int64).reshape(-1, 2)
    boxes = np.asarray([box for box, _ in found], np.float32).reshape(-1, 4)
    scores = np.asarray([score for _, score in found], np.float32)
    return Features(
        np.concatenate(values), paths, numbers[:, 0], numbers[:, 1], boxes, scores, reader.model.level, errors
    )

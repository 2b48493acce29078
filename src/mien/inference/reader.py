"""The pipeline: photo -> detect -> align -> one forward for all faces of all photos -> read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np

from mien import geometry
from mien.errors import PhotoError, UnknownTask, UsageError
from mien.inference.detector import Detector
from mien.inference.flip_tta import FlipTTA
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.io.image import MAX_PIXELS, Color, Photo, Source, load_photo
from mien.tasks import DERIVED, ON_REQUEST, supported_tasks
from mien.types import Crop, Detection, Face, InferenceModel

SCHEMA = 1
_log = logging.getLogger(__name__)


class Reading(list[Face]):
    """The faces of one photo, largest first: a list, with what else is known of the photo.

    Attributes:
        path: as the caller wrote it, or None. photo: the upright pixels, or None when they could not be read.
        error: why the photo was not read, or None. timing_ms: stage -> milliseconds. model: name and sha256.
    """

    def __init__(self, path: str | None, photo: Photo | None = None, error: PhotoError | None = None, model: dict[str, str] | None = None):
        super().__init__()
        self.path, self.photo, self.error, self.model = path, photo, error, model or {}
        self.timing_ms: dict[str, float] = {}

    def to_dict(self) -> dict[str, Any]:
        """The photo as plain JSON values (docs/schema.md), or its error record."""
        head: dict[str, Any] = {"schema": SCHEMA, "path": self.path}
        if self.error is not None or self.photo is None:
            code, message = (self.error.code, str(self.error)) if self.error else ("photo", "not read")
            return head | {"error": {"code": code, "message": message}}
        timing = {k: round(v, 2) for k, v in self.timing_ms.items()}
        size = {"width": self.photo.width, "height": self.photo.height}
        return head | size | {"model": self.model, "timing_ms": timing, "faces": [f.to_dict() for f in self]}

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, one row a face: `mien.io.dataframe.to_dataframe`, which takes several readings too.

        Raises:
            UsageError: pandas is not installed.
        """
        from mien.io.dataframe import to_dataframe

        return to_dataframe(self)

    def to_supervision(self) -> Any:
        """supervision's `Detections`: `mien.io.dataframe.to_supervision`.

        Raises:
            UsageError: supervision is not installed.
        """
        from mien.io.dataframe import to_supervision

        return to_supervision(self)


def _alone(error: PhotoError) -> PhotoError:
    """The error without the frames that it passed: they hold the photos read beside it, in a circle that only the collector ends."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


class Reader:
    """Reads faces. Build one with `mien.load()` and keep it; it holds no state between calls and may serve threads.

    Args:
        detector: photo pixels -> faces, largest first. model: the network (ONNX or torch behind `InferenceModel`).
        tasks: names to answer; None for all but identity, which is biometric data and comes only when asked for.
        batch: most faces a forward. max_pixels: larger photos are refused before they are decoded.
        excerpt: the same model, which works for no more than these tasks; None: the model itself.

    Raises:
        UnknownTask: a name that this model does not answer.
    """

    def __init__(
        self, detector: Callable[[Any], list[Detection]], model: InferenceModel, *, tasks: Sequence[str] | None = None, batch: int = 8,
        max_pixels: int = MAX_PIXELS, excerpt: InferenceModel | None = None,
    ):  # fmt: skip
        if batch < 1:
            raise UsageError(f"batch must be 1 or more faces, not {batch}")
        can = supported_tasks(t.name for t in model.tasks)
        wrong = [n for n in tasks or () if n not in can]
        if wrong:
            raise UnknownTask(f"this model does not answer {wrong[0]!r}; it answers: {', '.join(can)}")
        self.detector, self.model, self.batch, self.max_pixels = detector, model, batch, max_pixels
        self.asked = tuple(n for n in can if (n in tasks if tasks is not None else n.partition("@")[0] not in ON_REQUEST))
        wanted = needed(self.asked)
        self._read = [t for t in model.tasks if wanted(t.name)]
        self._excerpt = (model, excerpt or model)
        self._model = {"name": getattr(model, "name", type(model).__name__), "sha256": getattr(model, "sha256", "")}

    @overload
    def __call__(self, photos: Source, *, color: Color = "rgb") -> Reading: ...
    @overload
    def __call__(self, photos: list[Source] | tuple[Source, ...], *, color: Color = "rgb") -> list[Reading]: ...
    def __call__(self, photos: Any, *, color: Color = "rgb") -> Any:
        """Read one photo, or a list of photos with forwards shared by all their faces.

        A single photo that cannot be read raises its `PhotoError`. In a list, the others go on: the bad one's reading
        is empty, has `.error`, and is logged as a warning. color: of arrays only; "bgr" is OpenCV's order.
        """
        if isinstance(photos, (list, tuple)):
            return list(self.stream(photos, color=color))
        reading = next(self.stream([photos], color=color))
        if reading.error is not None:
            raise reading.error
        return reading

    def stream(self, photos: Iterable[Source], *, photos_a_time: int = 8, color: Color = "rgb") -> Iterator[Reading]:
        """Read photos of any number in order, a few at a time; memory does not grow with their number."""
        rest = iter(photos)
        while group := list(islice(rest, photos_a_time)):
            yield from self._group(group, color)

    def _group(self, photos: Sequence[Source], color: Color) -> list[Reading]:
        readings: list[Reading] = []
        crops: list[Crop] = []
        owners: list[tuple[Reading, Detection]] = []
        for source in photos:
            reading = self._open(source, color)
            readings.append(reading)
            if reading.photo is None:
                continue
            t0 = time.perf_counter()
            found = self.detector(reading.photo.pixels)
            t1 = time.perf_counter()
            first = len(crops)
            for face in found:
                crops.append(geometry.align(reading.photo.pixels, face.points, self.model.view))
                owners.append((reading, face))
            if isinstance(source, np.ndarray) and looks_bgr(crops[first:]):
                _log.warning("an array's faces are bluer than they are red: if it came from OpenCV, pass color='bgr' or pass a[..., ::-1]")
            reading.timing_ms |= {"detect": 1e3 * (t1 - t0), "align": 1e3 * (time.perf_counter() - t1)}
        t0 = time.perf_counter()
        answers = self.read_crops(crops)
        each = 1e3 * (time.perf_counter() - t0) / max(len(crops), 1)
        for (reading, face), crop, answer in zip(owners, crops, answers, strict=True):
            reading.append(Face(face.box, face.score, face.points, answer, crop))
        for reading in readings:
            if reading.photo is not None:
                reading.timing_ms["read"] = each * len(reading)
        return readings

    def _open(self, source: Source, color: Color) -> Reading:
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        t0 = time.perf_counter()
        try:
            photo = load_photo(source, max_pixels=self.max_pixels, color=color)
        except PhotoError as e:
            _log.warning("%s", e)
            return Reading(path, error=_alone(e))
        reading = Reading(path, photo, model=self._model)
        reading.timing_ms["decode"] = 1e3 * (time.perf_counter() - t0)
        return reading

    def read_crops(self, crops: Sequence[Crop]) -> list[dict[str, Any]]:
        """Faces already aligned to the model's view -> answers by task name, in photo coordinates."""
        if not self.asked:
            return [{} for _ in crops]
        out: list[dict[str, Any]] = []
        whole, part_of = self._excerpt
        net = part_of if self.model is whole else self.model  # another model may have been put in its place
        for start in range(0, len(crops), self.batch):
            part = crops[start : start + self.batch]
            raw = net(self.model.view.tensor(np.stack([c.pixels for c in part])))
            out += [self._answers({n: v[i] for n, v in raw.items()}, crop) for i, crop in enumerate(part)]
        return out

    def _answers(self, raw: dict[str, Any], crop: Crop) -> dict[str, Any]:
        own = {t.name: t.read(raw[t.name], crop) for t in self._read}
        return {n: DERIVED[n].derive(own[DERIVED[n].source]) if n in DERIVED else own[n] for n in self.asked}


def looks_bgr(crops: Sequence[Crop], margin: float = 12.0) -> bool:
    """Whether every face's middle is bluer than red by `margin` of 255: skin of any tone is redder, unless the light is blue."""
    thirds = [(c.pixels, c.pixels.shape[0] // 3, c.pixels.shape[1] // 3) for c in crops]
    middles = [p[y : p.shape[0] - y, x : p.shape[1] - x] for p, y, x in thirds]
    return bool(crops) and all(m[..., 2].mean() - m[..., 0].mean() > margin for m in middles)


def load(
    weights: str | os.PathLike[str] | InferenceModel | None = None, *, detector: str | os.PathLike[str] | None = None,
    tasks: Sequence[str] | None = None, threads: int | None = None, batch: int = 8, max_pixels: int = MAX_PIXELS,
    score: float | None = None, mirror: bool = False,
) -> Reader:  # fmt: skip
    """A reader with the embedded weights, or with others.

    Args:
        weights: an .onnx that mien exported, or a model at work; None for the embedded default.
        detector: an .onnx of a detector; None for the embedded one. threads: a forward; None for all cores.
        tasks, batch, max_pixels: see `Reader`. score: least score of a face, 0..1; None for the detector's own.
        mirror: read each face with its mirror image, and answer by the mean: a little surer, at twice the cost of reading.

    Raises:
        BadWeights: a file is missing, truncated or altered. UnknownTask: see `Reader`. No socket is ever opened.
    """
    path = WEIGHTS / "mien.onnx" if weights is None else weights
    part: InferenceModel = OnnxModel(path, threads=threads, answers=needed(tasks)) if isinstance(path, (str, os.PathLike)) else path
    model = part.whole() if isinstance(part, OnnxModel) else part
    finder = OnnxModel(detector or WEIGHTS / "detector.onnx", threads=threads)
    find = Detector(finder) if score is None else Detector(finder, threshold=score)
    if mirror:
        model, part = FlipTTA(model), FlipTTA(part)
    return Reader(find, model, tasks=tasks, batch=batch, max_pixels=max_pixels, excerpt=part)


def needed(tasks: Sequence[str] | None) -> Callable[[str], bool]:
    """Whether a network's task, by its name, is needed for these."""
    sources = {DERIVED[n].source if n in DERIVED else n for n in tasks or ()}
    return lambda name: name.partition("@")[0] not in ON_REQUEST if tasks is None else name in sources

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
from mien.errors import PhotoError, UnknownTask, UsageError, without_frames
from mien.inference.detector import Detector
from mien.inference.flip_tta import FlipTTA
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS, weights_id
from mien.io.image import MAX_PIXELS, Color, Photo, Source, load_photo
from mien.tasks import DERIVED, ON_REQUEST, supported_tasks
from mien.types import Crop, Detection, Face, InferenceModel, KnowsTasks

SCHEMA = 1
_log = logging.getLogger(__name__)


class Reading(list[Face]):
    """The faces of one photo, largest first: a list, with what else is known of the photo.

    Attributes:
        path: as the caller wrote it, or None. photo: the upright pixels, or None when they could not be read.
        error: why the photo was not read, or None. timing_ms: stage -> milliseconds. model: name and sha256.
    """

    def __init__(
        self,
        path: str | None,
        photo: Photo | None = None,
        error: PhotoError | None = None,
        model: dict[str, str] | None = None,
    ):
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
        """A pandas DataFrame, one row a face: `mien.io.dataframe.to_dataframe`, which takes several readings
        too.

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


class Reader:
    """Reads faces. Build one with `mien.load()` and keep it; it holds no state between calls and may serve
    threads.

    Args:
        detector: photo pixels -> faces, largest first.
        model: the network (ONNX or torch behind `InferenceModel`).
        tasks: names of the tasks to predict; None for all but identity, which is biometric data and comes
            only by name.
        batch: maximum number of faces per forward pass.
        max_pixels: larger photos are refused before they are decoded.

    Attributes:
        requested: the tasks that this reader predicts, in the order of the records.

    Raises:
        UnknownTask: a name that this model does not support.
    """

    def __init__(
        self,
        detector: Callable[[Any], list[Detection]],
        model: InferenceModel,
        *,
        tasks: Sequence[str] | None = None,
        batch: int = 8,
        max_pixels: int = MAX_PIXELS,
    ):
        if batch < 1:
            raise UsageError(f"batch must be 1 or more faces, not {batch}")
        self.detector, self.model, self.batch, self.max_pixels = detector, model, batch, max_pixels
        self.requested = self.select(tasks)
        self._model = weights_id(model)._asdict()

    def select(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        """These tasks in the order of the records; None selects all that need no request by name.

        Raises:
            UnknownTask: a name that the model does not support, or that it was loaded without.
        """
        supported = supported_tasks(t.name for t in self.model.tasks)
        if wrong := [n for n in tasks or () if n not in supported]:
            known = self.model.known_tasks if isinstance(self.model, KnowsTasks) else ()
            if wrong[0] in supported_tasks(t.name for t in known):
                raise UnknownTask(
                    f"this network was loaded without {wrong[0]!r}; load it with tasks=[..., {wrong[0]!r}]"
                )
            raise UnknownTask(f"this model does not answer {wrong[0]!r}; it answers: {', '.join(supported)}")
        if tasks is None:
            return tuple(n for n in supported if n.partition("@")[0] not in ON_REQUEST)
        return tuple(n for n in supported if n in tasks)

    @overload
    def __call__(self, photos: Source, *, color: Color = "rgb") -> Reading: ...
    @overload
    def __call__(
        self, photos: list[Source] | tuple[Source, ...], *, color: Color = "rgb"
    ) -> list[Reading]: ...
    def __call__(self, photos: Any, *, color: Color = "rgb") -> Any:
        """Read one photo, or a list of photos whose faces share forward passes.

        A single photo that cannot be read raises its `PhotoError`. In a list, the others go on: the bad one's
        reading
        is empty, has `.error`, and is logged as a warning. color: of arrays only; "bgr" is OpenCV's order.
        """
        if isinstance(photos, (list, tuple)):
            return list(self.stream(photos, color=color))
        return self.read(photos, color=color)

    def read(
        self,
        photo: Source,
        *,
        color: Color = "rgb",
        tasks: Sequence[str] | None = None,
        score: float | None = None,
        max_faces: int | None = None,
        model: InferenceModel | None = None,
        on_stage: Callable[[str, Reading, int], None] | None = None,
    ) -> Reading:
        """Read one photo: decode, detect, align, predict.

        Args:
            photo: a path, bytes, a Pillow image or an array (H, W, 3) uint8.
            color: of arrays only; "bgr" is OpenCV's order.
            tasks: names of the tasks to predict; None for `requested`.
            score: minimum detection score, 0..1; None for the detector's own.
            max_faces: read only the largest faces, at most this many.
            model: takes the place of the reader's network for this call, with the same tasks and view.
            on_stage: called after each of the stages "decode", "detect", "align" and "read" with the stage,
                the reading so
                far (with the time of the stage in `timing_ms`) and the number of faces found. What it raises
                ends the read.

        Raises:
            PhotoError: the photo cannot be read.
            UnknownTask: see `select`. UsageError: `score` with a detector that takes none.
        """
        selected = self.requested if tasks is None else self.select(tasks)
        reading = self._open(photo, color)
        _report(on_stage, "decode", reading, 0)
        found = self._detect(reading, score)[:max_faces]
        _report(on_stage, "detect", reading, len(found))
        crops = self._align(reading, found, photo)
        _report(on_stage, "align", reading, len(found))
        start = time.perf_counter()
        predictions = self.read_crops(crops, tasks=selected, model=model)
        reading.timing_ms["read"] = 1e3 * (time.perf_counter() - start)
        reading += _faces(found, predictions, crops)
        _report(on_stage, "read", reading, len(found))
        return reading

    def stream(
        self, photos: Iterable[Source], *, photos_a_time: int = 8, color: Color = "rgb"
    ) -> Iterator[Reading]:
        """Read photos of any number in order, a few at a time; memory does not grow with their number."""
        rest = iter(photos)
        while group := list(islice(rest, photos_a_time)):
            yield from self._group(group, color)

    def _group(self, photos: Sequence[Source], color: Color) -> list[Reading]:
        readings: list[Reading] = []
        crops: list[Crop] = []
        found: list[list[Detection]] = []
        for source in photos:
            try:
                reading = self._open(source, color)
            except PhotoError as e:
                _log.warning("%s", e)
                readings.append(Reading(_path_of(source), error=without_frames(e)))
                found.append([])
                continue
            found.append(self._detect(reading, None))
            crops += self._align(reading, found[-1], source)
            readings.append(reading)
        start = time.perf_counter()
        predictions = self.read_crops(crops)
        per_face = 1e3 * (time.perf_counter() - start) / max(len(crops), 1)
        first = 0
        for reading, faces in zip(readings, found, strict=True):
            last = first + len(faces)
            reading += _faces(faces, predictions[first:last], crops[first:last])
            if reading.photo is not None:
                reading.timing_ms["read"] = per_face * len(faces)
            first = last
        return readings

    def _open(self, source: Source, color: Color) -> Reading:
        start = time.perf_counter()
        photo = load_photo(source, max_pixels=self.max_pixels, color=color)
        reading = Reading(_path_of(source), photo, model=self._model)
        reading.timing_ms["decode"] = 1e3 * (time.perf_counter() - start)
        return reading

    def _detect(self, reading: Reading, score: float | None) -> list[Detection]:
        assert reading.photo is not None
        start = time.perf_counter()
        if score is None:
            found = self.detector(reading.photo.pixels)
        elif isinstance(self.detector, Detector):
            found = self.detector(reading.photo.pixels, score=score)
        else:
            raise UsageError(f"the detector {type(self.detector).__name__} takes no score; leave score out")
        reading.timing_ms["detect"] = 1e3 * (time.perf_counter() - start)
        return found

    def _align(self, reading: Reading, found: Sequence[Detection], source: Source) -> list[Crop]:
        assert reading.photo is not None
        start = time.perf_counter()
        crops = [geometry.align(reading.photo.pixels, face.points, self.model.view) for face in found]
        if isinstance(source, np.ndarray) and looks_bgr(crops):
            _log.warning(
                "an array's faces are bluer than they are red: if it came from OpenCV, pass color='bgr' or"
                " pass a[..., ::-1]"
            )
        reading.timing_ms["align"] = 1e3 * (time.perf_counter() - start)
        return crops

    def read_crops(
        self,
        crops: Sequence[Crop],
        *,
        tasks: Sequence[str] | None = None,
        model: InferenceModel | None = None,
    ) -> list[dict[str, Any]]:
        """Predictions for faces that are already aligned to the network's view, by task name, in photo
        coordinates.

        Args:
            tasks: names as `select` gives them; None for `requested`. model: see `read`.
        """
        names, network = self.requested if tasks is None else tuple(tasks), model or self.model
        if not names:
            return [{} for _ in crops]
        sources = {DERIVED[n].source if n in DERIVED else n for n in names}
        own = [t for t in self.model.tasks if t.name in sources]
        out: list[dict[str, Any]] = []
        for start in range(0, len(crops), self.batch):
            part = crops[start : start + self.batch]
            raw = network(self.model.view.tensor(np.stack([c.pixels for c in part])))
            for i, crop in enumerate(part):
                direct = {t.name: t.read(raw[t.name][i], crop) for t in own}
                out.append(
                    {
                        n: DERIVED[n].derive(direct[DERIVED[n].source]) if n in DERIVED else direct[n]
                        for n in names
                    }
                )
        return out


def _path_of(source: Source) -> str | None:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def _faces(
    found: Sequence[Detection], predictions: Sequence[dict[str, Any]], crops: Sequence[Crop]
) -> list[Face]:
    return [Face(f.box, f.score, f.points, p, c) for f, p, c in zip(found, predictions, crops, strict=True)]


def _report(
    on_stage: Callable[[str, Reading, int], None] | None, stage: str, reading: Reading, faces: int
) -> None:
    if on_stage is not None:
        on_stage(stage, reading, faces)


def looks_bgr(crops: Sequence[Crop], margin: float = 12.0) -> bool:
    """Whether every face's middle is bluer than red by `margin` of 255: skin of any tone is redder, unless
    the light is blue.
    """
    thirds = [(c.pixels, c.pixels.shape[0] // 3, c.pixels.shape[1] // 3) for c in crops]
    middles = [p[y : p.shape[0] - y, x : p.shape[1] - x] for p, y, x in thirds]
    return bool(crops) and all(m[..., 2].mean() - m[..., 0].mean() > margin for m in middles)


def load(
    weights: str | os.PathLike[str] | InferenceModel | None = None,
    *,
    detector: str | os.PathLike[str] | None = None,
    tasks: Sequence[str] | None = None,
    threads: int | None = None,
    batch: int = 8,
    max_pixels: int = MAX_PIXELS,
    score: float | None = None,
    mirror: bool = False,
) -> Reader:
    """A reader with the embedded weights, or with others.

    Args:
        weights: an .onnx file that mien exported, or a loaded network; None for the embedded default.
        detector: an .onnx file of a detector; None for the embedded one.
        tasks: see `Reader`. Only the parts of the network that these need are loaded.
        threads: inference threads; None for all cores, or as many as a container is given (its CPU quota).
        batch, max_pixels: see `Reader`.
        score: minimum detection score, 0..1; None for the detector's own.
        mirror: horizontal-flip test-time augmentation: slightly more accurate, twice the time per face.

    Raises:
        BadWeights: a file is missing, truncated or altered.
        UnknownTask: see `Reader`.
        UsageError: `tasks` is one string in place of a list, or `score` is out of range.
    """
    if isinstance(tasks, str):
        raise UsageError(f"tasks must be a list of names, not a string: tasks=[{tasks!r}]")
    if score is not None and not 0 < score < 1:
        raise UsageError(f"score must lie between 0 and 1, not {score}")
    path = WEIGHTS / "mien.onnx" if weights is None else weights
    model: InferenceModel
    model = (
        OnnxModel(path, threads=threads, tasks=default_task if tasks is None else tasks)
        if isinstance(path, (str, os.PathLike))
        else path
    )
    finder = OnnxModel(detector or WEIGHTS / "detector.onnx", threads=threads)
    find = Detector(finder) if score is None else Detector(finder, threshold=score)
    return Reader(find, FlipTTA(model) if mirror else model, tasks=tasks, batch=batch, max_pixels=max_pixels)


def default_task(name: str) -> bool:
    """Whether a network's task is predicted without being named: all are, but those that come only on
    request.
    """
    return name.partition("@")[0] not in ON_REQUEST

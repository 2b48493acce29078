"""The pipeline: photo -> detect -> align -> one forward for all faces of all photos -> read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from mien import geometry
from mien.errors import PhotoError, UnknownTask, UsageError, without_frames
from mien.inference.detector import Detector
from mien.inference.flip_tta import FlipTTA
from mien.inference.onnx_model import OnnxModel
from mien.inference.providers import CPU, Provider, providers_of
from mien.inference.reading import Reading
from mien.inference.weights_file import WEIGHTS, weights_id
from mien.io.image import MAX_PIXELS, Color, Source, load_photo
from mien.tasks import DERIVED, ON_REQUEST, supported_tasks
from mien.types import Crop, Detection, Face, InferenceModel, KnowsTasks

GROUP_PIXELS = 16_000_000  # photos read together hold no more than this, and one photo; 3 bytes per pixel
_log = logging.getLogger(__name__)


class _Group:
    """Photos that are read together, on their way: decoded, detected and aligned.

    Attributes:
        readings: one per photo, without faces so far.
        found: the faces of each.
        crops: of all faces, in order.
        pixels: of all photos.
    """

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.found: list[list[Detection]] = []
        self.crops: list[Crop] = []
        self.pixels = 0


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
        thorough: search each photo at every scale and turned by 90, 180 and 270 degrees, see `Detector`:
            finds small and turned faces, and detection takes 3 to 100 times as long.

    Attributes:
        requested: the tasks that this reader predicts, in the order of the records.

    Raises:
        UnknownTask: a name that this model does not support.
        UsageError: `thorough` with a detector that has no such search, or a batch below 1.
    """

    def __init__(
        self,
        detector: Callable[[Any], list[Detection]],
        model: InferenceModel,
        *,
        tasks: Sequence[str] | None = None,
        batch: int = 8,
        max_pixels: int = MAX_PIXELS,
        thorough: bool = False,
    ):
        if batch < 1:
            raise UsageError(f"batch must be 1 or more faces, not {batch}")
        if thorough and not isinstance(detector, Detector):
            raise _takes_none(detector, "thorough")
        self.detector, self.model, self.batch, self.max_pixels = detector, model, batch, max_pixels
        self.thorough = thorough
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
            raise UnknownTask(f"this model does not predict {wrong[0]!r}; its tasks: {', '.join(supported)}")
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
        reading is empty, has `.error`, and is logged as a warning. Readings of a list keep faces and no
        pixels, see `stream`. color: of arrays only; "bgr" is OpenCV's order.
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
        thorough: bool | None = None,
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
            thorough: search at every scale and turn, see `Reader`; None for the reader's own.
            max_faces: read only the largest faces, at most this many.
            model: takes the place of the reader's network for this call, with the same tasks and view.
            on_stage: called after each of the stages "decode", "detect", "align" and "read" with the stage,
                the reading so far (with the time of the stage in `timing_ms`) and the number of faces found.
                What it raises ends the read.

        Raises:
            PhotoError: the photo cannot be read.
            UnknownTask: see `select`. UsageError: `score` or `thorough` with a detector that takes none.
        """
        selected = self.requested if tasks is None else self.select(tasks)
        reading = self._open(photo, color)
        _report(on_stage, "decode", reading, 0)
        found = self._detect(reading, score, thorough)[:max_faces]
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
        """Read photos of any number in order, a few at a time; memory does not grow with their number.

        Faces of photos that are read together share forward passes. When the next reading is requested, the
        pixels of a photo that came from a path or from bytes are forgotten; `reading.photo.pixels` reads them
        again.

        Args:
            photos: as `read` takes them.
            photos_a_time: maximum number of photos read together; fewer where they have more than
                `GROUP_PIXELS`.
            color: of arrays only; "bgr" is OpenCV's order.
        """
        group = _Group()
        for source in photos:
            self._start(group, source, color)
            if len(group.readings) >= photos_a_time or group.pixels >= GROUP_PIXELS:
                yield from self._finish(group)
                group = _Group()
        yield from self._finish(group)

    def _start(self, group: _Group, source: Source, color: Color) -> None:
        """Decode, detect and align one photo of a group."""
        try:
            reading = self._open(source, color)
        except PhotoError as e:
            _log.warning("%s", e)
            group.readings.append(Reading(_path_of(source), error=without_frames(e)))
            group.found.append([])
            return
        assert reading.photo is not None
        found = self._detect(reading, None)
        group.crops += self._align(reading, found, source)
        group.pixels += reading.photo.width * reading.photo.height
        group.found.append(found)
        group.readings.append(reading)

    def _finish(self, group: _Group) -> Iterator[Reading]:
        """One forward pass, or a few, for all faces of a group; then its readings."""
        start = time.perf_counter()
        predictions = self.read_crops(group.crops)
        per_face = 1e3 * (time.perf_counter() - start) / max(len(group.crops), 1)
        first = 0
        for reading, faces in zip(group.readings, group.found, strict=True):
            last = first + len(faces)
            reading += _faces(faces, predictions[first:last], group.crops[first:last])
            if reading.photo is not None:
                reading.timing_ms["read"] = per_face * len(faces)
            first = last
        while group.readings:
            reading = group.readings.pop(0)
            yield reading
            if reading.photo is not None:
                reading.photo.release()

    def _open(self, source: Source, color: Color) -> Reading:
        start = time.perf_counter()
        photo = load_photo(source, max_pixels=self.max_pixels, color=color)
        reading = Reading(_path_of(source), photo, model=self._model)
        reading.timing_ms["decode"] = 1e3 * (time.perf_counter() - start)
        return reading

    def _detect(
        self, reading: Reading, score: float | None = None, thorough: bool | None = None
    ) -> list[Detection]:
        assert reading.photo is not None
        start = time.perf_counter()
        thorough = self.thorough if thorough is None else thorough
        if isinstance(self.detector, Detector):
            found = self.detector(reading.photo.pixels, score=score, thorough=thorough)
        elif score is not None or thorough:
            raise _takes_none(self.detector, "score" if score is not None else "thorough")
        else:
            found = self.detector(reading.photo.pixels)
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
            tasks: names as `select` gives them; None for `requested`.
            model: see `read`.
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


def _takes_none(detector: object, argument: str) -> UsageError:
    return UsageError(f"the detector {type(detector).__name__} takes no {argument}; leave {argument} out")


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
    flip_tta: bool = False,
    thorough: bool = False,
    device: str | None = None,
    providers: Sequence[Provider] | None = None,
) -> Reader:
    """A reader with the embedded weights, or with others.

    Args:
        weights: an .onnx file that mien exported, or a loaded network; None for the embedded default.
        detector: an .onnx file of a detector; None for the embedded one.
        tasks: see `Reader`. Only the parts of the network that these need are loaded.
        threads: inference threads; None for all cores, or as many as a container is given (its CPU quota).
        batch: batch size, faces per forward pass.
        max_pixels: photos with more pixels are refused.
        score: minimum detection score, 0..1; None for the detector's own.
        flip_tta: horizontal-flip test-time augmentation: slightly more accurate, twice the time per face.
        thorough: see `Reader`.
        device: where network and detector run: "cpu", "cuda", "cuda:1", "coreml" or "directml"; None for
            the CPU. A network that is passed loaded stays where it is.
        providers: in place of `device`, ONNX Runtime execution providers as in `OnnxModel`.

    Raises:
        BadWeights: a file is missing, truncated or altered.
        UnknownTask: see `Reader`.
        UsageError: `tasks` is one string in place of a list, `score` is out of range, the device is not
            available, or both `device` and `providers` are given.
    """
    if isinstance(tasks, str):
        raise UsageError(f"tasks must be a list of names, not a string: tasks=[{tasks!r}]")
    if score is not None and not 0 < score < 1:
        raise UsageError(f"score must lie between 0 and 1, not {score}")
    if device is not None and providers is not None:
        raise UsageError(f"pass device={device!r} or providers={list(providers)!r}, not both")
    where = providers_of(device) if device is not None else (CPU,) if providers is None else providers
    path = WEIGHTS / "mien.onnx" if weights is None else weights
    model: InferenceModel
    model = (
        OnnxModel(path, threads=threads, providers=where, tasks=default_task if tasks is None else tasks)
        if isinstance(path, (str, os.PathLike))
        else path
    )
    finder = OnnxModel(detector or WEIGHTS / "detector.onnx", threads=threads, providers=where)
    find = Detector(finder) if score is None else Detector(finder, threshold=score)
    return Reader(
        find,
        FlipTTA(model) if flip_tta else model,
        tasks=tasks,
        batch=batch,
        max_pixels=max_pixels,
        thorough=thorough,
    )


def default_task(name: str) -> bool:
    """Whether a network's task is predicted without being named: all are, but those that come only on
    request.
    """
    return name.partition("@")[0] not in ON_REQUEST

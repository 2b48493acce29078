"""The best shot: bursts of similar photos, the best photo of each, and of each person in it."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mien.errors import UsageError
from mien.inference.onnx_model import OnnxModel
from mien.inference.reader import Reader, load
from mien.inference.weights_file import WEIGHTS
from mien.io.paths import find_photos
from mien.recognition.clustering import Album, album_threshold, suggestion_threshold
from mien.selection.measures import Scene, fine_contrast, measure
from mien.tasks import supported_tasks
from mien.types import Floats, InferenceModel, Pixels

if TYPE_CHECKING:
    from mien.inference.reading import Reading

SCHEMA = 1
_SIDE = 24  # of the picture that tells whether two photos are alike
_THUMB = 320  # pixels, longer side, on the sheet
_EXIF, _TAKEN, _FRACTION = 0x8769, 36867, 37521
_TIMED = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")  # formats that may hold the time
TASKS = ("landmarks", "pose", "expression", "attributes", "eyes", "gaze", "occlusion", "quality", "identity")


@dataclass(frozen=True, slots=True)
class Wish:
    """Something that a good shot has.

    Attributes:
        name: of the wish.
        measure: a name in `mien.selection.measures.MEASURES`.
        bad, good: the values at which a face gets 0 and 1 points.
        weight: of the points.
        words: said of the best shot where it has it and another shot of the burst does not.
    """

    name: str
    measure: str
    bad: float
    good: float
    weight: float
    words: str

    def points(self, value: float) -> float:
        """0..1."""
        return float(np.clip((value - self.bad) / (self.good - self.bad), 0, 1))


# Ours: the weights are a judgment, not fitted. Closed eyes outweigh all else.
WISHES = (
    Wish("eyes", "eyes_open", 0.2, 0.8, 3.0, "eyes open"),
    Wish("gaze", "gaze_angle", 35, 8, 1.0, "looks at the camera"),
    Wish("sharp", "sharpness", 0.06, 0.3, 2.0, "sharper"),
    Wish("uncovered", "covered", 0.5, 0.05, 1.5, "face not covered"),
    Wish("facing", "yaw", 50, 12, 1.0, "faces the camera"),
    Wish("light", "clipped", 0.3, 0.02, 0.5, "better light"),
    Wish("quality", "quality", 0.2, 0.8, 1.0, "better quality"),
)
SMILE = Wish("smile", "smiling", 0.2, 0.8, 1.5, "smiles")
_GAIN = 0.25  # points by which a shot must be better for a reason to be named


@dataclass(slots=True)
class Shot:
    """One photo of a burst.

    Attributes:
        path: of the photo.
        time: seconds, when it was taken; None where the file does not say.
        score: 0..1, mean of its faces; sharpness alone where there is none.
        faces: one score per face, 0..1, largest first.
        persons: one number per face, as in `cluster_faces`; 0 for faces that nobody else's joined.
        points: one mapping per face: wish -> points, 0..1.
        reasons: why it was picked; empty for the others.
    """

    path: str
    time: float | None
    score: float
    faces: list[float]
    persons: list[int]
    points: list[dict[str, float]] = field(repr=False)
    reasons: list[str]
    _small: Floats = field(repr=False)
    _thumb: Pixels = field(repr=False)

    def mean(self, wish: str) -> float | None:
        """Mean points of its faces; None where the wish was not measured."""
        known = [p[wish] for p in self.points if wish in p]
        return float(np.mean(known)) if known else None


@dataclass(slots=True)
class Burst:
    """Similar photos, taken one after another.

    Attributes:
        shots: in the order in which they were taken.
        best: place of the best shot.
        persons: person -> place of the shot in which that person looks best; people of two shots or more.
    """

    shots: list[Shot]
    best: int
    persons: dict[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "best": self.shots[self.best].path,
            "reasons": self.shots[self.best].reasons,
            "persons": {str(p): self.shots[i].path for p, i in self.persons.items()},
            "shots": [
                {
                    "path": s.path,
                    "time": s.time,
                    "score": round(s.score, 4),
                    "faces": [round(v, 4) for v in s.faces],
                    "persons": s.persons,
                }
                for s in self.shots
            ],
        }


@dataclass(slots=True)
class Selection:
    """The best shots of a collection.

    Attributes:
        bursts: in the order in which they were taken; a photo alone is a burst of one.
        missing: tasks that the network does not have, and whose wishes were left out.
        failed: paths of photos that could not be read.
    """

    bursts: list[Burst]
    missing: list[str]
    failed: list[str]

    def picks(self) -> list[str]:
        """Paths: the best shot of each burst, and shots in which somebody looks better."""
        found = dict.fromkeys(b.shots[i].path for b in self.bursts for i in (b.best, *b.persons.values()))
        return list(found)

    def best(self) -> list[str]:
        """Paths of the best shot of each burst."""
        return [b.shots[b.best].path for b in self.bursts]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": SCHEMA,
            "missing_tasks": self.missing,
            "failed": self.failed,
            "bursts": [b.to_dict() for b in self.bursts],
        }

    def save_sheet(self, path: str | os.PathLike[str]) -> None:
        """Write a contact sheet, FILE.html, with the reasons.

        Raises:
            UsageError: another suffix.
        """
        from mien.selection.sheet import write

        write(self, Path(path))

    def save_photos(self, folder: str | os.PathLike[str], *, link: bool = False) -> list[Path]:
        """Copy the best shot of each burst into a folder, or link to it; their new paths.

        Raises:
            UsageError: the folder holds a photo of the collection, or a file of such a name.
        """
        place = Path(folder)
        originals = {Path(s.path).resolve().parent for b in self.bursts for s in b.shots}
        if place.resolve() in originals:
            raise UsageError(f"{str(folder)!r} is a folder of these photos; name another folder")
        place.mkdir(parents=True, exist_ok=True)
        made = list[Path]()
        for number, path in enumerate(self.best(), 1):
            out = place / f"{number:04d}-{Path(path).name}"
            if out.exists() or out.is_symlink():
                raise UsageError(f"{str(out)!r} exists already; use a new folder")
            if link:
                out.symlink_to(Path(path).resolve())
            else:
                shutil.copy2(path, out)
            made.append(out)
        return made


def best(
    photos: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    reader: Reader | None = None,
    seconds: float = 10.0,
    similarity: float = 0.8,
    smiling: bool = False,
    step: Callable[[], None] = lambda: None,
) -> Selection:
    """The best shot of each burst of a collection, and of each person in it.

    Photos belong to one burst if they look alike and were taken within `seconds` of each other. Where a file
    does not say when it was taken, the order of the names and the likeness decide.

    Args:
        photos: a folder, or paths.
        reader: from `mien.load(tasks=[...])`; None loads one with what the embedded network has of `TASKS`.
        seconds: maximum time between two photos of a burst.
        similarity: minimum likeness of two photos of a burst, -1..1.
        smiling: whether people should smile.
        step: called after each photo.

    Raises:
        UsageError: no photos, or `seconds` or `similarity` is out of range.
    """
    if not seconds > 0:
        raise UsageError(f"seconds must be above 0, not {seconds}")
    if not -1 <= similarity < 1:
        raise UsageError(f"similarity must be -1 or more and below 1, not {similarity}")
    paths = find_photos(photos)
    reader = reader or loaded()
    wishes = (*WISHES, SMILE) if smiling else WISHES
    can = set(reader.requested)
    needed = dict.fromkeys(t for w in wishes for t in measure(w.measure).tasks)
    album = _album(reader)
    shots, failed, places = list[Shot](), list[str](), list[list[int | None]]()
    for path, reading in zip(paths, reader.stream(paths), strict=True):
        if reading.error is not None or reading.photo is None:
            failed.append(path)
        else:
            shots.append(_shot(path, reading, [w for w in wishes if _answered(w, can)]))
            places.append(album.add(path, reading) if album is not None else [None] * len(reading))
        step()
    if album is not None:
        album.solve()
        for shot, of in zip(shots, places, strict=True):
            shot.persons = [0 if i is None else album.persons[i] for i in of]
    bursts = [_judged(g, wishes) for g in grouped(shots, seconds, similarity)]
    return Selection(bursts, [t for t in needed if t not in can], failed)


def loaded(weights: str | os.PathLike[str] | InferenceModel | None = None, **options: Any) -> Reader:
    """A reader of those of `TASKS` that a network has.

    Args:
        weights: an .onnx file, or a loaded network; None for the embedded one.
        options: as `mien.load` takes them.
    """
    if weights is None or isinstance(weights, (str, os.PathLike)):
        path = WEIGHTS / "mien.onnx" if weights is None else weights
        model: InferenceModel = OnnxModel(path, threads=options.get("threads"), tasks=TASKS)
    else:
        model = weights
    can = supported_tasks(t.name for t in model.tasks)
    return load(model, tasks=[t for t in TASKS if t in can], **options)


def _answered(wish: Wish, can: set[str]) -> bool:
    return all(t in can for t in measure(wish.measure).tasks)


def _album(reader: Reader) -> Album | None:
    """An album that finds the same person in several photos; None where the reader has no identity."""
    if "identity" not in reader.requested:
        return None
    cut = album_threshold(reader.model)
    return Album(cut, suggest=suggestion_threshold(reader.model, cut.similarity))


def _shot(path: str, reading: Reading, wishes: Sequence[Wish]) -> Shot:
    assert reading.photo is not None
    pixels = reading.photo.pixels
    points = [_points(Scene(face, pixels, len(reading)), wishes) for face in reading]
    weights = {w.name: w.weight for w in wishes}
    scores = [
        sum(weights[n] * v for n, v in p.items()) / max(sum(weights[n] for n in p), 1e-9) for p in points
    ]
    sides = [max(1.0, float(f.box[2] - f.box[0])) for f in reading]
    score = float(np.average(scores, weights=sides)) if scores else _plain_score(pixels)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = (small - small.mean()) / max(float(small.std()), 1.0)
    scale = min(1.0, _THUMB / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    thumb = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Shot(path, taken(path), score, scores, [0] * len(scores), points, [], small, thumb)


def _points(scene: Scene, wishes: Sequence[Wish]) -> dict[str, float]:
    """Wish -> points of one face."""
    values = {w: measure(w.measure).of(scene) for w in wishes}
    return {w.name: w.points(v) for w, v in values.items() if v == v}


def _plain_score(pixels: Pixels) -> float:
    """0..1 for a photo without faces: its sharpness; below that of any photo with a good face."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, 512 / max(gray.shape))
    size = max(8, round(gray.shape[1] * scale)), max(8, round(gray.shape[0] * scale))
    small = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.float32)
    return float(np.clip(fine_contrast(small), 0, 1)) / 4


def taken(path: str | os.PathLike[str]) -> float | None:
    """When a photo was taken by its EXIF data, in seconds; None where the file does not say."""
    try:
        with Image.open(path, formats=_TIMED) as image:
            facts = image.getexif().get_ifd(_EXIF)
        text = str(facts.get(_TAKEN, "")).strip("\x00 ")
        moment = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=datetime.UTC)
        fraction = "".join(c for c in str(facts.get(_FRACTION, "")) if c.isdigit())
        return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, KeyError):
        return None  # no picture of these formats, or no time in it


def grouped(shots: Sequence[Shot], seconds: float, similarity: float) -> list[list[Shot]]:
    """Bursts: neighbors in time, or by name where times are not known, that look alike."""
    order = sorted(shots, key=lambda s: (s.time is None, s.time or 0.0, s.path))
    found = list[list[Shot]]()
    for shot in order:
        last = found[-1][-1] if found else None
        if last is not None and _close(last, shot, seconds) and likeness(last, shot) >= similarity:
            found[-1].append(shot)
        else:
            found.append([shot])
    return found


def _close(one: Shot, other: Shot, seconds: float) -> bool:
    if one.time is None or other.time is None:
        return one.time is None and other.time is None
    return abs(other.time - one.time) <= seconds


def likeness(one: Shot, other: Shot) -> float:
    """Correlation of two photos' small gray pictures, -1..1; the best of small shifts, as of a hand."""
    a, b, m = one._small, other._small, 2
    inner = a[m:-m, m:-m]
    found = -1.0
    for dy in range(2 * m + 1):
        for dx in range(2 * m + 1):
            part = b[dy : dy + inner.shape[0], dx : dx + inner.shape[1]]
            spread = float(inner.std() * part.std())
            same = float(((inner - inner.mean()) * (part - part.mean())).mean())
            found = max(found, same / spread if spread > 1e-6 else float(np.allclose(inner, part)))
    return found


def _judged(shots: list[Shot], wishes: Sequence[Wish]) -> Burst:
    """A burst with its best shot, the reasons, and the best shot of each person."""
    place = max(range(len(shots)), key=lambda i: (shots[i].score, -i))
    persons = dict[int, int]()
    for person in sorted({p for s in shots for p in s.persons if p}):
        seen = [(s.faces[s.persons.index(person)], -i) for i, s in enumerate(shots) if person in s.persons]
        if len(seen) > 1:
            persons[person] = -max(seen)[1]
    shots[place].reasons = _reasons(shots, place, wishes)
    return Burst(shots, place, persons)


def _reasons(shots: Sequence[Shot], place: int, wishes: Sequence[Wish]) -> list[str]:
    """What the best shot has that the mean of the others lacks."""
    if len(shots) == 1:
        return ["the only shot"]
    gains = list[tuple[float, str]]()
    for wish in wishes:
        own = shots[place].mean(wish.name)
        others = [m for i, s in enumerate(shots) if i != place and (m := s.mean(wish.name)) is not None]
        if own is not None and others and own - float(np.mean(others)) >= _GAIN:
            gains.append((wish.weight * (own - float(np.mean(others))), wish.words))
    return [words for _, words in sorted(gains, reverse=True)] or ["best by a little of everything"]

"""Faces of successive frames -> tracks: whose face is whose, points made steady, answers averaged.

A face goes on with the track whose predicted box (constant velocity) it covers best, all of them chosen at
once. Where identity is answered, a face that resembles a track too little is not given to it, and one that
comes back, or is seen after a cut, gets its old track by resemblance. Identity is biometric data: without it
a face that returns after the gap is a new track.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.errors import UsageError
from mien.tasks import DERIVED
from mien.types import Array, Crop, Face, Floats
from mien.video.assignment import assign
from mien.video.averages import TrackAverages
from mien.video.blinks import Blinks
from mien.video.one_euro import OneEuro


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tracked(Face):
    """A face of one frame that belongs to a track.

    Attributes:
        track: the track's number, from 1 up; never used twice in a clip.
        so_far: the track's mean answers up to this frame, see `TrackAverages`.
    """

    track: int = 0
    so_far: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return super(Tracked, self).__repr__().replace("(", f"(track={self.track}, ", 1)  # see to_dict

    def to_dict(self) -> dict[str, Any]:
        """{"track": number} and the face as plain JSON values."""
        return {"track": self.track} | super(
            Tracked, self
        ).to_dict()  # named: slots make a second class of this name


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """All that is known of one track.

    Attributes:
        track: its number.
        first, last: seconds.
        first_frame, last_frame: frame numbers.
        frames: how often it was read.
        answers: see `TrackAverages`.
        best_frame, best_score: the frame where the face is largest, surest and most frontal, with open eyes
            and the best quality where these were read, and its detection score.
        best: that face's crop as a JPEG file, if the faces had crops.
        blinks_per_minute: None where eyes were not read, or in too few frames per second.
    """

    track: int
    first: float
    last: float
    first_frame: int
    last_frame: int
    frames: int
    answers: Mapping[str, Any] = field(repr=False)
    best_frame: int
    best_score: float
    best: bytes | None = field(default=None, repr=False)
    blinks_per_minute: float | None = None

    @property
    def duration(self) -> float:
        """Seconds from the first to the last sight, absences included."""
        return self.last - self.first

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = (
            "track",
            "first",
            "last",
            "duration",
            "first_frame",
            "last_frame",
            "frames",
            "best_frame",
            "best_score",
        )
        head: dict[str, Any] = {n: round(getattr(self, n), 4) for n in names}
        if self.blinks_per_minute is not None:
            head["blinks_per_minute"] = round(self.blinks_per_minute, 1)
        return head | {name: answer.to_dict() for name, answer in self.answers.items()}


class Track:
    """One face through time: where it is, where it goes, what was answered. See `Tracker`."""

    def __init__(self, number: int, face: Face, frame: int, time: float):
        self.number, self.first, self.first_frame = number, time, frame
        self.means, self.smooth, self.frames, self.quality = TrackAverages(), OneEuro(), 0, -1.0
        self.place, self.speed = _place(face.box), np.zeros(3)
        self.last, self.last_frame, self.present = time, frame, True
        self.points: Floats = face.points
        self.best: Crop | bytes | None = None
        self.best_frame, self.best_score = frame, 0.0
        self.blinks = Blinks()

    def predict(self, time: float, *, horizon: float = 0.5) -> Array:
        """(4,) xyxy box at `time`: constant velocity of center and log size, for `horizon` seconds and then
        no further.
        """
        x, y, side_x, side_y = self.place + np.append(self.speed, self.speed[2]) * min(
            max(time - self.last, 0.0), horizon
        )
        half = np.exp([side_x, side_y]) / 2
        return np.array([x - half[0], y - half[1], x + half[0], y + half[1]])

    def see(self, face: Face, frame: int, time: float, *, smooth: bool, memory: float = 0.5) -> Tracked:
        """Take a face in; the face as tracked, its points smoothed.

        `memory`: how much of the old speed is kept.
        """
        place, dt, moved = _place(face.box), time - self.last, _place(face.box) - self.place
        if not self.present:  # where it was meanwhile is not known
            self.speed, self.smooth = np.zeros(3), OneEuro()
        elif self.frames and dt > 0:
            now = np.append(moved[:2], moved[2:].mean()) / dt
            self.speed = now if self.frames == 1 else memory * self.speed + (1 - memory) * now
        self.place, self.last, self.last_frame, self.present = place, time, frame, True
        self.frames += 1
        side = float(np.exp(place[2:].mean()))
        weight = max(float(face.score), 1e-3) * side
        if "quality" in face:
            weight *= max(float(face["quality"].score), 1e-3)
        self.means.add(face.answers, weight)
        worth = weight * np.cos(np.radians(min(abs(face["pose"].yaw), 90.0))) if "pose" in face else weight
        if "eyes" in face:
            self.blinks.add((face["eyes"].left + face["eyes"].right) / 2, time)
            worth *= 0.2 + 0.8 * float(face["eyes"].both_open)  # ours: closed eyes count a fifth
        if worth > self.quality:
            self.quality, self.best_frame, self.best_score, self.best = (
                float(worth),
                frame,
                float(face.score),
                face.crop,
            )
        steady = self._steady(face, time, side) if smooth else face
        self.points = steady.points
        return Tracked(
            steady.box,
            face.score,
            steady.points,
            steady.answers,
            face.crop,
            self.number,
            self.means.answers(),
        )

    def _steady(self, face: Face, time: float, side: float) -> Face:
        """Filter box, points and all answers with points; answers derived from them are derived again."""
        marks = {n: p for n, a in face.answers.items() if (p := a.photo_points()) is not None}
        parts = [np.asarray(face.box).reshape(2, 2), face.points, *marks.values()]
        ends = np.cumsum([len(p) for p in parts])[:-1]
        box, points, *rest = np.split(self.smooth(np.concatenate(parts), time, side).astype(np.float32), ends)
        answers = dict(face.answers)
        for name, p in zip(marks, rest, strict=True):
            answers[name] = answers[name].with_photo_points(p)
        for name, d in DERIVED.items():
            if name in answers and d.source in marks:
                answers[name] = d.derive(answers[d.source])
        return Face(box.reshape(4), face.score, points, answers, face.crop)

    def at(self, time: float) -> Tracked:
        """The face where it is expected at `time`: box and five points moved, no answers of that frame."""
        box, old = self.predict(time), self.predict(self.last)
        scale = (box[2:] - box[:2]) / np.maximum(old[2:] - old[:2], 1e-6)
        points = (self.points - old[:2]) * scale + box[:2]
        return Tracked(
            box.astype(np.float32),
            0.0,
            points.astype(np.float32),
            {},
            None,
            self.number,
            self.means.answers(),
        )

    def embedding(self) -> Floats | None:
        """(d,) mean embedding of length 1; None without identity."""
        return self.means.direction()

    def leave(self) -> None:
        """It has ended: keep little, for there may be thousands of these."""
        self.present, self.smooth, self.best = False, OneEuro(), _jpeg(self.best)

    def summary(self) -> Summary:
        """What is known of it by now."""
        return Summary(
            self.number,
            self.first,
            self.last,
            self.first_frame,
            self.last_frame,
            self.frames,
            self.means.answers(),
            self.best_frame,
            self.best_score,
            _jpeg(self.best),
            self.blinks.per_minute(),
        )


def _jpeg(crop: Crop | bytes | None) -> bytes | None:
    if not isinstance(crop, Crop):
        return crop
    return bytes(
        cv2.imencode(".jpg", np.ascontiguousarray(crop.pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    )


def _place(box: npt.ArrayLike) -> Array:
    """(4,) xyxy -> center x, center y, log width, log height."""
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box))
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, np.log(max(x2 - x1, 1e-3)), np.log(max(y2 - y1, 1e-3))])


class Tracker:
    """Gives the faces of successive frames their track.

    Args:
        gap: seconds without a sight after which a track has ended (at least two and a half readings are
            waited for).
        nearness: minimum (IoU + closeness of centers) / 2 of a face and a predicted box, 0..1.
        same: minimum cosine of embeddings at which a face that returns is the one of an ended track.
        other: cosine below which a face is not the track's, however near it is.
        smooth: whether points are filtered.
        remembered: most ended tracks, the latest, that a face may return to.

    Raises:
        UsageError: a value is out of range.
    """

    def __init__(
        self,
        *,
        gap: float = 1.0,
        nearness: float = 0.1,
        same: float = 0.83,
        other: float = 0.55,
        smooth: bool = True,
        remembered: int = 500,
    ):
        if gap < 0 or not 0 < nearness < 1:
            raise UsageError(
                f"gap must be 0 seconds or more and nearness within 0..1, not {gap} and {nearness}"
            )
        self.gap, self.nearness, self.same, self.other, self.smooth = gap, nearness, same, other, smooth
        self.remembered, self.count, self.live, self.ended = remembered, 0, list[Track](), list[Track]()
        self.time: float | None = None

    def update(self, faces: Sequence[Face], frame: int, time: float, *, cut: bool = False) -> list[Tracked]:
        """The faces of the next frame, in the same order, with their tracks.

        Args:
            frame: its number.
            time: seconds, later than the frame before.
            cut: whether the scene has changed since.
        """
        wait = max(self.gap, 2.5 * (time - self.time) if self.time is not None else 0.0)
        self.time = time
        gone = [t for t in self.live if cut or time - t.last > wait]
        for track in gone:
            track.leave()
        self.live, self.ended = [t for t in self.live if t.present], self.ended + gone
        given: dict[int, Track] = {}
        self._give(faces, self.live, given, lambda f, t: self._distance(f, t, time))
        self._give(faces, self.live + self.ended[-self.remembered :], given, self._unlike)
        back = [t for t in given.values() if not t.present]
        if back:
            self.ended, self.live = [t for t in self.ended if t not in back], self.live + back
        out = []
        for i, face in enumerate(faces):
            if i not in given:
                self.count += 1
                given[i] = Track(self.count, face, frame, time)
                self.live.append(given[i])
            out.append(given[i].see(face, frame, time, smooth=self.smooth))
        return out

    def _give(
        self,
        faces: Sequence[Face],
        tracks: Iterable[Track],
        given: dict[int, Track],
        cost: Callable[[Face, Track], float],
    ) -> None:
        """Pair the faces that have no track with the tracks that have no face, at minimum total cost."""
        taken = {t.number for t in given.values()}
        free, open_ = (
            [i for i in range(len(faces)) if i not in given],
            [t for t in tracks if t.number not in taken],
        )
        for row, column in assign([[cost(faces[i], t) for t in open_] for i in free]):
            given[free[row]] = open_[column]

    def _distance(self, face: Face, track: Track, time: float) -> float:
        """Cost of going on with a track by place: 0..2, infinite where it cannot be."""
        box, place = track.predict(time), _place(face.box)
        old = _place(box)
        if abs(old[2:] - place[2:]).mean() > np.log(
            2
        ):  # nobody grows to twice the size from one reading to the next
            return np.inf
        side = float(np.exp((old[2:].mean() + place[2:].mean()) / 2))
        near = max(0.0, 1 - float(np.linalg.norm(old[:2] - place[:2])) / side)
        near = (float(geometry.iou(face.box, box)[0, 0]) + near) / 2
        likeness = _likeness(face, track)
        if near < self.nearness or (likeness is not None and likeness < self.other):
            return np.inf
        return 1 - near + (0.0 if likeness is None else (1 - likeness) / 2)

    def _unlike(self, face: Face, track: Track) -> float:
        """Cost of returning to a track by resemblance; infinite where identity is not answered or differs."""
        likeness = _likeness(face, track)
        return np.inf if likeness is None or likeness < self.same else 1 - likeness

    def expect(self, time: float) -> list[Tracked]:
        """Where the faces of the last reading are expected at a later `time`."""
        return [t.at(time) for t in self.live if t.last == self.time]

    def summaries(self) -> list[Summary]:
        """Every track so far, by number."""
        return sorted((t.summary() for t in self.live + self.ended), key=lambda s: s.track)


def _likeness(face: Face, track: Track) -> float | None:
    """Cosine of the face and the track's mean, -1..1; None without identity."""
    own = next((d for a in face.answers.values() if (d := a.direction()) is not None), None)
    mean = None if own is None else track.embedding()
    return None if own is None or mean is None else float(np.dot(own, mean))

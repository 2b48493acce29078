"""Anonymize videos: find and follow faces in a first pass, cover them in a second one, and keep the sound.

    report = mien.anonymize_video("clip.mp4", "anonymous.mp4", how="fill")

A face that is missed in some frames stays covered: gaps are filled, and each track starts early and ends late.
Frames in which a face may still be uncovered are listed in the report. Needs PyAV (`pip install 'mien[video]'`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.errors import PhotoError, UsageError
from mien.types import Array, Detection, Face, Floats, Pixels
from mien.video.container import VideoContainer, Writer
from mien.video.reader import is_cut
from mien.video.tracker import Tracker
from mien.visualize.anonymization import How, check, cover_boxes

if TYPE_CHECKING:
    from mien.inference.reader import Reader

Gray = npt.NDArray[np.uint8]
Visible = Callable[[Floats], bool]  # a mean embedding of length 1 -> whether this person stays visible

SCORE = 0.4  # a track is covered if one of its detections has this score
CANDIDATE = 0.1  # Ours: detections from this score on continue a track
LASTING = 0.3  # Ours: seconds of detections after which a track is covered whatever its scores are
HOLD = 1.0  # Ours: seconds that a track starts early and ends late
GROW = 0.1  # of the box's sides, added on each side of a detected box
DRIFT = 0.3  # Ours: of the box's sides per second without a detection, added on each side, up to GUESS
GUESS = 0.3
SMALL = 320  # longer side of the gray frames in which motion is measured, pixels
SAMPLE = 5  # Ours: every n-th analyzed frame gets embeddings when people stay visible


@dataclass(frozen=True, slots=True)
class Check:
    """A stretch of the video that a person should look at.

    Attributes:
        first_frame, last_frame: frame numbers, inclusive. first, last: their times in seconds.
        reason: "possible face" (a weak detection that is not covered), "track ends" or "track starts" (a face was
            lost or found inside the picture, so the frames after or before the covered ones may show it),
            "long gap" (the face was not detected for a while; covered where it is expected) or "damaged".
        box: (4,) float xyxy in pixels, where to look; None for "damaged".
    """

    first_frame: int
    last_frame: int
    first: float
    last: float
    reason: str
    box: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        box = None if self.box is None else [round(v, 1) for v in self.box]
        return {
            "first_frame": self.first_frame,
            "last_frame": self.last_frame,
            "first": round(self.first, 3),
            "last": round(self.last, 3),
            "reason": self.reason,
            "box": box,
        }


@dataclass(frozen=True, slots=True)
class CoveredTrack:
    """One face that was followed.

    Attributes:
        track: its number. first_frame, last_frame: of its detections. first, last: their times in seconds.
        detections: frames in which it was detected. covered: frames in which it is covered.
        visible: frames in which it was left visible on request.
    """

    track: int
    first_frame: int
    last_frame: int
    first: float
    last: float
    detections: int
    covered: int
    visible: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {n: _plain(getattr(self, n)) for n in self.__slots__}


def _plain(value: float) -> float:
    return round(value, 3) if isinstance(value, float) else value


@dataclass(slots=True)
class AnonymizationReport:
    """What `anonymize_video` did.

    Attributes:
        source, target: the files. frames: written frames. seconds: time of the last one.
        how, strength: see `anonymize_video`. spans: covered times in seconds; empty for the entire video.
        tracks: faces that were covered or left visible. check: what to look at, in order of time.
        covered_frames: frames with at least one covered area.
        damage: why the source could not be read to its end, or None. warnings: what was lost, such as sound.
    """

    source: str
    target: str
    how: str
    strength: float
    spans: tuple[tuple[float, float], ...]
    frames: int = 0
    seconds: float = 0.0
    covered_frames: int = 0
    tracks: list[CoveredTrack] = field(default_factory=list)
    check: list[Check] = field(default_factory=list)
    damage: str | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "source": self.source,
            "target": self.target,
            "how": self.how,
            "strength": self.strength,
            "spans": [list(span) for span in self.spans],
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "covered_frames": self.covered_frames,
            "tracks": [t.to_dict() for t in self.tracks],
            "check": [c.to_dict() for c in self.check],
            "damage": self.damage,
            "warnings": list(self.warnings),
        }


# Following


def follow(before: Gray, now: Gray, box: npt.ArrayLike) -> Array | None:
    """(4,) box of one gray frame -> the same face's box in another, by median optical flow; None if it is lost.

    Median flow (Kalal, Mikolajczyk and Matas, ICPR 2010): a grid of points is tracked there and back; the half
    that returns best decides on shift and scale.
    """
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box))
    height, width = before.shape
    xs = np.linspace(x1, x2, 9)[1:-1]
    ys = np.linspace(y1, y2, 9)[1:-1]
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 1, 2).astype(np.float32)
    inside = ((grid >= 0) & (grid < (width, height))).all((1, 2))
    grid = grid[inside]
    if len(grid) < 8:
        return None
    options: dict[str, Any] = {"winSize": (11, 11), "maxLevel": 3}
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, grid, None, **options)  # type: ignore[call-overload]
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **options)
    error = np.linalg.norm(back - grid, axis=(1, 2))
    good = (
        (found.ravel() == 1)
        & (again.ravel() == 1)
        & (error <= max(float(np.median(error)), 0.2))
        & (error < 2)
    )
    if good.sum() < 8:
        return None
    start, end = grid[good, 0].astype(np.float64), there[good, 0].astype(np.float64)
    shift = np.median(end - start, axis=0)
    i, j = np.triu_indices(len(start), 1)
    far = np.linalg.norm(start[i] - start[j], axis=1)
    ratios = np.linalg.norm(end[i] - end[j], axis=1)[far > 1] / far[far > 1]
    scale = float(np.clip(np.median(ratios), 0.9, 1.1)) if ratios.size else 1.0
    center = np.array([x1 + x2, y1 + y2]) / 2 + shift
    half = np.array([x2 - x1, y2 - y1]) / 2 * scale
    return np.concatenate([center - half, center + half])


def grown(box: npt.ArrayLike, share: float) -> Array:
    """(4,) xyxy box with `share` of its sides added on each side."""
    b = np.asarray(box, np.float64)
    margin = np.tile(b[2:] - b[:2], 2) * (-share, -share, share, share)
    return np.asarray(b + margin)


@dataclass(slots=True)
class Line:
    """Boxes over frames, linear in between: where something is covered.

    Attributes:
        frames: frame numbers, ascending. boxes: (4,) each. visible: whether this stretch is left visible.
    """

    track: int
    frames: list[int] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)
    visible: bool = False

    def add(self, frame: int, box: Array) -> None:
        """One more box."""
        self.frames.append(frame)
        self.boxes.append(box)

    def at(self, frame: int) -> Array:
        """The box at a frame from the first to the last."""
        k = int(np.searchsorted(self.frames, frame))
        if self.frames[k] == frame:
            return self.boxes[k]
        share = (frame - self.frames[k - 1]) / (self.frames[k] - self.frames[k - 1])
        return np.asarray(self.boxes[k - 1] * (1 - share) + self.boxes[k] * share)


@dataclass(slots=True)
class Sightings:
    """Detections of one track within one scene.

    Attributes:
        frames, boxes, scores: of each detection. embeddings: (index into frames, embedding) of some.
        before, after: lines of expected places before the first detection and after lost ones.
        scene: number of the scene.
    """

    track: int
    scene: int
    frames: list[int] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    embeddings: list[tuple[int, Floats]] = field(default_factory=list)
    before: Line | None = None
    after: list[Line] = field(default_factory=list)


class Follower:
    """First pass: the faces of each analyzed frame -> sightings with expected places around them.

    Args:
        hold: seconds that a track starts early and ends late; also the longest gap that the tracker bridges.
    """

    def __init__(self, hold: float):
        self.hold = hold
        self.tracker = Tracker(gap=hold, smooth=False, remembered=1)
        self.times: dict[int, float] = {}  # of analyzed frames
        self.scene_ends: list[int] = []  # last analyzed frame of each scene
        self.done: list[Sightings] = []
        self._open: dict[int, Sightings] = {}
        self._lost: dict[int, Line] = {}
        self._past: deque[tuple[int, float, Gray]] = deque()
        self._size = (1, 1)

    def add(self, number: int, time: float, pixels: Pixels, faces: Sequence[Face], *, cut: bool) -> None:
        """One analyzed frame."""
        if cut:
            self._end_scene()
        self._size = (pixels.shape[1], pixels.shape[0])
        gray = _small(pixels)
        self.times[number] = time
        current = set()
        for face in self.tracker.update(faces, number, time, cut=cut):
            current.add(face.track)
            self._see(face.track, face, number, gray)
        for track in [t for t in self._open if t not in current]:
            self._expect(track, number, time, gray)
        self._past.append((number, time, gray))
        while self._past and time - self._past[0][1] > self.hold:
            self._past.popleft()

    def finish(self) -> list[Sightings]:
        """All sightings, in order of their first frame."""
        self._end_scene()
        return sorted(self.done, key=lambda s: (s.frames[0], s.track))

    def _end_scene(self) -> None:
        if self._past:
            self.scene_ends.append(self._past[-1][0])
        self.done += self._open.values()
        self._open, self._lost = {}, {}
        self._past.clear()

    @property
    def _scale(self) -> float:
        return min(1.0, SMALL / max(self._size))

    def _moved(self, before: Gray, now: Gray, box: Array) -> Array:
        """The box where it is expected in the next frame; where it was if the flow is lost."""
        moved = follow(before, now, box * self._scale)
        return box if moved is None else np.asarray(moved / self._scale)

    def _see(self, track: int, face: Face, number: int, gray: Gray) -> None:
        box = np.asarray(face.box, np.float64)
        self._lost.pop(track, None)
        entry = self._open.get(track)
        if entry is None:
            entry = self._open[track] = Sightings(track, len(self.scene_ends))
            entry.before = self._earlier(track, box, number, gray)
        entry.frames.append(number)
        entry.boxes.append(box)
        entry.scores.append(float(face.score))
        identity = next((a for n, a in face.answers.items() if n.startswith("identity")), None)
        if identity is not None:
            entry.embeddings.append((len(entry.frames) - 1, identity.embedding))

    def _earlier(self, track: int, box: Array, number: int, gray: Gray) -> Line | None:
        """Where a new face was expected before it was found, back to the scene's start or `hold` seconds."""
        found, now, later = [(number, grown(box, GROW))], gray, self.times[number]
        for frame, time, before in reversed(self._past):
            if later - time > self.hold:
                break
            box = self._moved(now, before, box)
            if not _inside(box, self._size):
                break
            found.append((frame, grown(box, GROW + min(DRIFT * (later - time), GUESS))))
            now = before
        if len(found) == 1:
            return None
        line = Line(track)
        for frame, place in reversed(found):
            line.add(frame, place)
        return line

    def _expect(self, track: int, number: int, time: float, gray: Gray) -> None:
        """One more expected place of a face that is not found in this frame."""
        entry = self._open[track]
        since = time - self.times[entry.frames[-1]]
        if since > self.hold:
            if all(t.number != track for t in self.tracker.live):
                self.done.append(self._open.pop(track))
                self._lost.pop(track, None)
            return
        line = self._lost.get(track)
        if line is None:
            line = self._lost[track] = Line(track)
            line.add(entry.frames[-1], entry.boxes[-1])  # not grown: flow starts from it
            entry.after.append(line)
        if line.frames[-1] != self._past[-1][0]:
            return  # it has left the picture
        box = self._moved(self._past[-1][2], gray, line.boxes[-1])
        if _inside(box, self._size):
            line.add(number, box)


def _small(pixels: Pixels) -> Gray:
    height, width = pixels.shape[:2]
    scale = min(1.0, SMALL / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


def _inside(box: Array, size: tuple[int, int]) -> bool:
    """Whether any of the box is in the picture."""
    return bool(box[2] > 0 and box[3] > 0 and box[0] < size[0] and box[1] < size[1])


# Between the passes


@dataclass(slots=True)
class Plan:
    """What is covered in which frame, and what a person should look at.

    Attributes:
        lines: in order of their first frame. tracks, check: see `AnonymizationReport`.
        times: seconds of every frame.
    """

    lines: list[Line]
    tracks: list[CoveredTrack]
    check: list[Check]
    times: list[float]

    def frames(self) -> Iterator[list[Array]]:
        """Boxes to cover for each frame, in order."""
        waiting, active = deque(self.lines), list[Line]()
        for number in range(len(self.times)):
            while waiting and waiting[0].frames[0] <= number:
                active.append(waiting.popleft())
            active = [line for line in active if line.frames[-1] >= number]
            yield [line.at(number) for line in active if not line.visible]


def plan_cover(
    follower: Follower, times: Sequence[float], size: tuple[int, int], score: float, visible: Visible | None
) -> Plan:
    """Sightings -> what to cover.

    Args:
        times: seconds of every frame of the video. size: (width, height). score: see `anonymize_video`.
        visible: see `anonymize_video`.
    """
    sightings = follower.finish()
    best: dict[int, float] = {}
    lasting: dict[int, float] = {}
    for entry in sightings:
        best[entry.track] = max(best.get(entry.track, 0.0), *entry.scores)
        span = times[entry.frames[-1]] - times[entry.frames[0]]
        lasting[entry.track] = max(lasting.get(entry.track, 0.0), span)
    accepted = {t for t in best if best[t] >= score or lasting[t] >= LASTING}
    lines, checks = list[Line](), list[Check]()
    for entry in sightings:
        if entry.track not in accepted:
            box = tuple(float(v) for v in entry.boxes[int(np.argmax(entry.scores))])
            checks.append(_check(entry.frames[0], entry.frames[-1], times, "possible face", box))
            continue
        lines += _lines(entry, times, visible)
        checks += _gaps(entry, times, follower.hold)
    kept = [s for s in sightings if s.track in accepted]
    bridges, joined_ends, joined_starts = _joined(kept, lines, times, follower.hold)
    lines += bridges
    for i, entry in enumerate(kept):
        checks += _edges(entry, i in joined_starts, i in joined_ends, follower, times, size)
    lines.sort(key=lambda line: line.frames[0])
    return Plan(lines, _covered_tracks(kept, lines, times), _merged(checks, times), list(times))


def _check(
    first: int, last: int, times: Sequence[float], reason: str, box: tuple[float, ...] | None
) -> Check:
    return Check(first, last, times[first], times[last], reason, box)


def _visible(entry: Sightings, visible: Visible | None) -> list[bool]:
    """For each detection, whether the face is left visible: only where every near embedding says so."""
    if visible is None or not entry.embeddings:
        return [False] * len(entry.frames)
    vectors = np.stack([e for _, e in entry.embeddings]).astype(np.float64)
    if not visible(_mean(vectors)):
        return [False] * len(entry.frames)
    near = [visible(_mean(vectors[max(0, k - 1) : k + 2])) for k in range(len(vectors))]
    places = [i for i, _ in entry.embeddings]
    out = []
    for i in range(len(entry.frames)):
        k = int(np.searchsorted(places, i))
        around = near[max(0, k - 1) : k + 1]
        out.append(all(around))
    return out


def _mean(vectors: Array) -> Floats:
    mean = vectors.mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


def _lines(entry: Sightings, times: Sequence[float], visible: Visible | None) -> list[Line]:
    """The covered places of one track within one scene: detections, filled gaps and margins."""
    shown = _visible(entry, visible)
    out = [Line(entry.track, visible=shown[0])]
    for k, (frame, box) in enumerate(zip(entry.frames, entry.boxes, strict=True)):
        if k and frame - entry.frames[k - 1] > 1:
            middle = (frame + entry.frames[k - 1]) // 2
            away = times[middle] - times[entry.frames[k - 1]]
            share = (middle - entry.frames[k - 1]) / (frame - entry.frames[k - 1])
            place = entry.boxes[k - 1] * (1 - share) + box * share
            out[-1].add(middle, grown(place, GROW + min(DRIFT * away, GUESS)))
        if shown[k] != out[-1].visible:  # the change itself is covered
            if out[-1].visible:
                out.append(Line(entry.track, visible=False))
            else:
                out[-1].add(frame, grown(box, GROW))
                out.append(Line(entry.track, visible=True))
                continue
        out[-1].add(frame, grown(box, GROW))
    out = [line for line in out if line.frames]
    if entry.before is not None:
        entry.before.visible = shown[0]
        out.append(entry.before)
    for line in entry.after:
        start = entry.frames.index(line.frames[0])
        margin = Line(entry.track, visible=shown[start] and shown[min(start + 1, len(shown) - 1)])
        for frame, box in zip(line.frames, line.boxes, strict=True):
            away = times[frame] - times[line.frames[0]]
            margin.add(frame, grown(box, GROW + min(DRIFT * away, GUESS)))
        out.append(margin)
    return out


def _gaps(entry: Sightings, times: Sequence[float], hold: float) -> list[Check]:
    """Gaps between detections that are longer than half of `hold`."""
    out = []
    for (a, box), b in zip(zip(entry.frames, entry.boxes, strict=True), entry.frames[1:], strict=False):
        if times[b] - times[a] > hold / 2 and b - a > 1:
            out.append(_check(a + 1, b - 1, times, "long gap", tuple(float(v) for v in box)))
    return out


def _joined(
    kept: Sequence[Sightings], lines: Sequence[Line], times: Sequence[float], hold: float
) -> tuple[list[Line], set[int], set[int]]:
    """Lines between a track that ends and one that starts soon after, near by and of similar size.

    Returns:
        The lines, and the positions in `kept` of tracks whose end, and whose start, is joined.
    """
    shown = {(line.track, f) for line in lines if line.visible for f in (line.frames[0], line.frames[-1])}
    out, ends, starts = list[Line](), set[int](), set[int]()
    for i, a in enumerate(kept):
        last = a.frames[-1]
        for j, b in enumerate(kept):
            first = b.frames[0]
            if i == j or first <= last or times[first] - times[last] > 2 * hold:
                continue
            side = float(np.sqrt(np.prod(a.boxes[-1][2:] - a.boxes[-1][:2])))
            other = float(np.sqrt(np.prod(b.boxes[0][2:] - b.boxes[0][:2])))
            if max(side, other) > 2 * min(side, other):
                continue
            apart = float(
                np.linalg.norm(
                    (a.boxes[-1] + a.boxes[-1][[2, 3, 0, 1]] - b.boxes[0] - b.boxes[0][[2, 3, 0, 1]])[:2] / 2
                )
            )
            near = (
                apart < 1.5 * side
                if a.scene == b.scene
                else geometry.iou(a.boxes[-1], b.boxes[0])[0, 0] > 0.3
            )
            if not near:
                continue
            line = Line(a.track, visible=(a.track, last) in shown and (b.track, first) in shown)
            line.add(last, grown(a.boxes[-1], GROW))
            line.add(first, grown(b.boxes[0], GROW))
            out.append(line)
            ends.add(i)
            starts.add(j)
    return out, ends, starts


def _edges(
    entry: Sightings,
    start_joined: bool,
    end_joined: bool,
    follower: Follower,
    times: Sequence[float],
    size: tuple[int, int],
) -> list[Check]:
    """The frames outside of the margins of a track that starts or ends inside the picture, within a scene."""
    hold, out = follower.hold, list[Check]()
    scene_start = 0 if entry.scene == 0 else follower.scene_ends[entry.scene - 1] + 1
    scene_end = follower.scene_ends[entry.scene]
    first, last = entry.frames[0], entry.frames[-1]
    frames = np.asarray(times)
    if not start_joined and _well_inside(entry.boxes[0], size):
        early = int(np.searchsorted(frames, times[first] - hold))
        if early > scene_start:
            begin = max(scene_start, int(np.searchsorted(frames, times[early] - hold)))
            out.append(_check(begin, early - 1, times, "track starts", _tuple(entry.boxes[0])))
    if not end_joined and _well_inside(entry.boxes[-1], size):
        late = int(np.searchsorted(frames, times[last] + hold, side="right")) - 1
        if late < scene_end:
            end = min(scene_end, int(np.searchsorted(frames, times[late] + hold)))
            out.append(_check(late + 1, end, times, "track ends", _tuple(entry.boxes[-1])))
    return out


def _tuple(box: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in box)


def _well_inside(box: Array, size: tuple[int, int]) -> bool:
    """Whether a face is away from the picture's edges by a tenth of its sides: there it cannot have left."""
    return bool((grown(box, 0.1)[:2] > 0).all() and (grown(box, 0.1)[2:] < size).all())


def _covered_tracks(
    kept: Sequence[Sightings], lines: Sequence[Line], times: Sequence[float]
) -> list[CoveredTrack]:
    covered: dict[int, set[int]] = {}
    shown: dict[int, set[int]] = {}
    for line in lines:
        group = shown if line.visible else covered
        group.setdefault(line.track, set()).update(range(line.frames[0], line.frames[-1] + 1))
    out = []
    for track in sorted({s.track for s in kept}):
        own = [s for s in kept if s.track == track]
        first, last = min(s.frames[0] for s in own), max(s.frames[-1] for s in own)
        hidden = covered.get(track, set())
        out.append(
            CoveredTrack(
                track,
                first,
                last,
                times[first],
                times[last],
                sum(len(s.frames) for s in own),
                len(hidden),
                len(shown.get(track, set()) - hidden),
            )
        )
    return out


def _merged(checks: Sequence[Check], times: Sequence[float]) -> list[Check]:
    """Stretches of one reason at one place, at most half a second apart, become one."""
    out: list[Check] = []
    for c in sorted(checks, key=lambda c: (c.reason, c.first_frame)):
        like = next(
            (
                k
                for k, o in enumerate(out)
                if o.reason == c.reason
                and c.first - o.last <= 0.5
                and o.box is not None
                and c.box is not None
                and geometry.iou(o.box, c.box)[0, 0] > 0.3
            ),
            None,
        )
        if like is None:
            out.append(c)
        else:
            old = out[like]
            out[like] = _check(
                min(old.first_frame, c.first_frame),
                max(old.last_frame, c.last_frame),
                times,
                c.reason,
                old.box,
            )
    return sorted(out, key=lambda c: (c.first_frame, c.reason))


# The two passes


def anonymize_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    reader: Reader | None = None,
    *,
    how: How = "blur",
    strength: float = 1.0,
    score: float = SCORE,
    hold: float = HOLD,
    stride: int = 1,
    spans: Sequence[tuple[float, float]] = (),
    visible: Visible | None = None,
    sound: bool = True,
    on_frame: Callable[[int, int, float], None] | None = None,
) -> AnonymizationReport:
    """Write a video in which faces cannot be recognized. Metadata of the source are not written.

    Args:
        source: a video file; it is read twice, so pipes and cameras are refused.
        target: FILE.mp4.
        reader: of `mien.load()`, with the identity task if `visible` is given; None loads one.
        how, strength: see `mien.anonymize`.
        score: a track is covered if one of its detections has this score, 0..1, or if it lasts 0.3 s. Detections
            from 0.1 on continue a track.
        hold: seconds that a track starts early and ends late, and the longest gap that is filled.
        stride: every n-th frame is analyzed; boxes between are interpolated.
        spans: (start, end) in seconds; faces outside stay visible. Empty: the entire video.
        visible: mean embedding of a track (length 1) -> whether this person stays visible.
        sound: whether the sound is kept.
        on_frame: called with the pass (1 or 2), the frame number and its time.

    Raises:
        UsageError: an argument is out of range, or the source is no file.
        PhotoError: the source cannot be opened. A damaged source is written as far as it can be read, see
            `AnonymizationReport.damage`.
    """
    check(how, strength)
    _check_arguments(source, target, score, hold, stride, spans)
    if reader is None:
        from mien.inference.reader import load

        reader = load(tasks=["identity"] if visible is not None else [])
    if visible is not None and not any(n.startswith("identity") for n in reader.requested):
        raise UsageError("visible needs a reader with identity; build it with mien.load(tasks=['identity'])")
    report = AnonymizationReport(
        os.fspath(source), os.fspath(target), how, strength, tuple((float(a), float(b)) for a, b in spans)
    )
    with VideoContainer(source) as film:
        follower, times, size = _first_pass(
            film,
            reader,
            hold=hold,
            score=score,
            stride=stride,
            spans=spans,
            visible=visible,
            on_frame=on_frame,
        )
        damage = film.error()
    if not times:
        raise damage or PhotoError(f"{os.fspath(source)!r} has no frame that can be decoded; check the file")
    plan = plan_cover(follower, times, size, score, visible)
    report.tracks, report.check = plan.tracks, plan.check
    if damage is not None:
        report.damage = str(damage)
        last = len(times) - 1
        report.check.append(_check(last, last, times, "damaged", None))
    _second_pass(plan, report, sound=sound, on_frame=on_frame)
    return report


def _check_arguments(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    score: float,
    hold: float,
    stride: int,
    spans: Sequence[tuple[float, float]],
) -> None:
    if Path(target).suffix.lower() != ".mp4":
        raise UsageError(f"an anonymized video is written as FILE.mp4, not {os.fspath(target)!r}")
    if os.path.exists(source) and not os.path.isfile(source) and not os.path.isdir(source):
        raise UsageError(
            f"{os.fspath(source)!r} is a pipe or a camera; a video is read twice: save it to a file"
        )
    if os.fspath(source) == "-":
        raise UsageError("a video is read twice, so it cannot come from stdin; save it to a file")
    if os.path.realpath(source) == os.path.realpath(target):
        raise UsageError(f"{os.fspath(target)!r} is the source itself; name another file")
    if not CANDIDATE <= score < 1:
        raise UsageError(f"score must lie between {CANDIDATE} and 1, not {score}")
    if not 0 < hold <= 60:
        raise UsageError(f"hold must be above 0 and at most 60 seconds, not {hold}")
    if stride < 1:
        raise UsageError(f"stride must be 1 frame or more, not {stride}")
    for start, end in spans:
        if not 0 <= start < end:
            raise UsageError(f"a span needs 0 <= start < end in seconds, not {start} to {end}")


def _within(time: float, spans: Sequence[tuple[float, float]], margin: float = 0.0) -> bool:
    return not spans or any(start - margin <= time <= end + margin for start, end in spans)


def _first_pass(
    film: VideoContainer,
    reader: Reader,
    *,
    hold: float,
    score: float,
    stride: int,
    spans: Sequence[tuple[float, float]],
    visible: Visible | None,
    on_frame: Callable[[int, int, float], None] | None,
) -> tuple[Follower, list[float], tuple[int, int]]:
    """Detect and follow faces in every n-th frame within the spans."""
    follower, times, size = Follower(hold), list[float](), (1, 1)
    before, cut, analyzed = None, False, 0
    for number, (time, raw) in enumerate(film.frames()):
        times.append(time)
        if on_frame:
            on_frame(1, number, time)
        thumbnail = film.thumbnail(raw)
        cut, before = cut or (before is not None and is_cut(before, thumbnail)), thumbnail
        if number % stride or not _within(time, spans, hold):
            continue
        pixels = film.pixels(raw)
        if (pixels.shape[1], pixels.shape[0]) != size:
            cut, size = True, (pixels.shape[1], pixels.shape[0])  # the picture's size changes within the file
        faces = _faces(reader, pixels, with_identity=visible is not None and analyzed % SAMPLE == 0)
        follower.add(number, time, pixels, faces, cut=cut)
        cut, analyzed = False, analyzed + 1
    return follower, times, size


def _faces(reader: Reader, pixels: Pixels, *, with_identity: bool) -> list[Face]:
    """Candidates of a frame, with embeddings if wanted."""
    found: list[Detection] = reader.detector(pixels, score=CANDIDATE)  # type: ignore[call-arg]
    if not with_identity:
        return [Face(d.box, d.score, d.points) for d in found]
    task = next(n for n in reader.requested if n.startswith("identity"))
    crops = [geometry.align(pixels, d.points, reader.model.view) for d in found]
    predictions = reader.read_crops(crops, tasks=[task])
    return [Face(d.box, d.score, d.points, p) for d, p in zip(found, predictions, strict=True)]


def _second_pass(
    plan: Plan,
    report: AnonymizationReport,
    *,
    sound: bool,
    on_frame: Callable[[int, int, float], None] | None,
) -> None:
    """Cover and write."""
    with (
        VideoContainer(report.source) as film,
        Writer(report.target, rate=film.rate, sound_of=film if sound else None) as writer,
    ):
        for (number, (time, raw)), boxes in zip(enumerate(film.frames()), plan.frames(), strict=False):
            if abs(time - plan.times[number]) > 1e-3:
                raise PhotoError(f"{report.source!r} changed while it was read; run it again")
            pixels = film.pixels(raw)
            if boxes and _within(time, report.spans):
                cover_boxes(pixels, boxes, how=report.how, strength=report.strength)  # type: ignore[arg-type]
                report.covered_frames += 1
            writer.add(pixels, time)
            report.frames, report.seconds = number + 1, time
            if on_frame:
                on_frame(2, number, time)
        writer.close()
        report.warnings = list(writer.warnings)

"""Where faces are in a video that is read from start to end, also where they are not detected."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien import geometry
from mien.types import Array, Face, Floats, Pixels
from mien.video.tracker import Tracker

Gray = npt.NDArray[np.uint8]

START = (
    0.3  # Ours: detections from this score on start a track; weaker ones only continue one (as in ByteTrack)
)
NEAR = 0.3  # Ours: minimum IoU of a weak detection and an expected box
SNAP = 0.5  # Ours: minimum IoU of a weak detection and a box moved by flow, to use the detection
GROW = 0.15  # Ours: of the box's sides, added on each side of a detected box
DRIFT = 0.3  # Ours: of the box's sides per second without a detection, added on each side, up to GUESS
GUESS = 0.3
SMALL = 320  # longer side of the gray frames in which motion is measured, pixels
CONTEXT = 24  # Ours: minimum side of the area whose motion is measured, pixels of the gray frames


def follow(before: Gray, now: Gray, box: npt.ArrayLike) -> Array | None:
    """(4,) box of one gray frame -> the same face's box in another, by optical flow; None if it is lost.

    Median flow (Kalal, Mikolajczyk and Matas, ICPR 2010): a grid of points is tracked there and back; the
    half that returns best decides on shift and scale.
    """
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box))
    height, width = before.shape
    # a small face has too few pixels of its own: what surrounds it moves along
    half = max(x2 - x1, CONTEXT) * 0.375, max(y2 - y1, CONTEXT) * 0.375
    xs = (x1 + x2) / 2 + np.linspace(-half[0], half[0], 7)
    ys = (y1 + y2) / 2 + np.linspace(-half[1], half[1], 7)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 1, 2).astype(np.float32)
    inside = ((grid >= 0) & (grid < (width, height))).all((1, 2))
    grid = grid[inside]
    if len(grid) < 8:
        return None
    options: dict[str, Any] = {"winSize": (11, 11), "maxLevel": 3}
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, grid, None, **options)  # type: ignore[call-overload]
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **options)  # type: ignore[call-overload]
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
    sides = np.array([x2 - x1, y2 - y1]) * scale
    return np.concatenate([center - sides / 2, center + sides / 2])


def grown(box: npt.ArrayLike, away: float = 0.0) -> Array:
    """(4,) xyxy box as it is covered, `away` seconds from the nearest detection."""
    return widened(box, GROW + min(DRIFT * away, GUESS))


def widened(box: npt.ArrayLike, share: float) -> Array:
    """(4,) xyxy box with `share` of its sides added on each side."""
    b = np.asarray(box, np.float64)
    return np.asarray(b + np.tile(b[2:] - b[:2], 2) * (-share, -share, share, share))


@dataclass(slots=True)
class Line:
    """Boxes over frames, linear in between: where something is covered.

    Attributes:
        frames: frame numbers, ascending.
        boxes: (4,) each.
        visible: whether this stretch is left visible.
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
        frames, boxes, scores: of each detection.
        embeddings: (index into frames, embedding) of some.
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
        self._past: deque[tuple[int, float, Gray, Array]] = deque()
        self._size = (1, 1)

    def add(self, number: int, time: float, pixels: Pixels, faces: Sequence[Face], *, cut: bool) -> None:
        """One analyzed frame."""
        if cut:
            self._end_scene()
        self._size = (pixels.shape[1], pixels.shape[0])
        gray = _small(pixels)
        self.times[number] = time
        current = set()
        for face in self.tracker.update(self._credible(faces, time, cut), number, time, cut=cut):
            current.add(face.track)
            self._see(face.track, face, number, gray)
        for track in [t for t in self._open if t not in current]:
            self._expect(track, number, time, gray)
        boxes = np.array([f.box for f in faces], np.float64).reshape(-1, 4)
        self._past.append((number, time, gray, boxes))
        while self._past and time - self._past[0][1] > self.hold:
            self._past.popleft()

    def _credible(self, faces: Sequence[Face], time: float, cut: bool) -> list[Face]:
        """Detections that start a track, and weaker ones where a face is expected."""
        strong = [f for f in faces if f.score >= START]
        weak = [f for f in faces if f.score < START]
        live = [] if cut else self.tracker.live
        if not weak or not live:
            return strong
        expected = np.stack([t.predict(time) for t in live])
        near = geometry.iou(np.stack([f.box for f in weak]), expected).max(1) >= NEAR
        if strong:
            near &= (
                geometry.iou(np.stack([f.box for f in weak]), np.stack([f.box for f in strong])).max(1) < NEAR
            )
        return strong + [f for f, is_near in zip(weak, near, strict=True) if is_near]

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
        found, now, later = [(number, grown(box))], gray, self.times[number]
        seen = later
        for frame, time, before, candidates in reversed(self._past):
            if later - time > self.hold:
                break
            box = self._moved(now, before, box)
            if not _inside(box, self._size):
                break
            overlaps = geometry.iou(box, candidates)[0] if len(candidates) else np.zeros(0)
            # too weak to start a track, but more reliable than the flow
            if overlaps.size and overlaps.max() >= SNAP:
                box, seen = candidates[int(overlaps.argmax())], time
            found.append((frame, grown(box, seen - time)))
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

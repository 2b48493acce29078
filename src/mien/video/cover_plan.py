"""From followed faces to what is covered in each frame, and to what a person should look at."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien import geometry
from mien.types import Array, Floats
from mien.video.following import Follower, Line, Sightings, grown, widened

Visible = Callable[[Floats], bool]  # a mean embedding of length 1 -> whether this person stays visible

LASTING = 0.5  # Ours: seconds of detections after which a track is covered whatever its scores are
SURE, FEW, SHORT = 0.54, 5, 0.2  # Ours: a track without this score, of fewer detections, has shorter margins
AROUND, SHRUNK = (
    0.3,
    0.85,
)  # Ours: seconds, and share of the expected area below which a box is a part of a face


@dataclass(frozen=True, slots=True)
class Check:
    """A stretch of the video that a person should look at.

    Attributes:
        first_frame, last_frame: frame numbers, inclusive.
        first, last: their times in seconds.
        reason: "possible face" (a weak detection that is not covered), "track ends" or "track starts" (a face
            was lost or found inside the picture, so the frames after or before the covered ones may show
            it), "long gap" (the face was not detected for a while; covered where it is expected) or
            "damaged".
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
        track: its number.
        first_frame, last_frame: of its detections.
        first, last: their times in seconds.
        detections: frames in which it was detected.
        covered: frames in which it is covered.
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
class Plan:
    """What is covered in which frame, and what a person should look at.

    Attributes:
        lines: in order of their first frame.
        tracks, check: see `AnonymizationReport`.
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
        times: seconds of every frame of the video.
        size: (width, height).
        score: see `anonymize_video`.
        visible: see `anonymize_video`.
    """
    sightings = follower.finish()
    strength = _strengths(sightings, times, score)
    lines, checks = list[Line](), list[Check]()
    for entry in sightings:
        if strength[entry.track] == "rejected":
            box = _tuple(entry.boxes[int(np.argmax(entry.scores))])
            checks.append(stretch(entry.frames[0], entry.frames[-1], times, "possible face", box))
            continue
        margin = SHORT if strength[entry.track] == "weak" else follower.hold
        lines += _lines(entry, times, visible, margin)
        checks += _gaps(entry, times, follower.hold)
    kept = [s for s in sightings if strength[s.track] != "rejected"]
    bridges, joined_ends, joined_starts = _joined(kept, lines, times, follower.hold)
    lines += bridges
    for i, entry in enumerate(kept):
        margin = SHORT if strength[entry.track] == "weak" else follower.hold
        checks += _edges(entry, i in joined_starts, i in joined_ends, follower, times, size, margin)
    lines.sort(key=lambda line: line.frames[0])
    return Plan(lines, _covered_tracks(kept, lines, times), _merged(checks, times), list(times))


def _strengths(sightings: Sequence[Sightings], times: Sequence[float], score: float) -> dict[int, str]:
    """Track -> "sure"; "weak", with short margins; or "rejected", not covered."""
    best: dict[int, float] = {}
    count: dict[int, int] = {}
    lasting: dict[int, float] = {}
    for entry in sightings:
        best[entry.track] = max(best.get(entry.track, 0.0), *entry.scores)
        count[entry.track] = count.get(entry.track, 0) + len(entry.frames)
        span = times[entry.frames[-1]] - times[entry.frames[0]]
        lasting[entry.track] = max(lasting.get(entry.track, 0.0), span)
    out = {}
    for track, top in best.items():
        if top < score and lasting[track] < LASTING:
            out[track] = "rejected"
        else:
            out[track] = "weak" if top < SURE and count[track] < FEW else "sure"
    return out


def stretch(
    first: int, last: int, times: Sequence[float], reason: str, box: tuple[float, ...] | None
) -> Check:
    """A check of the frames from `first` to `last`."""
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


def _whole(entry: Sightings, times: Sequence[float]) -> list[Array]:
    """The detections' boxes; one that suddenly shrinks, as behind an occluder, is united with the expected.

    The expected box lies between those about `AROUND` seconds before and after.
    """
    clock = np.array([times[f] for f in entry.frames])
    before = np.searchsorted(clock, clock - AROUND)
    after = np.searchsorted(clock, clock + AROUND, side="right") - 1
    out = []
    for k, box in enumerate(entry.boxes):
        i, j = int(before[k]), int(after[k])
        if not i < k < j:
            i, j = (i, i) if j == k else (j, j)
        share = (clock[k] - clock[i]) / (clock[j] - clock[i]) if i != j else 0.0
        expected = entry.boxes[i] * (1 - share) + entry.boxes[j] * share
        if i == j:  # at either end: only its size is known
            half = (expected[2:] - expected[:2]) / 2
            expected = np.concatenate([_center(box) - half, _center(box) + half])
        if np.prod(box[2:] - box[:2]) < SHRUNK * np.prod(expected[2:] - expected[:2]):
            lo, hi = np.minimum(box[:2], expected[:2]), np.maximum(box[2:], expected[2:])
            box = np.concatenate([lo, hi])
        out.append(box)
    return out


def _lines(entry: Sightings, times: Sequence[float], visible: Visible | None, margin: float) -> list[Line]:
    """The covered places of one track within one scene: detections, filled gaps and margins."""
    shown = _visible(entry, visible)
    boxes = _whole(entry, times)
    out = [Line(entry.track, visible=shown[0])]
    for k, (frame, box) in enumerate(zip(entry.frames, boxes, strict=True)):
        if k and frame - entry.frames[k - 1] > 1:
            middle = (frame + entry.frames[k - 1]) // 2
            away = times[middle] - times[entry.frames[k - 1]]
            share = (middle - entry.frames[k - 1]) / (frame - entry.frames[k - 1])
            place = boxes[k - 1] * (1 - share) + box * share
            out[-1].add(middle, grown(place, away))
        if shown[k] != out[-1].visible:  # the change itself is covered
            if out[-1].visible:
                out.append(Line(entry.track, visible=False))
                out[-1].add(entry.frames[k - 1], grown(boxes[k - 1]))
            else:
                out[-1].add(frame, grown(box))
                out.append(Line(entry.track, visible=True))
                continue
        out[-1].add(frame, grown(box))
    out = [line for line in out if line.frames]
    if entry.before is not None:
        earliest = times[entry.frames[0]] - margin
        first = next(k for k, f in enumerate(entry.before.frames) if times[f] >= earliest - 1e-6)
        out.append(Line(entry.track, entry.before.frames[first:], entry.before.boxes[first:], shown[0]))
    for line in entry.after:
        start = entry.frames.index(line.frames[0])
        late = Line(entry.track, visible=shown[start] and shown[min(start + 1, len(shown) - 1)])
        for frame, box in zip(line.frames, line.boxes, strict=True):
            away = times[frame] - times[line.frames[0]]
            if away <= margin + 1e-6:
                late.add(frame, grown(box, away))
        out.append(late)
    return out


def _gaps(entry: Sightings, times: Sequence[float], hold: float) -> list[Check]:
    """Gaps between detections that are longer than half of `hold`."""
    out = []
    for (a, box), b in zip(zip(entry.frames, entry.boxes, strict=True), entry.frames[1:], strict=False):
        if times[b] - times[a] > hold / 2 and b - a > 1:
            out.append(stretch(a + 1, b - 1, times, "long gap", tuple(float(v) for v in box)))
    return out


def _joined(
    kept: Sequence[Sightings], lines: Sequence[Line], times: Sequence[float], hold: float
) -> tuple[list[Line], set[int], set[int]]:
    """Lines between a track that ends and one that starts soon after, near by and of similar size.

    Returns:
        The lines, and the positions in `kept` of tracks whose end, and whose start, is joined.
    """
    shown = {(line.track, f) for line in lines if line.visible for f in (line.frames[0], line.frames[-1])}
    begins = [s.frames[0] for s in kept]  # ascending
    out, ends, starts = list[Line](), set[int](), set[int]()
    for i, a in enumerate(kept):
        last = a.frames[-1]
        for j in range(bisect_right(begins, last), len(kept)):
            b, first = kept[j], begins[j]
            if times[first] - times[last] > 2 * hold:
                break
            side = float(np.sqrt(np.prod(a.boxes[-1][2:] - a.boxes[-1][:2])))
            other = float(np.sqrt(np.prod(b.boxes[0][2:] - b.boxes[0][:2])))
            if max(side, other) > 2 * min(side, other):
                continue
            distance = float(np.linalg.norm(_center(a.boxes[-1]) - _center(b.boxes[0])))
            near = (
                distance < 1.5 * side
                if a.scene == b.scene
                else geometry.iou(a.boxes[-1], b.boxes[0])[0, 0] > 0.3
            )
            if not near:
                continue
            line = Line(a.track, visible=(a.track, last) in shown and (b.track, first) in shown)
            line.add(last, grown(a.boxes[-1]))
            line.add(first, grown(b.boxes[0]))
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
    margin: float,
) -> list[Check]:
    """The frames outside of the margins of a track that starts or ends inside the picture, within a scene."""
    hold, out = follower.hold, list[Check]()
    scene_start = 0 if entry.scene == 0 else follower.scene_ends[entry.scene - 1] + 1
    scene_end = follower.scene_ends[entry.scene]
    first, last = entry.frames[0], entry.frames[-1]
    frames = np.asarray(times)
    if not start_joined and _well_inside(entry.boxes[0], size):
        early = int(np.searchsorted(frames, times[first] - margin))
        if early > scene_start:
            begin = max(scene_start, int(np.searchsorted(frames, times[early] - hold)))
            out.append(stretch(begin, early - 1, times, "track starts", _tuple(entry.boxes[0])))
    if not end_joined and _well_inside(entry.boxes[-1], size):
        late = int(np.searchsorted(frames, times[last] + margin, side="right")) - 1
        if late < scene_end:
            end = min(scene_end, int(np.searchsorted(frames, times[late] + hold)))
            out.append(stretch(late + 1, end, times, "track ends", _tuple(entry.boxes[-1])))
    return out


def _center(box: Array) -> Array:
    return np.asarray((box[:2] + box[2:]) / 2)


def _tuple(box: Array) -> tuple[float, ...]:
    return tuple(float(v) for v in box)


def _well_inside(box: Array, size: tuple[int, int]) -> bool:
    """Whether a face is away from the picture's edges by a tenth of its sides: there it cannot have left."""
    return bool((widened(box, 0.1)[:2] > 0).all() and (widened(box, 0.1)[2:] < size).all())


def _covered_tracks(
    kept: Sequence[Sightings], lines: Sequence[Line], times: Sequence[float]
) -> list[CoveredTrack]:
    covered: dict[int, set[int]] = {}
    shown: dict[int, set[int]] = {}
    for line in lines:
        group = shown if line.visible else covered
        group.setdefault(line.track, set()).update(range(line.frames[0], line.frames[-1] + 1))
    own: dict[int, list[Sightings]] = {}
    for entry in kept:
        own.setdefault(entry.track, []).append(entry)
    out = []
    for track, entries in sorted(own.items()):
        first, last = min(s.frames[0] for s in entries), max(s.frames[-1] for s in entries)
        hidden = covered.get(track, set())
        counts = (
            sum(len(s.frames) for s in entries),
            len(hidden),
            len(shown.get(track, set()) - hidden),
        )
        out.append(CoveredTrack(track, first, last, times[first], times[last], *counts))
    return out


def _merged(checks: Sequence[Check], times: Sequence[float]) -> list[Check]:
    """Stretches of one reason at one place, at most half a second apart, become one."""
    out: list[Check] = []
    recent: list[int] = []  # positions in `out` that may still grow
    for c in sorted(checks, key=lambda c: (c.reason, c.first_frame)):
        recent = [k for k in recent if out[k].reason == c.reason and c.first - out[k].last <= 0.5]
        like = next((k for k in recent if _same_place(out[k], c)), None)
        if like is None:
            recent.append(len(out))
            out.append(c)
        else:
            old = out[like]
            out[like] = stretch(old.first_frame, max(old.last_frame, c.last_frame), times, c.reason, old.box)
    return sorted(out, key=lambda c: (c.first_frame, c.reason))


def _same_place(a: Check, b: Check) -> bool:
    return a.box is not None and b.box is not None and bool(geometry.iou(a.box, b.box)[0, 0] > 0.3)

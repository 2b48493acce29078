"""Anonymize videos: find and follow faces in a first pass, cover them in a second one, and keep the sound.

    report = mien.anonymize_video("clip.mp4", "anonymous.mp4", how="fill")

A face that is missed in some frames stays covered: gaps are filled, and each track starts early and ends
late. Frames in which a face may still be uncovered are listed in the report. Needs PyAV (`pip install
'mien[video]'`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import geometry
from mien.errors import PhotoError, UsageError
from mien.io.paths import file_key
from mien.types import Detection, Face, Pixels
from mien.video.container import VideoContainer, Writer
from mien.video.cover_plan import Check, CoveredTrack, Plan, Visible, plan_cover, stretch
from mien.video.following import Follower
from mien.video.reader import is_cut
from mien.visualize.anonymization import How, check, cover_boxes

if TYPE_CHECKING:
    from mien.inference.reader import Reader

SCORE = 0.4  # a track is covered if one of its detections has this score
CANDIDATE = 0.1  # Ours: weakest detections that continue a track
HOLD = 1.0  # Ours: seconds that a track starts early and ends late
SAMPLE = 5  # Ours: every n-th analyzed frame gets embeddings when people stay visible


@dataclass(slots=True)
class AnonymizationReport:
    """What `anonymize_video` did.

    Attributes:
        source, target: the files.
        frames: written frames.
        seconds: time of the last one.
        how, strength: see `anonymize_video`.
        spans: covered times in seconds; empty for the entire video. An open end is null in JSON.
        tracks: faces that were covered or left visible.
        check: what to look at, in order of time.
        covered_frames: frames with at least one covered area.
        damage: why the source could not be read to its end, or None.
        warnings: what was lost, such as sound.
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
            "spans": [[a, b if b < float("inf") else None] for a, b in self.spans],
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "covered_frames": self.covered_frames,
            "tracks": [t.to_dict() for t in self.tracks],
            "check": [c.to_dict() for c in self.check],
            "damage": self.damage,
            "warnings": list(self.warnings),
        }


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
        how: see `mien.anonymize`.
        strength: see `mien.anonymize`.
        score: a track is covered if one of its detections has this score, 0..1, or if it lasts 0.5 s.
            Detections from 0.3 on start a track, detections from 0.1 on continue it.
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
    with VideoContainer(source) as container:
        follower, times, size = _first_pass(
            container,
            reader,
            hold=hold,
            score=score,
            stride=stride,
            spans=spans,
            visible=visible,
            on_frame=on_frame,
        )
        damage = container.error()
    if not times:
        raise damage or PhotoError(f"{os.fspath(source)!r} has no frame that can be decoded; check the file")
    plan = plan_cover(follower, times, size, score, visible)
    report.tracks = plan.tracks
    report.check = [c for c in plan.check if _overlaps(c, report.spans)]
    if damage is not None:
        report.damage = str(damage)
        last = len(times) - 1
        report.check.append(stretch(last, last, times, "damaged", None))
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
    if file_key(source) == file_key(target):
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


def _overlaps(check: Check, spans: Sequence[tuple[float, float]]) -> bool:
    return not spans or any(check.first <= end and check.last >= start for start, end in spans)


def _within(time: float, spans: Sequence[tuple[float, float]], margin: float = 0.0) -> bool:
    return not spans or any(start - margin <= time <= end + margin for start, end in spans)


def _first_pass(
    container: VideoContainer,
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
    for number, (time, raw) in enumerate(container.frames()):
        times.append(time)
        if on_frame:
            on_frame(1, number, time)
        thumbnail = container.thumbnail(raw)
        cut, before = cut or (before is not None and is_cut(before, thumbnail)), thumbnail
        if number % stride or not _within(time, spans, hold):
            continue
        pixels = container.pixels(raw)
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
        VideoContainer(report.source) as container,
        Writer(report.target, rate=container.rate, sound_of=container if sound else None) as writer,
    ):
        for (number, (time, raw)), boxes in zip(enumerate(container.frames()), plan.frames(), strict=False):
            if abs(time - plan.times[number]) > 1e-3:
                raise PhotoError(f"{report.source!r} changed while it was read; run it again")
            pixels = container.pixels(raw)
            if boxes and _within(time, report.spans):
                cover_boxes(pixels, boxes, how=report.how, strength=report.strength)  # type: ignore[arg-type]
                report.covered_frames += 1
            writer.add(pixels, time)
            report.frames, report.seconds = number + 1, time
            if on_frame:
                on_frame(2, number, time)
        if report.frames != len(plan.times):
            raise PhotoError(f"{report.source!r} changed while it was read; run it again")
        writer.close()
        report.warnings = list(writer.warnings)

"""The part of `mien anonymize` that is about videos."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mien.cli.common import _identity_reader, output_names, path_or_model
from mien.cli.streams import progress, say
from mien.errors import PhotoError, UsageError

if TYPE_CHECKING:
    from mien.types import Floats
    from mien.video.anonymization import AnonymizationReport
    from mien.video.cover_plan import Check

VISIBLE_FMR = 1e-3  # Ours: false match rate at which a person of the gallery, or of a photo, stays visible


def video_targets(videos: Sequence[str], out: Path) -> dict[str, Path]:
    """Path of a video -> the file to write.

    Raises:
        UsageError: a video would be written over an original, or FILE.mp4 is named for several.
    """
    from mien.io.paths import file_key

    if out.suffix.lower() == ".mp4" and not out.is_dir():
        if len(videos) > 1:
            raise UsageError(f"{str(out)!r} is one file and there are {len(videos)} videos; give a folder")
        targets = {videos[0]: out}
    else:
        targets = {
            video: out / f"{name}.mp4" for video, name in zip(videos, output_names(list(videos)), strict=True)
        }
    originals = {file_key(video) for video in videos}
    for target in targets.values():
        if file_key(target) in originals:
            raise UsageError(f"{str(target)!r} is one of the videos; write into another folder with --out")
    return targets


def span_of(text: str) -> tuple[float, float]:
    """Read "START-END" as seconds; each is seconds, MM:SS or HH:MM:SS, and may be left out.

    Raises:
        UsageError: it is no such text.
    """
    start, dash, end = text.partition("-")
    try:
        first = _seconds(start) if start.strip() else 0.0
        last = _seconds(end) if end.strip() else float("inf")
    except ValueError as e:
        raise UsageError(f"--span takes START-END, such as 12.5-20 or 1:05-1:30, not {text!r}") from e
    if not dash or not first < last:
        raise UsageError(f"--span takes START-END with START before END, not {text!r}")
    return first, last


def _seconds(text: str) -> float:
    parts = [float(p) for p in text.strip().split(":")]
    if len(parts) > 3 or any(not 0 <= p < float("inf") for p in parts):
        raise ValueError(text)
    return sum(p * 60**k for k, p in enumerate(reversed(parts)))


def visible_people(
    who: Sequence[str], gallery: Path | None, key: Path | None, fmr: float | None, reader: Any
) -> Callable[[Floats], bool]:
    """Embedding -> whether it is one of these people: names or ids of a gallery, or photos of one face each.

    Raises:
        UsageError: nobody of that name, or a photo that does not show one face.
    """
    import numpy as np

    from mien.recognition.gallery import Gallery
    from mien.recognition.verification import embedding_of, match_threshold

    rate = VISIBLE_FMR if fmr is None else fmr
    people = None if gallery is None else Gallery(gallery, reader, fmr=rate, key=key)
    ids, examples = set[str](), list[Any]()
    for item in who:
        if os.path.isfile(item):
            faces = reader(item)
            if len(faces) != 1:
                raise UsageError(f"{item!r} shows {len(faces)} faces; --visible needs a photo of one face")
            examples.append(embedding_of(faces[0]))
        elif people is None:
            raise UsageError(f"there is no photo {item!r}; for a name give --gallery FOLDER too")
        else:
            ids.add(people.person(item).id)
    threshold = match_threshold(reader.model, fmr=rate).similarity if examples else 2.0
    known = np.stack(examples) if examples else None

    def visible(embedding: Floats) -> bool:
        if known is not None and float((known @ embedding).max()) >= threshold:
            return True
        match = people.search(embedding).match if people is not None and ids else None
        return match is not None and match.person in ids

    return visible


def anonymize_videos(
    videos: Sequence[str],
    out: Path,
    *,
    weights: str | None,
    threads: int | None,
    who: Sequence[str],
    gallery: Path | None,
    key: Path | None,
    fmr: float | None,
    spans: Sequence[str],
    report: Path | None,
    **more: Any,
) -> int:
    """Write all videos and the report; the number of videos that failed or are damaged."""
    from mien.inference.reader import load
    from mien.video.anonymization import anonymize_video

    targets, times = video_targets(videos, out), [span_of(text) for text in spans]
    visible = None
    if who:
        reader = _identity_reader(weights, threads)
        visible = visible_people(who, gallery, key, fmr, reader)
    else:
        reader = load(path_or_model(weights, threads), tasks=[], threads=threads)
    done, failed = list[dict[str, Any]](), 0
    for video in videos:
        targets[video].parent.mkdir(parents=True, exist_ok=True)
        try:
            with _Bar(video) as on_frame:
                result = anonymize_video(
                    video, targets[video], reader, spans=times, visible=visible, on_frame=on_frame, **more
                )
        except PhotoError as error:
            say(f"mien: {error}", err=True)
            done.append({"source": video, "error": {"code": error.code, "message": str(error)}})
            failed += 1
            continue
        failed += result.damage is not None
        done.append(result.to_dict())
        for line in report_lines(result):
            typer.echo(line)
        for warning in (*result.warnings, *([result.damage] if result.damage else [])):
            say(f"mien: {video}: {warning}", err=True)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps({"videos": done}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return failed


class _Bar:
    """A progress bar over both passes of a video, as an `on_frame` of `anonymize_video`."""

    def __init__(self, video: str):
        from mien.video.container import VideoContainer

        with VideoContainer(video) as container:
            self._frames = round((container.duration or 0.0) * float(container.rate))

    def __enter__(self) -> Callable[[int, int, float], None]:
        self._progress = progress(2 * self._frames)
        step = self._progress.__enter__()
        return lambda _pass, _number, _time: step()

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)


def report_lines(result: AnonymizationReport, maximum: int = 10) -> list[str]:
    """A report for people."""
    count = len(result.tracks)
    shown = sum(t.visible > 0 for t in result.tracks)
    visible = f", {shown} left visible in part or entirely" if shown else ""
    head = (
        f"{result.source}: {count} face track{'' if count == 1 else 's'}{visible}; faces covered in"
        f" {result.covered_frames} of {result.frames} frames; {result.target}"
    )
    if not count:
        head = f"{result.source}: no face found, look at it yourself; {result.target}"
    lines = [head]
    if result.check:
        lines.append(f"  look at {len(result.check)} stretch{'' if len(result.check) == 1 else 'es'}:")
        lines += [f"  {_stretch(c)}" for c in result.check[:maximum]]
    if len(result.check) > maximum:
        lines.append(f"  ... and {len(result.check) - maximum} more; --report FILE.json has all")
    return lines


def _stretch(check: Check) -> str:
    place = "" if check.box is None else " at {:.0f},{:.0f}".format(*check.box[:2])
    return f"  {check.first:8.2f}-{check.last:.2f} s  {check.reason}{place}"

"""`mien video`: faces of a video or a camera as rows, tracks and an annotated video."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.command import READ
from mien.cli.common import app, drawing_of, names_of, path_or_model
from mien.cli.options import PICTURES, TASK_NAMES, DrawStyle, Overlay, Score, Threads, Weights
from mien.cli.streams import is_quiet, progress, say
from mien.errors import PhotoError, UsageError

if TYPE_CHECKING:
    from mien.io.writers import RecordWriter

FACE: tuple[tuple[str, type], ...] = (("frame", int), ("time", float), ("track", int))
TRACK: tuple[tuple[str, type], ...] = (
    ("track", int),
    ("person", int),
    ("first", float),
    ("last", float),
    ("duration", float),
    ("first_frame", int),
    ("last_frame", int),
    ("frames", int),
    ("best_frame", int),
    ("best_score", float),
)
# what a track has no mean of
OF_A_FRAME = frozenset(("x1", "y1", "x2", "y2", "score", "points5", "points5_network"))

NOT_IN_A_LINE = frozenset(("attributes",))  # too many words for one line per track


def track_lines(tracks: Sequence[Any]) -> Iterator[str]:
    """Tracks as lines for people."""
    from mien.tasks import summaries

    for track in tracks:
        cells = [
            f"{f'#{track.track}':>5}",
            f"{track.first:7.2f}-{track.last:.2f} s",
            f"{track.frames:5d} frames",
        ]
        words = summaries({n: a for n, a in track.answers.items() if n not in NOT_IN_A_LINE})
        yield "  ".join(cells + words)


@contextmanager
def stoppable() -> Iterator[list[bool]]:
    """A list that is filled by the first Ctrl-C, so that files are finished; the second one stops at once."""
    pressed: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _check_places(source: str, places: Mapping[str, str | Path | None]) -> None:
    """No output may be the input video, or another output; rows must have a format."""
    from mien.io.paths import file_key
    from mien.io.writers import rows_kind

    for option in ("--out", "--tracks"):
        if places[option] is not None:
            rows_kind(str(places[option]), option)
    used: dict[str | tuple[int, int], str] = {file_key(source): "the input video"}
    for option, place in places.items():
        if place is None or str(place) == "-":
            continue
        at = file_key(place)
        if at in used:
            raise UsageError(f"{option} {str(place)!r} would overwrite {used[at]}; name another file")
        used[at] = f"what {option} writes"


def _check_unused(folder: Path) -> None:
    """Refuse a folder that holds tracks of another run: its pictures would be mixed with this run's.

    Raises:
        UsageError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--crops takes a folder, and {str(folder)!r} is a file; name another")
    there = sorted(p.name for p in folder.glob("*.jpg") if p.stem.isdecimal())
    if there:
        raise UsageError(
            f"{str(folder)!r} holds {there[0]!r} of an earlier run, and track numbers of two runs differ; use"
            " a new folder"
        )


@app.command(rich_help_panel=READ)
def video(
    source: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO", help="A video, a camera (/dev/video0), or - for a video piped into stdin."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write one row per face and frame: FILE.jsonl, .csv or .parquet; - writes JSON Lines to"
            " stdout.",
        ),
    ] = None,
    tracks: Annotated[
        str | None,
        typer.Option(
            "--tracks",
            metavar="FILE",
            help="Write one row per track, with mean predictions: FILE.jsonl, .csv or .parquet.",
        ),
    ] = None,
    draw_style: DrawStyle = None,
    overlay: Overlay = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAMES",
            help=f"Predictions, comma-separated: {TASK_NAMES}. With identity, a face that returns keeps its"
            " track.",
            show_default="all but identity",
        ),
    ] = None,
    stride: Annotated[
        int, typer.Option("--stride", min=1, metavar="N", help="Analyze every N-th frame.")
    ] = 1,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            "--max-seconds",
            min=0.0,
            metavar="SECONDS",
            help="Stop at this time of the video.",
            show_default="no limit",
        ),
    ] = None,
    gap: Annotated[
        float,
        typer.Option(
            "--gap",
            min=0.0,
            metavar="SECONDS",
            help="End a track when its face is not detected for this long.",
        ),
    ] = 1.0,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw",
            metavar="FILE.mp4",
            help="Save the annotated video, with its sound.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option(
            "--crops",
            metavar="FOLDER",
            help="Save the best picture of each track, NUMBER.jpg.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    score: Score = None,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Track faces in a video or a camera stream.

    It prints one line per track. Rows, tracks and the annotated video go to files; Ctrl-C completes them.
    Needs the extra: pip install 'mien[video]'.
    """
    from mien.inference.reader import load
    from mien.io.writers import columns, open_rows
    from mien.video.averages import averaged
    from mien.video.container import VideoContainer, Writer
    from mien.video.people import join_tracks
    from mien.video.reader import Reading
    from mien.video.tracker import Tracker

    _check_places(source, {"--out": out, "--tracks": tracks, "--draw": draw})
    if crops:
        _check_unused(crops)
    to_pipe = out is None and tracks is None and draw is None and crops is None and not sys.stdout.isatty()
    with ExitStack() as stack:
        try:
            container = stack.enter_context(VideoContainer(source))
        except PhotoError as error:
            say(f"mien: {error}", err=True)
            raise typer.Exit(1) from error
        reader = load(path_or_model(weights, threads), tasks=names_of(tasks), threads=threads, score=score)
        style_options = drawing_of(draw_style, overlay, draw, "--draw", reader.requested)
        reading = Reading(
            container,
            reader,
            Tracker(gap=gap),
            stride=stride,
            every=draw is not None,
            max_seconds=max_seconds,
        )
        place, names = "-" if to_pipe else out, columns(reader.requested, reader.model.tasks)
        rows = stack.enter_context(open_rows(place, FACE, names)) if place else None
        own = reader.model.tasks
        mean_names = [n for n in reader.requested if averaged(n, own)]
        means = [c for c in columns(mean_names, own) if c.name not in OF_A_FRAME]
        about = stack.enter_context(open_rows(tracks, TRACK, means)) if tracks else None
        if draw:
            draw.parent.mkdir(parents=True, exist_ok=True)
        writer = stack.enter_context(Writer(draw, rate=container.rate, sound_of=container)) if draw else None
        code = _run(reading, rows, writer, style_options)
        if writer:
            writer.close()
            for warning in writer.warnings:
                say(f"mien: {draw}: {warning}", err=True)
        people = join_tracks(reading.tracks)
        _finish(reading.tracks, people, about, crops)
    files = (out, tracks, draw, crops) != (None, None, None, None)
    if out != "-" and not to_pipe and not (files and is_quiet()):
        count = len(set(people.values()))
        people_text = f" of {count} {'person' if count == 1 else 'people'}" if people else ""
        typer.echo(f"{source}: {reading.count} frames, {len(reading.tracks)} tracks{people_text}")
        for line in track_lines(reading.tracks):
            typer.echo(line)
    raise typer.Exit(code)


def _run(reading: Any, rows: RecordWriter | None, writer: Any, style_options: Mapping[str, str]) -> int:
    """All frames into the outputs; the exit code: 1 for a damaged video, 130 for Ctrl-C."""
    seconds = min(s for s in (reading.container.duration or 0.0, reading.max_seconds) if s is not None)
    step_size = 1 if writer else reading.stride
    with (
        stoppable() as stopped,
        progress(round(seconds * float(reading.container.rate)) // step_size) as step,
    ):
        try:
            for frame in reading:
                for face in frame.faces if rows and frame.read else ():
                    rows.add({"frame": frame.number, "time": round(frame.time, 4)} | face.to_dict())  # type: ignore[union-attr]
                if writer:
                    writer.add(frame.drawn(**style_options), frame.time)
                step()
                if stopped:
                    typer.echo(
                        f"mien: stopped after frame {frame.number} ({frame.time:.2f} s); the files are"
                        " finished",
                        err=True,
                    )
                    return 130
        except PhotoError as error:
            say(f"mien: {error}", err=True)
            return 1
    return 0


def _finish(
    tracks: Sequence[Any], people: Mapping[int, int], about: RecordWriter | None, crops: Path | None
) -> None:
    for track in tracks:
        if about:
            about.add({"track": track.track, "person": people.get(track.track)} | track.to_dict())
        if crops and track.best:
            crops.mkdir(parents=True, exist_ok=True)
            (crops / f"{track.track}.jpg").write_bytes(track.best)

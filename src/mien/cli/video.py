"""`mien video`: faces of a film or a camera as rows, tracks and an annotated film."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mien.cli.common import answerer, app, names_of, progress
from mien.errors import PhotoError, UsageError

if TYPE_CHECKING:
    from mien.io.writers import Column

FORMATS = (".jsonl", ".csv", ".parquet")
FACE: tuple[tuple[str, type], ...] = (("frame", int), ("time", float), ("track", int))
TRACK: tuple[tuple[str, type], ...] = (
    ("track", int),
    ("first", float),
    ("last", float),
    ("duration", float),
    ("first_frame", int),
    ("last_frame", int),
    ("frames", int),
    ("best_frame", int),
    ("best_score", float),
)
OF_A_FRAME = frozenset(("x1", "y1", "x2", "y2", "score", "points5"))  # what a track has no mean of

NOT_IN_A_LINE = frozenset(("attributes",))  # too many words for one line per track


class Rows:
    """Records written as they come: JSON Lines as they are, CSV and Parquet flat, with the columns of `mien
    analyze`.

    A context manager. A run that is stopped leaves a file that can be read.

    Args:
        where: FILE.jsonl, FILE.csv, FILE.parquet or "-", JSON Lines on stdout.
        head: (name, type) of the first columns. columns: the others.

    Raises:
        UsageError: another ending, or Parquet without pyarrow.
    """

    GROUP = 1024  # records a Parquet row group, and the most that are held

    def __init__(self, where: str, head: Sequence[tuple[str, type]], columns: Sequence[Column]):
        self.kind, self.path, self.head, self.columns = rows_kind(where), Path(where), head, columns
        self.waiting: list[dict[str, Any]] = []
        self.parquet: Any = None
        self.file: TextIO | None = sys.stdout if where == "-" else None
        if where != "-":
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == ".parquet":
            import pyarrow.parquet as pq

            self.parquet = pq.ParquetWriter(self.path, self._schema())
        elif self.file is None:
            self.file = self.path.open("w", encoding="utf-8", newline="")
        if self.kind == ".csv":
            names = [[f"{c.name}_{p}" for p in c.parts] or [c.name] for c in columns]
            csv.writer(self.file or sys.stdout).writerow(
                [n for n, _ in head] + [n for part in names for n in part]
            )

    def _schema(self) -> Any:
        import pyarrow as pa

        wide, narrow = ({int: pa.int64(), float: f, str: pa.string()} for f in (pa.float64(), pa.float32()))
        fields = [
            (c.name, pa.list_(pa.float32(), len(c.parts)) if c.parts else narrow[c.kind])
            for c in self.columns
        ]
        return pa.schema([(n, wide[kind]) for n, kind in self.head] + fields)

    def __enter__(self) -> Rows:
        return self

    def add(self, record: Mapping[str, Any]) -> None:
        """One record of plain JSON values."""
        if self.kind == ".jsonl" and self.file:
            self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        elif self.kind == ".csv" and self.file:
            values = [(c.get(record), len(c.parts)) for c in self.columns]
            cells = [v or [None] * n if n else [v] for v, n in values]
            csv.writer(self.file).writerow(
                [record[n] for n, _ in self.head] + [v for part in cells for v in part]
            )
        else:
            self.waiting.append(
                {n: record[n] for n, _ in self.head} | {c.name: c.get(record) for c in self.columns}
            )
            if len(self.waiting) >= self.GROUP:
                self._group()
        if self.file:
            self.file.flush()  # a killed run keeps what it had

    def _group(self) -> None:
        import pyarrow as pa

        if self.waiting:
            self.parquet.write_table(pa.Table.from_pylist(self.waiting, self.parquet.schema))
            self.waiting = []

    def __exit__(self, *_: object) -> None:
        if self.parquet:
            self._group()
            self.parquet.close()
        if self.file and self.file is not sys.stdout:
            self.file.close()


def rows_kind(where: str, option: str = "--out") -> str:
    """The format of an output; UsageError where it cannot be written."""
    kind = ".jsonl" if where == "-" else Path(where).suffix.lower()
    if kind not in FORMATS:
        raise UsageError(f"{option} takes FILE.jsonl, FILE.csv, FILE.parquet or -, not {where!r}")
    if kind == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"Parquet needs pyarrow ({error}); install it with: pip install 'mien[parquet]'"
            ) from error
    return kind


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
    """No output may be the film, or another output; rows must have a format."""
    for option in ("--out", "--tracks"):
        if places[option] is not None:
            rows_kind(str(places[option]), option)
    used = {os.path.realpath(source): "the film itself"}
    for option, place in places.items():
        if place is None or str(place) == "-":
            continue
        at = os.path.realpath(place)
        if at in used:
            raise UsageError(f"{option} {str(place)!r} would overwrite {used[at]}; name another file")
        used[at] = f"what {option} writes"


@app.command()
def video(
    source: Annotated[
        str, typer.Argument(help="A film, a camera (/dev/video0), or - for a film piped into stdin.")
    ],
    stride: Annotated[int, typer.Option(min=1, help="Read every n-th frame.")] = 1,
    out: Annotated[
        str | None,
        typer.Option(help="A row a face a frame: FILE.jsonl, FILE.csv, FILE.parquet, or - for JSON Lines."),
    ] = None,
    tracks: Annotated[
        str | None, typer.Option(help="A row a track, with mean answers: FILE.jsonl, .csv, .parquet.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(help="Folder for the best picture of each track, NUMBER.jpg.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="FILE.mp4: the film with faces drawn in, its sound kept.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Answers wanted, comma-separated; with identity, a face that returns is known."),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop there.")] = None,
    gap: Annotated[
        float, typer.Option(min=0.0, help="Seconds without a sight after which a track has ended.")
    ] = 1.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")
    ] = None,
    score: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Least score of a face.")] = None,
    weights: Annotated[str | None, typer.Option(help="An .onnx, a .safetensors or a run's folder.")] = None,
) -> None:
    """Follow every face of a film: rows, tracks with mean answers, and an annotated film.

    Ctrl-C finishes the files.
    """
    from mien.inference.reader import load
    from mien.io.writers import columns
    from mien.video.averages import averaged
    from mien.video.container import VideoContainer, Writer
    from mien.video.reader import Reading
    from mien.video.tracker import Tracker

    _check_places(source, {"--out": out, "--tracks": tracks, "--video": video})
    to_pipe = out is None and tracks is None and video is None and crops is None and not sys.stdout.isatty()
    with ExitStack() as stack:
        try:
            film = stack.enter_context(VideoContainer(source))
        except PhotoError as error:
            typer.echo(f"mien: {error}", err=True)
            raise typer.Exit(1) from error
        reader = load(answerer(weights, threads), tasks=names_of(tasks), threads=threads, score=score)
        reading = Reading(
            film, reader, Tracker(gap=gap), stride=stride, every=video is not None, max_seconds=max_seconds
        )
        place, names = "-" if to_pipe else out, columns(reader.requested)
        rows = stack.enter_context(Rows(place, FACE, names)) if place else None
        means = [c for c in columns(n for n in reader.requested if averaged(n)) if c.name not in OF_A_FRAME]
        about = stack.enter_context(Rows(tracks, TRACK, means)) if tracks else None
        if video:
            video.parent.mkdir(parents=True, exist_ok=True)
        writer = stack.enter_context(Writer(video, rate=film.rate, sound_of=film)) if video else None
        code = _run(reading, rows, writer)
        if writer:
            writer.close()
            for warning in writer.warnings:
                typer.echo(f"mien: {video}: {warning}", err=True)
        _finish(reading.tracks, about, crops)
    if out != "-" and not to_pipe:
        typer.echo(f"{source}: {reading.count} frames, {len(reading.tracks)} tracks")
        for line in track_lines(reading.tracks):
            typer.echo(line)
    raise typer.Exit(code)


def _run(reading: Any, rows: Rows | None, writer: Any) -> int:
    """All frames into the outputs; the exit code: 1 for a damaged film, 130 for Ctrl-C."""
    seconds = min(s for s in (reading.film.duration or 0.0, reading.max_seconds) if s is not None)
    step_size = 1 if writer else reading.stride
    with stoppable() as stopped, progress(round(seconds * float(reading.film.rate)) // step_size) as step:
        try:
            for frame in reading:
                for face in frame.faces if rows and frame.read else ():
                    rows.add({"frame": frame.number, "time": round(frame.time, 4)} | face.to_dict())  # type: ignore[union-attr]
                if writer:
                    writer.add(frame.drawn(), frame.time)
                step()
                if stopped:
                    typer.echo(
                        f"mien: stopped after frame {frame.number} ({frame.time:.2f} s); the files are"
                        " finished",
                        err=True,
                    )
                    return 130
        except PhotoError as error:
            typer.echo(f"mien: {error}", err=True)
            return 1
    return 0


def _finish(tracks: Sequence[Any], about: Rows | None, crops: Path | None) -> None:
    for track in tracks:
        if about:
            about.add(track.to_dict())
        if crops and track.best:
            crops.mkdir(parents=True, exist_ok=True)
            (crops / f"{track.track}.jpg").write_bytes(track.best)

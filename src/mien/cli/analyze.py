"""`mien analyze`: faces of photos as JSON, CSV, Parquet, a table, pictures and a contact sheet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ, note
from mien.cli.common import (
    INTERRUPTED,
    app,
    drawing_of,
    names_of,
    output_names,
    photos_of,
    reader_of,
    readings_of,
    refuse_originals,
    writing,
)
from mien.cli.options import (
    MAX_PIXELS,
    PICTURES,
    SCALE,
    Batch,
    DrawStyle,
    EngineOption,
    FlipTTA,
    MaxPixels,
    Overlay,
    PhotosOrStdin,
    PictureFormat,
    Score,
    Tasks,
    Thorough,
    Threads,
    Weights,
)
from mien.cli.output import Output, table_lines
from mien.cli.parallel import records_of
from mien.errors import NotWritten, UsageError, without_frames

_log = logging.getLogger(__name__)


class Pictures:
    """What is saved of each photo besides its record.

    Args:
        draw, masks, crops: folders, or None.
        kind: "png" or "jpg", of the crops.
        sheet: FILE.html, or None.
        attention: a folder and a label, see `mien.visualize.attention`; what cannot be drawn is refused here,
            before any photo is read.
    """

    def __init__(
        self,
        reader: Any,
        *,
        draw: Path | None = None,
        masks: Path | None = None,
        crops: Path | None = None,
        kind: str = "png",
        sheet: Path | None = None,
        attention: Path | None = None,
        label: str | None = None,
        style: str | None = None,
        overlay: str | None = None,
    ):
        from mien.tasks import Map

        masked = [t.name for t in reader.model.tasks if isinstance(t.shape, Map)]
        self.masked = [n for n in masked if n in reader.requested]
        if masks and not self.masked:
            raise UsageError(
                f"--masks needs the {masked[0] if masked else 'parsing'} task; add it to --tasks"
            )
        if label is not None and attention is None:
            raise UsageError("--label selects what --attention FOLDER draws; give both")
        self.style_options = drawing_of(style, overlay, draw, "--draw", reader.requested)
        self.draw, self.masks, self.crops, self.kind, self.reader = draw, masks, crops, kind, reader
        self.show: Callable[[str, Any], Any] | None = (
            _attention_saver(reader, attention, label) if attention else None
        )
        self.sheet: Any = None
        if sheet:
            from mien.visualize.contact_sheet import ContactSheet

            self.sheet = ContactSheet(sheet)
        for folder in (draw, masks, crops):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)

    def add(self, reading: Any, name: str) -> None:
        """One photo that was read or not; name: of its files, without an ending.

        A file that cannot be written becomes the reading's error.
        """
        if reading.error is not None:
            if self.sheet:
                self.sheet.add(reading)
            return
        try:
            with writing(reading.path):
                self._files(reading, name)
        except NotWritten as error:
            _log.warning("%s", error)
            reading.error = without_frames(error)
        if self.sheet:
            self.sheet.add(reading)

    def _files(self, reading: Any, name: str) -> None:
        """The files of one photo."""
        from mien.visualize import drawing

        if self.draw:
            drawn = drawing.annotate(reading.photo.pixels, reading, **self.style_options)
            drawing.save_jpeg(self.draw / f"{name}.jpg", drawn)
        for number, face in enumerate(reading, 1):
            if self.masks:
                for task in self.masked:
                    mask = face[task].photo_mask(reading.photo.width, reading.photo.height)
                    end = "" if task == "parsing" else f"-{task}"
                    drawing.save_mask(self.masks / f"{name}-{number}{end}.png", mask)
            if self.crops:
                save = drawing.save_png if self.kind == "png" else drawing.save_jpeg
                save(self.crops / f"{name}-{number}.{self.kind}", face.crop.pixels)
        if self.show:
            self.show(name, reading)

    def close(self) -> None:
        """Write what waits for the end."""
        if self.sheet:
            self.sheet.close()


def _attention_saver(reader: Any, folder: Path, label: str | None) -> Callable[[str, Any], Any]:
    """(name, reading) -> its sheets in the folder."""
    from mien.visualize import attention as attend

    wanted = attend.chosen(reader, reader.requested, label)
    return lambda name, reading: attend.save(folder, name, reader, reading, wanted)


def _at_scale(
    photos: list[str],
    out: str | None,
    make: Callable[[], Any],
    engine: str,
    workers: int | None,
    threads: int,
) -> int:
    """`mien.scale.photos.analyze`, and its account on stderr; the exit code."""
    from mien.scale.photos import analyze as job

    if out is None or out == "-" or out.lower().endswith((".jsonl", ".json", ".csv", ".parquet")):
        raise UsageError(f"--engine writes many files; give --out a folder or a URI, not {out!r}")
    if "-" in photos:
        raise UsageError("--engine reads files and URIs, not stdin; leave - out")
    done = job(photos, out, make, engine=engine, workers=workers, threads=threads)
    for line in done.lines():
        note(line)
    return 1 if done.failed else 0


def _records_of_reader(
    reader: Any, photos: list[tuple[str, Any]], names: dict[str, str], pictures: Pictures
) -> Generator[tuple[dict[str, Any], Iterable[str]], None, None]:
    """Records of photos in order, with lines for people, read by this process.

    Lines are only made if somebody reads them, before the next photo.
    """
    for reading in readings_of(reader, photos):
        assert reading.path is not None  # photos of a command have paths
        pictures.add(reading, names[reading.path])
        yield reading.to_dict(), table_lines(reading)


@app.command("predict", hidden=True)
@app.command(rich_help_panel=READ)
def analyze(
    photos: PhotosOrStdin,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write records: FILE.jsonl, .json, .csv or .parquet; - writes JSON Lines to stdout.",
            show_default="a table on a terminal, JSON Lines into a pipe",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue --out FILE: skip the photos that it already has.")
    ] = False,
    tasks: Tasks = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FOLDER", help="Save annotated photos.", rich_help_panel=PICTURES),
    ] = None,
    draw_style: DrawStyle = None,
    overlay: Overlay = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FOLDER",
            help="Save parsing masks: palette PNG files of the size of the photo.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option("--crops", metavar="FOLDER", help="Save aligned faces.", rich_help_panel=PICTURES),
    ] = None,
    crops_as: Annotated[
        PictureFormat, typer.Option("--crops-as", help="Format of --crops.", rich_help_panel=PICTURES)
    ] = PictureFormat.png,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet",
            metavar="FILE.html",
            help="Save a contact sheet: one HTML page with all faces and filters.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            "--attention",
            metavar="FOLDER",
            help="Save attention maps of each label. Needs torch weights of a network with queries.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            metavar="NAME",
            help="With --attention: draw only this label, such as Eyeglasses.",
            show_default="all",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: Weights = None,
    batch: Batch = 8,
    threads: Threads = None,
    flip_tta: FlipTTA = False,
    engine: EngineOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            help="Number of processes that read photos, with one thread each unless --threads is given.",
            show_default="one process; one per core with --engine ray",
            rich_help_panel=SCALE,
        ),
    ] = None,
) -> None:
    """Analyze every face in photos.

    On a terminal it prints one line per face. Records go to --out as JSON, CSV or Parquet.
    """
    from mien.inference.weights_file import weights_id

    make = functools.partial(
        reader_of,
        weights,
        names_of(tasks),
        threads=threads or (1 if engine == "ray" or workers else None),
        batch=batch,
        max_pixels=max_pixels,
        score=score,
        flip_tta=flip_tta,
        thorough=thorough,
    )
    if engine is not None:
        if draw or draw_style or overlay or masks or crops or sheet or attention:
            raise UsageError(
                "--engine writes a table only; run --draw, --masks, --crops, --sheet and --attention"
                " without it"
            )
        raise typer.Exit(_at_scale(photos, out, make, engine, workers, threads or 1))
    if workers and sheet:
        raise UsageError("--sheet is made by one process; run it without --workers")
    reader = make()
    if sheet and resume:
        raise UsageError("--sheet needs every face and --resume skips some; run it without --resume")
    found = photos_of(photos)
    folders = {"--draw": draw, "--masks": masks, "--crops": crops, "--attention": attention}
    refuse_originals([path for path, _ in found], folders)
    saved = functools.partial(
        Pictures,
        draw=draw,
        masks=masks,
        crops=crops,
        kind=crops_as,
        sheet=sheet,
        attention=attention,
        label=label,
        style=draw_style,
        overlay=overlay,
    )
    pictures = saved(reader)
    output = Output(
        out,
        reader.requested,
        tasks=reader.model.tasks,
        model=str(weights_id(reader.model)),
        resume=resume,
    )
    names = dict(zip([path for path, _ in found], output_names([path for path, _ in found]), strict=True))
    left = [(path, source) for path, source in found if not output.has(path)]
    if len(left) < len(found):
        note(f"{out} has {len(found) - len(left)} of {len(found)} photos; {len(left)} are left")
    records = (
        records_of(left, names, make, saved, workers)
        if workers
        else _records_of_reader(reader, left, names, pictures)
    )
    try:
        failed = _write(records, output, len(left), out)
    finally:
        records.close()  # ends other processes
        pictures.close()
        output.close()
    raise typer.Exit(1 if failed else 0)


def _write(
    records: Iterable[tuple[dict[str, Any], Iterable[str]]], output: Output, total: int, out: str | None
) -> int:
    """Write the records of `total` photos; the number of photos that could not be read."""
    failed = count = 0
    try:
        for record, lines in records:
            output.add(record, lines)
            failed, count = failed + ("error" in record), count + 1
    except KeyboardInterrupt:
        resume = "; --resume continues" if out and out.endswith((".jsonl", ".csv", ".parquet")) else ""
        typer.echo(f"mien: interrupted; {count} of {total} photos are saved{resume}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    return failed

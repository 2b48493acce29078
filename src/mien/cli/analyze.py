"""`mien analyze`: faces of photos as JSON, CSV, Parquet, as a table, as pictures and as a contact sheet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import (
    INTERRUPTED,
    answerer,
    app,
    names_of,
    output_names,
    photos_of,
    reader_of,
    readings_of,
)
from mien.cli.output import Output
from mien.errors import UsageError


class Pictures:
    """What is saved of each photo besides its record.

    Args:
        draw, masks, crops: folders, or None. kind: "png" or "jpg", of the crops. sheet: FILE.html, or None.
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
    ):
        if masks and "parsing" not in reader.requested:
            raise UsageError("--masks needs the parsing task; add parsing to --tasks")
        if label is not None and attention is None:
            raise UsageError("--label says what --attention FOLDER draws; give both")
        if kind not in ("png", "jpg"):
            raise UsageError(f"--crops-as takes png or jpg, not {kind!r}")
        self.draw, self.masks, self.crops, self.kind, self.reader = draw, masks, crops, kind, reader
        self.show: Callable[[str, Any], Any] | None = (
            _attention_saver(reader, attention, label) if attention else None
        )
        self.sheet: Any = None
        if sheet:
            from mien.visualize.contact_sheet import ContactSheet

            self.sheet = ContactSheet(sheet, sheet.stem)
        for folder in (draw, masks, crops):
            if folder:
                folder.mkdir(parents=True, exist_ok=True)

    def add(self, reading: Any, name: str) -> None:
        """One photo that was read or not; name: of its files, without an ending."""
        from mien.visualize import drawing

        if self.sheet:
            self.sheet.add(reading)
        if reading.error is not None:
            return
        if self.draw:
            drawing.save_jpeg(self.draw / f"{name}.jpg", drawing.annotate(reading.photo.pixels, reading))
        for number, face in enumerate(reading, 1):
            if self.masks:
                mask = face["parsing"].mask_in(reading.photo.width, reading.photo.height)
                drawing.save_mask(self.masks / f"{name}-{number}.png", mask)
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
        typer.echo(f"mien: {line}", err=True)
    return 1 if done.failed else 0


@app.command("predict", hidden=True)
@app.command()
def analyze(
    photos: Annotated[
        list[str],
        typer.Argument(help="Photos, folders (searched recursively) or globs; - for one picture on stdin."),
    ],
    out: Annotated[
        str | None, typer.Option(help="FILE.jsonl, .json, .csv or .parquet, or - for JSON Lines on stdout.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out FILE: skip the photos that it has.")
    ] = False,
    draw: Annotated[Path | None, typer.Option(help="Folder for annotated photos.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder for parsing masks, palette PNGs in photo geometry.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(help="Folder for aligned faces, as the network sees them.")
    ] = None,
    crops_as: Annotated[str, typer.Option(help="png or jpg.")] = "png",
    sheet: Annotated[
        Path | None, typer.Option(help="FILE.html: a contact sheet with filters, all in one file.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Answers wanted, comma-separated; identity only comes when named.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most faces a forward.")] = 8,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")
    ] = None,
    score: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Least score of a face.")] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger photos are refused before they are decoded.")
    ] = 64_000_000,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Read each face with its mirror image: surer, at twice the cost.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(help="An .onnx, a .safetensors or a run's folder, instead of the embedded network."),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Folder for sheets of where each label looked; needs torch weights, and a network with"
                " queries."
            )
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="With --attention: this label only, large, such as Eyeglasses.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help=(
                "ray or local: photos and --out FOLDER may be URIs, --out gets Parquet parts; see"
                " docs/scale.md."
            )
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --engine ray: readers; one a core if not given.")
    ] = None,
) -> None:
    """Read every face of photos: answers as records, as a table, and as pictures."""
    from mien.inference.reader import load
    from mien.inference.weights_file import weights_id

    if engine is not None:
        if draw or masks or crops or sheet or attention:
            raise UsageError(
                "--engine writes a table only; run --draw, --masks, --crops, --sheet and --attention"
                " without it"
            )
        each = threads or (1 if engine == "ray" else None)
        make = functools.partial(
            reader_of,
            weights,
            names_of(tasks),
            threads=each,
            batch=batch,
            max_pixels=max_pixels,
            score=score,
            mirror=mirror,
        )
        raise typer.Exit(_at_scale(photos, out, make, engine, workers, each or 1))
    if workers is not None:
        raise UsageError("--workers are of --engine ray; give it too")
    reader = load(
        answerer(weights, threads),
        tasks=names_of(tasks),
        threads=threads,
        batch=batch,
        max_pixels=max_pixels,
        score=score,
        mirror=mirror,
    )
    if sheet and resume:
        raise UsageError("--sheet needs every face and --resume skips some; run it without --resume")
    found = photos_of(photos)
    pictures = Pictures(
        reader,
        draw=draw,
        masks=masks,
        crops=crops,
        kind=crops_as,
        sheet=sheet,
        attention=attention,
        label=label,
    )
    output = Output(out, reader.requested, model=str(weights_id(reader.model)), resume=resume)
    names = dict(zip([path for path, _ in found], output_names([path for path, _ in found]), strict=True))
    left = [(path, source) for path, source in found if not output.has(path)]
    if len(left) < len(found):
        typer.echo(
            f"mien: {out} has {len(found) - len(left)} of {len(found)} photos; {len(left)} are left", err=True
        )
    failed = count = 0
    try:
        for reading in readings_of(reader, left):
            pictures.add(reading, names[reading.path])
            output.add(reading)
            failed, count = failed + (reading.error is not None), count + 1
    except KeyboardInterrupt:
        go_on = "; --resume goes on" if out and out.endswith((".jsonl", ".csv", ".parquet")) else ""
        typer.echo(f"mien: interrupted; {count} of {len(left)} photos are kept{go_on}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        pictures.close()
        output.close()
    raise typer.Exit(1 if failed else 0)

"""`mien anonymize`: photos with faces nobody can recognise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import INTERRUPTED, answerer, app, output_names, photos_of, readings_of, writing
from mien.cli.streams import say
from mien.errors import NotWritten, UsageError

LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff")


def _targets(found: list[tuple[str, Any]], out: Path) -> dict[str, Path]:
    """Path of a photo -> the file to write: PNG for lossless kinds, JPEG for the others.

    Raises:
        UsageError: a photo would be written over an original.
    """
    paths = [path for path, _ in found]
    targets = {}
    for path, name in zip(paths, output_names(paths), strict=True):
        targets[path] = (
            out / f"{name if path != '-' else 'photo'}{'.png' if path.lower().endswith(LOSSLESS) else '.jpg'}"
        )
    originals = {os.path.realpath(path) for path in paths}
    for target in targets.values():
        if os.path.realpath(target) in originals:
            raise UsageError(f"{str(target)!r} is one of the photos; write into another folder with --out")
    return targets


@app.command()
def anonymize(
    photos: Annotated[
        list[str],
        typer.Argument(help="Photos, folders (searched recursively) or globs; - for one picture on stdin."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    how: Annotated[str, typer.Option(help="blur, mosaic or fill; fill is the safest.")] = "blur",
    strength: Annotated[
        float, typer.Option(help="Relative to a face's width; 1 is what the manual describes.")
    ] = 1.0,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Cover whole boxes, not the faces' outlines.")
    ] = False,
    score: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least score of a face; low, so that few are missed.")
    ] = 0.4,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger photos are refused before they are decoded.")
    ] = 64_000_000,
    weights: Annotated[
        str | None, typer.Option(help="An .onnx, a .safetensors or a run's folder, for the outlines.")
    ] = None,
) -> None:
    """Blur, pixelate or fill every face that is found; EXIF and other metadata are not written."""
    from mien.inference.reader import Reader, load
    from mien.tasks import supported_tasks
    from mien.visualize import drawing
    from mien.visualize.anonymization import anonymize as hide
    from mien.visualize.anonymization import check

    check(how, strength)
    reader = load(answerer(weights, threads), tasks=[], threads=threads, max_pixels=max_pixels, score=score)
    if not boxes and "parsing" in supported_tasks(t.name for t in reader.model.tasks):
        reader = Reader(reader.detector, reader.model, tasks=["parsing"], max_pixels=max_pixels)
    found = photos_of(photos)
    targets = _targets(found, out)
    out.mkdir(parents=True, exist_ok=True)
    failed = written = 0
    try:
        for reading in readings_of(reader, found):
            if reading.error is not None:
                failed += 1
                continue
            target = targets[reading.path]
            pixels = hide(reading.photo.pixels, reading, how=how, strength=strength)  # type: ignore[arg-type]
            try:
                with writing(reading.path):
                    (drawing.save_png if target.suffix == ".png" else drawing.save_jpeg)(target, pixels)
            except NotWritten as error:
                say(f"mien: {error}", err=True)
                failed += 1
                continue
            written += 1
            faces = f"{len(reading)} face{'' if len(reading) == 1 else 's'} covered"
            say(
                f"{reading.path}: {faces if len(reading) else 'no face found, look at it yourself'}; {target}"
            )
    except KeyboardInterrupt:
        typer.echo(f"mien: interrupted; {written} of {len(found)} photos are written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(1 if failed else 0)

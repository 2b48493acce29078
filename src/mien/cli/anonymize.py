"""`mien anonymize`: photos with covered faces."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ
from mien.cli.common import INTERRUPTED, answerer, app, output_names, photos_of, readings_of, writing
from mien.cli.options import DETECTION, MAX_PIXELS, MaxPixels, PhotosOrStdin, Thorough, Threads, Weights
from mien.cli.streams import is_quiet, say
from mien.errors import NotWritten, UsageError


class How(StrEnum):
    """Ways to cover a face."""

    blur = "blur"
    mosaic = "mosaic"
    fill = "fill"


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


@app.command(rich_help_panel=READ)
def anonymize(
    photos: PhotosOrStdin,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the results.")],
    how: Annotated[How, typer.Option("--how", help="How faces are covered; fill is the safest.")] = How.blur,
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="X",
            help="Strength of blur and mosaic, relative to the width of the face.",
        ),
    ] = 1.0,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Cover the entire box, not the outline of the face.")
    ] = False,
    score: Annotated[
        float,
        typer.Option(
            "--score",
            min=0.0,
            max=1.0,
            metavar="0..1",
            help="Minimum detection score. The default is low, so that few faces are missed.",
            rich_help_panel=DETECTION,
        ),
    ] = 0.4,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Cover every detected face: blur, mosaic or fill.

    Results have no EXIF data or other metadata. Faces that are not detected stay visible: check the photos
    that are reported without a face, and consider --thorough.
    """
    from mien.inference.reader import Reader, load
    from mien.tasks import supported_tasks
    from mien.visualize import drawing
    from mien.visualize.anonymization import anonymize as hide
    from mien.visualize.anonymization import check

    check(how, strength)
    reader = load(
        answerer(weights, threads),
        tasks=[],
        threads=threads,
        max_pixels=max_pixels,
        score=score,
        thorough=thorough,
    )
    if not boxes and "parsing" in supported_tasks(t.name for t in reader.model.tasks):
        reader = Reader(
            reader.detector, reader.model, tasks=["parsing"], max_pixels=max_pixels, thorough=thorough
        )
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
            pixels = hide(reading.photo.pixels, reading, how=how.value, strength=strength)
            try:
                with writing(reading.path):
                    (drawing.save_png if target.suffix == ".png" else drawing.save_jpeg)(target, pixels)
            except NotWritten as error:
                say(f"mien: {error}", err=True)
                failed += 1
                continue
            written += 1
            faces = f"{len(reading)} face{'' if len(reading) == 1 else 's'} covered"
            if not (is_quiet() and len(reading)):
                found_text = faces if len(reading) else "no face found, check it yourself"
                say(f"{reading.path}: {found_text}; {target}")
    except KeyboardInterrupt:
        typer.echo(f"mien: interrupted; {written} of {len(found)} photos are written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(1 if failed else 0)

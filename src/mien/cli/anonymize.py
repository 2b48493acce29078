"""`mien anonymize`: photos and videos in which faces cannot be recognized."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import INTERRUPTED, answerer, app, output_names, photos_of, readings_of
from mien.errors import UsageError

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
        typer.Argument(
            help="Photos, videos, folders (searched recursively) or globs; - for one picture on stdin."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; FILE.mp4 for one video.")
    ] = Path("anonymized"),
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
    spans: Annotated[
        list[str] | None,
        typer.Option(
            "--span", help="Videos: cover faces only in START-END (seconds or HH:MM:SS); may be repeated."
        ),
    ] = None,
    who: Annotated[
        list[str] | None,
        typer.Option(
            "--visible",
            help="Videos: a person who stays visible: a name of --gallery, or a photo; may be repeated.",
        ),
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Gallery of the names that --visible gives.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key file of a sealed gallery.")] = None,
    fmr: Annotated[
        float | None,
        typer.Option(help="With --visible: accepted false match rate, per comparison; 1e-3 if not given."),
    ] = None,
    hold: Annotated[
        float,
        typer.Option(
            min=0.01, help="Videos: seconds that faces are covered before and after they are detected."
        ),
    ] = 1.0,
    stride: Annotated[int, typer.Option(min=1, help="Videos: search faces in every n-th frame.")] = 1,
    mute: Annotated[bool, typer.Option("--mute", help="Videos: leave the sound out.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Videos: FILE.json with tracks and with frames in which a face may be uncovered."),
    ] = None,
) -> None:
    """Blur, pixelate or fill every face that is found; EXIF and other metadata are not written.

    Videos keep their sound; whole boxes are covered there, also between detections.
    """
    from mien.io.paths import split_videos
    from mien.visualize.anonymization import check

    check(how, strength)
    videos, photos = split_videos(photos)
    if photos and (report or spans or who or mute):
        raise UsageError("--report, --span, --visible and --mute are for videos; run photos without them")
    if photos and out.suffix.lower() == ".mp4":
        raise UsageError(f"photos are written into a folder, not {str(out)!r}")
    if (gallery or fmr is not None) and not who:
        raise UsageError("--gallery and --fmr belong to --visible NAME; give it too")
    failed = 0
    if photos:
        failed += _photos(photos, out, how, strength, boxes, score, threads, max_pixels, weights)
    if videos:
        from mien.cli.anonymize_video import anonymize_videos

        failed += anonymize_videos(
            videos,
            out,
            weights=weights,
            threads=threads,
            who=who or (),
            gallery=gallery,
            key=key,
            fmr=fmr,
            spans=spans or (),
            report=report,
            how=how,
            strength=strength,
            score=score,
            hold=hold,
            stride=stride,
            sound=not mute,
        )
    raise typer.Exit(1 if failed else 0)


def _photos(
    photos: list[str],
    out: Path,
    how: str,
    strength: float,
    boxes: bool,
    score: float,
    threads: int | None,
    max_pixels: int,
    weights: str | None,
) -> int:
    """Write all photos; the number of photos that failed."""
    from mien.inference.reader import Reader, load
    from mien.tasks import supported_tasks
    from mien.visualize import drawing
    from mien.visualize.anonymization import anonymize as hide

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
            (drawing.save_png if target.suffix == ".png" else drawing.save_jpeg)(target, pixels)
            written += 1
            faces = f"{len(reading)} face{'' if len(reading) == 1 else 's'} covered"
            typer.echo(
                f"{reading.path}: {faces if len(reading) else 'no face found, look at it yourself'}; {target}"
            )
    except KeyboardInterrupt:
        typer.echo(f"mien: interrupted; {written} of {len(found)} photos are written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    return failed

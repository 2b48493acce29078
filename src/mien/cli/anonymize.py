"""`mien anonymize`: photos and videos in which faces cannot be recognized."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ
from mien.cli.common import INTERRUPTED, app, output_names, path_or_model, photos_of, readings_of, writing
from mien.cli.options import DETECTION, MAX_PIXELS, VIDEOS, MaxPixels, Thorough, Threads, Weights
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
    from mien.io.paths import file_key

    paths = [path for path, _ in found]
    targets = {}
    for path, name in zip(paths, output_names(paths), strict=True):
        targets[path] = (
            out / f"{name if path != '-' else 'photo'}{'.png' if path.lower().endswith(LOSSLESS) else '.jpg'}"
        )
    originals = {file_key(path) for path in paths}
    for target in targets.values():
        if file_key(target) in originals:
            raise UsageError(f"{str(target)!r} is one of the photos; write into another folder with --out")
    return targets


@app.command(rich_help_panel=READ)
def anonymize(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS...",
            help="Photos, videos, folders (searched recursively) or globs; - for one picture on stdin.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the results; FILE.mp4 for one video."),
    ] = Path("anonymized"),
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
    spans: Annotated[
        list[str] | None,
        typer.Option(
            "--span",
            metavar="START-END",
            help="Cover faces only in this part (seconds or HH:MM:SS); can be repeated.",
            show_default="the entire video",
            rich_help_panel=VIDEOS,
        ),
    ] = None,
    who: Annotated[
        list[str] | None,
        typer.Option(
            "--visible",
            metavar="PERSON",
            help="Person who stays visible: a name in --gallery, or a photo; can be repeated.",
            show_default="nobody",
            rich_help_panel=VIDEOS,
        ),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            "--gallery",
            metavar="GALLERY",
            help="Gallery with the names that --visible gives.",
            rich_help_panel=VIDEOS,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Key of an encrypted gallery.", rich_help_panel=VIDEOS),
    ] = None,
    fmr: Annotated[
        float | None,
        typer.Option(
            "--fmr",
            metavar="RATE",
            help="With --visible: accepted false match rate per comparison.",
            show_default="1e-3",
            rich_help_panel=VIDEOS,
        ),
    ] = None,
    hold: Annotated[
        float,
        typer.Option(
            "--hold",
            min=0.01,
            metavar="SECONDS",
            help="Cover a face for this long before and after it is detected.",
            rich_help_panel=VIDEOS,
        ),
    ] = 1.0,
    stride: Annotated[
        int,
        typer.Option(
            "--stride", min=1, metavar="N", help="Detect faces in every N-th frame.", rich_help_panel=VIDEOS
        ),
    ] = 1,
    mute: Annotated[bool, typer.Option("--mute", help="Remove the sound.", rich_help_panel=VIDEOS)] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.json",
            help="Write the tracks, and the frames in which a face may be uncovered.",
            rich_help_panel=VIDEOS,
        ),
    ] = None,
) -> None:
    """Cover faces in photos and videos: blur, mosaic or fill.

    Results have no EXIF data or other metadata. Faces that are not detected stay visible: check the photos
    that are reported without a face, and consider --thorough. Videos keep their sound; entire boxes are
    covered there, also between detections.
    """
    from mien.io.paths import split_videos
    from mien.visualize.anonymization import check

    check(how.value, strength)
    videos, photos = split_videos(inputs)
    if photos and (report or spans or who or mute):
        raise UsageError("--report, --span, --visible and --mute are for videos; run photos without them")
    if photos and out.suffix.lower() == ".mp4":
        raise UsageError(f"photos are written into a folder, not {str(out)!r}")
    if (gallery or fmr is not None) and not who:
        raise UsageError("--gallery and --fmr belong to --visible NAME; give it too")
    if videos and thorough:
        raise UsageError("--thorough is for photos; run videos without it")
    failed = 0
    if photos:
        more = {"score": score, "thorough": thorough, "max_pixels": max_pixels}
        failed += _photos(photos, out, how, strength, boxes, weights, threads, more)
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
            how=how.value,
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
    how: How,
    strength: float,
    boxes: bool,
    weights: str | None,
    threads: int | None,
    more: dict[str, Any],
) -> int:
    """Write all photos.

    Args:
        more: further options of `load`.

    Returns:
        the number of photos that failed.
    """
    from mien.inference.reader import Reader, load
    from mien.tasks import supported_tasks
    from mien.visualize import drawing
    from mien.visualize.anonymization import anonymize as hide

    reader = load(path_or_model(weights, threads), tasks=[], threads=threads, **more)
    if not boxes and "parsing" in supported_tasks(t.name for t in reader.model.tasks):
        reader = Reader(
            reader.detector,
            reader.model,
            tasks=["parsing"],
            max_pixels=more["max_pixels"],
            thorough=more["thorough"],
        )
    found = photos_of(photos)
    targets = _targets(found, out)
    out.mkdir(parents=True, exist_ok=True)
    failed = written = 0
    try:
        for reading in readings_of(reader, found):
            if reading.error is not None or reading.photo is None or reading.path is None:
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
    return failed

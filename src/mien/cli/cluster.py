"""`mien cluster`: group an album by person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ, note
from mien.cli.common import INTERRUPTED, _identity_reader, app, output_names, photos_of, readings_of, writing
from mien.cli.options import (
    DETECTION,
    MATCHING,
    MAX_PIXELS,
    PICTURES,
    ClusterFmr,
    MaxPixels,
    Photos,
    Score,
    Thorough,
    Threads,
    Threshold,
    Weights,
)
from mien.cli.streams import say
from mien.errors import NotWritten, UsageError

SINGLE = "single"  # subfolder of --crops for faces without a group


@app.command(rich_help_panel=READ)
def cluster(
    photos: Photos,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.json", help="Write the groups.", show_default="stdout"),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option(
            "--crops",
            metavar="FOLDER",
            help="Save aligned faces, one subfolder per person.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet",
            metavar="FILE.html",
            help="Save a contact sheet sorted by person.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    fmr: ClusterFmr = None,
    threshold: Threshold = None,
    same_photo: Annotated[
        bool,
        typer.Option(
            "--same-photo",
            help="Two faces of one photo can be one person: for collages and mirrors.",
            rich_help_panel=MATCHING,
        ),
    ] = False,
    min_width: Annotated[
        float,
        typer.Option(
            "--min-width",
            min=0,
            metavar="PIXELS",
            help="Skip faces that are narrower.",
            rich_help_panel=DETECTION,
        ),
    ] = 32.0,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Group the faces of an album by person.

    Faces without a group are listed as single faces. Pairs of groups that may be one person are listed as
    merges.
    """
    from mien.recognition.clustering import Album, album_threshold, suggestion_threshold

    if out and out.suffix.lower() != ".json":
        raise UsageError(f"--out takes FILE.json, not {str(out)!r}")
    if crops:
        _check_unused(crops)
    also = ("age", "gender", "expression", "attributes") if sheet else ("age",)
    detection = {"score": score, "thorough": thorough, "max_pixels": max_pixels}
    reader = _identity_reader(weights, threads, also, flip_tta=True, **detection)  # as `cluster_faces`
    chosen = album_threshold(reader.model, fmr=fmr, threshold=threshold)
    found = photos_of(photos)
    album = Album(chosen, min_width, same_photo, suggestion_threshold(reader.model, chosen.similarity))
    kept, failed = list[tuple[Any, list[int | None]]](), 0
    try:
        for reading in readings_of(reader, found):
            failed += reading.error is not None
            places = album.add(reading.path, reading) if reading.error is None else []
            if sheet or crops:
                kept.append((reading, places))
    except KeyboardInterrupt:
        typer.echo("mien: interrupted; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    album.solve()
    text = json.dumps(album.to_dict() | {"not_read": failed}, ensure_ascii=False, indent=1)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    else:
        typer.echo(text)
    failed += _save_people(album, kept, crops, sheet)
    people = max(album.persons, default=0)
    single = sum(p == 0 for p in album.persons)
    note(
        f"{len(album.rows)} faces in {album.photos} photos: {people} people with more than one face,"
        f" {single} single faces"
    )
    if merges := len(album.suggest_merges()):
        note(
            f'{merges} {"pairs" if merges > 1 else "pair"} of groups may be one person: see "merges" in'
            f" {out or 'the output'}"
        )
    raise typer.Exit(1 if failed else 0)


def _check_unused(folder: Path) -> None:
    """Refuse a folder that holds people of another run: person-001 would then be two people.

    Raises:
        UsageError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--crops takes a folder, and {str(folder)!r} is a file; name another")
    there = (
        sorted(p.name for p in folder.iterdir() if p.name == SINGLE or p.name.startswith("person-"))
        if folder.exists()
        else []
    )
    if there:
        raise UsageError(
            f"{str(folder)!r} holds {there[0]!r} of an earlier run, and numbers of two runs differ; use a new"
            " folder"
        )


def _save_people(
    album: Any, kept: list[tuple[Any, list[int | None]]], crops: Path | None, sheet: Path | None
) -> int:
    """Save crops, one subfolder per person (`SINGLE` for the others), and the contact sheet.

    Returns:
        the number of photos whose crops could not be written.
    """
    from mien.visualize import drawing
    from mien.visualize.contact_sheet import ContactSheet

    page = ContactSheet(sheet) if sheet else None
    failed, names = 0, output_names([reading.path or "photo" for reading, _ in kept])
    for number, ((reading, places), name) in enumerate(zip(kept, names, strict=True), 1):
        persons = [album.persons[place] if place is not None else 0 for place in places]
        if page:
            page.add(reading, persons)
        try:
            with writing(reading.path):
                for i, (face, place, person) in enumerate(zip(reading, places, persons, strict=False), 1):
                    if crops and place is not None:
                        folder = crops / (f"person-{person:03d}" if person else SINGLE)
                        folder.mkdir(parents=True, exist_ok=True)
                        drawing.save_png(folder / f"{number:05d}-{name}-{i}.png", face.crop.pixels)
        except NotWritten as error:
            say(f"mien: {error}", err=True)
            failed += 1
    if page:
        page.close()
    return failed

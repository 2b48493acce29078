"""`mien verify` and `mien cluster`: same person? and who is in an album?"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import (
    INTERRUPTED,
    Fmr,
    Threads,
    Threshold,
    Weights,
    _identity_reader,
    app,
    photos_of,
    readings_of,
)
from mien.errors import UsageError


@app.command()
def cluster(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders (searched recursively) or globs.")],
    out: Annotated[Path | None, typer.Option(help="FILE.json; stdout if not given.")] = None,
    folders: Annotated[Path | None, typer.Option(help="Folder for aligned faces, a folder a person.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="FILE.html: a contact sheet by person.")] = None,
    fmr: Fmr = None,
    threshold: Threshold = None,
    smallest: Annotated[
        float, typer.Option(min=0, help="Faces narrower than this many pixels are left out.")
    ] = 32.0,
    same_photo: Annotated[
        bool, typer.Option("--same-photo", help="Faces of one photo may be one person (collages, mirrors).")
    ] = False,
    threads: Threads = None,
    weights: Weights = None,
) -> None:
    """Who is in an album: faces in groups, a group a person, by a stricter threshold than `verify` takes."""
    from mien.recognition.clustering import Album, album_threshold

    if out and out.suffix.lower() != ".json":
        raise UsageError(f"--out takes FILE.json, not {str(out)!r}")
    if folders:
        _check_unused(folders)
    also = ("age", "gender", "expression", "attributes") if sheet else ("age",)
    reader = _identity_reader(weights, threads, also)
    cut = album_threshold(reader.model, fmr=fmr, threshold=threshold)
    found = photos_of(photos)
    album, kept, failed = Album(cut, smallest, same_photo), list[tuple[Any, list[int | None]]](), 0
    try:
        for reading in readings_of(reader, found):
            failed += reading.error is not None
            places = album.add(reading.path, reading) if reading.error is None else []
            if sheet or folders:
                reading.photo = None  # faces and their crops stay, the photo goes
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
    _save_people(album, kept, folders, sheet)
    people = max(album.persons, default=0)
    alone = sum(p == 0 for p in album.persons)
    typer.echo(
        f"mien: {len(album.rows)} faces of {album.photos} photos: {people} people seen more than once,"
        f" {alone} faces alone",
        err=True,
    )
    raise typer.Exit(1 if failed else 0)


def _check_unused(folder: Path) -> None:
    """Refuse a folder that holds people of another run: person-001 would then be two people.

    Raises:
        UsageError: it does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--folders takes a folder, and {str(folder)!r} is a file; name another")
    there = (
        sorted(p.name for p in folder.iterdir() if p.name == "alone" or p.name.startswith("person-"))
        if folder.exists()
        else []
    )
    if there:
        raise UsageError(
            f"{str(folder)!r} holds {there[0]!r} of an earlier run, and numbers of two runs differ; use a new"
            " folder"
        )


def _save_people(
    album: Any, kept: list[tuple[Any, list[int | None]]], folders: Path | None, sheet: Path | None
) -> None:
    """Crops in a folder a person ("alone" for the rest), and the sheet."""
    from mien.visualize import drawing
    from mien.visualize.contact_sheet import ContactSheet

    page = ContactSheet(sheet) if sheet else None
    for number, (reading, places) in enumerate(kept, 1):
        persons = [album.persons[place] if place is not None else 0 for place in places]
        if page:
            page.add(reading, persons)
        for i, (face, place, person) in enumerate(zip(reading, places, persons, strict=False), 1):
            if folders and place is not None:
                folder = folders / (f"person-{person:03d}" if person else "alone")
                folder.mkdir(parents=True, exist_ok=True)
                stem = os.path.splitext(os.path.basename(reading.path))[0].replace("\n", "_")
                drawing.save_png(folder / f"{number:05d}-{stem}-{i}.png", face.crop.pixels)
    if page:
        page.close()

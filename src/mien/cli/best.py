"""`mien best`: the best shot of each burst."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ, note
from mien.cli.common import app, path_or_model
from mien.cli.options import (
    MAX_PIXELS,
    PICTURES,
    MaxPixels,
    Photos,
    Score,
    Thorough,
    Threads,
    Weights,
)
from mien.cli.streams import progress
from mien.errors import UsageError


@app.command(rich_help_panel=READ)
def best(
    photos: Photos,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.json", help="Write the bursts.", show_default="stdout"),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet",
            metavar="FILE.html",
            help="Save a contact sheet with the bursts and the reasons.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    copy: Annotated[
        Path | None,
        typer.Option(
            "--copy", metavar="FOLDER", help="Copy the best shots into a folder.", rich_help_panel=PICTURES
        ),
    ] = None,
    link: Annotated[
        Path | None,
        typer.Option(
            "--link", metavar="FOLDER", help="Link to the best shots in a folder.", rich_help_panel=PICTURES
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, help="Maximum time between two photos of a burst.")
    ] = 10.0,
    similarity: Annotated[
        float,
        typer.Option(
            "--similarity",
            min=-1.0,
            max=0.999,
            metavar="-1..1",
            help="Minimum likeness of two photos of a burst.",
        ),
    ] = 0.8,
    smiling: Annotated[bool, typer.Option("--smiling", help="Prefer shots in which people smile.")] = False,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Find the best shot of each burst, and of each person in it.

    A burst is a run of similar photos. The best shot has open eyes, a gaze at the camera, and sharp faces
    that nothing covers.
    """
    from mien.io.paths import find_photos
    from mien.selection.best_shots import best as selected
    from mien.selection.best_shots import loaded

    if out is not None and out.suffix.lower() != ".json":
        raise UsageError(f"--out takes FILE.json, not {str(out)!r}")
    if sheet is not None and sheet.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--sheet takes FILE.html, not {str(sheet)!r}")
    detection: dict[str, Any] = {"score": score, "thorough": thorough, "max_pixels": max_pixels}
    reader = loaded(path_or_model(weights, threads), threads=threads, **detection)
    paths = find_photos(photos)
    with progress(len(paths)) as step:
        found = selected(
            paths, reader=reader, seconds=seconds, similarity=similarity, smiling=smiling, step=step
        )
    text = json.dumps(found.to_dict(), ensure_ascii=False, indent=1)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    else:
        typer.echo(text)
    if sheet is not None:
        found.save_sheet(sheet)
    for folder, is_link in ((copy, False), (link, True)):
        if folder is not None:
            found.save_photos(folder, link=is_link)
    if found.missing:
        note(f"not judged, since the network has no such task: {', '.join(found.missing)}")
    total = sum(len(b.shots) for b in found.bursts)
    note(f"{total} photos, {len(found.bursts)} bursts")
    raise typer.Exit(1 if found.failed else 0)

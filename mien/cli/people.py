"""`mien verify` and `mien cluster`: same person? and who is in an album?"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.analyze import INTERRUPTED, photos_of, readings_of
from mien.cli.common import answerer, app
from mien.errors import UsageError

Fmr = Annotated[float | None, typer.Option(help="How often two strangers may pass for one person, per comparison, such as 1e-3.")]
Threshold = Annotated[float | None, typer.Option(help="A similarity, -1..1, instead of --fmr.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")]
Weights = Annotated[str | None, typer.Option(help="An .onnx, a .safetensors or a run's folder, instead of the embedded network.")]


def _identity_reader(weights: str | None, threads: int | None, also: tuple[str, ...] = (), **more: Any) -> Any:
    """A reader of identity, and of `also` as far as the network answers it."""
    from mien.analyze import Reader, load
    from mien.tasks import answerable

    plain = load(answerer(weights, threads), tasks=[], threads=threads, **more)
    can = answerable(t.name for t in plain.model.tasks)
    who = [n for n in can if n.startswith("identity")][:1]
    if not who:
        raise UsageError(f"this network does not answer identity; it answers: {', '.join(can)}")
    return Reader(plain.detector, plain.model, tasks=[*who, *(n for n in also if n in can)], max_pixels=plain.max_pixels)


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="A photo; its largest face counts.")],
    second: Annotated[str, typer.Argument(help="Another photo.")],
    fmr: Fmr = None,
    threshold: Threshold = None,
    threads: Threads = None,
    weights: Weights = None,
) -> None:
    """Do two photos show the same person? A sentence on a terminal, JSON into a pipe.

    Exit codes: 0 the same person, 1 not, 2 wrong usage, or a photo that cannot be read or shows no face.
    """
    from mien.cluster import cut_for, identity_of

    reader = _identity_reader(weights, threads)
    cut = cut_for(reader.model, fmr=fmr, threshold=threshold)
    faces = []
    for path in (first, second):
        reading = reader(path)
        if not reading:
            raise UsageError(f"no face was found in {path!r}; try a larger or a clearer photo")
        faces.append((path, len(reading), reading[0]))
    similarity = float(identity_of(faces[0][2]) @ identity_of(faces[1][2]))
    same = similarity >= cut.similarity
    record = {"schema": 1, "same": same, "similarity": round(similarity, 4), **cut.to_dict()}
    record["faces"] = [{"path": p, "faces": n, "box": [round(float(v), 2) for v in f.box]} for p, n, f in faces]
    if sys.stdout.isatty():
        rate = "how often it errs was not measured"
        if cut.fmr is not None and cut.fnmr is not None:
            rate = f"{cut.fmr:.2g} of strangers' pairs reach it, and {cut.fnmr:.0%} of one person's do not"
        typer.echo(f"{'same person' if same else 'not the same person'}: similarity {similarity:.3f}, asked for {cut.similarity:.3f}")
        typer.echo(f"the threshold is from {cut.source}; {rate}")
        for path, n, _ in faces:
            if n > 1:
                typer.echo(f"{path} shows {n} faces; the largest was taken")
    else:
        typer.echo(json.dumps(record, ensure_ascii=False))
    raise typer.Exit(0 if same else 1)


@app.command()
def cluster(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders (searched recursively) or globs.")],
    out: Annotated[Path | None, typer.Option(help="FILE.json; stdout if not given.")] = None,
    folders: Annotated[Path | None, typer.Option(help="Folder for aligned faces, a folder a person.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="FILE.html: a contact sheet by person.")] = None,
    fmr: Fmr = None,
    threshold: Threshold = None,
    smallest: Annotated[float, typer.Option(min=0, help="Faces narrower than this many pixels are left out.")] = 32.0,
    same_photo: Annotated[bool, typer.Option("--same-photo", help="Faces of one photo may be one person (collages, mirrors).")] = False,
    threads: Threads = None,
    weights: Weights = None,
) -> None:
    """Who is in an album: faces in groups, a group a person, by a stricter threshold than `verify` takes."""
    from mien.cluster import CLUSTER_FMR, STRICTER, Album, Cut, cut_for

    if out and out.suffix.lower() != ".json":
        raise UsageError(f"--out takes FILE.json, not {str(out)!r}")
    also = ("age", "gender", "expression", "attributes") if sheet else ("age",)
    reader = _identity_reader(weights, threads, also)
    cut = cut_for(reader.model, fmr=fmr, threshold=threshold, default_fmr=CLUSTER_FMR)
    if cut.fmr is None and threshold is None:
        cut = Cut(cut.similarity + STRICTER, None, f"{cut.source}; {STRICTER:g} stricter")
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
        f"mien: {len(album.rows)} faces of {album.photos} photos: {people} people seen more than once, {alone} faces alone", err=True
    )
    raise typer.Exit(1 if failed else 0)


def _save_people(album: Any, kept: list[tuple[Any, list[int | None]]], folders: Path | None, sheet: Path | None) -> None:
    """Crops in a folder a person ("alone" for the rest), and the sheet."""
    from mien import draw
    from mien.sheet import Sheet

    page = Sheet(sheet, sheet.stem) if sheet else None
    for number, (reading, places) in enumerate(kept, 1):
        persons = [album.persons[place] if place is not None else 0 for place in places]
        if page:
            page.add(reading, persons)
        for i, (face, place, person) in enumerate(zip(reading, places, persons, strict=False), 1):
            if folders and place is not None:
                folder = folders / (f"person-{person:03d}" if person else "alone")
                folder.mkdir(parents=True, exist_ok=True)
                stem = os.path.splitext(os.path.basename(reading.path))[0].replace("\n", "_")
                draw.save_png(folder / f"{number:05d}-{stem}-{i}.png", face.crop.pixels)
    if page:
        page.close()

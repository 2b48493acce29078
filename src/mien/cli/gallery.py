"""`mien gallery`: store people by their faces, identify them and erase them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ, App, note
from mien.cli.common import app, drawing_of, output_names
from mien.cli.options import (
    MAX_PIXELS,
    PICTURES,
    SCALE,
    DrawStyle,
    Engine,
    GalleryFmr,
    MaxPixels,
    OnnxWeights,
    Photos,
    Pick,
    Score,
    Thorough,
    Threads,
    Threshold,
)
from mien.cli.streams import progress, say
from mien.errors import PhotoError, UsageError

HELP = """Store people by their faces, identify them, and erase them.

Needs the extra: pip install 'mien[gallery]'. Galleries hold biometric data: see docs/gallery.md.
"""
gallery = App(help=HELP)
app.add_typer(gallery, name="gallery", rich_help_panel=READ)

FACES, PEOPLE, ERASE, STORAGE = "Enroll and identify", "People", "Erase", "Storage"


class NameFrom(StrEnum):
    """Where the name of a person comes from."""

    folder = "folder"
    file = "file"


Place = Annotated[
    str,
    typer.Argument(metavar="GALLERY", help="A folder, or the address of an object store (s3://...)."),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Key file of an encrypted gallery; see mien gallery key.",
        show_default="none",
    ),
]
PickOption = Annotated[
    Pick, typer.Option("--pick", help="If a photo shows several faces: refuse it, or take the largest face.")
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="DATE",
        help="Last day of storage (UTC), such as 2027-01-31.",
        show_default="no end",
    ),
]
Note = Annotated[
    str | None,
    typer.Option("--note", metavar="TEXT", help="Consent note: who agreed to what, and when."),
]
Person = Annotated[str, typer.Argument(metavar="PERSON", help="A name or an id.")]


def _open(place: str, key: Path | None, **more: Any) -> Any:
    """The gallery; a reader is needed only for photos."""
    from mien.recognition.gallery import Gallery

    return Gallery(place, key=key, **more)


def _reader(weights: Path | None, threads: int | None, **more: Any) -> Any:
    """A reader of identity; more: as `load` takes it."""
    from mien.inference.reader import load
    from mien.recognition.store import libraries

    libraries()  # report a missing extra before a network is loaded
    return load(weights, tasks=["identity"], threads=threads, **more)


def _say(record: dict[str, Any], line: str) -> None:
    """For people on a terminal, JSON Lines into a pipe."""
    typer.echo(line if sys.stdout.isatty() else json.dumps(record, ensure_ascii=False))


@gallery.command(rich_help_panel=FACES)
def add(
    place: Place,
    photos: Photos,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the person in the photos.")
    ] = None,
    name_from: Annotated[
        NameFrom | None, typer.Option("--name-from", help="Take names from the folder or file of each photo.")
    ] = None,
    note: Note = None,
    until: Until = None,
    pick: PickOption = Pick.refuse,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails/--no-thumbnails", help="Store a small picture of each face.")
    ] = True,
    key: Key = None,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: OnnxWeights = None,
    threads: Threads = None,
) -> None:
    """Enroll faces: one per photo, any number per person.

    The first call creates the gallery. A face that is already stored is not stored again. Give --name or
    --name-from.
    """
    from mien.io.paths import find_photos

    if (name is None) == (name_from is None):
        raise UsageError("name the people: --name NAME, --name-from folder or --name-from file")
    reader = _reader(weights, threads, score=score, thorough=thorough, max_pixels=max_pixels)
    opened, failed = _open(place, key, reader=reader, thumbnails=thumbnails), 0
    paths = find_photos(photos)
    with progress(len(paths)) as step:
        for path in paths:
            whose = name or (Path(path).resolve().parent.name if name_from == "folder" else Path(path).stem)
            try:
                [done] = opened.add(path, whose, note=note, until=until, pick=pick)
            except PhotoError as e:
                failed += 1
                say(f"mien: {e}", err=True)
            else:
                record = {
                    "path": path,
                    "face": done.face,
                    "person": done.person,
                    "name": done.name,
                    "new": done.new,
                }
                twin = done.possible_duplicate
                like = f"; also matches {twin.name} ({twin.similarity:.3f})" if twin else ""
                record["possible_duplicate"] = twin.to_dict() if twin else None
                _say(
                    record,
                    f"{path}: {done.name}, {done.face}{'' if done.new else ' (already enrolled)'}{like}",
                )
            step()
    raise typer.Exit(1 if failed else 0)


@gallery.command(rich_help_panel=FACES)
def identify(
    place: Place,
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTOS...", help="Photos, folders (searched recursively) or glob patterns."),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", min=1, metavar="N", help="Candidates per face, best first.")
    ] = 3,
    fmr: GalleryFmr = 1e-3,
    threshold: Threshold = None,
    key: Key = None,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: OnnxWeights = None,
    threads: Threads = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            metavar="PARTS",
            help="Instead of PHOTOS: the --out of mien analyze --engine --tasks identity.",
            rich_help_panel=SCALE,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="With --table: folder or URI for the results, as Parquet.",
            rich_help_panel=SCALE,
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine", help="With --table: the job engine; see docs/scale.md.", rich_help_panel=SCALE
        ),
    ] = Engine.local,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw", metavar="FOLDER", help="Save photos with the names drawn in.", rich_help_panel=PICTURES
        ),
    ] = None,
    draw_style: DrawStyle = None,
    font: Annotated[
        Path | None,
        typer.Option(
            "--font",
            metavar="FILE",
            help="Font file, for names that the built-in font cannot write.",
            show_default="built in",
            rich_help_panel=PICTURES,
        ),
    ] = None,
) -> None:
    """Identify the faces in photos.

    Each face gets a person or unknown, its best candidates with their similarity, and the margin between the
    first and the second person.
    """
    from mien.io.paths import find_photos

    if (table is None) == (not photos) or (table is None) != (out is None):
        raise UsageError("identify takes PHOTOS, or --table PARTS with --out FOLDER")
    if table and draw:
        raise UsageError("--draw draws on photos, and --table has none; name photos instead")
    style_options = drawing_of(draw_style, None, draw, "--draw", []) | {"overlay": "none"}
    if table and out:
        from mien.scale.people import identify as job

        done = job(_open(place, key, fmr=fmr, threshold=threshold), table, out, engine=engine)
        _say(
            done,
            f"{done['matched']:,} of {done['faces']:,} faces have a name; {done['skipped']} parts were there",
        )
        return
    reader = _reader(weights, threads, score=score, thorough=thorough, max_pixels=max_pixels)
    opened, failed = _open(place, key, reader=reader, fmr=fmr, threshold=threshold), 0
    _ = opened.store, opened.threshold  # report what is missing once, before any photo is read
    paths = find_photos(photos or [])
    names = output_names(paths)
    if draw:
        draw.mkdir(parents=True, exist_ok=True)
    with progress(len(paths)) as step:
        for name, reading in zip(names, opened.reader.stream(paths), strict=True):
            record = reading.to_dict()
            if reading.error is None:
                answers = opened.answers(reading, top=top)
                record["faces"] = [a.to_dict() for a in answers]
                if draw:
                    _draw(draw / f"{name}.jpg", reading, answers, font=font, **style_options)
            else:
                failed += 1
            _say(record, "\n".join(face_lines(record)))
            step()
    raise typer.Exit(1 if failed else 0)


def _draw(path: Path, reading: Any, answers: list[Any], **style_options: Any) -> None:
    """A copy of the photo with everybody's name."""
    from mien.visualize import drawing

    names = [answer.match.name if answer.match else "unknown" for answer in answers]
    drawing.save_jpeg(path, drawing.annotate(reading.photo.pixels, reading, names=names, **style_options))


def face_lines(record: dict[str, Any]) -> Iterator[str]:
    """A photo's record as lines for people."""
    if "error" in record:
        yield f"{record['path']}: not read ({record['error']['code']})"
        return
    faces = record["faces"]
    yield f"{record['path']}: {len(faces)} face{'' if len(faces) == 1 else 's'}"
    for number, face in enumerate(faces, 1):
        margin = "" if face["margin"] is None else f"  margin {face['margin']:.3f}"
        candidates = ", ".join(f"{c['name']} {c['similarity']:.3f}" for c in face["candidates"])
        person = face["match"]["name"] if face["match"] else "unknown"
        threshold = f"threshold {face['threshold']:.3f}"
        yield f"{number:>4}  {person}{margin}  ({candidates or 'no candidates'}; {threshold})"


@gallery.command("list", rich_help_panel=PEOPLE)
def list_(place: Place, key: Key = None) -> None:
    """List the people.

    Each has a name, an id, faces, corrections, a consent note and a last day of storage.
    """
    for p in _open(place, key).people():
        until = f", until {p.until}{' (over)' if p.expired else ''}" if p.until else ""
        note = f", {p.note}" if p.note else ""
        _say(p.to_dict(), f"{p.id}  {p.name}: {len(p.faces)} faces, {p.corrections} corrections{until}{note}")


@gallery.command(rich_help_panel=ERASE)
def forget(
    place: Place,
    people: Annotated[list[str], typer.Argument(metavar="PERSON...", help="Names or ids.")],
    key: Key = None,
) -> None:
    """Erase people permanently.

    Embeddings, pictures, names, notes, old versions and index files are deleted.
    """
    gone = _open(place, key).forget(*people)
    record = {"people": gone.people, "faces": gone.faces, "corrections": gone.corrections}
    _say(
        record,
        f"forgotten: {gone.people} people, {gone.faces} faces, {gone.corrections} corrections; no older file"
        " is left",
    )


@gallery.command(rich_help_panel=ERASE)
def prune(place: Place, key: Key = None) -> None:
    """Erase people whose last day of storage is over."""
    gone = _open(place, key).prune()
    for p in gone:
        _say(p.to_dict(), f"forgotten: {p.name}, kept until {p.until}")
    note(f"{len(gone)} people erased")


@gallery.command(rich_help_panel=STORAGE)
def export(
    place: Place,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder.")],
    person: Annotated[
        str | None,
        typer.Option(
            "--person", metavar="PERSON", help="Only this person, by name or id.", show_default="all"
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Include embeddings. A face can be reconstructed from them."),
    ] = False,
    key: Key = None,
) -> None:
    """Export people.jsonl and thumbnails, without encryption."""
    n = _open(place, key).export(out, person=person, embeddings=embeddings)
    _say({"people": n, "folder": str(out)}, f"{n} people in {out}")


@gallery.command(rich_help_panel=STORAGE)
def stats(place: Place, fmr: GalleryFmr = 1e-3, key: Key = None) -> None:
    """Print counts, size and error rates.

    The rates include the probability of a false match for a stranger.
    """
    record = _open(place, key, fmr=fmr).stats()
    _say(record, "\n".join(f"{k:<12} {v}" for k, v in record.items()))


@gallery.command(rich_help_panel=PEOPLE)
def merge(
    place: Place,
    into: Person,
    others: Annotated[list[str], typer.Argument(metavar="OTHERS...", help="Names or ids.")],
    key: Key = None,
) -> None:
    """Merge people: OTHERS become PERSON, which keeps its id and name."""
    merged = _open(place, key).merge(into, *others)
    _say({"person": merged}, f"{into} is {merged}")


@gallery.command(rich_help_panel=PEOPLE)
def split(
    place: Place,
    person: Person,
    faces: Annotated[
        list[str], typer.Argument(metavar="FACES...", help="Ids of faces; see mien gallery list.")
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="PERSON", help="The person of these faces, new or existing.")
    ],
    key: Key = None,
) -> None:
    """Move faces of PERSON to another person."""
    other = _open(place, key).split(person, faces, to)
    _say({"person": other, "name": to}, f"{to} is {other}")


@gallery.command(rich_help_panel=FACES)
def correct(
    place: Place,
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A photo of the face.")],
    not_: Annotated[str, typer.Option("--not", metavar="PERSON", help="The wrong match, by name or id.")],
    pick: PickOption = Pick.refuse,
    key: Key = None,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: OnnxWeights = None,
    threads: Threads = None,
) -> None:
    """Record a wrong match: the face in PHOTO is not that person.

    From now on, faces that are nearer to this face than to the person do not match the person.
    """
    reader = _reader(weights, threads, score=score, thorough=thorough, max_pixels=max_pixels)
    made = _open(place, key, reader=reader).correct(photo, not_, pick=pick)
    _say({"correction": made}, f"recorded as {made}: {photo} is not {not_}")


@gallery.command(rich_help_panel=PEOPLE)
def edit(
    place: Place,
    person: Person,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The new name.")] = None,
    note: Note = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="DATE",
            help="Last day of storage (UTC), such as 2027-01-31; an empty value removes it.",
        ),
    ] = None,
    key: Key = None,
) -> None:
    """Change the name, the consent note or the last day of storage."""
    opened = _open(place, key)
    number = opened.person(person).id
    opened.edit(number, name=name, note=note, until=until)
    edited = opened.person(number)
    _say(edited.to_dict(), f"{number}  {edited.name}")


@gallery.command("key", rich_help_panel=STORAGE)
def key_(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", help="A new file. A gallery cannot be read without its key file."
        ),
    ],
) -> None:
    """Create a key file for a new encrypted gallery.

    Pass it with --key to mien gallery add and to all later commands.
    """
    from mien.recognition.gallery import new_key

    new_key(out)
    _say({"key": str(out)}, f"{out}: keep a copy in another place than the gallery")

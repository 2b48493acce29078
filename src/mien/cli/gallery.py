"""`mien gallery`: people by their faces, on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import DrawStyle, app, drawing_of, output_names, progress
from mien.errors import PhotoError, UsageError

HELP = "Who is this: enrol people, find them, and forget them truly. Biometric data: see docs/gallery.md."
gallery = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=HELP)
app.add_typer(gallery, name="gallery")

Place = Annotated[
    str, typer.Argument(metavar="GALLERY", help="A folder, or an address of an object store (s3://...).")
]
Photos = Annotated[list[str], typer.Argument(help="Photos, folders (searched recursively) or globs.")]
Key = Annotated[Path | None, typer.Option(help="Key file of a sealed gallery; see mien gallery key.")]
Weights = Annotated[str | None, typer.Option(help="An .onnx, instead of the embedded network.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")]
Fmr = Annotated[float, typer.Option(help="How often two strangers may match, per comparison, 1e-4 to 0.5.")]
Threshold = Annotated[float | None, typer.Option(help="A similarity, instead of --fmr.")]
Pick = Annotated[str, typer.Option(help="Where a photo shows several faces: refuse, or take the largest.")]
Until = Annotated[str | None, typer.Option(help="Last day of keeping, such as 2027-01-31 (UTC).")]
Note = Annotated[str | None, typer.Option(help="Consent note: who agreed to what, and when.")]
Who = Annotated[str, typer.Argument(help="A name or an id.")]


def _open(place: str, key: Path | None, **more: Any) -> Any:
    """Without a network: for what needs no face."""
    from mien.recognition.gallery import Gallery

    return Gallery(place, key=key, **more)


def _reading(place: str, key: Path | None, weights: str | None, threads: int | None, **more: Any) -> Any:
    """With one."""
    from mien.inference.reader import load
    from mien.recognition.gallery import Gallery
    from mien.recognition.store import libraries

    libraries()  # a missing extra is said before a network is loaded
    return Gallery(place, load(weights, tasks=["identity"], threads=threads), key=key, **more)


def _say(record: dict[str, Any], line: str) -> None:
    """For people on a terminal, JSON Lines into a pipe."""
    typer.echo(line if sys.stdout.isatty() else json.dumps(record, ensure_ascii=False))


@gallery.command()
def add(
    place: Place,
    photos: Photos,
    name: Annotated[str | None, typer.Option(help="Whose face it is.")] = None,
    name_from: Annotated[
        str | None, typer.Option(help="Take names from the photo's folder, or from its file: folder, file.")
    ] = None,
    note: Note = None,
    until: Until = None,
    pick: Pick = "refuse",
    thumbnails: Annotated[bool, typer.Option(help="Keep a small picture of each face.")] = True,
    key: Key = None,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Enrol faces: one a photo, any number a person.

    The first one begins the gallery; what is there already stays once.
    """
    from mien.io.paths import find_photos

    if (name is None) == (name_from is None) or name_from not in (None, "folder", "file"):
        raise UsageError("say whose faces these are: --name NAME, --name-from folder or --name-from file")
    here, failed = _reading(place, key, weights, threads, thumbnails=thumbnails), 0
    paths = find_photos(photos)
    with progress(len(paths)) as step:
        for path in paths:
            whose = name or (Path(path).resolve().parent.name if name_from == "folder" else Path(path).stem)
            try:
                [done] = here.add(path, whose, note=note, until=until, pick=pick)
            except PhotoError as e:
                failed += 1
                typer.echo(f"mien: {e}", err=True)
            else:
                record = {
                    "path": path,
                    "face": done.face,
                    "person": done.person,
                    "name": done.name,
                    "new": done.new,
                }
                like = f"; also like {done.alike.name} ({done.alike.similarity:.3f})" if done.alike else ""
                record["alike"] = done.alike.to_dict() if done.alike else None
                _say(record, f"{path}: {done.name}, {done.face}{'' if done.new else ' (was here)'}{like}")
            step()
    raise typer.Exit(1 if failed else 0)


@gallery.command()
def identify(
    place: Place,
    photos: Annotated[
        list[str] | None, typer.Argument(help="Photos, folders (searched recursively) or globs.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="People named a face, best first.")] = 3,
    fmr: Fmr = 1e-3,
    threshold: Threshold = None,
    key: Key = None,
    weights: Weights = None,
    threads: Threads = None,
    table: Annotated[
        str | None, typer.Option(help="In place of photos: parts of mien analyze --engine, with identity.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="With --table: a folder or URI for the answers, Parquet.")
    ] = None,
    engine: Annotated[str, typer.Option(help="With --table: local or ray; see docs/scale.md.")] = "local",
    draw: Annotated[Path | None, typer.Option(help="Folder for photos with the names drawn in.")] = None,
    draw_style: DrawStyle = None,
    font: Annotated[
        Path | None, typer.Option(help="With --draw: a font file, for names the built-in font cannot write.")
    ] = None,
) -> None:
    """Who is in photos: the best people of each face with similarity and margin to the second, or unknown."""
    from mien.io.paths import find_photos

    if (table is None) == (not photos) or (table is None) != (out is None):
        raise UsageError("identify takes photos, or --table PARTS with --out FOLDER")
    if table and draw:
        raise UsageError("--draw draws on photos, and --table has none; name photos instead")
    look = drawing_of(draw_style, None, draw, "--draw", []) | {"overlay": "none"}
    if table and out:
        from mien.scale.people import identify as job

        done = job(_open(place, key, fmr=fmr, threshold=threshold), table, out, engine=engine)
        _say(
            done,
            f"{done['matched']:,} of {done['faces']:,} faces have a name; {done['skipped']} parts were there",
        )
        return
    here, failed = _reading(place, key, weights, threads, fmr=fmr, threshold=threshold), 0
    _ = here.store, here.threshold  # what is missing is said once, before any photo is read
    paths = find_photos(photos or [])
    names = output_names(paths)
    if draw:
        draw.mkdir(parents=True, exist_ok=True)
    with progress(len(paths)) as step:
        for name, reading in zip(names, here.reader.stream(paths), strict=True):
            record = reading.to_dict()
            if reading.error is None:
                answers = here.answers(reading, top=top)
                record["faces"] = [a.to_dict() for a in answers]
                if draw:
                    _draw(draw / f"{name}.jpg", reading, answers, font=font, **look)
            else:
                failed += 1
                typer.echo(f"mien: {reading.error}", err=True)
            _say(record, "\n".join(face_lines(record)))
            step()
    raise typer.Exit(1 if failed else 0)


def _draw(path: Path, reading: Any, answers: list[Any], **look: Any) -> None:
    """A copy of the photo with everybody's name."""
    from mien.visualize import drawing

    names = [answer.match.name if answer.match else "unknown" for answer in answers]
    drawing.save_jpeg(path, drawing.annotate(reading.photo.pixels, reading, names=names, **look))


def face_lines(record: dict[str, Any]) -> Iterator[str]:
    """A photo's record as lines for people."""
    if "error" in record:
        yield f"{record['path']}: not read ({record['error']['code']})"
        return
    faces = record["faces"]
    yield f"{record['path']}: {len(faces)} face{'' if len(faces) == 1 else 's'}"
    for number, face in enumerate(faces, 1):
        margin = "" if face["margin"] is None else f"  margin {face['margin']:.3f}"
        near = ", ".join(f"{c['name']} {c['similarity']:.3f}" for c in face["candidates"])
        who = face["match"]["name"] if face["match"] else "unknown"
        yield f"{number:>4}  {who}{margin}  ({near or 'nobody here'}; asked for {face['threshold']:.3f})"


@gallery.command("list")
def list_(place: Place, key: Key = None) -> None:
    """Everybody: names, ids, faces, consent notes and last days."""
    for p in _open(place, key).people():
        until = f", until {p.until}{' (over)' if p.expired else ''}" if p.until else ""
        note = f", {p.note}" if p.note else ""
        _say(p.to_dict(), f"{p.id}  {p.name}: {len(p.faces)} faces, {p.corrections} corrections{until}{note}")


@gallery.command()
def forget(
    place: Place, who: Annotated[list[str], typer.Argument(help="Names or ids.")], key: Key = None
) -> None:
    """Erase people for good: vectors, pictures, names, notes, old versions and index files."""
    gone = _open(place, key).forget(*who)
    record = {"people": gone.people, "faces": gone.faces, "corrections": gone.corrections}
    _say(
        record,
        f"forgotten: {gone.people} people, {gone.faces} faces, {gone.corrections} corrections; no older file"
        " is left",
    )


@gallery.command()
def prune(place: Place, key: Key = None) -> None:
    """Forget everybody whose last day is over."""
    gone = _open(place, key).prune()
    for p in gone:
        _say(p.to_dict(), f"forgotten: {p.name}, kept until {p.until}")
    typer.echo(f"mien: {len(gone)} forgotten", err=True)


@gallery.command()
def export(
    place: Place,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    who: Annotated[str | None, typer.Option(help="This person only, by name or id.")] = None,
    embeddings: Annotated[
        bool, typer.Option(help="With embeddings; a face can be rebuilt from them.")
    ] = False,
    key: Key = None,
) -> None:
    """Write people.jsonl and thumbnails, open and not sealed."""
    n = _open(place, key).export(folder, who=who, embeddings=embeddings)
    _say({"people": n, "folder": str(folder)}, f"{n} people in {folder}")


@gallery.command()
def stats(place: Place, fmr: Fmr = 1e-3, key: Key = None) -> None:
    """Counts, size, and a stranger's chance of a false match."""
    record = _open(place, key, fmr=fmr).stats()
    _say(record, "\n".join(f"{k:<12} {v}" for k, v in record.items()))


@gallery.command()
def merge(
    place: Place,
    into: Who,
    others: Annotated[list[str], typer.Argument(help="Names or ids.")],
    key: Key = None,
) -> None:
    """These are one person: INTO keeps its id and name."""
    person = _open(place, key).merge(into, *others)
    _say({"person": person}, f"{into} is {person}")


@gallery.command()
def split(
    place: Place,
    who: Who,
    faces: Annotated[list[str], typer.Argument(help="Ids of faces, see mien gallery list.")],
    to: Annotated[str, typer.Option(help="Whose they are, somebody new or known.")],
    key: Key = None,
) -> None:
    """Some faces of WHO are somebody else."""
    person = _open(place, key).split(who, faces, to)
    _say({"person": person, "name": to}, f"{to} is {person}")


@gallery.command()
def correct(
    place: Place,
    photo: Annotated[str, typer.Argument(help="The photo of one face.")],
    not_: Annotated[str, typer.Option("--not", help="Who this is not, by name or id.")],
    pick: Pick = "refuse",
    key: Key = None,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """This is not that person: the face, and what is nearer to it than to the person, is no match from now
    on.
    """
    made = _reading(place, key, weights, threads).correct(photo, not_, pick=pick)
    _say({"correction": made}, f"noted as {made}: {photo} is not {not_}")


@gallery.command()
def edit(
    place: Place,
    who: Who,
    name: Annotated[str | None, typer.Option(help="The new name.")] = None,
    note: Note = None,
    until: Until = None,
    key: Key = None,
) -> None:
    """Another name, consent note or last day; an empty --until is no end."""
    here = _open(place, key)
    person = here.who(who).id
    here.edit(person, name=name, note=note, until=until)
    _say(here.who(person).to_dict(), f"{person}  {here.who(person).name}")


@gallery.command("key")
def key_(file: Annotated[Path, typer.Argument(help="A new file; who loses it loses the gallery.")]) -> None:
    """Make a key file, for --key of a new gallery that is sealed."""
    from mien.recognition.gallery import new_key

    new_key(file)
    _say({"key": str(file)}, f"{file}: keep a copy where the gallery is not")

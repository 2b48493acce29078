"""`mien analyze`: faces of photos as JSON, as a table, and as pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from mien.cli.common import answerer, app, names_of, progress
from mien.errors import UsageError


class Output:
    """Readings as JSON Lines, as one JSON array, or as a table for people.

    Args:
        where: FILE.jsonl, FILE.json, "-" for JSON Lines on stdout; None: a table on a terminal, JSON Lines into a pipe.
    """

    def __init__(self, where: str | None):
        suffix = Path(where).suffix.lower() if where not in (None, "-") else ""
        if where not in (None, "-") and suffix not in (".jsonl", ".json"):
            raise UsageError(f"--out takes FILE.jsonl, FILE.json or -, not {where!r}")
        self.array = suffix == ".json"
        self.table = (where is None and sys.stdout.isatty()) or where not in (None, "-")
        self.file: TextIO | None = None if where is None and self.table else sys.stdout
        if where not in (None, "-"):
            path = Path(where or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("w", encoding="utf-8")
        self.count = 0

    def add(self, record: dict[str, Any]) -> None:
        """One photo."""
        text = json.dumps(record, ensure_ascii=False)
        if self.file:
            lead = ("[\n" if self.count == 0 else ",\n") if self.array else ""
            self.file.write(lead + text + ("" if self.array else "\n"))
            self.file.flush()  # a killed run keeps what it had
        if self.table:
            for line in table_lines(record):
                typer.echo(line)
        self.count += 1

    def close(self) -> None:
        """Finish the array, if it is one."""
        if self.file and self.array:
            self.file.write("\n]\n" if self.count else "[]\n")
        if self.file and self.file is not sys.stdout:
            self.file.close()


def table_lines(record: dict[str, Any]) -> Iterator[str]:
    """A photo's record as lines for people: one a face."""
    if "error" in record:
        yield f"{record['path']}: not read ({record['error']['code']})"
        return
    ms = sum(record["timing_ms"].values())
    faces = record["faces"]
    yield f"{record['path']}: {record['width']}x{record['height']}, {len(faces)} face{'' if len(faces) == 1 else 's'}, {ms:.0f} ms"
    for number, face in enumerate(faces, 1):
        x1, y1, x2, y2 = face["box"]
        cells = [f"{number:>4}", f"{x2 - x1:4.0f}x{y2 - y1:<4.0f} at {x1:5.0f},{y1:<5.0f}"]
        if "gender" in face:
            cells.append(f"{face['gender']['label']:<6} {face['gender']['probability']:4.0%}")
        if "age" in face:
            cells.append(f"{face['age']['years']:3.0f} years ({face['age']['low']:.0f}-{face['age']['high']:.0f})")
        if "expression" in face:
            label = face["expression"]["label"]
            cells.append(f"{label:<9} {face['expression']['probabilities'][label]:4.0%}")
        if "pose" in face:
            cells.append("yaw {yaw:+4.0f} pitch {pitch:+4.0f} roll {roll:+4.0f}".format(**face["pose"]))
        if "attributes" in face:
            likely = [n for n, p in face["attributes"].items() if p >= 0.5 and n not in ("Male", "Young", "Attractive")]
            cells.append(", ".join(sorted(likely, key=lambda n: -face["attributes"][n])[:4]))
        yield "  ".join(cells)


def _save_pictures(reading: Any, name: str, draw: Path | None, masks: Path | None) -> None:
    """The annotated photo, and one palette PNG a face in photo geometry."""
    from mien import draw as drawing

    if draw:
        drawing.save_jpeg(draw / f"{name}.jpg", drawing.annotate(reading.photo.pixels, reading))
    if masks:
        for number, face in enumerate(reading, 1):
            mask = face["parsing"].mask_in(reading.photo.width, reading.photo.height)
            drawing.save_mask(masks / f"{name}-{number}.png", mask)


def _attention_saver(reader: Any, folder: Path, label: str | None) -> Callable[[str, Any], Any]:
    """(name, reading) -> its sheets in the folder. What cannot be drawn is refused here, before any photo is read."""
    from mien import attend

    wanted = attend.chosen(reader, reader.asked, label)
    return lambda name, reading: attend.save(folder, name, reader, reading, wanted)


def output_names(paths: list[str]) -> list[str]:
    """A file name for each path: its stem, numbered when two photos share one."""
    used: dict[str, int] = {}
    names = []
    for path in paths:
        stem = Path(path).stem.replace("\n", "_") or "photo"
        used[stem] = used.get(stem, 0) + 1
        names.append(stem if used[stem] == 1 else f"{stem}-{used[stem]}")
    return names


@app.command()
def analyze(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders (searched recursively) or globs.")],
    out: Annotated[str | None, typer.Option(help="FILE.jsonl, FILE.json, or - for JSON Lines on stdout.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for annotated photos.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for parsing masks, palette PNGs in photo geometry.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Answers wanted, comma-separated; identity only comes when named.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most faces a forward.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")] = None,
    score: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Least score of a face.")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger photos are refused before they are decoded.")] = 64_000_000,
    weights: Annotated[
        str | None, typer.Option(help="An .onnx, a .safetensors or a run's folder, instead of the embedded network.")
    ] = None,
    attention: Annotated[
        Path | None, typer.Option(help="Folder for sheets of where each label looked; needs torch weights of a Q-Face or Faceptor.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="With --attention: this label only, large, such as Eyeglasses.")] = None,
) -> None:
    """Read every face of photos: answers as JSON, as a table, and as pictures."""
    from mien.analyze import load
    from mien.files import find_photos

    reader = load(answerer(weights, threads), tasks=names_of(tasks), threads=threads, batch=batch, max_pixels=max_pixels, score=score)
    if masks and "parsing" not in reader.asked:
        raise UsageError("--masks needs the parsing task; add parsing to --tasks")
    if label is not None and attention is None:
        raise UsageError("--label says what --attention FOLDER draws; give both")
    show = _attention_saver(reader, attention, label) if attention else None
    paths = find_photos(photos)
    for folder in (draw, masks):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    output, failed = Output(out), 0
    try:
        with progress(len(paths)) as step:
            for name, reading in zip(output_names(paths), reader.stream(paths), strict=True):
                output.add(reading.to_dict())
                if reading.error is not None:
                    failed += 1
                    typer.echo(f"mien: {reading.error}", err=True)
                else:
                    _save_pictures(reading, name, draw, masks)
                    if show:
                        show(name, reading)
                step()
    finally:
        output.close()
    raise typer.Exit(1 if failed else 0)

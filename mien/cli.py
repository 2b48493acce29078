"""The command line: results on stdout, progress and errors on stderr.

Exit codes: 0 all photos were read, 1 some failed (each has an error record in the output), 2 wrong usage.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from mien import __version__
from mien.errors import MienError, UsageError

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)


def main() -> None:
    """Entry point: mien's own errors become one line on stderr and exit code 2, not a traceback."""
    try:
        app()
    except MienError as e:
        typer.echo(f"mien: {e}", err=True)
        sys.exit(2)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


def names_of(text: str | None) -> list[str] | None:
    """ "a,b" -> ["a", "b"]; None stays None."""
    return None if text is None else [n.strip() for n in text.split(",") if n.strip()]


def answerer(weights: str | None, threads: int | None) -> Any:
    """What `--weights` names: an .onnx, a .safetensors, or a run's folder (its model.safetensors); None for the default."""
    if weights is None:
        return None
    path = Path(weights)
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix != ".safetensors":
        return str(path)
    from mien import checkpoint
    from mien.evaluate import TorchAnswerer

    _torch_threads(threads)
    return TorchAnswerer(checkpoint.load(path))


def _torch_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


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


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for more than a few photos on a terminal; quiet otherwise."""
    if total <= 4 or not sys.stderr.isatty():
        yield lambda: None
        return
    with typer.progressbar(length=total, label="reading", file=sys.stderr) as bar:
        yield lambda: bar.update(1)


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


def load_recipe(path: Path) -> Callable[..., Any]:
    """The function `recipe` of a Python file.

    Raises:
        UsageError: no such file, or no such function in it.
    """
    if not path.is_file():
        raise UsageError(f"no recipe {str(path)!r}; a recipe is a Python file with a function recipe(...) -> Recipe")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "recipe"):
        raise UsageError(f"{path} has no function recipe(...) -> Recipe")
    return module.recipe  # type: ignore[no-any-return]


def recipe_arguments(make: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """`--steps 100 --size 128` -> keyword arguments of a recipe, converted to its defaults' types.

    Raises:
        UsageError: a flag that the recipe does not have, or a value that does not convert.
    """
    known = {p.name: p.default for p in inspect.signature(make).parameters.values()}
    values: dict[str, Any] = {}
    if len(words) % 2:
        raise UsageError(f"recipe settings come as --name value; got: {' '.join(words)}")
    for flag, text in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in known:
            raise UsageError(f"this recipe has no setting {flag}; it has: {', '.join('--' + n for n in known)}")
        kind = type(known[name])
        try:
            values[name] = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
        except ValueError as e:
            raise UsageError(f"{flag} takes a {kind.__name__}, not {text!r}") from e
    return values


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A Python file with recipe(...) -> Recipe; its arguments become flags.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Train a recipe (needs the extra: pip install 'mien[train]')."""
    from mien.train import fit

    _torch_threads(threads)
    make = load_recipe(recipe)
    fit(make(**recipe_arguments(make, context.args)), out, resume=resume)


@app.command()
def evaluate(
    weights: Annotated[
        str | None, typer.Argument(help="An .onnx, a .safetensors or a run's folder; the embedded network if not given.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="A protocol's name; repeat for more. All that the model answers if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the scores as JSON.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the provenance file beside the weights.")] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Run named protocols on labelled data and print a table."""
    from mien.evaluate import PROTOCOLS, as_table, run
    from mien.runtime import WEIGHTS, OnnxModel

    named = answerer(weights, threads)
    model = OnnxModel(named or WEIGHTS / "mien.onnx", threads=threads) if named is None or isinstance(named, str) else named
    unknown = [p for p in protocol or () if p not in PROTOCOLS]
    if unknown:
        raise UsageError(f"no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    scores = run(model, protocol or None)
    typer.echo(as_table(scores))
    values = {s.protocol: {k: round(v, 5) for k, v in s.values.items()} for s in scores}
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"weights": getattr(model, "sha256", weights), "scores": values}, indent=1) + "\n", encoding="utf-8")
    if record:
        if not isinstance(model, OnnxModel):
            raise UsageError("--record needs an .onnx; export the run first")
        beside = model.path.with_suffix(".json")
        beside.write_text(
            json.dumps(json.loads(beside.read_text(encoding="utf-8")) | {"scores": values}, indent=1) + "\n", encoding="utf-8"
        )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A .safetensors, or a run's folder.")],
    out: Annotated[Path, typer.Argument(help="FILE.onnx to write; FILE.json beside it says where it comes from.")],
    note: Annotated[str, typer.Option(help="What the provenance should tell of how the weights were raised.")] = "",
) -> None:
    """Export trained weights to ONNX, check them against torch, and write their provenance."""
    from mien.export import release

    record = release(run / "model.safetensors" if run.is_dir() else run, out, note=note)
    typer.echo(json.dumps(record, indent=1))

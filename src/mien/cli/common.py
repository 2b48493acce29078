"""What every command shares: the app, weights by name, photos, progress."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien import __version__
from mien.cli.command import COMMON, App
from mien.cli.streams import progress
from mien.errors import NotWritten, UsageError

if TYPE_CHECKING:
    from mien.inference.reader import Reader
    from mien.inference.reading import Reading
    from mien.models.torch_model import TorchModel
    from mien.types import InferenceModel

HELP = """Read faces in photos and videos: landmarks, parsing, age, gender, expression, attributes, pose,
identity.

Results go to stdout or to files; progress and errors go to stderr. mien COMMAND --help shows the options of
a command.

Exit codes: 0 success; 1 some photos failed, each with an error record in the output; 2 wrong usage;
130 interrupted.
"""
app = App(add_completion=True, help=HELP)
_log = logging.getLogger(__name__)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_version,
            is_eager=True,
            help="Print the version and exit.",
            rich_help_panel=COMMON,
        ),
    ] = False,
) -> None:
    pass


def names_of(text: str | None) -> list[str] | None:
    """Split "a,b" into ["a", "b"]; None stays None."""
    return None if text is None else [n.strip() for n in text.split(",") if n.strip()]


def path_or_model(weights: str | None, threads: int | None) -> str | TorchModel | None:
    """The value of `--weights` for `mien.load`: an .onnx path as it is, torch weights loaded, None as None.

    Args:
        weights: FILE.onnx, FILE.safetensors, or a run's folder (its model.safetensors).
        threads: torch's threads; None for its default.
    """
    if weights is None:
        return None
    path = Path(weights)
    path = path / "model.safetensors" if path.is_dir() else path
    if path.suffix != ".safetensors":
        return str(path)
    from mien.models.torch_model import TorchModel
    from mien.training import checkpoint

    torch_threads(threads)
    return TorchModel(checkpoint.load(path))


def load_model(weights: str | None, threads: int | None) -> InferenceModel:
    """The model of `--weights` with all its tasks; None for the embedded weights."""
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.weights_file import WEIGHTS

    given = path_or_model(weights, threads) or str(WEIGHTS / "mien.onnx")
    return OnnxModel(given, threads=threads) if isinstance(given, str) else given


def torch_threads(threads: int | None) -> None:
    """Set torch's number of threads, if one is given."""
    if threads:
        import torch

        torch.set_num_threads(threads)


INTERRUPTED = 130  # the exit code that shells use for Ctrl-C


def photos_of(inputs: list[str]) -> list[tuple[str, Any]]:
    """Words of a command line -> (path as shown, what a Reader takes); "-" is one picture's bytes on stdin.

    Raises:
        UsageError: "-" twice, or with other photos, or a terminal as stdin.
    """
    from mien.io.paths import find_photos

    if "-" not in inputs:
        return [(path, path) for path in find_photos(inputs)]
    if len(inputs) > 1:
        raise UsageError(
            "- reads one picture from stdin and cannot be combined with other photos;"
            " a file of that name is ./-"
        )
    if sys.stdin is None:
        raise UsageError("- waits for a picture on stdin, and stdin is closed; give the path of a photo")
    if sys.stdin.isatty():
        raise UsageError(
            "- waits for a picture on stdin, and stdin is a terminal; use: mien analyze - < photo.jpg"
        )
    return [("-", sys.stdin.buffer.read())]


# Stems that Windows takes for devices, whatever the ending
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}
STEM_BYTES = 180  # a file name may have 255 bytes; the rest is left for numbers, task names and the ending


def output_names(paths: list[str]) -> list[str]:
    """A file name without ending for each path: its stem, numbered where the stem is taken.

    No two names are equal on any file system: they are compared without case and in one Unicode form. A
    numbered name is never the stem of another photo. A long stem is shortened to `STEM_BYTES`.
    """
    stems = [_bounded(_stem(path), STEM_BYTES) for path in paths]
    used = {_name_key(stem) for stem in stems}
    first: set[str] = set()
    numbers: dict[str, int] = {}
    names = []
    for stem in stems:
        key, name = _name_key(stem), stem
        if key in first:
            while _name_key(name) in used:
                numbers[key] = numbers.get(key, 1) + 1
                name = f"{stem}-{numbers[key]}"
            used.add(_name_key(name))
        first.add(key)
        names.append(name)
    return names


def _stem(path: str) -> str:
    """A path's stem, as a name that every system takes for a file."""
    stem = Path(path).stem.replace("\n", "_") or "photo"
    return f"_{stem}" if stem.partition(".")[0].rstrip().lower() in _DEVICES else stem


def _name_key(name: str) -> str:
    """Equal for two names that one file system or another takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _bounded(name: str, limit: int) -> str:
    """The beginning of a name, at most `limit` bytes in the file system's encoding, of whole characters."""
    while len(name.encode("utf-8", "surrogateescape")) > limit:
        name = name[:-1]
    return name


@contextmanager
def writing(path: str | None) -> Iterator[None]:
    """What is written for one photo: a file that cannot be written is its error, not the end of the run.

    Raises:
        NotWritten: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        where = f" {os.fspath(error.filename)!r}" if error.filename else ""
        why = error.strerror or str(error)
        raise NotWritten(
            f"a file{where} of the photo {path!r} cannot be written ({why}); check the folder and the disk"
        ) from error


def refuse_originals(paths: list[str], folders: dict[str, Path | None]) -> None:
    """Refuse folders in which pictures would be written over the photos, or over one another.

    Args:
        paths: the photos.
        folders: option -> where it writes.

    Raises:
        UsageError: a folder holds a photo of this run, or two options name one folder.
    """
    from mien.io.paths import file_key

    originals = {file_key(os.path.dirname(os.path.realpath(path))) for path in paths if path != "-"}
    used: dict[str | tuple[int, int], str] = {}
    for option, folder in folders.items():
        if folder is None:
            continue
        place = file_key(folder)
        if place in originals:
            raise UsageError(f"{option} {str(folder)!r} is a folder of these photos; name another folder")
        if place in used:
            raise UsageError(f"{option} and {used[place]} would write into one folder; name two folders")
        used[place] = option


def readings_of(reader: Reader, photos: list[tuple[str, Any]]) -> Iterator[Reading]:
    """Readings of photos in order, each with its path as shown, and a progress bar.

    The reader logs a photo that fails, which the command line shows on stderr.
    """
    with progress(len(photos)) as step:
        for (path, _), reading in zip(photos, reader.stream(source for _, source in photos), strict=True):
            reading.path = path
            if reading.error is None:
                stages = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in reading.timing_ms.items())
                _log.info("%s: %d faces; %s", path, len(reading), stages)
            yield reading
            step()


def drawing_of(
    style: str | None, overlay: str | None, into: Path | None, option: str, tasks: Sequence[str]
) -> dict[str, Any]:
    """What `--draw-style` and `--overlay` ask for, as arguments of `mien.annotate`.

    Args:
        into: where the drawn pictures go, as `option` named it; None where nothing is drawn.
        tasks: the requested tasks.

    Raises:
        UsageError: unknown words, nothing to draw, or parsing without its task.
    """
    from mien.visualize.drawing import check_style

    for name, value in (("--draw-style", style), ("--overlay", overlay)):
        if value is not None and into is None:
            raise UsageError(f"{name} changes what {option} draws; give {option} too")
    given = {"style": style or "corners", "overlay": overlay or "landmarks"}
    check_style(**given)
    if overlay == "parsing" and "parsing" not in tasks:
        raise UsageError("--overlay parsing needs the parsing task; add parsing to --tasks")
    return given


def reader_of(weights: str | None, tasks: list[str] | None, **more: Any) -> Reader:
    """A reader with these options, made in each worker."""
    from mien.inference.reader import load

    return load(path_or_model(weights, more["threads"]), tasks=tasks, **more)


def _identity_reader(
    weights: str | None, threads: int | None, also: tuple[str, ...] = (), **more: Any
) -> Reader:
    """A reader of identity, and of those of `also` that the network has."""
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.reader import load
    from mien.inference.weights_file import WEIGHTS
    from mien.tasks import supported_tasks

    given = path_or_model(weights, threads) or str(WEIGHTS / "mien.onnx")
    model: InferenceModel = (
        OnnxModel(given, threads=threads, tasks=["identity", "identity512", *also])
        if isinstance(given, str)
        else given
    )
    can = supported_tasks(t.name for t in model.tasks)
    identity = [n for n in can if n.startswith("identity")][:1]
    if not identity:
        raise UsageError(f"this network does not predict identity; its tasks: {', '.join(can)}")
    return load(model, tasks=[*identity, *(n for n in also if n in can)], threads=threads, **more)

"""What every command shares: the app, weights by name, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mien import __version__

HELP = """The command line: results on stdout, progress and errors on stderr.

Exit codes: 0 all photos were read, 1 some failed (each has an error record in the output), 2 wrong usage.
"""
app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP, rich_markup_mode=None)


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

    torch_threads(threads)
    return TorchAnswerer(checkpoint.load(path))


def network(weights: str | None, threads: int | None) -> Any:
    """The same, loaded: all its answers in one session, for whoever will ask for any of them."""
    from mien.runtime import WEIGHTS, OnnxModel

    named = answerer(weights, threads) or WEIGHTS / "mien.onnx"
    return OnnxModel(named, threads=threads) if isinstance(named, (str, Path)) else named


def torch_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for more than a few photos on a terminal; quiet otherwise."""
    if total <= 4 or not sys.stderr.isatty():
        yield lambda: None
        return
    with typer.progressbar(length=total, label="reading", file=sys.stderr) as bar:
        yield lambda: bar.update(1)

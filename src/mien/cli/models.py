"""`mien models`: weights, where they come from and what they may be used for, and architectures."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.command import CHECK, note
from mien.cli.common import app
from mien.cli.options import NETWORK, AsJson, Use

if TYPE_CHECKING:
    from mien.inference.provenance import Provenance


@app.command(rich_help_panel=CHECK)
def models(
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="An .onnx file, with its .json file next to it; repeat the option for several.",
            show_default="the embedded networks",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    use: Annotated[
        Use | None,
        typer.Option("--license", help="Exit with code 2 unless all weights permit this use."),
    ] = None,
    builders: Annotated[
        bool,
        typer.Option(
            "--builders/--no-builders",
            help="Also list the architectures that can be trained; needs mien[train].",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """List weights with license and training data, and architectures.

    Also shown: builder, size, sha256, tasks, input view and calibration.
    """
    from mien.inference import provenance

    known = [provenance.read(p) for p in weights] if weights else provenance.embedded()
    if use is not None:
        for one in known:
            one.demand(use)
    made = _builders() if builders and not weights else {}
    if as_json:
        typer.echo(
            json.dumps(
                {"weights": [w.to_dict() for w in known], "builders": made}, indent=1, ensure_ascii=False
            )
        )
        return
    for one in known:
        for line in _lines(one):
            typer.echo(line)
    if made:
        typer.echo("builders")
    for name, about in made.items():
        typer.echo(f"  {name:<20} {about}")


def _lines(w: Provenance) -> Iterator[str]:
    view, calibration = w.view, w.record.get("calibration")
    yield f"{w.path.name}: {w.builder}, {w.size / 1e6:.1f} MB, sha256 {w.sha256}"
    yield f"  license   {w.license}"
    yield f"  uses      {', '.join(w.uses) or 'none is stated'}"
    yield f"  tasks     {', '.join(f'{n} ({labels})' for n, labels in w.tasks.items())}"
    yield (
        f"  view      {view['size'][0]}x{view['size'][1]}, template {view['template']}, mean {view['mean']},"
        f" std {view['std']}"
    )
    yield f"  read at   {_temperatures(calibration)}"
    for number, (name, terms) in enumerate(w.sets.items()):
        yield f"  {'sets' if number == 0 else '':<10}{name}: {terms}"
    if text := w.record.get("note"):
        yield f"  training  {text}"


def _temperatures(calibration: dict[str, Any] | None) -> str:
    found = (calibration or {}).get("temperatures", {})
    return (
        ", ".join(f"{n} {t:g}" for n, t in found.items()) + " (temperatures)"
        if found
        else "no temperatures: probabilities as trained"
    )


def _builders() -> dict[str, str]:
    """Name -> the first sentence of its docstring; nothing, with a note on stderr, without torch."""
    if importlib.util.find_spec("torch") is None:
        note("builders need torch: pip install 'mien[train]'")
        return {}
    from mien.models import MODELS

    return {
        name: " ".join((builder.__doc__ or "").split("\n\n")[0].split()) for name, builder in MODELS.items()
    }

"""`mien models`: which weights and builders there are, where weights come from, and what they may be used
for.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.common import app

if TYPE_CHECKING:
    from mien.inference.provenance import Provenance


@app.command()
def models(
    weights: Annotated[
        list[Path] | None,
        typer.Argument(help="FILE.onnx with FILE.json beside it; those in the package if none."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="research or commercial: exit code 2 unless all allow it.")
    ] = None,
    builders: Annotated[
        bool, typer.Option("--builders/--no-builders", help="List builders too (they need mien[train]).")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object, with all that is known.")] = False,
) -> None:
    """List weights with their licence, training sets, sha256, size, tasks and view, and the builders of
    networks.
    """
    from mien.inference import provenance

    known = [provenance.read(p) for p in weights] if weights else provenance.embedded()
    if licence is not None:
        for one in known:
            one.demand(licence)
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
    yield f"  licence   {w.licence}"
    yield f"  uses      {', '.join(w.uses) or 'none is stated'}"
    yield f"  tasks     {', '.join(f'{n} ({labels})' for n, labels in w.tasks.items())}"
    yield (
        f"  view      {view['size'][0]}x{view['size'][1]}, template {view['template']}, mean {view['mean']},"
        f" std {view['std']}"
    )
    yield f"  read at   {_temperatures(calibration)}"
    for number, (name, terms) in enumerate(w.sets.items()):
        yield f"  {'sets' if number == 0 else '':<10}{name}: {terms}"
    if note := w.record.get("note"):
        yield f"  raised    {note}"


def _temperatures(calibration: dict[str, Any] | None) -> str:
    found = (calibration or {}).get("temperatures", {})
    return (
        ", ".join(f"{n} {t:g}" for n, t in found.items()) + " (temperatures)"
        if found
        else "no temperatures: probabilities as trained"
    )


def _builders() -> dict[str, str]:
    """Name -> the first sentence of its docstring; nothing, said on stderr, without torch."""
    if importlib.util.find_spec("torch") is None:
        typer.echo("mien: builders need torch: pip install 'mien[train]'", err=True)
        return {}
    from mien.models import MODELS

    return {
        name: " ".join((builder.__doc__ or "").split("\n\n")[0].split()) for name, builder in MODELS.items()
    }

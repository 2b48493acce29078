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
from mien.cli.tasks import entries

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
    """List weights with licenses, and architectures to train.

    For weights, it also prints builder, size, sha256, training data, tasks, input view and calibration.
    """
    from mien.inference import provenance

    known = [provenance.read(p) for p in weights] if weights else provenance.embedded()
    if use is not None:
        for one in known:
            one.demand(use)
    made, added = _builders() if builders and not weights else ({}, [])
    if as_json:
        found = {"weights": [w.to_dict() for w in known], "builders": made, "plugins": added}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for one in known:
        for line in _lines(one):
            typer.echo(line)
    if made:
        typer.echo("builders")
    for name, about in made.items():
        typer.echo(f"  {name:<20} {about}")
    for plugin in added:
        about = "cannot be loaded" if "error" in plugin else plugin["about"]
        typer.echo(f"  {plugin['name']:<20} {about}  [{plugin['package']} {plugin['version']}]")


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


def _builders() -> tuple[dict[str, str], list[dict[str, str]]]:
    """Those of mien, name -> the first sentence of its docstring, and those of plug-ins.

    Nothing, with a note on stderr, without torch.
    """
    if importlib.util.find_spec("torch") is None:
        note("builders need torch: pip install 'mien[train]'")
        return {}, []
    from mien.models import MODELS

    made, added = dict[str, str](), list[dict[str, str]]()
    for entry in entries(MODELS):
        about = " ".join((entry.value.__doc__ or "").split("\n\n")[0].split())
        if entry.package in ("mien", ""):
            made[entry.name] = about
            continue
        one = {"name": entry.name, "package": entry.package, "version": entry.version}
        added.append(one | ({"about": about} if entry.error is None else {"error": str(entry.error)}))
    return made, added

"""`mien tasks`: tasks, data sets and protocols, of mien and of plug-ins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli.command import CHECK
from mien.cli.common import app
from mien.cli.options import AsJson
from mien.cli.streams import say

if TYPE_CHECKING:
    from mien.tasks import Shape
    from mien.tasks.plugins import Catalogue, Entry


@app.command(rich_help_panel=CHECK)
def tasks(
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Also list the data sets and protocols.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """List tasks, data sets and protocols, with the package of each.

    Installed packages can add their own; those that cannot be loaded are reported on stderr.
    """
    from mien.tasks import DERIVED, TASKS

    made: dict[str, list[dict[str, Any]]] = {"tasks": [_task(e) for e in entries(TASKS)]}
    made["derived"] = [
        {"name": d.name, "source": d.source, "sensitive": d.sensitive} for d in DERIVED.values()
    ]
    if data:
        from mien.data.catalogue import DATASETS
        from mien.evaluation.protocols import PROTOCOLS

        made["datasets"] = [_origin(e) for e in entries(DATASETS)]
        made["protocols"] = [_protocol(e) for e in entries(PROTOCOLS)]
    if as_json:
        typer.echo(json.dumps(made, indent=1, ensure_ascii=False))
        return
    for heading, rows in made.items():
        typer.echo(heading)
        for line in _lines(rows):
            typer.echo(line)


def entries(catalogue: Catalogue[Any]) -> Iterator[Entry]:
    """The entries of a catalogue; plug-ins that fail are reported on stderr, and come with their error."""
    for entry in catalogue.listing():
        if entry.error is not None:
            say(f"mien: {entry.error}", err=True)
        yield entry


def _origin(entry: Entry) -> dict[str, Any]:
    out = {"name": entry.name, "package": entry.package, "version": entry.version}
    return out if entry.error is None else out | {"error": str(entry.error)}


def _task(entry: Entry) -> dict[str, Any]:
    out = _origin(entry)
    if (task := entry.value) is not None:
        names = list(task.label_names)
        out |= {"labels": task.labels, "outputs": shape_in_words(task.shape), "label_names": names}
        out["sensitive"] = task.sensitive
    return out


def _protocol(entry: Entry) -> dict[str, Any]:
    out = _origin(entry)
    return out if entry.value is None else out | {"task": entry.value.task, "split": entry.value.split}


def shape_in_words(shape: Shape) -> str:
    """What a network gives for a task, such as `68 points`."""
    from mien.tasks import Boxes, Embedding, Map, Points

    if isinstance(shape, Boxes):
        return "boxes"
    if isinstance(shape, Embedding):
        return f"embedding of {shape.d}"
    words = (
        "points"
        if isinstance(shape, Points)
        else "classes per pixel"
        if isinstance(shape, Map)
        else "numbers"
    )
    return f"{shape.n} {words}"


def _lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """One line per row: the name, what is known of it, and the package."""
    for row in rows:
        if "error" in row:
            known = "cannot be loaded"
        elif "outputs" in row:
            known = f"{row['outputs']}, labels {row['labels']}"
        elif "source" in row:
            known = f"from {row['source']}"
        else:
            known = f"{row['task']}, {row['split']}" if "task" in row else ""
        package = f"  [{row['package']} {row['version']}]" if row.get("package", "mien") != "mien" else ""
        yield f"  {row['name']:<20} {known}{package}".rstrip()

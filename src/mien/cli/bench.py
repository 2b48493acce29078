"""`mien bench`: what reading costs on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mien.cli.common import app, names_of


@app.command()
def bench(
    photos: Annotated[
        list[str] | None, typer.Argument(help="Files, folders and globs; two drawn pictures if not given.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed pictures of each stage.")] = 30,
    tasks: Annotated[str | None, typer.Option(help="Only these answers, comma-separated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object instead of the text.")] = False,
) -> None:
    """Time decoding, detecting, aligning, reading and drawing, whole pictures a second, processor time,
    memory and start-up.

    The report has the machine, its load, versions and weights. See docs/benchmark.md for how to read it.
    """
    from mien.diagnostics.benchmark import measure, table

    found = measure(photos or (), threads=threads, runs=runs, tasks=names_of(tasks))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for line in table(found):
        typer.echo(line)

"""`mien bench`: speed and memory on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mien.cli.command import CHECK
from mien.cli.common import app, names_of
from mien.cli.options import AsJson, Runs, Tasks, Threads


@app.command(rich_help_panel=CHECK)
def bench(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTOS...",
            help="Photos, folders (searched recursively) or glob patterns.",
            show_default="two synthetic pictures",
        ),
    ] = None,
    runs: Runs = 30,
    tasks: Tasks = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure speed, memory and start-up time on this machine.

    The report has the time of each stage (decode, detect, align, read, draw), photos per second, processor
    time, and the machine, its load, versions and weights. docs/benchmark.md explains it.
    """
    from mien.diagnostics.benchmark import measure, table

    found = measure(photos or (), threads=threads, runs=runs, tasks=names_of(tasks))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for line in table(found):
        typer.echo(line)

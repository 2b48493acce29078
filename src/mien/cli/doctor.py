"""`mien doctor`: is this installation well, and where does its time go?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mien.cli.common import app

_SIGNS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@app.command()
def doctor(
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a forward; all cores if not given.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each timing.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON array, with more facts than the text.")
    ] = False,
) -> None:
    """Look at the machine, the packages and the weights, read a drawn face, and say where the time goes.

    Exit code 1 if something will not work.
    """
    from mien.diagnostics.doctor import examine

    seen = []
    for check in examine(threads=threads, repeats=repeats):
        seen.append(check)
        if not as_json:  # each as soon as it is known: a broken package may end the process
            typer.echo(f"{_SIGNS[check.verdict]}  {check.name}: {check.text}")
    if as_json:
        typer.echo(
            json.dumps(
                [{"name": c.name, "verdict": c.verdict, "text": c.text, "facts": c.facts} for c in seen],
                indent=1,
            )
        )
    raise typer.Exit(1 if any(c.verdict == "bad" for c in seen) else 0)

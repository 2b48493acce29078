"""`mien doctor`: check the installation."""

from __future__ import annotations

import json

import typer

from mien.cli.command import CHECK
from mien.cli.common import app
from mien.cli.options import AsJson, Runs, Threads

_SIGNS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@app.command(rich_help_panel=CHECK)
def doctor(
    runs: Runs = 5,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation.

    It checks the processor, the packages and the weights, analyzes a synthetic face, and reports the time of
    each stage. Exit codes: 0 everything works; 1 something does not.
    """
    from mien.diagnostics.doctor import examine

    seen = []
    for check in examine(threads=threads, repeats=runs):
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

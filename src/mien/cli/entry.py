"""The entry point: collects the commands, and turns errors into one line."""

from __future__ import annotations

import sys

import typer

from mien.cli import (
    analyze,
    anonymize,
    bench,
    cluster,
    doctor,
    evaluate,
    export,
    gallery,
    models,
    quantize,
    serve,
    train,
    verify,
    video,
    web,
)
from mien.cli.common import app
from mien.errors import MienError

# Importing a command's module adds it to `app`; help lists the commands in this order.
COMMANDS = (
    analyze,
    video,
    anonymize,
    verify,
    cluster,
    gallery,
    serve,
    web,
    train,
    evaluate,
    export,
    quantize,
    doctor,
    bench,
    models,
)
_ORDER = [module.__name__ for module in COMMANDS]
app.registered_commands.sort(key=lambda c: _ORDER.index(c.callback.__module__ if c.callback else ""))
app.command("eval", hidden=True)(evaluate.evaluate)


def main() -> None:
    """Run the command line. An error of mien or of the disk becomes one line on stderr and exit code 2."""
    try:
        app()
    except (MienError, OSError) as e:
        typer.echo(f"mien: {e}", err=True)
        sys.exit(2)

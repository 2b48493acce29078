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

# Importing a command's module is what adds it to `app`.
COMMANDS = (
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
app.command("eval", hidden=True)(evaluate.evaluate)


def main() -> None:
    """Run the command line. An error of mien or of the disk becomes one line on stderr and exit code 2."""
    try:
        app()
    except (MienError, OSError) as e:
        typer.echo(f"mien: {e}", err=True)
        sys.exit(2)

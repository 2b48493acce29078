"""The command line, a file a family of commands. See `mien --help`."""

from __future__ import annotations

import sys

import typer

from mien.cli import analyze as _analyze
from mien.cli import train as _train
from mien.cli.analyze import output_names, table_lines
from mien.cli.common import app
from mien.cli.train import load_recipe, recipe_arguments
from mien.errors import MienError

COMMANDS = (_analyze, _train)  # importing them is what gives `app` its commands

__all__ = ["COMMANDS", "app", "load_recipe", "main", "output_names", "recipe_arguments", "table_lines"]


def main() -> None:
    """Entry point: mien's own errors become one line on stderr and exit code 2, not a traceback."""
    try:
        app()
    except MienError as e:
        typer.echo(f"mien: {e}", err=True)
        sys.exit(2)

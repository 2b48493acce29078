"""The command line, a file a family of commands. See `mien --help`."""

from __future__ import annotations

import sys

import typer

from mien.cli import analyze as _analyze
from mien.cli import anonymize as _anonymize
from mien.cli import bench as _bench
from mien.cli import cluster as _people
from mien.cli import doctor as _doctor
from mien.cli import gallery as _gallery
from mien.cli import models as _models
from mien.cli import quantize as _quantize
from mien.cli import serve as _serve
from mien.cli import train as _train
from mien.cli import video as _video
from mien.cli import web as _web
from mien.cli.common import app, output_names
from mien.cli.output import table_lines
from mien.cli.train import load_recipe, recipe_arguments
from mien.errors import MienError

# importing them is what gives `app` its commands
COMMANDS = (_analyze, _anonymize, _bench, _doctor, _gallery, _models, _people, _quantize, _serve, _train, _video, _web)
app.command("eval", hidden=True)(_train.evaluate)

__all__ = ["COMMANDS", "app", "load_recipe", "main", "output_names", "recipe_arguments", "table_lines"]


def main() -> None:
    """Entry point: an error of mien's, or of the disk, becomes one line on stderr and exit code 2, not a traceback."""
    try:
        app()
    except (MienError, OSError) as e:
        typer.echo(f"mien: {e}", err=True)
        sys.exit(2)

"""The command line, one file per command. See `mien --help`."""

from mien.cli.common import app, output_names
from mien.cli.entry import main
from mien.cli.output import table_lines
from mien.cli.train import load_recipe, recipe_arguments

__all__ = ["app", "load_recipe", "main", "output_names", "recipe_arguments", "table_lines"]

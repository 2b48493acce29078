"""`mien export`: trained weights to ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.common import app


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A .safetensors, or a run's folder.")],
    out: Annotated[
        Path, typer.Argument(help="FILE.onnx to write; FILE.json beside it says where it comes from.")
    ],
    note: Annotated[
        str, typer.Option(help="What the provenance should tell of how the weights were raised.")
    ] = "",
) -> None:
    """Export trained weights to ONNX, check them against torch, and write their provenance."""
    from mien.export.onnx_export import release

    record = release(run / "model.safetensors" if run.is_dir() else run, out, note=note)
    typer.echo(json.dumps(record, indent=1))

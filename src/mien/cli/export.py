"""`mien export`: trained weights to ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.command import TRAIN
from mien.cli.common import app


@app.command(rich_help_panel=TRAIN)
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a training run, or a .safetensors file.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE.onnx", help="File to write; FILE.json next to it has its provenance."
        ),
    ],
    note: Annotated[
        str,
        typer.Option(
            "--note",
            metavar="TEXT",
            help="How the weights were trained, for the provenance.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Export trained weights to ONNX.

    The exported network is compared with the trained one, and its provenance is written and printed. Needs
    the extra: pip install 'mien[train]'.
    """
    from mien.export.onnx_export import release

    record = release(run / "model.safetensors" if run.is_dir() else run, out, note=note)
    typer.echo(json.dumps(record, indent=1))

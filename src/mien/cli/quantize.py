"""`mien quantize`: the network in 8-bit integers, with what it costs and what it gains on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.common import app, names_of, photos_of, readings_of


@app.command()
def quantize(
    out: Annotated[
        Path, typer.Argument(help="FILE.onnx to write; FILE.json beside it says what it was made of.")
    ],
    photos: Annotated[
        list[str],
        typer.Argument(
            help="Photos of faces such as it will see: files, folders or globs; 32 faces or more."
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="The float .onnx; the embedded network if not given.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Comma-separated tasks whose own part stays float.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the timed forwards.")] = 1,
) -> None:
    """Write 8-bit weights, and print how far each answer moves and how fast both networks are here."""
    import numpy as np

    from mien.export.quantization import milliseconds, quantize, shift
    from mien.inference.reader import load
    from mien.inference.weights_file import WEIGHTS

    source = weights or WEIGHTS / "mien.onnx"
    reader = load(source, tasks=[])
    crops = [f.crop.pixels for r in readings_of(reader, photos_of(photos)) for f in r if f.crop is not None]
    images = reader.model.view.tensor(np.stack(crops)) if crops else np.zeros((0, 3, 1, 1), np.float32)
    record = quantize(source, out, images, keep=names_of(keep) or ())
    typer.echo(
        f"{out}: {record['bytes'] / 1e6:.1f} MB, made of {source.stat().st_size / 1e6:.1f} MB, ranges from"
        f" {len(images)} faces"
    )
    for task, moved in shift(source, out, images[-16:]).items():
        typer.echo(f"  {task:<12} answers move by {100 * moved:.1f} % of their spread")
    for name, file in (("float", source), ("int8", out)):
        typer.echo(
            f"  {name:<12} {milliseconds(file, images[:1], threads):.1f} ms a face, {threads} thread(s),"
            " median"
        )

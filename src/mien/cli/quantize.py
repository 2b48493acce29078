"""`mien quantize`: the network in 8-bit integers, and what it loses and gains on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mien.cli.command import TRAIN
from mien.cli.common import app, names_of, photos_of, readings_of
from mien.cli.options import NETWORK, OnnxWeights, Photos


@app.command(rich_help_panel=TRAIN)
def quantize(
    photos: Photos,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE.onnx", help="File to write; FILE.json next to it has its provenance."
        ),
    ],
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="NAMES", help="Tasks that stay in float, comma-separated.", show_default="none"
        ),
    ] = None,
    weights: OnnxWeights = None,
    threads: Annotated[
        int,
        typer.Option("--threads", min=1, metavar="N", help="Inference threads.", rich_help_panel=NETWORK),
    ] = 1,
) -> None:
    """Write a network with 8-bit weights.

    It is calibrated on the faces of PHOTOS: use 32 or more faces of the kind that it will see. The command
    prints how much each prediction changes, and the speed of both networks on this machine. Needs the extra:
    pip install 'mien[train]'.
    """
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
        typer.echo(f"  {task:<12} predictions change by {100 * moved:.1f} % of their spread")
    for name, file in (("float", source), ("int8", out)):
        typer.echo(
            f"  {name:<12} {milliseconds(file, images[:1], threads):.1f} ms per face, {threads} thread(s),"
            " median"
        )

"""`mien web`: the page as a folder of files, with the networks beside it, that answers in the browser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.common import app


@app.command()
def web(
    out: Annotated[
        Path, typer.Option(help="Folder to write; what is in it stays, but for files of the same name.")
    ],
    ort: Annotated[
        Path | None,
        typer.Option(
            help="onnxruntime-web: npm's .tgz, or a folder of its files. If not given, npm fetches it now."
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="An .onnx instead of the embedded network.")] = None,
    detector: Annotated[Path | None, typer.Option(help="An .onnx instead of the embedded detector.")] = None,
) -> None:
    """Write the page as a folder for any static server: faces are read in the browser, and no picture leaves
    the machine.
    """
    from mien.inference.detector import Detector
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.weights_file import WEIGHTS
    from mien.web.build import fetch_ort, model_table, ort_files, write

    model, finder = (
        OnnxModel(weights or WEIGHTS / "mien.onnx", threads=1),
        OnnxModel(detector or WEIGHTS / "detector.onnx", threads=1),
    )
    table = model_table(model, Detector(finder))
    left = [t.name for t in model.tasks if t.name not in [d["name"] for d in table["network"]["tasks"]]]
    if left:
        typer.echo(f"mien: the page cannot read {', '.join(left)}; left out", err=True)
    with tempfile.TemporaryDirectory() as temporary:
        # checked before anything is written
        runtime = ort_files(ort or fetch_ort(Path(temporary)))
    write(out, table, runtime, {"network.onnx": model.path, "detector.onnx": finder.path})
    typer.echo(
        f"{out}: serve it with any static server, such as: python -m http.server --bind 127.0.0.1 --directory"
        f" {out}",
        err=True,
    )

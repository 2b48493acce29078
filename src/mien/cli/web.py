"""`mien web`: the web page as a folder of files that analyzes photos in the browser."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.command import SERVE, note
from mien.cli.common import app
from mien.cli.options import NETWORK, OnnxWeights


@app.command(rich_help_panel=SERVE)
def web(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Folder to write; files of the same name are replaced."
        ),
    ],
    ort: Annotated[
        Path | None,
        typer.Option(
            "--ort",
            metavar="FILE|FOLDER",
            help="onnxruntime-web: its .tgz file from npm, or a folder with its files.",
            show_default="npm downloads it from its registry",
        ),
    ] = None,
    weights: OnnxWeights = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            "--detector",
            metavar="FILE",
            help="The detector: an .onnx file.",
            show_default="the embedded detector",
            rich_help_panel=NETWORK,
        ),
    ] = None,
) -> None:
    """Build the web page as a folder for any static server.

    The page analyzes photos in the browser; no photo leaves the machine.
    Without --ort, this command runs npm, which connects to its registry.
    """
    from mien.inference.detector import Detector
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.weights_file import WEIGHTS
    from mien.web.build import ORT, fetch_ort, model_table, ort_files, write

    model, finder = (
        OnnxModel(weights or WEIGHTS / "mien.onnx", threads=1),
        OnnxModel(detector or WEIGHTS / "detector.onnx", threads=1),
    )
    table = model_table(model, Detector(finder))
    left = [t.name for t in model.tasks if t.name not in [d["name"] for d in table["network"]["tasks"]]]
    if left:
        typer.echo(f"mien: the page cannot read {', '.join(left)}; left out", err=True)
    if ort is None:
        note(f"npm downloads onnxruntime-web {ORT} from its registry; with --ort nothing connects")
    with tempfile.TemporaryDirectory() as temporary:
        # checked before anything is written
        runtime = ort_files(ort or fetch_ort(Path(temporary)))
    write(out, table, runtime, {"network.onnx": model.path, "detector.onnx": finder.path})
    note(
        f"serve {out} with any static server, such as: python -m http.server --bind 127.0.0.1 --directory"
        f" {out}"
    )

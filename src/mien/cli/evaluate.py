"""`mien evaluate`: run protocols on labeled data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.command import TRAIN
from mien.cli.common import app, load_model
from mien.cli.options import FlipTTA, Threads, Weights
from mien.errors import UsageError


@app.command(rich_help_panel=TRAIN)
def evaluate(
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="Protocol to run, such as helen68; repeat the option for several.",
            show_default="all that the network supports and whose data is available",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.json", help="Also write the scores as JSON."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Write the scores into the provenance file next to the weights."),
    ] = False,
    detect: Annotated[
        bool,
        typer.Option(
            "--detect", help="Align faces by the points of the detector, not by the labeled points."
        ),
    ] = False,
    weights: Weights = None,
    threads: Threads = None,
    flip_tta: FlipTTA = False,
) -> None:
    """Measure a network on labeled data.

    MIEN_DATA, or [data] root in mien.toml, names the data folder. Protocols whose data is missing are
    skipped. Needs the extra: pip install 'mien[train]'.
    """
    from mien.evaluation.scoring import PROTOCOLS, as_table, run
    from mien.inference.detector import Detector
    from mien.inference.flip_tta import FlipTTA as FlippedModel
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.provenance import update_provenance
    from mien.inference.weights_file import WEIGHTS, weights_id

    if record and (flip_tta or detect):
        raise UsageError(
            "--record needs one forward pass per face, aligned by its labels; leave out"
            f" {'--flip-tta' if flip_tta else '--detect'}"
        )
    model = load_model(weights, threads)
    if record and not isinstance(model, OnnxModel):
        raise UsageError("--record needs an .onnx; export the run first")
    unknown = [p for p in protocol or () if p not in PROTOCOLS]
    if unknown:
        raise UsageError(f"no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    find = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=threads)) if detect else None
    scores = run(FlippedModel(model) if flip_tta else model, protocol or None, find=find)
    typer.echo(as_table(scores))
    # JSON has no NaN, which stands for what a set cannot measure
    values = {s.protocol: {k: round(v, 5) for k, v in s.values.items() if math.isfinite(v)} for s in scores}
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"weights": weights_id(model).sha256 or weights, "scores": values}, indent=1) + "\n",
            encoding="utf-8",
        )
    if record and isinstance(model, OnnxModel):
        update_provenance(model.path, scores=values)

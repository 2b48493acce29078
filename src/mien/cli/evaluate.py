"""`mien evaluate`: run protocols on labelled data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mien.cli.common import app, network
from mien.errors import UsageError


@app.command()
def evaluate(
    weights: Annotated[
        str | None,
        typer.Argument(help="An .onnx, a .safetensors or a run's folder; the embedded network if not given."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="A protocol's name; repeat for more. All that the model answers if not given."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the scores as JSON.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the scores into the provenance file beside the weights.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Answer by the mean of each face and its mirror image.")
    ] = False,
    detect: Annotated[
        bool,
        typer.Option(
            "--detect", help="Cut faces out by the embedded detector's points, not by the labelled ones."
        ),
    ] = False,
) -> None:
    """Run named protocols on labelled data and print a table."""
    from mien.evaluation.scoring import PROTOCOLS, as_table, run
    from mien.inference.detector import Detector
    from mien.inference.flip_tta import FlipTTA
    from mien.inference.onnx_model import OnnxModel
    from mien.inference.provenance import update_provenance
    from mien.inference.weights_file import WEIGHTS, weights_id

    if record and (mirror or detect):
        raise UsageError(
            "--record tells of one forward a face, placed by its labels; leave"
            f" {'--mirror' if mirror else '--detect'} out"
        )
    model = network(weights, threads)
    if record and not isinstance(model, OnnxModel):
        raise UsageError("--record needs an .onnx; export the run first")
    unknown = [p for p in protocol or () if p not in PROTOCOLS]
    if unknown:
        raise UsageError(f"no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    find = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=threads)) if detect else None
    scores = run(FlipTTA(model) if mirror else model, protocol or None, find=find)
    typer.echo(as_table(scores))
    values = {s.protocol: {k: round(v, 5) for k, v in s.values.items()} for s in scores}
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"weights": weights_id(model).sha256 or weights, "scores": values}, indent=1) + "\n",
            encoding="utf-8",
        )
    if record:
        update_provenance(model.path, scores=values)
